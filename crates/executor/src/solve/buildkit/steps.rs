//! The steps of a plan, told before any of them runs.

use std::collections::HashMap;

use rbuild_logfmt::event::{InstructionStep, StepId, StepKind, Version};

use crate::context::NamedSource;
use crate::emit::Emitter;
use crate::plan::buildkit::{CopySource, MountFrom, NamedBase, Op, Plan, StageBase, StageIndex, StagePlan, StepLabel};

/// The steps of one stage.
#[derive(Clone, Debug, Default)]
pub(super) struct StageSteps {
    /// That of its base image; stages that begin with one image share it.
    pub(super) from: Option<StepId>,
    /// That of the directory that it begins with; stages that need the same of it share it.
    pub(super) load: Option<StepId>,
    /// Those of its instructions, in order.
    pub(super) steps: Vec<StepId>,
    /// The one whose result is the stage's.
    pub(super) last: Option<StepId>,
}

/// A file from the web, as ADD names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Download {
    pub(super) url: String,
    pub(super) checksum: Option<String>,
    /// It is a git repository: whether `.git` is kept.
    pub(super) keep_git_dir: Option<bool>,
}

/// The steps of a plan.
#[derive(Debug)]
pub(super) struct Steps {
    /// `load build context`, if some step needs it.
    pub(super) context: Option<StepId>,
    /// What is downloaded: address and `--checksum`.
    pub(super) downloads: Vec<(StepId, Download)>,
    /// By stage.
    pub(super) stages: Vec<StageSteps>,
}

impl Steps {
    /// Declares every step that the target needs after all that it is made from, in the order of its inputs: so BuildKit
    /// takes its graph apart (`solver/jobs.go`), and so 20.10 numbers the steps.
    ///
    /// Stages share what is done to the same files in the same way, since to BuildKit that is one vertex; the stage that
    /// is gone through last gives it a name (`client/llb/state.go`, `mergeMetadata`).
    pub(super) fn declare(emitter: &Emitter, plan: &Plan, context: Option<StepKind>, version: Version) -> Steps {
        let mut graph = Graph {
            plan,
            context,
            version,
            downloads: Vec::new(),
            vertices: Vec::new(),
            known: HashMap::new(),
            stages: vec![None; plan.stages.len()],
        };
        graph.stage(plan.target);
        let mut ids: Vec<StepId> = Vec::new();
        for vertex in &graph.vertices {
            let inputs: Vec<StepId> = vertex.inputs.iter().filter_map(|index| ids.get(*index).copied()).collect();
            ids.push(emitter.declare(vertex.kind.clone(), &inputs));
        }
        let id = |index: usize| ids.get(index).copied();
        let stages = graph.stages.into_iter().map(Option::unwrap_or_default).map(|stage| StageSteps {
            from: stage.from.and_then(id),
            load: stage.load.and_then(id),
            steps: stage.steps.into_iter().filter_map(id).collect(),
            last: stage.last.and_then(id),
        });
        Steps {
            context: graph.known.get(CONTEXT).copied().and_then(id),
            downloads: graph.downloads.into_iter().filter_map(|(vertex, file)| Some((id(vertex)?, file))).collect(),
            stages: stages.collect(),
        }
    }
}

/// What the context is known by.
const CONTEXT: &str = "context";

struct Vertex {
    kind: StepKind,
    inputs: Vec<usize>,
}

/// The steps of a stage, by their places in the graph.
#[derive(Clone, Default)]
struct StageVertices {
    from: Option<usize>,
    load: Option<usize>,
    steps: Vec<usize>,
    last: Option<usize>,
}

struct Graph<'a> {
    plan: &'a Plan,
    /// The step that loads the context, if there is one.
    context: Option<StepKind>,
    version: Version,
    downloads: Vec<(usize, Download)>,
    vertices: Vec<Vertex>,
    /// By what they do to what.
    known: HashMap<String, usize>,
    stages: Vec<Option<StageVertices>>,
}

