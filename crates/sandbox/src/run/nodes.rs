//! Device nodes that a command makes.
//!
//! Root of a user namespace may make none (mknod(2)), where root of a container may. What a command asks for is an empty
//! file that is recorded as the device, as those of unpacked layers are; it becomes the device in the layer.

use crate::{
    memory::Memory,
    root::{FileKind, record, xattr::Target},
    status::TaskStatus,
    sys::notify::{self, Notification},
};
use nix::libc;
use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    fs::{
        AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid, fchmod, fchown, fstat, major, minor, openat, openat2, unlinkat,
    },
    io::Errno,
    thread::CapabilitySet,
};
use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt};

const HANDLE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Answers one call that waits; whether there will be more. Who does not want to be asked again closes the listener, which
/// ends the call, too.
pub(super) fn answer(listener: BorrowedFd<'_>) -> bool {
    let Ok(Some(call)) = notify::receive(listener) else { return true };
    let [a, b, c, d, ..] = call.args;
    if call.number == libc::SYS_prctl {
        return false;
    }
    let (dir, path, mode, device) = match call.number {
        libc::SYS_mknodat => (a as i32, b, c as u32, d),
        _ => (libc::AT_FDCWD, a, b as u32, c),
    };
    // A whiteout of an overlay is nobody's but the kernel's to refuse.
    let answered = if device as u32 == 0 {
        notify::go_on(listener, call.id)
    } else {
        let result = make(listener, &call, dir, path, mode, u64::from(device as u32));
        notify::answer(listener, call.id, result.map(|()| 0))
    };
    if let Err(errno) = answered {
        tracing::debug!("a process that makes a device is gone: {errno}");
    }
    true
}

/// The ids of a process in the pid namespace of `/proc` and in each one inside, the last its own.
fn ids(status: TaskStatus) -> Option<Vec<u32>> {
    status.numbers("NSpid")
}

/// The id that a thread has in `/proc`, which may be that of a pid namespace around this one. Such calls are rare, so
/// that looking at all processes does no harm.
fn id_in_proc(tid: u32) -> Option<u32> {
    let own = ids(TaskStatus::own()?)?;
    let (level, own) = (own.len().checked_sub(1)?, *own.first()?);
    if level == 0 {
        return Some(tid);
    }
    let numbers = |dir: &str| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).collect::<Vec<_>>()
    };
    let is_below_own = |mut pid: u32| {
        while pid > 1 {
            if pid == own {
                return true;
            }
            pid = TaskStatus::of(pid).and_then(|status| status.number("PPid")).unwrap_or(0);
        }
        false
    };
    let processes = numbers("/proc")
        .into_iter()
        .filter(|pid| TaskStatus::of(*pid).and_then(ids).is_some_and(|ids| ids.len() > level));
    processes
        .filter(|pid| is_below_own(*pid))
        .flat_map(|pid| numbers(&format!("/proc/{pid}/task")))
        .find(|thread| TaskStatus::of(*thread).and_then(|status| ids(status)?.get(level).copied()) == Some(tid))
}

/// What of a thread decides what it may make, and how.
struct Maker {
    uid: u32,
    gid: u32,
    capabilities: CapabilitySet,
    umask: u32,
}

impl Maker {
    fn new(status: &TaskStatus) -> Option<Self> {
        // The fourth is that for files.
        let id = |name| status.numbers(name)?.get(3).copied();
        Some(Self {
            uid: id("Uid")?,
            gid: id("Gid")?,
            capabilities: CapabilitySet::from_bits_retain(status.bits("CapEff")?),
            umask: status.umask()?,
        })
    }
}

