//! Signal masks and dispositions.

#![allow(unsafe_code)]

use nix::{
    libc,
    sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask},
};
use std::io;

/// Restores the mask of the thread when dropped.
pub(crate) struct Blocked(SigSet);

impl Drop for Blocked {
    fn drop(&mut self) {
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.0), None);
    }
}

/// Blocks every signal for this thread.
pub(crate) fn block_all() -> io::Result<Blocked> {
    let mut old = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut old))?;
    Ok(Blocked(old))
}

/// What a program expects at its start: every signal at its default and none blocked.
pub(crate) fn reset() {
    // Numbers, since real-time signals have no names here; SIGKILL and SIGSTOP refuse, which is right.
    for number in 1..=64 {
        // SAFETY: SIG_DFL is no handler, so that no code can run in a signal context.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// Ignores the signals that a terminal or a supervisor sends to a whole group: the parent decides.
pub(crate) fn ignore_group_signals() {
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGPIPE] {
        // SAFETY: SIG_IGN is no handler, so that no code can run in a signal context.
        let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) };
    }
}
