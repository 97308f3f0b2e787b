//! What Docker's clients say when the number of arguments is wrong.
//!
//! Recorded from Docker 28.5.2 with buildx 0.29 and Docker 20.10.24; the exit code is 1 in each.

use rbuild_executor::logfmt::event::{Builder, Dialect, Version};
use rbuild_logfmt::{WRONG_FLAG, usage_error};

use super::ArgsError;
use super::values::ValueError;

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

/// Checks that a build has one context; the error is what Docker's client of this dialect prints.
pub(crate) fn check_build_arity(count: usize, dialect: Dialect) -> Result<(), ArgsError> {
    if count == 1 {
        return Ok(());
    }
    let message = match (dialect.version, dialect.builder) {
        (Version::V28, Builder::Legacy) => "docker: 'docker build' requires 1 argument",
        (Version::V28, Builder::Buildkit) => "ERROR: docker: 'docker buildx build' requires 1 argument",
        (Version::V20, _) => "\"docker build\" requires exactly 1 argument.",
    };
    let mut text = usage_error(message, dialect);
    if dialect.version == Version::V20 {
        text.push_str("\nUsage:  docker build [OPTIONS] PATH | URL | -\n\nBuild an image from a Dockerfile\n");
    }
    Err(ArgsError::Usage { text, code: 1 })
}

/// A wrong flag, as far as Docker's clients tell of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WrongFlag {
    /// There is no such flag: as written, `--x` or `-x`.
    Unknown(String),
    /// Nothing follows it: as written.
    NoValue(String),
    /// Its value is refused.
    Value {
        /// The flag as help shows it, `-t, --tag`.
        flag: String,
        /// The value.
        value: String,
        /// Why.
        cause: ValueError,
    },
}

impl WrongFlag {
    /// The first line of what Docker's clients say; nothing where they would not refuse it, or not yet.
    fn message(&self, builder: Builder) -> Option<String> {
        let short = |written: &str| written.strip_prefix('-').filter(|rest| !rest.starts_with('-')).map(str::to_owned);
        Some(match self {
            WrongFlag::Unknown(written) => match short(written) {
                Some(short) => format!("unknown shorthand flag: '{short}' in {written}"),
                None => format!("unknown flag: {written}"),
            },
            WrongFlag::NoValue(written) => match short(written) {
                Some(short) => format!("flag needs an argument: '{short}' in {written}"),
                None => format!("flag needs an argument: {written}"),
            },
            WrongFlag::Value { flag, value, cause } => {
                let reason = cause.docker(flag, value, builder)?;
                format!("invalid argument {value:?} for {flag:?} flag: {reason}")
            }
        })
    }

    /// All that Docker's client prints in a dialect.
    pub(crate) fn as_docker(&self, dialect: Dialect) -> Option<ArgsError> {
        let text = usage_error(&self.message(dialect.builder)?, dialect);
        Some(ArgsError::Usage { text, code: WRONG_FLAG })
    }
}

/// Checks the number of arguments of another command.
pub(crate) fn check_command_arity(command: &str, usage: &str, arity: Arity, count: usize) -> Result<(), ArgsError> {
    if arity.allows(count) {
        return Ok(());
    }
    let requires = arity.requires();
    Err(ArgsError::Usage {
        code: 1,
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
            Err(ArgsError::Usage { text, .. }) => text,
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
    fn flags_as_recorded() {
        let say = |wrong: WrongFlag, builder, version| match wrong.as_docker(Dialect { builder, version }) {
            Some(ArgsError::Usage { text, code: 125 }) => text,
            other => panic!("{other:?}"),
        };
        let (legacy, buildkit) = (Builder::Legacy, Builder::Buildkit);
        assert_eq!(
            say(WrongFlag::Unknown("--nosuch".into()), buildkit, Version::V28),
            "unknown flag: --nosuch\n\nUsage:  docker buildx build [OPTIONS] PATH | URL | -\n\n\
             Run 'docker buildx build --help' for more information\n"
        );
        assert_eq!(
            say(WrongFlag::Unknown("-z".into()), legacy, Version::V20),
            "unknown shorthand flag: 'z' in -z\nSee 'docker build --help'.\n"
        );
        assert!(
            say(WrongFlag::NoValue("-t".into()), legacy, Version::V28)
                .starts_with("DEPRECATED: The legacy builder is deprecated")
        );
        let value = |flag: &str, value: &str, cause| WrongFlag::Value { flag: flag.into(), value: value.into(), cause };
        let first = |wrong: WrongFlag| wrong.message(legacy);
        let size = ValueError::Size("x".into());
        assert_eq!(
            first(value("--shm-size", "x", size)).unwrap(),
            "invalid argument \"x\" for \"--shm-size\" flag: invalid size: 'x'"
        );
        let boolean = ValueError::Boolean("x".into());
        assert_eq!(
            first(value("--rm", "x", boolean)).unwrap(),
            "invalid argument \"x\" for \"--rm\" flag: strconv.ParseBool: parsing \"x\": invalid syntax"
        );
        assert_eq!(value("--add-host", "x", ValueError::AddHost("x".into())).message(buildkit), None);
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
