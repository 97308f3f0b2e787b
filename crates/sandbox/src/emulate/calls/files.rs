//! open(2) and its kin, mknod, readlink, truncate.

use super::{
    Answer, DONE, Outcome,
    caller::{Caller, Target},
    objects::Kind,
    walk,
};
use crate::emulate::vfs::{Found, Identity, Opened, Place};
use nix::libc;
use rustix::{
    fd::{AsRawFd, OwnedFd},
    fs::{CWD, Mode, OFlags},
    io::Errno,
};
use std::path::PathBuf;

const CREATE: u32 = libc::O_CREAT as u32;
const EXCLUSIVE: u32 = libc::O_EXCL as u32;
const PATH: u32 = libc::O_PATH as u32;
const DIRECTORY: u32 = libc::O_DIRECTORY as u32;
const NO_FOLLOW: u32 = libc::O_NOFOLLOW as u32;
const CLOSE_ON_EXEC: u32 = libc::O_CLOEXEC as u32;
/// The bit alone; O_TMPFILE has O_DIRECTORY as well.
const TMPFILE: u32 = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;
const ACCESS: u32 = libc::O_ACCMODE as u32;
/// The supervisor must never get a terminal by opening one.
const NO_TERMINAL: u32 = libc::O_NOCTTY as u32;

/// O_* as open and openat take them: what the kernel ignores is taken off.
const VALID: u32 = ACCESS
    | CREATE
    | EXCLUSIVE
    | NO_TERMINAL
    | (libc::O_TRUNC
        | libc::O_APPEND
        | libc::O_NONBLOCK
        | libc::O_SYNC
        | libc::O_ASYNC
        | libc::O_DIRECT
        | O_LARGEFILE
        | libc::O_NOATIME) as u32
    | DIRECTORY
    | NO_FOLLOW
    | CLOSE_ON_EXEC
    | PATH
    | TMPFILE;

/// `/dev/tty`: the controlling terminal of who opens it.
const TERMINAL: u64 = 5 << 8;
/// The terminals of devpts (`Documentation/admin-guide/devices.txt`).
const PSEUDO_TERMINALS: u32 = 136;

/// libc has 0 for it, as programs of 64 bits set it without asking.
const O_LARGEFILE: i32 = 0o100_000;

/// `struct open_how`.
const HOW_SIZE: usize = 24;
const PAGE: usize = 4096;

pub(super) fn open(caller: &Caller<'_>, dir: i32, path: u64, flags: u32, mode: u32) -> Outcome {
    let flags = flags & VALID;
    // Without a use for it, the mode is not looked at.
    let mode = if flags & (CREATE | TMPFILE) == 0 { 0 } else { mode & 0o7777 };
    let path = caller.memory.read_path(path)?;
    let (flags, mode) = check_flags(flags, mode)?;
    let found = match flags & CREATE {
        0 => caller.look_up(dir, &path, follows(flags))?,
        _ => {
            let base = caller.base_of(dir, &path)?;
            caller.namespace.resolve_to_create(&caller.start(&base), &path, follows(flags))?
        }
    };
    open_found(caller, found, &path, flags, mode)
}

pub(super) fn open2(caller: &Caller<'_>, dir: i32, path: u64, how: u64, size: u64) -> Outcome {
    let (flags, mode, resolve) = read_how(caller, how, size)?;
    if flags & !u64::from(VALID) != 0 || resolve & !walk::VALID != 0 {
        return Err(Errno::INVAL);
    }
    let flags = flags as u32;
    let uses_mode = flags & (CREATE | TMPFILE) != 0;
    if (!uses_mode && mode != 0) || mode & !0o7777 != 0 {
        return Err(Errno::INVAL);
    }
    if flags & PATH != 0 && flags & !(PATH | DIRECTORY | NO_FOLLOW | CLOSE_ON_EXEC) != 0 {
        return Err(Errno::INVAL);
    }
    let path = caller.memory.read_path(path)?;
    let (flags, mode) = check_flags(flags, mode as u32)?;
    let found = walk::look_up(caller, dir, &path, follows(flags), resolve)?;
    open_found(caller, found, &path, flags, mode)
}

fn read_how(caller: &Caller<'_>, address: u64, size: u64) -> Result<(u64, u64, u64), Errno> {
    let size = usize::try_from(size).map_err(|_| Errno::TOOBIG)?;
    if size < HOW_SIZE {
        return Err(Errno::INVAL);
    }
    if size > PAGE {
        return Err(Errno::TOOBIG);
    }
    let mut bytes = vec![0; size];
    caller.memory.read(address, &mut bytes)?;
    let (known, further) = bytes.split_at(HOW_SIZE);
    if further.iter().any(|byte| *byte != 0) {
        return Err(Errno::TOOBIG);
    }
    let mut words = known.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default()));
    let mut word = || words.next().unwrap_or_default();
    Ok((word(), word(), word()))
}

