//! Copies bytes between a stream of the caller and one of the command, while the command runs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};

/// The most that is moved at once.
const CHUNK: usize = 256 << 10;
/// What is at most left in a pipe when the command has ended (`/proc/sys/fs/pipe-max-size`), twice. A stranger to whom
/// the command has passed its end may go on writing.
const REST: usize = 2 << 20;

/// Tells that the command has ended.
#[derive(Clone, Debug)]
pub(super) struct Ended(Arc<OwnedFd>);

impl Ended {
    pub(super) fn new() -> io::Result<Ended> {
        Ok(Ended(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    pub(super) fn tell(&self) {
        // Never read, so that it stays readable.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

/// Copies what is typed or piped to the command, until its end, that of the source, or nobody reads any more.
pub(super) fn copy_in(from: &OwnedFd, to: &OwnedFd, ended: &Ended) -> io::Result<()> {
    let mut mover = Mover::default();
    while !wait(from.as_fd(), ended)?.1 {
        if mover.some(from.as_fd(), to.as_fd())? == 0 {
            break;
        }
    }
    Ok(())
}

/// Copies what the command writes, until nobody writes any more; after the command's end, what it has left. That nobody
/// reads any more is no error: whoever writes then is told by the kernel.
pub(super) fn copy_out(from: &OwnedFd, to: &OwnedFd, ended: &Ended) -> io::Result<()> {
    let mut mover = Mover::default();
    let mut rest = REST;
    loop {
        let (readable, over) = wait(from.as_fd(), ended)?;
        if over && (!readable || rest == 0) {
            return Ok(());
        }
        match mover.some(from.as_fd(), to.as_fd()) {
            Ok(0) => return Ok(()),
            Ok(moved) if over => rest = rest.saturating_sub(moved),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Waits until there is something to read or the command has ended: which of the two is so.
fn wait(from: BorrowedFd<'_>, ended: &Ended) -> io::Result<(bool, bool)> {
    loop {
        let mut fds = [PollFd::from_borrowed_fd(from, PollFlags::IN), PollFd::new(&*ended.0, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => return Ok((!fds[0].revents().is_empty(), !fds[1].revents().is_empty())),
        }
    }
}

/// Moves bytes: within the kernel where it can, else through memory.
#[derive(Default)]
struct Mover {
    /// What the kernel does not move itself.
    buffer: Option<Vec<u8>>,
}

impl Mover {
    /// Moves what there is, which may be cut; 0 at the end.
    fn some(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<usize> {
        let buffer = match &mut self.buffer {
            Some(buffer) => buffer,
            None => match splice(from, None, to, None, CHUNK, SpliceFlags::empty()) {
                Ok(moved) => return Ok(moved),
                // No pipe on either side, or a file that is only appended to; or one of the two fails, which shows below.
                Err(Errno::INVAL | Errno::NOSYS | Errno::PERM | Errno::IO) => self.buffer.insert(vec![0; CHUNK]),
                // Whoever shares the open file may have made it non-blocking; which of the two it was is not told.
                Err(Errno::AGAIN) => {
                    ready(to, PollFlags::OUT)?;
                    ready(from, PollFlags::IN)?;
                    return self.again(from, to);
                }
                Err(Errno::INTR) => return self.again(from, to),
                Err(errno) => return Err(errno.into()),
            },
        };
        let length = loop {
            match rustix::io::read(from, &mut **buffer) {
                Ok(length) => break length,
                // The master side of a terminal that nobody has open any more.
                Err(Errno::IO) => return Ok(0),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => ready(from, PollFlags::IN)?,
                Err(errno) => return Err(errno.into()),
            }
        };
        let mut left = &buffer[..length];
        while !left.is_empty() {
            match rustix::io::write(to, left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => left = left.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => ready(to, PollFlags::OUT)?,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(length)
    }

    fn again(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<usize> {
        self.some(from, to)
    }
}

fn ready(fd: BorrowedFd<'_>, what: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::from_borrowed_fd(fd, what)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe_with(PipeFlags::CLOEXEC).unwrap()
    }

    fn bytes(count: u32) -> Vec<u8> {
        (0..count).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    #[test]
    fn all_bytes_go_through_pipes_and_files() {
        let sent = bytes(3_000_000);
        for appended in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("out");
            let to = File::options().create(true).write(true).append(appended).open(&path).unwrap();
            let (read, write) = pipe();
            let copy = sent.clone();
            let writer = std::thread::spawn(move || File::from(write).write_all(&copy));
            copy_out(&read, &to.into(), &Ended::new().unwrap()).unwrap();
            writer.join().unwrap().unwrap();
            assert!(std::fs::read(&path).unwrap() == sent);
        }
    }

    #[test]
    fn a_slow_reader_that_does_not_block_gets_everything() {
        let (read, write) = pipe();
        let (far, near) = pipe();
        rustix::fs::fcntl_setfl(&near, rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::WRONLY).unwrap();
        let sent = bytes(500_000);
        let copy = sent.clone();
        std::thread::spawn(move || File::from(write).write_all(&copy));
        let copier = std::thread::spawn(move || copy_out(&read, &near, &Ended::new().unwrap()));
        std::thread::sleep(std::time::Duration::from_millis(30));
        let mut got = Vec::new();
        File::from(far).read_to_end(&mut got).unwrap();
        copier.join().unwrap().unwrap();
        assert!(got == sent);
    }

    #[test]
    fn the_end_of_the_command_ends_the_copy() {
        let (read, write) = pipe();
        let (far, near) = pipe();
        let ended = Ended::new().unwrap();
        File::from(write.try_clone().unwrap()).write_all(b"rest").unwrap();
        ended.tell();
        // Somebody still has the other end.
        copy_out(&read, &near, &ended).unwrap();
        drop(near);
        let mut got = String::new();
        File::from(far).read_to_string(&mut got).unwrap();
        assert_eq!(got, "rest");
        let (far, near) = pipe();
        copy_in(&read, &near, &ended).unwrap();
        drop((far, write));
    }

    #[test]
    fn a_terminal_that_nobody_has_open_any_more_has_ended() {
        use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        unlockpt(&master).unwrap();
        let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
        File::from(slave).write_all(b"last words\n").unwrap();
        let (far, near) = pipe();
        copy_out(&master, &near, &Ended::new().unwrap()).unwrap();
        drop(near);
        let mut got = String::new();
        File::from(far).read_to_string(&mut got).unwrap();
        assert_eq!(got, "last words\r\n");
    }

    #[test]
    fn nobody_reads() {
        let (read, write) = pipe();
        let (far, near) = pipe();
        drop(far);
        File::from(write).write_all(b"x").unwrap();
        copy_out(&read, &near, &Ended::new().unwrap()).unwrap();
    }
}
