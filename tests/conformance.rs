//! The text protocol: a client that is not ours, answers byte by byte, and our
//! client at a memcached that is not ours.

mod support;

use std::net::SocketAddr;
use std::process::{Child, Command};

use memcache::Client;
use support::cluster::{PATIENCE, TestCluster};
use support::eventually;
use support::memcached::Connection;
use support::ports::free_port;

#[test]
fn a_third_party_client_works_with_every_server() {
    let cluster = TestCluster::start(3);
    cluster.wait_for_leader(PATIENCE);
    for name in cluster.running() {
        let address = cluster.client_address(&name);
        let url = format!("memcache://{address}?protocol=ascii&timeout=10");
        let client = Client::connect(url).unwrap();
        let key = format!("key-{name}");
        client.set(&key, "value", 0).unwrap();
        assert_eq!(client.get::<String>(&key).unwrap().as_deref(), Some("value"), "{name}");
        assert!(client.delete(&key).unwrap(), "{name}");
        assert_eq!(client.get::<String>(&key).unwrap(), None, "{name}");
        assert!(!client.delete(&key).unwrap(), "{name}");

        client.set(&key, 41, 0).unwrap();
        assert_eq!(client.increment(&key, 1).unwrap(), 42, "{name}");
        assert_eq!(client.decrement(&key, 50).unwrap(), 0, "{name}");
        client.delete(&key).unwrap();
        client.add(&key, 1, 0).unwrap();
        let found = client.gets::<String>(&[&key, "nothing"]).unwrap();
        assert_eq!(found.len(), 1, "{name}");
        let (_, _, token) = client.gets::<(Vec<u8>, u32, Option<u64>)>(&[&key]).unwrap()[&key];
        assert!(client.cas(&key, 2, 0, token.unwrap()).unwrap(), "{name}");
        assert!(!client.cas(&key, 3, 0, token.unwrap()).unwrap(), "{name}: an old token");
        assert!(client.version().unwrap()[0].1.starts_with("1."), "{name}");
    }
}

#[test]
fn a_write_to_any_server_is_read_from_every_server() {
    let cluster = TestCluster::start(3);
    for writer in cluster.running() {
        assert_eq!(cluster.connect(&writer).set("shared", &writer).unwrap(), "STORED");
        for reader in cluster.running() {
            let found = cluster.connect(&reader).get("shared").unwrap();
            assert_eq!(found.as_ref(), Some(&writer), "written to {writer}, read from {reader}");
        }
    }
}

/// Requests and the answers that memcached gives to them.
const TRANSCRIPT: &[(&str, &str)] = &[
    ("set a 7 0 3\r\nabc\r\n", "STORED"),
    ("get a\r\n", "VALUE a 7 3\r\nabc\r\nEND"),
    ("add a 0 0 1\r\nx\r\n", "NOT_STORED"),
    ("add b 0 0 1\r\nx\r\n", "STORED"),
    ("get a b c\r\n", "VALUE a 7 3\r\nabc\r\nVALUE b 0 1\r\nx\r\nEND"),
    ("cas c 0 0 1 1\r\nx\r\n", "NOT_FOUND"),
    ("delete b\r\n", "DELETED"),
    ("delete b\r\n", "NOT_FOUND"),
    ("set n 0 0 2\r\n10\r\n", "STORED"),
    ("incr n 5\r\n", "15"),
    ("decr n 100\r\n", "0"),
    ("incr nothing 1\r\n", "NOT_FOUND"),
    ("incr a 1\r\n", "CLIENT_ERROR cannot increment or decrement non-numeric value"),
    ("set n 0 0 20\r\n18446744073709551615\r\n", "STORED"),
    ("incr n 1\r\n", "0"),
    ("set bin 0 0 6\r\n\r\nEND\0\r\n", "STORED"),
    ("get bin\r\n", "VALUE bin 0 6\r\n\r\nEND\0\r\nEND"),
    ("set empty 0 0 0\r\n\r\n", "STORED"),
    ("get empty\r\n", "VALUE empty 0 0\r\n\r\nEND"),
    ("nonsense\r\n", "ERROR"),
    ("get\r\n", "ERROR"),
    // Nothing comes back from the first two; the third shows that nothing shifted.
    ("set q 0 0 1 noreply\r\n1\r\ndelete a noreply\r\nget q a\r\n", "VALUE q 0 1\r\n1\r\nEND"),
];

