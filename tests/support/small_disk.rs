//! A real, small file system that only some processes see.
//!
//! A process of its own holds a mount namespace with a small tmpfs. Servers are
//! started inside; when the test ends, however it ends, the namespace goes, and
//! the file system with it. Needs no privileges where the system lets users
//! make namespaces, and root elsewhere.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A way into a namespace: options of `unshare` and of `nsenter`.
const WAYS: &[(&[&str], &[&str])] =
    &[(&["-r", "-m"], &["-U", "--preserve-credentials", "-m"]), (&["-m"], &["-m"])];

#[derive(Debug)]
pub(crate) struct SmallDisk {
    holder: Child,
    mount: PathBuf,
    prefix: Vec<String>,
}

impl SmallDisk {
    /// A disk of so many MiB at `mount`. Says loudly why there is none.
    pub(crate) fn mount(mount: &Path, mebibytes: u32) -> Option<SmallDisk> {
        std::fs::create_dir_all(mount).unwrap();
        let mut why = String::new();
        for (unshare, nsenter) in WAYS {
            match Self::hold(mount, mebibytes, unshare) {
                Ok(holder) => {
                    let pid = holder.id().to_string();
                    let words = ["nsenter", "-t", &pid].into_iter().chain(nsenter.iter().copied());
                    let prefix = words.map(str::to_owned).collect();
                    return Some(SmallDisk { holder, mount: mount.to_owned(), prefix });
                }
                Err(error) => why = error,
            }
        }
        eprintln!("\n!! SKIPPED: no small disk can be mounted here ({why}).");
        eprintln!("!! Run this as root, or let users make namespaces, to test a real full disk.\n");
        None
    }

    fn hold(mount: &Path, mebibytes: u32, unshare: &[&str]) -> Result<Child, String> {
        // `cat` ends when the test does.
        let script =
            format!("mount -t tmpfs -o size={mebibytes}m none \"$0\" && echo ready && exec cat");
        let mut holder = Command::new("unshare")
            .args(unshare)
            .args(["sh", "-c", &script])
            .arg(mount)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let mut line = String::new();
        let stdout = holder.stdout.take().ok_or("no output")?;
        let _ = BufReader::new(stdout).read_line(&mut line);
        if line == "ready\n" {
            return Ok(holder);
        }
        let _ = holder.kill();
        let _ = holder.wait();
        Err(format!("unshare {} or mount failed", unshare.join(" ")))
    }

    /// What must stand before a command, so that it sees the disk.
    pub(crate) fn prefix(&self) -> &[String] {
        &self.prefix
    }

    /// The disk as this process reaches it.
    fn outside(&self) -> PathBuf {
        let mount = self.mount.strip_prefix("/").unwrap();
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(mount)
    }

    /// Takes all the room that is left.
    pub(crate) fn fill(&self) {
        let mut bytes = 1 << 20;
        let mut ballast = std::fs::File::create(self.outside().join("ballast")).unwrap();
        while bytes >= 1 {
            use std::io::Write;
            if ballast.write_all(&vec![1; bytes]).is_err() {
                bytes /= 2;
            }
        }
    }

    /// Gives back what [`SmallDisk::fill`] took.
    pub(crate) fn free(&self) {
        std::fs::remove_file(self.outside().join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
