//! What can be typed.

mod operations;

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use lb::config::Policy;

use crate::logging::LogFormat;
use crate::operate::{RemoveArgs, TransferArgs};
use crate::values::{self, TimeoutRange};
pub(crate) use operations::{
    BackupArgs, ClusterArgs, KeystoreArgs, LogArgs, RecoverArgs, RestoreArgs, VerifyArgs,
};

/// Where a load balancer listens for clients, unless told otherwise.
pub(crate) const LB_CLIENT_PORT: u16 = 5002;
/// Where a load balancer listens for servers, unless told otherwise.
pub(crate) const LB_SERVER_PORT: u16 = 5001;
/// Where the first server listens for clients, unless told otherwise.
pub(crate) const SERVER_CLIENT_PORT: u16 = 7001;
/// Where the first server listens for its peers, unless told otherwise.
pub(crate) const SERVER_PEER_PORT: u16 = 6001;
/// The data folder, unless told otherwise.
pub(crate) const DEFAULT_DIR: &str = "store-data";

/// A replicated, durable, linearizable key-value store that any memcached
/// client can use.
#[derive(Parser, Debug)]
#[command(
    name = "store",
    version,
    arg_required_else_help = true,
    after_help = "Examples:\n  \
        store up                      a load balancer and three servers on this machine\n  \
        store status --watch          what they do\n  \
        store addsrv                  one more server\n  \
        store stop srv-2              stop one; `store addsrv --name srv-2` brings it back\n  \
        store down                    stop everything; the data stays\n\n\
        Exit codes: 0 done, 1 the store said no, 2 usage, 3 cluster unreachable or outcome unknown."
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run a whole cluster on this machine: a load balancer and servers
    Up(UpArgs),
    /// Add a load balancer as a background process
    Addlb(AddLbArgs),
    /// Add a server as a background process and register it
    Addsrv(AddSrvArgs),
    /// Run one server of a fixed cluster, without a load balancer, in the foreground
    Run(RunArgs),
    /// Show the cluster: roles, votes, terms, indexes, lag, load
    Status(StatusArgs),
    /// Stop one node gracefully; its data stays
    Stop(StopArgs),
    /// Stop every node of a data folder gracefully; the data stays
    Down(DownArgs),
    /// Take a server out of the cluster
    Removesrv(RemoveArgs),
    /// Hand leadership to another server
    Transfer(TransferArgs),
    /// Print a server's log-file: `<index> <key> <value>`
    Log(LogArgs),
    /// Print a server's keystore: `<key> <value>`
    Keystore(KeystoreArgs),
    /// Check every checksum of servers' files and backups
    Verify(VerifyArgs),
    /// Write everything that the cluster holds at one instant to a file
    Backup(BackupArgs),
    /// Make the first server of a new cluster from a backup
    Restore(RestoreArgs),
    /// Go on with one surviving server when the majority is lost for ever
    Recover(RecoverArgs),
}

/// `store up`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    store up\n  \
    store up --servers 5 --dir /tmp/try --cport 5012 --sport 5011\n\n\
    Run again, it says what runs already and restarts what is down.")]
pub(crate) struct UpArgs {
    /// Servers in the cluster [default: those in the folder, at least 3]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64), value_name = "N")]
    pub(crate) servers: Option<u16>,
    /// Folder that holds one folder for each node
    #[arg(long, default_value = DEFAULT_DIR)]
    pub(crate) dir: PathBuf,
    /// The load balancer's port for clients (TCP) [default: 5002]
    #[arg(long, value_name = "PORT")]
    pub(crate) cport: Option<u16>,
    /// The load balancer's port for servers (UDP) [default: 5001]
    #[arg(long, value_name = "PORT")]
    pub(crate) sport: Option<u16>,
    /// Keep every segment of the log-file in its archive, for `store restore --until`; `=false`: no more
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, value_name = "BOOL")]
    pub(crate) keep_log: Option<bool>,
    /// Memory for items in MiB on each server, beyond which stores are refused; 0: no limit
    #[arg(short, long, value_name = "MIB")]
    pub(crate) memory_limit: Option<u32>,
    /// How the nodes write their logs: text or json
    #[arg(long, value_enum, hide_possible_values = true, default_value_t)]
    pub(crate) log_format: LogFormat,
}

