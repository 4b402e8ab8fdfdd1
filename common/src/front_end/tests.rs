use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Mutex;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;
use crate::memcached::{Reply, Request, write_end, write_value};

/// A store in memory that answers at once, or when the test lets it.
#[derive(Default)]
struct Memory {
    values: Mutex<HashMap<Bytes, Bytes>>,
    /// Batches wait here instead of being answered.
    held: Option<Mutex<VecDeque<Batch>>>,
    arrived: Notify,
}

impl Memory {
    fn holding() -> Self {
        Memory { held: Some(Mutex::default()), ..Memory::default() }
    }

    fn answer(&self, mut batch: Batch) {
        for request in &batch.requests {
            if answer_local(request, &mut batch.out) {
                continue;
            }
            match request {
                Request::Get { keys, .. } => {
                    let values = self.values.lock().expect("no panic");
                    for key in keys {
                        if let Some(value) = values.get(key) {
                            write_value(&mut batch.out, key, 0, None, value);
                        }
                    }
                    write_end(&mut batch.out);
                }
                Request::Store { key, value, noreply, .. } => {
                    self.values.lock().expect("no panic").insert(key.clone(), value.clone());
                    if !noreply {
                        Reply::Stored.write(&mut batch.out);
                    }
                }
                other => panic!("not in these tests: {other:?}"),
            }
        }
        batch.finish();
    }

    /// The next batch that was handed over.
    async fn take(&self) -> Batch {
        let held = self.held.as_ref().expect("a holding service");
        loop {
            if let Some(batch) = held.lock().expect("no panic").pop_front() {
                return batch;
            }
            self.arrived.notified().await;
        }
    }
}

impl Service for Memory {
    fn call(&self, batch: Batch) {
        match &self.held {
            Some(held) => {
                held.lock().expect("no panic").push_back(batch);
                self.arrived.notify_one();
            }
            None => self.answer(batch),
        }
    }
}

struct Running {
    address: SocketAddr,
    service: Arc<Memory>,
    counters: Arc<Counters>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

async fn start(service: Memory, max_connections: usize) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let config = FrontEndConfig { max_connections, ..FrontEndConfig::default() };
    let counters = config.counters.clone();
    let service = Arc::new(service);
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(FrontEnd::serve(listener, config, service.clone(), shutdown.clone()));
    Running { address, service, counters, shutdown, task }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("a connection")
    }

    /// Lets other tasks run until it is so.
    async fn until(&self, condition: impl Fn(&Counters) -> bool) {
        let wait = async {
            while !condition(&self.counters) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("in time");
    }
}

async fn exchange(client: &mut TcpStream, text: &str, reply: &str) {
    client.write_all(text.as_bytes()).await.expect("sent");
    expect(client, reply).await;
}

async fn expect(client: &mut TcpStream, reply: &str) {
    let mut bytes = vec![0; reply.len()];
    let read = tokio::time::timeout(Duration::from_secs(10), client.read_exact(&mut bytes)).await;
    read.expect("in time").expect("as many bytes");
    assert_eq!(String::from_utf8_lossy(&bytes), reply);
}

/// Nothing more comes: the other side has closed.
async fn expect_end(client: &mut TcpStream) {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), client.read_to_end(&mut bytes)).await;
    // A reset is an end, too, when something was left unread.
    let _ = read.expect("in time");
    assert_eq!(String::from_utf8_lossy(&bytes), "");
}

#[tokio::test]
async fn a_service_that_answers_at_once() {
    let running = start(Memory::default(), 10).await;
    let mut client = running.connect().await;
    for round in 0..50 {
        let set = format!("set k{round} 0 0 5\r\nvalue\r\nget k{round} none\r\n");
        let reply = format!("STORED\r\nVALUE k{round} 0 5\r\nvalue\r\nEND\r\n");
        exchange(&mut client, &set, &reply).await;
    }
    let version = format!("{VERSION_REPLY}\r\n");
    exchange(&mut client, "set a 0 0 1 noreply\r\nb\r\nversion\r\n", &version).await;
    exchange(
        &mut client,
        "verbosity 1\r\nfoo\r\nget a\r\n",
        "OK\r\nERROR\r\nVALUE a 0 1\r\nb\r\nEND\r\n",
    )
    .await;
    assert_eq!(running.counters.total_connections(), 1);
    assert!(running.counters.requests() > running.counters.batches());
    drop(client);
    running.until(|counters| counters.current_connections() == 0).await;
}

