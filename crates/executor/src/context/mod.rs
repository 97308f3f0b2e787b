//! Build contexts: the Dockerfile's bytes and the tree that COPY, ADD and bind mounts read.
//!
//! A directory is read in place and never copied; a tar is unpacked below the caller's scratch directory. Either way
//! the tree is filtered by the ignore file, and its sizes are those that Docker's clients show.
//!
//! Where Docker's legacy client adds a Dockerfile to a context that has an ignore file, the ignore file that a
//! `COPY .` takes gets two lines more; here it stays as it is, though the size counts them.

mod error;
mod filter;
mod follow;
mod legacy;
mod named;
mod open;
mod remote;
mod request;
mod scratch;
mod sync;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rbuild_logfmt::event::{Builder, Dialect, StepKind, Version};
use rbuild_parser::ignore::{IgnoreError, PatternMatcher};
use rbuild_sandbox::root::Root;

pub use error::ContextError;
pub(crate) use error::DAEMON_MOUNT;
pub(crate) use named::layout_digest;
pub use named::{NamedContext, NamedSource, context_name_error};
pub(crate) use open::{is_archive_file, is_plain_tar};
pub use request::ContextRequest;
pub use sync::{Sync, SyncSnapshot};

use crate::git::StepLog;
use crate::key::CacheKey;
use crate::rootfs::{HashOptions, KnownFiles, RootfsError, Shown, Source, Sums, content_hash};
use filter::{Candidate, Filter, Judgement, Rules, judge};
use sync::{Asks, HardLinks, SyncSizer};
use tree::{Node, SourceTree, Step};

/// The largest Dockerfile or ignore file that is read, in bytes.
const FILE_MAX: u64 = 64 << 20;

/// What BuildKit transfers, each with a [`SyncSnapshot`] of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transfer {
    /// The Dockerfile and its ignore file.
    Dockerfile,
    /// The ignore file of the context.
    Ignore,
    /// The context.
    Context,
}

/// What is seen of a path of a context; contexts are shared by threads.
type ShownFilter = dyn Fn(&Path) -> Shown + Send + std::marker::Sync;

/// An opened build context.
pub struct Context {
    dialect: Dialect,
    tree: SourceTree,
    /// Keeps the unpacked tar.
    _scratch: Option<scratch::ScratchDir>,
    kind: Kind,
    dockerfile: Dockerfile,
    ignore: Ignore,
    sums: Sums,
    shown: Box<ShownFilter>,
    sync_name: String,
    shared_key: String,
    /// Digests of what COPY, ADD and mounts select.
    selections: Mutex<HashMap<CacheKey, String>>,
    hides: OnceLock<bool>,
    /// Where a copy is of what is seen of the tree.
    seen_copy: Mutex<Option<PathBuf>>,
    /// The log tells already how it came.
    is_told: bool,
    /// The repository that it comes from, which the log has yet to tell of.
    repository: Option<NamedRepository>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("root", &self.tree.path())
            .field("dialect", &self.dialect)
            .field("dockerfile", &self.dockerfile.name)
            .finish_non_exhaustive()
    }
}

/// The repository that a named context comes from.
#[derive(Debug)]
pub(crate) struct NamedRepository {
    /// As given, without passwords.
    pub(crate) url: String,
    /// What the step that fetches it shows.
    pub(crate) log: StepLog,
}

/// What the context is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A directory, or nothing.
    Directory,
    /// A tar of so many bytes as they came in.
    Archive(u64),
    /// Files that were fetched one by one: of a repository, or a Dockerfile.
    Fetched,
}

#[derive(Debug, Default)]
struct Dockerfile {
    name: String,
    bytes: Vec<u8>,
    from: From,
}

/// Where a Dockerfile comes from, as far as sizes depend on it.
#[derive(Debug, Default)]
enum From {
    /// The context, or nowhere.
    #[default]
    Context,
    /// A directory that BuildKit's client transfers it from.
    Directory(Box<SourceTree>),
    /// Outside of the context: it is added to the legacy client's tar, or transferred from a directory of its own.
    Added,
    /// Standard input, which is the whole context (legacy).
    Alone,
}

#[derive(Debug, Default)]
struct Ignore {
    /// What is hidden.
    patterns: Arc<PatternMatcher>,
    /// BuildKit: the Dockerfile has an ignore file of its own.
    is_own: bool,
    /// BuildKit: the patterns, of which one is none.
    refused: Option<(Vec<String>, IgnoreError)>,
}

impl Context {
    /// Opens a context: finds the Dockerfile, reads the ignore file, unpacks a tar.
    ///
    /// # Errors
    /// As Docker's clients and daemons fail ([`ContextError::failure`] has their words), or if a file cannot be read.
    pub fn open(request: ContextRequest) -> Result<Self, ContextError> {
        open::open(request)
    }

