//! A command in an image: `docker run` in the foreground, whose container is gone when it ends.
//!
//! [`run`] finds the image, or fetches it, and starts a worker as a build does. There the image's layers are mounted
//! under an empty upper directory, in which all that the command changes is thrown away.

mod container;
mod control;
mod error;
mod host;
mod options;
mod portable;
mod process;
mod pump;
mod take;
mod worker;

pub(crate) use container::stopped;
pub use control::RunControl;
pub use error::RunError;
pub(crate) use host::Joined;
pub use host::run;
pub(crate) use host::{begin, died, find_image, lost};
pub use options::{Commit, PullPolicy, RunFact, RunMount, RunOptions, RunStreams};
pub(crate) use portable::{CONTEXT, DOCKERFILE, LABEL, Portable, StepResult, ask as ask_portable};
pub use rbuild_sandbox::TerminalSize;
pub use take::{Changes, Take, TakeOptions, take};
pub(crate) use worker::{ENTRY, Reply, Request};
