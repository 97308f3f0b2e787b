//! What Docker's legacy client does with a directory: checks it, and sends it as a tar.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rbuild_image::layer::{BLOCK, Entry, Kind, Mtime, TRAILER_SIZE, go_tar_size};
use rbuild_logfmt::event::Version;
use rbuild_parser::ignore::{IgnoreError, PatternMatcher};
use rbuild_sandbox::root::{CAPABILITY, FileKind};

use super::ContextError;
use super::filter::{Candidate, Fate, Filter, Rules};
use super::tree::{Node, SourceTree, Step, is_denied};

/// The ignore file.
pub(super) const IGNORE_FILE: &str = ".dockerignore";

/// `MatchesOrParentMatches`, or its predecessor in 20.
pub(super) fn matches(version: Version, patterns: &PatternMatcher, path: &str) -> Result<bool, IgnoreError> {
    match version {
        Version::V20 => patterns.matches_v20(path),
        Version::V28 => patterns.matches(path),
    }
}

/// The patterns of the client's tar: the Dockerfile and the ignore file are sent though ignored, for the daemon to read
/// (`docker/cli`, `TrimBuildFilesFromExcludes`).
pub(super) fn tar_patterns(
    patterns: &PatternMatcher,
    mut list: Vec<String>,
    dockerfile: Option<&str>,
) -> Result<PatternMatcher, IgnoreError> {
    for name in [Some(IGNORE_FILE), dockerfile].into_iter().flatten() {
        // Both versions ask the older matcher here.
        if patterns.matches_v20(name)? {
            list.push(format!("!{name}"));
        }
    }
    PatternMatcher::new(list)
}

/// Checks that all can be read (`docker/cli`, `ValidateContextDirectory`).
pub(super) fn validate(tree: &SourceTree, patterns: &PatternMatcher, version: Version) -> Result<(), ContextError> {
    let denied = |path: &Path| ContextError::CannotStat { path: tree.path().join(path) };
    let walked = tree.walk(&mut |node| {
        let skipped = matches(version, patterns, &node.path.to_string_lossy()).map_err(ContextError::IgnoreChecked)?;
        if skipped {
            return Ok(Step::Skip);
        }
        if !matches!(node.status.kind, FileKind::Directory | FileKind::Symlink | FileKind::Fifo)
            && tree.file(&node.path).is_err_and(|error| is_denied(&error))
        {
            return Err(ContextError::NoPermission { path: tree.path().join(&node.path) });
        }
        Ok(Step::Enter)
    });
    match walked {
        Err(ContextError::DirectoryDenied { path }) => Err(denied(&path)),
        other => other,
    }
}

/// A Dockerfile that is not in the context: the client adds it to the tar under a name that it draws at random, and
/// names both in the ignore file.
#[derive(Clone, Copy, Debug)]
pub(super) struct AddedDockerfile<'a> {
    pub(super) name: &'a str,
    pub(super) size: u64,
}

/// The size of the tar of a directory.
pub(super) fn tar_size(
    tree: &SourceTree,
    patterns: &PatternMatcher,
    version: Version,
    added: Option<AddedDockerfile<'_>>,
) -> Result<u64, ContextError> {
    let mut sizer = TarSizer { tree, added, total: 0, has_ignore_file: false, linked: HashMap::new() };
    let mut filter = Filter::new(Rules::Tar(version), None, patterns);
    let mut sent = Vec::new();
    tree.walk(&mut |node| {
        let candidate = Candidate { path: node.path.clone(), is_dir: node.status.is_dir(), payload: node.clone() };
        let step = filter.visit(&candidate, &mut |fate, file| {
            if fate == Fate::Sent {
                sent.push(file.payload.clone());
            }
        });
        for node in sent.drain(..) {
            sizer.add(&node);
        }
        step.map_err(ContextError::IgnoreChecked)
    })?;
    Ok(sizer.finish())
}

/// The tar of a Dockerfile alone, which the client makes of one on standard input.
pub(super) fn dockerfile_tar_size(size: u64) -> u64 {
    BLOCK + size.next_multiple_of(BLOCK) + TRAILER_SIZE
}

struct TarSizer<'a> {
    tree: &'a SourceTree,
    added: Option<AddedDockerfile<'a>>,
    total: u64,
    has_ignore_file: bool,
    /// First name of each inode that has several: the client looks at the inode number alone.
    linked: HashMap<u64, PathBuf>,
}

impl TarSizer<'_> {
    fn add(&mut self, node: &Node) {
        let status = &node.status;
        let mut size = status.size;
        if let Some(added) = self.added.filter(|_| node.path == Path::new(IGNORE_FILE)) {
            self.has_ignore_file = true;
            size += added.name.len() as u64 + 2;
        }
        let (major, minor) = status.device;
        let mut kind = match status.kind {
            FileKind::File => Kind::File { size },
            FileKind::Directory => Kind::Dir,
            FileKind::Symlink => {
                Kind::Symlink { target: node.target.clone().unwrap_or_default().into_os_string().into_vec() }
            }
            FileKind::CharDevice => Kind::Char { major, minor },
            FileKind::BlockDevice => Kind::Block { major, minor },
            FileKind::Fifo => Kind::Fifo,
            FileKind::Socket => return, // Go's tar refuses it; the client says so and goes on.
        };
        if !status.is_dir() && status.links > 1 {
            match self.linked.get(&status.id.1) {
                Some(first) => kind = Kind::Hardlink { target: first.as_os_str().as_bytes().to_vec() },
                None => drop(self.linked.insert(status.id.1, node.path.clone())),
            }
        }
        let mut xattrs = BTreeMap::new();
        if let Ok(Some(mut value)) = self.tree.root().xattr(&node.path, CAPABILITY) {
            if value.get(3) == Some(&3) {
                value.truncate(20); // Revision 3 without its root id is revision 2.
            }
            xattrs.insert(CAPABILITY.as_bytes().to_vec(), value);
        }
        let entry = Entry {
            path: node.path.as_os_str().as_bytes().to_vec(),
            kind,
            mode: status.mode,
            uid: 0,
            gid: 0,
            mtime: Mtime { secs: status.mtime.seconds, nanos: 0 },
            xattrs,
        };
        // What no header can hold is not sent: the client logs it and goes on.
        self.total = self.total.saturating_add(go_tar_size(&entry).unwrap_or(0));
    }

    fn finish(self) -> u64 {
        let Some(added) = self.added else {
            return self.total.saturating_add(TRAILER_SIZE);
        };
        // The client closes the stream before its tar writer: neither the trailer nor the last padding is sent. Of two
        // files that it adds, the ignore file is last in seven of eight runs (the order is that of a Go map).
        let dockerfile = BLOCK + added.size;
        if self.has_ignore_file {
            return self.total + dockerfile;
        }
        let ignore_file = IGNORE_FILE.len() + added.name.len() + 2;
        self.total + dockerfile.next_multiple_of(BLOCK) + BLOCK + ignore_file as u64
    }
}
