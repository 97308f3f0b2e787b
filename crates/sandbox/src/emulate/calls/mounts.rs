//! mount(2), umount(2), pivot_root(2), and what file systems can be mounted.

use super::{
    CWD, DONE, Outcome,
    caller::{Caller, Target, lock},
    capabilities::SYS_ADMIN,
    objects::{Created, Setting, Within},
};
use crate::emulate::vfs::{FileSystem, Found, MountFlags, Place};
use nix::libc;
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
};

pub(super) fn may_mount(caller: &Caller<'_>) -> Result<(), Errno> {
    if caller.may(SYS_ADMIN) { Ok(()) } else { Err(Errno::PERM) }
}

const PROPAGATION: u64 = libc::MS_SHARED | libc::MS_PRIVATE | libc::MS_SLAVE | libc::MS_UNBINDABLE;
/// The first half of the flags may hold this, of old.
const MAGIC: u64 = 0xc0ed_0000;
const MAGIC_MASK: u64 = 0xffff_0000;
const PAGE: usize = 4096;

/// MS_* as flags of a mount.
fn mount_flags(flags: u64) -> MountFlags {
    MountFlags {
        read_only: flags & libc::MS_RDONLY != 0,
        noexec: flags & libc::MS_NOEXEC != 0,
        nosuid: flags & libc::MS_NOSUID != 0,
        nodev: flags & libc::MS_NODEV != 0,
    }
}

/// All that are not set.
fn not(flags: MountFlags) -> MountFlags {
    MountFlags { read_only: !flags.read_only, noexec: !flags.noexec, nosuid: !flags.nosuid, nodev: !flags.nodev }
}

/// A string argument that may be missing.
fn optional(caller: &Caller<'_>, address: u64) -> Result<Option<Vec<u8>>, Errno> {
    if address == 0 { Ok(None) } else { caller.memory.read_string(address, PAGE).map(Some) }
}

pub(super) fn mount(caller: &Caller<'_>, [source, target, kind, flags, data, _]: [u64; 6]) -> Outcome {
    let flags = if flags & MAGIC_MASK == MAGIC { flags & !MAGIC_MASK } else { flags };
    let kind = optional(caller, kind)?;
    let source = optional(caller, source)?;
    // Options of this kind are text, of at most a page.
    let data = if flags & (libc::MS_BIND | libc::MS_MOVE | PROPAGATION) == 0 { optional(caller, data)? } else { None };
    let point = caller.place(CWD, target, true)?;
    may_mount(caller)?;
    let recursive = flags & libc::MS_REC != 0;
    let set = mount_flags(flags);
    if flags & libc::MS_REMOUNT != 0 {
        // Both the mount and its file system; what is not said is taken off.
        let clear = if flags & libc::MS_BIND != 0 {
            not(set)
        } else {
            MountFlags { read_only: !set.read_only, ..MountFlags::default() }
        };
        caller.namespace.set_flags(&point, set, clear, false)?;
        return Ok(DONE);
    }
    if flags & libc::MS_BIND != 0 {
        let source = source.filter(|path| !path.is_empty()).ok_or(Errno::INVAL)?;
        let source = caller.find(CWD, &source, true)?.place(Errno::INVAL)?;
        let copy = caller.namespace.copy_tree(&source, recursive)?;
        return attach(caller, &copy, &point);
    }
    if flags & PROPAGATION != 0 {
        // Nothing is shared with anybody.
        return Ok(DONE);
    }
    if flags & libc::MS_MOVE != 0 {
        let source = source.filter(|path| !path.is_empty()).ok_or(Errno::INVAL)?;
        let source = caller.find(CWD, &source, true)?.place(Errno::INVAL)?;
        return move_place(caller, &source, &point);
    }
    let kind = kind.ok_or(Errno::INVAL)?;
    let mut settings = Vec::new();
    for option in data.unwrap_or_default().split(|byte| *byte == b',').filter(|option| !option.is_empty()) {
        let mut parts = option.splitn(2, |byte| *byte == b'=');
        let name = parts.next().unwrap_or_default();
        add_setting(caller, &kind, &mut settings, name, parts.next())?;
    }
    let created = create(caller, &kind, &settings).map_err(|(errno, _)| errno)?;
    let mounted = created.mount(caller, set)?;
    attach(caller, &mounted, &point)
}

/// A file is mounted on files, a directory on directories.
pub(super) fn attach(caller: &Caller<'_>, tree: &crate::emulate::vfs::Detached, point: &Place) -> Outcome {
    if tree.root().is_dir() != point.is_dir() {
        return Err(Errno::NOTDIR);
    }
    caller.namespace.attach(tree, point).map(|()| DONE)
}

