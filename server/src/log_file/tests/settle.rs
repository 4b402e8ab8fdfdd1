//! For tests that want the same order of operations each time.

use super::LogFile;

impl LogFile {
    /// Waits until the thread that makes and frees segments has nothing to do.
    pub(crate) fn settle(&self) {
        self.spare.settle();
    }
}
