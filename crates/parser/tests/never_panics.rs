//! Whatever the bytes are, there is an answer: no panic, no endless work.
#![allow(clippy::unwrap_used, missing_docs)]

use proptest::prelude::*;
use rbuild_parser::glob::Glob;
use rbuild_parser::ignore::{MatchInfo, PatternMatcher, Walk, clean, parse_ignore_file};
use rbuild_parser::mount::{Device, Mount, ram_in_bytes};
use rbuild_parser::words::Lexer;
use rbuild_parser::{
    InstructionKind, ParseOptions, Version, detect_check, detect_syntax, go_quote, lint, parse_duration, parse_trigger,
    parse_with,
};

/// Pieces that Dockerfiles are made of, so that random text reaches the far corners.
const PIECES: [&str; 72] = [
    "FROM ",
    "RUN ",
    "COPY ",
    "ADD ",
    "ENV ",
    "ARG ",
    "LABEL ",
    "ONBUILD ",
    "HEALTHCHECK ",
    "CMD ",
    "SHELL ",
    "VOLUME ",
    "EXPOSE ",
    "STOPSIGNAL ",
    "USER ",
    "WORKDIR ",
    "ENTRYPOINT ",
    "MAINTAINER ",
    "\n",
    "\n",
    "\n",
    "\n",
    "\r\n",
    "\\\n",
    "`\n",
    "# escape=`\n",
    "# syntax=x\n",
    "#",
    " ",
    " ",
    "\t",
    "a",
    "b",
    "=",
    "'",
    "\"",
    "\\",
    "$",
    "${",
    "}",
    "x",
    ":-",
    "//",
    "/",
    "%%",
    "<<",
    "<<-",
    "EOF",
    "\nEOF\n",
    "--",
    "--mount=",
    "--from=",
    "--chown=",
    "--interval=",
    "type=cache,",
    "[",
    "]",
    "[\"",
    "\"]",
    ",",
    "\\u00e9",
    "\u{e9}",
    "\u{a0}",
    "\u{feff}",
    "*",
    "**",
    "?",
    "!",
    "..",
    "NONE",
    "AS ",
    "\0",
];

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&PIECES[..]), 0..60).prop_map(|p| p.concat())
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        text().prop_map(String::into_bytes),
        (text(), any::<usize>(), any::<u8>()).prop_map(|(text, at, byte)| {
            let mut bytes = text.into_bytes();
            let at = at % (bytes.len() + 1);
            bytes.insert(at, byte);
            bytes
        }),
    ]
}

fn options() -> impl Strategy<Value = ParseOptions> {
    let version = prop::sample::select(&[Version::V20, Version::V28][..]);
    (version, any::<bool>(), any::<bool>()).prop_map(|(version, heredocs, labs)| ParseOptions {
        version,
        heredocs,
        labs,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn dockerfiles(bytes in bytes(), options in options()) {
        let _ = (detect_syntax(&bytes), detect_check(&bytes), lint::Config::of_file(&bytes));
        match parse_with(&bytes, options) {
            Err(error) => {
                for version in [Version::V20, Version::V28] {
                    prop_assert!(!error.message(version).is_empty());
                }
            }
            Ok(file) => {
                let mut line = 0;
                let mut byte = 0;
                for node in &file.nodes {
                    prop_assert!(node.lines.start > line && node.lines.end >= node.lines.start);
                    prop_assert!(node.span.start >= byte && node.span.end <= bytes.len());
                    prop_assert!(node.span.start <= node.span.end);
                    line = node.lines.end;
                    byte = node.span.end;
                }
                let read = file.instructions();
                let checked = lint::check(&file, &mut |finding| drop(finding.violation.message()));
                prop_assert_eq!(&read, &checked);
                if let Ok(instructions) = read {
                    for instruction in instructions.stages.iter().flat_map(|s| &s.instructions) {
                        match &instruction.kind {
                            InstructionKind::Onbuild(text) => {
                                let _ = parse_trigger(text, options);
                            }
                            InstructionKind::Run(run) => {
                                for mount in &run.mounts {
                                    let _ = Mount::parse(mount, options.version);
                                }
                            }
                            _ => {}
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn words(text in text(), value in text(), version in prop::sample::select(&[Version::V20, Version::V28][..])) {
        let env = [("x", value.as_str()), ("a", "1"), ("b", "")];
        let lexer = Lexer::new('\\').version(version);
        for lexer in [lexer, lexer.raw_quotes().raw_escapes(), lexer.skip_unset(), lexer.skip_quotes()] {
            match lexer.process_word_with_matches(&text, &env[..]) {
                Ok(found) => prop_assert!(found.matched.iter().all(|name| name.len() == 1)),
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }

    #[test]
    fn patterns(bytes in bytes(), path in text()) {
        let _ = Glob::new(&path).map(|glob| glob.matches(&path));
        let _ = (clean(&path), go_quote(&path));
        if let Ok(patterns) = parse_ignore_file(&bytes)
            && let Ok(matcher) = PatternMatcher::new(patterns)
        {
            let _ = matcher.matches(&path);
            let _ = matcher.matches_v20(&path);
            let _ = matcher.matches_as_written(&path);
            let _ = matcher.matches_in(&path, &MatchInfo::default());
            for walk in [Walk::Archive, Walk::Fsutil] {
                let _ = matcher.can_skip_directory(&path, walk);
            }
        }
    }

    #[test]
    fn values(text in text()) {
        let _ = (parse_duration(&text), ram_in_bytes(&text), Device::parse(&text));
        let _ = (Mount::parse(&text, Version::V20), Mount::parse(&text, Version::V28));
    }
}

#[test]
fn depth_and_size_are_bounded() {
    let deep = "FROM x\n".to_owned() + &"ONBUILD \\\n".repeat(200_000) + "RUN true\n";
    let file = parse_with(deep.as_bytes(), ParseOptions::default()).unwrap();
    assert!(file.instructions().is_err());

    let words = "${x:-".repeat(100_000) + &"}".repeat(100_000);
    assert!(Lexer::new('\\').process_word(&words, &()).is_err());

    let long = format!("FROM x\nRUN {}\n", "a \\\n".repeat(300_000));
    assert!(parse_with(long.as_bytes(), ParseOptions::default()).is_ok());
}
