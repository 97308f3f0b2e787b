//! What `docker buildx build --progress=rawjson` prints: BuildKit's status messages, one JSON object a line.
//!
//! The real one sends several changes in one message as they happen to arrive; here each event is a message.

use crate::Event;
use crate::check::CheckReport;
use crate::event::Fact;
use crate::renderer::{OutputStream, Renderer, Sink};
use crate::solve_status::Translator;

#[derive(Debug)]
pub(crate) struct RawJson {
    translator: Translator,
    check: CheckReport,
}

impl RawJson {
    pub(crate) fn new(check: CheckReport) -> Self {
        Self { translator: Translator::new(), check }
    }
}

impl Renderer for RawJson {
    fn event(&mut self, event: &Event, out: &mut dyn Sink) {
        let mut status = self.translator.apply(event);
        self.check.take(&self.translator, &mut status);
        if !status.is_empty() {
            out.write(OutputStream::Stderr, self.translator.json_line(&status).as_bytes());
        }
        if let Fact::BuildEnded { outcome } = &event.fact {
            out.write(OutputStream::Stderr, self.translator.last_words(outcome).as_bytes());
            self.check.end(&self.translator, outcome, self.translator.quiet, out);
        }
    }

    fn finish(&mut self, _out: &mut dyn Sink) {}
}
