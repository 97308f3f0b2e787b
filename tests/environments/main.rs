//! Builds the same images in every environment that rbuild is meant for, and prints a table of them.
//!
//! ```sh
//! cargo test -p rbuild --test environments                        # all rows
//! cargo test -p rbuild --test environments -- --only 6,12         # some, and the first for comparison
//! cargo test -p rbuild --test environments -- --once              # each case in one dialect
//! cargo test -p rbuild --test environments -- --case copy-forms   # builds whose name has this in it
//! ```
//!
//! A row fails if a build fails, makes another image than Docker, or other layers than the first row. One that cannot be
//! had on this machine is skipped with its reason, or fails under `RBUILD_TEST_STRICT=1`. Logs of builds that failed are
//! kept in `tmp/environments` where cargo builds. Variables:
//! `RBUILD_TEST_DOCKER` is the address of a Docker for the outer containers, `RBUILD_TEST_APPTAINER` a command that
//! enters a root which has `apptainer`, `RBUILD_TEST_DEBIAN` a directory that keeps the Debian base for further runs,
//! `RBUILD_TEST_ENVIRONMENTS` is `--only`.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "ends where it cannot go on")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test program with a main of its own")]

mod builds;
mod debian;
mod driver;
mod enter;
mod rows;
mod setup;
mod table;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use clap::Parser;
use rbuild_testkit::require::STRICT;

use builds::Builds;
use driver::{Built, DriverArgs, Line};
use rows::{ROWS, Row};
use setup::Setup;
use table::{Judged, Outcome, Reference, judge, show};

/// Builds the same images in every environment that rbuild is meant for.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Options {
    #[command(subcommand)]
    part: Option<Part>,
    /// Rows to run, besides the first: numbers or labels.
    #[arg(long, value_name = "ROW", value_delimiter = ',', env = "RBUILD_TEST_ENVIRONMENTS")]
    only: Vec<String>,
    /// Builds to do: parts of their names.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    case: Vec<String>,
    /// Each case in one dialect alone, which takes half the time.
    #[arg(long)]
    once: bool,
    /// The program to test.
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_rbuild"))]
    rbuild: PathBuf,
    /// Tell of each build when it is done.
    #[arg(short, long)]
    verbose: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Part {
    /// Does the builds, in an environment.
    #[command(hide = true)]
    Drive(DriverArgs),
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(Part::Drive(args)) = options.part {
        return match driver::drive(args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("driver: {why}");
                ExitCode::FAILURE
            }
        };
    }
    let unknown = options.only.iter().find(|word| !ROWS.iter().any(|row| row.is(word)));
    if let Some(word) = unknown {
        eprintln!("there is no row {word}");
        return ExitCode::FAILURE;
    }
    let strict = std::env::var_os(STRICT).is_some_and(|value| value == "1");
    let prepared =
        Setup::new(&options.rbuild).and_then(|setup| Ok((Builds::stage(&setup, &options.case, options.once)?, setup)));
    let (builds, setup) = match prepared {
        Ok(prepared) => prepared,
        Err(reason) => {
            eprintln!("SKIPPED environments: {reason}");
            return if strict { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    fs::write(setup.share().join(driver::PLAN), serde_json::to_vec(&builds.all).unwrap()).unwrap();
    let mut reference = Reference::new();
    let chosen = |(index, row): &(usize, &Row)| {
        *index == 0 || options.only.is_empty() || options.only.iter().any(|word| row.is(word))
    };
    let rows: Vec<Judged> = ROWS
        .iter()
        .enumerate()
        .filter(chosen)
        .map(|(_, row)| {
            let judged = judge(row, run(row, &setup, options.verbose), &builds, &mut reference);
            tell(row, &judged);
            judged
        })
        .collect();
    println!("\n{}", show(&rows, builds.all.len()));
    let wrong = rows.iter().any(|row| !row.faults.is_empty() || (strict && row.skipped.is_some()));
    if wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Tells what was wrong with a row as soon as it is known.
fn tell(row: &Row, judged: &Judged) {
    if let Some(reason) = &judged.skipped {
        println!("SKIPPED row {}: {reason}", row.label);
    }
    for fault in &judged.faults {
        println!("row {}: {fault}", row.label);
    }
}

/// Runs the driver in the environment of a row.
fn run(row: &Row, setup: &Setup, verbose: bool) -> Outcome {
    let begin = Instant::now();
    let mut entrance = match enter::enter(row, setup) {
        Ok(entrance) => entrance,
        Err(reason) => return Outcome::Skipped(reason),
    };
    // What failing builds write is kept.
    let logs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("environments");
    fs::create_dir_all(&logs).unwrap();
    let log = setup.path(&format!("{}.stderr", row.label));
    let command = entrance.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(fs::File::create(&log).unwrap());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Outcome::Skipped(format!("cannot be entered: {error}")),
    };
    let mut lines = Vec::new();
    let mut other = String::new();
    let mut take = |text: &str| match serde_json::from_str::<Line>(text) {
        Ok(line) => {
            if let (Line::Built(built), true) = (&line, verbose) {
                let how = if built.image.is_ok() { "built" } else { "failed" };
                println!("row {}: {} {how} in {:.1} s", row.label, built.name, built.seconds);
            }
            if let Line::Built(Built { name, image: Err(fault), .. }) = &line
                && !fault.log.is_empty()
            {
                let file = logs.join(format!("{}-{}.log", row.label, name.replace('/', "-")));
                fs::write(file, &fault.log).unwrap();
            }
            lines.push(line);
        }
        Err(_) => other.extend([text, "\n"]),
    };
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).lines().map_while(Result::ok).for_each(|line| take(&line));
    }
    let status = child.wait().unwrap();
    if let Some(results) = &entrance.results {
        let text = fs::read_to_string(results).unwrap_or_default();
        text.lines().for_each(&mut take);
    }
    let stderr = fs::read_to_string(&log).unwrap_or_default();
    let stderr = format!("{status}\n{other}{}", stderr.trim());
    Outcome::Ran { lines, stderr, seconds: begin.elapsed().as_secs_f64() }
}
