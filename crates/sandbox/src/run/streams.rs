//! What the standard streams of a command are.

use super::Output;
use rustix::fd::{BorrowedFd, OwnedFd};
use serde::{Deserialize, Serialize};

/// What the standard streams of a command are.
pub enum Streams<'a> {
    /// Standard input is empty, and what the command writes is handed over.
    Captured(&'a mut dyn FnMut(Output<'_>)),
    /// Open files, given to the command as they are. A terminal does not belong among them: the command could push input
    /// into it.
    Given {
        /// Standard input.
        stdin: BorrowedFd<'a>,
        /// Standard output.
        stdout: BorrowedFd<'a>,
        /// Standard error.
        stderr: BorrowedFd<'a>,
    },
    /// All three are a new pseudo terminal, which is the controlling terminal of the command.
    Terminal {
        /// Its size at the start.
        size: TerminalSize,
        /// Is given the master side before the command starts.
        opened: &'a mut dyn FnMut(OwnedFd),
    },
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}