/// Options that every node process has.
#[derive(Args, Clone, Debug)]
pub(crate) struct NodeArgs {
    /// Folder that holds one folder for each node
    #[arg(long, default_value = DEFAULT_DIR)]
    pub(crate) dir: PathBuf,
    /// Stay in the foreground, for systemd and containers
    #[arg(long)]
    pub(crate) foreground: bool,
    /// How the log is written: text or json
    #[arg(long, value_enum, hide_possible_values = true, default_value_t)]
    pub(crate) log_format: LogFormat,
    /// Report the start on standard output, one JSON object for each step
    #[arg(long, hide = true, requires = "foreground")]
    pub(crate) announce: bool,
}

/// `store addlb`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    store addlb\n  \
    store addlb --cip 192.168.1.10 --sip 192.168.1.10 --expect 3\n  \
    store addlb --policy round-robin   reads on all servers, linearizable as ever\n\n\
    --policy decides who answers the reads that are routed, and whom `get-servers` names first:\n  \
    leader        the leader, then the others by id\n  \
    round-robin   the next server with each question\n  \
    least-loaded  the server with the fewest unanswered reads; with the fewest connections\n\
    Writes are routed to the leader, every server takes every command, and all reads are\n\
    linearizable. `config get cluster` has the leader first whatever the policy is.\n\n\
    Run again on the folder of a stopped load balancer, it starts as it was, but for the options\n\
    that are given.")]
pub(crate) struct AddLbArgs {
    /// Address for clients [default: 127.0.0.1]
    #[arg(long, value_parser = values::ip, value_name = "IP")]
    pub(crate) cip: Option<IpAddr>,
    /// Port for clients (TCP) [default: 5002]
    #[arg(long, value_name = "PORT")]
    pub(crate) cport: Option<u16>,
    /// Address for servers [default: 127.0.0.1]
    #[arg(long, value_parser = values::ip, value_name = "IP")]
    pub(crate) sip: Option<IpAddr>,
    /// Port for servers (UDP) [default: 5001]
    #[arg(long, value_name = "PORT")]
    pub(crate) sport: Option<u16>,
    /// Fresh servers that make a new cluster [default: 2]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64), value_name = "N")]
    pub(crate) expect: Option<u16>,
    /// Who answers reads, and whom clients are sent to: leader, round-robin or least-loaded
    /// [default: leader]
    #[arg(long)]
    pub(crate) policy: Option<Policy>,
    /// Largest value that is routed, e.g. 512k or 2m: that of the servers [default: 1m]
    #[arg(short = 'I', long, value_parser = values::item_size, value_name = "SIZE")]
    pub(crate) max_item_size: Option<usize>,
    /// Its name and its folder's
    #[arg(long, default_value = "lb-1", value_parser = values::node_name)]
    pub(crate) name: String,
    /// What every node has.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// `store addsrv`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    store addsrv\n  \
    store addsrv --cport 7010 --sport 6010 --lbip 192.168.1.10\n  \
    store addsrv --name srv-2     restart a stopped server from its folder\n\n\
    Without --name, a new server gets the next free name. A default port that is taken moves\n\
    to the next free one; one that was asked for and is taken is an error. With --name, a stopped\n\
    server is started as it was, but for the options that are given.")]
pub(crate) struct AddSrvArgs {
    /// Address for clients [default: 127.0.0.1]
    #[arg(long, value_parser = values::ip, value_name = "IP")]
    pub(crate) cip: Option<IpAddr>,
    /// Port for clients (TCP) [default: 7000 + N for srv-N, or the next free one]
    #[arg(long, value_name = "PORT")]
    pub(crate) cport: Option<u16>,
    /// Address for other servers and load balancers [default: 127.0.0.1]
    #[arg(long, value_parser = values::ip, value_name = "IP")]
    pub(crate) sip: Option<IpAddr>,
    /// Port for other servers and load balancers (UDP) [default: 6000 + N for srv-N, or the next free one]
    #[arg(long, value_name = "PORT")]
    pub(crate) sport: Option<u16>,
    /// One load balancer's address for servers [default: all of the folder, or 127.0.0.1]
    #[arg(long, conflicts_with = "lb", value_name = "HOST")]
    pub(crate) lbip: Option<String>,
    /// Its port for servers [default: 5001]
    #[arg(long, conflicts_with = "lb", value_name = "PORT")]
    pub(crate) lbport: Option<u16>,
    /// Several load balancers, e.g. `a:5001,b:5001`; that with the smallest address
    /// may found a cluster
    #[arg(long, value_delimiter = ',', value_parser = values::remote, value_name = "HOST:PORT")]
    pub(crate) lb: Vec<SocketAddr>,
    /// Its name and its folder's [default: the next free srv-N]
    #[arg(long, value_parser = values::node_name)]
    pub(crate) name: Option<String>,
    /// A voter that was silent for so long is removed by the leader, never below two voters;
    /// 0: never [default: 30s]
    #[arg(long, value_parser = values::duration, value_name = "DURATION")]
    pub(crate) dead_after: Option<Duration>,
    /// Interval of the leader's heartbeats; shorter than the election timeout [default: 50ms]
    #[arg(long, value_parser = values::interval, value_name = "DURATION")]
    pub(crate) heartbeat: Option<Duration>,
    /// Range of the election timeout [default: 200ms..400ms]
    #[arg(long, value_parser = values::timeout_range, value_name = "RANGE")]
    pub(crate) election_timeout: Option<TimeoutRange>,
    /// Largest value, e.g. 512k or 2m [default: 1m]
    #[arg(short = 'I', long, value_parser = values::item_size, value_name = "SIZE")]
    pub(crate) max_item_size: Option<usize>,
    /// How long to wait for its vote while it syncs; it goes on in the background. 0: not at all
    #[arg(long, default_value = "60s", value_parser = values::duration, value_name = "DURATION")]
    pub(crate) wait: Duration,
    /// Tell each step as one JSON object per line
    #[arg(long, conflicts_with = "foreground")]
    pub(crate) json: bool,
    /// What becomes of its data.
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// What every node has.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// `store run`.
#[derive(Args, Debug)]
#[command(
    override_usage = "store run <PID> <CONFIG.JSON> <LOG-FILE> <KEYSTORE-FILE>\n       \
        store run --config <CONFIG.JSON> <PID> <LOG-FILE> <KEYSTORE-FILE>",
    after_help = "Example:\n  \
        store run 1 config.json log-1 keystore-1\n\n\
        Every server of the cluster needs the same configuration and the same key: copy `cluster.key`,\n\
        which the first start makes next to the configuration, to the other hosts."
)]
pub(crate) struct RunArgs {
    /// Which server of the configuration this one is
    pub(crate) pid: u64,
    /// The configuration (unless --config), the log-file, the keystore-file
    #[arg(num_args = 2..=3, required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// The cluster's configuration, in any of its JSON shapes
    #[arg(long)]
    pub(crate) config: Option<PathBuf>,
    /// The cluster key [default: cluster.key next to the configuration]
    #[arg(long)]
    pub(crate) key: Option<PathBuf>,
    /// Folder for the server's identity and lock [default: LOG-FILE.server]
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Interval of the leader's heartbeats [default: from the configuration, or 50ms]
    #[arg(long, value_parser = values::interval, value_name = "DURATION")]
    pub(crate) heartbeat: Option<Duration>,
    /// Range of the election timeout [default: from the configuration, or 200ms..400ms]
    #[arg(long, value_parser = values::timeout_range, value_name = "RANGE")]
    pub(crate) election_timeout: Option<TimeoutRange>,
    /// Largest value, e.g. 512k or 2m
    #[arg(short = 'I', long, default_value = "1m", value_parser = values::item_size, value_name = "SIZE")]
    pub(crate) max_item_size: usize,
    /// What becomes of its data.
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// How the log is written: text or json
    #[arg(long, value_enum, hide_possible_values = true, default_value_t)]
    pub(crate) log_format: LogFormat,
}

