//! What each intercepted system call means.

use super::{Kernel, task::Task};
use rustix::{fd::OwnedFd, io::Errno};
use std::sync::Arc;

pub(crate) mod table;

/// An intercepted call.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Number in the table of the architecture.
    pub(crate) number: i64,
    pub(crate) args: [u64; 6],
    pub(crate) task: Arc<Task>,
}

/// What the process gets.
pub(crate) enum Answer {
    /// This result.
    Return(i64),
    /// This error.
    Error(Errno),
    /// A new descriptor.
    Descriptor { fd: OwnedFd, close_on_exec: bool },
    /// The call is made as it is; only where it is harmless whatever its arguments are, or become.
    Native,
    /// The answer needs time (open of a FIFO): found in a thread of its own.
    Later(Box<dyn FnOnce() -> Answer + Send>),
}

/// Answers a call that came as a notification.
pub(crate) fn answer(_kernel: &Kernel, _call: &Call) -> Answer {
    todo!()
}
