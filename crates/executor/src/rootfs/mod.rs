//! Root file systems of snapshots: applying layers, writing them, copying between them.

mod attributes;
mod content;
mod content_hash;
mod copy;
mod diff;
mod error;
mod known_files;
mod select;
mod source;
mod tarsum;
#[cfg(test)]
mod tests;
mod unpack;

pub use content_hash::{HashOptions, content_hash};
pub use copy::{ChangeMode, CopyOptions, copy, copy_legacy};
pub use diff::{DiffOptions, Diffed, LayerXattrs, archive, diff};
pub use error::{Result, RootfsError};
pub use known_files::KnownFiles;
pub use select::{buildkit_matches, go_match, has_wildcards, legacy_matches};
pub use source::{Filter, Shown, Source};
pub use tarsum::{ArchiveSums, DirectorySums, HeaderModes, Sums, legacy_hash, legacy_multi_hash};
pub use unpack::{UnpackOptions, Unpacked, apply, unpack_archive};
