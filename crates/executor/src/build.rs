//! A build, inside the worker: from options to a result.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::event::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};

use rbuild_image::platform::Platform;
use rbuild_image::reference::DockerVersion;
use rbuild_logfmt::event::{Call, Fact, Failure, Item, Outcome, Speaker, StepKind, Version};
use rbuild_sandbox::Facts;

use crate::cancel::Cancel;
use crate::context::{Context, ContextError, ContextRequest};
use crate::emit::{Emitter, Told};
use crate::error::FailedBuild;
use crate::interactive::Shells;
use crate::journal::Journal;
use crate::kept;
use crate::key::{CacheKey, KeyBuilder};
use crate::options::{BuildOptions, BuildResult, CheckResult, ContextSource, DockerfileSource};
use crate::plan::buildkit::requested_config;
use crate::record::{BuildStatus, Recorder};
use crate::session::Session;
use crate::solve::{Built, Checked};
use crate::stop::{Failed, Stop};
use crate::{export, remote, solve};

/// How a build ended without a result.
pub(crate) enum Ended {
    Failed(Box<FailedBuild>),
    Cancelled,
}

/// What came of a call.
#[derive(Serialize, Deserialize)]
pub(crate) enum Done {
    Built(BuildResult),
    Checked(CheckResult),
}

/// What a build has of its caller.
pub(crate) struct Caller {
    pub(crate) input: Option<OwnedFd>,
    pub(crate) output: Option<OwnedFd>,
    pub(crate) shells: Shells,
    /// Takes what is told.
    pub(crate) write: Box<dyn FnMut(Told) + Send>,
}

/// Builds, or checks, telling the caller everything.
pub(crate) fn run(
    call: Call,
    options: &BuildOptions,
    facts: Facts,
    cancel: &Cancel,
    caller: Caller,
) -> Result<Done, Ended> {
    let Caller { input, output, shells, write } = caller;
    let journal = Arc::new(Journal::default());
    let recorder = Arc::new(Mutex::new(Recorder::new(&journal)));
    let emitter = Emitter::new(recorded(write, &recorder));
    emitter.emit(Fact::BuildStarted {
        format: rbuild_logfmt::EVENT_FORMAT,
        dialect: options.dialect,
        unix_ns: Emitter::unix_ns(),
        quiet: options.quiet,
        call,
    });
    match Session::open(options, facts, cancel, emitter, input, output) {
        Ok(session) => {
            let session = session.watched(&journal, shells);
            if call == Call::Check {
                let done = check(&session).map(Ok);
                let ended = finish(session.emitter(), cancel, done);
                session.close();
                return ended.map_err(Into::into);
            }
            lock(&recorder).open(session.store().root());
            let done = build(&session).map(Err);
            if done.is_ok() && session.hands().some_unused(&options.by_hand) {
                let text = "what an earlier build left of a step was not used: the step is another now".to_owned();
                session.emitter().emit(Fact::Note { text, shown: true });
            }
            let ended = finish(session.emitter(), cancel, done);
            // The log is complete: what follows delays nobody who reads it.
            let ended = remember(&session, cancel, &recorder, ended);
            session.close();
            ended
        }
        Err((emitter, stop)) => finish(&emitter, cancel, Err(stop)).map_err(Into::into),
    }
}

fn lock(recorder: &Mutex<Recorder>) -> MutexGuard<'_, Recorder> {
    recorder.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has a recorder see what is told.
fn recorded(mut write: Box<dyn FnMut(Told) + Send>, recorder: &Arc<Mutex<Recorder>>) -> Box<dyn FnMut(Told) + Send> {
    let recorder = Arc::clone(recorder);
    Box::new(move |told| {
        if let Told::Event(event) = &told {
            lock(&recorder).event(event);
        }
        write(told);
    })
}

/// Keeps what a failed command has left, and writes the record.
fn remember(
    session: &Session<'_>,
    cancel: &Cancel,
    recorder: &Mutex<Recorder>,
    ended: Result<Done, Finished>,
) -> Result<Done, Ended> {
    let recorder = std::mem::replace(&mut *lock(recorder), Recorder::new(&Arc::default()));
    let options = session.options();
    match ended {
        Ok(done) => {
            let image = match &done {
                Done::Built(result) => Some(result.image_id.clone()),
                Done::Checked(_) => None,
            };
            recorder.finish(session, BuildStatus::Succeeded, image, None);
            Ok(done)
        }
        Err(Finished::Cancelled) => {
            recorder.finish(session, BuildStatus::Cancelled, None, None);
            Err(Ended::Cancelled)
        }
        Err(Finished::Failed(failed)) => {
            let Failed { failure, step, lines, half } = *failed;
            cancel.settle();
            let kept = half.map(|half| half.keep(session, lines, options.keep_failed.named));
            let kept = kept.map(|kept| {
                kept.map_err(|stop| match stop {
                    Stop::Failed(failed) => match failed.failure {
                        Failure::Own { message, .. } => message,
                        other => format!("{other:?}"),
                    },
                    Stop::Cancelled => "the build was cancelled".to_owned(),
                })
            });
            let isolation = session.facts().isolation;
            let report = recorder.report(failure.clone(), step, lines, kept, isolation);
            recorder.finish(session, BuildStatus::Failed, None, Some(report.clone()));
            if report.image.is_some() {
                kept::limit(session, options.keep_failed.max_bytes);
            }
            Err(Ended::Failed(Box::new(FailedBuild { failure, report: Some(report) })))
        }
    }
}

