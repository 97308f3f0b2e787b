//! The process that does one build.

use crate::{
    channel::{Channel, ChannelError},
    isolation::{Facts, Isolation},
    run::ExitStatus,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{ffi::OsString, io, os::fd::OwnedFd, sync::Arc};

/// How a worker is started.
#[derive(Debug)]
pub struct WorkerOptions {
    /// The name of its entry among those given to [`init`](crate::init()).
    pub entry: String,
    /// How it is confined.
    pub isolation: Isolation,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Open files for it, in this order: [`WorkerChannel::take_fd`].
    pub fds: Vec<OwnedFd>,
    /// Its standard error, for panics and diagnostics; `/dev/null` where there is none.
    pub stderr: Option<OwnedFd>,
    /// Do without subordinate ids even where there are some.
    pub one_id: bool,
}

impl WorkerOptions {
    /// The entry `entry` under [`Isolation::Auto`], with an empty environment.
    pub fn new(entry: impl Into<String>) -> Self {
        Self {
            entry: entry.into(),
            isolation: Isolation::Auto,
            env: Vec::new(),
            fds: Vec::new(),
            stderr: None,
            one_id: false,
        }
    }
}

/// Why no worker could be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// [`init`](crate::init()) was not called first in `main`.
    #[error("the program did not call the sandbox's `init` first in `main`")]
    NotInitialised,
    /// No such entry was given to [`init`](crate::init()).
    #[error("the program has no worker entry `{0}`")]
    UnknownEntry(String),
    /// The program cannot be started again.
    #[error("cannot start `{path}` again")]
    Exec {
        /// `/proc/self/exe`.
        path: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The kind of isolation asked for does not exist here.
    #[error("isolation `{isolation}` is not available: {reason}")]
    Unavailable {
        /// Which.
        isolation: Isolation,
        /// Why.
        reason: String,
    },
    /// A namespace could not be made or entered.
    #[error("cannot {action}")]
    Namespace {
        /// What was tried.
        action: String,
        /// The cause.
        source: io::Error,
    },
    /// Sockets, pipes or processes could not be made.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The worker said nothing intelligible while it was set up.
    #[error("lost the worker while it was set up")]
    Channel(#[from] ChannelError),
    /// The worker died while it was set up.
    #[error("the worker died while it was set up")]
    Died,
}

/// A running worker. Dropping it kills the worker and all that it started.
#[derive(Debug)]
pub struct Worker {
    facts: Facts,
    channel: Channel,
}

impl Worker {
    /// Starts this program again as a worker.
    ///
    /// # Errors
    /// Where the program did not prepare for it, or no namespace can be had: the error says which step failed.
    pub fn spawn(options: WorkerOptions) -> Result<Self, SpawnError> {
        let _ = options;
        Err(SpawnError::NotInitialised)
    }

    /// What was found when it was set up.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The connection to it.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Sends it a message.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub fn send<T: Serialize>(&self, message: &T) -> Result<(), ChannelError> {
        self.channel.send(message)
    }

    /// Waits for a message from it; `None` where it ended.
    ///
    /// # Errors
    /// As [`Channel::recv`].
    pub fn recv<T: DeserializeOwned>(&self) -> Result<Option<T>, ChannelError> {
        self.channel.recv()
    }

    /// A handle that kills it from another thread.
    pub fn killer(&self) -> Killer {
        Killer {
            control: Arc::new(OwnedControl),
        }
    }

    /// Kills it and all that it started, and waits until nothing of it is left.
    ///
    /// # Errors
    /// The kernel's, where it cannot be waited for.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.wait()
    }

    /// Waits for its end, after which nothing that it started is left.
    ///
    /// # Errors
    /// The kernel's, where it cannot be waited for.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }
}

#[derive(Debug)]
struct OwnedControl;

/// Kills a worker from any thread.
#[derive(Debug, Clone)]
pub struct Killer {
    control: Arc<OwnedControl>,
}

impl Killer {
    /// Kills the worker and all that it started; [`Worker::wait`] then returns.
    pub fn kill(&self) {
        let _ = &self.control;
    }
}

/// The worker's end of the connection, and what it was given.
#[derive(Debug)]
pub struct WorkerChannel {
    channel: Channel,
    facts: Facts,
    fds: Vec<Option<OwnedFd>>,
}

impl WorkerChannel {
    /// Sends a message to the process that spawned this one.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub fn send<T: Serialize>(&self, message: &T) -> Result<(), ChannelError> {
        self.channel.send(message)
    }

    /// Waits for a message; `None` where the other end closed the channel.
    ///
    /// # Errors
    /// As [`Channel::recv`].
    pub fn recv<T: DeserializeOwned>(&self) -> Result<Option<T>, ChannelError> {
        self.channel.recv()
    }

    /// The connection itself.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// How this worker is confined.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The open file number `index` of [`WorkerOptions::fds`]; `None` where there is none or it was taken.
    pub fn take_fd(&mut self, index: usize) -> Option<OwnedFd> {
        self.fds.get_mut(index)?.take()
    }
}
