//! What Docker's clients say of a file for the image's id that cannot be had.
//!
//! Recorded from Docker 28.5.2 with buildx 0.29 and Docker 20.10.24.

use std::io;
use std::path::Path;

use crate::event::{Builder, Dialect, Version};
use crate::go_reason::go_reason;
use crate::usage::DEPRECATED;

/// What was done with the file of `--iidfile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdFileAction {
    /// That of an earlier build was removed, before anything else.
    Remove,
    /// It was written, after everything else.
    Write,
}

/// All that the client of a dialect prints to standard error.
#[must_use]
pub fn id_file_error(action: IdFileAction, path: &Path, error: &io::Error, dialect: Dialect) -> String {
    let (path, reason) = (path.display(), go_reason(error));
    let Dialect { builder, version } = dialect;
    match (action, builder, version) {
        (IdFileAction::Remove, Builder::Legacy, Version::V28) => {
            format!("{DEPRECATED}Removing image ID file: remove {path}: {reason}\n")
        }
        (IdFileAction::Remove, Builder::Legacy, Version::V20) => {
            format!("Removing image ID file: remove {path}: {reason}\n")
        }
        (IdFileAction::Remove, Builder::Buildkit, Version::V28) => {
            format!("ERROR: removing image ID file: remove {path}: {reason}\n")
        }
        (IdFileAction::Remove, Builder::Buildkit, Version::V20) => {
            format!("removing image ID file: remove {path}: {reason}\n")
        }
        (IdFileAction::Write, Builder::Legacy, _) => format!("open {path}: {reason}\n"),
        (IdFileAction::Write, Builder::Buildkit, Version::V28) => {
            format!("ERROR: writing image ID file: open {path}: {reason}\n")
        }
        (IdFileAction::Write, Builder::Buildkit, Version::V20) => {
            format!("cannot write image ID file: open {path}: {reason}\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let say = |action, builder, version| {
            let error = io::Error::from_raw_os_error(2);
            id_file_error(action, Path::new("/x/id"), &error, Dialect { builder, version })
        };
        assert_eq!(
            say(IdFileAction::Write, Builder::Buildkit, Version::V28),
            "ERROR: writing image ID file: open /x/id: no such file or directory\n"
        );
        assert_eq!(say(IdFileAction::Write, Builder::Legacy, Version::V28), "open /x/id: no such file or directory\n");
        let removed = say(IdFileAction::Remove, Builder::Legacy, Version::V28);
        assert!(removed.starts_with("DEPRECATED: "), "{removed}");
        assert!(
            removed.ends_with("\n\nRemoving image ID file: remove /x/id: no such file or directory\n"),
            "{removed}"
        );
    }
}
