//! Descriptors that a process was started with.

#![allow(unsafe_code)]

use nix::libc;
use rustix::{
    fd::{FromRawFd, OwnedFd, RawFd},
    io::{Errno, FdFlags},
};
use std::{
    io,
    sync::atomic::{AtomicI32, Ordering},
};

/// The lowest descriptor that nobody has taken yet.
static UNTAKEN: AtomicI32 = AtomicI32::new(FIRST_INHERITED);

/// The first descriptor after the standard streams.
pub(crate) const FIRST_INHERITED: RawFd = 3;

/// Takes the next `count` descriptors that [`spawn_self`](super::spawn::spawn_self) gave to this process, and marks
/// them close-on-exec.
///
/// Only before anything else was opened in the new process, since nothing else tells what is inherited.
pub(crate) fn take_inherited(count: usize) -> io::Result<Vec<OwnedFd>> {
    let count = RawFd::try_from(count).map_err(|_| Errno::BADF)?;
    let first = UNTAKEN.fetch_add(count, Ordering::SeqCst);
    let end = first.checked_add(count).ok_or(Errno::BADF)?;
    (first..end)
        .map(|number| {
            // SAFETY: F_GETFD takes no pointer and changes nothing: it tells whether the descriptor is open.
            if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
                return Err(io::Error::from(Errno::BADF));
            }
            // SAFETY: it is open, and nobody else owns it: callers come first in the new process, which opens what
            // is its own above all inherited ones, and `UNTAKEN` gives each number out once.
            let fd = unsafe { OwnedFd::from_raw_fd(number) };
            rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
            Ok(fd)
        })
        .collect()
}

/// Marks every descriptor from `first` on close-on-exec.
pub(crate) fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    // SAFETY: the call takes numbers only, and closes nothing before an exec.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
