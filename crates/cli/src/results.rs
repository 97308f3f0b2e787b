//! Files that tell what a build gave: `--iidfile`, `--metadata-file` and `--failure-file`.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rbuild_executor::{BuildResult, FailureReport};
use serde_json::json;

/// Why a file about the result could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{path}`")]
pub(crate) struct ResultFileError {
    /// What was tried.
    pub(crate) action: &'static str,
    /// The file.
    pub(crate) path: PathBuf,
    /// Why not.
    pub(crate) source: io::Error,
}

/// Removes the file of an earlier build, so that a build that fails leaves none behind; an empty directory, too, as Docker
/// does.
pub(crate) fn remove_stale(path: &Path) -> Result<(), ResultFileError> {
    if !is_replaceable(path) {
        return Ok(());
    }
    let removed = match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => fs::remove_dir(path),
        removed => removed,
    };
    match removed {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(ResultFileError { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Writes the image id, without a line feed, as Docker does.
pub(crate) fn write_id(path: &Path, id: &str) -> Result<(), ResultFileError> {
    write_whole(path, id.as_bytes())
}

/// Writes what buildx calls metadata: the digests and names of the image.
pub(crate) fn write_metadata(path: &Path, result: &BuildResult) -> Result<(), ResultFileError> {
    let mut metadata = json!({
        "containerimage.config.digest": result.image_id,
        "containerimage.digest": result.manifest_digest,
    });
    if !result.names.is_empty() {
        metadata["image.name"] = json!(result.names.join(","));
    }
    write_whole(path, format!("{metadata:#}").as_bytes())
}

/// Writes what is known of a failure.
pub(crate) fn write_failure(path: &Path, report: &FailureReport) -> Result<(), ResultFileError> {
    let bytes = serde_json::to_vec_pretty(report).map_err(|error| ResultFileError {
        action: "write",
        path: path.to_owned(),
        source: error.into(),
    })?;
    write_whole(path, &bytes)
}

/// A name that can be given to another file; a device or a pipe is written to instead.
fn is_replaceable(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |found| found.is_file() || found.is_dir())
}

/// Writes a file whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ResultFileError> {
    let failed = |action| move |source| ResultFileError { action, path: path.to_owned(), source };
    if !is_replaceable(path) {
        return fs::write(path, bytes).map_err(failed("write"));
    }
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first error counts; the file may not even have been made.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(failed("write"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(names: &[&str]) -> BuildResult {
        BuildResult {
            image_id: "sha256:11".into(),
            manifest_digest: "sha256:22".into(),
            names: names.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        fs::write(&path, "old").unwrap();
        remove_stale(&path).unwrap();
        assert!(!path.exists());
        remove_stale(&path).unwrap();
        fs::create_dir(&path).unwrap();
        remove_stale(&path).unwrap();
        write_id(&path, &result(&[]).image_id).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "sha256:11");
        write_metadata(&path, &result(&["docker.io/library/a:1", "b/c:2"])).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "{\n  \"containerimage.config.digest\": \"sha256:11\",\n  \"containerimage.digest\": \"sha256:22\",\n  \
             \"image.name\": \"docker.io/library/a:1,b/c:2\"\n}"
        );
        write_metadata(&path, &result(&[])).unwrap();
        assert!(!fs::read_to_string(&path).unwrap().contains("image.name"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_device_is_not_replaced() {
        remove_stale(Path::new("/dev/null")).unwrap();
        write_id(Path::new("/dev/null"), "sha256:11").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn no_directory() {
        let error = write_id(Path::new("/nonexistent/id"), "sha256:11").unwrap_err();
        assert_eq!(error.to_string(), "cannot write `/nonexistent/id`");
    }
}
