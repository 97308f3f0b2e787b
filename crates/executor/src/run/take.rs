//! Files of an image, taken out: as an archive, or into a directory of the caller's.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rbuild_image::layer::LayerWriter;
use rbuild_image::store::Store;
use rbuild_sandbox::root::{Ownership, Root};
use rbuild_sandbox::{Facts, Privilege};
use serde::{Deserialize, Serialize};

use super::container::stopped;
use super::control::RunControl;
use super::error::RunError;
use super::host::{begin, died, lost};
use super::worker::{ENTRY, Reply, Request};
use crate::cancel::{Cancel, Cancellable};
use crate::emit::Emitter;
use crate::kept;
use crate::manage::{self, ManageError};
use crate::options::{BuildOptions, ContextSource, Destination, Isolation, StoreOptions};
use crate::record::ChangedFile;
use crate::rootfs::{self, CopyOptions, DiffOptions, LayerXattrs, RootfsError, Source};
use crate::session::Session;
use crate::snapshot::View;
use crate::stop::Stop;
use crate::whole_file::WholeFile;
use crate::worker::{sandbox_isolation, worker_options};

/// What is taken out of which image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeOptions {
    /// Where images and layers are kept.
    pub store: StoreOptions,
    /// Name, id or beginning of the id of the image.
    pub image: String,
    /// How the process is confined that reads the image.
    pub isolation: Isolation,
    /// What is taken.
    pub take: Take,
}

/// What is taken out of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Take {
    /// The whole file system, as a tar (`docker export`).
    Root(Destination),
    /// The content of a file, on standard output; links are followed, within the image.
    Content {
        /// Its path in the image.
        path: String,
    },
    /// What the topmost layer changes, and nothing else: see [`Changes`].
    Changes,
    /// A file or directory, as a tar on standard output (`docker cp IMAGE:PATH -`).
    Archive {
        /// Its path in the image; one that ends in `/.` stands for what is in the directory.
        path: String,
        /// Follow a symbolic link there.
        follow: bool,
    },
    /// A file or directory, into a directory of the caller's or under a new name (`docker cp IMAGE:PATH DEST`).
    Copy {
        /// Its path in the image; one that ends in `/.` stands for what is in the directory.
        path: String,
        /// Follow a symbolic link there.
        follow: bool,
        /// Where to.
        to: PathBuf,
        /// Keep owners, which only root can; else all belongs to the caller.
        keep_owners: bool,
    },
}

/// What a layer changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// The files, in the order of the layer.
    pub files: Vec<ChangedFile>,
    /// How many more there are.
    pub further: u64,
}

/// Takes files out of an image of the store. No link in the image leads out of it, or out of the destination.
///
/// Gives something only for [`Take::Changes`].
///
/// # Errors
/// Where the image or the file is not there, or the destination cannot be written.
pub fn take(options: TakeOptions, control: &RunControl) -> Result<Option<Changes>, RunError> {
    let mut options = options;
    let store = Store::open(&options.store.root).map_err(ManageError::from)?;
    options.image = manage::resolve(&store, &options.image)?.to_string();
    drop(store);
    if let Take::Root(Destination::File(path)) | Take::Copy { to: path, .. } = &mut options.take {
        // The name may end in a slash, which says something.
        let slash = path.as_os_str().as_bytes().ends_with(b"/");
        *path = std::path::absolute(&*path).map_err(|error| cannot("find", path, &error))?;
        if slash {
            path.push("");
        }
    }
    let mut spawn = worker_options(&options.store, ENTRY.0);
    spawn.isolation = sandbox_isolation(options.isolation);
    spawn.fds = vec![std::io::stdout().as_fd().try_clone_to_owned().map_err(|error| lost(&error))?];
    spawn.stderr = std::io::stderr().as_fd().try_clone_to_owned().ok();
    let store = options.store.clone();
    let mut worker = begin(spawn, &Request::Take(Box::new(options)), control)?;
    let mut changes = None;
    let answer = loop {
        match worker.recv::<Reply>().map_err(|error| lost(&error))? {
            Some(Reply::End(end)) => break Some(end),
            Some(Reply::Changes(found)) => changes = Some(found),
            Some(_) => {}
            None => break None,
        }
    };
    let status = worker.wait();
    control.detach();
    match answer {
        Some(end) => end.map(|_| changes).map_err(RunError::from),
        None => Err(died(&store, status, control)),
    }
}

