//! The calls of the library that a build needs, as one place to change should they change.

use rbuild_executor::{BuildError, BuildOptions, BuildResult};
use rbuild_logfmt::Event;

/// Stands for the library's own until that exists.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cancel(std::sync::Arc<std::sync::atomic::AtomicBool>);

impl Cancel {
    pub(crate) fn new() -> Cancel {
        Cancel::default()
    }
    pub(crate) fn cancel(&self) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

pub(crate) fn init() {}

pub(crate) fn build(
    _options: BuildOptions,
    _cancel: &Cancel,
    _on_event: &mut dyn FnMut(&Event),
) -> Result<BuildResult, BuildError> {
    Err(BuildError::Worker { message: "this program has no builder yet".to_owned(), hint: None })
}
