//! Names in directories, reading of directories, and the directories a task is in.

use super::{
    Answer, CWD, DONE, Outcome,
    caller::{Caller, Target, lock},
    capabilities::SYS_CHROOT,
};
use crate::emulate::vfs::{Entry, Identity, Place, is_token};
use nix::libc;
use rustix::io::Errno;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

const EXCHANGE: u32 = libc::RENAME_EXCHANGE;
const NO_REPLACE: u32 = libc::RENAME_NOREPLACE;
const EXECUTE: u32 = libc::X_OK as u32;

pub(super) fn mkdir(caller: &Caller<'_>, dir: i32, path: u64, mode: u32) -> Outcome {
    let path = caller.memory.read_path(path)?;
    let mode = mode & 0o1777 & !caller.fs.umask;
    caller.namespace.mkdir(&caller.start(&caller.base_of(dir, &path)?), &path, mode).map(|()| DONE)
}

pub(super) fn symlink(caller: &Caller<'_>, target: u64, dir: i32, path: u64) -> Outcome {
    let target = caller.memory.read_path(target)?;
    let path = caller.memory.read_path(path)?;
    if target.is_empty() {
        return Err(Errno::NOENT);
    }
    caller.namespace.symlink(&caller.start(&caller.base_of(dir, &path)?), &target, &path).map(|()| DONE)
}

pub(super) fn mknod(caller: &Caller<'_>, dir: i32, path: u64, mode: u32, device: u32) -> Outcome {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG | libc::S_IFCHR | libc::S_IFBLK | libc::S_IFIFO | libc::S_IFSOCK => {}
        libc::S_IFDIR => return Err(Errno::PERM),
        _ => return Err(Errno::INVAL),
    }
    let path = caller.memory.read_path(path)?;
    let kind = if mode & libc::S_IFMT == 0 { libc::S_IFREG } else { mode & libc::S_IFMT };
    let mode = kind | (mode & 0o7777 & !caller.fs.umask);
    let base = caller.base_of(dir, &path)?;
    caller.namespace.mknod(&caller.start(&base), &path, mode, u64::from(device)).map(|()| DONE)
}

pub(super) fn rmdir(caller: &Caller<'_>, dir: i32, path: u64) -> Outcome {
    let path = caller.memory.read_path(path)?;
    caller.namespace.rmdir(&caller.start(&caller.base_of(dir, &path)?), &path).map(|()| DONE)
}

pub(super) fn unlink(caller: &Caller<'_>, dir: i32, path: u64) -> Outcome {
    let path = caller.memory.read_path(path)?;
    caller.namespace.unlink(&caller.start(&caller.base_of(dir, &path)?), &path).map(|()| DONE)
}

type At = (i32, u64);

pub(super) fn rename(caller: &Caller<'_>, from: At, to: At, flags: u32) -> Outcome {
    if flags & !(EXCHANGE | NO_REPLACE) != 0 || flags & (EXCHANGE | NO_REPLACE) == EXCHANGE | NO_REPLACE {
        return Err(Errno::INVAL);
    }
    let (from_path, to_path) = (caller.memory.read_path(from.1)?, caller.memory.read_path(to.1)?);
    let (from_base, to_base) = (caller.base_of(from.0, &from_path)?, caller.base_of(to.0, &to_path)?);
    let (from, to) = (caller.start(&from_base), caller.start(&to_base));
    caller.namespace.rename((&from, &from_path), (&to, &to_path), flags).map(|()| DONE)
}

pub(super) fn link(caller: &Caller<'_>, from: At, to: At, flags: i32) -> Outcome {
    if flags & !(libc::AT_SYMLINK_FOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::INVAL);
    }
    let follow = if flags & libc::AT_SYMLINK_FOLLOW != 0 { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
    let source = caller.find_at(from.0, from.1, (flags & libc::AT_EMPTY_PATH) | follow)?;
    let source = source.place(Errno::NOENT).ok();
    let path = caller.memory.read_path(to.1)?;
    let base = caller.base_of(to.0, &path)?;
    caller.namespace.link(source.as_ref(), &caller.start(&base), &path).map(|()| DONE)
}

