//! The caller's side of a run: the image, the worker, and the streams.

use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;

use rbuild_image::platform::Platform;
use rbuild_image::reference::{DockerVersion, Reference};
use rbuild_image::store::Store;
use rbuild_sandbox::{Channel, ExitStatus, TerminalSize, Worker, WorkerOptions};
use rustix::pipe::{PipeFlags, pipe_with};

use super::control::RunControl;
use super::error::RunError;
use super::options::{PullPolicy, RunFact, RunMount, RunOptions, RunStreams};
use super::pump::{Ended, copy_in, copy_out};
use super::worker::{ENTRY, Reply, Request};
use crate::container;
use crate::interactive::ShellTerminal;
use crate::manage::{self, ManageError};
use crate::options::StoreOptions;
use crate::worker::{spawn_failed, with_causes, worker_options};

/// Runs a command in an image, in the foreground, and gives the exit code of `docker run`: that of the command, or 128
/// and the number of the signal that ended it.
///
/// The image is pulled where [`RunOptions::pull`] says so; `observer` hears of it, from this thread. Blocks until the
/// command has ended and nothing of it is left: no process, no mount, and nothing of what it wrote to its root. This also
/// holds where the caller is killed. Several runs may be done at once, in one process and on one store.
///
/// # Errors
/// Where no command ran to its end; [`RunError::exit_code`] is the code of `docker run` for that.
pub fn run(
    options: RunOptions,
    streams: RunStreams,
    control: &RunControl,
    observer: &mut dyn FnMut(&RunFact),
) -> Result<i32, RunError> {
    let mut options = options;
    prepare_mounts(&mut options)?;
    for name in options.commit.iter().flat_map(|commit| &commit.names) {
        let parsed = Reference::parse_normalized(name, DockerVersion::V28);
        let parsed = parsed.map_err(|source| RunError::Image(ManageError::Reference { name: name.clone(), source }))?;
        if parsed.digest().is_some() {
            return Err(RunError::Image(ManageError::NameWithDigest { name: name.clone() }));
        }
    }
    match &options.container {
        Some(name) => options.isolation = container::isolation_of(&options.store, name, options.isolation)?,
        None => options.image = find_image(&options, control, observer)?,
    }
    let container = options.container.clone();
    let (ends, inner, terminal) = Ends::of(streams).map_err(|error| lost(&error))?;
    let mut spawn = worker_options(&options.store, ENTRY.0);
    spawn.isolation = crate::worker::sandbox_isolation(options.isolation);
    spawn.fds = inner;
    spawn.stderr = std::io::stderr().as_fd().try_clone_to_owned().ok();
    let store = options.store.clone();
    let mut worker = begin(spawn, &Request::Run(Box::new(options), terminal), control)?;
    let ended = Ended::new().map_err(|error| lost(&error))?;
    let mut ends = Some(ends);
    let mut copiers = Vec::new();
    let mut limits = Vec::new();
    let mut committed = None;
    let answer = loop {
        match worker.recv::<Reply>() {
            Ok(Some(Reply::Starting)) => {
                observer(&RunFact::Starting);
                if terminal.is_none() {
                    copiers = start(ends.take(), None, &ended).map_err(|error| lost(&error))?;
                }
            }
            Ok(Some(Reply::Terminal)) => {
                let master = worker.recv_descriptor().map_err(|error| lost(&error))?;
                control.attach_terminal(master.try_clone().map_err(|error| lost(&error))?);
                copiers = start(ends.take(), Some(master), &ended).map_err(|error| lost(&error))?;
            }
            Ok(Some(Reply::Limit(text))) => limits.push(text),
            Ok(Some(Reply::Committed(image, names))) => committed = Some(RunFact::Committed { image, names }),
            Ok(Some(Reply::Changes(_))) => {}
            Ok(Some(Reply::Waiting)) => {
                observer(&RunFact::Waiting { container: container.clone().unwrap_or_default() });
            }
            Ok(Some(Reply::Container(_))) => {}
            Ok(Some(Reply::End(end))) => break Some(end),
            Ok(None) => break None,
            Err(error) => return Err(lost(&error)),
        }
    };
    let status = worker.wait();
    control.detach();
    ended.tell();
    // What the command has written is there by now; a reader that takes its time is waited for, unless nobody wants it.
    let mut unwritten = None;
    for (stream, copier) in copiers {
        if control.is_cancelled() {
            break;
        }
        if let Ok(Err(source)) = copier.join() {
            unwritten = Some(RunError::Write { stream, source });
        }
    }
    // After all that the command has said.
    if let Some(fact) = committed {
        observer(&fact);
    }
    for text in limits {
        observer(&RunFact::Limit { text });
    }
    match answer {
        Some(Ok(_)) if unwritten.is_some() => Err(unwritten.unwrap_or(RunError::Cancelled)),
        Some(Ok(code)) => Ok(code),
        Some(Err(failed)) => Err(failed.into()),
        None => Err(died(&store, status, control)),
    }
}

