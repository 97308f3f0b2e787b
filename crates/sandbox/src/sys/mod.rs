//! System calls that the safe wrappers lack. The only place with unsafe code.

pub(crate) mod descriptor;
pub(crate) mod filter;
pub(crate) mod loopback;
pub(crate) mod mount;
pub(crate) mod process;
pub(crate) mod signal;
pub(crate) mod spawn;
