//! Programs on a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

/// A terminal of the test's, with a program that has it as standard streams.
pub struct Terminal {
    /// The side of who types and looks.
    pub master: File,
    slave: OwnedFd,
    seen: String,
}

impl Terminal {
    /// Starts a program on a new terminal of 99 columns.
    #[must_use]
    pub fn start(command: &mut Command) -> (Terminal, Child) {
        use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        tcsetwinsize(&master, Winsize { ws_row: 33, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
        let stream = || Stdio::from(slave.try_clone().unwrap());
        let child = command.stdin(stream()).stdout(stream()).stderr(stream()).spawn().unwrap();
        (Terminal { master: master.into(), slave, seen: String::new() }, child)
    }

    /// Waits until this was shown, after what was waited for before; what came before it.
    pub fn expect(&mut self, text: &str) -> String {
        let begin = Instant::now();
        loop {
            if let Some(at) = self.seen.find(text) {
                let mut before: String = self.seen.drain(..at + text.len()).collect();
                before.truncate(at);
                return before;
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "`{text}` is not in {:?}", self.seen);
            let wait = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
            let mut fds = [rustix::event::PollFd::new(&self.master, rustix::event::PollFlags::IN)];
            if rustix::event::poll(&mut fds, Some(&wait)).unwrap() > 0 {
                let mut buffer = [0; 4096];
                let length = self.master.read(&mut buffer).unwrap();
                self.seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        }
    }

    /// Types.
    pub fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Whether keys are passed on as they are.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        !tcgetattr(&self.slave).unwrap().local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO)
    }
}
