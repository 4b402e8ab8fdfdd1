use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::Instant;

use super::*;

const GET: Expect = Expect::Values { at_most: 2, max_value_bytes: 1000 };

fn pair() -> (Connection<DuplexStream>, DuplexStream) {
    let (ours, theirs) = duplex(1024 * 1024);
    (Connection::new(ours), theirs)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(1)
}

/// What the client makes of `bytes`, after which the peer closes.
async fn answer_to(expect: Expect, bytes: &[u8]) -> Result<Answer, Failure> {
    let (mut connection, mut peer) = pair();
    peer.write_all(bytes).await.unwrap();
    peer.shutdown().await.unwrap();
    connection.call(b"x\r\n", expect, soon()).await
}

#[tokio::test(start_paused = true)]
async fn replies_may_come_byte_by_byte() {
    let (mut connection, mut peer) = pair();
    let bytes = b"VALUE a 7 6 9\r\n\r\nEND\r\r\nVALUE b 0 0\r\n\r\nEND\r\n";
    let feeder = tokio::spawn(async move {
        for byte in bytes {
            peer.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        peer
    });
    let answer = connection.call(b"gets a b\r\n", GET, soon()).await.unwrap();
    let Answer::Values(values) = answer else { panic!("{answer:?}") };
    assert_eq!(values.len(), 2);
    assert_eq!((values[0].flags, values[0].cas), (7, Some(9)));
    assert_eq!(values[0].value, b"\r\nEND\r");
    assert!(values[1].value.is_empty());
    feeder.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_costs_the_attempt_and_no_more() {
    let (mut connection, _peer) = pair();
    let before = Instant::now();
    let failure = connection.call(b"get a\r\n", GET, soon()).await.unwrap_err();
    assert!(failure.sent);
    assert_eq!(before.elapsed(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_trickling_peer_costs_the_attempt_and_no_more() {
    let (mut connection, mut peer) = pair();
    let trickle = tokio::spawn(async move {
        while peer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let before = Instant::now();
    assert!(connection.call(b"get a\r\n", GET, soon()).await.unwrap_err().sent);
    assert_eq!(before.elapsed(), Duration::from_secs(1));
    drop(connection);
    trickle.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_not_sent_to_its_end_says_so() {
    let (ours, mut peer) = duplex(16);
    let mut connection = Connection::new(ours);
    let request = [b'x'; 100];
    let failure = connection.call(&request, Expect::Store, soon()).await.unwrap_err();
    assert!(!failure.sent);
    let mut arrived = [0; 100];
    assert!(peer.read(&mut arrived).await.unwrap() < 100);
}

#[tokio::test(start_paused = true)]
async fn garbage_is_an_error_at_once_and_never_a_panic() {
    let long = vec![b'x'; 1024 * 1024];
    let inputs: [&[u8]; 11] = [
        b"",
        b"\n",
        b"\0\xff\x80\r\n",
        b"STORED\r\n",
        b"VALUE a 0 99999999999\r\n",
        b"VALUE a 0 1001\r\n",
        b"VALUE a 0 3\r\nabcdef\r\nEND\r\n",
        b"VALUE a 0 3\r\nab",
        b"VALUE a 0 0\r\n\r\nVALUE a 0 0\r\n\r\nVALUE a 0 0\r\n\r\nEND\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        &long,
    ];
    for input in inputs {
        let shown = input[..input.len().min(40)].escape_ascii();
        let before = Instant::now();
        let failure = answer_to(GET, input).await.expect_err(&shown.to_string());
        assert!(failure.sent, "{shown}");
        assert!(failure.cause.len() < 600, "{shown}");
        assert_eq!(before.elapsed(), Duration::ZERO, "{shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_fitting_answers_are_taken() {
    assert_eq!(answer_to(Expect::Store, b"EXISTS\r\n").await.unwrap(), Answer::Exists);
    assert_eq!(answer_to(Expect::Number, b"12\n").await.unwrap(), Answer::Number(12));
    assert!(answer_to(Expect::Store, b"DELETED\r\n").await.is_err());
    assert!(answer_to(Expect::Delete, b"12\r\n").await.is_err());
    assert!(answer_to(Expect::Number, b"END\r\n").await.is_err());
    let refused = answer_to(Expect::Store, b"SERVER_ERROR x\r\n").await.unwrap();
    assert_eq!(refused, Answer::ServerError(b"x".to_vec()));
    assert!(matches!(
        answer_to(Expect::Store, b"ERROR\r\n").await.unwrap(),
        Answer::ClientError(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn discovery_reads_addresses_up_to_end() {
    let (mut connection, mut peer) = pair();
    peer.write_all(b"127.0.0.1:7001\r\n[::1]:7002\r\nend\r\n").await.unwrap();
    let servers = connection.discover(soon()).await.unwrap();
    assert_eq!(servers, ["127.0.0.1:7001".parse().unwrap(), "[::1]:7002".parse().unwrap()]);
    for bad in [&b"ERROR\r\n"[..], b"127.0.0.1:70010\r\nend\r\n", b"127.0.0.1\r\nend\r\n"] {
        let (mut connection, mut peer) = pair();
        peer.write_all(bad).await.unwrap();
        assert!(connection.discover(soon()).await.is_err());
    }
    let (mut connection, mut peer) = pair();
    peer.write_all(&b"127.0.0.1:1\r\n".repeat(1000)).await.unwrap();
    assert!(connection.discover(soon()).await.is_err());
}
