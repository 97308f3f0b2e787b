//! placeholder
use crate::Event;
use crate::renderer::{Renderer, Sink};
use indicatif::ProgressDrawTarget;
/// x
pub struct Tty {
    _t: ProgressDrawTarget,
}
impl Tty {
    /// x
    #[must_use]
    pub fn new(t: ProgressDrawTarget) -> Self {
        Self { _t: t }
    }
}
impl Renderer for Tty {
    fn event(&mut self, _: &Event, _: &mut dyn Sink) {}
    fn finish(&mut self, _: &mut dyn Sink) {}
}
