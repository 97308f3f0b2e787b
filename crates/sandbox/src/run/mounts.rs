//! Mounts inside the root of a command.

use super::{
    Access, Mount,
    stubs::not_copied_up,
    walk::{self, Missing, find, is_directory, walk},
    wire::{Failure, Made, Report},
};
use crate::{channel::Channel, sys::mount::add_attributes};
use nix::libc::{MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{CWD, Mode, OFlags, fchmod, fchown, fstat, openat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
        fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
    },
    process::{Gid, Uid},
};
use std::{io::Write, path::Path};

/// `nosuid,nodev,noexec`.
pub(super) const CLOSED: u64 = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
/// `nosuid,noexec`.
pub(super) const CLOSED_BUT_DEVICES: u64 = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
/// `ro`.
pub(super) const READ_ONLY: u64 = MOUNT_ATTR_RDONLY;
/// `nosuid`.
pub(super) const NO_SETUID: u64 = MOUNT_ATTR_NOSUID;

/// A failure that names what and where.
pub(super) fn failure(what: &str, target: &Path, action: &str, errno: Errno) -> Failure {
    Failure::Mount {
        what: what.to_owned(),
        target: target.to_owned(),
        action: action.to_owned(),
        errno: errno.raw_os_error(),
    }
}

/// The root in which mounts are made.
pub(super) struct Tree<'a> {
    pub(super) root: OwnedFd,
    /// Where the changes of the root go, if not in it.
    pub(super) upper: Option<OwnedFd>,
    /// Is told of mount points before they are made.
    pub(super) worker: &'a Channel,
}

impl Tree<'_> {
    /// The mount point at `target`, made where it is missing.
    pub(super) fn target(&self, target: &Path, directory: bool) -> Result<OwnedFd, Errno> {
        let missing = if directory { Missing::Directory } else { Missing::File };
        let mut tell = |path: &Path, directory: bool, parent: BorrowedFd<'_>| {
            let parent = fstat(parent)?;
            let copied_up =
                self.upper.as_ref().map_or_else(Vec::new, |upper| not_copied_up(self.root.as_fd(), upper, path));
            let made = Made {
                path: path.to_owned(),
                directory,
                parent_modified: (parent.st_mtime as _, parent.st_mtime_nsec as _),
                copied_up,
            };
            self.worker.send(&Report::Made(made)).map_err(|_| Errno::PIPE)
        };
        let (found, _) = walk(self.root.as_fd(), target, missing, &mut tell)?;
        Ok(found)
    }

    /// Attaches a mount at `target`.
    pub(super) fn attach(&self, what: &str, mount: &OwnedFd, target: &Path, directory: bool) -> Result<(), Failure> {
        let point = self
            .target(target, directory)
            .map_err(|errno| failure(what, target, "find or make the mount point", errno))?;
        // The kernel has EINVAL for it, which tells nobody anything.
        if is_directory(&point).is_ok_and(|found| found != directory) {
            let action = if directory { "attach a directory to a file" } else { "attach a file to a directory" };
            return Err(failure(what, target, action, Errno::NOTDIR));
        }
        attach_to(mount, &point).map_err(|errno| failure(what, target, "attach it", errno))
    }

    /// Binds a file of this tree to another place, for example one over itself.
    pub(super) fn find(&self, path: &Path) -> Result<OwnedFd, Errno> {
        find(self.root.as_fd(), path)
    }
}

pub(super) fn attach_to(mount: &OwnedFd, point: &OwnedFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", point, "", flags)
}

/// A new mount of a file system; an option without value is a flag.
pub(super) fn new_file_system(
    kind: &str,
    source: &str,
    options: &[(&str, Option<&str>)],
    attributes: u64,
) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", source)?;
    for (name, value) in options {
        match value {
            Some(value) => fsconfig_set_string(&context, *name, *value)?,
            None => fsconfig_set_flag(&context, *name)?,
        }
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::from_bits_truncate(attributes as u32);
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// A copy of the mount at `source`, with all beneath it.
pub(super) fn copy_mount(source: impl AsFd) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(source, "", flags)
}

