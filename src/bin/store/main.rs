//! The `store` command: runs load balancers and servers, in the foreground or
//! as background processes, and looks after them.
//!
//! | module | holds |
//! | --- | --- |
//! | `args`, `argv`, `values` | what can be typed, and how it is read |
//! | `home` | the data folder: which nodes it holds, their recorded settings, which run |
//! | `background`, `announce` | starting a node as a background process, and what it tells its parent |
//! | `up`, `addlb`, `addsrv`, `fixed`, `status`, `stop`, `print`, `verify`, `backup`, `restore` | one command each, or two that belong together |
//! | `serve`, `sockets`, `logging` | what every node process does before it serves |
//! | `following`, `bar` | what `addsrv` tells of a server's way to its vote |
//! | `standing`, `silent` | who has registered a server that starts, and why a load balancer says nothing |
//! | `lookup` | finding load balancers, servers and their files |
//! | `text`, `table`, `time`, `failure` | a small memcached client, aligned tables, points in time, exit codes |

mod addlb;
mod addsrv;
mod announce;
mod args;
mod argv;
mod background;
mod backup;
mod bar;
mod direct;
mod failure;
mod fixed;
mod following;
mod home;
mod logging;
mod lookup;
mod operate;
mod print;
mod restore;
mod serve;
mod silent;
mod sockets;
mod standing;
mod status;
mod stop;
mod table;
mod text;
mod time;
mod up;
mod values;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use failure::{Outcome, complain};

fn main() -> ExitCode {
    let cli = Cli::parse_from(argv::normalise(std::env::args_os()));
    match dispatch(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain!("store: {failure}");
            ExitCode::from(failure.code)
        }
    }
}

fn dispatch(command: Command) -> Outcome {
    match command {
        Command::Up(args) => up::run(&args),
        Command::Addlb(args) => addlb::run(&args),
        Command::Addsrv(args) => addsrv::run(&args),
        Command::Run(args) => fixed::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Stop(args) => stop::stop(&args),
        Command::Down(args) => stop::down(&args),
        Command::Removesrv(args) => operate::remove(&args),
        Command::Transfer(args) => operate::transfer(&args),
        Command::Log(args) => print::log(&args),
        Command::Keystore(args) => print::keystore(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Backup(args) => backup::run(&args),
        Command::Restore(args) => restore::restore(&args),
        Command::Recover(args) => restore::recover(&args),
    }
}