#[tokio::test]
async fn a_service_that_answers_later() {
    let running = start(Memory::holding(), 10).await;
    let service = running.service.clone();
    let driver = tokio::spawn(async move {
        loop {
            let batch = service.take().await;
            service.answer(batch);
        }
    });
    let mut clients = Vec::new();
    for number in 0..5 {
        let mut client = running.connect().await;
        clients.push(tokio::spawn(async move {
            for round in 0..100 {
                let set = format!("set k{number} 0 0 3\r\n{round:03}\r\n");
                exchange(&mut client, &set, "STORED\r\n").await;
                let reply = format!("VALUE k{number} 0 3\r\n{round:03}\r\nEND\r\n");
                exchange(&mut client, &format!("get k{number}\r\n"), &reply).await;
            }
        }));
    }
    for client in clients {
        client.await.expect("no panic");
    }
    driver.abort();
}

#[tokio::test]
async fn a_deep_pipeline_comes_in_batches_and_in_order() {
    for service in [Memory::default(), Memory::holding()] {
        let is_holding = service.held.is_some();
        let running = start(service, 10).await;
        let mut client = running.connect().await;
        let count = 5 * crate::limits::MAX_BATCH_REQUESTS + 7;
        let mut text = String::new();
        let mut reply = String::new();
        for number in 0..count {
            text += &format!("set k 0 0 6\r\n{number:06}\r\nget k\r\n");
            reply += &format!("STORED\r\nVALUE k 0 6\r\n{number:06}\r\nEND\r\n");
        }
        let service = running.service.clone();
        let driver = tokio::spawn(async move {
            if !is_holding {
                return;
            }
            loop {
                let batch = service.take().await;
                assert!(batch.requests.len() <= crate::limits::MAX_BATCH_REQUESTS);
                tokio::task::yield_now().await;
                service.answer(batch);
            }
        });
        exchange(&mut client, &text, &reply).await;
        assert_eq!(running.counters.requests(), 2 * count as u64);
        driver.abort();
    }
}

#[tokio::test]
async fn a_batch_is_one_run_of_named_writes_or_names_none() {
    let running = start(Memory::holding(), 10).await;
    let mut client = running.connect().await;
    let set = |token: &str| format!("set k 0 0 1 {token}\r\nv\r\n");
    // Each line is one batch: the session, the first sequence, what is done.
    let runs = [
        ((0, 0, 0), vec![set(""), "version\r\n".to_owned(), set("")]),
        ((5, 1, 3), vec![set("@5.1.1"), set("@5.2.1"), set("@5.3.3")]),
        ((5, 5, 3), vec![set("@5.5.3"), "set k 0 0 1 @5.6.3\r\nvXX".to_owned()]),
        ((0, 0, 0), vec!["version\r\n".to_owned()]),
        ((5, 7, 3), vec![set("@5.7.3")]),
        ((6, 8, 3), vec![set("@6.8.3")]),
        ((6, 9, 3), vec![set("@6.9.3!"), set("@6.10.3!")]),
        ((6, 11, 11), vec![set("@6.11.11")]),
        ((0, 0, 0), vec![set("@6.12"), "quit\r\n".to_owned()]),
    ];
    let text: String = runs.iter().flat_map(|(_, lines)| lines).map(String::as_str).collect();
    client.write_all(text.as_bytes()).await.expect("sent");
    let mut bytes = 0;
    for (ids, lines) in &runs {
        let batch = running.service.take().await;
        let found = (batch.ids.session, batch.ids.first_sequence, batch.ids.done_below);
        assert_eq!((found, batch.requests.len()), (*ids, lines.len()), "{lines:?}");
        assert_eq!(batch.ids.again, lines[0].contains('!'));
        bytes += batch.bytes;
        running.service.answer(batch);
    }
    assert_eq!(bytes, text.len());
    let version = format!("{VERSION_REPLY}\r\n");
    let bad = ["STORED\r\nCLIENT_ERROR bad data chunk\r\n", &version].concat();
    let replies = ["STORED\r\n", &version, &"STORED\r\n".repeat(4), &bad];
    expect(&mut client, &replies.concat()).await;
    expect(&mut client, &"STORED\r\n".repeat(5)).await;
    expect(&mut client, "CLIENT_ERROR bad write id\r\n").await;
    expect_end(&mut client).await;
}

