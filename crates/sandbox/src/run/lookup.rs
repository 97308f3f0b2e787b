//! Finds a command as runc does, with the rules of Go's `exec.LookPath`.

use super::ExecError;
use rustix::{
    fs::{Access, AtFlags, CWD, FileType, accessat, stat},
    io::Errno,
};
use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

/// The file to execute for `argv0`, seen from the current directory by the current user.
pub(super) fn look_up(argv0: &[u8], env: &[Vec<u8>]) -> Result<Vec<u8>, ExecError> {
    if argv0.contains(&b'/') {
        return match executable(argv0) {
            Ok(()) => Ok(argv0.to_vec()),
            Err(reason) => Err(reason),
        };
    }
    // An empty list names no directory, an empty element the current one.
    let path = variable(env, b"PATH").filter(|path| !path.is_empty());
    for dir in path.into_iter().flat_map(|path| path.split(|&b| b == b':')) {
        let dir = if dir.is_empty() { b"." } else { dir };
        let file = [dir, b"/", argv0].concat();
        if executable(&file).is_ok() {
            return Ok(file);
        }
    }
    Err(ExecError::NotFoundInPath)
}

/// The last of several settings counts, since each replaces the one before.
fn variable<'a>(env: &'a [Vec<u8>], name: &[u8]) -> Option<&'a [u8]> {
    env.iter().rev().find_map(|entry| entry.strip_prefix(name)?.strip_prefix(b"="))
}

fn executable(file: &[u8]) -> Result<(), ExecError> {
    let file = OsStr::from_bytes(file);
    let status = stat(file).map_err(|errno| ExecError::Stat(errno.raw_os_error()))?;
    if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
        return Err(ExecError::IsDirectory);
    }
    match accessat(CWD, file, Access::EXEC_OK, AtFlags::empty()) {
        Ok(()) => Ok(()),
        Err(Errno::NOSYS | Errno::PERM) if status.st_mode & 0o111 != 0 => Ok(()),
        Err(_) => Err(ExecError::PermissionDenied),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_rules() {
        let env = |path: &str| vec![b"PATH=/none".to_vec(), [b"PATH=", path.as_bytes()].concat()];
        assert_eq!(look_up(b"sh", &env("/nowhere:/bin")), Ok(b"/bin/sh".to_vec()));
        assert_eq!(look_up(b"sh", &env("")), Err(ExecError::NotFoundInPath));
        assert_eq!(look_up(b"sh", &[]), Err(ExecError::NotFoundInPath));
        assert_eq!(look_up(b"passwd", &env("/etc")), Err(ExecError::NotFoundInPath));
        assert_eq!(look_up(b"/etc", &[]), Err(ExecError::IsDirectory));
        assert_eq!(look_up(b"/etc/passwd", &[]), Err(ExecError::PermissionDenied));
        assert_eq!(look_up(b"/none/x", &[]), Err(ExecError::Stat(Errno::NOENT.raw_os_error())));
        assert_eq!(look_up(b"/etc/passwd/x", &[]), Err(ExecError::Stat(Errno::NOTDIR.raw_os_error())));
        assert_eq!(look_up(b"", &env("/bin")), Err(ExecError::NotFoundInPath));
    }
}
