//! The commands that are one request.

use std::io::{Read, Write};

use common::memcached::StoreVerb;

use super::args::{Addresses, Command, GetArgs, bytes};
use super::{Console, DONE, SAID_NO, Stop, UNREACHABLE};
use crate::bench::{self, BenchArgs};
use crate::cluster::{Cluster, Outcome};
use crate::connection::Value;
use crate::error::Error;
use crate::router::Options;

/// A value on its way into the store, as typed.
pub(crate) struct Item<'a> {
    pub(crate) verb: StoreVerb,
    pub(crate) key: &'a [u8],
    pub(crate) flags: u32,
    pub(crate) exptime: i64,
    pub(crate) value: &'a [u8],
}

pub(crate) async fn run(
    command: &Command,
    cluster: &mut Cluster,
    max_value_bytes: usize,
    console: &mut Console<'_>,
) -> Result<u8, Stop> {
    let (verb, args) = match command {
        Command::Get(args) => return get_command(cluster, args, false, console).await,
        Command::Gets(args) => return get_command(cluster, args, true, console).await,
        Command::Delete(args) => return delete(cluster, &args.key(), console).await,
        Command::Incr(args) => {
            let number = cluster.incr(bytes(&args.key), args.delta).await?;
            return print_number(number, console);
        }
        Command::Decr(args) => {
            let number = cluster.decr(bytes(&args.key), args.delta).await?;
            return print_number(number, console);
        }
        Command::Stats { what } => return stats(cluster, &what.join(" "), console).await,
        Command::Version => {
            let text = cluster.version().await?;
            writeln!(console.stdout, "{text}")?;
            return Ok(DONE);
        }
        Command::Cas(args) => {
            let value = read_value(bytes(&args.value), max_value_bytes, console)?;
            let (key, verb) = (bytes(&args.key), StoreVerb::Cas(args.token));
            let (flags, exptime) = (args.flags, args.exptime);
            let item = Item { verb, key: &key, flags, exptime, value: &value };
            return store(cluster, &item, console).await;
        }
        // Both need more than one request; the caller runs them.
        Command::Shell | Command::Bench(_) => return Ok(DONE),
        Command::Set(args) => (StoreVerb::Set, args),
        Command::Add(args) => (StoreVerb::Add, args),
        Command::Replace(args) => (StoreVerb::Replace, args),
        Command::Append(args) => (StoreVerb::Append, args),
        Command::Prepend(args) => (StoreVerb::Prepend, args),
    };
    let value = read_value(args.value(), max_value_bytes, console)?;
    let (key, flags, exptime) = (args.key(), args.flags, args.exptime);
    store(cluster, &Item { verb, key: &key, flags, exptime, value: &value }, console).await
}

/// `-` stands for what comes on standard input.
fn read_value(
    typed: Vec<u8>,
    max_value_bytes: usize,
    console: &mut Console<'_>,
) -> Result<Vec<u8>, Stop> {
    if typed != b"-" {
        return Ok(typed);
    }
    let mut value = Vec::new();
    let limit = max_value_bytes as u64 + 1;
    Read::take(&mut *console.stdin, limit).read_to_end(&mut value)?;
    if value.len() > max_value_bytes {
        let (bytes, limit) = (value.len(), Some(max_value_bytes));
        return Err(Error::TooLarge { bytes, limit }.into());
    }
    Ok(value)
}

pub(crate) async fn store(
    cluster: &mut Cluster,
    item: &Item<'_>,
    console: &mut Console<'_>,
) -> Result<u8, Stop> {
    let key = item.key.escape_ascii();
    let outcome = cluster.store(item.verb, item.key, item.flags, item.exptime, item.value).await?;
    match (outcome, item.verb) {
        (Outcome::Stored, _) => {
            writeln!(console.stdout, "Success")?;
            return Ok(DONE);
        }
        (Outcome::NotStored, StoreVerb::Add) => {
            writeln!(console.stderr, "not stored: `{key}` exists already")?;
        }
        (Outcome::NotStored, _) => {
            writeln!(console.stderr, "not stored: there is no `{key}`")?;
        }
        (Outcome::Exists, _) => {
            writeln!(
                console.stderr,
                "not stored: `{key}` was changed since that token; `client gets {key}` prints the new one"
            )?;
        }
        (Outcome::NotFound, _) => writeln!(console.stderr, "not found: {key}")?,
    }
    Ok(SAID_NO)
}

