//! Copying into a working container.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rbuild_image::digest::Digest;
use rbuild_image::store::NamedLock;
use rbuild_logfmt::download_problem;
use rbuild_logfmt::event::Failure;
use rbuild_parser::ignore::PatternMatcher;
use rbuild_sandbox::WorkerChannel;
use rbuild_sandbox::root::{Ownership, Root};
use serde::{Deserialize, Serialize};

use super::state::State;
use super::worker::open;
use crate::mode::ModeChange;
use crate::options::{RegistryAccess, StoreOptions};
use crate::plan::go;
use crate::plan::users::{self, ChownError};
use crate::rootfs::{self, CopyOptions, HashOptions, RootfsError, Shown, Source};
use crate::run::{RunError, stopped};
use crate::session::Session;
use crate::snapshot::{Change, View};
use crate::solve::copy::try_unpack;
use crate::stop::Stop;

/// What the worker is told.
#[derive(Serialize, Deserialize)]
pub(crate) struct CopyRequest {
    pub(super) store: StoreOptions,
    pub(super) registry: RegistryAccess,
    pub(super) container: String,
    pub(super) sources: Vec<String>,
    pub(super) dest: Option<String>,
    pub(super) from: From,
    pub(super) chown: Option<String>,
    pub(super) chmod: Option<String>,
    pub(super) add: bool,
}

/// Where the sources lie.
#[derive(Serialize, Deserialize)]
pub(super) enum From {
    /// In the caller's file system; they are absolute.
    Host,
    /// In a directory, but for what the patterns hide.
    Context { dir: PathBuf, ignore: Vec<String> },
    /// In an image of the store.
    Image(String),
    /// In another working container.
    Container(String),
}

/// Copies everything, and gives the digest of it.
pub(super) fn copy(session: &Session<'_>, request: &CopyRequest, channel: &WorkerChannel) -> Result<String, RunError> {
    let chmod = request.chmod.as_deref().map(|text| {
        ModeChange::parse(text).ok_or_else(|| RunError::refused(format!("`{text}` is no mode; write 755 or u+x")))
    });
    let chmod = chmod.transpose()?;
    let opened = Opened::new(session, request, channel)?;
    let tree = Tree::open(session, &request.from, opened.other.as_ref())?;
    let place = session.store().container_dir(&request.container);
    let change = Change::resume(session, &opened.state.layers, &[], &place).map_err(stopped)?;
    let items = tree.find(session, request)?;
    if items.is_empty() {
        return Err(RunError::refused("there is nothing to copy"));
    }
    let digest = tree.digest(&items)?;
    let mount = change.mount().map_err(stopped)?;
    let root = Root::open(mount.target(), session.ownership()).map_err(|error| stopped(error.into()))?;
    let target = Target {
        owner: request.chown.as_deref().map(|spec| owner(&root, spec)).transpose()?,
        root,
        path: destination(&opened.state, request.dest.as_deref(), items.len() > 1),
        chmod,
        unpack: request.add,
    };
    for item in &items {
        session.check().map_err(stopped)?;
        target.put(session, &tree, item)?;
    }
    drop(target);
    mount.unmount().map_err(|error| stopped(error.into()))?;
    change.discard(session);
    Ok(digest)
}

/// The containers that are used, locked.
struct Opened {
    state: State,
    /// The one that is copied from, with its name.
    other: Option<(String, State)>,
    _locks: Vec<NamedLock>,
}

impl Opened {
    /// Takes the locks in the order of the names, so that no two wait for each other.
    fn new(session: &Session<'_>, request: &CopyRequest, channel: &WorkerChannel) -> Result<Opened, RunError> {
        let From::Container(other) = &request.from else {
            let (lock, state) = open(session, &request.container, channel)?;
            return Ok(Opened { state, other: None, _locks: vec![lock] });
        };
        if *other == request.container {
            return Err(RunError::Refused {
                message: format!("the working container `{other}` cannot be copied into itself"),
                hint: Some(format!("copy in it: `rbuild run --container {other} cp …`")),
            });
        }
        let mut names = [other, &request.container];
        names.sort();
        let [(first_lock, first), (second_lock, second)] =
            [open(session, names[0], channel)?, open(session, names[1], channel)?];
        let (state, of_other) = if names[0] == other { (second, first) } else { (first, second) };
        Ok(Opened { state, other: Some((other.clone(), of_other)), _locks: vec![first_lock, second_lock] })
    }
}

/// What is copied from.
struct Tree {
    root: Root,
    /// Nobody but its user knows the owners of a directory of the host.
    of_host: bool,
    /// What is left out.
    ignore: Option<Box<rootfs::Filter<'static>>>,
    /// How errors call it.
    called: &'static str,
    // Unmounted after the root is closed.
    _view: Option<View>,
}

/// Something to be copied.
enum Item {
    /// A path of the tree.
    Path(PathBuf),
    /// A file from the web, under its name in a directory of its own.
    Fetched { root: Root, name: PathBuf, digest: String },
}

