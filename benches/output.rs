//! How fast what a RUN writes gets into a log, and how much memory that takes: `cargo bench -p rbuild --bench output`.
//!
//! A command that prints 200 MB is built in each form of the log, and compared with `cat` of the same bytes to the same
//! file. Of a build's time that of the same build with a silent command is taken off.
#![allow(clippy::print_stdout, reason = "it is a report")]
#![allow(clippy::unwrap_used, reason = "a benchmark ends where something fails")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rbuild_testkit::bases;
use rbuild_testkit::registry::Registry;
use rbuild_testkit::workspace::Workspace;

/// Bytes that the command prints.
const SIZE: usize = 200_000_000;
/// Runs of each; the fastest counts.
const RUNS: usize = 5;

const FORMS: [&[&str]; 6] = [
    &["--log-format=docker"],
    &["--log-format=buildkit"],
    &["--log-format=buildkit", "--no-clip"],
    &["--log-format=rawjson", "--no-clip"],
    &["--log-format=docker", "--log-file=events:recorded"],
    &["--log-format=events"],
];

fn main() {
    // `cargo test --benches` only looks whether it starts.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let registry = Registry::start();
    bases::fill(&registry).unwrap();
    let workspace = Workspace::new(env!("CARGO_BIN_EXE_rbuild")).unwrap();
    workspace.files("base", &[("Dockerfile", "FROM busybox\nCOPY big /\n")]);
    workspace.files("loud", &[("Dockerfile", "FROM loud\nRUN cat /big\n")]);
    workspace.files("silent", &[("Dockerfile", "FROM loud\nRUN true\n")]);
    let big = workspace.path("base/big");
    let mut file = std::io::BufWriter::new(fs::File::create(&big).unwrap());
    for number in 0..SIZE / 80 {
        writeln!(file, "{number:09} a line of output, as compilers and package managers write them, more or less")
            .unwrap();
    }
    file.into_inner().unwrap().set_len(SIZE as u64).unwrap();
    workspace.user().own(&big);
    let mirror = format!("--registry-mirror={}", registry.url());
    let built = workspace.run(["build", &mirror, "--network=host", "-t", "loud", "base"]);
    assert!(built.status.success(), "{}", built.text());

    let cat = fastest(|| {
        let mut command = workspace.command("/bin/cat");
        timed(&workspace, command.arg(&big)).0
    });
    println!("{:<52} {:>8.3} s {:>8.0} MB/s", "cat", cat.as_secs_f64(), rate(cat));
    for form in FORMS {
        let mut memory = 0;
        let mut build = |context: &str| {
            fastest(|| {
                let mut command = workspace.rbuild(["build", "--network=host", "--no-cache"]);
                let (time, peak) = timed(&workspace, command.args(form).arg(context));
                memory = memory.max(peak);
                time
            })
        };
        let (silent, loud) = (build("silent"), build("loud"));
        let took = loud.saturating_sub(silent);
        println!(
            "{:<52} {:>8.3} s {:>8.0} MB/s  {:>5.2} x cat  {:>4} MB  ({:.3} s for all of the build)",
            form.join(" "),
            took.as_secs_f64(),
            rate(took),
            took.as_secs_f64() / cat.as_secs_f64(),
            memory >> 10,
            loud.as_secs_f64()
        );
    }
}

fn fastest(mut run: impl FnMut() -> Duration) -> Duration {
    (0..RUNS).map(|_| run()).min().unwrap()
}

fn rate(time: Duration) -> f64 {
    SIZE as f64 / 1e6 / time.as_secs_f64()
}

/// Runs a command with both streams in files; its time, and the most memory that rbuild's processes had, in KiB.
fn timed(workspace: &Workspace, command: &mut Command) -> (Duration, u64) {
    let file = |name: &str| Stdio::from(fs::File::create(workspace.path(name)).unwrap());
    command.stdout(file("stdout")).stderr(file("stderr"));
    let program = fs::canonicalize(command.get_program()).unwrap();
    let (ended, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    let time = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                peak.fetch_max(memory_of(&program), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let begin = Instant::now();
        let status = command.status().unwrap();
        let time = begin.elapsed();
        ended.store(true, Ordering::Relaxed);
        assert!(status.success(), "{command:?}: {}", fs::read_to_string(workspace.path("stderr")).unwrap());
        time
    });
    (time, peak.into_inner())
}

/// What all processes of a program hold, each page counted once (proportional set size).
fn memory_of(program: &Path) -> u64 {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let own = processes.filter(|process| fs::read_link(process.path().join("exe")).is_ok_and(|exe| exe == program));
    own.filter_map(|process| {
        let rollup = fs::read_to_string(process.path().join("smaps_rollup")).ok()?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    })
    .sum()
}
