//! A build that is killed with no chance to tidy up.

use std::time::{Duration, Instant};

use rbuild_testkit::registry::Registry;
use rbuild_testkit::workspace::{Output, Running, Workspace};
use rbuild_testkit::{leftovers, listing, require};
use rustix::process::Signal;

use crate::{build_flags, with_bases};

/// Moments at which a build is killed.
const KILLS: u32 = 20;

/// Numbers that look random and are the same in every run (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn build(workspace: &Workspace, registry: &Registry, round: u32) -> std::process::Command {
    let mut build = workspace.rbuild(build_flags(registry));
    // The kinds of work take turns, and each round has some that no other has done.
    let format = if round.is_multiple_of(2) { "buildkit" } else { "docker" };
    build.arg(format!("--log-format={format}")).args([
        "--build-arg",
        &format!("ROUND={round}"),
        "-t",
        "killed",
        "context",
    ]);
    build
}

#[test]
fn at_any_moment_and_then_again() {
    let (workspace, registry) = require!(with_bases());
    workspace.files(
        "context",
        &[
            (
                "Dockerfile",
                "FROM layers:1\nARG ROUND\nCOPY big /big\nRUN echo $ROUND >/round; dd if=/dev/zero of=/zero bs=1M count=8\n\
                 RUN cp /big /copy; chown 33 /copy; sleep 0.1\nRUN rm -rf /l /big; mkdir /l\n",
            ),
            ("big", &"0123456789abcdef".repeat(1 << 16)),
        ],
    );
    let begin = Instant::now();
    let _ = Running::start(&mut build(&workspace, &registry, 0)).finish().success();
    let whole = begin.elapsed();
    let want = image(&workspace);
    let _ = workspace.run(["prune", "--all", "--force"]).success();

    let mut random = Random(0x5eed_0123_4567_89ab);
    for round in 1..=KILLS {
        let running = Running::start(&mut build(&workspace, &registry, round));
        // Every third round begins with the base not yet there.
        let moment = Duration::from_micros(random.below(whole.as_micros() as u64 * 9 / 8));
        std::thread::sleep(moment);
        running.signal(Signal::KILL);
        let killed: Output = running.finish();
        leftovers::expect_none(workspace.dir(), Duration::from_secs(10));
        let again = Running::start(&mut build(&workspace, &registry, round)).finish();
        assert_eq!(
            again.status.code(),
            Some(0),
            "round {round}, killed after {moment:?} of {whole:?}:\n{}\n---- then:\n{}",
            killed.text(),
            again.text()
        );
        let got = image(&workspace);
        for path in ["/big", "/copy", "/zero", "/l", "/l/a", "/etc/passwd"] {
            assert_eq!(got["files"][path], want["files"][path], "round {round}, killed after {moment:?}: {path}");
        }
        let number = rbuild_testkit::sha256(format!("{round}\n").as_bytes());
        assert_eq!(got["files"]["/round"]["sha256"], number.as_str(), "round {round}");
        if round % 3 == 0 {
            let _ = workspace.run(["prune", "--all", "--force"]).success();
        }
    }
    workspace.expect_clean();
}

fn image(workspace: &Workspace) -> serde_json::Value {
    listing::of_archive(&workspace.saved("killed"))
}