#[tokio::test]
async fn nothing_is_read_while_a_batch_is_out() {
    let running = start(Memory::holding(), 10).await;
    let mut client = running.connect().await;
    client.write_all(b"get a\r\n").await.expect("sent");
    let first = running.service.take().await;
    client.write_all(b"get b\r\n").await.expect("sent");
    // Another connection is served meanwhile, twice, so that there was time.
    let mut other = running.connect().await;
    for _ in 0..2 {
        other.write_all(b"get c\r\n").await.expect("sent");
        let batch = running.service.take().await;
        running.service.answer(batch);
        expect(&mut other, "END\r\n").await;
    }
    assert_eq!(running.counters.bytes_read(), 3 * 7);
    running.service.answer(first);
    let second = running.service.take().await;
    assert!(matches!(&second.requests[..], [Request::Get { keys, .. }] if keys == &["b"]));
    running.service.answer(second);
    expect(&mut client, "END\r\nEND\r\n").await;
}

#[tokio::test]
async fn a_client_that_half_closes_gets_its_replies() {
    for partial in ["", "get unfinis"] {
        let running = start(Memory::holding(), 10).await;
        let mut client = running.connect().await;
        client.write_all(format!("get a\r\nget b\r\n{partial}").as_bytes()).await.expect("sent");
        client.shutdown().await.expect("half closed");
        let batch = running.service.take().await;
        running.service.answer(batch);
        expect(&mut client, "END\r\nEND\r\n").await;
        expect_end(&mut client).await;
        running.until(|counters| counters.current_connections() == 0).await;
    }
}

#[tokio::test]
async fn quit_closes_after_the_replies() {
    for service in [Memory::default(), Memory::holding()] {
        let running = start(service, 10).await;
        let mut client = running.connect().await;
        client.write_all(b"get a\r\nquit\r\nget b\r\n").await.expect("sent");
        if running.service.held.is_some() {
            let batch = running.service.take().await;
            assert_eq!(batch.requests.len(), 2);
            running.service.answer(batch);
        }
        expect(&mut client, "END\r\n").await;
        expect_end(&mut client).await;
    }
}

#[tokio::test]
async fn an_endless_line_is_answered_and_closed() {
    let running = start(Memory::default(), 10).await;
    let mut client = running.connect().await;
    let line = vec![b'x'; 10_000_000];
    let mut sent = b"get a\r\n".to_vec();
    sent.extend_from_slice(&line);
    client.write_all(&sent).await.expect("all of it is taken, and thrown away");
    expect(&mut client, "END\r\nCLIENT_ERROR line too long\r\n").await;
    expect_end(&mut client).await;
}

#[tokio::test]
async fn the_binary_protocol_is_closed() {
    let running = start(Memory::default(), 10).await;
    let mut client = running.connect().await;
    client.write_all(&[0x80; 24]).await.expect("sent");
    expect_end(&mut client).await;
}

#[tokio::test]
async fn a_batch_that_is_dropped_closes_its_connection() {
    let running = start(Memory::holding(), 10).await;
    let mut client = running.connect().await;
    client.write_all(b"get a\r\n").await.expect("sent");
    drop(running.service.take().await);
    expect_end(&mut client).await;
}

#[tokio::test]
async fn what_is_read_together_waits_together() {
    const HELD: Duration = Duration::from_millis(30);
    // More than the first read has room for.
    const GETS: usize = 3 * crate::limits::MAX_BATCH_REQUESTS;
    let running = start(Memory::holding(), 10).await;
    let mut client = running.connect().await;
    client.write_all("get none\r\n".repeat(GETS).as_bytes()).await.expect("sent");
    let mut waited = Duration::ZERO;
    for _ in 0..3 {
        let batch = running.service.take().await;
        assert_eq!(batch.requests.len(), crate::limits::MAX_BATCH_REQUESTS);
        assert!(batch.waited >= waited, "{:?} after {waited:?}", batch.waited);
        assert_eq!(batch.waited.is_zero(), waited.is_zero());
        waited += HELD;
        tokio::time::sleep(HELD).await;
        running.service.answer(batch);
    }
    expect(&mut client, &"END\r\n".repeat(GETS)).await;
    // What comes later has not waited.
    client.write_all(b"get none\r\n").await.expect("sent");
    let batch = running.service.take().await;
    assert!(batch.waited.is_zero());
    running.service.answer(batch);
    expect(&mut client, "END\r\n").await;
}

