//! SIGINT, SIGTERM and SIGHUP: the first one cancels what is being done, the second one ends the program at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
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
