use bytes::Bytes;

use super::{accept, address, endpoint, hello, key, start};
use crate::limits::MAX_FRAME_BYTES;
use crate::udp::read::{Fault, Frames};
use crate::udp::{Endpoint, settings};

/// A peer that holds the key and writes what it likes.
struct Rogue {
    connection: quinn::Connection,
    _quinn: quinn::Endpoint,
}

impl Rogue {
    async fn dial(endpoint: &Endpoint) -> Self {
        let (client, _) = settings::sides(&key());
        let quinn = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
        let connecting = quinn.connect_with(client, address(endpoint), "store").unwrap();
        Self { connection: connecting.await.unwrap(), _quinn: quinn }
    }

    /// Opens a stream with these bytes and keeps it open.
    async fn write(&self, bytes: &[u8]) -> quinn::SendStream {
        let mut stream = self.connection.open_uni().await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }

    async fn refusal(&self) -> String {
        match self.connection.closed().await {
            quinn::ConnectionError::ApplicationClosed(close) => {
                String::from_utf8(close.reason.to_vec()).unwrap()
            }
            other => panic!("{other}"),
        }
    }
}

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

#[tokio::test]
async fn a_bad_beginning_is_refused_with_a_reason() {
    let b = endpoint("b");
    let long = vec![b' '; 16 * 1024 + 1];
    for (bytes, reason) in [
        (frame(b'U', b"{}"), "the first stream is lane Urgent"),
        (frame(b'?', b"{}"), "0x3f, which is no lane"),
        (frame(b'C', b"{}"), "hello is unreadable"),
        (frame(b'C', b"not json"), "hello is unreadable"),
        (frame(b'C', b"{\"version\":1}"), "hello is unreadable"),
        (frame(b'C', b"{\"version\":2,\"new\":[]}"), "protocol version 2, the other 1"),
        (frame(b'C', &long), "a frame of 16385 bytes, where 16384 are the limit"),
    ] {
        let rogue = Rogue::dial(&b).await;
        let _stream = rogue.write(&bytes).await;
        let refusal = rogue.refusal().await;
        assert!(refusal.contains(reason), "{refusal:?} should say {reason:?}");
    }
}

#[tokio::test]
async fn broken_rules_close_the_link_with_a_reason() {
    let b = endpoint("b");
    let text = serde_json::to_vec(&hello("rogue")).unwrap();
    let too_long = (MAX_FRAME_BYTES as u32 + 1).to_le_bytes();
    for (first, second, reason) in [
        (&b"B"[..], &too_long[..], "a frame of 16777217 bytes"),
        (b"B\x01\0\0\0x", b"\xff\xff\xff\xff", "a frame of 4294967295 bytes"),
        (b"x", b"", "0x78, which is no lane"),
        (b"C", b"", "a second stream for lane Control"),
    ] {
        let rogue = Rogue::dial(&b).await;
        let _control = rogue.write(&frame(b'C', &text)).await;
        let (link, _) = accept(&b).await;
        let mut events = start(&link);
        let mut stream = rogue.write(first).await;
        let _ = stream.write_all(second).await;
        let refusal = rogue.refusal().await;
        assert!(refusal.contains(reason), "{refusal:?} should say {reason:?}");
        assert_eq!(events.closed().await, refusal);
    }
    let rogue = Rogue::dial(&b).await;
    let _control = rogue.write(&frame(b'C', &text)).await;
    let (link, _) = accept(&b).await;
    let mut events = start(&link);
    rogue.write(b"R\x05\0\0\0abc").await.finish().unwrap();
    assert_eq!(events.closed().await, "a lane ended within a frame");
}

#[test]
fn frames_are_the_same_however_the_stream_is_cut() {
    let bodies: Vec<Vec<u8>> = [0, 1, 3, 0, 0, 17, 4, 5, 200, 0]
        .iter()
        .enumerate()
        .map(|(number, length)| vec![number as u8; *length])
        .collect();
    let stream: Vec<u8> = bodies.iter().flat_map(|body| frame(0, body)[1..].to_vec()).collect();
    for size in 1..stream.len() + 1 {
        let mut frames = Frames::default();
        let mut got = Vec::new();
        for chunk in stream.chunks(size) {
            let pushed = frames.push(Bytes::copy_from_slice(chunk), |frame| got.push(frame));
            assert!(pushed.is_ok());
        }
        assert_eq!(got, bodies, "in chunks of {size}");
        assert!(!frames.is_within_frame());
    }
}

#[test]
fn an_overlong_header_is_refused_however_it_is_cut() {
    let header = (MAX_FRAME_BYTES as u32 + 1).to_le_bytes();
    for cut in 0..4 {
        let mut frames = Frames::default();
        let first = frames.push(Bytes::copy_from_slice(&header[..cut]), |_| panic!("no frame"));
        assert!(first.is_ok());
        let second = frames.push(Bytes::copy_from_slice(&header[cut..]), |_| panic!("no frame"));
        assert!(matches!(second, Err(Fault::Rules(_))));
    }
}
