//! Events as JSON lines: written, and read back.
//!
//! The format is documented in `docs/events.md`.

use std::collections::HashMap;
use std::io::{self, BufRead, Read};

use serde::Deserialize;

use crate::Event;
use crate::event::{Fact, StepId, Stream};
use crate::renderer::{OutputStream, Renderer, Sink};

/// Version of the event format: `format` of the first event. It grows when something written before can no longer be
/// read the same way; new events and new fields do not raise it.
pub const EVENT_FORMAT: u32 = 2;

/// The first format in which output tells its offset.
const WITH_OFFSETS: u32 = 2;

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
    #[error("line {line} is no build event (column {}: {})", .source.column(), reason(.source))]
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
    #[error("the events have format {found}, and this rbuild reads up to {EVENT_FORMAT}")]
    Format {
        /// The version found.
        found: u32,
    },
    /// A recording ends before the build does, maybe in the middle of a line.
    #[error("the recording ends in line {line}, before the build does")]
    Truncated {
        /// The last line, counted from 1.
        line: u64,
    },
    /// A recording does not begin with the start of a build, or holds more than one.
    #[error("line {line} is not where a build begins: a recording is one build, from its first event to its last")]
    NotOneBuild {
        /// Counted from 1.
        line: u64,
    },
    /// Output is missing, or there twice.
    #[error("line {line} has output from byte {found} on, where byte {expected} should come: lines were lost")]
    Gap {
        /// Counted from 1.
        line: u64,
        /// Where the output should begin.
        expected: u64,
        /// Where it begins.
        found: u64,
    },
}

/// What is wrong with a line, without its number: each line is a text of its own to the parser.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(reason, _)| reason.to_owned())
}

/// Reads events, one JSON object a line; blank lines are skipped. Ends after the first error.
///
/// For a stream that may begin anywhere; [`read_recording`] also looks whether nothing is missing.
pub fn read_events(source: impl BufRead) -> impl Iterator<Item = Result<Event, EventsError>> {
    let mut reader = Reader { source, line: 0 };
    let mut failed = false;
    std::iter::from_fn(move || {
        let next = if failed { None } else { reader.next().transpose() };
        failed |= matches!(next, Some(Err(_)));
        next
    })
}

/// Reads the events of one build, from its start to its end. Whatever is missing is an error, after the events before it.
pub fn read_recording(source: impl BufRead) -> impl Iterator<Item = Result<Event, EventsError>> {
    let mut recording =
        Recording { reader: Reader { source, line: 0 }, format: None, ended: false, offsets: HashMap::new() };
    let mut failed = false;
    std::iter::from_fn(move || {
        let next = if failed { None } else { recording.next().transpose() };
        failed |= matches!(next, Some(Err(_)));
        next
    })
}

struct Reader<R> {
    source: R,
    /// The line read last, counted from 1.
    line: u64,
}

impl<R: BufRead> Reader<R> {
    /// The next event; `None` at the end.
    fn next(&mut self) -> Result<Option<Event>, EventsError> {
        let mut text = Vec::new();
        loop {
            text.clear();
            let line = self.line + 1;
            let read = self.source.by_ref().take(MAX_LINE).read_until(b'\n', &mut text);
            if read.map_err(|source| EventsError::Read { line, source })? == 0 {
                return Ok(None);
            }
            self.line = line;
            if !text.trim_ascii().is_empty() {
                return parse(&text, line).map(Some);
            }
        }
    }
}

fn parse(text: &[u8], line: u64) -> Result<Event, EventsError> {
    let is_whole = text.last() == Some(&b'\n');
    if text.len() as u64 >= MAX_LINE && !is_whole {
        return Err(EventsError::TooLong { line });
    }
    match serde_json::from_slice(text) {
        Ok(Event { fact: Fact::BuildStarted { format, .. }, .. }) if format > EVENT_FORMAT => {
            Err(EventsError::Format { found: format })
        }
        Ok(event) => Ok(event),
        Err(source) if source.is_eof() && !is_whole => Err(EventsError::Truncated { line }),
        // The start of a newer format may have any form but for these two fields.
        Err(source) => match serde_json::from_slice(text) {
            Ok(Start { event: "build_started", format }) if format > EVENT_FORMAT => {
                Err(EventsError::Format { found: format })
            }
            _ => Err(EventsError::Syntax { line, source }),
        },
    }
}