/// How a build ended without a result, with what it left.
enum Finished {
    Failed(Box<Failed>),
    Cancelled,
}

impl From<Finished> for Ended {
    fn from(finished: Finished) -> Ended {
        match finished {
            Finished::Failed(failed) => Ended::Failed(Box::new(FailedBuild { failure: failed.failure, report: None })),
            Finished::Cancelled => Ended::Cancelled,
        }
    }
}

fn finish(
    emitter: &Emitter,
    cancel: &Cancel,
    done: Result<Result<Checked, BuildResult>, Stop>,
) -> Result<Done, Finished> {
    let (outcome, ended) = match done {
        Ok(Err(result)) => {
            let tags = result.names.iter().map(|name| familiar(name)).collect();
            (Outcome::Success { image: result.image_id.clone(), tags }, Ok(Done::Built(result)))
        }
        Ok(Ok(checked)) if !cancel.was_asked() => {
            let warnings = u32::try_from(checked.warnings).unwrap_or(u32::MAX);
            let (failure, step, lines) = match checked.failed.map(|failed| *failed) {
                Some(Failed { failure, step, lines, .. }) => (Some(failure), step, lines),
                None => (None, None, None),
            };
            let result = CheckResult { warnings, failure: failure.clone().map(Box::new) };
            (Outcome::Checked { warnings, failure, step, lines, ignored: false }, Ok(Done::Checked(result)))
        }
        Err(Stop::Failed(failed)) if !cancel.was_asked() => {
            let (failure, step, lines) = (failed.failure.clone(), failed.step, failed.lines);
            (Outcome::Failure { failure, step, lines }, Err(Finished::Failed(failed)))
        }
        Ok(Ok(_)) | Err(_) => (Outcome::Cancelled { signal: None }, Err(Finished::Cancelled)),
    };
    emitter.emit(Fact::BuildEnded { outcome });
    ended
}

/// A canonical name as Docker shows it.
fn familiar(name: &str) -> String {
    name.parse::<rbuild_image::reference::Reference>().map_or_else(|_| name.to_owned(), |name| name.familiar())
}

/// Runs the build checks, which the legacy builder does not have.
fn check(session: &Session<'_>) -> Result<Checked, Stop> {
    requested_config(session.options())?;
    let context = open_context(session)?;
    solve::buildkit::check(session, &context)
}

fn build(session: &Session<'_>) -> Result<BuildResult, Stop> {
    let plan = export::Exports::new(session)?;
    requested_config(session.options())?;
    check_platform(session)?;
    let context = open_context(session)?;
    let known = known_files(session, &context)?;
    let result = solve(session, &plan, &context);
    if let Some((key, saved)) = known.zip(context.known_files().save()) {
        session.remember_value(&key, &BASE64.encode(saved))?;
    }
    result
}

/// Of BuildKit 28 the client looks at the platform, before anything else.
fn check_platform(session: &Session<'_>) -> Result<(), Stop> {
    let options = session.options();
    match &options.platform {
        Some(text) if !session.is_legacy() && options.dialect.version == Version::V28 => {
            match Platform::parse(text, DockerVersion::V28) {
                Ok(_) => Ok(()),
                Err(error) => Err(Stop::failed(Failure::Request { message: error.to_string(), by: Speaker::Client })),
            }
        }
        _ => Ok(()),
    }
}

/// Recalls what earlier builds found out about the files of a directory; the key under which that is kept.
fn known_files(session: &Session<'_>, context: &Context) -> Result<Option<CacheKey>, Stop> {
    // What was cloned for this build lies nowhere else again.
    if matches!(session.options().context, ContextSource::Url(_) | ContextSource::Repository { .. }) {
        return Ok(None);
    }
    let Some(path) = context.path().canonicalize().ok().filter(|_| !context.is_archive()) else { return Ok(None) };
    let key = KeyBuilder::new("known files").field("directory", path.as_os_str().as_bytes()).finish();
    let saved = session.cached_value::<String>(&key)?;
    if let Some(saved) = saved.and_then(|text| BASE64.decode(text).ok()) {
        context.known_files().recall(&saved);
    }
    Ok(Some(key))
}