/// `store status`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  store status\n  store status --watch\n  \
    store status --json --lbip 192.168.1.10 --lbport 5002")]
pub(crate) struct StatusArgs {
    /// Whom to ask.
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// Again each second, with rates, until Ctrl-C
    #[arg(long)]
    pub(crate) watch: bool,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `store stop`.
#[derive(Args, Debug)]
pub(crate) struct StopArgs {
    /// The node, e.g. srv-2 or lb-1
    #[arg(value_parser = values::node_name)]
    pub(crate) name: String,
    /// Folder that holds the node's folder
    #[arg(long, default_value = DEFAULT_DIR)]
    pub(crate) dir: PathBuf,
}

/// `store down`.
#[derive(Args, Debug)]
pub(crate) struct DownArgs {
    /// Folder that holds the nodes' folders
    #[arg(long, default_value = DEFAULT_DIR)]
    pub(crate) dir: PathBuf,
}

/// How a server keeps its data, with a load balancer or without.
#[derive(Args, Clone, Debug)]
pub(crate) struct DataArgs {
    /// Growth of the log-file after which a checkpoint is written, if the data is not larger [default: 64m]
    #[arg(long, value_name = "SIZE", value_parser = values::checkpoint_after)]
    pub(crate) checkpoint_after: Option<u64>,
    /// Keep every segment of the log-file in its archive, for `store restore --until`; `=false`: no more
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, value_name = "BOOL")]
    pub(crate) keep_log: Option<bool>,
    /// Memory for items in MiB, beyond which stores are refused; 0: no limit [default: 0]
    #[arg(short, long, value_name = "MIB")]
    pub(crate) memory_limit: Option<u32>,
}

