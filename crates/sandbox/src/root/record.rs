//! Records of what this process may not give to a file: foreign owners, device numbers, mode bits, capabilities.
//!
//! A record is an extended attribute in `user.rbuild.*`. Regular files and directories carry their own; the kernel
//! allows `user.*` attributes on no other type, so symbolic links, pipes and sockets are recorded in one attribute of
//! the directory that holds them. All reading and writing of records is in this module.
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

use super::metadata::{FileKind, Metadata};
use super::xattr::{self, Target};

/// `uid gid` or `uid gid mode`, decimal, the mode octal.
const OWNER: &str = "user.rbuild.owner";
/// `c major minor` or `b major minor` on an empty regular file that stands for a device.
const NODE: &str = "user.rbuild.node";
/// In a directory: `uid gid name`, for each name an entry that ends in NUL.
const OWNERS: &str = "user.rbuild.owners";
/// The value of `security.capability` where the kernel refuses the real one.
pub(crate) const CAPABILITY: &str = "user.rbuild.capability";

/// Before the rest of the name of a `trusted.*` attribute that the kernel refuses.
pub(crate) const TRUSTED: &str = "user.rbuild.trusted.";

/// On a directory of an overlay: some of its whiteouts are files with [`NODE`], where the kernel made no device.
pub(crate) const STAND_INS: &str = "user.rbuild.whiteouts";

/// How ownership is kept on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Files have their real owners: this process is root with all ids that occur, in a user namespace or outside.
    Real,
    /// This process has one id. Owners and modes that it may not give to a file are recorded beside it.
    Recorded,
}

impl Ownership {
    /// The way that fits this process: [`Ownership::Real`] if it is root over more than one user and group id.
    ///
    /// Reads `/proc/self/uid_map` and `gid_map` (user_namespaces(7)); without them it answers by the effective id.
    #[must_use]
    pub fn detect() -> Self {
        fn many(map: &str) -> bool {
            std::fs::read_to_string(map).map_or(true, |text| {
                let lengths = text.lines().filter_map(|line| {
                    line.split_ascii_whitespace().nth(2).and_then(|length| length.parse::<u64>().ok())
                });
                lengths.fold(0, u64::saturating_add) > 1
            })
        }
        let root = rustix::process::geteuid().is_root();
        if root && many("/proc/self/uid_map") && many("/proc/self/gid_map") {
            Ownership::Real
        } else {
            Ownership::Recorded
        }
    }
}

/// The place of a record: the file, or the directory and name of a file that cannot carry attributes.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    Own(Target<'a>),
    InDir(Target<'a>, &'a OsStr),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    uid: u32,
    gid: u32,
    mode: Option<u32>,
}

fn parse_owner(value: &[u8]) -> Option<Owner> {
    let text = std::str::from_utf8(value).ok()?;
    let mut words = text.split(' ');
    let uid = words.next()?.parse().ok()?;
    let gid = words.next()?.parse().ok()?;
    let mode = match words.next() {
        Some(mode) => Some(u32::from_str_radix(mode, 8).ok()? & 0o7777),
        None => None,
    };
    words.next().is_none().then_some(Owner { uid, gid, mode })
}

fn format_owner(owner: Owner) -> String {
    match owner.mode {
        Some(mode) => format!("{} {} {mode:o}", owner.uid, owner.gid),
        None => format!("{} {}", owner.uid, owner.gid),
    }
}

/// Splits one entry of the directory's map.
fn parse_entry(entry: &[u8]) -> Option<(&[u8], u32, u32)> {
    let mut words = entry.splitn(3, |byte| *byte == b' ');
    let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse().ok();
    let uid = number(words.next()?)?;
    let gid = number(words.next()?)?;
    Some((words.next()?, uid, gid))
}

fn entries(map: &[u8]) -> impl Iterator<Item = &[u8]> {
    map.split(|byte| *byte == 0).filter(|entry| !entry.is_empty())
}

/// Rewrites the map of a directory without `name`, and with `owner` for it if there is one.
fn update_map(dir: Target<'_>, name: &OsStr, owner: Option<(u32, u32)>, use_proc: bool) -> Result<(), Errno> {
    let old = xattr::get(dir, OsStr::new(OWNERS), use_proc)?.unwrap_or_default();
    let mut new = Vec::with_capacity(old.len() + name.len() + 24);
    for entry in entries(&old) {
        if parse_entry(entry).is_some_and(|(other, ..)| other != name.as_bytes()) {
            new.extend_from_slice(entry);
            new.push(0);
        }
    }
    if let Some((uid, gid)) = owner {
        new.extend_from_slice(format!("{uid} {gid} ").as_bytes());
        new.extend_from_slice(name.as_bytes());
        new.push(0);
    }
    if new == old {
        Ok(())
    } else if new.is_empty() {
        xattr::remove(dir, OsStr::new(OWNERS), use_proc)
    } else {
        xattr::set(dir, OsStr::new(OWNERS), &new, use_proc)
    }
}