pub(super) fn move_place(caller: &Caller<'_>, source: &Place, point: &Place) -> Outcome {
    let copy = caller.namespace.copy_tree(source, true)?;
    if copy.root().is_dir() != point.is_dir() {
        return Err(Errno::NOTDIR);
    }
    caller.namespace.detach(source)?;
    caller.namespace.attach(&copy, point).map(|()| DONE)
}

/// Names of the options of an overlay that are directories.
const LAYERS: [&[u8]; 2] = [b"lowerdir", b"lowerdir+"];

/// Adds an option; what it names is looked up now, as the caller sees it now.
pub(super) fn add_setting(
    caller: &Caller<'_>,
    kind: &[u8],
    settings: &mut Vec<Setting>,
    name: &[u8],
    value: Option<&[u8]>,
) -> Result<(), Errno> {
    if kind != b"overlay" || !(LAYERS.contains(&name) || name == b"upperdir" || name == b"workdir") {
        settings.push(Setting { name: name.to_vec(), value: value.map(<[u8]>::to_vec), place: None });
        return Ok(());
    }
    let value = value.ok_or(Errno::INVAL)?;
    let paths: Vec<&[u8]> = if name == b"lowerdir" { value.split(|byte| *byte == b':').collect() } else { vec![value] };
    let name = if LAYERS.contains(&name) { b"lowerdir" } else { name };
    for path in paths {
        let place = match caller.look_up(CWD, path, true)? {
            Found::File(place) => place,
            Found::Missing { .. } => return Err(Errno::NOENT),
            Found::Descriptor(_) => return Err(Errno::NOTDIR),
        };
        if !place.is_dir() {
            return Err(Errno::NOTDIR);
        }
        settings.push(Setting { name: name.to_vec(), value: None, place: Some(place) });
    }
    Ok(())
}

fn number(setting: &Setting, radix: u32) -> Option<u32> {
    let text = std::str::from_utf8(setting.value.as_deref()?).ok()?;
    u32::from_str_radix(text.trim(), radix).ok()
}

