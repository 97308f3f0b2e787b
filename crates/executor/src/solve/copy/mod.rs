//! COPY and ADD.

pub(super) mod buildkit;
pub(super) mod legacy;
use std::io::Read;
use std::path::{Path, PathBuf};

use rbuild_image::compression::{self, Compression};
use rbuild_image::layer::LayerReader;
use rbuild_logfmt::event::Fact;
use rbuild_sandbox::root::{NewDirs, Root};

use crate::context::{Context, DAEMON_MOUNT};
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

/// Unpacks a file as an archive into a directory, if it is one.
pub(crate) fn try_unpack(
    session: &Session<'_>,
    source: &Source<'_>,
    path: &Path,
    dest: &Root,
    to: &Path,
    chown: Option<(u32, u32)>,
) -> Result<bool, RootfsError> {
    let Some(metadata) = source.lstat(&source.root.resolve(path)?)? else { return Ok(false) };
    if !metadata.is_file() {
        return Ok(false);
    }
    let failed = |source| RootfsError::Content { action: "read", path: path.to_path_buf(), source };
    let mut magic = Vec::new();
    let head = source.root.open_file(path)?;
    head.take(compression::MAGIC_LEN as u64).read_to_end(&mut magic).map_err(failed)?;
    if Compression::detect(&magic) == Compression::Xz && !session.unpacks_xz() {
        let text = format!(
            "ADD left `{}` packed, as Docker does where it has no `xz` program; `--unpack-xz` unpacks it",
            path.display()
        );
        session.emitter().emit(Fact::Note { text, shown: false });
        return Ok(false);
    }
    if !compression::is_archive(source.root.open_file(path)?) {
        return Ok(false);
    }
    let new = NewDirs { mode: 0o755, owner: chown.unwrap_or((0, 0)), time: None };
    dest.create_dir_all(to, new)?;
    let decoder = compression::decoder(source.root.open_file(path)?).map_err(failed)?;
    rootfs::unpack_archive(&mut LayerReader::new(decoder), dest, to, UnpackOptions { chown })?;
    Ok(true)
}

/// The first thing on the way to a path that is there and no directory, and, if that is not the path itself, what it
/// should have in it.
fn in_the_way(dest: &Root, to: &Path) -> Option<(PathBuf, Option<PathBuf>)> {
    let mut way: Vec<PathBuf> = to.ancestors().map(Path::to_path_buf).collect();
    way.reverse();
    let at = way.iter().position(|path| dest.stat(path).is_ok_and(|status| !status.is_dir()))?;
    let file = Path::new("/").join(dest.resolve(&way[at]).ok()?);
    let below = way.get(at + 1).and_then(|path| path.file_name()).map(|name| file.join(name));
    Some((file, below))
}

/// Docker's text of a copy that cannot be done, where it has one.
fn docker_text(error: &RootfsError) -> Option<String> {
    match error {
        RootfsError::FileOverDirectory { .. } => Some(error.to_string()),
        RootfsError::DirectoryOverFile { path } => {
            Some(format!("cannot copy to non-directory: {DAEMON_MOUNT}/{}", path.display()))
        }
        RootfsError::Root(root) if root.kind() == std::io::ErrorKind::NotADirectory => {
            Some(format!("mkdir /{}: not a directory", root.path().display()))
        }
        _ => None,
    }
}
