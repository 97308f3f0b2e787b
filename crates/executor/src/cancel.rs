//! Cancelling.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag, inside the worker, that ends transfers and running commands; every clone is the same.
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

    /// Nothing runs any more that a failed step was to end: what follows is only ended on somebody's wish.
    pub(crate) fn settle(&self) {
        self.flag.store(false, Ordering::SeqCst);
        if self.was_asked() {
            self.cancel();
        }
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

/// A stream that fails as soon as its flag is set.
pub(crate) struct Cancellable<'a, T> {
    pub(crate) inner: T,
    pub(crate) cancel: &'a AtomicBool,
}

impl<T> Cancellable<'_, T> {
    fn check(&self) -> io::Result<()> {
        if self.cancel.load(Ordering::SeqCst) { Err(io::Error::other("it was cancelled")) } else { Ok(()) }
    }
}

impl<R: Read> Read for Cancellable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        self.inner.read(buffer)
    }
}

impl<W: Write> Write for Cancellable<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.check()?;
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
