//! Tests of the whole program, run as an ordinary user.
//!
//! What a test needs from the machine is asked for with `require!`: where it is lacking the test is skipped and says
//! why, or fails under `RBUILD_TEST_STRICT=1`, which `.ci/run` sets.
#![allow(clippy::unwrap_used, reason = "tests")]

mod buildah;
mod cases;
mod contexts;
mod failures;
mod frontends;
mod hostile;
mod image;
mod interactive;
mod killed;
mod lookaside;
mod parallel;
mod rawjson;
mod refusals;
mod replay;
mod run;
mod secrets;
mod signals;
mod take;
mod tidy;
mod transfers;

use std::path::{Path, PathBuf};

use rbuild_testkit::bases;
use rbuild_testkit::registry::Registry;
use rbuild_testkit::workspace::Workspace;

/// Root of the source tree.
fn source_root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn fixtures() -> PathBuf {
    source_root().join("tests/fixtures")
}

/// A place to run rbuild in.
fn workspace() -> Result<Workspace, String> {
    Workspace::new(env!("CARGO_BIN_EXE_rbuild"))
}

/// A registry that has the base images, and a place to run rbuild in.
fn with_bases() -> Result<(Workspace, Registry), String> {
    let registry = Registry::start();
    bases::fill(&registry)?;
    Ok((workspace()?, registry))
}

/// Flags of a build that takes its bases from a registry.
fn build_flags(registry: &Registry) -> [String; 3] {
    ["build".to_owned(), format!("--registry-mirror={}", registry.url()), "--network=host".to_owned()]
}
