//! Digests of what COPY, ADD and mounts take, for cache keys.
//!
//! As BuildKit's content hash, a digest covers names, types, modes, owners, sizes, link targets, extended attributes and
//! content, and no times. It is not BuildKit's own digest, which nothing shows.
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};

use rbuild_sandbox::root::{FileKind, Found, Metadata, Visit};
use ring::digest::{Context, SHA256};

use super::content::fill;
use super::error::{Result, RootfsError};
use super::known_files::KnownFiles;
use super::source::{Filter, Source};

/// Files from this size on are read by other threads.
const LARGE: u64 = 64 * 1024;

/// Threads that read large files beside the caller.
const READERS: usize = 2;

/// Opened files that wait for a reader at most.
const WAITING: usize = 8;

/// What of the paths is hashed, and how.
#[derive(Clone, Copy, Default)]
pub struct HashOptions<'a> {
    /// Whether a path that is a symbolic link stands for what it leads to.
    pub follow: bool,
    /// Whether of directories only what is in them counts, and not their own mode and owner.
    pub contents: bool,
    /// What of each path counts, by the path inside of it.
    pub filter: Option<&'a Filter<'a>>,
}

impl std::fmt::Debug for HashOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HashOptions")
            .field("follow", &self.follow)
            .field("contents", &self.contents)
            .field("filtered", &self.filter.is_some())
            .finish()
    }
}

type Digest = [u8; 32];

/// The digest of files and directories named by their paths, in this order, with all that is seen below them. The name of
/// a single file does not count, the names of several do, as does the path of what is in a directory.
///
/// # Errors
/// Fails if a path does not exist or is not seen, if a file cannot be read, or if it changes its length meanwhile.
pub fn content_hash(source: &Source<'_>, paths: &[PathBuf], options: HashOptions<'_>) -> Result<Digest> {
    let (send, receive) = sync_channel::<Job>(WAITING);
    let receive = Mutex::new(receive);
    let large = Mutex::new(Vec::new());
    let listed = std::thread::scope(|scope| {
        // Large files are rare in most trees: the threads start with the first.
        let mut readers = Vec::new();
        let mut read_large = |job: Job| {
            if readers.is_empty() {
                for _ in 0..READERS {
                    readers.push(scope.spawn(|| read_jobs(&receive, &large, source.known)));
                }
            }
            // The receiver lives as long as this scope.
            let _ = send.send(job);
        };
        let mut list = List { source, records: Vec::new(), buffer: vec![0; LARGE as usize], send: &mut read_large };
        let result = paths.iter().try_for_each(|path| list.path(path, paths.len() > 1, options)).map(|()| list.records);
        drop(send);
        result
    });
    let mut records = listed?;
    for (index, digest) in large.into_inner().unwrap_or_else(PoisonError::into_inner) {
        if let Some(record) = records.get_mut(index) {
            record.content = Some(digest?);
        }
    }
    let mut hash = Context::new(&SHA256);
    for record in &records {
        update_sized(&mut hash, &record.header);
        hash.update(record.content.as_ref().map_or(&[], Digest::as_slice));
    }
    Ok(to_digest(hash))
}

struct Record {
    header: Vec<u8>,
    content: Option<Digest>,
}

struct Job {
    index: usize,
    file: File,
    path: PathBuf,
    metadata: Metadata,
}

type Done = Mutex<Vec<(usize, Result<Digest>)>>;

fn read_jobs(receive: &Mutex<Receiver<Job>>, done: &Done, known: Option<&KnownFiles>) {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let job = receive.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else {
            return;
        };
        let digest = read_content(job.file, &job.path, job.metadata.size, &mut buffer);
        if let (Some(known), Ok(digest)) = (known, &digest) {
            known.set_content(&job.metadata, *digest);
        }
        done.lock().unwrap_or_else(PoisonError::into_inner).push((job.index, digest));
    }
}

fn read_content(mut file: impl Read, path: &Path, expected: u64, buffer: &mut [u8]) -> Result<Digest> {
    let mut hash = Context::new(&SHA256);
    let mut found = 0;
    loop {
        let length = fill(&mut file, buffer).map_err(|source| RootfsError::content("read", path, source))?;
        hash.update(buffer.get(..length).unwrap_or_default());
        found += length as u64;
        if length < buffer.len() || found > expected {
            break;
        }
    }
    if found == expected {
        return Ok(to_digest(hash));
    }
    Err(RootfsError::Changed { path: path.to_path_buf(), expected, found })
}

