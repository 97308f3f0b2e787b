//! Starts a command and follows it to its end.

use super::{
    Cancel, ExitStatus, Network, Output, RootFs, RunError, RunReport, RunSpec, Signals, Stream, Streams, TerminalSize,
    identity, nodes, stubs,
    wire::{Made, Order, Report},
};
use crate::{
    channel::Channel,
    init::{self, Known},
    sys::{process::wait, spawn::spawn_self},
    worker::{SpawnError, open_null},
};
use nix::sched::CloneFlags;
use rustix::{
    event::{PollFd, PollFlags, Timespec, epoll, poll},
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::{
    collections::VecDeque,
    ffi::CString,
    io,
    time::{Duration, Instant, SystemTime},
};

/// The most that is handed over at once: what a pipe holds.
const CHUNK: usize = 64 << 10;
/// How long the rest of a line is waited for: programs write a message in pieces, which belong together in a log.
const REST_OF_LINE: Duration = Duration::from_millis(2);
/// The largest that an ordinary user can make a pipe (`/proc/sys/fs/pipe-max-size`).
const MAX_PIPE: usize = 1 << 20;

/// Runs one command to its end and hands over what it writes. Blocks; several threads may call it at once.
///
/// Only in a worker. When it returns, no process of the command is left, and the mount points that were made for it
/// are gone again.
///
/// # Errors
/// Where the command could not be started or was cancelled; an exit code other than 0 is no error.
pub fn run(spec: &RunSpec, cancel: &Cancel, output: &mut dyn FnMut(Output<'_>)) -> Result<RunReport, RunError> {
    run_with(spec, cancel, &Signals::new(), Streams::Captured(output))
}

/// As [`run`], with other standard streams, and with a handle by which signals reach the command.
///
/// # Errors
/// As [`run`].
pub fn run_with(
    spec: &RunSpec,
    cancel: &Cancel,
    signals: &Signals,
    mut streams: Streams<'_>,
) -> Result<RunReport, RunError> {
    if let Known::NotInitialised = init::knows(None) {
        return Err(SpawnError::NotInitialised.into());
    }
    identity::check(spec)?;
    signals.expect();
    let mut command = Running::start(spec, &streams).inspect_err(|_| signals.detach())?;
    let outcome = command.follow(spec, cancel, signals, &mut streams);
    signals.detach();
    // All processes are dead, so that what they left can be looked at.
    let ended = command.end();
    let changed = match &spec.root {
        RootFs::Overlay(overlay) => &overlay.upper,
        RootFs::Directory(path) => path,
    };
    let stubs = stubs::remove(changed, &command.made);
    outcome?;
    let status = signals.explain(ended.map_err(setup("wait for the command"))?);
    if !command.started {
        return Err(RunError::Died { status: format!("{status:?}").to_lowercase() });
    }
    Ok(RunReport { status, stubs })
}

fn setup(action: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::Setup { action: action.to_owned(), source }
}

/// A started command; killed and waited for when dropped.
struct Running {
    pid: Pid,
    pidfd: OwnedFd,
    step: Channel,
    /// Where calls that make devices are received.
    listener: Option<OwnedFd>,
    /// What it writes, where that is captured.
    captured: Option<Captured>,
    made: Vec<Made>,
    started: bool,
    ended: Option<ExitStatus>,
}

impl Running {
    fn start(spec: &RunSpec, streams: &Streams<'_>) -> Result<Self, RunError> {
        let errno = |action| move |errno: Errno| setup(action)(errno.into());
        let captured = match streams {
            Streams::Captured(_) => Some(Captured::pipes().map_err(errno("create a pipe"))?),
            _ => None,
        };
        let (step, inner_step) = Channel::pair().map_err(setup("create a socket"))?;
        let null = open_null().map_err(setup("open `/dev/null`"))?;
        let mut namespaces =
            CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
        if spec.network == Network::None {
            namespaces |= CloneFlags::CLONE_NEWNET;
        }
        let argv = [CString::new(init::STEP).map_err(|error| setup("name the step")(error.into()))?];
        let (captured, inner) = match captured {
            Some((captured, inner)) => (Some(captured), Some(inner)),
            None => (None, None),
        };
        let [input, output, errors]: [BorrowedFd<'_>; 3] = match (streams, &inner) {
            (Streams::Given { stdin, stdout, stderr }, _) => [*stdin, *stdout, *stderr],
            (_, Some([stdout, stderr])) => [null.as_fd(), stdout.as_fd(), stderr.as_fd()],
            _ => [null.as_fd(); 3],
        };
        let fds = [input, output, errors, inner_step.as_fd()];
        let pid = spawn_self(&argv, &[], &fds, namespaces.bits()).map_err(|source| match source.raw_os_error() {
            // The kernel's answer to the namespaces; anything else is about the program file.
            Some(nix::libc::EPERM | nix::libc::EUSERS | nix::libc::ENOSPC | nix::libc::EINVAL) => {
                setup("create the namespaces of the step")(source)
            }
            _ => RunError::Spawn(SpawnError::Exec { path: "/proc/self/exe", source }),
        })?;
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
                let _ = wait(pid);
                return Err(errno("watch the step")(error));
            }
        };
        Ok(Self { pid, pidfd, step, listener: None, captured, made: Vec::new(), started: false, ended: None })
    }

    /// Hands over output until the command has ended.
    fn follow(
        &mut self,
        spec: &RunSpec,
        cancel: &Cancel,
        signals: &Signals,
        streams: &mut Streams<'_>,
    ) -> Result<(), RunError> {
        let terminal: Option<TerminalSize> = match streams {
            Streams::Terminal { size, .. } => Some(*size),
            _ => None,
        };
        // A step that dies at once is told of below.
        let sent = self.step.send(&Order { spec, terminal });
        let mut buffer = vec![0; CHUNK];
        let mut step_open = true;
        let mut ready = VecDeque::new();
        let mut failed = None;
        loop {
            // A connection that has ended is watched no more: poll would report its end again and again.
            let step = if step_open { self.step.as_fd() } else { self.pidfd.as_fd() };
            let listener = self.listener.as_ref();
            let mut fds = [
                PollFd::from_borrowed_fd(
                    listener.unwrap_or(&self.pidfd).as_fd(),
                    if listener.is_some() { PollFlags::IN } else { PollFlags::empty() },
                ),
                PollFd::new(&self.pidfd, PollFlags::IN),
                PollFd::new(cancel, PollFlags::IN),
                PollFd::from_borrowed_fd(step, if step_open { PollFlags::IN } else { PollFlags::empty() }),
                match &self.captured {
                    Some(captured) => PollFd::new(&captured.epoll, PollFlags::IN),
                    None => PollFd::new(&self.pidfd, PollFlags::empty()),
                },
            ];
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            match poll(&mut fds, if ready.is_empty() { None } else { Some(&at_once) }) {
                Err(Errno::INTR) => continue,
                other => other.map(drop).map_err(|errno| setup("wait for output")(errno.into()))?,
            }
            let asked = fds[0].revents();
            let [_, ended, cancelled, step, _] = fds.map(|fd| !fd.revents().is_empty());
            if cancelled {
                return Err(RunError::Cancelled);
            }
            match &self.listener {
                Some(listener) if asked.contains(PollFlags::IN) && nodes::answer(listener.as_fd()) => {}
                // No process is left that could ask, or wants to.
                Some(_) if !asked.is_empty() => self.listener = None,
                _ => {}
            }
            if step && step_open {
                match self.step.recv::<Report>()? {
                    Some(Report::Made(made)) => self.made.push(made),
                    Some(Report::Listener) => {
                        let listener = self.step.recv_descriptor();
                        self.listener = Some(listener.map_err(setup("receive the listener of the seccomp profile"))?);
                    }
                    Some(Report::Terminal) => {
                        let master = self.step.recv_descriptor().map_err(setup("receive the terminal"))?;
                        if let Streams::Terminal { opened, .. } = streams {
                            opened(master);
                        }
                    }
                    Some(Report::Starting) => {
                        self.started = true;
                        signals.attach(&self.pidfd);
                    }
                    Some(Report::Failed(failure)) => failed = Some(failure.into_error(spec)),
                    None => step_open = false,
                }
            }
            if let (Some(captured), Streams::Captured(output)) = (&self.captured, &mut *streams) {
                captured.look(&mut ready).map_err(|errno| setup("wait for output")(errno.into()))?;
                // What is left after the end is at most a full pipe, even if someone outside, to whom the command has
                // passed its output, goes on writing.
                let reads = if ended { 2 * (MAX_PIPE / CHUNK + 1) } else { ready.len() };
                for _ in 0..reads {
                    let Some(stream) = ready.pop_front() else { break };
                    let fd = captured.of(stream);
                    if hand_over(stream, fd, &mut buffer, *output).map_err(setup("read output"))? {
                        ready.push_back(stream);
                    }
                }
            }
            if ended && !(step && step_open) {
                break;
            }
        }
        match failed {
            Some(error) => Err(error),
            None if self.started => Ok(()),
            None => sent.map_err(RunError::from),
        }
    }

    /// Kills what still runs and takes the status.
    fn end(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        // No effect on a process that has ended.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let status = wait(self.pid)?;
        self.ended = Some(status);
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// The two output streams, in the order in which they were written to: epoll(7) reports what became readable first.
struct Captured {
    stdout: OwnedFd,
    stderr: OwnedFd,
    epoll: OwnedFd,
}

impl Captured {
    /// Makes them, with the ends for the command: standard output and standard error.
    fn pipes() -> Result<(Self, [OwnedFd; 2]), Errno> {
        let (stdout, inner_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, inner_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (fd, stream) in [(&stdout, Stream::Stdout), (&stderr, Stream::Stderr)] {
            let flags = fcntl_getfl(fd)?;
            fcntl_setfl(fd, flags | OFlags::NONBLOCK)?;
            let data = epoll::EventData::new_u64(stream as u64);
            epoll::add(&epoll, fd, data, epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        }
        Ok((Self { stdout, stderr, epoll }, [inner_stdout, inner_stderr]))
    }

    fn of(&self, stream: Stream) -> &OwnedFd {
        match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        }
    }

    /// Takes note of what has become readable: what may have more to read, next first.
    fn look(&self, ready: &mut VecDeque<Stream>) -> Result<(), Errno> {
        let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 2];
        let count = match epoll::wait(&self.epoll, &mut events, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Err(Errno::INTR) => 0,
            other => other?,
        };
        for event in &events[..count] {
            let data = event.data.u64();
            let stream = if data == Stream::Stderr as u64 { Stream::Stderr } else { Stream::Stdout };
            if !ready.contains(&stream) {
                ready.push_back(stream);
            }
        }
        Ok(())
    }
}

/// Reads on where `length` bytes end within a line, and gives how many more came.
fn rest_of_line(fd: &OwnedFd, buffer: &mut [u8], length: usize) -> usize {
    let begun = Instant::now();
    let mut end = length;
    while end < buffer.len() && buffer[end - 1] != b'\n' {
        let Some(left) = REST_OF_LINE.checked_sub(begun.elapsed()) else { break };
        let wait = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
        if !matches!(poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&wait)), Ok(1)) {
            break;
        }
        match rustix::io::read(fd, &mut buffer[end..]) {
            Ok(more @ 1..) => end += more,
            // What it is shows the next read.
            _ => break,
        }
    }
    end - length
}

/// Hands over what is there; whether there may be more: a read that is cut short has emptied the pipe, and of what is
/// written after it epoll tells anew, in its order.
fn hand_over(stream: Stream, fd: &OwnedFd, buffer: &mut [u8], output: &mut dyn FnMut(Output<'_>)) -> io::Result<bool> {
    match rustix::io::read(fd, &mut *buffer) {
        Ok(0) | Err(Errno::AGAIN) => Ok(false),
        Ok(length) => {
            let time = SystemTime::now();
            let length = length + rest_of_line(fd, buffer, length);
            output(Output { stream, bytes: &buffer[..length], time });
            Ok(length == buffer.len())
        }
        Err(Errno::INTR) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}
