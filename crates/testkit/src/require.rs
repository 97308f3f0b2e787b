//! What a machine lacks: a reason to skip a test, or to fail where nothing may be skipped.

use std::io::Write;
use std::path::PathBuf;

/// Variable that turns every skip into a failure; continuous integration sets it to `1`.
pub const STRICT: &str = "RBUILD_TEST_STRICT";

/// The value, or `None` with the reason told on standard error.
///
/// # Panics
/// Under [`STRICT`], where there is no value.
pub fn check<T>(test: &str, needed: Result<T, String>) -> Option<T> {
    match needed {
        Ok(value) => Some(value),
        Err(reason) if std::env::var_os(STRICT).is_some_and(|value| value == "1") => {
            panic!("{test} cannot run here, and {STRICT}=1 forbids to skip it: {reason}")
        }
        Err(reason) => {
            // Not by a macro: the test runner keeps what those print of a test that passes.
            let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
            None
        }
    }
}

/// Path of a program, looked for where packages put them.
///
/// # Errors
/// With the reason to skip a test.
pub fn program(name: &str) -> Result<PathBuf, String> {
    ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        .iter()
        .map(|dir| PathBuf::from(dir).join(name))
        .find(|path| path.exists())
        .ok_or_else(|| format!("`{name}` is not installed"))
}

/// Unwraps what a test needs from the machine, or returns from the test with the reason told.
///
/// ```
/// fn test_with_skopeo() {
///     let skopeo = rbuild_testkit::require!(rbuild_testkit::require::program("skopeo"));
///     assert!(skopeo.exists());
/// }
/// ```
#[macro_export]
macro_rules! require {
    ($needed:expr) => {
        match $crate::require::check(concat!(module_path!(), ", line ", line!()), $needed) {
            Some(value) => value,
            None => return,
        }
    };
}
