//! The boundary between the calling process and the worker that does a build.
//!
//! A build runs in a process of its own ([`rbuild_sandbox::Worker`]), in which all ids of the image exist: files of any
//! owner can be made and read there with plain system calls. Options go in, events and one result come back.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rbuild_logfmt::event::{Call, Event, Fact};
use rbuild_sandbox::{Channel, ExitStatus, SpawnError, TerminalSize, Worker, WorkerChannel, WorkerOptions};
use serde::{Deserialize, Serialize};

use crate::build::Done;
use crate::emit::Told;
use crate::error::{BuildError, FailedBuild};
use crate::interactive::{ShellEnd, ShellLink, ShellTerminal, Shells, StepShell};
use crate::options::{BuildOptions, BuildResult, CheckResult, Isolation, StoreOptions};
use crate::run::Joined;
use crate::{build as worker_side, cancel};

/// Makes the processes that this library starts; to be called first in `main`, before any thread is started.
///
/// The library starts the program again for each build and each RUN. In such a process this call does that work and
/// ends the process; in any other it returns at once.
pub fn init() {
    rbuild_sandbox::init(&[(ENTRY, serve), crate::manage::worker::ENTRY, crate::run::ENTRY]);
}

const ENTRY: &str = "build";

/// How long a cancelled build may take to end by itself.
const CANCEL_GRACE: Duration = Duration::from_millis(1500);

/// What the caller tells the worker.
#[derive(Serialize, Deserialize)]
enum Request {
    Run(Call, Box<BuildOptions>),
    /// The answer to [`Reply::Shell`].
    Shell(Option<TerminalSize>),
    Cancel,
}

/// What the worker tells the caller. The data of [`Fact::Output`] come beside their event.
#[derive(Serialize, Deserialize)]
enum Reply {
    Event(Event),
    Clock(u64),
    /// A terminal is wanted for a shell; the build waits for [`Request::Shell`].
    Shell(StepShell),
    /// The shell has a terminal, whose master side follows.
    Terminal,
    ShellEnded(ShellEnd),
    End(Result<Done, End>),
}

#[derive(Serialize, Deserialize)]
enum End {
    Failed(Box<FailedBuild>),
    Cancelled,
}

type Hooks = Mutex<Vec<(u64, Box<dyn Fn() + Send>)>>;

/// Cancels builds from any thread; every clone is the same handle.
#[derive(Clone, Default)]
pub struct Cancel(Arc<CancelState>);

#[derive(Default)]
struct CancelState {
    cancelled: AtomicBool,
    next: AtomicU64,
    hooks: Hooks,
}

impl std::fmt::Debug for Cancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Cancel").field(&self.is_cancelled()).finish()
    }
}

impl Cancel {
    /// A handle that has cancelled nothing yet.
    #[must_use]
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// Ends the builds that run with this handle, and lets none begin. Running commands are killed.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        for (_, hook) in self.0.hooks.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            hook();
        }
    }

    /// Whether it was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    fn on_cancel(&self, hook: impl Fn() + Send + 'static) -> HookGuard {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.0.hooks.lock().unwrap_or_else(PoisonError::into_inner).push((id, Box::new(hook)));
        if self.is_cancelled() {
            self.cancel();
        }
        HookGuard { cancel: self.clone(), id }
    }
}

struct HookGuard {
    cancel: Cancel,
    id: u64,
}

impl Drop for HookGuard {
    fn drop(&mut self) {
        self.cancel.0.hooks.lock().unwrap_or_else(PoisonError::into_inner).retain(|(id, _)| *id != self.id);
    }
}

/// Learns what happens in a build. Any function of an event is one.
pub trait Observer {
    /// Takes the next event.
    fn event(&mut self, event: &Event);

    /// It is now `at` nanoseconds since the build began, and every event that happened before was handed over. Told
    /// about ten times a second when no event comes, for displays that change by themselves
    /// ([`Renderer::tick`](crate::logfmt::Renderer::tick)).
    fn clock(&mut self, at: u64) {
        let _ = at;
    }

