//! `cargo simulate`.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use simulator::{BUGS, Bug, CATCH_WITHIN, FaultSet, Hunt, Options, Report, Tally};

/// Runs that are played when nothing is said.
const RUNS: u64 = 300;

/// First seeds from which each planted bug is looked for.
const FIRST_SEEDS: [u64; 5] = [1, 10_001, 20_001, 30_001, 40_001];

/// Plays clusters on virtual time, with faults, and checks what they do.
#[derive(Parser)]
#[command(name = "cargo simulate", bin_name = "cargo simulate")]
struct Arguments {
    /// The first seed; with nothing else, only this one is played.
    #[arg(long)]
    seed: Option<u64>,
    /// Seeds to play.
    #[arg(long)]
    runs: Option<u64>,
    /// Play seeds for so long.
    #[arg(long)]
    minutes: Option<f64>,
    /// Plant a bug, and stop at the first seed that finds it; `all` for a
    /// table of all of them.
    #[arg(long, value_name = "NAME")]
    bug: Option<String>,
    /// Name the bugs that can be planted.
    #[arg(long)]
    list_bugs: bool,
    /// Allow only these kinds of faults, separated by commas; or `none`.
    #[arg(long, value_name = "KINDS")]
    faults: Option<FaultSet>,
    /// Servers of the cluster, whatever the seed says.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=7))]
    servers: Option<u8>,
    /// Heal at this virtual time, if that is before the seed's own.
    #[arg(long, value_name = "MS")]
    until_ms: Option<u64>,
    /// Servers come, go, die and come back for so long, in one run.
    #[arg(long, value_name = "SECONDS")]
    churn: Option<u64>,
    /// Print everything that happens in the run of `--seed`.
    #[arg(long)]
    trace: bool,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list_bugs {
        for (name, _, what) in BUGS {
            println!("{name:<22} {what}");
        }
        return ExitCode::SUCCESS;
    }
    match simulate(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether all is well.
fn simulate(arguments: &Arguments) -> Result<bool, String> {
    if arguments.bug.as_deref() == Some("all") {
        return Ok(print_table(arguments.jobs));
    }
    let bug = match &arguments.bug {
        None => None,
        Some(name) => Some(Bug::named(name).ok_or_else(|| {
            format!("there is no bug `{name}`: `cargo simulate --list-bugs` names them")
        })?),
    };
    let options = Options {
        faults: arguments.faults.unwrap_or(FaultSet::ALL),
        faults_end_us: arguments.until_ms.map(|ms| ms * 1_000),
        servers: arguments.servers.map(usize::from),
        churn_us: arguments.churn.map(|seconds| seconds * 1_000_000),
        bug,
        ..Options::of_seed(arguments.seed.unwrap_or(1))
    };
    if arguments.trace {
        return Ok(print_trace(options));
    }
    let single = arguments.seed.is_some() && bug.is_none();
    let runs = match (arguments.runs, arguments.minutes) {
        (Some(runs), _) => runs,
        (None, Some(_)) => u64::MAX,
        (None, None) if single => 1,
        (None, None) if bug.is_some() => CATCH_WITHIN,
        (None, None) => RUNS,
    };
    let within = arguments.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    let hunt = Hunt { options, runs, within, jobs: arguments.jobs, first_only: bug.is_some() };
    Ok(play(hunt))
}

fn print_trace(options: Options) -> bool {
    let report = simulator::on_a_runner(Options { trace: true, ..options });
    for line in &report.trace {
        println!("{line}");
    }
    print_run(&report);
    report.violation.is_none()
}

fn print_run(report: &Report) {
    println!(
        "{} servers, {} rounds, {} ms simulated, {} events, {} requests, {} entries committed; faults: {}",
        report.servers,
        report.rounds,
        report.simulated_us / 1_000,
        report.events,
        report.requests,
        report.committed,
        report.faults
    );
}

fn play(hunt: Hunt) -> bool {
    let bar = progress(&hunt);
    let mut failures = 0;
    let mut played = 0_u64;
    let tally = hunt.play(|options, report| {
        played += 1;
        bar.inc(1);
        if let Some(violation) = &report.violation {
            failures += 1;
            bar.set_message(format!("{failures} failed"));
            if !hunt.first_only {
                bar.suspend(|| println!("seed {}: {violation}", options.seed));
            }
        } else if bar.is_hidden() && hunt.runs >= 1_000 && played.is_multiple_of(1_000) {
            println!("{played} runs, {failures} failed");
        }
    });
    bar.finish_and_clear();
    for (options, report) in &tally.failures {
        print_shortest(*options, report);
    }
    if tally.runs == 1 && tally.failures.is_empty() {
        print_run(&simulator::on_a_runner(hunt.options));
    }
    print_tally(&tally);
    tally.failures.is_empty()
}

fn progress(hunt: &Hunt) -> ProgressBar {
    if !std::io::stderr().is_terminal() || hunt.runs == 1 {
        return ProgressBar::hidden();
    }
    let bar = match hunt.runs {
        u64::MAX => ProgressBar::new_spinner(),
        runs => ProgressBar::new(runs),
    };
    let style = ProgressStyle::with_template("{elapsed_precise} [{bar:40}] {pos}/{len} runs {msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn print_shortest(options: Options, report: &Report) {
    let (shortest, report) = simulator::shrink(options, report);
    let Some(violation) = &report.violation else { return };
    println!("\nseed {} breaks a rule: {violation}", options.seed);
    let mut command =
        format!("cargo simulate --seed {} --faults {}", options.seed, shortest.faults);
    if let Some(length) = shortest.churn_us {
        command += &format!(" --churn {}", length / 1_000_000);
    }
    if let Some(servers) = shortest.servers {
        command += &format!(" --servers {servers}");
    }
    if let Some(end) = shortest.faults_end_us {
        // Rounded up: the end in whole milliseconds must not be an earlier one.
        command += &format!(" --until-ms {}", end.div_ceil(1_000));
    }
    if let Some(bug) = shortest.bug {
        command += &format!(" --bug {}", bug.name());
    }
    println!("  shortest found: {command} --trace");
}

fn print_tally(tally: &Tally) {
    println!(
        "{} runs, {} failed; {:.0} s simulated, {:.0} in one second of a thread; {} requests, {} events",
        tally.runs,
        tally.failures.len(),
        tally.simulated_us as f64 / 1e6,
        tally.speed(),
        tally.requests,
        tally.events
    );
}

/// Whether every bug was found.
fn print_table(jobs: usize) -> bool {
    println!("| bug | median seeds | seeds from {FIRST_SEEDS:?} | first seed | found as |");
    println!("| --- | --- | --- | --- | --- |");
    let mut all = true;
    for (name, bug, _) in BUGS {
        let catch = simulator::catch(bug, &FIRST_SEEDS, jobs);
        let counts: Vec<_> = catch
            .found
            .iter()
            .map(|found| found.as_ref().map_or("-".to_owned(), |(count, ..)| count.to_string()))
            .collect();
        let first = catch.found.iter().flatten().next();
        let seed = first.map_or("none".to_owned(), |(_, options, _)| options.seed.to_string());
        let rule = first.and_then(|(.., report)| report.violation.as_ref()).map_or("", |v| v.rule);
        let median = catch.median();
        all &= median.is_some();
        let median = median.map_or("missed".to_owned(), |median| median.to_string());
        println!("| {name} | {median} | {} | {seed} | {rule} |", counts.join(", "));
    }
    all
}
