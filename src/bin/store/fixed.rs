//! `store run`: one server of a fixed cluster, which a configuration file
//! describes and no load balancer looks after.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::config::ClusterFile;
use common::control::{MemberInfo, MemberRecord};
use common::ids::{ClusterId, FolderId, ServerId};
use common::limits::{DEFAULT_CHECKPOINT_AFTER, DEFAULT_MAX_CONNECTIONS};
use common::udp::ClusterKey;
use server::config::{FixedCluster, Progress, ServerConfig, Sockets};
use tracing::warn;

use crate::addsrv::{DEFAULT_ELECTION_TIMEOUT, DEFAULT_HEARTBEAT_MS};
use crate::args::RunArgs;
use crate::failure::{Failure, Outcome, say};
use crate::home::{FixedSettings, Node, Settings};
use crate::logging;
use crate::serve;
use crate::sockets::{self, Port};
use crate::values;

/// The command.
pub(crate) fn run(args: &RunArgs) -> Outcome {
    let paths = Paths::choose(args)?;
    let cluster = ClusterFile::load(&paths.config).map_err(|e| Failure::usage(e.to_string()))?;
    let own = cluster.server(args.pid).map_err(|e| Failure::usage(e.to_string()))?;
    logging::start(args.log_format);
    let node = Node { name: format!("srv-{}", args.pid), dir: paths.dir.clone() };
    serve::claim(&node)?;
    let key_file = args.key.clone().unwrap_or_else(|| paths.config.with_file_name("cluster.key"));
    ClusterKey::load_or_create(&key_file).map_err(|error| Failure::usage(error.to_string()))?;
    let advice = format!("its address comes from {}", paths.config.display());
    let sockets = Sockets {
        client: sockets::bind_clients(own.client.ip(), Port::Exactly(own.client.port()), &advice)?,
        peer: sockets::bind_servers(own.address.ip(), Port::Exactly(own.address.port()), &advice)?,
    };
    serve::warn_if_open(own.client.ip());
    let election_timeout = match (args.election_timeout, own.election_timeout) {
        (Some(range), _) => range.durations(),
        // The file has one number for each server: the shortest wait. The
        // random part on top is what keeps elections from colliding.
        (None, Some(shortest)) => (shortest, shortest * 2),
        (None, None) => DEFAULT_ELECTION_TIMEOUT.durations(),
    };
    let default_heartbeat = Duration::from_millis(DEFAULT_HEARTBEAT_MS);
    let config = ServerConfig {
        name: node.name.clone(),
        dir: paths.dir,
        log_file: paths.log.clone(),
        keystore_file: paths.keystore.clone(),
        key_file,
        lbs: Vec::new(),
        fixed: Some(fixed_cluster(&cluster, args.pid)),
        // Nobody is taken out of a membership that a file has fixed.
        dead_after: Duration::ZERO,
        heartbeat: args.heartbeat.or(cluster.heartbeat).unwrap_or(default_heartbeat),
        election_timeout,
        max_value_bytes: args.max_item_size,
        keep_log: args.data.keep_log.unwrap_or(false),
        checkpoint_after_bytes: args.data.checkpoint_after.unwrap_or(DEFAULT_CHECKPOINT_AFTER),
        memory_bytes: values::memory_bytes(args.data.memory_limit),
        max_connections: DEFAULT_MAX_CONNECTIONS,
    };
    let progress = Arc::new(move |progress: Progress| match progress {
        Progress::Serving { client, peer, .. } => {
            // Recorded only now, when the folder's lock is held.
            let settings = Settings::Fixed(FixedSettings {
                client,
                peer,
                log_file: paths.log.clone(),
                keystore_file: paths.keystore.clone(),
            });
            if let Err(error) = node.record(&settings) {
                warn!("`store log` will not find the files: {error:#}");
            }
            say!(
                "{} serves clients at {client} and servers at {peer}; Ctrl-C stops it.",
                node.name
            );
        }
        Progress::Member { id, role, .. } => {
            say!("{} is server {id} of its cluster, {}.", node.name, role.name());
        }
        Progress::Repairing { what } => say!("{} repairs its files: {what}", node.name),
        Progress::Registered { .. }
        | Progress::Rejoins { .. }
        | Progress::Syncing { .. }
        | Progress::Voter { .. }
        | Progress::NotRegistered { .. }
        | Progress::SetAside { .. } => {}
    });
    serve::block_on(false, |shutdown| server::run(config, sockets, progress, shutdown))
}

