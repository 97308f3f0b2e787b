//! `--log-format=rawjson` against recordings of `docker buildx build --progress=rawjson` (Docker 28.5.2): which keys
//! occur in what, with which types, and through which states each vertex goes.
//!
//! `tests/fixtures/rawjson/NAME.jsonl` is what Docker wrote to standard error for the context `NAME` beside it; `cached`
//! is the second build of `success`, and `pull` a build whose base came from a registry.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use rbuild_testkit::require;
use rbuild_testkit::workspace::{Workspace, finish};
use serde_json::{Map, Value};

use crate::{build_flags, fixtures, with_bases};

const CASES: [&str; 5] = ["success", "cached", "failure", "warnings", "copyfail"];

/// The messages of a log, and the text after them.
struct Log {
    messages: Vec<Map<String, Value>>,
    rest: String,
}

impl Log {
    fn of(text: &str) -> Log {
        let mut log = Log { messages: Vec::new(), rest: String::new() };
        for line in text.split_inclusive('\n') {
            match serde_json::from_str(line) {
                Ok(Value::Object(message)) if log.rest.is_empty() => log.messages.push(message),
                _ => log.rest.push_str(line),
            }
        }
        log
    }

    fn recorded(name: &str) -> Log {
        Log::of(&fs::read_to_string(fixtures().join(format!("rawjson/{name}.jsonl"))).unwrap())
    }

    fn entries<'a>(&'a self, list: &'a str) -> impl Iterator<Item = &'a Value> {
        self.messages.iter().filter_map(move |message| message.get(list)).flat_map(|list| list.as_array().unwrap())
    }

    /// Names of vertices by digest.
    fn names(&self) -> BTreeMap<&str, String> {
        self.entries("vertexes").map(|vertex| (text(vertex, "digest"), name(text(vertex, "name")))).collect()
    }

    /// Through which states each vertex goes.
    fn states(&self) -> BTreeMap<String, Vec<&'static str>> {
        let mut states: BTreeMap<String, Vec<&'static str>> = BTreeMap::new();
        for vertex in self.entries("vertexes") {
            let has = |key| vertex.get(key).is_some();
            let state = match () {
                () if has("error") => "failed",
                () if has("cached") => "cached",
                () if has("completed") => "completed",
                () if has("started") => "started",
                () => "declared",
            };
            states.entry(name(text(vertex, "name"))).or_default().push(state);
        }
        // What follows at once may come in one message with what was before it, or in the next.
        for states in states.values_mut() {
            let all = std::mem::take(states);
            for (at, state) in all.iter().enumerate() {
                if *state == "cached" && states.last() == Some(state) {
                    continue;
                }
                let followed = all.get(at + 1).is_some_and(|next| *next != "started" && *next != "declared");
                if *state != "started" || !followed {
                    states.push(state);
                }
            }
        }
        states
    }

    /// What vertices are made of.
    fn inputs(&self) -> BTreeMap<String, Vec<String>> {
        let names = self.names();
        let of = |vertex: &Value| {
            let inputs = vertex.get("inputs").map(|inputs| inputs.as_array().unwrap().clone()).unwrap_or_default();
            let mut inputs: Vec<String> = inputs.iter().map(|input| names[input.as_str().unwrap()].clone()).collect();
            inputs.sort();
            (name(text(vertex, "name")), inputs)
        };
        self.entries("vertexes").map(of).collect()
    }

    /// What was written by each vertex to each stream.
    fn output(&self) -> BTreeMap<(String, u64), String> {
        let names = self.names();
        let mut output: BTreeMap<_, String> = BTreeMap::new();
        for log in self.entries("logs") {
            let key = (names[text(log, "vertex")].clone(), log["stream"].as_u64().unwrap());
            output.entry(key).or_default().push_str(&String::from_utf8(base64(text(log, "data"))).unwrap());
        }
        output
    }

    /// Which rows each vertex has, each of which must end unless the vertex failed.
    fn rows(&self) -> BTreeSet<(String, String)> {
        let names = self.names();
        let mut open = BTreeSet::new();
        let mut rows = BTreeSet::new();
        for status in self.entries("statuses") {
            let key = (names[text(status, "vertex")].clone(), row(text(status, "id")));
            if status.get("completed").is_some() {
                open.remove(&key)
            } else {
                open.insert(key.clone())
            };
            rows.insert(key);
        }
        assert!(open.is_empty(), "{open:?}");
        rows
    }
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_else(|| panic!("{key} of {object}"))
}

