//! System calls that the safe wrappers lack. The only place with unsafe code.

pub(crate) mod descriptor;
pub(crate) mod filter;
#[cfg(target_arch = "x86_64")]
pub(crate) mod lookaside;
pub(crate) mod loopback;
#[cfg(target_arch = "x86_64")]
pub(crate) mod memory;
pub(crate) mod mount;
#[cfg(target_arch = "x86_64")]
pub(crate) mod notify;
pub(crate) mod process;
#[cfg(target_arch = "x86_64")]
pub(crate) mod ptrace;
pub(crate) mod signal;
pub(crate) mod spawn;
