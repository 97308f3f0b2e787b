//! A live view of a build for a terminal.
//!
//! Running steps have a spinner, their last lines of output and their transfers; a step that ended becomes a line that
//! stays. This is rbuild's own view and imitates nobody. It is the only renderer that draws instead of giving bytes to
//! its sink; where its draw target is hidden, the lines that stay go to the sink instead.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::check::CheckReport;
use crate::event::{
    Builder, Call, Dialect, Fact, Failure, Item, LayerState, Outcome, PullFact, Step, StepId, StepKind, Warning,
};
use crate::renderer::{OutputStream, Renderer, Sink};
use crate::report::report;
use crate::solve_status::Translator;
use crate::units::progress_size;
use crate::{Event, failure_text};

/// Lines of output shown below a running step.
const TAIL_LINES: usize = 4;
/// Bytes of output kept of a step, to be shown in full if it fails.
const KEPT: usize = 64 << 10;
/// Least time between two drawings that output causes, so that a chatty step does not slow the build.
const REDRAW: u64 = 50_000_000;

/// The live view.
pub struct Tty {
    multi: MultiProgress,
    translator: Translator,
    builder: Builder,
    steps: BTreeMap<StepId, Live>,
    /// By the line they are about, 0 for none.
    warnings: Vec<(u32, String)>,
    check: CheckReport,
    ended: bool,
}

/// A step and what is drawn of it.
struct Live {
    name: String,
    began: Option<u64>,
    drawn: u64,
    head: Option<ProgressBar>,
    rows: HashMap<Item, ProgressBar>,
    tail_bars: Vec<ProgressBar>,
    tail: VecDeque<String>,
    /// The line that has no end yet.
    partial: Vec<u8>,
    output: Vec<u8>,
    layers: BTreeMap<String, LayerState>,
    pulling: Option<String>,
}

