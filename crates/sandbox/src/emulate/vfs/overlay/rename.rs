//! rename(2) in an overlay: directories move only if they are wholly in the upper layer.

use super::{Node, OverlayFs, UPPER, What, change::recorded_in_dir, copy_up::move_owner, join, locked};
use crate::{
    emulate::vfs::{
        Identity, Result,
        permission::{self, WRITE},
        real::Real,
    },
    root::FileKind,
};
use rustix::{
    fs::{AtFlags, RenameFlags},
    io::Errno,
};
use std::{ffi::OsString, sync::Arc};

/// One end of a rename.
struct End<'a> {
    dir: &'a Arc<Node>,
    name: &'a [u8],
}

impl Node {
    /// Whether this is `other` or lies beneath it.
    pub(crate) fn is_beneath(self: &Arc<Self>, other: &Arc<Node>) -> bool {
        let mut next = Some(Arc::clone(self));
        while let Some(node) = next {
            if Arc::ptr_eq(&node, other) {
                return true;
            }
            next = node.parent();
        }
        false
    }

    /// A directory of which something is in a lower layer.
    fn is_merged_or_lower(&self) -> bool {
        let state = self.state();
        state.dir.as_ref().is_some_and(|dir| dir.layers.len() > 1 || state.layer != UPPER)
    }
}

