//! The log of a build as it is written: on the standard streams, and beside them into files.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use rbuild_executor::logfmt::event::{Builder, Event, Fact, Failure, Outcome};
use rbuild_logfmt::{Format, OutputStream, RenderOptions, Renderer, Sink};

use crate::output::{self, Output};

/// A further rendering of the log: `--log-file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogFileSpec {
    /// `None`: that of the standard streams.
    pub(crate) format: Option<Format>,
    /// Where it goes.
    pub(crate) path: PathBuf,
}

/// How a log is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogSpec {
    /// On the standard streams; `None`: in that of the build's dialect.
    pub(crate) format: Option<Format>,
    /// Into files.
    pub(crate) files: Vec<LogFileSpec>,
    /// Hints are shown.
    pub(crate) hints: bool,
    /// Warnings of build checks are shown in full.
    pub(crate) expand_warnings: bool,
    /// What build checks found is shown as JSON, where nothing else was done.
    pub(crate) check_json: bool,
    /// Output of steps is shown whole.
    pub(crate) no_clip: bool,
    /// Whether nothing but the image id is shown on the standard streams; `None`: as the first event says.
    pub(crate) quiet: Option<bool>,
}

/// Why a file of the log could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the log file `{path}`")]
pub(crate) struct LogFileError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// A file that takes both streams, in the order in which they are written.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
    /// The first failed write; after it, nothing more is written.
    failed: Option<io::Error>,
}

impl Sink for LogFile {
    fn write(&mut self, _stream: OutputStream, bytes: &[u8]) {
        if self.failed.is_none() {
            self.failed = self.file.write_all(bytes).err();
        }
    }
}

struct ToFile {
    format: Option<Format>,
    /// Made when the first event tells the dialect.
    renderer: Option<Box<dyn Renderer>>,
    file: LogFile,
}

/// All renderings of one build.
pub(crate) struct Logs<'a> {
    spec: LogSpec,
    renderer: Option<Box<dyn Renderer>>,
    output: &'a mut Output,
    files: Vec<ToFile>,
    /// What is said beside the log, when it has ended.
    notes: Vec<String>,
    /// The log itself says those.
    shows_notes: bool,
}

impl<'a> Logs<'a> {
    /// Opens the files, which are emptied.
    pub(crate) fn open(spec: LogSpec, output: &'a mut Output) -> Result<Logs<'a>, LogFileError> {
        let open = |file: &LogFileSpec| {
            let opened = File::create(&file.path);
            let opened = opened.map_err(|source| LogFileError { action: "create", path: file.path.clone(), source })?;
            let file_log = LogFile { path: file.path.clone(), file: opened, failed: None };
            Ok(ToFile { format: file.format, renderer: None, file: file_log })
        };
        let files = spec.files.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Logs { spec, renderer: None, output, files, notes: Vec::new(), shows_notes: false })
    }

    /// Takes the next event.
    pub(crate) fn event(&mut self, event: &Event) {
        let shown = match &event.fact {
            Fact::BuildStarted { dialect, .. } => {
                self.begin(dialect.builder);
                self.spec.quiet.map(|quiet| with_quiet(event.clone(), quiet))
            }
            Fact::Note { text, shown: true } => {
                self.notes.push(text.clone());
                None
            }
            Fact::StepFailed { .. } | Fact::BuildEnded { .. } if !self.spec.hints => Some(without_hint(event.clone())),
            _ => None,
        };
        if let Some(renderer) = &mut self.renderer {
            renderer.event(shown.as_ref().unwrap_or(event), self.output);
        }
        for ToFile { format, renderer, file } in &mut self.files {
            // Quiet is the terminal: a file is asked for to have a log. Recorded is what happened.
            let shown = match &event.fact {
                _ if *format == Some(Format::Events) => None,
                Fact::BuildStarted { .. } => Some(with_quiet(event.clone(), false)),
                _ => shown.clone(),
            };
            if let Some(renderer) = renderer {
                renderer.event(shown.as_ref().unwrap_or(event), file);
            }
        }
    }

    /// Makes the renderers, now that the dialect is known.
    fn begin(&mut self, builder: Builder) {
        let of_dialect = match builder {
            Builder::Legacy => Format::Legacy,
            Builder::Buildkit => Format::Buildkit,
        };
        let format = self.spec.format.unwrap_or(of_dialect);
        let live = format == Format::Tty && Output::terminals().stderr;
        self.shows_notes = format == Format::Tty;
        self.renderer.get_or_insert_with(|| {
            let draw_target = live.then(output::draw_target);
            rbuild_logfmt::renderer(format, options(&self.spec, draw_target))
        });
        for file in &mut self.files {
            let format = *file.format.get_or_insert(match format {
                Format::Tty | Format::Quiet => of_dialect,
                format => format,
            });
            file.renderer.get_or_insert_with(|| rbuild_logfmt::renderer(format, options(&self.spec, None)));
        }
    }

    /// It is so many nanoseconds since the build began, and every earlier event was taken: displays catch up.
    pub(crate) fn tick(&mut self, at: u64) {
        if let Some(renderer) = &mut self.renderer {
            renderer.tick(at, self.output);
        }
        for ToFile { renderer, file, .. } in &mut self.files {
            if let Some(renderer) = renderer {
                renderer.tick(at, file);
            }
        }
    }