impl fmt::Debug for Tty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tty").field("steps", &self.steps.len()).field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Tty {
    /// A view on a draw target, which decides where and how often it is drawn.
    #[must_use]
    pub fn new(target: ProgressDrawTarget) -> Self {
        Self {
            multi: MultiProgress::with_draw_target(target),
            translator: Translator::new(false),
            builder: Builder::Buildkit,
            steps: BTreeMap::new(),
            warnings: Vec::new(),
            check: CheckReport::default(),
            ended: false,
        }
    }

    pub(crate) fn with_check(self, check: CheckReport) -> Self {
        Self { check, ..self }
    }

    /// A line that stays, above what is live.
    fn say(&self, text: &str, out: &mut dyn Sink) {
        if self.translator.quiet {
            return;
        }
        self.say_always(text, out);
    }

    fn say_always(&self, text: &str, out: &mut dyn Sink) {
        // A terminal that went away is the sink's business, and there is none here.
        if self.multi.is_hidden() || self.multi.println(text).is_err() {
            out.write(OutputStream::Stderr, format!("{text}\n").as_bytes());
        }
    }

    fn declare(&mut self, step: &Step) {
        let name = match &step.kind {
            StepKind::Instruction(i) if i.title.is_empty() => {
                format!("step {}/{}: {}", i.number, i.total, i.text)
            }
            kind => self.translator.step_name(kind),
        };
        self.steps.insert(step.id, Live::new(printable(name.as_bytes())));
    }

    fn begin(&mut self, id: StepId, at: u64) {
        let (multi, quiet) = (&self.multi, self.translator.quiet);
        let Some(live) = self.steps.get_mut(&id) else {
            return;
        };
        live.clear(multi);
        live.began = Some(at);
        if !quiet {
            live.head = Some(multi.add(ProgressBar::new_spinner().with_style(style("{spinner:.cyan} {wide_msg}"))));
            live.draw_head(at);
        }
    }

    fn end_step(&mut self, id: StepId, at: u64, how: &str, out: &mut dyn Sink) {
        let Some(live) = self.steps.get_mut(&id) else {
            return;
        };
        let began = live.began.unwrap_or(at);
        live.clear(&self.multi);
        let text = match how {
            "" => format!("✔ {} {:.1}s", live.name, seconds(at.saturating_sub(began))),
            how => format!("{how} {}", live.name),
        };
        self.say(&text, out);
    }

    fn progress(&mut self, id: StepId, item: &Item, current: u64, total: Option<u64>, done: bool) {
        let (multi, quiet) = (&self.multi, self.translator.quiet);
        let Some(live) = self.steps.get_mut(&id) else {
            return;
        };
        if done || quiet {
            if let Some(row) = live.rows.remove(item) {
                multi.remove(&row);
            }
            return;
        }
        let Some(after) = live.last_bar().cloned() else {
            return;
        };
        let words = match item {
            Item::Download { digest } => short(digest),
            Item::Extract { digest } => format!("extracting {}", short(digest)),
            item => self.translator.item_name(id, item),
        };
        let row = live.rows.entry(item.clone()).or_insert_with(|| {
            let bar = ProgressBar::new(total.unwrap_or(0)).with_style(match total {
                Some(_) => style("    {bar:24.cyan} {wide_msg}"),
                None => style("    {wide_msg}"),
            });
            multi.insert_after(&after, bar)
        });
        if let Some(total) = total {
            row.set_length(total);
        }
        row.set_position(current);
        row.set_message(match (current, total) {
            (0, None) => words,
            (current, None) => format!("{words} {}", progress_size(current)),
            (current, Some(total)) => format!("{words} {} / {}", progress_size(current), progress_size(total)),
        });
    }

    fn output(&mut self, id: StepId, data: &[u8], at: u64) {
        let (multi, quiet) = (&self.multi, self.translator.quiet);
        let Some(live) = self.steps.get_mut(&id) else {
            return;
        };
        live.take_output(data);
        if !quiet && (at.saturating_sub(live.drawn) >= REDRAW || live.drawn == 0) {
            live.drawn = at;
            live.draw_tail(multi);
            live.draw_head(at);
        }
    }

    fn pull(&mut self, id: StepId, fact: &PullFact, at: u64) {
        let Some(live) = self.steps.get_mut(&id) else {
            return;
        };
        match fact {
            PullFact::Started { tag, repository } => live.pulling = Some(format!("{repository}:{tag}")),
            PullFact::Layer { digest, state } => drop(live.layers.insert(digest.clone(), *state)),
            PullFact::Finished { .. } => {
                live.pulling = None;
                live.layers.clear();
            }
            PullFact::OtherPlatform { wanted, actual, name } => {
                self.warnings.push((0, format!("{name} was asked for as {wanted}, but is for {actual}")));
                return;
            }
        }
        live.draw_head(at);
    }

    fn end(&mut self, outcome: &Outcome, at: u64, out: &mut dyn Sink) {
        self.finish_drawing();
        self.warnings.sort_by_key(|(line, _)| *line);
        for (_, text) in &self.warnings {
            self.say(&format!("warning: {text}"), out);
        }
        match outcome {
            Outcome::Success { image, .. } if self.translator.quiet => {
                out.write(OutputStream::Stdout, format!("{image}\n").as_bytes());
            }
            Outcome::Success { image, tags } => {
                let names = if tags.is_empty() { String::new() } else { format!(" as {}", tags.join(", ")) };
                self.say(&format!("built {}{names} in {:.1}s", short(image), seconds(at)), out);
            }
            Outcome::Failure { failure, step, .. } => {
                if let Some(live) = step.and_then(|id| self.steps.get(&id)).filter(|live| !live.output.is_empty()) {
                    self.say_always(&format!("------\n > {}:", live.name), out);
                    for line in String::from_utf8_lossy(&live.output).lines() {
                        self.say_always(&printable(line.as_bytes()), out);
                    }
                    self.say_always("------", out);
                }
                let text = match (failure, self.builder) {
                    (Failure::Own { message, hint }, _) => report(message, hint.as_deref()),
                    (failure, Builder::Legacy) => {
                        failure_text::legacy(failure, self.translator.version).unwrap_or_default()
                    }
                    (_, Builder::Buildkit) => self.translator.last_words(outcome),
                };
                self.say_always(text.trim_end_matches('\n'), out);
            }
            Outcome::Checked { .. } => self.check.end(&self.translator, outcome, self.translator.quiet, out),
            Outcome::Cancelled { .. } => self.say_always("cancelled", out),
        }
    }

    fn finish_drawing(&mut self) {
        self.ended = true;
        for live in self.steps.values_mut() {
            live.clear(&self.multi);
        }
        // Nothing is left to draw: if the terminal is gone there is nobody to tell.
        let _ = self.multi.clear();
    }
}

