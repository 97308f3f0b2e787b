//! What is left of a RUN that failed: an image of its files, a record, and a way to go on.

use rbuild_testkit::registry::Registry;
use rbuild_testkit::require;
use rbuild_testkit::workspace::{Output, Workspace};
use serde_json::Value;

use crate::{build_flags, with_bases};

const DOCKERFILE: &str = "FROM busybox
ENV WORD=there
RUN echo before >/before
WORKDIR /opt
RUN rm /before && touch /opt/i-should-not-exist && echo told && false && not-a-command
";

fn build(workspace: &Workspace, registry: &Registry, flags: &[&str]) -> Output {
    let own = build_flags(registry);
    workspace.run(own.iter().map(String::as_str).chain(flags.iter().copied()).chain(["context"]))
}

fn json(workspace: &Workspace, arguments: &[&str]) -> Value {
    serde_json::from_str(&workspace.run(arguments).success().stdout()).unwrap()
}

/// Numbers and ids that differ from one build to the next.
fn masked(log: &str) -> String {
    let is_changing = |word: &str| {
        let word = word.trim_end_matches(['s', ',']);
        word.parse::<f64>().is_ok() || word.len() == 12 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let line = |line: &str| {
        line.split(' ').map(|word| if is_changing(word) { "…" } else { word }).collect::<Vec<_>>().join(" ")
    };
    log.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_failed_step_is_an_image() {
    let (workspace, registry) = require!(with_bases());
    workspace.files("context", &[("Dockerfile", DOCKERFILE)]);
    let _ = workspace.run(["pull", &build_flags(&registry)[1], "busybox"]).success();
    for (form, code) in [("docker", 1), ("buildkit", 1)] {
        let format = format!("--log-format={form}");
        let plain = build(&workspace, &registry, &[&format, "--no-cache"]);
        let name = format!("name:{form}");
        let flags = [&format, "--no-cache", "-i", "-t", &name, "--iidfile=id", "--failure-file=failure.json"];
        let kept = build(&workspace, &registry, &flags);
        assert_eq!((plain.code(), kept.code()), (code, code), "{}", kept.text());
        // Nothing but Docker's log, and after it the image where it was asked for.
        let (log, told) = kept
            .stderr()
            .split_once("rbuild: the failed step is kept as image ")
            .map_or_else(|| panic!("{}", kept.text()), |(log, told)| (log.to_owned(), told.to_owned()));
        assert_eq!(masked(&plain.stdout()), masked(&kept.stdout()));
        assert_eq!(masked(&plain.stderr()), masked(&log).trim_end_matches('\n'));
        let id = std::fs::read_to_string(workspace.path("id")).unwrap();
        assert!(told.starts_with(&id) && told.contains(&format!("name:{form}-failed")), "{told}");

        let image = json(&workspace, &["inspect", &format!("{name}-failed")]);
        let image = &image[0];
        assert_eq!(image["Id"], id.as_str());
        assert_eq!(image["Config"]["WorkingDir"], "/opt");
        assert!(image["Config"]["Env"].as_array().unwrap().iter().any(|word| word == "WORD=there"));
        assert!(image["Config"]["Labels"]["org.rbuild.partial"].as_str().unwrap().contains("exit code 1"), "{image}");
        workspace.files("look", &[("Dockerfile", &format!("FROM {id}\nRUN ls -d /opt/* /before; echo $WORD $PWD\n"))]);
        let own = build_flags(&registry);
        let look = workspace.run(own.iter().map(String::as_str).chain(["--log-format=docker", "look"])).success();
        assert!(look.stdout().contains("/opt/i-should-not-exist\n"), "{}", look.text());
        assert!(look.stdout().contains("there /opt\n") && !look.stdout().contains("\n/before\n"), "{}", look.text());

        let failure: Value = serde_json::from_slice(&std::fs::read(workspace.path("failure.json")).unwrap()).unwrap();
        assert_eq!((&failure["exit_code"], &failure["lines"]["start"]), (&1.into(), &5.into()), "{failure}");
        assert_eq!((&failure["image"], &failure["last_lines"][0]), (&id.clone().into(), &"told".into()), "{failure}");
        let changed = serde_json::json!([
            {"path": "/before", "change": "deleted", "size": 0},
            {"path": "/opt/i-should-not-exist", "change": "added", "size": 0},
        ]);
        assert_eq!(failure["changed_files"], changed);
    }
    workspace.expect_clean();
}

#[test]
fn a_shell_in_what_is_left() {
    let (workspace, registry) = require!(with_bases());
    workspace.files("context", &[("Dockerfile", DOCKERFILE)]);
    for isolation in ["auto", "ptrace"] {
        let isolation = format!("--isolation={isolation}");
        assert_eq!(build(&workspace, &registry, &[&isolation]).code(), 1);
        // Environment and directory of the failed command, without a name for what is meant or with one.
        let looked = "echo $WORD $PWD; ls; test -e /before || echo gone; touch /left; exit 5";
        let id = workspace.run(["builds", "-q"]).success().stdout().lines().next().unwrap().to_owned();
        for build in [&*id, &id[..11]] {
            let shell = workspace.run(["shell", &isolation, build, "sh", "-c", looked]);
            assert_eq!(
                (shell.code(), &*shell.stdout()),
                (5, "there /opt\ni-should-not-exist\ngone"),
                "{}",
                shell.text()
            );
        }
        // Nothing of that is kept.
        let _ = workspace.run(["shell", &isolation, &id, "test", "!", "-e", "/left"]).success();
        let refused = workspace.run(["shell", &isolation]);
        assert!(refused.code() == 1 && refused.stderr().contains("needs a terminal"), "{}", refused.text());
        assert!(refused.stderr().contains("rbuild shell BUILD COMMAND"), "{}", refused.text());
    }
    let _ = workspace.run(["shell", &build_flags(&registry)[1], "busybox", "true"]).success();
    let none = workspace.run(["shell", &build_flags(&registry)[1], "nosuchimage", "true"]);
    assert!(none.code() != 0 && none.stderr().contains("nosuchimage"), "{}", none.text());
    assert_eq!(build(&workspace, &registry, &["--keep-failed=0"]).code(), 1);
    let id = workspace.run(["builds", "-q"]).success().stdout().lines().next().unwrap().to_owned();
    let nothing = workspace.run(["shell", &id, "true"]);
    assert!(nothing.code() == 1 && nothing.stderr().contains("nothing is left of the build"), "{}", nothing.text());
    workspace.expect_clean();
}

#[test]
fn builds_are_remembered_and_resumed() {
    let (workspace, registry) = require!(with_bases());
    let dockerfile = "FROM busybox\nRUN date +%N >/once\nRUN --mount=type=cache,target=/c test -e /c/fixed || { touch /c/fixed; exit 7; }\n";
    workspace.files("context", &[("Dockerfile", dockerfile)]);
    let failed = build(&workspace, &registry, &["--progress=plain", "-t", "resumed"]);
    assert_eq!(failed.code(), 1, "{}", failed.text());
    let list = workspace.run(["builds"]).success().stdout();
    assert!(list.lines().nth(1).is_some_and(|line| line.contains("failed") && line.contains("resumed")), "{list}");
    let id = workspace.run(["builds", "-q"]).success().stdout().trim().to_owned();
    let record = json(&workspace, &["builds", "show", &id[..11]]);
    assert_eq!((&record["status"], &record["failure"]["exit_code"]), (&"failed".into(), &7.into()), "{record}");
    let log = workspace.run(["builds", "log", "--log-format=buildkit"]);
    assert_eq!((log.code(), log.stderr()), (1, failed.stderr()));

    // All before the failed instruction is there.
    let resumed = workspace.run(["resume", "--log-format=buildkit"]).success();
    assert!(
        resumed.stderr().contains("RUN date +%N >/once\n") && resumed.stderr().contains("CACHED"),
        "{}",
        resumed.text()
    );
    assert!(!workspace.run(["images", "-q", "resumed"]).success().stdout().is_empty());
    let refused = workspace.run(["resume"]);
    assert!(refused.code() == 1 && refused.stderr().contains("it succeeded"), "{}", refused.text());
    workspace.files("context", &[("Dockerfile", "FROM busybox\nRUN exit 8\n")]);
    let refused = workspace.run(["resume", &id]);
    assert!(refused.code() == 1 && refused.stderr().contains("has changed since"), "{}", refused.text());
    assert!(refused.stderr().contains("--force"), "{}", refused.text());
    assert_eq!(workspace.run(["resume", "--force", &id]).code(), 1);

    let _ = workspace.run(["builds", "rm", &id]).success();
    let gone = workspace.run(["builds", "show", &id]);
    assert!(gone.code() == 1 && gone.stderr().contains("no record"), "{}", gone.text());
    workspace.expect_clean();
}

#[test]
fn the_oldest_failures_go() {
    let (workspace, registry) = require!(with_bases());
    let images = || workspace.run(["images", "-q"]).success().stdout().lines().count();
    for number in 0..3 {
        let dockerfile = format!("FROM busybox\nRUN head -c 300000 /dev/urandom >/{number}; exit 1\n");
        workspace.files("context", &[("Dockerfile", &dockerfile)]);
        assert_eq!(build(&workspace, &registry, &["--keep-failed=700k"]).code(), 1);
        // Times of records have a second.
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    assert_eq!(images(), 1 + 2, "{}", workspace.run(["images"]).stdout());
    assert_eq!(build(&workspace, &registry, &["--keep-failed=0", "--no-cache"]).code(), 1);
    assert_eq!(images(), 1 + 2);
    let _ = workspace.run(["prune", "--force"]).success();
    assert_eq!(images(), 1);
    workspace.expect_clean();
}
