//! `client shell`: a line is a command, one connection for all of them.

use std::io::{BufRead, Read};

use common::memcached::StoreVerb;
use tokio::runtime::Runtime;

use super::commands::{self, Item, Style};
use super::{Console, DONE, Stop, USAGE, exit_code};
use crate::cluster::Cluster;

/// Longest line: the largest value that a person would paste, and some room.
const MAX_LINE_BYTES: u64 = 2 * 1024 * 1024;

const HELP: &str = "\
get KEY...            print `key value` for each key that exists
gets KEY...           print `key token value`
set KEY VALUE         store; the value is the rest of the line
add KEY VALUE         store if the key is absent
replace KEY VALUE     store if the key is present
append KEY VALUE      add to the end of a present value
prepend KEY VALUE     add to the front of a present value
cas TOKEN KEY VALUE   store if unchanged since gets printed TOKEN
delete KEY            remove
incr KEY [N]          add to a number
decr KEY [N]          subtract from a number
stats [WHAT]          counters of the server
version               version of the server
help, quit
";

/// Reads commands to the end of the input or `quit`. At a prompt the exit
/// code is 0; a script gets the largest code of its lines.
pub(crate) fn run(
    runtime: &Runtime,
    cluster: &mut Cluster,
    console: &mut Console<'_>,
) -> Result<u8, Stop> {
    let mut worst = DONE;
    if console.interactive {
        writeln!(console.stdout, "`help` lists the commands, `quit` ends.")?;
    }
    loop {
        if console.interactive {
            write!(console.stdout, "store> ")?;
        }
        console.stdout.flush()?;
        let mut line = Vec::new();
        Read::take(&mut *console.stdin, MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            break;
        }
        if line.len() as u64 == MAX_LINE_BYTES {
            return Err(Stop::Usage("a line is over 2 MiB; use `client set KEY -`".into()));
        }
        let line = line.trim_ascii();
        if line == b"quit" || line == b"exit" {
            break;
        }
        let code = match runtime.block_on(command(line, cluster, console)) {
            Ok(code) => code,
            Err(Stop::Usage(text)) => {
                writeln!(console.stderr, "Error: {text}")?;
                USAGE
            }
            Err(Stop::Store(error)) => {
                writeln!(console.stderr, "Error: {error}")?;
                exit_code(&error)
            }
            Err(stop) => return Err(stop),
        };
        worst = worst.max(code);
    }
    Ok(if console.interactive { DONE } else { worst })
}

async fn command(
    line: &[u8],
    cluster: &mut Cluster,
    console: &mut Console<'_>,
) -> Result<u8, Stop> {
    let (word, rest) = split_word(line);
    let verb = match word {
        b"" => return Ok(DONE),
        b"help" | b"?" => {
            console.stdout.write_all(HELP.as_bytes())?;
            return Ok(DONE);
        }
        b"get" | b"gets" => {
            let keys: Vec<Vec<u8>> = words(rest).map(<[u8]>::to_vec).collect();
            if keys.is_empty() {
                return usage("get KEY...");
            }
            let with_cas = word == b"gets";
            return commands::get(cluster, &keys, with_cas, Style::Escaped, console).await;
        }
        b"delete" => return commands::delete(cluster, one_key(rest, "delete KEY")?, console).await,
        b"incr" | b"decr" => {
            let (key, delta) = split_word(rest);
            let delta = if delta.is_empty() { Some(1) } else { number(delta) };
            let Some(delta) = delta else { return usage("incr KEY [N]") };
            let result = match word {
                b"incr" => cluster.incr(key, delta).await?,
                _ => cluster.decr(key, delta).await?,
            };
            return commands::print_number(result, console);
        }
        b"stats" => {
            return commands::stats(cluster, &String::from_utf8_lossy(rest), console).await;
        }
        b"version" => {
            writeln!(console.stdout, "{}", cluster.version().await?)?;
            return Ok(DONE);
        }
        b"cas" => {
            let (token, rest) = split_word(rest);
            let Some(token) = number(token) else { return usage("cas TOKEN KEY VALUE") };
            return store(StoreVerb::Cas(token), rest, cluster, console).await;
        }
        b"set" => StoreVerb::Set,
        b"add" => StoreVerb::Add,
        b"replace" => StoreVerb::Replace,
        b"append" => StoreVerb::Append,
        b"prepend" => StoreVerb::Prepend,
        _ => {
            let text = format!("no such command: {}; `help` lists them", word.escape_ascii());
            return Err(Stop::Usage(text));
        }
    };
    store(verb, rest, cluster, console).await
}

async fn store(
    verb: StoreVerb,
    rest: &[u8],
    cluster: &mut Cluster,
    console: &mut Console<'_>,
) -> Result<u8, Stop> {
    let (key, value) = split_word(rest);
    if value.is_empty() {
        return usage("set KEY VALUE");
    }
    commands::store(cluster, &Item { verb, key, flags: 0, exptime: 0, value }, console).await
}

fn usage<T>(form: &str) -> Result<T, Stop> {
    Err(Stop::Usage(format!("the form is: {form}")))
}

fn one_key<'a>(rest: &'a [u8], form: &str) -> Result<&'a [u8], Stop> {
    match split_word(rest) {
        (key, b"") if !key.is_empty() => Ok(key),
        _ => usage(form),
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    crate::protocol::parse_number(digits)
}

fn split_word(line: &[u8]) -> (&[u8], &[u8]) {
    let at = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    (&line[..at], line[at..].trim_ascii_start())
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b' ').filter(|word| !word.is_empty())
}
