//! A whole cluster on virtual time: `cargo simulate`.
//!
//! One number, the seed, decides everything: how many servers there are, their
//! timings, what the clients ask, what goes wrong and when. The same seed is
//! the same run, event by event, on every machine; so any failure reproduces
//! from one number. Nothing sleeps, nothing reads a clock, a socket or a file,
//! and a run lives on one thread.
//!
//! # What is real
//!
//! The Raft core, the driver, the command and wire codecs, the keystore, the
//! format of the keystore-file, the decision what a server with a damaged disk
//! starts from, and all that is decided about members are the server's own; the
//! load balancer and its router are the real ones without their sockets. A host here plays the
//! part of the server's shell: it drives the driver in the shell's order
//! (inputs, then timers; appends leave before the disk is asked; followers
//! wait for their disk in the turn or beside it). What is simulated is below
//! and around that:
//!
//! | module | stands for |
//! | --- | --- |
//! | `queue`, `clock` | virtual time; clocks that drift and jump |
//! | `links` | which hosts have a link, by the server's decision who dials whom |
//! | `network` | what becomes of messages: latency, loss, doubling, delay, order, cuts |
//! | `disk` | the log-file and keystore-file as recovery finds them: what was synced survives a crash, of the rest a torn part may |
//! | `rot` | what of that cannot be read any more: records of entries and votes, the log's end, bits of a checkpoint |
//! | `host`, `process`, `life`, `storage` | one server process and its machine |
//! | `clients`, `traffic` | memcached clients with pipelines, cas tokens, noreply |
//! | `balancers`, `control` | the load balancers' disks and clocks, and the links between them and the hosts |
//! | `client_port`, `routing` | the connections of their clients, and the way of requests over those links and back |
//! | `operator` | operators, who have servers removed and leadership handed over |
//! | `admin`, `orders` | what a server does with the word of a load balancer; what may be done to whom |
//! | `nemesis` | what goes wrong, by [`Fault`] |
//! | `ending` | everything heals, then the cluster must recover |
//!
//! # What is checked
//!
//! - After every turn of every core: the invariants of Raft
//!   (`raft::invariants`), and that all replicas apply the same entries.
//! - Who asks for votes, and who elects (see `votes`).
//! - How much is said (see `silence`): messages lead to something, or end;
//!   nothing is repeated at the speed of the network.
//! - At the end: within 30 virtual seconds of healing all replicas have
//!   applied the same and every server writes and reads, as every load balancer
//!   does, which has nothing left to answer then; then nothing deposes
//!   the leader for two seconds.
//! - The clients' history, by two checkers that do not trust each other (see
//!   `oracle`): every answer is explained by one order of all operations that
//!   respects real time; no acknowledged write is lost, no refused one takes
//!   effect, nothing is applied twice; a get of several keys is one snapshot.
//! - All keystores equal a naive model's, cas tokens and flags included.
//!
//! # How it is known to find anything
//!
//! [`BUGS`] are famous mistakes that can be planted, in the product behind its
//! feature `planted-bugs`, or in the simulated disk. Each has to be caught
//! within [`CATCH_WITHIN`] seeds: `cargo simulate --bug all`.
//!
//! # What is not there
//!
//! The log-file's bytes (its own tests damage those), QUIC, what a load balancer
//! answers by itself (its front end, `get-servers`, `stats`), servers that are
//! stopped in good order, and expiry of items.

mod admin;
mod balancers;
mod bugs;
mod client_port;
mod clients;
mod clock;
mod control;
mod disk;
mod ending;
mod faults;
mod history;
mod host;
mod hunt;
mod life;
mod links;
mod names;
mod nemesis;
mod network;
mod operator;
mod oracle;
mod orders;
mod plan;
mod process;
mod queue;
mod rng;
mod rot;
mod routing;
mod run;
mod runs;
mod silence;
mod storage;
mod trace;
mod traffic;
mod votes;
mod watch;
mod world;

pub use bugs::{BUGS, Bug};
pub use faults::{ALL_FAULTS, Fault, FaultSet};
pub use hunt::{CATCH_WITHIN, Catch, Hunt, Tally, catch, on_a_runner, shrink};
pub use oracle::Violation;
pub use run::{Options, Report, run};
