//! Modes, owners, access.

use super::{
    DONE, Outcome,
    caller::{Caller, Target, lock},
    capabilities,
};
use crate::emulate::vfs::Identity;
use nix::libc;
use rustix::{fs::Mode, io::Errno};

const LINK_OR_EMPTY: i32 = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
const ACCESS: u32 = (libc::R_OK | libc::W_OK | libc::X_OK) as u32;

pub(super) fn chmod(caller: &Caller<'_>, dir: i32, path: u64, mode: u32, flags: i32) -> Outcome {
    if flags & !LINK_OR_EMPTY != 0 {
        return Err(Errno::INVAL);
    }
    change_mode(caller, &caller.find_at(dir, path, flags)?, mode)
}

pub(super) fn fchmod(caller: &Caller<'_>, fd: i32, mode: u32) -> Outcome {
    change_mode(caller, &caller.descriptor(fd)?, mode)
}

fn change_mode(caller: &Caller<'_>, target: &Target, mode: u32) -> Outcome {
    let mode = mode & 0o7777;
    match target {
        Target::Place(place) => {
            if place.stat()?.mode & libc::S_IFMT == libc::S_IFLNK {
                return Err(Errno::OPNOTSUPP);
            }
            place.chmod(mode, &caller.who)?;
        }
        // A file without a name is the user's own, and stays readable to the supervisor. What a pipe or a socket shows
        // is of no use to anybody.
        Target::Descriptor(path) => {
            let _ = rustix::fs::chmod(path, Mode::from_raw_mode((mode & 0o777) | 0o600));
        }
    }
    Ok(DONE)
}

pub(super) fn chown(caller: &Caller<'_>, dir: i32, path: u64, owner: (u32, u32), flags: i32) -> Outcome {
    if flags & !LINK_OR_EMPTY != 0 {
        return Err(Errno::INVAL);
    }
    change_owner(caller, &caller.find_at(dir, path, flags)?, owner)
}

pub(super) fn fchown(caller: &Caller<'_>, fd: i32, owner: (u32, u32)) -> Outcome {
    change_owner(caller, &caller.descriptor(fd)?, owner)
}

fn change_owner(caller: &Caller<'_>, target: &Target, (uid, gid): (u32, u32)) -> Outcome {
    match target {
        Target::Place(place) => place.chown(uid, gid, &caller.who)?,
        // Who owns what has no name is remembered nowhere, and asked by nobody.
        Target::Descriptor(_) if uid == u32::MAX && gid == u32::MAX => {}
        Target::Descriptor(_) if caller.may(0) => {}
        Target::Descriptor(_) if uid == u32::MAX || uid == caller.who.uid => {}
        Target::Descriptor(_) => return Err(Errno::PERM),
    }
    Ok(DONE)
}

pub(super) fn access(caller: &Caller<'_>, dir: i32, path: u64, mode: u32, flags: i32) -> Outcome {
    if mode & !ACCESS != 0 || flags & !(LINK_OR_EMPTY | libc::AT_EACCESS) != 0 {
        return Err(Errno::INVAL);
    }
    // The lookup, too, is made with these ids.
    let real;
    let caller = if flags & libc::AT_EACCESS == 0 {
        let mut own = Caller::new(caller.calls, caller.kernel, caller.task);
        own.who = real_identity(caller);
        real = own;
        &real
    } else {
        caller
    };
    match caller.find_at(dir, path, flags)? {
        Target::Place(place) => place.access(mode, &caller.who)?,
        Target::Descriptor(path) => {
            let shown = super::stats::stat_descriptor(&path)?.mode;
            if mode & libc::X_OK as u32 != 0 && shown & 0o111 == 0 {
                return Err(Errno::ACCESS);
            }
        }
    }
    Ok(DONE)
}

/// The real ids, with the capabilities that a program of theirs would have.
fn real_identity(caller: &Caller<'_>) -> Identity {
    let it = lock(&caller.task.credentials);
    let capabilities = if it.securebits & capabilities::NO_SETUID_FIXUP != 0 {
        it.effective
    } else if it.uid[0] == 0 {
        it.permitted
    } else {
        0
    };
    Identity { uid: it.uid[0], gid: it.gid[0], groups: it.groups.clone(), capabilities }
}
