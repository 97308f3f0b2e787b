//! Runs one command in one root file system without privileges.
#![deny(unsafe_code)]

pub mod root;
