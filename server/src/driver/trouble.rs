//! What is wrong with this server's disk or data, and what that means for
//! requests.

use common::control::Trouble;
use common::memcached::{DISK_FULL, Request};

use super::Driver;
use super::job::{Job, Need, need};

impl Driver {
    /// Notes what is wrong with the disk, or that nothing is any more. While
    /// it is full a leader takes no writes; reads go on.
    pub fn set_trouble(&mut self, trouble: Option<Trouble>) {
        self.trouble = trouble;
    }

    /// What is wrong with this server.
    pub fn trouble(&self) -> Option<Trouble> {
        let repairs = || self.node.status().floor.is_some().then_some(Trouble::Repairing);
        self.trouble.or_else(repairs)
    }

    pub(super) fn is_out_of_room(&self) -> bool {
        self.trouble == Some(Trouble::DiskFull)
    }

    /// Puts a refusal in the place of every write while the disk has no room
    /// for them: what is proposed now might wait there until its deadline.
    pub(super) fn refuse_without_room(&self, job: &mut Job) {
        if !self.is_out_of_room() {
            return;
        }
        for request in &mut job.batch.requests[job.cursor..] {
            if need(request) == Need::Log {
                let silent = request.noreply();
                *request = Request::Invalid { reply: DISK_FULL, silent, close: false };
            }
        }
    }
}
