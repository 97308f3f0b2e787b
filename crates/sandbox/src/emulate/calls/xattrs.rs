//! Extended attributes.

use super::{
    Answer, CWD, DONE, Outcome,
    caller::{Caller, Target},
    int,
    table::new,
    uint,
};
use crate::emulate::vfs::Place;
use nix::libc;
use rustix::io::Errno;

/// `XATTR_NAME_MAX` and its NUL.
const NAME: usize = 256;
/// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX`.
const MAX: u64 = 65536;

/// What is done with an attribute, and where in memory what is for it.
enum Action {
    Get { name: u64, value: u64, size: u64 },
    Set { name: u64, value: u64, size: u64, flags: u32 },
    List { list: u64, size: u64 },
    Remove { name: u64 },
}

pub(super) fn xattr(caller: &Caller<'_>, number: i64, [file, a, b, c, d, _]: [u64; 6]) -> Outcome {
    let action = match number {
        libc::SYS_getxattr | libc::SYS_lgetxattr | libc::SYS_fgetxattr => Action::Get { name: a, value: b, size: c },
        libc::SYS_setxattr | libc::SYS_lsetxattr | libc::SYS_fsetxattr => {
            Action::Set { name: a, value: b, size: c, flags: uint(d) }
        }
        libc::SYS_listxattr | libc::SYS_llistxattr | libc::SYS_flistxattr => Action::List { list: a, size: b },
        _ => Action::Remove { name: a },
    };
    let find = || match number {
        libc::SYS_fgetxattr | libc::SYS_fsetxattr | libc::SYS_flistxattr | libc::SYS_fremovexattr => {
            caller.descriptor(int(file))
        }
        libc::SYS_lgetxattr | libc::SYS_lsetxattr | libc::SYS_llistxattr | libc::SYS_lremovexattr => {
            caller.find_at(CWD, file, libc::AT_SYMLINK_NOFOLLOW)
        }
        _ => caller.find_at(CWD, file, 0),
    };
    action.perform(caller, find)
}

/// `struct xattr_args`.
const ARGS: usize = 16;

/// setxattrat, getxattrat, listxattrat and removexattrat.
pub(super) fn xattr_at(caller: &Caller<'_>, number: i64, [dir, path, flags, a, b, c]: [u64; 6]) -> Outcome {
    let flags = int(flags);
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::INVAL);
    }
    let arguments = || {
        if c < ARGS as u64 {
            return Err(Errno::INVAL);
        }
        let mut bytes = [0; ARGS];
        caller.memory.read(b, &mut bytes)?;
        let half =
            |at: usize| bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_ne_bytes);
        Ok((u64::from(half(0)) | u64::from(half(4)) << 32, u64::from(half(8)), half(12)))
    };
    let action = match number {
        new::GETXATTRAT => {
            let (value, size, flags) = arguments()?;
            if flags != 0 {
                return Err(Errno::INVAL);
            }
            Action::Get { name: a, value, size }
        }
        new::SETXATTRAT => {
            let (value, size, flags) = arguments()?;
            Action::Set { name: a, value, size, flags }
        }
        new::LISTXATTRAT => Action::List { list: a, size: b },
        _ => Action::Remove { name: a },
    };
    action.perform(caller, || caller.find_at(int(dir), path, flags))
}

fn read_name(caller: &Caller<'_>, address: u64) -> Result<Vec<u8>, Errno> {
    match caller.memory.read_string(address, NAME) {
        Ok(name) if name.is_empty() || name.len() >= NAME => Err(Errno::RANGE),
        Err(Errno::NAMETOOLONG) => Err(Errno::RANGE),
        other => other,
    }
}

/// Gives a value to the caller, or its length alone where it asks with no buffer.
fn give(caller: &Caller<'_>, bytes: &[u8], to: u64, size: u64) -> Outcome {
    if size > 0 {
        if bytes.len() as u64 > size {
            return Err(Errno::RANGE);
        }
        if !bytes.is_empty() {
            caller.write(to, bytes)?;
        }
    }
    Ok(Answer::Return(bytes.len() as i64))
}

/// Access control lists (acl(5)), as attributes. A list that says no more than the mode does is the mode, as for the
/// kernel; no other can be set, since it would mean the real file.
const ACCESS_LIST: &[u8] = b"system.posix_acl_access";
const DEFAULT_LIST: &[u8] = b"system.posix_acl_default";
const LIST_VERSION: u32 = 2;
const USER_OBJ: u16 = 1;
const GROUP_OBJ: u16 = 4;
const OTHER: u16 = 0x20;

