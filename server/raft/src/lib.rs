//! The Raft consensus algorithm as a pure state machine.
//!
//! A [`Node`] is one replica. It is given inputs (messages, time, proposals,
//! what the disk has done) and returns outputs (messages, entries to write,
//! entries to apply). It has no clock, socket, file, thread or randomness of
//! its own: the crate is `no_std` and has no dependencies, so that nothing of
//! the kind can get in. The same inputs lead to the same outputs, always.
//!
//! "The paper" is Ongaro and Ousterhout, *In Search of an Understandable
//! Consensus Algorithm* (extended version, 2014); "the dissertation" is
//! Ongaro, *Consensus: Bridging Theory and Practice* (2014).
//!
//! # The algorithm
//!
//! Replicas keep the same log of entries. Time is cut into *terms*; in each a
//! majority elects at most one *leader*, which alone appends entries and
//! copies them to the others. An entry that is durable on a majority is
//! *committed*: no later leader can lack it, since it is elected by a majority
//! that only votes for logs at least as long as its own. Committed entries
//! are applied to a state machine in order, everywhere the same.
//!
//! - **Elections.** A follower that hears no leader for a time drawn anew each
//!   time from `election_timeout_min_us ..= election_timeout_max_us` first asks
//!   whether it could win (*pre-vote*, dissertation 9.6) and then campaigns.
//!   Who was cut off does not disturb the others when it returns.
//! - **Stickiness.** Who has heard a leader within the minimum timeout refuses
//!   votes and pre-votes, and does not even take the candidate's term
//!   (dissertation 4.2.3), unless the vote says that the leader itself asked
//!   for it (transfer). A removed server cannot disturb anybody.
//! - **CheckQuorum.** A leader that has not heard a majority for the maximum
//!   timeout steps down.
//! - **Replication.** A peer is *probed* until it is known where the logs
//!   agree (with a hint by conflicting term, so that it takes a round trip for
//!   a term, not for an entry), then appends are pipelined within a window of
//!   bytes. Small ones wait for the answer of the one before and travel
//!   together (`append_full_bytes`, `append_gap_us`). Heartbeats are messages
//!   of their own and never wait behind entries. Their answers show what got
//!   lost, so that a loss holds replication up for two heartbeats at the most.
//! - **Commit.** Only entries of the leader's own term are committed by
//!   counting, earlier ones along with them (paper, 5.4.2). So a new leader
//!   begins with an entry of its own.
//! - **Durability** is asynchronous. The leader's appends leave at once, while
//!   its own disk still works; its own share in a majority is what its disk
//!   has. See below.
//! - **Reads** need no entry: the leader notes its commit index, has a majority
//!   echo a round number (dissertation 6.4), and then the read may be served
//!   from the state at that index, by whichever replica asked. One round is
//!   under way at most; all reads that come meanwhile share the next. With
//!   `lease_reads` a majority's echo is also a *lease*: stickiness keeps every
//!   one of them from electing another leader for the minimum timeout, less
//!   `lease_drift_permille`, so that reads need no round at all. That counts on
//!   clocks whose rates differ by less than that, and so does nothing else.
//! - **Membership** changes by one server at a time (dissertation 4.1), none
//!   before the one before is committed, and none before the leader has
//!   committed an entry of its term. A new server is a *learner*: it is
//!   supplied, but neither votes nor counts, until it keeps up. A leader may
//!   remove itself: it leads until that is committed, then has the best of the
//!   others take over. Whoever is removed is still supplied for a moment, so
//!   that it knows; a driver does well to keep its connection for as long as
//!   [`Status::peers`] has it. One that is *dismissed* is kept in mind by the
//!   membership, for the driver to tell it apart from one that was only lost; to
//!   the core both are the same. The very first entry of a log carries the first
//!   membership, so that it is in every log.
//! - **Snapshots** go to those who need entries that are gone: chunk by chunk,
//!   each confirmed, resumable as long as both sides live.
//! - **Transfer.** The leader stops taking proposals, brings the target up to
//!   date, and tells it to campaign at once.
//!
//! Who votes for whom, in detail: a replica answers any candidate, also one
//! that is not in its membership, since its membership may be the older one
//! (dissertation 4.1). For the same reason a *learner answers* when it is
//! asked: it is only asked by candidates in whose membership it votes. What
//! keeps learners out is that candidates neither ask them nor count them. A
//! server campaigns if it votes in its latest membership or in one that may
//! still turn out to be the committed one (dissertation 4.2.2).
//!
//! # Damage
//!
//! A replica whose disk lost entries that had been durable has acknowledged
//! them, and voted, on the strength of what it had. It may come back if term
//! and vote are certain, and a position is known at or behind the one where
//! its log ended: its *floor* ([`Restored::floor`]). While its log ends below
//! that,
//!
//! - it votes, and pre-votes, only for candidates whose logs reach the floor;
//! - it does not campaign, whoever asks for it;
//! - it follows, and acknowledges what it has now.
//!
//! Why nothing committed is lost: an entry is committed because a majority had
//! it, and stays so because every later leader needs a vote of that majority,
//! from somebody who has the entry and votes only for logs at least as long as
//! its own. Who lost the entry still votes as if its log ended where it did,
//! so the argument holds as before; and it cannot win with less than that
//! itself. Once its log has reached the floor it has everything again that
//! counts: if its last entry is of the floor's term, that term's leader made
//! both, and what stands before is the same (log matching); if it is of a later
//! term, that leader was elected by these rules, so that its log had all that
//! was committed, and that lies before its first entry. Until then the floor
//! is on the disk, and in force again after each restart. One that is higher
//! than need be only keeps the replica quiet for longer: in a cluster that has
//! no majority without it, perhaps for ever.
//!
//! A leader believes what was acknowledged. When a peer's answers to two
//! heartbeats say that its log ends before that, it has lost the rest, and is
//! sent it again. What was committed with its help stays committed. Old
//! answers that come late look the same, and do no harm.
//!
//! Who does not know its vote for certain, or nothing of where its log ended,
//! is not the same replica any more: it can only join as a new one.
//!
//! # What the driver does
//!
//! ```text
//! loop {
//!     wait for input, at most until node.next_deadline()
//!     for each input that is there (bounded):        // inputs first,
//!         node.step / propose / read / synced / ...
//!     if now >= node.next_deadline() { node.tick(now) }   // timers after
//!     node.take_output(now, &mut out)
//!     1. out.send         hand to the transport; do not wait
//!     2. out.persist      hand to the disk as one write and one sync;
//!                         once it is durable: node.synced(now, mark)
//!     3. out.committed    apply, in order; answer the proposers
//!     4. out.reads        serve each once its index is applied
//!        out.reads_failed retry or refuse
//!     5. out.fetch, out.snapshots   start; answer at any later time
//!     6. out.events       log, count
//! }
//! ```
//!
//! 1. **Inputs before timers.** After a stall (the process was stopped, the
//!    disk blocked it) the messages that came meanwhile are handled first, so
//!    that a leader's heartbeat in the queue counts before the timer does.
//! 2. **Time** is monotonic microseconds and fresh at each turn: leases are
//!    compared with it. Time that goes back is taken for standing still.
//! 3. **Writing.** Batches are written in the order in which they came out, the
//!    hard state of a batch before its entries; an entry at an index that was
//!    written before replaces it and all behind it. `synced` is called with a
//!    batch's own mark, in order; when several became durable together the
//!    last mark is enough. A driver that has one batch under way at a time
//!    leaves `out.persist` occupied: the core then keeps what comes meanwhile
//!    and gives it as one batch later; until then it is no output that could
//!    be taken ([`Node::has_output_beside_batch`]). A failed sync ends the
//!    process.
//! 4. **Nothing is to be held back by the driver.** Votes, requests for votes
//!    and acknowledgements come out in `send` only once what they promise is
//!    durable.
//! 5. **Applying.** Each committed entry comes out once, in order. Entries
//!    other than commands are to be counted, and otherwise ignored. An entry
//!    comes out on the leader when a majority has made it durable, *perhaps
//!    before the leader's own disk has*; on others only once it is durable
//!    there. That is right: what a majority has is committed whether or not
//!    the leader is among it, and a leader that crashes before its own disk has
//!    the entry votes and restarts as any server that lags. It has one
//!    consequence: a checkpoint of the leader may be ahead of its log. When a
//!    log ends before the checkpoint's index at restart, the driver begins a
//!    new log behind the checkpoint and gives an empty one to [`Node::new`].
//! 6. **Checkpoints.** [`Node::snapshot_meta`] says what goes into one;
//!    once it is durable [`Node::checkpointed`] is called, and, after log files
//!    were dropped, [`Node::compact`]. The driver keeps the newest checkpoint,
//!    reads chunks from it ([`SnapshotTask::Read`]), and may answer with the
//!    first chunk of a newer one.
//! 7. **Installing.** [`SnapshotTask::Write`] tasks are done in order, and
//!    after the batches that came out before them. Offset 0 begins the side
//!    file anew. With `done` the driver verifies, makes durable, replaces the
//!    state machine, begins a new log file behind the snapshot *with the
//!    latest hard state that it was given*, and only then calls
//!    [`Node::snapshot_written`]. Meanwhile only hard states are written.
//! 8. **Restart.** [`Restored`] holds what is on disk, and what is known to be
//!    missing there (see "Damage"). Before anything is
//!    written, [`Restored::discard_unconnected`] tells whether the log file has
//!    to be begun anew. `Config::seed` is different at each start.
//! 9. **Ids.** The id of a new server may be told to it once its membership
//!    entry is committed: an uncommitted one can be lost, and its id given to
//!    somebody else. A server that lost its disk is a new server.
//! 10. **Hints.** [`Node::leader_gone`] tells a replica that the process of its
//!     leader has ended, as a broken connection can show at once. It follows
//!     nobody then, does not stick to that leader, and asks for pre-votes when
//!     it is its turn: the first voter by id at once, the others a little
//!     later, while those who have not noticed yet are asked again soon. What
//!     comes of votes that are divided all the same is known as soon as all
//!     but the leader have answered, and the next election begins soon. A
//!     false alarm is forgotten with the leader's next message; if a majority
//!     has fallen for it, it costs an election. What the driver knows to be of
//!     before the end, such as frames in a queue, it should not hand in after
//!     it: the leader would seem to live. [`Node::campaign`] is for the first
//!     leader of a new cluster, and for those who see from outside who is
//!     furthest along when a leader has ended. It overrides
//!     stickiness; a wrong hint costs an election, no more. Both are ignored
//!     with `lease_reads`, the second one only while a leader was heard lately.
//!     Neither can do harm to what is committed: they only decide *when* somebody
//!     asks for votes, and timers may run out at any time.
//!
//! What followers know of the commit index comes with appends, heartbeats and
//! answers to reads; after the last proposal of a busy time they apply it a
//! heartbeat later.
//!
//! # What can go wrong outside
//!
//! Crashes, restarts, lost, doubled, delayed and reordered messages, cut
//! links and slow disks are expected. Messages are checked ([`Node::step`])
//! so that nonsense does not break a replica. But peers are trusted to follow
//! the protocol, and disks to keep what they synced, or to be found out: a
//! replica that forgets what it acknowledged, and does not know it, can lose
//! committed entries.
//!
//! # What is not here
//!
//! Joint consensus (changes of several servers at once), witnesses, priorities
//! among candidates, reads of a stale state (the driver can do that by
//! itself), deduplication of retried commands (the state machine's sessions),
//! and everything that has to do with bytes: encodings, connections, files.
//!
//! # How it is tested
//!
//! [`invariants`] is the list of what must always hold, as code; the fault
//! test and the simulator check it after every step.
#![no_std]

extern crate alloc;

mod candidate;
mod config;
mod error;
mod follower;
mod gone;
pub mod invariants;
mod leader;
mod log;
mod membership;
mod message;
mod node;
mod outbox;
mod output;
mod planted;
mod progress;
mod quorum;
mod reads;
mod replicate;
mod rng;
mod snapshot;
mod status;
mod step;
mod transfer;
mod turn;
mod types;

pub use config::{Config, Restored};
pub use error::{ChangeError, ProposeError, TransferError};
pub use message::{Envelope, Message};
pub use node::Node;
pub use output::{
    COMMITTED_DIFFERS, DurableMark, Event, Fetch, Output, Persist, ReadReady, RoleKind,
    SnapshotTask,
};
#[cfg(feature = "planted-bugs")]
pub use planted::PlantedBug;
pub use status::{PeerState, PeerStatus, Status};
pub use types::{
    Body, Change, Entry, HardState, Index, MAX_DISMISSED, Member, Membership, NodeId, Payload,
    Position, SnapshotMeta, Suffrage, Term, Time,
};
