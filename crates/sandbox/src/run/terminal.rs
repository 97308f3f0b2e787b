//! The pseudo terminal of a command, made in the devpts of its root.

use super::{
    TerminalSize,
    mounts::{attach_to, copy_mount, open_path},
    wire::{Failure, OrFail, Report},
};
use crate::channel::Channel;
use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd},
    fs::{Gid, Mode, OFlags, Uid, fchown, fstat, open as open_file},
    io::Errno,
    process::ioctl_tiocsctty,
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
    termios::{Winsize, tcsetwinsize},
};
use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt, path::Path};

/// Makes the terminal, which becomes the standard streams and the controlling terminal of this process, and hands its
/// master side to the worker. To be called in the root of the command, by the leader of a session.
pub(super) fn open(size: TerminalSize, uid: u32, worker: &Channel) -> Result<(), Failure> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = open_file("/dev/pts/ptmx", flags, Mode::empty()).or_fail("open a pseudo terminal")?;
    unlockpt(&master).or_fail("unlock the pseudo terminal")?;
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&master, size).or_fail("set the size of the terminal")?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = ioctl_tiocgptpeer(&master, flags).or_fail("open the terminal of the command")?;
    // As runc does, so that the user may open it by its name.
    match fchown(&terminal, Some(Uid::from_raw(uid)), None::<Gid>) {
        // With one id alone there is no other owner.
        Ok(()) | Err(Errno::INVAL | Errno::PERM) => {}
        Err(errno) => return Err(errno).or_fail("give the terminal to its user"),
    }
    make_console(terminal.as_fd()).or_fail("make `/dev/console`")?;
    worker
        .send(&Report::Terminal)
        .map_err(io::Error::other)
        .and_then(|()| worker.send_descriptor(master.as_fd()))
        .or_fail("hand over the terminal")?;
    ioctl_tiocsctty(&terminal).or_fail("take the terminal as controlling terminal")?;
    dup2_stdin(&terminal).or_fail("take the terminal as standard input")?;
    dup2_stdout(&terminal).or_fail("take the terminal as standard output")?;
    dup2_stderr(&terminal).or_fail("take the terminal as standard error")
}

/// Puts the terminal at `/dev/console`, where runc has it.
fn make_console(terminal: BorrowedFd<'_>) -> Result<(), Errno> {
    let console = Path::new("/dev/console");
    let name = rustix::fs::readlink(format!("/proc/self/fd/{}", terminal.as_raw_fd()), Vec::new())?.into_bytes();
    let source = open_path(Path::new(OsStr::from_bytes(&name)))?;
    // Where the devpts is another one's, the name may be that of a stranger.
    let same = |stat: &rustix::fs::Stat| (stat.st_dev, stat.st_ino, stat.st_rdev);
    if same(&fstat(&source)?) != same(&fstat(terminal)?) {
        return Ok(());
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open_file(console, flags, Mode::from_raw_mode(0o600))?;
    attach_to(&copy_mount(&source)?, &open_path(console)?)
}
