//! Finds context, Dockerfile and ignore file as each of Docker's clients does.

use std::io::{self, BufReader, Cursor, Read, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rbuild_image::compression::{Compression, decoder};
use rbuild_image::layer::{LayerError, LayerReader};
use rbuild_logfmt::event::{Builder, Dialect, Version};
use rbuild_parser::ignore::{PatternMatcher, parse_ignore_file};
use rbuild_sandbox::root::{FileKind, Ownership, RootError};
use ring::digest::{SHA256, digest};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::legacy::{self, IGNORE_FILE};
use super::scratch::ScratchDir;
use super::tree::{SourceTree, is_absent, read_limited};
use super::{
    Context, ContextError, ContextRequest, Dockerfile, FILE_MAX, From, Ignore, Kind, definition_size, shown_filter,
};
use crate::rootfs::{ArchiveSums, DirectorySums, HeaderModes, RootfsError, Sums, UnpackOptions, unpack_archive};
use crate::{ContextSource, DockerfileSource};

const DOCKERFILE: &str = "Dockerfile";
/// How much of a stream Docker looks at to tell what it is.
const HEAD: u64 = 1024;

/// Whether the beginning of a file is that of an archive.
pub(crate) fn is_archive_file(file: &mut std::fs::File) -> io::Result<bool> {
    use std::io::Seek as _;
    let mut head = Vec::new();
    Read::by_ref(file).take(HEAD).read_to_end(&mut head)?;
    file.rewind()?;
    Ok(is_archive(&head))
}

/// Whether it is a tar that is not compressed.
pub(crate) fn is_plain_tar(file: &mut std::fs::File) -> io::Result<bool> {
    use std::io::Seek as _;
    let mut head = Vec::new();
    Read::by_ref(file).take(HEAD).read_to_end(&mut head)?;
    file.rewind()?;
    Ok(is_archive(&head) && Compression::detect(&head) == Compression::None)
}

pub(super) fn open(mut request: ContextRequest) -> Result<Context, ContextError> {
    if request.source == ContextSource::Stdin && request.dockerfile == DockerfileSource::Stdin {
        return Err(ContextError::StdinTwice);
    }
    match request.source.clone() {
        // Fetching is told of in the log, for which see `crate::remote`.
        ContextSource::Url(url) | ContextSource::Repository { url, .. } => Err(ContextError::Remote { url }),
        ContextSource::Dir(path) => open_directory(&mut request, &path),
        ContextSource::Stdin => open_stream(&mut request),
    }
}

pub(super) fn open_named(
    name: &str,
    directory: &Path,
    working_dir: &Path,
    dialect: Dialect,
) -> Result<Context, ContextError> {
    let absolute = working_dir.join(directory);
    let found = if directory.as_os_str().is_empty() { Err(rustix::io::Errno::NOENT) } else { stat(&absolute) };
    match found {
        Ok(stat) if is_dir(&stat) => {}
        Ok(_) => {
            return Err(ContextError::NamedNotADirectory { path: directory.to_owned() });
        }
        Err(errno) => {
            let (name, path) = (name.to_owned(), directory.to_owned());
            return Err(ContextError::NamedMissing { name, path, source: errno.into() });
        }
    }
    let tree = SourceTree::open(&absolute, Ownership::Real)?;
    let list = read_ignore_file(&tree, IGNORE_FILE)?.unwrap_or_default();
    // A pattern that is none is an error of those who need the directory.
    let ignore = match PatternMatcher::new(&list) {
        Ok(patterns) => Ignore { patterns: Arc::new(patterns), is_own: false, refused: None },
        Err(error) => Ignore { refused: Some((list, error)), ..Ignore::default() },
    };
    let shared_key = last_name(&absolute);
    Ok(assemble(dialect, tree, None, Kind::Directory, Dockerfile::default(), ignore, Vec::new(), name, shared_key))
}

#[allow(clippy::too_many_arguments)] // The parts of a context, named at the only places that put one together.
pub(super) fn assemble(
    dialect: Dialect,
    tree: SourceTree,
    scratch: Option<ScratchDir>,
    kind: Kind,
    dockerfile: Dockerfile,
    ignore: Ignore,
    removed: Vec<PathBuf>,
    sync_name: &str,
    shared_key: String,
) -> Context {
    let shown = shown_filter(dialect, &ignore.patterns, removed);
    let sync_name = sync_name.to_owned();
    Context {
        dialect,
        tree,
        _scratch: scratch,
        kind,
        dockerfile,
        ignore,
        sums: Sums::Directory(DirectorySums::new(HeaderModes::of(dialect.version))),
        shown,
        sync_name,
        shared_key,
        selections: Default::default(),
        hides: Default::default(),
        seen_copy: Default::default(),
        is_told: false,
        repository: None,
    }
}

fn compile(list: &[String]) -> Result<Arc<PatternMatcher>, ContextError> {
    let compiled = PatternMatcher::new(list).map(Arc::new);
    compiled.map_err(|source| ContextError::IgnorePattern { patterns: list.to_vec(), source })
}

// ---- a directory ----

fn open_directory(request: &mut ContextRequest, given: &Path) -> Result<Context, ContextError> {
    let absolute = request.working_dir.join(given);
    let stat = stat(&absolute).map_err(|_| ContextError::NotFound { path: given.to_owned() })?;
    let path = evaluate(&absolute).map_err(|(path, errno)| ContextError::Io {
        action: "resolve",
        path,
        source: errno.into(),
    })?;
    if !is_dir(&stat) {
        return Err(ContextError::NotADirectory { given: given.to_owned(), path });
    }
    let tree = SourceTree::open(&path, Ownership::Real)?;
    match request.dialect.builder {
        Builder::Legacy => legacy_directory(request, tree),
        Builder::Buildkit => buildkit_directory(request, tree, given, &absolute),
    }
}

fn legacy_directory(request: &mut ContextRequest, tree: SourceTree) -> Result<Context, ContextError> {
    let Dialect { version, .. } = request.dialect;
    let located = locate_legacy_dockerfile(request, &tree)?;
    let list = read_ignore_file(&tree, IGNORE_FILE)?.unwrap_or_default();
    let patterns = compile(&list)?;
    legacy::validate(&tree, &patterns, version)?;
    let (name, bytes) = match &located {
        Located::Inside(relative) => (relative.to_string_lossy().into_owned(), None),
        Located::Outside(path) => {
            let bytes = read_outside(path)?;
            (random_name(&bytes), Some(bytes))
        }
        Located::Stdin => {
            let bytes = read_input(request)?;
            (random_name(&bytes), Some(bytes))
        }
    };
    let is_stdin = matches!(located, Located::Stdin);
    let sent = match &located {
        Located::Inside(relative) => Some(relative.to_string_lossy().into_owned()),
        _ if is_stdin => None,
        _ => Some("../".to_owned()), // A path above the context, which no pattern names.
    };
    let trimmed = legacy::tar_patterns(&patterns, list, sent.as_deref()).map_err(ContextError::IgnoreChecked)?;
    let from = if bytes.is_some() { From::Added } else { From::Context };
    let dockerfile = Dockerfile { name, bytes: Vec::new(), from };
    let ignore = Ignore { patterns: Arc::new(trimmed), is_own: false, refused: None };
    let mut removed = Vec::new();
    for file in [IGNORE_FILE, dockerfile.name.as_str()] {
        if legacy::matches(version, &patterns, file).map_err(ContextError::IgnoreChecked)? {
            removed.push(PathBuf::from(file));
        }
    }
    let mut context =
        assemble(request.dialect, tree, None, Kind::Directory, dockerfile, ignore, removed, "context", String::new());
    let read = match bytes {
        Some(bytes) => Ok(bytes),
        None => context
            .tree
            .read(Path::new(&context.dockerfile.name), FILE_MAX)
            .map_err(|error| dockerfile_error(&context.tree, &context.dockerfile.name, error)),
    };
    let read = read.and_then(|bytes| {
        if bytes.is_empty() {
            return Err(ContextError::DockerfileEmpty { name: context.dockerfile.name.clone() });
        }
        Ok(bytes)
    });
    match read {
        Ok(bytes) => {
            context.dockerfile.bytes = bytes;
            Ok(context)
        }
        Err(source) => Err(ContextError::Transferred {
            tar_bytes: Some(context.legacy_tar_size()?),
            dockerfile: None,
            source: Box::new(source),
        }),
    }
}

enum Located {
    /// Relative to the context, links followed.
    Inside(PathBuf),
    Outside(PathBuf),
    Stdin,
}

/// `docker/cli`, `getDockerfileRelPath`.
fn locate_legacy_dockerfile(request: &ContextRequest, tree: &SourceTree) -> Result<Located, ContextError> {
    let path = match &request.dockerfile {
        DockerfileSource::Stdin => return Ok(Located::Stdin),
        DockerfileSource::Path(path) => request.working_dir.join(path),
        DockerfileSource::Default => {
            let path = tree.path().join(DOCKERFILE);
            let lower = tree.path().join(DOCKERFILE.to_lowercase());
            if lstat(&path).is_err() && lstat(&lower).is_ok() { lower } else { path }
        }
    };
    let path = evaluate(&path).map_err(|(path, errno)| ContextError::DockerfilePath { path, source: errno.into() })?;
    Ok(match path.strip_prefix(tree.path()) {
        Ok(relative) => Located::Inside(relative.to_owned()),
        Err(_) => Located::Outside(path),
    })
}

/// The client draws twenty hexadecimal digits at random; ours are those of the content, so that a build repeats itself.
fn random_name(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref()[..10]
        .iter()
        .fold(".dockerfile.".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

fn buildkit_directory(
    request: &mut ContextRequest,
    tree: SourceTree,
    given: &Path,
    absolute: &Path,
) -> Result<Context, ContextError> {
    let Dialect { version, .. } = request.dialect;
    let shared_key = match version {
        Version::V20 => given.to_string_lossy().into_owned(),
        Version::V28 => last_name(absolute),
    };
    let (dockerfile, own_ignore) = match request.dockerfile.clone() {
        DockerfileSource::Stdin => {
            let bytes = read_input(request)?;
            (Dockerfile { name: DOCKERFILE.to_owned(), bytes, from: From::Added }, None)
        }
        DockerfileSource::Default => {
            let directory = SourceTree::open(tree.path(), Ownership::Real)?;
            read_definition(version, directory, DOCKERFILE)?
        }
        DockerfileSource::Path(path) => {
            let path = request.working_dir.join(path);
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let parent = path.parent().unwrap_or(&path);
            let parent = evaluate(parent)
                .map_err(|(path, errno)| ContextError::DockerfilePath { path, source: errno.into() })?;
            read_definition(version, SourceTree::open(&parent, Ownership::Real)?, &name)?
        }
    };
    let is_own = own_ignore.is_some();
    let list = match own_ignore {
        Some(list) => list,
        None => read_ignore_file(&tree, IGNORE_FILE)?.unwrap_or_default(),
    };
    let ignore = match PatternMatcher::new(&list) {
        Ok(patterns) => Ignore { patterns: Arc::new(patterns), is_own, refused: None },
        Err(error) => Ignore { patterns: Arc::default(), is_own, refused: Some((list, error)) },
    };
    Ok(assemble(request.dialect, tree, None, Kind::Directory, dockerfile, ignore, Vec::new(), "context", shared_key))
}

/// Reads a Dockerfile and its own ignore file, as far as the transfer of the two reaches.
fn read_definition(
    version: Version,
    directory: SourceTree,
    name: &str,
) -> Result<(Dockerfile, Option<Vec<String>>), ContextError> {
    let lower = DOCKERFILE.to_lowercase();
    let falls_back = name == DOCKERFILE && directory.node(Path::new(name))?.is_none();
    let falls_back = falls_back && directory.node(Path::new(&lower))?.is_some();
    // 28's client finds the name in lower case itself, in 20 the frontend does and shows the other.
    let shown = if falls_back && version == Version::V28 { lower.as_str() } else { name };
    let read = if falls_back { lower.as_str() } else { name };
    match directory.read(Path::new(read), FILE_MAX) {
        Ok(bytes) => {
            let own = read_ignore_file(&directory, &format!("{shown}{IGNORE_FILE}"))?;
            Ok((Dockerfile { name: shown.to_owned(), bytes, from: From::Directory(Box::new(directory)) }, own))
        }
        Err(error) => {
            let sync = definition_size(version, &directory, shown, None)?;
            Err(ContextError::Transferred {
                tar_bytes: None,
                dockerfile: Some((shown.to_owned(), sync.bytes)),
                source: Box::new(dockerfile_error(&directory, shown, error)),
            })
        }
    }
}

fn dockerfile_error(tree: &SourceTree, name: &str, error: RootError) -> ContextError {
    let name = name.to_owned();
    if is_absent(&error) {
        return ContextError::DockerfileMissing { name };
    }
    match tree.root().stat(&name) {
        Ok(status) if status.kind == FileKind::Directory => ContextError::DockerfileIsDirectory { name },
        _ => tree.failed(Path::new(&name), error),
    }
}

/// The patterns of an ignore file; `None` if there is none.
fn read_ignore_file(tree: &SourceTree, name: &str) -> Result<Option<Vec<String>>, ContextError> {
    match tree.read(Path::new(name), FILE_MAX) {
        Ok(bytes) => parse_ignore_file(&bytes)
            .map(Some)
            .map_err(|source| ContextError::IgnoreFile { name: name.to_owned(), source }),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => match tree.root().stat(name) {
            // The frontend ignores whatever is not a file.
            Ok(status) if status.kind != FileKind::File => Ok(None),
            _ => Err(tree.failed(Path::new(name), error)),
        },
    }
}

// ---- standard input ----

fn open_stream(request: &mut ContextRequest) -> Result<Context, ContextError> {
    let Some(mut input) = request.input.take() else {
        return Err(ContextError::NoInput);
    };
    let mut head = Vec::new();
    input.by_ref().take(HEAD).read_to_end(&mut head).map_err(input_error)?;
    let archive = is_archive(&head);
    let stream = Cursor::new(head).chain(input);
    if archive { open_archive(request, stream) } else { open_text(request, stream) }
}

fn input_error(source: io::Error) -> ContextError {
    ContextError::Io { action: "read", path: "-".into(), source }
}

fn read_input(request: &mut ContextRequest) -> Result<Vec<u8>, ContextError> {
    let input = request.input.take().ok_or(ContextError::NoInput)?;
    read_limited(input, FILE_MAX).map_err(input_error)
}

/// Whether `head`, the first [`HEAD`] bytes of a stream or all it has, begin a tar or a compressed stream.
///
/// As Docker's clients decide, but that two things more count as archives: zstd, which BuildKit's client does not know,
/// and a tar whose first header goes on beyond these bytes.
fn is_archive(head: &[u8]) -> bool {
    if Compression::detect(head) != Compression::None {
        return true;
    }
    match LayerReader::new(head).next_entry() {
        Ok(entry) => entry.is_some(),
        Err(LayerError::Unsupported { .. }) => true,
        Err(LayerError::Truncated { .. }) => head.len() >= 512,
        Err(_) => false,
    }
}

fn open_text(request: &mut ContextRequest, stream: impl Read) -> Result<Context, ContextError> {
    let Dialect { builder, version } = request.dialect;
    let is_named = matches!(request.dockerfile, DockerfileSource::Path(_));
    if is_named && (builder, version) != (Builder::Legacy, Version::V20) {
        return Err(ContextError::TwoDockerfiles);
    }
    let bytes = read_limited(stream, FILE_MAX).map_err(input_error)?;
    if bytes.is_empty() && (builder, version) == (Builder::Buildkit, Version::V28) {
        return Err(ContextError::Transferred {
            tar_bytes: None,
            dockerfile: Some((DOCKERFILE.to_owned(), 0)),
            source: Box::new(ContextError::NoInput),
        });
    }
    if bytes.is_empty() && builder == Builder::Legacy {
        return Err(ContextError::Transferred {
            tar_bytes: Some(legacy::dockerfile_tar_size(0)),
            dockerfile: None,
            source: Box::new(ContextError::DockerfileEmpty { name: DOCKERFILE.to_owned() }),
        });
    }
    let scratch = ScratchDir::new(&request.scratch_dir)?;
    if builder == Builder::Legacy {
        // The legacy client sends the Dockerfile as a context of one file, which COPY then finds.
        write_file(&scratch.path().join(DOCKERFILE), &bytes)?;
    }
    let tree = SourceTree::open(&scratch.path(), Ownership::Real)?;
    let dockerfile = Dockerfile { name: DOCKERFILE.to_owned(), bytes, from: From::Alone };
    let ignore = Ignore::default();
    // 20 keys by the argument, 28 has no key here.
    let key = if version == Version::V20 { "-" } else { "" }.to_owned();
    Ok(assemble(request.dialect, tree, Some(scratch), Kind::Directory, dockerfile, ignore, Vec::new(), "context", key))
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), ContextError> {
    let failed = |source: io::Error| ContextError::Io { action: "write", path: path.to_owned(), source };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o644);
    let fd = rustix::fs::openat(CWD, path, flags, mode).map_err(|errno| failed(errno.into()))?;
    rustix::fs::fchmod(&fd, mode).map_err(|errno| failed(errno.into()))?;
    std::fs::File::from(fd).write_all(bytes).map_err(failed)
}

/// Counts what is read through it.
struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

fn open_archive(request: &mut ContextRequest, stream: impl Read) -> Result<Context, ContextError> {
    let scratch = ScratchDir::new(&request.scratch_dir)?;
    let tree = SourceTree::open(&scratch.path(), Ownership::detect())?;
    let mut counted = Counted { inner: BufReader::with_capacity(128 << 10, stream), bytes: 0 };
    let mut sums = None;
    let unpacked = match request.dialect.builder {
        Builder::Legacy => unpack_and_sum(&mut counted, &tree).map(|found| sums = Some(Sums::Archive(found))),
        Builder::Buildkit => unpack(&mut counted, &tree),
    };
    // Docker's client sends all of it, whatever follows the end of the tar.
    let drained = io::copy(&mut counted, &mut io::sink());
    let bytes = counted.bytes;
    let unpacked = unpacked.and_then(|()| drained.map(drop).map_err(input_error));
    let read = unpacked.and_then(|()| read_archived_dockerfile(&request.dockerfile, request.dialect, &tree));
    let (dockerfile, removed) = read.map_err(|source| ContextError::Transferred {
        tar_bytes: (request.dialect.builder == Builder::Legacy).then_some(bytes),
        dockerfile: None,
        source: Box::new(source),
    })?;
    // No ignore file applies to a tar.
    let ignore = Ignore::default();
    let kind = Kind::Archive(bytes);
    let mut context =
        assemble(request.dialect, tree, Some(scratch), kind, dockerfile, ignore, removed, "context", String::new());
    if let Some(sums) = sums {
        context.sums = sums;
    }
    Ok(context)
}

/// Unpacks a tar and hashes its entries on the way, for the legacy builder's history lines.
fn unpack_and_sum(stream: impl Read, tree: &SourceTree) -> Result<ArchiveSums, ContextError> {
    let failed = |source: RootfsError| ContextError::Archive { source: Box::new(source) };
    let (from, to) = io::pipe().map_err(input_error)?;
    std::thread::scope(|scope| {
        let summing = scope.spawn(move || {
            let mut reader = LayerReader::new(BufReader::with_capacity(128 << 10, from));
            let sums = ArchiveSums::read(&mut reader);
            // The writer waits for a reader until the end.
            let drained = io::copy(&mut reader.into_inner(), &mut io::sink());
            drained.map(|_| sums)
        });
        // The tee closes its end when the archive has been read.
        let unpacked = unpack_through(stream, tree, |decoded| Box::new(Tee { inner: decoded, copy: to }));
        let summed = summing.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        unpacked?;
        summed.map_err(input_error)?.map_err(failed)
    })
}

/// Passes on what is read, and writes it elsewhere too.
struct Tee<'r> {
    inner: Box<dyn Read + 'r>,
    copy: io::PipeWriter,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.copy.write_all(buffer.get(..count).unwrap_or_default())?;
        Ok(count)
    }
}

