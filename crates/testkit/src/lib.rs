//! Support for tests of whole programs: a registry in process, base images, a stager of cases, masks and goldens.
//!
//! Knows no other crate of the workspace: it looks at rbuild from outside, as a user does. For tests only, so it panics
//! where a test cannot go on.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends where its support fails")]

pub mod bases;
pub mod case;
pub mod daemon;
pub mod docker;
pub mod docker_registry;
pub mod git_server;
pub mod golden;
pub mod leftovers;
pub mod listing;
pub mod logs;
pub mod mask;
pub mod registry;
pub mod require;
pub mod scripted;
pub mod tarball;
pub mod terminal;
pub mod user;
pub mod workspace;

/// SHA-256 in lower-case hexadecimal digits.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
