//! One log from steps that run at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::MILLISECOND;
use super::trace::{Trace, Traced};
use crate::event::{StepId, Version};
use crate::solve_status::{CANCELLED, VertexStatus};
use crate::units::progress_size;

/// The first line of the log in 28.
const BUILDING: &str = "#0 building with \"default\" instance using docker driver\n\n";
/// Longest time a step that has news is not shown.
const MAX_DELAY: u64 = 10_000 * MILLISECOND;
/// Seconds a step stays in front when it shares the log evenly with none.
const ANTI_FLICKER: f64 = 5.0;
/// A row of progress is shown again after this time, or this part of the whole.
const MIN_TIME_DELTA: u64 = 5_000 * MILLISECOND;
const MIN_PROGRESS_DELTA: f64 = 0.05;
/// A row shows its duration if longer.
const MIN_SHOWN: u64 = 10 * MILLISECOND;

/// How busy a step with news was since it was last in front.
struct Load {
    waiting: u64,
    speed: f64,
    over_limit: bool,
}

#[derive(Debug)]
pub(super) struct Mux {
    version: Version,
    /// The step in front, whose lines go on without a new title.
    current: Option<StepId>,
    /// What was shown of each row, by its words alone, as BuildKit does it: time and amount.
    shown_rows: HashMap<String, (u64, u64)>,
    begun: bool,
    next_index: u32,
}

impl Mux {
    pub(super) fn new(version: Version) -> Self {
        Self { version, current: None, shown_rows: HashMap::new(), begun: false, next_index: 0 }
    }

    /// What is to be shown now.
    pub(super) fn print(&mut self, trace: &mut Trace, now: u64) -> Vec<u8> {
        let mut out = Vec::new();
        let mut completed: Vec<(u64, StepId)> = Vec::new();
        let mut rest: BTreeSet<StepId> = BTreeSet::new();
        for id in &trace.updates {
            match trace.steps.get(id).map(|step| step.completed(self.version)) {
                Some(Some(at)) => completed.push((at, *id)),
                Some(None) => drop(rest.insert(*id)),
                None => {}
            }
        }
        let current = self.current;
        let current_completed = completed.iter().any(|(_, id)| Some(*id) == current);
        if let (Some(current), true) = (current, current_completed) {
            self.print_step(trace, current, &mut out);
        }
        completed.sort();
        for (_, id) in completed {
            if Some(id) != current {
                self.print_step(trace, id, &mut out);
            }
        }

        if rest.is_empty() {
            let running = |step: &Traced| step.is_started() && step.completed(self.version).is_none();
            if current.and_then(|id| trace.steps.get(&id)).is_some_and(running) {
                return out;
            }
            let open = trace.steps.iter().find(|(_, step)| running(step)).map(|(id, _)| *id);
            if let Some(open) = open {
                self.print_step(trace, open, &mut out);
            }
            return out;
        }

        if let Some(current) = current.filter(|id| rest.contains(id)) {
            self.print_step(trace, current, &mut out);
        }
        rest.extend(current);
        let loads = self.loads(trace, &rest, current, now);
        let mut busiest: Option<(StepId, &Load)> = None;
        for (id, load) in &loads {
            if load.over_limit || busiest.is_none_or(|(_, known)| known.speed < load.speed) {
                busiest = Some((*id, load));
            }
        }
        let Some((busiest, _)) = busiest else {
            return out;
        };
        let Some(current) = current.filter(|_| !current_completed) else {
            self.print_step(trace, busiest, &mut out);
            return out;
        };
        if let Some((hidden, _)) = loads.iter().find(|(_, load)| load.over_limit) {
            self.print_step(trace, *hidden, &mut out);
            return out;
        }
        let total: f64 = loads.values().map(|load| load.speed).sum();
        if let Some(load) = loads.get(&current) {
            let share = load.speed / total;
            if ANTI_FLICKER / (1.0 - share) < seconds(load.waiting) {
                self.print_step(trace, busiest, &mut out);
            }
        }
        out
    }

    /// What is to be shown of a step that has too much to wait for its turn.
    pub(super) fn print_now(&mut self, trace: &mut Trace, id: StepId) -> Vec<u8> {
        let mut out = Vec::new();
        self.print_step(trace, id, &mut out);
        out
    }

    fn loads(
        &self,
        trace: &Trace,
        rest: &BTreeSet<StepId>,
        current: Option<StepId>,
        now: u64,
    ) -> BTreeMap<StepId, Load> {
        let load = |id: &StepId| {
            let step = trace.steps.get(id)?;
            // Since some time always passes between news and display, there is no division by zero.
            let waiting = now.saturating_sub(step.last_block?).max(1);
            let speed = step.count as f64 / seconds(waiting);
            Some((*id, Load { waiting, speed, over_limit: waiting > MAX_DELAY && Some(*id) != current }))
        };
        rest.iter().filter_map(load).collect()
    }

