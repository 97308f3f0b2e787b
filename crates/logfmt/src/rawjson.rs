//! What `docker buildx build --progress=rawjson` prints: BuildKit's status messages, one JSON object a line.
//!
//! The real one sends several changes in one message as they happen to arrive; here each event is a message.

use crate::Event;
use crate::event::Fact;
use crate::renderer::{OutputStream, Renderer, Sink};
use crate::solve_status::Translator;

#[derive(Debug)]
pub(crate) struct RawJson {
    translator: Translator,
}

impl RawJson {
    pub(crate) fn new() -> Self {
        Self { translator: Translator::new() }
    }
}

impl Renderer for RawJson {
    fn event(&mut self, event: &Event, out: &mut dyn Sink) {
        let status = self.translator.apply(event);
        if !status.is_empty() {
            out.write(OutputStream::Stderr, self.translator.json_line(&status).as_bytes());
        }
        if let Fact::BuildEnded { outcome } = &event.fact {
            out.write(OutputStream::Stderr, self.translator.last_words(outcome).as_bytes());
        }
    }

    fn finish(&mut self, _out: &mut dyn Sink) {}
}
