use std::collections::BTreeSet;

use super::*;
use crate::testing::{Act, Fake, reply};
use crate::{Cluster, Error, Options};

fn options(deadline: Duration) -> Options {
    let attempt_timeout = Duration::from_millis(100);
    Options { deadline, attempt_timeout, ..Options::default() }
}

fn patient(servers: &[&Fake]) -> Cluster {
    let addresses = servers.iter().map(|server| server.address).collect();
    Cluster::with_servers(addresses, options(Duration::from_secs(10)))
}

/// Opens every session and answers writes with `acts`, one each.
fn scripted(acts: impl IntoIterator<Item = Act, IntoIter: Send + 'static>) -> Fake {
    let mut acts = acts.into_iter();
    Fake::with_sessions(move |line, _| match line.starts_with("session ") {
        true => reply("OK\r\n"),
        false => acts.next().unwrap_or_else(|| reply("SERVER_ERROR nothing more\r\n")),
    })
}

/// The lines, with each session replaced by a letter, in order of appearance.
fn shown(fakes: &[&Fake]) -> Vec<String> {
    let lines: Vec<String> = fakes.iter().flat_map(|fake| fake.log()).collect();
    let mut sessions: Vec<&str> = Vec::new();
    for line in &lines {
        let token = line.split_once('@').map(|(_, token)| token.split('.').next().unwrap_or(""));
        let session = line.strip_prefix("session ").or(token);
        sessions.extend(session.filter(|session| !sessions.contains(session)));
    }
    let name = |line: &String| {
        let numbered = sessions.iter().zip('A'..);
        numbered.fold(line.clone(), |line, (id, letter)| line.replace(id, &letter.to_string()))
    };
    lines.iter().map(name).collect()
}

const UNKNOWN: &str = "SERVER_ERROR timeout, outcome unknown\r\n";
const SESSION_UNKNOWN: &str = "SERVER_ERROR session unknown, not executed\r\n";
const SESSION_OVER: &str = "SERVER_ERROR session unknown, outcome unknown\r\n";

#[tokio::test]
async fn every_write_has_a_name_of_its_own() {
    let acts = ["STORED\r\n", "1\r\n", "DELETED\r\n", "END\r\n", "STORED\r\n"].map(reply);
    let server = scripted(acts);
    let mut cluster = patient(&[&server]);
    cluster.set("a", "x\r\ny").await.unwrap();
    assert_eq!(cluster.incr("a", 1).await, Ok(Some(1)));
    assert_eq!(cluster.delete("a").await, Ok(true));
    assert!(cluster.get(&["a"]).await.unwrap().is_empty());
    assert_eq!(cluster.cas("a", "x", 7).await, Ok(crate::Outcome::Stored));
    let lines = [
        "session A",
        "set a 0 0 4 @A.1.1",
        "incr a 1 @A.2.2",
        "delete a @A.3.3",
        "get a",
        "cas a 0 0 1 7 @A.4.4",
    ];
    assert_eq!(shown(&[&server]), lines);
}

#[tokio::test]
async fn a_write_is_sent_again_under_its_name() {
    let server = scripted([
        reply("SERVER_ERROR busy, not executed\r\n"),
        Act::Close,
        reply("SERVER_ERROR no leader, not executed\r\n"),
        Act::Silence,
        reply(UNKNOWN),
        reply("garbage\r\n"),
        reply("6\r\n"),
        reply("7\r\n"),
    ]);
    let mut cluster = patient(&[&server]);
    assert_eq!(cluster.incr("n", 1).await, Ok(Some(6)));
    assert_eq!(cluster.incr("n", 1).await, Ok(Some(7)));
    let mut lines = vec!["session A", "incr n 1 @A.1.1", "incr n 1 @A.1.1"];
    lines.extend(["incr n 1 @A.1.1!"; 5]);
    lines.push("incr n 1 @A.2.2");
    assert_eq!(shown(&[&server]), lines);
}

#[tokio::test]
async fn the_next_server_is_sent_the_same() {
    let old = scripted([reply("STORED\r\n"), Act::Close]);
    let new = scripted([reply("STORED\r\n")]);
    let mut cluster = patient(&[&old, &new]);
    cluster.set("a", "1").await.unwrap();
    cluster.set("a", "2").await.unwrap();
    assert_eq!(cluster.connected_to(), Some(new.address));
    let lines = ["session A", "set a 0 0 1 @A.1.1", "set a 0 0 1 @A.2.2", "set a 0 0 1 @A.2.2!"];
    assert_eq!(shown(&[&old, &new]), lines);
}

#[tokio::test]
async fn what_a_forwarder_has_sent_twice_is_not_sent_under_another_session() {
    let server = scripted([SESSION_OVER, "1\r\n"].map(reply));
    let mut cluster = patient(&[&server]);
    assert!(matches!(cluster.incr("n", 1).await, Err(Error::OutcomeUnknown { .. })));
    assert_eq!(cluster.incr("n", 1).await, Ok(Some(1)));
    let lines = ["session A", "incr n 1 @A.1.1", "session B", "incr n 1 @B.1.1"];
    assert_eq!(shown(&[&server]), lines);
}