impl Renderer for Tty {
    fn event(&mut self, event: &Event, out: &mut dyn Sink) {
        let mut status = self.translator.apply(event);
        self.check.take(&self.translator, &mut status);
        let at = self.translator.now;
        match &event.fact {
            Fact::BuildStarted { dialect: Dialect { builder, .. }, .. } => self.builder = *builder,
            Fact::StepDeclared(step) => self.declare(step),
            Fact::StepStarted { step } => self.begin(*step, at),
            Fact::Progress { step, item, current, total, done } => self.progress(*step, item, *current, *total, *done),
            Fact::Output { step, data, .. } => self.output(*step, data, at),
            Fact::Pull { step, fact } => self.pull(*step, fact, at),
            Fact::StepDone { step, cached, .. } => self.end_step(*step, at, if *cached { "✔ cached" } else { "" }, out),
            Fact::StepFailed { step, failure } => {
                self.end_step(*step, at, if failure.is_some() { "✘" } else { "✘ cancelled" }, out);
            }
            Fact::Warning(Warning::Lint { .. }) if self.translator.call == Call::Check => {}
            Fact::Warning(warning) => {
                let warning = described(warning);
                // The same may be found twice in one line.
                if !self.warnings.contains(&warning) {
                    self.warnings.push(warning);
                }
            }
            Fact::Note { text, .. } => self.say(&format!("note: {text}"), out),
            Fact::BuildEnded { outcome } => self.end(outcome, at, out),
            Fact::Dockerfile { .. }
            | Fact::Context { .. }
            | Fact::ContextFetched { .. }
            | Fact::VertexDigest { .. }
            | Fact::Container { .. }
            | Fact::Triggers { .. } => {}
        }
    }

    fn tick(&mut self, at: u64, _out: &mut dyn Sink) {
        if self.ended {
            return;
        }
        self.translator.now = self.translator.now.max(at);
        for live in self.steps.values_mut().filter(|live| live.head.is_some()) {
            live.draw_tail(&self.multi);
            live.draw_head(at);
        }
    }

    fn pause(&mut self, _out: &mut dyn Sink) {
        // A terminal that is gone shows nothing anyway.
        let _ = self.multi.clear();
    }

    fn finish(&mut self, _out: &mut dyn Sink) {
        if !self.ended {
            self.finish_drawing();
        }
    }
}

impl Live {
    fn new(name: String) -> Self {
        Self {
            name,
            began: None,
            drawn: 0,
            head: None,
            rows: HashMap::new(),
            tail_bars: Vec::new(),
            tail: VecDeque::new(),
            partial: Vec::new(),
            output: Vec::new(),
            layers: BTreeMap::new(),
            pulling: None,
        }
    }

    /// Takes all that is live of it off the screen.
    fn clear(&mut self, multi: &MultiProgress) {
        for bar in
            self.head.take().into_iter().chain(self.rows.drain().map(|(_, bar)| bar)).chain(self.tail_bars.drain(..))
        {
            bar.finish_and_clear();
            multi.remove(&bar);
        }
        self.tail.clear();
    }

    fn last_bar(&self) -> Option<&ProgressBar> {
        self.tail_bars.last().or(self.head.as_ref())
    }

    fn draw_head(&self, at: u64) {
        let Some(head) = &self.head else { return };
        let took = at.saturating_sub(self.began.unwrap_or(at));
        let pulling = self.pulling.as_ref().map_or_else(String::new, |name| {
            let done = |state: &&LayerState| matches!(state, LayerState::Complete | LayerState::Exists);
            format!(": pulling {name}, layer {} of {}", self.layers.values().filter(done).count(), self.layers.len())
        });
        head.set_message(format!("{}{pulling} {:.1}s", self.name, seconds(took)));
        head.tick();
    }

    fn draw_tail(&mut self, multi: &MultiProgress) {
        while self.tail_bars.len() < self.tail.len() {
            let Some(after) = self.last_bar().cloned() else {
                return;
            };
            self.tail_bars
                .push(multi.insert_after(&after, ProgressBar::new_spinner().with_style(style("    {wide_msg:.dim}"))));
        }
        for (bar, text) in self.tail_bars.iter().zip(&self.tail) {
            if bar.message() != *text {
                bar.set_message(text.clone());
            }
        }
    }

    fn take_output(&mut self, data: &[u8]) {
        self.output.extend_from_slice(data.get(data.len().saturating_sub(KEPT)..).unwrap_or(data));
        self.output.drain(..self.output.len().saturating_sub(KEPT));
        // Lines that others would push out at once are not looked at.
        let lines = data.iter().filter(|byte| **byte == b'\n').count();
        let skipped = lines.saturating_sub(TAIL_LINES);
        if skipped > 0 {
            self.partial.clear();
        }
        for piece in data.split_inclusive(|byte| *byte == b'\n').skip(skipped) {
            self.partial.extend_from_slice(piece);
            self.partial.drain(..self.partial.len().saturating_sub(KEPT));
            if piece.ends_with(b"\n") {
                self.tail.push_back(printable(&self.partial));
                self.partial.clear();
                if self.tail.len() > TAIL_LINES {
                    self.tail.pop_front();
                }
            }
        }
    }
}