impl Graph<'_> {
    /// Adds a stage, if it is not there yet; gives the vertex that its result comes from.
    fn stage(&mut self, index: StageIndex) -> Option<usize> {
        if let Some(known) = &self.stages[index.0] {
            return known.last;
        }
        let plan = self.plan;
        let stage = &plan.stages[index.0];
        let mut found = StageVertices::default();
        match &stage.base {
            StageBase::Stage(base) => found.last = self.stage(*base),
            StageBase::Image(image) => found.from = self.base(&image.shown, stage),
            StageBase::Missing(image, _) => found.from = self.base(image, stage),
            StageBase::Directory(directory) => {
                let name = directory.name();
                let kind = match directory.repository() {
                    Some(repository) => StepKind::LoadRepository { url: repository.url.clone() },
                    None => StepKind::LoadContext { name: Some(name.to_owned()) },
                };
                let what = format!("{CONTEXT} {name} {:?}", plan.wanted_paths(index));
                found.load = Some(self.vertex(what, kind, Vec::new()));
            }
            StageBase::Scratch | StageBase::Unresolved => {}
        }
        found.last = found.last.or(found.from).or(found.load);
        for step in &stage.steps {
            let mut inputs: Vec<usize> = found.last.into_iter().collect();
            for input in graph_inputs(&step.op) {
                let input = match input {
                    Input::Files(MountFrom::Empty) => None,
                    Input::Files(MountFrom::Context) => self.context(),
                    Input::Files(MountFrom::Stage(stage)) => self.stage(stage),
                    Input::Download(file) => Some(self.download(file, &step.label, stage.shown.as_ref())),
                };
                inputs.extend(input.filter(|input| !inputs.contains(input)));
            }
            let what = format!("{:?} {:?}", found.last, self.by_vertex(&step.op));
            let vertex = self.vertex(what, shown(&step.label, stage.shown.as_ref()), inputs);
            found.steps.push(vertex);
            found.last = Some(vertex);
        }
        let last = found.last;
        self.stages[index.0] = Some(found);
        last
    }

    fn vertex(&mut self, what: String, kind: StepKind, inputs: Vec<usize>) -> usize {
        if let Some(known) = self.known.get(&what) {
            self.vertices[*known].kind = kind;
            return *known;
        }
        self.vertices.push(Vertex { kind, inputs });
        self.known.insert(what, self.vertices.len() - 1);
        self.vertices.len() - 1
    }

    /// The step of a base image.
    fn base(&mut self, image: &str, stage: &StagePlan) -> Option<usize> {
        let label = stage.from.as_ref()?;
        let kind = match label.position {
            _ if stage.context.is_some() => context_image(stage.context.as_ref()?),
            0 => StepKind::Image { reference: image.to_owned() },
            _ => shown(label, stage.shown.as_ref()),
        };
        Some(self.vertex(format!("image {image}"), kind, Vec::new()))
    }

    /// BuildKit of Docker 28 shows a download under the title of the step that wants it, that of 20.10 by its address.
    fn download(&mut self, file: Download, label: &StepLabel, stage: Option<&String>) -> usize {
        let kind = match self.version {
            Version::V20 => StepKind::Source { url: file.url.clone() },
            Version::V28 => shown(label, stage),
        };
        let vertex = self.vertex(format!("download {file:?}"), kind, Vec::new());
        if !self.downloads.iter().any(|(known, _)| *known == vertex) {
            self.downloads.push((vertex, file));
        }
        vertex
    }

    fn context(&mut self) -> Option<usize> {
        let kind = self.context.clone()?;
        Some(self.vertex(CONTEXT.to_owned(), kind, Vec::new()))
    }

    /// An operation that names the stages it reads from by the vertices of their results.
    fn by_vertex(&self, op: &Op) -> Op {
        let mut op = op.clone();
        let result = |from: &mut MountFrom| {
            if let MountFrom::Stage(stage) = from
                && let Some(last) = self.stages[stage.0].as_ref().and_then(|stage| stage.last)
            {
                // Above the numbers of stages, for those that have no result.
                *from = MountFrom::Stage(StageIndex(self.stages.len() + last));
            }
        };
        match &mut op {
            Op::Mkdir { .. } => {}
            Op::Run(run) => run.mounts.iter_mut().for_each(|mount| result(&mut mount.from)),
            Op::Copy(copy) => copy.sources.iter_mut().for_each(|source| {
                if let CopySource::Files { from, .. } = source {
                    result(from);
                }
            }),
        }
        op
    }
}

