//! The worker of a run.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rbuild_image::config::{History, ImageConfig};
use rbuild_image::digest::DiffId;
use rbuild_image::store::NamedLock;
use rbuild_logfmt::event::{Builder, Dialect, Version};
use rbuild_sandbox::{Entry, ExitStatus, Signals, Streams, TerminalSize, WorkerChannel};
use serde::{Deserialize, Serialize};

use super::container;
use super::error::{Failed, RunError};
use super::options::{Commit, RunOptions};
use super::portable::{self, Portable};
use super::process::{self, Process};
use super::take::{self, Changes, TakeOptions};
use crate::cancel::Cancel;
use crate::container as working;
use crate::emit::Emitter;
use crate::exec;
use crate::kept::tag_as;
use crate::options::{BuildOptions, ContextSource, Network};
use crate::session::Session;
use crate::snapshot::Change;
use crate::solve::{created, write_config};
use crate::stop::Stop;

/// Name and function of the worker, for [`rbuild_sandbox::init`].
pub(crate) const ENTRY: (&str, Entry) = ("run", serve);

/// What the caller tells the worker.
#[derive(Serialize, Deserialize)]
pub(crate) enum Request {
    /// What is run, and the size of its terminal if it gets one.
    Run(Box<RunOptions>, Option<TerminalSize>),
    /// Files of an image are taken out.
    Take(Box<TakeOptions>),
    /// A failed build moves to another machine, or comes from one.
    Portable(Portable),
    /// Something is done with a working container.
    Container(Box<working::Request>),
    Signal(i32),
    Cancel,
}

/// What the worker tells the caller.
#[derive(Serialize, Deserialize)]
pub(crate) enum Reply {
    Starting,
    /// The descriptor of the terminal's master side follows.
    Terminal,
    /// [`super::RunFact::Committed`].
    Committed(String, Vec<String>),
    /// [`super::RunFact::Limit`].
    Limit(String),
    /// Of the topmost layer of an image.
    Changes(Changes),
    /// [`super::RunFact::Waiting`].
    Waiting,
    /// What became of a working container; the end follows.
    Container(Box<working::Reply>),
    /// The exit code.
    End(Result<i32, Failed>),
}

/// Signals that end a run whose command has not started.
const ENDING: [i32; 4] = [1, 2, 3, 15];

fn serve(mut channel: WorkerChannel) -> i32 {
    let Ok(Some(request)) = channel.recv::<Request>() else { return 1 };
    let files = [0, 1, 2].map(|index| channel.take_fd(index));
    let channel = Arc::new(channel);
    let Ok(cancel) = Cancel::new() else { return 1 };
    let signals = Signals::new();
    let listener = {
        let (channel, cancel, signals) = (Arc::clone(&channel), cancel.clone(), signals.clone());
        // Ends with the process.
        std::thread::Builder::new().name("requests".to_owned()).spawn(move || {
            while let Ok(Some(Request::Signal(signal))) = channel.recv::<Request>() {
                if !signals.send(signal) && ENDING.contains(&signal) {
                    cancel.ask();
                }
            }
            // The end of the channel is the end of the caller, for whom there is no more to do.
            cancel.ask();
        })
    };
    if listener.is_err() {
        return 1;
    }
    let end = match request {
        Request::Run(options, terminal) => run(&channel, &options, terminal, files, &cancel, &signals),
        Request::Take(options) => {
            let [output, ..] = files;
            take::in_worker(&options, channel.facts(), &cancel, output).map(|changes| {
                // Where the caller is gone, nobody wants to know.
                let _ = changes.map(|changes| channel.send(&Reply::Changes(changes)));
                ExitStatus::Code(0)
            })
        }
        Request::Portable(asked) => portable::in_worker(&asked, channel.facts(), &cancel).map(|image| {
            let _ = image.map(|image| channel.send(&Reply::Committed(image, Vec::new())));
            ExitStatus::Code(0)
        }),
        Request::Container(request) => working::in_worker(&channel, *request, &cancel).map(|()| ExitStatus::Code(0)),
        Request::Signal(_) | Request::Cancel => Err(RunError::Cancelled),
    };
    i32::from(channel.send(&Reply::End(end.map(ExitStatus::code).map_err(Failed::from))).is_err())
}

fn run(
    channel: &WorkerChannel,
    options: &RunOptions,
    terminal: Option<TerminalSize>,
    files: [Option<OwnedFd>; 3],
    cancel: &Cancel,
    signals: &Signals,
) -> Result<ExitStatus, RunError> {
    let mut opened = |master: OwnedFd| {
        // Where the caller is gone, the run ends anyway.
        let _ = channel.send_passing(&Reply::Terminal, master.as_fd());
    };
    let streams = match (terminal, &files) {
        (Some(size), _) => Streams::Terminal { size, opened: &mut opened },
        (None, [Some(stdin), Some(stdout), Some(stderr)]) => {
            Streams::Given { stdin: stdin.as_fd(), stdout: stdout.as_fd(), stderr: stderr.as_fd() }
        }
        _ => return Err(RunError::refused("the worker was given no streams")),
    };
    let build = session_options(options);
    let emitter = Emitter::new(Box::new(drop));
    let session = Session::open(&build, channel.facts().clone(), cancel, emitter, None, None)
        .map_err(|(_, stop)| container::stopped(stop))?;
    let begun = match &options.container {
        Some(name) => in_working_container(&session, options, name, terminal.is_some(), channel),
        None => in_image(&session, options, terminal.is_some()),
    };
    let ended = begun.and_then(|begun| enter(&session, begun, channel, signals, streams));
    session.close();
    ended
}

