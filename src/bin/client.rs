//! The command `client`. Everything it does is in the crate `client`.

use std::io::{self, BufWriter, IsTerminal};
use std::process::ExitCode;

fn main() -> ExitCode {
    let stdin = io::stdin();
    let interactive = stdin.is_terminal();
    let mut stdin = stdin.lock();
    let mut stdout = BufWriter::new(io::stdout().lock());
    let mut stderr = io::stderr();
    let mut console = client::Console {
        stdin: &mut stdin,
        stdout: &mut stdout,
        stderr: &mut stderr,
        interactive,
    };
    ExitCode::from(client::run(std::env::args_os(), &mut console))
}
