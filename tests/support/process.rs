//! One `store` process in the foreground, as a child of the test.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::eventually;

/// The command under test.
pub(crate) const STORE: &str = env!("CARGO_BIN_EXE_store");
/// The client under test.
pub(crate) const CLIENT: &str = env!("CARGO_BIN_EXE_client");

/// How long a process may take for any step of its start.
const START: Duration = Duration::from_secs(15);

/// A node; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    log: PathBuf,
    child: Child,
    lines: Receiver<Value>,
}

impl Process {
    /// Starts `store` with `args`; what it says on standard error goes to `log`.
    pub(crate) fn start(name: &str, args: &[String], log: &Path) -> Process {
        Self::start_as(name, &[], args, log)
    }

    /// [`Self::start`] with a command before `store` that becomes it.
    pub(crate) fn start_as(name: &str, prefix: &[String], args: &[String], log: &Path) -> Process {
        std::fs::create_dir_all(log.parent().unwrap()).unwrap();
        let stderr = File::options().append(true).create(true).open(log).unwrap();
        let store = [STORE.to_owned()];
        let mut words = prefix.iter().chain(&store).chain(args);
        let mut child = Command::new(words.next().unwrap())
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // `store run` speaks to people; only announcements are kept.
                let Ok(line) = serde_json::from_str(&line) else { continue };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Process { name: name.to_owned(), log: log.to_owned(), child, lines }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The first announcement from now on that `wanted` takes.
    pub(crate) fn wait_for<T>(&mut self, what: &str, wanted: impl Fn(&Value) -> Option<T>) -> T {
        let until = Instant::now() + START;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(found) = wanted(&line) {
                        return found;
                    }
                    assert_ne!(line["kind"], "failed", "{} waits for {what}: {line}", self.name);
                }
                Err(_) => panic!("{} did not get to: {what}\n{}", self.name, self.log_text()),
            }
        }
    }

    /// `kill -9`, and waits for the end.
    pub(crate) fn kill9(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        signal(self.pid(), nix::sys::signal::Signal::SIGTERM);
        let name = self.name.clone();
        eventually(&format!("{name} ends on SIGTERM"), Duration::from_secs(10), || {
            self.child.try_wait().unwrap().ok_or_else(|| "it still runs".to_owned())
        })
    }

    /// Whether it has ended, and how.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait_end(&mut self, within: Duration) -> ExitStatus {
        let name = self.name.clone();
        eventually(&format!("{name} ends"), within, || {
            self.child.try_wait().unwrap().ok_or_else(|| "it still runs".to_owned())
        })
    }

    pub(crate) fn log_text(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        format!("---- {}\n{}", self.log.display(), String::from_utf8_lossy(&text))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log_text());
        }
    }
}

/// Sends a signal to a process of this test.
pub(crate) fn signal(pid: u32, signal: nix::sys::signal::Signal) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal);
}

/// Whether a process exists and has not ended (a zombie has).
pub(crate) fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z')
}

/// Runs a command to its end.
pub(crate) fn run(program: &str, dir: &Path, args: &[&str]) -> Finished {
    let began = Instant::now();
    let output = Command::new(program)
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        // What `up` suggests to type depends on it.
        .env_remove("CARGO")
        .output()
        .unwrap();
    Finished::new(output, began.elapsed())
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) took: Duration,
}

impl Finished {
    fn new(output: Output, took: Duration) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Finished {
            code: output.status.code().unwrap_or(-1),
            out: text(output.stdout),
            err: text(output.stderr),
            took,
        }
    }

    /// Asserts the exit code.
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    /// Asserts what standard output says.
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.out.contains(text), "no `{text}` in {self:#?}");
        self
    }

    /// Asserts what standard error says.
    pub(crate) fn complains(self, text: &str) -> Self {
        assert!(self.err.contains(text), "no `{text}` in {self:#?}");
        self
    }
}
