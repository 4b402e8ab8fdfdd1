//! `store log` and `store keystore`: the files of a server in the promised
//! formats, whether it runs or not.

use std::io::{self, BufWriter, ErrorKind};

use server::print::{
    ItemOptions, PrintError, PrintOptions, follow_log_file, print_keystore_file, print_log_file,
};

use crate::args::{KeystoreArgs, LogArgs};
use crate::failure::{Failure, Outcome};
use crate::lookup::Files;

/// `store log DIR`.
pub(crate) fn log(args: &LogArgs) -> Outcome {
    let files = Files::find(&args.dir, "log")?;
    in_order(args.from, args.to)?;
    let options = PrintOptions { from: args.from, to: args.to, all: args.all, json: args.json };
    let mut out = BufWriter::new(io::stdout().lock());
    finished(match args.follow {
        false => print_log_file(&files.log, &mut out, options),
        true => follow_log_file(&files.log, &mut out, options, || files.node.running().is_some()),
    })
}

/// `store keystore DIR`.
pub(crate) fn keystore(args: &KeystoreArgs) -> Outcome {
    let files = Files::find(&args.dir, "keystore")?;
    in_order(args.from.as_deref(), args.to.as_deref())?;
    let key = |text: &Option<String>| text.as_ref().map(|text| text.as_bytes().to_vec());
    let options = ItemOptions { from: key(&args.from), to: key(&args.to), json: args.json };
    let mut out = BufWriter::new(io::stdout().lock());
    finished(print_keystore_file(&files.keystore, &files.log, &mut out, &options))
}

fn in_order<T: PartialOrd + std::fmt::Display>(from: Option<T>, to: Option<T>) -> Outcome {
    match (from, to) {
        (Some(from), Some(to)) if from > to => {
            Err(Failure::usage(format!("--from {from} is after --to {to}")))
        }
        _ => Ok(()),
    }
}

/// A reader that goes away (`| head`) has read enough.
fn finished(result: Result<(), PrintError>) -> Outcome {
    match result {
        Err(PrintError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::refused(error.to_string())),
        Ok(()) => Ok(()),
    }
}
