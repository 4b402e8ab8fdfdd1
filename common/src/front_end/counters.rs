//! What a front end counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Totals since the start, and the connections of now. Only for showing:
/// relaxed, so that reading several gives no consistent cut.
#[derive(Debug, Default)]
pub struct Counters {
    current_connections: AtomicU64,
    total_connections: AtomicU64,
    rejected_connections: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    batches: AtomicU64,
    requests: AtomicU64,
}

impl Counters {
    /// Connections that are open now.
    pub fn current_connections(&self) -> u64 {
        self.current_connections.load(Ordering::Relaxed)
    }

    /// Connections that were served, the open ones included.
    pub fn total_connections(&self) -> u64 {
        self.total_connections.load(Ordering::Relaxed)
    }

    /// Connections that were turned away above the limit.
    pub fn rejected_connections(&self) -> u64 {
        self.rejected_connections.load(Ordering::Relaxed)
    }

    /// Bytes from clients.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Bytes to clients.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Ordering::Relaxed)
    }

    /// Batches that were handed to the service.
    pub fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    /// Requests in them.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn opened(&self) {
        self.current_connections.fetch_add(1, Ordering::Relaxed);
        self.total_connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn closed(&self) {
        self.current_connections.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn rejected(&self) {
        self.rejected_connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, bytes: usize) {
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn written(&self, bytes: usize) {
        self.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn handed_over(&self, requests: usize) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(requests as u64, Ordering::Relaxed);
    }
}
