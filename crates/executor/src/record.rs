//! What is remembered of builds: `builds/<id>` in the store, with the record and the events.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rbuild_image::digest::Digest;
use rbuild_logfmt::event::{Event, Fact, Failure, InstructionStep, Lines, StepId, StepKind};
use rbuild_logfmt::{Format, OutputStream, RenderOptions, Renderer, Sink};
use rbuild_sandbox::Isolation;
use serde::{Deserialize, Serialize};

use crate::emit::Emitter;
use crate::git::without_password;
use crate::interactive::Interaction;
use crate::journal::{Journal, StepRecord};
use crate::kept::Kept;
use crate::options::{BuildOptions, ContextSource, DockerfileSource};
use crate::session::Session;

/// The directory of the records in a store.
pub(crate) const BUILDS: &str = "builds";
pub(crate) const RECORD: &str = "record.json";
const EVENTS: &str = "events.jsonl";

/// Builds that are remembered; older ones are forgotten.
const MOST_BUILDS: usize = 200;
/// Events of a build that writes more are not kept.
const MOST_EVENTS: u64 = 64 << 20;
/// How much of the end of a command's output a report has.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: usize = 16 << 10;

/// How a build ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BuildStatus {
    /// It gave an image.
    Succeeded,
    /// It failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

/// What is remembered of a build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// Its name: twelve hexadecimal digits, the later the greater.
    pub id: String,
    /// When it began, in nanoseconds since 1970.
    pub started: u64,
    /// How long it took.
    pub seconds: f64,
    /// How it ended.
    pub status: BuildStatus,
    /// The image it gave, `sha256:…`.
    pub image: Option<String>,
    /// Where it failed, and what is left.
    pub failure: Option<FailureReport>,
    /// Digest of the Dockerfile, if it was read.
    pub dockerfile: Option<String>,
    /// The file of events is there.
    pub has_log: bool,
    /// Its steps, in the order in which they were told.
    #[serde(default)]
    pub steps: Vec<StepRecord>,
    /// What it was asked to do, without secrets.
    pub options: BuildOptions,
}

/// The evidence of a failed build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailureReport {
    /// Its record; see [`BuildRecord::id`].
    pub build: String,
    /// What Docker says of it, as a fact.
    pub failure: Failure,
    /// The stage's name, if it has one.
    pub stage: Option<String>,
    /// The instruction, as the log shows it.
    pub step: Option<String>,
    /// Where it stands in the Dockerfile.
    pub lines: Option<Lines>,
    /// The command of a RUN.
    pub command: Option<Vec<String>>,
    /// How the command ended, where no signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended the command.
    pub signal: Option<i32>,
    /// The last lines of its output.
    pub last_lines: Vec<String>,
    /// What the command had changed until then.
    pub changed_files: Vec<ChangedFile>,
    /// How many files more.
    pub further_files: u64,
    /// The image that holds its half-built layer.
    pub image: Option<String>,
    /// Why there is none, where one was wanted.
    pub not_kept: Option<String>,
    /// Names of that image.
    pub image_names: Vec<String>,
    /// Bytes of the half-built layer.
    pub layer_size: u64,
    /// How long the build took.
    pub seconds: f64,
    /// The isolation it ran under.
    pub isolation: String,
}

/// A file that a step changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedFile {
    /// From the root of the image.
    pub path: String,
    /// What became of it.
    pub change: FileChange,
    /// Bytes of a regular file.
    pub size: u64,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileChange {
    /// It was not there before.
    Added,
    /// It is another now, or has other attributes.
    Changed,
    /// It is gone.
    Deleted,
}

/// Watches a build.
pub(crate) struct Recorder {
    id: String,
    started: u64,
    begun: Instant,
    renderer: Box<dyn Renderer>,
    events: Events,
    steps: HashMap<StepId, StepKind>,
    tails: HashMap<StepId, Vec<u8>>,
    dockerfile: Option<String>,
    journal: Arc<Journal>,
}

/// The events as they are written: into memory until there is a place for them.
enum Events {
    Waiting(Vec<u8>),
    File {
        file: BufWriter<File>,
        directory: PathBuf,
        written: u64,
    },
    /// There are too many, or no place for them.
    None {
        directory: Option<PathBuf>,
    },
}

