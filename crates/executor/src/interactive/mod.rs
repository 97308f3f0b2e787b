//! Shells in a build that runs: in a RUN that failed, and before steps that somebody wants to look at.

mod breakpoints;
mod hand;
mod shells;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rbuild_logfmt::event::{Lines, StepId};
use rbuild_sandbox::TerminalSize;
use serde::{Deserialize, Serialize};

pub use breakpoints::{Breakpoint, BreakpointError};
pub use hand::{ByHand, ExpectedStep};

use crate::run::RunControl;

pub(crate) use breakpoints::{Breakpoints, Place};
pub(crate) use hand::{Hand, Hands, by_hand_key};
pub(crate) use shells::{ShellLink, Shells};

/// Where a build stops for a shell. Nothing stops it where nobody answers [`Observer::shell`](crate::Observer::shell).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interaction {
    /// In a RUN that failed.
    pub on_error: bool,
    /// The shell; by default that of the command, or `/bin/sh`.
    pub shell: Option<String>,
    /// A statically linked busybox of this machine, for images that have no shell.
    pub busybox: Option<PathBuf>,
    /// Before these steps.
    pub breakpoints: Vec<Breakpoint>,
}

/// Why a build stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShellReason {
    /// The command of the step failed. Where the shell ends with 0, what it left becomes the step's layer, and the build
    /// goes on; otherwise the build fails as it would have.
    Failed {
        /// With this code.
        exit_code: i32,
    },
    /// It has come to a breakpoint. Where the shell ends with 0 the step begins, otherwise the build ends; what the shell
    /// changed is thrown away.
    Breakpoint,
}

/// A shell that a build offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepShell {
    /// Why.
    pub reason: ShellReason,
    /// In which step, of those that the events declare.
    pub step: StepId,
    /// Where that stands in the Dockerfile.
    pub lines: Option<Lines>,
    /// What is run.
    pub shell: String,
}

/// The terminal for a shell.
#[derive(Debug)]
pub struct ShellTerminal {
    /// What is typed; a terminal must be in raw mode by now.
    pub input: OwnedFd,
    /// Where goes what is shown.
    pub output: OwnedFd,
    /// Its size at the start.
    pub size: TerminalSize,
    /// By which the caller changes the size.
    pub control: RunControl,
}

/// How a shell ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShellEnd {
    /// With this exit code, 128 and more for a signal.
    Ended {
        /// The code.
        exit_code: i32,
    },
    /// It did not begin.
    NotStarted {
        /// Why.
        message: String,
        /// What to do about it, if anything is known.
        hint: Option<String>,
    },
}
