//! Attributes `user.*` where the file system keeps none: ramfs, NFS before 4.2, tmpfs before Linux 6.6.
//!
//! They lie in a directory of the same file system, in a file for each inode, which is its name. An inode number is used
//! again after its file was removed; whoever makes files has to [`forget`] what an earlier one had.

use super::xattr::Target;
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, Mode, OFlags, fstat, openat, renameat, statat, unlinkat},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    io::{self, Read, Write},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
    sync::{Mutex, PoisonError, RwLock},
};

/// A file system and where its attributes are.
struct Kept {
    device: u64,
    dir: OwnedFd,
}

static KEPT: RwLock<Vec<Kept>> = RwLock::new(Vec::new());

/// One change at a time: a file is read, changed and replaced.
static CHANGE: Mutex<()> = Mutex::new(());

/// Name and value.
type Attribute = (Vec<u8>, Vec<u8>);

/// Keeps the attributes of the directory's file system in it; of two directories of one file system the first is taken.
/// For the whole process.
pub(crate) fn keep_in(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let dir = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let device = fstat(&dir)?.st_dev;
    let mut kept = KEPT.write().unwrap_or_else(PoisonError::into_inner);
    if !kept.iter().any(|other| other.device == device) {
        kept.push(Kept { device, dir });
    }
    Ok(())
}

