//! Names of log formats.

use std::fmt;

/// How a build is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// The log of Docker's legacy builder: `docker`.
    Legacy,
    /// BuildKit's plain log: `buildkit`, and BuildKit's own name for it, `plain`.
    Buildkit,
    /// A live view for a terminal: `tty`.
    Tty,
    /// BuildKit's status messages as JSON lines: `rawjson`.
    RawJson,
    /// rbuild's own events as JSON lines: `events`.
    Events,
    /// Nothing but errors, as BuildKit's `quiet`.
    Quiet,
}

/// A name that is no log format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown log format `{name}` (known: docker, buildkit, tty, rawjson, events, plain, quiet, auto)")]
pub struct UnknownFormat {
    /// What was given.
    pub name: String,
}

impl Format {
    /// Every name that [`Format::from_name`] takes.
    pub const NAMES: [&'static str; 8] = ["docker", "buildkit", "tty", "rawjson", "events", "plain", "quiet", "auto"];

    /// Reads a name. `auto` is the live view if `terminal` says that standard error is one, else BuildKit's plain log.
    ///
    /// # Errors
    /// If the name is none of [`Format::NAMES`].
    pub fn from_name(name: &str, terminal: bool) -> Result<Self, UnknownFormat> {
        Ok(match name {
            "docker" => Self::Legacy,
            "buildkit" | "plain" => Self::Buildkit,
            "tty" => Self::Tty,
            "rawjson" => Self::RawJson,
            "events" => Self::Events,
            "quiet" => Self::Quiet,
            "auto" if terminal => Self::Tty,
            "auto" => Self::Buildkit,
            _ => {
                return Err(UnknownFormat { name: name.to_owned() });
            }
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "docker",
            Self::Buildkit => "buildkit",
            Self::Tty => "tty",
            Self::RawJson => "rawjson",
            Self::Events => "events",
            Self::Quiet => "quiet",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_and_others_are_refused() {
        for name in Format::NAMES {
            assert!(Format::from_name(name, false).is_ok(), "{name}");
        }
        assert_eq!(Format::from_name("auto", true), Ok(Format::Tty));
        assert_eq!(Format::from_name("auto", false), Ok(Format::Buildkit));
        assert_eq!(Format::from_name("Docker", false), Err(UnknownFormat { name: "Docker".into() }));
        for format in [Format::Legacy, Format::Buildkit, Format::Tty, Format::RawJson, Format::Events, Format::Quiet] {
            assert_eq!(Format::from_name(&format.to_string(), false), Ok(format));
        }
    }
}
