//! What Docker's clients say of command lines that they do not understand.
//!
//! Recorded from Docker 28.5.2 with buildx 0.29 and Docker 20.10.24.

use crate::event::{Builder, Dialect, Version};

/// The exit code of a wrong flag; a wrong number of arguments is 1.
pub const WRONG_FLAG: u8 = 125;

/// What the 28.5 client says before every build without BuildKit.
pub(crate) const DEPRECATED: &str = "\
DEPRECATED: The legacy builder is deprecated and will be removed in a future release.
            BuildKit is currently disabled; enable it by removing the DOCKER_BUILDKIT=0
            environment-variable.

";

/// All that the client of a dialect prints to standard error for a build with a wrong flag, given its first line.
#[must_use]
pub fn usage_error(message: &str, dialect: Dialect) -> String {
    let notice = match (dialect.version, dialect.builder) {
        (Version::V28, Builder::Legacy) => DEPRECATED,
        _ => "",
    };
    format!("{notice}{}\n", hint(message, dialect))
}

/// The message and where help is to be had, without the last line feed.
pub(crate) fn hint(message: &str, dialect: Dialect) -> String {
    let command = match (dialect.version, dialect.builder) {
        (Version::V20, _) => return format!("{message}\nSee 'docker build --help'."),
        (Version::V28, Builder::Legacy) => "docker build",
        (Version::V28, Builder::Buildkit) => "docker buildx build",
    };
    format!("{message}\n\nUsage:  {command} [OPTIONS] PATH | URL | -\n\nRun '{command} --help' for more information")
}
