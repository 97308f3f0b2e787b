//! Ends a running command from elsewhere.

use rustix::{
    event::{EventfdFlags, eventfd},
    fd::{AsFd, BorrowedFd, OwnedFd},
};
use std::{io, sync::Arc};

/// Ends running commands from any thread; every clone is the same handle.
#[derive(Debug, Clone)]
pub struct Cancel {
    event: Arc<OwnedFd>,
}

impl Cancel {
    /// A handle that has cancelled nothing yet.
    ///
    /// # Errors
    /// The kernel's, where no event descriptor can be had.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event: Arc::new(event) })
    }

    /// Kills the commands that run with this handle, and lets none begin from now on.
    pub fn cancel(&self) {
        // The counter is never read, so that it stays readable; that it is full would mean the same.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }
}

impl AsFd for Cancel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
