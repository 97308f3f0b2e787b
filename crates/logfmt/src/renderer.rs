//! What a renderer is, and how to get one.

use std::fmt;

use indicatif::ProgressDrawTarget;

use crate::buildkit::{Plain, Verbosity};
use crate::check::CheckReport;
use crate::events::EventsRenderer;
use crate::legacy::Legacy;
use crate::rawjson::RawJson;
use crate::tty::Tty;
use crate::{Event, Format};

/// Which stream of the process a piece of log belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Takes the bytes of a log, in order.
pub trait Sink {
    /// Takes bytes of one stream. A renderer never learns of a failed write: a sink keeps its errors to itself.
    fn write(&mut self, stream: OutputStream, bytes: &[u8]);
}

impl Sink for Vec<(OutputStream, Vec<u8>)> {
    fn write(&mut self, stream: OutputStream, bytes: &[u8]) {
        self.push((stream, bytes.to_vec()));
    }
}

/// A sink that keeps both streams in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// All that went to standard output.
    pub stdout: Vec<u8>,
    /// All that went to standard error.
    pub stderr: Vec<u8>,
}

impl Sink for Captured {
    fn write(&mut self, stream: OutputStream, bytes: &[u8]) {
        match stream {
            OutputStream::Stdout => self.stdout.extend_from_slice(bytes),
            OutputStream::Stderr => self.stderr.extend_from_slice(bytes),
        }
    }
}

/// Turns events into a log. The same events give the same bytes, whether live or from a recording.
pub trait Renderer: Send {
    /// Takes the next event. Events come in order of their times; one that claims to be older than its predecessor is
    /// treated as happening at the predecessor's time.
    fn event(&mut self, event: &Event, out: &mut dyn Sink);

    /// Says that it is now `at` nanoseconds since the start, and that every earlier event was delivered. A display that
    /// refreshes by the clock catches up; calling this often, rarely or never changes when bytes come, not which.
    fn tick(&mut self, at: u64, out: &mut dyn Sink) {
        let _ = (at, out);
    }

    /// The terminal is for something else until the next event: what moves is taken off it.
    fn pause(&mut self, out: &mut dyn Sink) {
        let _ = out;
    }

    /// No event will follow: whatever is still held back is written. Needed only if the last event was not
    /// [`BuildEnded`](crate::event::Fact::BuildEnded); harmless otherwise.
    fn finish(&mut self, out: &mut dyn Sink);
}

/// How a log is rendered, apart from what the events say.
#[derive(Default)]
pub struct RenderOptions {
    /// Warnings of build checks with details, addresses and excerpts, as `docker --debug` shows them.
    pub expand_warnings: bool,
    /// What build checks found is written as JSON, if nothing else was asked for
    /// ([`Call::Check`](crate::event::Call::Check)).
    pub check_json: bool,
    /// The output of steps is shown whole where BuildKit clips it.
    pub no_clip: bool,
    /// Where [`Format::Tty`] draws; without one it writes finished steps as plain lines to standard error.
    pub draw_target: Option<ProgressDrawTarget>,
}

impl fmt::Debug for RenderOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RenderOptions")
            .field("expand_warnings", &self.expand_warnings)
            .field("check_json", &self.check_json)
            .field("no_clip", &self.no_clip)
            .field("draw_target", &self.draw_target.is_some())
            .finish()
    }
}

/// Makes the renderer of a format. The dialect's version, and whether only the image id is wanted, come with the first
/// event.
#[must_use]
pub fn renderer(format: Format, options: RenderOptions) -> Box<dyn Renderer> {
    let check = CheckReport::new(options.check_json);
    match format {
        Format::Legacy => Box::new(Legacy::new()),
        Format::Buildkit => Box::new(Plain::new(Verbosity::Plain, &options, check)),
        Format::Quiet => Box::new(Plain::new(Verbosity::Quiet, &options, check)),
        Format::Tty => {
            Box::new(Tty::new(options.draw_target.unwrap_or_else(ProgressDrawTarget::hidden)).with_check(check))
        }
        Format::RawJson => Box::new(RawJson::new(options.no_clip, check)),
        Format::Events => Box::new(EventsRenderer::new()),
    }
}
