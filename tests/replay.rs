//! Logs beside the terminal's, and logs of recorded builds.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rbuild_testkit::registry::{Fault, Registry};
use rbuild_testkit::require;
use rbuild_testkit::workspace::{Output, Workspace, finish};

use crate::{build_flags, with_bases};

/// A command that writes what logs find hard: partial lines, both streams, colours, carriage returns, bytes that are no
/// text; and fails.
const HARD: &str = "FROM busybox\nCOPY a /\nRUN printf 'part'; sleep 0.2; printf 'ial\\n\\033[31mred\\033[0m\\n'; \
                    echo err >&2; printf '1\\r2\\r3\\n'; printf '\\377\\376\\000\\n'; printf 'no end'; exit 42\n";

/// A line of output.
const LINE: &str = "so many characters of text in every line\n";

const DIALECTS: [[&str; 2]; 4] = [
    ["--log-format=docker", "--docker-version=28"],
    ["--log-format=docker", "--docker-version=20"],
    ["--log-format=buildkit", "--docker-version=28"],
    ["--log-format=buildkit", "--docker-version=20"],
];

fn read(workspace: &Workspace, name: &str) -> String {
    String::from_utf8_lossy(&fs::read(workspace.path(name)).unwrap()).into_owned()
}

/// Builds this Dockerfile with the legacy log, and records it as `e`.
fn record(workspace: &Workspace, registry: &Registry, dockerfile: &str) -> Output {
    workspace.files("context", &[("Dockerfile", dockerfile)]);
    let mut build = workspace.rbuild(build_flags(registry));
    build.args(["--log-format=docker", "--no-cache", "--log-file=events:e", "context"]);
    finish(&mut build, None).success()
}

fn same(replayed: &Output, live: &Output) {
    assert_eq!(replayed.text(), live.text());
    assert_eq!((&replayed.stdout, &replayed.stderr), (&live.stdout, &live.stderr));
    assert_eq!(replayed.code(), live.code());
}

#[test]
fn a_replay_gives_the_bytes_and_the_code_of_the_build() {
    let (workspace, registry) = require!(with_bases());
    workspace.files("context", &[("Dockerfile", HARD), ("a", "x")]);
    for dialect in DIALECTS {
        let flags = build_flags(&registry);
        let mut build = workspace.rbuild(flags);
        build.args(dialect).args(["--no-cache", "--log-file=events:e", "--log-file=both", "context"]);
        let live = finish(&mut build, None);
        assert_eq!(live.code(), if dialect[0].ends_with("docker") { 42 } else { 1 }, "{}", live.text());
        same(&workspace.run(["replay", "e"]), &live);
        same(&workspace.run(["replay", dialect[0], "e"]), &live);
        same(&finish(&mut workspace.rbuild(["replay", "-"]), Some(fs::read(workspace.path("e")).unwrap())), &live);
        // In the order in which it was written: the end, which is on standard error, is last.
        let both = fs::read(workspace.path("both")).unwrap();
        assert_eq!(both.len(), live.stdout.len() + live.stderr.len());
        let end = live.stderr.len().min(40);
        assert!(both.ends_with(&live.stderr[live.stderr.len() - end..]), "{}", String::from_utf8_lossy(&both));
    }
    workspace.expect_clean();
}

