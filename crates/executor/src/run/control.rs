//! A run from outside: signals, the size of its terminal, its end.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rbuild_sandbox::{Channel, Killer, TerminalSize};
use rustix::termios::{Winsize, tcsetwinsize};

use super::worker::Request;

/// How long a cancelled run may take to end by itself.
const GRACE: Duration = Duration::from_millis(1500);

/// Sends signals to a run, changes the size of its terminal or cancels it, from any thread; every clone is the same
/// handle. To be used for one run.
#[derive(Clone, Debug, Default)]
pub struct RunControl {
    state: Arc<Mutex<State>>,
    cancelled: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct State {
    worker: Option<(Channel, Killer)>,
    terminal: Option<OwnedFd>,
    /// The last size that was told.
    size: Option<TerminalSize>,
}

impl RunControl {
    /// A handle for a run that has not begun.
    #[must_use]
    pub fn new() -> RunControl {
        RunControl::default()
    }

    /// Sends a signal to the command. One that comes before the command has started cancels the run.
    pub fn signal(&self, signal: i32) {
        let state = self.state();
        match &state.worker {
            // A worker that is gone needs none.
            Some((channel, _)) => drop(channel.send(&Request::Signal(signal))),
            None => self.cancelled.store(true, Ordering::SeqCst),
        }
    }

    /// Gives the terminal of the command another size.
    pub fn resize(&self, size: TerminalSize) {
        let mut state = self.state();
        state.size = Some(size);
        state.apply_size();
    }

    /// Ends the run: the command is killed.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        let state = self.state();
        let Some((channel, killer)) = &state.worker else { return };
        if channel.send(&Request::Cancel).is_err() {
            killer.kill();
            return;
        }
        // What cannot be cancelled is killed; a worker that has ended by then is none any more.
        let killer = killer.clone();
        let kill = move || {
            std::thread::sleep(GRACE);
            killer.kill();
        };
        drop(std::thread::Builder::new().name("cancel".to_owned()).spawn(kill));
    }

    /// Whether it was cancelled, by [`RunControl::cancel`] or by a signal before the command started.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// For transfers.
    pub(super) fn flag(&self) -> &AtomicBool {
        &self.cancelled
    }

    /// From now on there is a worker; whether it is still wanted.
    pub(super) fn attach(&self, channel: Channel, killer: Killer) -> bool {
        self.state().worker = Some((channel, killer));
        !self.is_cancelled()
    }

    /// From now on there is a terminal.
    pub(super) fn attach_terminal(&self, terminal: OwnedFd) {
        let mut state = self.state();
        state.terminal = Some(terminal);
        state.apply_size();
    }

    pub(crate) fn detach(&self) {
        let mut state = self.state();
        (state.worker, state.terminal) = (None, None);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn apply_size(&self) {
        if let (Some(terminal), Some(size)) = (&self.terminal, self.size) {
            let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
            // One that is gone has no size.
            let _ = tcsetwinsize(terminal, size);
        }
    }
}