/// What a step is made from, besides the files that it changes.
enum Input {
    Files(MountFrom),
    Download(Download),
}

fn graph_inputs(op: &Op) -> Vec<Input> {
    let Op::Copy(copy) = op else { return sources(op).into_iter().map(Input::Files).collect() };
    let input = |source: &CopySource| match source {
        CopySource::Files { from, .. } => Some(Input::Files(*from)),
        CopySource::Http { url, checksum, .. } => {
            let (url, checksum) = (url.clone(), checksum.clone());
            Some(Input::Download(Download { url, checksum, keep_git_dir: None }))
        }
        CopySource::Git { url, checksum, keep_git_dir } => {
            let (url, checksum) = (url.clone(), checksum.clone());
            Some(Input::Download(Download { url, checksum, keep_git_dir: Some(*keep_git_dir) }))
        }
        CopySource::Inline { .. } => None,
    };
    copy.sources.iter().filter_map(input).collect()
}

/// What an operation reads besides the files that it changes.
pub(super) fn sources(op: &Op) -> Vec<MountFrom> {
    match op {
        Op::Mkdir { .. } => Vec::new(),
        Op::Run(run) => run.mounts.iter().map(|mount| mount.from).collect(),
        Op::Copy(copy) => {
            let files = copy.sources.iter().filter_map(|source| match source {
                CopySource::Files { from, .. } => Some(*from),
                _ => None,
            });
            files.collect()
        }
    }
}

/// The image of a named context.
fn context_image(named: &NamedBase) -> StepKind {
    let context = named.context.name.clone();
    match &named.context.source {
        NamedSource::Image(reference) => StepKind::ContextImage { context, reference: reference.clone() },
        _ => StepKind::ContextLayout { context },
    }
}

/// How the instruction of a step is shown.
pub(super) fn shown(label: &StepLabel, stage: Option<&String>) -> StepKind {
    StepKind::Instruction(InstructionStep {
        instruction: label.instruction.clone(),
        number: 0,
        total: 0,
        text: label.title.clone(),
        title: label.title.clone(),
        stage: stage.cloned(),
        position: label.position,
        positions: label.positions,
        lines: label.lines,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use rbuild_logfmt::event::Fact;

    use super::*;
    use crate::emit::Told;
    use crate::options::{BuildOptions, ContextSource};
    use crate::plan::buildkit::{Draft, Linter};

    #[test]
    fn steps_come_after_what_they_read_and_are_shared() {
        let text = "FROM scratch AS a\nCOPY x /x\nFROM scratch AS b\nCOPY x /x\nCOPY --from=a /x /y\n";
        let dockerfile = rbuild_parser::parse(text.as_bytes()).unwrap();
        let options = BuildOptions::new("/nowhere", ContextSource::Dir("/nowhere".into()));
        let linter = Linter::new(&options, text.as_bytes(), &|_| ()).unwrap();
        let contexts = HashMap::new();
        let plan = Draft::new(&dockerfile, &options, &contexts, &linter).unwrap().finish(&|_| false).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let events = Arc::clone(&told);
        let emitter = Emitter::new(Box::new(move |told| {
            if let Told::Event(event) = told {
                events.lock().unwrap().push(event.fact);
            }
        }));
        let steps = Steps::declare(&emitter, &plan, Some(StepKind::LoadContext { name: None }), Version::V28);
        let told: Vec<String> = told
            .lock()
            .unwrap()
            .iter()
            .map(|fact| match fact {
                Fact::StepDeclared(step) => match &step.kind {
                    StepKind::Instruction(step) => {
                        format!(
                            "{} {}/{} {}",
                            step.stage.as_deref().unwrap(),
                            step.position,
                            step.positions,
                            step.title
                        )
                    }
                    other => format!("{other:?}"),
                },
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(told, ["LoadContext { name: None }", "a 1/1 COPY x /x", "b 2/2 COPY --from=a /x /y"]);
        assert_eq!(steps.context, Some(StepId(0)));
        assert_eq!(
            (&steps.stages[0].steps[..], &steps.stages[1].steps[..]),
            (&[StepId(1)][..], &[StepId(1), StepId(2)][..])
        );
    }
}
