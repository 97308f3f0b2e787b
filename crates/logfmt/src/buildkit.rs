//! BuildKit's plain log, as `docker build --progress=plain` prints it to standard error.
//!
//! BuildKit's client gathers status messages in a [`trace`], and now and then a [`mux`] writes what is new of the steps
//! that changed, switching between steps that run at once. When it writes follows its clock: at a message if the last
//! display is 100 ms ago, and 150 ms after the last message. Here the clock is that of the events, so that a recording
//! gives the bytes of the live run. Source of the behaviour: buildkit `util/progress/progressui` at v0.25.0 (buildx
//! 0.29) and eeb7b65 (Docker 20.10.24), and runs of both.

mod mux;
mod ring;
mod trace;

use crate::Event;
use crate::check::CheckReport;
use crate::event::{Fact, Outcome, StepId, Version};
use crate::renderer::{OutputStream, RenderOptions, Renderer, Sink};
use crate::solve_status::{SolveStatus, Translator, VertexWarning};
use mux::Mux;
use trace::Trace;

const MILLISECOND: u64 = 1_000_000;
/// Quiet time after which the display is refreshed.
const TICK: u64 = 150 * MILLISECOND;
/// Least time between displays that messages cause.
const DISPLAY: u64 = 100 * MILLISECOND;
/// Most bytes of a step's output that wait for a display where output is not clipped, and nothing else limits them.
const MAX_WAITING: usize = 4 << 20;
/// Ticks after which nothing can change any more: the longest a step is hidden is 10 s.
const TICKS_TO_REST: u64 = 80;

/// How much is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verbosity {
    /// The whole log.
    Plain,
    /// Errors only.
    Quiet,
}

/// Renders BuildKit's plain log.
#[derive(Debug)]
pub(crate) struct Plain {
    translator: Translator,
    display: Display,
    /// `--progress=quiet`, which shows the image id only with `-q`.
    quiet: bool,
    expand_warnings: bool,
    warnings: Vec<VertexWarning>,
    check: CheckReport,
    /// 20.10 keeps the messages of a quiet build, and shows them if it fails.
    held: Vec<SolveStatus>,
    ended: bool,
}

impl Plain {
    pub(crate) fn new(verbosity: Verbosity, options: &RenderOptions, check: CheckReport) -> Self {
        Self {
            translator: Translator::new(options.no_clip),
            display: Display::new(Version::V28, options.no_clip),
            quiet: verbosity == Verbosity::Quiet,
            expand_warnings: options.expand_warnings && verbosity == Verbosity::Plain,
            warnings: Vec::new(),
            check,
            held: Vec::new(),
            ended: false,
        }
    }

    fn is_quiet(&self) -> bool {
        self.quiet || self.translator.quiet
    }

    fn take(&mut self, mut status: SolveStatus, out: &mut dyn Sink) {
        self.check.take(&self.translator, &mut status);
        if status.is_empty() {
            return;
        }
        for warning in &status.warnings {
            if !self.warnings.contains(warning) {
                self.warnings.push(warning.clone());
            }
        }
        if !self.is_quiet() {
            self.display.update(&status, self.translator.now, out);
        } else if self.translator.version == Version::V20 {
            self.held.push(status);
        }
    }

    fn end(&mut self, outcome: &Outcome, out: &mut dyn Sink) {
        let failed = !matches!(outcome, Outcome::Success { .. } | Outcome::Checked { .. });
        if failed {
            for status in std::mem::take(&mut self.held) {
                self.display.update(&status, self.translator.now, out);
            }
        }
        if !self.is_quiet() || failed && self.translator.version == Version::V20 {
            self.display.done(self.translator.now, out);
        }
        if !self.is_quiet() && self.translator.version == Version::V28 {
            out.write(OutputStream::Stderr, self.warnings_text().as_bytes());
        }
        out.write(OutputStream::Stderr, self.translator.last_words(outcome).as_bytes());
        self.check.end(&self.translator, outcome, self.is_quiet(), out);
        if let (Outcome::Success { image, .. }, true) = (outcome, self.translator.quiet) {
            out.write(OutputStream::Stdout, format!("{image}\n").as_bytes());
        }
        self.ended = true;
    }

    /// The list of warnings that buildx prints after the log: by line, where the real one is in random order.
    fn warnings_text(&self) -> String {
        let mut warnings: Vec<&VertexWarning> = self.warnings.iter().collect();
        warnings.sort_by_key(|warning| warning.line());
        let count = match warnings.len() {
            0 => return String::new(),
            1 => "1 warning found".to_owned(),
            n => format!("{n} warnings found"),
        };
        let hint = if self.expand_warnings { "" } else { " (use docker --debug to expand)" };
        let mut text = format!("\n \x1b[33m{count}{hint}:\n\x1b[0m");
        for warning in warnings {
            text.push_str(&format!(" - {}\n", warning.short));
            if self.expand_warnings {
                text.push_str(&format!("{}\n", warning.detail));
                if !warning.url.is_empty() {
                    text.push_str(&format!("More info: {}\n", warning.url));
                }
                text.push_str(&warning.lines.and_then(|lines| self.translator.excerpt(lines)).unwrap_or_default());
                text.push('\n');
            }
        }
        text
    }
}

