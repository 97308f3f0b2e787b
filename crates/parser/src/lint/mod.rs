//! Build checks: what BuildKit warns of in a Dockerfile that can be built (BuildKit
//! `frontend/dockerfile/linter` and its callers, 0.25).
//!
//! [`check`] finds what the text alone shows. What depends on the values of variables, on base
//! images or on the context is for the planner to notice; the rules for it are here, as functions
//! from what it knows to a [`Violation`].

mod config;
mod evaluated;
mod file;
mod rule;
mod violation;

pub use config::{Config, ConfigError};
pub use evaluated::{constant_platform, exposed_port, redundant_platform, secret, undefined_args, undefined_variables};
pub use file::check;
pub use rule::Rule;
pub use violation::Violation;

use crate::source::LineRange;

/// Something that a rule says of a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is said.
    pub violation: Violation,
    /// Of which lines.
    pub lines: LineRange,
}

impl Finding {
    /// The rule that says it.
    #[must_use]
    pub fn rule(&self) -> Rule {
        self.violation.rule()
    }
}
