//! The rbuild library: builds container images from Dockerfiles without a daemon, root or privileges.
#![forbid(unsafe_code)]

pub mod context;
mod error;
pub mod manage;
mod options;
pub mod rootfs;

pub use error::BuildError;
pub use options::*;
pub use rbuild_logfmt as logfmt;
