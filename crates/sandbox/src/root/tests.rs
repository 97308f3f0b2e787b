//! Tests of the root.
