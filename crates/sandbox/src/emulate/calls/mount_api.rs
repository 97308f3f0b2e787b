//! The calls of the mount API of Linux 5.2: fsopen, fsconfig, fsmount, move_mount, open_tree, mount_setattr.

use super::{
    Answer, CWD, DONE, Outcome,
    caller::{Caller, Target, lock},
    files::path_descriptor,
    mounts::{add_setting, attach, create, is_known, may_mount, move_place},
    objects::{Context, Kind, Object, Setting},
};
use crate::emulate::vfs::{Detached, MountFlags};
use nix::libc;
use rustix::{fd::OwnedFd, io::Errno};
use std::sync::{Arc, Mutex};

/// `linux/mount.h`.
const CLOSE_ON_EXEC: u32 = 1;
const SET_FLAG: u32 = 0;
const SET_STRING: u32 = 1;
const SET_PATH: u32 = 3;
const SET_PATH_EMPTY: u32 = 4;
const SET_FD: u32 = 5;
const CREATE: u32 = 6;
const RECONFIGURE: u32 = 7;
const CREATE_EXCLUSIVE: u32 = 8;

const OPEN_TREE_CLONE: u32 = 1;
const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC as u32;
const AT_EMPTY_PATH: u32 = libc::AT_EMPTY_PATH as u32;
const AT_RECURSIVE: u32 = libc::AT_RECURSIVE as u32;
const AT_SYMLINK_NOFOLLOW: u32 = libc::AT_SYMLINK_NOFOLLOW as u32;
const AT_NO_AUTOMOUNT: u32 = libc::AT_NO_AUTOMOUNT as u32;

const FROM_FOLLOW: u32 = 0x1;
const FROM_EMPTY: u32 = 0x4;
const TO_FOLLOW: u32 = 0x10;
const TO_EMPTY: u32 = 0x40;
const MOVE_KNOWN: u32 = 0x377;

/// Keys of fsconfig.
const KEY: usize = 256;
const PAGE: usize = 4096;

fn object(caller: &Caller<'_>, fd: i32) -> Result<Option<Arc<Object>>, Errno> {
    if fd < 0 {
        return Err(Errno::BADF);
    }
    let status = rustix::fs::stat(caller.fd_path(fd)).map_err(|_| Errno::BADF)?;
    Ok(caller.calls.objects.get(&status))
}

fn descriptor(fd: OwnedFd, close_on_exec: bool) -> Outcome {
    Ok(Answer::Descriptor { fd, close_on_exec })
}

pub(super) fn fsopen(caller: &Caller<'_>, name: u64, flags: u32) -> Outcome {
    may_mount(caller)?;
    if flags & !CLOSE_ON_EXEC != 0 {
        return Err(Errno::INVAL);
    }
    let kind = caller.memory.read_string(name, PAGE)?;
    if !is_known(&kind) {
        return Err(Errno::NODEV);
    }
    let context = Context { kind, options: Vec::new(), created: None };
    let fd = caller.calls.objects.add(Kind::Context(Mutex::new(context)))?;
    descriptor(fd, flags & CLOSE_ON_EXEC != 0)
}

pub(super) fn fsconfig(caller: &Caller<'_>, fd: i32, command: u32, key: u64, value: u64, extra: i32) -> Outcome {
    let object = object(caller, fd)?.ok_or(Errno::INVAL)?;
    let Kind::Context(context) = &object.kind else { return Err(Errno::INVAL) };
    let mut context = lock(context);
    let context = &mut *context;
    match command {
        SET_FLAG | SET_STRING | SET_PATH | SET_PATH_EMPTY | SET_FD => {
            let name = caller.memory.read_string(key, KEY)?;
            if context.created.is_some() {
                return Err(Errno::BUSY);
            }
            let set = match command {
                SET_FLAG => add_setting(caller, &context.kind, &mut context.options, &name, None),
                SET_STRING => {
                    let value = caller.memory.read_string(value, PAGE)?;
                    add_setting(caller, &context.kind, &mut context.options, &name, Some(&value))
                }
                _ => {
                    let target = match command {
                        SET_FD => caller.descriptor(extra)?,
                        SET_PATH => caller.find_at(extra, value, 0)?,
                        _ => caller.find_at(extra, value, libc::AT_EMPTY_PATH)?,
                    };
                    let place = Some(target.place(Errno::NOTDIR)?);
                    let name = if name == b"lowerdir+" { b"lowerdir".to_vec() } else { name };
                    context.options.push(Setting { name, value: None, place });
                    Ok(())
                }
            };
            set.inspect_err(|_| object.tell("a directory cannot be found")).map(|()| DONE)
        }
        CREATE | CREATE_EXCLUSIVE => {
            may_mount(caller)?;
            if context.created.is_some() {
                return Err(Errno::BUSY);
            }
            let created = create(caller, &context.kind, &context.options).map_err(|(errno, why)| {
                object.tell(&format!("{}: {why}", String::from_utf8_lossy(&context.kind)));
                errno
            })?;
            context.created = Some(created);
            Ok(DONE)
        }
        RECONFIGURE => Ok(DONE),
        _ => Err(Errno::OPNOTSUPP),
    }
}

/// MOUNT_ATTR_* as flags of a mount.
fn attributes(bits: u64) -> MountFlags {
    MountFlags {
        read_only: bits & libc::MOUNT_ATTR_RDONLY != 0,
        noexec: bits & libc::MOUNT_ATTR_NOEXEC != 0,
        nosuid: bits & libc::MOUNT_ATTR_NOSUID != 0,
        nodev: bits & libc::MOUNT_ATTR_NODEV != 0,
    }
}