#[tokio::test]
async fn the_end_of_a_session_is_that_of_what_was_sent_twice() {
    let acts = [SESSION_UNKNOWN, "1\r\n", UNKNOWN, SESSION_OVER, "4\r\n", UNKNOWN, SESSION_UNKNOWN];
    let server = scripted(acts.map(reply));
    let mut cluster = patient(&[&server]);
    assert_eq!(cluster.incr("n", 1).await, Ok(Some(1)));
    assert!(matches!(cluster.incr("n", 1).await, Err(Error::OutcomeUnknown { .. })));
    assert_eq!(cluster.incr("n", 1).await, Ok(Some(4)));
    assert!(matches!(cluster.incr("n", 1).await, Err(Error::OutcomeUnknown { .. })));
    let lines = [
        "session A",
        "incr n 1 @A.1.1",
        "session B",
        "incr n 1 @B.1.1",
        "incr n 1 @B.2.2",
        "incr n 1 @B.2.2!",
        "session C",
        "incr n 1 @C.1.1",
        "incr n 1 @C.2.2",
        "incr n 1 @C.2.2!",
    ];
    assert_eq!(shown(&[&server]), lines);
}

#[tokio::test]
async fn every_attempt_to_open_a_session_has_another_id() {
    let mut acts = [
        Act::Close,
        Act::Silence,
        reply(UNKNOWN),
        reply("SERVER_ERROR no leader, not executed\r\n"),
        reply("OK\r\n"),
        reply("1\r\n"),
    ]
    .into_iter();
    let server = Fake::with_sessions(move |_, _| acts.next().unwrap());
    assert_eq!(patient(&[&server]).incr("n", 1).await, Ok(Some(1)));
    let log = server.log();
    assert_eq!(log[..5].iter().collect::<BTreeSet<_>>().len(), 5, "{log:?}");
    assert!(log[..5].iter().all(|line| line.starts_with("session ")), "{log:?}");
    assert_eq!(shown(&[&server])[5], "incr n 1 @E.1.1");
}

#[tokio::test]
async fn the_deadline_tells_whether_it_was_sent() {
    let silent = scripted((0..100).map(|_| Act::Silence));
    let options = options(Duration::from_millis(250));
    let mut cluster = Cluster::with_servers(vec![silent.address], options.clone());
    let result = cluster.incr("n", 1).await;
    assert!(matches!(result, Err(Error::OutcomeUnknown { .. })), "{result:?}");
    let refusals = (0..1000).map(|_| reply("SERVER_ERROR no leader, not executed\r\n"));
    let refusing = scripted(refusals);
    let mut cluster = Cluster::with_servers(vec![refusing.address], options);
    let result = cluster.incr("n", 1).await;
    assert!(matches!(result, Err(Error::Unreachable { .. })), "{result:?}");
}

#[tokio::test]
async fn a_write_that_was_dropped_half_way_is_over() {
    let acts = [reply("1\r\n"), Act::Silence, reply("3\r\n")];
    let server = scripted(acts);
    let mut cluster = patient(&[&server]);
    cluster.incr("n", 1).await.unwrap();
    let sent = async {
        while server.log().len() < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        result = cluster.incr("n", 1) => panic!("{result:?}"),
        () = sent => {}
    }
    cluster.incr("n", 1).await.unwrap();
    let lines = ["session A", "incr n 1 @A.1.1", "incr n 1 @A.2.2", "incr n 1 @A.3.3"];
    assert_eq!(shown(&[&server]), lines);
}

#[tokio::test]
async fn without_sessions_writes_have_no_names() {
    for answer in ["ERROR\r\n", "SERVER_ERROR too many sessions, not executed\r\n"] {
        let server = Fake::with_sessions(move |line, _| match line.split(' ').next() {
            Some("session") => reply(answer),
            Some("incr") => Act::Close,
            _ => reply("DELETED\r\n"),
        });
        let mut cluster = patient(&[&server]);
        assert_eq!(cluster.delete("a").await, Ok(true));
        assert!(matches!(cluster.incr("n", 1).await, Err(Error::OutcomeUnknown { .. })));
        assert_eq!(cluster.delete("a").await, Ok(true));
        let lines = ["session A", "delete a", "incr n 1", "delete a"];
        assert_eq!(shown(&[&server]), lines, "asked once for a while");

        // Another server may know them.
        let other = scripted([reply("DELETED\r\n")]);
        let mut cluster = patient(&[&server, &other]);
        cluster.delete("a").await.unwrap();
        server.stop();
        tokio::time::sleep(Duration::from_millis(30)).await;
        cluster.delete("a").await.unwrap();
        assert_eq!(shown(&[&other]), ["session A", "delete a @A.1.1"]);
    }
}

#[test]
fn the_token_is_the_last_word_of_the_line() {
    let mut write = Write::new(b"set k 0 0 4\r\na\r\nb\r\n".to_vec());
    let ids = WriteIds { session: 0xab, first_sequence: 9, done_below: 8, again: false };
    assert!(!write.expose() && !write.is_exposed());
    for again in [false, true] {
        write.name(Some(WriteIds { again, ..ids }));
        let mark = if again { "!" } else { "" };
        let expected = format!("set k 0 0 4 @ab.9.8{mark}\r\na\r\nb\r\n");
        assert_eq!(write.bytes(), expected.as_bytes());
    }
    write.name(None);
    assert_eq!(write.bytes(), b"set k 0 0 4\r\na\r\nb\r\n");
}
