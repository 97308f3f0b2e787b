//! Events as BuildKit's status messages: what its plain log and its `rawjson` are both made from.

mod clip;
pub(crate) mod json;
mod names;

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest as _, Sha256};

use crate::event::{
    Call, Dialect, Fact, Failure, Item, Lines, Outcome, Step, StepId, StepKind, Stream, Version, Warning,
};
use crate::{Event, failure_text};
use clip::Clip;

/// What a step that was cancelled, since another failed, has for an error.
pub(crate) const CANCELLED: &str = "context canceled";

/// The state of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vertex {
    pub(crate) step: StepId,
    pub(crate) digest: String,
    pub(crate) inputs: Vec<String>,
    pub(crate) name: String,
    /// Nanoseconds since the build began, as all times here.
    pub(crate) started: Option<u64>,
    pub(crate) completed: Option<u64>,
    pub(crate) cached: bool,
    pub(crate) error: String,
}

/// The state of something measurable within a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VertexStatus {
    pub(crate) step: StepId,
    pub(crate) vertex: String,
    pub(crate) id: String,
    /// BuildKit's word for the action, if it has one.
    pub(crate) name: &'static str,
    pub(crate) current: u64,
    pub(crate) total: u64,
    pub(crate) timestamp: u64,
    pub(crate) started: u64,
    pub(crate) completed: Option<u64>,
}

/// A piece of what a step wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VertexLog {
    pub(crate) step: StepId,
    pub(crate) vertex: String,
    pub(crate) stream: Stream,
    pub(crate) data: Vec<u8>,
    pub(crate) timestamp: u64,
}

/// A finding of a build check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VertexWarning {
    /// The step that read the Dockerfile, if one did.
    pub(crate) vertex: Option<(StepId, String)>,
    pub(crate) rule: String,
    /// What the rule says of this place.
    pub(crate) message: String,
    /// The rule, what it says, and where.
    pub(crate) short: String,
    pub(crate) detail: String,
    pub(crate) url: String,
    pub(crate) lines: Option<Lines>,
}

impl VertexWarning {
    /// The line that it is listed by.
    pub(crate) fn line(&self) -> u32 {
        self.lines.map_or(0, |lines| lines.start)
    }
}

/// The Dockerfile.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// As BuildKit names it.
    pub(crate) name: String,
    pub(crate) text: String,
    /// As its client names it.
    pub(crate) path: String,
}

/// One message: what changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SolveStatus {
    pub(crate) vertexes: Vec<Vertex>,
    pub(crate) statuses: Vec<VertexStatus>,
    pub(crate) logs: Vec<VertexLog>,
    pub(crate) warnings: Vec<VertexWarning>,
}

impl SolveStatus {
    pub(crate) fn is_empty(&self) -> bool {
        self.vertexes.is_empty() && self.statuses.is_empty() && self.logs.is_empty() && self.warnings.is_empty()
    }
}

#[derive(Debug)]
struct StepState {
    kind: StepKind,
    vertex: Vertex,
    /// Items that began, and when.
    items: HashMap<Item, u64>,
    stdout: Clip,
    stderr: Clip,
}

/// Turns events into status messages, and knows what they do not say.
#[derive(Debug)]
pub(crate) struct Translator {
    pub(crate) version: Version,
    pub(crate) quiet: bool,
    /// What is asked for.
    pub(crate) call: Call,
    pub(crate) unix_ns: u64,
    pub(crate) dockerfile: Option<Source>,
    definition: Option<StepId>,
    steps: BTreeMap<StepId, StepState>,
    /// The time of the newest event: times never go back.
    pub(crate) now: u64,
    no_clip: bool,
}

impl Translator {
    pub(crate) fn new(no_clip: bool) -> Self {
        Self {
            version: Version::V28,
            quiet: false,
            call: Call::Build,
            unix_ns: 0,
            dockerfile: None,
            definition: None,
            steps: BTreeMap::new(),
            now: 0,
            no_clip,
        }
    }

