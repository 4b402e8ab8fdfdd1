use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant as Clock};

use super::*;
use crate::testing::{Act, Fake, refusing_address, reply};

fn quick() -> Options {
    Options {
        deadline: Duration::from_millis(400),
        attempt_timeout: Duration::from_millis(150),
        connect_timeout: Duration::from_millis(150),
        max_value_bytes: 1024 * 1024,
    }
}

fn patient() -> Options {
    Options { deadline: Duration::from_secs(10), ..Options::default() }
}

/// Answers `first` to the first requests, one each, and `then` to all others.
fn scripted(first: &'static [&'static str], then: &'static str) -> Fake {
    let mut first = first.iter().copied();
    Fake::start(move |_, _| reply(first.next().unwrap_or(then)))
}

fn servers(fakes: &[&Fake]) -> Arc<Mutex<Vec<SocketAddr>>> {
    Arc::new(Mutex::new(fakes.iter().map(|fake| fake.address).collect()))
}

#[tokio::test]
async fn commands_against_a_store() {
    let store = Fake::store();
    let lb = Fake::lb(&servers(&[&store]));
    let mut cluster = Cluster::new(vec![lb.address], patient());
    let binary = [0u8, 13, 10, 255];
    cluster.set("a", binary).await.unwrap();
    assert_eq!(cluster.get(&["a", "b"]).await.unwrap()[0].value, binary);
    assert!(!cluster.add("a", "x").await.unwrap());
    assert!(cluster.replace("a", "5").await.unwrap());
    assert_eq!(cluster.incr("a", 6).await.unwrap(), Some(11));
    assert_eq!(cluster.decr("a", 1).await.unwrap(), Some(10));
    assert_eq!(cluster.incr("absent", 1).await.unwrap(), None);
    assert!(cluster.append("a", "!").await.unwrap());
    assert!(cluster.prepend("a", "?").await.unwrap());
    let hit = cluster.gets(&["a"]).await.unwrap().remove(0);
    assert_eq!(hit.value, b"?10!");
    assert!(matches!(cluster.incr("a", 1).await, Err(Error::ClientError(_))));
    let token = hit.cas.unwrap();
    assert_eq!(cluster.cas("a", "new", token).await.unwrap(), Outcome::Stored);
    assert_eq!(cluster.cas("a", "late", token).await.unwrap(), Outcome::Exists);
    assert_eq!(cluster.cas("absent", "x", token).await.unwrap(), Outcome::NotFound);
    assert!(cluster.delete("a").await.unwrap());
    assert!(!cluster.delete("a").await.unwrap());
    assert_eq!(cluster.version().await.unwrap(), "1.0.0");
    assert_eq!(cluster.stats("").await.unwrap()[0], ("pid".into(), "1".into()));
    assert!(cluster.get(&[""; 0]).await.unwrap().is_empty());
    assert_eq!(cluster.connected_to(), Some(store.address));
}

#[tokio::test]
async fn a_refused_write_is_repeated() {
    let server = scripted(
        &[
            "SERVER_ERROR no leader, not executed\r\n",
            "SERVER_ERROR busy, not executed\r\n",
            "SERVER_ERROR shutting down, not executed\r\n",
        ],
        "STORED\r\n",
    );
    let mut cluster = Cluster::with_servers(vec![server.address], patient());
    cluster.set("a", "1").await.unwrap();
    assert_eq!(server.log(), ["set a 0 0 1"; 4]);
}

#[tokio::test]
async fn a_write_of_unknown_outcome_is_not_repeated() {
    let scripts: [fn() -> Act; 4] = [
        || Act::Close,
        || Act::Silence,
        || reply("garbage\r\n"),
        || reply("SERVER_ERROR timeout, outcome unknown\r\n"),
    ];
    for script in scripts {
        let server = Fake::start(move |_, _| script());
        let mut cluster = Cluster::with_servers(vec![server.address], quick());
        let result = cluster.incr("a", 1).await;
        assert!(matches!(result, Err(Error::OutcomeUnknown { .. })), "{result:?}");
        assert_eq!(server.log().len(), 1);
    }
    let server = scripted(&["SERVER_ERROR timeout, outcome unknown\r\n"], "STORED\r\n");
    let mut cluster = Cluster::with_servers(vec![server.address], patient());
    assert!(matches!(cluster.set("a", "1").await, Err(Error::OutcomeUnknown { .. })));
    cluster.set("a", "1").await.unwrap();
}

