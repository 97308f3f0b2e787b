//! The log of `DOCKER_BUILDKIT=0 docker build`, as its client shows it when not on a terminal.
//!
//! The stream of the builder goes to standard output; errors and notices of the client go to standard error. Source:
//! runs of Docker 20.10.24 and 28.5.2.
//!
//! Of a build that BuildKit's rules were followed in, it shows the instructions, in the order in which they began.

use std::collections::BTreeMap;

use crate::event::{
    Builder, Dialect, Fact, Item, LayerState, Outcome, PullFact, Step, StepId, StepKind, Stream, Version, Warning,
};
use crate::json_text::JsonText;
use crate::renderer::{OutputStream, Renderer, Sink};
use crate::report::report;
use crate::units::human_size;
use crate::usage::DEPRECATED;
use crate::{Event, failure_text};

/// What the log needs to know of a step after it was declared.
#[derive(Debug)]
struct Known {
    /// A trigger of a base image has no line of its own and shows no image.
    trigger: bool,
    /// A base image is never called cached.
    from: bool,
    title: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Legacy {
    version: Version,
    builder: Builder,
    quiet: bool,
    /// Instructions of a build with BuildKit's rules, which have no numbers: how many are known, and were shown.
    numbered: (u32, u32),
    /// With `-q`, what would have gone to standard output; shown on standard error if the build fails.
    held: Vec<u8>,
    steps: BTreeMap<StepId, Known>,
    /// Nothing is told of the context being sent.
    context_is_told: bool,
    /// The output of the command that runs: of each stream.
    output: [JsonText; 2],
}

impl Legacy {
    pub(crate) fn new() -> Self {
        Self {
            version: Version::V28,
            builder: Builder::Legacy,
            quiet: false,
            numbered: (0, 0),
            held: Vec::new(),
            steps: BTreeMap::new(),
            context_is_told: false,
            output: Default::default(),
        }
    }

    /// A piece of the builder's stream.
    fn log(&mut self, text: impl AsRef<[u8]>, out: &mut dyn Sink) {
        if self.quiet {
            self.held.extend_from_slice(text.as_ref());
        } else {
            out.write(OutputStream::Stdout, text.as_ref());
        }
    }

    /// What the builder wrote to its standard error, in one piece: red.
    fn log_red(&mut self, text: &[u8], out: &mut dyn Sink) {
        self.log([b"\x1b[91m", text, b"\x1b[0m"].concat(), out);
    }

    /// The command has ended.
    fn end_output(&mut self, out: &mut dyn Sink) {
        let [stdout, stderr] = &mut self.output;
        let (stdout, stderr) = (stdout.end(), stderr.end());
        if !stdout.is_empty() {
            self.log(stdout, out);
        }
        if !stderr.is_empty() {
            self.log_red(&stderr, out);
        }
    }

    fn declare(&mut self, step: &Step) {
        if self.builder == Builder::Buildkit {
            let text = match &step.kind {
                StepKind::Instruction(instruction) => instruction.title.clone(),
                StepKind::Image { reference } => format!("FROM {reference}"),
                _ => return,
            };
            self.numbered.0 = self.numbered.0.saturating_add(1);
            let from = text.starts_with("FROM ");
            self.steps.insert(step.id, Known { trigger: false, from, title: Some(text) });
            return;
        }
        let StepKind::Instruction(instruction) = &step.kind else {
            return;
        };
        let title = format!("Step {}/{} : {}\n", instruction.number, instruction.total, instruction.text);
        let trigger = instruction.number == 0;
        let known = Known { trigger, from: instruction.instruction == "FROM", title: (!trigger).then_some(title) };
        self.steps.insert(step.id, known);
    }

    /// The line of a step is due when it begins; a cached step may end without having begun.
    fn show_title(&mut self, step: StepId, out: &mut dyn Sink) {
        if let Some(title) = self.steps.get_mut(&step).and_then(|known| known.title.take()) {
            if self.builder == Builder::Buildkit {
                self.numbered.1 = self.numbered.1.saturating_add(1);
                let (total, number) = self.numbered;
                return self.log(format!("Step {number}/{total} : {title}\n"), out);
            }
            self.log(title, out);
        }
    }

