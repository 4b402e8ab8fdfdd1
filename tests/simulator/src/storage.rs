//! Work of the disks beside the log: checkpoints, and snapshots on their way.

use raft::{Fetch, SnapshotMeta, SnapshotTask};
use server::keystore::Keystore;

use crate::disk::{decode_keystore, encode_keystore};
use crate::host::{DiskMode, Host};
use crate::process::Input;
use crate::queue::Micros;
use crate::world::{Event, World};

impl World {
    pub(crate) fn sync_latency(&mut self, host: usize) -> Micros {
        let usual = 20 + self.disk_rng.around(self.plan.disk.sync);
        match self.hosts[host].disk_mode {
            DiskMode::Slow => usual + self.disk_rng.between(10_000, 500_000),
            _ => usual,
        }
    }

    pub(crate) fn consider_checkpoint(&mut self, host: usize) {
        let every = self.plan.checkpoint_every;
        let Host { process: Some(process), life, .. } = &mut self.hosts[host] else { return };
        let keystore = process.driver.keystore();
        let applied = keystore.applied();
        let due = every > 0 && applied >= process.checkpointed + every;
        if process.checkpointing || !(due || process.wants_checkpoint) || applied == 0 {
            return;
        }
        let Some(meta) = process.driver.node().snapshot_meta(applied) else { return };
        let Some(bytes) = encode_keystore(keystore, &meta) else {
            return self.give_up_data(host, "its memory has changed by itself");
        };
        process.checkpointing = true;
        process.wants_checkpoint = false;
        let at = self.now + self.disk_rng.between(1_000, 200_000);
        let checkpoint = Box::new((meta, bytes));
        self.queue.push(at, Event::Checkpointed { host, life: *life, checkpoint });
    }

    pub(crate) fn checkpointed(&mut self, host: usize, (meta, bytes): (SnapshotMeta, Vec<u8>)) {
        let index = meta.index;
        let disk = &mut self.hosts[host].disk;
        let known = disk.checkpoint().0.index;
        if index < known || (index == known && !disk.has_bad_checkpoint()) {
            // A snapshot that was installed meanwhile is newer.
            return self.give(host, Input::Checkpointed { index: 0, first_kept: 0 });
        }
        let kept = self.plan.checkpoint_every / 2;
        // Nor is anything kept that cannot be read.
        let first_kept = (index + 1).saturating_sub(kept).max(disk.behind_damage(index));
        disk.put_checkpoint(meta, bytes);
        disk.compact(first_kept);
        self.out.watch.trace.note(|| format!("h{host} has a checkpoint at {index}"));
        self.give(host, Input::Checkpointed { index, first_kept });
    }

    /// Entries for a slow peer. What cannot be read any more is in the state
    /// that is in memory: with a new checkpoint the peer gets a snapshot.
    pub(crate) fn fetched(&mut self, host: usize, fetch: Fetch) {
        let Host { disk, process: Some(process), .. } = &mut self.hosts[host] else { return };
        let entries = disk.read(fetch.from, fetch.to, fetch.max_bytes);
        if !disk.is_readable(fetch.from) {
            self.out.watch.trace.note(|| format!("h{host} cannot read entry {}", fetch.from));
            process.wants_checkpoint |= disk.checkpoint().0.index < fetch.from;
        }
        self.give(host, Input::Fetched { peer: fetch.peer, entries });
    }

    pub(crate) fn schedule_snapshot_work(&mut self, host: usize) {
        let at = self.now + self.disk_rng.between(50, 2_000);
        let life = self.hosts[host].life;
        self.queue.push(at, Event::SnapshotWork { host, life });
    }

    /// One piece after the other, as a thread beside the driver does them.
    pub(crate) fn snapshot_work(&mut self, host: usize) {
        let chunk_bytes = self.plan.chunk_bytes();
        let Host { disk, process: Some(process), .. } = &mut self.hosts[host] else { return };
        let last =
            matches!(process.snapshot_work.front(), Some(SnapshotTask::Write { done: true, .. }));
        if last && process.has_unwritten() {
            // What was handed to the disk before must be there before.
            return self.schedule_snapshot_work(host);
        }
        let Some(task) = process.snapshot_work.pop_front() else { return };
        let more = !process.snapshot_work.is_empty();
        match task {
            SnapshotTask::Read { peer, index, offset } => {
                let chunk = disk.read_chunk(index, offset, chunk_bytes);
                // The state is in memory: it is written again.
                process.wants_checkpoint |= disk.has_bad_checkpoint();
                self.give(host, Input::Chunk { peer, chunk });
            }
            SnapshotTask::Write { meta, offset, data, done } => {
                if (process.side_file.len() as u64) < offset {
                    // What was confirmed was lost with the process.
                    self.give(host, Input::Written { index: meta.index, next_offset: 0 });
                    if more {
                        self.schedule_snapshot_work(host);
                    }
                    return;
                }
                process.side_file.truncate(offset as usize);
                process.side_file.extend_from_slice(&data);
                let next_offset = process.side_file.len() as u64;
                if done {
                    // Read back before it takes its place, as the server does.
                    let state = decode_keystore(&process.side_file).map(|(state, _)| state);
                    disk.put_checkpoint(meta.clone(), std::mem::take(&mut process.side_file));
                    let at = self.now + self.disk_rng.between(500, 20_000);
                    let life = self.hosts[host].life;
                    let placed = Box::new((meta, next_offset, state));
                    self.queue.push(at, Event::SnapshotPlaced { host, life, placed });
                } else {
                    self.give(host, Input::Written { index: meta.index, next_offset });
                }
            }
        }
        if more {
            self.schedule_snapshot_work(host);
        }
    }

    pub(crate) fn snapshot_placed(
        &mut self,
        host: usize,
        (meta, next_offset, state): (SnapshotMeta, u64, Option<Keystore>),
    ) {
        let Host { disk, process: Some(process), .. } = &mut self.hosts[host] else { return };
        disk.restart_log();
        let Some(mut state) = state else {
            return self.fail("a snapshot arrives whole", format!("h{host} at {}", meta.index));
        };
        let id = process.id;
        self.prepare(&mut state);
        self.out.watch.installed(id, &meta);
        self.out.watch.trace.note(|| format!("h{host} installs the snapshot at {}", meta.index));
        self.give(host, Input::Installed { next_offset, meta, state: Box::new(state) });
    }
}
