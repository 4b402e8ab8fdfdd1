//! A disk that is really full: writes are refused with a clear error, reads go
//! on, and when there is room again so do writes, with nothing lost.

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use support::cluster::PATIENCE;
use support::eventually;
use support::memcached::Connection;
use support::trio::{SERVERS, Trio};

/// All three servers share it; segments of the log double up to 16 MiB, and the
/// next one is made ahead: 47 MiB for each once 16 MiB are written.
const DISK_MIB: u32 = 256;

const VALUE_BYTES: usize = 100_000;

fn value(key: &str) -> String {
    format!("{key} {}", "a".repeat(VALUE_BYTES))
}

fn set(address: SocketAddr, key: &str) -> Result<String, String> {
    let mut server = Connection::open(address).map_err(|error| error.to_string())?;
    server.set(key, &value(key)).map_err(|error| error.to_string())
}

fn assert_all_there(addresses: [SocketAddr; SERVERS], keys: &[String]) {
    for address in addresses {
        let mut server = Connection::open(address).unwrap();
        for key in keys {
            let found = server.get(key).unwrap();
            assert!(found.as_deref() == Some(&value(key)), "{address} lost {key}");
        }
    }
}

/// Sets until one is refused; what was acknowledged, and the refusal. Sets that
/// were under way when the disk got full have no known outcome.
fn set_until_refused(address: SocketAddr, name: &str) -> (Vec<String>, String) {
    let mut acknowledged = Vec::new();
    for number in 0..10_000 {
        let key = format!("{name}-{number}");
        match set(address, &key) {
            Ok(answer) if answer == "STORED" => acknowledged.push(key),
            Ok(answer) if answer == "SERVER_ERROR timeout, outcome unknown" => {}
            Ok(answer) => return (acknowledged, answer),
            Err(error) => panic!("the connection ends instead of a refusal: {error}"),
        }
    }
    panic!("the disk never gets full");
}

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_heals() {
    let Some(mut trio) = Trio::start_on_small_disk(DISK_MIB) else { return };
    let addresses = trio.addresses();
    let mut acknowledged = Vec::new();
    for round in 0..2 {
        for number in 0..5 {
            let key = format!("before-{round}-{number}");
            assert_eq!(set(addresses[number % SERVERS], &key).unwrap(), "STORED");
            acknowledged.push(key);
        }
        trio.disk().fill();
        let (more, refusal) = set_until_refused(addresses[0], &format!("until-{round}"));
        println!("{} sets on a full disk, then: {refusal}", more.len());
        acknowledged.extend(more);
        assert!(
            refusal.starts_with("SERVER_ERROR") && refusal.contains("disk"),
            "not what a full disk should say: {refusal}"
        );
        // Not for a moment only, and on every server; what is there is read.
        for address in addresses {
            let answer = set(address, "refused").unwrap();
            assert!(answer.starts_with("SERVER_ERROR") && answer.contains("disk"), "{answer}");
        }
        assert_all_there(addresses, &acknowledged);

        trio.disk().free();
        let freed = Instant::now();
        for address in addresses {
            eventually("writes go on by themselves", PATIENCE, || {
                match set(address, "healed").as_deref() {
                    Ok("STORED") => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            });
        }
        println!("healed after {:?}", freed.elapsed());
        assert!(freed.elapsed() < support::bound(Duration::from_secs(5), PATIENCE));
    }
    trio.wait_until_level();
    assert_all_there(addresses, &acknowledged);

    // Nor does a crash with a full disk lose anything: it starts on one.
    trio.disk().fill();
    trio.kill9(&[0, 1, 2]);
    for number in 0..SERVERS {
        trio.start_server(number);
    }
    eventually("reads are served from a full disk", PATIENCE, || {
        let mut server = Connection::open(addresses[0]).map_err(|error| error.to_string())?;
        server.get(&acknowledged[0]).map_err(|error| error.to_string())
    });
    assert_all_there(addresses, &acknowledged);
    trio.disk().free();
    trio.wait_for_service();
    trio.stop();
}
