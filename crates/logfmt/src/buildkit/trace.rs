//! What is known of every step, and what of it was not yet shown.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::ring::Ring;
use crate::event::{StepId, Version};
use crate::solve_status::{CANCELLED, SolveStatus, Vertex, VertexLog, VertexStatus, VertexWarning};

/// A stretch of time in which a step ran; without an end it still runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) start: u64,
    pub(super) stop: Option<u64>,
}

/// One step.
#[derive(Debug)]
pub(super) struct Traced {
    pub(super) vertex: Vertex,
    /// The state when it last counted as a change.
    previous: Option<Vertex>,
    /// Number in the log; 0 as long as it has none.
    pub(super) index: u32,
    pub(super) statuses: Vec<VertexStatus>,
    by_id: HashMap<String, usize>,
    pub(super) status_updates: BTreeSet<String>,
    /// Lines not yet shown, with their times in front; the last one may lack its end, and may have been shown in part.
    pub(super) logs: Vec<u8>,
    pub(super) logs_partial: bool,
    /// It has written nothing yet.
    is_silent: bool,
    /// How much of the unfinished line was shown.
    pub(super) logs_offset: usize,
    pub(super) ring: Ring,
    pub(super) warnings: Vec<VertexWarning>,
    pub(super) last_block: Option<u64>,
    pub(super) count: u64,
    /// By start, so that news of the same run replace what was known.
    intervals: BTreeMap<u64, Option<u64>>,
}

impl Traced {
    fn new(vertex: Vertex, index: u32) -> Self {
        Self {
            vertex,
            previous: None,
            index,
            statuses: Vec::new(),
            by_id: HashMap::new(),
            status_updates: BTreeSet::new(),
            logs: Vec::new(),
            logs_partial: false,
            is_silent: true,
            logs_offset: 0,
            ring: Ring::default(),
            warnings: Vec::new(),
            last_block: None,
            count: 0,
            intervals: BTreeMap::new(),
        }
    }

    /// Counts a change since the step was last in front.
    fn touch(&mut self, now: u64) {
        if self.count == 0 {
            self.last_block = Some(now);
        }
        self.count = self.count.saturating_add(1);
    }

    /// The times it ran, overlaps joined, in order.
    pub(super) fn merged(&self) -> Vec<Interval> {
        let mut merged: Vec<Interval> = Vec::new();
        for (&start, &stop) in &self.intervals {
            match merged.last_mut() {
                Some(last) if last.stop.is_none() => break,
                Some(last) if last.stop >= Some(start) => {
                    last.stop = match (last.stop, stop) {
                        (Some(a), Some(b)) => Some(a.max(b)),
                        _ => None,
                    };
                }
                _ => merged.push(Interval { start, stop }),
            }
        }
        merged
    }

    pub(super) fn is_started(&self) -> bool {
        !self.intervals.is_empty()
    }

    /// When it ended, if it did: 28 goes by the last of its runs, 20.10 by the last message.
    pub(super) fn completed(&self, version: Version) -> Option<u64> {
        match version {
            Version::V20 => self.vertex.completed,
            Version::V28 => self.merged().last().and_then(|interval| interval.stop),
        }
    }

    /// When the run began that times of output lines count from.
    fn origin(&self, version: Version) -> Option<u64> {
        match version {
            Version::V20 => self.vertex.started,
            Version::V28 => self.merged().last().map(|interval| interval.start),
        }
    }

    fn take_log(&mut self, log: &VertexLog, version: Version) {
        self.is_silent = false;
        let origin = self.origin(version).unwrap_or(log.timestamp);
        let seconds = log.timestamp.saturating_sub(origin) as f64 / 1e9;
        let decimals = match seconds {
            s if s < 10.0 => 3,
            s if s < 100.0 => 2,
            _ => 1,
        };
        let number = if version == Version::V20 { format!("#{} ", self.index) } else { String::new() };
        let prefix = format!("{number}{seconds:.decimals$} ");
        for line in log.data.split_inclusive(|byte| *byte == b'\n') {
            if !self.logs_partial {
                self.logs.extend_from_slice(prefix.as_bytes());
            }
            self.logs.extend_from_slice(line);
            self.logs_partial = !line.ends_with(b"\n");
        }
    }
}

