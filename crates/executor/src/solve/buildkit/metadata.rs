//! Images that stages begin with, looked up before anything is planned to the end.

use std::collections::HashMap;
use std::sync::Arc;

use rbuild_logfmt::event::{StepId, StepKind};

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
    known: &mut HashMap<String, Arc<BaseImage>>,
) -> Result<Vec<Arc<BaseImage>>, Stop> {
    let name = |want: &WantedImage| format!("{} {}", want.reference, want.platform);
    let mut asked: Vec<(String, &WantedImage, Option<StepId>)> = Vec::new();
    for want in wanted {
        let name = name(want);
        if known.contains_key(&name) || asked.iter().any(|(other, _, _)| *other == name) {
            continue;
        }
        let kind = StepKind::LoadMetadata { reference: want.reference.to_string() };
        asked.push((name, want, Some(session.emitter().begin(kind, &[]))));
    }
    let results: Vec<Result<Arc<BaseImage>, Stop>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            asked.iter().map(|(_, want, step)| scope.spawn(move || load_one(session, want, *step))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(Err(Stop::Cancelled))).collect()
    });
    let mut failed = None;
    for ((name, _, _), result) in asked.into_iter().zip(results) {
        match result {
            Ok(image) => drop(known.insert(name, image)),
            Err(stop) => drop(failed.get_or_insert(stop)),
        }
    }
    if let Some(stop) = failed {
        return Err(stop);
    }
    Ok(wanted.iter().filter_map(|want| known.get(&name(want)).cloned()).collect())
}

fn load_one(session: &Session<'_>, want: &WantedImage, step: Option<StepId>) -> Result<Arc<BaseImage>, Stop> {
    let found = match session.built_here(&want.reference, &want.platform) {
        Ok(Some(image)) if !session.options().pull => Ok(image),
        Ok(_) => session.remote_image(&want.reference, &want.platform),
        Err(stop) => Err(stop),
    };
    match (found, step) {
        (Ok(image), step) => {
            if let Some(step) = step {
                session.emitter().done(step);
            }
            Ok(Arc::new(image))
        }
        (Err(stop), Some(step)) => Err(fail_step(session, step, stop).at(step, want.lines)),
        (Err(stop), None) => Err(stop),
    }
}
