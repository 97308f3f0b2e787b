//! The rbuild library: builds container images from Dockerfiles without a daemon, root or privileges.
//!
//! [`build`] takes [`BuildOptions`] and hands over events as they happen; a renderer of [`logfmt`] makes a log of them.
//! The work is done in a process of its own, for which [`init`] must be called first in `main`. The library prints
//! nothing, has no global state, and never ends the process of its caller.
#![forbid(unsafe_code)]

mod base;
mod build;
mod cancel;
pub mod container;
pub mod context;
mod download;
mod emit;
mod error;
mod exec;
mod export;
mod git;
mod interactive;
mod journal;
mod kept;
mod key;
pub mod manage;
mod mode;
mod options;
mod plan;
mod processor;
mod pull_failure;
mod record;
mod remote;
mod removal;
pub mod rootfs;
mod run;
mod session;
mod snapshot;
mod solve;
mod stop;
mod whole_file;
mod worker;

pub use error::{BuildError, FailedBuild};
pub use export::tag_error;
pub use git::{FoundDockerfiles, RepositoryOptions, find_dockerfiles};
pub use interactive::{
    Breakpoint, BreakpointError, ByHand, ExpectedStep, Interaction, ShellEnd, ShellReason, ShellTerminal, StepShell,
};
pub use journal::{StepRecord, StepState, StepStatus};
pub use options::*;
pub use rbuild_logfmt as logfmt;
pub use record::{BuildRecord, BuildStatus, ChangedFile, FailureReport, FileChange};
pub use run::{
    Changes, Commit, PullPolicy, RunControl, RunError, RunFact, RunMount, RunOptions, RunStreams, Take, TakeOptions,
    TerminalSize, run, take,
};
pub use worker::{Cancel, Observer, build, check, init};