impl Sink for Events {
    fn write(&mut self, _stream: OutputStream, bytes: &[u8]) {
        match self {
            Events::Waiting(waiting) => waiting.extend_from_slice(bytes),
            Events::File { file, directory, written } => {
                *written += bytes.len() as u64;
                if *written > MOST_EVENTS || file.write_all(bytes).is_err() {
                    let _ = fs::remove_file(directory.join(EVENTS));
                    *self = Events::None { directory: Some(std::mem::take(directory)) };
                }
            }
            Events::None { .. } => {}
        }
    }
}

impl Recorder {
    pub(crate) fn new(journal: &Arc<Journal>) -> Recorder {
        let started = Emitter::unix_ns();
        let mut random = [0; 2];
        // Two builds of one second and process may then have one name: the second has no record.
        let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
        let id = format!("{:08x}{:04x}", started / 1_000_000_000, u16::from_ne_bytes(random));
        Recorder {
            id,
            started,
            begun: Instant::now(),
            renderer: rbuild_logfmt::renderer(Format::Events, RenderOptions::default()),
            events: Events::Waiting(Vec::new()),
            steps: HashMap::new(),
            tails: HashMap::new(),
            dockerfile: None,
            journal: Arc::clone(journal),
        }
    }

    /// Takes the next event.
    pub(crate) fn event(&mut self, event: &Event) {
        match &event.fact {
            Fact::StepDeclared(step) => drop(self.steps.insert(step.id, step.kind.clone())),
            Fact::Output { step, data, .. } => {
                let tail = self.tails.entry(*step).or_default();
                tail.extend_from_slice(data);
                if tail.len() > 2 * TAIL_BYTES {
                    tail.drain(..tail.len() - TAIL_BYTES);
                }
            }
            Fact::Dockerfile { text, .. } => self.dockerfile = Some(dockerfile_digest(text.as_bytes())),
            Fact::StepDone { step, .. } => drop(self.tails.remove(step)),
            _ => {}
        }
        self.journal.event(event);
        self.renderer.event(event, &mut self.events);
    }

    /// Gives it a place in a store.
    pub(crate) fn open(&mut self, store: &Path) {
        let directory = store.join(BUILDS).join(&self.id);
        let made = fs::create_dir_all(store.join(BUILDS))
            .and_then(|()| fs::create_dir(&directory))
            .and_then(|()| File::create(directory.join(EVENTS)));
        let next = match made {
            Ok(file) => Events::File { file: BufWriter::new(file), directory, written: 0 },
            Err(error) => {
                tracing::debug!(%error, "there will be no record");
                Events::None { directory: None }
            }
        };
        if let Events::Waiting(waiting) = std::mem::replace(&mut self.events, next) {
            self.events.write(OutputStream::Stdout, &waiting);
        }
    }

    /// What is told of a failure.
    pub(crate) fn report(
        &self,
        failure: Failure,
        step: Option<StepId>,
        lines: Option<Lines>,
        kept: Option<Result<Kept, String>>,
        isolation: Isolation,
    ) -> FailureReport {
        let instruction = step.and_then(|step| match self.steps.get(&step) {
            Some(StepKind::Instruction(instruction)) => Some(instruction),
            _ => None,
        });
        let (command, code) = match &failure {
            Failure::Run { argv, code } => (Some(argv.clone()), Some(*code)),
            Failure::Start { argv, .. } | Failure::Setup { argv, .. } => (Some(argv.clone()), None),
            _ => (None, None),
        };
        let signal = code.filter(|code| (129..=192).contains(code)).map(|code| code - 128);
        let (kept, not_kept) = match kept {
            Some(Ok(kept)) => (kept, None),
            Some(Err(why)) => (Kept::default(), Some(why)),
            None => (Kept::default(), None),
        };
        let Kept { image, names, changed, further, size } = kept;
        FailureReport {
            build: self.id.clone(),
            failure,
            stage: instruction.and_then(|instruction| instruction.stage.clone()),
            step: instruction.map(shown),
            lines,
            command,
            exit_code: code.filter(|_| signal.is_none()),
            signal,
            last_lines: step.and_then(|step| self.tails.get(&step)).map(|tail| last_lines(tail)).unwrap_or_default(),
            changed_files: changed,
            further_files: further,
            image: (!image.is_empty()).then_some(image),
            not_kept,
            image_names: names,
            layer_size: size,
            seconds: self.begun.elapsed().as_secs_f64(),
            isolation: isolation.to_string(),
        }
    }

