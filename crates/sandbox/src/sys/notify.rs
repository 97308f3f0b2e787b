//! Seccomp user notification: seccomp_unotify(2).

#![allow(unsafe_code)]

use nix::libc;
use rustix::{
    fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    io::Errno,
};
use seccompiler::sock_filter;
use std::ffi::c_void;

/// A call that waits for its answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Notification {
    pub(crate) id: u64,
    /// The thread that made it.
    pub(crate) tid: u32,
    pub(crate) number: i64,
    pub(crate) args: [u64; 6],
    /// Where the thread goes on.
    pub(crate) instruction: u64,
}

/// Wakes the other side on the same processor (linux/seccomp.h, kernel 6.6).
const SYNC_WAKE_UP: u64 = 1;

/// Puts a filter on this thread and all that it starts, for ever, and gives the descriptor on which its notifications
/// are received. A thread that waits for an answer can only be killed, where the kernel can do so (5.19).
///
/// # Errors
/// EACCES without CAP_SYS_ADMIN and no_new_privs; EBUSY where a filter around this one has a listener.
pub(crate) fn install(program: &[sock_filter]) -> Result<OwnedFd, Errno> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let header = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    let mut result = Err(Errno::INVAL);
    for flags in [flags | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, flags] {
        // SAFETY: the kernel reads `len` instructions at `filter`, which live through the call, and checks them;
        // seccompiler's `sock_filter` and libc's are the kernel's structure.
        let fd = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const header) };
        result = if fd < 0 {
            Err(last())
        } else {
            // SAFETY: the kernel has just made this descriptor for us.
            Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
        };
        if result.as_ref().err() != Some(&Errno::INVAL) {
            break;
        }
    }
    result
}

fn ioctl<T>(listener: BorrowedFd<'_>, request: libc::Ioctl, argument: *mut T) -> Result<i32, Errno> {
    // SAFETY: every caller passes the structure that this request takes, which lives through the call.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), request, argument.cast::<c_void>()) };
    if result < 0 { Err(last()) } else { Ok(result) }
}

fn last() -> Errno {
    Errno::from_raw_os_error(nix::errno::Errno::last_raw())
}

/// Has both sides be woken on one processor, where the kernel can do so: cheaper for calls that are answered at once.
pub(crate) fn wake_on_same_processor(listener: BorrowedFd<'_>) {
    // SAFETY: this request takes a number, not a pointer.
    let _ = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
}

/// Waits for a call; `None` where the thread that made one is gone already.
///
/// # Errors
/// ENOTTY or EBADF… where nothing can come any more: see [`is_over`].
pub(crate) fn receive(listener: BorrowedFd<'_>) -> Result<Option<Notification>, Errno> {
    // SAFETY: the structure is integers only; the kernel demands that it be all zero.
    let mut raw: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    match ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut raw) {
        Ok(_) => Ok(Some(Notification {
            id: raw.id,
            tid: raw.pid,
            number: i64::from(raw.data.nr),
            args: raw.data.args,
            instruction: raw.data.instruction_pointer,
        })),
        Err(Errno::NOENT | Errno::INTR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Whether the thread still waits, so that what was looked up by its id was of that thread.
pub(crate) fn is_waiting(listener: BorrowedFd<'_>, id: u64) -> bool {
    let mut id = id;
    ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw mut id).is_ok()
}

/// Answers with a value, or an error; ENOENT where the thread does not wait any more.
pub(crate) fn answer(listener: BorrowedFd<'_>, id: u64, result: Result<i64, Errno>) -> Result<(), Errno> {
    let (val, error) = match result {
        Ok(val) => (val, 0),
        Err(errno) => (0, -errno.raw_os_error()),
    };
    let mut response = libc::seccomp_notif_resp { id, val, error, flags: 0 };
    ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response).map(drop)
}

/// Has the kernel make the call as it is.
pub(crate) fn go_on(listener: BorrowedFd<'_>, id: u64) -> Result<(), Errno> {
    let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    let mut response = libc::seccomp_notif_resp { id, val: 0, error: 0, flags };
    ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response).map(drop)
}

/// Answers with a new descriptor for this open file.
pub(crate) fn answer_with_descriptor(
    listener: BorrowedFd<'_>,
    id: u64,
    fd: BorrowedFd<'_>,
    close_on_exec: bool,
) -> Result<(), Errno> {
    let mut request = libc::seccomp_notif_addfd {
        id,
        flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
        srcfd: fd.as_raw_fd() as u32,
        newfd: 0,
        newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
    };
    match ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw mut request) {
        // Before 5.14 these are two steps.
        Err(Errno::INVAL) => {
            request.flags = 0;
            let number = ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw mut request)?;
            answer(listener, id, Ok(i64::from(number)))
        }
        other => other.map(drop),
    }
}