    /// Brings a step to the front and writes its news.
    fn print_step(&mut self, trace: &mut Trace, id: StepId, out: &mut Vec<u8>) {
        let in_front = self.current.filter(|current| *current != id);
        if let Some(old) = in_front.and_then(|current| trace.steps.get_mut(&current)) {
            if old.logs_partial {
                out.push(b'\n');
            }
            (old.logs_offset, old.count) = (0, 0);
            line(out, format_args!("#{} ...", old.index));
        }
        let Some(step) = trace.steps.get_mut(&id) else {
            return;
        };
        if step.index == 0 {
            self.next_index = self.next_index.saturating_add(1);
            step.index = self.next_index;
        }
        let index = step.index;
        if self.current != Some(id) {
            if self.begun {
                out.push(b'\n');
            } else if self.version == Version::V28 {
                out.extend_from_slice(BUILDING.as_bytes());
            }
            self.begun = true;
            line(out, format_args!("#{index} {}", step.vertex.name));
            if self.version == Version::V20 {
                line(out, format_args!("#{index} {}", step.vertex.digest));
            }
        }
        let open_row = self.print_rows(step, out);
        if self.version == Version::V28 {
            for warning in step.warnings.drain(..) {
                line(out, format_args!("#{index} WARN: {}", warning.short));
            }
        }
        print_logs(step, self.version, out);
        self.current = Some(id);
        if let Some(completed) = step.completed(self.version).filter(|_| !open_row) {
            self.current = None;
            step.count = 0;
            print_end(step, self.version, completed, out);
        }
        trace.updates.remove(&id);
    }

    /// Writes the rows that changed; tells whether one of them is not complete, which keeps a step open in 28.
    fn print_rows(&mut self, step: &mut Traced, out: &mut Vec<u8>) -> bool {
        let mut open = false;
        for status in &step.statuses {
            if !step.status_updates.contains(&status.id) || !self.is_due(status) {
                continue;
            }
            self.shown_rows.insert(status.id.clone(), (status.timestamp, status.current));
            let size = match (status.current, status.total) {
                (0, 0) => String::new(),
                (current, 0) => format!(" {}", progress_size(current)),
                (current, total) => {
                    format!(" {} / {}", progress_size(current), progress_size(total))
                }
            };
            let took = status.completed.unwrap_or(status.timestamp).saturating_sub(status.started);
            let time = if took > MIN_SHOWN { format!(" {:.1}s", seconds(took)) } else { String::new() };
            let done = if status.completed.is_some() { " done" } else { "" };
            open |= status.completed.is_none();
            line(out, format_args!("#{} {}{size}{time}{done}", step.index, status.id));
        }
        step.status_updates.clear();
        // Docker has tried again for a while before it gives up, so that its last rows and its error never come together.
        open && self.version == Version::V28 && step.vertex.error.is_empty()
    }

    fn is_due(&self, status: &VertexStatus) -> bool {
        let Some((time, amount)) = self.shown_rows.get(&status.id).filter(|_| status.completed.is_none()) else {
            return true;
        };
        let moved = match status.total {
            0 => 0.0,
            total => (status.current as f64 - *amount as f64) / total as f64,
        };
        moved >= MIN_PROGRESS_DELTA || status.timestamp.saturating_sub(*time) >= MIN_TIME_DELTA
    }
}

/// Writes the lines of output that are new. 20.10 keeps numbers within its lines.
fn print_logs(step: &mut Traced, version: Version, out: &mut Vec<u8>) {
    let number = format!("#{} ", step.index);
    let mut shown = std::mem::take(&mut step.logs_offset);
    let mut last = 0;
    for text in step.logs.split_inclusive(|byte| *byte == b'\n') {
        last = text.len();
        let text = text.get(shown..).unwrap_or_default();
        if version == Version::V28 && shown == 0 {
            out.extend_from_slice(number.as_bytes());
        }
        out.extend_from_slice(text);
        step.ring.put(text.strip_suffix(b"\n").unwrap_or(text), !step.logs_partial);
        shown = 0;
    }
    if step.logs_partial {
        step.logs.drain(..step.logs.len() - last);
        step.logs_offset = last;
    } else {
        step.logs.clear();
    }
}

/// Writes how a step ended.
fn print_end(step: &Traced, version: Version, completed: u64, out: &mut Vec<u8>) {
    let (index, vertex) = (step.index, &step.vertex);
    // 20.10 forgets to end the line of a step that ended well.
    if step.logs_partial && (version == Version::V28 || !vertex.error.is_empty()) {
        out.push(b'\n');
    }
    if vertex.error.ends_with(CANCELLED) {
        line(out, format_args!("#{index} CANCELED"));
    } else if !vertex.error.is_empty() {
        line(out, format_args!("#{index} ERROR: {}", vertex.error));
    } else if vertex.cached {
        line(out, format_args!("#{index} CACHED"));
    } else {
        let took = match version {
            Version::V20 => completed.saturating_sub(vertex.started.unwrap_or(completed)),
            Version::V28 => step
                .merged()
                .iter()
                .fold(0, |sum: u64, run| sum.saturating_add(run.stop.unwrap_or(completed).saturating_sub(run.start))),
        };
        line(out, format_args!("#{index} DONE {:.1}s", seconds(took)));
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

fn line(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.extend_from_slice(text.to_string().as_bytes());
    out.push(b'\n');
}
