//! What a caller asks for: which context, which Dockerfile, whose behaviour.

use std::fmt;
use std::io::Read;
use std::path::PathBuf;

use rbuild_logfmt::event::Dialect;

use crate::{ContextSource, DockerfileSource};

/// What to open as a build context.
pub struct ContextRequest {
    /// Where the context comes from.
    pub source: ContextSource,
    /// Where the Dockerfile comes from.
    pub dockerfile: DockerfileSource,
    /// What standard input is: a tar, plain or compressed, or a Dockerfile.
    pub input: Option<Box<dyn Read + Send>>,
    /// The directory that relative paths start from; absolute.
    pub working_dir: PathBuf,
    /// A directory of the caller's own, on a disk with room, made if it does not exist: a tar is unpacked into a new
    /// directory in it, which goes when the [`Context`](super::Context) is dropped.
    pub scratch_dir: PathBuf,
    /// Whose rules and words apply.
    pub dialect: Dialect,
}

impl fmt::Debug for ContextRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextRequest")
            .field("source", &self.source)
            .field("dockerfile", &self.dockerfile)
            .field("input", &self.input.is_some())
            .field("working_dir", &self.working_dir)
            .field("scratch_dir", &self.scratch_dir)
            .field("dialect", &self.dialect)
            .finish()
    }
}
