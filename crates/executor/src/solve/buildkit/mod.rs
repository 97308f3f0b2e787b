//! The BuildKit dialect: what the target needs, stages at the same time.

mod frontend;
mod metadata;
mod pulled;
mod solver;
mod steps;

use std::collections::HashMap;

use rbuild_image::config::{ImageConfig, KeyOrder};
use rbuild_image::digest::DiffId;
use rbuild_logfmt::event::{Fact, Item, StepId, StepKind, Version};

use crate::context::{Context, ContextError, Sync, SyncSnapshot, Transfer};
use crate::export::Exports;
use crate::key::KeyBuilder;
use crate::plan::buildkit::{Draft, Plan};
use crate::session::{Session, Unwatched};
use crate::solve::{Built, created, write_config};
use crate::stop::Stop;

use metadata::{cancel_metadata, load_metadata, named_contexts};
pub(in crate::solve) use solver::owner_of;
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
    let emitter = session.emitter();
    let (name, text) = context.dockerfile();
    emitter.emit(Fact::Dockerfile { name: name.to_owned(), text: String::from_utf8_lossy(text).into_owned() });
    if context.is_archive() {
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
    let definition = || if context.is_archive() { Ok(()) } else { load_definition(session, context, name) };
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
    let refused = |error: &rbuild_parser::ParseError| Stop::from(crate::plan::buildkit::parse_failure(error));
    let dockerfile = rbuild_parser::parse_with(text, frontend.options).map_err(|error| refused(&error))?;
    let contexts = named_contexts(session)?;
    let lookup = |name: &str| contexts.get(name).cloned();
    let mut draft = Draft::new(&dockerfile, session.options(), &lookup)?;
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
            draft.set_base(want.stage, image);
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
    let plan = draft.finish()?;
    let solver = Solver::new(session, context, &plan);
    let snapshot = solver.solve()?;
    export(session, &plan, &snapshot, solver.last_step(), exports)
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

/// Shows how much of a local source was sent, given what the other end has already.
fn transferred(
    session: &Session<'_>,
    context: &Context,
    transfer: Transfer,
    step: StepId,
    measure: impl FnOnce(Option<&SyncSnapshot>) -> Result<Option<Sync>, ContextError>,
) -> Result<(), Stop> {
    let key = KeyBuilder::new("sync").field("source", context.sync_key(transfer)).finish();
    let held: Option<SyncSnapshot> = session.cached_value(&key)?;
    let measured = measure(held.as_ref()).map_err(|error| session.context_failed(&error))?;
    if let Some(sync) = measured {
        let item = match transfer {
            Transfer::Dockerfile => Item::TransferDockerfile,
            Transfer::Ignore | Transfer::Context => Item::TransferContext,
        };
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
        emitter.progress(step, Item::ExportLayers, 0, None, false);
        emitter.progress(step, Item::ExportLayers, 0, None, true);
        let config = target.image.config.clone();
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
