//! The steps of a plan, told before any of them runs.

use std::collections::HashMap;

use rbuild_logfmt::event::{InstructionStep, StepId, StepKind};

use crate::emit::Emitter;
use crate::plan::buildkit::{CopySource, MountFrom, Op, Plan, StageBase, StageIndex, StepLabel};

/// The steps of one stage.
#[derive(Clone, Debug, Default)]
pub(super) struct StageSteps {
    /// That of its base image; stages that begin with one image share it.
    pub(super) from: Option<StepId>,
    /// Those of its instructions, in order.
    pub(super) steps: Vec<StepId>,
    /// The one whose result is the stage's.
    pub(super) last: Option<StepId>,
}

/// The steps of a plan.
#[derive(Debug)]
pub(super) struct Steps {
    /// `load build context`, if some step needs it.
    pub(super) context: Option<StepId>,
    /// By stage.
    pub(super) stages: Vec<StageSteps>,
}

impl Steps {
    /// Declares every step that the target needs after all that it is made from, in the order of its inputs: so BuildKit
    /// takes its graph apart (`solver/jobs.go`), and so 20.10 numbers the steps.
    pub(super) fn declare(emitter: &Emitter, plan: &Plan, shows_context: bool) -> Steps {
        let mut declaring = Declaring {
            emitter,
            plan,
            shows_context,
            context: None,
            bases: HashMap::new(),
            stages: vec![None; plan.stages.len()],
        };
        declaring.stage(plan.target);
        let stages = declaring.stages.into_iter().map(Option::unwrap_or_default).collect();
        Steps { context: declaring.context, stages }
    }
}

struct Declaring<'a> {
    emitter: &'a Emitter,
    plan: &'a Plan,
    shows_context: bool,
    context: Option<StepId>,
    bases: HashMap<String, StepId>,
    stages: Vec<Option<StageSteps>>,
}

impl Declaring<'_> {
    /// Declares a stage, if it is not yet; gives the step that its result comes from.
    fn stage(&mut self, index: StageIndex) -> Option<StepId> {
        if let Some(known) = &self.stages[index.0] {
            return known.last;
        }
        let plan = self.plan;
        let stage = &plan.stages[index.0];
        let mut steps = StageSteps::default();
        match &stage.base {
            StageBase::Stage(base) => steps.last = self.stage(*base),
            base => {
                let image = match base {
                    StageBase::Image(image) => Some(&image.shown),
                    StageBase::Missing(image, _) => Some(image),
                    _ => None,
                };
                if let Some((image, label)) = image.zip(stage.from.as_ref()) {
                    steps.from = Some(self.base(image, label, stage.shown.as_ref()));
                    steps.last = steps.from;
                }
            }
        }
        for step in &stage.steps {
            let mut inputs: Vec<StepId> = steps.last.into_iter().collect();
            for source in sources(&step.op) {
                let input = match source {
                    MountFrom::Empty => None,
                    MountFrom::Context => self.context(),
                    MountFrom::Stage(stage) => self.stage(stage),
                };
                inputs.extend(input.filter(|input| !inputs.contains(input)));
            }
            let id = self.emitter.declare(shown(&step.label, stage.shown.as_ref()), &inputs);
            steps.steps.push(id);
            steps.last = Some(id);
        }
        let last = steps.last;
        self.stages[index.0] = Some(steps);
        last
    }

    /// The step of a base image; the first stage that needs it gives it a name.
    fn base(&mut self, image: &str, label: &StepLabel, stage: Option<&String>) -> StepId {
        if let Some(known) = self.bases.get(image) {
            return *known;
        }
        let kind = match label.position {
            0 => StepKind::Image { reference: image.to_owned() },
            _ => shown(label, stage),
        };
        let step = self.emitter.declare(kind, &[]);
        self.bases.insert(image.to_owned(), step);
        step
    }

    fn context(&mut self) -> Option<StepId> {
        if self.context.is_none() && self.shows_context {
            self.context = Some(self.emitter.declare(StepKind::LoadContext { name: None }, &[]));
        }
        self.context
    }
}

/// What an operation reads besides the files that it changes.
pub(super) fn sources(op: &Op) -> Vec<MountFrom> {
    match op {
        Op::Mkdir { .. } => Vec::new(),
        Op::Run(run) => {
            let mut mounts: Vec<_> = run.mounts.iter().collect();
            mounts.sort_by(|a, b| a.target.cmp(&b.target));
            mounts.into_iter().map(|mount| mount.from).collect()
        }
        Op::Copy(copy) => {
            let files = copy.sources.iter().filter_map(|source| match source {
                CopySource::Files { from, .. } => Some(*from),
                _ => None,
            });
            files.collect()
        }
    }
}

fn shown(label: &StepLabel, stage: Option<&String>) -> StepKind {
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
