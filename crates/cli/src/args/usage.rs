//! What Docker's clients say when the number of arguments is wrong.
//!
//! Recorded from Docker 28.5.2 with buildx 0.29 and Docker 20.10.24; the exit code is 1 in each.

use rbuild_executor::logfmt::event::{Builder, Dialect, Version};

use super::ArgsError;

/// How many arguments a command takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arity {
    /// None.
    None,
    /// So many, exactly.
    Exactly(usize),
    /// At least so many.
    AtLeast(usize),
    /// At most so many.
    AtMost(usize),
}

impl Arity {
    fn allows(self, count: usize) -> bool {
        match self {
            Arity::None => count == 0,
            Arity::Exactly(n) => count == n,
            Arity::AtLeast(n) => count >= n,
            Arity::AtMost(n) => count <= n,
        }
    }

    fn requires(self) -> String {
        let plural = |n: usize| if n == 1 { "argument" } else { "arguments" };
        match self {
            Arity::None => "accepts no arguments".to_owned(),
            Arity::Exactly(n) => format!("requires {n} {}", plural(n)),
            Arity::AtLeast(n) => format!("requires at least {n} {}", plural(n)),
            Arity::AtMost(n) => format!("requires at most {n} {}", plural(n)),
        }
    }
}

/// What Docker 28 says before anything else when its legacy builder is used.
const DEPRECATED: &str = "DEPRECATED: The legacy builder is deprecated and will be removed in a future release.
            BuildKit is currently disabled; enable it by removing the DOCKER_BUILDKIT=0
            environment-variable.

";

/// Checks that a build has one context; the error is what Docker's client of this dialect prints.
pub(crate) fn check_build_arity(count: usize, dialect: Dialect) -> Result<(), ArgsError> {
    if count == 1 {
        return Ok(());
    }
    let text = match (dialect.version, dialect.builder) {
        (Version::V28, Builder::Legacy) => format!(
            "{DEPRECATED}docker: 'docker build' requires 1 argument\n\nUsage:  docker build [OPTIONS] PATH | URL | -\n\nRun \
             'docker build --help' for more information\n"
        ),
        (Version::V28, Builder::Buildkit) => "ERROR: docker: 'docker buildx build' requires 1 argument\n\nUsage:  docker \
                                              buildx build [OPTIONS] PATH | URL | -\n\nRun 'docker buildx build --help' for \
                                              more information\n"
            .to_owned(),
        (Version::V20, _) => "\"docker build\" requires exactly 1 argument.\nSee 'docker build --help'.\n\nUsage:  docker \
                              build [OPTIONS] PATH | URL | -\n\nBuild an image from a Dockerfile\n"
            .to_owned(),
    };
    Err(ArgsError::Arity { text })
}

/// Checks the number of arguments of another command.
pub(crate) fn check_command_arity(command: &str, usage: &str, arity: Arity, count: usize) -> Result<(), ArgsError> {
    if arity.allows(count) {
        return Ok(());
    }
    let requires = arity.requires();
    Err(ArgsError::Arity {
        text: format!(
            "rbuild: 'rbuild {command}' {requires}\n\nUsage:  rbuild {command} {usage}\n\nRun 'rbuild {command} --help' for \
             more information\n"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(result: Result<(), ArgsError>) -> String {
        match result {
            Err(ArgsError::Arity { text }) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn as_recorded() {
        let say = |version, builder| text(check_build_arity(0, Dialect { builder, version }));
        assert_eq!(
            say(Version::V28, Builder::Buildkit),
            "ERROR: docker: 'docker buildx build' requires 1 argument\n\n\
             Usage:  docker buildx build [OPTIONS] PATH | URL | -\n\n\
             Run 'docker buildx build --help' for more information\n"
        );
        assert_eq!(
            say(Version::V28, Builder::Legacy),
            "DEPRECATED: The legacy builder is deprecated and will be removed in a future release.\n\
             \u{20}           BuildKit is currently disabled; enable it by removing the DOCKER_BUILDKIT=0\n\
             \u{20}           environment-variable.\n\n\
             docker: 'docker build' requires 1 argument\n\n\
             Usage:  docker build [OPTIONS] PATH | URL | -\n\n\
             Run 'docker build --help' for more information\n"
        );
        for builder in [Builder::Legacy, Builder::Buildkit] {
            assert_eq!(
                say(Version::V20, builder),
                "\"docker build\" requires exactly 1 argument.\nSee 'docker build --help'.\n\n\
                 Usage:  docker build [OPTIONS] PATH | URL | -\n\nBuild an image from a Dockerfile\n"
            );
        }
        assert!(check_build_arity(1, Dialect { builder: Builder::Legacy, version: Version::V20 }).is_ok());
    }

    #[test]
    fn other_commands() {
        assert_eq!(
            text(check_command_arity("rmi", "[OPTIONS] IMAGE [IMAGE...]", Arity::AtLeast(1), 0)),
            "rbuild: 'rbuild rmi' requires at least 1 argument\n\nUsage:  rbuild rmi [OPTIONS] IMAGE [IMAGE...]\n\n\
             Run 'rbuild rmi --help' for more information\n"
        );
        assert!(text(check_command_arity("tag", "A B", Arity::Exactly(2), 1)).contains("requires 2 arguments"));
        assert!(
            text(check_command_arity("images", "A", Arity::AtMost(1), 2)).contains("requires at most 1 argument\n")
        );
        assert!(text(check_command_arity("load", "", Arity::None, 2)).contains("accepts no arguments"));
        assert!(check_command_arity("images", "A", Arity::AtMost(1), 0).is_ok());
    }
}