#[test]
fn answers_are_those_of_memcached_on_leader_and_follower() {
    let cluster = TestCluster::start(3);
    for name in cluster.running() {
        let mut connection = cluster.connect(&name);
        for (request, answer) in TRANSCRIPT {
            connection.send(request).unwrap();
            for expected in answer.split("\r\n") {
                assert_eq!(connection.line().unwrap(), expected, "{name}: {request:?}");
            }
        }
        for key in ["a", "n", "bin", "empty", "q"] {
            connection.ask(format!("delete {key}\r\n")).unwrap();
        }
        // All at once: answered in order.
        let all: String = TRANSCRIPT.iter().map(|(request, _)| *request).collect();
        connection.send(all).unwrap();
        for (request, answer) in TRANSCRIPT {
            for expected in answer.split("\r\n") {
                assert_eq!(connection.line().unwrap(), expected, "{name}, pipelined: {request:?}");
            }
        }
        for key in ["a", "n", "bin", "empty", "q"] {
            connection.ask(format!("delete {key}\r\n")).unwrap();
        }
        connection.send("quit\r\n").unwrap();
        assert!(connection.is_closed(), "{name}");
    }
}

#[test]
fn a_named_write_takes_effect_once_wherever_it_is_sent() {
    let cluster = TestCluster::start(3);
    let leader = cluster.wait_for_leader(PATIENCE);
    let mut addresses: Vec<_> =
        cluster.running().iter().map(|name| cluster.client_address(name)).collect();
    addresses.push(cluster.lb_client());
    assert_eq!(cluster.connect(&leader).set("n", "0").unwrap(), "STORED");
    for (round, opener) in (1..).zip(&addresses) {
        let session = format!("5e55{round}");
        let opened = Connection::open(*opener).unwrap().ask(format!("session {session}\r\n"));
        assert_eq!(opened.unwrap(), "OK");
        for mark in ["", "!"] {
            for address in &addresses {
                let mut connection = Connection::open(*address).unwrap();
                let mut ask = |line: String| connection.ask(line).unwrap();
                assert_eq!(ask(format!("incr n 1 @{session}.1.1{mark}\r\n")), round.to_string());
                assert_eq!(ask(format!("set k 0 0 1 @{session}.2.1\r\nx\r\n")), "STORED");
                assert_eq!(ask(format!("delete k @{session}.3.1{mark}\r\n")), "DELETED");
                let unknown = "SERVER_ERROR session unknown, not executed";
                assert_eq!(ask("incr n 1 @bad.1.1\r\n".to_owned()), unknown);
                let over = "SERVER_ERROR session unknown, outcome unknown";
                assert_eq!(ask("incr n 1 @bad.1.1!\r\n".to_owned()), over);
                let malformed = "set n 0 0 9 @1.2\r\nincr n 1\r\n\r\n";
                assert_eq!(ask(malformed.to_owned()), "CLIENT_ERROR bad write id");
            }
        }
    }
}

/// A memcached that is not ours, if there is one on this machine.
struct Stock(Child);

impl Stock {
    fn start(port: u16) -> Option<Stock> {
        // The user counts only for root, as whom it refuses to run.
        let port = port.to_string();
        let args = ["-l", "127.0.0.1", "-p", &port, "-U", "0", "-u", "nobody"];
        match Command::new("memcached").args(args).spawn() {
            Ok(child) => Some(Stock(child)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => panic!("memcached: {error}"),
        }
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn our_client_works_with_a_memcached_that_is_not_ours() {
    let port = free_port();
    let Some(_stock) = Stock::start(port) else {
        println!("SKIPPED: memcached is not installed (apt-get install memcached)");
        return;
    };
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("memcached answers", PATIENCE, || {
        Connection::open(address).map(drop).map_err(|error| error.to_string())
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = client::Options::default();
        let mut cluster = client::Cluster::with_servers(vec![address], options);
        cluster.set("n", "41").await.unwrap();
        assert_eq!(cluster.incr("n", 1).await, Ok(Some(42)));
        assert_eq!(cluster.add("n", "1").await, Ok(false));
        let token = cluster.gets(&["n"]).await.unwrap()[0].cas.unwrap();
        assert_eq!(cluster.cas("n", "7", token).await, Ok(client::Outcome::Stored));
        assert_eq!(cluster.delete("n").await, Ok(true));
        assert!(cluster.get(&["n"]).await.unwrap().is_empty());
        assert!(cluster.connected_to().is_some(), "one connection has served for all");
    });
}
