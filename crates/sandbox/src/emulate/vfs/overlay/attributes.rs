//! Changing what a file shows, and opening it.

use super::{Node, OverlayFs, UPPER, change};
use crate::{
    emulate::{
        lookaside,
        vfs::{
            Identity, NewTime, Result, attributes,
            permission::{self, WRITE},
            real::{self, Real, Shown},
        },
    },
    root::{FileKind, beside, xattr::Target},
};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::OFlags,
    io::Errno,
};
use std::sync::{Arc, Weak};

impl OverlayFs {
    /// Makes a file of the upper layer show this. The overlay's lock is held alone.
    fn show(&self, node: &Node, shown: &Shown) -> Result<()> {
        let path = node.path()?;
        let parent = node.parent();
        let parent_path = parent.as_ref().map(|parent| parent.path()).transpose()?;
        let name = node.name();
        let upper = self.upper()?;
        if !node.is_linked() {
            return Err(Errno::NOENT);
        }
        let in_dir = parent_path.as_ref().map(|path| (Real::At(upper, path), &*name));
        let mut state = node.state();
        real::store(self.policy, Real::At(upper, &path), in_dir, &mut state.stored, shown)?;
        state.shown = *shown;
        let recorded = state.stored.recorded;
        drop(state);
        if shown.kind == FileKind::Directory {
            lookaside::directory_changed(node.number());
        }
        let names: Vec<_> = super::locked(&node.inode.names).iter().filter_map(Weak::upgrade).collect();
        for other in names.iter().filter(|other| !std::ptr::eq(&***other, node) && other.is_linked()) {
            if let Some(dir) = other.parent() {
                let dir = dir.path()?;
                let owner = recorded.then_some((shown.uid, shown.gid));
                super::move_owner(None, (Real::At(upper, &dir), &other.name()), owner)?;
            }
        }
        Ok(())
    }

    pub(crate) fn chmod(&self, node: &Arc<Node>, mode: u32, who: &Identity) -> Result<()> {
        let _alone = self.write();
        let mut shown = self.shown(node);
        if shown.kind == FileKind::Symlink {
            return Err(Errno::OPNOTSUPP);
        }
        shown.mode = permission::chmod(&shown, who, mode)?;
        self.copy_up(node, true)?;
        self.show(node, &shown)
    }

    pub(crate) fn chown(&self, node: &Arc<Node>, uid: u32, gid: u32, who: &Identity) -> Result<()> {
        let _alone = self.write();
        let shown = permission::chown(&self.shown(node), who, uid, gid)?;
        self.copy_up(node, true)?;
        if shown.kind == FileKind::File {
            self.with_real(node, |real, _| real::clear_capability(real))?;
        }
        self.show(node, &shown)
    }

    pub(crate) fn set_times(&self, node: &Arc<Node>, atime: NewTime, mtime: NewTime, who: &Identity) -> Result<()> {
        let _alone = self.write();
        permission::set_times(&self.shown(node), who, atime, mtime)?;
        self.copy_up(node, true)?;
        self.with_real(node, |real, _| real.set_times(atime, mtime))
    }

    pub(crate) fn truncate(&self, node: &Arc<Node>, length: u64, who: &Identity) -> Result<()> {
        let _alone = self.write();
        let shown = self.shown(node);
        match shown.kind {
            FileKind::File => {}
            FileKind::Directory => return Err(Errno::ISDIR),
            _ => return Err(Errno::INVAL),
        }
        permission::check(&shown, who, WRITE)?;
        self.copy_up(node, length > 0)?;
        let file = self.with_real(node, |real, _| real.open(OFlags::WRONLY))?;
        rustix::fs::ftruncate(&file, length)?;
        self.drop_privileges(node, &shown, who)
    }

    /// After the content of a regular file was cut.
    fn drop_privileges(&self, node: &Arc<Node>, shown: &Shown, who: &Identity) -> Result<()> {
        self.with_real(node, |real, _| real::clear_capability(real))?;
        let new = permission::truncated(shown, who);
        if new == *shown { Ok(()) } else { self.show(node, &new) }
    }

    /// Opens a regular file; permissions were checked.
    pub(crate) fn open(&self, node: &Arc<Node>, flags: OFlags, who: &Identity) -> Result<OwnedFd> {
        let writes = !flags.contains(OFlags::PATH)
            && (flags.intersects(OFlags::WRONLY | OFlags::RDWR) || flags.contains(OFlags::TRUNC));
        if writes && (node.state().layer != UPPER || flags.contains(OFlags::TRUNC)) {
            let _alone = self.write();
            let shown = self.shown(node);
            let truncates = flags.contains(OFlags::TRUNC);
            self.copy_up(node, !truncates)?;
            let file = self.open_real(node, flags)?;
            if truncates {
                self.drop_privileges(node, &shown, who)?;
            }
            return Ok(file);
        }
        let _shared = self.read();
        self.open_real(node, flags)
    }

