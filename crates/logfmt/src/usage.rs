//! What Docker's clients say of command lines that they do not understand.
//!
//! Recorded from Docker 28.5.2 with buildx 0.29 and Docker 20.10.24.

use std::fmt;

use crate::event::{Builder, Dialect, Version};
use crate::go_quote::quote;

/// The exit code of a wrong flag.
pub(crate) const WRONG_FLAG: u8 = 125;

/// The exit code of a wrong number of arguments.
const WRONG_COUNT: u8 = 1;

/// What the 28.5 client says before every build without BuildKit.
pub(crate) const DEPRECATED: &str = "\
DEPRECATED: The legacy builder is deprecated and will be removed in a future release.
            BuildKit is currently disabled; enable it by removing the DOCKER_BUILDKIT=0
            environment-variable.

";

/// A command line of a build that Docker's clients refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WrongUse {
    /// There is no such flag: as written, `--x` or `-x`.
    UnknownFlag(String),
    /// Nothing follows a flag that has a value: as written.
    NoValue(String),
    /// The value of a flag is refused.
    Value {
        /// The flag as help shows it, `-t, --tag`.
        flag: String,
        /// The value.
        value: String,
        /// Why.
        cause: WrongValue,
    },
    /// There is not one context.
    Arguments,
}

/// Why Docker's clients refuse the value of a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WrongValue {
    /// Neither true nor false.
    Boolean(String),
    /// No size.
    Size(String),
    /// Not `NAME=SOFT[:HARD]`.
    Ulimit(String),
    /// A limit the kernel does not have.
    UlimitName(String),
    /// The soft limit is above the hard one.
    UlimitOrder {
        /// Soft limit, -1 is unlimited.
        soft: i64,
        /// Hard limit.
        hard: i64,
    },
    /// Not `HOST:IP`.
    AddHost(String),
    /// The address of a host is none.
    Address(String),
    /// A label without a name.
    Label(String),
    /// A variable without a name.
    Variable(String),
    /// A name of an image is none, for Docker's reason.
    Reference(String),
    /// A named context without a name.
    Context(String),
    /// A named context with a name that is none.
    ContextName {
        /// The name.
        name: String,
        /// Docker's reason.
        reason: String,
    },
}

impl WrongUse {
    /// All that the client of a dialect prints to standard error. `None` where it would not refuse this, or not yet.
    #[must_use]
    pub fn text(&self, dialect: Dialect) -> Option<String> {
        let notice = match (dialect.version, dialect.builder) {
            (Version::V28, Builder::Legacy) => DEPRECATED,
            _ => "",
        };
        let usage = match (self, dialect.version) {
            (WrongUse::Arguments, Version::V20) => {
                "\nUsage:  docker build [OPTIONS] PATH | URL | -\n\nBuild an image from a Dockerfile\n"
            }
            _ => "",
        };
        Some(format!("{notice}{}\n{usage}", self.hint(dialect)?))
    }

    /// The exit code of that client.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            WrongUse::Value { cause, .. } if cause.is_about_context() => WRONG_COUNT,
            WrongUse::Arguments => WRONG_COUNT,
            _ => WRONG_FLAG,
        }
    }

    /// What is wrong and where help is to be had, without the last line feed.
    pub(crate) fn hint(&self, dialect: Dialect) -> Option<String> {
        let message = self.message(dialect)?;
        if matches!(self, WrongUse::Value { cause, .. } if cause.is_about_context()) {
            return Some(message);
        }
        let command = match (dialect.version, dialect.builder) {
            (Version::V20, _) => return Some(format!("{message}\nSee 'docker build --help'.")),
            (Version::V28, Builder::Legacy) => "docker build",
            (Version::V28, Builder::Buildkit) => "docker buildx build",
        };
        Some(format!(
            "{message}\n\nUsage:  {command} [OPTIONS] PATH | URL | -\n\nRun '{command} --help' for more information"
        ))
    }

    /// What is wrong.
    fn message(&self, dialect: Dialect) -> Option<String> {
        let short = |written: &str| written.strip_prefix('-').filter(|rest| !rest.starts_with('-')).map(str::to_owned);
        Some(match self {
            WrongUse::UnknownFlag(written) => match short(written) {
                Some(short) => format!("unknown shorthand flag: '{short}' in {written}"),
                None => format!("unknown flag: {written}"),
            },
            WrongUse::NoValue(written) => match short(written) {
                Some(short) => format!("flag needs an argument: '{short}' in {written}"),
                None => format!("flag needs an argument: {written}"),
            },
            WrongUse::Value { cause, .. } if is_buildx(dialect) && cause.is_seen_late() => return None,
            // None of the other clients knows the flag.
            WrongUse::Value { cause, .. } if cause.is_about_context() => {
                return is_buildx(dialect).then(|| format!("ERROR: {cause}"));
            }
            WrongUse::Value { flag, value, cause } => {
                format!("invalid argument {} for {} flag: {cause}", quote(value), quote(flag))
            }
            WrongUse::Arguments => match (dialect.version, dialect.builder) {
                (Version::V28, Builder::Legacy) => format!("docker: 'docker build' {}", Arity::Exactly(1)),
                (Version::V28, Builder::Buildkit) => {
                    format!("ERROR: docker: 'docker buildx build' {}", Arity::Exactly(1))
                }
                (Version::V20, _) => "\"docker build\" requires exactly 1 argument.".to_owned(),
            },
        })
    }
}

