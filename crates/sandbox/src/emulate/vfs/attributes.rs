//! Extended attributes as they are shown, and under which names they are kept (xattr(7)).

use super::{
    Identity, Result,
    permission::{self, CAP_SETFCAP, CAP_SYS_ADMIN, READ, WRITE},
    real::{Real, Shown},
};
use crate::root::{
    CAPABILITY, FileKind,
    record::{self, TRUSTED},
    xattr,
};
use rustix::io::Errno;
use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
};

const CREATE: u32 = 1;
const REPLACE: u32 = 2;

/// Namespaces that overlays use themselves. What a program puts there is kept one level deeper, as overlayfs does it.
const PRIVATE: [&[u8]; 2] = [b"user.overlay.", b"user.rbuild."];

/// The name under which the content of a private namespace is kept.
fn escaped(prefix: &[u8], rest: &[u8]) -> Vec<u8> {
    let own = prefix.strip_prefix(b"user.").unwrap_or_default();
    [prefix, own, rest].concat()
}

/// An attribute that may be used.
pub(super) enum Name {
    /// Kept under this name.
    Plain(OsString),
    /// `security.capability`.
    Capability,
    /// `trusted.*`: really, or in this record.
    Trusted(OsString, OsString),
}

impl Name {
    fn parse(name: &[u8], private: bool) -> Result<Self> {
        if name.is_empty() || name.len() > 255 {
            return Err(Errno::RANGE);
        }
        let os = || OsString::from_vec(name.to_vec());
        if name == CAPABILITY.as_bytes() {
            return Ok(Name::Capability);
        }
        if let Some(rest) = name.strip_prefix(b"trusted.") {
            let record = [TRUSTED.as_bytes(), rest].concat();
            return if rest.is_empty() {
                Err(Errno::INVAL)
            } else {
                Ok(Name::Trusted(os(), OsString::from_vec(record)))
            };
        }
        let known = [&b"user."[..], b"security.", b"system."].into_iter().find(|prefix| name.starts_with(prefix));
        match known {
            None => return Err(Errno::OPNOTSUPP),
            Some(prefix) if prefix == name => return Err(Errno::INVAL),
            Some(_) => {}
        }
        if private && let Some(prefix) = PRIVATE.into_iter().find(|prefix| name.starts_with(prefix)) {
            let rest = name.get(prefix.len()..).unwrap_or_default();
            return Ok(Name::Plain(OsString::from_vec(escaped(prefix, rest))));
        }
        Ok(Name::Plain(os()))
    }

    /// `private`: attributes that overlays use themselves are not the ones that are meant.
    pub(super) fn for_reading(name: &[u8], file: &Shown, who: &Identity, private: bool) -> Result<Self> {
        let parsed = Self::parse(name, private)?;
        match &parsed {
            Name::Trusted(..) if !who.has(CAP_SYS_ADMIN) => return Err(Errno::NODATA),
            Name::Plain(name) if name.as_bytes().starts_with(b"user.") => {
                if !matches!(file.kind, FileKind::File | FileKind::Directory) {
                    return Err(Errno::NODATA);
                }
                permission::check(file, who, READ)?;
            }
            _ => {}
        }
        Ok(parsed)
    }

    /// Without a value it is to be removed.
    pub(super) fn for_writing(
        name: &[u8],
        value: Option<&[u8]>,
        file: &Shown,
        who: &Identity,
        private: bool,
    ) -> Result<Self> {
        let parsed = Self::parse(name, private)?;
        if value.is_some_and(|value| value.len() > 65536) {
            return Err(Errno::TOOBIG);
        }
        let keeps_records = matches!(file.kind, FileKind::File | FileKind::Directory);
        match &parsed {
            Name::Trusted(..) if !who.has(CAP_SYS_ADMIN) => return Err(Errno::PERM),
            Name::Capability if !who.has(CAP_SETFCAP) => return Err(Errno::PERM),
            // The kernel takes these from real root; there is no place to record them.
            Name::Trusted(..) | Name::Capability if !keeps_records => {
                return Err(if value.is_some() { Errno::PERM } else { Errno::NODATA });
            }
            Name::Trusted(..) => {}
            Name::Capability => {
                if value.is_some_and(|value| !is_capability(value)) {
                    return Err(Errno::INVAL);
                }
            }
            Name::Plain(name) if name.as_bytes().starts_with(b"user.") => {
                if !matches!(file.kind, FileKind::File | FileKind::Directory) {
                    return Err(Errno::PERM);
                }
                if file.kind == FileKind::Directory && file.mode & permission::STICKY != 0 {
                    permission::check_owner(file, who)?;
                }
                permission::check(file, who, WRITE)?;
            }
            Name::Plain(name) if name.as_bytes().starts_with(b"system.") => permission::check_owner(file, who)?,
            Name::Plain(_) if !who.has(CAP_SYS_ADMIN) => return Err(Errno::PERM),
            Name::Plain(_) => {}
        }
        Ok(parsed)
    }

