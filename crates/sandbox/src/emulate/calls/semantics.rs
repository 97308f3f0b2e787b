//! How calls arrive: as notifications, or by the tracer, which asks what to make of their arguments.

use super::{
    Answer, Call, Calls,
    caller::{Caller, Target},
    dirs, dispatch, sockets,
};
use crate::emulate::{Kernel, Program, Rewritten, Semantics, credentials::Privileges, task::Task, vfs::Place};
use nix::libc;
use rustix::{
    fd::OwnedFd,
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
};
use std::{os::fd::AsRawFd, path::Path, sync::Arc};

const EXECUTE: u32 = libc::X_OK as u32;
/// What file capabilities are kept in.
const CAPABILITY: &[u8] = b"security.capability";

fn open_to_read(path: &Path) -> Result<OwnedFd, Errno> {
    openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
}

fn program_at(caller: &Caller<'_>, place: Place) -> Result<Program, Errno> {
    let status = place.stat()?;
    match status.mode & libc::S_IFMT {
        libc::S_IFREG => {}
        libc::S_IFLNK => return Err(Errno::LOOP),
        _ => return Err(Errno::ACCESS),
    }
    place.access(EXECUTE, &caller.who)?;
    let real = place.real(false)?;
    // A command may execute what it may not read.
    let file = open_to_read(Path::new(&format!("/proc/self/fd/{}", real.as_raw_fd())))?;
    let privileges = Privileges {
        uid: status.uid,
        gid: status.gid,
        mode: status.mode & 0o7777,
        capability: place.get_xattr(CAPABILITY, &caller.who).ok(),
        nosuid: place.flags().nosuid,
    };
    Ok(Program { file, privileges, place: Some(place) })
}

/// A file without a name, such as one in memory.
fn unnamed_program(path: &Path) -> Result<Program, Errno> {
    let status = super::stats::stat_descriptor(path)?;
    if status.mode & libc::S_IFMT != libc::S_IFREG || status.mode & 0o111 == 0 {
        return Err(Errno::ACCESS);
    }
    let privileges = Privileges { mode: status.mode & 0o777, ..Privileges::default() };
    Ok(Program { file: open_to_read(path)?, privileges, place: None })
}

impl Semantics for Calls {
    fn answer(&self, kernel: &Kernel, call: &Call) -> Answer {
        dispatch(self, kernel, call).unwrap_or_else(Answer::Error)
    }

    fn program(&self, kernel: &Kernel, task: &Arc<Task>, dir: i32, path: &[u8], flags: i32) -> Result<Program, Errno> {
        let caller = Caller::new(self, kernel, task);
        let target = if path.is_empty() && flags & libc::AT_EMPTY_PATH != 0 {
            caller.descriptor(dir)?
        } else {
            caller.find(dir, path, flags & libc::AT_SYMLINK_NOFOLLOW == 0)?
        };
        match target {
            Target::Place(place) => program_at(&caller, place),
            Target::Descriptor(path) => unnamed_program(&path),
        }
    }

    fn read_directory(
        &self,
        kernel: &Kernel,
        task: &Arc<Task>,
        fd: i32,
        length: usize,
        cursor: &dyn Fn() -> Result<u64, Errno>,
    ) -> Option<Result<(Vec<u8>, u64), Errno>> {
        dirs::read_directory(&Caller::new(self, kernel, task), fd, length, cursor)
    }

    fn socket_address(
        &self,
        kernel: &Kernel,
        task: &Arc<Task>,
        address: &[u8],
        binds: bool,
    ) -> Option<Result<Rewritten, Errno>> {
        sockets::real_address(&Caller::new(self, kernel, task), address, binds).transpose()
    }

    fn socket_bound(&self, _kernel: &Kernel, task: &Arc<Task>, _address: &[u8], result: i64) {
        self.bound.finish(task.tid, result >= 0);
    }

    fn watched_path(
        &self,
        kernel: &Kernel,
        task: &Arc<Task>,
        path: &[u8],
        mask: u32,
    ) -> Option<Result<(Rewritten, u32), Errno>> {
        Some(sockets::watched_path(&Caller::new(self, kernel, task), path, mask))
    }
}