/// Starts a worker and tells it what to do.
pub(crate) fn begin(spawn: WorkerOptions, request: &Request, control: &RunControl) -> Result<Worker, RunError> {
    let worker = Worker::spawn(spawn).map_err(|error| match spawn_failed(&error) {
        crate::BuildError::Worker { message, hint } => RunError::Worker { message, hint },
        other => lost(&other),
    })?;
    worker.send(request).map_err(|error| lost(&error))?;
    // Nothing else is sent from here, so that a second handle on the socket disturbs no message.
    let channel = Channel::new(worker.channel().stream().try_clone().map_err(|error| lost(&error))?);
    if !control.attach(channel, worker.killer()) {
        control.cancel();
    }
    Ok(worker)
}

/// Cleans up after a worker that gave no answer, and tells what became of it.
pub(crate) fn died(store: &StoreOptions, status: std::io::Result<ExitStatus>, control: &RunControl) -> RunError {
    manage::worker::sweep_dead(store);
    if control.is_cancelled() {
        return RunError::Cancelled;
    }
    let message = match status {
        Ok(ExitStatus::Signal(signal)) => format!("it was killed by signal {signal}"),
        Ok(status) => format!("it ended without a result, with exit code {}", status.code()),
        Err(error) => format!("it was lost: {error}"),
    };
    let hint = "run again with `--verbose`; if memory was short, the kernel's log says so".to_owned();
    RunError::Worker { message, hint: Some(hint) }
}

pub(crate) fn lost(error: &dyn std::error::Error) -> RunError {
    RunError::Worker { message: with_causes(error), hint: None }
}

/// Sources of mounts as whole paths, which exist.
fn prepare_mounts(options: &mut RunOptions) -> Result<(), RunError> {
    for mount in &mut options.mounts {
        let RunMount::Bind { source, create, .. } = mount else { continue };
        *source = std::path::absolute(&*source)
            .map_err(|error| RunError::refused(format!("cannot find `{}`: {error}", source.display())))?;
        match std::fs::metadata(&*source) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && *create => {
                std::fs::create_dir_all(&*source).map_err(|error| {
                    RunError::refused(format!("cannot create the directory `{}`: {error}", source.display()))
                })?;
            }
            Err(error) => {
                return Err(RunError::refused(format!("cannot mount `{}`: {error}", source.display())));
            }
        }
    }
    Ok(())
}

