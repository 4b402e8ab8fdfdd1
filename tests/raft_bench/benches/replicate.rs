//! How many entries a second one core of this machine replicates through
//! three nodes in memory:
//!
//! ```text
//! cargo bench --manifest-path tests/raft_bench/Cargo.toml
//! ```
//!
//! The arguments are proposals in a batch.

use divan::Bencher;
use divan::counter::ItemsCount;
use store_raft_bench::{Cluster, Ours, RaftRs};

const BATCHES: [u64; 3] = [64, 256, 1024];

/// Entries of one sample; a multiple of every batch.
const ENTRIES: u64 = 256 * 1024;

fn main() {
    divan::main();
}

fn measure<C: Cluster>(bencher: Bencher<'_, '_>, batch: u64) {
    let mut cluster = C::new();
    cluster.replicate(ENTRIES, batch);
    bencher.counter(ItemsCount::new(ENTRIES)).bench_local(|| cluster.replicate(ENTRIES, batch));
}

#[divan::bench(args = BATCHES, sample_count = 20, sample_size = 1)]
fn ours(bencher: Bencher<'_, '_>, batch: u64) {
    measure::<Ours>(bencher, batch);
}

#[divan::bench(args = BATCHES, sample_count = 20, sample_size = 1)]
fn raft_rs(bencher: Bencher<'_, '_>, batch: u64) {
    measure::<RaftRs>(bencher, batch);
}
