//! The arguments of the command `client`.

use std::ffi::OsString;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::bench::BenchArgs;

/// Options that the first version of this command took with one dash. They
/// stay valid; everything else keeps the usual rule of one letter per dash.
const SINGLE_DASH_NAMES: [&str; 8] =
    ["lbip", "lbport", "lb", "server", "timeout", "key", "keys", "value"];

const EXAMPLES: &str = "\
Examples:
  client set greeting 'hello world'
  client get greeting
  client get a b c
  client set photo - < photo.jpg          the value comes from standard input
  client get photo --value-only > copy.jpg
  client incr visits 5
  client --server 127.0.0.1:7001 stats    one server, without a load balancer
  client bench --op mix --duration 10s
  client set -key abc -value 1 -lbip 127.0.0.1 -lbport 5002

Exit codes:
  0 done   1 the store said no (not found, not stored)   2 usage
  3 the store cannot be reached, or the outcome of a write is unknown";

/// Reads and writes the store.
#[derive(Parser, Debug)]
#[command(name = "client", version, after_help = EXAMPLES, subcommand_required = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Whom to talk to.
#[derive(Args, Debug)]
#[command(next_help_heading = "Whom to talk to")]
pub(crate) struct Target {
    /// Address of the load balancer, that is asked who leads
    #[arg(long, global = true, default_value = "127.0.0.1", value_name = "HOST")]
    lbip: String,
    /// Client port of the load balancer
    #[arg(long, global = true, default_value_t = 5002, value_name = "PORT")]
    lbport: u16,
    /// Load balancers as host:port, asked one by one until one answers; instead of --lbip and --lbport
    #[arg(long, global = true, value_name = "HOST:PORT", value_delimiter = ',')]
    lb: Vec<String>,
    /// Servers as host:port: no load balancer is asked
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        conflicts_with = "lb"
    )]
    server: Vec<String>,
    /// A request, with all its repetitions, ends within this time (500ms, 5s, 1m)
    #[arg(long, global = true, default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub(crate) timeout: Duration,
}

/// Addresses of load balancers or of servers.
#[derive(Clone, Debug)]
pub(crate) enum Addresses {
    Lbs(Vec<SocketAddr>),
    Servers(Vec<SocketAddr>),
}

impl Target {
    pub(crate) fn addresses(&self) -> Result<Addresses, String> {
        if !self.server.is_empty() {
            return Ok(Addresses::Servers(resolve("--server", &self.server)?));
        }
        if !self.lb.is_empty() {
            return Ok(Addresses::Lbs(resolve("--lb", &self.lb)?));
        }
        (self.lbip.as_str(), self.lbport)
            .to_socket_addrs()
            .map(|addresses| Addresses::Lbs(addresses.collect()))
            .map_err(|error| format!("--lbip {}: no such host: {error}", self.lbip))
    }
}

fn resolve(option: &str, names: &[String]) -> Result<Vec<SocketAddr>, String> {
    let mut addresses = Vec::new();
    for name in names {
        let found = name.to_socket_addrs().map_err(|error| {
            format!("{option} {name}: {error}; give host:port, as in 127.0.0.1:5002")
        })?;
        addresses.extend(found);
    }
    Ok(addresses)
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Print `key value` for each key that exists
    Get(GetArgs),
    /// Print `key token value` for each key that exists; the token is for cas
    Gets(GetArgs),
    /// Store a value, whatever was there
    Set(StoreArgs),
    /// Store a value if the key is absent
    Add(StoreArgs),
    /// Store a value if the key is present
    Replace(StoreArgs),
    /// Add to the end of a present value
    Append(StoreArgs),
    /// Add to the front of a present value
    Prepend(StoreArgs),
    /// Store a value if nobody changed the key since `gets` printed TOKEN
    Cas(CasArgs),
    /// Remove a key
    Delete(KeyArgs),
    /// Add to a number and print the sum
    Incr(NumberArgs),
    /// Subtract from a number, not below 0, and print the difference
    Decr(NumberArgs),
    /// Print the counters of the server, or those of a topic such as raft or cluster
    Stats {
        /// Topic
        what: Vec<String>,
    },
    /// Print the version of the server
    Version,
    /// Prompt for commands, or read them from standard input, one per line
    Shell,
    /// Measure operations per second and latency
    Bench(BenchArgs),
}

#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    /// Keys
    #[arg(value_name = "KEY", required_unless_present = "keys_option")]
    keys: Vec<OsString>,
    /// The same as KEY...
    #[arg(long = "keys", alias = "key", id = "keys_option", value_name = "KEY", num_args = 1..)]
    keys_option: Vec<OsString>,
    /// Do not escape values that are not plain text
    #[arg(long)]
    pub(crate) raw: bool,
    /// Print the value of the only key, byte for byte, and nothing else
    #[arg(long)]
    pub(crate) value_only: bool,
}