    fn find(&self, real: Real<'_>) -> Result<Option<Vec<u8>>> {
        let read = |name: &OsStr| xattr::get(real.target(), name, true);
        match self {
            Name::Plain(name) => read(name),
            Name::Capability => Ok(match read(OsStr::new(CAPABILITY))? {
                Some(value) => Some(xattr::portable_capability(value)),
                None => record::read_capability(real.target(), true)?,
            }),
            Name::Trusted(name, record) => Ok(match read(name)? {
                Some(value) => Some(value),
                None => read(record)?,
            }),
        }
    }

    pub(super) fn get(&self, real: Real<'_>) -> Result<Vec<u8>> {
        self.find(real)?.ok_or(Errno::NODATA)
    }

    pub(super) fn set(&self, real: Real<'_>, value: &[u8], flags: u32) -> Result<()> {
        if flags & (CREATE | REPLACE) != 0 {
            let is_there = self.find(real)?.is_some();
            if flags & CREATE != 0 && is_there {
                return Err(Errno::EXIST);
            }
            if flags & REPLACE != 0 && !is_there {
                return Err(Errno::NODATA);
            }
        }
        let write = |name: &OsStr| xattr::set(real.target(), name, value, true);
        match self {
            Name::Plain(name) => write(name),
            Name::Capability => match write(OsStr::new(CAPABILITY)) {
                Err(Errno::PERM | Errno::OPNOTSUPP) => record::write_capability(real.target(), value, true),
                result => result,
            },
            Name::Trusted(name, record) => match write(name) {
                Err(Errno::PERM | Errno::OPNOTSUPP) => write(record),
                result => result,
            },
        }
    }

    pub(super) fn remove(&self, real: Real<'_>) -> Result<()> {
        self.get(real)?;
        let remove = |name: &OsStr| xattr::remove(real.target(), name, true);
        match self {
            Name::Plain(name) => remove(name),
            Name::Capability => {
                let _ = remove(OsStr::new(CAPABILITY));
                record::clear_capability(real.target(), true)
            }
            Name::Trusted(name, record) => {
                let _ = remove(name);
                remove(record)
            }
        }
    }
}

/// Whether this is a value that the kernel takes for `security.capability`: revision 2 or 3 (linux/capability.h).
fn is_capability(value: &[u8]) -> bool {
    matches!((value.len(), value.get(3)), (20, Some(2)) | (24, Some(3)))
}

/// The names of all attributes that are shown to somebody.
pub(super) fn list(real: Real<'_>, who: &Identity, private: bool) -> Result<Vec<Vec<u8>>> {
    let mut shown: Vec<Vec<u8>> = Vec::new();
    let mut add = |name: &[u8]| {
        if !shown.iter().any(|other| other == name) {
            shown.push(name.to_vec());
        }
    };
    for name in xattr::list(real.target(), true)? {
        let name = name.as_bytes();
        if name == record::CAPABILITY.as_bytes() {
            add(CAPABILITY.as_bytes());
        } else if let Some(rest) = name.strip_prefix(TRUSTED.as_bytes()) {
            if who.has(CAP_SYS_ADMIN) {
                add(&[b"trusted.", rest].concat());
            }
        } else if let Some(prefix) = PRIVATE.into_iter().find(|prefix| private && name.starts_with(prefix)) {
            // Only what was put one level deeper is a program's.
            if let Some(rest) = name.strip_prefix(escaped(prefix, b"").as_slice()) {
                add(&[prefix, rest].concat());
            }
            continue;
        } else if name.starts_with(b"trusted.") && !who.has(CAP_SYS_ADMIN) {
            continue;
        }
        if !(private && record::is_record(name)) {
            add(name);
        }
    }
    Ok(shown)
}