async fn get_command(
    cluster: &mut Cluster,
    args: &GetArgs,
    with_cas: bool,
    console: &mut Console<'_>,
) -> Result<u8, Stop> {
    let keys = args.keys();
    if args.value_only && keys.len() != 1 {
        return Err(Stop::Usage("--value-only takes exactly one key".into()));
    }
    let style = match (args.value_only, args.raw) {
        (true, _) => Style::ValueOnly,
        (false, true) => Style::Raw,
        (false, false) => Style::Escaped,
    };
    get(cluster, &keys, with_cas, style, console).await
}

/// How hits are printed.
#[derive(Clone, Copy)]
pub(crate) enum Style {
    Escaped,
    Raw,
    ValueOnly,
}

pub(crate) async fn get(
    cluster: &mut Cluster,
    keys: &[Vec<u8>],
    with_cas: bool,
    style: Style,
    console: &mut Console<'_>,
) -> Result<u8, Stop> {
    let hits = if with_cas { cluster.gets(keys).await? } else { cluster.get(keys).await? };
    for hit in &hits {
        print_hit(hit, style, console)?;
    }
    let mut code = DONE;
    for key in keys {
        if !hits.iter().any(|hit| hit.key == *key) {
            writeln!(console.stderr, "not found: {}", key.escape_ascii())?;
            code = SAID_NO;
        }
    }
    Ok(code)
}

fn print_hit(hit: &Value, style: Style, console: &mut Console<'_>) -> std::io::Result<()> {
    let out = &mut console.stdout;
    if matches!(style, Style::ValueOnly) {
        return out.write_all(&hit.value);
    }
    out.write_all(&hit.key)?;
    out.write_all(b" ")?;
    if let Some(token) = hit.cas {
        write!(out, "{token} ")?;
    }
    match (style, plain_text(&hit.value)) {
        (Style::Escaped, None) => write!(out, "{}", hit.value.escape_ascii())?,
        _ => out.write_all(&hit.value)?,
    }
    out.write_all(b"\n")
}

/// The value, if a terminal can show it on one line as it is.
fn plain_text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().filter(|text| !text.chars().any(char::is_control))
}

pub(crate) async fn delete(
    cluster: &mut Cluster,
    key: &[u8],
    console: &mut Console<'_>,
) -> Result<u8, Stop> {
    if cluster.delete(key).await? {
        writeln!(console.stdout, "Deleted")?;
        return Ok(DONE);
    }
    writeln!(console.stderr, "not found: {}", key.escape_ascii())?;
    Ok(SAID_NO)
}

pub(crate) fn print_number(number: Option<u64>, console: &mut Console<'_>) -> Result<u8, Stop> {
    match number {
        Some(number) => {
            writeln!(console.stdout, "{number}")?;
            Ok(DONE)
        }
        None => {
            writeln!(console.stderr, "not found: set the key to a number first")?;
            Ok(SAID_NO)
        }
    }
}

pub(crate) async fn stats(
    cluster: &mut Cluster,
    what: &str,
    console: &mut Console<'_>,
) -> Result<u8, Stop> {
    for (name, value) in cluster.stats(what).await? {
        writeln!(console.stdout, "{name} {value}")?;
    }
    Ok(DONE)
}

/// Measures, prints for people on stdout, and writes JSON where it was asked for.
pub(crate) fn bench(
    args: &BenchArgs,
    addresses: &Addresses,
    options: &Options,
    console: &mut Console<'_>,
) -> Result<u8, Stop> {
    let plan = args.plan().map_err(Stop::Usage)?;
    let targets = match addresses {
        Addresses::Lbs(lbs) => bench::Targets::discovered(lbs.clone(), options, args.spread)?,
        Addresses::Servers(servers) => bench::Targets::fixed(servers.clone()),
    };
    let report = bench::run(&plan, targets)?;
    match args.json.as_deref() {
        Some("-") => writeln!(console.stdout, "{}", report.to_json())?,
        Some(file) => {
            std::fs::write(file, report.to_json() + "\n").map_err(|error| {
                std::io::Error::new(error.kind(), format!("cannot write {file}: {error}"))
            })?;
            write!(console.stdout, "{report}")?;
        }
        None => write!(console.stdout, "{report}")?,
    }
    Ok(if report.ops == 0 { UNREACHABLE } else { DONE })
}
