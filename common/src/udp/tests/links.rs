use std::time::{Duration, Instant};

use super::{Event, PATIENCE, accept, address, endpoint, hello, pair, start};
use crate::limits::{MAX_FRAME_BYTES, MAX_LANE_QUEUE_BYTES};
use crate::udp::{ConnectError, Endpoint, Lane, SendError};

#[tokio::test]
async fn both_sides_learn_who_the_other_is() {
    let (a, b) = (endpoint("a"), endpoint("b"));
    b.set_hello(hello("b, renamed"));
    let (dialled, accepted) = tokio::join!(a.connect(address(&b)), accept(&b));
    let (link, theirs) = dialled.unwrap();
    assert_eq!(theirs, hello("b, renamed"));
    assert_eq!(link.remote(), address(&b));
    assert_eq!(accepted.1, hello("a"));
    assert_eq!(accepted.0.remote(), address(&a));
    assert!(!link.is_closed());
}

#[tokio::test]
async fn frames_keep_their_order_within_a_lane() {
    const COUNT: u32 = 500;
    let (a, b) = (endpoint("a"), endpoint("b"));
    let (from, to) = pair(&a, &b).await;
    let mut events = start(&to);
    for number in 0..COUNT {
        for lane in Lane::ALL {
            // Lengths around a packet's, so that frames share and span them.
            let bytes = 4 + (number as usize * 37) % 3000;
            from.send_with(lane, |out| {
                out.resize(out.len() + bytes, number as u8);
                let start = out.len() - bytes;
                out[start..start + 4].copy_from_slice(&number.to_le_bytes());
            })
            .unwrap();
        }
        if number % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let mut next = [0; 5];
    for _ in 0..COUNT * 5 {
        let (lane, frame) = events.frame().await;
        let number = &mut next[lane as usize];
        assert_eq!(frame[..4], u32::to_le_bytes(*number));
        assert_eq!(frame.len(), 4 + (*number as usize * 37) % 3000);
        assert!(frame[4..].iter().all(|byte| *byte == *number as u8));
        *number += 1;
    }
    assert_eq!(next, [COUNT; 5]);
}

#[tokio::test]
async fn frames_sent_before_the_start_wait_for_it() {
    let (a, b) = (endpoint("a"), endpoint("b"));
    let (dialled, accepted) = pair(&a, &b).await;
    accepted.send(Lane::Request, b"early").unwrap();
    accepted.send(Lane::Control, b"").unwrap();
    dialled.send(Lane::Urgent, b"hello there").unwrap();
    // A round trip, so that the early frames have long arrived.
    let mut events = start(&accepted);
    assert_eq!(events.frame().await, (Lane::Urgent, "hello there".into()));
    let mut events = start(&dialled);
    let mut got = [events.frame().await, events.frame().await];
    got.sort_by_key(|(lane, _)| *lane as usize);
    assert_eq!(got, [(Lane::Control, "".into()), (Lane::Request, "early".into())]);
    // Only the first start counts.
    start(&dialled);
    accepted.send(Lane::Request, b"later").unwrap();
    assert_eq!(events.frame().await, (Lane::Request, "later".into()));
}

#[tokio::test]
async fn the_longest_frame_passes_and_a_longer_one_is_refused() {
    let (a, b) = (endpoint("a"), endpoint("b"));
    let (from, to) = pair(&a, &b).await;
    let mut events = start(&to);
    let frame = vec![5; MAX_FRAME_BYTES];
    from.send(Lane::Bulk, &frame).unwrap();
    assert_eq!(events.frame().await, (Lane::Bulk, frame.into()));
    let too_long = from.send(Lane::Bulk, &vec![6; MAX_FRAME_BYTES + 1]);
    assert_eq!(too_long, Err(SendError::TooLong { bytes: MAX_FRAME_BYTES + 1 }));
    from.send(Lane::Bulk, b"next").unwrap();
    assert_eq!(events.frame().await, (Lane::Bulk, "next".into()));
}

#[tokio::test]
async fn a_slow_peer_fills_the_queue_of_its_lane_only() {
    let (a, b) = (endpoint("a"), endpoint("b"));
    let (from, to) = pair(&a, &b).await;
    // Nobody reads: the peer's window fills, then our queue.
    let frame = vec![1; 1024 * 1024];
    let mut queued = 0_u32;
    let full = loop {
        match from.send(Lane::Bulk, &frame) {
            Ok(()) => queued += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full, SendError::Full);
    let bytes = queued as usize * frame.len();
    assert!(bytes <= MAX_LANE_QUEUE_BYTES + 8 * frame.len(), "{bytes} bytes are bounded");
    from.send(Lane::Urgent, b"still here").unwrap();
    let mut events = start(&to);
    let mut urgent = false;
    for _ in 0..=queued {
        match events.frame().await {
            (Lane::Urgent, _) => urgent = true,
            (_, got) => assert_eq!(got, frame),
        }
    }
    assert!(urgent);
    from.send(Lane::Bulk, &frame).expect("room again");
}

#[tokio::test]
async fn heartbeats_overtake_a_bulk_backlog() {
    let (a, b) = (endpoint("a"), endpoint("b"));
    let (from, to) = pair(&a, &b).await;
    let mut events = start(&to);
    let part = vec![0; 64 * 1024];
    let parts = MAX_FRAME_BYTES / part.len();
    for _ in 0..parts {
        from.send(Lane::Bulk, &part).unwrap();
    }
    // Let the backlog get going before the heartbeat is sent.
    assert_eq!(events.frame().await.0, Lane::Bulk);
    from.send(Lane::Urgent, b"heartbeat").unwrap();
    let mut before = 1;
    while events.frame().await.0 == Lane::Bulk {
        before += 1;
    }
    assert!(before < parts / 2, "{before} of {parts} parts came before the heartbeat");
}

#[tokio::test]
async fn a_reason_reaches_both_sides_once() {
    let (a, b) = (endpoint("a"), endpoint("b"));
    let (dialled, accepted) = pair(&a, &b).await;
    let (mut here, mut there) = (start(&dialled), start(&accepted));
    dialled.send(Lane::Request, b"last words").unwrap();
    assert_eq!(there.frame().await.1, "last words");
    dialled.close("removed from the cluster");
    dialled.close("a second thought");
    assert!(dialled.is_closed());
    assert_eq!(dialled.send(Lane::Urgent, b"x"), Err(SendError::Closed));
    assert_eq!(here.closed().await, "removed from the cluster");
    assert_eq!(there.closed().await, "removed from the cluster");
    assert_eq!(accepted.closed().await, "removed from the cluster");
    assert_eq!(accepted.send(Lane::Bulk, b"x"), Err(SendError::Closed));
}

#[tokio::test]
async fn a_close_amid_bulk_ends_both_sides_soon() {
    let (a, b) = (endpoint("a"), endpoint("b"));
    let (from, to) = pair(&a, &b).await;
    let (mut here, mut there) = (start(&from), start(&to));
    from.send(Lane::Bulk, &vec![0; 1024]).unwrap();
    from.send(Lane::Bulk, &vec![0; MAX_FRAME_BYTES]).unwrap();
    assert_eq!(there.frame().await.1.len(), 1024);
    let begin = Instant::now();
    from.close("enough");
    assert_eq!(here.closed().await, "enough");
    // QUIC may have no room for the reason; then a reset ends the link.
    let reason = there.closed().await;
    assert!(reason == "enough" || reason.contains("no longer knows"), "{reason}");
    assert!(begin.elapsed() < Duration::from_millis(1300), "after {:?}", begin.elapsed());
}

#[tokio::test]
async fn a_link_can_be_closed_after_all_is_sent() {
    let (a, b) = (endpoint("a"), endpoint("b"));
    let (from, to) = pair(&a, &b).await;
    let mut events = start(&to);
    let frame = vec![9; 6 * 1024 * 1024];
    from.send(Lane::Request, &frame).unwrap();
    from.send(Lane::Control, b"goodbye").unwrap();
    from.close_after_sending("done").await;
    let mut got = vec![events.frame().await, events.frame().await];
    got.sort_by_key(|(lane, _)| *lane as usize);
    assert_eq!(got, [(Lane::Control, "goodbye".into()), (Lane::Request, frame.into())]);
    assert_eq!(events.next().await, Event::Closed("done".into()));
}

#[tokio::test]
async fn dropping_closes_what_was_never_started() {
    let (a, b) = (endpoint("a"), endpoint("b"));
    let (dialled, accepted) = pair(&a, &b).await;
    let events = start(&accepted);
    drop(dialled);
    tokio::time::timeout(PATIENCE, accepted.closed()).await.expect("closed by the drop");
    drop(events);

    // A started link lives on without a handle.
    let (dialled, accepted) = pair(&a, &b).await;
    let (mut here, _there) = (start(&dialled), start(&accepted));
    drop(dialled);
    accepted.send(Lane::Control, b"still there?").unwrap();
    assert_eq!(here.frame().await, (Lane::Control, "still there?".into()));

    // The endpoint ends them all.
    drop(a);
    assert_eq!(here.closed().await, "this process ends");
    assert_eq!(accepted.closed().await, "the peer's process ends");
}

#[tokio::test]
async fn a_closed_endpoint_says_so() {
    let (a, b) = (endpoint("a"), endpoint("b"));
    let (dialled, accepted) = pair(&a, &b).await;
    a.close().await;
    assert!(a.accept().await.is_none());
    assert_eq!(a.connect(address(&b)).await.unwrap_err(), ConnectError::Closed);
    assert!(dialled.is_closed());
    assert_eq!(accepted.closed().await, "the peer's process ends");
}

#[tokio::test]
async fn another_version_is_refused_with_both_named() {
    let a = endpoint("a");
    let newer = crate::control::Hello { version: 4711, ..hello("b") };
    let b = Endpoint::new(super::socket(), &super::key(), newer).unwrap();
    let warnings = super::Warnings::default();
    let _guard = warnings.collect();
    let error = a.connect(address(&b)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("version 4711") && text.contains("other 1:"), "{text}");
    let said = warnings.take();
    assert!(said.iter().any(|line| line.contains("version")), "{said:?}");
    let (other, _keep) = (endpoint("c"), a);
    // The refused one did not take anybody's place.
    other.connect(address(&b)).await.unwrap_err();
    let nobody = tokio::time::timeout(Duration::from_millis(50), b.accept()).await;
    assert!(nobody.is_err(), "nobody was accepted");
}

#[tokio::test]
async fn an_address_that_cannot_be_dialled_is_named() {
    let a = endpoint("a");
    let begin = Instant::now();
    let error = a.connect(([127, 0, 0, 1], 0).into()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unusable { .. }), "{error:?}");
    assert!(begin.elapsed() < Duration::from_millis(500), "said at once");
}
