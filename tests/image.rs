//! rbuild's own image, as `examples/image/build` makes it.

use std::ffi::OsStr;
use std::path::Path;

use rbuild_testkit::daemon::Daemon;
use rbuild_testkit::workspace::{Workspace, finish};
use rbuild_testkit::{listing, require};
use serde_json::json;

use crate::{source_root, workspace};

/// Builds the image under a name, and saves it.
fn build(workspace: &Workspace, name: &str) -> Vec<u8> {
    let program = workspace.rbuild([OsStr::new("version")]).get_program().to_owned();
    let script = source_root().join("examples/image/build");
    let mut command = workspace.command("/bin/sh");
    command.arg(script).args(["--tag", name]).env("RBUILD", program).env("RBUILD_ROOT", workspace.store());
    let _ = finish(&mut command, None).success();
    workspace.saved(name)
}

#[test]
fn has_the_program_and_authorities_and_nothing_else() {
    let workspace = require!(workspace());
    require!(authorities());
    let first = listing::of_archive(&build(&workspace, "first"));
    let files = first["files"].as_object().unwrap();
    let mut names: Vec<&str> =
        files.iter().filter(|(_, file)| file["kind"] != "d").map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["/etc/group", "/etc/passwd", "/etc/ssl/certs/ca-certificates.crt", "/rbuild"]);
    for (name, mode) in [("/rbuild", "0o755"), ("/tmp", "0o1777"), ("/var/lib/rbuild", "0o1777"), ("/work", "0o1777")] {
        assert_eq!((&files[name]["mode"], &files[name]["owner"]), (&json!(mode), &json!("0:0")), "{name}");
    }
    assert_eq!(first["config"]["Entrypoint"], json!(["/rbuild"]));
    // The same program makes the same image.
    let id = |name: &str| workspace.run(["inspect", "--format", "json", name]).success().stdout();
    build(&workspace, "second");
    assert_eq!(id("first"), id("second"));
    workspace.expect_clean();
}

#[test]
fn starts_in_docker_for_any_user() {
    let workspace = require!(workspace());
    require!(authorities());
    let daemon = require!(Daemon::find());
    let name = format!("rbuild-test/own-{}:latest", std::process::id());
    let image = daemon.load(&name, &build(&workspace, &name)).unwrap();
    for user in ["0:0", "1000:1000", "1000650000:0"] {
        for arguments in [&["version"][..], &["images"], &["doctor", "--json"]] {
            let (mut run, _container) = daemon.run();
            run.args(["--network=none", "--user", user, &image.name]).args(arguments);
            let output = finish(&mut run, None);
            if arguments[0] == "doctor" {
                // Whatever it finds, it has to find the store.
                let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
                let checks = found["checks"].as_array().unwrap();
                let store = checks.iter().find(|check| check["name"] == "store").unwrap();
                assert_eq!(store["state"], "good", "{user}: {store}");
            } else {
                assert_eq!(output.code(), 0, "{user}: {}", output.text());
            }
        }
    }
    workspace.expect_clean();
}

/// The file that the script takes.
fn authorities() -> Result<(), String> {
    let file = Path::new("/etc/ssl/certs/ca-certificates.crt");
    if file.exists() { Ok(()) } else { Err("the package ca-certificates is not installed".to_owned()) }
}
