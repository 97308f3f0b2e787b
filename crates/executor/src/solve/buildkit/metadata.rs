//! Images that stages begin with, looked up before anything is planned to the end.

use std::collections::HashMap;
use std::sync::Arc;

use rbuild_image::reference::{DockerVersion, Reference};
use rbuild_logfmt::event::{Fact, Failure, StepId, StepKind};

use super::{fail_step, transferred};
use crate::base::BaseImage;
use crate::context::{NamedContext, NamedSource, Transfer};
use crate::plan::buildkit::{NamedBase, StageBase, WantedImage};
use crate::remote;
use crate::session::Session;
use crate::stop::Stop;

/// The image that is none.
const EMPTY_IMAGE: &str = "scratch";

/// The sources that `--build-context` names, by normal names. Of two of one name the last counts.
pub(super) fn named_contexts(session: &Session<'_>) -> Result<HashMap<String, Arc<NamedBase>>, Stop> {
    let mut named = HashMap::new();
    for (name, value) in &session.options().build_contexts {
        let context = NamedContext::new(name, value).map_err(|error| session.context_failed(&error))?;
        named.insert(context.name.clone(), context);
    }
    named.into_iter().map(|(name, context)| Ok((name, Arc::new(session.named_base(context)?)))).collect()
}

/// How the look-up of an image, or of what stands for one, is shown.
fn lookup_kind(want: &WantedImage) -> StepKind {
    let Some(named) = &want.context else {
        return StepKind::LoadMetadata { reference: want.reference.to_string() };
    };
    let context = named.context.name.clone();
    let reference = match &named.context.source {
        NamedSource::Directory(_) => return StepKind::LoadContextIgnore { context },
        NamedSource::Image(reference) => reference.clone(),
        NamedSource::OciLayout { digest: Some(digest), .. } => {
            let name = Reference::parse_normalized(&context, DockerVersion::V28);
            format!("{}@{digest}", name.map_or_else(|_| context.clone(), |name| name.to_string()))
        }
        NamedSource::OciLayout { path, .. } | NamedSource::DockerArchive(path) => path.to_string_lossy().into_owned(),
        NamedSource::Target(text) | NamedSource::Remote(text) => text.clone(),
    };
    StepKind::LoadContextMetadata { context, reference }
}

/// Asks for several images at once.
pub(super) fn load_metadata(
    session: &Session<'_>,
    wanted: &[WantedImage],
    known: &mut HashMap<String, StageBase>,
) -> Result<Vec<StageBase>, Stop> {
    let name_of = |want: &WantedImage| match &want.context {
        Some(named) if !matches!(named.context.source, NamedSource::Image(_)) => {
            format!("context {} {}", named.context.name, want.platform)
        }
        _ => format!("{} {}", want.reference, want.platform),
    };
    let mut asked: Vec<(String, &WantedImage, Option<StepId>)> = Vec::new();
    for want in wanted {
        let name = name_of(want);
        if want.written == EMPTY_IMAGE && want.context.is_some() {
            known.insert(name, StageBase::Scratch);
            continue;
        }
        if let Some((named, url)) = want.context.as_ref().and_then(|named| match &named.context.source {
            NamedSource::Remote(url) => Some((named, url)),
            _ => None,
        }) && !known.contains_key(&name)
        {
            // It has no look-up of its own.
            match remote::named_repository(session, &named.context.name, url)? {
                Some(context) => drop(known.insert(name, StageBase::Directory(Arc::new(context)))),
                None => drop(session.named_image(&named.context, &want.platform)?),
            }
            continue;
        }
        if known.contains_key(&name) || asked.iter().any(|(other, _, _)| *other == name) {
            continue;
        }
        let is_same = |other: &&WantedImage| name_of(other) == name;
        let is_shown = want.context.is_some() || wanted.iter().filter(is_same).any(|other| other.shows_metadata);
        // Of those that ask for one image the one that began last is likely to be first, and to give its name.
        let kind = lookup_kind(wanted.iter().rfind(is_same).unwrap_or(want));
        asked.push((name, want, is_shown.then(|| session.emitter().begin(kind, &[]))));
    }
    let results: Vec<Result<StageBase, Stop>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            asked.iter().map(|(_, want, step)| scope.spawn(move || load_one(session, want, *step))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(Err(Stop::Cancelled))).collect()
    });
    let mut failed = None;
    for ((name, _, _), result) in asked.into_iter().zip(results) {
        match result {
            Ok(image) => drop(known.insert(name, image)),
            // The first that failed cancelled the others.
            Err(stop) if matches!(failed, None | Some(Stop::Cancelled)) => failed = Some(stop),
            Err(_) => {}
        }
    }
    if let Some(stop) = failed {
        return Err(stop);
    }
    Ok(wanted.iter().filter_map(|want| Some(shown_as(known.get(&name_of(want))?, want))).collect())
}

