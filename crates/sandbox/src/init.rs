//! The first thing in `main`.

use crate::{guardian, probe, run, worker::WorkerChannel};
use std::{
    os::unix::ffi::OsStrExt,
    sync::{Mutex, PoisonError},
};

/// What a worker does: it is given its end of the channel and returns the exit code.
pub type Entry = fn(WorkerChannel) -> i32;

/// The first argument of a worker is this and the name of its entry.
pub(crate) const WORKER: &str = "rbuild-worker:";
/// The first argument of the process that becomes a command.
pub(crate) const STEP: &str = "rbuild-step";
/// Exit code of a process that was started in a worker's or a step's name, but not by this crate.
const NOT_STARTED_BY_US: i32 = 125;

/// Names of the entries, once [`init`] was called: a process that would not recognise a worker must not start one.
static ENTRIES: Mutex<Option<Vec<String>>> = Mutex::new(None);

/// Makes this process what it was started as; to be called first in `main`, before any thread is started.
///
/// Returns at once in an ordinary process. In a process that [`Worker::spawn`](crate::Worker::spawn) or
/// [`run`](crate::run()) started, it does that process's work and ends it, without returning.
///
/// ```no_run
/// fn build(channel: rbuild_sandbox::WorkerChannel) -> i32 {
///     i32::from(channel.send(&"hello").is_err())
/// }
///
/// rbuild_sandbox::init(&[("build", build)]);
/// // … and the program's own work follows.
/// ```
#[allow(clippy::exit, reason = "a worker or step must never go on into the program's own main")]
pub fn init(entries: &[(&str, Entry)]) {
    let mut all: Vec<(&str, Entry)> = vec![(probe::ENTRY, probe::serve)];
    all.extend_from_slice(entries);
    *ENTRIES.lock().unwrap_or_else(PoisonError::into_inner) =
        Some(all.iter().map(|(name, _)| (*name).to_owned()).collect());

    let Some(argv0) = std::env::args_os().next() else {
        return;
    };
    if argv0 == STEP {
        std::process::exit(run::become_command().unwrap_or(NOT_STARTED_BY_US));
    }
    if let Some(name) = argv0.as_bytes().strip_prefix(WORKER.as_bytes()) {
        let entry = all.iter().find(|(known, _)| known.as_bytes() == name);
        let code = entry.and_then(|(_, entry)| guardian::guard(*entry));
        std::process::exit(code.unwrap_or(NOT_STARTED_BY_US));
    }
}

/// Whether [`init`] was called, and with this entry.
pub(crate) enum Known {
    NotInitialised,
    NoSuchEntry,
    Yes,
}

pub(crate) fn knows(entry: Option<&str>) -> Known {
    match &*ENTRIES.lock().unwrap_or_else(PoisonError::into_inner) {
        None => Known::NotInitialised,
        Some(names) => match entry {
            Some(entry) if !names.iter().any(|name| name == entry) => Known::NoSuchEntry,
            _ => Known::Yes,
        },
    }
}
