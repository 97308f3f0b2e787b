//! SIGINT, SIGTERM and SIGHUP: the first one cancels what is being done, the second one ends the program at once. While a
//! command runs in an image, signals are that command's.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;

/// Tells which signal came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    signal: Arc<AtomicI32>,
}

impl Received {
    /// The first signal that came, if any.
    pub(crate) fn signal(&self) -> Option<i32> {
        match self.signal.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(signal),
        }
    }
}

/// Begins to listen; the first signal calls `cancel`.
///
/// # Errors
/// If the thread that listens, or the pipe it listens to, cannot be had.
pub(crate) fn listen(cancel: impl Fn() + Send + 'static) -> io::Result<Received> {
    let received = Received::default();
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let first = received.signal.clone();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in &mut signals {
            if first.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                cancel();
            } else if signal_hook::low_level::emulate_default_handler(signal).is_err() {
                return;
            }
        }
    })?;
    Ok(received)
}

/// What a signal means to a command that runs in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forwarded {
    /// It is for the command.
    Signal(i32),
    /// The terminal has another size.
    Resized,
    /// The command was asked to end so often that it is to be killed (as Docker's client has it, the third time).
    Enough,
}

/// How often a command is asked to end.
const ASKED: u32 = 3;

/// Begins to hand over the signals for a command.
///
/// # Errors
/// If the thread that listens, or the pipe it listens to, cannot be had.
pub(crate) fn forward(hand_over: impl Fn(Forwarded) + Send + 'static) -> io::Result<Received> {
    let received = Received::default();
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGWINCH])?;
    let first = received.signal.clone();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut asked = 0;
        for signal in &mut signals {
            if signal == SIGWINCH {
                hand_over(Forwarded::Resized);
                continue;
            }
            let _ = first.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
            asked += u32::from(matches!(signal, SIGINT | SIGTERM));
            let enough = asked >= ASKED && matches!(signal, SIGINT | SIGTERM);
            hand_over(if enough { Forwarded::Enough } else { Forwarded::Signal(signal) });
        }
    })?;
    Ok(received)
}

/// Begins to tell when the terminal has another size.
///
/// # Errors
/// As [`listen`].
pub(crate) fn on_resize(resized: impl Fn() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGWINCH])?;
    std::thread::Builder::new().name("resizes".to_owned()).spawn(move || signals.forever().for_each(|_| resized()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_first_signal_is_told() {
        let (told, cancelled) = std::sync::mpsc::channel();
        let received = listen(move || told.send(()).unwrap()).unwrap();
        assert_eq!(received.signal(), None);
        signal_hook::low_level::raise(SIGTERM).unwrap();
        cancelled.recv_timeout(Duration::from_secs(5)).unwrap();
        assert_eq!(received.signal(), Some(SIGTERM));
    }
}