    /// Opens the files of a repository, or a Dockerfile alone, that were fetched: `directory`, with no ignore file
    /// (BuildKit).
    pub(crate) fn open_fetched(
        name: &str,
        directory: &Path,
        dockerfile: &crate::DockerfileSource,
        dialect: Dialect,
    ) -> Result<Self, ContextError> {
        remote::open_fetched(name, directory, dockerfile, dialect)
    }

    /// Opens the files of a repository that stands for a named context.
    pub(crate) fn open_repository(
        name: &str,
        directory: &Path,
        repository: NamedRepository,
        dialect: Dialect,
    ) -> Result<Self, ContextError> {
        let opened = remote::open_fetched_named(name, directory, dialect)?;
        Ok(Self { repository: Some(repository), ..opened })
    }

    /// The same with a Dockerfile from elsewhere.
    pub(crate) fn with_dockerfile(self, bytes: Vec<u8>) -> Self {
        Self { dockerfile: Dockerfile { name: "Dockerfile".to_owned(), bytes, from: From::Added }, ..self }
    }

    /// BuildKit: whether the Dockerfile is transferred.
    pub(crate) fn transfers_dockerfile(&self) -> bool {
        !self.is_archive() || matches!(self.dockerfile.from, From::Added)
    }

    /// BuildKit: the step in which the build loads it; none if it is here before the Dockerfile is read.
    pub(crate) fn load_step(&self) -> Option<StepKind> {
        match &self.repository {
            Some(repository) => Some(StepKind::LoadRepository { url: repository.url.clone() }),
            None => (!self.is_archive()).then_some(StepKind::LoadContext { name: None }),
        }
    }

    /// The repository that a named context comes from.
    pub(crate) fn repository(&self) -> Option<&NamedRepository> {
        self.repository.as_ref()
    }

    /// The same context, of which the log tells already how it came.
    pub(crate) fn told(mut self) -> Self {
        self.is_told = true;
        self
    }

    /// Whether the log tells already how it came.
    pub(crate) fn is_told(&self) -> bool {
        self.is_told
    }

    /// Opens the directory of a named context, which has an ignore file of its own (BuildKit).
    ///
    /// # Errors
    /// As [`Context::open`].
    pub fn open_named(
        name: &str,
        directory: &Path,
        working_dir: &Path,
        dialect: Dialect,
    ) -> Result<Self, ContextError> {
        open::open_named(name, directory, working_dir, dialect)
    }

    /// The Dockerfile: its name as Docker shows it, and its bytes. Both are empty for a named context.
    #[must_use]
    pub fn dockerfile(&self) -> (&str, &[u8]) {
        (&self.dockerfile.name, &self.dockerfile.bytes)
    }