/// Records the owner that a file should have.
pub(super) fn write_owner(place: Place<'_>, uid: u32, gid: u32, use_proc: bool) -> Result<(), Errno> {
    match place {
        Place::Own(target) => {
            let mode = xattr::get(target, OsStr::new(OWNER), use_proc)?
                .and_then(|value| parse_owner(&value))
                .and_then(|owner| owner.mode);
            let value = format_owner(Owner { uid, gid, mode });
            xattr::set(target, OsStr::new(OWNER), value.as_bytes(), use_proc)
        }
        Place::InDir(dir, name) => update_map(dir, name, Some((uid, gid)), use_proc),
    }
}

/// Records mode bits that the file could not be given; `shown` is what the file shows now.
pub(super) fn write_mode(target: Target<'_>, shown: &Metadata, mode: u32, use_proc: bool) -> Result<(), Errno> {
    let value = format_owner(Owner { uid: shown.uid, gid: shown.gid, mode: Some(mode) });
    xattr::set(target, OsStr::new(OWNER), value.as_bytes(), use_proc)
}

/// Owner, group and mode bits.
pub(crate) type Recorded = (u32, u32, Option<u32>);

/// Type, major and minor number.
pub(crate) type Device = (FileKind, (u32, u32));

/// Whether an attribute is one of these records.
pub(crate) fn is_record(name: &[u8]) -> bool {
    name.starts_with(b"user.rbuild.")
}

/// The attribute `trusted.*` that a record of this name stands for.
pub(super) fn shown_name(name: &OsStr) -> Option<std::ffi::OsString> {
    use std::os::unix::ffi::OsStringExt;
    let rest = name.as_bytes().strip_prefix(TRUSTED.as_bytes())?;
    Some(std::ffi::OsString::from_vec([b"trusted.", rest].concat()))
}

/// Whether a record goes with a copy of a file: those of devices, capabilities and `trusted.*`, but not of owners.
pub(crate) fn is_copied(name: &[u8]) -> bool {
    name == NODE.as_bytes() || name == CAPABILITY.as_bytes() || name.starts_with(TRUSTED.as_bytes())
}

/// The recorded owner of a file and, if recorded, its mode. A malformed record is an I/O error.
pub(crate) fn read_owner(place: Place<'_>) -> Result<Option<Recorded>, Errno> {
    match place {
        Place::Own(target) => match xattr::get(target, OsStr::new(OWNER), true)? {
            Some(value) => {
                let owner = parse_owner(&value).ok_or(Errno::IO)?;
                Ok(Some((owner.uid, owner.gid, owner.mode)))
            }
            None => Ok(None),
        },
        Place::InDir(dir, name) => {
            let map = xattr::get(dir, OsStr::new(OWNERS), true)?.unwrap_or_default();
            let mut found = None;
            for entry in entries(&map) {
                let (other, uid, gid) = parse_entry(entry).ok_or(Errno::IO)?;
                if other == name.as_bytes() {
                    found = Some((uid, gid, None));
                }
            }
            Ok(found)
        }
    }
}

/// Records owner and mode of a file, or with `None` that it is as it shows itself. The mode of a file in a directory's
/// map is not recorded.
pub(crate) fn replace_owner(place: Place<'_>, owner: Option<Recorded>) -> Result<(), Errno> {
    match (place, owner) {
        (Place::Own(target), Some((uid, gid, mode))) => {
            let value = format_owner(Owner { uid, gid, mode });
            xattr::set(target, OsStr::new(OWNER), value.as_bytes(), true)
        }
        (Place::Own(target), None) => xattr::remove(target, OsStr::new(OWNER), true),
        (Place::InDir(dir, name), owner) => update_map(dir, name, owner.map(|(uid, gid, _)| (uid, gid)), true),
    }
}

/// The device that an empty regular file stands for.
pub(crate) fn read_device(target: Target<'_>, use_proc: bool) -> Result<Option<Device>, Errno> {
    match xattr::get(target, OsStr::new(NODE), use_proc)? {
        Some(value) => parse_device(&value).map(Some).ok_or(Errno::IO),
        None => Ok(None),
    }
}

/// Forgets the recorded owner, since the file has it now or its name is gone.
pub(super) fn clear_owner(place: Place<'_>, use_proc: bool) -> Result<(), Errno> {
    match place {
        Place::Own(target) => xattr::remove(target, OsStr::new(OWNER), use_proc),
        Place::InDir(dir, name) => update_map(dir, name, None, use_proc),
    }
}

