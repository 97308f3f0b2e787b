//! Steps from the cache or run, each stage in a thread of its own.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rbuild_image::digest::DiffId;
use rbuild_logfmt::event::{DownloadProblem, Fact, Failure, Item, StepId};
use rbuild_parser::mount::MountType;
use rbuild_sandbox::root::Root;

use super::keys::{asks_the_network, is_always_cached, stages_read};
use super::ops::owner_can_be_found;
use super::pulled::Pulled;
use super::steps::{Download, StageSteps, Steps, sources};
use super::{fail_step, forget_transfer, sync_key, transferred, transferred_to};
use crate::base::BaseImage;
use crate::context::{Context, ContextError, Transfer};
use crate::emit::Emitter;
use crate::exec::RunStep;
use crate::interactive::{Hand, Place, by_hand_key};
use crate::journal::Surroundings;
use crate::key::{CacheKey, KeyBuilder};
use crate::plan::buildkit::{CopySource, MountFrom, Op, Plan, PlannedStep, StageBase, StageIndex, StagePlan};
use crate::remote;
use crate::rootfs::{self, CopyOptions};
use crate::session::{PullProgress, Session, Unwatched};
use crate::snapshot::Change;
use crate::solve::copy;
use crate::solve::mounts::Prepared;
use crate::stop::Stop;

/// The result of a stage, or of some of its steps.
#[derive(Clone, Debug)]
pub(in crate::solve) struct Snapshot {
    pub(in crate::solve) key: CacheKey,
    pub(in crate::solve) layers: Vec<DiffId>,
    /// The image at its bottom, whose layers may not be here yet.
    pub(in crate::solve) base: Option<Arc<BaseImage>>,
    /// Something of it was done now and did not come from the cache.
    pub(in crate::solve) fresh: bool,
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

/// What became of a step that stages may share.
type StepResult = Mutex<Option<Option<Snapshot>>>;

/// Ends the waiting for a stage whose thread panics, so that the panic is seen and nothing hangs.
struct Unwinding<'a, 's>(&'a Solver<'s>, usize);

impl Drop for Unwinding<'_, '_> {
    fn drop(&mut self) {
        self.0.session.abort();
        self.0.cells[self.1].set(None);
    }
}

pub(super) struct Solver<'s> {
    pub(super) session: &'s Session<'s>,
    pub(super) context: &'s Context,
    pub(super) plan: &'s Plan,
    context_step: Option<StepId>,
    context_loaded: Mutex<bool>,
    downloads: Vec<(StepId, Download)>,
    declared: Vec<StageSteps>,
    cells: Vec<Cell>,
    /// Why the first step failed; the others are cancelled then.
    failed: Mutex<Option<Stop>>,
    /// Images being fetched: each by one thread, for all stages that begin with it.
    fetching: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    /// Images that are shown coming: one may have steps under several names.
    pulling: Mutex<HashSet<String>>,
    /// By name, whether an image was here when this build began.
    here: Mutex<HashMap<String, bool>>,
    /// Steps of base images, and whether they are done.
    bases: Mutex<HashMap<StepId, Arc<Mutex<bool>>>>,
    /// Results of steps, which stages may share; `None` in place of one that failed.
    results: Mutex<HashMap<StepId, Arc<StepResult>>>,
}

/// What is wanted of a step.
#[derive(Clone, Copy)]
struct Wish {
    /// Not from the cache.
    no_cache: bool,
    /// If the cache has the result, its key and no more.
    only_key: bool,
}