    /// The name of a named context.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.sync_name
    }

    /// The directory that holds the tree, hidden files among the others; see [`Context::source`].
    #[must_use]
    pub fn root(&self) -> &Root {
        self.tree.root()
    }

    /// Where that directory lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.tree.path()
    }

    /// The tree as the builder sees it: to copy from, to hash, to walk.
    #[must_use]
    pub fn source(&self) -> Source<'_> {
        let is_archive = matches!(self.kind, Kind::Archive(_));
        let is_legacy = self.dialect.builder == Builder::Legacy;
        Source {
            root: self.root(),
            filter: Some(&*self.shown),
            // The clients send no owners of a directory. The legacy builder makes all that it copies root's, while
            // BuildKit keeps what a tar says.
            owner: (is_legacy || !is_archive).then_some((0, 0)),
            capabilities: is_legacy || is_archive,
            known: Some(self.tree.known()),
        }
    }

    /// What is known of the files of the tree, in this build and from earlier ones.
    #[must_use]
    pub fn known_files(&self) -> &KnownFiles {
        self.tree.known()
    }

    /// The digest of a selection of files, computed once in a build.
    ///
    /// # Errors
    /// Those of `compute`.
    pub(crate) fn selection_hash<E>(
        &self,
        selection: &CacheKey,
        compute: impl FnOnce() -> Result<String, E>,
    ) -> Result<String, E> {
        let lock = || self.selections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hash) = lock().get(selection) {
            return Ok(hash.clone());
        }
        let hash = compute()?;
        lock().insert(selection.clone(), hash.clone());
        Ok(hash)
    }

    /// The digest of all that is seen of the tree.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn content_hash(&self) -> Result<[u8; 32], RootfsError> {
        let options = HashOptions { follow: true, contents: true, filter: None };
        content_hash(&self.source(), &[PathBuf::new()], options)
    }

    /// Legacy: where the hashes of its files come from ([`crate::rootfs::legacy_hash`]).
    #[must_use]
    pub fn sums(&self) -> &Sums {
        &self.sums
    }

    /// What the builder sees of a path relative to the root.
    #[must_use]
    pub fn shown(&self, path: &Path) -> Shown {
        (self.shown)(path)
    }

    /// Whether neither this path, relative to the root, nor anything in it can be seen.
    #[must_use]
    pub fn excluded(&self, path: &Path) -> bool {
        self.shown(path) == Shown::No
    }

    /// Whether the tree has anything that cannot be seen.
    ///
    /// # Errors
    /// If the tree cannot be read.
    pub(crate) fn hides_anything(&self) -> Result<bool, ContextError> {
        if self.ignore.patterns.is_empty() {
            return Ok(false);
        }
        if let Some(known) = self.hides.get() {
            return Ok(*known);
        }
        let mut hides = false;
        self.tree.walk(&mut |node| {
            hides |= self.shown(&node.path) != Shown::Yes;
            Ok(if hides { Step::Skip } else { Step::EnterIfAllowed })
        })?;
        Ok(*self.hides.get_or_init(|| hides))
    }

    /// Where a copy is of what is seen of the tree, if somebody made one.
    pub(crate) fn seen_copy(&self) -> MutexGuard<'_, Option<PathBuf>> {
        self.seen_copy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the ignore file excludes a source of COPY or ADD, for the build check: the path is taken as it was written.
    pub(crate) fn ignores_source(&self, path: &str) -> bool {
        self.ignore.patterns.matches_as_written(path).unwrap_or(false)
    }

    /// Whether the context is a tar or was fetched: BuildKit then transfers nothing and shows other steps.
    #[must_use]
    pub fn is_archive(&self) -> bool {
        !matches!(self.kind, Kind::Directory)
    }

    /// Legacy: the bytes after `Sending build context to Docker daemon`.
    ///
    /// # Errors
    /// If the tree cannot be read.
    pub fn legacy_tar_size(&self) -> Result<u64, ContextError> {
        if let Kind::Archive(bytes) = self.kind {
            return Ok(bytes);
        }
        let size = self.dockerfile.bytes.len() as u64;
        let added = match self.dockerfile.from {
            From::Alone => return Ok(legacy::dockerfile_tar_size(size)),
            From::Added => Some(legacy::AddedDockerfile { name: &self.dockerfile.name, size }),
            From::Context | From::Directory(_) => None,
        };
        legacy::tar_size(&self.tree, &self.ignore.patterns, self.dialect.version, added)
    }

    /// BuildKit: the transfer of the context, where the Dockerfile needs the paths `wanted`: sources of COPY and ADD
    /// (without URLs) and of bind mounts, words expanded, wildcards as they are. A tmpfs mount counts as `/`: BuildKit
    /// takes it for a mount of the whole context. With no path, or `.` or `/` among them, all is sent. `held` is what the last transfer under [`Context::sync_key`] left. `None` for a tar.
    ///
    /// # Errors
    /// If the tree cannot be read.
    pub fn sync_size(&self, wanted: &[String], held: Option<&SyncSnapshot>) -> Result<Option<Sync>, ContextError> {
        if self.is_archive() {
            return Ok(None);
        }
        if self.dialect.version == Version::V20 {
            self.check_ignore()?;
        }
        let is_all =
            wanted.is_empty() || wanted.iter().any(|path| follow::joined(Path::new(path)).as_os_str().is_empty());
        let wanted = if is_all { &[] } else { wanted };
        let patterns = &self.ignore.patterns;
        transfer(self.dialect.version, &self.tree, wanted, patterns, held, Asks::Changed, &|_| (0, 0)).map(Some)
    }

    /// BuildKit: whether the patterns of the ignore file are patterns. 28 finds out when it has read the file, 20 when it
    /// transfers the context.
    ///
    /// # Errors
    /// If one of them is none.
    pub fn check_ignore(&self) -> Result<(), ContextError> {
        match self.ignore.refused.clone() {
            Some((patterns, source)) => Err(ContextError::IgnorePattern { patterns, source }),
            None => Ok(()),
        }
    }

    /// BuildKit: the transfer of the Dockerfile; `None` where it comes from a tar.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn dockerfile_sync_size(&self, held: Option<&SyncSnapshot>) -> Result<Option<Sync>, ContextError> {
        let name = &self.dockerfile.name;
        let tree = match &self.dockerfile.from {
            From::Directory(tree) => tree,
            From::Context if self.is_archive() || name.is_empty() => return Ok(None),
            From::Context => &self.tree,
            From::Added | From::Alone => {
                return Ok(Some(sync::single_file("Dockerfile", self.dockerfile.bytes.len() as u64)));
            }
        };
        definition_size(self.dialect.version, tree, name, held).map(Some)
    }

    /// BuildKit: the transfer in `load .dockerignore`; `None` where there is no such step, since the Dockerfile has an
    /// ignore file of its own or the context is a tar.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn ignore_sync_size(&self, held: Option<&SyncSnapshot>) -> Result<Option<Sync>, ContextError> {
        if self.is_archive() || self.ignore.is_own {
            return Ok(None);
        }
        let wanted = [legacy::IGNORE_FILE.to_owned()];
        let version = self.dialect.version;
        let asks = asks_for_single(version);
        transfer(version, &self.tree, &wanted, &PatternMatcher::default(), held, asks, &|_| (0, 0)).map(Some)
    }

    /// The name under which the snapshot of a transfer is kept: BuildKit's key of the local source. In 28 contexts whose
    /// directories have the same last name share it, in 20 those given by the same words.
    #[must_use]
    pub fn sync_key(&self, transfer: Transfer) -> String {
        let version = match self.dialect.version {
            Version::V20 => "20",
            Version::V28 => "28",
        };
        let (name, hint) = match (transfer, self.sync_name.as_str()) {
            (Transfer::Dockerfile, _) => ("dockerfile", "dockerfile".to_owned()),
            (Transfer::Ignore, "context") => ("context", "context-.dockerignore".to_owned()),
            (Transfer::Context, "context") => ("context", "context".to_owned()),
            (Transfer::Ignore, named) => (named, format!("context:{named}-.dockerignore")),
            (Transfer::Context, named) => (named, format!("context:{named}")),
        };
        format!("{version}:{name}:{hint}:{}", self.shared_key)
    }
}

