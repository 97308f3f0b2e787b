//! Shells in builds that run, and going on from what is left.

use std::process::Child;

use rbuild_testkit::registry::Registry;
use rbuild_testkit::require;
use rbuild_testkit::terminal::Terminal;
use rbuild_testkit::workspace::{Output, Workspace};
use serde_json::Value;

use crate::{build_flags, with_bases};

const DOCKERFILE: &str = "FROM busybox AS one
ENV WORD=there
WORKDIR /opt
RUN --mount=type=secret,id=s,env=SECRET --mount=type=tmpfs,target=/t echo begun >half && false
RUN cat half && echo after
FROM one AS two
COPY Dockerfile /d
RUN ls /opt /d
";

/// A build on a terminal.
fn on_terminal(workspace: &Workspace, registry: &Registry, flags: &[&str]) -> (Terminal, Child) {
    let mut build = workspace.rbuild(build_flags(registry));
    build.args(flags).arg("context");
    Terminal::start(&mut build)
}

fn ended(mut terminal: Terminal, mut child: Child, last: &str) -> (String, i32) {
    let shown = terminal.expect(last);
    let code = child.wait().unwrap().code().unwrap();
    assert!(!terminal.is_raw(), "the terminal is left raw");
    (shown, code)
}

fn builds(workspace: &Workspace) -> Vec<Value> {
    let list = workspace.run(["builds", "--format=json"]).success().stdout();
    list.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn run(workspace: &Workspace, image: &str, script: &str) -> Output {
    workspace.run(["run", image, "sh", "-c", script])
}

#[test]
fn a_shell_where_a_command_failed() {
    let (workspace, registry) = require!(with_bases());
    workspace.files("context", &[("Dockerfile", DOCKERFILE)]);
    std::fs::write(workspace.path("secret"), "hidden").unwrap();
    for isolation in ["auto", "ptrace"] {
        for format in ["buildkit", "tty"] {
            let flags = [
                &format!("--isolation={isolation}"),
                &format!("--log-format={format}"),
                "--no-cache",
                "--secret=id=s,src=secret",
                "--on-error=shell",
                "-t",
                "mended",
            ];
            // Mended, and gone on with.
            let (mut terminal, child) = on_terminal(&workspace, &registry, &flags);
            let _ = terminal.expect("(line 4) failed with exit code 1: /bin/sh\r\n");
            let _ = terminal.expect("# ");
            assert!(terminal.is_raw());
            terminal.type_in("echo $WORD $PWD $SECRET $(id -u) $(mount | grep -c ' /t ') \"<$(cat half)>\"\r");
            let _ = terminal.expect("there /opt hidden 0 1 <begun>\r\n");
            terminal.type_in("echo by hand >>half\r");
            terminal.type_in("exit 0\r");
            let last = if format == "tty" { "built" } else { "naming to docker.io/library/mended done" };
            let (_, code) = ended(terminal, child, last);
            assert_eq!(code, 0, "{isolation} {format}");
            assert_eq!(run(&workspace, "mended", "cat half; ls -d /t").stdout(), "begun\nby hand");
            // It is no result for others.
            let (terminal, child) = on_terminal(&workspace, &registry, &flags[..2]);
            let (_, code) = ended(terminal, child, "exit code: 1");
            assert_eq!(code, 1, "{isolation} {format}");
        }
        // Left with an error: the build has failed, and what the shell did is kept with the rest.
        let flags =
            [&format!("--isolation={isolation}"), "--log-format=docker", "--on-error=shell:/bin/ash", "--lenient"];
        let (mut terminal, child) = on_terminal(&workspace, &registry, &flags);
        let _ = terminal.expect("failed with exit code 1: /bin/ash\r\n");
        let _ = terminal.expect("# ");
        terminal.type_in("touch looked; exit 3\r");
        let (_, code) = ended(terminal, child, "returned a non-zero code: 1\r\n");
        assert_eq!(code, 1);
        assert_eq!(workspace.run(["shell", "4", "ls"]).success().stdout(), "half\nlooked");
    }
    // Nobody can type.
    let refused = workspace.rbuild(build_flags(&registry)).args(["--on-error=shell", "context"]).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && text.contains("a shell needs a terminal"), "{text}");
    workspace.expect_clean();
}