impl OverlayFs {
    pub(crate) fn rename(
        &self,
        (old_dir, old_name): (&Arc<Node>, &[u8]),
        (new_dir, new_name): (&Arc<Node>, &[u8]),
        flags: RenameFlags,
        who: &Identity,
        is_mount_point: &dyn Fn(&Arc<Node>) -> bool,
    ) -> Result<()> {
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        if exchange && flags.contains(RenameFlags::NOREPLACE) || flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::INVAL);
        }
        let _alone = self.write();
        self.check_search(old_dir, who)?;
        let old = self.child(old_dir, old_name)?.ok_or(Errno::NOENT)?;
        self.check_search(new_dir, who)?;
        let new = self.child(new_dir, new_name)?;
        if new.is_some() && flags.contains(RenameFlags::NOREPLACE) {
            return Err(Errno::EXIST);
        }
        if exchange && new.is_none() {
            return Err(Errno::NOENT);
        }
        if new_dir.is_beneath(&old) {
            return Err(Errno::INVAL);
        }
        if let Some(new) = &new
            && old_dir.is_beneath(new)
        {
            return Err(if exchange { Errno::INVAL } else { Errno::NOTEMPTY });
        }
        if new.as_ref().is_some_and(|new| Arc::ptr_eq(&old.inode, &new.inode)) {
            return Ok(());
        }
        let is_dir = old.kind() == FileKind::Directory;
        self.check_delete(old_dir, &old, is_dir, who)?;
        match &new {
            Some(new) => {
                let new_is_dir = if exchange { new.kind() == FileKind::Directory } else { is_dir };
                self.check_delete(new_dir, new, new_is_dir, who)?;
            }
            None => permission::check(&self.shown(new_dir), who, WRITE | permission::EXECUTE)?,
        }
        if !Arc::ptr_eq(old_dir, new_dir) {
            // A directory's `..` is written.
            if is_dir {
                permission::check(&self.shown(&old), who, WRITE)?;
            }
            if let Some(new) = new.as_ref().filter(|new| exchange && new.kind() == FileKind::Directory) {
                permission::check(&self.shown(new), who, WRITE)?;
            }
        }
        if is_mount_point(&old) || new.as_ref().is_some_and(is_mount_point) {
            return Err(Errno::BUSY);
        }
        if !new_dir.is_linked() {
            return Err(Errno::NOENT);
        }
        let (from, to) = (End { dir: old_dir, name: old_name }, End { dir: new_dir, name: new_name });
        if old.is_merged_or_lower() || new.as_ref().is_some_and(|new| exchange && new.is_merged_or_lower()) {
            return Err(Errno::XDEV);
        }
        if let Some(new) = new.as_ref().filter(|new| !exchange && new.kind() == FileKind::Directory)
            && !self.is_empty(new)?
        {
            return Err(Errno::NOTEMPTY);
        }
        self.copy_up(&old, true)?;
        self.copy_up(new_dir, true)?;
        if let Some(new) = new.as_ref().filter(|_| exchange) {
            self.copy_up(new, true)?;
        }
        match new {
            Some(new) if exchange => self.exchange(&from, &old, &to, &new),
            new => self.replace(&from, &old, &to, new),
        }
    }

    /// A directory that comes to a merged one must not be merged with what may be beneath there.
    fn cover(&self, node: &Node, path: &OsString, dir: &Node) -> Result<()> {
        if node.kind() == FileKind::Directory && dir.is_merged_or_lower() {
            self.make_opaque(path)?;
        }
        Ok(())
    }

    fn replace(&self, from: &End<'_>, old: &Arc<Node>, to: &End<'_>, new: Option<Arc<Node>>) -> Result<()> {
        let upper = self.upper()?;
        let (from_dir, to_dir) = (from.dir.path()?, to.dir.path()?);
        let (from_path, to_path) = (join(&from_dir, from.name), join(&to_dir, to.name));
        self.cover(old, &from_path, to.dir)?;
        let last = new.as_ref().and_then(|new| self.last_stat(new));
        let is_dir = old.kind() == FileKind::Directory;
        match &new {
            Some(new) if is_dir && new.state().layer == UPPER => self.clear_whiteouts(new, &to_path)?,
            // No directory takes the place of a whiteout.
            None if is_dir => match rustix::fs::unlinkat(upper, &to_path, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            },
            _ => {}
        }
        rustix::fs::renameat(upper, &from_path, upper, &to_path)?;
        let (in_from, in_to) = (Real::At(upper, &from_dir), Real::At(upper, &to_dir));
        let owner = recorded_in_dir(old);
        if owner.is_some() {
            move_owner(Some((in_from, from.name)), (in_to, to.name), owner)?;
        } else if new.as_ref().is_some_and(|new| recorded_in_dir(new).is_some()) {
            move_owner(None, (in_to, to.name), None)?;
        }
        if Self::is_in_lower(from.dir, from.name) {
            self.whiteout(&from_path)?;
            Self::set_child(from.dir, from.name, Some(What::Whiteout));
        } else {
            Self::set_child(from.dir, from.name, None);
        }
        Self::set_child(to.dir, to.name, Some(What::Node(Arc::clone(old))));
        place(old, to);
        if let Some(new) = new {
            self.forget(to.dir, &new, last);
        }
        Ok(())
    }

    fn exchange(&self, from: &End<'_>, old: &Arc<Node>, to: &End<'_>, new: &Arc<Node>) -> Result<()> {
        let upper = self.upper()?;
        let (from_dir, to_dir) = (from.dir.path()?, to.dir.path()?);
        let (from_path, to_path) = (join(&from_dir, from.name), join(&to_dir, to.name));
        self.cover(old, &from_path, to.dir)?;
        self.cover(new, &to_path, from.dir)?;
        rustix::fs::renameat_with(upper, &from_path, upper, &to_path, RenameFlags::EXCHANGE)?;
        let (in_from, in_to) = (Real::At(upper, &from_dir), Real::At(upper, &to_dir));
        let owners = (recorded_in_dir(old), recorded_in_dir(new));
        if owners.0.is_some() || owners.1.is_some() {
            move_owner(None, (in_to, to.name), owners.0)?;
            move_owner(None, (in_from, from.name), owners.1)?;
        }
        Self::set_child(to.dir, to.name, Some(What::Node(Arc::clone(old))));
        Self::set_child(from.dir, from.name, Some(What::Node(Arc::clone(new))));
        place(old, to);
        place(new, from);
        Ok(())
    }
}

fn place(node: &Node, end: &End<'_>) {
    let mut at = locked(&node.at);
    at.parent = super::Parent::Linked(Arc::downgrade(end.dir));
    at.name = Arc::from(end.name);
}
