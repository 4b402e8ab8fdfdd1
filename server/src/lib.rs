//! A store server.
//!
//! One way through, no layer calls upstream:
//! `connection bytes -> parse -> propose -> raft -> log-file + transport ->
//! commit -> apply -> reply`.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`driver`] | sole owner of the Raft node, the keystore and everything that waits for them; pure |
//! | [`command`] | what an entry of the log does, and its bytes |
//! | [`keystore`] | the state machine, in memory |
//! | [`keystore_file`] | its checkpoint on disk |
//! | [`log_file`] | the write-ahead log |
//! | `files` | the way to the file system, for all of the above; faults for tests |
//! | [`dialling`] | which of two servers dials the other, and when; pure |
//! | [`membership`] | what a leader does about the members, and a server about its place; pure |
//! | [`recovery`] | what a server starts from, by what its disk still says; pure |
//! | [`identity`] | who this folder belongs to |
//! | [`wire`] | frames between servers |
//! | `transport` | links to the other servers |
//! | `registration` | links to the load balancers |
//! | `shell` | sockets, timers, threads: carries out what the driver decides |
//! | [`backup`] | backups: their format, serving and fetching them |
//! | [`offline`] | the state that the files of a server hold, for those who only look |
//! | [`mod@print`] | log and keystore in the promised text formats |
//! | [`verify`] | every checksum of a server's files |
//! | [`restore`] | a new cluster from a state, or from a survivor |
//! | [`embed`] | replicas of a state machine of one's own, for other programs |

pub mod backup;
pub mod command;
pub mod config;
pub mod dialling;
pub mod driver;
pub mod embed;
mod files;
pub mod identity;
pub mod keystore;
pub mod keystore_file;
pub mod log_file;
pub mod membership;
pub mod offline;
pub mod print;
pub mod recovery;
mod registration;
pub mod restore;
mod shell;
#[cfg(test)]
mod tests;
mod transport;
pub mod verify;
pub mod wire;

pub use shell::{BeginAgain, ProgressFn, run};
