//! Signal masks and dispositions.

#![allow(unsafe_code)]

use nix::{
    libc,
    sys::{
        pthread::{Pthread, pthread_kill, pthread_self},
        signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, sigaction},
    },
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

/// By which a thread is woken from a call that blocks.
const WAKE: Signal = Signal::SIGUSR2;

extern "C" fn nothing(_: libc::c_int) {}

/// Lets threads of this process be woken ([`Blocking`]): for good.
pub(crate) fn allow_waking() -> io::Result<()> {
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(WAKE, &action) }.map(drop).map_err(io::Error::from)
}

/// A thread that may be in a call that blocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blocking(Pthread);

impl Blocking {
    /// This thread.
    pub(crate) fn this() -> Self {
        Self(pthread_self())
    }

    /// Has its call, if it is in one, end with EINTR. The thread must not have ended.
    pub(crate) fn wake(self) {
        let _ = pthread_kill(self.0, WAKE);
    }
}