/// All steps, by id; where BuildKit takes steps in random order, this takes them in order of declaration.
#[derive(Debug)]
pub(super) struct Trace {
    version: Version,
    pub(super) steps: BTreeMap<StepId, Traced>,
    /// In the order in which they began.
    begun: Vec<StepId>,
    /// Steps with something new to show.
    pub(super) updates: BTreeSet<StepId>,
}

impl Trace {
    pub(super) fn new(version: Version) -> Self {
        Self { version, steps: BTreeMap::new(), begun: Vec::new(), updates: BTreeSet::new() }
    }

    /// How many bytes of a step's output wait to be shown.
    pub(super) fn waiting(&self, step: StepId) -> usize {
        self.steps.get(&step).map_or(0, |step| step.logs.len())
    }

    /// Forgets the beginning of a long line that was shown: only its end is shown again, if it is.
    pub(super) fn shorten(&mut self, step: StepId, most: usize) {
        if let Some(step) = self.steps.get_mut(&step) {
            let excess = step.logs.len().saturating_sub(most / 2);
            step.logs.drain(..excess);
            step.logs_offset = step.logs_offset.saturating_sub(excess);
        }
    }

    /// Whether a step has written nothing yet.
    pub(super) fn is_silent(&self, step: StepId) -> bool {
        self.steps.get(&step).is_some_and(|step| step.is_silent)
    }

    /// How many steps have something new to show.
    pub(super) fn pending(&self) -> usize {
        self.updates.len()
    }

    pub(super) fn update(&mut self, status: &SolveStatus, now: u64) {
        for vertex in &status.vertexes {
            self.take_vertex(vertex, now);
        }
        for status in &status.statuses {
            let Some(step) = self.steps.get_mut(&status.step) else {
                continue;
            };
            match step.by_id.get(&status.id).and_then(|at| step.statuses.get_mut(*at)) {
                Some(known) => known.clone_from(status),
                None => {
                    step.by_id.insert(status.id.clone(), step.statuses.len());
                    step.statuses.push(status.clone());
                }
            }
            step.status_updates.insert(status.id.clone());
            self.updates.insert(status.step);
            step.touch(now);
        }
        for warning in &status.warnings {
            // A warning alone is no reason to show its step.
            let step = warning.vertex.as_ref().and_then(|(id, _)| self.steps.get_mut(id));
            if let Some(step) = step {
                step.warnings.push(warning.clone());
                step.touch(now);
            }
        }
        for log in &status.logs {
            let Some(step) = self.steps.get_mut(&log.step) else {
                continue;
            };
            step.take_log(log, self.version);
            self.updates.insert(log.step);
            step.touch(now);
        }
    }

    fn take_vertex(&mut self, vertex: &Vertex, now: u64) {
        // 20.10 numbers steps as it hears of them, 28 as it shows them.
        let next = match self.version {
            Version::V20 => u32::try_from(self.steps.len()).unwrap_or(u32::MAX).saturating_add(1),
            Version::V28 => 0,
        };
        let step = self.steps.entry(vertex.step).or_insert_with(|| Traced::new(vertex.clone(), next));
        if vertex.started.is_some() {
            let changed = step.previous.as_ref().is_none_or(|old| {
                vertex.digest != old.digest
                    || vertex.name != old.name
                    || vertex.started != old.started
                    || vertex.completed.is_some() && vertex.completed != old.completed
                    || vertex.cached != old.cached
                    || vertex.error != old.error
            });
            if changed {
                step.touch(now);
                self.updates.insert(vertex.step);
            }
            step.previous = Some(vertex.clone());
            if !step.is_started() {
                self.begun.push(vertex.step);
            }
        }
        if let Some(started) = vertex.started {
            step.vertex.clone_from(vertex);
            step.intervals.insert(started, vertex.completed);
        } else if !step.is_started() {
            step.vertex.clone_from(vertex);
        }
    }

    /// The recap of every step that failed.
    pub(super) fn error_logs(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for step in self.begun.iter().filter_map(|id| self.steps.get(id)) {
            if step.vertex.error.is_empty() || step.vertex.error.ends_with(CANCELLED) {
                continue;
            }
            out.extend_from_slice(format!("------\n > {}:\n", step.vertex.name).as_bytes());
            let recent = (self.version == Version::V28).then(|| step.ring.iter()).into_iter().flatten();
            out.extend_from_slice(&step.logs);
            if step.logs_partial {
                out.push(b'\n');
            }
            for line in recent {
                out.extend_from_slice(line);
                out.push(b'\n');
            }
            out.extend_from_slice(b"------\n");
        }
        out
    }
}
