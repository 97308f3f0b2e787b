//! The legacy dialect: every stage in order, an image after every instruction.

mod pulled;

use rbuild_image::config::ImageConfig;
use rbuild_image::digest::{DiffId, ImageId};
use rbuild_image::json::to_go_bytes;
use rbuild_image::platform::Platform;
use rbuild_image::reference::Reference;
use rbuild_image::registry::Found;
use rbuild_logfmt::event::{
    Fact, Failure, InstructionStep, LayerState, Lines, Part, PullFact, PullFailure, Speaker, StepId, StepKind,
    Version as DialectVersion, Warning,
};
use rbuild_parser::mount::{Mount, MountType};
use rbuild_parser::words::Lexer;
use rbuild_parser::{Instruction, InstructionKind, KeyValue, LineRange, ParseOptions, Span};
use rbuild_sandbox::root::{NewDirs, Root};

use self::pulled::Pulled;
use super::copy::{self, CopySourceTree};
use super::mounts::{From, Prepared};
use super::{Built, created, instruction_failed, legacy_history, write_config};
use crate::base::BaseImage;
use crate::context::Context;
use crate::emit;
use crate::exec::{self, Command, RunStep};
use crate::interactive::{Hand, Place};
use crate::journal::Surroundings;
use crate::key::{CacheKey, KeyBuilder};
use crate::options::ContainerRemoval;
use crate::plan::buildkit::{Lookup, MountFrom, check_security, docker_version, resolve_mount, target_platform};
use crate::plan::legacy::{Action, BuildArgs, Comment, CopyAction, Rules, Stage};
use crate::session::Session;
use crate::snapshot::{Change, NewLayer, View};
use crate::stop::Stop;

/// An image of this build, or a base of it. `id` is `None` for `scratch`.
#[derive(Clone, Debug)]
struct State {
    id: Option<ImageId>,
    layers: Vec<DiffId>,
    config: ImageConfig,
}

struct Builder<'s> {
    session: &'s Session<'s>,
    context: &'s Context,
    platform: Platform,
    version: rbuild_parser::Version,
    lexer: Lexer,
    number: u32,
    total: u32,
    /// Results of the stages that are done.
    stages: Vec<(Option<String>, State)>,
}

/// One instruction or trigger on its way.
struct Current<'a> {
    step: StepId,
    lines: Option<Lines>,
    stage: &'a mut Stage,
    state: &'a mut State,
    /// The cache missed once in this stage: it is not asked again.
    missed: &'a mut bool,
}

/// The platform that a build is for; one that is none the daemon refuses when it has the context.
fn platform_of(session: &Session<'_>) -> Result<Platform, Stop> {
    let options = session.options();
    match &options.platform {
        Some(text) => Platform::parse(text, docker_version(super::buildkit::parser_version(session)))
            .map_err(|error| Stop::failed(Failure::Request { message: error.to_string(), by: Speaker::Daemon })),
        None => Ok(target_platform(options)?),
    }
}

