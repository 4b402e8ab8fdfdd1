//! The load balancer.

pub mod config;
