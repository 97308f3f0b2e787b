//! Pulls as the legacy log tells them.

use rbuild_image::manifest::Descriptor;
use rbuild_logfmt::event::{Fact, LayerState, PullFact, StepId};

use crate::base::BaseLayer;
use crate::session::{PullProgress, Session};

/// Tells of a pull as the legacy log shows it.
pub(super) struct Pulled<'s> {
    pub(super) session: &'s Session<'s>,
    pub(super) step: StepId,
}

impl Pulled<'_> {
    fn tell(&self, blob: Option<&Descriptor>, state: LayerState) {
        if let Some(blob) = blob {
            let fact = PullFact::Layer { digest: blob.digest.to_string(), state };
            self.session.emitter().emit(Fact::Pull { step: self.step, fact });
        }
    }
}

impl PullProgress for Pulled<'_> {
    fn exists(&self, layer: &BaseLayer) {
        self.tell(layer.blob.as_ref(), LayerState::Exists);
    }

    fn pulling(&self, layer: &BaseLayer) {
        self.tell(layer.blob.as_ref(), LayerState::Pulling);
    }

    fn downloaded(&self, blob: &Descriptor) {
        self.tell(Some(blob), LayerState::Verifying);
        self.tell(Some(blob), LayerState::Downloaded);
    }

    fn extracted(&self, layer: &BaseLayer) {
        self.tell(layer.blob.as_ref(), LayerState::Complete);
    }

    fn refused(&self, blob: &Descriptor) {
        self.tell(Some(blob), LayerState::Downloading);
    }
}