/// The id of the image, which is in the store from now on.
pub(crate) fn find_image(
    options: &RunOptions,
    control: &RunControl,
    observer: &mut dyn FnMut(&RunFact),
) -> Result<String, RunError> {
    let platform = match &options.platform {
        None => None,
        Some(text) => Some(
            Platform::parse(text, DockerVersion::V28)
                .map_err(|source| RunError::Image(ManageError::Platform { text: text.clone(), source }))?,
        ),
    };
    if options.pull != PullPolicy::Always {
        let store = Store::open(&options.store.root).map_err(ManageError::from)?;
        let fits = |id: &rbuild_image::digest::ImageId| -> Result<bool, ManageError> {
            let image = store.image(id)?;
            let here = image.layers.iter().all(|layer| layer.unpacked.is_some() || !layer.blobs.is_empty());
            let has = image.config.platform().normalized();
            let wanted = platform.as_ref().is_none_or(|wanted| wanted.compatible().iter().any(|one| one.is_same(&has)));
            Ok(here && wanted)
        };
        match manage::resolve(&store, &options.image) {
            Ok(id) if fits(&id)? => return Ok(id.to_string()),
            Ok(_) => {}
            Err(ManageError::NoImage { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let reference = Reference::parse_normalized(&options.image, DockerVersion::V28)
        .map_err(|source| RunError::Image(ManageError::Reference { name: options.image.clone(), source }))?;
    let name = reference.or_latest().familiar();
    if options.pull == PullPolicy::Never {
        return Err(RunError::Image(ManageError::NoImage { name }));
    }
    observer(&RunFact::Missing { name });
    let mut told = |fact: &manage::TransferFact| observer(&RunFact::Transfer(fact.clone()));
    let platform = options.platform.as_deref();
    let pulled = manage::pull(&options.store, &options.registry, &options.image, platform, &mut told, control.flag())?;
    let id = pulled.id.clone();
    observer(&RunFact::Pulled(pulled));
    if control.is_cancelled() {
        return Err(RunError::Cancelled);
    }
    Ok(id)
}

/// The caller's ends of the streams, and those between which bytes are copied.
enum Ends {
    Pipes { stdin: Option<(OwnedFd, OwnedFd)>, stdout: (OwnedFd, OwnedFd), stderr: (OwnedFd, OwnedFd) },
    Terminal { input: Option<OwnedFd>, output: OwnedFd },
}

impl Ends {
    /// Makes pipes where there is no terminal: with their ends for the command.
    fn of(streams: RunStreams) -> std::io::Result<(Ends, Vec<OwnedFd>, Option<TerminalSize>)> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC);
        match streams {
            RunStreams::Terminal { input, output, size } => {
                Ok((Ends::Terminal { input, output }, Vec::new(), Some(size)))
            }
            RunStreams::Pipes { stdin, stdout, stderr } => {
                let (inner_stdin, stdin) = match stdin {
                    Some(stdin) => {
                        let (read, write) = pipe()?;
                        (read, Some((stdin, write)))
                    }
                    None => (std::fs::File::open("/dev/null")?.into(), None),
                };
                let ((from_stdout, inner_stdout), (from_stderr, inner_stderr)) = (pipe()?, pipe()?);
                let ends = Ends::Pipes { stdin, stdout: (from_stdout, stdout), stderr: (from_stderr, stderr) };
                Ok((ends, vec![inner_stdin, inner_stdout, inner_stderr], None))
            }
        }
    }
}

/// The terminal of a caller, joined to that of a command.
pub(crate) struct Joined {
    copiers: Copiers,
    ended: Ended,
    control: RunControl,
}

impl Joined {
    /// Begins to copy between a terminal and the master side of another.
    pub(crate) fn join(terminal: &ShellTerminal, master: OwnedFd) -> std::io::Result<Joined> {
        terminal.control.attach_terminal(master.try_clone()?);
        let ended = Ended::new()?;
        let ends = Ends::Terminal { input: Some(terminal.input.try_clone()?), output: terminal.output.try_clone()? };
        let copiers = start(Some(ends), Some(master), &ended)?;
        Ok(Joined { copiers, ended, control: terminal.control.clone() })
    }

    /// Ends it, when all that the command has shown is there.
    pub(crate) fn finish(self) {
        self.control.detach();
        self.ended.tell();
        for (_, copier) in self.copiers {
            // What cannot be shown any more is lost with its terminal.
            let _ = copier.join();
        }
    }
}

/// Those that are waited for, with the names of their streams.
type Copiers = Vec<(&'static str, JoinHandle<std::io::Result<()>>)>;

/// Begins to copy.
fn start(ends: Option<Ends>, master: Option<OwnedFd>, ended: &Ended) -> std::io::Result<Copiers> {
    let input = |from: OwnedFd, to: OwnedFd| {
        let ended = ended.clone();
        // Nobody waits for it: a read that was begun may take as long as it likes.
        std::thread::Builder::new().name("stdin".to_owned()).spawn(move || copy_in(&from, &to, &ended)).map(drop)
    };
    let output = |name: &'static str, (from, to): (OwnedFd, OwnedFd)| {
        let ended = ended.clone();
        let copier = std::thread::Builder::new().name(name.to_owned()).spawn(move || copy_out(&from, &to, &ended))?;
        Ok::<_, std::io::Error>((name, copier))
    };
    match (ends, master) {
        (Some(Ends::Pipes { stdin, stdout, stderr }), _) => {
            if let Some((from, to)) = stdin {
                input(from, to)?;
            }
            Ok(vec![output("standard output", stdout)?, output("standard error", stderr)?])
        }
        (Some(Ends::Terminal { input: typed, output: shown }), Some(master)) => {
            if let Some(typed) = typed {
                input(typed, master.try_clone()?)?;
            }
            Ok(vec![output("the terminal", (master, shown))?])
        }
        _ => Ok(Vec::new()),
    }
}