/// Collects the command line of a background process.
struct Line(Vec<OsString>);

impl Line {
    fn new(command: &str, node: &NodeArgs, dir: &Path, name: &str) -> Self {
        let mut line = Line(vec![command.into(), "--foreground".into(), "--announce".into()]);
        line.option("--dir", Some(dir.as_os_str()));
        line.option("--name", Some(name));
        line.option("--log-format", Some(node.log_format.as_str()));
        line
    }

    fn option(&mut self, name: &str, value: Option<impl Into<OsString>>) {
        if let Some(value) = value {
            // One word, so that a value may start with a dash.
            let mut word = OsString::from(name);
            word.push("=");
            word.push(value.into());
            self.0.push(word);
        }
    }
}

fn text(value: Option<impl ToString>) -> Option<String> {
    value.map(|value| value.to_string())
}

impl AddLbArgs {
    /// The same command for the background process.
    pub(crate) fn background_line(&self, dir: &Path) -> Vec<OsString> {
        let mut line = Line::new("addlb", &self.node, dir, &self.name);
        line.option("--cip", text(self.cip));
        line.option("--cport", text(self.cport));
        line.option("--sip", text(self.sip));
        line.option("--sport", text(self.sport));
        line.option("--expect", text(self.expect));
        line.option("--policy", text(self.policy));
        line.option("--max-item-size", text(self.max_item_size));
        line.0
    }
}

impl AddSrvArgs {
    /// The same command for the background process.
    pub(crate) fn background_line(&self, dir: &Path, name: &str) -> Vec<OsString> {
        let mut line = Line::new("addsrv", &self.node, dir, name);
        line.option("--cip", text(self.cip));
        line.option("--cport", text(self.cport));
        line.option("--sip", text(self.sip));
        line.option("--sport", text(self.sport));
        line.option("--lbip", self.lbip.as_deref());
        line.option("--lbport", text(self.lbport));
        for lb in &self.lb {
            line.option("--lb", Some(lb.to_string()));
        }
        let dead_after = self.dead_after.map(|value| format!("{}ms", value.as_millis()));
        line.option("--dead-after", dead_after);
        line.option("--heartbeat", self.heartbeat.map(|value| format!("{}ms", value.as_millis())));
        line.option(
            "--election-timeout",
            self.election_timeout.map(|range| format!("{}ms..{}ms", range.low_ms, range.high_ms)),
        );
        line.option("--max-item-size", text(self.max_item_size));
        line.option("--checkpoint-after", text(self.data.checkpoint_after));
        line.option("--keep-log", text(self.data.keep_log));
        line.option("--memory-limit", text(self.data.memory_limit));
        line.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_background_line_says_the_same_as_the_one_typed() {
        let typed = "store addsrv --cport 0 --sip ::1 --lb 127.0.0.1:1,127.0.0.1:2 --heartbeat 5ms \
                     --election-timeout 20ms..40ms --keep-log -I 2k -m 64 --checkpoint-after 1m \
                     --dir x --name srv-9";
        let Command::Addsrv(args) = Cli::parse_from(typed.split_whitespace()).command else {
            panic!("not addsrv");
        };
        let line = args.background_line(Path::new("/x"), "srv-9");
        let again = Cli::parse_from(std::iter::once("store".into()).chain(line));
        let Command::Addsrv(again) = again.command else { panic!("not addsrv") };
        assert_eq!(again.cport, args.cport);
        assert_eq!(again.sip, args.sip);
        assert_eq!(again.lb, args.lb);
        assert_eq!(again.heartbeat, args.heartbeat);
        assert_eq!(again.election_timeout, args.election_timeout);
        assert_eq!(again.max_item_size, args.max_item_size);
        assert_eq!(again.data.checkpoint_after, args.data.checkpoint_after);
        assert_eq!((again.data.keep_log, args.data.keep_log), (Some(true), Some(true)));
        assert_eq!((again.data.memory_limit, args.data.memory_limit), (Some(64), Some(64)));
        assert_eq!(again.name, args.name);
        assert!(again.node.foreground && again.node.announce);
    }
}