    fn open_real(&self, node: &Arc<Node>, flags: OFlags) -> Result<OwnedFd> {
        let (file, layer, ino) =
            self.with_real(node, |real, state| Ok((real.open_own(flags, self.policy)?, state.layer, state.real_ino)))?;
        self.note_opened(node, layer, ino);
        Ok(file)
    }

    pub(crate) fn get_xattr(&self, node: &Arc<Node>, name: &[u8], who: &Identity) -> Result<Vec<u8>> {
        let _shared = self.read();
        let shown = self.shown(node);
        let name = attributes::Name::for_reading(name, &shown, who, true)?;
        self.with_real(node, |real, _| name.get(real))
    }

    pub(crate) fn list_xattr(&self, node: &Arc<Node>, who: &Identity) -> Result<Vec<Vec<u8>>> {
        let _shared = self.read();
        self.with_real(node, |real, _| attributes::list(real, who, true))
    }

    pub(crate) fn set_xattr(
        &self,
        node: &Arc<Node>,
        name: &[u8],
        value: &[u8],
        flags: u32,
        who: &Identity,
    ) -> Result<()> {
        let _alone = self.write();
        let shown = self.shown(node);
        let name = attributes::Name::for_writing(name, Some(value), &shown, who, true)?;
        self.copy_up(node, true)?;
        self.with_real(node, |real, _| name.set(real, value, flags))
    }

    pub(crate) fn remove_xattr(&self, node: &Arc<Node>, name: &[u8], who: &Identity) -> Result<()> {
        let _alone = self.write();
        let shown = self.shown(node);
        let name = attributes::Name::for_writing(name, None, &shown, who, true)?;
        self.with_real(node, |real, _| name.get(real))?;
        self.copy_up(node, true)?;
        self.with_real(node, |real, _| name.remove(real))
    }

    /// A regular file of the upper layer's file system without a name.
    pub(crate) fn make_unnamed(&self, dir: &Arc<Node>, flags: OFlags, mode: u32, who: &Identity) -> Result<OwnedFd> {
        let _alone = self.write();
        let above = self.shown(dir);
        self.check_search(dir, who)?;
        permission::check(&above, who, WRITE | permission::EXECUTE)?;
        let shown = permission::owner_of_new(&above, who, FileKind::File, mode);
        self.copy_up(dir, true)?;
        let path = dir.path()?;
        let real_mode = rustix::fs::Mode::from_raw_mode(self.policy.real_mode(FileKind::File, shown.mode));
        let flags = flags | OFlags::TMPFILE | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.upper()?, &path, flags, real_mode)?;
        beside::forget(Target::Open(file.as_fd()))?;
        let real = Real::Fd(file.as_fd());
        let (_, mut stored) = real::bare(self.policy, &real.statx()?);
        real::store(self.policy, real, None, &mut stored, &shown)?;
        Ok(file)
    }

    /// Gives an unnamed or removed regular file of the upper layer's file system a name.
    pub(crate) fn link_open(&self, file: &OwnedFd, dir: &Arc<Node>, name: &[u8], who: &Identity) -> Result<()> {
        let _alone = self.write();
        self.check_search(dir, who)?;
        if self.child(dir, name)?.is_some() {
            return Err(Errno::EXIST);
        }
        permission::check(&self.shown(dir), who, WRITE | permission::EXECUTE)?;
        self.copy_up(dir, true)?;
        let path = super::join(&dir.path()?, name);
        let covered = change::covered(dir, name);
        let upper = self.upper()?;
        if covered {
            rustix::fs::unlinkat(upper, &path, rustix::fs::AtFlags::empty())?;
        }
        let from = real::descriptor_path(file.as_fd());
        let flags = rustix::fs::AtFlags::SYMLINK_FOLLOW;
        if let Err(errno) = rustix::fs::linkat(rustix::fs::CWD, from, upper, &path, flags) {
            if covered {
                self.whiteout(&path)?;
            }
            return Err(errno);
        }
        let ino = Real::Fd(file.as_fd()).statx()?.stx_ino | self.layer(UPPER)?.tag;
        let kind = super::kind_number(rustix::fs::FileType::RegularFile);
        let what = super::What::File { layer: UPPER, kind, ino };
        Self::set_child(dir, name, Some(what));
        if let Some(node) = self.child(dir, name)? {
            let ino = node.state().real_ino;
            self.note_opened(&node, UPPER, ino);
        }
        Ok(())
    }
}