#[test]
fn one_build_has_every_log() {
    let (workspace, registry) = require!(with_bases());
    workspace.files("context", &[("Dockerfile", "FROM busybox\nRUN echo one; echo two >&2\n")]);
    for format in ["docker", "buildkit"] {
        let mut build = workspace.rbuild(build_flags(&registry));
        build.args([&format!("--log-format={format}"), "-q", "--no-cache"]);
        build.args(["docker", "buildkit", "rawjson", "events"].map(|form| format!("--log-file={form}:{form}.log")));
        let live = finish(build.arg("context"), None).success();
        assert!(live.stdout().starts_with("sha256:") && live.stdout().len() == 71, "{}", live.text());
        // Quiet is the terminal alone.
        let docker = read(&workspace, "docker.log");
        assert!(docker.contains("Step 2/2 : RUN echo one; echo two >&2\n"), "{docker}");
        assert!(docker.contains("one\n") && docker.contains("\x1b[91mtwo\n\x1b[0m"), "{docker}");
        assert!(docker.contains("Successfully built "), "{docker}");
        let buildkit = read(&workspace, "buildkit.log");
        assert!(buildkit.starts_with("#0 building with"), "{buildkit}");
        assert!(buildkit.contains("] RUN echo one; echo two >&2\n"), "{buildkit}");
        assert!(read(&workspace, "rawjson.log").starts_with("{\"vertexes\":[{\"digest\":\"sha256:"));
        // What was recorded gives each of them again, and the quiet one.
        same(&workspace.run(["replay", "events.log"]), &live);
        for form in ["docker", "buildkit", "rawjson"] {
            let replayed = workspace.run(["replay", "-q=false", &format!("--log-format={form}"), "events.log"]);
            assert_eq!(replayed.code(), 0);
            let log = read(&workspace, &format!("{form}.log"));
            assert_eq!(replayed.stdout.len() + replayed.stderr.len(), log.len(), "{form}: {}\n{log}", replayed.text());
        }
        // A replay has files too; what is written of a recording is the recording.
        let _ = workspace.run(["replay", "--log-file=events:copy", "--log-file=docker:again", "events.log"]).success();
        assert_eq!(read(&workspace, "copy"), read(&workspace, "events.log"));
        assert_eq!(read(&workspace, "again"), docker);
    }
    workspace.expect_clean();
}

#[test]
fn checks_and_notes_are_replayed() {
    let (workspace, registry) = require!(with_bases());
    workspace.files("context", &[("Dockerfile", "from busybox\nRUN true\n")]);
    for (call, code) in [("check", 1), ("check,ignorestatus=true", 0), ("check,format=json", 1)] {
        let mut build = workspace.rbuild(build_flags(&registry));
        build.args([&format!("--call={call}"), "--log-file=events:e", "--log-file=report", "context"]);
        let live = finish(&mut build, None);
        assert_eq!(live.code(), code, "{}", live.text());
        let json = call.ends_with("json");
        assert!(live.stdout().starts_with(if json { "{" } else { "Check complete, 1 warning" }), "{}", live.text());
        let mut replay = workspace.rbuild(["replay"]);
        same(&finish(replay.args(json.then_some("--json")).arg("e"), None), &live);
        assert!(read(&workspace, "report").trim_end().ends_with(&live.stdout()), "{}", read(&workspace, "report"));
    }

    // What rbuild itself says follows each log, and is in no file of Docker's.
    registry.fail("docker/dockerfile/manifests", Fault::Status(500), usize::MAX);
    workspace.files("context", &[("Dockerfile", "# syntax=docker/dockerfile:1\nFROM busybox\nRUN true\n")]);
    let mut build = workspace.rbuild(build_flags(&registry));
    build.args(["--log-format=buildkit", "--log-file=events:e", "--log-file=plain", "context"]);
    let live = finish(&mut build, None).success();
    registry.heal();
    let plain = read(&workspace, "plain");
    let note = live.stderr().strip_prefix(&plain).map(str::to_owned).unwrap_or_default();
    assert!(note.starts_with("rbuild: note: the frontend `docker/dockerfile:1` is built in;"), "{}", live.text());
    same(&workspace.run(["replay", "e"]), &live);
    for form in ["docker", "rawjson"] {
        let replayed = workspace.run(["replay", &format!("--log-format={form}"), "e"]).success();
        assert!(replayed.stderr().ends_with(&note), "{}", replayed.text());
    }
    workspace.expect_clean();
}

#[test]
fn output_is_recorded_whole() {
    let (workspace, registry) = require!(with_bases());
    workspace
        .files("context", &[("Dockerfile", &format!("FROM busybox\nRUN yes '{}' | head -n 80000\n", LINE.trim_end()))]);
    let lines = |text: &str| text.lines().filter(|line| line.ends_with(LINE.trim_end())).count();
    let mut build = workspace.rbuild(build_flags(&registry));
    build.args(["--log-format=buildkit", "--log-file=events:e", "context"]);
    let clipped = finish(&mut build, None).success();
    assert!(clipped.text().contains("[output clipped, log limit 200KiB/s reached]"));
    assert!(lines(&clipped.text()) < 20_000);
    same(&workspace.run(["replay", "e"]), &clipped);
    let whole = workspace.run(["replay", "--no-clip", "e"]).success();
    assert!(!whole.text().contains("output clipped"));
    assert_eq!(lines(&whole.text()), 80_000);
    let live = finish(
        workspace.rbuild(build_flags(&registry)).args(["--no-clip", "--no-cache", "--log-format=buildkit", "context"]),
        None,
    );
    assert_eq!(lines(&live.success().text()), 80_000);
    // Offsets of the pieces follow one another.
    let mut next = 0;
    for line in read(&workspace, "e").lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        if event["event"] == "output" {
            assert_eq!(event["offset"], next);
            next += event["data"].as_str().unwrap().len() as u64;
        }
    }
    assert_eq!(next, 80_000 * LINE.len() as u64);
    workspace.expect_clean();
}

