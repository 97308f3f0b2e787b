//! Signals for a running command from elsewhere.

use super::ExitStatus;
use crate::status::TaskStatus;
use rustix::{
    fd::{AsFd, AsRawFd, OwnedFd},
    process::{Signal, pidfd_send_signal},
};
use std::sync::{Arc, Mutex, PoisonError};

/// Those that end a program that does nothing about them, of those that a user or a supervisor sends.
const ENDING: &[Signal] =
    &[Signal::HUP, Signal::INT, Signal::QUIT, Signal::USR1, Signal::USR2, Signal::ALARM, Signal::TERM];

/// Sends signals to a running command from any thread; every clone is the same handle. To be used for one command.
#[derive(Debug, Clone, Default)]
pub struct Signals(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The command, as long as it runs.
    command: Option<OwnedFd>,
    /// Those for a command that is being started.
    waiting: Option<Vec<i32>>,
    /// The signal in whose place it was killed.
    ended_by: Option<i32>,
}

impl Signals {
    /// A handle for a command that has not started yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends a signal to the command; whether there is one that runs or is being started.
    ///
    /// A signal whose default action is to end a program has that action: the kernel itself keeps it from PID 1 of a pid
    /// namespace, which the command is and does not expect to be.
    pub fn send(&self, signal: i32) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).send(signal)
    }

    /// A command is going to be started.
    pub(super) fn expect(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).waiting = Some(Vec::new());
    }

    /// It runs.
    pub(super) fn attach(&self, command: &OwnedFd) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.command = rustix::io::fcntl_dupfd_cloexec(command, 0).ok();
        for signal in state.waiting.take().unwrap_or_default() {
            state.send(signal);
        }
    }

    /// It has ended, or nothing came of it.
    pub(super) fn detach(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (state.command, state.waiting) = (None, None);
    }

    /// How a command ended, as a program would that is not PID 1.
    pub(super) fn explain(&self, status: ExitStatus) -> ExitStatus {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).ended_by {
            Some(signal) if status == ExitStatus::Signal(Signal::KILL.as_raw()) => ExitStatus::Signal(signal),
            _ => status,
        }
    }
}

impl State {
    fn send(&mut self, signal: i32) -> bool {
        let Some(command) = &self.command else {
            return match &mut self.waiting {
                Some(waiting) => {
                    waiting.push(signal);
                    true
                }
                None => false,
            };
        };
        let Some(signal) = Signal::from_named_raw(signal) else { return true };
        let unhandled = ENDING.contains(&signal) && is_unhandled(command, signal);
        let _ = pidfd_send_signal(command, signal);
        if unhandled {
            let _ = pidfd_send_signal(command, Signal::KILL);
            self.ended_by = Some(signal.as_raw());
        }
        true
    }
}

/// Whether a process neither handles a signal nor ignores or blocks it.
fn is_unhandled(process: &OwnedFd, signal: Signal) -> bool {
    let bit = 1u64 << (signal.as_raw() - 1);
    let status = id_of(process).and_then(TaskStatus::of);
    let has = |status: &TaskStatus, name| status.bits(name).is_none_or(|bits| bits & bit != 0);
    status.is_some_and(|status| ["SigCgt", "SigIgn", "SigBlk"].iter().all(|name| !has(&status, name)))
}

/// The id that a process has in `/proc`, which may be that of a pid namespace around this one.
fn id_of(process: &OwnedFd) -> Option<u32> {
    let path = format!("/proc/self/fdinfo/{}", process.as_fd().as_raw_fd());
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    #[test]
    fn what_a_process_does_not_handle() {
        let own = Pid::from_raw(std::process::id() as i32).unwrap();
        let own = pidfd_open(own, PidfdFlags::empty()).unwrap();
        assert_eq!(id_of(&own), Some(std::process::id()));
        // Rust's runtime ignores this one.
        assert!(!is_unhandled(&own, Signal::PIPE));
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "trap : TERM; echo; read x"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        assert!(!is_unhandled(&pidfd, Signal::TERM));
        assert!(is_unhandled(&pidfd, Signal::USR1));
        let signals = Signals::new();
        assert!(!signals.send(Signal::TERM.as_raw()), "there is no command yet");
        signals.expect();
        assert!(signals.send(Signal::USR1.as_raw()), "it is kept");
        signals.attach(&pidfd);
        signals.detach();
        assert!(!signals.send(Signal::TERM.as_raw()));
        assert!(!child.wait().unwrap().success());
        assert_eq!(signals.explain(ExitStatus::Signal(9)), ExitStatus::Signal(Signal::USR1.as_raw()));
        assert_eq!(signals.explain(ExitStatus::Code(3)), ExitStatus::Code(3));
    }
}
