//! The command `client`, from arguments to exit code, free of processes so
//! that tests can run it.

mod args;
mod commands;
mod shell;

use std::ffi::OsString;
use std::io::{self, BufRead, Write};

use clap::Parser;

pub(crate) use args::{Addresses, duration};

use crate::cluster::Cluster;
use crate::error::Error;
use crate::router::Options;
use args::{Arguments, Command};

/// Done.
pub(crate) const DONE: u8 = 0;
/// The store said no: not found, not stored, refused.
pub(crate) const SAID_NO: u8 = 1;
/// The command line cannot be understood.
pub(crate) const USAGE: u8 = 2;
/// The store cannot be reached, or the outcome of a write is unknown.
pub(crate) const UNREACHABLE: u8 = 3;

/// What the command reads and writes.
pub struct Console<'a> {
    /// Values that are given as `-`, and the lines of the shell.
    pub stdin: &'a mut dyn BufRead,
    /// Results.
    pub stdout: &'a mut dyn Write,
    /// Notes and errors.
    pub stderr: &'a mut dyn Write,
    /// Whether a person types: the shell shows a prompt only then.
    pub interactive: bool,
}

/// Why a command ends early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The arguments do not fit together.
    Usage(String),
    /// The store.
    Store(Error),
    /// stdin, stdout or a file.
    Io(io::Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Store(error)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Io(error)
    }
}

/// The exit code that an error stands for.
pub(crate) fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Unreachable { .. } | Error::OutcomeUnknown { .. } => UNREACHABLE,
        Error::InvalidKey { .. } => USAGE,
        Error::ServerError(_) | Error::ClientError(_) | Error::TooLarge { .. } => SAID_NO,
    }
}

/// Runs `client` with `arguments` (the first is the name of the command) and
/// gives its exit code: 0 done, 1 the store said no, 2 usage, 3 unreachable
/// or outcome unknown.
pub fn run(arguments: impl IntoIterator<Item = OsString>, console: &mut Console<'_>) -> u8 {
    let arguments = match Arguments::try_parse_from(args::normalise(arguments)) {
        Ok(arguments) => arguments,
        Err(error) => return explain(&error, console),
    };
    let code = match execute(&arguments, console) {
        Ok(code) => code,
        Err(Stop::Usage(text)) => {
            let _ = writeln!(console.stderr, "Error: {text}");
            USAGE
        }
        Err(Stop::Store(error)) => {
            let _ = writeln!(console.stderr, "Error: {error}");
            exit_code(&error)
        }
        // The reader of a pipe has seen enough.
        Err(Stop::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => DONE,
        Err(Stop::Io(error)) => {
            let _ = writeln!(console.stderr, "Error: {error}");
            SAID_NO
        }
    };
    match console.stdout.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let _ = writeln!(console.stderr, "Error: cannot write the result: {error}");
            code.max(SAID_NO)
        }
        _ => code,
    }
}

fn explain(error: &clap::Error, console: &mut Console<'_>) -> u8 {
    if error.use_stderr() {
        let _ = write!(console.stderr, "{error}");
        USAGE
    } else {
        let _ = write!(console.stdout, "{error}");
        let _ = console.stdout.flush();
        DONE
    }
}

fn execute(arguments: &Arguments, console: &mut Console<'_>) -> Result<u8, Stop> {
    let addresses = arguments.target.addresses().map_err(Stop::Usage)?;
    let options = Options { deadline: arguments.target.timeout, ..Options::default() };
    if let Command::Bench(bench) = &arguments.command {
        return commands::bench(bench, &addresses, &options, console);
    }
    let max_value_bytes = options.max_value_bytes;
    let mut cluster = match addresses {
        Addresses::Lbs(lbs) => Cluster::new(lbs, options),
        Addresses::Servers(servers) => Cluster::with_servers(servers, options),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match &arguments.command {
        Command::Shell => shell::run(&runtime, &mut cluster, console),
        command => runtime.block_on(commands::run(command, &mut cluster, max_value_bytes, console)),
    }
}

#[cfg(test)]
mod tests;