    /// Takes an event; gives what changed in BuildKit's eyes, which may be nothing.
    pub(crate) fn apply(&mut self, event: &Event) -> SolveStatus {
        self.now = self.now.max(event.at);
        let now = self.now;
        let mut status = SolveStatus::default();
        match &event.fact {
            Fact::BuildStarted { dialect: Dialect { version, .. }, unix_ns, quiet, call, .. } => {
                (self.version, self.unix_ns) = (*version, *unix_ns);
                (self.quiet, self.call) = (*quiet, *call);
            }
            Fact::Dockerfile { name, text, path } => {
                let path = path.clone().unwrap_or_else(|| name.clone());
                self.dockerfile = Some(Source { name: name.clone(), text: text.clone(), path });
            }
            Fact::StepDeclared(step) => status.vertexes.push(self.declare(step)),
            Fact::VertexDigest { step, digest } => {
                if let Some(state) = self.steps.get_mut(step) {
                    state.vertex.digest.clone_from(digest);
                }
            }
            Fact::StepStarted { step } => {
                if let Some(state) = self.steps.get_mut(step) {
                    let vertex = &mut state.vertex;
                    (vertex.started, vertex.completed, vertex.cached) = (Some(now), None, false);
                    vertex.error.clear();
                    (state.stdout, state.stderr) = (Clip::new(now, self.no_clip), Clip::new(now, self.no_clip));
                    status.vertexes.push(state.vertex.clone());
                }
            }
            Fact::Progress { step, item, current, total, done } => {
                if let Some(state) = self.steps.get_mut(step) {
                    status.statuses.push(state.progress(item, *current, *total, *done, now));
                }
            }
            Fact::Output { step, stream, data, .. } => {
                if let Some(state) = self.steps.get_mut(step) {
                    let clip = match stream {
                        Stream::Stdout => &mut state.stdout,
                        Stream::Stderr => &mut state.stderr,
                    };
                    let data = clip.pass(data, now);
                    status.logs.extend(state.log(*stream, data, now));
                }
            }
            Fact::StepDone { step, cached, .. } => {
                if let Some(state) = self.steps.get_mut(step) {
                    state.complete(*cached, String::new(), now);
                    status.vertexes.push(state.vertex.clone());
                }
            }
            Fact::StepFailed { step, failure } => {
                if let Some(state) = self.steps.get_mut(step) {
                    if let Some(Failure::Start { message, .. }) = failure {
                        // The runtime complains in the step's own log.
                        let init = if self.version == Version::V28 { "error during container init: " } else { "" };
                        let text = format!("runc run failed: unable to start container process: {init}{message}\n");
                        let data = state.stderr.pass(text.as_bytes(), now);
                        status.logs.extend(state.log(Stream::Stderr, data, now));
                    }
                    for stream in [Stream::Stdout, Stream::Stderr] {
                        let clip = match stream {
                            Stream::Stdout => &mut state.stdout,
                            Stream::Stderr => &mut state.stderr,
                        };
                        let held = clip.flush();
                        status.logs.extend(state.log(stream, held, now));
                    }
                    let error = match failure {
                        Some(failure) => failure_text::vertex(failure, self.version, &state.vertex.digest),
                        None => CANCELLED.to_owned(),
                    };
                    state.complete(false, error, now);
                    status.vertexes.push(state.vertex.clone());
                }
            }
            Fact::Warning(Warning::Lint { rule, message, description, url, lines }) => {
                let line = lines.map_or_else(String::new, |lines| format!(" (line {})", lines.start));
                let vertex = self.definition.and_then(|id| Some((id, self.steps.get(&id)?.vertex.digest.clone())));
                status.warnings.push(VertexWarning {
                    vertex,
                    rule: rule.clone(),
                    message: message.clone(),
                    short: format!("{rule}: {message}{line}"),
                    detail: description.clone(),
                    url: url.clone(),
                    lines: *lines,
                });
            }
            Fact::Warning(_)
            | Fact::Context { .. }
            | Fact::ContextFetched { .. }
            | Fact::Container { .. }
            | Fact::Triggers { .. }
            | Fact::Pull { .. }
            | Fact::Note { .. }
            | Fact::BuildEnded { .. } => {}
        }
        status
    }

