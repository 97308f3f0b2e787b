//! Answers that processes find by themselves.
//!
//! A notification costs ten times a system call, and compilers and interpreters mostly ask for files that are not there:
//! of the 1,700 notified calls by which gcc compiles one file 1,400 end with ENOENT, or are a readlink(2) of what is no
//! link. So a process has a table in its memory of what was asked for in vain, which only the supervisor may write, and
//! code that looks there first. Its C library is given to the loader with that code called before such calls (`patch`);
//! where it finds nothing, or anything is unusual, the call is made as ever. It is a matter of speed alone: a program that
//! makes its calls itself, or is linked statically, never knows of it.
//!
//! An entry says: for whoever looks from here (a *view*: root, directory, ids), this path ends with this error. It holds as
//! long as no directory that was searched for it has changed, nor the mounts; each of these has a *generation*, a number
//! in the same table, which every change raises after it was made and before anybody is told. An entry has the
//! generations from before the search. Only overlays take part, as all of their changes go through the supervisor.
//!
//! What a process makes of memory that it may write is its own business: with the number of another view it would see
//! which paths of this build do not exist.

mod board;
mod patch;
mod space;
mod view;

#[cfg(test)]
pub(crate) use board::{Searched, watch, watched};
pub(crate) use board::{directory_changed, mounts_changed, searches};
pub(crate) use space::AddressSpace;

use super::{Answer, Call, elf, task::Task};
use crate::sys::lookaside::{CODE, TABLE, TABLE_LENGTH, VIEWS, code};
use board::{Board, Class};
use nix::libc;
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create, open},
    io::{Errno, pread, pwrite},
};
use std::{
    collections::HashMap,
    os::fd::AsRawFd,
    sync::{Mutex, PoisonError},
};
use view::Views;

/// The file has the table first, and the code after it.
const CODE_OFFSET: u64 = (TABLE_LENGTH as u64).next_multiple_of(elf::PAGE);
/// A C library is smaller.
const LARGEST_LIBRARY: u64 = 16 << 20;

/// What the supervisor keeps for it.
#[derive(Debug)]
pub(crate) struct Lookaside {
    board: &'static Board,
    file: OwnedFd,
    views: Views,
    /// `None` for one that stays as it is.
    libraries: Mutex<HashMap<LibraryKey, Option<OwnedFd>>>,
}

/// Device, inode number, size and time of change of a library's file.
type LibraryKey = (u64, u64, i64, i64, i64);

/// What a new program maps, with a descriptor of [`Lookaside::file`].
pub(crate) struct Mapping {
    pub(crate) address: u64,
    pub(crate) length: u64,
    pub(crate) protection: i32,
    /// With MAP_FIXED_NOREPLACE.
    pub(crate) flags: i32,
    /// Where in the file it begins; `None`: it is anonymous.
    pub(crate) offset: Option<u64>,
}

/// All of it, or nothing of it is used.
pub(crate) const MAPPINGS: [Mapping; 3] = [
    Mapping {
        address: CODE,
        length: elf::PAGE,
        protection: libc::PROT_READ | libc::PROT_EXEC,
        flags: libc::MAP_PRIVATE,
        offset: Some(CODE_OFFSET),
    },
    Mapping {
        address: VIEWS,
        length: elf::PAGE,
        protection: libc::PROT_READ | libc::PROT_WRITE,
        flags: libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        offset: None,
    },
    Mapping {
        address: TABLE,
        length: CODE_OFFSET,
        protection: libc::PROT_READ,
        flags: libc::MAP_SHARED,
        offset: Some(0),
    },
];

