//! What happened, newest last: a bounded list for `stats events`, the
//! dashboard and whoever asks later why a server is not in the rotation.

use std::collections::VecDeque;
use std::time::Duration;

/// Events that are kept. A flapping server fills the list; it never grows.
pub const MAX_EVENTS: usize = 256;

/// Whether somebody ought to look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// Part of a normal day.
    Info,
    /// A server is gone, refused, or something did not work.
    Warning,
}

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Counts from 1 over the life of the process, so that a gap in the
    /// list shows.
    pub number: u64,
    /// When, since the load balancer started.
    pub at: Duration,
    /// How bad.
    pub severity: Severity,
    /// What, as a sentence for people.
    pub text: String,
}

/// The last [`MAX_EVENTS`] events.
#[derive(Debug, Default)]
pub struct Events {
    list: VecDeque<Event>,
    count: u64,
}

impl Events {
    /// Adds an event and drops the oldest one when the list is full.
    pub(crate) fn push(&mut self, at: Duration, severity: Severity, text: String) -> Event {
        self.count += 1;
        let event = Event { number: self.count, at, severity, text };
        if self.list.len() == MAX_EVENTS {
            self.list.pop_front();
        }
        self.list.push_back(event.clone());
        event
    }

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Event> {
        self.list.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_bounded_and_the_numbers_go_on() {
        let mut events = Events::default();
        for second in 0..1000 {
            events.push(Duration::from_secs(second), Severity::Info, format!("event {second}"));
        }
        assert_eq!(events.iter().count(), MAX_EVENTS);
        assert_eq!(events.iter().next().map(|event| event.number), Some(1001 - MAX_EVENTS as u64));
        assert_eq!(events.iter().last().map(|event| event.number), Some(1000));
    }
}