/// The entries of a list: tag and permissions.
fn entries(value: &[u8]) -> Option<Vec<(u16, u16)>> {
    if value.is_empty() {
        return Some(Vec::new());
    }
    let (head, rest) = value.split_at_checked(4)?;
    if u32::from_le_bytes(head.try_into().ok()?) != LIST_VERSION || rest.len() % 8 != 0 {
        return None;
    }
    let half =
        |entry: &[u8], at: usize| entry.get(at..at + 2).and_then(|it| it.try_into().ok()).map(u16::from_le_bytes);
    rest.chunks_exact(8).map(|entry| Some((half(entry, 0)?, half(entry, 2)?))).collect()
}

/// The permission bits that a list means; `None` where it says more than a mode can.
fn mode_of(entries: &[(u16, u16)]) -> Option<u32> {
    let mut mode = 0;
    for (tag, permissions) in entries {
        let shift = match *tag {
            USER_OBJ => 6,
            GROUP_OBJ => 3,
            OTHER => 0,
            _ => return None,
        };
        mode |= u32::from(*permissions & 7) << shift;
    }
    (entries.len() == 3).then_some(mode)
}

fn set_access_list(caller: &Caller<'_>, place: &Place, value: &[u8]) -> Outcome {
    let entries = entries(value).ok_or(Errno::INVAL)?;
    if !entries.is_empty() {
        let mode = mode_of(&entries).ok_or(Errno::OPNOTSUPP)?;
        place.chmod((place.stat()?.mode & 0o7000) | mode, &caller.who)?;
    }
    Ok(DONE)
}

impl Action {
    fn perform(self, caller: &Caller<'_>, find: impl FnOnce() -> Result<Target, Errno>) -> Outcome {
        let who = &caller.who;
        match self {
            Self::Get { name, value, size } => {
                let name = read_name(caller, name)?;
                give(caller, &find()?.place(Errno::OPNOTSUPP)?.get_xattr(&name, who)?, value, size)
            }
            Self::Set { name, value, size, flags } => {
                if flags & !(libc::XATTR_CREATE | libc::XATTR_REPLACE) as u32 != 0 {
                    return Err(Errno::INVAL);
                }
                let name = read_name(caller, name)?;
                if size > MAX {
                    return Err(Errno::TOOBIG);
                }
                let mut bytes = vec![0; size as usize];
                if size > 0 {
                    caller.memory.read(value, &mut bytes)?;
                }
                let place = find()?.place(Errno::OPNOTSUPP)?;
                match name.as_slice() {
                    ACCESS_LIST => set_access_list(caller, &place, &bytes),
                    // There is none to be taken away.
                    DEFAULT_LIST if entries(&bytes).is_some_and(|entries| entries.is_empty()) => Ok(DONE),
                    DEFAULT_LIST => Err(Errno::OPNOTSUPP),
                    _ => place.set_xattr(&name, &bytes, flags, who).map(|()| DONE),
                }
            }
            Self::List { list, size } => {
                let names = match find()? {
                    Target::Place(place) => place.list_xattr(who)?,
                    Target::Descriptor(_) => Vec::new(),
                };
                let bytes: Vec<u8> = names
                    .into_iter()
                    .flat_map(|mut name| {
                        name.push(0);
                        name
                    })
                    .collect();
                if bytes.len() as u64 > MAX {
                    return Err(Errno::TOOBIG);
                }
                give(caller, &bytes, list, size)
            }
            Self::Remove { name } => {
                let name = read_name(caller, name)?;
                let place = find()?.place(Errno::OPNOTSUPP)?;
                if matches!(name.as_slice(), ACCESS_LIST | DEFAULT_LIST) {
                    return Ok(DONE);
                }
                place.remove_xattr(&name, who).map(|()| DONE)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_are_modes() {
        let entry = |tag: u16, permissions: u16| {
            [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &u32::MAX.to_le_bytes()].concat()
        };
        let minimal = [&2u32.to_le_bytes()[..], &entry(1, 6), &entry(4, 4), &entry(0x20, 1)].concat();
        assert_eq!(mode_of(&entries(&minimal).unwrap()), Some(0o641));
        let more = [minimal.clone(), entry(2, 7)].concat();
        assert_eq!(mode_of(&entries(&more).unwrap()), None);
        assert_eq!(entries(&minimal[..27]), None);
        assert_eq!(entries(b"").unwrap(), []);
    }
}
