//! COPY and ADD.

pub(super) mod buildkit;
pub(super) mod legacy;
use std::path::Path;

use rbuild_image::compression;
use rbuild_image::layer::LayerReader;
use rbuild_sandbox::root::Root;

use crate::context::Context;
use crate::rootfs::{self, RootfsError, Source, UnpackOptions};
use crate::session::Session;
use crate::snapshot::View;
use crate::stop::Stop;

/// A tree that files are copied from.
pub(crate) enum CopySourceTree<'a> {
    /// The build context, or a named directory.
    Context(&'a Context),
    /// A stage, an image or a directory of this build's own.
    Tree(Root),
}

impl<'a> CopySourceTree<'a> {
    /// A stage or an image.
    pub(super) fn view(session: &Session<'_>, view: &View) -> Result<CopySourceTree<'a>, Stop> {
        Self::directory(session, view.path())
    }

    /// A directory of this build's own.
    pub(super) fn directory(session: &Session<'_>, path: &Path) -> Result<CopySourceTree<'a>, Stop> {
        Ok(CopySourceTree::Tree(Root::open(path, session.ownership())?))
    }

    pub(super) fn source(&self) -> Source<'_> {
        match self {
            CopySourceTree::Context(context) => context.source(),
            CopySourceTree::Tree(root) => Source::new(root),
        }
    }
}

/// Unpacks a file as an archive into a directory, if it is one and the destination allows it.
fn try_unpack(
    source: &Source<'_>,
    path: &Path,
    dest: &Root,
    to: &Path,
    chown: Option<(u32, u32)>,
    parents: (u32, u32),
) -> Result<bool, RootfsError> {
    let Some(metadata) = source.lstat(&source.root.resolve(path)?)? else { return Ok(false) };
    if !metadata.is_file() || !compression::is_archive(source.root.open_file(path)?) {
        return Ok(false);
    }
    let new = rbuild_sandbox::root::NewDirs { mode: 0o755, owner: parents, time: None };
    dest.create_dir_all(to, new)?;
    let failed = |source| RootfsError::Content { action: "read", path: path.to_path_buf(), source };
    let decoder = compression::decoder(source.root.open_file(path)?).map_err(failed)?;
    rootfs::unpack_archive(&mut LayerReader::new(decoder), dest, to, UnpackOptions { chown })?;
    Ok(true)
}

/// Docker's text of a copy that cannot be done, where it has one.
fn docker_text(error: &RootfsError) -> Option<String> {
    match error {
        RootfsError::FileOverDirectory { .. } | RootfsError::DirectoryOverFile { .. } => Some(error.to_string()),
        RootfsError::Root(root) if root.kind() == std::io::ErrorKind::NotADirectory => {
            Some(format!("mkdir /{}: not a directory", root.path().display()))
        }
        _ => None,
    }
}