fn unpack(stream: impl Read, tree: &SourceTree) -> Result<(), ContextError> {
    unpack_through(stream, tree, |decoded| decoded)
}

/// Unpacks a tar that passes through `tap` when it is decompressed.
fn unpack_through<'r>(
    stream: impl Read + 'r,
    tree: &SourceTree,
    tap: impl FnOnce(Box<dyn Read + 'r>) -> Box<dyn Read + 'r>,
) -> Result<(), ContextError> {
    let failed = |source: RootfsError| ContextError::Archive { source: Box::new(source) };
    let stream =
        decoder(stream).map_err(|source| failed(LayerError::Io { action: "read", offset: 0, source }.into()))?;
    unpack_archive(&mut LayerReader::new(tap(Box::new(stream))), tree.root(), Path::new(""), UnpackOptions::default())
        .map_err(failed)?;
    tree.root().forget_handles();
    Ok(())
}

pub(super) fn read_archived_dockerfile(
    source: &DockerfileSource,
    dialect: Dialect,
    tree: &SourceTree,
) -> Result<(Dockerfile, Vec<PathBuf>), ContextError> {
    let Dialect { builder, version } = dialect;
    let given = match source {
        DockerfileSource::Path(path) => path.to_string_lossy().into_owned(),
        _ => DOCKERFILE.to_owned(),
    };
    let mut name = given.clone();
    let mut read = tree.read(Path::new(&name), FILE_MAX);
    let is_default = Path::new(&given).file_name().is_some_and(|name| name.as_bytes() == DOCKERFILE.as_bytes());
    let may_be_lower = if builder == Builder::Legacy { given == DOCKERFILE } else { is_default };
    if may_be_lower && read.as_ref().is_err_and(is_absent) {
        let lower = Path::new(&given).with_file_name(DOCKERFILE.to_lowercase());
        match tree.read(&lower, FILE_MAX) {
            Err(error) if is_absent(&error) => {}
            found => {
                if builder == Builder::Legacy {
                    name = lower.to_string_lossy().into_owned();
                }
                read = found;
            }
        }
    }
    let bytes = read.map_err(|error| dockerfile_error(tree, &given, error))?;
    let mut removed = Vec::new();
    if builder == Builder::Legacy {
        if bytes.is_empty() {
            return Err(ContextError::DockerfileEmpty { name });
        }
        if let Some(list) = read_ignore_file(tree, IGNORE_FILE)? {
            // Patterns that are none remove nothing.
            let patterns = PatternMatcher::new(&list).unwrap_or_default();
            let is_removed = |file: &&str| legacy::matches(version, &patterns, file).unwrap_or(false);
            let files = [IGNORE_FILE, name.as_str()];
            for file in files.iter().filter(|file| is_removed(file)) {
                removed.push(tree.root().resolve(file).map_err(|error| tree.failed(Path::new(file), error))?);
            }
        }
    }
    Ok((Dockerfile { name, bytes, from: From::Context }, removed))
}