/// The line that a warning is about, and its words.
fn described(warning: &Warning) -> (u32, String) {
    match warning {
        Warning::Lint { rule, message, lines, .. } => {
            let line = lines.map_or(0, |lines| lines.start);
            let place = if line == 0 { String::new() } else { format!(" (line {line})") };
            (line, format!("{rule}: {message}{place}"))
        }
        Warning::UnusedBuildArgs { names } => (0, format!("build arguments not used: {}", names.join(" "))),
        Warning::EmptyContinuations { instructions } => (0, format!("empty line within {}", instructions.join("; "))),
        Warning::HealthcheckOverridden { test } => (0, format!("HEALTHCHECK takes the place of {}", test.join(" "))),
        Warning::Legacy { text, .. } => (0, text.clone()),
    }
}

/// A style; the templates are ours, and tested.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// What may be put on a terminal: the text after the last carriage return, without escape sequences and controls.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches(['\n', '\r']);
    let text = text.rsplit('\r').next().unwrap_or(text);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\t' => out.push_str("    "),
            // CSI sequences end with a letter or one of a few marks; of others one character is taken.
            '\x1b' => {
                if chars.next() == Some('[') {
                    let _ = chars.find(|c| ('@'..='~').contains(c));
                }
            }
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

fn short(digest: &str) -> String {
    digest.rsplit(':').next().unwrap_or(digest).chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;

    use super::*;
    use crate::event::{InstructionStep, Stream, Version};
    use crate::renderer::Captured;

    #[derive(Clone, Debug, Default)]
    struct Screen(Arc<Mutex<String>>);

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            80
        }
        fn move_cursor_up(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn write_line(&self, s: &str) -> std::io::Result<()> {
            self.write_str(&format!("{s}\n"))
        }
        fn write_str(&self, s: &str) -> std::io::Result<()> {
            self.0.lock().unwrap().push_str(s);
            Ok(())
        }
        fn clear_line(&self) -> std::io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn build() -> Vec<Event> {
        let step = StepId(0);
        let instruction = InstructionStep {
            instruction: "RUN".into(),
            number: 2,
            total: 2,
            text: "RUN x".into(),
            title: "RUN x".into(),
            stage: None,
            position: 2,
            positions: 2,
            lines: None,
        };
        let item = Item::Download { digest: "sha256:0123456789abcdef".into() };
        let failure = Failure::Run { argv: vec!["x".into()], code: 3 };
        let facts = vec![
            Fact::BuildStarted {
                format: 1,
                dialect: Dialect { builder: Builder::Buildkit, version: Version::V28 },
                unix_ns: 0,
                quiet: false,
                call: Call::Build,
            },
            Fact::StepDeclared(Step { id: step, kind: StepKind::Instruction(instruction), inputs: vec![] }),
            Fact::StepStarted { step },
            Fact::Progress { step, item, current: 1_000_000, total: Some(2_000_000), done: false },
            Fact::Output { step, stream: Stream::Stderr, offset: 0, data: b"old\rnew \x1b[31mred\x1b[0m\n".to_vec() },
            Fact::StepFailed { step, failure: Some(failure.clone()) },
            Fact::BuildEnded { outcome: Outcome::Failure { failure, step: Some(step), lines: None } },
        ];
        facts.into_iter().zip(1..).map(|(fact, n)| Event { at: n * 1_000_000_000, fact }).collect()
    }

    #[test]
    fn a_terminal_shows_what_runs() {
        let screen = Screen::default();
        let mut view = Tty::new(ProgressDrawTarget::term_like_with_hz(Box::new(screen.clone()), 255));
        let mut out = Captured::default();
        for event in build() {
            view.event(&event, &mut out);
            std::thread::sleep(std::time::Duration::from_millis(20));
            view.tick(event.at, &mut out);
        }
        let shown = screen.0.lock().unwrap().clone();
        for text in ["[2/2] RUN x", "0123456789ab 1.00MB / 2.00MB", "new red", "✘ [2/2] RUN x", "exit code: 3"] {
            assert!(shown.contains(text), "{text}: {shown}");
        }
        assert_eq!(out, Captured::default());
    }

    #[test]
    fn without_a_terminal_lines_that_stay_are_written() {
        let mut view = Tty::new(ProgressDrawTarget::hidden());
        let mut out = Captured::default();
        build().iter().for_each(|event| view.event(event, &mut out));
        view.finish(&mut out);
        let text = "✘ [2/2] RUN x\n------\n > [2/2] RUN x:\nnew red\n------\nERROR: failed to build: failed to solve: \
                    process \"x\" did not complete successfully: exit code: 3\n";
        assert_eq!(String::from_utf8(out.stderr).unwrap(), text);
        assert_eq!(out.stdout, b"");
    }
}
