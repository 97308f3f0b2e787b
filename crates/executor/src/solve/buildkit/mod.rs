//! The BuildKit dialect: what the target needs, stages at the same time.

mod frontend;
mod keys;
mod metadata;
mod ops;
mod pulled;
mod solver;
mod sourceless;
mod steps;

use std::collections::HashMap;
use std::sync::Arc;

use rbuild_image::config::{History, ImageConfig, KeyOrder};
use rbuild_image::digest::DiffId;
use rbuild_logfmt::event::{Fact, Failure, Item, StepId, StepKind, Version};

use crate::context::{Context, ContextError, Sync, SyncSnapshot, Transfer};
use crate::export::Exports;
use crate::key::{CacheKey, KeyBuilder};
use crate::options::{BuildOptions, ContextSource, DockerfileSource};
use crate::plan::buildkit::{Draft, Linter, NamedBase, Plan, PlannedStep, StageBase};
use crate::plan::{PlanError, go};
use crate::session::{Session, Unwatched};
use crate::solve::{Built, Checked, created, write_config};
use crate::stop::Stop;

use frontend::Frontend;
use metadata::{cancel_metadata, load_metadata, named_contexts};
pub(in crate::solve) use ops::owner_of;
use solver::{Snapshot, Solver};

/// The parser's rules for this build.
pub(crate) fn parser_version(session: &Session<'_>) -> rbuild_parser::Version {
    match session.options().dialect.version {
        Version::V20 => rbuild_parser::Version::V20,
        Version::V28 => rbuild_parser::Version::V28,
    }
}

/// Builds with BuildKit's rules.
pub(crate) fn build(session: &Session<'_>, context: &Context, exports: &Exports) -> Result<Built, Stop> {
    let contexts = named_contexts(session)?;
    let frontend = read_dockerfile(session, context)?;
    let raise = |fact| session.emitter().emit(fact);
    let linter = linter(session, context, &raise)?;
    let plan = plan(session, context, &contexts, frontend, &linter, false)?;
    let solver = Solver::new(session, context, &plan);
    let snapshot = solver.solve()?;
    export(session, &plan, &snapshot, solver.last_step(), exports)
}

/// Runs the build checks. What the builder finds wrong with the Dockerfile is part of the result.
pub(crate) fn check(session: &Session<'_>, context: &Context) -> Result<Checked, Stop> {
    let raise = |fact| session.emitter().emit(fact);
    let mut warnings = 0;
    let contexts = named_contexts(session)?;
    let planned = read_dockerfile(session, context).and_then(|frontend| {
        let linter = linter(session, context, &raise)?;
        // Without a target all stages are looked at, needed or not.
        let planned = plan(session, context, &contexts, frontend, &linter, session.options().target.is_none());
        warnings = linter.count();
        planned.map(drop)
    });
    let failed = match planned {
        Ok(()) => None,
        Err(Stop::Failed(failed)) if !matches!(failed.failure, Failure::Own { .. }) => Some(failed),
        Err(stop) => return Err(stop),
    };
    Ok(Checked { warnings, failed })
}

/// The build checks, for a Dockerfile that is not empty.
fn linter<'a>(session: &Session<'_>, context: &Context, raise: &'a dyn Fn(Fact)) -> Result<Linter<'a>, PlanError> {
    let (_, text) = context.dockerfile();
    if text.is_empty() {
        return Err(PlanError::builder("the Dockerfile cannot be empty", None));
    }
    Linter::new(session.options(), text, raise)
}

/// Shows the Dockerfile being read, and the context if it is an archive, and finds out who understands it.
fn read_dockerfile(session: &Session<'_>, context: &Context) -> Result<Frontend, Stop> {
    let emitter = session.emitter();
    let (name, text) = context.dockerfile();
    emitter.emit(Fact::Dockerfile {
        name: name.to_owned(),
        text: String::from_utf8_lossy(text).into_owned(),
        path: client_path(session.options(), context.is_archive()),
    });
    if context.is_archive() && !context.is_told() && context.repository().is_none() {
        // It was unpacked already; what is shown is that it came.
        let hash = context.content_hash()?;
        let key = KeyBuilder::new("archive").field("content", hash).finish();
        let cached = session.cached_value::<bool>(&key)?.is_some();
        session.remember_value(&key, &true)?;
        for kind in [StepKind::LoadRemoteContext, StepKind::CopyContext] {
            let step = emitter.begin(kind, &[]);
            emitter.emit(Fact::StepDone { step, cached, image: None });
        }
    }
    let is_old = session.options().dialect.version == Version::V20;
    let definition = || match context.transfers_dockerfile() {
        true => load_definition(session, context, name),
        false => Ok(()),
    };
    let frontend = if frontend::argument(session).is_some() && !is_old {
        let frontend = frontend::load(session, text)?;
        definition()?;
        frontend
    } else {
        definition()?;
        frontend::load(session, text)?
    };
    if is_old && frontend.is_image && !context.is_archive() {
        // A frontend image reads the file again; nothing has changed, so nothing is sent.
        let step = emitter.begin(StepKind::LoadDefinition { name: name.to_owned() }, &[]);
        emitter.done(step);
    }
    Ok(frontend)
}