#[test]
fn breakpoints() {
    let (workspace, registry) = require!(with_bases());
    workspace.files("context", &[("Dockerfile", &DOCKERFILE.replace("&& false", "&& true"))]);
    for (format, stage_step) in [("buildkit", "two:2"), ("docker", "two:3")] {
        let flags = [
            &format!("--log-format={format}"),
            "--lenient",
            "--no-cache",
            "-t",
            "x",
            "--break=4",
            "--break",
            stage_step,
        ];
        let (mut terminal, child) = on_terminal(&workspace, &registry, &flags);
        let _ = terminal.expect("(line 4): /bin/sh\r\n");
        let _ = terminal.expect("# ");
        terminal.type_in("echo $WORD $PWD $(ls | wc -l); touch seen; exit 0\r");
        let _ = terminal.expect("there /opt 0\r\n");
        let _ = terminal.expect("(line 8): /bin/sh\r\n");
        let _ = terminal.expect("# ");
        terminal.type_in("echo \"<$(ls / | grep -c ^d$)>\"; exit 0\r");
        let _ = terminal.expect("<1>\r\n");
        let last =
            if format == "docker" { "Successfully tagged x:latest" } else { "naming to docker.io/library/x done" };
        assert_eq!(ended(terminal, child, last).1, 0);
        assert_eq!(run(&workspace, "x", "ls /opt").stdout(), "half", "{format}: what is done at a breakpoint is gone");
        // The end of the build.
        let (mut terminal, child) = on_terminal(&workspace, &registry, &flags);
        let _ = terminal.expect("# ");
        terminal.type_in("exit 7\r");
        let (_, code) = ended(terminal, child, "the shell's exit code was 7\r\n");
        assert_ne!(code, 0);
        let (terminal, child) = on_terminal(&workspace, &registry, &[flags[0], "--lenient", "--break=99"]);
        let (_, code) = ended(terminal, child, "there is no step at the breakpoint `99`\r\n");
        assert_ne!(code, 0);
    }
    workspace.expect_clean();
}

