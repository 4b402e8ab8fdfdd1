use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use super::*;
use crate::router::Options;
use crate::testing::{Act, Fake, refusing_address, reply};

fn plan(operation: Operation, requests: u64) -> Plan {
    Plan {
        operation,
        ratio: 0.5,
        connections: 4,
        pipeline: 1,
        value_size: 20,
        keys: 10,
        limit: Limit::Requests(requests),
        warmup: Duration::ZERO,
        rate: None,
        prefill: false,
        sequential: false,
        seed: 7,
        label: "test",
    }
}

fn at(address: SocketAddr) -> Targets {
    Targets::fixed(vec![address])
}

#[test]
fn all_requests_are_counted() {
    for pipeline in [1, 7] {
        let store = Fake::store();
        let plan = Plan { pipeline, ..plan(Operation::Set, 100) };
        let report = run(&plan, at(store.address)).unwrap();
        assert_eq!((report.sets, report.gets, report.ops), (100, 0, 100));
        assert!(report.errors.is_empty() && report.ops_per_s > 0.0);
        assert_eq!(store.log().len(), 100);
    }
}

#[test]
fn hits_and_misses() {
    let store = Fake::store();
    let report = run(&plan(Operation::Get, 50), at(store.address)).unwrap();
    assert_eq!(report.hit_rate, Some(0.0));
    let filled = Plan { prefill: true, ..plan(Operation::Get, 50) };
    let report = run(&filled, at(store.address)).unwrap();
    assert_eq!((report.gets, report.hit_rate), (50, Some(1.0)));
    let report = run(&plan(Operation::Mix, 200), at(store.address)).unwrap();
    assert_eq!(report.sets + report.gets, 200);
    assert!(report.sets > 50 && report.gets > 50);
}

#[test]
fn values_larger_than_the_input_buffer() {
    let store = Fake::store();
    let plan = Plan {
        value_size: 600_000,
        keys: 2,
        pipeline: 2,
        prefill: true,
        ..plan(Operation::Mix, 12)
    };
    let report = run(&plan, at(store.address)).unwrap();
    assert_eq!((report.ops, report.hit_rate), (12, Some(1.0)));
}

#[test]
fn an_open_loop_keeps_its_schedule() {
    let store = Fake::store();
    let plan = Plan { rate: Some(1000.0), ..plan(Operation::Set, 100) };
    let report = run(&plan, at(store.address)).unwrap();
    assert_eq!(report.ops, 100);
    // The last of 100 requests is due after 99 ms.
    assert!(report.seconds >= 0.099, "{}", report.seconds);
}

#[test]
fn a_stall_shows_in_the_latency_of_an_open_loop() {
    let mut first = true;
    let store = Fake::start(move |_, _| {
        if std::mem::take(&mut first) {
            std::thread::sleep(Duration::from_millis(100));
        }
        reply("STORED\r\n")
    });
    let plan = Plan { rate: Some(1000.0), connections: 1, ..plan(Operation::Set, 100) };
    let latency = run(&plan, at(store.address)).unwrap().latency_us.unwrap();
    // About half of the requests were due during the stall; a closed loop would have seen one.
    assert!(latency.p50 > 5_000, "{latency:?}");
}

#[test]
fn refusals_and_lost_connections_are_errors_and_the_load_goes_on() {
    let mut count = 0;
    let server = Fake::start(move |_, _| {
        count += 1;
        match count {
            10 => Act::Close,
            20 => reply("garbage\r\n"),
            30..40 => reply("SERVER_ERROR busy, not executed\r\n"),
            _ => reply("STORED\r\n"),
        }
    });
    let report = run(&plan(Operation::Set, 100), at(server.address)).unwrap();
    assert_eq!(report.ops, 88);
    assert_eq!(report.errors["SERVER_ERROR busy, not executed"], 10);
    assert_eq!(report.errors["an answer that does not fit the request"], 1);
    assert_eq!(report.errors.values().sum::<u64>(), 12);
}

#[test]
fn the_load_follows_the_leader() {
    let (old, new) = (Fake::store(), Fake::store());
    let named = Arc::new(Mutex::new(vec![old.address, new.address]));
    let lb = Fake::lb(&named);
    let options = Options::default();
    let targets = Targets::discovered(vec![lb.address], &options, false).unwrap();
    assert_eq!(targets.first(), old.address.to_string());
    let plan = Plan {
        limit: Limit::Duration(Duration::from_secs(1)),
        connections: 2,
        ..plan(Operation::Set, 0)
    };
    let load = std::thread::spawn(move || run(&plan, targets).unwrap());
    while old.log().len() < 10 {
        std::thread::yield_now();
    }
    *named.lock().unwrap() = vec![new.address];
    old.stop();
    let report = load.join().unwrap();
    assert!(new.log().len() > 10);
    assert!(report.errors.values().sum::<u64>() <= 2, "{:?}", report.errors);
}

#[test]
fn failures_before_the_start() {
    let plan = plan(Operation::Set, 1);
    assert!(matches!(run(&plan, at(refusing_address())), Err(Error::Unreachable { .. })));
    let full = Fake::start(|_, _| reply("SERVER_ERROR out of memory storing object\r\n"));
    let filled = Plan { prefill: true, ..plan };
    let Err(Error::ServerError(text)) = run(&filled, at(full.address)) else { panic!() };
    assert!(text.contains("out of memory") && text.contains("--no-prefill"), "{text}");
}
