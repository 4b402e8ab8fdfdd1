//! What a background process tells the command that started it: JSON lines on
//! its standard output, until the command has heard enough and ends.

use std::io::Write;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use server::config::Progress;

use crate::failure::Failure;

/// One line.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub(crate) enum Announcement {
    /// A server got further.
    Server {
        /// How far.
        progress: Progress,
    },
    /// A load balancer serves.
    LoadBalancer {
        /// For clients.
        client: SocketAddr,
        /// For servers.
        server: SocketAddr,
    },
    /// The process ends because of this.
    Failed {
        /// For people.
        why: String,
        /// The exit code.
        code: u8,
    },
}

impl From<&Failure> for Announcement {
    fn from(failure: &Failure) -> Self {
        Announcement::Failed { why: failure.message.clone(), code: failure.code }
    }
}

/// The child's end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Announcer {
    enabled: bool,
}

impl Announcer {
    /// Says something only when a parent listens.
    pub(crate) fn new(enabled: bool) -> Self {
        Announcer { enabled }
    }

    /// Sends one line.
    pub(crate) fn say(self, announcement: &Announcement) {
        if !self.enabled {
            return;
        }
        let Ok(mut line) = serde_json::to_vec(announcement) else { return };
        line.push(b'\n');
        let mut out = std::io::stdout().lock();
        // The parent ends as soon as it has heard enough: nobody listens then,
        // and that is no error.
        let _ = out.write_all(&line).and_then(|()| out.flush());
    }
}