#[derive(Deserialize)]
struct Start<'a> {
    event: &'a str,
    format: u32,
}

/// The events of one build.
struct Recording<R> {
    reader: Reader<R>,
    /// Known after the first event.
    format: Option<u32>,
    ended: bool,
    /// How far the output of each step has come.
    offsets: HashMap<(StepId, Stream), u64>,
}

impl<R: BufRead> Recording<R> {
    fn next(&mut self) -> Result<Option<Event>, EventsError> {
        let Some(event) = self.reader.next()? else {
            return if self.ended { Ok(None) } else { Err(EventsError::Truncated { line: self.reader.line }) };
        };
        let line = self.reader.line;
        match (&event.fact, self.format) {
            (Fact::BuildStarted { format, .. }, None) => self.format = Some(*format),
            (Fact::BuildStarted { .. }, Some(_)) | (_, None) => return Err(EventsError::NotOneBuild { line }),
            (_, Some(_)) if self.ended => return Err(EventsError::NotOneBuild { line }),
            (Fact::Output { step, stream, offset, data }, Some(WITH_OFFSETS..)) => {
                let expected = self.offsets.entry((*step, *stream)).or_default();
                if *offset != *expected {
                    return Err(EventsError::Gap { line, expected: *expected, found: *offset });
                }
                *expected += data.len() as u64;
            }
            (Fact::BuildEnded { .. }, Some(_)) => self.ended = true,
            _ => {}
        }
        Ok(Some(event))
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

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str = concat!(
        r#"{"at":0,"event":"build_started","format":2,"dialect":{"builder":"legacy","version":"28"},"#,
        r#""unix_ns":0,"quiet":false}"#,
        "\n"
    );
    const END: &str = concat!(r#"{"at":9,"event":"build_ended","outcome":{"outcome":"cancelled"}}"#, "\n");

    fn error(text: &str) -> String {
        let mut read = read_recording(text.as_bytes());
        let error = read.by_ref().find_map(Result::err).expect("an error").to_string();
        assert!(read.next().is_none());
        error
    }

    #[test]
    fn a_recording_is_whole() {
        let output = |offset: u64| {
            format!(
                r#"{{"at":1,"event":"output","step":0,"stream":"stdout","offset":{offset},"data":{{"base64":"/w=="}}}}"#
            ) + "\n"
        };
        let whole = format!("{START}{}{}\n{END}", output(0), output(1));
        let events: Result<Vec<_>, _> = read_recording(whole.as_bytes()).collect();
        assert_eq!(events.unwrap().len(), 4);
        assert_eq!(error(""), "the recording ends in line 0, before the build does");
        assert_eq!(error(START), "the recording ends in line 1, before the build does");
        for cut in [START.len() + 20, START.len() + 40] {
            let ends = error(whole.get(..cut).unwrap());
            assert_eq!(ends, "the recording ends in line 2, before the build does");
        }
        let gap = format!("{START}{}{}{END}", output(0), output(5));
        assert_eq!(error(&gap), "line 3 has output from byte 5 on, where byte 1 should come: lines were lost");
        let twice = format!("{START}{END}{START}{END}");
        assert!(error(&twice).starts_with("line 3 is not where a build begins"), "{}", error(&twice));
        assert!(error(END).starts_with("line 1 is not where a build begins"));
        assert_eq!(error(&format!("{START}{{]\n")), "line 2 is no build event (column 2: key must be a string)");
    }

    #[test]
    fn a_newer_format_is_told_whatever_its_form() {
        for text in [START.replace("\"format\":2", "\"format\":3"), r#"{"format":3,"event":"build_started"}"#.into()] {
            assert_eq!(error(&text), "the events have format 3, and this rbuild reads up to 2");
        }
    }

    #[test]
    fn the_first_format_is_read() {
        let text = START.replace("\"format\":2", "\"format\":1")
            + r#"{"at":1,"event":"output","step":0,"stream":"stdout","data":[255,10]}"#
            + "\n"
            + END;
        let events: Result<Vec<_>, _> = read_recording(text.as_bytes()).collect();
        let events = events.unwrap();
        assert!(matches!(&events[1].fact, Fact::Output { data, .. } if *data == [255, 10]));
        assert!(matches!(&events[2].fact, Fact::BuildEnded { .. }));
    }
}