/// Builds with the legacy builder's rules.
pub(crate) fn build(session: &Session<'_>, context: &Context) -> Result<Built, Stop> {
    let emitter = session.emitter();
    let tar_bytes = context.legacy_tar_size().map_err(|error| session.context_failed(&error))?;
    emitter.emit(Fact::Context { tar_bytes });
    let (name, text) = context.dockerfile();
    let text_shown = String::from_utf8_lossy(text).into_owned();
    emitter.emit(Fact::Dockerfile { name: name.to_owned(), text: text_shown, path: None });
    let version = super::buildkit::parser_version(session);
    let refused = |error: &rbuild_parser::ParseError| Stop::from(crate::plan::buildkit::parse_failure(error));
    let mut options = ParseOptions::for_version(version);
    if session.options().lenient {
        options.heredocs = true;
        options.labs = true;
    }
    // What is no Dockerfile at all is told of by the file's name, and a wrong instruction by its line.
    let dockerfile = rbuild_parser::parse_with(text, options)
        .map_err(|error| Stop::failed(Failure::Parse { message: error.to_string(), file: Some(name.to_owned()) }))?;
    let instructions = dockerfile.instructions().map_err(|error| refused(&error))?;
    let mut stages = instructions.stages;
    if let Some(target) = &session.options().target {
        let index =
            stages.iter().position(|stage| stage.name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(target)));
        let Some(index) = index else {
            let message = match version {
                rbuild_parser::Version::V20 => format!("failed to reach build target {target} in Dockerfile"),
                _ => format!("target stage {} could not be found", crate::plan::go::quote(target)),
            };
            return Err(Stop::failed(Failure::Request { message, by: Speaker::Daemon }));
        };
        stages.truncate(index + 1);
    }
    if let Some(last) = stages.last_mut() {
        let mut labels = session.options().labels.clone();
        labels.sort();
        labels.dedup_by(|later, first| {
            let same = later.0 == first.0;
            if same {
                first.1.clone_from(&later.1);
            }
            same
        });
        last.instructions.extend(labels.into_iter().map(|(name, value)| label_option(&name, &value)));
    }
    let empty: Vec<String> = dockerfile
        .warnings
        .iter()
        .map(|warning| match warning {
            rbuild_parser::Warning::EmptyContinuation { instruction, .. } => instruction.clone(),
            other => format!("{other:?}"),
        })
        .collect();
    if !empty.is_empty() {
        emitter.emit(Fact::Warning(Warning::EmptyContinuations { instructions: empty }));
    }
    let total = instructions.meta_args.len() + stages.iter().map(|stage| 1 + stage.instructions.len()).sum::<usize>();
    let lexer = Lexer::new(dockerfile.escape).version(version);
    let mut builder = Builder {
        session,
        context,
        platform: platform_of(session)?,
        version,
        lexer,
        number: 0,
        total: u32::try_from(total).unwrap_or(u32::MAX),
        stages: Vec::new(),
    };
    let mut args = BuildArgs::new(&session.options().build_args);
    for meta in &instructions.meta_args {
        let InstructionKind::Arg(variables) = &meta.kind else { continue };
        let lines = Some(emit::lines(meta.lines));
        let step = builder.begin("ARG", &meta.original, lines);
        args.add_meta(variables, lexer).map_err(|message| instruction_failed(message).at(step, lines))?;
        emitter.emit(Fact::StepDone { step, cached: false, image: None });
    }
    session.shells().find_breakpoints(session, &places(&stages))?;
    for stage in &stages {
        builder.stage(stage, &mut args)?;
    }
    let unused = args.unused();
    if !unused.is_empty() {
        emitter.emit(Fact::Warning(Warning::UnusedBuildArgs { names: unused }));
    }
    match builder.stages.pop() {
        Some((_, State { id: Some(id), layers, config })) => Ok(Built { id, config, layers }),
        // The daemon breaks off its answer where nothing but ARG was there.
        _ if stages.is_empty() => Err(instruction_failed("unexpected EOF")),
        _ => Err(instruction_failed("No image was generated. Is your Dockerfile empty?")),
    }
}

/// Where the instructions stand.
fn places(stages: &[rbuild_parser::Stage]) -> Vec<Place> {
    let places = stages.iter().enumerate().flat_map(|(index, stage)| {
        stage.instructions.iter().enumerate().map(move |(at, instruction)| Place {
            stage: index,
            name: stage.name.clone(),
            step: u32::try_from(at + 2).unwrap_or(u32::MAX),
            lines: emit::lines(instruction.lines),
        })
    });
    places.collect()
}

/// `--label` as the instruction that Docker makes of it.
fn label_option(name: &str, value: &str) -> Instruction {
    let quote = |text: &str| crate::plan::go::quote(text);
    // What the log shows is `LABEL` with quoted words; what is expanded must give them back.
    let single = |text: &str| format!("'{}'", text.replace('\'', "'\"'\"'"));
    Instruction {
        keyword: "LABEL".to_owned(),
        original: format!("LABEL {}={}", quote(name).trim_matches('"'), single(value).trim_matches('\'')),
        lines: LineRange::default(),
        span: Span::default(),
        kind: InstructionKind::Label(vec![KeyValue { key: single(name), value: single(value), legacy_form: false }]),
    }
}