/// Where the Dockerfile is in the eyes of BuildKit's client.
fn client_path(options: &BuildOptions, is_archive: bool) -> Option<String> {
    match (&options.dockerfile, &options.context) {
        (DockerfileSource::Path(path), _) => Some(path.to_string_lossy().into_owned()),
        (DockerfileSource::Stdin, _) => Some("stdin".to_owned()),
        (DockerfileSource::Default, ContextSource::Dir(directory)) => {
            Some(go::clean_path(&directory.join("Dockerfile").to_string_lossy()))
        }
        (DockerfileSource::Default, ContextSource::Stdin) if is_archive => Some("-/Dockerfile".to_owned()),
        // The client puts a Dockerfile that is the whole context where nobody sees it.
        (DockerfileSource::Default, _) => None,
    }
}

/// Understands the Dockerfile, looks base images up, and decides what is to be done.
fn plan(
    session: &Session<'_>,
    context: &Context,
    contexts: &HashMap<String, Arc<NamedBase>>,
    frontend: Frontend,
    linter: &Linter<'_>,
    all_stages: bool,
) -> Result<Plan, Stop> {
    let emitter = session.emitter();
    let (_, text) = context.dockerfile();
    let is_old = session.options().dialect.version == Version::V20;
    let refused = |error: &rbuild_parser::ParseError| Stop::from(crate::plan::buildkit::parse_failure(error));
    let dockerfile = rbuild_parser::parse_with(text, frontend.options).map_err(|error| refused(&error))?;
    let mut draft = Draft::new(&dockerfile, session.options(), contexts, linter)?;
    if all_stages {
        draft = draft.with_all_stages();
    }
    // Each image once, however many stages begin with it.
    let mut known = HashMap::new();
    loop {
        let (wanted, refused) = draft.wanted_images();
        if let Some(error) = refused {
            cancel_metadata(session, &wanted);
            return Err(error.into());
        }
        let images = load_metadata(session, &wanted, &mut known)?;
        for (want, image) in wanted.iter().zip(images) {
            draft.set_base(want, image);
        }
        if !draft.add_triggers()? {
            break;
        }
    }
    if !context.is_archive() && (!is_old || frontend.is_image) {
        let step = emitter.begin(StepKind::LoadIgnore, &[]);
        if !is_old {
            transferred(session, context, Transfer::Ignore, step, |held| context.ignore_sync_size(held))?;
        }
        emitter.done(step);
    }
    if !is_old {
        context.check_ignore().map_err(|error| session.context_failed(&error))?;
    }
    Ok(draft.finish(&|path| context.ignores_source(path))?)
}

/// Shows the Dockerfile being read; 20.10 reads the ignore file at the same time.
fn load_definition(session: &Session<'_>, context: &Context, name: &str) -> Result<(), Stop> {
    let emitter = session.emitter();
    let definition = emitter.declare(StepKind::LoadDefinition { name: name.to_owned() }, &[]);
    let is_old = session.options().dialect.version == Version::V20;
    let ignore = is_old.then(|| emitter.declare(StepKind::LoadIgnore, &[]));
    for step in [Some(definition), ignore].into_iter().flatten() {
        emitter.emit(Fact::StepStarted { step });
    }
    transferred(session, context, Transfer::Dockerfile, definition, |held| context.dockerfile_sync_size(held))?;
    emitter.done(definition);
    if let Some(step) = ignore {
        transferred(session, context, Transfer::Ignore, step, |held| context.ignore_sync_size(held))?;
        emitter.done(step);
    }
    Ok(())
}

/// What the other end has of a local source is kept under this.
fn sync_key(context: &Context, transfer: Transfer, copy: usize) -> CacheKey {
    let key = KeyBuilder::new("sync").field("source", context.sync_key(transfer));
    // Transfers of one source at one time do not share what is there.
    if copy == 0 { key.finish() } else { key.field("copy", copy.to_string()).finish() }
}

/// Nothing of the context is left at the other end: a command could write to it.
fn forget_transfer(session: &Session<'_>, context: &Context) -> Result<(), Stop> {
    session.remember_value(&sync_key(context, Transfer::Context, 0), &())
}

/// Shows how much of a local source was sent, given what the other end has already.
fn transferred(
    session: &Session<'_>,
    context: &Context,
    transfer: Transfer,
    step: StepId,
    measure: impl FnOnce(Option<&SyncSnapshot>) -> Result<Option<Sync>, ContextError>,
) -> Result<(), Stop> {
    transferred_to(session, context, transfer, step, 0, measure)
}

