//! Builds generated Dockerfiles with real Docker and with rbuild, and tells where their logs or images differ.
//!
//! ```sh
//! DOCKER_28='docker -H unix:///run/docker.sock' \
//!   cargo run --release -p rbuild-differential -- --rbuild target/…/rbuild --seed 1 --count 200 --engine legacy
//! ```
//!
//! Docker's daemon must have nothing else in its store: what was built there is removed before every case, and the base
//! images stay. Both take their bases from the registry at `127.0.0.1:5000`; unless one runs there, this program is it.
//! Each case is built twice, cold and warm; after masking ids and durations (`testkit::mask`) the streams, exit codes and
//! images must be the same. A difference that Docker shows against itself is none. One that stays is shrunk, and written
//! with both logs to a directory, in the form of `tests/fixtures/cases`.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "ends where it cannot go on")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

mod generate;
mod judge;
mod ownership;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use generate::Generated;
use judge::{Judge, Verdict};

/// Compares rbuild with real Docker on generated builds.
#[derive(Debug, Parser)]
struct Options {
    /// The program to test.
    #[arg(long, value_name = "FILE")]
    rbuild: PathBuf,
    /// What the generated builds follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The number of the first build, to have one of an earlier run again.
    #[arg(long, default_value_t = 0)]
    first: u32,
    /// How many builds are generated.
    #[arg(long, default_value_t = 100)]
    count: u32,
    /// The builder: legacy or buildkit.
    #[arg(long, default_value = "legacy", value_parser = ["legacy", "buildkit"])]
    engine: String,
    /// The release of Docker: 28 (its command is in `DOCKER_28`) or 20 (`DOCKER_20`).
    #[arg(long, default_value = "28", value_parser = ["28", "20"])]
    docker_version: String,
    /// Where differences are written.
    #[arg(long, value_name = "DIR", default_value = "differences")]
    out: PathBuf,
    /// Most builds that are spent on making one difference smaller.
    #[arg(long, default_value_t = 40)]
    shrink: u32,
    /// In place of Dockerfiles over the whole grammar: builds of this many random sequences of commands that change owners.
    #[arg(long, value_name = "SEQUENCES")]
    ownership: Option<usize>,
    /// No devices in these sequences: a step in a user namespace sees an empty file where it has made one
    #[arg(long)]
    no_devices: bool,
    /// Further flags of `rbuild build`, as `--isolation=ptrace`.
    #[arg(long = "flag", value_name = "FLAG", allow_hyphen_values = true)]
    flags: Vec<String>,
    /// Builds these cases in place of generated ones.
    #[arg(value_name = "CASE")]
    cases: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("differential: {message}");
            ExitCode::from(2)
        }
    }
}

/// The number of differences.
fn run(options: &Options) -> Result<usize, String> {
    let judge = Judge::new(&options.rbuild, &options.engine, &options.docker_version, &options.flags)?;
    let begun = Instant::now();
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    let mut unstable = 0;
    let mut note = |name: String, verdict: Verdict| match verdict {
        Verdict::Same => println!("{name}: same"),
        Verdict::Unstable => {
            println!("{name}: Docker differs from itself");
            unstable += 1;
        }
        Verdict::Differs(rows) => {
            println!("{name}: DIFFERS\n  {}", rows.join("\n  "));
            found.push((name, rows));
        }
    };
    for case in &options.cases {
        note(case.display().to_string(), judge.judge(case));
    }
    let built = if options.cases.is_empty() {
        for number in options.first..options.first.saturating_add(options.count) {
            let name = format!("{}-{}-{number}", options.engine, options.seed);
            let verdict = match options.ownership {
                Some(sequences) => owners(options, &judge, &name, number, sequences),
                None => one(options, &judge, &name, number),
            };
            note(name, verdict);
        }
        options.count as usize
    } else {
        options.cases.len()
    };
    let took = begun.elapsed().as_secs_f64();
    println!(
        "{built} builds with seed {}, {} {}: {} differ, {unstable} where Docker differs from itself; {:.1} s a build",
        options.seed,
        options.engine,
        options.docker_version,
        found.len(),
        took / built.max(1) as f64
    );
    for (name, rows) in &found {
        println!("{name}: {}", rows.first().map_or("", |row| row.lines().next().unwrap_or_default()));
    }
    Ok(found.len())
}

/// Generates one build, judges it, and shrinks a difference. Each has a generator of its own, so that it can be had again
/// without those before it.
fn one(options: &Options, judge: &Judge, name: &str, number: u32) -> Verdict {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&options.seed.to_le_bytes());
    seed[8..12].copy_from_slice(&number.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut tree = generate::builds(options.engine == "buildkit").new_tree(&mut runner).unwrap();
    let dir = options.out.join(name);
    let verdict = judged(judge, &dir, &tree.current());
    let Verdict::Differs(mut rows) = verdict else {
        fs::remove_dir_all(&dir).unwrap();
        return verdict;
    };
    let mut smallest = tree.current();
    let mut changed = tree.simplify();
    for _ in 0..options.shrink {
        if !changed {
            break;
        }
        let candidate = tree.current();
        changed = match judged(judge, &dir, &candidate) {
            Verdict::Differs(fewer) => {
                (rows, smallest) = (fewer, candidate);
                tree.simplify()
            }
            _ => tree.complicate(),
        };
    }
    // What both printed stays beside it.
    let _ = judged(judge, &dir, &smallest);
    Verdict::Differs(rows)
}

/// Generates one build of sequences that change owners, and judges it.
fn owners(options: &Options, judge: &Judge, name: &str, number: u32, sequences: usize) -> Verdict {
    let dir = options.out.join(name);
    let _ = fs::remove_dir_all(&dir);
    let case = dir.join("case");
    ownership::write(&case, (options.seed << 32) | u64::from(number), sequences, !options.no_devices).unwrap();
    let verdict = judge.judge(&case);
    if !matches!(verdict, Verdict::Differs(_)) {
        fs::remove_dir_all(&dir).unwrap();
    }
    verdict
}

/// Judges a build that is written to a directory.
fn judged(judge: &Judge, dir: &std::path::Path, build: &Generated) -> Verdict {
    let _ = fs::remove_dir_all(dir);
    let case = dir.join("case");
    build.write(&case).unwrap();
    judge.judge(&case)
}
