//! Events as JSON lines: written, and read back.
//!
//! The format is documented in `docs/events.md`.

use std::io::{self, BufRead, Read};

use crate::Event;
use crate::event::Fact;
use crate::renderer::{OutputStream, Renderer, Sink};

/// Version of the event format: `format` of the first event. It grows when something written before can no longer be
/// read the same way; new events and new fields do not raise it.
pub const EVENT_FORMAT: u32 = 1;

/// Longest line that is read, in bytes.
const MAX_LINE: u64 = 256 << 20;

/// Why recorded events cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventsError {
    /// The source cannot be read.
    #[error("cannot read events (line {line})")]
    Read {
        /// Line that was being read, counted from 1.
        line: u64,
        /// Why.
        source: io::Error,
    },
    /// A line is no event.
    #[error("line {line} is no build event")]
    Syntax {
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A line is longer than any event may be.
    #[error("line {line} is longer than {MAX_LINE} bytes")]
    TooLong {
        /// Counted from 1.
        line: u64,
    },
    /// A newer rbuild wrote these events.
    #[error("events have format {found}, this rbuild reads up to {EVENT_FORMAT}")]
    Format {
        /// The version found.
        found: u32,
    },
}

/// Reads events, one JSON object a line; blank lines are skipped. Ends after the first error.
pub fn read_events(mut source: impl BufRead) -> impl Iterator<Item = Result<Event, EventsError>> {
    let mut line = 1;
    let mut failed = false;
    std::iter::from_fn(move || {
        while !failed {
            match read_event(&mut source, line) {
                Ok(None) => return None,
                Ok(Some(None)) => line += 1,
                Ok(Some(Some(event))) => {
                    line += 1;
                    return Some(Ok(event));
                }
                Err(error) => {
                    failed = true;
                    return Some(Err(error));
                }
            }
        }
        None
    })
}

/// `None` at the end, `Some(None)` for a blank line.
fn read_event(source: &mut impl BufRead, line: u64) -> Result<Option<Option<Event>>, EventsError> {
    let mut text = Vec::new();
    let read = source.by_ref().take(MAX_LINE).read_until(b'\n', &mut text);
    if read.map_err(|source| EventsError::Read { line, source })? == 0 {
        return Ok(None);
    }
    if text.len() as u64 >= MAX_LINE && text.last() != Some(&b'\n') {
        return Err(EventsError::TooLong { line });
    }
    if text.trim_ascii().is_empty() {
        return Ok(Some(None));
    }
    let event: Event = serde_json::from_slice(&text).map_err(|source| EventsError::Syntax { line, source })?;
    match event.fact {
        Fact::BuildStarted { format, .. } if format > EVENT_FORMAT => Err(EventsError::Format { found: format }),
        _ => Ok(Some(Some(event))),
    }
}

/// Writes every event as it comes, one JSON object a line, to standard output.
#[derive(Debug)]
pub(crate) struct EventsRenderer(());

impl EventsRenderer {
    pub(crate) fn new() -> Self {
        Self(())
    }
}

impl Renderer for EventsRenderer {
    fn event(&mut self, event: &Event, out: &mut dyn Sink) {
        // Events hold strings, numbers and lists: there is nothing in them that JSON cannot say.
        if let Ok(mut line) = serde_json::to_vec(event) {
            line.push(b'\n');
            out.write(OutputStream::Stdout, &line);
        }
    }

    fn finish(&mut self, _out: &mut dyn Sink) {}
}