impl Tree {
    fn open(session: &Session<'_>, from: &From, other: Option<&(String, State)>) -> Result<Tree, RunError> {
        let of_host = |dir: &Path, ignore, called| {
            // Where there is one id, owners of the caller's own files are not recorded.
            let root = Root::open(dir, Ownership::Real).map_err(|error| stopped(error.into()))?;
            Ok(Tree { root, of_host: true, ignore, called, _view: None })
        };
        let of_view = |view: View, called| {
            let root = Root::open(view.path(), session.ownership()).map_err(|error| stopped(error.into()))?;
            Ok(Tree { root, of_host: false, ignore: None, called, _view: Some(view) })
        };
        match (from, other) {
            (From::Host, _) => of_host(Path::new("/"), None, ""),
            (From::Context { dir, ignore }, _) => of_host(dir, filter(ignore)?, " in the context directory"),
            (From::Image(id), _) => {
                let image = session.local_image(id).map_err(stopped)?;
                let image = image.ok_or_else(|| RunError::refused(format!("the image {id} is gone")))?;
                of_view(View::open(session, &image.diff_ids()).map_err(stopped)?, " in the image")
            }
            (From::Container(_), Some((name, state))) => {
                let place = session.store().container_dir(name);
                let change = Change::resume(session, &state.layers, &[], &place).map_err(stopped)?;
                of_view(change.look().map_err(stopped)?, " in the other container")
            }
            (From::Container(name), None) => Err(RunError::refused(format!("the container `{name}` is not locked"))),
        }
    }

    fn source(&self) -> Source<'_> {
        let filter = self.ignore.as_deref().map(|filter| filter as &rootfs::Filter<'_>);
        let owner = self.of_host.then_some((0, 0));
        Source { filter, owner, capabilities: !self.of_host, ..Source::new(&self.root) }
    }

    /// Everything that is named, in the order it is named in.
    fn find(&self, session: &Session<'_>, request: &CopyRequest) -> Result<Vec<Item>, RunError> {
        let mut found = Vec::new();
        for written in &request.sources {
            if is_url(written) {
                if !request.add {
                    return Err(RunError::Refused {
                        message: format!("`{written}` is no file"),
                        hint: Some("`rbuild add` fetches what an address names".to_owned()),
                    });
                }
                found.push(fetch(session, written, request.dest.as_deref())?);
                continue;
            }
            found.extend(self.matches(Path::new(written))?.into_iter().map(Item::Path));
        }
        Ok(found)
    }

    /// What a path means: itself if it is there, else what its wildcards match.
    fn matches(&self, written: &Path) -> Result<Vec<PathBuf>, RunError> {
        let source = self.source();
        let cannot = |why: &dyn std::fmt::Display| {
            RunError::refused(format!("cannot find `{}`{}: {why}", written.display(), self.called))
        };
        let there = source.root.resolve(written).map_err(RootfsError::from).and_then(|path| {
            let found = source.lstat(&path)?;
            // Of a directory that is hidden something may be seen, of a file nothing.
            Ok(found.filter(|found| found.is_dir() || source.shown(&path) == Shown::Yes))
        });
        match there {
            Ok(Some(found)) if !found.is_dir() && ends_in_slash(written) => {
                return Err(cannot(&"it is not a directory"));
            }
            Ok(Some(_)) => return Ok(vec![written.to_owned()]),
            Ok(None) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(cannot(&error)),
        }
        let matches = match rootfs::has_wildcards(written) {
            true => rootfs::buildkit_matches(&source, written).map_err(|error| stopped(Stop::own(&error)))?,
            false => Vec::new(),
        };
        if !matches.is_empty() {
            return Ok(matches);
        }
        let hidden = self.ignore.is_some() && self.root.stat(written).is_ok();
        Err(cannot(&if hidden { "the ignore file excludes it" } else { "no such file or directory" }))
    }

    /// The digest of what is copied: of its names, attributes and content.
    fn digest(&self, items: &[Item]) -> Result<String, RunError> {
        let paths: Vec<PathBuf> = items
            .iter()
            .filter_map(|item| match item {
                Item::Path(path) => Some(path.clone()),
                Item::Fetched { .. } => None,
            })
            .collect();
        let mut text = String::new();
        if !paths.is_empty() {
            let options = HashOptions { follow: true, contents: true, filter: None };
            let digest = rootfs::content_hash(&self.source(), &paths, options);
            let digest = digest.map_err(|error| stopped(Stop::own(&error)))?;
            text.extend(digest.iter().map(|byte| format!("{byte:02x}")));
        }
        for item in items {
            if let Item::Fetched { digest, .. } = item {
                text.push_str(digest.strip_prefix("sha256:").unwrap_or(digest));
            }
        }
        // One is its own.
        Ok(if text.len() == 64 { text } else { Digest::of(text.as_bytes()).hex().to_owned() })
    }
}