    /// The build wants to stop for a shell ([`Interaction`](crate::Interaction)): gives it a terminal, or nothing where
    /// there is none. No event is handed over until [`shell_ended`](Self::shell_ended).
    fn shell(&mut self, wanted: &StepShell) -> Option<ShellTerminal> {
        let _ = wanted;
        None
    }

    /// The shell has ended; the terminal is the caller's again.
    fn shell_ended(&mut self, end: &ShellEnd) {
        let _ = end;
    }
}

impl<F: FnMut(&Event)> Observer for F {
    fn event(&mut self, event: &Event) {
        self(event);
    }
}

/// Builds an image.
///
/// Events are handed over in order, from this thread; the last is [`Fact::BuildEnded`](crate::logfmt::event::Fact).
/// Blocks until the build has ended and nothing of it is left running. Several builds may run at once, in one process
/// and on one store.
///
/// Standard input is read if the context or the Dockerfile is [`Stdin`](crate::ContextSource::Stdin), and standard
/// output is written if an output asks for it; nothing else is printed.
///
/// # Errors
/// [`BuildError::Failed`] with the facts that the last event has too; [`BuildError::Cancelled`]; or that no worker
/// could be started or it was lost.
pub fn build(options: BuildOptions, cancel: &Cancel, observer: &mut dyn Observer) -> Result<BuildResult, BuildError> {
    match run(Call::Build, options, cancel, observer)? {
        Done::Built(result) => Ok(result),
        Done::Checked(_) => Err(BuildError::Worker { message: "the worker did something else".to_owned(), hint: None }),
    }
}

/// Runs the build checks of BuildKit 28 on a Dockerfile, and builds nothing: of all stages, or of those that the target
/// needs where one is given. Outputs and names are not looked at.
///
/// Everything else is as in [`build`]. Warnings are events, and so is the result.
///
/// # Errors
/// As [`build`]. That the Dockerfile is wrong is no error, but part of the result.
pub fn check(options: BuildOptions, cancel: &Cancel, observer: &mut dyn Observer) -> Result<CheckResult, BuildError> {
    match run(Call::Check, options, cancel, observer)? {
        Done::Checked(result) => Ok(result),
        Done::Built(_) => Err(BuildError::Worker { message: "the worker did something else".to_owned(), hint: None }),
    }
}

/// A worker for a store.
pub(crate) fn worker_options(store: &StoreOptions, entry: &str) -> WorkerOptions {
    let mut options = WorkerOptions::new(entry);
    options.overlay_on = Some(store.root.join(rbuild_image::store::TMP));
    options.attributes_in = Some(store.root.join(rbuild_image::store::ATTRIBUTES));
    options
}

/// How a worker is confined.
pub(crate) fn sandbox_isolation(isolation: Isolation) -> rbuild_sandbox::Isolation {
    match isolation {
        Isolation::Auto => rbuild_sandbox::Isolation::Auto,
        Isolation::Userns => rbuild_sandbox::Isolation::Userns,
        Isolation::Chroot => rbuild_sandbox::Isolation::Chroot,
        Isolation::Ptrace => rbuild_sandbox::Isolation::Ptrace,
    }
}

