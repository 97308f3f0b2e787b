//! Events of one build: numbering of steps, times, and the way out.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rbuild_logfmt::event::{Event, Fact, Item, Lines, Step, StepId, StepKind};

/// Takes facts from any thread, gives them times and an order, and passes them on.
pub(crate) struct Emitter {
    start: Instant,
    next: AtomicU32,
    sink: Mutex<Sink>,
}

struct Sink {
    last: u64,
    write: Box<dyn FnMut(Event) + Send>,
}

impl Emitter {
    pub(crate) fn new(write: Box<dyn FnMut(Event) + Send>) -> Emitter {
        Emitter { start: Instant::now(), next: AtomicU32::new(0), sink: Mutex::new(Sink { last: 0, write }) }
    }

    /// Wall clock of the start, nanoseconds since the epoch.
    pub(crate) fn unix_ns() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
    }

    pub(crate) fn emit(&self, fact: Fact) {
        // A panic while writing must not silence the events that tell of it.
        let mut sink = self.sink.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let at = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX).max(sink.last);
        sink.last = at;
        (sink.write)(Event { at, fact });
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

/// Lines of the parser as lines of an event.
pub(crate) fn lines(range: rbuild_parser::LineRange) -> Lines {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Lines { start: number(range.start), end: number(range.end) }
}
