//! A pull as BuildKit's log tells it.

use rbuild_image::manifest::Descriptor;
use rbuild_logfmt::event::{Item, StepId};

use crate::base::{BaseImage, BaseLayer};
use crate::session::{PullProgress, Session};

/// Tells of a pull as BuildKit's log shows it.
pub(super) struct Pulled<'s> {
    pub(super) session: &'s Session<'s>,
    pub(super) step: StepId,
    pub(super) image: &'s BaseImage,
}

impl Pulled<'_> {
    fn tell(&self, item: Item, current: u64, total: Option<u64>, done: bool) {
        self.session.emitter().progress(self.step, item, current, total, done);
    }
}

impl PullProgress for Pulled<'_> {
    fn begin(&self) {
        if let Some(remote) = &self.image.remote {
            let mut seen = Vec::new();
            for blob in [&remote.top, &remote.manifest.descriptor(), &remote.config] {
                if !seen.contains(&blob.digest) {
                    seen.push(blob.digest.clone());
                    let item = Item::Download { digest: blob.digest.to_string() };
                    self.tell(item, blob.size, Some(blob.size), true);
                }
            }
        }
    }

    fn exists(&self, layer: &BaseLayer) {
        if let Some(blob) = &layer.blob {
            self.downloaded(blob);
        }
    }

    fn downloading(&self, blob: &Descriptor, current: u64) {
        self.tell(Item::Download { digest: blob.digest.to_string() }, current, Some(blob.size), false);
    }

    fn downloaded(&self, blob: &Descriptor) {
        self.tell(Item::Download { digest: blob.digest.to_string() }, blob.size, Some(blob.size), true);
    }

    fn extracting(&self, layer: &BaseLayer) {
        if let Some(blob) = &layer.blob {
            self.tell(Item::Extract { digest: blob.digest.to_string() }, 0, None, false);
        }
    }

    fn extracted(&self, layer: &BaseLayer) {
        if let Some(blob) = &layer.blob {
            self.tell(Item::Extract { digest: blob.digest.to_string() }, 0, None, true);
        }
    }
}
