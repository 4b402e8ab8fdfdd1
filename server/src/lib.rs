//! A store server.
//!
//! One way through, no layer calls upstream:
//! `connection bytes -> parse -> propose -> raft -> log-file + transport ->
//! commit -> apply -> reply`.

pub mod command;
pub mod config;
pub mod identity;
pub mod keystore;
pub mod keystore_file;
pub mod log_file;
pub mod print;