/// A title without the digest of a base, which only an image from a registry has.
fn name(title: &str) -> String {
    title.split_once("@sha256:").map_or(title, |(name, _)| name).to_owned()
}

/// The words of a row without what differs from build to build.
fn row(id: &str) -> String {
    let masked = id.split("sha256:").next().unwrap();
    let kind = match masked.split_once(' ') {
        Some(("naming", _)) => "naming",
        Some(("resolve", _)) => "resolve",
        _ => masked,
    };
    kind.trim().to_owned()
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(u32::from(byte - b'A')),
        b'a'..=b'z' => Some(u32::from(byte - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(byte - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    assert!(text.len().is_multiple_of(4), "{text}");
    let mut bytes = Vec::new();
    for group in text.as_bytes().chunks(4) {
        let digits: Vec<u32> = group.iter().copied().map_while(digit).collect();
        assert!(group[digits.len()..].iter().all(|byte| *byte == b'='), "{text}");
        let bits = digits.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - digits.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..digits.len()]);
    }
    bytes
}

/// The form of a value: keys in their order, with types.
fn form(key: &str, value: &Value) -> String {
    match value {
        Value::Object(object) => {
            let fields: Vec<String> =
                object.iter().map(|(key, value)| format!("{key}: {}", form(key, value))).collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Array(list) => {
            let forms: BTreeSet<String> = list.iter().map(|value| form(key, value)).collect();
            format!("[{}]", forms.into_iter().collect::<Vec<_>>().join(" | "))
        }
        Value::String(text) => match key {
            "started" | "completed" | "timestamp" => {
                // RFC 3339 in UTC, with up to nine digits that do not end in 0.
                let (seconds, rest) = text.split_at(19);
                let shape: String = seconds.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
                assert_eq!(shape, "0000-00-00T00:00:00", "{text}");
                let digits = rest.strip_suffix('Z').unwrap_or_else(|| panic!("{text}"));
                let fraction = digits.strip_prefix('.').unwrap_or("1");
                assert!(fraction.len() <= 9 && fraction.bytes().all(|b| b.is_ascii_digit()), "{text}");
                assert!(!fraction.is_empty() && !fraction.ends_with('0'), "{text}");
                "time".to_owned()
            }
            "data" | "short" | "detail" => {
                let _ = base64(text);
                "base64".to_owned()
            }
            "digest" | "vertex" | "inputs" => {
                let hex = text.strip_prefix("sha256:").unwrap_or_else(|| panic!("{text}"));
                assert!(hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()), "{text}");
                "digest".to_owned()
            }
            _ => "string".to_owned(),
        },
        Value::Number(number) => {
            assert!(number.is_u64(), "{key}: {number}");
            "number".to_owned()
        }
        Value::Bool(_) => "bool".to_owned(),
        Value::Null => "null".to_owned(),
    }
}

/// Forms of all entries, by what they tell of.
fn forms(log: &Log) -> BTreeMap<String, BTreeSet<String>> {
    let mut forms: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for message in &log.messages {
        let lists: Vec<&String> = message.keys().collect();
        let known = ["vertexes", "statuses", "logs", "warnings"];
        assert!(lists.is_sorted_by_key(|list| known.iter().position(|known| known == list).unwrap()), "{lists:?}");
        for (list, entries) in message {
            for entry in entries.as_array().unwrap() {
                let mut entry = entry.clone();
                // These are compared for themselves.
                if list == "vertexes" {
                    entry.as_object_mut().unwrap().shift_remove("inputs");
                }
                // The graph that read the Dockerfile is BuildKit's own affair; there is none here.
                if let Some(source) = entry.get_mut("sourceInfo") {
                    source.as_object_mut().unwrap().shift_remove("definition");
                }
                // Nobody can tell what a part of a transfer looks like from one that has no size.
                let what = if list == "statuses" { row(text(&entry, "id")) } else { String::new() };
                forms.entry(format!("{list} {what}")).or_default().insert(form(list, &entry));
            }
        }
    }
    forms
}

fn build(workspace: &Workspace, flags: &[String], case: &str) -> Log {
    let context = if case == "cached" { "success" } else { case };
    let mut build = workspace.rbuild(flags);
    build.arg("--log-format=rawjson").arg(workspace.path(context));
    if context == "success" {
        build.args(["-t", "rawjson/success"]);
    }
    let output = finish(&mut build, None);
    assert_eq!(output.stdout, b"");
    let want = if matches!(case, "failure" | "copyfail") { 1 } else { 0 };
    assert_eq!(output.code(), want, "{case}: {}", output.text());
    Log::of(&output.stderr())
}

#[test]
fn structure() {
    let (workspace, registry) = require!(with_bases());
    for case in CASES.iter().filter(|case| **case != "cached") {
        let dir = fixtures().join("rawjson").join(case);
        let files: Vec<(String, String)> = fs::read_dir(dir)
            .unwrap()
            .map(|file| file.unwrap())
            .map(|file| (file.file_name().into_string().unwrap(), fs::read_to_string(file.path()).unwrap()))
            .collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        workspace.files(case, &files);
    }
    let mut recorded: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for case in CASES.into_iter().chain(["pull"]) {
        for (what, found) in forms(&Log::recorded(case)) {
            recorded.entry(what).or_default().extend(found);
        }
    }
    let mut faults = Vec::new();
    let mut rows = BTreeSet::new();
    for case in CASES {
        let (docker, ours) = (Log::recorded(case), build(&workspace, &build_flags(&registry), case));
        for (what, found) in forms(&ours) {
            let Some(known) = recorded.get(&what) else {
                faults.push(format!("{case}: {what} is not Docker's: {found:#?}"));
                continue;
            };
            for form in found.difference(known) {
                faults.push(format!("{case}: {what}: {form}\n  is none of {known:#?}"));
            }
            rows.insert(what);
        }
        for (what, [docker, ours]) in [
            ("states", [&docker, &ours].map(|log| format!("{:#?}", states_of(log)))),
            ("inputs", [&docker, &ours].map(|log| format!("{:#?}", log.inputs()))),
            ("output", [&docker, &ours].map(|log| format!("{:#?}", log.output()))),
            ("rows", [&docker, &ours].map(|log| format!("{:#?}", rows_of(log)))),
            ("text", [&docker, &ours].map(|log| without_refs(&log.rest))),
        ] {
            if docker != ours {
                let diff = pretty_assertions::StrComparison::new(&ours, &docker);
                faults.push(format!("{case}: {what} (< ours, docker >)\n{diff}"));
            }
        }
    }
    for row in recorded.keys() {
        if !rows.contains(row) {
            faults.push(format!("nothing here tells of {row}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    workspace.expect_clean();
}

/// States of all vertices but those of the base, which was here for Docker and comes from a registry for us.
fn states_of(log: &Log) -> BTreeMap<String, Vec<&'static str>> {
    let mut states = log.states();
    states.retain(|name, _| !name.contains("FROM "));
    states
}

fn rows_of(log: &Log) -> BTreeSet<(String, String)> {
    let mut rows = log.rows();
    rows.retain(|(name, _)| !name.contains("FROM "));
    rows
}

/// An error without what differs from build to build.
fn without_refs(text: &str) -> String {
    let words = text.split(' ').map(|word| if word.contains("::") { "REF" } else { word });
    words.collect::<Vec<_>>().join(" ")
}
