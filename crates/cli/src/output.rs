//! Standard output and standard error: nothing else in the program writes to them.
//!
//! Both are written at once and unbuffered, so that what goes to them stays in the order in which it was said, whatever
//! they are connected to.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};

use rbuild_logfmt::{OutputStream, Sink};

use crate::args::{self, Environment};
use crate::convert::Terminals;

/// Why something could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum WriteError {
    /// The reader is gone.
    #[error("nobody reads {}", name(*.stream))]
    Closed {
        /// Which.
        stream: OutputStream,
    },
    /// Anything else.
    #[error("cannot write to {}", name(*.stream))]
    Io {
        /// Which.
        stream: OutputStream,
        /// Why.
        source: io::Error,
    },
}

fn name(stream: OutputStream) -> &'static str {
    match stream {
        OutputStream::Stdout => "standard output",
        OutputStream::Stderr => "standard error",
    }
}

/// The two streams.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// The first failed write; after it, nothing more is written.
    failed: Option<WriteError>,
    /// What would go to standard output goes to standard error.
    stdout_taken: bool,
}

impl Output {
    /// The streams of this process.
    pub(crate) fn new() -> Output {
        Output::default()
    }

    /// Which of them are terminals.
    pub(crate) fn terminals() -> Terminals {
        Terminals { stdout: io::stdout().is_terminal(), stderr: io::stderr().is_terminal() }
    }

    /// From now on standard output belongs to the result, and text for it goes to standard error.
    pub(crate) fn give_away_stdout(&mut self) {
        self.stdout_taken = true;
    }

    /// Writes text or bytes to standard output.
    pub(crate) fn out(&mut self, bytes: impl AsRef<[u8]>) {
        self.write(OutputStream::Stdout, bytes.as_ref());
    }

    /// Writes text or bytes to standard error.
    pub(crate) fn err(&mut self, bytes: impl AsRef<[u8]>) {
        self.write(OutputStream::Stderr, bytes.as_ref());
    }

    /// Nothing more is written, and nobody is told.
    #[cfg(test)]
    pub(crate) fn silence(&mut self) {
        self.failed = Some(WriteError::Closed { stream: OutputStream::Stderr });
    }

    /// Whether a write failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// The first failed write, if there was one.
    pub(crate) fn finish(self) -> Result<(), WriteError> {
        self.failed.map_or(Ok(()), Err)
    }
}

impl Sink for Output {
    fn write(&mut self, stream: OutputStream, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        let stream = if self.stdout_taken { OutputStream::Stderr } else { stream };
        let result = match stream {
            OutputStream::Stdout => write_all(io::stdout().as_fd(), bytes),
            OutputStream::Stderr => write_all(io::stderr().as_fd(), bytes),
        };
        self.failed = result.err().map(|source| match source.kind() {
            io::ErrorKind::BrokenPipe => WriteError::Closed { stream },
            _ => WriteError::Io { stream, source },
        });
    }
}

/// Sends diagnostics to standard error: none, those of `-v` or those of `-vv`.
pub(crate) fn trace(verbosity: u8, environment: &Environment) {
    let level = match verbosity {
        0 => return,
        1 => tracing::Level::INFO,
        2 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    };
    // The first one counts; tests run several in one process.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && environment.get("NO_COLOR").is_none())
        .try_init();
    for name in args::unknown_variables(environment) {
        tracing::warn!("the variable {name} sets nothing");
    }
}

/// Lends standard output for the bytes of an archive.
///
/// # Errors
/// That it could not be written, in place of what `write` made of that.
pub(crate) fn archive<T>(write: impl FnOnce(&mut dyn io::Write) -> T) -> Result<T, WriteError> {
    struct Raw {
        closed: bool,
    }
    impl io::Write for Raw {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let written = write_all(io::stdout().as_fd(), bytes);
            self.closed |= written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
            written.map(|()| bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut raw = Raw { closed: false };
    let done = write(&mut io::BufWriter::with_capacity(256 * 1024, &mut raw));
    if raw.closed { Err(WriteError::Closed { stream: OutputStream::Stdout }) } else { Ok(done) }
}

/// Where the live view draws.
pub(crate) fn draw_target() -> indicatif::ProgressDrawTarget {
    indicatif::ProgressDrawTarget::stderr()
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            // Whoever shares the open file may have made it non-blocking.
            Err(rustix::io::Errno::AGAIN) => {
                let mut ready = [rustix::event::PollFd::from_borrowed_fd(to, rustix::event::PollFlags::OUT)];
                match rustix::event::poll(&mut ready, None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_slow_reader_of_a_non_blocking_pipe_gets_everything() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::WRONLY).unwrap();
        let sent: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
        let expected = sent.clone();
        let thread = std::thread::spawn(move || write_all(writer.as_fd(), &sent));
        std::thread::sleep(std::time::Duration::from_millis(20));
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        assert!(thread.join().unwrap().is_ok());
        assert!(got == expected);
    }

    #[test]
    fn a_pipe_nobody_reads() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(write_all(writer.as_fd(), b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
