//! Whose grammar is read.

use serde::{Deserialize, Serialize};

use crate::directive::detect_syntax;

/// The Docker whose rules and words are followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Version {
    /// Docker 20.10 (BuildKit 0.8).
    V20,
    /// Docker 28.5 (BuildKit 0.25).
    #[default]
    V28,
}

/// What a parse accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParseOptions {
    /// The grammar, and the wording of its errors.
    pub version: Version,
    /// Whether `<<EOF` starts a here-document in RUN, COPY and ADD. Docker 20.10 has none.
    pub heredocs: bool,
    /// Whether flags are known that Docker's built-in parser lacks and the front end images have:
    /// `COPY --parents` and `RUN --security`.
    pub labs: bool,
}

impl Default for ParseOptions {
    fn default() -> Self {
        Self::for_version(Version::default())
    }
}

impl ParseOptions {
    /// What the parser built into that Docker accepts.
    #[must_use]
    pub fn for_version(version: Version) -> Self {
        Self { version, heredocs: version >= Version::V28, labs: false }
    }

    /// What BuildKit of that Docker accepts for this file: a `syntax` directive replaces the
    /// built-in parser by a front end image. Of those, the `docker/dockerfile` images are honoured:
    /// they know what 28.5 knows, and more. The legacy builder ignores the directive.
    #[must_use]
    pub fn for_file(version: Version, dockerfile: &[u8]) -> Self {
        match detect_syntax(dockerfile) {
            Some(syntax) if syntax.is_docker_frontend() => Self { version: Version::V28, heredocs: true, labs: true },
            _ => Self::for_version(version),
        }
    }
}
