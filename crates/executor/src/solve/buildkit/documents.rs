//! The steps that make files of here-documents, and directories for caches.

use std::collections::HashMap;

use rbuild_logfmt::event::{Fact, StepKind};
use rbuild_parser::mount::MountType;

use super::keys::{asks_the_network, is_always_cached, stages_read};
use super::solver::{Snapshot, Solver, own_snapshot};
use crate::key::{CacheKey, KeyBuilder};
use crate::plan::buildkit::{CopySource, Op, PlannedStep, StageBase, StageIndex};
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

    /// BuildKit makes a file of each here-document first, once for all that are the same. In its log one is done when its
    /// cache key is known, and cached if a step wants it which the cache does not have, and an earlier build made it.
    pub(super) fn show_inline_documents(&self) -> Result<(), Stop> {
        let mut walk = CacheWalk { solver: self, stages: HashMap::new() };
        let mut wanted: Vec<(CacheKey, bool)> = Vec::new();
        for (index, stage) in self.plan.stages.iter().enumerate().filter(|(_, stage)| stage.reachable) {
            for (at, step) in stage.steps.iter().enumerate() {
                for key in inline_documents(&step.op) {
                    let is_wanted = matches!(walk.stage(StageIndex(index))?, Cached::Until(missing) if missing <= at);
                    match wanted.iter_mut().find(|(known, _)| *known == key) {
                        Some((_, known)) => *known |= is_wanted,
                        None => wanted.push((key, is_wanted)),
                    }
                }
            }
        }
        let emitter = self.session.emitter();
        for (key, is_wanted) in wanted {
            let cached = is_wanted && self.session.cached_value::<bool>(&key)?.is_some();
            let step = emitter.begin(StepKind::InlineDocument, &[]);
            emitter.emit(Fact::StepDone { step, cached, image: None });
            if is_wanted {
                self.session.remember_value(&key, &true)?;
            }
        }
        Ok(())
    }
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

    fn is_here(&self, snapshot: &Snapshot) -> Result<bool, Stop> {
        match &snapshot.base {
            Some(image) => self.solver.session.is_unpacked(image),
            None => Ok(true),
        }
    }
}