impl Builder<'_> {
    fn begin(&mut self, instruction: &str, text: &str, lines: Option<Lines>) -> StepId {
        self.number += 1;
        self.declare(self.number, instruction, text, lines)
    }

    fn declare(&self, number: u32, instruction: &str, text: &str, lines: Option<Lines>) -> StepId {
        let kind = StepKind::Instruction(InstructionStep {
            instruction: instruction.to_owned(),
            number,
            total: self.total,
            text: text.to_owned(),
            title: text.to_owned(),
            stage: None,
            position: number,
            positions: self.total,
            lines,
        });
        self.session.emitter().begin(kind, &[])
    }

    fn stage(&mut self, source: &rbuild_parser::Stage, args: &mut BuildArgs) -> Result<(), Stop> {
        let lines = Some(emit::lines(source.lines));
        if let Some(name) = &source.name
            && self.stages.iter().any(|(other, _)| other.as_ref() == Some(name))
        {
            return Err(instruction_failed(format!("{name} stage name already used")));
        }
        let step = self.begin("FROM", &source.original, lines);
        let mut state = self.from(source, args, step).map_err(|stop| stop.at(step, lines))?;
        let base = state.id.is_some().then_some(&state.config);
        let rules = Rules { lexer: self.lexer, version: self.version, lenient: self.session.options().lenient };
        let mut stage = Stage::new(base, &self.platform, args.for_stage(), rules);
        let mut missed = false;
        let triggers = stage.image.triggers();
        if !triggers.is_empty() {
            stage.image.clear_triggers();
            let count = u32::try_from(triggers.len()).unwrap_or(u32::MAX);
            self.session.emitter().emit(Fact::Triggers { step, count });
            for trigger in &triggers {
                let instruction = rbuild_parser::parse_trigger(trigger, ParseOptions::for_version(self.version))
                    .map_err(|error| instruction_failed(error.to_string()).at(step, lines))?;
                let inner = self.declare(0, instruction.kind.name(), &instruction.original, lines);
                let current = Current { step: inner, lines, stage: &mut stage, state: &mut state, missed: &mut missed };
                self.instruction(&instruction, current)?;
            }
        }
        let image = state.id.as_ref().map(|id| id.digest().to_string()).unwrap_or_default();
        self.session.emitter().emit(Fact::StepDone { step, cached: false, image: Some(image) });
        self.session.journal().state(step, &state.layers, false, &stage.image.surroundings());
        for instruction in &source.instructions {
            self.session.check()?;
            let lines = Some(emit::lines(instruction.lines));
            let step = self.begin(instruction.kind.name(), &instruction.original, lines);
            let current = Current { step, lines, stage: &mut stage, state: &mut state, missed: &mut missed };
            self.instruction(instruction, current)?;
        }
        args.merge_referenced(&stage.args);
        self.stages.push((source.name.clone(), state));
        Ok(())
    }

    fn from(&mut self, source: &rbuild_parser::Stage, args: &BuildArgs, step: StepId) -> Result<State, Stop> {
        let variables = args.meta_variables();
        let word = |text: &str| self.lexer.process_word(text, &Lookup(&variables)).map_err(|e| e.to_string());
        let mut platform = self.platform.clone();
        if let Some(written) = &source.platform {
            let text = word(written)
                .map_err(|error| instruction_failed(format!("failed to process arguments for platform : {error}")))?;
            platform = Platform::parse(&text, docker_version(self.version))
                .map_err(|error| instruction_failed(format!("failed to parse platform {text}: {error}")))?;
        }
        let name = word(&source.base).map_err(instruction_failed)?;
        if name.is_empty() {
            return Err(instruction_failed(format!("base name ({}) should not be blank", source.base)));
        }
        if let Some(state) = self.stage_named(&name) {
            return Ok(state);
        }
        if name == "scratch" {
            // Its configuration has the platform that was asked for.
            if !platform.os.eq_ignore_ascii_case("linux") {
                return Err(instruction_failed("operating system is not supported"));
            }
            return Ok(State { id: None, layers: Vec::new(), config: ImageConfig::default() });
        }
        self.image(&name, &platform, step)
    }

    fn stage_named(&self, name: &str) -> Option<State> {
        let found =
            self.stages.iter().find(|(stage, _)| stage.as_deref().is_some_and(|s| s.eq_ignore_ascii_case(name)));
        found.map(|(_, state)| state.clone())
    }

    /// An image from the store, or else from its registry. What is in the store is taken whatever platform was asked for,
    /// as Docker does.
    fn image(&self, name: &str, platform: &Platform, step: StepId) -> Result<State, Stop> {
        let session = self.session;
        if !session.options().pull
            && let Some(image) = session.local_image(name)?
        {
            session.fetch(&image, &crate::session::Unwatched)?;
            return Ok(state_of(&image));
        }
        let reference = Reference::parse_normalized(name, docker_version(self.version))
            .map_err(|error| Stop::failed(Failure::Request { message: error.to_string(), by: Speaker::Builder }))?
            .or_latest();
        let before = session.store().resolve_reference(&reference)?;
        let emit = |fact: PullFact| session.emitter().emit(Fact::Pull { step, fact });
        let started = || {
            // Of a digest Docker shows the whole name.
            let tag = match reference.digest() {
                Some(_) => reference.to_string(),
                None => reference.tag().unwrap_or_default().to_owned(),
            };
            emit(PullFact::Started { tag, repository: reference.path().to_owned() });
        };
        let mut is_found = false;
        let mut layers = Vec::new();
        let found = session.remote_image_noting(&reference, platform, &mut |found| match found {
            Found::Name => {
                is_found = true;
                started();
            }
            Found::Image(image) => layers = image.layers.iter().map(|layer| layer.digest.to_string()).collect(),
        });
        let image = found.inspect_err(|stop| {
            let Stop::Failed(failed) = stop else { return };
            let Failure::Pull { cause, .. } = &failed.failure else { return };
            if matches!(**cause, PullFailure::Corrupt { .. }) && !is_found {
                // Docker looks at the digest after it has looked at the content.
                started();
            } else if cause.part() == Some(Part::Config) {
                // Docker begins with the layers before it has the configuration.
                for digest in &layers {
                    emit(PullFact::Layer { digest: digest.clone(), state: LayerState::Pulling });
                }
            }
        })?;
        let newer = before.as_ref() != Some(&image.id);
        // Of an image that is here under another name no layer is told.
        if newer && !session.is_listed(&image)? {
            session.fetch(&image, &Pulled { session, step })?;
        } else {
            session.fetch(&image, &crate::session::Unwatched)?;
        }
        session.name_base(&image)?;
        let digest = image.top_digest().map(ToString::to_string).unwrap_or_default();
        emit(PullFact::Finished { digest, name: reference.familiar(), newer });
        let actual = image.config.platform();
        let asked = session.options().platform.is_some() || *platform != self.platform;
        if asked && !platform.compatible().iter().any(|wanted| wanted.is_same(&actual)) {
            emit(PullFact::OtherPlatform {
                wanted: platform.to_string(),
                actual: actual.to_string(),
                name: reference.familiar(),
            });
        }
        Ok(state_of(&image))
    }

    fn instruction(&mut self, instruction: &Instruction, current: Current<'_>) -> Result<(), Stop> {
        let (step, lines) = (current.step, current.lines);
        self.dispatch(instruction, current).map_err(|stop| match stop {
            Stop::Cancelled => {
                self.session.emitter().emit(Fact::StepFailed { step, failure: None });
                Stop::Cancelled
            }
            stop => {
                let stop = stop.at(step, lines);
                if let Stop::Failed(failed) = &stop {
                    self.session.emitter().emit(Fact::StepFailed { step, failure: Some(failed.failure.clone()) });
                }
                stop
            }
        })
    }

    fn dispatch(&mut self, instruction: &Instruction, current: Current<'_>) -> Result<(), Stop> {
        if !self.session.options().lenient {
            // It reads mounts before it refuses them.
            if let InstructionKind::Run(run) = &instruction.kind {
                for written in &run.mounts {
                    Mount::parse_with(written, self.version, |word| current.stage.expand(word))
                        .map_err(|error| instruction_failed(error.message(self.version)))?;
                }
            }
            rbuild_parser::legacy::legacy_check(instruction, self.version)
                .map_err(|error| instruction_failed(error.to_string()))?;
        }
        let is_run = matches!(instruction.kind, InstructionKind::Run(_));
        if !is_run && self.session.shells().breakpoints.take(current.lines) {
            self.stop_before(&current, &current.stage.image.surroundings())?;
        }
        let health = current.stage.image.run().healthcheck.get().and_then(|health| health.test.get().cloned());
        let action = current.stage.dispatch(instruction).map_err(instruction_failed)?;
        if matches!(instruction.kind, InstructionKind::Healthcheck(_))
            && let Some(test) = health
            && test.first().is_some_and(|kind| kind != "NONE")
        {
            self.session.emitter().emit(Fact::Warning(Warning::HealthcheckOverridden { test }));
        }
        match action {
            Action::Commit(Comment(words)) => self.without_files(current, &words),
            Action::Workdir { path, comment } => self.workdir(current, &path, &comment.0),
            Action::Run { argv, recorded, env, script } => {
                self.run(current, &argv, &recorded, env, script.as_ref(), instruction)
            }
            Action::Copy(copy) if self.session.options().lenient && copy.needs_buildkit() => {
                self.copy_as_buildkit(current, &copy)
            }
            Action::Copy(copy) => self.copy(current, &copy),
        }
    }

    /// Takes a result from the cache, if there is one.
    fn probe(&self, current: &mut Current<'_>, command: &[String]) -> Result<(CacheKey, bool), Stop> {
        let session = self.session;
        let probe = current.stage.probe(command);
        let config = to_go_bytes(&probe).map_err(|error| Stop::own(&error))?;
        let parent = current.state.id.as_ref().map(|id| id.digest().to_string()).unwrap_or_default();
        let key = KeyBuilder::new("legacy").field("parent", parent).field("config", config).finish();
        session.journal().key(current.step, &key, &session.options().expected)?;
        if let Some(Hand { layer, complete: true }) = session.hands().find(session, &key)? {
            let layer = NewLayer { diff_id: layer, empty: false };
            let state = self.commit(current, None, command, Some(layer))?;
            self.finish(current, state, true);
            return Ok((key, true));
        }
        if session.options().no_cache || *current.missed {
            return Ok((key, false));
        }
        // 20.10 does not look at health checks.
        let inherits_health = current.stage.inherits_health && self.version == rbuild_parser::Version::V28;
        if inherits_health || loses_entrypoint(&current.stage.image.config, &current.state.config) {
            *current.missed = true;
            return Ok((key, false));
        }
        // 28 takes no image of another platform than the build's, though it is its own that it built on such a base.
        let fits = |image: &BaseImage| {
            let actual = image.config.platform();
            self.version == rbuild_parser::Version::V20
                || self.platform.compatible().iter().any(|wanted| wanted.is_same(&actual))
        };
        if let Some(image) = session.cached_image(&key)?.filter(fits) {
            self.finish(current, state_of(&image), true);
            return Ok((key, true));
        }
        *current.missed = true;
        Ok((key, false))
    }

    fn finish(&self, current: &mut Current<'_>, state: State, cached: bool) {
        let has_layer = state.layers.len() > current.state.layers.len();
        *current.state = state;
        let surroundings = current.stage.image.surroundings();
        self.session.journal().state(current.step, &current.state.layers, has_layer, &surroundings);
        let id = current.state.id.as_ref().map(|id| id.digest().to_string());
        current.stage.image.run_mut().image.set(id.clone().unwrap_or_default());
        self.session.emitter().emit(Fact::StepDone { step: current.step, cached, image: id });
    }

    /// Makes an image of the stage as it is now, with one more layer or none, and files it under a key.
    fn commit(
        &self,
        current: &mut Current<'_>,
        key: Option<&CacheKey>,
        command: &[String],
        layer: Option<NewLayer>,
    ) -> Result<State, Stop> {
        let now = created(self.session);
        let layer = layer.filter(|layer| !layer.empty);
        let mut config = current.stage.image.config.clone();
        config.history = current.state.config.history.clone();
        let author = config.author.get().cloned();
        let history = legacy_history(command.join(" "), &now, author.as_deref(), layer.is_none());
        config.history.get_or_default().push(history);
        let mut layers = current.state.layers.clone();
        layers.extend(layer.map(|layer| layer.diff_id));
        let built = write_config(self.session, config, &layers, &now)?;
        if let Some(key) = key {
            self.session.remember_image(key, &built.id)?;
        }
        Ok(State { id: Some(built.id), layers: built.layers, config: built.config })
    }

    /// A container that is made and never started, as the log tells it.
    fn container(&self, current: &Current<'_>) -> Result<String, Stop> {
        let id = random_id()?;
        let (wanted, host) = (current.state.config.platform(), Platform::host());
        if !wanted.architecture.is_empty() && !host.compatible().iter().any(|runs| runs.is_same(&wanted)) {
            // 28 knows the level of the processor.
            let host = match self.session.options().dialect.version {
                DialectVersion::V20 => host.to_string(),
                DialectVersion::V28 => Platform { variant: crate::processor::level().to_owned(), ..host }.to_string(),
            };
            let text = format!(
                "The requested image's platform ({wanted}) does not match the detected host platform ({host}) and no \
                 specific platform was requested"
            );
            let warning = Warning::Legacy { text, step: Some(current.step) };
            self.session.emitter().emit(Fact::Warning(warning));
        }
        self.session.emitter().emit(Fact::Container { step: current.step, id: id.clone(), removed: false });
        Ok(id)
    }

    /// The container is gone after a step that `succeeded`, if the log is to say so.
    fn removed(&self, current: &Current<'_>, id: String, succeeded: bool) {
        let shown = match self.session.options().container_removal {
            ContainerRemoval::OnSuccess => succeeded,
            ContainerRemoval::Always => true,
            ContainerRemoval::Never => false,
        };
        if shown {
            self.session.emitter().emit(Fact::Container { step: current.step, id, removed: true });
        }
    }

    fn without_files(&mut self, mut current: Current<'_>, command: &[String]) -> Result<(), Stop> {
        let (key, hit) = self.probe(&mut current, command)?;
        if hit {
            return Ok(());
        }
        let container = self.container(&current)?;
        let state = self.commit(&mut current, Some(&key), command, None)?;
        self.removed(&current, container, true);
        self.finish(&mut current, state, false);
        Ok(())
    }

    fn workdir(&mut self, mut current: Current<'_>, path: &str, command: &[String]) -> Result<(), Stop> {
        let (key, hit) = self.probe(&mut current, command)?;
        if hit {
            return Ok(());
        }
        let session = self.session;
        let change = Change::begin(session, &current.state.layers, &[])?;
        let made = change.mount().and_then(|mount| {
            let root = Root::open(mount.target(), session.ownership())?;
            match root.create_dir_all(path, NewDirs { mode: 0o755, owner: (0, 0), time: None }) {
                Ok(_) => Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
                    Err(instruction_failed(format!("Cannot mkdir: {path} is not a directory")))
                }
                Err(error) => Err(error.into()),
            }
        });
        if let Err(stop) = made {
            change.discard(session);
            return Err(stop);
        }
        let container = self.container(&current)?;
        let layer = change.commit(session)?;
        let state = self.commit(&mut current, Some(&key), command, Some(layer))?;
        self.removed(&current, container, true);
        self.finish(&mut current, state, false);
        Ok(())
    }

    fn run(
        &mut self,
        mut current: Current<'_>,
        argv: &[String],
        recorded: &[String],
        env: Vec<String>,
        script: Option<&(String, Vec<u8>)>,
        instruction: &Instruction,
    ) -> Result<(), Stop> {
        let InstructionKind::Run(run) = &instruction.kind else { return Ok(()) };
        let session = self.session;
        let cwd = match current.stage.image.working_dir() {
            "" => "/".to_owned(),
            path => path.to_owned(),
        };
        if session.shells().breakpoints.take(current.lines) {
            let surroundings = Surroundings { env: env.clone(), ..current.stage.image.surroundings() };
            self.stop_before(&current, &surroundings)?;
        }
        let (key, hit) = self.probe(&mut current, recorded)?;
        if hit {
            return Ok(());
        }
        // An empty list is no command: the container runs what its image says.
        let default_command = current.stage.image.default_command().to_vec();
        let argv = if argv.is_empty() { default_command.as_slice() } else { argv };
        if argv.is_empty() {
            return Err(instruction_failed(match self.version {
                rbuild_parser::Version::V20 => "No command specified",
                rbuild_parser::Version::V28 => "no command specified",
            }));
        }
        if !run.devices.is_empty() {
            return Err(instruction_failed("RUN --device is not supported: there are no CDI devices here"));
        }
        check_security(run.security).map_err(instruction_failed)?;
        let mut prepared = Prepared::new(self.session);
        // Other instructions with mounts were refused already, unless the dialect is lenient.
        for written in &run.mounts {
            self.add_mount(&mut prepared, written, &current)?;
        }
        if let Some((name, data)) = script {
            prepared.add_script(name, data)?;
        }
        let container = self.container(&current)?;
        let command = Command {
            argv,
            env,
            hidden_env: prepared.secret_env(),
            cwd: &cwd,
            user: current.stage.image.user(),
            mounts: prepared.mounts(),
            network: run.network,
            container: Some(&container),
            volumes: current.stage.image.volumes(),
        };
        let start = session.hands().find(session, &key)?.map(|hand| hand.layer);
        let step = RunStep { id: current.step, lines: current.lines, key: &key, start: start.as_ref() };
        let ran = match exec::run(session, &current.state.layers, command, step) {
            Ok(ran) => ran,
            Err(stop) => {
                let surroundings = current.stage.image.surroundings();
                session.journal().state(current.step, &current.state.layers, false, &surroundings);
                if matches!(stop, Stop::Failed(_)) {
                    self.removed(&current, container, false);
                }
                return Err(stop);
            }
        };
        let state = self.commit(&mut current, (!ran.by_hand).then_some(&key), recorded, Some(ran.layer))?;
        self.removed(&current, container, true);
        self.finish(&mut current, state, false);
        Ok(())
    }

    /// Opens a shell where a step is going to be done.
    fn stop_before(&self, current: &Current<'_>, surroundings: &Surroundings) -> Result<(), Stop> {
        let (layers, command) = (&current.state.layers, Command::look(surroundings));
        self.session.shells().before_step(self.session, layers, command, current.step, current.lines)
    }

    /// Lenient: makes a mount of a RUN ready.
    fn add_mount(&self, prepared: &mut Prepared<'_>, written: &str, current: &Current<'_>) -> Result<(), Stop> {
        let word = |text: &str| current.stage.expand(text);
        let mount = Mount::parse_with(written, self.version, word)
            .map_err(|error| instruction_failed(error.message(self.version)))?;
        let from = match mount.from.as_deref().filter(|from| !matches!(*from, "" | "scratch")) {
            Some(from) => Some(From::Layers(self.copy_from(from, current.step)?.layers)),
            None if mount.kind == MountType::Bind => Some(From::Context(self.context)),
            None => None,
        };
        let place = match &from {
            Some(From::Context(_)) => MountFrom::Context,
            _ => MountFrom::Empty,
        };
        let source = crate::plan::go::join_path("/", mount.source.as_deref().unwrap_or_default());
        let working_dir = current.stage.image.working_dir();
        let mount = resolve_mount(mount, place, source, working_dir).map_err(instruction_failed)?;
        prepared.add(&mount, from)
    }

    fn copy(&mut self, mut current: Current<'_>, copy: &CopyAction) -> Result<(), Stop> {
        let session = self.session;
        let view;
        let source = match &copy.from {
            None => CopySourceTree::Context(self.context),
            Some(from) => {
                let state = self.copy_from(from, current.step)?;
                view = View::open(session, &state.layers)?;
                CopySourceTree::view(session, &view)?
            }
        };
        let prepared = copy::legacy::prepare(session, &source, copy, current.step)?;
        let Comment(command) = current.stage.copy_comment(copy, prepared.hash());
        let (key, hit) = self.probe(&mut current, &command)?;
        if hit {
            return Ok(());
        }
        let change = Change::begin(session, &current.state.layers, &[])?;
        let working_dir = current.stage.image.working_dir().to_owned();
        if let Err(stop) = copy::legacy::perform(session, &change, &source, &prepared, copy, &working_dir) {
            change.discard(session);
            return Err(stop);
        }
        let layer = change.commit(session)?;
        let state = self.commit(&mut current, Some(&key), &command, Some(layer))?;
        self.finish(&mut current, state, false);
        Ok(())
    }

    /// Lenient: COPY and ADD with what only BuildKit can do.
    fn copy_as_buildkit(&mut self, mut current: Current<'_>, copy: &CopyAction) -> Result<(), Stop> {
        let session = self.session;
        let view = match &copy.from {
            None => None,
            Some(from) => Some(View::open(session, &self.copy_from(from, current.step)?.layers)?),
        };
        let tree = |_: &MountFrom| match &view {
            None => Ok(CopySourceTree::Context(self.context)),
            Some(view) => CopySourceTree::view(session, view),
        };
        let working_dir = current.stage.image.working_dir().to_owned();
        let op = copy.as_buildkit(&working_dir, &|word| current.stage.expand(word)).map_err(instruction_failed)?;
        let hash = copy::buildkit::op_hash(session, &op, &tree)?;
        let Comment(command) = current.stage.copy_comment(copy, &format!("multi:{hash}"));
        let (key, hit) = self.probe(&mut current, &command)?;
        if hit {
            return Ok(());
        }
        let change = Change::begin(session, &current.state.layers, &[])?;
        if let Err(stop) = copy::buildkit::perform(session, &change, &op, &tree) {
            change.discard(session);
            return Err(stop);
        }
        let layer = change.commit(session)?;
        let state = self.commit(&mut current, Some(&key), &command, Some(layer))?;
        self.finish(&mut current, state, false);
        Ok(())
    }

    fn copy_from(&self, from: &str, step: StepId) -> Result<State, Stop> {
        if let Some(state) = self.stage_named(from) {
            return Ok(state);
        }
        if let Ok(index) = from.parse::<i64>() {
            let wrong = |why: &str| instruction_failed(format!("invalid from flag value {from}: {why}"));
            let found = usize::try_from(index).ok().and_then(|index| self.stages.get(index));
            return match found {
                Some((_, state)) => Ok(state.clone()),
                None if usize::try_from(index).ok() == Some(self.stages.len()) => {
                    Err(wrong("refers to current build stage"))
                }
                None => Err(wrong("index out of bounds")),
            };
        }
        self.image(from, &self.platform, step).map_err(|stop| match stop {
            Stop::Failed(mut failed) => {
                if let Failure::Request { message, .. } = &mut failed.failure {
                    *message = format!("invalid from flag value {from}: {message}");
                }
                if let Failure::Pull { flag, .. } = &mut failed.failure {
                    *flag = Some(from.to_owned());
                }
                Stop::Failed(failed)
            }
            stop => stop,
        })
    }
}

/// Whether a step takes its image's entry point away. Docker's container inherits what it lacks, so that the image it
/// commits never looks like what is asked of the cache (moby `daemon/commit.go`, `merge`).
fn loses_entrypoint(wanted: &ImageConfig, parent: &ImageConfig) -> bool {
    let has_entrypoint = |config: &ImageConfig| {
        config.config.get().and_then(|run| run.entrypoint.get()).is_some_and(|entrypoint| !entrypoint.is_empty())
    };
    has_entrypoint(parent) && !has_entrypoint(wanted)
}

fn state_of(image: &BaseImage) -> State {
    State { id: Some(image.id.clone()), layers: image.diff_ids(), config: image.config.clone() }
}

/// 64 hexadecimal digits at random, as a container's id.
fn random_id() -> Result<String, Stop> {
    let mut bytes = [0; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| Stop::own(&std::io::Error::from(errno)))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
