//! What the scripts in `tests/scripts` drive: a cluster in memory in which
//! nothing happens by itself. Each replica has its own clock, messages lie on
//! the wire until they are delivered, and disks may be held.

#![allow(unused_imports, dead_code, reason = "each test that drives a cluster uses a part of it")]

mod cluster;
mod command;
mod machine;
mod print;
mod raw;

pub(crate) use cluster::Cluster;
pub(crate) use machine::Cmd;
