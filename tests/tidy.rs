//! What holds for the source tree as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::source_root;

/// Longest source file, without tests.
const LINES: usize = 800;

/// Which crates of the workspace each crate may know.
const GRAPH: [(&str, &[&str]); 8] = [
    ("rbuild-parser", &[]),
    ("rbuild-logfmt", &[]),
    ("rbuild-image", &[]),
    ("rbuild-sandbox", &[]),
    ("rbuild-executor", &["rbuild-image", "rbuild-logfmt", "rbuild-parser", "rbuild-sandbox"]),
    ("rbuild", &["rbuild-executor", "rbuild-logfmt"]),
    ("rbuild-testkit", &[]),
    ("rbuild-differential", &["rbuild-testkit"]),
];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(source_root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn graph_of_crates() {
    let mut found = BTreeMap::new();
    for package in metadata()["packages"].as_array().unwrap() {
        let dependencies: BTreeSet<String> = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            // What tests need is not part of it.
            .filter(|dependency| dependency["kind"] != "dev" && dependency["path"].is_string())
            .map(|dependency| dependency["name"].as_str().unwrap().to_owned())
            .collect();
        found.insert(package["name"].as_str().unwrap().to_owned(), dependencies);
    }
    let wanted: BTreeMap<String, BTreeSet<String>> = GRAPH
        .iter()
        .map(|(name, known)| ((*name).to_owned(), known.iter().map(|name| (*name).to_owned()).collect()))
        .collect();
    assert_eq!(found, wanted);
}

/// Every Rust file that is ours, relative to the root, with its text.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for dir in ["crates", "tests", "examples", "benches", "fuzz"] {
        rust_files(&source_root().join(dir), &mut files);
    }
    assert!(files.len() > 50, "only {} source files", files.len());
    files
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(source_root()).unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect()
}

fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if !matches!(entry.file_name().to_str(), Some("target" | "fixtures")) {
                rust_files(&path, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn is_test_file(name: &str) -> bool {
    name.starts_with("tests/") || name.contains("/tests/") || name.ends_with("/tests.rs")
}

/// The text before the tests at its end.
fn without_tests(text: &str) -> &str {
    let end = text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    &text[..end]
}

#[test]
fn files_are_short() {
    let mut faults = Vec::new();
    for (name, text) in sources() {
        let lines = without_tests(&text).lines().count();
        if !is_test_file(&name) && lines > LINES {
            faults.push(format!("{name}: {lines} lines"));
        }
        if ["util.rs", "utils.rs", "common.rs", "helpers.rs", "misc.rs"]
            .iter()
            .any(|bad| name.ends_with(&format!("/{bad}")))
        {
            faults.push(format!("{name}: named for nothing that is in it"));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn nothing_is_unfinished() {
    // In two parts, so that this file does not have them.
    let words = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
        concat!("dbg", "!("),
    ];
    let faults: Vec<String> = sources()
        .iter()
        .flat_map(|(name, text)| {
            words.iter().filter(|word| text.contains(**word)).map(move |word| format!("{name}: {word}"))
        })
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn unsafe_code_is_forbidden_outside_of_the_sandbox() {
    for (name, text) in sources() {
        let is_root = name.starts_with("crates/") && (name.ends_with("/src/lib.rs") || name.ends_with("/src/main.rs"));
        if is_root && !name.starts_with("crates/sandbox/") {
            assert!(text.contains("#![forbid(unsafe_code)]"), "{name} does not forbid unsafe code");
        }
    }
}

#[test]
fn libraries_print_nothing() {
    let macros = ["println!(", "print!(", "eprintln!(", "eprint!("];
    for (name, text) in sources() {
        let library = ["parser", "logfmt", "image", "sandbox", "executor"]
            .iter()
            .any(|name_of| name.starts_with(&format!("crates/{name_of}/src/")));
        if !library || is_test_file(&name) {
            continue;
        }
        for (number, line) in without_tests(&text).lines().enumerate() {
            let code = !line.trim_start().starts_with("//");
            assert!(!code || !macros.iter().any(|print| line.contains(print)), "{name}:{}: {line}", number + 1);
        }
    }
}

/// A trace that was forgotten there fills the disk, or fails for the next user.
#[test]
fn no_file_of_a_fixed_name_is_written_for_all_to_see() {
    for (name, text) in sources() {
        let is_program = name.starts_with("crates/") && !name.starts_with("crates/testkit/") && !is_test_file(&name);
        assert!(!is_program || !without_tests(&text).contains("\"/tmp/"), "{name}: a path in /tmp");
    }
}

#[test]
fn every_test_file_is_declared() {
    let manifest = fs::read_to_string(source_root().join("crates/cli/Cargo.toml")).unwrap();
    let main = fs::read_to_string(source_root().join("tests/main.rs")).unwrap();
    for entry in fs::read_dir(source_root().join("tests")).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        let Some(module) = name.strip_suffix(".rs") else {
            continue;
        };
        let declared =
            manifest.contains(&format!("path = \"../../tests/{name}\"")) || main.contains(&format!("mod {module};"));
        assert!(declared, "tests/{name} is run by nobody");
    }
}