/// What is run, and where.
struct Begun {
    process: Process,
    change: Change,
    /// The changes become an image.
    kept: Option<ToKeep>,
    /// Of a working container.
    _lock: Option<NamedLock>,
}

/// What an image of the changes is made of.
struct ToKeep {
    config: ImageConfig,
    /// The layers beneath the changes.
    below: Vec<DiffId>,
    commit: Commit,
}

/// A command of an image, whose changes are thrown away or become another image.
fn in_image(session: &Session<'_>, options: &RunOptions, terminal: bool) -> Result<Begun, RunError> {
    let image = session.local_image(&options.image).map_err(container::stopped)?;
    let image = image.ok_or_else(|| RunError::refused(format!("the image {} is gone", options.image)))?;
    let config = image.config.config.get().cloned().unwrap_or_default();
    let process = process::of_image(&config, options, hostname(options)?, terminal)?;
    let mut below = image.diff_ids();
    let amended = if options.commit.as_ref().is_some_and(|commit| commit.amend) { below.pop() } else { None };
    let change = session
        .unpacked(&below)
        .and_then(|stack| exec::init_layer(session, &stack))
        .and_then(|beneath| Change::begin(session, &below, &[beneath]))
        .map_err(container::stopped)?;
    if let Some(layer) = &amended {
        change.start_with(session, layer).map_err(container::stopped)?;
    }
    let kept = options.commit.clone().map(|commit| ToKeep { config: image.config, below, commit });
    Ok(Begun { process, change, kept, _lock: None })
}

/// A command in a working container, whose changes stay there.
fn in_working_container(
    session: &Session<'_>,
    options: &RunOptions,
    name: &str,
    terminal: bool,
    channel: &WorkerChannel,
) -> Result<Begun, RunError> {
    let (lock, state) = working::open(session, name, channel)?;
    let config = state.config.config.get().cloned().unwrap_or_default();
    let process = process::of_container(&config, options, hostname(options)?, terminal)?;
    let change = session
        .unpacked(&state.layers)
        .and_then(|stack| exec::init_layer(session, &stack))
        .and_then(|beneath| Change::resume(session, &state.layers, &[beneath], &session.store().container_dir(name)))
        .map_err(container::stopped)?;
    Ok(Begun { process, change, kept: None, _lock: Some(lock) })
}

fn enter(
    session: &Session<'_>,
    begun: Begun,
    channel: &WorkerChannel,
    signals: &Signals,
    streams: Streams<'_>,
) -> Result<ExitStatus, RunError> {
    let ended = channel
        .send(&Reply::Starting)
        .map_err(|_| RunError::Cancelled)
        .and_then(|()| container::enter(session, &begun.change, &begun.process, signals, streams));
    match (&ended, begun.kept) {
        (Ok(status), Some(kept)) => {
            let made = keep(session, begun.change, kept, *status, &begun.process.argv);
            let (id, names) = made.map_err(container::stopped)?;
            let _ = channel.send(&Reply::Committed(id, names));
        }
        _ => begun.change.discard(session),
    }
    if !matches!(&ended, Ok(status) if status.success()) {
        for limit in rbuild_sandbox::limits_met() {
            // Where the caller is gone, nobody wants to know.
            let _ = channel.send(&Reply::Limit(limit.to_string()));
        }
    }
    ended
}

/// Makes an image of what a command has left: its id and names.
fn keep(
    session: &Session<'_>,
    change: Change,
    kept: ToKeep,
    status: ExitStatus,
    argv: &[String],
) -> Result<(String, Vec<String>), Stop> {
    let ToKeep { mut config, below, commit } = kept;
    let mut layers = below;
    layers.push(change.commit(session)?.diff_id);
    if !commit.amend {
        let mut entry = History::default();
        entry.created_by.set(argv.join(" "));
        config.history.get_or_default().push(entry);
    }
    let built = write_config(session, config, &layers, &created(session))?;
    session.store().keep(session.lease(), &built.id)?;
    let names = if status.success() {
        tag_as(session, &built.id, &commit.names, "")?
    } else {
        tag_as(session, &built.id, &commit.names, "-failed")?
    };
    Ok((built.id.digest().to_string(), names))
}

/// A run as a session sees it: containers of the classic builder have what those of `docker run` have.
fn session_options(options: &RunOptions) -> BuildOptions {
    let mut build = BuildOptions::new(options.store.root.clone(), ContextSource::Stdin);
    build.dialect = Dialect { builder: Builder::Legacy, version: Version::V28 };
    build.registry = options.registry.clone();
    build.network = options.network;
    build.add_hosts = options.add_hosts.clone();
    build.ulimits = options.ulimits.clone();
    build.shm_size = options.shm_size;
    build
}

/// The name of the container's host.
fn hostname(options: &RunOptions) -> Result<String, RunError> {
    if let Some(name) = &options.hostname {
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if name.is_empty() || name.len() > 63 || !name.chars().all(valid) {
            return Err(RunError::refused(format!("`{name}` is no host name")));
        }
        return Ok(name.clone());
    }
    if options.network == Network::Host {
        return Ok(rustix::system::uname().nodename().to_string_lossy().into_owned());
    }
    let mut bytes = [0; 6];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| RunError::refused(format!("cannot get a random number: {errno}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
