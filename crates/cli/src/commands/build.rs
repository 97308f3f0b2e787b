//! `rbuild build`: one call of the library, its events shown.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rbuild_executor::logfmt::event::{Fact, Outcome};
use rbuild_executor::{BuildError, BuildResult, Cancel};

use crate::args::{BuildArgs, Environment};
use crate::convert::{self, BuildRequest};
use crate::error::CliError;
use crate::logs::{LogFileError, Logs, TICK};
use crate::output::Output;
use crate::signals::Received;
use crate::{results, signals};

/// Builds.
pub(crate) fn run(args: BuildArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    let request = convert::build_request(args, environment, Output::terminals())?;
    if request.stdout_taken {
        output.give_away_stdout();
    }
    if let Some(path) = &request.iidfile {
        results::remove_stale(path)?;
    }
    let logs = Logs::open(request.log.clone(), output)?;
    let cancel = Cancel::new();
    let to_cancel = cancel.clone();
    let received = signals::listen(move || to_cancel.cancel())
        .map_err(|source| CliError::Io { action: "listen to signals".to_owned(), source })?;
    let dialect = request.options.dialect;
    let (result, written) = show(&request, &cancel, &received, logs);
    match result {
        Ok(result) => {
            if let Some(path) = &request.iidfile {
                results::write_id(path, &result)?;
            }
            if let Some(path) = &request.metadata_file {
                results::write_metadata(path, &result)?;
            }
            Ok(written?)
        }
        // A log that cannot be written ends the build; `output` knows why.
        Err(_) if output.has_failed() => Ok(()),
        Err(BuildError::Failed(failure)) => {
            report_lost_log(written, request.log.hints, output);
            let outcome = Outcome::Failure { failure: *failure, step: None, lines: None };
            Err(CliError::Build { outcome: Box::new(outcome), dialect })
        }
        Err(BuildError::Cancelled) => {
            report_lost_log(written, request.log.hints, output);
            Err(CliError::Build { outcome: Box::new(Outcome::Cancelled { signal: received.signal() }), dialect })
        }
        Err(BuildError::Worker { message, hint }) => Err(CliError::Worker { message, hint }),
        Err(other) => Err(CliError::Worker { message: causes(&other), hint: None }),
    }
}

/// Tells of a file that could not be written, where the exit code is that of the build.
fn report_lost_log(written: Result<(), LogFileError>, hints: bool, output: &mut Output) {
    if let Err(error) = written {
        output.err(CliError::from(error).report(hints));
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

/// Builds and shows the build's events, those of the clock in between.
fn show(
    request: &BuildRequest,
    cancel: &Cancel,
    received: &Received,
    logs: Logs<'_>,
) -> (Result<BuildResult, BuildError>, Result<(), LogFileError>) {
    let logs = Mutex::new(logs);
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let result = std::thread::scope(|scope| {
        let logs = &logs;
        scope.spawn(move || {
            while let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = is_done.recv_timeout(TICK) {
                lock(logs).tick();
            }
        });
        let result = rbuild_executor::build(request.options.clone(), cancel, &mut |event| {
            let mut logs = lock(logs);
            match &event.fact {
                Fact::BuildEnded { outcome: Outcome::Cancelled { .. } } => {
                    let mut event = event.clone();
                    event.fact = Fact::BuildEnded { outcome: Outcome::Cancelled { signal: received.signal() } };
                    logs.event(&event);
                }
                _ => logs.event(event),
            }
            if logs.has_failed() {
                cancel.cancel();
            }
        });
        drop(done);
        result
    });
    let logs = logs.into_inner().unwrap_or_else(PoisonError::into_inner);
    (result, logs.finish())
}

fn lock<'a, T>(mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
