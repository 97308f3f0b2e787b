//! Making and removing names.

use super::{
    At, Child, Directory, Inode, Node, OverlayFs, Parent, State, UPPER, What,
    copy_up::{make_real, make_whiteout, move_owner},
    join, locked,
};
use crate::{
    emulate::{
        lookaside,
        vfs::{
            Identity, Result, Stat,
            permission::{self, EXECUTE, WRITE},
            real::{self, Real, Shown},
        },
    },
    root::FileKind,
};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    sync::{Arc, Mutex},
};

/// What is made.
#[derive(Debug, Clone, Copy)]
pub(crate) enum New<'a> {
    /// A regular file, opened with these flags.
    File(OFlags),
    Directory,
    Symlink(&'a [u8]),
    /// A pipe, socket, device or closed regular file, by its type and device number.
    Special(FileKind, u64),
}

impl New<'_> {
    pub(crate) fn kind(self) -> FileKind {
        match self {
            New::File(_) => FileKind::File,
            New::Directory => FileKind::Directory,
            New::Symlink(_) => FileKind::Symlink,
            New::Special(kind, _) => kind,
        }
    }
}

impl OverlayFs {
    pub(super) fn whiteout(&self, path: &OsString) -> Result<()> {
        make_whiteout(self.upper()?, path)
    }

    /// Whether a lower layer has this name. The directory's children are known.
    pub(super) fn is_in_lower(dir: &Node, name: &[u8]) -> bool {
        let state = dir.state();
        let children = state.dir.as_ref().and_then(|dir| dir.children.as_ref());
        children.and_then(|children| children.get(name)).is_some_and(|child| child.lower)
    }

    /// Puts a file, a whiteout or nothing at a name.
    pub(super) fn set_child(dir: &Node, name: &[u8], what: Option<What>) {
        let mut state = dir.state();
        if let Some(children) = state.dir.as_mut().and_then(|dir| dir.children.as_mut()) {
            match what {
                Some(what) => match children.get_mut(name) {
                    Some(child) => child.what = what,
                    None => {
                        children.insert(Arc::from(name), Child { lower: false, what });
                    }
                },
                None => {
                    children.remove(name);
                }
            }
        }
        drop(state);
        lookaside::directory_changed(dir.number());
    }

    /// Makes something in a directory; gives the open file if it is one.
    pub(crate) fn make(
        &self,
        dir: &Arc<Node>,
        name: &[u8],
        new: New<'_>,
        mode: u32,
        who: &Identity,
    ) -> Result<Option<OwnedFd>> {
        let _alone = self.write();
        self.check_search(dir, who)?;
        if self.child(dir, name)?.is_some() {
            return Err(Errno::EXIST);
        }
        let upper = self.upper()?;
        let above = self.shown(dir);
        permission::check(&above, who, WRITE | EXECUTE)?;
        if !dir.is_linked() {
            return Err(Errno::NOENT);
        }
        let mut shown = permission::owner_of_new(&above, who, new.kind(), mode);
        self.copy_up(dir, true)?;
        let dir_path = dir.path()?;
        let path = join(&dir_path, name);
        let covered = covered(dir, name);
        if covered {
            rustix::fs::unlinkat(upper, &path, AtFlags::empty())?;
        }
        let result = self.make_real(&dir_path, &path, name, new, &mut shown, covered);
        let (state, file) = match result {
            Ok(made) => made,
            Err(errno) => {
                // What was begun is taken away, whatever it is.
                if errno != Errno::EXIST {
                    let _ = rustix::fs::unlinkat(upper, &path, AtFlags::empty());
                    let _ = rustix::fs::unlinkat(upper, &path, AtFlags::REMOVEDIR);
                }
                if covered {
                    self.whiteout(&path)?;
                }
                return Err(errno);
            }
        };
        let real_ino = state.real_ino;
        let inode = Inode::new(shown.kind, state);
        let node = self.link_node(dir, name, inode);
        if file.is_some() {
            self.note_opened(&node, UPPER, real_ino);
        }
        Ok(file)
    }

    fn link_node(&self, dir: &Arc<Node>, name: &[u8], inode: Arc<Inode>) -> Arc<Node> {
        let at = At { parent: Parent::Linked(Arc::downgrade(dir)), name: Arc::from(name) };
        let node = Node::named(Mutex::new(at), inode);
        Self::set_child(dir, name, Some(What::Node(Arc::clone(&node))));
        node
    }