fn run(call: Call, options: BuildOptions, cancel: &Cancel, observer: &mut dyn Observer) -> Result<Done, BuildError> {
    let mut spawn = worker_options(&options.store, ENTRY);
    spawn.isolation = sandbox_isolation(options.isolation);
    spawn.fds = standard_files()?;
    spawn.stderr = std::io::stderr().as_fd().try_clone_to_owned().ok();
    // git, ssh and credential helpers need to be found, and to find their own configuration.
    spawn.env = std::env::vars_os().collect();
    let store = options.store.clone();
    let mut worker = Worker::spawn(spawn).map_err(|error| spawn_failed(&error))?;
    let lost = |what: &dyn std::error::Error| BuildError::Worker { message: with_causes(what), hint: None };
    worker.send(&Request::Run(call, Box::new(options))).map_err(|error| lost(&error))?;
    let killer = worker.killer();
    let (ended, has_ended) = std::sync::mpsc::channel::<()>();
    let has_ended = Mutex::new(Some(has_ended));
    // From here on all is sent by this handle, so that no two messages mix.
    let sender = Arc::new(Channel::new(worker.channel().stream().try_clone().map_err(|error| lost(&error))?));
    let answers = Arc::clone(&sender);
    let hook = cancel.on_cancel(move || {
        if sender.send(&Request::Cancel).is_err() {
            killer.kill();
            return;
        }
        // What cannot be cancelled, as a read from a file system that hangs, is killed; the kernel cleans up.
        let Some(has_ended) = has_ended.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let killer = killer.clone();
        let watch = move || {
            if has_ended.recv_timeout(CANCEL_GRACE) == Err(RecvTimeoutError::Timeout) {
                killer.kill();
            }
        };
        // Without a thread there is no grace, but no harm either.
        drop(std::thread::Builder::new().name("cancel".to_owned()).spawn(watch));
    });
    let mut shell: Option<OpenShell> = None;
    let ending = loop {
        match worker.recv_with::<Reply>().map_err(|error| lost(&error))? {
            Some((Reply::Event(mut event), bytes)) => {
                if let Fact::Output { data, .. } = &mut event.fact {
                    *data = bytes;
                }
                match &mut shell {
                    Some(shell) => shell.held.push(event),
                    None => observer.event(&event),
                }
            }
            Some((Reply::Clock(_), _)) if shell.is_some() => {}
            Some((Reply::Clock(at), _)) => observer.clock(at),
            Some((Reply::Shell(wanted), _)) => {
                let terminal = observer.shell(&wanted);
                answers
                    .send(&Request::Shell(terminal.as_ref().map(|terminal| terminal.size)))
                    .map_err(|error| lost(&error))?;
                shell = terminal.map(OpenShell::new);
            }
            Some((Reply::Terminal, _)) => {
                let master = worker.recv_descriptor().map_err(|error| lost(&error))?;
                if let Some(shell) = &mut shell {
                    shell.join(master).map_err(|error| lost(&error))?;
                }
            }
            Some((Reply::ShellEnded(end), _)) => {
                let held = shell.take().map(OpenShell::finish).unwrap_or_default();
                observer.shell_ended(&end);
                held.iter().for_each(|event| observer.event(event));
            }
            Some((Reply::End(end), _)) => break Some(end),
            None => break None,
        }
    };
    // A worker that is lost takes its shell along.
    if let Some(shell) = shell {
        let held = shell.finish();
        observer.shell_ended(&ShellEnd::NotStarted { message: "the build has ended".to_owned(), hint: None });
        held.iter().for_each(|event| observer.event(event));
    }
    drop(hook);
    let status = worker.wait();
    drop(ended);
    if ending.is_none() {
        crate::manage::worker::sweep_dead(&store);
    }
    match ending {
        Some(Ok(result)) => Ok(result),
        Some(Err(End::Failed(failed))) => Err(BuildError::Failed(failed)),
        Some(Err(End::Cancelled)) => Err(BuildError::Cancelled),
        None if cancel.is_cancelled() => Err(BuildError::Cancelled),
        None => Err(BuildError::Worker {
            message: match status {
                Ok(ExitStatus::Signal(signal)) => format!("the worker process was killed by signal {signal}"),
                Ok(status) => format!("the worker process ended without a result, with exit code {}", status.code()),
                Err(error) => format!("the worker process was lost: {error}"),
            },
            hint: Some("run again with `-v`; if memory was short, the kernel's log says so".to_owned()),
        }),
    }
}

/// A shell that somebody uses.
struct OpenShell {
    terminal: ShellTerminal,
    joined: Option<Joined>,
    /// Events that came meanwhile, which would disturb it.
    held: Vec<Event>,
}

impl OpenShell {
    fn new(terminal: ShellTerminal) -> OpenShell {
        OpenShell { terminal, joined: None, held: Vec::new() }
    }

    /// It has a terminal; one that it had before is gone.
    fn join(&mut self, master: OwnedFd) -> std::io::Result<()> {
        if let Some(before) = self.joined.take() {
            before.finish();
        }
        self.joined = Some(Joined::join(&self.terminal, master)?);
        Ok(())
    }