/// The size of a memory file system: a number with a unit. Of a part of the memory nothing is said.
fn size(setting: &Setting) -> Option<u64> {
    let text = std::str::from_utf8(setting.value.as_deref()?).ok()?.trim().to_ascii_lowercase();
    let (number, shift) = match text.as_bytes().last()? {
        b'k' => (text.strip_suffix('k')?, 10),
        b'm' => (text.strip_suffix('m')?, 20),
        b'g' => (text.strip_suffix('g')?, 30),
        _ => (text.as_str(), 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|size| *size > 0)
}

/// `linux/magic.h`.
const SYSFS_MAGIC: u64 = 0x6265_6572;

/// Makes a file system of a kind and its options; an error says why.
pub(super) fn create(caller: &Caller<'_>, kind: &[u8], settings: &[Setting]) -> Result<Created, (Errno, &'static str)> {
    let read_only = settings.iter().any(|setting| setting.name == b"ro");
    // What of the machine is covered or read-only in the mounts that were there must not be had anew.
    if caller.namespace.is_limited() && matches!(kind, b"proc" | b"sysfs" | b"cgroup2") {
        return Err((Errno::PERM, "it would show more than the one that is mounted"));
    }
    let temporary = |mode, size| FileSystem::Temporary { backing: caller.kernel.scratch.clone(), mode, size };
    let host = |path: &str, is_proc: bool, within: Option<Within>| {
        let root = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let root = root.map_err(|_| (Errno::NODEV, "there is none to be shown"))?;
        let file_system = FileSystem::Host { root, path: PathBuf::from(path), is_proc };
        Ok(Created { file_system, read_only, owner: None, within })
    };
    match kind {
        b"overlay" => {
            overlay(settings).map(|file_system| Created { file_system, read_only, owner: None, within: None })
        }
        b"tmpfs" | b"ramfs" => {
            let of = |name: &[u8], radix| {
                settings.iter().rev().find(|setting| setting.name == name).and_then(|setting| number(setting, radix))
            };
            let mode = of(b"mode", 8).map_or(0o1777, |mode| mode & 0o7777);
            let size = settings.iter().rev().find(|setting| setting.name == b"size").and_then(size);
            let file_system = temporary(mode, size);
            let (uid, gid) = (of(b"uid", 10), of(b"gid", 10));
            let owner = (uid.is_some() || gid.is_some()).then(|| (uid.unwrap_or(u32::MAX), gid.unwrap_or(u32::MAX)));
            Ok(Created { file_system, read_only, owner, within: None })
        }
        b"proc" => host("/proc", true, None),
        b"sysfs" => {
            let lonely = *lock(&caller.task.network_none);
            if rustix::fs::statfs("/sys").is_ok_and(|found| found.f_type as u64 == SYSFS_MAGIC) {
                return host("/sys", false, lonely.then_some(Within::Loopback));
            }
            let within = Some(Within::Interfaces { lonely });
            Ok(Created { file_system: temporary(0o755, None), read_only, owner: None, within })
        }
        b"devpts" => host("/dev/pts", false, Some(Within::Terminals)),
        // The queues themselves are reached by calls of their own.
        b"mqueue" => Ok(Created { file_system: temporary(0o1777, None), read_only, owner: None, within: None }),
        b"cgroup2" => host("/sys/fs/cgroup", false, None),
        _ => Err((Errno::NODEV, "no such file system is emulated")),
    }
}

/// Whether [`create`] knows it.
pub(super) fn is_known(kind: &[u8]) -> bool {
    match kind {
        b"overlay" | b"tmpfs" | b"ramfs" | b"proc" | b"sysfs" | b"mqueue" => true,
        b"devpts" => Path::new("/dev/pts").exists(),
        b"cgroup2" => Path::new("/sys/fs/cgroup").exists(),
        _ => false,
    }
}

fn overlay(settings: &[Setting]) -> Result<FileSystem, (Errno, &'static str)> {
    let (mut lower, mut upper) = (Vec::new(), None);
    let mut has_work = false;
    for setting in settings {
        let Some(place) = &setting.place else { continue };
        // A directory of an overlay is many, of which only that overlay knows.
        if place.is_in_overlay() {
            return Err((Errno::INVAL, "a layer is in an overlay"));
        }
        if setting.name != b"lowerdir" && place.is_read_only() {
            return Err((Errno::INVAL, "upper fs is r/o, try multi-lower layers mount"));
        }
        let open = |write| place.real(write).map_err(|errno| (errno, "a directory cannot be opened"));
        match setting.name.as_slice() {
            b"lowerdir" => lower.push(open(false)?),
            b"upperdir" => upper = Some(open(true)?),
            _ => has_work = true,
        }
    }
    if lower.is_empty() && upper.is_none() {
        return Err((Errno::INVAL, "missing 'lowerdir'"));
    }
    if upper.is_some() && !has_work {
        return Err((Errno::INVAL, "missing 'workdir'"));
    }
    if upper.is_none() && lower.len() < 2 {
        return Err((Errno::INVAL, "at least 2 lowerdir are needed while upperdir nonexistent"));
    }
    Ok(FileSystem::Overlay { lower, upper })
}

pub(super) fn umount(caller: &Caller<'_>, path: u64, flags: i32) -> Outcome {
    let known = libc::MNT_FORCE | libc::MNT_DETACH | libc::MNT_EXPIRE | libc::UMOUNT_NOFOLLOW;
    if flags & !known != 0 {
        return Err(Errno::INVAL);
    }
    let place = caller.place(CWD, path, flags & libc::UMOUNT_NOFOLLOW == 0)?;
    may_mount(caller)?;
    if flags & libc::MNT_EXPIRE != 0 {
        return Err(Errno::AGAIN);
    }
    caller.namespace.detach(&place).map(|()| DONE)
}

pub(super) fn pivot_root(caller: &Caller<'_>, new: u64, old: u64) -> Outcome {
    may_mount(caller)?;
    let directory = |address| {
        let path = caller.memory.read_path(address)?;
        match caller.find(CWD, &path, true)? {
            Target::Place(place) if place.is_dir() => Ok(place),
            _ => Err(Errno::NOTDIR),
        }
    };
    let (new, old) = (directory(new)?, directory(old)?);
    let old_root = caller.fs.root.clone();
    caller.namespace.pivot(&new, &old)?;
    // All who were in the old root are in the new one now.
    let tasks: Vec<_> =
        caller.kernel.tasks.read().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect();
    for task in tasks {
        if !Arc::ptr_eq(&lock(&task.namespace), &caller.namespace) {
            continue;
        }
        let fs = lock(&task.fs);
        let mut fs = lock(&fs);
        if fs.root.same(&old_root) {
            fs.root = new.clone();
        }
        if fs.cwd.same(&old_root) {
            fs.cwd = new.clone();
        }
    }
    Ok(DONE)
}