/// Refuses what the kernel refuses before it looks for the file.
fn check_flags(flags: u32, mode: u32) -> Result<(u32, u32), Errno> {
    if flags & TMPFILE != 0 {
        if flags & DIRECTORY == 0 || flags & CREATE != 0 || flags & ACCESS == 0 {
            return Err(Errno::INVAL);
        }
    } else if flags & (CREATE | DIRECTORY) == CREATE | DIRECTORY {
        return Err(Errno::INVAL);
    }
    let flags = if flags & PATH != 0 { flags & (PATH | DIRECTORY | NO_FOLLOW | CLOSE_ON_EXEC) } else { flags };
    Ok((flags, mode))
}

fn follows(flags: u32) -> bool {
    flags & NO_FOLLOW == 0 && flags & (CREATE | EXCLUSIVE) != CREATE | EXCLUSIVE
}

fn descriptor(fd: OwnedFd, flags: u32) -> Answer {
    Answer::Descriptor { fd, close_on_exec: flags & CLOSE_ON_EXEC != 0 }
}

fn open_found(caller: &Caller<'_>, found: Found, path: &[u8], flags: u32, mode: u32) -> Outcome {
    let mode = mode & !caller.fs.umask;
    match found {
        Found::File(place) => open_place(caller, &place, path, flags, mode),
        Found::Missing { parent, name, trailing_slash } if flags & CREATE != 0 => {
            if trailing_slash {
                return Err(Errno::ISDIR);
            }
            let created = parent.create(&name, flags | NO_TERMINAL, mode, &caller.who);
            match created {
                // Somebody else was faster.
                Err(Errno::EXIST) if flags & EXCLUSIVE == 0 => {
                    match caller.namespace.resolve(&caller.start(&parent), &name, follows(flags))? {
                        Found::File(place) => open_place(caller, &place, path, flags, mode),
                        _ => Err(Errno::NOENT),
                    }
                }
                other => Ok(descriptor(other?, flags)),
            }
        }
        Found::Missing { .. } => Err(Errno::NOENT),
        Found::Descriptor(path) => open_descriptor(path, flags),
    }
}

fn open_place(caller: &Caller<'_>, place: &Place, path: &[u8], flags: u32, mode: u32) -> Outcome {
    if flags & TMPFILE != 0 {
        if !place.is_dir() {
            return Err(Errno::NOTDIR);
        }
        let unnamed = place.create_unnamed(flags | NO_TERMINAL, mode, &caller.who)?;
        return Ok(descriptor(unnamed, flags));
    }
    if flags & CREATE != 0 {
        if flags & EXCLUSIVE != 0 {
            return Err(Errno::EXIST);
        }
        if path.last() == Some(&b'/') || place.is_dir() {
            return Err(Errno::ISDIR);
        }
    }
    if flags & DIRECTORY != 0 && !place.is_dir() {
        // A link that is not followed is told as what it is not.
        return Err(Errno::NOTDIR);
    }
    if flags & PATH != 0 {
        return Ok(descriptor(path_descriptor(caller, place)?, flags));
    }
    let opened = match place.open((flags & !CREATE) | NO_TERMINAL, &caller.who) {
        // The supervisor has no terminal of its own.
        Err(Errno::NXIO) if place.stat()?.rdev == TERMINAL => own_terminal(caller, flags).map(Opened::File),
        opened => opened,
    };
    match opened? {
        Opened::File(fd) => Ok(descriptor(fd, flags)),
        Opened::Blocking(fd) => Ok(later(PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())), flags, Some(fd))),
    }
}

/// The controlling terminal of the caller, if it is one of devpts.
fn own_terminal(caller: &Caller<'_>, flags: u32) -> Result<OwnedFd, Errno> {
    let status = std::fs::read_to_string(format!("/proc/{}/stat", caller.task.tid)).map_err(|_| Errno::NXIO)?;
    let number = terminal_of(&status).ok_or(Errno::NXIO)?;
    open_real(&PathBuf::from(format!("/dev/pts/{number}")), flags)
}

