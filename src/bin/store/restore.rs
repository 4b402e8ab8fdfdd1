//! `store restore` and `store recover`: new clusters from a backup, and from
//! what is left of one.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::Path;

use common::ids::ClusterId;
use common::udp::ClusterKey;
use lb::memory::{self, Memory};
use server::backup;
use server::offline::State;
use server::restore::{self, Founder, Survivor};

use crate::addsrv::{DEFAULT_ELECTION_TIMEOUT, DEFAULT_HEARTBEAT_MS};
use crate::args::{DEFAULT_DIR, RecoverArgs, RestoreArgs, SERVER_CLIENT_PORT, SERVER_PEER_PORT};
use crate::failure::{Failure, Outcome, say};
use crate::home::{DEFAULT_DEAD_AFTER_MS, Home, ServerSettings, Settings, split_number};
use crate::lookup::Files;
use crate::sockets::{self, CLIENT_OPTIONS, Port, SERVER_OPTIONS};
use crate::table;
use crate::time;

/// The name of a load balancer, unless told otherwise.
const LB_NAME: &str = "lb-1";

/// `store restore`.
pub(crate) fn restore(args: &RestoreArgs) -> Outcome {
    let home = Home::at(&args.dir)?;
    refuse_used(&home)?;
    let state = state(args)?;
    let (client, peer) = addresses(args)?;
    let home = Home::create(&args.dir)?;
    let _lock = home.lock_commands()?;
    ClusterKey::load_or_create(&home.key_file())
        .map_err(|error| Failure::refused(error.to_string()))?;
    let founder = Founder { name: args.name.clone(), peer, client };
    let node = home.node(&args.name);
    // Beside, then renamed: a server's folder is complete or not there.
    let beside = home.node(&format!("{}.restoring", args.name));
    let failed = |error: io::Error| {
        Failure::refused(format!("cannot make the folder {}: {error}", node.dir.display()))
    };
    remove(&beside.dir).map_err(failed)?;
    let cluster =
        restore::found(&beside.dir, &founder, &state).inspect_err(|_| drop(remove(&beside.dir)))?;
    beside.record(&Settings::Server(ServerSettings {
        client,
        peer,
        lbs: Vec::new(),
        dead_after_ms: DEFAULT_DEAD_AFTER_MS,
        heartbeat_ms: DEFAULT_HEARTBEAT_MS,
        election_timeout: DEFAULT_ELECTION_TIMEOUT,
        max_item_bytes: common::limits::DEFAULT_MAX_VALUE_BYTES,
        keep_log: false,
        memory_limit_mib: 0,
        checkpoint_after_bytes: common::limits::DEFAULT_CHECKPOINT_AFTER,
        registered: true,
    }))?;
    fs::rename(&beside.dir, &node.dir)
        .and_then(|()| File::open(home.dir())?.sync_all())
        .map_err(failed)?;
    // A load balancer that knows nothing might make a cluster of fresh servers
    // before this one has read its files.
    remember(&home, LB_NAME, cluster)?;
    say!(
        "{} holds {} items ({}) as of entry {} (term {}, {}), as the first server of the new \
         cluster {cluster}.",
        node.dir.display(),
        state.keystore.len(),
        table::bytes(state.keystore.memory_bytes()),
        state.meta.index,
        state.meta.term,
        time::shown(state.keystore.clock_ms())
    );
    let dir = match args.dir == Path::new(DEFAULT_DIR) {
        true => String::new(),
        false => format!(" --dir {}", args.dir.display()),
    };
    say!("\nType next, for a whole cluster on this machine:\n  store up{dir}");
    say!(
        "or, by hand:\n  store addlb{dir}\n  store addsrv{dir} --name {}\nand then on this or other \
         hosts, for each further server (it fetches everything from the first):\n  store addsrv{dir}",
        args.name
    );
    Ok(())
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A folder that holds anything is somebody's.
fn refuse_used(home: &Home) -> Outcome {
    let entries = match fs::read_dir(home.dir()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(Failure::usage(format!("cannot read {}: {error}", home.dir().display())));
        }
    };
    let foreign = |name: &OsString| {
        let own = ["cluster.key", "commands.lock"].iter().any(|known| name == *known);
        !own && !name.to_string_lossy().ends_with(".restoring")
    };
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    names.retain(foreign);
    if let Some(name) = names.iter().min() {
        return Err(Failure::refused(format!(
            "{} is not empty, it holds {}: a restore makes a new cluster and touches no other; \
             choose another folder with --dir",
            home.dir().display(),
            name.display()
        )));
    }
    Ok(())
}

fn state(args: &RestoreArgs) -> Outcome<State> {
    let mut state = match &args.file {
        None => State::empty(),
        Some(file) => {
            let read = backup::read(file).map_err(|error| Failure::refused(error.to_string()))?;
            say!(
                "{} is whole: {} items as of entry {}, taken {} from {}.",
                file.display(),
                read.about.items,
                read.about.index,
                time::shown(read.about.taken_ms),
                read.about.server
            );
            State { keystore: read.keystore, meta: read.meta }
        }
    };
    if let Some(dir) = &args.log {
        let files = Files::find(dir, "restore --log")?;
        let replayed = restore::replay(&mut state, &files.log, args.until)?;
        say!("{replayed} entries from {} were applied on top.", files.log.display());
    }
    Ok(state)
}

