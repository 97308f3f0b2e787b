//! What becomes of the steps of a build, for its record.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rbuild_image::config::ImageConfig;
use rbuild_image::digest::DiffId;
use rbuild_image::json::Field;
use rbuild_logfmt::event::{Event, Fact, Failure, Lines, Step, StepId, StepKind};
use serde::{Deserialize, Serialize};

use crate::interactive::ExpectedStep;
use crate::key::CacheKey;
use crate::plan::go;
use crate::stop::Stop;

/// A step of a build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its number in the build, counted from 1: what `rbuild shell`, `diff` and `cat` take.
    pub number: u32,
    /// The instruction's keyword.
    pub instruction: String,
    /// The instruction as the log shows it.
    pub text: String,
    /// Name of its stage, if the log shows one.
    pub stage: Option<String>,
    /// Its number in the stage, as BuildKit's log shows it; in the Dockerfile for the legacy builder.
    pub position: u32,
    /// Where it stands in the Dockerfile.
    pub lines: Option<Lines>,
    /// What became of it.
    pub status: StepStatus,
    /// How long it took.
    pub seconds: f64,
    /// What its result is filed under in the build cache.
    pub key: Option<String>,
    /// The image that the legacy builder made of it.
    #[serde(default)]
    pub image: Option<String>,
    /// What is there after it.
    pub state: Option<StepState>,
}

/// What became of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StepStatus {
    /// The build did not come to it.
    #[default]
    NotDone,
    /// It was done.
    Done,
    /// Its result was in the cache.
    Cached,
    /// It failed.
    Failed,
    /// It was ended, because another failed or somebody wished it.
    Cancelled,
}

/// What is there after a step: what a command would find there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepState {
    /// The diff IDs of the layers, lowest first; of a step that failed, those that it began with.
    pub layers: Vec<String>,
    /// The topmost layer is the step's own.
    pub has_layer: bool,
    /// The variables, `NAME=value`.
    pub env: Vec<String>,
    /// The working directory.
    pub working_dir: String,
    /// The value of USER, empty for root.
    pub user: String,
}

/// The surroundings of a command, as far as a Dockerfile tells them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    pub(crate) env: Vec<String>,
    /// Absolute.
    pub(crate) cwd: String,
    /// Value of USER.
    pub(crate) user: String,
}

impl Surroundings {
    /// Those that an image gives.
    pub(crate) fn of(config: &ImageConfig) -> Surroundings {
        let Some(run) = config.config.get() else {
            return Surroundings { cwd: "/".to_owned(), ..Surroundings::default() };
        };
        let text = |field: &Field<String>| field.get().cloned().unwrap_or_default();
        Surroundings {
            env: run.env.get().cloned().unwrap_or_default(),
            cwd: go::join_path("/", &text(&run.working_dir)),
            user: text(&run.user),
        }
    }
}

/// What has changed where the first step that is another has this keyword.
fn changed(instruction: &str) -> &'static str {
    match instruction {
        "COPY" | "ADD" => "the files that it copies, or what it is built on,",
        _ => "what it is built on, or the files that it mounts,",
    }
}

/// The steps of a build that runs.
#[derive(Debug, Default)]
pub(crate) struct Journal(Mutex<Vec<Entry>>);

#[derive(Debug)]
struct Entry {
    id: StepId,
    record: StepRecord,
    started: u64,
}

impl Journal {
    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, step: StepId, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.entries().iter_mut().find(|entry| entry.id == step) {
            change(entry);
        }
    }

    /// Takes the next event.
    pub(crate) fn event(&self, event: &Event) {
        let ended = |step: StepId, status: StepStatus| {
            self.with(step, |entry| {
                entry.record.status = status;
                #[allow(clippy::cast_precision_loss)]
                let seconds = event.at.saturating_sub(entry.started) as f64 / 1e9;
                entry.record.seconds = seconds;
            });
        };
        match &event.fact {
            Fact::StepDeclared(Step { id, kind: StepKind::Instruction(instruction), .. }) => {
                let mut entries = self.entries();
                let number = u32::try_from(entries.len() + 1).unwrap_or(u32::MAX);
                let text = if instruction.title.is_empty() { &instruction.text } else { &instruction.title };
                let record = StepRecord {
                    number,
                    instruction: instruction.instruction.clone(),
                    text: text.clone(),
                    stage: instruction.stage.clone(),
                    position: instruction.position,
                    lines: instruction.lines,
                    status: StepStatus::NotDone,
                    seconds: 0.0,
                    key: None,
                    image: None,
                    state: None,
                };
                entries.push(Entry { id: *id, record, started: event.at });
            }
            Fact::StepStarted { step } => self.with(*step, |entry| entry.started = event.at),
            Fact::StepDone { step, cached, image } => {
                self.with(*step, |entry| entry.record.image.clone_from(image));
                ended(*step, if *cached { StepStatus::Cached } else { StepStatus::Done });
            }
            Fact::StepFailed { step, failure } => {
                ended(*step, if failure.is_some() { StepStatus::Failed } else { StepStatus::Cancelled });
            }
            _ => {}
        }
    }

    /// What a step's result is filed under; an error where that is not what was expected.
    pub(crate) fn key(&self, step: StepId, key: &CacheKey, expected: &[ExpectedStep]) -> Result<(), Stop> {
        let mut other = None;
        self.with(step, |entry| {
            let record = &mut entry.record;
            let is_same =
                |expected: &&ExpectedStep| expected.stage == record.stage && expected.position == record.position;
            if expected.iter().find(is_same).is_some_and(|expected| expected.key != key.as_str()) {
                other = Some((record.text.clone(), record.lines, changed(&record.instruction)));
            }
            record.key = Some(key.as_str().to_owned());
        });
        let Some((text, lines, changed)) = other else { return Ok(()) };
        let place = lines.map(|lines| format!(" (line {})", lines.start)).unwrap_or_default();
        Err(Stop::failed(Failure::Own {
            message: format!("cannot resume: `{text}`{place} is not what it was: {changed} changed since"),
            hint: Some("resume with --force, or build anew".to_owned()),
        }))
    }

    /// What is there after a step.
    pub(crate) fn state(&self, step: StepId, layers: &[DiffId], has_layer: bool, surroundings: &Surroundings) {
        let state = StepState {
            layers: layers.iter().map(|layer| layer.digest().to_string()).collect(),
            has_layer,
            env: surroundings.env.clone(),
            working_dir: surroundings.cwd.clone(),
            user: surroundings.user.clone(),
        };
        self.with(step, |entry| entry.record.state = Some(state));
    }

    /// The steps as they are now.
    pub(crate) fn records(&self) -> Vec<StepRecord> {
        self.entries().iter().map(|entry| entry.record.clone()).collect()
    }
}
