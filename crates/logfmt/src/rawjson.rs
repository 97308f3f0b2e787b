//! What `docker buildx build --progress=rawjson` prints: BuildKit's status messages, one JSON object a line.
//!
//! The real one sends several changes in one message as they happen to arrive; here each event is a message. Its solver
//! tells of a vertex of its graph before it begins, and looks at each source for its cache key before it fetches it;
//! what is no part of the graph is first heard of when it begins. Source: runs of Docker 28.5.2.

use std::collections::HashMap;

use crate::Event;
use crate::check::CheckReport;
use crate::event::{Fact, StepId, StepKind};
use crate::renderer::{OutputStream, Renderer, Sink};
use crate::solve_status::{SolveStatus, Translator, VertexStatus};

#[derive(Debug)]
pub(crate) struct RawJson {
    translator: Translator,
    check: CheckReport,
    places: HashMap<StepId, Place>,
}

/// Where a step stands in BuildKit's eyes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// A source in the graph; `looked_at` for its cache key.
    Source { looked_at: bool },
    /// Any other vertex of the graph.
    Graph,
    /// Beside the graph.
    Beside,
}

impl Place {
    fn of(kind: &StepKind) -> Self {
        match kind {
            StepKind::LoadMetadata { .. }
            | StepKind::LoadContextMetadata { .. }
            | StepKind::ResolveFrontend { .. }
            | StepKind::Auth { .. }
            | StepKind::Export { .. } => Self::Beside,
            StepKind::LoadDefinition { .. }
            | StepKind::LoadIgnore
            | StepKind::LoadContextIgnore { .. }
            | StepKind::LoadContext { .. }
            | StepKind::LoadRepository { .. }
            | StepKind::LoadRemoteContext
            | StepKind::LoadFrontend { .. }
            | StepKind::ContextImage { .. }
            | StepKind::ContextLayout { .. }
            | StepKind::Image { .. }
            | StepKind::Source { .. } => Self::Source { looked_at: false },
            StepKind::Instruction(step) if step.instruction == "FROM" => Self::Source { looked_at: false },
            StepKind::Instruction(_)
            | StepKind::CopyContext
            | StepKind::InlineDocument
            | StepKind::CacheMountPermissions => Self::Graph,
        }
    }
}

impl RawJson {
    pub(crate) fn new(no_clip: bool, check: CheckReport) -> Self {
        Self { translator: Translator::new(no_clip), places: HashMap::new(), check }
    }

    fn write(&self, status: &SolveStatus, out: &mut dyn Sink) {
        if !status.is_empty() {
            out.write(OutputStream::Stderr, self.translator.json_line(status).as_bytes());
        }
    }
}

impl Renderer for RawJson {
    fn event(&mut self, event: &Event, out: &mut dyn Sink) {
        let mut status = self.translator.apply(event);
        self.check.take(&self.translator, &mut status);
        match &event.fact {
            Fact::StepDeclared(step) => {
                let place = Place::of(&step.kind);
                self.places.insert(step.id, place);
                if place == Place::Beside {
                    status.vertexes.clear();
                }
            }
            Fact::StepStarted { step } => {
                if let Some(place @ Place::Source { looked_at: false }) = self.places.get_mut(step) {
                    *place = Place::Source { looked_at: true };
                    let mut look = SolveStatus { vertexes: status.vertexes.clone(), ..SolveStatus::default() };
                    look.vertexes.iter_mut().for_each(|vertex| vertex.completed = vertex.started);
                    self.write(&look, out);
                }
            }
            Fact::Progress { .. } => {
                // What took no time began all the same, but for a blob that is not watched from its beginning.
                let at_once = |row: &&VertexStatus| row.completed == Some(row.started) && row.name != "done";
                let begun = |row: &VertexStatus| VertexStatus { current: 0, completed: None, ..row.clone() };
                let statuses = status.statuses.iter().filter(at_once).map(begun).collect();
                self.write(&SolveStatus { statuses, ..SolveStatus::default() }, out);
            }
            _ => {}
        }
        self.write(&status, out);
        if let Fact::BuildEnded { outcome } = &event.fact {
            out.write(OutputStream::Stderr, self.translator.last_words(outcome).as_bytes());
            self.check.end(&self.translator, outcome, self.translator.quiet, out);
        }
    }

    fn finish(&mut self, _out: &mut dyn Sink) {}
}
