//! The rbuild library: builds container images from Dockerfiles without a daemon, root or privileges.
#![forbid(unsafe_code)]

pub mod context;
pub mod rootfs;
