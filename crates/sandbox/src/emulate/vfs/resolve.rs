//! Following paths (path_resolution(7)).

use super::{
    Found, Namespace, Place, ProcLink, Result, Start,
    mount::{FileRef, Fs},
    permission::{self, EXECUTE},
};
use crate::{emulate::lookaside, root::FileKind};
use rustix::io::Errno;
use std::sync::Arc;

const MOST_LINKS: u32 = 40;
const NAME_MAX: usize = 255;

/// What is left of a path; those of links are put in front.
struct Rest {
    text: Vec<u8>,
    at: usize,
    links: u32,
}

impl Rest {
    /// The next component; none at the end.
    fn next(&mut self) -> Option<(usize, usize)> {
        while self.text.get(self.at) == Some(&b'/') {
            self.at += 1;
        }
        let start = self.at;
        while self.text.get(self.at).is_some_and(|byte| *byte != b'/') {
            self.at += 1;
        }
        (start < self.at).then_some((start, self.at))
    }

    /// Whether nothing but slashes follows, and whether there are some.
    fn is_last(&self) -> (bool, bool) {
        let rest = self.text.get(self.at..).unwrap_or_default();
        (rest.iter().all(|byte| *byte == b'/'), !rest.is_empty())
    }

    fn follow(&mut self, target: &[u8]) -> Result<()> {
        self.links += 1;
        if self.links > MOST_LINKS {
            return Err(Errno::LOOP);
        }
        if target.is_empty() {
            return Err(Errno::NOENT);
        }
        let rest = self.text.get(self.at..).unwrap_or_default();
        self.text = [target, rest].concat();
        self.at = 0;
        Ok(())
    }
}

/// Where the last component of a path is.
#[derive(Debug)]
pub(crate) struct Parent {
    pub(crate) dir: Place,
    /// As it is written: a name, `.`, `..`, or nothing for the root.
    pub(crate) name: Vec<u8>,
    pub(crate) trailing_slash: bool,
}

impl Parent {
    pub(super) fn is_name(&self) -> bool {
        !matches!(self.name[..], [] | [b'.'] | [b'.', b'.'])
    }
}

/// What is at a name.
enum Step {
    Missing,
    File(Place),
}

impl Place {
    /// Goes down to what is mounted here.
    pub(super) fn topmost(mut self) -> Place {
        while let Some(mount) = self.mount.mounted_on(self.file.key()) {
            self = Place { file: mount.root.clone(), mount };
        }
        self
    }

    /// The directory above, not above `root`.
    fn up(self, root: &Place) -> Result<Place> {
        let mut at = self;
        loop {
            if at.is(root) {
                return Ok(at);
            }
            if at.file.key() != at.mount.root.key() {
                break;
            }
            match at.mount.above() {
                Some((mount, file)) => at = Place { mount, file },
                None => return Ok(at),
            }
        }
        let file = match (&at.mount.fs, &at.file) {
            (Fs::Host(fs) | Fs::Overlay(_, fs), FileRef::Host(file)) => FileRef::Host(fs.parent(file)?),
            (_, FileRef::Overlay(node)) => FileRef::Overlay(node.parent().ok_or(Errno::NOENT)?),
        };
        Ok(Place { mount: at.mount, file }.topmost())
    }

    /// Whether this is the very same place.
    pub(super) fn is(&self, other: &Place) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && self.file.key() == other.file.key()
    }

    fn step(&self, name: &[u8], start: &Start<'_>) -> Result<Step> {
        let file = match (&self.mount.fs, &self.file) {
            (Fs::Overlay(fs, _), FileRef::Overlay(dir)) => fs.lookup(dir, name)?.map(FileRef::Overlay),
            (Fs::Host(fs) | Fs::Overlay(_, fs), FileRef::Host(dir)) => {
                fs.lookup(dir, name, start.proc)?.map(FileRef::Host)
            }
            (Fs::Host(_), FileRef::Overlay(_)) => return Err(Errno::IO),
        };
        Ok(match file {
            Some(file) => Step::File(Place { mount: Arc::clone(&self.mount), file }.topmost()),
            None => Step::Missing,
        })
    }

    /// Tells that a name is about to be looked for here.
    fn is_searched(&self) {
        lookaside::searches(match &self.file {
            FileRef::Overlay(node) => Some(node.number()),
            FileRef::Host(_) => None,
        });
    }

    /// Whether this may be gone through by name.
    fn check_search(&self, start: &Start<'_>) -> Result<()> {
        if self.file.kind() != FileKind::Directory {
            return Err(Errno::NOTDIR);
        }
        if start.who.searches_all() {
            return Ok(());
        }
        permission::check(&self.shown()?, start.who, EXECUTE)
    }
}

