//! What container images are: digests, references, configurations, manifests, layer tars, the store on disk, archives
//! and the registry client.
//!
//! This crate runs no build, knows no Dockerfile and prints nothing. It never trusts what it reads: every blob is checked
//! against its digest and size, every JSON document is bounded, and no name found in an archive becomes a path on disk.
//!
//! ```
//! use rbuild_image::reference::Reference;
//! let name: Reference = "busybox".parse().unwrap();
//! assert_eq!(name.to_string(), "docker.io/library/busybox:latest");
//! assert_eq!(name.familiar(), "busybox:latest");
//! ```
#![forbid(unsafe_code)]

pub mod archive;
pub mod compression;
pub mod config;
pub mod digest;
pub mod json;
pub mod layer;
pub mod manifest;
pub mod platform;
pub mod reference;
pub mod registry;
pub mod store;