    fn make_real(
        &self,
        dir_path: &OsString,
        path: &OsString,
        name: &[u8],
        new: New<'_>,
        shown: &mut Shown,
        covered: bool,
    ) -> Result<(State, Option<OwnedFd>)> {
        let upper = self.upper()?;
        let mode = Mode::from_raw_mode(self.policy.real_mode(shown.kind, shown.mode));
        if let New::Special(kind, rdev) = new
            && kind != FileKind::File
        {
            shown.rdev = rdev;
        }
        let file = make_real(upper, path, new, mode)?;
        let real = Real::At(upper, path);
        let in_dir = Some((Real::At(upper, dir_path), name));
        let statx = real.statx()?;
        let (_, mut stored) = real::bare(self.policy, &statx);
        real::store(self.policy, real, in_dir, &mut stored, shown)?;
        let layers = if stored.kind == FileKind::Directory {
            if covered {
                self.make_opaque(path)?;
            }
            vec![UPPER]
        } else {
            Vec::new()
        };
        let tag = self.layer(UPPER)?.tag;
        let dir = (stored.kind == FileKind::Directory)
            .then(|| Box::new(Directory { layers, children: Some(BTreeMap::new()) }));
        let state = State {
            ino: statx.stx_ino | tag,
            layer: UPPER,
            real_ino: statx.stx_ino,
            shown: *shown,
            stored,
            several: false,
            known: None,
            dir,
        };
        Ok((state, file))
    }

    pub(super) fn check_search(&self, dir: &Node, who: &Identity) -> Result<()> {
        if dir.kind() != FileKind::Directory {
            return Err(Errno::NOTDIR);
        }
        permission::check(&self.shown(dir), who, EXECUTE)
    }

    /// Whether an entry may be taken away, as `may_delete` of the kernel has it.
    pub(super) fn check_delete(&self, dir: &Node, node: &Node, directory: bool, who: &Identity) -> Result<()> {
        let above = self.shown(dir);
        permission::check(&above, who, WRITE | EXECUTE)?;
        permission::check_sticky(&above, &self.shown(node), who)?;
        match (directory, node.kind() == FileKind::Directory) {
            (true, false) => Err(Errno::NOTDIR),
            (false, true) => Err(Errno::ISDIR),
            _ => Ok(()),
        }
    }

    /// Gives a file a further name.
    pub(crate) fn link(&self, node: &Arc<Node>, dir: &Arc<Node>, name: &[u8], who: &Identity) -> Result<()> {
        let _alone = self.write();
        self.check_search(dir, who)?;
        if self.child(dir, name)?.is_some() {
            return Err(Errno::EXIST);
        }
        let upper = self.upper()?;
        permission::check_link(&self.shown(node), who)?;
        permission::check(&self.shown(dir), who, WRITE | EXECUTE)?;
        if node.kind() == FileKind::Directory {
            return Err(Errno::PERM);
        }
        if !node.is_linked() || !dir.is_linked() {
            return Err(Errno::NOENT);
        }
        self.copy_up(node, true)?;
        self.copy_up(dir, true)?;
        let (from, dir_path) = (node.path()?, dir.path()?);
        let path = join(&dir_path, name);
        let covered = covered(dir, name);
        if covered {
            rustix::fs::unlinkat(upper, &path, AtFlags::empty())?;
        }
        if let Err(errno) = rustix::fs::linkat(upper, &from, upper, &path, AtFlags::empty()) {
            if covered {
                self.whiteout(&path)?;
            }
            return Err(errno);
        }
        if let Some(owner) = recorded_in_dir(node) {
            move_owner(None, (Real::At(upper, &dir_path), name), Some(owner))?;
        }
        self.link_node(dir, name, Arc::clone(&node.inode));
        Ok(())
    }