#[test]
fn steps_are_looked_at_and_gone_on_from() {
    let (workspace, registry) = require!(with_bases());
    workspace.files("context", &[("Dockerfile", DOCKERFILE)]);
    std::fs::write(workspace.path("secret"), "hidden").unwrap();
    let build = |flags: &[&str]| {
        let own = build_flags(&registry);
        workspace.run(own.iter().map(String::as_str).chain(flags.iter().copied()).chain(["context"]))
    };
    for (format, failed, not_done) in
        [("buildkit", "3", "did not come to its step 5"), ("docker", "4", "has no step `5`")]
    {
        let format = format!("--log-format={format}");
        let name = format!("x{failed}");
        let flags = [&format, "--lenient", "--no-cache", "--secret=id=s,src=secret", "-t", &name];
        assert_eq!(build(&flags).code(), 1);
        let record = &builds(&workspace)[0];
        let id = record["id"].as_str().unwrap();
        let step = &record["steps"][failed.parse::<usize>().unwrap() - 1];
        assert_eq!((&step["status"], &step["lines"]["start"]), (&"failed".into(), &4.into()), "{record:#}");
        let table = workspace.run(["builds", "show", "--format=table"]).success().stdout();
        assert!(table.contains("failed") && table.contains("WORKDIR /opt"), "{table}");

        for step in [failed, &format!("{id}/{failed}"), id] {
            let shell = workspace.run(["shell", step, "sh", "-c", "echo $WORD $PWD; ls"]).success();
            assert_eq!(shell.stdout(), "there /opt\nhalf", "{step}");
            assert_eq!(workspace.run(["diff", step]).success().stdout(), "A      6B /opt/half");
            assert_eq!(workspace.run(["cat", &format!("{step}:/opt/half")]).success().stdout(), "begun");
        }
        assert_eq!(workspace.run(["cat", "/opt/half"]).success().stdout(), "begun");
        assert_eq!(workspace.run(["shell", "1", "ls", "/opt"]).code(), 1, "{}", "there is no /opt before WORKDIR");
        for (arguments, wanted) in [
            (["shell", "5", "ls"], not_done),
            (["shell", "99", "ls"], "has no step `99`"),
            (["diff", "1", "--format=table"], "changes no files"),
            (["cat", "/opt", "--no-hint"], "it is a directory"),
            (["cat", "/nosuch", "--no-hint"], "no such file or directory"),
        ] {
            let refused = workspace.run(arguments);
            assert!(refused.code() != 0 && refused.stderr().contains(wanted), "{arguments:?}: {}", refused.text());
        }

        // Kept under a name; half of a success under another.
        let _ = workspace.run(["shell", "--commit=kept:1", failed, "sh", "-c", "echo more >more"]).success();
        assert_eq!(run(&workspace, "kept:1", "ls").stdout(), "half\nmore");
        assert_eq!(workspace.run(["shell", "--commit=kept:2", failed, "sh", "-c", "touch bad; exit 5"]).code(), 5);
        assert_eq!(run(&workspace, "kept:2-failed", "ls").stdout(), "bad\nhalf");
        // The step is done by hand, and the build goes on.
        let script = "echo by hand >>half";
        let resumed = workspace.run(["shell", "--resume", id, "sh", "-c", script]).success();
        assert!(resumed.text().contains("by hand"), "{}", resumed.text());
        assert_eq!(run(&workspace, &name, "cat half; ls -d /d").stdout(), "begun\nby hand\n/d");
        let layers = |image: &str| {
            let text = workspace.run(["inspect", image]).success().stdout();
            let image: Value = serde_json::from_str(&text).unwrap();
            image[0]["RootFS"]["Layers"].as_array().unwrap().clone()
        };
        let step_layers = layers(&name);
        // One layer for the step, as if it had not failed.
        workspace.files("context", &[("Dockerfile", &DOCKERFILE.replace("&& false", "&& echo by hand >>half"))]);
        assert_eq!(build(&[&flags[..5], &["other"]].concat()).code(), 0);
        assert_eq!(step_layers.len(), layers("other").len());
        workspace.files("context", &[("Dockerfile", DOCKERFILE)]);
        // The steps that were done for it are no results for others.
        assert_eq!(build(&[&format, "--lenient", "--secret=id=s,src=secret"]).code(), 1);
    }
    workspace.expect_clean();
}

#[test]
fn half_a_command_is_gone_on_with() {
    let (workspace, registry) = require!(with_bases());
    let dockerfile = "FROM busybox\nCOPY data /data\nRUN mkdir -p /work; for i in 1 2 3 4; do test -e /work/$i && continue; \
                      echo $i >/work/$i; echo did $i; test $i = 3 && exit 9; done; rm /data; ls /work\nRUN ls /work\n";
    for (format, isolation) in [("buildkit", "auto"), ("docker", "auto"), ("buildkit", "ptrace")] {
        workspace.files("context", &[("Dockerfile", dockerfile), ("data", format)]);
        let flags =
            [&format!("--log-format={format}"), &format!("--isolation={isolation}"), "--no-cache", "-t", "half"];
        let own = build_flags(&registry);
        let failed = workspace.run(own.iter().map(String::as_str).chain(flags).chain(["context"]));
        assert!(failed.code() != 0 && failed.text().contains("did 3"), "{}", failed.text());
        // What it copies is another now.
        workspace.files("context", &[("data", "changed")]);
        let changed = workspace.run(["resume", "--keep-partial"]);
        assert!(
            changed.code() != 0 && changed.text().contains("`COPY data /data` (line 2) is not what it was"),
            "{}",
            changed.text()
        );
        workspace.files("context", &[("data", format)]);
        let id = builds(&workspace)[1]["id"].as_str().unwrap().to_owned();
        let resumed = workspace.run(["resume", "--keep-partial", &id]).success();
        assert!(!resumed.text().contains("did 3") && resumed.text().contains("did 4"), "{}", resumed.text());
        assert_eq!(run(&workspace, "half", "ls /work; ls /data").stdout(), "1\n2\n3\n4");
        // Such a layer is never a result for others.
        let again = workspace.run(own.iter().map(String::as_str).chain(flags[..2].iter().copied()).chain(["context"]));
        assert!(again.code() != 0 && again.text().contains("did 3"), "{}", again.text());
    }
    workspace.expect_clean();
}

