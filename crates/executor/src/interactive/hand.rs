//! Steps whose layer is not what their instruction gives: it was made by hand, or begins with half of it.
//!
//! Such a layer is never filed under the key of its step, so that no other build takes it for one that was done: it has
//! a key of its own, from which those of the later steps are made.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use rbuild_image::digest::DiffId;
use serde::{Deserialize, Serialize};

use crate::key::{CacheKey, KeyBuilder};
use crate::session::{Session, Unwatched};
use crate::stop::Stop;

/// A layer for a step of a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByHand {
    /// What the step is known by in the cache; a step that is another now does not use it.
    pub step: String,
    /// The image, in the store, whose topmost layer it is.
    pub image: String,
    /// The step is done with it; otherwise its command begins there.
    pub complete: bool,
}

/// What a step was known by in the build that is gone on with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedStep {
    /// Name of its stage, if the log shows one.
    pub stage: Option<String>,
    /// Its number in the stage.
    pub position: u32,
    /// What it was known by.
    pub key: String,
}

/// Such a layer, found.
#[derive(Clone, Debug)]
pub(crate) struct Hand {
    pub(crate) layer: DiffId,
    pub(crate) complete: bool,
}

/// Those of a build.
#[derive(Debug, Default)]
pub(crate) struct Hands {
    list: Mutex<Vec<ByHand>>,
    /// Steps that were found to have one.
    used: Mutex<BTreeSet<String>>,
}

impl Hands {
    pub(crate) fn new(given: &[ByHand]) -> Hands {
        Hands { list: Mutex::new(given.to_vec()), used: Mutex::default() }
    }

    /// What the build has by now; what a later build goes on with.
    pub(crate) fn all(&self) -> Vec<ByHand> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds one, in place of what there was for its step.
    pub(crate) fn add(&self, hand: ByHand) {
        let mut hands = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        hands.retain(|known| known.step != hand.step);
        hands.push(hand);
    }

    /// Whether one was given to the build, and none of its steps had use for it.
    pub(crate) fn some_unused(&self, given: &[ByHand]) -> bool {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        given.iter().any(|hand| !used.contains(&hand.step))
    }

    /// The layer for a step, if there is one; it is in the store and unpacked then.
    pub(crate) fn find(&self, session: &Session<'_>, key: &CacheKey) -> Result<Option<Hand>, Stop> {
        let hands = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(hand) = hands.iter().find(|hand| hand.step == key.as_str()).cloned() else { return Ok(None) };
        drop(hands);
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(hand.step.clone());
        let Some(image) = session.local_image(&hand.image)? else { return Ok(None) };
        session.fetch(&image, &Unwatched)?;
        Ok(image.diff_ids().pop().map(|layer| Hand { layer, complete: hand.complete }))
    }
}

/// What the result of a step with such a layer is known by.
pub(crate) fn by_hand_key(step: &CacheKey, layer: &DiffId) -> CacheKey {
    KeyBuilder::new("by hand").key("step", step).field("layer", layer.digest().to_string()).finish()
}
