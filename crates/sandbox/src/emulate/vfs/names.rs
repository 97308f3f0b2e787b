//! The calls that make, remove and rename names, given paths: which error is told where several apply (fs/namei.c of
//! Linux 6).

use super::{Found, Namespace, Place, Result, Start, resolve::Parent};
use nix::libc;
use rustix::io::Errno;

const EXCHANGE: u32 = libc::RENAME_EXCHANGE;
const NO_REPLACE: u32 = libc::RENAME_NOREPLACE;

impl Namespace {
    /// The directory and name that a path ends with; `or` tells the error of one that ends in nothing, `.` or `..`.
    fn named(&self, start: &Start<'_>, path: &[u8], or: impl Fn(&[u8]) -> Errno) -> Result<Parent> {
        let parent = self.resolve_parent(start, path)?;
        if parent.is_name() { Ok(parent) } else { Err(or(&parent.name)) }
    }

    /// What is at a name, which no link leads away from.
    fn at(&self, start: &Start<'_>, parent: &Parent) -> Result<Option<Place>> {
        let start = Start { base: &parent.dir, ..*start };
        match self.resolve(&start, &parent.name, false)? {
            Found::File(place) => Ok(Some(place)),
            Found::Missing { .. } => Ok(None),
            Found::Descriptor(_) => Err(Errno::EXIST),
        }
    }

    fn exists(&self, start: &Start<'_>, parent: &Parent) -> bool {
        matches!(self.at(start, parent), Ok(Some(_)) | Err(Errno::EXIST))
    }

    /// What open(2) with O_CREAT finds: a name with a slash behind it is never a file's.
    pub(crate) fn resolve_to_create(&self, start: &Start<'_>, path: &[u8], follow: bool) -> Result<Found> {
        if path.last() == Some(&b'/') && self.resolve_parent(start, path)?.is_name() {
            return Err(Errno::ISDIR);
        }
        self.resolve(start, path, follow)
    }

    /// A new name of what is no directory: one that exists already is told before anything else is.
    pub(crate) fn new_name(&self, start: &Start<'_>, path: &[u8]) -> Result<Parent> {
        let parent = self.named(start, path, |_| Errno::EXIST)?;
        if parent.trailing_slash {
            return Err(if self.exists(start, &parent) { Errno::EXIST } else { Errno::NOENT });
        }
        Ok(parent)
    }

    /// That a name exists is found before that the directory may not be written.
    fn made(&self, start: &Start<'_>, parent: &Parent, made: Result<()>) -> Result<()> {
        made.map_err(|errno| match errno {
            Errno::ACCESS | Errno::PERM | Errno::ROFS if self.exists(start, parent) => Errno::EXIST,
            errno => errno,
        })
    }

    /// mkdir(2); the umask is not looked at.
    pub(crate) fn mkdir(&self, start: &Start<'_>, path: &[u8], mode: u32) -> Result<()> {
        let parent = self.named(start, path, |_| Errno::EXIST)?;
        self.made(start, &parent, parent.dir.mkdir(&parent.name, mode, start.who))
    }

    /// mknod(2), likewise.
    pub(crate) fn mknod(&self, start: &Start<'_>, path: &[u8], mode: u32, device: u64) -> Result<()> {
        let parent = self.new_name(start, path)?;
        self.made(start, &parent, parent.dir.mknod(&parent.name, mode, device, start.who))
    }

    /// symlink(2).
    pub(crate) fn symlink(&self, start: &Start<'_>, target: &[u8], path: &[u8]) -> Result<()> {
        let parent = self.new_name(start, path)?;
        self.made(start, &parent, parent.dir.symlink(&parent.name, target, start.who))
    }

    /// link(2). `source`: the file, if it has a name yet; one that has lost its last name gets no other.
    pub(crate) fn link(&self, source: Option<&Place>, start: &Start<'_>, path: &[u8]) -> Result<()> {
        let parent = self.new_name(start, path)?;
        let source = source.ok_or(Errno::NOENT)?;
        if self.exists(start, &parent) {
            return Err(Errno::EXIST);
        }
        if source.is_dir() {
            return Err(Errno::PERM);
        }
        source.link(&parent.dir, &parent.name, start.who)
    }

    /// rmdir(2).
    pub(crate) fn rmdir(&self, start: &Start<'_>, path: &[u8]) -> Result<()> {
        let parent = self.named(start, path, |name| match name {
            b".." => Errno::NOTEMPTY,
            b"." => Errno::INVAL,
            _ => Errno::BUSY,
        })?;
        parent.dir.rmdir(&parent.name, start.who)
    }

    /// unlink(2).
    pub(crate) fn unlink(&self, start: &Start<'_>, path: &[u8]) -> Result<()> {
        let parent = self.named(start, path, |_| Errno::ISDIR)?;
        if parent.trailing_slash {
            let place = self.at(start, &parent)?.ok_or(Errno::NOENT)?;
            return Err(if place.is_dir() { Errno::ISDIR } else { Errno::NOTDIR });
        }
        parent.dir.unlink(&parent.name, start.who)
    }

    /// renameat2(2): each path with where it starts.
    pub(crate) fn rename(&self, from: (&Start<'_>, &[u8]), to: (&Start<'_>, &[u8]), flags: u32) -> Result<()> {
        // Of names that are none is told only after both directories are found.
        let (old, new) = (self.resolve_parent(from.0, from.1)?, self.resolve_parent(to.0, to.1)?);
        if !old.is_name() {
            return Err(Errno::BUSY);
        }
        if !new.is_name() {
            return Err(if flags & NO_REPLACE != 0 { Errno::EXIST } else { Errno::BUSY });
        }
        if old.trailing_slash || new.trailing_slash {
            let source = self.at(from.0, &old)?.ok_or(Errno::NOENT)?;
            let target = self.at(to.0, &new)?;
            if flags & NO_REPLACE != 0 && target.is_some() {
                return Err(Errno::EXIST);
            }
            if flags & EXCHANGE != 0 {
                let target = target.ok_or(Errno::NOENT)?;
                if new.trailing_slash && !target.is_dir() {
                    return Err(Errno::NOTDIR);
                }
            }
            if !source.is_dir() && (old.trailing_slash || (new.trailing_slash && flags & EXCHANGE == 0)) {
                return Err(Errno::NOTDIR);
            }
        }
        old.dir.rename(&old.name, &new.dir, &new.name, flags, from.0.who)
    }
}
