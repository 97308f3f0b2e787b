//! Every case, in both builders' dialects of both versions: exit codes, images and logs are those of Docker.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use rbuild_testkit::case::{Case, RECORDED_REGISTRY};
use rbuild_testkit::golden::{Dialect, Golden, Printed};
use rbuild_testkit::registry::Registry;
use rbuild_testkit::workspace::{Output, Workspace, finish};
use rbuild_testkit::{bases, listing, logs, mask, require};

use crate::{fixtures, with_bases};

#[test]
fn legacy_28() {
    check(Dialect { builder: "legacy", version: "28" });
}

#[test]
fn legacy_20() {
    check(Dialect { builder: "legacy", version: "20" });
}

#[test]
fn buildkit_28() {
    check(Dialect { builder: "buildkit", version: "28" });
}

#[test]
fn buildkit_20() {
    check(Dialect { builder: "buildkit", version: "20" });
}

/// Cases whose logs are known to differ yet; an entry that has become equal is a failure, so that the list shrinks.
fn known_to_differ(dialect: Dialect) -> BTreeSet<String> {
    let text = fs::read_to_string(fixtures().join("log-differences.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines
        .filter_map(|line| {
            let (case, of) = line.split_once(' ').unwrap();
            (of == dialect.to_string()).then(|| case.to_owned())
        })
        .collect()
}

fn check(dialect: Dialect) {
    let (workspace, registry) = require!(with_bases());
    let known = known_to_differ(dialect);
    let (mut faults, mut compared, mut images, mut replayed) = (Vec::new(), BTreeSet::new(), 0, 0);
    for case in Case::all(&fixtures().join("cases")) {
        let golden = Golden::new(&fixtures().join("goldens"), &case.name);
        if golden.printed(dialect, "cold").is_none() {
            continue;
        }
        let tested = test(&workspace, &registry, &case, &golden, dialect);
        replayed += tested.replayed;
        images += usize::from(golden.image(dialect).is_some());
        faults.extend(tested.faults.iter().map(|fault| format!("{}: {fault}", case.name)));
        match (tested.log.is_empty(), known.contains(&case.name)) {
            (false, false) => faults.extend(tested.log.iter().map(|row| format!("{}: {row}", case.name))),
            (true, true) => {
                faults.push(format!("{}: its log is Docker's now: take it off log-differences.txt", case.name))
            }
            _ => {}
        }
        compared.insert(case.name);
    }
    faults.extend(known.difference(&compared).map(|name| format!("log-differences.txt: no case {name} {dialect}")));
    assert!(faults.is_empty(), "{dialect}: {} faults:\n{}", faults.len(), faults.join("\n"));
    assert!(compared.len() > 25, "only {} cases", compared.len());
    assert!(replayed > 50, "only {replayed} replays");
    assert!(dialect.version == "20" || images > 12, "only {images} images");
}

#[derive(Default)]
struct Tested {
    faults: Vec<String>,
    /// How the logs differ.
    log: Vec<String>,
    /// How many of its runs were replayed.
    replayed: usize,
}

/// Builds a case twice on a store of its own.
fn test(workspace: &Workspace, registry: &Registry, case: &Case, golden: &Golden, dialect: Dialect) -> Tested {
    let mut tested = Tested::default();
    let store = workspace.path(&format!("{}-store", case.name));
    for run in ["cold", "warm"] {
        let want = golden.printed(dialect, run).unwrap();
        // Of the same name in both runs: 28's client knows what it sent before by that.
        let parent = workspace.path(&format!("{}-{run}", case.name));
        fs::create_dir(&parent).unwrap();
        let context = parent.join("context");
        case.stage(&context, &registry.host());
        let (args, input) = case.arguments(&context);
        workspace.user().own(&parent);
        let recording = workspace.path(&format!("{}-{run}.events", case.name));
        let mut build = workspace.rbuild(crate::build_flags(registry));
        build.args(dialect.flags()).arg(format!("--log-file=events:{}", recording.display()));
        build.args(args).env("RBUILD_ROOT", &store).current_dir(&context);
        let output = finish(&mut build, input);
        if output.status.code() != Some(want.status) {
            let end = output.text();
            let end = end.lines().rev().take(6).collect::<Vec<_>>().join(" | ");
            tested.faults.push(format!("{run}: {}, docker {}: {end}", output.status, want.status));
        }
        // What is wrong with the command line is told before any build begins.
        if fs::metadata(&recording).is_ok_and(|file| file.len() > 0) {
            tested.replayed += 1;
            tested.faults.extend(replay_fault(workspace, &recording, &output).map(|fault| format!("{run}: {fault}")));
        }
        let recorded = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&registry.host(), RECORDED_REGISTRY);
        let got = Printed { stdout: recorded(&output.stdout), stderr: recorded(&output.stderr), status: 0 };
        tested.log.extend(logs::differences(dialect, run, &want, &got, context.to_str().unwrap()));
        if run == "warm" {
            tested.faults.extend(cache_fault(&want, &got));
        }
        if run == "cold"
            && let Some(image) = golden.image(dialect)
        {
            let mut save = workspace.rbuild(["save", &case.image()]);
            let saved = finish(save.env("RBUILD_ROOT", &store), None);
            if saved.status.success() {
                let want = mask::with_local_busybox(image, bases::busybox().unwrap());
                let built = listing::of_archive(&saved.stdout).to_string().replace(&registry.host(), RECORDED_REGISTRY);
                tested.faults.extend(listing::differences(&want, &built.parse().unwrap()));
            } else {
                tested.faults.push(format!("save: {}", saved.text()));
            }
        }
    }
    let mut prune = workspace.rbuild(["prune", "--all", "--force"]);
    let pruned = finish(prune.env("RBUILD_ROOT", &store), None);
    if !pruned.status.success() {
        tested.faults.push(format!("prune: {}", pruned.text()));
    }
    tested
}

/// The recording of a build gives its bytes again, and its exit code.
fn replay_fault(workspace: &Workspace, recording: &Path, live: &Output) -> Option<String> {
    let replayed = workspace.run([OsStr::new("replay"), recording.as_os_str()]);
    let same = (&replayed.stdout, &replayed.stderr) == (&live.stdout, &live.stderr) && replayed.status == live.status;
    (!same).then(|| {
        format!(
            "replay gives {} and {:?}, live {} and {:?}",
            replayed.status,
            replayed.text(),
            live.status,
            live.text()
        )
    })
}

/// In the second run exactly the steps that Docker has from its cache are had from ours.
fn cache_fault(want: &Printed, got: &Printed) -> Option<String> {
    let hits = |printed: &Printed| {
        let legacy = printed.stdout.lines().filter(|line| *line == " ---> Using cache").count();
        let mut titles: BTreeMap<&str, &str> = BTreeMap::new();
        let mut cached = BTreeSet::new();
        for line in printed.stderr.lines().filter(|line| line.starts_with('#')) {
            let (number, rest) = line.split_once(' ').unwrap_or((line, ""));
            let title = titles.entry(number).or_insert(rest);
            // Whether a base counts as cached is a matter of the log.
            if rest == "CACHED" && !title.contains("FROM ") {
                cached.insert(number);
            }
        }
        legacy + cached.len()
    };
    (hits(want) != hits(got)).then(|| format!("warm: {} steps from the cache, docker {}", hits(got), hits(want)))
}
