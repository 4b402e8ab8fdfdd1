//! `store backup`: everything that the cluster holds, at one index, in a file.

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use common::udp::ClusterKey;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use server::backup::{self, About, FetchError};
use server::identity::Folder;
use server::offline::State;

use crate::args::BackupArgs;
use crate::direct;
use crate::failure::{Failure, Outcome, complain};
use crate::home::Home;
use crate::lookup::{self, Files};
use crate::table;
use crate::text::Stats;
use crate::time;

/// Where a backup comes from.
enum Source {
    /// Servers, best first.
    Running { peers: Vec<SocketAddr>, key: PathBuf },
    /// The files of a server that does not run.
    Stopped(Files),
}

/// The command.
pub(crate) fn run(args: &BackupArgs) -> Outcome {
    let to_stdout = args.file == Path::new("-");
    if to_stdout && io::stdout().is_terminal() {
        return Err(Failure::usage(
            "a backup is no text: redirect standard output to a file or a program",
        ));
    }
    if !to_stdout && !args.force && args.file.exists() {
        return Err(Failure::refused(format!(
            "{} exists already: choose another file, or overwrite it with --force",
            args.file.display()
        )));
    }
    let source = source(args)?;
    let began = Instant::now();
    let (about, bytes) = match to_stdout {
        true => {
            let mut out = Counted { out: io::stdout().lock(), bytes: 0 };
            let about = write(&source, &mut out)?;
            (about, out.bytes)
        }
        false => to_file(&source, &args.file)?,
    };
    let place = if to_stdout { String::new() } else { format!(" in {}", args.file.display()) };
    // Standard output may be the backup itself.
    complain!(
        "Backup of {} items as of entry {} (term {}, {}), from {}: {}{place}, {:.1} s.",
        about.items,
        about.index,
        about.term,
        time::shown(about.clock_ms),
        about.server,
        table::bytes(bytes),
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

fn source(args: &BackupArgs) -> Outcome<Source> {
    let dir = &args.cluster.dir;
    let key = |dir: &Path| args.key.clone().unwrap_or_else(|| dir.join("cluster.key"));
    if let Some(server) = args.server {
        return Ok(Source::Running { peers: vec![server], key: key(dir) });
    }
    if let Some(files) = Files::of(dir)? {
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        return match (files.node.running(), files.node.settings()?) {
            (None, _) => Ok(Source::Stopped(files)),
            (Some(_), Some(settings)) => {
                let key = key(parent.unwrap_or(Path::new(".")));
                Ok(Source::Running { peers: vec![settings.peer()], key })
            }
            (Some(pid), None) => Err(Failure::refused(format!(
                "{} runs (pid {pid}), but its settings.json does not say where: \
                 give its address with --server",
                dir.display()
            ))),
        };
    }
    let home = Home::at(dir)?;
    let addresses = lookup::load_balancers(&args.cluster, &home)?;
    let (who, stats) = match lookup::stats(&addresses) {
        Ok((lb, stats)) => (format!("the load balancer at {lb} was"), stats),
        // The servers of the folder will do.
        Err(why) => match direct::stats(&home)? {
            Some(stats) => ("no load balancer answers, the servers were".to_owned(), stats),
            None => return Err(Failure::unreachable(why)),
        },
    };
    let peers = choose(&stats, args.name.as_deref())
        .map_err(|why| Failure::refused(format!("{why}; {who} asked, see `store status`")))?;
    Ok(Source::Running { peers, key: key(home.dir()) })
}

/// The server of that name; or all live ones, followers that are furthest
/// along first, because the leader has the most to do.
fn choose(stats: &Stats, name: Option<&str>) -> Result<Vec<SocketAddr>, String> {
    let mut found = Vec::new();
    let names = stats
        .keys()
        .filter_map(|key| key.strip_prefix("server.")?.strip_suffix(".peer").map(str::to_owned));
    for server in names.filter(|server| name.is_none_or(|name| name == server)) {
        let field = |field: &str| stats.get(&format!("server.{server}.{field}"));
        let word = |name: &str| field(name).map_or("-", String::as_str);
        let Some(peer) = field("peer").and_then(|peer| peer.parse::<SocketAddr>().ok()) else {
            continue;
        };
        if word("state") != "live" {
            if name.is_some() {
                return Err(format!("{server} is {}", word("state")));
            }
            continue;
        }
        let rank = match word("role") {
            "follower" => 0,
            "leader" => 1,
            _ => 2,
        };
        let lag = word("lag").parse().unwrap_or(u64::MAX);
        found.push((rank, lag, peer));
    }
    found.sort_unstable();
    match (found.is_empty(), name) {
        (true, Some(name)) => Err(format!("there is no server {name}")),
        (true, None) => Err("no server is live".to_owned()),
        (false, _) => Ok(found.into_iter().map(|(_, _, peer)| peer).collect()),
    }
}

/// Writes beside, syncs, renames: the file is a whole backup or not there.
fn to_file(source: &Source, path: &Path) -> Outcome<(About, u64)> {
    let mut side = path.as_os_str().to_owned();
    side.push(".part");
    let side = PathBuf::from(side);
    let result = write_side(source, &side, path);
    if result.is_err() {
        // What is left of it is of no use to anybody.
        let _ = fs::remove_file(&side);
    }
    result
}

fn write_side(source: &Source, side: &Path, path: &Path) -> Outcome<(About, u64)> {
    let failed = |error: io::Error| {
        Failure::refused(format!("cannot write the backup {}: {error}", path.display()))
    };
    let file = File::create(side).map_err(failed)?;
    let mut out = Counted { out: BufWriter::with_capacity(1 << 20, file), bytes: 0 };
    let about = write(source, &mut out)?;
    let bytes = out.bytes;
    let file = out.out.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    fs::rename(side, path).map_err(failed)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    Ok((about, bytes))
}

fn write<W: Write>(source: &Source, out: &mut Counted<W>) -> Outcome<About> {
    let bar = bar();
    let about = match source {
        Source::Stopped(files) => of_files(files, out)?,
        Source::Running { peers, key } => {
            let key = ClusterKey::load(key).map_err(|error| Failure::usage(error.to_string()))?;
            fetch(peers, &key, out, &bar)?
        }
    };
    bar.finish_and_clear();
    out.flush().map_err(|error| Failure::refused(format!("cannot write the backup: {error}")))?;
    Ok(about)
}

fn fetch<W: Write>(
    peers: &[SocketAddr],
    key: &ClusterKey,
    out: &mut Counted<W>,
    bar: &ProgressBar,
) -> Outcome<About> {
    let mut errors = Vec::new();
    for &peer in peers {
        let result = backup::fetch(peer, key, out, |about, bytes| {
            bar.set_length(about.expected_bytes().max(bytes));
            bar.set_position(bytes);
        });
        match result {
            Ok(fetched) => return Ok(fetched.about),
            // The next one may do, as long as nothing was written.
            Err(error @ (FetchError::Lost { .. } | FetchError::Refused { .. }))
                if out.bytes == 0 =>
            {
                errors.push(error.to_string());
            }
            Err(error @ FetchError::Output(_)) => return Err(Failure::refused(error.to_string())),
            Err(error) => {
                let message = format!("the backup is not complete: {error}; start it again");
                return Err(Failure::unreachable(message));
            }
        }
    }
    Err(Failure::unreachable(format!("no backup: {}", errors.join("; "))))
}

/// A backup of what a stopped server's files say is committed.
fn of_files(files: &Files, out: &mut dyn Write) -> Outcome<About> {
    let refused = |error: String| Failure::refused(error);
    let state = State::of_files(&files.keystore, &files.log).map_err(|e| refused(e.to_string()))?;
    let identity = Folder::look(&files.node.dir).map_err(|e| refused(e.to_string()))?;
    let taken_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let taken_ms = taken_ms.map_or(0, |since| since.as_millis() as u64);
    let frozen = state.keystore.freeze();
    let mut about = About::new(&frozen, &state.meta, taken_ms);
    about.server.clone_from(&files.node.name);
    if let Some(identity) = identity {
        (about.cluster, about.id) = (identity.cluster, identity.server);
        about.server = identity.name;
    }
    backup::write_to(out, &frozen, &state.meta, &about)
        .map_err(|error| refused(format!("cannot write the backup: {error}")))?;
    complain!(
        "{} does not run: the backup holds what it knew to be committed; \
         other servers may know of more.",
        about.server
    );
    Ok(about)
}

/// On standard error, and only where somebody looks.
fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{bar:40} {binary_bytes} of about {binary_total_bytes}, {binary_bytes_per_sec}, {elapsed}",
    );
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Counts what goes through.
struct Counted<W> {
    out: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(lines: &[(&str, &str)]) -> Stats {
        lines.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn followers_that_are_furthest_along_come_first() {
        let mut lines = Vec::new();
        let servers = [
            ("a", "live", "leader", "0", "127.0.0.1:1"),
            ("b", "live", "follower", "9", "127.0.0.1:2"),
            ("c", "live", "follower", "2", "127.0.0.1:3"),
            ("d", "silent", "-", "0", "127.0.0.1:4"),
            ("e", "live", "learner", "0", "127.0.0.1:5"),
        ];
        for (name, state, role, lag, peer) in servers {
            let fields = [("state", state), ("role", role), ("lag", lag), ("peer", peer)];
            lines.extend(fields.map(|(field, value)| (format!("server.{name}.{field}"), value)));
        }
        let lines: Vec<_> = lines.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let stats = stats(&lines);
        let ports = |name| {
            choose(&stats, name).map(|peers| peers.iter().map(SocketAddr::port).collect::<Vec<_>>())
        };
        assert_eq!(ports(None).unwrap(), [3, 2, 1, 5]);
        assert_eq!(ports(Some("a")).unwrap(), [1]);
        assert!(ports(Some("d")).unwrap_err().contains("d is silent"));
        assert!(ports(Some("x")).unwrap_err().contains("no server x"));
    }
}
