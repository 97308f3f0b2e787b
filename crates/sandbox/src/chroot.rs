//! A root directory that is not the root of its mount namespace, as after chroot(2).
//!
//! There the kernel gives no user namespaces (user_namespaces(7)), `/` is mostly no mount point whose propagation could
//! be changed, and a step whose root replaced this one would have the rest of the host above it, one `chroot` away.

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags, openat, statx},
    io::Errno,
    mount::{
        MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount, open_tree,
        unmount,
    },
    process::{PidfdFlags, chdir, fchdir, getcwd, getpid, pidfd_open, pivot_root},
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Whether `/` is surely not the root of the mount namespace, since nothing is mounted there. A chroot to a mount
/// point is not recognised: an ordinary user is told nothing of what lies above.
pub(crate) fn is_certain() -> bool {
    statx(CWD, "/", AtFlags::empty(), StatxFlags::BASIC_STATS).is_ok_and(|status| {
        let known = StatxAttributes::MOUNT_ROOT;
        status.stx_attributes_mask.contains(known) && !status.stx_attributes.contains(known)
    })
}

/// In a mount namespace just made by root: where `/` is not its root, makes it so, with a copy of the mounts beneath,
/// and loses sight of all others. What is mounted from then on reaches no other namespace, whatever is shared outside.
///
/// # Errors
/// The step that failed.
pub(crate) fn become_namespace_root() -> Result<(), (&'static str, Errno)> {
    let failed = |action| move |errno| (action, errno);
    let before = open_directory("/").map_err(failed("open the root"))?;
    let directory = open_directory(".").ok();
    let path = getcwd(Vec::new()).ok();
    // Entering a mount namespace, be it the own one, leads to its root (setns(2)).
    let entered = pidfd_open(getpid(), PidfdFlags::empty())
        .map_err(drop)
        .and_then(|me| nix::sched::setns(me, nix::sched::CloneFlags::CLONE_NEWNS).map_err(drop));
    if entered.is_err() {
        // Without CAP_SYS_CHROOT, or under a filter: outside of a chroot all is well as it is.
        return Ok(());
    }
    let after = open_directory("/").map_err(failed("open the root of the mount namespace"))?;
    if is_same(before.as_fd(), after.as_fd()).map_err(failed("examine the root"))? {
        // Where the directory is gone, the root is as good.
        let _ = directory.map(fchdir);
        return Ok(());
    }
    // Before anything is mounted.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(failed("make the mounts private"))?;
    let copy = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let root = open_tree(&before, "", copy).map_err(failed("bind the root of the chroot"))?;
    let by_handle = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&root, "", &before, "", by_handle).map_err(failed("attach the root of the chroot"))?;
    fchdir(&root).map_err(failed("enter the root of the chroot"))?;
    // The old root is put over the new one, and taken away from there (pivot_root(2)).
    pivot_root(".", ".").map_err(failed("make the chroot the root of the mount namespace"))?;
    unmount(".", UnmountFlags::DETACH).map_err(failed("leave the old root"))?;
    chdir("/").map_err(failed("enter the new root"))?;
    let _ = path.map(chdir);
    Ok(())
}

fn open_directory(path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
}

/// Whether two directories are the same one of the same mount.
fn is_same(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> Result<bool, Errno> {
    let identity = |fd| {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
        let status = statx(fd, "", AtFlags::EMPTY_PATH, wanted)?;
        Ok::<_, Errno>((status.stx_mnt_id, status.stx_dev_major, status.stx_dev_minor, status.stx_ino))
    };
    Ok(identity(a)? == identity(b)?)
}