impl WrongValue {
    /// Whether it is an error of buildx itself, and not of its command line.
    fn is_about_context(&self) -> bool {
        matches!(self, WrongValue::Context(_) | WrongValue::ContextName { .. })
    }

    /// Whether buildx looks at such a value after the command line, and says other things of it.
    fn is_seen_late(&self) -> bool {
        match self {
            WrongValue::Boolean(_)
            | WrongValue::Size(_)
            | WrongValue::Ulimit(_)
            | WrongValue::UlimitName(_)
            | WrongValue::UlimitOrder { .. }
            | WrongValue::Context(_)
            | WrongValue::ContextName { .. } => false,
            WrongValue::AddHost(_)
            | WrongValue::Address(_)
            | WrongValue::Label(_)
            | WrongValue::Variable(_)
            | WrongValue::Reference(_) => true,
        }
    }
}

/// Whether the client is buildx; that of 20.10 reads the flags of both builders alike.
pub(crate) fn is_buildx(dialect: Dialect) -> bool {
    dialect == Dialect { builder: Builder::Buildkit, version: Version::V28 }
}

impl fmt::Display for WrongValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WrongValue::Boolean(text) => write!(f, "strconv.ParseBool: parsing {}: invalid syntax", quote(text)),
            WrongValue::Size(text) => write!(f, "invalid size: '{text}'"),
            WrongValue::Ulimit(text) => write!(f, "invalid ulimit argument: {text}"),
            WrongValue::UlimitName(name) => write!(f, "invalid ulimit type: {name}"),
            WrongValue::UlimitOrder { soft, hard } => {
                write!(f, "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
            }
            WrongValue::AddHost(text) => write!(f, "bad format for add-host: {}", quote(text)),
            WrongValue::Address(address) => write!(f, "invalid IP address in add-host: {}", quote(address)),
            WrongValue::Label(text) => write!(f, "invalid label '{text}': empty name"),
            WrongValue::Variable(text) => write!(f, "invalid environment variable: {text}"),
            WrongValue::Reference(reason) => f.write_str(reason),
            WrongValue::ContextName { name, reason } => write!(f, "invalid context name {name}: {reason}"),
            WrongValue::Context(text) => write!(f, "invalid context value: {text}, expected key=value"),
        }
    }
}

/// How many arguments a command takes; it shows as Docker 28 says that there are more or fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
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
    /// Whether so many are right.
    #[must_use]
    pub fn allows(self, count: usize) -> bool {
        match self {
            Arity::None => count == 0,
            Arity::Exactly(n) => count == n,
            Arity::AtLeast(n) => count >= n,
            Arity::AtMost(n) => count <= n,
        }
    }
}