pub(super) fn open_path(path: &Path) -> Result<OwnedFd, Errno> {
    openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

/// Adds attributes to a mount and to all beneath it.
pub(super) fn restrict(mount: &OwnedFd, attributes: u64) -> Result<(), Errno> {
    add_attributes(mount.as_fd(), attributes, true)
        .map_err(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
}

/// Where a mount goes.
pub(super) fn target_of(mount: &Mount) -> &Path {
    match mount {
        Mount::Bind { target, .. } | Mount::Tmpfs { target, .. } | Mount::File { target, .. } => target,
    }
}

/// Whether its mount point is a directory; unknown where a source cannot be seen, which is told later.
pub(super) fn is_on_directory(mount: &Mount) -> Option<bool> {
    match mount {
        Mount::Bind { source, within, .. } => open_source(source, within.as_deref()).and_then(is_directory).ok(),
        Mount::Tmpfs { .. } => Some(true),
        Mount::File { .. } => Some(false),
    }
}

fn open_source(source: &Path, within: Option<&Path>) -> Result<OwnedFd, Errno> {
    match within {
        Some(within) => walk::find(open_path(within)?.as_fd(), source),
        None => open_path(source),
    }
}

/// The mounts that the caller asked for.
pub(super) fn mount_all(tree: &Tree<'_>, mounts: &[Mount], files: &Files) -> Result<(), Failure> {
    for (index, mount) in mounts.iter().enumerate() {
        match mount {
            Mount::Bind { source, within, target, access } => {
                let what = source.display().to_string();
                let failed = |action| {
                    let what = &what;
                    move |errno| failure(what, target, action, errno)
                };
                let source = open_source(source, within.as_deref()).map_err(failed("open the source"))?;
                let directory = is_directory(&source).map_err(failed("examine the source"))?;
                let mount = copy_mount(&source).map_err(failed("bind the source"))?;
                if *access == Access::ReadOnly {
                    restrict(&mount, READ_ONLY).map_err(failed("make it read-only"))?;
                }
                tree.attach(&what, &mount, target, directory)?;
            }
            Mount::Tmpfs { target, size, mode, closed, access } => {
                let size = size.map(|size| size.to_string());
                let mode = format!("{mode:o}");
                let mut options = vec![("mode", Some(mode.as_str()))];
                options.extend(size.as_deref().map(|size| ("size", Some(size))));
                let attributes =
                    if *closed { CLOSED } else { NO_SETUID } | if *access == Access::ReadOnly { READ_ONLY } else { 0 };
                let mount = new_file_system("tmpfs", "tmpfs", &options, attributes)
                    .map_err(|errno| failure("tmpfs", target, "create it", errno))?;
                tree.attach("tmpfs", &mount, target, true)?;
            }
            Mount::File { target, access, .. } => {
                let failed = |action| move |errno| failure("file", target, action, errno);
                let source = files.open(index).map_err(failed("open the content"))?;
                let mount = copy_mount(&source).map_err(failed("bind the content"))?;
                let read_only = if *access == Access::ReadOnly { READ_ONLY } else { 0 };
                restrict(&mount, CLOSED | read_only).map_err(failed("restrict it"))?;
                tree.attach("file", &mount, target, false)?;
            }
        }
    }
    Ok(())
}

/// The files made of bytes, on a memory file system that nobody can reach by name: it lies under `/dev`.
pub(super) struct Files(Option<OwnedFd>);

/// Where that file system is attached, before the one for devices.
const COVERED: &str = "dev";

impl Files {
    /// To be called before `/dev` is mounted.
    pub(super) fn new(tree: &Tree<'_>, mounts: &[Mount]) -> Result<Self, Failure> {
        if !mounts.iter().any(|mount| matches!(mount, Mount::File { .. })) {
            return Ok(Self(None));
        }
        let covered = Path::new(COVERED);
        let failed = |action| move |errno| failure("files", covered, action, errno);
        let mount =
            new_file_system("tmpfs", "files", &[("mode", Some("700"))], CLOSED).map_err(failed("create them"))?;
        for (index, file) in mounts.iter().enumerate() {
            let Mount::File { content, target, mode, uid, gid, .. } = file else {
                continue;
            };
            let failed = |action| move |errno| failure("file", target, action, errno);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let fd = openat(&mount, index.to_string(), flags, Mode::RUSR).map_err(failed("create it"))?;
            match fchown(&fd, Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid))) {
                // With one id alone there is no other owner.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(errno) => return Err(failed("give it to its owner")(errno)),
            }
            fchmod(&fd, Mode::from_raw_mode(*mode)).map_err(failed("set its mode"))?;
            std::fs::File::from(fd).write_all(content).map_err(|error| {
                failed("write it")(error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
            })?;
        }
        let point = tree.target(covered, true).map_err(failed("find the place for them"))?;
        attach_to(&mount, &point).map_err(failed("attach them"))?;
        Ok(Self(Some(mount)))
    }

    fn open(&self, index: usize) -> Result<OwnedFd, Errno> {
        let directory = self.0.as_ref().ok_or(Errno::NOENT)?;
        openat(directory, index.to_string(), OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    }
}