impl Renderer for Plain {
    fn event(&mut self, event: &Event, out: &mut dyn Sink) {
        let status = self.translator.apply(event);
        match &event.fact {
            Fact::BuildStarted { .. } => self.display.set_version(self.translator.version),
            Fact::BuildEnded { outcome } => {
                self.display.advance(self.translator.now, out);
                self.end(outcome, out);
            }
            _ => self.take(status, out),
        }
    }

    fn tick(&mut self, at: u64, out: &mut dyn Sink) {
        if !self.ended {
            self.translator.now = self.translator.now.max(at);
            self.display.advance(self.translator.now, out);
        }
    }

    fn finish(&mut self, out: &mut dyn Sink) {
        if !self.ended {
            self.ended = true;
            self.display.done(self.translator.now, out);
        }
    }
}

/// When the log is written.
#[derive(Debug)]
struct Display {
    version: Version,
    trace: Trace,
    mux: Mux,
    next_tick: u64,
    last_display: Option<u64>,
    /// Output is not clipped: there may be any amount of it.
    no_clip: bool,
}

impl Display {
    fn new(version: Version, no_clip: bool) -> Self {
        let (trace, mux) = (Trace::new(version), Mux::new(version));
        Self { version, trace, mux, next_tick: TICK, last_display: None, no_clip }
    }

    /// The version comes with the first event.
    fn set_version(&mut self, version: Version) {
        *self = Self { next_tick: self.next_tick, last_display: self.last_display, ..Self::new(version, self.no_clip) };
    }

    /// A message came.
    fn update(&mut self, status: &SolveStatus, now: u64, out: &mut dyn Sink) {
        self.advance(now, out);
        // A container of Docker's takes longer to start than the limiter lets wait: the first output is shown at once.
        let first_output = status.logs.iter().any(|log| self.trace.is_silent(log.step));
        self.trace.update(status, now);
        if first_output {
            self.last_display = None;
        }
        let due = self.allow(now);
        if due {
            self.refresh(now, out);
        }
        if self.no_clip {
            for log in &status.logs {
                self.relieve(log.step, out);
            }
        }
        // 20.10 restarts its ticker only when it displays.
        if due || self.version == Version::V28 {
            self.next_tick = now.saturating_add(TICK);
        }
    }

    /// Shows a step now that has too much output to wait for its turn.
    fn relieve(&mut self, step: StepId, out: &mut dyn Sink) {
        if self.trace.waiting(step) > MAX_WAITING {
            let text = self.mux.print_now(&mut self.trace, step);
            out.write(OutputStream::Stderr, &text);
            self.trace.shorten(step, MAX_WAITING);
        }
    }

    fn allow(&mut self, now: u64) -> bool {
        let due = self.last_display.is_none_or(|last| now.saturating_sub(last) >= DISPLAY);
        if due {
            self.last_display = Some(now);
        }
        due
    }

    /// Runs the ticks that were due until `now`.
    fn advance(&mut self, now: u64, out: &mut dyn Sink) {
        let mut budget = TICKS_TO_REST + self.trace.pending() as u64;
        while self.next_tick <= now {
            let at = self.next_tick;
            // A tick of 28's is no display in the eyes of its limiter; one of 20.10's needs leave as a message does.
            if self.version == Version::V28 || self.allow(at) {
                self.refresh(at, out);
            }
            budget = budget.saturating_sub(1);
            let skipped = if budget == 0 || self.trace.pending() == 0 { (now - at) / TICK } else { 0 };
            if self.version == Version::V20 {
                self.allow(at.saturating_add(TICK.saturating_mul(skipped)));
            }
            self.next_tick = at.saturating_add(TICK.saturating_mul(skipped + 1));
            if self.next_tick == u64::MAX {
                break;
            }
        }
    }

    fn refresh(&mut self, now: u64, out: &mut dyn Sink) {
        let text = self.mux.print(&mut self.trace, now);
        if !text.is_empty() {
            out.write(OutputStream::Stderr, &text);
        }
    }

    fn done(&mut self, now: u64, out: &mut dyn Sink) {
        self.refresh(now, out);
        let text = self.trace.error_logs();
        out.write(OutputStream::Stderr, &text);
    }
}
