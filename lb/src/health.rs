//! Who is in contact.
//!
//! A server leaves the rotation at once when its link closes or it says
//! goodbye, and after [`SILENT_AFTER`] without a report otherwise. This is
//! contact with one load balancer and nothing more: whether a silent server
//! still votes is for the cluster to decide, by a committed change.

use std::time::Duration;

use common::limits::{REPORT_INTERVAL, SILENT_AFTER};

use crate::registry::{Contact, Registry};

/// A gap between two ticks that means that this process itself stood still
/// (stopped, swapped out, starved).
const STALL: Duration = Duration::from_millis(500);

/// After a stall the reports that arrived meanwhile are taken in before
/// anybody is called silent: otherwise one stall of the load balancer would
/// empty the rotation.
const GRACE: Duration = REPORT_INTERVAL;

const _: () = assert!(STALL.as_millis() < SILENT_AFTER.as_millis());

/// The clock's side of health.
#[derive(Debug, Default)]
pub(crate) struct Health {
    last_tick: Duration,
    grace_until: Duration,
}

impl Health {
    /// Marks as silent who has not been heard for too long, and returns the names.
    pub(crate) fn tick(&mut self, now: Duration, registry: &mut Registry) -> Vec<String> {
        if now.saturating_sub(self.last_tick) > STALL {
            self.grace_until = now + GRACE;
        }
        self.last_tick = now;
        if now < self.grace_until {
            return Vec::new();
        }
        let mut silent = Vec::new();
        for entry in registry.iter_mut() {
            if entry.is_live() && now.saturating_sub(entry.last_heard) >= SILENT_AFTER {
                entry.contact = Contact::Silent;
                silent.push(entry.name().to_owned());
            }
        }
        silent
    }
}
