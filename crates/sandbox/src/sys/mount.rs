//! mount_setattr(2).

#![allow(unsafe_code)]

use nix::libc;
use rustix::fd::{AsRawFd, BorrowedFd};
use std::{ffi::c_uint, io, mem::size_of};

/// Adds the attributes `set` (`MOUNT_ATTR_*`) to the mount that `fd` is the root of, and with `recursive` to all
/// beneath it (kernel 5.12).
pub(crate) fn add_attributes(fd: BorrowedFd<'_>, set: u64, recursive: bool) -> io::Result<()> {
    // libc's structure is non-exhaustive and cannot be built; its four fields are (linux/mount.h): attr_set, attr_clr,
    // propagation, userns_fd.
    let attributes: [u64; 4] = [set, 0, 0, 0];
    let flags = libc::AT_EMPTY_PATH as c_uint | if recursive { libc::AT_RECURSIVE as c_uint } else { 0 };
    // SAFETY: the path is a C string, and the structure is as long as is said and lives through the call, which only
    // reads it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            attributes.as_ptr(),
            size_of::<[u64; 4]>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