    /// Writes the record; none is kept where that cannot be done.
    pub(crate) fn finish(
        self,
        session: &Session<'_>,
        status: BuildStatus,
        image: Option<String>,
        failure: Option<FailureReport>,
    ) {
        let (directory, has_log) = match self.events {
            Events::File { mut file, directory, .. } => {
                let flushed = file.flush().is_ok();
                (directory, flushed)
            }
            Events::None { directory: Some(directory) } => (directory, false),
            _ => return,
        };
        let record = BuildRecord {
            id: self.id,
            started: self.started,
            seconds: self.begun.elapsed().as_secs_f64(),
            status,
            image,
            failure,
            dockerfile: self.dockerfile,
            has_log,
            steps: self.journal.records(),
            options: BuildOptions { by_hand: session.hands().all(), ..without_secrets(session.options()) },
        };
        let written = write(&directory, &record);
        if let Err(error) = written.and_then(|()| forget_oldest(directory.parent().unwrap_or(&directory))) {
            tracing::debug!(%error, "the record is not whole");
        }
    }
}

/// The instruction in Docker's form.
fn shown(instruction: &InstructionStep) -> String {
    if instruction.title.is_empty() { instruction.text.clone() } else { instruction.title.clone() }
}

fn last_lines(tail: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(&tail[tail.len().saturating_sub(TAIL_BYTES)..]);
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(TAIL_LINES)).map(|line| (*line).to_owned()).collect()
}

/// What a build can be repeated with: values of secrets are not written down, nor are proxies, whose addresses may
/// hold passwords.
fn without_secrets(options: &BuildOptions) -> BuildOptions {
    let mut options = options.clone();
    options.secrets.clear();
    options.interaction = Interaction::default();
    options.expected.clear();
    // It may be repeated from elsewhere.
    let absolute = |path: &mut PathBuf| *path = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
    match &mut options.context {
        ContextSource::Dir(path) => {
            absolute(path);
            if let DockerfileSource::Path(path) = &mut options.dockerfile {
                absolute(path);
            }
        }
        ContextSource::Url(url) | ContextSource::Repository { url, .. } => *url = without_password(url),
        ContextSource::Stdin => {}
    }
    for (_, value) in &mut options.build_contexts {
        *value = without_password(value);
    }
    absolute(&mut options.store.root);
    options.registry.http_proxy = None;
    options.registry.https_proxy = None;
    options.build_args.retain(|(name, _)| !name.to_ascii_lowercase().ends_with("_proxy"));
    options
}

/// By which a Dockerfile is known again.
pub(crate) fn dockerfile_digest(bytes: &[u8]) -> String {
    Digest::of(String::from_utf8_lossy(bytes).as_bytes()).to_string()
}

pub(crate) fn write(directory: &Path, record: &BuildRecord) -> io::Result<()> {
    let bytes = serde_json::to_vec_pretty(record)?;
    let temporary = directory.join(format!(".{RECORD}"));
    fs::write(&temporary, bytes)?;
    fs::rename(temporary, directory.join(RECORD))
}

fn forget_oldest(builds: &Path) -> io::Result<()> {
    let mut names: Vec<_> =
        fs::read_dir(builds)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort();
    for name in names.iter().take(names.len().saturating_sub(MOST_BUILDS)) {
        fs::remove_dir_all(builds.join(name))?;
    }
    Ok(())
}

/// Removes all records, but not those of builds that run.
pub(crate) fn forget_all(store: &Path, some_run: bool) -> io::Result<()> {
    let entries = match fs::read_dir(store.join(BUILDS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        // A build writes its record when it ends; one that was killed never does.
        if !some_run || path.join(RECORD).exists() {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// Whether a text is the id of a build.
pub(crate) fn is_build_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The records of a store, oldest first. One that cannot be read is no record.
pub(crate) fn list(store: &Path) -> io::Result<Vec<BuildRecord>> {
    let entries = match fs::read_dir(store.join(BUILDS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut records = Vec::new();
    for entry in entries {
        let bytes = fs::read(entry?.path().join(RECORD));
        records.extend(bytes.ok().and_then(|bytes| serde_json::from_slice::<BuildRecord>(&bytes).ok()));
    }
    // Names tell seconds only.
    records.sort_by_key(|record| record.started);
    Ok(records)
}

/// The file of a build's events.
pub(crate) fn events_of(store: &Path, id: &str) -> PathBuf {
    store.join(BUILDS).join(id).join(EVENTS)
}