fn to_digest(hash: Context) -> Digest {
    let mut digest = [0; 32];
    digest.copy_from_slice(hash.finish().as_ref());
    digest
}

fn update_sized(hash: &mut Context, bytes: &[u8]) {
    hash.update(&(bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

struct List<'l, 's> {
    source: &'l Source<'s>,
    records: Vec<Record>,
    buffer: Vec<u8>,
    send: &'l mut dyn FnMut(Job),
}

impl List<'_, '_> {
    fn path(&mut self, path: &Path, named: bool, options: HashOptions<'_>) -> Result<()> {
        let root = self.source.root;
        let canonical = if options.follow { root.resolve(path)? } else { root.resolve_parent(path)? };
        let Some(metadata) = self.source.lstat(&canonical)? else {
            return Err(RootfsError::Root(rbuild_sandbox::root::RootError::Io {
                operation: "look at",
                path: path.to_path_buf(),
                source: std::io::ErrorKind::NotFound.into(),
            }));
        };
        let name = path.file_name().filter(|_| named).unwrap_or_default();
        let (dir, last) = if canonical.as_os_str().is_empty() {
            (root.dir().clone(), OsString::from("."))
        } else {
            root.parent(&canonical)?
        };
        let is_dir = metadata.is_dir();
        let found = Found { dir, name: last, path: canonical.clone(), metadata };
        if !(is_dir && options.contents) {
            self.record(Path::new(name), &found)?;
        }
        if !is_dir {
            return Ok(());
        }
        let mut walk = self.source.walk(&canonical, options.filter)?;
        while let Some(visit) = walk.next()? {
            if let Visit::Enter(found) = visit {
                self.record(&Path::new(name).join(&found.path), &found)?;
            }
        }
        Ok(())
    }

    fn record(&mut self, name: &Path, found: &Found) -> Result<()> {
        let metadata = &found.metadata;
        let mut header = header(name, metadata);
        if metadata.is_symlink() {
            push_sized(&mut header, found.read_link()?.as_os_str().as_bytes());
        }
        for (name, value) in self.source.xattrs(&found.dir, &found.name, metadata)? {
            // What belongs to the machine and not to the file (BuildKit leaves out the same).
            let bytes = name.as_bytes();
            let foreign = bytes.starts_with(b"security.") || bytes.starts_with(b"system.");
            if !foreign || name == rbuild_sandbox::root::CAPABILITY {
                push_sized(&mut header, bytes);
                push_sized(&mut header, &value);
            }
        }
        let mut content = None;
        let known = self.source.known;
        if let Some(digest) = known.and_then(|known| known.get(metadata).content) {
            content = Some(digest);
        } else if metadata.is_file() && metadata.size > 0 {
            let file = found.dir.open_file(&found.name)?;
            let path = found.path_in_root();
            let size = metadata.size;
            if size < LARGE {
                let digest = read_content(file, &path, size, &mut self.buffer)?;
                if let Some(known) = known {
                    known.set_content(metadata, digest);
                }
                content = Some(digest);
            } else {
                let index = self.records.len();
                (self.send)(Job { index, file, path, metadata: metadata.clone() });
            }
        }
        self.records.push(Record { header, content });
        Ok(())
    }
}

fn push_sized(header: &mut Vec<u8>, bytes: &[u8]) {
    header.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    header.extend_from_slice(bytes);
}

fn header(name: &Path, metadata: &Metadata) -> Vec<u8> {
    let mut header = Vec::with_capacity(64 + name.as_os_str().len());
    push_sized(&mut header, name.as_os_str().as_bytes());
    let size = if metadata.is_file() { metadata.size } else { 0 };
    let kind: u32 = match metadata.kind {
        FileKind::File => 0,
        FileKind::Symlink => 2,
        FileKind::CharDevice => 3,
        FileKind::BlockDevice => 4,
        FileKind::Directory => 5,
        FileKind::Fifo => 6,
        FileKind::Socket => 7,
    };
    let (major, minor) = metadata.device;
    for number in [kind, metadata.mode, metadata.uid, metadata.gid, major, minor] {
        header.extend_from_slice(&number.to_le_bytes());
    }
    header.extend_from_slice(&size.to_le_bytes());
    header
}