    fn finish(self) -> Vec<Event> {
        if let Some(joined) = self.joined {
            joined.finish();
        }
        self.held
    }
}

/// The worker's way to the caller's terminal.
struct Link {
    channel: Arc<WorkerChannel>,
    answers: Mutex<Receiver<Option<TerminalSize>>>,
}

impl ShellLink for Link {
    fn ask(&self, shell: &StepShell) -> Option<TerminalSize> {
        self.channel.send(&Reply::Shell(shell.clone())).ok()?;
        // Where the caller is gone there is no answer.
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).recv().ok().flatten()
    }

    fn terminal(&self, master: OwnedFd) {
        let _ = self.channel.send_passing(&Reply::Terminal, master.as_fd());
    }

    fn ended(&self, end: ShellEnd) {
        let _ = self.channel.send(&Reply::ShellEnded(end));
    }
}

/// Standard input and output of this process, for a worker that may need them.
fn standard_files() -> Result<Vec<OwnedFd>, BuildError> {
    let null =
        |error: std::io::Error| BuildError::Worker { message: format!("cannot open /dev/null: {error}"), hint: None };
    let or_null = |fd: std::io::Result<OwnedFd>| match fd {
        Ok(fd) => Ok(fd),
        Err(_) => std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").map(OwnedFd::from).map_err(null),
    };
    Ok(vec![
        or_null(std::io::stdin().as_fd().try_clone_to_owned())?,
        or_null(std::io::stdout().as_fd().try_clone_to_owned())?,
    ])
}

pub(crate) fn spawn_failed(error: &SpawnError) -> BuildError {
    let hint = match error {
        SpawnError::NotInitialised => "call `rbuild_executor::init()` first in `main`",
        SpawnError::UserNamespace { refusal, .. } => refusal.remedy(),
        _ => "`rbuild doctor` tells what this machine allows",
    };
    BuildError::Worker { message: with_causes(error), hint: Some(hint.to_owned()) }
}

/// An error and its causes in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// The worker's side.
fn serve(mut channel: WorkerChannel) -> i32 {
    let (call, options) = match channel.recv::<Request>() {
        Ok(Some(Request::Run(call, options))) => (call, *options),
        _ => return 1,
    };
    let input = channel.take_fd(0);
    let output = channel.take_fd(1);
    let channel = Arc::new(channel);
    let cancel = match cancel::Cancel::new() {
        Ok(cancel) => cancel,
        Err(_) => return 1,
    };
    let (answer, answers) = std::sync::mpsc::channel();
    let link = Link { channel: Arc::clone(&channel), answers: Mutex::new(answers) };
    let listener = {
        let (channel, cancel) = (Arc::clone(&channel), cancel.clone());
        // Ends with the process: a request may never come.
        std::thread::Builder::new().name("requests".to_owned()).spawn(move || {
            // The end of the channel is the end of the caller, for whom there is no more to do.
            while let Ok(Some(Request::Shell(size))) = channel.recv::<Request>() {
                let _ = answer.send(size);
            }
            cancel.ask();
        })
    };
    if listener.is_err() {
        return 1;
    }
    let events = Arc::clone(&channel);
    let write = Box::new(move |told: Told| {
        let mut event = match told {
            Told::Event(event) => event,
            Told::Clock(at) => {
                let _ = events.send(&Reply::Clock(at));
                return;
            }
        };
        let bytes = match &mut event.fact {
            Fact::Output { data, .. } => std::mem::take(data),
            _ => Vec::new(),
        };
        // Without a listener the build is cancelled by the thread above.
        let _ = events.send_with(&Reply::Event(event), &bytes);
    });
    let facts = channel.facts().clone();
    let caller = worker_side::Caller { input, output, shells: Shells::new(Box::new(link)), write };
    let end = worker_side::run(call, &options, facts, &cancel, caller).map_err(|error| match error {
        worker_side::Ended::Failed(failed) => End::Failed(failed),
        worker_side::Ended::Cancelled => End::Cancelled,
    });
    i32::from(channel.send(&Reply::End(end)).is_err())
}
