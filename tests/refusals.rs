//! What is printed when a registry says no: each answer of `tests/fixtures/registry` with both builders of both versions,
//! byte for byte what Docker printed.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rbuild_testkit::golden::{Dialect, Golden, Printed};
use rbuild_testkit::scripted::{PLAIN, Script, ScriptedRegistry};
use rbuild_testkit::workspace::{Workspace, finish};
use rbuild_testkit::{logs, require};
use regex::Regex;

use crate::{fixtures, workspace};

const DIALECTS: [Dialect; 4] = [
    Dialect { builder: "legacy", version: "28" },
    Dialect { builder: "legacy", version: "20" },
    Dialect { builder: "buildkit", version: "28" },
    Dialect { builder: "buildkit", version: "20" },
];

/// Hosts whose certificates the tests' own authority signs.
const HOSTS: [&str; 4] = ["registry-1.docker.io", "auth.docker.io", "cdn.docker.io", "registry.example"];

#[test]
fn as_docker_puts_it() {
    let workspace = require!(workspace());
    let mut names: Vec<_> = fs::read_dir(fixtures().join("registry"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("registry.json").exists())
        .collect();
    names.sort();
    // A single one may be named.
    let only = std::env::var("RBUILD_TEST_ONLY").ok();
    names.retain(|path| only.as_ref().is_none_or(|only| path.to_string_lossy().contains(only.as_str())));
    // Most of the time is spent in waiting before a request is made again.
    const AT_ONCE: usize = 12;
    let next = AtomicUsize::new(0);
    let faults = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for worker in 0..AT_ONCE {
            let (workspace, names, next, faults) = (&workspace, &names, &next, &faults);
            scope.spawn(move || {
                let servers = ScriptedRegistry::start();
                let authority = format!("authority-{worker}");
                let authority = workspace.files(&authority, &[("ca.pem", servers.authority())]).join("ca.pem");
                while let Some(path) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let name = path.file_name().unwrap().to_string_lossy();
                    for dialect in DIALECTS {
                        let found = check(workspace, &servers, &authority, path, dialect);
                        let found = found.into_iter().map(|fault| format!("{name} {dialect}: {fault}"));
                        faults.lock().unwrap().extend(found);
                    }
                }
            });
        }
    });
    let mut faults = faults.into_inner().unwrap();
    faults.sort();
    assert!(faults.is_empty(), "{} differences:\n{}", faults.len(), faults.join("\n"));
    workspace.expect_clean();
}

fn check(
    workspace: &Workspace,
    servers: &ScriptedRegistry,
    authority: &Path,
    path: &Path,
    dialect: Dialect,
) -> Vec<String> {
    let golden = Golden::new(path.parent().unwrap(), &path.file_name().unwrap().to_string_lossy());
    let Some(want) = golden.printed_once(dialect) else { return Vec::new() };
    let script = Script::read(&path.join("registry.json"));
    if !script.dns.is_empty() || script.unreachable {
        // Recorded for the words, but a test has no name server or host of its own.
        return Vec::new();
    }
    servers.follow(&script);
    let name = format!("{}-{dialect}", path.file_name().unwrap().to_string_lossy());
    let dockerfile = fs::read_to_string(path.join("Dockerfile")).unwrap().replace(PLAIN, &servers.plain());
    let context = workspace.files(&name, &[("Dockerfile", &dockerfile)]);
    let config = format!("{name}-config");
    workspace.files(&config, &[("config.json", &script.client_config(&servers.plain()))]);
    let mut build = workspace.rbuild(["build", "--network=host"]);
    for host in HOSTS {
        build.arg(format!("--registry-certificate={host}={}", authority.display()));
    }
    build
        .args(dialect.flags())
        .args(&script.args)
        .arg(".")
        .env("RBUILD_ROOT", workspace.path("stores").join(&name))
        .env("DOCKER_CONFIG", workspace.path(&config))
        .env("https_proxy", servers.proxy())
        // Names without address must be looked up, and not by the proxy.
        .env("no_proxy", "no-such-host.example")
        .current_dir(&context);
    let output = finish(&mut build, None);
    let mut faults = Vec::new();
    if output.status.code() != Some(want.status) {
        faults.push(format!("{}, docker {}", output.status, want.status));
    }
    let recorded = |bytes: &[u8]| hidden(&String::from_utf8_lossy(bytes).replace(&servers.plain(), PLAIN));
    let want = Printed { stdout: hidden(&want.stdout), stderr: hidden(&want.stderr), status: want.status };
    if want.stderr.contains(": no such host")
        && output.text().contains("lookup ")
        && !output.text().contains("no such host")
    {
        // Nobody here knows which names there are.
        return Vec::new();
    }
    let got = Printed { stdout: recorded(&output.stdout), stderr: recorded(&output.stderr), status: 0 };
    faults.extend(logs::differences(dialect, "once", &want, &got, context.to_str().unwrap()));
    faults
}

/// Hides what differs between machines and moments, and secrets, which Docker shows and rbuild does not.
fn hidden(text: &str) -> String {
    let mut text = text.replace("secret=1", "secret=REDACTED");
    for (pattern, with) in [
        (r"lookup (\S+) on \S+:53", "lookup $1 on <server>"),
        (r"current time \S+", "current time <now>"),
        (r"\(linux/amd64(/v\d)?\) and no specific", "(<host>) and no specific"),
        // What was looked up when another lookup failed may have been found by then.
        (r"(?m)^(#\d+) CANCELED$", "$1 DONE 0.0s"),
    ] {
        text = Regex::new(pattern).unwrap().replace_all(&text, with).into_owned();
    }
    text
}