    fn declare(&mut self, step: &Step) -> Vertex {
        match step.kind {
            StepKind::LoadDefinition { .. } | StepKind::LoadRepository { .. } | StepKind::LoadRemoteContext => {
                self.definition.get_or_insert(step.id);
            }
            // The archive came as a file.
            StepKind::CopyContext => self.definition = Some(step.id),
            _ => {}
        }
        let name = names::step(&step.kind, self.version);
        // BuildKit's export is no part of its graph.
        let is_export = matches!(step.kind, StepKind::Export { .. });
        let inputs = if is_export { &[] } else { step.inputs.as_slice() };
        let inputs: Vec<String> =
            inputs.iter().filter_map(|id| Some(self.steps.get(id)?.vertex.digest.clone())).collect();
        // BuildKit's own rule for the export; other digests depend on things that no event tells, so that any will do.
        let mut hash = Sha256::new();
        hash.update(&name);
        if !is_export {
            hash.update(step.id.0.to_be_bytes());
            inputs.iter().for_each(|input| hash.update(input));
        }
        let vertex = Vertex {
            step: step.id,
            digest: format!("sha256:{}", hex(&hash.finalize())),
            inputs,
            name,
            started: None,
            completed: None,
            cached: false,
            error: String::new(),
        };
        let state = StepState {
            kind: step.kind.clone(),
            vertex: vertex.clone(),
            items: HashMap::new(),
            stdout: Clip::new(self.now, self.no_clip),
            stderr: Clip::new(self.now, self.no_clip),
        };
        self.steps.insert(step.id, state);
        vertex
    }

    /// The title of a step.
    pub(crate) fn step_name(&self, kind: &StepKind) -> String {
        names::step(kind, self.version)
    }

    /// The words of an item of a step.
    pub(crate) fn item_name(&self, step: StepId, item: &Item) -> String {
        self.steps.get(&step).map_or_else(String::new, |state| names::item(item, &state.kind))
    }

    /// The excerpt of the Dockerfile around some lines.
    pub(crate) fn excerpt(&self, lines: Lines) -> Option<String> {
        let source = self.dockerfile.as_ref()?;
        crate::excerpt::excerpt(&source.name, &source.text, lines)
    }

    /// The excerpt under the name that BuildKit's client has for the Dockerfile.
    pub(crate) fn client_excerpt(&self, lines: Lines) -> Option<String> {
        let source = self.dockerfile.as_ref()?;
        crate::excerpt::excerpt(&source.path, &source.text, lines)
    }

    /// What BuildKit 28 says of a failure, without the words of its client.
    pub(crate) fn solve_error(&self, failure: &Failure, step: Option<StepId>) -> String {
        let step = step.and_then(|id| self.steps.get(&id));
        failure_text::solve_error(failure, step.map(|state| (&state.kind, state.vertex.digest.as_str())))
    }

    /// What BuildKit's client writes to standard error at the very end.
    pub(crate) fn last_words(&self, outcome: &Outcome) -> String {
        match outcome {
            Outcome::Success { .. } | Outcome::Checked { .. } => String::new(),
            Outcome::Failure { failure, step, lines } => {
                let step = step.and_then(|id| self.steps.get(&id));
                let mut text = String::new();
                if let (Version::V28, Some(lines)) = (self.version, lines) {
                    text.push_str(&self.excerpt(*lines).unwrap_or_default());
                }
                let step = step.map(|state| (&state.kind, state.vertex.digest.as_str()));
                let frontend = self.steps.values().any(|state| matches!(state.kind, StepKind::LoadFrontend { .. }));
                text.push_str(&failure_text::buildkit(failure, self.version, step, frontend));
                text
            }
            Outcome::Cancelled { .. } => failure_text::buildkit_cancelled(self.version).to_owned(),
        }
    }
}

impl StepState {
    fn progress(&mut self, item: &Item, current: u64, total: Option<u64>, done: bool, now: u64) -> VertexStatus {
        let started = *self.items.entry(item.clone()).or_insert(now);
        if done {
            self.items.remove(item);
        }
        VertexStatus {
            step: self.vertex.step,
            vertex: self.vertex.digest.clone(),
            id: names::item(item, &self.kind),
            name: names::action(item, done),
            current,
            total: total.unwrap_or(0),
            timestamp: now,
            started,
            completed: done.then_some(now),
        }
    }

    fn log(&self, stream: Stream, data: Vec<u8>, now: u64) -> Option<VertexLog> {
        let (step, vertex) = (self.vertex.step, self.vertex.digest.clone());
        (!data.is_empty()).then_some(VertexLog { step, vertex, stream, data, timestamp: now })
    }

    fn complete(&mut self, cached: bool, error: String, now: u64) {
        self.vertex.started.get_or_insert(now);
        (self.vertex.completed, self.vertex.cached, self.vertex.error) = (Some(now), cached, error);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