impl Lookaside {
    /// # Errors
    /// Where the kernel gives no memory that has a descriptor, or does not let it be sealed.
    pub(crate) fn new() -> Result<Self, Errno> {
        let file = memfd("table")?;
        ftruncate(&file, CODE_OFFSET + elf::PAGE)?;
        let code = code();
        if code.len() as u64 > elf::PAGE || pwrite(&file, code, CODE_OFFSET)? != code.len() {
            return Err(Errno::NOSPC);
        }
        let board = Board::make(file.as_fd())?;
        // Whoever gets hold of a descriptor may only read it.
        let seals = SealFlags::FUTURE_WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&file, seals)?;
        let file = to_read(&file)?;
        Ok(Self { board, file, views: Views::default(), libraries: Mutex::default() })
    }

    /// A descriptor for [`MAPPINGS`].
    pub(crate) fn file(&self) -> Result<OwnedFd, Errno> {
        rustix::io::fcntl_dupfd_cloexec(&self.file, 0)
    }

    /// The numbers that belong to a task, as they lie at [`VIEWS`].
    fn views_of(&self, task: &Task) -> [u8; 8] {
        let [absolute, relative] = self.views.of(task).map(u32::to_ne_bytes);
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&absolute);
        bytes[4..].copy_from_slice(&relative);
        bytes
    }

    /// A new program is about to start.
    pub(super) fn begin(&self, task: &Task) -> Result<(), Errno> {
        if task.space().is_mapped() { task.memory().write(VIEWS, &self.views_of(task)) } else { Ok(()) }
    }

    /// A task has made another with these flags of clone(2), which has not run yet.
    pub(super) fn cloned(&self, parent: &Task, child: &Task, flags: u64) {
        let has = |flag: i32| flags & u64::from(flag as u32) != 0;
        if has(libc::CLONE_THREAD) || !child.space().is_mapped() {
            return;
        }
        // One changes its directory, and the other's is changed; or the mounts are its own.
        if has(libc::CLONE_FS) {
            self.end(parent);
        }
        if has(libc::CLONE_FS) || has(libc::CLONE_NEWNS) {
            self.end(child);
        }
    }

    /// Before a call is answered: begins to note what it searches.
    pub(super) fn watch(&self, call: &Call) {
        if call.task.space().is_mapped() && patch::is_looked_aside(call.number) {
            board::watch();
        }
    }

    /// After that, and before the task is told.
    pub(super) fn learn(&self, call: &Call, answer: &mut Answer, instruction: u64) {
        let searched = board::watched();
        let space = call.task.space();
        if !space.is_mapped() {
            return;
        }
        match answer {
            Answer::Error(error @ (Errno::NOENT | Errno::NOTDIR | Errno::INVAL)) => {
                if let Some(searched) = searched {
                    self.note(call, *error, &searched);
                }
            }
            Answer::Descriptor { fd, .. } if space.is_loader(instruction) => {
                if let Some(library) = self.library(fd) {
                    *fd = library;
                }
            }
            _ if changes_view(call.number) => {
                // Where the memory has other users, they would see with our eyes.
                let alone = space.is_alone() && (changes_directory(call.number) || !call.task.has_threads());
                if !alone || call.task.memory().write(VIEWS, &self.views_of(&call.task)).is_err() {
                    self.end(&call.task);
                }
            }
            _ => {}
        }
    }

    /// The processes that share this one's memory ask the supervisor from now on.
    pub(super) fn end(&self, task: &Task) {
        task.space().forget();
        let _ = task.memory().write(VIEWS, &[0; 8]);
    }

    fn note(&self, call: &Call, error: Errno, searched: &board::Searched) {
        let Some((dir, path, class)) = question(call) else { return };
        let is_open = matches!(call.number, libc::SYS_open | libc::SYS_openat);
        let is_of_path = match error {
            Errno::NOENT => true,
            // Of an open it may be what the flags ask for.
            Errno::NOTDIR => !is_open,
            _ => class == Class::ReadsLink,
        };
        if !is_of_path {
            return;
        }
        let Ok(path) = call.task.memory().read_path(path) else { return };
        let [absolute, relative] = self.views.of(&call.task);
        let view = match path.first() {
            Some(b'/') => absolute,
            Some(_) if dir == libc::AT_FDCWD => relative,
            _ => 0,
        };
        if view != 0 {
            self.board.put(view, class, &path, searched, error);
        }
    }

    /// What the loader gets in place of a C library.
    fn library(&self, fd: &OwnedFd) -> Option<OwnedFd> {
        let stat = fstat(fd).ok()?;
        let key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec as i64);
        let mut known = self.libraries.lock().unwrap_or_else(PoisonError::into_inner);
        let library = known.entry(key).or_insert_with(|| patched(fd, stat.st_size as u64).ok().flatten());
        library.as_ref().and_then(|library| to_read(library).ok())
    }
}

