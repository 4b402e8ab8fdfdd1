//! Options of the commands that look at files, and bring data to safety.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

use super::DEFAULT_DIR;
use crate::time::Until;
use crate::values;

/// Whom a command asks about a running cluster.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClusterArgs {
    /// Folder whose load balancer is asked
    #[arg(long, default_value = DEFAULT_DIR)]
    pub(crate) dir: PathBuf,
    /// The load balancer's address for clients [default: from the folder, or 127.0.0.1]
    #[arg(long, value_name = "HOST")]
    pub(crate) lbip: Option<String>,
    /// The load balancer's port for clients [default: from the folder, or 5002]
    #[arg(long, value_name = "PORT")]
    pub(crate) lbport: Option<u16>,
}

/// `store log`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  store log store-data/srv-1\n  \
    store log store-data/srv-1 --from 10 --to 20 --all\n  \
    store log store-data/srv-1 --follow --json")]
pub(crate) struct LogArgs {
    /// The server's folder, e.g. store-data/srv-1 (of `store run`: LOG-FILE.server)
    pub(crate) dir: PathBuf,
    /// Also entries that store nothing: no-ops and memberships
    #[arg(long)]
    pub(crate) all: bool,
    /// First index
    #[arg(long)]
    pub(crate) from: Option<u64>,
    /// Last index
    #[arg(long)]
    pub(crate) to: Option<u64>,
    /// Go on with entries as they are committed, until Ctrl-C or the server stops
    #[arg(long)]
    pub(crate) follow: bool,
    /// One JSON object for each entry
    #[arg(long)]
    pub(crate) json: bool,
}

/// `store keystore`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  store keystore store-data/srv-1\n  \
    store keystore store-data/srv-1 --from user: --to user:zzz --json")]
pub(crate) struct KeystoreArgs {
    /// The server's folder, e.g. store-data/srv-1 (of `store run`: LOG-FILE.server)
    pub(crate) dir: PathBuf,
    /// First key
    #[arg(long)]
    pub(crate) from: Option<String>,
    /// Last key
    #[arg(long)]
    pub(crate) to: Option<String>,
    /// One JSON object for each item
    #[arg(long)]
    pub(crate) json: bool,
}

/// `store verify`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  store verify store-data            every server in it\n  \
    store verify store-data/srv-1\n  store verify monday.backup\n\n\
    Exit codes: 0 everything is well, 1 something is not. Of a server that runs, what it writes\n\
    at that moment is left out.")]
pub(crate) struct VerifyArgs {
    /// Servers' folders, data folders, backups
    #[arg(required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `store backup`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  store backup monday.backup\n  \
    store backup monday.backup --name srv-2 --lbip 192.168.1.10\n  \
    store backup - | zstd > monday.backup.zst\n  \
    store backup monday.backup --server 127.0.0.1:6001 --key cluster.key   without a load balancer\n  \
    store backup monday.backup --dir store-data/srv-1                       of a stopped server\n\n\
    The file holds everything that was acknowledged before the command was started, as of one\n\
    index of the log. Check it with `store verify FILE`, use it with `store restore FILE`.")]
pub(crate) struct BackupArgs {
    /// The file to write; `-`: standard output
    pub(crate) file: PathBuf,
    /// Whom to ask; `--dir` also takes the folder of one server, running or not
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// The server to take it from [default: the follower that is furthest along]
    #[arg(long, value_parser = values::node_name)]
    pub(crate) name: Option<String>,
    /// The address for servers (UDP) of the server to take it from
    #[arg(long, value_parser = values::remote, conflicts_with = "name")]
    pub(crate) server: Option<SocketAddr>,
    /// The cluster key [default: cluster.key in the data folder]
    #[arg(long)]
    pub(crate) key: Option<PathBuf>,
    /// Overwrite the file
    #[arg(long)]
    pub(crate) force: bool,
}

/// `store restore`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    store restore monday.backup --dir new-data && store up --dir new-data\n  \
    store restore monday.backup --dir new-data --log old-data/srv-1 --until 2026-03-01T12:00:00Z\n  \
    store restore --log old-data/srv-1 --until 123456 --dir new-data\n\n\
    Makes a data folder with one server, which alone is a new cluster that holds the data. Start it\n\
    with `store up --dir DIR`, or with `store addlb --dir DIR` and `store addsrv --dir DIR --name srv-1`;\n\
    servers that are added then fetch everything from it.\n\n\
    With --log, the entries that another server has kept are applied on top (see --keep-log), up to\n\
    --until: an index, a time like 2026-03-01T12:00:00Z, or seconds since 1970 like @1772366400.")]
pub(crate) struct RestoreArgs {
    /// The backup; without one, --log must reach back to the first entry
    #[arg(required_unless_present = "log")]
    pub(crate) file: Option<PathBuf>,
    /// Data folder to make; it must be empty, but for a cluster.key
    #[arg(long, default_value = DEFAULT_DIR)]
    pub(crate) dir: PathBuf,
    /// The server's name and its folder's
    #[arg(long, default_value = "srv-1", value_parser = values::node_name)]
    pub(crate) name: String,
    /// The server's address for clients
    #[arg(long, default_value = "127.0.0.1", value_parser = values::ip, value_name = "IP")]
    pub(crate) cip: IpAddr,
    /// The server's port for clients (TCP) [default: 7000 + N for srv-N, or the next free one]
    #[arg(long, value_name = "PORT")]
    pub(crate) cport: Option<u16>,
    /// The server's address for other servers and load balancers
    #[arg(long, default_value = "127.0.0.1", value_parser = values::ip, value_name = "IP")]
    pub(crate) sip: IpAddr,
    /// The server's port for other servers and load balancers (UDP) [default: 6000 + N for srv-N, or
    /// the next free one]
    #[arg(long, value_name = "PORT")]
    pub(crate) sport: Option<u16>,
    /// A server's folder whose entries are applied on top of the backup
    #[arg(long)]
    pub(crate) log: Option<PathBuf>,
    /// Where to stop: an index, a time, or @seconds [default: the last entry]
    #[arg(long, requires = "log", value_parser = crate::time::until)]
    pub(crate) until: Option<Until>,
}

/// `store recover`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  store recover store-data/srv-2\n\n\
    Only when the majority of the servers is lost for ever. What this server holds becomes a new\n\
    cluster, in which it is the only voter; what it had not received is lost, even if it was\n\
    acknowledged. The other members are refused from then on: never start them again, add new servers\n\
    with `store addsrv`.")]
pub(crate) struct RecoverArgs {
    /// The surviving server's folder, e.g. store-data/srv-2
    pub(crate) dir: PathBuf,
    /// Do it without asking
    #[arg(long)]
    pub(crate) i_understand_data_may_be_lost: bool,
}
