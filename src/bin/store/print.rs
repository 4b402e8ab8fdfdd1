//! `store log` and `store keystore`: the files of a server in the promised
//! formats, whether it runs or not.

use std::io::{self, BufWriter, ErrorKind};
use std::path::{Path, PathBuf};

use server::print::{PrintError, PrintOptions, print_keystore_file, print_log_file};

use crate::args::{KeystoreArgs, LogArgs};
use crate::failure::{Failure, Outcome};
use crate::home::{Home, Node, Settings};

/// `store log DIR`.
pub(crate) fn log(args: &LogArgs) -> Outcome {
    let files = files(&args.dir, "log")?;
    if let (Some(from), Some(to)) = (args.from, args.to)
        && from > to
    {
        return Err(Failure::usage(format!("--from {from} is after --to {to}")));
    }
    let options = PrintOptions { from: args.from, to: args.to, all: args.all };
    let mut out = BufWriter::new(io::stdout().lock());
    finished(print_log_file(&files.log, &mut out, options))
}

/// `store keystore DIR`.
pub(crate) fn keystore(args: &KeystoreArgs) -> Outcome {
    let files = files(&args.dir, "keystore")?;
    let mut out = BufWriter::new(io::stdout().lock());
    finished(print_keystore_file(&files.keystore, &files.log, &mut out))
}

/// The files of a server.
struct Files {
    log: PathBuf,
    keystore: PathBuf,
}

/// Finds them in a server's folder; a data folder gets a hint at its servers.
fn files(dir: &Path, command: &str) -> Outcome<Files> {
    if !dir.is_dir() {
        return Err(Failure::usage(format!(
            "{} is no folder: give a server's, e.g. `store {command} store-data/srv-1`",
            dir.display()
        )));
    }
    let node = Node { name: String::new(), dir: dir.to_owned() };
    if let Some(Settings::Fixed(server)) = node.settings()? {
        return Ok(Files { log: server.log_file, keystore: server.keystore_file });
    }
    if dir.join("log-file").exists() || dir.join("identity").exists() {
        return Ok(Files { log: dir.join("log-file"), keystore: dir.join("keystore-file") });
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
        "{} holds several nodes; choose a server:\n{}",
        dir.display(),
        lines.join("\n")
    )))
}

/// A reader that goes away (`| head`) has read enough.
fn finished(result: Result<(), PrintError>) -> Outcome {
    match result {
        Err(PrintError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::refused(error.to_string())),
        Ok(()) => Ok(()),
    }
}
