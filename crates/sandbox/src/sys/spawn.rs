//! Starts this program again, in new namespaces.

#![allow(unsafe_code)]

use nix::libc;
use rustix::{
    fd::{AsRawFd, BorrowedFd, OwnedFd},
    io::{Errno, fcntl_dupfd_cloexec},
    process::Pid,
};
use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    io, ptr,
    sync::atomic::{AtomicI32, Ordering},
};

/// The program itself, also where its file was replaced or removed.
pub(crate) const SELF_EXE: &CStr = c"/proc/self/exe";

/// Room for `child` and the C library's `execve`.
const STACK_SIZE: usize = 64 << 10;

struct Child {
    argv: *const *const c_char,
    envp: *const *const c_char,
    /// Source descriptors, all above the numbers they are to have.
    fds: *const c_int,
    fd_count: c_int,
    errno: AtomicI32,
}

/// Starts `/proc/self/exe` with these arguments and variables and with `fds` as its descriptors 0, 1, 2, … and no
/// others. `namespaces` are CLONE_NEW* flags for it. All signals are blocked in the new process.
///
/// The calling process may have threads: the child shares its memory, runs on a stack of its own and makes system
/// calls only, while this thread waits for its exec (as posix_spawn(3) does).
pub(crate) fn spawn_self(
    argv: &[CString],
    env: &[CString],
    fds: &[BorrowedFd<'_>],
    namespaces: c_int,
) -> io::Result<Pid> {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(argv), pointers(env));
    let count = c_int::try_from(fds.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let high: Vec<OwnedFd> = fds.iter().map(|fd| fcntl_dupfd_cloexec(fd, count)).collect::<Result<_, Errno>>()?;
    let numbers: Vec<c_int> = high.iter().map(AsRawFd::as_raw_fd).collect();
    let mut child = Child {
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
        fds: numbers.as_ptr(),
        fd_count: count,
        errno: AtomicI32::new(0),
    };
    let mut stack = vec![0u8; STACK_SIZE];
    // SAFETY: the end of an allocation may be computed; rounding down by at most 15 stays inside it.
    let top = unsafe { stack.as_mut_ptr().add(STACK_SIZE) };
    let top = top.wrapping_sub(top as usize % 16);

    // No handler of this program may run in the child, which shares its memory.
    let blocked = super::signal::block_all()?;
    // SAFETY: with CLONE_VFORK this thread waits until the child has executed or ended, so that `child`, what it
    // points to and `stack` outlive their use; the stack grows down from an aligned top; `run_child` makes only
    // async-signal-safe calls, and never returns into code of this thread.
    let pid = unsafe {
        libc::clone(
            run_child,
            top.cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD | namespaces,
            (&raw mut child).cast(),
        )
    };
    let cloned = nix::errno::Errno::last_raw();
    drop(blocked);
    let pid = match pid {
        1.. => Pid::from_raw(pid).ok_or(Errno::SRCH)?,
        _ => return Err(io::Error::from_raw_os_error(cloned)),
    };
    match child.errno.load(Ordering::Relaxed) {
        0 => Ok(pid),
        errno => {
            let _ = super::process::wait(pid);
            Err(io::Error::from_raw_os_error(errno))
        }
    }
}

extern "C" fn run_child(argument: *mut c_void) -> c_int {
    // SAFETY: `spawn_self` passes a `Child` that lives until this process executes or exits.
    let child = unsafe { &*argument.cast::<Child>() };
    // SAFETY: the arrays are as long as `fd_count` says, respectively ended by null, and live as long as `child`;
    // dup2, close_range, execve and _exit are async-signal-safe. A target descriptor below `fd_count` is never a
    // source, since all sources lie at or above it.
    unsafe {
        for target in 0..child.fd_count {
            if libc::dup2(*child.fds.add(target as usize), target) < 0 {
                child.errno.store(nix::errno::Errno::last_raw(), Ordering::Relaxed);
                libc::_exit(127);
            }
        }
        // Before kernel 5.9 there is no such call: then descriptors without close-on-exec leak, as in any exec.
        libc::syscall(libc::SYS_close_range, child.fd_count, libc::c_uint::MAX, 0);
        libc::execve(SELF_EXE.as_ptr(), child.argv, child.envp);
        child.errno.store(nix::errno::Errno::last_raw(), Ordering::Relaxed);
        libc::_exit(127)
    }
}