/// Those above, of access times, and MOUNT_ATTR_NOSYMFOLLOW.
const ATTRIBUTES_KNOWN: u64 = 0xff | 0x20_0000;

pub(super) fn fsmount(caller: &Caller<'_>, fd: i32, flags: u32, bits: u32) -> Outcome {
    may_mount(caller)?;
    if flags & !CLOSE_ON_EXEC != 0 || u64::from(bits) & !ATTRIBUTES_KNOWN != 0 {
        return Err(Errno::INVAL);
    }
    let object = object(caller, fd)?.ok_or(Errno::INVAL)?;
    let Kind::Context(context) = &object.kind else { return Err(Errno::INVAL) };
    let created = lock(context).created.take().ok_or(Errno::INVAL)?;
    let mounted = created.mount(caller, attributes(u64::from(bits)))?;
    give(caller, mounted, flags & CLOSE_ON_EXEC != 0)
}

/// A descriptor for a mount that is attached nowhere.
fn give(caller: &Caller<'_>, mount: Detached, close_on_exec: bool) -> Outcome {
    descriptor(caller.calls.objects.add(Kind::Mount(mount))?, close_on_exec)
}

/// The mount that a descriptor is, where the path is empty.
fn detached(caller: &Caller<'_>, dir: i32, address: u64, empty: bool) -> Result<Option<Arc<Object>>, Errno> {
    if !empty || dir == CWD || !(address == 0 || caller.memory.read_path(address)?.is_empty()) {
        return Ok(None);
    }
    Ok(object(caller, dir)?.filter(|object| matches!(object.kind, Kind::Mount(_))))
}

fn at_flags(empty: bool, follow: bool) -> i32 {
    let empty = if empty { libc::AT_EMPTY_PATH } else { 0 };
    if follow { empty } else { empty | libc::AT_SYMLINK_NOFOLLOW }
}

pub(super) fn move_mount(caller: &Caller<'_>, from: (i32, u64), to: (i32, u64), flags: u32) -> Outcome {
    may_mount(caller)?;
    if flags & !MOVE_KNOWN != 0 {
        return Err(Errno::INVAL);
    }
    let point = caller.find_at(to.0, to.1, at_flags(flags & TO_EMPTY != 0, flags & TO_FOLLOW != 0))?;
    let point = point.place(Errno::INVAL)?;
    let from_empty = flags & FROM_EMPTY != 0;
    if let Some(object) = detached(caller, from.0, from.1, from_empty)?
        && let Kind::Mount(mount) = &object.kind
    {
        return attach(caller, mount, &point);
    }
    let source = caller.find_at(from.0, from.1, at_flags(from_empty, flags & FROM_FOLLOW != 0))?;
    move_place(caller, &source.place(Errno::INVAL)?, &point)
}

pub(super) fn open_tree(caller: &Caller<'_>, dir: i32, path: u64, flags: u32) -> Outcome {
    let known =
        AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_RECURSIVE | AT_SYMLINK_NOFOLLOW | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
    let clone = flags & OPEN_TREE_CLONE != 0;
    if flags & !known != 0 || (flags & AT_RECURSIVE != 0 && !clone) {
        return Err(Errno::INVAL);
    }
    if clone {
        may_mount(caller)?;
    }
    let target = caller.find_at(dir, path, at_flags(flags & AT_EMPTY_PATH != 0, flags & AT_SYMLINK_NOFOLLOW == 0))?;
    let place = match target {
        Target::Place(place) => place,
        Target::Descriptor(_) => return Err(Errno::INVAL),
    };
    let close_on_exec = flags & OPEN_TREE_CLOEXEC != 0;
    if clone {
        return give(caller, caller.namespace.copy_tree(&place, flags & AT_RECURSIVE != 0)?, close_on_exec);
    }
    descriptor(path_descriptor(caller, &place)?, close_on_exec)
}

/// `struct mount_attr`.
const ATTR_SIZE: usize = 32;

pub(super) fn mount_setattr(caller: &Caller<'_>, dir: i32, path: u64, flags: u32, attr: (u64, u64)) -> Outcome {
    if flags & !(AT_EMPTY_PATH | AT_RECURSIVE | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) != 0 {
        return Err(Errno::INVAL);
    }
    let (address, size) = attr;
    let size = usize::try_from(size).ok().filter(|size| *size <= PAGE).ok_or(Errno::TOOBIG)?;
    if size < ATTR_SIZE {
        return Err(Errno::INVAL);
    }
    may_mount(caller)?;
    let mut bytes = vec![0; size];
    caller.memory.read(address, &mut bytes)?;
    let (known, further) = bytes.split_at(ATTR_SIZE);
    if further.iter().any(|byte| *byte != 0) {
        return Err(Errno::TOOBIG);
    }
    let mut words = known.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default()));
    let mut word = || words.next().unwrap_or_default();
    let (set, clear) = (word(), word());
    if (set | clear) & !ATTRIBUTES_KNOWN != 0 {
        return Err(Errno::INVAL);
    }
    let (set, clear) = (attributes(set), attributes(clear));
    let (empty, recursive) = (flags & AT_EMPTY_PATH != 0, flags & AT_RECURSIVE != 0);
    if let Some(object) = detached(caller, dir, path, empty)?
        && let Kind::Mount(mount) = &object.kind
    {
        return mount.set_flags(set, clear, recursive).map(|()| DONE);
    }
    let place = caller.find_at(dir, path, at_flags(empty, flags & AT_SYMLINK_NOFOLLOW == 0))?.place(Errno::INVAL)?;
    caller.namespace.set_flags(&place, set, clear, recursive).map(|()| DONE)
}
