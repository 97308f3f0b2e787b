//! Root file systems of snapshots: applying layers, writing them, copying between them.

mod attributes;
mod content;
mod error;
mod select;
mod source;
mod unpack;

pub use error::{Result, RootfsError};
pub use select::{buildkit_matches, go_match, has_wildcards, legacy_matches};
pub use source::{Filter, Shown, Source};
pub use unpack::{UnpackOptions, Unpacked, apply, unpack_archive};
