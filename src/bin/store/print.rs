//! `store log` and `store keystore`: the files of a server in the promised
//! formats, whether it runs or not.

use std::io::{self, BufWriter, ErrorKind};
use std::path::{Path, PathBuf};

use crate::args::{KeystoreArgs, LogArgs};
use crate::failure::{Failure, Outcome};
use crate::home::Home;

/// `store log DIR`.
pub(crate) fn log(args: &LogArgs) -> Outcome {
    let dir = server_folder(&args.dir, "log")?;
    if let (Some(from), Some(to)) = (args.from, args.to)
        && from > to
    {
        return Err(Failure::usage(format!("--from {from} is after --to {to}")));
    }
    let _ = dir;
    Ok(())
}

/// `store keystore DIR`.
pub(crate) fn keystore(args: &KeystoreArgs) -> Outcome {
    let dir = server_folder(&args.dir, "keystore")?;
    let _ = dir;
    Ok(())
}

/// A server's folder; a data folder gets a hint at its servers.
fn server_folder(dir: &Path, command: &str) -> Outcome<PathBuf> {
    if !dir.is_dir() {
        return Err(Failure::usage(format!(
            "{} is no folder: give a server's, e.g. `store {command} store-data/srv-1`",
            dir.display()
        )));
    }
    if dir.join("log-file").exists() || dir.join("identity").exists() {
        return Ok(dir.to_owned());
    }
    let servers = Home::at(dir)?.servers()?;
    if servers.is_empty() {
        return Err(Failure::usage(format!(
            "{} is not a server's folder: it holds neither `identity` nor `log-file`",
            dir.display()
        )));
    }
    let lines: Vec<_> = servers
        .iter()
        .map(|(node, _)| format!("  store {command} {}", dir.join(&node.name).display()))
        .collect();
    Err(Failure::usage(format!(
        "{} holds several servers; choose one:\n{}",
        dir.display(),
        lines.join("\n")
    )))
}

/// A reader that goes away (`| head`) has read enough.
fn finished(result: anyhow::Result<()>) -> Outcome {
    match result {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        other => other.map_err(Failure::from),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == ErrorKind::BrokenPipe)
}
