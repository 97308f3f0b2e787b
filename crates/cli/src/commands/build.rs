//! `rbuild build`: one call of the library, its events shown.

use std::path::Path;

use rbuild_executor::logfmt::event::{Event, Fact, Outcome};
use rbuild_executor::{
    BuildError, BuildResult, Cancel, CheckResult, ContextSource, DockerfileSource, FailedBuild, FailureReport,
    Observer, ShellEnd, ShellTerminal, StepShell,
};
use rbuild_logfmt::{Format, IdFileAction};

use crate::args::{BuildArgs, Environment};
use crate::convert::{self, BuildRequest};
use crate::error::CliError;
use crate::logs::{LogFileError, Logs};
use crate::output::Output;
use crate::results::ResultFileError;
use crate::signals::Received;
use crate::step_shell::{self, StepShells};
use crate::{results, signals};

/// Builds.
pub(crate) fn run(args: BuildArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    run_request(convert::build_request(args, environment, Output::terminals())?, output)
}

/// Does what was asked, and shows it.
pub(super) fn run_request(request: BuildRequest, output: &mut Output) -> Result<(), CliError> {
    if request.stdout_taken {
        output.give_away_stdout();
    }
    if let Some(path) = &request.iidfile {
        results::remove_stale(path).map_err(|error| id_file_failed(IdFileAction::Remove, error, &request))?;
    }
    if let Some(path) = &request.failure_file {
        results::remove_stale(path)?;
    }
    let shells = match step_shell::is_wanted(&request.options.interaction) && request.check.is_none() {
        true => {
            let options = &request.options;
            let taken = options.context == ContextSource::Stdin || options.dockerfile == DockerfileSource::Stdin;
            Some(StepShells::new(taken, request.log.hints).ok_or(CliError::ShellWithoutTerminal)?)
        }
        false => None,
    };
    if let Some(shells) = &shells {
        signals::on_resize(shells.resizer())
            .map_err(|source| CliError::Io { action: "listen to signals".to_owned(), source })?;
    }
    let logs = Logs::open(request.log.clone(), output)?;
    let cancel = Cancel::new();
    let to_cancel = cancel.clone();
    let received = signals::listen(move || to_cancel.cancel())
        .map_err(|source| CliError::Io { action: "listen to signals".to_owned(), source })?;
    let dialect = request.options.dialect;
    let (result, written) = show(&request, &cancel, &received, logs, shells);
    match result {
        Ok(Shown::Built(result)) => {
            if let Some(path) = &request.iidfile {
                write_id(path, &result.image_id, &request)?;
            }
            if let Some(path) = &request.metadata_file {
                results::write_metadata(path, &result)?;
            }
            Ok(written?)
        }
        Ok(Shown::Checked(result)) => {
            if let Some(path) = &request.iidfile {
                // There is no image, and Docker says so like this.
                write_id(path, "", &request)?;
            }
            let CheckResult { warnings, failure } = result;
            let ignored = ignores_status(&request);
            let failure = failure.map(|failure| *failure);
            let outcome = Outcome::Checked { warnings, failure, step: None, lines: None, ignored };
            if rbuild_logfmt::exit_code(&outcome, dialect) == 0 {
                return Ok(written?);
            }
            report_lost_log(written, request.log.hints, output);
            Err(CliError::Build { outcome: Box::new(outcome), dialect })
        }
        // A log that cannot be written ends the build; `output` knows why.
        Err(_) if output.has_failed() => Ok(()),
        Err(BuildError::Failed(failed)) => {
            report_lost_log(written, request.log.hints, output);
            let FailedBuild { failure, report } = *failed;
            if let Some(report) = report {
                tell_failure(&report, &request, output)?;
            }
            let outcome = Outcome::Failure { failure, step: None, lines: None };
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

/// Tells what is left of a failed step, where it is asked for or can be seen.
fn tell_failure(report: &FailureReport, request: &BuildRequest, output: &mut Output) -> Result<(), CliError> {
    if let Some(path) = &request.failure_file {
        results::write_failure(path, report)?;
    }
    if let Some(why) = report.not_kept.as_ref().filter(|_| request.tells_failure) {
        output.err(format!("rbuild: note: the failed step is not kept: {why}\n"));
    }
    let Some(image) = &report.image else { return Ok(()) };
    if request.options.keep_failed.named
        && let Some(path) = &request.iidfile
    {
        write_id(path, image, request)?;
    }
    if request.tells_failure {
        let names = match report.image_names.as_slice() {
            [] => String::new(),
            names => format!(" ({})", names.join(", ")),
        };
        output.err(format!("rbuild: the failed step is kept as image {image}{names}\n"));
        if request.log.hints {
            output.err(format!(
                "hint: `rbuild shell` opens a shell in it, `rbuild resume` builds again from there; `rbuild builds show {}` tells \
                 more\n",
                report.build
            ));
        }
    }
    Ok(())
}

fn write_id(path: &Path, id: &str, request: &BuildRequest) -> Result<(), CliError> {
    results::write_id(path, id).map_err(|error| id_file_failed(IdFileAction::Write, error, request))
}

/// Under a log of Docker's are Docker's words.
fn id_file_failed(action: IdFileAction, error: ResultFileError, request: &BuildRequest) -> CliError {
    match request.log.format {
        Some(Format::Legacy | Format::Buildkit | Format::Quiet) => {
            CliError::Told(rbuild_logfmt::id_file_error(action, &error.path, &error.source, request.options.dialect))
        }
        _ => error.into(),
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

/// What was done.
enum Shown {
    Built(BuildResult),
    Checked(CheckResult),
}

/// Builds, or checks, and shows it.
fn show(
    request: &BuildRequest,
    cancel: &Cancel,
    received: &Received,
    logs: Logs<'_>,
    shells: Option<StepShells>,
) -> (Result<Shown, BuildError>, Result<(), LogFileError>) {
    let mut shower = Shower { request, cancel, received, logs, shells };
    let result = match request.check {
        None => rbuild_executor::build(request.options.clone(), cancel, &mut shower).map(Shown::Built),
        Some(_) => rbuild_executor::check(request.options.clone(), cancel, &mut shower).map(Shown::Checked),
    };
    (result, shower.logs.finish())
}

/// Shows events; a log that nobody takes any more ends the build.
struct Shower<'a> {
    request: &'a BuildRequest,
    cancel: &'a Cancel,
    received: &'a Received,
    logs: Logs<'a>,
    shells: Option<StepShells>,
}

impl Observer for Shower<'_> {
    fn event(&mut self, event: &Event) {
        if let Some(shells) = &mut self.shells {
            shells.event(event);
        }
        match with_callers_part(event, self.request, self.received) {
            Some(event) => self.logs.event(&event),
            None => self.logs.event(event),
        }
        if self.logs.has_failed() {
            self.cancel.cancel();
        }
    }

    fn clock(&mut self, at: u64) {
        self.logs.tick(at);
        if self.logs.has_failed() {
            self.cancel.cancel();
        }
    }

    fn shell(&mut self, wanted: &StepShell) -> Option<ShellTerminal> {
        let shells = self.shells.as_mut()?;
        self.logs.pause(&shells.announce(wanted));
        shells.open()
    }

    fn shell_ended(&mut self, end: &ShellEnd) {
        if let Some(text) = self.shells.as_mut().and_then(|shells| shells.close(end)) {
            self.logs.pause(&text);
        }
    }
}

/// The last event with what the library was not told: the signal that ended the build, and whether warnings matter.
fn with_callers_part(event: &Event, request: &BuildRequest, received: &Received) -> Option<Event> {
    let Fact::BuildEnded { outcome } = &event.fact else { return None };
    let mut outcome = outcome.clone();
    match &mut outcome {
        Outcome::Cancelled { signal } => *signal = received.signal(),
        Outcome::Checked { ignored, .. } => *ignored = ignores_status(request),
        _ => return None,
    }
    Some(Event { at: event.at, fact: Fact::BuildEnded { outcome } })
}

fn ignores_status(request: &BuildRequest) -> bool {
    request.check.is_some_and(|check| check.ignore_status)
}
