//! Installs a seccomp filter.

#![allow(unsafe_code)]

use nix::libc;
use seccompiler::sock_filter;
use std::io;

/// Puts a filter on this thread and all that it starts, without no_new_privs: CAP_SYS_ADMIN is needed.
pub(crate) fn install(program: &[sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // seccompiler's `sock_filter` and libc's are the kernel's structure (linux/filter.h), so the pointers agree.
    let header = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel reads `len` instructions at `filter`, which live through the call, and checks them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const header) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