/// Does something with the directory and the name of the file in which the attributes of a file are; `None` where its
/// file system is not known here.
fn with<T>(target: Target<'_>, act: impl FnOnce(BorrowedFd<'_>, &str) -> Result<T, Errno>) -> Result<Option<T>, Errno> {
    let kept = KEPT.read().unwrap_or_else(PoisonError::into_inner);
    if kept.is_empty() {
        return Ok(None);
    }
    let stat = match target {
        Target::Open(fd) | Target::Dir(fd) => fstat(fd)?,
        Target::Name(dir, name) => statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?,
    };
    match kept.iter().find(|kept| kept.device == stat.st_dev) {
        Some(kept) => act(kept.dir.as_fd(), &format!("{:x}", stat.st_ino)).map(Some),
        None => Ok(None),
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn read(dir: BorrowedFd<'_>, file: &str) -> Result<Vec<Attribute>, Errno> {
    let file = match openat(dir, file, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
    };
    let mut bytes = Vec::new();
    std::fs::File::from(file).read_to_end(&mut bytes).map_err(|error| errno(&error))?;
    parse(&bytes).ok_or(Errno::IO)
}

/// An attribute is its name, a NUL, the length of its value, a NUL, and the value.
fn parse(mut bytes: &[u8]) -> Option<Vec<Attribute>> {
    fn word<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
        let end = bytes.iter().position(|byte| *byte == 0)?;
        let (word, rest) = bytes.split_at(end);
        *bytes = rest.get(1..)?;
        Some(word)
    }
    let mut attributes = Vec::new();
    while !bytes.is_empty() {
        let name = word(&mut bytes)?.to_vec();
        let length = std::str::from_utf8(word(&mut bytes)?).ok()?.parse().ok()?;
        attributes.push((name, bytes.get(..length)?.to_vec()));
        bytes = bytes.get(length..)?;
    }
    Some(attributes)
}

fn format(attributes: &[Attribute]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in attributes {
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(format!("\0{}\0", value.len()).as_bytes());
        bytes.extend_from_slice(value);
    }
    bytes
}

fn remove_file(dir: BorrowedFd<'_>, file: &str) -> Result<(), Errno> {
    match unlinkat(dir, file, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Replaces an attribute, or takes it away.
fn change(target: Target<'_>, name: &OsStr, value: Option<&[u8]>) -> Result<Option<()>, Errno> {
    with(target, |dir, file| {
        let _alone = CHANGE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut attributes = read(dir, file)?;
        attributes.retain(|(other, _)| other != name.as_bytes());
        attributes.extend(value.map(|value| (name.as_bytes().to_vec(), value.to_vec())));
        if attributes.is_empty() {
            return remove_file(dir, file);
        }
        // Whoever reads meanwhile sees what was before.
        let new = format!(".{file}.{}", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let written = openat(dir, &new, flags, Mode::RUSR | Mode::WUSR).and_then(|fd| {
            std::fs::File::from(fd).write_all(&format(&attributes)).map_err(|error| errno(&error))?;
            renameat(dir, &new, dir, file)
        });
        if written.is_err() {
            let _ = remove_file(dir, &new);
        }
        written
    })
}

/// The value of an attribute.
pub(super) fn get(target: Target<'_>, name: &OsStr) -> Result<Option<Vec<u8>>, Errno> {
    let attributes = with(target, read)?.unwrap_or_default();
    Ok(attributes.into_iter().find(|(other, _)| other == name.as_bytes()).map(|(_, value)| value))
}

/// The names of all attributes.
pub(super) fn list(target: Target<'_>) -> Result<Vec<OsString>, Errno> {
    let attributes = with(target, read)?.unwrap_or_default();
    Ok(attributes.into_iter().map(|(name, _)| OsString::from_vec(name)).collect())
}

/// Sets an attribute; EOPNOTSUPP where none are kept.
pub(super) fn set(target: Target<'_>, name: &OsStr, value: &[u8]) -> Result<(), Errno> {
    if !name.as_bytes().starts_with(b"user.") {
        return Err(Errno::OPNOTSUPP);
    }
    change(target, name, Some(value))?.ok_or(Errno::OPNOTSUPP)
}

/// Removes an attribute; that it is not there is no error.
pub(super) fn remove(target: Target<'_>, name: &OsStr) -> Result<(), Errno> {
    change(target, name, None).map(drop)
}

/// A file was made just now: it has no attributes, whatever an earlier one of its inode number had.
pub(crate) fn forget(target: Target<'_>) -> Result<(), Errno> {
    with(target, remove_file).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_kept_by_inode() {
        let base = tempfile::tempdir().unwrap();
        let (one, other) = (base.path().join("one"), base.path().join("other"));
        std::fs::write(&one, "").unwrap();
        std::fs::write(&other, "").unwrap();
        let dir = rustix::fs::open(base.path(), OFlags::PATH, Mode::empty()).unwrap();
        let target = |name| Target::Name(dir.as_fd(), OsStr::new(name));
        // Of file systems that nobody told of, nothing is kept.
        let proc = rustix::fs::open("/proc", OFlags::PATH, Mode::empty()).unwrap();
        keep_in(&base.path().join("attributes")).unwrap();
        assert_eq!(set(Target::Dir(proc.as_fd()), OsStr::new("user.a"), b"x"), Err(Errno::OPNOTSUPP));

        set(target("one"), OsStr::new("user.a"), b"x\0y").unwrap();
        set(target("one"), OsStr::new("user.b"), b"").unwrap();
        set(target("one"), OsStr::new("user.a"), b"1 2\0").unwrap();
        assert_eq!(set(target("one"), OsStr::new("trusted.a"), b""), Err(Errno::OPNOTSUPP));
        std::fs::hard_link(&one, base.path().join("link")).unwrap();
        assert_eq!(get(target("link"), OsStr::new("user.a")).unwrap().as_deref(), Some(&b"1 2\0"[..]));
        assert_eq!(list(target("link")).unwrap(), ["user.b", "user.a"]);
        assert_eq!(list(target("other")).unwrap(), Vec::<OsString>::new());
        remove(target("one"), OsStr::new("user.a")).unwrap();
        remove(target("one"), OsStr::new("user.a")).unwrap();
        assert_eq!(list(target("one")).unwrap(), ["user.b"]);
        forget(target("one")).unwrap();
        assert_eq!(list(target("one")).unwrap(), Vec::<OsString>::new());
        assert_eq!(std::fs::read_dir(base.path().join("attributes")).unwrap().count(), 0);
    }

    #[test]
    fn damage_is_seen() {
        let attributes = vec![(b"user.a".to_vec(), b"\0\0".to_vec()), (b"user.b".to_vec(), vec![])];
        let bytes = format(&attributes);
        assert_eq!(parse(&bytes), Some(attributes));
        for length in [1, 7, 8, 9, 10, bytes.len() - 1] {
            assert_eq!(parse(&bytes[..length]), None, "{length}");
        }
    }
}
