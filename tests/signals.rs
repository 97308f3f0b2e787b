//! SIGINT and SIGTERM while an image is pulled, a command runs, or a result is written.

use std::path::Path;
use std::time::{Duration, Instant};

use rbuild_testkit::registry::{Fault, Registry};
use rbuild_testkit::workspace::{Output, Running, Workspace};
use rbuild_testkit::{leftovers, require};
use rustix::process::Signal;

use crate::{build_flags, with_bases};

const SIGNALS: [(Signal, i32); 2] = [(Signal::INT, 130), (Signal::TERM, 143)];
const FORMATS: [&str; 2] = ["buildkit", "docker"];

/// After its end: the exit code says which signal it was, nothing is left, and the store can be used.
fn check(workspace: &Workspace, registry: &Registry, sent: Instant, output: &Output, code: i32) {
    assert_eq!(output.code(), code, "{}", output.text());
    assert!(sent.elapsed() < Duration::from_secs(10), "took {:?} to end", sent.elapsed());
    assert!(!output.text().contains("panicked"), "{}", output.text());
    leftovers::expect_none(workspace.dir(), Duration::from_secs(5));
    workspace.files("after", &[("Dockerfile", "FROM busybox\nRUN echo usable\n")]);
    let _ = workspace.run(build_flags(registry).iter().map(String::as_str).chain(["after"])).success();
}

#[test]
fn in_a_pull() {
    let (workspace, registry) = require!(with_bases());
    workspace.files("context", &[("Dockerfile", "FROM layers:1\nRUN echo never\n")]);
    for ((signal, code), format) in SIGNALS.into_iter().zip(FORMATS) {
        registry.fail("/blobs/", Fault::Stall, usize::MAX);
        let asked = registry.asked().len();
        let mut build = workspace.rbuild(build_flags(&registry));
        let running = Running::start(build.arg(format!("--log-format={format}")).arg("context"));
        let begin = Instant::now();
        while !registry.asked()[asked..].iter().any(|line| line.contains("/blobs/")) {
            assert!(begin.elapsed() < Duration::from_secs(60), "no blob was asked for");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(100));
        let sent = Instant::now();
        running.signal(signal);
        let output = running.finish();
        registry.heal();
        check(&workspace, &registry, sent, &output, code);
        let _ = workspace.run(["prune", "--all", "--force"]).success();
    }
    workspace.expect_clean();
}

#[test]
fn in_a_run() {
    let (workspace, registry) = require!(with_bases());
    // A command that shrugs at signals, with a child in the background that does too. Both can be told from others by
    // how long they sleep.
    let seconds = 7_000_000 + std::process::id();
    let command = format!(
        "trap '' INT TERM; (while :; do sleep {seconds}; done) & echo begun $((40 + 2)); while :; do sleep {seconds}; done"
    );
    let marked = format!("sleep\0{seconds}");
    let marked = Path::new(&marked);
    workspace.files("context", &[("Dockerfile", &format!("FROM busybox\nRUN {command}\n"))]);
    for (signal, code) in SIGNALS {
        for format in FORMATS {
            let mut build = workspace.rbuild(build_flags(&registry));
            let mut running = Running::start(build.arg(format!("--log-format={format}")).arg("context"));
            // Not as the log shows the command itself.
            running.wait_for("begun 42");
            let begin = Instant::now();
            while leftovers::processes(marked).len() < 2 {
                assert!(begin.elapsed() < Duration::from_secs(30), "{:#?}", leftovers::processes(workspace.dir()));
                std::thread::sleep(Duration::from_millis(5));
            }
            let sent = Instant::now();
            running.signal(signal);
            check(&workspace, &registry, sent, &running.finish(), code);
            leftovers::expect_none(marked, Duration::from_secs(1));
        }
    }
    workspace.expect_clean();
}

#[test]
fn in_an_export() {
    let (workspace, registry) = require!(with_bases());
    workspace.files("context", &[("Dockerfile", "FROM busybox\nRUN echo x >/x\n")]);
    for (signal, code) in SIGNALS {
        let mut build = workspace.rbuild(build_flags(&registry));
        // Nobody reads standard output, so the archive of two megabytes gets stuck in it.
        let mut running =
            Running::start_unread(build.args(["--log-format=buildkit", "-o", "type=tar,dest=-", "context"]));
        running.wait_for("sending tarball");
        std::thread::sleep(Duration::from_millis(300));
        let sent = Instant::now();
        running.signal(signal);
        check(&workspace, &registry, sent, &running.finish(), code);
    }
    workspace.expect_clean();
}
