//! Cancelling, inside the worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that ends transfers and running commands; every clone is the same.
#[derive(Clone, Debug)]
pub(crate) struct Cancel {
    flag: Arc<AtomicBool>,
    /// It came from outside, and not from a step that failed.
    asked: Arc<AtomicBool>,
    commands: rbuild_sandbox::Cancel,
}

impl Cancel {
    pub(crate) fn new() -> std::io::Result<Cancel> {
        Ok(Cancel { flag: Arc::default(), asked: Arc::default(), commands: rbuild_sandbox::Cancel::new()? })
    }

    pub(crate) fn cancel(&self) {
        self.flag.store(true, Ordering::SeqCst);
        self.commands.cancel();
    }

    /// As [`Cancel::cancel`], on somebody's wish.
    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
        self.cancel();
    }

    pub(crate) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::SeqCst)
    }

    /// For the registry client.
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.flag
    }

    /// The same flag, for what outlives a borrow.
    pub(crate) fn shared_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }

    /// For running commands.
    pub(crate) fn commands(&self) -> &rbuild_sandbox::Cancel {
        &self.commands
    }
}
