//! The single-dash spelling of the options, as in `-cip 127.0.0.1 -lbIp
//! 127.0.0.1`, turned into the double-dash one before clap sees it.

use std::ffi::OsString;

/// Long options that may be written with one dash, in any case.
const SINGLE_DASH: [&str; 6] = ["cip", "cport", "sip", "sport", "lbip", "lbport"];

/// Rewrites `-cport 7001` and `-cport=7001` to `--cport ...`; everything from
/// `--` on stays as it is.
pub(crate) fn normalise(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut options_ended = false;
    args.map(|arg| {
        options_ended |= arg == "--";
        if options_ended {
            return arg;
        }
        match arg.to_str().and_then(rewrite) {
            Some(rewritten) => rewritten.into(),
            None => arg,
        }
    })
    .collect()
}

fn rewrite(arg: &str) -> Option<String> {
    let name_and_value = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-'))?;
    let (name, value) = match name_and_value.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (name_and_value, None),
    };
    let name = SINGLE_DASH.into_iter().find(|known| known.eq_ignore_ascii_case(name))?;
    Some(match value {
        Some(value) => format!("--{name}={value}"),
        None => format!("--{name}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalised(args: &[&str]) -> Vec<String> {
        normalise(args.iter().map(OsString::from))
            .into_iter()
            .map(|arg| arg.into_string().unwrap())
            .collect()
    }

    #[test]
    fn single_dash_options_of_the_seed_are_accepted() {
        assert_eq!(
            normalised(&[
                "store", "addsrv", "-cip", "::1", "-cport=7", "-lbIp", "a", "-lbport", "1"
            ]),
            ["store", "addsrv", "--cip", "::1", "--cport=7", "--lbip", "a", "--lbport", "1"]
        );
    }

    #[test]
    fn other_arguments_stay() {
        let args = ["store", "up", "-h", "-I", "1m", "--servers", "3", "--", "-cip"];
        assert_eq!(normalised(&args), args);
    }
}