impl<'s> Solver<'s> {
    pub(super) fn new(session: &'s Session<'s>, context: &'s Context, plan: &'s Plan) -> Solver<'s> {
        let steps = Steps::declare(session.emitter(), plan, context.load_step(), session.options().dialect.version);
        Solver {
            session,
            context,
            plan,
            context_step: steps.context,
            context_loaded: Mutex::new(false),
            cells: plan.stages.iter().map(|_| Cell::default()).collect(),
            downloads: steps.downloads,
            declared: steps.stages,
            failed: Mutex::new(None),
            fetching: Mutex::default(),
            pulling: Mutex::default(),
            here: Mutex::default(),
            bases: Mutex::default(),
            results: Mutex::default(),
        }
    }

    pub(super) fn last_step(&self) -> Option<StepId> {
        self.declared[self.plan.target.0].last
    }

    /// Runs all stages that the target needs, each in a thread of its own, and gives the target's result.
    pub(super) fn solve(&self) -> Result<Snapshot, Stop> {
        self.find_breakpoints()?;
        self.resolve_bases()?;
        let downloaded = self.download();
        self.show_bases()?;
        if let Err(stop) = downloaded {
            self.interrupt_pulls(&stop)?;
            return Err(stop);
        }
        self.load_context()?;
        self.load_directories()?;
        self.show_inline_documents()?;
        self.check_sources()?;
        self.show_cache_permissions();
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

    /// Looks for the steps that somebody wants to stop before.
    fn find_breakpoints(&self) -> Result<(), Stop> {
        let stages = self.plan.stages.iter().enumerate();
        let places = stages.flat_map(|(index, stage)| {
            stage.steps.iter().filter_map(move |PlannedStep { label, .. }| {
                Some(Place { stage: index, name: stage.shown.clone(), step: label.position, lines: label.lines? })
            })
        });
        self.session.shells().find_breakpoints(self.session, &places.collect::<Vec<_>>())
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

    pub(super) fn wait_for(&self, stage: StageIndex) -> Result<Snapshot, Stop> {
        self.cells[stage.0].wait().ok_or(Stop::Cancelled)
    }

    /// Base images with their steps, in the order in which these are told.
    fn base_steps(&self) -> Vec<(StepId, &StageBase)> {
        let stages = self.declared.iter().zip(&self.plan.stages);
        let mut bases: Vec<(StepId, &StageBase)> =
            stages.filter_map(|(steps, stage)| Some((steps.from?, &stage.base))).collect();
        bases.sort_by_key(|(step, _)| *step);
        bases.dedup_by_key(|(step, _)| *step);
        bases
    }

    /// Of every base image BuildKit first wants the cache key only, before anything else; whoever needs its files starts
    /// the step again.
    fn resolve_bases(&self) -> Result<(), Stop> {
        let emitter = self.session.emitter();
        for (step, base) in self.base_steps() {
            emitter.emit(Fact::StepStarted { step });
            let resolved = match base {
                // What is here is known, but not what a tag stands for.
                StageBase::Image(image) if image.shown.contains('@') && self.is_here(image)? => None,
                StageBase::Image(image) if image.remote.is_some() => Some(&image.shown),
                StageBase::Missing(shown, _) => Some(shown),
                _ => None,
            };
            if let Some(reference) = resolved {
                emitter.progress(step, Item::Resolve { reference: reference.clone() }, 0, None, true);
            }
        }
        Ok(())
    }

    /// Ends what [`resolve_bases`](Self::resolve_bases) began.
    fn show_bases(&self) -> Result<(), Stop> {
        let emitter = self.session.emitter();
        let mut failed = None;
        for (step, base) in self.base_steps() {
            match base {
                StageBase::Missing(_, failure) => {
                    let stop = fail_step(self.session, step, Stop::failed(failure.clone()));
                    failed.get_or_insert(stop.at(step, None));
                }
                StageBase::Image(image) if self.is_here(image)? && self.is_surely_needed(step)? => {
                    // Both at once: that it was done before is not seen.
                    *shared(&self.bases, step).lock().unwrap_or_else(PoisonError::into_inner) = true;
                    self.fetch(image, &Unwatched).map_err(|stop| fail_step(self.session, step, stop).at(step, None))?;
                    emitter.emit(Fact::StepDone { step, cached: true, image: None });
                }
                _ => emitter.done(step),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Whether something is done on a base image that the cache cannot have, as is known without other sources.
    fn is_surely_needed(&self, step: StepId) -> Result<bool, Stop> {
        for (stage, _) in self.plan.stages.iter().zip(&self.declared).filter(|(_, steps)| steps.from == Some(step)) {
            let (StageBase::Image(image), Some(first)) = (&stage.base, stage.steps.first()) else { continue };
            let snapshot = base_snapshot(image);
            let has_context = sources(&first.op).iter().any(|from| *from != MountFrom::Empty);
            let needed = stage.no_cache && !is_always_cached(&first.op)
                || match has_context {
                    true => self.session.cached_value::<bool>(&attempt_key(&snapshot, first))?.is_none(),
                    false => !self.peek(&snapshot, first, false)?,
                };
            if needed {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn load_context(&self) -> Result<(), Stop> {
        let Some(step) = self.context_step else { return Ok(()) };
        let mut loaded = self.context_loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if *loaded {
            return Ok(());
        }
        let emitter = self.session.emitter();
        emitter.emit(Fact::StepStarted { step });
        if let Some(repository) = self.context.repository() {
            repository.log.replay(emitter, step);
            *loaded = true;
            return Ok(());
        }
        let paths = &self.plan.context_paths;
        let wanted: Vec<String> = if paths.contains("/") { Vec::new() } else { paths.iter().cloned().collect() };
        let sent = transferred(self.session, self.context, Transfer::Context, step, |held| {
            self.context.sync_size(&wanted, held)
        });
        if let Err(stop) = sent {
            return Err(fail_step(self.session, step, stop).at(step, None));
        }
        emitter.done(step);
        if self.plan.stages.iter().flat_map(|stage| &stage.steps).any(|step| writes_to_context(&step.op)) {
            forget_transfer(self.session, self.context)?;
        }
        *loaded = true;
        Ok(())
    }

    /// Shows the directories coming in that stages begin with, each selection of files once.
    fn load_directories(&self) -> Result<(), Stop> {
        let mut loaded: Vec<(StepId, &str)> = Vec::new();
        for (index, (stage, declared)) in self.plan.stages.iter().zip(&self.declared).enumerate() {
            let (StageBase::Directory(directory), Some(step)) = (&stage.base, declared.load) else { continue };
            if loaded.iter().any(|(known, _)| *known == step) {
                continue;
            }
            let copy = loaded.iter().filter(|(_, name)| *name == directory.name()).count();
            loaded.push((step, directory.name()));
            self.session.emitter().emit(Fact::StepStarted { step });
            if let Some(repository) = directory.repository() {
                repository.log.replay(self.session.emitter(), step);
                continue;
            }
            let wanted = self.plan.wanted_paths(StageIndex(index));
            let sent = transferred_to(self.session, directory, Transfer::Context, step, copy, |held| {
                directory.check_ignore().map_err(ContextError::of_named)?;
                directory.sync_size(&wanted, held)
            });
            sent.map_err(|stop| fail_step(self.session, step, stop).at(step, None))?;
            self.session.emitter().done(step);
            if self.needs_layer(index) {
                // What is built on is taken away from there.
                self.session.remember_value(&sync_key(directory, Transfer::Context, copy), &())?;
            }
        }
        Ok(())
    }

    /// The directory that files are read from, if it is one: they are read where they are.
    pub(super) fn context_of(&self, from: MountFrom) -> Option<&'s Context> {
        match from {
            MountFrom::Empty => None,
            MountFrom::Context => Some(self.context),
            MountFrom::Stage(stage) => {
                let stage = &self.plan.stages[stage.0];
                match &stage.base {
                    StageBase::Directory(directory) if stage.steps.is_empty() => Some(directory),
                    _ => None,
                }
            }
        }
    }

    /// Fetches what ADD takes from the web: BuildKit needs it for the cache keys.
    fn download(&self) -> Result<(), Stop> {
        for (step, file) in &self.downloads {
            self.check()?;
            let emitter = self.session.emitter();
            emitter.emit(Fact::StepStarted { step: *step });
            if let Some(keep_git_dir) = file.keep_git_dir {
                remote::load_added(self.session, &file.url, file.checksum.as_deref(), keep_git_dir, Some(*step))?;
                continue;
            }
            match self.session.download(&file.url, file.checksum.as_deref()) {
                Ok(_) => emitter.done(*step),
                Err(stop) => return Err(fail_step(self.session, *step, stop).at(*step, None)),
            }
        }
        Ok(())
    }

    /// The files of the images that a file was to be added to were wanted already when that turned out to be another.
    fn interrupt_pulls(&self, stop: &Stop) -> Result<(), Stop> {
        let Stop::Failed(failed) = stop else { return Ok(()) };
        let Failure::Download { url: wrong, problem: DownloadProblem::Checksum { .. } } = &failed.failure else {
            return Ok(());
        };
        for (stage, declared) in self.plan.stages.iter().zip(&self.declared) {
            let adds = |step: &PlannedStep| match &step.op {
                Op::Copy(copy) => {
                    copy.sources.iter().any(|source| matches!(source, CopySource::Http { url, .. } if url == wrong))
                }
                _ => false,
            };
            if let (Some(step), StageBase::Image(image)) = (declared.from, &stage.base)
                && stage.steps.iter().any(adds)
            {
                self.interrupted_pull(step, image)?;
            }
        }
        Ok(())
    }

    /// Finds sources that the context lacks before anything runs: BuildKit computes cache keys first, and the one of
    /// such a step fails. All that it is made from is then shown as cached.
    fn check_sources(&self) -> Result<(), Stop> {
        for (index, (stage, declared)) in self.plan.stages.iter().zip(&self.declared).enumerate() {
            for (at, (step, id)) in stage.steps.iter().zip(&declared.steps).enumerate() {
                let context = |from| self.context_of(from);
                let checked = match &step.op {
                    Op::Copy(op) => copy::buildkit::check_sources(op, &context),
                    Op::Run(op) => Prepared::new(self.session).check_sources(op, &context),
                    Op::Mkdir { .. } => Ok(()),
                };
                let Err(stop) = checked else { continue };
                let emitter = self.session.emitter();
                let mut inputs = BTreeSet::new();
                self.add_steps(StageIndex(index), at + 1, &mut inputs);
                for input in inputs.into_iter().filter(|input| input != id) {
                    emitter.emit(Fact::StepStarted { step: input });
                    emitter.emit(Fact::StepDone { step: input, cached: true, image: None });
                }
                emitter.emit(Fact::StepStarted { step: *id });
                let stop = fail_step(self.session, *id, stop).at(*id, step.label.lines);
                if let (Some(step), StageBase::Image(image)) = (declared.from, &stage.base) {
                    self.interrupted_pull(step, image)?;
                }
                return Err(stop);
            }
        }
        Ok(())
    }

    /// Adds the first steps of a stage, and all that they are made from.
    fn add_steps(&self, stage: StageIndex, count: usize, found: &mut BTreeSet<StepId>) {
        let (plan, declared) = (&self.plan.stages[stage.0], &self.declared[stage.0]);
        let whole = |stage: StageIndex, found: &mut BTreeSet<StepId>| {
            self.add_steps(stage, self.plan.stages[stage.0].steps.len(), found);
        };
        if let StageBase::Stage(base) = plan.base {
            whole(base, found);
        }
        for (step, id) in plan.steps.iter().zip(&declared.steps).take(count) {
            if !found.insert(*id) {
                continue;
            }
            for source in sources(&step.op) {
                if let MountFrom::Stage(stage) = source {
                    whole(stage, found);
                }
            }
        }
    }

    /// The pull of a base image had begun when another step failed.
    fn interrupted_pull(&self, step: StepId, image: &BaseImage) -> Result<(), Stop> {
        let emitter = self.session.emitter();
        if *shared(&self.bases, step).lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(());
        }
        emitter.emit(Fact::StepStarted { step });
        if self.is_here(image)? {
            emitter.emit(Fact::StepDone { step, cached: true, image: None });
        } else {
            Pulled { session: self.session, step, image }.begin();
            emitter.emit(Fact::StepFailed { step, failure: None });
        }
        Ok(())
    }

    /// Whether the files of a stage that has no steps are those of the target.
    fn is_result(&self, index: usize) -> bool {
        let mut at = self.plan.target.0;
        while at != index {
            let stage = &self.plan.stages[at];
            match stage.base {
                StageBase::Stage(base) if stage.steps.is_empty() => at = base.0,
                _ => return false,
            }
        }
        true
    }

    /// Whether an image needed not be pulled when this build began, and counts as cached.
    fn is_here(&self, image: &BaseImage) -> Result<bool, Stop> {
        let mut here = self.here.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = here.get(&image.shown) {
            return Ok(*known);
        }
        let is_here = self.session.is_named(image)? && self.session.is_unpacked(image)?;
        here.insert(image.shown.clone(), is_here);
        Ok(is_here)
    }

    /// Whether this is the first to ask for an image, which shows it coming.
    fn is_first_pull(&self, image: &BaseImage) -> bool {
        self.pulling.lock().unwrap_or_else(PoisonError::into_inner).insert(image.id.to_string())
    }

    fn stage(&self, index: usize) -> Result<Snapshot, Stop> {
        let stage = &self.plan.stages[index];
        let declared = &self.declared[index];
        let mut snapshot = match &stage.base {
            StageBase::Stage(base) => self.wait_for(*base)?,
            StageBase::Directory(directory) if self.needs_layer(index) => self.directory_snapshot(directory)?,
            base => own_snapshot(base),
        };
        if let Some(step) = declared.from {
            self.base(index, step, &snapshot)?;
            if let Some(image) = &snapshot.base {
                self.session.journal().state(step, &snapshot.layers, false, &Surroundings::of(&image.config));
            }
        }
        let only_key = self.only_key_is_wanted(StageIndex(index))?;
        for (at, (step, id)) in stage.steps.iter().zip(&declared.steps).enumerate() {
            self.check()?;
            let wish = Wish { no_cache: stage.no_cache, only_key: at == 0 && only_key };
            snapshot = self.shared_step(snapshot, step, *id, wish)?;
        }
        Ok(snapshot)
    }

    /// Whether the directory that a stage begins with is not only read.
    fn needs_layer(&self, index: usize) -> bool {
        let on_top =
            |stage: &StagePlan| stage.reachable && matches!(stage.base, StageBase::Stage(base) if base.0 == index);
        let plan = self.plan;
        !plan.stages[index].steps.is_empty() || plan.target.0 == index || plan.stages.iter().any(on_top)
    }

    /// A directory as a layer. BuildKit knows it by the build, not by its content, so that nothing that is done on it
    /// comes from the cache.
    fn directory_snapshot(&self, directory: &Context) -> Result<Snapshot, Stop> {
        let layer = self.make(Change::begin(self.session, &[], &[])?, |change| {
            let mount = change.mount()?;
            let root = Root::open(mount.target(), self.session.ownership())?;
            let options = CopyOptions { contents: true, ..CopyOptions::default() };
            Ok(rootfs::copy(&directory.source(), Path::new("/"), &root, Path::new("/"), options)?)
        })?;
        let build = format!("{} {}", std::process::id(), Emitter::unix_ns());
        let key = KeyBuilder::new("directory").field("name", directory.name()).field("build", build).finish();
        Ok(Snapshot { key, layers: vec![layer], base: None, fresh: true })
    }

    /// Shows the step of a base image, which is fetched only if something is going to be done on it.
    fn base(&self, index: usize, step: StepId, snapshot: &Snapshot) -> Result<(), Stop> {
        let done = shared(&self.bases, step);
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *done, true) {
            return Ok(());
        }
        let stage = &self.plan.stages[index];
        let Some(image) = &snapshot.base else { return Ok(()) };
        let is_hit = match stage.steps.first() {
            Some(first) => self.peek(snapshot, first, stage.no_cache)?,
            None if self.is_result(index) => false,
            // Nothing is done on it here, but another stage may need its files.
            None => self.session.is_unpacked(image)?,
        };
        if is_hit {
            return Ok(());
        }
        let cached = self.is_here(image)?;
        self.session.emitter().emit(Fact::StepStarted { step });
        let fetched = match cached || !self.is_first_pull(image) {
            true => self.fetch(image, &Unwatched),
            false => self.fetch(image, &Pulled { session: self.session, step, image }),
        };
        let lines = stage.from.as_ref().and_then(|label| label.lines);
        fetched.map_err(|stop| fail_step(self.session, step, stop).at(step, lines))?;
        self.session.emitter().emit(Fact::StepDone { step, cached, image: None });
        Ok(())
    }

    /// Whether the cache has a step's result, as far as that can be told without waiting for other stages.
    fn peek(&self, snapshot: &Snapshot, step: &PlannedStep, no_cache: bool) -> Result<bool, Stop> {
        if no_cache && !is_always_cached(&step.op) {
            return Ok(false);
        }
        if asks_the_network(&step.op) || stages_read(&step.op).next().is_some() {
            // Nothing is won by fetching what is here: what the step needs it will find.
            return match &snapshot.base {
                Some(image) => self.session.is_unpacked(image),
                None => Ok(false),
            };
        }
        match self.key(snapshot, step, &|stage| self.wait_for(stage)) {
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
    pub(super) fn materialise(&self, snapshot: &Snapshot) -> Result<(), Stop> {
        match &snapshot.base {
            Some(image) => self.fetch(image, &Unwatched),
            None => Ok(()),
        }
    }

    pub(super) fn lookup(&self, keys: &[CacheKey]) -> Result<Option<DiffId>, Stop> {
        for key in keys {
            if let Some(layer) = self.session.cached_layer(key)? {
                return Ok(Some(layer));
            }
        }
        Ok(None)
    }

    /// Does a step once for all stages that have it.
    fn shared_step(&self, snapshot: Snapshot, step: &PlannedStep, id: StepId, wish: Wish) -> Result<Snapshot, Stop> {
        let result = shared(&self.results, id);
        let mut result = result.lock().unwrap_or_else(PoisonError::into_inner);
        match &*result {
            Some(Some(done)) => Ok(done.clone()),
            Some(None) => Err(Stop::Cancelled),
            None => {
                let done = self.step(snapshot, step, id, wish);
                *result = Some(done.as_ref().ok().cloned());
                done
            }
        }
    }

    fn step(&self, snapshot: Snapshot, step: &PlannedStep, id: StepId, wish: Wish) -> Result<Snapshot, Stop> {
        let emitter = self.session.emitter();
        let lines = step.label.lines;
        let started = std::cell::Cell::new(false);
        let begin = || {
            if !started.replace(true) {
                emitter.emit(Fact::StepStarted { step: id });
            }
        };
        let result = (|| {
            let keys = self.key(&snapshot, step, &|stage| self.wait_for(stage))?;
            let Some(key) = keys.first().cloned() else { return Err(Stop::Cancelled) };
            let session = self.session;
            session.journal().key(id, &key, &session.options().expected)?;
            if session.shells().breakpoints.take(lines) {
                self.stop_before(&snapshot, step, id)?;
            }
            let hand = session.hands().find(session, &key)?;
            if let Some(Hand { layer, complete: true }) = hand {
                self.materialise(&snapshot)?;
                begin();
                emitter.emit(Fact::StepDone { step: id, cached: true, image: None });
                return Ok((by_hand_key(&key, &layer), layer, true));
            }
            if hand.is_none()
                && (!wish.no_cache || is_always_cached(&step.op) && !snapshot.fresh)
                && let Some(layer) = self.lookup(&keys)?
            {
                begin();
                emitter.emit(Fact::StepDone { step: id, cached: !wish.only_key, image: None });
                return Ok((key, layer, false));
            }
            self.materialise(&snapshot)?;
            begin();
            let layer = match &step.op {
                Op::Run(run) => {
                    let start = hand.as_ref().map(|hand| &hand.layer);
                    let ran = self.run(&snapshot, run, RunStep { id, lines, key: &key, start })?;
                    let layer = ran.layer.diff_id;
                    if ran.by_hand {
                        emitter.done(id);
                        return Ok((by_hand_key(&key, &layer), layer, true));
                    }
                    layer
                }
                Op::Copy(copy) => {
                    owner_can_be_found(copy.chown.as_deref(), snapshot.layers.is_empty())?;
                    self.copy(&snapshot, copy)?
                }
                Op::Mkdir { path, user } => {
                    owner_can_be_found(Some(user), snapshot.layers.is_empty())?;
                    self.mkdir(&snapshot, path, user)?
                }
            };
            for key in &keys {
                self.session.remember_layer(key, &layer)?;
            }
            if snapshot.base.as_ref().is_some_and(|base| base.layers.len() == snapshot.layers.len()) {
                self.session.remember_value(&attempt_key(&snapshot, step), &true)?;
            }
            emitter.done(id);
            Ok((key, layer, true))
        })();
        match result {
            Ok((key, layer, fresh)) => {
                let mut layers = snapshot.layers;
                layers.push(layer);
                self.session.journal().state(id, &layers, true, &step.surroundings);
                Ok(Snapshot { key, layers, base: snapshot.base, fresh: snapshot.fresh || fresh })
            }
            Err(stop) => {
                self.session.journal().state(id, &snapshot.layers, false, &step.surroundings);
                if started.get() || matches!(stop, Stop::Failed(_)) {
                    begin();
                    return Err(fail_step(self.session, id, stop).at(id, lines));
                }
                Err(stop)
            }
        }
    }
}

/// What a stage begins with that does not begin with another.
pub(super) fn own_snapshot(base: &StageBase) -> Snapshot {
    match base {
        StageBase::Image(image) => base_snapshot(image),
        _ => Snapshot { key: KeyBuilder::new("scratch").finish(), layers: Vec::new(), base: None, fresh: false },
    }
}

/// Whether a command has the context mounted to write to.
fn writes_to_context(op: &Op) -> bool {
    let Op::Run(run) = op else { return false };
    run.mounts.iter().any(|mount| mount.kind == MountType::Bind && mount.from == MountFrom::Context && !mount.read_only)
}

/// What is done on a base image.
fn base_snapshot(image: &Arc<BaseImage>) -> Snapshot {
    Snapshot {
        key: KeyBuilder::new("image").field("layers", image.cache_name()).finish(),
        layers: image.diff_ids(),
        base: Some(Arc::clone(image)),
        fresh: false,
    }
}

/// What is known by when a step was ever done there, whatever the files that it read then: BuildKit waits for a step's
/// sources only if so.
fn attempt_key(snapshot: &Snapshot, step: &PlannedStep) -> CacheKey {
    KeyBuilder::new("attempt").key("parent", &snapshot.key).field("step", &step.label.title).finish()
}

/// The value under a key, made if it is new; the map is held only for that.
fn shared<K: Eq + std::hash::Hash, V: Default>(map: &Mutex<HashMap<K, Arc<V>>>, key: K) -> Arc<V> {
    Arc::clone(map.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default())
}