/// The number in devpts of the controlling terminal that `/proc/PID/stat` tells of (proc_pid_stat(5)).
fn terminal_of(status: &str) -> Option<u32> {
    let (_, fields) = status.rsplit_once(')')?;
    let device: u32 = fields.split_ascii_whitespace().nth(4)?.parse().ok()?;
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00));
    (major == PSEUDO_TERMINALS).then_some(minor)
}

/// O_PATH. The kernel passes no such descriptor on from another process (`SECCOMP_ADDFD`): a directory is opened for
/// reading instead, and of anything else the process gets a mere sign of it.
pub(super) fn path_descriptor(caller: &Caller<'_>, place: &Place) -> Result<OwnedFd, Errno> {
    if place.is_dir() {
        let anybody = Identity { capabilities: u64::MAX, ..caller.who.clone() };
        if let Ok(Opened::File(fd)) = place.open(DIRECTORY, &anybody) {
            return Ok(fd);
        }
    }
    caller.calls.objects.add(Kind::File(place.clone()))
}

/// What is behind a magic link is opened anew, as the kernel does; the path is that of the process that has it open.
fn open_descriptor(path: PathBuf, flags: u32) -> Outcome {
    if flags & (CREATE | EXCLUSIVE) == CREATE | EXCLUSIVE {
        return Err(Errno::EXIST);
    }
    if flags & TMPFILE != 0 {
        return Err(Errno::NOTDIR);
    }
    if flags & (PATH | NO_FOLLOW) == NO_FOLLOW {
        return Err(Errno::LOOP);
    }
    let status = rustix::fs::stat(&path)?;
    if rustix::fs::FileType::from_raw_mode(status.st_mode) == rustix::fs::FileType::Fifo && flags & PATH == 0 {
        return Ok(later(path, flags, None));
    }
    Ok(descriptor(open_real(&path, flags)?, flags))
}

fn open_real(path: &std::path::Path, flags: u32) -> Result<OwnedFd, Errno> {
    let flags = (flags & !(CREATE | EXCLUSIVE)) | NO_TERMINAL | CLOSE_ON_EXEC;
    rustix::fs::openat(CWD, path, OFlags::from_bits_retain(flags), Mode::empty())
}

/// The open of a FIFO waits for its other end.
fn later(path: PathBuf, flags: u32, keep: Option<OwnedFd>) -> Answer {
    Answer::Later(Box::new(move || {
        let opened = open_real(&path, flags & !NO_FOLLOW);
        drop(keep);
        match opened {
            Ok(fd) => descriptor(fd, flags),
            Err(errno) => Answer::Error(errno),
        }
    }))
}

pub(super) fn truncate(caller: &Caller<'_>, path: u64, length: i64) -> Outcome {
    let length = u64::try_from(length).map_err(|_| Errno::INVAL)?;
    let path = caller.memory.read_path(path)?;
    match caller.find(super::CWD, &path, true)? {
        Target::Place(place) if place.is_dir() => Err(Errno::ISDIR),
        Target::Place(place) => place.truncate(length, &caller.who).map(|()| DONE),
        Target::Descriptor(path) => {
            let fd = open_real(&path, libc::O_WRONLY as u32)?;
            rustix::fs::ftruncate(fd, length).map(|()| DONE)
        }
    }
}

pub(super) fn readlink(caller: &Caller<'_>, dir: i32, path: u64, buffer: u64, size: i32) -> Outcome {
    let size = usize::try_from(size).ok().filter(|size| *size > 0).ok_or(Errno::INVAL)?;
    let path = caller.memory.read_path(path)?;
    let target = match path.is_empty() {
        // An O_PATH descriptor of a link.
        true if dir != super::CWD => match caller.descriptor(dir)? {
            Target::Place(place) => place.read_link().map_err(|_| Errno::NOENT)?,
            Target::Descriptor(_) => return Err(Errno::NOENT),
        },
        true => return Err(Errno::NOENT),
        false => match caller.find(dir, &path, false)? {
            Target::Place(place) => place.read_link()?,
            Target::Descriptor(_) => return Err(Errno::INVAL),
        },
    };
    let length = target.len().min(size);
    caller.write(buffer, target.get(..length).unwrap_or_default())?;
    Ok(Answer::Return(length as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controlling_terminals() {
        let of = |device: u32| terminal_of(&format!("7 (a) b) S 1 7 7 {device} 7 4194304 100"));
        assert_eq!(of(136 << 8 | 3), Some(3));
        assert_eq!(of(1 << 20 | 136 << 8 | 2), Some(258));
        assert_eq!(of(0), None);
        assert_eq!(of(4 << 8 | 1), None);
        assert_eq!(terminal_of("7 (a"), None);
    }
}