#[test]
fn in_real_time() {
    let (workspace, registry) = require!(with_bases());
    let live = record(&workspace, &registry, "FROM busybox\nRUN echo a; sleep 1; echo b\n");
    for line in [&["replay", "--realtime", "e"][..], &["replay", "--realtime", "--log-format=buildkit", "e"]] {
        let begin = Instant::now();
        let replayed = workspace.run(line).success();
        assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
        if line.len() == 3 {
            same(&replayed, &live);
        }
    }
    workspace.expect_clean();
}

#[test]
fn recordings_that_cannot_be_shown() {
    let (workspace, registry) = require!(with_bases());
    let live = record(&workspace, &registry, "FROM busybox\nRUN echo shown\n");
    let whole = read(&workspace, "e");
    let lines = whole.lines().count();
    let mut middle = whole.len() / 2;
    while !whole.is_char_boundary(middle) {
        middle += 1;
    }
    let last = whole.trim_end().rfind('\n').unwrap();
    let format = format!("\"format\":{}", 2);
    for (text, cause) in [
        (String::new(), "before the build does"),
        (whole[..middle].to_owned(), "before the build does"),
        (whole[..last + 1].to_owned(), "before the build does"),
        (whole.replace("\"step_started\"", "\"stepstarted\""), "is no build event"),
        (format!("{whole}{{\n"), &format!("line {} is no build event", lines + 1)),
        (whole.replace(&format, "\"format\":1000"), "the events have format 1000"),
        ("\x7fELF\x02\x01\n".to_owned(), "line 1 is no build event"),
        (format!("{whole}{whole}"), "not where a build begins"),
    ] {
        fs::write(workspace.path("bad"), &text).unwrap();
        for realtime in [false, true] {
            let mut replay = workspace.rbuild(["replay", "bad"]);
            let output = finish(replay.args(realtime.then_some("--realtime")), None);
            assert_eq!(output.code(), 1, "{cause}: {}", output.text());
            assert!(live.stdout.starts_with(&output.stdout) || output.stdout.starts_with(&live.stdout), "{cause}");
            let errors: Vec<_> =
                output.stderr().lines().filter(|l| l.contains("rbuild: error")).map(str::to_owned).collect();
            assert_eq!(errors, ["rbuild: error: cannot replay `bad`"], "{cause}: {}", output.text());
            assert!(output.stderr().contains(cause), "{cause}: {}", output.text());
        }
    }
    let output = workspace.run(["replay", "missing"]);
    assert_eq!((output.code(), output.stderr().lines().next()), (1, Some("rbuild: error: cannot read `missing`")));
    workspace.expect_clean();
}

#[test]
fn a_log_file_that_cannot_be_written() {
    let (workspace, registry) = require!(with_bases());
    workspace.files("context", &[("Dockerfile", "FROM busybox\nRUN echo x\n")]);
    let build = |args: &[&str]| finish(workspace.rbuild(build_flags(&registry)).args(args).arg("context"), None);
    let output = build(&["--log-file=missing/log"]);
    assert_eq!(output.code(), 1);
    assert!(
        output.text().starts_with("rbuild: error: cannot create the log file `missing/log`\n"),
        "{}",
        output.text()
    );
    assert!(!workspace.store().exists(), "the build began");
    let output = build(&["--log-file=buildkit:-"]);
    assert_eq!(output.code(), 125, "{}", output.text());
    if Path::new("/dev/full").exists() {
        // The build goes on, and its end says what is lost.
        let output = build(&["--log-format=docker", "--log-file=/dev/full"]);
        assert_eq!(output.code(), 1, "{}", output.text());
        assert!(String::from_utf8_lossy(&output.stdout).contains("Successfully built"), "{}", output.text());
        assert!(
            output.stderr().contains("rbuild: error: cannot write the log file `/dev/full`\n"),
            "{}",
            output.text()
        );
    }
    workspace.expect_clean();
}