/// 28 asks for the Dockerfile and the ignore file each time.
fn asks_for_single(version: Version) -> Asks {
    match version {
        Version::V20 => Asks::Changed,
        Version::V28 => Asks::All,
    }
}

fn definition_size(
    version: Version,
    tree: &SourceTree,
    name: &str,
    held: Option<&SyncSnapshot>,
) -> Result<Sync, ContextError> {
    let mut wanted = vec![name.to_owned(), format!("{name}{}", legacy::IGNORE_FILE)];
    if name == "Dockerfile" {
        wanted.push("dockerfile".to_owned());
    }
    // 20 sends the owner of the Dockerfile. Who runs the build is root to it.
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let owner = |node: &Node| match version {
        Version::V20 => (
            if node.status.uid == uid { 0 } else { node.status.uid },
            if node.status.gid == gid { 0 } else { node.status.gid },
        ),
        Version::V28 => (0, 0),
    };
    transfer(version, tree, &wanted, &PatternMatcher::default(), held, asks_for_single(version), &owner)
}

fn transfer(
    version: Version,
    tree: &SourceTree,
    wanted: &[String],
    exclude: &PatternMatcher,
    held: Option<&SyncSnapshot>,
    asks: Asks,
    owner: &dyn Fn(&Node) -> (u32, u32),
) -> Result<Sync, ContextError> {
    let include = match wanted {
        [] => None,
        wanted => follow::follow_links(tree, wanted)?,
    };
    let compiled = include.as_ref().map(PatternMatcher::new).transpose();
    let include = compiled.map_err(|source| match version {
        Version::V20 => ContextError::IgnoreChecked(source),
        Version::V28 => ContextError::IncludePattern { patterns: include.unwrap_or_default(), source },
    })?;
    let hard_links = match version {
        Version::V20 => HardLinks::Kept,
        Version::V28 => HardLinks::Reset,
    };
    let mut filter = Filter::new(Rules::Sync(version), include.as_ref(), exclude);
    let mut sizer = SyncSizer::new(tree, held, asks, hard_links);
    tree.walk(&mut |node| {
        let candidate = Candidate { path: node.path.clone(), is_dir: node.status.is_dir(), payload: node.clone() };
        let step = filter.visit(&candidate, &mut |fate, file| match fate {
            filter::Fate::Met => sizer.meet(&file.payload),
            filter::Fate::Sent => sizer.send(&file.payload, owner(&file.payload)),
        });
        step.map_err(ContextError::IgnoreChecked)
    })?;
    Ok(sizer.finish())
}

/// What the ignore file, and in the legacy dialect its removal, leave of a tree.
fn shown_filter(dialect: Dialect, patterns: &Arc<PatternMatcher>, removed: Vec<PathBuf>) -> Box<ShownFilter> {
    let patterns = Arc::clone(patterns);
    let rules = match dialect.builder {
        Builder::Legacy => Rules::Tar(dialect.version),
        Builder::Buildkit => Rules::Sync(dialect.version),
    };
    Box::new(move |path| {
        if removed.iter().any(|gone| path.starts_with(gone)) {
            return Shown::No;
        }
        if patterns.is_empty() {
            return Shown::Yes;
        }
        match judge(rules, &patterns, path) {
            Judgement::Shown => Shown::Yes,
            Judgement::Entered => Shown::Inside,
            Judgement::Hidden => Shown::No,
        }
    })
}