/// The same work under another store, which is another machine's, and with the context gone.
#[test]
fn a_failed_build_goes_on_elsewhere() {
    let (workspace, registry) = require!(with_bases());
    let dockerfile = "FROM busybox AS made\nRUN cat /proc/sys/kernel/random/uuid >/once\nFROM busybox\nENV A=b\nCOPY --from=made /once /once\nCOPY . /src\n\
                      RUN test -e /half || { touch /half; exit 9; }; cat /src/data\nCOPY later /later\n";
    for (format, isolation) in [("buildkit", "auto"), ("docker", "ptrace")] {
        let files = [
            ("Dockerfile", dockerfile),
            ("data", "inside"),
            ("later", "more"),
            ("hidden", "x"),
            (".dockerignore", "hidden"),
        ];
        workspace.files("context", &files);
        let flags = [&format!("--log-format={format}"), &format!("--isolation={isolation}"), "-t", "moved"];
        let own = build_flags(&registry);
        let failed = workspace.run(own.iter().map(String::as_str).chain(flags).chain(["context"]));
        assert_ne!(failed.code(), 0, "{}", failed.text());
        let once = workspace.run(["cat", "/once"]).success().stdout();
        let _ = workspace.run(["save", "--failed", "-o", "failed.oci"]).success();
        std::fs::rename(workspace.path("context"), workspace.path(&format!("gone-{format}"))).unwrap();

        let there = format!("--root={}", workspace.path(&format!("elsewhere-{format}")).display());
        let shell = workspace.run([
            "shell",
            &there,
            "failed.oci",
            "sh",
            "-c",
            "echo $A; ls -A / /src | grep -e half -e hidden",
        ]);
        assert_eq!(shell.success().stdout(), "b\nhalf");
        // Nothing but what failed is in the way.
        let images = workspace.run(["images", &there, "-q"]).success().stdout();
        assert_eq!(images.lines().count(), 2, "the base image and what is left: {images}");
        let resumed = workspace.run(["resume", &there, "--keep-partial", "failed.oci"]).success();
        assert!(
            resumed.text().contains("inside") && resumed.text().to_lowercase().contains("cache"),
            "{}",
            resumed.text()
        );
        let made = workspace.run(["run", &there, "moved", "cat", "/once", "/later"]).success().stdout();
        assert_eq!(made, format!("{once}\nmore"), "what was done was not done again");
        // What came from elsewhere is no result for other builds.
        std::fs::rename(workspace.path(&format!("gone-{format}")), workspace.path("context")).unwrap();
        let again = workspace.run(own.iter().map(String::as_str).chain([&*there]).chain(flags).chain(["context"]));
        assert_ne!(again.code(), 0, "{}", again.text());
        assert_ne!(workspace.run(["cat", &there, "/once"]).success().stdout(), once);
        let id = workspace.run(["builds", "-q", &there]).success().stdout();
        let _ = workspace.run(["builds", "rm", &there, id.lines().last().unwrap()]).success();
    }
    let image = workspace.run(["save", "--format=oci", "-o", "image.oci", "moved"]);
    assert_ne!(image.code(), 0);
    let _ = workspace.run(["save", "--format=oci", "-o", "image.oci", "busybox"]).success();
    let refused = workspace.run(["resume", "./image.oci"]);
    assert!(refused.code() == 1 && refused.stderr().contains("holds no failed build"), "{}", refused.text());
    std::fs::write(workspace.path("bad.oci"), "no archive").unwrap();
    let refused = workspace.run(["shell", "bad.oci", "true"]);
    assert!(refused.code() != 0 && refused.stderr().contains("rbuild: error"), "{}", refused.text());
    workspace.expect_clean();
}
