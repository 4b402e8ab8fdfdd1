//! Real processes on loopback for the tests: a cluster of load balancer and
//! servers in a temporary folder, that is gone when the test ends, however it
//! ends.
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod background;
pub(crate) mod cluster;
pub(crate) mod load;
pub(crate) mod members;
pub(crate) mod memcached;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod pulse;
pub(crate) mod small_disk;
pub(crate) mod terms;
pub(crate) mod trio;

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Clusters run one at a time: several on two cores would disturb each other's
/// elections, and a failure would tell nothing.
pub(crate) fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks again and again until there is something.
pub(crate) fn eventually<T>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let began = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(why) => {
                assert!(began.elapsed() < within, "not within {within:?}: {what}: {why}");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// A bound that holds in a release build, and a generous one for debug builds
/// on busy machines, where only the figure is of interest.
pub(crate) fn bound(release: Duration, debug: Duration) -> Duration {
    if cfg!(debug_assertions) { debug } else { release }
}

/// Copies a folder with everything in it.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let path = item.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy_folder(&path, &to),
            false => drop(fs::copy(&path, &to).unwrap()),
        }
    }
}
