//! Events of one build: numbering of steps, times, and the way out.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rbuild_logfmt::event::{Event, Fact, Item, Lines, Step, StepId, StepKind};

/// After so long without an event the clock is told.
const QUIET: Duration = Duration::from_millis(100);

/// What an emitter tells.
pub(crate) enum Told {
    /// Something happened.
    Event(Event),
    /// It is so many nanoseconds since the start, and whatever happened before was told.
    Clock(u64),
}

/// Takes facts from any thread, gives them times and an order, and passes them on.
pub(crate) struct Emitter {
    next: AtomicU32,
    sink: Arc<Sink>,
    /// Ends the clock when it is dropped.
    _clock: Sender<()>,
}

/// Times are given and told under one lock, so that they are told in order.
struct Sink {
    start: Instant,
    state: Mutex<SinkState>,
}

struct SinkState {
    last: u64,
    write: Box<dyn FnMut(Told) + Send>,
}

impl Sink {
    fn with_time(&self, tell: impl FnOnce(&mut SinkState, u64)) {
        // A panic while writing must not silence the events that tell of it.
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let at = nanoseconds(self.start.elapsed()).max(state.last);
        tell(&mut state, at);
    }

    fn event(&self, fact: Fact) {
        self.with_time(|state, at| {
            state.last = at;
            (state.write)(Told::Event(Event { at, fact }));
        });
    }

    fn clock(&self) {
        self.with_time(|state, at| {
            if at - state.last >= nanoseconds(QUIET) {
                state.last = at;
                (state.write)(Told::Clock(at));
            }
        });
    }
}

impl Emitter {
    pub(crate) fn new(write: Box<dyn FnMut(Told) + Send>) -> Emitter {
        let sink = Arc::new(Sink { start: Instant::now(), state: Mutex::new(SinkState { last: 0, write }) });
        let (clock, ended) = channel();
        let ticking = Arc::clone(&sink);
        let tick = move || {
            while ended.recv_timeout(QUIET) == Err(RecvTimeoutError::Timeout) {
                ticking.clock();
            }
        };
        // Without it displays change only when something happens.
        drop(std::thread::Builder::new().name("clock".to_owned()).spawn(tick));
        Emitter { next: AtomicU32::new(0), sink, _clock: clock }
    }

    /// Wall clock of the start, nanoseconds since the epoch.
    pub(crate) fn unix_ns() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanoseconds)
    }

    pub(crate) fn emit(&self, fact: Fact) {
        self.sink.event(fact);
    }

    /// Declares a step and gives its id.
    pub(crate) fn declare(&self, kind: StepKind, inputs: &[StepId]) -> StepId {
        let id = StepId(self.next.fetch_add(1, Ordering::Relaxed));
        self.emit(Fact::StepDeclared(Step { id, kind, inputs: inputs.to_vec() }));
        id
    }

    /// Declares a step that begins at once.
    pub(crate) fn begin(&self, kind: StepKind, inputs: &[StepId]) -> StepId {
        let id = self.declare(kind, inputs);
        self.emit(Fact::StepStarted { step: id });
        id
    }

    pub(crate) fn done(&self, step: StepId) {
        self.emit(Fact::StepDone { step, cached: false, image: None });
    }

    pub(crate) fn progress(&self, step: StepId, item: Item, current: u64, total: Option<u64>, done: bool) {
        self.emit(Fact::Progress { step, item, current, total, done });
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Lines of the parser as lines of an event.
pub(crate) fn lines(range: rbuild_parser::LineRange) -> Lines {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Lines { start: number(range.start), end: number(range.end) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_told_in_order_with_events() {
        let (told, hears) = channel();
        let emitter = Emitter::new(Box::new(move |what| drop(told.send(what))));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..3 {
                        emitter.emit(Fact::Context { tar_bytes: 0 });
                        std::thread::sleep(3 * QUIET);
                    }
                });
            }
        });
        drop(emitter);
        let (mut last, mut events, mut clocks) = (0, 0, 0);
        // Ends when the clock has: it holds the other end.
        for what in hears {
            let at = match what {
                Told::Event(event) => {
                    events += 1;
                    event.at
                }
                Told::Clock(at) => {
                    clocks += 1;
                    assert!(at - last >= nanoseconds(QUIET), "the clock is told when nothing happens");
                    at
                }
            };
            assert!(at >= last);
            last = at;
        }
        assert_eq!(events, 12);
        assert!(clocks > 0);
    }
}
