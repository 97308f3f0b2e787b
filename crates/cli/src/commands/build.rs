//! `rbuild build`: one call of the library, its events shown.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rbuild_executor::logfmt::event::{Event, Fact, Failure, Outcome};
use rbuild_executor::{BuildError, BuildResult, Cancel, CheckResult};
use rbuild_logfmt::{Format, RenderOptions, Renderer};

use crate::args::{BuildArgs, Environment};
use crate::convert::{self, BuildRequest};
use crate::error::CliError;
use crate::output::{self, Output};
use crate::{results, signals};

/// How often a live display catches up with the clock.
const TICK: Duration = Duration::from_millis(100);

/// Time for an event to arrive: a tick may not overtake an event that happened before it.
const LAG: Duration = Duration::from_millis(200);

/// Builds.
pub(crate) fn run(args: BuildArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    let request = convert::build_request(args, environment, Output::terminals())?;
    if request.stdout_taken {
        output.give_away_stdout();
    }
    if let Some(path) = &request.iidfile {
        results::remove_stale(path)?;
    }
    let cancel = Cancel::new();
    let to_cancel = cancel.clone();
    let received = signals::listen(move || to_cancel.cancel())
        .map_err(|source| CliError::Io { action: "listen to signals".to_owned(), source })?;
    let dialect = request.options.dialect;
    match show(&request, &cancel, output) {
        Ok(Shown::Built(result)) => {
            if let Some(path) = &request.iidfile {
                results::write_id(path, &result.image_id)?;
            }
            if let Some(path) = &request.metadata_file {
                results::write_metadata(path, &result)?;
            }
            Ok(())
        }
        Ok(Shown::Checked(result)) => {
            if let Some(path) = &request.iidfile {
                // There is no image, and Docker says so like this.
                results::write_id(path, "")?;
            }
            let ignored = request.check.is_some_and(|check| check.ignore_status);
            match (result.failure, result.warnings) {
                (Some(failure), _) => Err(CliError::Build { failure, dialect }),
                (None, 0) => Ok(()),
                (None, _) if ignored => Ok(()),
                (None, _) => Err(CliError::Warnings),
            }
        }
        // A log that cannot be written ends the build; `output` knows why.
        Err(_) if output.has_failed() => Ok(()),
        Err(BuildError::Failed(failure)) => Err(CliError::Build { failure, dialect }),
        Err(BuildError::Cancelled) => Err(CliError::Interrupted { signal: received.signal().unwrap_or(2) }),
        Err(BuildError::Worker { message, hint }) => Err(CliError::Worker { message, hint }),
        Err(other) => Err(CliError::Worker { message: causes(&other), hint: None }),
    }
}

/// An error and its causes, a line each.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push('\n');
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A log as it is written.
struct Log<'a> {
    renderer: Box<dyn Renderer>,
    output: &'a mut Output,
    /// When the build began, as far as is known from its first event.
    began: Option<Instant>,
    hints: bool,
    /// What is said beside the log, when it has ended.
    notes: Vec<String>,
}

impl Log<'_> {
    fn event(&mut self, event: &Event) {
        self.began.get_or_insert_with(|| {
            let now = Instant::now();
            now.checked_sub(Duration::from_nanos(event.at)).unwrap_or(now)
        });
        if let Fact::Note { text, shown: true } = &event.fact {
            self.notes.push(text.clone());
        }
        if self.hints {
            self.renderer.event(event, self.output);
        } else {
            self.renderer.event(&without_hint(event.clone()), self.output);
        }
    }

    fn tick(&mut self) {
        let Some(now) = self.began.and_then(|began| began.elapsed().checked_sub(LAG)) else {
            return;
        };
        self.renderer.tick(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), self.output);
    }
}

fn without_hint(mut event: Event) -> Event {
    let failure = match &mut event.fact {
        Fact::StepFailed { failure, .. } => failure.as_mut(),
        Fact::BuildEnded { outcome: Outcome::Failure { failure, .. } } => Some(failure),
        _ => None,
    };
    if let Some(Failure::Own { hint, .. }) = failure {
        *hint = None;
    }
    event
}

/// What was done.
enum Shown {
    Built(BuildResult),
    Checked(CheckResult),
}

/// Builds, or checks, and shows the events of it, those of the clock in between.
fn show(request: &BuildRequest, cancel: &Cancel, output: &mut Output) -> Result<Shown, BuildError> {
    let live = request.format == Format::Tty && Output::terminals().stderr;
    let options = RenderOptions {
        expand_warnings: request.expand_warnings,
        check_json: request.check.is_some_and(|check| check.json),
        draw_target: live.then(output::draw_target),
    };
    let renderer = rbuild_logfmt::renderer(request.format, options);
    let log = Mutex::new(Log { renderer, output, began: None, hints: request.hints, notes: Vec::new() });
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let result = std::thread::scope(|scope| {
        let log = &log;
        scope.spawn(move || {
            while let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = is_done.recv_timeout(TICK) {
                lock(log).tick();
            }
        });
        let mut on_event = |event: &Event| {
            let mut log = lock(log);
            log.event(event);
            if log.output.has_failed() {
                cancel.cancel();
            }
        };
        let result = match request.check {
            None => rbuild_executor::build(request.options.clone(), cancel, &mut on_event).map(Shown::Built),
            Some(_) => rbuild_executor::check(request.options.clone(), cancel, &mut on_event).map(Shown::Checked),
        };
        drop(done);
        result
    });
    let mut log = log.into_inner().unwrap_or_else(PoisonError::into_inner);
    log.renderer.finish(log.output);
    // The live view has shown them already.
    let notes = if request.format == Format::Tty { Vec::new() } else { log.notes };
    for note in notes {
        log.output.err(format!("rbuild: note: {note}\n"));
    }
    result
}

fn lock<'a, T>(mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_can_be_left_out() {
        let failure = Failure::Own { message: "no space".into(), hint: Some("make some".into()) };
        let outcome = Outcome::Failure { failure, step: None, lines: None };
        let event = without_hint(Event { at: 1, fact: Fact::BuildEnded { outcome } });
        assert!(matches!(
            event.fact,
            Fact::BuildEnded { outcome: Outcome::Failure { failure: Failure::Own { hint: None, .. }, .. } }
        ));
    }
}