fn cannot(action: &str, path: &Path, error: &std::io::Error) -> RunError {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => RunError::Closed,
        _ => RunError::refused(format!("cannot {action} `{}`: {error}", path.display())),
    }
}

/// The worker's side.
pub(super) fn in_worker(
    options: &TakeOptions,
    facts: &Facts,
    cancel: &Cancel,
    output: Option<OwnedFd>,
) -> Result<Option<Changes>, RunError> {
    let build = BuildOptions::new(options.store.root.clone(), ContextSource::Stdin);
    let session = Session::open(&build, facts.clone(), cancel, Emitter::new(Box::new(drop)), None, output)
        .map_err(|(_, stop)| stopped(stop))?;
    let done = of_image(&session, options);
    session.close();
    if cancel.was_asked() { Err(RunError::Cancelled) } else { done }
}

fn of_image(session: &Session<'_>, options: &TakeOptions) -> Result<Option<Changes>, RunError> {
    let image = session.local_image(&options.image).map_err(stopped)?.ok_or_else(|| RunError::Refused {
        message: format!("the store does not have the layers of {}", options.image),
        hint: Some("`rbuild pull` fetches them".to_owned()),
    })?;
    let layers = image.diff_ids();
    if options.take == Take::Changes {
        let Some((layer, below)) = layers.split_last() else { return Ok(Some(Changes::default())) };
        session.unpacked(&layers).map_err(stopped)?;
        let (files, further) = kept::changes(session, below, layer).map_err(stopped)?;
        return Ok(Some(Changes { files, further }));
    }
    let view = View::open(session, &layers).map_err(stopped)?;
    let root = Root::open(view.path(), session.ownership()).map_err(|error| stopped(error.into()))?;
    let taken = match &options.take {
        Take::Changes => Ok(()),
        Take::Content { path } => content(session, &root, path),
        Take::Root(to) => write(session, to, &root, Path::new("/"), Path::new("")),
        Take::Archive { path, follow } => {
            let found = Found::look(&root, path, *follow)?;
            let name = if found.contents { PathBuf::from(".") } else { PathBuf::from(&found.name) };
            write(session, &Destination::Stdout, &root, &found.path, &name)
        }
        Take::Copy { path, follow, to, keep_owners } => {
            if *keep_owners && session.facts().privilege != Privilege::Root {
                return Err(RunError::Refused {
                    message: "only root can keep the owners of files".to_owned(),
                    hint: Some("leave out --archive, or write an archive with `-` as destination".to_owned()),
                });
            }
            let found = Found::look(&root, path, *follow)?;
            copy(session, &root, &found, to, *keep_owners)
        }
    };
    taken.map(|()| None)
}

/// Writes the content of a file.
fn content(session: &Session<'_>, root: &Root, path: &str) -> Result<(), RunError> {
    let refused = |why: &dyn std::fmt::Display| RunError::refused(format!("cannot read `{path}` in the image: {why}"));
    let found = root.stat(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => refused(&"no such file or directory"),
        _ => refused(&error),
    })?;
    if !found.is_file() {
        return Err(refused(&if found.is_dir() { "it is a directory" } else { "it is no regular file" }));
    }
    let mut file = root.open_file(path).map_err(|error| refused(&error))?;
    let output = session.take_output().ok_or_else(|| RunError::refused("there is no standard output"))?;
    let mut to = Cancellable { inner: File::from(output), cancel: session.cancel().flag() };
    std::io::copy(&mut file, &mut to).map(drop).map_err(|error| cannot("write", Path::new(path), &error))
}

