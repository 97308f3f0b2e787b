//! The memory of another process.
//!
//! By process_vm_readv(2) and its counterpart; where a container's filter refuses these, though it allows ptrace, by
//! `/proc/PID/mem`, which needs the same rights.

#![allow(unsafe_code)]

use nix::libc;
use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags, open},
    io::{Errno, pread, pwrite},
};
use std::sync::atomic::{AtomicBool, Ordering};

/// The direct calls are refused.
static REFUSED: AtomicBool = AtomicBool::new(false);

/// Reads as much as there is from `address` on; how much that was.
pub(crate) fn read(tid: u32, address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    if !REFUSED.load(Ordering::Relaxed) {
        let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let remote = libc::iovec { iov_base: address as *mut _, iov_len: buffer.len() };
        // SAFETY: the kernel writes at most `buffer.len()` bytes to `buffer`; the remote address is in another
        // process, and checked by the kernel.
        let read = unsafe { libc::process_vm_readv(tid as libc::pid_t, &raw const local, 1, &raw const remote, 1, 0) };
        if let Some(done) = done(read) {
            return done;
        }
    }
    let read = mem(tid, OFlags::RDONLY).and_then(|mem| pread(mem, buffer, address));
    remember(read)
}

/// Writes as much as can be written from `address` on; how much that was.
pub(crate) fn write(tid: u32, address: u64, bytes: &[u8]) -> Result<usize, Errno> {
    if !REFUSED.load(Ordering::Relaxed) {
        let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let remote = libc::iovec { iov_base: address as *mut _, iov_len: bytes.len() };
        // SAFETY: the kernel only reads `bytes`; what is written is in another process, whose memory no reference of
        // this one points to.
        let written =
            unsafe { libc::process_vm_writev(tid as libc::pid_t, &raw const local, 1, &raw const remote, 1, 0) };
        if let Some(done) = done(written) {
            return done;
        }
    }
    let written = mem(tid, OFlags::WRONLY).and_then(|mem| pwrite(mem, bytes, address));
    remember(written)
}

/// The result of a direct call, unless it was refused.
fn done(result: isize) -> Option<Result<usize, Errno>> {
    match usize::try_from(result) {
        Ok(length) => Some(Ok(length)),
        Err(_) => match Errno::from_raw_os_error(nix::errno::Errno::last_raw()) {
            Errno::PERM | Errno::NOSYS => None,
            errno => Some(Err(errno)),
        },
    }
}

fn mem(tid: u32, flags: OFlags) -> Result<OwnedFd, Errno> {
    open(format!("/proc/{tid}/mem"), flags | OFlags::CLOEXEC, Mode::empty())
}

/// Where this way works, the other need not be tried again.
fn remember(result: Result<usize, Errno>) -> Result<usize, Errno> {
    match result {
        Ok(length) => {
            REFUSED.store(true, Ordering::Relaxed);
            Ok(length)
        }
        // What the direct calls say of an address that is not there.
        Err(Errno::IO) => Err(Errno::FAULT),
        Err(errno) => Err(errno),
    }
}
