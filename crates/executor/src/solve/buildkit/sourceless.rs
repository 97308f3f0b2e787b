//! The steps that are made from nothing: files of here-documents, directories for caches, WORKDIR on `scratch`.

use std::collections::{HashMap, HashSet};

use rbuild_logfmt::event::{Fact, StepKind};
use rbuild_parser::mount::MountType;
use serde::{Deserialize, Serialize};

use super::keys::{asks_the_network, is_always_cached, stages_read};
use super::solver::{Snapshot, Solver, own_snapshot};
use super::steps::sources;
use crate::key::{CacheKey, KeyBuilder};
use crate::plan::buildkit::{CopySource, MountFrom, Op, PlannedStep, StageBase, StageIndex, StagePlan};
use crate::stop::Stop;

/// The here-documents of a step: what each is known by.
fn inline_documents(op: &Op) -> Vec<CacheKey> {
    let key =
        |name: &str, data: &[u8]| KeyBuilder::new("inline document").field("name", name).field("data", data).finish();
    match op {
        Op::Copy(copy) => {
            let inline = |source: &CopySource| match source {
                CopySource::Inline { name, data } => Some(key(name, data)),
                _ => None,
            };
            copy.sources.iter().filter_map(inline).collect()
        }
        Op::Run(run) => run.script.iter().map(|(name, data)| key(name, data)).collect(),
        Op::Mkdir { .. } => Vec::new(),
    }
}

impl Solver<'_> {
    /// Caches whose owner or mode is given begin as a directory of such, made once for all that are the same.
    pub(super) fn show_cache_permissions(&self) {
        let mut seen = Vec::new();
        let steps = self.plan.stages.iter().filter(|stage| stage.reachable).flat_map(|stage| &stage.steps);
        for step in steps {
            let Op::Run(run) = &step.op else { continue };
            for mount in run.mounts.iter().filter(|mount| mount.kind == MountType::Cache) {
                let given = (mount.uid, mount.gid, mount.mode);
                if given != (None, None, None) && !seen.contains(&given) {
                    seen.push(given);
                    let step = self.session.emitter().begin(StepKind::CacheMountPermissions, &[]);
                    self.session.emitter().done(step);
                }
            }
        }
    }

    /// Of the first step of a stage, which the cache has: whether no more than its key is wanted. The key of a step that
    /// is made from nothing is shown as the step being done, and that the result was cached comes after it, if at all
    /// (28.5.2).
    pub(super) fn only_key_is_wanted(&self, index: StageIndex) -> Result<bool, Stop> {
        let stage = &self.plan.stages[index.0];
        match (&stage.base, stage.steps.first()) {
            (StageBase::Scratch, Some(PlannedStep { op: Op::Mkdir { .. }, .. })) => {
                CacheWalk { solver: self, stages: HashMap::new() }.only_key_is_wanted(index)
            }
            _ => Ok(false),
        }
    }

    /// BuildKit makes a file of each here-document first, once for all that are the same. In its log one is done when its
    /// cache key is known, and cached if its content is asked for and an earlier build made it.
    pub(super) fn show_inline_documents(&self) -> Result<(), Stop> {
        let mut steps = self.plan.stages.iter().filter(|stage| stage.reachable).flat_map(|stage| &stage.steps);
        if steps.all(|step| inline_documents(&step.op).is_empty()) {
            // The cache is not walked for nothing.
            return Ok(());
        }
        let mut walk = CacheWalk { solver: self, stages: HashMap::new() };
        let mut documents: Vec<(CacheKey, Use, bool)> = Vec::new();
        let mut compared = HashSet::new();
        let reachable = || self.plan.stages.iter().enumerate().filter(|(_, stage)| stage.reachable);
        for (index, _) in reachable() {
            compared.extend(walk.compares_content(StageIndex(index))?.map(|stage| stage.0));
        }
        for (index, stage) in reachable() {
            let is_pulled = !walk.base_is_here(stage)?;
            for (at, step) in stage.steps.iter().enumerate() {
                for key in inline_documents(&step.op) {
                    let wanted = match walk.stage(StageIndex(index))? {
                        Cached::Until(missing) if missing <= at => Use::ByStep,
                        _ if at == 0 && compared.contains(&index) => Use::ByContent,
                        _ => Use::None,
                    };
                    match documents.iter_mut().find(|(known, ..)| *known == key) {
                        Some((_, known, _)) => *known = wanted.max(*known),
                        None => documents.push((key, wanted, is_pulled)),
                    }
                }
            }
        }
        let emitter = self.session.emitter();
        for (key, wanted, is_pulled) in documents {
            let made = self.session.cached_value::<DocumentMade>(&key)?;
            let cached = match wanted {
                Use::None => false,
                Use::ByContent => made.as_ref().is_some_and(|made| !made.base_pulled),
                Use::ByStep => made.is_some(),
            };
            let step = emitter.begin(StepKind::InlineDocument, &[]);
            emitter.emit(Fact::StepDone { step, cached, image: None });
            if made.is_none() && wanted == Use::ByStep {
                self.session.remember_value(&key, &DocumentMade { base_pulled: is_pulled })?;
            }
        }
        Ok(())
    }
}