    fn pull(&mut self, fact: &PullFact, out: &mut dyn Sink) {
        let text = match fact {
            PullFact::Started { tag, repository } => format!("{tag}: Pulling from {repository}\n"),
            PullFact::Layer { digest, state } => {
                let state = match state {
                    LayerState::Exists => "Already exists",
                    LayerState::Pulling => "Pulling fs layer",
                    LayerState::Waiting => "Waiting",
                    LayerState::Downloading => "Downloading",
                    LayerState::Verifying => "Verifying Checksum",
                    LayerState::Downloaded => "Download complete",
                    LayerState::Complete => "Pull complete",
                };
                format!("{}: {state}\n", short(digest))
            }
            PullFact::Finished { digest, name, newer } => {
                let status = if *newer { "Downloaded newer image for" } else { "Image is up to date for" };
                format!("Digest: {digest}\nStatus: {status} {name}\n")
            }
            PullFact::OtherPlatform { wanted, actual, name } => format!(
                "\nWARNING: Pulled image with specified platform ({wanted}), but the resulting image's configured platform \
                 ({actual}) does not match.\nThis is most likely caused by a bug in the build system that created the \
                 fetched image ({name}).\nPlease notify the image author to correct the configuration.\n"
            ),
        };
        self.log(text, out);
    }

    fn done(&mut self, step: StepId, cached: bool, image: Option<&str>, out: &mut dyn Sink) {
        self.show_title(step, out);
        let Some(&Known { trigger, from, .. }) = self.steps.get(&step) else {
            return;
        };
        if cached && !from {
            self.log(" ---> Using cache\n", out);
        }
        if let (Some(image), false) = (image, trigger) {
            self.log(format!(" ---> {}\n", short(image)), out);
        }
    }

    fn warn(&mut self, warning: &Warning, out: &mut dyn Sink) {
        match warning {
            Warning::EmptyContinuations { instructions } => {
                // 20.10 writes them in one piece, 28 line by line.
                let mut lines: Vec<String> = Vec::new();
                let gap = if self.version == Version::V20 { "\n    " } else { " " };
                for text in instructions {
                    lines.push(format!("[WARNING]: Empty continuation line found in:{gap}{text}\n"));
                }
                if !lines.is_empty() {
                    let last = "[WARNING]: Empty continuation lines will become errors in a future release.\n";
                    lines.push(last.to_owned());
                }
                if self.version == Version::V20 && !lines.is_empty() {
                    lines = vec![lines.concat()];
                }
                for line in lines {
                    self.log_red(line.as_bytes(), out);
                }
            }
            Warning::UnusedBuildArgs { names } => {
                let names = names.join(" ");
                self.log(format!("[Warning] One or more build-args [{names}] were not consumed\n"), out);
            }
            Warning::HealthcheckOverridden { test } => {
                self.log(format!("Note: overriding previous HEALTHCHECK: [{}]\n", test.join(" ")), out);
            }
            Warning::Legacy { text, step: None } => self.log(format!("[Warning] {text}\n"), out),
            Warning::Legacy { text, step: Some(_) } => self.log(format!(" ---> [Warning] {text}\n"), out),
            Warning::Lint { .. } => {}
        }
    }

