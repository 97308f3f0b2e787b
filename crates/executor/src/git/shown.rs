//! What the step of a repository shows: at once, or when its turn comes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rbuild_logfmt::event::{Fact, StepId, Stream};

use crate::emit::Emitter;
use crate::stop::Stop;

/// Shows what git writes, and how far the step is.
pub(crate) struct Shown<'a> {
    emitter: &'a Emitter,
    /// The step, if it is known yet.
    step: Option<StepId>,
    kept: Mutex<Vec<Fact>>,
    written: [AtomicU64; 2],
}

/// What a step will show.
#[derive(Debug, Default)]
pub(crate) struct StepLog(Vec<Fact>);

/// Stands for a step that is not known yet.
const UNKNOWN: StepId = StepId(u32::MAX);

impl<'a> Shown<'a> {
    /// In a step that has begun.
    pub(crate) fn new(emitter: &'a Emitter, step: StepId) -> Shown<'a> {
        Shown { emitter, step: Some(step), kept: Mutex::default(), written: Default::default() }
    }

    /// In a step that comes later.
    pub(crate) fn kept(emitter: &'a Emitter) -> Shown<'a> {
        Shown { emitter, step: None, kept: Mutex::default(), written: Default::default() }
    }

    fn tell(&self, fact: impl FnOnce(StepId) -> Fact) {
        match self.step {
            Some(step) => self.emitter.emit(fact(step)),
            None => self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(fact(UNKNOWN)),
        }
    }

    /// git wrote something.
    pub(crate) fn write(&self, stream: Stream, data: &[u8]) {
        let index = usize::from(stream == Stream::Stderr);
        let offset = self.written[index].fetch_add(data.len() as u64, Ordering::Relaxed);
        self.tell(|step| Fact::Output { step, stream, offset, data: data.to_vec() });
    }

    /// The step begins again.
    pub(crate) fn started(&self) {
        self.tell(|step| Fact::StepStarted { step });
    }

    /// The step ended.
    pub(crate) fn done(&self, cached: bool) {
        self.tell(|step| Fact::StepDone { step, cached, image: None });
    }

    /// The step failed.
    pub(crate) fn failed(&self, stop: &Stop) {
        let failure = match stop {
            Stop::Failed(failed) => Some(failed.failure.clone()),
            Stop::Cancelled => None,
        };
        self.tell(|step| Fact::StepFailed { step, failure });
    }

    /// What is to be shown.
    pub(crate) fn into_log(self) -> StepLog {
        StepLog(self.kept.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

impl StepLog {
    /// Shows it in a step that has begun.
    pub(crate) fn replay(&self, emitter: &Emitter, of: StepId) {
        for fact in &self.0 {
            let mut fact = fact.clone();
            match &mut fact {
                Fact::Output { step, .. }
                | Fact::StepStarted { step }
                | Fact::StepDone { step, .. }
                | Fact::StepFailed { step, .. } => *step = of,
                _ => {}
            }
            emitter.emit(fact);
        }
    }
}
