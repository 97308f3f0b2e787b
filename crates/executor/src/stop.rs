//! Why a build ends early, inside the worker.

use rbuild_logfmt::event::{Failure, Lines, StepId};

use crate::kept::HalfBuilt;
use crate::plan::PlanError;
use crate::rootfs::RootfsError;
use crate::worker::with_causes;

/// Why a build ends early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Somebody asked for it, or another step failed.
    Cancelled,
    /// It cannot go on.
    Failed(Box<Failed>),
}

/// What failed, and where.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) failure: Failure,
    pub(crate) step: Option<StepId>,
    pub(crate) lines: Option<Lines>,
    /// What the failed command has left.
    pub(crate) half: Option<Box<HalfBuilt>>,
}

impl Stop {
    pub(crate) fn failed(failure: Failure) -> Stop {
        Stop::Failed(Box::new(Failed { failure, step: None, lines: None, half: None }))
    }

    /// Adds where it happened, unless that is known.
    pub(crate) fn at(mut self, step: StepId, lines: Option<Lines>) -> Stop {
        if let Stop::Failed(failed) = &mut self {
            failed.step.get_or_insert(step);
            failed.lines = failed.lines.or(lines);
        }
        self
    }

    /// Adds what the failed command has left.
    pub(crate) fn leaving(mut self, half: HalfBuilt) -> Stop {
        if let Stop::Failed(failed) = &mut self {
            failed.half = Some(Box::new(half));
        }
        self
    }

    /// Puts before an error of our own what was being done.
    pub(crate) fn while_doing(mut self, what: impl FnOnce() -> String) -> Stop {
        if let Stop::Failed(failed) = &mut self
            && let Failure::Own { message, .. } = &mut failed.failure
        {
            *message = format!("{}: {message}", what());
        }
        self
    }

    /// An error that has nothing to do with Docker.
    pub(crate) fn own(error: &(dyn std::error::Error + 'static)) -> Stop {
        Stop::failed(own(error))
    }
}

/// An error that has nothing to do with Docker, as a fact, with a remedy where the cause has a known one.
pub(crate) fn own(error: &(dyn std::error::Error + 'static)) -> Failure {
    let mut cause = Some(error);
    let mut hint = None;
    while let Some(error) = cause {
        if error.downcast_ref::<RootfsError>().is_some_and(changed_meanwhile) {
            hint = Some("something changed the files while they were read; build again when nothing writes there");
            break;
        }
        if error.downcast_ref::<RootfsError>().is_some_and(RootfsError::is_unmapped_owner) {
            hint = Some(
                "the file's owner is none of the ids that you may use; give yourself more in /etc/subuid and /etc/subgid \
                 (`rbuild doctor` tells how many there are)",
            );
            break;
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            hint = match io.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    Some("make room, or choose another store with `--root`; `rbuild prune` frees what is not used")
                }
                std::io::ErrorKind::PermissionDenied => Some("check who owns the store and the context"),
                std::io::ErrorKind::ReadOnlyFilesystem => Some("choose a store that can be written with `--root`"),
                _ => None,
            };
        }
        cause = error.source();
    }
    Failure::Own { message: with_causes(error), hint: hint.map(str::to_owned) }
}

/// Whether a file that was there a moment ago is another now, or is gone.
fn changed_meanwhile(error: &RootfsError) -> bool {
    error.is_not_found() || matches!(error, RootfsError::Changed { .. })
}

impl From<PlanError> for Stop {
    fn from(error: PlanError) -> Stop {
        Stop::Failed(Box::new(Failed { failure: error.failure, step: None, lines: error.lines, half: None }))
    }
}

/// Errors of other crates, which Docker has no words for.
macro_rules! own_errors {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for Stop {
            fn from(error: $error) -> Stop {
                Stop::own(&error)
            }
        }
    )*};
}

own_errors!(
    std::io::Error,
    rbuild_image::config::ConfigError,
    rbuild_image::manifest::ManifestError,
    rbuild_image::layer::LayerError,
    rbuild_image::store::StoreError,
    rbuild_sandbox::OverlayError,
    rbuild_sandbox::RemoveError,
    rbuild_sandbox::root::RootError,
    RootfsError,
);

#[cfg(test)]
mod tests {
    use rbuild_sandbox::root::RootError;

    use super::*;

    fn hint(error: &(dyn std::error::Error + 'static)) -> Option<String> {
        match own(error) {
            Failure::Own { hint, .. } => hint,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn remedies() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert!(hint(&full).unwrap().contains("make room"));
        assert_eq!(hint(&std::io::Error::other("x")), None);
        let changed = RootfsError::Changed { path: "f".into(), expected: 2, found: 1 };
        assert!(hint(&changed).unwrap().contains("build again"));
        let refused = |kind: std::io::ErrorKind| {
            let source = RootError::Io { operation: "change the owner of", path: "f".into(), source: kind.into() };
            RootfsError::Entry { entry: "f".into(), source: Box::new(source.into()) }
        };
        assert!(hint(&refused(std::io::ErrorKind::InvalidInput)).unwrap().contains("/etc/subuid"));
        assert!(!hint(&refused(std::io::ErrorKind::PermissionDenied)).unwrap().contains("/etc/subuid"));
    }

    #[test]
    fn errors_say_what_was_being_done() {
        let stop = Stop::own(&std::io::Error::other("x")).while_doing(|| "cannot y".to_owned());
        let Stop::Failed(failed) = stop else { panic!("it failed") };
        assert_eq!(failed.failure, Failure::Own { message: "cannot y: x".to_owned(), hint: None });
    }
}
