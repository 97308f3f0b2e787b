//! Steps from the cache or run, each stage in a thread of its own.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rbuild_image::digest::DiffId;
use rbuild_logfmt::event::{Fact, InstructionStep, StepId, StepKind};
use rbuild_parser::mount::MountType;
use rbuild_sandbox::root::{NewDirs, Root, Timestamp};

use super::pulled::Pulled;
use super::{fail_step, transferred};
use crate::base::BaseImage;
use crate::context::{Context, Transfer};
use crate::exec::{self, Command};
use crate::key::{CacheKey, KeyBuilder};
use crate::plan::buildkit::{
    CopyOp, CopySource, MountFrom, Op, Plan, PlannedStep, RunOp, StageBase, StageIndex, StepLabel,
};
use crate::plan::users;
use crate::session::{PullProgress, Session, Unwatched};
use crate::snapshot::{Change, View};
use crate::solve::copy::{self, CopySourceTree};
use crate::solve::mounts::{self, Prepared};
use crate::stop::Stop;

/// The result of a stage, or of some of its steps.
#[derive(Clone, Debug)]
pub(in crate::solve) struct Snapshot {
    pub(in crate::solve) key: CacheKey,
    pub(in crate::solve) layers: Vec<DiffId>,
    /// The image at its bottom, whose layers may not be here yet.
    pub(in crate::solve) base: Option<Arc<BaseImage>>,
}

/// The result of one stage, waited for by those that need it.
#[derive(Default)]
struct Cell {
    done: Mutex<Option<Option<Snapshot>>>,
    ready: Condvar,
}

impl Cell {
    fn set(&self, result: Option<Snapshot>) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        self.ready.notify_all();
    }

    /// The stage's result; `None` if it failed.
    fn wait(&self) -> Option<Snapshot> {
        let guard = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let guard = self.ready.wait_while(guard, |done| done.is_none()).unwrap_or_else(PoisonError::into_inner);
        guard.clone().flatten()
    }
}

/// Ends the waiting for a stage whose thread panics, so that the panic is seen and nothing hangs.
struct Unwinding<'a, 's>(&'a Solver<'s>, usize);

impl Drop for Unwinding<'_, '_> {
    fn drop(&mut self) {
        self.0.session.abort();
        self.0.cells[self.1].set(None);
    }
}

struct StageSteps {
    from: Option<StepId>,
    steps: Vec<StepId>,
    /// The step whose end is the end of the stage.
    result: Option<StepId>,
}

pub(super) struct Solver<'s> {
    session: &'s Session<'s>,
    context: &'s Context,
    plan: &'s Plan,
    context_step: Option<StepId>,
    context_loaded: Mutex<bool>,
    declared: Vec<StageSteps>,
    cells: Vec<Cell>,
    /// Why the first step failed; the others are cancelled then.
    failed: Mutex<Option<Stop>>,
    /// Images being fetched: each by one thread, for all stages that begin with it.
    fetching: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    /// Steps of base images, and whether they are done.
    bases: Mutex<HashMap<StepId, Arc<Mutex<bool>>>>,
}

