//! The text protocol: a client that is not ours, and answers byte by byte.

mod support;

use memcache::Client;
use support::cluster::{PATIENCE, TestCluster};

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
