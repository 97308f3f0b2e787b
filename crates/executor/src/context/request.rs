//! What a caller asks for: which context, which Dockerfile, whose behaviour.

use std::fmt;
use std::io::Read;
use std::path::PathBuf;

use rbuild_logfmt::event::Dialect;

/// What to open as a build context, in the terms of Docker's command line.
pub struct ContextRequest {
    /// The positional argument: a directory, `-`, or a URL.
    pub context: PathBuf,
    /// The value of `-f`; `None` where it was not given.
    pub dockerfile: Option<PathBuf>,
    /// What `-` reads, as the context or as the Dockerfile. A tar may be plain or compressed.
    pub input: Option<Box<dyn Read + Send>>,
    /// The directory that relative paths start from.
    pub working_dir: PathBuf,
    /// A directory of the caller's own, on a disk with room: a tar is unpacked into a new directory below it, which
    /// goes when the [`Context`](super::Context) is dropped. Made if it does not exist.
    pub scratch_dir: PathBuf,
    /// Whose rules and words apply.
    pub dialect: Dialect,
}

impl fmt::Debug for ContextRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextRequest")
            .field("context", &self.context)
            .field("dockerfile", &self.dockerfile)
            .field("input", &self.input.is_some())
            .field("working_dir", &self.working_dir)
            .field("scratch_dir", &self.scratch_dir)
            .field("dialect", &self.dialect)
            .finish()
    }
}
