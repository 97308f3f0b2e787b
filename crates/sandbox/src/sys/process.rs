//! Forks, waits and credentials.

#![allow(unsafe_code)]

use crate::run::ExitStatus;
use nix::unistd::ForkResult;
use rustix::{
    io::Errno,
    process::{Pid, WaitId, WaitIdOptions, waitid},
};
use std::io;

/// Which side of a fork this is.
pub(crate) enum Fork {
    /// The new process.
    Child,
    /// The old one.
    Parent(Pid),
}

/// Copies this process, which must have one thread.
pub(crate) fn fork() -> io::Result<Fork> {
    // SAFETY: called only in a process that was just executed and has started no thread, so that no lock of another
    // thread can be held in the child.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => Ok(Fork::Child),
        ForkResult::Parent { child } => {
            Pid::from_raw(child.as_raw()).map(Fork::Parent).ok_or_else(|| io::Error::from(Errno::SRCH))
        }
    }
}

/// Makes a call of prctl(2) that the emulated kernel alone has, without arguments; its answer, if there was one.
pub(crate) fn ask(option: u32) -> Option<u32> {
    // SAFETY: an option without arguments reads and writes no memory.
    let answer = unsafe { nix::libc::prctl(option as i32, 0, 0, 0, 0) };
    u32::try_from(answer).ok()
}

/// Waits for a child and takes its status.
pub(crate) fn wait(pid: Pid) -> io::Result<ExitStatus> {
    loop {
        match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED) {
            Ok(Some(status)) => {
                if let Some(signal) = status.terminating_signal() {
                    return Ok(ExitStatus::Signal(signal));
                }
                return Ok(ExitStatus::Code(status.exit_status().unwrap_or(255)));
            }
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
