//! Dockerfiles and what becomes of them: `tests/fixtures/dockerfiles` at the top of the
//! repository. `UPDATE_GOLDENS=1` writes the expectations anew.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use pretty_assertions::assert_eq;
use rbuild_parser::{Dockerfile, LineRange, Node, ParseError, ParseOptions, Stage, Version, parse_with};

fn cases(kind: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/dockerfiles");
    let mut cases: Vec<PathBuf> = fs::read_dir(root.join(kind)).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() > 20, "too few cases in {kind}");
    cases
}

fn check(file: &Path, found: &str) {
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        fs::write(file, found).unwrap();
        return;
    }
    let expected = fs::read_to_string(file).unwrap();
    assert_eq!(expected, found, "{}", file.display());
}

fn lines(lines: LineRange) -> String {
    if lines.start == lines.end {
        format!("line {}", lines.start)
    } else {
        format!("lines {}-{}", lines.start, lines.end)
    }
}

fn read(dockerfile: &[u8], version: Version) -> Result<(Dockerfile, String), ParseError> {
    let file = parse_with(dockerfile, ParseOptions::for_file(version, dockerfile))?;
    let instructions = file.instructions()?;
    let mut typed = String::new();
    for instruction in &instructions.meta_args {
        writeln!(typed, "{:?}", instruction.kind).unwrap();
    }
    for stage in instructions.stages {
        let Stage { name, base, platform, comment, .. } = &stage;
        writeln!(typed, "From({base:?} {name:?} {platform:?} {comment:?})").unwrap();
        for instruction in &stage.instructions {
            writeln!(typed, "    {:?}", instruction.kind).unwrap();
        }
    }
    Ok((file, typed))
}

fn write_node(out: &mut String, node: &Node, dockerfile: &[u8], indent: &str) {
    let text = &dockerfile[node.span.start..node.span.end];
    if node.lines.start > 0 {
        assert!(text.starts_with(node.keyword.as_bytes()), "{node:?}");
        let (start, end) = (node.span.start, node.span.end);
        write!(out, "{} ({start}..{end})", lines(node.lines)).unwrap();
    }
    writeln!(out, "{indent} {} {:?}", node.keyword, node.args).unwrap();
    writeln!(out, "{indent}  original {:?}", node.original).unwrap();
    for flag in &node.flags {
        writeln!(out, "{indent}  flag {flag:?}").unwrap();
    }
    if node.json {
        writeln!(out, "{indent}  json").unwrap();
    }
    for heredoc in &node.heredocs {
        writeln!(out, "{indent}  {heredoc:?}").unwrap();
    }
    for comment in &node.comments {
        writeln!(out, "{indent}  comment {comment:?}").unwrap();
    }
    if let Some(trigger) = &node.trigger {
        write_node(out, trigger, dockerfile, "   ");
    }
}

fn tree(dockerfile: &[u8]) -> String {
    let (file, typed) = read(dockerfile, Version::V28).unwrap();
    let mut out = format!("escape {}\n", file.escape);
    for directive in &file.directives {
        let (name, value) = (directive.name.as_str(), &directive.value);
        writeln!(out, "{} {name}={value}", lines(directive.lines)).unwrap();
    }
    for node in &file.nodes {
        write_node(&mut out, node, dockerfile, "");
    }
    for warning in &file.warnings {
        writeln!(out, "{warning:?}").unwrap();
    }
    out.push_str(&typed);
    match read(dockerfile, Version::V20) {
        Ok((_, old)) if old == typed => {}
        Ok((_, old)) => write!(out, "in 20.10:\n{old}").unwrap(),
        Err(error) => writeln!(out, "in 20.10: {error}").unwrap(),
    }
    out
}

#[test]
fn accepted() {
    for case in cases("ok") {
        let dockerfile = fs::read(case.join("Dockerfile")).unwrap();
        check(&case.join("tree"), &tree(&dockerfile));
    }
}

#[test]
fn refused() {
    for case in cases("err") {
        let dockerfile = fs::read(case.join("Dockerfile")).unwrap();
        let mut found = String::new();
        for (name, version) in [("28", Version::V28), ("20", Version::V20)] {
            match read(&dockerfile, version) {
                Ok(_) => writeln!(found, "{name} accepts it").unwrap(),
                Err(error) => {
                    assert_eq!(error.to_string(), error.message(version));
                    writeln!(found, "{name} {}: {error}", lines(error.lines)).unwrap();
                }
            }
        }
        let case = case.join("error");
        assert!(!found.starts_with("28 accepts"), "{}", case.display());
        check(&case, &found);
    }
}