    fn end(&mut self, outcome: &Outcome, out: &mut dyn Sink) {
        match outcome {
            Outcome::Success { image, .. } if self.quiet => {
                out.write(OutputStream::Stdout, format!("{image}\n").as_bytes());
            }
            Outcome::Success { image, tags } => {
                let mut text = format!("Successfully built {}\n", short(image));
                for tag in tags {
                    text.push_str(&format!("Successfully tagged {tag}\n"));
                }
                out.write(OutputStream::Stdout, text.as_bytes());
            }
            Outcome::Failure { failure, .. } => {
                out.write(OutputStream::Stderr, &std::mem::take(&mut self.held));
                let text = match (failure_text::legacy(failure, self.version), failure) {
                    (Some(text), _) => format!("{text}\n"),
                    (None, crate::event::Failure::Own { message, hint }) => report(message, hint.as_deref()),
                    (None, _) => return,
                };
                out.write(OutputStream::Stderr, text.as_bytes());
            }
            // The legacy builder has no build checks.
            Outcome::Checked { .. } | Outcome::Cancelled { .. } => {}
        }
        self.held.clear();
    }
}

/// So much has come, at most, when the client first shows a download.
const FIRST_ROW: u64 = 4096;

/// A row of a download by the client.
fn fetched_row(url: &str, current: u64, total: Option<u64>) -> String {
    let progress = match total {
        Some(total) => {
            let half = usize::try_from((current.saturating_mul(100) / total.max(1)).min(100) / 2).unwrap_or(0);
            let (done, left) = ("=".repeat(half), " ".repeat(50 - half));
            format!("[{done}>{left}] {:>8}/{}", human_size(current), human_size(total))
        }
        None => format!("{:>8}", human_size(current)),
    };
    format!("Downloading build context from remote url: {url} {progress}\r")
}

/// The twelve digits that stand for an id.
fn short(id: &str) -> &str {
    let digits = id.split_once(':').map_or(id, |(_, digits)| digits);
    digits.char_indices().nth(12).and_then(|(end, _)| digits.get(..end)).unwrap_or(digits)
}

impl Renderer for Legacy {
    fn event(&mut self, event: &Event, out: &mut dyn Sink) {
        match &event.fact {
            Fact::BuildStarted { dialect: Dialect { builder, version }, quiet, .. } => {
                (self.builder, self.version, self.quiet) = (*builder, *version, *quiet);
                if *version == Version::V28 {
                    out.write(OutputStream::Stderr, DEPRECATED.as_bytes());
                }
            }
            Fact::ContextFetched { url, bytes, total, plain } => {
                let rows = [FIRST_ROW.min(*bytes), *bytes].map(|current| fetched_row(url, current, *total)).concat();
                self.log(rows, out);
                self.context_is_told = *plain;
                if !plain {
                    self.log("\r\n", out);
                }
            }
            Fact::Context { .. } if self.context_is_told => {}
            Fact::Context { tar_bytes } => {
                // The client ends its progress line with a carriage return for each of two updates.
                self.log(format!("Sending build context to Docker daemon {:>8}\r\r\n", human_size(*tar_bytes)), out);
            }
            Fact::StepDeclared(step) => self.declare(step),
            Fact::StepStarted { step } => self.show_title(*step, out),
            Fact::Output { stream: Stream::Stdout, data, .. } => {
                let text = self.output[0].shown(data);
                self.log(text, out);
            }
            Fact::Output { stream: Stream::Stderr, data, .. } => {
                let text = self.output[1].shown(data);
                self.log_red(&text, out);
            }
            Fact::Container { id, removed: false, .. } => self.log(format!(" ---> Running in {}\n", short(id)), out),
            Fact::Container { id, removed: true, .. } => {
                self.end_output(out);
                let words = match self.version {
                    Version::V20 => "Removing intermediate container",
                    Version::V28 => " ---> Removed intermediate container",
                };
                self.log(format!("{words} {}\n", short(id)), out);
            }
            Fact::Triggers { count, .. } => {
                let plural = if *count == 1 { "" } else { "s" };
                self.log(format!("# Executing {count} build trigger{plural}\n"), out);
            }
            Fact::Pull { fact, .. } => self.pull(fact, out),
            Fact::StepDone { step, cached, image } => {
                self.end_output(out);
                self.done(*step, *cached, image.as_deref(), out);
            }
            Fact::StepFailed { step, .. } => {
                self.end_output(out);
                self.show_title(*step, out);
            }
            Fact::Warning(warning) => self.warn(warning, out),
            Fact::BuildEnded { outcome } => self.end(outcome, out),
            // What is left of the client's progress bar without a terminal: one update more where no size is known.
            Fact::Progress { item: Item::Fetch { .. }, total, done: true, .. } => {
                self.log(if total.is_some() { "\n" } else { "\n\n" }, out);
            }
            Fact::Dockerfile { .. } | Fact::VertexDigest { .. } | Fact::Progress { .. } | Fact::Note { .. } => {}
        }
    }

    fn finish(&mut self, _out: &mut dyn Sink) {}
}