#[tokio::test]
async fn a_read_is_repeated_whatever_happens() {
    let mut step = 0;
    let server = Fake::start(move |_, _| {
        step += 1;
        match step {
            1 => Act::Close,
            2 => reply("garbage\r\n"),
            3 => reply("SERVER_ERROR timeout, outcome unknown\r\n"),
            4 => Act::Silence,
            _ => Act::Pieces(vec![
                b"VALUE a 0 2\r\n1".to_vec(),
                b"2\r\nEN".to_vec(),
                b"D\r\n".to_vec(),
            ]),
        }
    });
    let options = Options { attempt_timeout: Duration::from_millis(100), ..patient() };
    let mut cluster = Cluster::with_servers(vec![server.address], options);
    assert_eq!(cluster.get(&["a"]).await.unwrap()[0].value, b"12");
    assert_eq!(server.log().len(), 5);
}

#[tokio::test]
async fn the_next_leader_is_found() {
    let (old, new) = (Fake::store(), Fake::store());
    let named = servers(&[&old]);
    let lb = Fake::lb(&named);
    let mut cluster = Cluster::new(vec![refusing_address(), lb.address], patient());
    cluster.set("a", "1").await.unwrap();
    assert_eq!(cluster.connected_to(), Some(old.address));
    old.stop();
    // Longer than a connection is used unseen: the close is noticed before
    // anything is sent on it, so even a write is certain.
    tokio::time::sleep(Duration::from_millis(30)).await;
    *named.lock().unwrap() = vec![old.address, new.address];
    cluster.set("a", "2").await.unwrap();
    assert_eq!(cluster.connected_to(), Some(new.address));
    assert_eq!(new.log(), ["set a 0 0 1"]);
}

#[tokio::test]
async fn no_leader_is_waited_for() {
    let store = Fake::store();
    let named = servers(&[]);
    let lb = Fake::lb(&named);
    let mut cluster = Cluster::new(vec![lb.address], patient());
    let later = async {
        while lb.log().len() < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        named.lock().unwrap().push(store.address);
    };
    let (result, ()) = tokio::join!(cluster.set("a", "1"), later);
    result.unwrap();
    assert_eq!(cluster.discover().await.unwrap(), [store.address]);
}

#[tokio::test]
async fn the_deadline_holds_and_the_error_says_what_to_do() {
    let lb = Fake::lb(&servers(&[]));
    let started = Clock::now();
    let mut cluster = Cluster::new(vec![lb.address], quick());
    let Err(Error::Unreachable { tried, advice }) = cluster.set("a", "1").await else {
        panic!("expected Unreachable");
    };
    assert!(started.elapsed() < Duration::from_secs(2));
    let said = format!("load balancer {}: knows no leader", lb.address);
    assert_eq!(tried.iter().map(ToString::to_string).collect::<Vec<_>>(), [said]);
    assert!(advice.contains("store up"));

    let silent = Fake::start(|_, _| Act::Silence);
    let mut cluster = Cluster::new(vec![silent.address], quick());
    assert!(matches!(cluster.get(&["a"]).await, Err(Error::Unreachable { .. })));
    let mut cluster = Cluster::with_servers(Vec::new(), quick());
    assert!(matches!(cluster.get(&["a"]).await, Err(Error::Unreachable { .. })));
}

#[tokio::test]
async fn where_nothing_runs_the_whole_deadline_is_not_waited_for() {
    let started = Clock::now();
    let mut cluster = Cluster::new(vec![refusing_address()], patient());
    assert!(matches!(cluster.get(&["a"]).await, Err(Error::Unreachable { .. })));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn errors_of_the_server_are_told_apart() {
    let server = scripted(
        &[
            "SERVER_ERROR object too large for cache\r\n",
            "SERVER_ERROR out of memory storing object\r\n",
        ],
        "ERROR\r\n",
    );
    let mut cluster = Cluster::with_servers(vec![server.address], quick());
    let too_large = cluster.set("a", "12").await;
    assert_eq!(too_large, Err(Error::TooLarge { bytes: 2, limit: None }));
    assert!(matches!(cluster.set("a", "1").await, Err(Error::ServerError(_))));
    assert!(matches!(cluster.set("a", "1").await, Err(Error::ClientError(_))));
    let before = server.log().len();
    assert!(matches!(cluster.set("a b", "1").await, Err(Error::InvalidKey { .. })));
    let large = vec![0; 2 * 1024 * 1024];
    let result = cluster.set("a", large).await;
    assert!(matches!(result, Err(Error::TooLarge { limit: Some(_), .. })));
    assert_eq!(server.log().len(), before);
}
