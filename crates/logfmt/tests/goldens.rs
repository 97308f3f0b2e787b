//! Recorded builds give the exact bytes that Docker printed.
//!
//! `tests/fixtures/events/CASE.VERSION.BUILDER.RUN.jsonl` are events written to mirror a run of real Docker; beside
//! them lie the standard output, standard error and exit code of that run, where they are not empty or 0. Docker's ids,
//! digests and durations are in the events, so that nothing is masked.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use pretty_assertions::assert_eq;
use rbuild_logfmt::event::{Builder, Dialect, Fact, Outcome};
use rbuild_logfmt::{Captured, Event, Format, RenderOptions, exit_code, read_events, renderer};

fn fixtures() -> PathBuf {
    match std::env::var_os("RBUILD_EVENT_FIXTURES") {
        Some(dir) => dir.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/events"),
    }
}

/// Every recording: its name without ending, and its events.
fn recordings() -> Vec<(PathBuf, Vec<Event>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(fixtures()).expect("fixtures") {
        let path = entry.expect("fixture").path();
        if path.extension().is_some_and(|ending| ending == "jsonl") {
            let text = fs::read(&path).expect("events");
            let events: Result<Vec<Event>, _> = read_events(text.as_slice()).collect();
            found.push((path.with_extension(""), events.unwrap_or_else(|e| panic!("{}: {e:?}", path.display()))));
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    assert!(!found.is_empty(), "no recordings");
    found
}

/// What Docker gave; no file stands for nothing.
fn beside(stem: &Path, ending: &str) -> Vec<u8> {
    let path = PathBuf::from(format!("{}.{ending}", stem.display()));
    match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
        Err(e) => panic!("{}: {e}", path.display()),
    }
}

fn dialect(events: &[Event]) -> Dialect {
    match events.first().map(|event| &event.fact) {
        Some(Fact::BuildStarted { dialect, .. }) => *dialect,
        other => panic!("a recording begins with the start of the build, not {other:?}"),
    }
}

fn format(events: &[Event]) -> Format {
    match dialect(events).builder {
        Builder::Legacy => Format::Legacy,
        Builder::Buildkit => Format::Buildkit,
    }
}

/// `ticks`: nanoseconds between ticks of a live run; none in a replay.
fn render(events: &[Event], format: Format, ticks: Option<usize>) -> Captured {
    let mut out = Captured::default();
    let mut log = renderer(format, RenderOptions::default());
    let mut last = 0;
    for event in events {
        if let Some(step) = ticks {
            (last..event.at).step_by(step).for_each(|at| log.tick(at, &mut out));
            last = event.at;
        }
        log.event(event, &mut out);
    }
    log.finish(&mut out);
    out
}

#[test]
fn recordings_give_the_bytes_of_docker() {
    let mut wrong = Vec::new();
    for (stem, events) in recordings() {
        let got = render(&events, format(&events), None);
        for (stream, got) in [("stdout", &got.stdout), ("stderr", &got.stderr)] {
            let want = beside(&stem, stream);
            if *got != want {
                let (got, want) = (String::from_utf8_lossy(got), String::from_utf8_lossy(&want));
                let diff = pretty_assertions::StrComparison::new(&*got, &*want).to_string();
                wrong.push(format!("{} {stream} (< ours, docker >):\n{diff}", stem.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_live_run_gives_the_bytes_of_its_replay() {
    for (stem, events) in recordings() {
        let replayed = render(&events, format(&events), None);
        for step in [7_000_003, 40_000_000, 150_000_000, 400_000_000] {
            assert_eq!(render(&events, format(&events), Some(step)), replayed, "{}", stem.display());
        }
    }
}

#[test]
fn recordings_end_with_the_exit_code_of_docker() {
    for (stem, events) in recordings() {
        let Some(Event { fact: Fact::BuildEnded { outcome }, .. }) = events.last() else {
            panic!("{} does not end", stem.display())
        };
        let want = String::from_utf8(beside(&stem, "rc")).expect("a number");
        let want = if want.is_empty() { "0" } else { want.trim() };
        assert_eq!(exit_code(outcome, dialect(&events)).to_string(), want, "{}", stem.display());
    }
}

#[test]
fn events_survive_being_written_and_read() {
    for (stem, events) in recordings() {
        let written = render(&events, Format::Events, None).stdout;
        let read: Result<Vec<Event>, _> = read_events(written.as_slice()).collect();
        assert_eq!(read.expect("events"), events, "{}", stem.display());
    }
}

#[test]
fn quiet_builds_print_the_image_only() {
    for (stem, mut events) in recordings() {
        if let Some(Event { fact: Fact::BuildStarted { quiet, .. }, .. }) = events.first_mut() {
            *quiet = true;
        }
        let Some(Event { fact: Fact::BuildEnded { outcome: Outcome::Success { image, .. } }, .. }) = events.last()
        else {
            continue;
        };
        let want = format!("{image}\n").into_bytes();
        for format in [format(&events), Format::Quiet, Format::Tty] {
            let got = render(&events, format, None);
            assert_eq!(got.stdout, want, "{}", stem.display());
            assert!(got.stderr.is_empty() || got.stderr.starts_with(b"DEPRECATED: "), "{}", stem.display());
        }
    }
}