fn make(
    listener: BorrowedFd<'_>,
    call: &Notification,
    dir: i32,
    path: u64,
    mode: u32,
    device: u64,
) -> Result<(), Errno> {
    let id = id_in_proc(call.tid).ok_or(Errno::SRCH)?;
    let path = Memory::of(call.tid).read_path(path)?;
    if path.is_empty() {
        return Err(Errno::NOENT);
    }
    let open = |link: &str| rustix::fs::open(format!("/proc/{id}/{link}"), HANDLE, Mode::empty());
    let root = open("root")?;
    let base = match dir {
        _ if path.starts_with(b"/") => None,
        libc::AT_FDCWD => Some(open("cwd")?),
        fd => Some(open(&format!("fd/{fd}")).map_err(|errno| if errno == Errno::NOENT { Errno::BADF } else { errno })?),
    };
    let maker = TaskStatus::of(id).and_then(|status| Maker::new(&status)).ok_or(Errno::SRCH)?;
    // All of it was of the thread that waits, and not of another one with its id.
    if !notify::is_waiting(listener, call.id) {
        return Err(Errno::SRCH);
    }

    let (above, name) = split(&path);
    let above = open_above(&root, base, above)?;
    if name.is_empty() || name == b"." || name == b".." {
        return Err(Errno::EXIST);
    }
    let name = OsStr::from_bytes(name);
    let needed = CapabilitySet::MKNOD | CapabilitySet::DAC_OVERRIDE | CapabilitySet::CHOWN;
    if !maker.capabilities.contains(needed) {
        let there = rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        return Err(if there { Errno::EXIST } else { Errno::PERM });
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&above, name, flags, Mode::empty())?;
    finish(&file, &maker, mode, device).inspect_err(|_| {
        let _ = unlinkat(&above, name, AtFlags::empty());
    })
}

/// Makes a new file stand for a device.
fn finish(file: &OwnedFd, maker: &Maker, mode: u32, device: u64) -> Result<(), Errno> {
    let kind = if mode & libc::S_IFMT == libc::S_IFBLK { FileKind::BlockDevice } else { FileKind::CharDevice };
    let number = (major(device), minor(device));
    match record::write_device(Target::Open(file.as_fd()), kind, number, true) {
        Err(Errno::OPNOTSUPP) => return Err(Errno::PERM),
        other => other?,
    }
    // Its group is that of the directory where that says so (set-group-id).
    if maker.uid != 0 || maker.gid != 0 {
        let group = fstat(file)?.st_gid == 0;
        fchown(file, Some(Uid::from_raw(maker.uid)), group.then(|| Gid::from_raw(maker.gid)))?;
    }
    fchmod(file, Mode::from_raw_mode(mode & 0o7777 & !maker.umask))
}

/// The directory and the last part of a path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (path.get(..=slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default()),
        None => (b".", path),
    }
}

/// The directory in which something is made, found as the process would: links and `..` stay in its root.
fn open_above(root: &OwnedFd, base: Option<OwnedFd>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let Some(base) = base else {
        return openat2(root, OsStr::from_bytes(path), HANDLE, Mode::empty(), ResolveFlags::IN_ROOT);
    };
    let flags = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match openat2(&base, OsStr::from_bytes(path), HANDLE, Mode::empty(), flags) {
        // It climbs, or a link is absolute: from the root then, by the path that the kernel tells.
        Err(Errno::XDEV) => {
            let inside =
                |path: &[u8]| openat2(root, OsStr::from_bytes(path), HANDLE, Mode::empty(), ResolveFlags::IN_ROOT);
            let whole = rustix::fs::readlink(format!("/proc/self/fd/{}", base.as_raw_fd()), Vec::new())?.into_bytes();
            let id = |fd: &OwnedFd| fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
            // After chroot(2) the path is not the one that the process would use.
            if id(&inside(&whole)?)? != id(&base)? {
                return Err(Errno::PERM);
            }
            inside(&[&whole, &b"/"[..], path].concat())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split() {
        for (path, above, name) in
            [("a", ".", "a"), ("/a", "/", "a"), ("b/../a", "b/../", "a"), ("b/", "b/", ""), ("/", "/", "")]
        {
            assert_eq!(split(path.as_bytes()), (above.as_bytes(), name.as_bytes()), "{path}");
        }
    }

    #[test]
    fn makers_are_read() {
        let status = "Umask:\t0022\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nCapEff:\t00000000a80425fb\n";
        let maker = Maker::new(&status.into()).unwrap();
        assert_eq!((maker.uid, maker.gid, maker.umask, maker.capabilities.bits()), (4, 8, 0o22, 0xa804_25fb));
        assert!(Maker::new(&"Uid:\t1\n".into()).is_none());
    }
}