    /// Removes a file, or an empty directory.
    pub(crate) fn remove(
        &self,
        dir: &Arc<Node>,
        name: &[u8],
        directory: bool,
        who: &Identity,
        is_mount_point: &dyn Fn(&Arc<Node>) -> bool,
    ) -> Result<()> {
        let _alone = self.write();
        self.check_search(dir, who)?;
        let node = self.child(dir, name)?.ok_or(Errno::NOENT)?;
        self.check_delete(dir, &node, directory, who)?;
        if is_mount_point(&node) {
            return Err(Errno::BUSY);
        }
        if directory && !self.is_empty(&node)? {
            return Err(Errno::NOTEMPTY);
        }
        self.copy_up(dir, true)?;
        let dir_path = dir.path()?;
        let path = join(&dir_path, name);
        let last = self.last_stat(&node);
        let layer = node.state().layer;
        if layer == UPPER {
            self.remove_real(&node, &path)?;
            if recorded_in_dir(&node).is_some() {
                move_owner(None, (Real::At(self.upper()?, &dir_path), name), None)?;
            }
        }
        if Self::is_in_lower(dir, name) {
            self.whiteout(&path)?;
            Self::set_child(dir, name, Some(What::Whiteout));
        } else {
            Self::set_child(dir, name, None);
        }
        self.forget(dir, &node, last);
        Ok(())
    }

    /// What a file of the upper layer shows before its last name goes.
    pub(super) fn last_stat(&self, node: &Arc<Node>) -> Option<Stat> {
        // Somebody besides the tree and the caller holds it.
        let held = Arc::strong_count(node) > 2;
        let path = node.path().ok().filter(|_| held)?;
        let state = node.state();
        let statx = Real::At(self.layer(state.layer).ok()?.fd.as_fd(), &path).statx().ok()?;
        Some(real::stat(&statx, &state.shown))
    }

    /// Cuts a removed node off.
    pub(super) fn forget(&self, dir: &Arc<Node>, node: &Arc<Node>, last: Option<Stat>) {
        node.unlink_from(dir);
        let mut state = node.state();
        if let Some(directory) = &mut state.dir {
            directory.children = Some(BTreeMap::new());
        }
        if state.layer == UPPER && (state.dir.is_some() || Arc::strong_count(&node.inode) == 1) {
            let mut last = last.unwrap_or_default();
            last.nlink = last.nlink.saturating_sub(1);
            state.known = Some(Box::new(last));
        }
    }

    pub(super) fn is_empty(&self, node: &Arc<Node>) -> Result<bool> {
        let mut state = node.state();
        let directory = state.dir.as_mut().ok_or(Errno::NOTDIR)?;
        let children = self.children(node, directory)?;
        Ok(children.values().all(|child| matches!(child.what, What::Whiteout)))
    }

    /// Removes the whiteouts in an otherwise empty directory of the upper layer.
    pub(super) fn clear_whiteouts(&self, node: &Arc<Node>, path: &OsString) -> Result<()> {
        let state = node.state();
        let children = state.dir.as_ref().and_then(|dir| dir.children.as_ref());
        for name in children.into_iter().flat_map(BTreeMap::keys) {
            rustix::fs::unlinkat(self.upper()?, join(path, name), AtFlags::empty())?;
        }
        Ok(())
    }

    fn remove_real(&self, node: &Arc<Node>, path: &OsString) -> Result<()> {
        let mut flags = AtFlags::empty();
        if node.kind() == FileKind::Directory {
            self.clear_whiteouts(node, path)?;
            flags = AtFlags::REMOVEDIR;
        }
        rustix::fs::unlinkat(self.upper()?, path, flags)
    }

    pub(super) fn note_opened(&self, node: &Arc<Node>, layer: super::LayerId, ino: u64) {
        if let Ok(layer) = self.layer(layer) {
            locked(&self.opened).insert((layer.device, ino), Arc::downgrade(node));
        }
    }
}

/// The owner of a file that is recorded in the map of its directory.
pub(super) fn recorded_in_dir(node: &Node) -> Option<(u32, u32)> {
    let state = node.state();
    let own = matches!(state.stored.kind, FileKind::File | FileKind::Directory);
    (!own && state.stored.recorded).then_some((state.shown.uid, state.shown.gid))
}

/// Whether a directory, whose children are known, has a whiteout of this name in the upper layer.
pub(super) fn covered(dir: &Node, name: &[u8]) -> bool {
    let state = dir.state();
    let children = state.dir.as_ref().and_then(|dir| dir.children.as_ref());
    children.and_then(|children| children.get(name)).is_some_and(|child| matches!(child.what, What::Whiteout))
}