impl Namespace {
    /// The directory of the last component of a path, which may be searched, and that component.
    pub(super) fn resolve_parent(&self, start: &Start<'_>, path: &[u8]) -> Result<Parent> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        let slashes = path.iter().rev().take_while(|byte| **byte == b'/').count();
        let trimmed = path.get(..path.len() - slashes).unwrap_or_default();
        let cut = trimmed.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let (dir, name) = trimmed.split_at(cut);
        let dir = match dir {
            b"" if path.first() == Some(&b'/') => start.root.clone(),
            b"" => start.base.clone(),
            dir => match self.resolve(start, dir, true)? {
                Found::File(place) => place,
                Found::Missing { .. } => return Err(Errno::NOENT),
                Found::Descriptor(_) => return Err(Errno::NOTDIR),
            },
        };
        if !name.is_empty() {
            dir.is_searched();
            dir.check_search(start)?;
        }
        Ok(Parent { dir, name: name.to_vec(), trailing_slash: slashes > 0 })
    }

    /// Follows a path. `follow`: the last component, too, if it is a link. Search permission is checked.
    pub(crate) fn resolve(&self, start: &Start<'_>, path: &[u8], follow: bool) -> Result<Found> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        let mut rest = Rest { text: path.to_vec(), at: 0, links: 0 };
        let mut at = if path.first() == Some(&b'/') { start.root.clone() } else { start.base.clone() };
        let mut needs_dir = false;
        loop {
            if let Some((place, to)) = at.descend(&rest, start) {
                at.is_searched();
                (at, rest.at) = (place, to);
            }
            let Some((from, to)) = rest.next() else {
                break;
            };
            let name = rest.text.get(from..to).unwrap_or_default();
            at.is_searched();
            at.check_search(start)?;
            let (last, slash) = rest.is_last();
            match name {
                b"." => continue,
                b".." => {
                    at = at.up(start.root)?;
                    continue;
                }
                name if name.len() > NAME_MAX => return Err(Errno::NAMETOOLONG),
                _ => {}
            }
            needs_dir = slash;
            let place = match at.step(name, start)? {
                Step::File(place) => place,
                Step::Missing if last => {
                    return Ok(Found::Missing { parent: at, name: name.to_vec(), trailing_slash: slash });
                }
                Step::Missing => return Err(Errno::NOENT),
            };
            if place.file.kind() != FileKind::Symlink || (last && !slash && !follow) {
                at = place;
                if last && !slash {
                    return Ok(Found::File(at));
                }
                if at.file.kind() != FileKind::Directory {
                    return Err(Errno::NOTDIR);
                }
                continue;
            }
            match place.magic(start) {
                Some((ProcLink::Place(target, _), _)) => {
                    rest.links += 1;
                    if rest.links > MOST_LINKS {
                        return Err(Errno::LOOP);
                    }
                    at = target;
                }
                Some((ProcLink::Descriptor(_), path)) if last && !slash => return Ok(Found::Descriptor(path)),
                Some((ProcLink::Descriptor(_), _)) => return Err(Errno::NOTDIR),
                None => {
                    let target = place.read_link()?;
                    rest.follow(&target)?;
                    if target.first() == Some(&b'/') {
                        at = start.root.clone();
                    }
                }
            }
        }
        if needs_dir && at.file.kind() != FileKind::Directory {
            return Err(Errno::NOTDIR);
        }
        Ok(Found::File(at))
    }
}

impl Place {
    /// In a host file system without mounts in it: several directories at once, where no link is among them. Gives where
    /// that leads and how much of the path it took.
    fn descend(&self, rest: &Rest, start: &Start<'_>) -> Option<(Place, usize)> {
        let (Fs::Host(fs), FileRef::Host(dir)) = (&self.mount.fs, &self.file) else {
            return None;
        };
        if !start.who.searches_all() || self.mount.has_children() {
            return None;
        }
        let text = rest.text.get(rest.at..)?;
        // All but the last component, if these are plain names.
        let trimmed = text.len() - text.iter().rev().take_while(|byte| **byte == b'/').count();
        let cut = text.get(..trimmed)?.iter().rposition(|byte| *byte == b'/')?;
        let path = text.get(..cut)?;
        let begin = path.iter().position(|byte| *byte != b'/')?;
        let path = path.get(begin..)?;
        let mut names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        if path.is_empty() || names.clone().count() < 2 || names.any(|name| name == b"..") {
            return None;
        }
        let file = fs.descend(dir, path)?;
        Some((Place { mount: Arc::clone(&self.mount), file: FileRef::Host(file) }, rest.at + cut))
    }

    fn magic(&self, start: &Start<'_>) -> Option<(ProcLink, std::path::PathBuf)> {
        match (&self.mount.fs, &self.file) {
            (Fs::Host(fs), FileRef::Host(file)) if fs.is_proc => fs.magic(file, start.proc),
            _ => None,
        }
    }
}