    /// Takes what moves off the terminal, and says something that is no part of the log.
    pub(crate) fn pause(&mut self, text: &str) {
        if let Some(renderer) = &mut self.renderer {
            renderer.pause(self.output);
        }
        self.output.err(text);
    }

    /// Whether the standard streams can no longer be written.
    pub(crate) fn has_failed(&self) -> bool {
        self.output.has_failed()
    }

    /// Writes what was held back, and says beside the log what is no part of it.
    ///
    /// # Errors
    /// The first write to a file that failed.
    pub(crate) fn finish(mut self) -> Result<(), LogFileError> {
        if let Some(renderer) = &mut self.renderer {
            renderer.finish(self.output);
        }
        for note in self.notes.iter().filter(|_| !self.shows_notes) {
            self.output.err(format!("rbuild: note: {note}\n"));
        }
        let mut failed = None;
        for ToFile { renderer, mut file, .. } in self.files {
            if let Some(mut renderer) = renderer {
                renderer.finish(&mut file);
            }
            if let Some(source) = file.failed {
                failed.get_or_insert(LogFileError { action: "write", path: file.path, source });
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

fn options(spec: &LogSpec, draw_target: Option<indicatif::ProgressDrawTarget>) -> RenderOptions {
    RenderOptions {
        expand_warnings: spec.expand_warnings,
        check_json: spec.check_json,
        no_clip: spec.no_clip,
        draw_target,
    }
}

fn with_quiet(mut event: Event, shown: bool) -> Event {
    if let Fact::BuildStarted { quiet, .. } = &mut event.fact {
        *quiet = shown;
    }
    event
}

fn without_hint(mut event: Event) -> Event {
    let failure = match &mut event.fact {
        Fact::StepFailed { failure, .. } => failure.as_mut(),
        Fact::BuildEnded { outcome: Outcome::Failure { failure, .. } } => Some(failure),
        Fact::BuildEnded { outcome: Outcome::Checked { failure, .. } } => failure.as_mut(),
        _ => None,
    };
    if let Some(Failure::Own { hint, .. }) = failure {
        *hint = None;
    }
    event
}

#[cfg(test)]
mod tests {
    use rbuild_executor::logfmt::event::{Call, Dialect, Version};

    use super::*;

    fn events() -> Vec<Event> {
        let dialect = Dialect { builder: Builder::Legacy, version: Version::V20 };
        let failure = Failure::Own { message: "no space".into(), hint: Some("make some".into()) };
        let facts = [
            Fact::BuildStarted { format: 1, dialect, unix_ns: 0, quiet: true, call: Call::Build },
            Fact::Context { tar_bytes: 3072 },
            Fact::BuildEnded { outcome: Outcome::Failure { failure, step: None, lines: None } },
        ];
        facts.into_iter().map(|fact| Event { at: 0, fact }).collect()
    }

    fn written(hints: bool, quiet: Option<bool>) -> [String; 3] {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let file = |name: &str, format| LogFileSpec { format, path: path(name) };
        let spec = LogSpec {
            // Nothing of this goes to the streams of the tests.
            format: Some(Format::Tty),
            files: vec![file("a", None), file("b", Some(Format::Events)), file("c", Some(Format::RawJson))],
            hints,
            expand_warnings: false,
            check_json: false,
            no_clip: false,
            quiet,
        };
        let mut output = Output::new();
        let mut logs = Logs::open(spec, &mut output).unwrap();
        logs.output.silence();
        events().iter().for_each(|event| logs.event(event));
        logs.finish().unwrap();
        ["a", "b", "c"].map(|name| std::fs::read_to_string(path(name)).unwrap())
    }

    #[test]
    fn files_have_what_the_terminal_leaves_out() {
        let [docker, recorded, rawjson] = written(true, None);
        // Both streams in one file; not quiet, though the terminal is.
        assert_eq!(
            docker,
            "Sending build context to Docker daemon  3.072kB\r\r\nrbuild: error: no space\nhint: make some\n"
        );
        assert!(recorded.contains("\"quiet\":true") && recorded.contains("make some"), "{recorded}");
        assert_eq!(rawjson, "rbuild: error: no space\nhint: make some\n");
    }

    #[test]
    fn hints_can_be_left_out() {
        let [docker, recorded, _] = written(false, Some(false));
        assert!(!docker.contains("hint"), "{docker}");
        // A recording loses nothing.
        assert!(recorded.contains("\"quiet\":true") && recorded.contains("make some"), "{recorded}");
    }

    #[test]
    fn a_file_that_cannot_be_created() {
        let file = LogFileSpec { format: None, path: "/nonexistent/log".into() };
        let spec = LogSpec {
            format: None,
            files: vec![file],
            hints: true,
            expand_warnings: false,
            check_json: false,
            no_clip: false,
            quiet: None,
        };
        let mut output = Output::new();
        let error = Logs::open(spec, &mut output).err().unwrap();
        assert_eq!(error.to_string(), "cannot create the log file `/nonexistent/log`");
    }
}