/// The same for one of several copies of the source at the other end.
fn transferred_to(
    session: &Session<'_>,
    context: &Context,
    transfer: Transfer,
    step: StepId,
    copy: usize,
    measure: impl FnOnce(Option<&SyncSnapshot>) -> Result<Option<Sync>, ContextError>,
) -> Result<(), Stop> {
    let key = sync_key(context, transfer, copy);
    let held: Option<SyncSnapshot> = session.cached_value(&key)?;
    let item = match transfer {
        Transfer::Dockerfile => Item::TransferDockerfile,
        Transfer::Ignore | Transfer::Context => Item::TransferContext,
    };
    let measured = measure(held.as_ref()).map_err(|error| {
        if error.is_told_late() {
            session.emitter().progress(step, item.clone(), 0, None, true);
        }
        session.context_failed(&error)
    })?;
    if let Some(sync) = measured {
        session.emitter().progress(step, item, sync.bytes, None, true);
        session.remember_value(&key, &sync.snapshot)?;
    }
    Ok(())
}

fn fail_step(session: &Session<'_>, step: StepId, stop: Stop) -> Stop {
    let failure = match &stop {
        Stop::Failed(failed) => Some(failed.failure.clone()),
        Stop::Cancelled => None,
    };
    session.emitter().emit(Fact::StepFailed { step, failure });
    stop
}

/// Makes the image of the target and shows it being written.
fn export(
    session: &Session<'_>,
    plan: &Plan,
    snapshot: &Snapshot,
    last: Option<StepId>,
    exports: &Exports,
) -> Result<Built, Stop> {
    // An image of which nothing ran still needs its layers.
    if let Some(image) = &snapshot.base {
        session.fetch(image, &Unwatched)?;
        session.name_base(image)?;
    }
    let target = &plan.stages[plan.target.0];
    let emitter = session.emitter();
    let kind = StepKind::Export { target: exports.target() };
    let inputs: Vec<StepId> = last.into_iter().collect();
    let step = emitter.begin(kind, &inputs);
    let written = (|| {
        if !snapshot.layers.is_empty() {
            emitter.progress(step, Item::ExportLayers, 0, None, false);
            emitter.progress(step, Item::ExportLayers, 0, None, true);
        }
        let mut config = target.image.config.clone();
        complete_history(plan, &mut config);
        let created = created_before(session, &config, &snapshot.layers)?;
        let built = write_config(session, config, &snapshot.layers, &created)?;
        exports.write(session, &built, Some(step))?;
        Ok(built)
    })();
    match written {
        Ok(built) => {
            emitter.done(step);
            Ok(built)
        }
        Err(stop) => Err(fail_step(session, step, stop).at(step, None)),
    }
}

/// A directory that an image begins with is a layer of which no instruction tells. BuildKit takes the layers that come
/// after so many instructions for those (`exporter/containerimage/writer.go`, `normalizeLayersAndHistory`).
fn complete_history(plan: &Plan, config: &mut ImageConfig) {
    let mut titles = Vec::new();
    let mut at = plan.target;
    loop {
        let stage = &plan.stages[at.0];
        let title = |step: &PlannedStep| steps::shown(&step.label, stage.shown.as_ref()).title(Version::V28);
        titles.extend(stage.steps.iter().rev().map(title));
        match &stage.base {
            StageBase::Stage(base) => at = *base,
            StageBase::Directory(directory) => {
                titles.push(format!("local source for {}", directory.name()));
                break;
            }
            _ => return,
        }
    }
    titles.reverse();
    let history = config.history.get_or_default();
    let told = history.iter().filter(|entry| entry.empty_layer.get() != Some(&true)).count();
    for title in titles.into_iter().skip(told) {
        let mut entry = History::default();
        entry.created_by.set(title);
        entry.comment.set(EXPORTER_COMMENT.to_owned());
        history.push(entry);
    }
}

/// What BuildKit says of layers that no instruction tells of.
const EXPORTER_COMMENT: &str = "buildkit.exporter.image.v0";

/// The time of an image: that of the first build that gave it, so that a build of which all is cached gives the very
/// image again, as BuildKit does with the times of its cached layers.
fn created_before(session: &Session<'_>, config: &ImageConfig, layers: &[DiffId]) -> Result<String, Stop> {
    let key = KeyBuilder::new("created")
        .field("config", config.to_bytes(KeyOrder::Buildkit)?)
        .list("layers", layers.iter().map(|layer| layer.digest().as_str().to_owned()))
        .finish();
    let options = session.options();
    let fixed = options.no_cache || options.source_date_epoch.is_some();
    if let (false, Some(created)) = (fixed, session.cached_value(&key)?) {
        return Ok(created);
    }
    let created = created(session);
    session.remember_value(&key, &created)?;
    Ok(created)
}