/// Writes an archive.
fn write(session: &Session<'_>, to: &Destination, root: &Root, path: &Path, name: &Path) -> Result<(), RunError> {
    let cancel = session.cancel().flag();
    let to_stream = |stream: &mut dyn Write| -> Result<(), RunError> {
        let options = DiffOptions { xattrs: LayerXattrs::All, ..DiffOptions::default() };
        let mut writer = LayerWriter::new(BufWriter::with_capacity(256 << 10, Cancellable { inner: stream, cancel }));
        rootfs::archive(root, path, name, &mut writer, options).map_err(failed)?;
        let mut stream = writer.finish().map_err(|error| failed(error.into()))?;
        stream.flush().map_err(|error| cannot("write", Path::new("the archive"), &error))
    };
    match to {
        Destination::Stdout => {
            let output = session.take_output().ok_or_else(|| RunError::refused("there is no standard output"))?;
            to_stream(&mut File::from(output))
        }
        Destination::File(target) => {
            // As Docker's, for its owner alone: it may hold secrets.
            let whole = WholeFile::create(target, 0o600).map_err(|error| cannot("create", target, &error))?;
            to_stream(&mut whole.file())?;
            whole.publish().map_err(|error| cannot("write", target, &error))
        }
    }
}

/// An error of reading or writing; a reader that is gone is none of ours.
fn failed(error: RootfsError) -> RunError {
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) {
            return RunError::Closed;
        }
        cause = error.source();
    }
    stopped(Stop::own(&error))
}

/// What a path in an image means.
struct Found {
    /// Without links.
    path: PathBuf,
    /// The name that was asked for.
    name: OsString,
    is_dir: bool,
    /// What is in the directory is meant, and not the directory.
    contents: bool,
}

impl Found {
    fn look(root: &Root, asked: &str, follow: bool) -> Result<Found, RunError> {
        let contents = asked.ends_with("/.") || asked == ".";
        let as_dir = contents || asked.ends_with('/');
        let missing =
            |error: &dyn std::fmt::Display| RunError::refused(format!("cannot find `{asked}` in the image: {error}"));
        let path = if follow || as_dir { root.resolve(asked) } else { root.resolve_parent(asked) };
        let path = path.map_err(|error| missing(&error))?;
        let metadata = match path.as_os_str().is_empty() || path == Path::new("/") {
            true => root.stat("/"),
            false => root.lstat(&path),
        };
        let metadata = metadata.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => missing(&"no such file or directory"),
            _ => missing(&error),
        })?;
        if as_dir && !metadata.is_dir() {
            return Err(missing(&"it is not a directory"));
        }
        // The last part that names something; the root itself has no name.
        let name = Path::new(asked).file_name().map(OsString::from).or_else(|| path.file_name().map(OsString::from));
        let contents = contents || path.file_name().is_none();
        Ok(Found { name: name.unwrap_or_default(), path, is_dir: metadata.is_dir(), contents })
    }
}

/// Copies with the rules of `docker cp`.
fn copy(session: &Session<'_>, root: &Root, found: &Found, to: &Path, keep_owners: bool) -> Result<(), RunError> {
    let (dir, name) = destination(found, to)?;
    // Where there is one id, owners of the caller's own files are not recorded: they are what they are.
    let ownership = if keep_owners { session.ownership() } else { Ownership::Real };
    let dest = Root::open(&dir, ownership).map_err(|error| stopped(error.into()))?;
    if let Some(name) = &name {
        match dest.try_lstat(name).map_err(|error| stopped(error.into()))? {
            Some(there) if there.is_dir() && !found.is_dir => {
                return Err(RunError::refused(format!(
                    "cannot copy a file over the directory `{}`",
                    dir.join(name).display()
                )));
            }
            // Not followed: what is there is replaced, as by an archive that is unpacked.
            Some(there) if !there.is_dir() => dest.remove_file(name).map_err(|error| stopped(error.into()))?,
            _ => {}
        }
    }
    let options =
        CopyOptions { chown: (!keep_owners).then_some((0, 0)), follow: false, replace: true, ..CopyOptions::default() };
    let target = name.as_deref().map_or(Path::new("/"), Path::new);
    rootfs::copy(&Source::new(root), &found.path, &dest, target, options).map_err(failed)
}

