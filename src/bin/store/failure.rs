//! Why a command did not do its work, and the exit code that says so.

use std::fmt;

/// The result of a command.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// What happened, where, and what to do, with the process's exit code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Failure {
    /// See the constants.
    pub(crate) code: u8,
    /// For people.
    pub(crate) message: String,
}

/// The store said no.
pub(crate) const REFUSED: u8 = 1;
/// The command line or a file that it names is wrong.
pub(crate) const USAGE: u8 = 2;
/// The cluster does not answer, or the outcome is unknown.
pub(crate) const UNREACHABLE: u8 = 3;

impl Failure {
    /// A failure with exit code [`REFUSED`].
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Failure { code: REFUSED, message: message.into() }
    }

    /// A failure with exit code [`USAGE`].
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure { code: USAGE, message: message.into() }
    }

    /// A failure with exit code [`UNREACHABLE`].
    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Failure { code: UNREACHABLE, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::refused(format!("{error:#}"))
    }
}

/// Prints a line to standard output; a reader that went away (`| head`) is no
/// reason to panic, as `println!` would.
macro_rules! say {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, $($arg)*).and_then(|()| out.flush());
    }};
}
pub(crate) use say;

/// Prints a line to standard error, which may be closed as well: `eprintln!`
/// would end the process there, with a code that says something else.
macro_rules! complain {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr().lock(), $($arg)*);
    }};
}
pub(crate) use complain;