pub(super) fn chdir(caller: &Caller<'_>, path: u64) -> Outcome {
    let path = caller.memory.read_path(path)?;
    enter(caller, caller.find(CWD, &path, true)?)
}

pub(super) fn fchdir(caller: &Caller<'_>, fd: i32) -> Outcome {
    enter(caller, caller.descriptor(fd)?)
}

fn enter(caller: &Caller<'_>, target: Target) -> Outcome {
    let place = directory(caller, target)?;
    lock(&lock(&caller.task.fs)).cwd = place;
    Ok(DONE)
}

/// A directory that may be entered.
fn directory(caller: &Caller<'_>, target: Target) -> Result<Place, Errno> {
    let place = target.place(Errno::NOTDIR)?;
    if !place.is_dir() {
        return Err(Errno::NOTDIR);
    }
    place.access(EXECUTE, &caller.who)?;
    Ok(place)
}

pub(super) fn chroot(caller: &Caller<'_>, path: u64) -> Outcome {
    let path = caller.memory.read_path(path)?;
    let place = directory(caller, caller.find(CWD, &path, true)?)?;
    if !caller.may(SYS_CHROOT) {
        return Err(Errno::PERM);
    }
    lock(&lock(&caller.task.fs)).root = place;
    Ok(DONE)
}

pub(super) fn getcwd(caller: &Caller<'_>, buffer: u64, size: u64) -> Outcome {
    let cwd = &caller.fs.cwd;
    let mut path = match caller.namespace.path_of(&caller.fs.root, cwd) {
        Some(path) => path,
        None if cwd.stat()?.nlink == 0 => return Err(Errno::NOENT),
        None => b"(unreachable)/".to_vec(),
    };
    path.push(0);
    if path.len() as u64 > size {
        return Err(Errno::RANGE);
    }
    caller.write(buffer, &path)?;
    Ok(Answer::Return(path.len() as i64))
}

/// Directories being read. The kernel lists what an open directory had when it was read first; so each reading from the
/// start takes a list, and the offset of the descriptor says which, and how far: `list << 24 | index`. It is below 2^43: more
/// than 2^44 is too much for a directory of ext4.
#[derive(Debug, Default)]
pub(crate) struct Listings(Mutex<Lists>);

#[derive(Debug, Default)]
struct Lists {
    last: u32,
    kept: VecDeque<(u32, Arc<Vec<Entry>>)>,
}

const INDEX_BITS: u32 = 24;
const LAST_LIST: u32 = (1 << 19) - 1;

/// Lists that are kept; of one that was lost, reading goes on in a new one.
const KEPT_LISTS: usize = 512;

impl Listings {
    /// The list and the place in it at which `cursor` stands.
    fn at(
        &self,
        cursor: u64,
        read: impl FnOnce() -> Result<Arc<Vec<Entry>>, Errno>,
    ) -> Result<(u32, usize, Arc<Vec<Entry>>), Errno> {
        let (number, index) = ((cursor >> INDEX_BITS) as u32, (cursor & ((1 << INDEX_BITS) - 1)) as usize);
        if cursor != 0
            && let Some((_, list)) = lock(&self.0).kept.iter().rev().find(|(known, _)| *known == number)
        {
            return Ok((number, index, Arc::clone(list)));
        }
        let list = read()?;
        let mut lists = lock(&self.0);
        lists.last = (lists.last % LAST_LIST) + 1;
        let number = lists.last;
        lists.kept.push_back((number, Arc::clone(&list)));
        if lists.kept.len() > KEPT_LISTS {
            lists.kept.pop_front();
        }
        Ok((number, index, list))
    }
}

/// `struct linux_dirent64`.
const HEAD: usize = 19;