/// The files of one server.
struct Paths {
    config: PathBuf,
    log: PathBuf,
    keystore: PathBuf,
    dir: PathBuf,
}

impl Paths {
    fn choose(args: &RunArgs) -> Outcome<Self> {
        let (config, log, keystore) = match (&args.config, args.paths.as_slice()) {
            (Some(config), [log, keystore]) | (None, [config, log, keystore]) => {
                (config, log, keystore)
            }
            (Some(_), _) => {
                return Err(Failure::usage(
                    "with --config, give the pid, the log-file and the keystore-file only",
                ));
            }
            (None, _) => {
                return Err(Failure::usage(
                    "give the pid, the configuration, the log-file and the keystore-file: \
                     store run 1 config.json log-1 keystore-1",
                ));
            }
        };
        let absolute = |path: &Path| {
            std::path::absolute(path)
                .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
        };
        let log = absolute(log)?;
        // Servers may share a folder, so each needs one of its own for what
        // there is only one of: its identity and its lock.
        let mut beside = log.clone().into_os_string();
        beside.push(".server");
        let dir = match &args.dir {
            Some(dir) => absolute(dir)?,
            None => PathBuf::from(beside),
        };
        Ok(Paths { config: absolute(config)?, keystore: absolute(keystore)?, log, dir })
    }
}

/// Everybody, the same on every server: ids are derived from the file.
fn fixed_cluster(file: &ClusterFile, pid: u64) -> FixedCluster {
    let mut text = String::from("cluster");
    for (pid, address) in &file.servers {
        text.push_str(&format!(" {pid}={address}"));
    }
    let cluster = fnv_128(text.as_bytes());
    let members = file
        .servers
        .iter()
        .zip(file.clients.values())
        .map(|((&pid, &peer), &client)| MemberRecord {
            id: ServerId(pid),
            voter: true,
            info: MemberInfo {
                folder: FolderId(fnv_128(format!("{cluster:032x} {pid}").as_bytes())),
                name: format!("srv-{pid}"),
                peer,
                client,
                run: None,
            },
        })
        .collect();
    FixedCluster { cluster: ClusterId(cluster), id: ServerId(pid), members }
}

/// FNV-1a, 128 bits: spreads well, needs no secret and never changes.
fn fnv_128(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(OFFSET, |hash, &byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> ClusterFile {
        ClusterFile::parse(Path::new("config.json"), text).unwrap()
    }

    #[test]
    fn ids_are_the_same_on_every_server_and_for_every_shape() {
        let one = file(r#"{"Ser": {"1": "127.0.0.1:6001", "2": "127.0.0.1:6002"}}"#);
        let other = file(
            r#"{"object": {"total": 2, "Servers": [
                {"mypid": 2, "url": "127.0.0.1:6002"}, {"mypid": 1, "url": "127.0.0.1:6001"}]}}"#,
        );
        let (one, other) = (fixed_cluster(&one, 1), fixed_cluster(&other, 2));
        assert_eq!(one.cluster, other.cluster);
        assert_eq!(one.members, other.members);
        assert_ne!(one.members[0].info.folder, one.members[1].info.folder);
        let moved = file(r#"{"Ser": {"1": "127.0.0.1:6001", "2": "127.0.0.1:6003"}}"#);
        assert_ne!(fixed_cluster(&moved, 1).cluster, one.cluster);
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv_128(b""), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_eq!(fnv_128(b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }
}