/// Forgets recorded mode bits but keeps a recorded owner.
pub(super) fn clear_mode(target: Target<'_>, use_proc: bool) -> Result<(), Errno> {
    let Some(owner) = xattr::get(target, OsStr::new(OWNER), use_proc)?
        .and_then(|value| parse_owner(&value))
        .filter(|owner| owner.mode.is_some())
    else {
        return Ok(());
    };
    let value = format_owner(Owner { mode: None, ..owner });
    xattr::set(target, OsStr::new(OWNER), value.as_bytes(), use_proc)
}

/// Makes an empty regular file stand for a device.
pub(crate) fn write_device(
    target: Target<'_>,
    kind: FileKind,
    device: (u32, u32),
    use_proc: bool,
) -> Result<(), Errno> {
    let letter = if kind == FileKind::BlockDevice { 'b' } else { 'c' };
    let value = format!("{letter} {} {}", device.0, device.1);
    xattr::set(target, OsStr::new(NODE), value.as_bytes(), use_proc)
}

/// Records file capabilities that the kernel refused.
pub(crate) fn write_capability(target: Target<'_>, value: &[u8], use_proc: bool) -> Result<(), Errno> {
    xattr::set(target, OsStr::new(CAPABILITY), value, use_proc)
}

/// The recorded file capabilities.
pub(crate) fn read_capability(target: Target<'_>, use_proc: bool) -> Result<Option<Vec<u8>>, Errno> {
    xattr::get(target, OsStr::new(CAPABILITY), use_proc)
}

/// Forgets recorded file capabilities.
pub(crate) fn clear_capability(target: Target<'_>, use_proc: bool) -> Result<(), Errno> {
    xattr::remove(target, OsStr::new(CAPABILITY), use_proc)
}

/// Why a record could not be shown.
pub(super) enum ShowError {
    Errno(Errno),
    Malformed,
}

impl From<Errno> for ShowError {
    fn from(errno: Errno) -> Self {
        ShowError::Errno(errno)
    }
}

/// Whether a file of this stored metadata can be a placeholder for a device. Only then is its attribute looked for,
/// so that other files cost no call.
pub(super) fn may_be_device(stored: &Metadata) -> bool {
    stored.kind == FileKind::File && stored.size == 0
}

/// Replaces what is stored by what is recorded.
pub(super) fn show(
    ownership: Ownership,
    place: Place<'_>,
    metadata: &mut Metadata,
    use_proc: bool,
) -> Result<(), ShowError> {
    match place {
        Place::Own(target) => {
            if ownership == Ownership::Recorded
                && let Some(value) = xattr::get(target, OsStr::new(OWNER), use_proc)?
            {
                let owner = parse_owner(&value).ok_or(ShowError::Malformed)?;
                metadata.uid = owner.uid;
                metadata.gid = owner.gid;
                metadata.mode = owner.mode.unwrap_or(metadata.mode);
            }
            if may_be_device(metadata)
                && let Some(value) = xattr::get(target, OsStr::new(NODE), use_proc)?
            {
                let (kind, device) = parse_device(&value).ok_or(ShowError::Malformed)?;
                metadata.kind = kind;
                metadata.device = device;
            }
        }
        Place::InDir(dir, name) => {
            if ownership == Ownership::Recorded
                && let Some(map) = xattr::get(dir, OsStr::new(OWNERS), use_proc)?
            {
                for entry in entries(&map) {
                    let (other, uid, gid) = parse_entry(entry).ok_or(ShowError::Malformed)?;
                    if other == name.as_bytes() {
                        metadata.uid = uid;
                        metadata.gid = gid;
                    }
                }
            }
        }
    }
    Ok(())
}

fn parse_device(value: &[u8]) -> Option<(FileKind, (u32, u32))> {
    let text = std::str::from_utf8(value).ok()?;
    let mut words = text.split(' ');
    let kind = match words.next()? {
        "c" => FileKind::CharDevice,
        "b" => FileKind::BlockDevice,
        _ => return None,
    };
    let major = words.next()?.parse().ok()?;
    let minor = words.next()?.parse().ok()?;
    words.next().is_none().then_some((kind, (major, minor)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_round_trip() {
        for owner in [Owner { uid: 0, gid: 7, mode: None }, Owner { uid: u32::MAX, gid: 1, mode: Some(0o6755) }] {
            assert_eq!(parse_owner(format_owner(owner).as_bytes()), Some(owner));
        }
        for bad in ["", "1", "1 x", "1 2 9", "1 2 7 4", "-1 2"] {
            assert_eq!(parse_owner(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn map_entries_keep_names_with_spaces() {
        assert_eq!(parse_entry(b"1 2 a b c"), Some((b"a b c".as_slice(), 1_u32, 2_u32)));
        assert_eq!(parse_entry(b"1 2"), None);
    }

    #[test]
    fn devices_parse() {
        assert_eq!(parse_device(b"b 8 1"), Some((FileKind::BlockDevice, (8, 1))));
        assert_eq!(parse_device(b"x 8 1"), None);
        assert_eq!(parse_device(b"c 8"), None);
    }
}