/// Where something is copied to, and how.
struct Target {
    root: Root,
    path: PathBuf,
    owner: Option<(u32, u32)>,
    chmod: Option<ModeChange>,
    /// Archives are unpacked.
    unpack: bool,
}

impl Target {
    fn put(&self, session: &Session<'_>, tree: &Tree, item: &Item) -> Result<(), RunError> {
        let (source, path) = match item {
            Item::Path(path) => (tree.source(), path.as_path()),
            Item::Fetched { root, name, .. } => (Source { owner: Some((0, 0)), ..Source::new(root) }, name.as_path()),
        };
        let mode = |bits: u32, is_dir: bool| self.chmod.as_ref().map_or(bits, |mode| mode.apply(bits, is_dir));
        let options = CopyOptions {
            chown: self.owner,
            chmod: self.chmod.is_some().then_some(&mode as &rootfs::ChangeMode<'_>),
            parents: (0o755, self.owner.unwrap_or((0, 0))),
            ..CopyOptions::default()
        };
        let unpacked = match (self.unpack, item) {
            (true, Item::Path(_)) => try_unpack(session, &source, path, &self.root, &self.path, self.owner),
            _ => Ok(false),
        };
        let copied = unpacked.and_then(|unpacked| match unpacked {
            true => Ok(()),
            false => rootfs::copy(&source, path, &self.root, &self.path, options),
        });
        copied.map_err(|error| {
            let what = || format!("cannot copy `{}` to `{}`", path.display(), self.path.display());
            stopped(session.check().err().unwrap_or_else(|| Stop::own(&error).while_doing(what)))
        })
    }
}

fn is_url(written: &str) -> bool {
    written.starts_with("http://") || written.starts_with("https://")
}

fn ends_in_slash(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

/// Fetches a file; its name is that in its address, or that of a destination that is no directory.
fn fetch(session: &Session<'_>, url: &str, dest: Option<&str>) -> Result<Item, RunError> {
    let file = session.download(url, None).map_err(|stop| fetch_failed(url, stop))?;
    let of_dest = dest.filter(|dest| !dest.ends_with('/')).and_then(|dest| Path::new(dest).file_name());
    let name = file.legacy_name().or_else(|| of_dest.and_then(OsStr::to_str).map(str::to_owned));
    let name = name.ok_or_else(|| RunError::Refused {
        message: format!("`{url}` names no file"),
        hint: Some("name the file as destination".to_owned()),
    })?;
    let named = file.named(session, &name).map_err(stopped)?;
    let root = Root::open(named.directory(), session.ownership()).map_err(|error| stopped(error.into()))?;
    Ok(Item::Fetched { root, name: PathBuf::from(named.name()), digest: file.digest().to_owned() })
}

fn fetch_failed(url: &str, stop: Stop) -> RunError {
    if let Stop::Failed(failed) = &stop
        && let Failure::Download { problem, .. } = &failed.failure
    {
        return RunError::refused(format!("cannot fetch `{url}`: {}", download_problem(url, problem)));
    }
    stopped(stop)
}

/// What the patterns of an ignore file leave.
fn filter(patterns: &[String]) -> Result<Option<Box<rootfs::Filter<'static>>>, RunError> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let matcher = PatternMatcher::new(patterns)
        .map_err(|error| RunError::refused(format!("the ignore file is wrong: {error}")))?;
    Ok(Some(Box::new(move |path: &Path| {
        let text = rbuild_parser::lossy(path.as_os_str().as_encoded_bytes());
        match matcher.matches(&text) {
            Ok(true) if matcher.has_exclusions() => Shown::Inside,
            Ok(true) => Shown::No,
            _ => Shown::Yes,
        }
    })))
}

/// The destination as an absolute path; a directory has a slash at its end.
fn destination(state: &State, dest: Option<&str>, several: bool) -> PathBuf {
    let cwd = state.config.config.get().and_then(|run| run.working_dir.get()).map_or("/", String::as_str);
    let dest = dest.unwrap_or("./");
    let is_dir = several || dest.ends_with('/') || dest.ends_with("/.") || matches!(dest, "" | "." | "..");
    let mut path =
        if dest.starts_with('/') { go::join_path("/", dest) } else { go::join_path("/", &go::join_path(cwd, dest)) };
    if is_dir && !path.ends_with('/') {
        path.push('/');
    }
    PathBuf::from(path)
}

fn owner(dest: &Root, spec: &str) -> Result<(u32, u32), RunError> {
    let file = |path: &str| {
        let bytes = dest.read(path, 4 << 20).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    users::chown(spec, &file("etc/passwd"), &file("etc/group")).map_err(|error| {
        RunError::refused(match error {
            ChownError::Format(text) => format!("`{text}` is no owner; write USER or USER:GROUP"),
            ChownError::User(name) => format!("the container has no user `{name}`"),
            ChownError::Group(name) => format!("the container has no group `{name}`"),
        })
    })
}
