//! Contexts whose files were fetched: BuildKit takes them as they are, without an ignore file.

use std::path::Path;

use rbuild_logfmt::event::Dialect;
use rbuild_sandbox::root::Ownership;

use super::open::{assemble, read_archived_dockerfile};
use super::tree::SourceTree;
use super::{Context, ContextError, Dockerfile, Ignore, Kind};
use crate::DockerfileSource;

pub(super) fn open_fetched(
    name: &str,
    directory: &Path,
    dockerfile: &DockerfileSource,
    dialect: Dialect,
) -> Result<Context, ContextError> {
    let tree = SourceTree::open(directory, Ownership::Real)?;
    let (dockerfile, removed) = read_archived_dockerfile(dockerfile, dialect, &tree)?;
    let ignore = Ignore::default();
    Ok(assemble(dialect, tree, None, Kind::Fetched, dockerfile, ignore, removed, name, String::new()))
}

pub(super) fn open_fetched_named(name: &str, directory: &Path, dialect: Dialect) -> Result<Context, ContextError> {
    let tree = SourceTree::open(directory, Ownership::Real)?;
    let (dockerfile, ignore) = (Dockerfile::default(), Ignore::default());
    Ok(assemble(dialect, tree, None, Kind::Fetched, dockerfile, ignore, Vec::new(), name, String::new()))
}