impl fmt::Display for Arity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arguments = |n: usize| if n == 1 { "argument" } else { "arguments" };
        match *self {
            Arity::None => f.write_str("accepts no arguments"),
            Arity::Exactly(n) => write!(f, "requires {n} {}", arguments(n)),
            Arity::AtLeast(n) => write!(f, "requires at least {n} {}", arguments(n)),
            Arity::AtMost(n) => write!(f, "requires at most {n} {}", arguments(n)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEGACY: Builder = Builder::Legacy;
    const BUILDKIT: Builder = Builder::Buildkit;

    fn say(wrong: &WrongUse, builder: Builder, version: Version) -> String {
        wrong.text(Dialect { builder, version }).unwrap()
    }

    #[test]
    fn arguments_as_recorded() {
        assert_eq!(WrongUse::Arguments.code(), 1);
        assert_eq!(
            say(&WrongUse::Arguments, BUILDKIT, Version::V28),
            "ERROR: docker: 'docker buildx build' requires 1 argument\n\n\
             Usage:  docker buildx build [OPTIONS] PATH | URL | -\n\n\
             Run 'docker buildx build --help' for more information\n"
        );
        assert_eq!(
            say(&WrongUse::Arguments, LEGACY, Version::V28),
            "DEPRECATED: The legacy builder is deprecated and will be removed in a future release.\n\
             \u{20}           BuildKit is currently disabled; enable it by removing the DOCKER_BUILDKIT=0\n\
             \u{20}           environment-variable.\n\n\
             docker: 'docker build' requires 1 argument\n\n\
             Usage:  docker build [OPTIONS] PATH | URL | -\n\n\
             Run 'docker build --help' for more information\n"
        );
        for builder in [LEGACY, BUILDKIT] {
            assert_eq!(
                say(&WrongUse::Arguments, builder, Version::V20),
                "\"docker build\" requires exactly 1 argument.\nSee 'docker build --help'.\n\n\
                 Usage:  docker build [OPTIONS] PATH | URL | -\n\nBuild an image from a Dockerfile\n"
            );
        }
    }

    #[test]
    fn flags_as_recorded() {
        let unknown = WrongUse::UnknownFlag("--nosuch".into());
        assert_eq!(unknown.code(), 125);
        assert_eq!(
            say(&unknown, BUILDKIT, Version::V28),
            "unknown flag: --nosuch\n\nUsage:  docker buildx build [OPTIONS] PATH | URL | -\n\n\
             Run 'docker buildx build --help' for more information\n"
        );
        assert_eq!(
            say(&WrongUse::UnknownFlag("-z".into()), LEGACY, Version::V20),
            "unknown shorthand flag: 'z' in -z\nSee 'docker build --help'.\n"
        );
        assert!(
            say(&WrongUse::NoValue("-t".into()), LEGACY, Version::V28)
                .starts_with("DEPRECATED: The legacy builder is deprecated")
        );
    }

    #[test]
    fn values_as_recorded() {
        let first = |flag: &str, value: &str, cause, builder, version| {
            let wrong = WrongUse::Value { flag: flag.into(), value: value.into(), cause };
            let text = wrong.text(Dialect { builder, version })?;
            text.lines().next().map(str::to_owned)
        };
        assert_eq!(
            first("--shm-size", "x", WrongValue::Size("x".into()), LEGACY, Version::V20).unwrap(),
            "invalid argument \"x\" for \"--shm-size\" flag: invalid size: 'x'"
        );
        assert_eq!(
            first("--rm", "x", WrongValue::Boolean("x".into()), LEGACY, Version::V20).unwrap(),
            "invalid argument \"x\" for \"--rm\" flag: strconv.ParseBool: parsing \"x\": invalid syntax"
        );
        let add_host = |version| first("--add-host", "x", WrongValue::AddHost("x".into()), BUILDKIT, version);
        assert_eq!(add_host(Version::V28), None);
        assert_eq!(
            add_host(Version::V20).unwrap(),
            "invalid argument \"x\" for \"--add-host\" flag: bad format for add-host: \"x\""
        );
    }

    #[test]
    fn values_are_quoted_as_go_does() {
        let bell = "\u{7}\u{e9}".to_owned();
        let wrong = WrongUse::Value { flag: "--rm".into(), value: bell.clone(), cause: WrongValue::Boolean(bell) };
        assert_eq!(
            say(&wrong, LEGACY, Version::V20),
            "invalid argument \"\\a\u{e9}\" for \"--rm\" flag: strconv.ParseBool: parsing \"\\a\u{e9}\": invalid syntax\n\
             See 'docker build --help'.\n"
        );
    }

    #[test]
    fn numbers_of_arguments() {
        assert!(Arity::AtMost(1).allows(0) && !Arity::AtMost(1).allows(2));
        assert!(Arity::AtLeast(1).allows(2) && !Arity::AtLeast(1).allows(0));
        assert!(Arity::None.allows(0) && !Arity::Exactly(2).allows(1));
        assert_eq!(Arity::Exactly(2).to_string(), "requires 2 arguments");
        assert_eq!(Arity::AtMost(1).to_string(), "requires at most 1 argument");
        assert_eq!(Arity::None.to_string(), "accepts no arguments");
    }
}