fn solve(session: &Session<'_>, plan: &export::Exports, context: &Context) -> Result<BuildResult, Stop> {
    let built: Built = if session.is_legacy() {
        let built = solve::legacy::build(session, context)?;
        plan.write(session, &built, None)?;
        built
    } else {
        solve::buildkit::build(session, context, plan)?
    };
    plan.result(session, &built)
}

/// Standard input, whose other end may take its time: a cancelled build does not wait for it.
struct Input {
    file: std::fs::File,
    cancel: Cancel,
}

impl std::io::Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let mut fds = [PollFd::new(&self.file, PollFlags::IN), PollFd::new(self.cancel.commands(), PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) if !fds[1].revents().is_empty() => return Err(std::io::Error::other("cancelled")),
                Ok(_) | Err(rustix::io::Errno::INTR) if fds[0].revents().is_empty() => {}
                Ok(_) => match self.file.read(buffer) {
                    // Whoever shares the open file may have made it non-blocking.
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    read => return read,
                },
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn open_context(session: &Session<'_>) -> Result<Context, Stop> {
    let options = session.options();
    let needs_input = options.context == ContextSource::Stdin || options.dockerfile == DockerfileSource::Stdin;
    let input = if needs_input {
        let cancel = session.cancel().clone();
        session.take_input().map(|fd| Box::new(Input { file: fd.into(), cancel }) as Box<dyn std::io::Read + Send>)
    } else {
        None
    };
    let working_dir = match std::env::current_dir() {
        Ok(dir) => dir,
        // It was removed, or cannot be read: whole paths do without it.
        Err(_) if !needs_working_dir(options) => PathBuf::from("/"),
        Err(error) => {
            return Err(Stop::failed(Failure::Own {
                message: format!("cannot find the current directory: {error}"),
                hint: Some("it was removed; change to another one".to_owned()),
            }));
        }
    };
    let mut request = ContextRequest {
        source: options.context.clone(),
        dockerfile: options.dockerfile.clone(),
        input,
        working_dir,
        scratch_dir: session.scratch_dir()?,
        dialect: options.dialect,
    };
    match &options.context {
        ContextSource::Url(url) => return remote::open(session, url, request),
        source @ ContextSource::Repository { .. } => {
            let (directory, dockerfile) = remote::clone_for_build(session, source)?;
            request.source = ContextSource::Dir(directory);
            request.dockerfile = DockerfileSource::Path(dockerfile);
        }
        ContextSource::Dir(_) | ContextSource::Stdin => {}
    }
    Context::open(request).map_err(|error: ContextError| {
        if let ContextError::Transferred { tar_bytes, dockerfile, .. } = &error {
            // The client had sent what there was before the other end found fault with it.
            let emitter = session.emitter();
            if let Some(tar_bytes) = *tar_bytes {
                emitter.emit(Fact::Context { tar_bytes });
            }
            let name = dockerfile.as_ref().map_or_else(|| dockerfile_name(options), |(name, _)| name.clone());
            if !session.is_legacy() {
                let step = emitter.begin(StepKind::LoadDefinition { name }, &[]);
                let bytes = dockerfile.as_ref().map_or(EMPTY_TRANSFER, |(_, bytes)| *bytes);
                emitter.progress(step, Item::TransferDockerfile, bytes, None, true);
                emitter.done(step);
                if options.dialect.version == Version::V20 && !has_ignore_file(options) {
                    let step = emitter.begin(StepKind::LoadIgnore, &[]);
                    emitter.progress(step, Item::TransferContext, EMPTY_TRANSFER, None, true);
                    emitter.done(step);
                }
            }
        }
        session.context_failed(&error)
    })
}

/// Whether the context is a directory with an ignore file, of which 20.10 may show that it was sent or not, as it comes.
fn has_ignore_file(options: &BuildOptions) -> bool {
    matches!(&options.context, ContextSource::Dir(path) if path.join(".dockerignore").exists())
}

/// Whether a path of the context or the Dockerfile begins at the current directory.
fn needs_working_dir(options: &BuildOptions) -> bool {
    let context = matches!(&options.context, ContextSource::Dir(path) if path.is_relative());
    context || matches!(&options.dockerfile, DockerfileSource::Path(path) if path.is_relative())
}

/// Bytes of a transfer of no file, as BuildKit counts them.
const EMPTY_TRANSFER: u64 = 2;

/// The Dockerfile's name as BuildKit shows it.
fn dockerfile_name(options: &BuildOptions) -> String {
    match &options.dockerfile {
        DockerfileSource::Path(path) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        DockerfileSource::Default | DockerfileSource::Stdin => "Dockerfile".to_owned(),
    }
}
