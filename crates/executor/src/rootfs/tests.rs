//! Tests of root file systems.
