//! `store run`: one server of a fixed cluster.
use crate::args::RunArgs;
use crate::failure::Outcome;
/// The command.
pub(crate) fn run(args: &RunArgs) -> Outcome {
    let _ = args;
    Ok(())
}
