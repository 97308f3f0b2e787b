//! Output files that appear under their name when they are whole, and not at all otherwise.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// A file being written beside its place. Dropped without [`WholeFile::publish`], it is removed.
///
/// While it is written it is locked, so that what a killed process left is told from what another one is writing, and
/// is taken over.
#[derive(Debug)]
pub(crate) struct WholeFile {
    file: File,
    target: PathBuf,
    /// None for a device or a pipe, which is written to directly.
    temporary: Option<PathBuf>,
}

/// The longest file name, in bytes, on Linux's file systems.
const NAME_MAX: usize = 255;

impl WholeFile {
    /// Begins a file; `mode` is that of a new one.
    pub(crate) fn create(target: &Path, mode: u32) -> io::Result<WholeFile> {
        // A link stays a link: what it leads to is written.
        let (target, found) = match std::fs::metadata(target) {
            Ok(found) => (std::fs::canonicalize(target)?, Some(found)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (target.to_path_buf(), None),
            Err(error) => return Err(error),
        };
        if found.is_some_and(|found| !found.is_file()) {
            let file = OpenOptions::new().write(true).open(&target)?;
            return Ok(WholeFile { file, target, temporary: None });
        }
        let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?.as_bytes();
        // A pipe that somebody put there is not waited for.
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let mut number = 0u32;
        loop {
            let suffix = format!(".{number}.tmp");
            let kept = &name[..name.len().min(NAME_MAX - 1 - suffix.len())];
            let temporary = target.with_file_name(OsString::from_vec([b".", kept, suffix.as_bytes()].concat()));
            let opened = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(mode)
                .custom_flags(flags.bits().cast_signed())
                .open(&temporary);
            if let Some(file) = take(opened, &temporary)? {
                file.set_len(0)?;
                return Ok(WholeFile { file, target, temporary: Some(temporary) });
            }
            number = number.checked_add(1).ok_or(io::ErrorKind::AlreadyExists)?;
        }
    }

    /// Where its content goes.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its name.
    pub(crate) fn publish(mut self) -> io::Result<()> {
        if let Some(temporary) = &self.temporary {
            std::fs::rename(temporary, &self.target)?;
        }
        self.temporary = None;
        Ok(())
    }
}

/// Locks a file that was opened; nothing if it is not to be had.
fn take(opened: io::Result<File>, path: &Path) -> io::Result<Option<File>> {
    let file = match opened {
        Ok(file) => file,
        // Something of somebody else, or no file: another name will do.
        Err(error)
            if path
                .symlink_metadata()
                .is_ok_and(|found| !found.is_file() || found.uid() != rustix::process::geteuid().as_raw()) =>
        {
            tracing::debug!(%error, "another name is tried");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    // Without locks two writers are not told apart; that is all.
    if let Err(rustix::io::Errno::WOULDBLOCK) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        return Ok(None);
    }
    // Its last owner may have given it its name meanwhile; and in a directory that all may write to, somebody else may
    // have put it there, and would own the output.
    let ours = file.metadata()?;
    let same = path.symlink_metadata().is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()));
    Ok((same && ours.is_file() && ours.uid() == rustix::process::geteuid().as_raw()).then_some(file))
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary
            && let Err(error) = std::fs::remove_file(temporary)
        {
            tracing::debug!(%error, "a temporary file is left");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn names(dir: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        std::fs::write(&target, "old").unwrap();
        let file = WholeFile::create(&target, 0o600).unwrap();
        file.file().write_all(b"ne").unwrap();
        drop(file);
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        let file = WholeFile::create(&target, 0o600).unwrap();
        file.file().write_all(b"new").unwrap();
        file.publish().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[test]
    fn leftovers_are_taken_over_and_others_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        std::fs::write(dir.path().join(".out.0.tmp"), "left by a killed process").unwrap();
        let first = WholeFile::create(&target, 0o600).unwrap();
        let second = WholeFile::create(&target, 0o600).unwrap();
        assert_eq!(names(dir.path()), [".out.0.tmp", ".out.1.tmp"]);
        first.file().write_all(b"first").unwrap();
        second.file().write_all(b"second").unwrap();
        second.publish().unwrap();
        first.publish().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"first");
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[test]
    fn a_name_that_is_no_file_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        std::os::unix::fs::symlink("elsewhere", dir.path().join(".out.0.tmp")).unwrap();
        let pipe = dir.path().join(".out.1.tmp");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        WholeFile::create(&target, 0o600).unwrap().publish().unwrap();
        assert_eq!(names(dir.path()), [".out.0.tmp", ".out.1.tmp", "out"]);
    }

    #[test]
    fn the_longest_name() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join(OsString::from_vec(vec![0xff; NAME_MAX]));
        WholeFile::create(&target, 0o600).unwrap().publish().unwrap();
        assert!(target.exists());
    }

    #[test]
    fn links_are_followed_and_pipes_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link, pipe) = (dir.path().join("f"), dir.path().join("l"), dir.path().join("p"));
        std::fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink("f", &link).unwrap();
        let file = WholeFile::create(&link, 0o600).unwrap();
        file.file().write_all(b"new").unwrap();
        file.publish().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        assert!(link.symlink_metadata().unwrap().is_symlink());

        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        let reader = {
            let pipe = pipe.clone();
            std::thread::spawn(move || {
                let mut text = String::new();
                File::open(pipe).unwrap().read_to_string(&mut text).unwrap();
                text
            })
        };
        let file = WholeFile::create(&pipe, 0o600).unwrap();
        file.file().write_all(b"through").unwrap();
        file.publish().unwrap();
        assert_eq!(reader.join().unwrap(), "through");
        assert!(WholeFile::create(dir.path(), 0o600).is_err());
    }
}
