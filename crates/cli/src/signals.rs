//! SIGINT, SIGTERM and SIGHUP: the first one cancels what is being done, the second one ends the program at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::facade::Cancel;

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

/// Begins to listen.
///
/// # Errors
/// If the thread that listens, or the pipe it listens to, cannot be had.
pub(crate) fn listen(cancel: &Cancel) -> io::Result<Received> {
    let received = Received::default();
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let (cancel, first) = (cancel.clone(), received.signal.clone());
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in &mut signals {
            if first.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                cancel.cancel();
            } else if signal_hook::low_level::emulate_default_handler(signal).is_err() {
                return;
            }
        }
    })?;
    Ok(received)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn the_first_signal_is_told() {
        let cancel = Cancel::new();
        let received = listen(&cancel).unwrap();
        assert_eq!(received.signal(), None);
        signal_hook::low_level::raise(SIGTERM).unwrap();
        let start = Instant::now();
        while received.signal().is_none() && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(received.signal(), Some(SIGTERM));
    }
}