/// What asks for the content of a here-document.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    None,
    /// The solver, see [`CacheWalk::compares_content`].
    ByContent,
    /// A step that the cache does not have.
    ByStep,
}

/// What the cache says of a here-document of an earlier build.
#[derive(Serialize, Deserialize)]
struct DocumentMade {
    /// The image below it was pulled by that build: BuildKit then knows the step by other keys and does not compare its
    /// content (28.5.2).
    base_pulled: bool,
}

/// How much of a stage the cache has.
#[derive(Clone)]
enum Cached {
    Whole(Snapshot),
    /// This step is the first that it does not have.
    Until(usize),
    /// That cannot be told before something was done.
    Unknown,
}

/// Follows stages through the cache before any of them is done.
struct CacheWalk<'a> {
    solver: &'a Solver<'a>,
    stages: HashMap<usize, Cached>,
}

impl CacheWalk<'_> {
    fn stage(&mut self, index: StageIndex) -> Result<Cached, Stop> {
        if let Some(known) = self.stages.get(&index.0) {
            return Ok(known.clone());
        }
        let cached = self.follow(index)?;
        self.stages.insert(index.0, cached.clone());
        Ok(cached)
    }

    fn follow(&mut self, index: StageIndex) -> Result<Cached, Stop> {
        let stage = &self.solver.plan.stages[index.0];
        let mut snapshot = match &stage.base {
            StageBase::Stage(base) => match self.stage(*base)? {
                Cached::Whole(snapshot) => snapshot,
                Cached::Until(_) => return Ok(Cached::Until(0)),
                Cached::Unknown => return Ok(Cached::Unknown),
            },
            base => own_snapshot(base),
        };
        for (at, step) in stage.steps.iter().enumerate() {
            if stage.no_cache && !is_always_cached(&step.op) {
                return Ok(Cached::Until(at));
            }
            match self.step(snapshot, step)? {
                Cached::Whole(next) => snapshot = next,
                Cached::Until(_) => return Ok(Cached::Until(at)),
                Cached::Unknown => return Ok(Cached::Unknown),
            }
        }
        Ok(Cached::Whole(snapshot))
    }

    fn step(&mut self, mut snapshot: Snapshot, step: &PlannedStep) -> Result<Cached, Stop> {
        if asks_the_network(&step.op) {
            return Ok(Cached::Unknown);
        }
        let mut read = HashMap::new();
        for stage in stages_read(&step.op) {
            match self.stage(stage)? {
                // Its files may be wanted for the key: they are not pulled for this.
                Cached::Whole(result) if self.is_here(&result)? => drop(read.insert(stage.0, result)),
                Cached::Until(_) => return Ok(Cached::Until(0)),
                _ => return Ok(Cached::Unknown),
            }
        }
        let result_of = |stage: StageIndex| read.get(&stage.0).cloned().ok_or(Stop::Cancelled);
        // What fails here fails again where it can be told of.
        let Ok(keys) = self.solver.key(&snapshot, step, &result_of) else { return Ok(Cached::Until(0)) };
        let Some((layer, key)) = self.solver.lookup(&keys)?.zip(keys.into_iter().next()) else {
            return Ok(Cached::Until(0));
        };
        snapshot.layers.push(layer);
        snapshot.key = key;
        Ok(Cached::Whole(snapshot))
    }

    /// A stage of which the solver compares the content of the first step's file, though the step is in the cache by its
    /// definition; `index` is the stage whose steps ask for that.
    ///
    /// A step that is not in the cache asks the step that it changes for all its keys. One whose only input besides an
    /// image is a file goes on to that file's content (28.5.2: seen with one here-document as the first step of a chain).
    fn compares_content(&mut self, index: StageIndex) -> Result<Option<StageIndex>, Stop> {
        let plan = self.solver.plan;
        let stage = &plan.stages[index.0];
        let (before, missing) = match self.stage(index)? {
            Cached::Until(missing) if missing < stage.steps.len() => stage.steps.split_at(missing),
            _ => return Ok(None),
        };
        if matches!(missing[0].op, Op::Copy(_)) || stages_read(&missing[0].op).next().is_some() {
            return Ok(None);
        }
        let mut before = before.iter().map(|step| (index, step)).collect::<Vec<_>>();
        let mut base = &stage.base;
        while let StageBase::Stage(next) = base {
            if !matches!(self.stage(*next)?, Cached::Whole(_)) {
                return Ok(None);
            }
            before.extend(plan.stages[next.0].steps.iter().map(|step| (*next, step)));
            base = &plan.stages[next.0].base;
        }
        Ok(match before[..] {
            [(stage, PlannedStep { op: Op::Copy(op), .. })] => {
                matches!(op.sources[..], [CopySource::Inline { .. }]).then_some(stage)
            }
            _ => None,
        })
    }

    /// Whether all that use the first step of a stage are in the cache, or have to wait for the context.
    fn only_key_is_wanted(&mut self, index: StageIndex) -> Result<bool, Stop> {
        let plan = self.solver.plan;
        let mut names = vec![index];
        let mut users = Vec::new();
        if plan.stages[index.0].steps.len() > 1 {
            users.push((index, 1));
        } else {
            // The step is the stage's result: that of the target is wanted.
            for (at, stage) in plan.stages.iter().enumerate() {
                match stage.base {
                    StageBase::Stage(base) if !names.contains(&base) => {}
                    StageBase::Stage(_) if stage.steps.is_empty() => names.push(StageIndex(at)),
                    StageBase::Stage(_) if stage.reachable => users.push((StageIndex(at), 0)),
                    _ => {}
                }
            }
            if names.contains(&plan.target) {
                return Ok(false);
            }
            for (stage, steps) in plan.stages.iter().enumerate().filter(|(_, stage)| stage.reachable) {
                let reads = |step: &PlannedStep| stages_read(&step.op).any(|read| names.contains(&read));
                let readers = steps.steps.iter().enumerate().filter(|(_, step)| reads(step));
                users.extend(readers.map(|(at, _)| (StageIndex(stage), at)));
            }
        }
        for (stage, at) in users {
            let waits = sources(&plan.stages[stage.0].steps[at].op).contains(&MountFrom::Context);
            match self.stage(stage)? {
                Cached::Until(missing) if missing <= at && !waits => return Ok(false),
                _ => {}
            }
        }
        Ok(true)
    }

    /// Whether the image that a chain of stages begins with need not be pulled.
    fn base_is_here(&self, stage: &StagePlan) -> Result<bool, Stop> {
        match stage.base {
            StageBase::Stage(base) => self.base_is_here(&self.solver.plan.stages[base.0]),
            ref base => self.is_here(&own_snapshot(base)),
        }
    }

    fn is_here(&self, snapshot: &Snapshot) -> Result<bool, Stop> {
        match &snapshot.base {
            Some(image) => self.solver.session.is_unpacked(image),
            None => Ok(true),
        }
    }
}