#[tokio::test]
async fn connections_above_the_limit_are_told_so() {
    let running = start(Memory::default(), 2).await;
    let mut first = running.connect().await;
    let mut second = running.connect().await;
    exchange(&mut first, "get a\r\n", "END\r\n").await;
    exchange(&mut second, "get a\r\n", "END\r\n").await;
    let mut third = running.connect().await;
    expect(&mut third, "ERROR Too many open connections\r\n").await;
    expect_end(&mut third).await;
    assert_eq!(running.counters.rejected_connections(), 1);
    drop(second);
    running.until(|counters| counters.current_connections() == 1).await;
    let mut fourth = running.connect().await;
    exchange(&mut fourth, "get a\r\n", "END\r\n").await;
}

#[tokio::test]
async fn a_client_that_does_not_read_blocks_only_itself() {
    const VALUE_BYTES: usize = 1 << 20;
    const GETS: usize = 40;
    let running = start(Memory::default(), 10).await;
    let mut slow = running.connect().await;
    let value = "v".repeat(VALUE_BYTES);
    exchange(&mut slow, &format!("set k 0 0 {VALUE_BYTES}\r\n{value}\r\n"), "STORED\r\n").await;
    slow.write_all("get k\r\n".repeat(GETS).as_bytes()).await.expect("sent");
    let mut other = running.connect().await;
    for _ in 0..20 {
        exchange(&mut other, "get none\r\n", "END\r\n").await;
    }
    let reply = format!("VALUE k 0 {VALUE_BYTES}\r\n{value}\r\nEND\r\n");
    assert!(running.counters.bytes_written() < (GETS * reply.len()) as u64);
    for _ in 0..GETS {
        expect(&mut slow, &reply).await;
    }
    exchange(&mut slow, "get none\r\n", "END\r\n").await;
}

#[tokio::test]
async fn large_values_pass_and_larger_ones_are_refused() {
    let running = start(Memory::default(), 10).await;
    let mut client = running.connect().await;
    for length in [1, 4000, 5000, 70_000, crate::limits::DEFAULT_MAX_VALUE_BYTES] {
        let value = "v".repeat(length);
        let set = format!("set k 0 0 {length}\r\n{value}\r\n");
        exchange(&mut client, &set, "STORED\r\n").await;
        let reply = format!("VALUE k 0 {length}\r\n{value}\r\nEND\r\n");
        exchange(&mut client, "get k\r\n", &reply).await;
    }
    let length = crate::limits::DEFAULT_MAX_VALUE_BYTES + 1;
    let set = format!("set k 0 0 {length}\r\n{}\r\nget none\r\n", "v".repeat(length));
    let reply = "SERVER_ERROR object too large for cache\r\nEND\r\n";
    exchange(&mut client, &set, reply).await;
}

#[tokio::test]
async fn shutdown_waits_for_batches_that_are_out() {
    let running = start(Memory::holding(), 10).await;
    let mut idle = running.connect().await;
    let mut busy = running.connect().await;
    busy.write_all(b"get a\r\n").await.expect("sent");
    let batch = running.service.take().await;
    running.shutdown.cancel();
    expect_end(&mut idle).await;
    while TcpStream::connect(running.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    running.service.answer(batch);
    expect(&mut busy, "END\r\n").await;
    expect_end(&mut busy).await;
    running.task.await.expect("no panic");
    assert_eq!(running.counters.current_connections(), 0);
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever() {
    let running = start(Memory::holding(), 10).await;
    let mut client = running.connect().await;
    client.write_all(b"get a\r\n").await.expect("sent");
    let batch = running.service.take().await;
    running.shutdown.cancel();
    running.task.await.expect("no panic");
    drop(batch);
    expect_end(&mut client).await;
}

#[test]
fn the_version_has_a_major_number_that_clients_accept() {
    assert!(VERSION_REPLY.starts_with("VERSION 1."));
    assert_eq!(VERSION_REPLY.matches('.').count(), 2);
}
