//! Clients of load balancers and servers that hang, die and come back.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant as Clock};

use crate::testing::{Act, Fake, refusing_address, reply};
use crate::{Cluster, Error, Options};

fn patient() -> Options {
    Options { deadline: Duration::from_secs(10), ..Options::default() }
}

fn servers(fakes: &[&Fake]) -> Arc<Mutex<Vec<SocketAddr>>> {
    Arc::new(Mutex::new(fakes.iter().map(|fake| fake.address).collect()))
}

fn silent() -> Fake {
    Fake::start(|_, _| Act::Silence)
}

/// A server that names those in `named` and answers everything else with `1`.
fn server(named: &Arc<Mutex<Vec<SocketAddr>>>) -> Fake {
    let named = named.clone();
    Fake::start(move |line, _| match line {
        "get-servers" => {
            let named = named.lock().unwrap();
            let lines: Vec<_> = named.iter().map(|server| format!("{server}\r\n")).collect();
            reply(lines.concat() + "end\r\n")
        }
        _ => reply("1\r\n"),
    })
}

fn count(fake: &Fake, line: &str) -> usize {
    fake.log().iter().filter(|asked| *asked == line).count()
}

/// Longer than a connection is used unseen: its end is noticed.
async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(30)).await;
}

#[tokio::test]
async fn a_load_balancer_that_hangs_is_not_waited_for() {
    let store = Fake::store();
    let (hung, lb) = (silent(), Fake::lb(&servers(&[&store])));
    let mut cluster = Cluster::new(vec![hung.address, lb.address], patient());
    cluster.set("a", "1").await.unwrap();
    assert_eq!((hung.log(), lb.log().len()), (vec!["get-servers".to_owned()], 1));
    a_moment().await;
    // It is not asked first again.
    cluster.discover().await.unwrap();
    assert_eq!((hung.log().len(), lb.log().len()), (1, 2));
}

#[tokio::test]
async fn without_load_balancers_the_servers_name_the_next_leader() {
    let named = servers(&[]);
    let (old, follower, new) = (server(&named), server(&named), server(&named));
    *named.lock().unwrap() = vec![old.address, follower.address];
    let lbs = [Fake::lb(&named), Fake::lb(&named)];
    let mut cluster = Cluster::new(lbs.iter().map(|lb| lb.address).collect(), patient());
    assert_eq!(cluster.incr("n", 1).await, Ok(Some(1)));
    assert_eq!(cluster.connected_to(), Some(old.address));
    lbs.iter().for_each(Fake::stop);
    old.stop();
    *named.lock().unwrap() = vec![new.address, follower.address];
    a_moment().await;
    assert_eq!(cluster.incr("n", 1).await, Ok(Some(1)));
    assert_eq!(cluster.connected_to(), Some(new.address));
}

#[tokio::test]
async fn a_server_that_knows_no_leader_waits_for_one_itself() {
    let named = servers(&[]);
    let (old, follower) = (server(&named), server(&named));
    let lb = Fake::lb(&servers(&[&old, &follower]));
    let mut cluster = Cluster::new(vec![lb.address], patient());
    assert_eq!(cluster.incr("n", 1).await, Ok(Some(1)));
    lb.stop();
    old.stop();
    a_moment().await;
    assert_eq!(cluster.incr("n", 1).await, Ok(Some(1)));
    assert_eq!(cluster.connected_to(), Some(follower.address));
}

#[tokio::test]
async fn a_makeshift_server_is_left_when_a_load_balancer_names_a_better_one() {
    let named = servers(&[]);
    let (leader, follower) = (server(&named), server(&named));
    *named.lock().unwrap() = vec![refusing_address(), follower.address];
    let lb = Fake::lb(&named);
    let mut cluster = Cluster::new(vec![lb.address], patient());
    cluster.incr("n", 1).await.unwrap();
    assert_eq!(cluster.connected_to(), Some(follower.address));
    *named.lock().unwrap() = vec![leader.address, follower.address];
    let began = Clock::now();
    while cluster.connected_to() != Some(leader.address) {
        assert!(began.elapsed() < Duration::from_secs(8));
        cluster.incr("n", 1).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Not before each request, but now and then.
    assert!(lb.log().len() < 10, "{}", lb.log().len());
}

#[tokio::test]
async fn many_that_lose_their_leader_ask_once() {
    let named = servers(&[]);
    let (old, new) = (server(&named), server(&named));
    *named.lock().unwrap() = vec![old.address, new.address];
    let lb = Fake::lb(&named);
    let first = Cluster::new(vec![lb.address], patient());
    let mut clients: Vec<_> = (0..30).map(|_| first.another()).collect();
    for client in &mut clients {
        client.incr("n", 1).await.unwrap();
    }
    let before = lb.log().len();
    old.stop();
    a_moment().await;
    *named.lock().unwrap() = vec![new.address];
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|mut client| tokio::spawn(async move { client.incr("n", 1).await }))
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), Ok(Some(1)));
    }
    let asked = lb.log().len() - before;
    // One by one they would have asked thirty times.
    assert!((1..=5).contains(&asked), "asked {asked} times");
    assert_eq!(count(&new, "incr n 1"), 30);
}

#[tokio::test]
async fn the_error_says_who_was_tried_and_what_each_said() {
    let named = servers(&[]);
    let only = server(&named);
    *named.lock().unwrap() = vec![only.address];
    let (hung, lb) = (silent(), Fake::lb(&named));
    let options = Options { deadline: Duration::from_millis(700), ..Options::default() };
    let mut cluster = Cluster::new(vec![hung.address, lb.address], options);
    cluster.incr("n", 1).await.unwrap();
    lb.stop();
    only.stop();
    a_moment().await;
    let began = Clock::now();
    let Err(error @ Error::Unreachable { .. }) = cluster.incr("n", 1).await else {
        panic!("expected Unreachable");
    };
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let text = error.to_string();
    for said in [
        format!("load balancer {}: no answer to get-servers in time", hung.address),
        format!("load balancer {}: Connection refused", lb.address),
        format!("server {}: Connection refused", only.address),
    ] {
        assert!(text.contains(&said), "no `{said}` in {text}");
    }
}