impl<'s> Solver<'s> {
    pub(super) fn new(session: &'s Session<'s>, context: &'s Context, plan: &'s Plan) -> Solver<'s> {
        let emitter = session.emitter();
        let needs_context = !plan.context_paths.is_empty() && !context.is_archive();
        let context_step = needs_context.then(|| emitter.declare(StepKind::LoadContext { name: None }, &[]));
        let mut declared: Vec<StageSteps> = Vec::new();
        let mut bases: HashMap<String, StepId> = HashMap::new();
        for stage in &plan.stages {
            let shown = |label: &StepLabel| {
                StepKind::Instruction(InstructionStep {
                    instruction: label.instruction.clone(),
                    number: 0,
                    total: 0,
                    text: label.title.clone(),
                    title: label.title.clone(),
                    stage: stage.shown.clone(),
                    position: label.position,
                    positions: label.positions,
                    lines: label.lines,
                })
            };
            // Stages that begin with one image share its step; the first gives it a name.
            let from = match (&stage.from, &stage.base) {
                (Some(label), StageBase::Image(image)) => {
                    let step = *bases.entry(image.shown.clone()).or_insert_with(|| match label.position {
                        0 => emitter.declare(StepKind::Image { reference: image.shown.clone() }, &[]),
                        _ => emitter.declare(shown(label), &[]),
                    });
                    Some(step)
                }
                _ => None,
            };
            let result_of = |index: &StageIndex| declared.get(index.0).and_then(|stage| stage.result);
            let mut previous = match &stage.base {
                StageBase::Stage(index) => result_of(index),
                _ => from,
            };
            let mut steps = Vec::new();
            for step in &stage.steps {
                let mut inputs: Vec<StepId> = previous.into_iter().collect();
                for source in step.op.sources() {
                    let input = match source {
                        MountFrom::Empty => None,
                        MountFrom::Context => context_step,
                        MountFrom::Stage(index) => result_of(&index),
                    };
                    inputs.extend(input.filter(|input| !inputs.contains(input)));
                }
                let id = emitter.declare(shown(&step.label), &inputs);
                previous = Some(id);
                steps.push(id);
            }
            declared.push(StageSteps { from, steps, result: previous });
        }
        Solver {
            session,
            context,
            plan,
            context_step,
            context_loaded: Mutex::new(false),
            cells: plan.stages.iter().map(|_| Cell::default()).collect(),
            declared,
            failed: Mutex::new(None),
            fetching: Mutex::default(),
            bases: Mutex::default(),
        }
    }

    pub(super) fn last_step(&self) -> Option<StepId> {
        self.declared[self.plan.target.0].result
    }

    /// Runs all stages that the target needs, each in a thread of its own, and gives the target's result.
    pub(super) fn solve(&self) -> Result<Snapshot, Stop> {
        self.check_sources()?;
        self.show_inline_documents();
        std::thread::scope(|scope| {
            for (index, stage) in self.plan.stages.iter().enumerate() {
                if stage.reachable {
                    scope.spawn(move || {
                        let unwinding = Unwinding(self, index);
                        let result = self.stage(index);
                        let snapshot = result.map_err(|stop| self.fail(stop)).ok();
                        self.cells[index].set(snapshot);
                        std::mem::forget(unwinding);
                    });
                }
            }
        });
        if let Some(stop) = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(stop);
        }
        self.cells[self.plan.target.0].wait().ok_or(Stop::Cancelled)
    }

    /// Notes the first failure and ends everything else.
    fn fail(&self, stop: Stop) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*failed, &stop) {
            (None, _) | (Some(Stop::Cancelled), Stop::Failed(_)) => *failed = Some(stop),
            _ => {}
        }
        drop(failed);
        self.session.abort();
    }

    fn check(&self) -> Result<(), Stop> {
        if self.failed.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Err(Stop::Cancelled);
        }
        self.session.check()
    }

    fn wait_for(&self, stage: StageIndex) -> Result<Snapshot, Stop> {
        self.cells[stage.0].wait().ok_or(Stop::Cancelled)
    }

    fn load_context(&self) -> Result<(), Stop> {
        let Some(step) = self.context_step else { return Ok(()) };
        let mut loaded = self.context_loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if *loaded {
            return Ok(());
        }
        let emitter = self.session.emitter();
        emitter.emit(Fact::StepStarted { step });
        let wanted: Vec<String> = if self.plan.context_paths.contains("/") {
            Vec::new()
        } else {
            self.plan.context_paths.iter().cloned().collect()
        };
        let sent = transferred(self.session, self.context, Transfer::Context, step, |held| {
            self.context.sync_size(&wanted, held)
        });
        if let Err(stop) = sent {
            return Err(fail_step(self.session, step, stop).at(step, None));
        }
        emitter.done(step);
        *loaded = true;
        Ok(())
    }

    /// BuildKit makes a file of each here-document first, which its log shows.
    fn show_inline_documents(&self) {
        let reachable = self.plan.stages.iter().filter(|stage| stage.reachable);
        let documents = reachable.flat_map(|stage| &stage.steps).map(|step| match &step.op {
            Op::Copy(copy) => copy.sources.iter().filter(|s| matches!(s, CopySource::Inline { .. })).count(),
            Op::Run(run) => usize::from(run.script.is_some()),
            Op::Mkdir { .. } => 0,
        });
        for _ in 0..documents.sum() {
            let step = self.session.emitter().begin(StepKind::InlineDocument, &[]);
            self.session.emitter().done(step);
        }
    }

    /// Finds sources that the context lacks before anything runs: BuildKit computes cache keys first, and the one of
    /// such a step fails. Steps of its stage before it are then shown as cached.
    fn check_sources(&self) -> Result<(), Stop> {
        self.load_context()?;
        let tree = CopySourceTree::Context(self.context);
        for (stage, declared) in self.plan.stages.iter().zip(&self.declared) {
            for (at, (step, id)) in stage.steps.iter().zip(&declared.steps).enumerate() {
                let Op::Copy(op) = &step.op else { continue };
                let Err(stop) = copy::buildkit::check_sources(&tree, op) else { continue };
                let emitter = self.session.emitter();
                for (before, id) in stage.steps.iter().zip(&declared.steps).take(at) {
                    if matches!(before.op, Op::Copy(_)) {
                        emitter.emit(Fact::StepStarted { step: *id });
                        emitter.emit(Fact::StepDone { step: *id, cached: true, image: None });
                    }
                }
                emitter.emit(Fact::StepStarted { step: *id });
                let stop = fail_step(self.session, *id, stop).at(*id, step.label.lines);
                if let Some(from) = declared.from {
                    emitter.emit(Fact::StepStarted { step: from });
                    emitter.emit(Fact::StepFailed { step: from, failure: None });
                }
                return Err(stop);
            }
        }
        Ok(())
    }

    fn stage(&self, index: usize) -> Result<Snapshot, Stop> {
        let stage = &self.plan.stages[index];
        let declared = &self.declared[index];
        let mut snapshot = match &stage.base {
            StageBase::Stage(base) => self.wait_for(*base)?,
            StageBase::Image(image) => Snapshot {
                key: KeyBuilder::new("image").field("layers", image.cache_name()).finish(),
                layers: image.diff_ids(),
                base: Some(Arc::clone(image)),
            },
            StageBase::Scratch | StageBase::Directory(_) | StageBase::Unresolved => {
                Snapshot { key: KeyBuilder::new("scratch").finish(), layers: Vec::new(), base: None }
            }
        };
        if let Some(step) = declared.from {
            self.base(index, step, &snapshot)?;
        }
        for (step, id) in stage.steps.iter().zip(&declared.steps) {
            self.check()?;
            snapshot = self.step(snapshot, step, *id, stage.no_cache)?;
        }
        Ok(snapshot)
    }

    /// Shows the step of a base image, which is fetched only if something is going to be done on it.
    fn base(&self, index: usize, step: StepId, snapshot: &Snapshot) -> Result<(), Stop> {
        let done = shared(&self.bases, step);
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *done, true) {
            return Ok(());
        }
        let stage = &self.plan.stages[index];
        self.session.emitter().emit(Fact::StepStarted { step });
        let is_hit = match stage.steps.first() {
            Some(first) => self.peek(snapshot, first, stage.no_cache),
            // Nothing is done on it here, but another stage may need its files.
            None => match &snapshot.base {
                Some(image) if index != self.plan.target.0 => self.session.is_unpacked(image),
                _ => Ok(true),
            },
        };
        let fetched = is_hit.and_then(|is_hit| match &snapshot.base {
            Some(image) if !is_hit && self.session.is_named(image)? && self.session.is_unpacked(image)? => {
                self.fetch(image, &Unwatched)?;
                Ok(true)
            }
            Some(image) if !is_hit => {
                self.fetch(image, &Pulled { session: self.session, step, image })?;
                Ok(false)
            }
            _ => Ok(false),
        });
        let cached = fetched.map_err(|stop| fail_step(self.session, step, stop).at(step, None))?;
        self.session.emitter().emit(Fact::StepDone { step, cached, image: None });
        Ok(())
    }

    /// Whether the cache has a step's result, as far as that can be told without waiting for other stages.
    fn peek(&self, snapshot: &Snapshot, step: &PlannedStep, no_cache: bool) -> Result<bool, Stop> {
        let waits = match &step.op {
            Op::Run(run) => run.mounts.iter().any(|mount| matches!(mount.from, MountFrom::Stage(_))),
            Op::Copy(copy) => copy.sources.iter().any(|source| {
                matches!(
                    source,
                    CopySource::Files { from: MountFrom::Stage(_), .. }
                        | CopySource::Http { .. }
                        | CopySource::Git { .. }
                )
            }),
            Op::Mkdir { .. } => false,
        };
        if no_cache {
            return Ok(false);
        }
        if waits {
            // Nothing is won by fetching what is here: what the step needs it will find.
            return match &snapshot.base {
                Some(image) => self.session.is_unpacked(image),
                None => Ok(false),
            };
        }
        match self.key(snapshot, step) {
            Ok(keys) => Ok(self.lookup(&keys)?.is_some()),
            // It fails again where it can be told of.
            Err(_) => Ok(false),
        }
    }

    fn fetch(&self, image: &BaseImage, progress: &dyn PullProgress) -> Result<(), Stop> {
        let fetching = shared(&self.fetching, image.id.to_string());
        let _one_at_a_time = fetching.lock().unwrap_or_else(PoisonError::into_inner);
        self.session.fetch(image, progress)?;
        self.session.name_base(image)
    }

    /// Makes sure that all layers of a snapshot are here.
    fn materialise(&self, snapshot: &Snapshot) -> Result<(), Stop> {
        match &snapshot.base {
            Some(image) => self.fetch(image, &Unwatched),
            None => Ok(()),
        }
    }

    fn lookup(&self, keys: &[CacheKey]) -> Result<Option<DiffId>, Stop> {
        for key in keys {
            if let Some(layer) = self.session.cached_layer(key)? {
                return Ok(Some(layer));
            }
        }
        Ok(None)
    }

    fn step(&self, snapshot: Snapshot, step: &PlannedStep, id: StepId, no_cache: bool) -> Result<Snapshot, Stop> {
        let emitter = self.session.emitter();
        let lines = step.label.lines;
        let started = std::cell::Cell::new(false);
        let begin = || {
            if !started.replace(true) {
                emitter.emit(Fact::StepStarted { step: id });
            }
        };
        let result = (|| {
            let keys = self.key(&snapshot, step)?;
            let Some(key) = keys.first().cloned() else { return Err(Stop::Cancelled) };
            if !no_cache && let Some(layer) = self.lookup(&keys)? {
                begin();
                emitter.emit(Fact::StepDone { step: id, cached: true, image: None });
                return Ok((key, layer));
            }
            self.materialise(&snapshot)?;
            begin();
            let layer = match &step.op {
                Op::Run(run) => self.run(&snapshot, run, id)?,
                Op::Copy(copy) => self.copy(&snapshot, copy)?,
                Op::Mkdir { path, user } => self.mkdir(&snapshot, path, user)?,
            };
            for key in &keys {
                self.session.remember_layer(key, &layer)?;
            }
            emitter.done(id);
            Ok((key, layer))
        })();
        match result {
            Ok((key, layer)) => {
                let mut layers = snapshot.layers;
                layers.push(layer);
                Ok(Snapshot { key, layers, base: snapshot.base })
            }
            Err(stop) => {
                if started.get() || matches!(stop, Stop::Failed(_)) {
                    begin();
                    return Err(fail_step(self.session, id, stop).at(id, lines));
                }
                Err(stop)
            }
        }
    }

    /// What a step's result is filed under, the strongest first.
    fn key(&self, snapshot: &Snapshot, step: &PlannedStep) -> Result<Vec<CacheKey>, Stop> {
        let epoch = self.session.options().source_date_epoch.map(|e| e.to_string()).unwrap_or_default();
        let key = |kind: &str| KeyBuilder::new(kind).key("parent", &snapshot.key).field("epoch", &epoch);
        Ok(match &step.op {
            Op::Mkdir { path, user } => vec![key("mkdir").field("path", path).field("user", user).finish()],
            Op::Run(run) => vec![self.run_key(key("run"), run)?],
            Op::Copy(op) => vec![self.copy_key(key("copy"), op)?],
        })
    }

    fn run_key(&self, key: KeyBuilder, run: &RunOp) -> Result<CacheKey, Stop> {
        let options = self.session.options();
        let mut key = key
            .list("argv", &run.argv)
            .list("env", &run.env)
            .field("cwd", &run.cwd)
            .field("user", &run.user)
            .field("network", format!("{:?} {:?}", run.network, options.network))
            .list("hosts", options.add_hosts.iter().map(|(name, address)| format!("{name}={address}")))
            .list("ulimits", options.ulimits.iter().map(|limit| format!("{limit:?}")))
            .field("shm", format!("{:?}", options.shm_size));
        if let Some((name, data)) = &run.script {
            key = key.field("script", name).field("text", data);
        }
        for mount in &run.mounts {
            // Which secrets there are does not count, nor does what a cache holds.
            key = key.field("mount", mount.kind.as_str()).field("target", &mount.target).field("source", &mount.source);
            key = match mount.from {
                MountFrom::Empty => key,
                MountFrom::Stage(stage) => {
                    let from = self.wait_for(stage)?;
                    match mount.kind {
                        MountType::Bind => key.key("from", &from.key),
                        _ => key,
                    }
                }
                MountFrom::Context => {
                    self.load_context()?;
                    let source = CopySourceTree::Context(self.context);
                    key.field("content", copy::buildkit::selection_hash(&source, &mount.source, None, &[])?)
                }
            };
        }
        Ok(key.finish())
    }

    fn copy_key(&self, key: KeyBuilder, op: &CopyOp) -> Result<CacheKey, Stop> {
        let mut key = key
            .field("dest", &op.dest)
            .field("chown", op.chown.as_deref().unwrap_or_default())
            .field("chmod", op.chmod.as_deref().unwrap_or_default())
            .field("link", op.link.to_string())
            .list("exclude", &op.exclude);
        for source in &op.sources {
            key = match source {
                CopySource::Files { from, pattern, parents, unpack } => {
                    let key = key
                        .field("pattern", pattern)
                        .field("parents", parents.as_deref().unwrap_or_default())
                        .field("unpack", unpack.to_string());
                    let content = match from {
                        MountFrom::Stage(stage) => {
                            self.stage_content(*stage, pattern, parents.as_deref(), &op.exclude)?
                        }
                        _ => {
                            self.load_context()?;
                            let source = CopySourceTree::Context(self.context);
                            copy::buildkit::selection_hash(&source, pattern, parents.as_deref(), &op.exclude)?
                        }
                    };
                    key.field("content", content)
                }
                CopySource::Inline { name, data } => key.field("inline", name).field("data", data),
                CopySource::Http { url, checksum, unpack, .. } => {
                    let file = self.session.download(url, checksum.as_deref())?;
                    key.field("url", file.digest()).field("unpack", unpack.to_string())
                }
                CopySource::Git { url, .. } => key.field("git", url),
            };
        }
        Ok(key.finish())
    }

    /// The digest of what is copied from a stage, remembered by the stage's key, so that an unchanged stage need not be
    /// read.
    fn stage_content(
        &self,
        stage: StageIndex,
        pattern: &str,
        parents: Option<&str>,
        exclude: &[String],
    ) -> Result<String, Stop> {
        if let StageBase::Directory(path) = &self.plan.stages[stage.0].base {
            let source = CopySourceTree::directory(self.session, path)?;
            return copy::buildkit::selection_hash(&source, pattern, parents, exclude);
        }
        let snapshot = self.wait_for(stage)?;
        let key = KeyBuilder::new("content")
            .key("stage", &snapshot.key)
            .field("pattern", pattern)
            .field("parents", parents.unwrap_or_default())
            .list("exclude", exclude)
            .finish();
        if let Some(hash) = self.session.cached_value(&key)? {
            return Ok(hash);
        }
        self.materialise(&snapshot)?;
        let view = View::open(self.session, &snapshot.layers)?;
        let source = CopySourceTree::view(self.session, &view)?;
        let hash = copy::buildkit::selection_hash(&source, pattern, parents, exclude)?;
        self.session.remember_value(&key, &hash)?;
        Ok(hash)
    }

    fn mkdir(&self, snapshot: &Snapshot, path: &str, user: &str) -> Result<DiffId, Stop> {
        self.change(snapshot, |change| {
            let mount = change.mount()?;
            let root = Root::open(mount.target(), self.session.ownership())?;
            let owner = if user.is_empty() { (0, 0) } else { owner_of(&root, user) };
            let time = self.session.options().source_date_epoch;
            let time = time.map(|seconds| Timestamp { seconds, nanoseconds: 0 });
            match root.create_dir_all(path, NewDirs { mode: 0o755, owner, time }) {
                Ok(_) => Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
                    Err(crate::solve::instruction_failed(format!("mkdir {path}: not a directory")))
                }
                Err(error) => Err(error.into()),
            }
        })
    }

    fn copy(&self, snapshot: &Snapshot, op: &CopyOp) -> Result<DiffId, Stop> {
        let mut views: HashMap<StageIndex, View> = HashMap::new();
        for source in &op.sources {
            let CopySource::Files { from: MountFrom::Stage(stage), .. } = source else { continue };
            if matches!(self.plan.stages[stage.0].base, StageBase::Directory(_)) || views.contains_key(stage) {
                continue;
            }
            let from = self.wait_for(*stage)?;
            self.materialise(&from)?;
            views.insert(*stage, View::open(self.session, &from.layers)?);
        }
        let tree = |from: &MountFrom| -> Result<CopySourceTree<'_>, Stop> {
            match from {
                MountFrom::Stage(stage) => match (&self.plan.stages[stage.0].base, views.get(stage)) {
                    (StageBase::Directory(path), _) => CopySourceTree::directory(self.session, path),
                    (_, Some(view)) => CopySourceTree::view(self.session, view),
                    (_, None) => Err(Stop::Cancelled),
                },
                _ => Ok(CopySourceTree::Context(self.context)),
            }
        };
        self.change(snapshot, |change| copy::buildkit::perform(self.session, change, op, &tree))
    }

    fn run(&self, snapshot: &Snapshot, run: &RunOp, step: StepId) -> Result<DiffId, Stop> {
        let mut prepared = Prepared::new(self.session);
        prepared.lock_caches(&run.mounts)?;
        for mount in &run.mounts {
            let stage = match mount.from {
                MountFrom::Stage(stage) if mount.kind == MountType::Bind || mount.kind == MountType::Cache => {
                    match &self.plan.stages[stage.0].base {
                        StageBase::Directory(path) => Some(mounts::From::Directory(path.clone())),
                        _ => {
                            let from = self.wait_for(stage)?;
                            self.materialise(&from)?;
                            Some(mounts::From::Layers(from.layers))
                        }
                    }
                }
                MountFrom::Context => Some(mounts::From::Context(self.context)),
                _ => None,
            };
            prepared.add(mount, stage)?;
        }
        if let Some((name, data)) = &run.script {
            prepared.add_script(name, data)?;
        }
        let mut env = run.env.clone();
        env.extend(run.proxy.iter().cloned());
        env.extend(prepared.secret_env());
        let command = Command {
            argv: &run.argv,
            env,
            cwd: &run.cwd,
            user: &run.user,
            mounts: prepared.mounts(),
            network: run.network,
            container: None,
            volumes: Vec::new(),
        };
        let layer = exec::run(self.session, &snapshot.layers, command, step)?;
        Ok(layer.diff_id)
    }

    fn change(&self, snapshot: &Snapshot, make: impl FnOnce(&Change) -> Result<(), Stop>) -> Result<DiffId, Stop> {
        let change = Change::begin(self.session, &snapshot.layers, &[])?;
        match make(&change) {
            Ok(()) => Ok(change.commit(self.session)?.diff_id),
            Err(stop) => {
                change.discard(self.session);
                Err(stop)
            }
        }
    }
}

/// The value under a key, made if it is new; the map is held only for that.
fn shared<K: Eq + std::hash::Hash, V: Default>(map: &Mutex<HashMap<K, Arc<V>>>, key: K) -> Arc<V> {
    Arc::clone(map.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default())
}

/// Owner by the files of an image.
pub(in crate::solve) fn owner_of(root: &Root, spec: &str) -> (u32, u32) {
    let file = |path: &str| {
        let bytes = root.read(path, 4 << 20).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    users::chown_buildkit(spec, &file("etc/passwd"), &file("etc/group"))
}
