//! Starting a node as a background process: this program again, with its
//! standard output as the way to say how the start goes.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::announce::Announcement;
use crate::failure::{Failure, Outcome, REFUSED};
use crate::home::Node;

/// How much of the end of a log is shown when a process dies without a word.
const LOG_TAIL_BYTES: u64 = 2000;

/// A node that was started as a background process.
#[derive(Debug)]
pub(crate) struct Background {
    /// The node.
    pub(crate) node: Node,
    child: Child,
    announcements: Receiver<Announcement>,
    log: PathBuf,
}

/// Starts this program with `line` as the process of `node`.
pub(crate) fn start(node: &Node, line: Vec<OsString>) -> Outcome<Background> {
    std::fs::create_dir_all(&node.dir).map_err(|error| {
        Failure::usage(format!("cannot make the folder {}: {error}", node.dir.display()))
    })?;
    let log = node.log_path();
    let open = || File::options().append(true).create(true).open(&log);
    let stderr = open().with_context(|| format!("cannot write {}", log.display()))?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut child = Command::new(program)
        .args(line)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        // A group of its own: Ctrl-C in the terminal is not meant for it.
        .process_group(0)
        .spawn()
        .context("cannot start a background process")?;
    let (sender, announcements) = mpsc::channel();
    let stdout = child.stdout.take().context("the background process has no output")?;
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { return };
            let Ok(announcement) = serde_json::from_str(&line) else { continue };
            if sender.send(announcement).is_err() {
                return;
            }
        }
    });
    Ok(Background { node: node.clone(), child, announcements, log })
}

impl Background {
    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next step of its start; `None` when it takes longer than `until`.
    ///
    /// # Errors
    /// When the process has ended, with its reason.
    pub(crate) fn next(&mut self, until: Instant) -> Outcome<Option<Announcement>> {
        let wait = until.saturating_duration_since(Instant::now());
        match self.announcements.recv_timeout(wait) {
            Ok(Announcement::Failed { why, code }) => {
                // It is on its way out; reap it so that its lock is free.
                let _ = self.child.wait();
                Err(Failure { code, message: self.with_log(&why) })
            }
            Ok(announcement) => Ok(Some(announcement)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.wait().context("cannot wait for the process")?;
                Err(self.died(status))
            }
        }
    }

    /// Whether it still runs, without waiting.
    pub(crate) fn check(&mut self) -> Outcome {
        match self.child.try_wait().context("cannot look at the process")? {
            None => Ok(()),
            Some(status) => Err(match self.announcements.try_iter().last() {
                Some(Announcement::Failed { why, code }) => {
                    Failure { code, message: self.with_log(&why) }
                }
                _ => self.died(status),
            }),
        }
    }

    /// Ends it again, because its start came to nothing.
    pub(crate) fn terminate(mut self) {
        let patience = Instant::now() + Duration::from_secs(2);
        crate::stop::terminate(self.pid());
        while Instant::now() < patience {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn with_log(&self, why: &str) -> String {
        format!("{} did not start: {why}\nIts log: {}", self.node.name, self.log.display())
    }

    fn died(&self, status: ExitStatus) -> Failure {
        let tail = tail(&self.log).unwrap_or_default();
        Failure {
            code: REFUSED,
            message: format!(
                "{} ended with {status} while it started; the end of its log {}:\n{tail}",
                self.node.name,
                self.log.display()
            ),
        }
    }
}

/// The last lines of a file.
fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
