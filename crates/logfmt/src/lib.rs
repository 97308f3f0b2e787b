//! Placeholder docs, replaced with the crate.
#![forbid(unsafe_code)]