/// As many entries as fit, and the cursor behind them.
fn encode(list: u32, entries: &[Entry], from: usize, room: usize) -> Result<(Vec<u8>, usize), Errno> {
    let mut bytes = Vec::new();
    let mut index = from;
    for entry in entries.get(from..).unwrap_or_default() {
        let length = (HEAD + entry.name.len() + 1).next_multiple_of(8);
        if bytes.len() + length > room {
            if bytes.is_empty() {
                return Err(Errno::INVAL);
            }
            break;
        }
        index += 1;
        let start = bytes.len();
        bytes.extend_from_slice(&entry.ino.to_ne_bytes());
        bytes.extend_from_slice(&cursor(list, index).to_ne_bytes());
        bytes.extend_from_slice(&(length as u16).to_ne_bytes());
        bytes.push(entry.kind);
        bytes.extend_from_slice(&entry.name);
        bytes.resize(start + length, 0);
    }
    Ok((bytes, index))
}

fn cursor(list: u32, index: usize) -> u64 {
    u64::from(list) << INDEX_BITS | index as u64
}

/// getdents64 of a descriptor that stands for a directory of an overlay: what is to be written to the buffer, and the
/// new offset. `None`: a real directory, of which the kernel knows itself.
pub(super) fn read_directory(
    caller: &Caller<'_>,
    fd: i32,
    room: usize,
    offset: &dyn Fn() -> Result<u64, Errno>,
) -> Option<Result<(Vec<u8>, u64), Errno>> {
    let real = rustix::fs::stat(caller.fd_path(fd)).ok()?;
    if real.st_mode & libc::S_IFMT == libc::S_IFDIR && !is_token(&real) {
        return None;
    }
    match caller.descriptor(fd) {
        Ok(Target::Place(place)) if place.is_dir() => {
            Some(offset().and_then(|offset| read_list(caller, &place, room, offset)))
        }
        _ => None,
    }
}

fn read_list(caller: &Caller<'_>, place: &Place, room: usize, offset: u64) -> Result<(Vec<u8>, u64), Errno> {
    // Whoever has it open may read it.
    let anybody = Identity { capabilities: u64::MAX, ..caller.who.clone() };
    let (list, from, entries) = caller.calls.listings.at(offset, || place.read_dir(&anybody))?;
    let (bytes, to) = encode(list, &entries, from, room)?;
    Ok((bytes, cursor(list, to)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        [(&b"."[..], 1, 4), (b"..", 2, 4), (b"a-longer-name", 3, 8)]
            .map(|(name, ino, kind)| Entry { name: name.to_vec(), ino, kind })
            .into()
    }

    #[test]
    fn entries_are_laid_out_as_the_kernel_does() {
        let (bytes, to) = encode(7, &entries(), 0, 4096).unwrap();
        assert_eq!((bytes.len(), to), (24 + 24 + 40, 3));
        assert_eq!(bytes[8..16], (7u64 << 24 | 1).to_ne_bytes());
        assert_eq!(bytes[16..18], 24u16.to_ne_bytes());
        assert_eq!((bytes[18], &bytes[19..21]), (4, &b".\0"[..]));
        assert_eq!(&bytes[48 + 19..48 + 33], b"a-longer-name\0");
    }

    #[test]
    fn reading_goes_on_where_it_ended() {
        let (bytes, to) = encode(1, &entries(), 0, 50).unwrap();
        assert_eq!((bytes.len(), to), (48, 2));
        assert_eq!(encode(1, &entries(), 2, 20), Err(Errno::INVAL));
        assert_eq!(encode(1, &entries(), 3, 20), Ok((Vec::new(), 3)));

        let listings = Listings::default();
        let (list, from, _) = listings.at(0, || Ok(Arc::new(entries()))).unwrap();
        assert_eq!((list, from), (1, 0));
        let (again, from, found) = listings.at(cursor(list, 2), || panic!("it is kept")).unwrap();
        assert_eq!((again, from, found.len()), (1, 2, 3));
        let (new, ..) = listings.at(0, || Ok(Arc::new(Vec::new()))).unwrap();
        assert_eq!(new, 2);
    }
}