/// Shows images that were about to be asked for when the Dockerfile turned out to be wrong.
pub(super) fn cancel_metadata(session: &Session<'_>, wanted: &[WantedImage]) {
    let mut kinds: Vec<StepKind> =
        wanted.iter().filter(|want| want.shows_metadata || want.context.is_some()).map(lookup_kind).collect();
    kinds.dedup();
    for kind in kinds {
        let step = session.emitter().begin(kind, &[]);
        session.emitter().emit(Fact::StepFailed { step, failure: None });
    }
}

/// An image under the name that the log has for it.
fn shown_as(base: &StageBase, want: &WantedImage) -> StageBase {
    let StageBase::Image(image) = base else { return base.clone() };
    let digest = image.top_digest().filter(|_| want.shows_metadata && want.shown.digest().is_none());
    let shown = match &want.context {
        // Found as it is named: the digest that it has now is not looked for.
        Some(named) if matches!(named.context.source, NamedSource::Image(_)) => want.reference.to_string(),
        Some(_) => image.shown.clone(),
        None => digest.map_or_else(|| want.shown.clone(), |digest| want.shown.with_digest(digest.clone())).to_string(),
    };
    StageBase::Image(match image.shown == shown {
        true => Arc::clone(image),
        false => Arc::new(BaseImage { shown, ..BaseImage::clone(image) }),
    })
}

fn load_one(session: &Session<'_>, want: &WantedImage, step: Option<StepId>) -> Result<StageBase, Stop> {
    if let (Some(directory), Some(step)) = (want.context.as_ref().and_then(|named| named.directory.as_ref()), step) {
        let sent = transferred(session, directory, Transfer::Ignore, step, |held| directory.ignore_sync_size(held));
        return match sent {
            Ok(()) => {
                session.emitter().done(step);
                Ok(StageBase::Directory(Arc::clone(directory)))
            }
            Err(stop) => Err(fail_step(session, step, stop).at(step, want.lines)),
        };
    }
    let file = want.context.as_ref().filter(|named| !matches!(named.context.source, NamedSource::Image(_)));
    let mut found = match file {
        Some(named) => session.named_image(&named.context, &want.platform),
        None => match session.built_here(&want.reference, &want.platform) {
            Ok(Some(image)) if !session.options().pull => Ok(image),
            Ok(_) => session.remote_image(&want.reference, &want.platform),
            Err(stop) => Err(stop),
        },
    };
    if let Err(Stop::Failed(failed)) = &mut found
        && let Failure::Pull { reference, .. } = &mut failed.failure
    {
        reference.clone_from(&want.written);
    }
    match (found, step) {
        (Ok(image), step) => {
            if let Some(step) = step {
                session.emitter().done(step);
            }
            Ok(StageBase::Image(Arc::new(image)))
        }
        (Err(stop), Some(step)) => {
            let stop = fail_step(session, step, stop).at(step, want.lines);
            // The others are cancelled.
            session.abort();
            Err(stop)
        }
        (Err(Stop::Failed(failed)), None) if matches!(failed.failure, Failure::Pull { .. }) => {
            Ok(StageBase::Missing(want.shown.to_string(), failed.failure))
        }
        (Err(stop), None) => Err(stop),
    }
}