impl GetArgs {
    pub(crate) fn keys(&self) -> Vec<Vec<u8>> {
        self.keys.iter().chain(&self.keys_option).map(bytes).collect()
    }
}

#[derive(Args, Debug)]
pub(crate) struct StoreArgs {
    /// Key: 1 to 250 bytes without blanks
    #[arg(required_unless_present = "key_option", conflicts_with = "key_option")]
    key: Option<OsString>,
    /// Value; `-` reads it from standard input, byte for byte
    #[arg(required_unless_present = "value_option", conflicts_with = "value_option")]
    #[arg(allow_negative_numbers = true)]
    value: Option<OsString>,
    /// The same as KEY
    #[arg(long = "key", id = "key_option", value_name = "KEY")]
    key_option: Option<OsString>,
    /// The same as VALUE
    #[arg(long = "value", id = "value_option", value_name = "VALUE", allow_hyphen_values = true)]
    value_option: Option<OsString>,
    /// A number that is kept with the value
    #[arg(long, default_value_t = 0)]
    pub(crate) flags: u32,
    /// Seconds until the value expires; 0: never
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_name = "SECONDS")]
    pub(crate) exptime: i64,
}

impl StoreArgs {
    pub(crate) fn key(&self) -> Vec<u8> {
        self.key_option.as_ref().or(self.key.as_ref()).map(bytes).unwrap_or_default()
    }

    /// The value as typed; `-` still means standard input.
    pub(crate) fn value(&self) -> Vec<u8> {
        self.value_option.as_ref().or(self.value.as_ref()).map(bytes).unwrap_or_default()
    }
}

#[derive(Args, Debug)]
pub(crate) struct CasArgs {
    /// Key
    pub(crate) key: OsString,
    /// Value; `-` reads it from standard input
    #[arg(allow_negative_numbers = true)]
    pub(crate) value: OsString,
    /// What `gets` printed behind the key
    pub(crate) token: u64,
    /// A number that is kept with the value
    #[arg(long, default_value_t = 0)]
    pub(crate) flags: u32,
    /// Seconds until the value expires; 0: never
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_name = "SECONDS")]
    pub(crate) exptime: i64,
}

#[derive(Args, Debug)]
pub(crate) struct KeyArgs {
    /// Key
    #[arg(required_unless_present = "key_option", conflicts_with = "key_option")]
    key: Option<OsString>,
    /// The same as KEY
    #[arg(long = "key", id = "key_option", value_name = "KEY")]
    key_option: Option<OsString>,
}

impl KeyArgs {
    pub(crate) fn key(&self) -> Vec<u8> {
        self.key_option.as_ref().or(self.key.as_ref()).map(bytes).unwrap_or_default()
    }
}

#[derive(Args, Debug)]
pub(crate) struct NumberArgs {
    /// Key
    pub(crate) key: OsString,
    /// By how much
    #[arg(default_value_t = 1, value_name = "N")]
    pub(crate) delta: u64,
}

/// The bytes of an argument. Keys and values are bytes, not text.
pub(crate) fn bytes(argument: &OsString) -> Vec<u8> {
    argument.as_encoded_bytes().to_vec()
}

/// Turns `-lbip` into `--lbip`, for the names that once had one dash. What
/// stands behind `--` is left alone.
pub(crate) fn normalise(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut literal = false;
    arguments
        .into_iter()
        .map(|argument| {
            literal |= argument == "--";
            let Some(text) = argument.to_str() else { return argument };
            let Some(name) = text.strip_prefix('-') else { return argument };
            let name = name.split('=').next().unwrap_or_default();
            if !literal && SINGLE_DASH_NAMES.contains(&name) {
                return OsString::from(format!("-{text}"));
            }
            argument
        })
        .collect()
}

/// `500ms`, `5s`, `2m`, or plain seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let seconds_per_unit = match unit {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{unit}` is no unit of time; use ms, s, m or h")),
    };
    let number: f64 =
        number.parse().map_err(|_| "give a time as in 500ms, 5s or 1m".to_string())?;
    let seconds = number * seconds_per_unit;
    if !(0.001..=86_400.0 * 7.0).contains(&seconds) {
        return Err("a time is between 1ms and a week".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn single_dash_names_become_double() {
        let words = ["client", "-key=a", "-lbip", "x", "-5", "-raw", "--", "-key"];
        let normal = normalise(words.map(OsString::from));
        assert_eq!(normal, ["client", "--key=a", "--lbip", "x", "-5", "-raw", "--", "-key"]);
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        for bad in ["", "s", "5d", "-1s", "0", "1e300", "nan"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
