//! Images that stages begin with, looked up before anything is planned to the end.

use std::collections::HashMap;
use std::sync::Arc;

use rbuild_logfmt::event::{Fact, Failure, StepId, StepKind};

use super::fail_step;
use crate::base::BaseImage;
use crate::plan::buildkit::{StageBase, WantedImage};
use crate::session::Session;
use crate::stop::Stop;

/// The sources that `--build-context` names.
pub(super) fn named_contexts(session: &Session<'_>) -> Result<HashMap<String, StageBase>, Stop> {
    let mut contexts = HashMap::new();
    for (name, value) in &session.options().build_contexts {
        contexts.insert(name.clone(), session.named_context(name, value)?);
    }
    Ok(contexts)
}

/// Asks for several images at once.
pub(super) fn load_metadata(
    session: &Session<'_>,
    wanted: &[WantedImage],
    known: &mut HashMap<String, StageBase>,
) -> Result<Vec<StageBase>, Stop> {
    let name = |want: &WantedImage| format!("{} {}", want.reference, want.platform);
    let mut asked: Vec<(String, &WantedImage, Option<StepId>)> = Vec::new();
    for want in wanted {
        let name = name(want);
        if known.contains_key(&name) || asked.iter().any(|(other, _, _)| *other == name) {
            continue;
        }
        let is_shown = wanted.iter().any(|other| other.shows_metadata && other.reference == want.reference);
        let kind = StepKind::LoadMetadata { reference: want.reference.to_string() };
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
    Ok(wanted.iter().filter_map(|want| Some(shown_as(known.get(&name(want))?, want))).collect())
}

/// Shows images that were about to be asked for when the Dockerfile turned out to be wrong.
pub(super) fn cancel_metadata(session: &Session<'_>, wanted: &[WantedImage]) {
    let mut references: Vec<String> =
        wanted.iter().filter(|want| want.shows_metadata).map(|want| want.reference.to_string()).collect();
    references.dedup();
    for reference in references {
        let step = session.emitter().begin(StepKind::LoadMetadata { reference }, &[]);
        session.emitter().emit(Fact::StepFailed { step, failure: None });
    }
}

/// An image under the name that the log has for it.
fn shown_as(base: &StageBase, want: &WantedImage) -> StageBase {
    let StageBase::Image(image) = base else { return base.clone() };
    let digest = image.top_digest().filter(|_| want.shows_metadata && want.shown.digest().is_none());
    let shown = digest.map_or_else(|| want.shown.clone(), |digest| want.shown.with_digest(digest.clone())).to_string();
    StageBase::Image(match image.shown == shown {
        true => Arc::clone(image),
        false => Arc::new(BaseImage { shown, ..BaseImage::clone(image) }),
    })
}

fn load_one(session: &Session<'_>, want: &WantedImage, step: Option<StepId>) -> Result<StageBase, Stop> {
    let mut found = match session.built_here(&want.reference, &want.platform) {
        Ok(Some(image)) if !session.options().pull => Ok(image),
        Ok(_) => session.remote_image(&want.reference, &want.platform),
        Err(stop) => Err(stop),
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
