//! The first thing in `main`: where a process that was started again as a worker or a step becomes one.

use crate::worker::WorkerChannel;

/// What a worker does: it is given its end of the channel and returns the exit code.
pub type Entry = fn(WorkerChannel) -> i32;

/// Makes this process what it was started as; to be called first in `main`, before any thread is started.
///
/// Returns at once in an ordinary process. In a process that [`Worker::spawn`](crate::Worker::spawn) or
/// [`run`](crate::run()) started, it does that process's work and ends it, without returning.
pub fn init(entries: &[(&str, Entry)]) {
    let _ = entries;
}