// ---- paths of the caller's, which are trusted ----

/// Reads a file that the user named outside of the context; what is no regular file is refused, not waited for.
fn read_outside(path: &Path) -> Result<Vec<u8>, ContextError> {
    let directory = SourceTree::open(path.parent().unwrap_or(Path::new("/")), Ownership::Real)?;
    let name = Path::new(path.file_name().unwrap_or_default());
    directory.read(name, FILE_MAX).map_err(|error| directory.failed(name, error))
}

fn stat(path: &Path) -> Result<Stat, Errno> {
    rustix::fs::statat(CWD, path, AtFlags::empty())
}

fn lstat(path: &Path) -> Result<Stat, Errno> {
    rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
}

fn is_dir(stat: &Stat) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory
}

fn last_name(path: &Path) -> String {
    clean(path).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// An absolute path without `.`, `..` and needless slashes, as words (Go's `filepath.Clean`).
fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => drop(cleaned.pop()),
            _ => {}
        }
    }
    cleaned
}

/// Follows all links of an absolute path (Go's `filepath.EvalSymlinks` of a cleaned path), and says where it ends if it
/// leads to nothing.
fn evaluate(path: &Path) -> Result<PathBuf, (PathBuf, Errno)> {
    const MAX_LINKS: usize = 255;
    let mut pending: Vec<PathBuf> = clean(path).iter().skip(1).map(PathBuf::from).collect();
    pending.reverse();
    let mut resolved = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = pending.pop() {
        if name == Path::new("..") {
            resolved.pop();
            continue;
        }
        resolved.push(&name);
        let stat = lstat(&resolved).map_err(|errno| (resolved.clone(), errno))?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Symlink {
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err((resolved, Errno::LOOP));
        }
        let target = rustix::fs::readlinkat(CWD, &resolved, Vec::new()).map_err(|errno| (resolved.clone(), errno))?;
        let target = Path::new(std::ffi::OsStr::from_bytes(target.as_bytes()));
        resolved.pop();
        if target.is_absolute() {
            resolved = PathBuf::from("/");
        }
        let parts = target.components().rev().filter_map(|component| match component {
            Component::Normal(name) => Some(PathBuf::from(name)),
            Component::ParentDir => Some(PathBuf::from("..")),
            _ => None,
        });
        pending.extend(parts);
    }
    Ok(resolved)
}