/// The directory that gets something, and the name that it gets there; without one, the directory gets the contents.
fn destination(found: &Found, to: &Path) -> Result<(PathBuf, Option<OsString>), RunError> {
    let as_dir = to.as_os_str().as_bytes().ends_with(b"/");
    match std::fs::metadata(to) {
        Ok(there) if there.is_dir() => Ok((to.to_owned(), (!found.contents).then(|| found.name.clone()))),
        Ok(_) if found.is_dir => {
            Err(RunError::refused(format!("cannot copy a directory to the file `{}`", to.display())))
        }
        Ok(there) if !there.is_file() => {
            Err(RunError::refused(format!("`{}` is neither a file nor a directory", to.display())))
        }
        Ok(_) => {
            // A link of the caller's is one to be followed.
            let file = std::fs::canonicalize(to).map_err(|error| cannot("find", to, &error))?;
            Ok((file.parent().unwrap_or(Path::new("/")).to_owned(), file.file_name().map(OsString::from)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let (Some(above), Some(name)) = (to.parent(), to.file_name()) else {
                return Err(cannot("find", to, &error));
            };
            if as_dir && !found.is_dir {
                return Err(RunError::refused(format!("the directory `{}` does not exist", to.display())));
            }
            match std::fs::metadata(above) {
                Ok(there) if there.is_dir() => Ok((above.to_owned(), Some(name.to_owned()))),
                Ok(_) => Err(RunError::refused(format!("`{}` is not a directory", above.display()))),
                Err(error) => Err(cannot("find", above, &error)),
            }
        }
        Err(error) => Err(cannot("find", to, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_something_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("file"), "").unwrap();
        std::fs::create_dir(path("dir")).unwrap();
        std::os::unix::fs::symlink("dir/other", path("dangling")).unwrap();
        let found = |is_dir, contents| Found { path: "/x/n".into(), name: "n".into(), is_dir, contents };
        let (file, tree, contents) = (found(false, false), found(true, false), found(true, true));
        let goes = |what: &Found, to: &str| destination(what, &path(to)).ok();
        let into = |dir: &str, name: Option<&str>| Some((path(dir), name.map(OsString::from)));
        for what in [&file, &tree] {
            assert_eq!(goes(what, "dir"), into("dir", Some("n")));
            assert_eq!(goes(what, "dir/new"), into("dir", Some("new")));
            assert_eq!(goes(what, "none/new"), None);
            assert_eq!(goes(what, "file/new"), None);
        }
        assert_eq!(goes(&contents, "dir"), into("dir", None));
        assert_eq!(goes(&contents, "dir/new"), into("dir", Some("new")));
        let canonical = std::fs::canonicalize(dir.path()).unwrap();
        assert_eq!(goes(&file, "file"), Some((canonical, Some("file".into()))));
        assert_eq!(goes(&tree, "file"), None);
        assert_eq!(goes(&file, "dir/new/"), None);
        assert_eq!(goes(&tree, "dir/new/"), into("dir", Some("new")));
    }

    #[test]
    fn what_a_path_means() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/file"), "").unwrap();
        std::os::unix::fs::symlink("/a", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("/../../../a/file", dir.path().join("up")).unwrap();
        let root = Root::open(dir.path(), Ownership::Real).unwrap();
        let look = |path: &str, follow| {
            let found = Found::look(&root, path, follow).ok()?;
            let path = found.path.to_str().unwrap().trim_start_matches('/').to_owned();
            Some((path, found.name.into_string().unwrap(), found.is_dir, found.contents))
        };
        let is = |path: &str, name: &str, is_dir, contents| Some((path.to_owned(), name.to_owned(), is_dir, contents));
        assert_eq!(look("/a", false), is("a", "a", true, false));
        assert_eq!(look("a/", false), is("a", "a", true, false));
        assert_eq!(look("/a/.", false), is("a", "a", true, true));
        assert_eq!(look("/a/file", false), is("a/file", "file", false, false));
        assert_eq!(look("/link", false), is("link", "link", false, false));
        assert_eq!(look("/link", true), is("a", "link", true, false));
        assert_eq!(look("/link/", false), is("a", "link", true, false));
        assert_eq!(look("/up", true), is("a/file", "up", false, false));
        assert!(matches!(look("/", false), Some((path, _, true, true)) if path.is_empty()));
        for missing in ["/none", "/a/file/", "/a/file/."] {
            assert_eq!(look(missing, false), None, "{missing}");
        }
    }
}
