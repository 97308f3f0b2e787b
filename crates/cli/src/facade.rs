//! The calls of the library that a build needs, as one place to change should they change.

pub(crate) use rbuild_executor::{Cancel, build, init};
