//! Every bound of the product, with its reason.

use std::time::Duration;

/// Longest key, in bytes (memcached `doc/protocol.txt`, "Keys").
pub const MAX_KEY_BYTES: usize = 250;

/// Longest command line that is waited for, in bytes without its data block.
/// memcached closes a connection that sends 2 KiB without a line end, unless
/// it is a multi-key get: those may be as long as [`MAX_GET_LINE_BYTES`].
pub const MAX_LINE_BYTES: usize = 2048;

/// Longest `get`/`gets` line in bytes: room for about 256 of the longest keys.
pub const MAX_GET_LINE_BYTES: usize = 64 * 1024;

/// Largest value by default, as memcached's `-I`.
pub const DEFAULT_MAX_VALUE_BYTES: usize = 1024 * 1024;

/// Growth of the log-file after which a checkpoint is written, by default: a
/// start replays so much in a fraction of a second.
pub const DEFAULT_CHECKPOINT_AFTER: u64 = 64 * 1024 * 1024;

/// Requests of one connection that are handed over as one batch. More would
/// let one deep pipeline delay everybody else's turn.
pub const MAX_BATCH_REQUESTS: usize = 256;

/// Bytes of requests that one batch holds before it is handed over.
pub const MAX_BATCH_BYTES: usize = 256 * 1024;

/// Replies that one batch may gather. A get that would go beyond is refused as
/// a whole, so that a deep pipeline of large values, or a line with
/// thousands of keys, cannot grow memory without bound.
pub const MAX_REPLY_BYTES: usize = 64 * 1024 * 1024;

/// Client connections on one listener by default (memcached's `-c` is 1024).
pub const DEFAULT_MAX_CONNECTIONS: usize = 4096;

/// How long a request waits for a leader before it is refused.
pub const NO_LEADER_WAIT: Duration = Duration::from_millis(1500);

/// How long a request that was proposed waits for its outcome. The sum with
/// a wait for a leader stays within the same bound: a request has one deadline.
pub const REQUEST_DEADLINE: Duration = Duration::from_millis(1500);

/// What is left of that at least, where somebody leads, to a batch that waited
/// behind others of its connection: it is most likely executed in a moment, and
/// must not end as an unknown outcome for the time that those before it took.
pub const LATE_CHANCE: Duration = Duration::from_millis(500);

/// Requests and bytes that wait for a leader on one server.
pub const MAX_PARKED_BATCHES: usize = 8192;
/// See [`MAX_PARKED_BATCHES`].
pub const MAX_PARKED_BYTES: usize = 64 * 1024 * 1024;

/// Bytes of requests that are on their way through one load balancer: room
/// for each of the default number of connections to have a full batch of
/// small requests under way.
pub const MAX_ROUTED_BYTES: usize = 256 * 1024 * 1024;

/// Writes of one session that are not answered yet. The replicated state
/// keeps as many replies for it.
pub const MAX_UNANSWERED_WRITES: u64 = 65_536;

/// A session for forwarded writes that was not used for so long, by the
/// replicated clock, is over.
pub const SESSION_TTL: Duration = Duration::from_secs(5 * 60);

/// A forwarder leaves a session that it has not used for so long, and opens
/// another one: a write must not outlive the session under which it is sent.
pub const SESSION_RENEWED_AFTER: Duration = Duration::from_secs(4 * 60);

/// Largest frame on a UDP link: a whole batch of requests with its values, or
/// a batch of log entries, and some room.
pub const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;

/// As [`MAX_REPLY_BYTES`], for a batch that another server forwarded: its
/// replies travel back in one frame. The rest of the frame is room for the
/// short replies, of which each request has at most one.
pub const MAX_FORWARDED_REPLY_BYTES: usize = MAX_FRAME_BYTES - MAX_BATCH_REQUESTS * 4096 - 64;

/// Bytes queued on one lane of a link before frames are refused.
pub const MAX_LANE_QUEUE_BYTES: usize = 32 * 1024 * 1024;

/// Addresses in a discovery answer (the seed's protocol: "not all the
/// servers, or the load balancer is pointless").
pub const MAX_DISCOVERY_LINES: usize = 5;

/// How often a server reports to its load balancers.
pub const REPORT_INTERVAL: Duration = Duration::from_millis(250);

/// A server that was silent for so long is out of the rotation.
pub const SILENT_AFTER: Duration = Duration::from_millis(1000);

const _: () = assert!(
    SESSION_RENEWED_AFTER.as_secs() + 4 * REQUEST_DEADLINE.as_secs() < SESSION_TTL.as_secs()
);
const _: () = assert!(MAX_UNANSWERED_WRITES > 16 * MAX_BATCH_REQUESTS as u64);
const _: () = assert!(MAX_LINE_BYTES > MAX_KEY_BYTES + 128);
const _: () = assert!(MAX_FRAME_BYTES > DEFAULT_MAX_VALUE_BYTES + 2 * MAX_BATCH_BYTES);
const _: () = assert!(MAX_LANE_QUEUE_BYTES >= 2 * MAX_FRAME_BYTES);