/// Where the server will be found: recorded in the membership, so they are to
/// be free now.
fn addresses(args: &RestoreArgs) -> Outcome<(SocketAddr, SocketAddr)> {
    let number = match split_number(&args.name) {
        ("srv-", number @ 1..=999) => number as u16,
        _ => 1,
    };
    let port = |asked, first: u16| Port::choose(asked, None, Port::From(first + number - 1));
    let client = port(args.cport, SERVER_CLIENT_PORT);
    let client = sockets::bind_clients(args.cip, client, CLIENT_OPTIONS)?;
    let peer = port(args.sport, SERVER_PEER_PORT);
    let peer = sockets::bind_servers(args.sip, peer, SERVER_OPTIONS)?;
    let address = |result: io::Result<_>| {
        result.map_err(|error| Failure::refused(format!("a socket has no address: {error}")))
    };
    Ok((address(client.local_addr())?, address(peer.local_addr())?))
}

/// The load balancer `name` of the folder belongs to `cluster` from now on.
fn remember(home: &Home, name: &str, cluster: ClusterId) -> Outcome {
    let dir = home.node(name).dir;
    fs::create_dir_all(&dir)
        .map_err(|error| Failure::refused(format!("cannot make {}: {error}", dir.display())))?;
    Ok(memory::save(&dir, &Memory { cluster: Some(cluster), voters: Vec::new() })?)
}

/// `store recover`.
pub(crate) fn recover(args: &RecoverArgs) -> Outcome {
    let files = Files::find(&args.dir, "recover")?;
    if let Some(Settings::Fixed(_)) = files.node.settings()? {
        return Err(Failure::refused(format!(
            "{} belongs to a fixed cluster, whose members are those of its configuration: take a \
             backup with `store backup FILE --dir {}` and make a new cluster of it with \
             `store restore FILE`",
            args.dir.display(),
            args.dir.display()
        )));
    }
    let dir = std::path::absolute(&args.dir)
        .map_err(|error| Failure::usage(format!("{}: {error}", args.dir.display())))?;
    let home = Home::at(dir.parent().unwrap_or(&dir))?;
    let lbs: Vec<_> = home.load_balancers()?.into_iter().map(|(node, _)| node).collect();
    if let Some((lb, pid)) = lbs.iter().find_map(|lb| Some((lb, lb.running()?))) {
        return Err(Failure::refused(format!(
            "{} runs (pid {pid}) and remembers the lost cluster: stop everything first with \
             `store down --dir {}`",
            lb.name,
            home.dir().display()
        )));
    }
    let survivor = Survivor::open(&dir)?;
    describe(&survivor);
    if !args.i_understand_data_may_be_lost && !confirmed()? {
        return Err(Failure::refused("nothing was changed"));
    }
    let (name, others) = (survivor.identity().name.clone(), survivor.others());
    let cluster = survivor.recover()?;
    for lb in &lbs {
        remember(&home, &lb.name, cluster)?;
    }
    say!("{name} is the only voter of the new cluster {cluster}.");
    if !others.is_empty() {
        say!("Never start {} again; move their folders away.", others.join(" and "));
    }
    if lbs.is_empty() {
        say!(
            "A load balancer elsewhere remembers the lost cluster: stop it and remove `lb-memory` in \
             its folder, start it and then {name}."
        );
    }
    say!(
        "Type next:\n  store addlb --dir {home}\n  store addsrv --dir {home} --name {name}\n  \
         store addsrv --dir {home}        for each further server: it fetches everything from {name}",
        home = home.dir().display()
    );
    Ok(())
}

fn describe(survivor: &Survivor) {
    let identity = survivor.identity();
    let last = survivor.last();
    let cluster = identity.cluster.map_or("-".to_owned(), |id| id.to_string());
    let others = survivor.others();
    let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
    let rows = [
        ("server", format!("{} of cluster {cluster}", identity.name)),
        ("last entry", format!("{} of term {}", last.index, last.term)),
        ("last change", time::shown(survivor.clock_ms())),
        ("known to be committed", format!("up to entry {}", survivor.commit())),
        ("items in its checkpoint", survivor.items().to_string()),
        ("other members", others),
    ];
    for (what, value) in rows {
        say!("{what:>24}  {value}");
    }
    for loss in survivor.losses() {
        say!("{:>24}  {loss}", "damaged");
    }
    say!(
        "\nThis makes a new cluster of what this server holds. Do it only if the majority of the \
         servers is lost for ever:\n\
         - What was acknowledged, but had not reached this server, is lost.\n\
         - If other members still run, or start again, there are two clusters from then on, with \
         different data.\n\
         - There is no way back: copy the folder first."
    );
}

fn confirmed() -> Outcome<bool> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(
            "nothing was changed: nobody is here to be asked; to go on all the same, add \
             --i-understand-data-may-be-lost",
        ));
    }
    let mut answer = String::new();
    let mut out = io::stdout();
    out.write_all(b"Type `yes` to go on: ")
        .and_then(|()| out.flush())
        .and_then(|()| io::stdin().read_line(&mut answer))
        .map_err(|error| Failure::refused(format!("nothing was changed: {error}")))?;
    Ok(answer.trim() == "yes")
}
