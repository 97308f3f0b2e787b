//! Starts a command and follows it to its end.

use super::{
    Cancel, ExitStatus, Network, Output, RootFs, RunError, RunReport, RunSpec, Stream, identity, stubs,
    wire::{Made, Report},
};
use crate::{
    channel::Channel,
    init::{self, Known},
    sys::{process::wait, spawn::spawn_self},
    worker::{SpawnError, open_null},
};
use nix::sched::CloneFlags;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd, OwnedFd},
    fs::{OFlags, fcntl_getfl, fcntl_setfl, fstat},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::{
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
    if let Known::NotInitialised = init::knows(None) {
        return Err(SpawnError::NotInitialised.into());
    }
    identity::check(spec)?;
    let mut command = Running::start(spec)?;
    let outcome = command.follow(spec, cancel, output);
    // All processes are dead, so that what they left can be looked at.
    let ended = command.end();
    let changed = match &spec.root {
        RootFs::Overlay(overlay) => &overlay.upper,
        RootFs::Directory(path) => path,
    };
    let stubs = stubs::remove(changed, &command.made);
    outcome?;
    let status = ended.map_err(setup("wait for the command"))?;
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
    stdout: OwnedFd,
    stderr: OwnedFd,
    made: Vec<Made>,
    started: bool,
    ended: Option<ExitStatus>,
}

impl Running {
    fn start(spec: &RunSpec) -> Result<Self, RunError> {
        let errno = |action| move |errno: Errno| setup(action)(errno.into());
        let (stdout, inner_stdout) = pipe_with(PipeFlags::CLOEXEC).map_err(errno("create a pipe"))?;
        let (stderr, inner_stderr) = pipe_with(PipeFlags::CLOEXEC).map_err(errno("create a pipe"))?;
        for end in [&stdout, &stderr] {
            let flags = fcntl_getfl(end).map_err(errno("set up a pipe"))?;
            fcntl_setfl(end, flags | OFlags::NONBLOCK).map_err(errno("set up a pipe"))?;
        }
        let (step, inner_step) = Channel::pair().map_err(setup("create a socket"))?;
        let null = open_null().map_err(setup("open `/dev/null`"))?;
        let mut namespaces =
            CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
        if spec.network == Network::None {
            namespaces |= CloneFlags::CLONE_NEWNET;
        }
        let argv = [CString::new(init::STEP).map_err(|error| setup("name the step")(error.into()))?];
        let fds = [null.as_fd(), inner_stdout.as_fd(), inner_stderr.as_fd(), inner_step.as_fd()];
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
        Ok(Self { pid, pidfd, step, stdout, stderr, made: Vec::new(), started: false, ended: None })
    }

    /// Hands over output until the command has ended.
    fn follow(&mut self, spec: &RunSpec, cancel: &Cancel, output: &mut dyn FnMut(Output<'_>)) -> Result<(), RunError> {
        // A step that dies at once is told of below.
        let sent = self.step.send(spec);
        let mut buffer = vec![0; CHUNK];
        let (mut step_open, mut stdout_open, mut stderr_open) = (true, true, true);
        let mut failed = None;
        loop {
            // A stream that has ended is watched no more: poll would report its end again and again.
            let watched = |open: bool| {
                if open { PollFlags::IN } else { PollFlags::empty() }
            };
            let mut fds = [
                PollFd::new(&self.pidfd, PollFlags::IN),
                PollFd::new(cancel, PollFlags::IN),
                PollFd::from_borrowed_fd(
                    if step_open { self.step.as_fd() } else { self.pidfd.as_fd() },
                    watched(step_open),
                ),
                PollFd::new(if stdout_open { &self.stdout } else { &self.pidfd }, watched(stdout_open)),
                PollFd::new(if stderr_open { &self.stderr } else { &self.pidfd }, watched(stderr_open)),
            ];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                other => other.map(drop).map_err(|errno| setup("wait for output")(errno.into()))?,
            }
            let [ended, cancelled, step, stdout, stderr] = fds.map(|fd| !fd.revents().is_empty());
            if cancelled {
                return Err(RunError::Cancelled);
            }
            if step && step_open {
                match self.step.recv::<Report>()? {
                    Some(Report::Made(made)) => self.made.push(made),
                    Some(Report::Starting) => self.started = true,
                    Some(Report::Failed(failure)) => failed = Some(failure.into_error(spec)),
                    None => step_open = false,
                }
            }
            let mut order = [(Stream::Stdout, stdout && stdout_open), (Stream::Stderr, stderr && stderr_open)];
            if order[0].1 && order[1].1 && last_write(&self.stderr) < last_write(&self.stdout) {
                order.swap(0, 1);
            }
            for (stream, ready) in order {
                let (fd, open) = match stream {
                    Stream::Stdout => (&self.stdout, &mut stdout_open),
                    Stream::Stderr => (&self.stderr, &mut stderr_open),
                };
                if !ready {
                    continue;
                }
                // What is left after the end is at most a full pipe, even if someone outside, to whom the command
                // has passed its output, goes on writing.
                let reads = if ended { MAX_PIPE / CHUNK + 1 } else { 1 };
                for _ in 0..reads {
                    match hand_over(stream, fd, &mut buffer, output).map_err(setup("read output"))? {
                        Read::Some => {}
                        Read::Nothing => break,
                        Read::End => {
                            *open = false;
                            break;
                        }
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

/// When a pipe was last written: of two that hold data, what was written first comes first.
fn last_write(fd: &OwnedFd) -> (i64, i64) {
    fstat(fd).map_or((0, 0), |status| (status.st_mtime as _, status.st_mtime_nsec as _))
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

enum Read {
    Some,
    Nothing,
    End,
}

/// Hands over what is there.
fn hand_over(stream: Stream, fd: &OwnedFd, buffer: &mut [u8], output: &mut dyn FnMut(Output<'_>)) -> io::Result<Read> {
    match rustix::io::read(fd, &mut *buffer) {
        Ok(0) => Ok(Read::End),
        Ok(length) => {
            let time = SystemTime::now();
            let length = length + rest_of_line(fd, buffer, length);
            output(Output { stream, bytes: &buffer[..length], time });
            Ok(Read::Some)
        }
        Err(Errno::AGAIN | Errno::INTR) => Ok(Read::Nothing),
        Err(errno) => Err(errno.into()),
    }
}