fn memfd(name: &str) -> Result<OwnedFd, Errno> {
    memfd_create(format!("rbuild-{name}"), MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
}

/// An open file of its own that may only be read.
fn to_read(file: &OwnedFd) -> Result<OwnedFd, Errno> {
    open(format!("/proc/self/fd/{}", file.as_raw_fd()), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// The changed copy of a library; none where it cannot be changed.
fn patched(fd: &OwnedFd, size: u64) -> Result<Option<OwnedFd>, Errno> {
    let head = elf::head(fd)?;
    if !elf::is_elf(&head) || size > LARGEST_LIBRARY {
        return Ok(None);
    }
    let parsed = elf::parse(fd, &head)?;
    let mut bytes = vec![0; size as usize];
    let mut read = 0;
    while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match pread(fd, rest, read as u64)? {
            0 => return Ok(None),
            length => read += length,
        }
    }
    if !patch::patch(&mut bytes, &parsed) {
        return Ok(None);
    }
    let file = memfd("library")?;
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        written += pwrite(&file, rest, written as u64)?;
    }
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(Some(file))
}

/// The directory, the address of the path and what is asked, where the code would look it up: arguments that it leaves
/// to the kernel are not learned from.
fn question(call: &Call) -> Option<(i32, u64, Class)> {
    let [a, b, c, d, ..] = call.args;
    let creates = (libc::O_CREAT | libc::O_NOFOLLOW | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u64;
    let by_flags = |flags: u64, allowed: i32| {
        let flags = flags as u32 as i32;
        let class = if flags & libc::AT_SYMLINK_NOFOLLOW == 0 { Class::Follows } else { Class::Stays };
        (flags & !(libc::AT_SYMLINK_NOFOLLOW | allowed) == 0).then_some(class)
    };
    let plain = |condition: bool, class| condition.then_some(class);
    let (dir, path, class) = match call.number {
        libc::SYS_readlink => (libc::AT_FDCWD, a, plain(c as i32 > 0, Class::ReadsLink)),
        libc::SYS_stat => (libc::AT_FDCWD, a, Some(Class::Follows)),
        libc::SYS_lstat => (libc::AT_FDCWD, a, Some(Class::Stays)),
        libc::SYS_access => (libc::AT_FDCWD, a, plain(b & 0xffff_fff8 == 0, Class::Follows)),
        libc::SYS_open => (libc::AT_FDCWD, a, plain(b & creates == 0, Class::Follows)),
        libc::SYS_newfstatat => (a as i32, b, by_flags(d, libc::AT_NO_AUTOMOUNT)),
        libc::SYS_openat => (a as i32, b, plain(c & creates == 0, Class::Follows)),
        libc::SYS_faccessat => (a as i32, b, plain(c & 0xffff_fff8 == 0, Class::Follows)),
        libc::SYS_faccessat2 if c & 0xffff_fff8 == 0 => (a as i32, b, by_flags(d, libc::AT_EACCESS)),
        libc::SYS_readlinkat => (a as i32, b, plain(d as i32 > 0, Class::ReadsLink)),
        libc::SYS_statx if d as i32 >= 0 => (a as i32, b, by_flags(c, libc::AT_NO_AUTOMOUNT)),
        _ => return None,
    };
    Some((dir, path, class?))
}

fn changes_directory(number: i64) -> bool {
    matches!(number, libc::SYS_chdir | libc::SYS_fchdir)
}

/// Whether a call may change from where or as whom a task looks.
fn changes_view(number: i64) -> bool {
    changes_directory(number)
        || matches!(
            number,
            libc::SYS_chroot
                | libc::SYS_pivot_root
                | libc::SYS_unshare
                | libc::SYS_setns
                | libc::SYS_setuid
                | libc::SYS_setgid
                | libc::SYS_setreuid
                | libc::SYS_setregid
                | libc::SYS_setgroups
                | libc::SYS_setresuid
                | libc::SYS_setresgid
                | libc::SYS_setfsuid
                | libc::SYS_setfsgid
                | libc::SYS_capset
                | libc::SYS_prctl
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_supervisor_writes() {
        let file = Lookaside::new().unwrap().file().unwrap();
        assert_eq!(pwrite(&file, &[1], 0), Err(Errno::BADF));
        let again = open(format!("/proc/self/fd/{}", file.as_raw_fd()), OFlags::RDWR, Mode::empty()).unwrap();
        assert_eq!(pwrite(&again, &[1], 0), Err(Errno::PERM));
        assert_eq!(ftruncate(&again, 0), Err(Errno::PERM));
    }
}
