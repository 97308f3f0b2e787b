//! Other parsers as witnesses: what they accept as we do, they cut into the same instructions.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::Path;

use dockerfile_parser::Instruction as Hewlett;
use parse_dockerfile::Instruction as Taiki;
use rbuild_parser::parse;

/// Byte offset and keyword of each instruction.
type List = Vec<(usize, String)>;

fn ours(text: &str) -> Option<List> {
    let file = parse(text.as_bytes()).ok()?;
    file.instructions().ok()?;
    let nodes = file.nodes.iter();
    Some(nodes.map(|node| (node.span.start, node.keyword.to_uppercase())).collect())
}

/// `parse-dockerfile` 0.1: here-documents too, but no word expansion and no legacy forms.
fn taiki(text: &str) -> Option<List> {
    // It counts offsets without the byte order mark, and joins a line that ends with two escapes
    // to the next, which Docker does not.
    if text.starts_with('\u{feff}') || text.lines().any(|line| line.ends_with("\\\\")) {
        return None;
    }
    let file = parse_dockerfile::parse(text).ok()?;
    let instructions = file.instructions.iter();
    Some(
        instructions
            .map(|instruction| {
                let span = match instruction {
                    Taiki::Add(i) => &i.add.span,
                    Taiki::Arg(i) => &i.arg.span,
                    Taiki::Cmd(i) => &i.cmd.span,
                    Taiki::Copy(i) => &i.copy.span,
                    Taiki::Entrypoint(i) => &i.entrypoint.span,
                    Taiki::Env(i) => &i.env.span,
                    Taiki::Expose(i) => &i.expose.span,
                    Taiki::From(i) => &i.from.span,
                    Taiki::Healthcheck(i) => &i.healthcheck.span,
                    Taiki::Label(i) => &i.label.span,
                    Taiki::Maintainer(i) => &i.maintainer.span,
                    Taiki::Onbuild(i) => &i.onbuild.span,
                    Taiki::Run(i) => &i.run.span,
                    Taiki::Shell(i) => &i.shell.span,
                    Taiki::Stopsignal(i) => &i.stopsignal.span,
                    Taiki::User(i) => &i.user.span,
                    Taiki::Volume(i) => &i.volume.span,
                    Taiki::Workdir(i) => &i.workdir.span,
                    _ => panic!("an instruction that Docker does not have"),
                };
                (span.start, text[span.clone()].to_uppercase())
            })
            .collect(),
    )
}

/// `dockerfile-parser` 0.9: no here-documents, no escape directive.
fn hewlett(text: &str) -> Option<List> {
    let file = dockerfile_parser::Dockerfile::parse(text).ok()?;
    let instructions = file.instructions.iter();
    Some(
        instructions
            .map(|instruction| {
                let keyword = match instruction {
                    Hewlett::From(_) => "FROM",
                    Hewlett::Arg(_) => "ARG",
                    Hewlett::Label(_) => "LABEL",
                    Hewlett::Run(_) => "RUN",
                    Hewlett::Entrypoint(_) => "ENTRYPOINT",
                    Hewlett::Cmd(_) => "CMD",
                    Hewlett::Copy(_) => "COPY",
                    Hewlett::Env(_) => "ENV",
                    Hewlett::Misc(misc) => misc.instruction.content.as_str(),
                };
                (instruction.span().start, keyword.to_uppercase())
            })
            .collect(),
    )
}

#[test]
fn peers_see_the_same_instructions() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/dockerfiles/ok");
    let mut compared = [0, 0];
    let mut differ = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let case = entry.unwrap().path();
        let Ok(text) = fs::read_to_string(case.join("Dockerfile")) else {
            continue;
        };
        let Some(ours) = ours(&text) else {
            continue;
        };
        for (i, theirs) in [taiki(&text), hewlett(&text)].into_iter().enumerate() {
            let Some(theirs) = theirs else {
                continue;
            };
            compared[i] += 1;
            if ours != theirs {
                differ.push(format!("{i} {}\n {ours:?}\n {theirs:?}", case.display()));
            }
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    assert!(compared.iter().all(|n| *n >= 10), "{compared:?}");
}
