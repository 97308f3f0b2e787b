//! The caller's terminal.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rbuild_executor::TerminalSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// The size of the terminal, wherever one is.
pub(crate) fn size() -> Option<TerminalSize> {
    let size = |fd: BorrowedFd<'_>| tcgetwinsize(fd).ok();
    let found =
        size(io::stdout().as_fd()).or_else(|| size(io::stdin().as_fd())).or_else(|| size(io::stderr().as_fd()))?;
    Some(TerminalSize { rows: found.ws_row, columns: found.ws_col })
}

/// A terminal to type into and to show something on: standard input, or, where that has something else, the terminal of
/// the session.
pub(crate) fn for_shell(stdin_is_taken: bool) -> Option<OwnedFd> {
    if stdin_is_taken {
        let terminal = std::fs::OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
        return Some(terminal.into());
    }
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return None;
    }
    stdin.as_fd().try_clone_to_owned().ok()
}

/// The terminal passes on every key as it is; dropped, it is again what it was.
#[derive(Debug)]
pub(crate) struct RawMode {
    terminal: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Changes the mode of a terminal.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn enter(terminal: BorrowedFd<'_>) -> io::Result<RawMode> {
        let terminal = terminal.try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &raw)?;
        Ok(RawMode { terminal, before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(&self.terminal, OptionalActions::Drain, &self.before);
    }
}
