//! The BuildKit dialect's plan: all stages that the target needs, as operations, before anything runs.
//!
//! Follows `frontend/dockerfile/dockerfile2llb/convert.go` of BuildKit 0.25 (Docker 28.5). A [`Draft`] is the graph of
//! stages with the base images still unknown; the caller looks those up ([`Draft::wanted_images`]) and the draft
//! becomes a [`Plan`].

use std::collections::BTreeSet;
use std::sync::Arc;

use rbuild_image::platform::Platform;
use rbuild_image::reference::{DockerVersion, Reference};
use rbuild_logfmt::event::{Builder, Lines};
use rbuild_parser::{
    CommandLine, Instruction, InstructionKind, Network as RunNetwork, Run, Security as RunSecurity, SourcesAndDest,
    Stage,
};
use rbuild_parser::mount::{Mount, MountType, Sharing};
use rbuild_parser::words::Lexer;
use rbuild_parser::{Dockerfile, Version};

use super::image::{HealthTimes, StageImage, Variables, healthcheck};
use super::{PlanError, expand, go, ports};
use crate::base::BaseImage;
use crate::emit;
use crate::options::BuildOptions;

/// Which stage, counted in the order of the Dockerfile; images that are only copied from come last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StageIndex(pub(crate) usize);

/// What is to be done for one target.
#[derive(Debug)]
pub(crate) struct Plan {
    /// All stages; those that the target does not need have no steps.
    pub(crate) stages: Vec<StagePlan>,
    /// The stage that becomes the image.
    pub(crate) target: StageIndex,
    /// Paths of the context that some instruction reads.
    pub(crate) context_paths: BTreeSet<String>,
}

/// One stage.
#[derive(Debug)]
pub(crate) struct StagePlan {
    /// Name as the log shows it in brackets; `None` for the only stage without a name.
    pub(crate) shown: Option<String>,
    /// What it begins with.
    pub(crate) base: StageBase,
    /// Whether the target needs it.
    pub(crate) reachable: bool,
    /// What is done, in order.
    pub(crate) steps: Vec<PlannedStep>,
    /// How many positions the log counts, the base included.
    pub(crate) positions: u32,
    /// What `FROM` is shown with, if the stage has a base image of its own.
    pub(crate) from: Option<StepLabel>,
    /// The image it makes.
    pub(crate) image: StageImage,
    /// No cache is read for it.
    pub(crate) no_cache: bool,
}

/// What a stage begins with.
#[derive(Clone, Debug)]
pub(crate) enum StageBase {
    /// Nothing.
    Scratch,
    /// The result of another stage.
    Stage(StageIndex),
    /// An image.
    Image(Arc<BaseImage>),
    /// A directory given by `--build-context`, which is only read from.
    Directory(std::path::PathBuf),
    /// Never looked up, since nothing needs it.
    Unresolved,
}

/// How a step is shown.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StepLabel {
    /// Keyword in capitals.
    pub(crate) instruction: String,
    /// Text behind the brackets.
    pub(crate) title: String,
    /// Position in the stage, counted from 1; 0 where the log shows none.
    pub(crate) position: u32,
    /// How many positions it is shown with. FROM is told before the triggers of its image are known.
    pub(crate) positions: u32,
    /// Where it stands.
    pub(crate) lines: Option<Lines>,
}

/// One operation on the file system.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PlannedStep {
    /// How it is shown.
    pub(crate) label: StepLabel,
    /// What is done.
    pub(crate) op: Op,
}

/// An operation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    /// A command.
    Run(RunOp),
    /// Files come in.
    Copy(CopyOp),
    /// A directory is made, with its parents.
    Mkdir {
        /// Absolute path.
        path: String,
        /// Value of USER, empty for root.
        user: String,
    },
}

/// RUN.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RunOp {
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<String>,
    /// Proxies given as build arguments: in the environment, but in no cache key and no history.
    pub(crate) proxy: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) user: String,
    pub(crate) mounts: Vec<RunMount>,
    pub(crate) network: RunNetwork,
    /// A here-document with an interpreter line, run as a file of this name in /dev/pipes.
    pub(crate) script: Option<(String, Vec<u8>)>,
}

/// A mount of a RUN.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RunMount {
    pub(crate) kind: MountType,
    pub(crate) from: MountFrom,
    /// Path inside `from`, absolute.
    pub(crate) source: String,
    /// Absolute path; empty for a secret that is only put into the environment.
    pub(crate) target: String,
    pub(crate) read_only: bool,
    pub(crate) size: Option<u64>,
    /// Id of the cache, secret or agent.
    pub(crate) id: String,
    pub(crate) sharing: Sharing,
    pub(crate) required: bool,
    pub(crate) env: Option<String>,
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

/// Where a mount comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MountFrom {
    /// Nothing: it begins empty.
    Empty,
    /// The build context.
    Context,
    /// A stage or image.
    Stage(StageIndex),
}

/// COPY or ADD.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CopyOp {
    pub(crate) sources: Vec<CopySource>,
    /// Absolute path; ends in `/` where it must be a directory.
    pub(crate) dest: String,
    pub(crate) chown: Option<String>,
    pub(crate) chmod: Option<String>,
    pub(crate) link: bool,
    pub(crate) exclude: Vec<String>,
}

/// A source of COPY or ADD.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum CopySource {
    /// Files of the context or a stage.
    Files {
        from: MountFrom,
        /// Absolute path or pattern in it.
        pattern: String,
        /// `--parents`: what below `pattern` is taken, with its directories.
        parents: Option<String>,
        /// Archives are unpacked.
        unpack: bool,
    },
    /// A here-document.
    Inline { name: String, data: Vec<u8> },
    /// A file from the web.
    Http { url: String, file_name: String, checksum: Option<String>, unpack: bool },
    /// A git repository.
    Git { url: String, checksum: Option<String>, keep_git_dir: bool },
}

/// A base image that must be looked up.
#[derive(Clone, Debug)]
pub(crate) struct WantedImage {
    pub(crate) stage: StageIndex,
    /// Normalised, with a tag.
    pub(crate) reference: Reference,
    pub(crate) platform: Platform,
    pub(crate) lines: Option<Lines>,
}

struct DraftStage {
    source: Stage,
    /// Base name with variables expanded.
    base_name: String,
    base: StageBase,
    platform: Platform,
    /// An image that COPY or a mount names, which is no stage of the Dockerfile.
    implicit: bool,
    /// Stages that instructions copy or mount from.
    sources: Vec<StageSources>,
    triggers_done: bool,
}

/// The stages an instruction reads from, in the order of its mounts (or its one `--from`).
#[derive(Clone, Debug, Default)]
struct StageSources {
    from: Vec<Option<StageIndex>>,
    is_trigger: bool,
}

/// The graph of stages before base images are known.
pub(crate) struct Draft<'a> {
    options: &'a BuildOptions,
    version: Version,
    lexer: Lexer,
    globals: Variables,
    build_args: Variables,
    stages: Vec<DraftStage>,
    target: StageIndex,
    target_platform: Platform,
    contexts: &'a dyn Fn(&str) -> Option<StageBase>,
}

/// Build arguments that are proxies; they need no ARG.
const PROXIES: &[&str] = &["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];

impl<'a> Draft<'a> {
    /// Reads the graph of stages.
    ///
    /// `contexts` gives the source that `--build-context` names, if it does.
    pub(crate) fn new(
        dockerfile: &Dockerfile,
        options: &'a BuildOptions,
        contexts: &'a dyn Fn(&str) -> Option<StageBase>,
    ) -> Result<Draft<'a>, PlanError> {
        let instructions = dockerfile.instructions().map_err(|error| parse_failure(&error))?;
        let version = dockerfile.options.version;
        let lexer = Lexer::new(dockerfile.escape).version(version);
        let target_platform = target_platform(options)?;
        let mut build_args = Variables::default();
        for (name, value) in &options.build_args {
            if let Some(value) = value {
                build_args.set(name, value);
            }
        }
        let target_name = options.target.clone().or_else(|| instructions.stages.last().and_then(|s| s.name.clone()));
        let mut globals = platform_args(&target_platform, target_name.as_deref());
        let overrides: Vec<(String, String)> = globals
            .iter()
            .filter_map(|(name, _)| build_args.get(name).map(|value| (name.to_owned(), value.to_owned())))
            .collect();
        for (name, value) in overrides {
            globals.set(&name, &value);
        }
        for meta in &instructions.meta_args {
            let InstructionKind::Arg(variables) = &meta.kind else { continue };
            for variable in variables {
                let value = match (build_args.get(&variable.key), &variable.value) {
                    (Some(given), _) => Some(given.to_owned()),
                    (None, Some(default)) => Some(
                        lexer
                            .process_word(default, &Lookup(&globals))
                            .map_err(|error| PlanError::builder(error.to_string(), Some(emit::lines(meta.lines))))?,
                    ),
                    (None, None) => None,
                };
                if let Some(value) = value {
                    globals.set(&variable.key, &value);
                }
            }
        }
        let mut draft = Draft {
            options,
            version,
            lexer,
            globals,
            build_args,
            stages: Vec::new(),
            target: StageIndex(0),
            target_platform,
            contexts,
        };
        for stage in instructions.stages {
            draft.add_stage(stage)?;
        }
        draft.target = draft.find_target()?;
        for index in 0..draft.stages.len() {
            let count = draft.stages[index].source.instructions.len();
            for at in 0..count {
                let sources = draft.sources_of(StageIndex(index), at, false)?;
                draft.stages[index].sources.push(sources);
            }
        }
        draft.check_cycles()?;
        Ok(draft)
    }

    fn add_stage(&mut self, source: Stage) -> Result<(), PlanError> {
        let lines = Some(emit::lines(source.lines));
        let word = |text: &str| self.lexer.process_word(text, &Lookup(&self.globals));
        let base_name = word(&source.base).map_err(|error| PlanError::builder(error.to_string(), lines))?;
        if base_name.is_empty() {
            return Err(PlanError::builder(format!("base name ({}) should not be blank", source.base), lines));
        }
        let mut platform = self.target_platform.clone();
        if let Some(written) = &source.platform {
            let value = word(written).map_err(|error| {
                PlanError::builder(format!("failed to process arguments for platform {written}: {error}"), lines)
            })?;
            if value.is_empty() {
                return Err(PlanError::builder(format!("empty platform value from expression {written}"), lines));
            }
            platform = Platform::parse(&value, docker_version(self.version)).map_err(|error| {
                PlanError::builder(format!("failed to parse platform {written}: {error}"), lines)
            })?;
        }
        let named = source.name.as_deref().and_then(self.contexts);
        let base = match named {
            Some(base) => base,
            None if base_name == "scratch" => StageBase::Scratch,
            None => match self.stage_named(&base_name) {
                Some(index) => StageBase::Stage(index),
                None => (self.contexts)(&base_name).unwrap_or(StageBase::Unresolved),
            },
        };
        self.stages.push(DraftStage {
            source,
            base_name,
            base,
            platform,
            implicit: false,
            sources: Vec::new(),
            triggers_done: false,
        });
        Ok(())
    }

    fn stage_named(&self, name: &str) -> Option<StageIndex> {
        let name = name.to_lowercase();
        self.stages.iter().rposition(|stage| stage.source.name.as_deref() == Some(name.as_str())).map(StageIndex)
    }

    fn find_target(&self) -> Result<StageIndex, PlanError> {
        let last = StageIndex(self.stages.len().saturating_sub(1));
        let Some(name) = &self.options.target else { return Ok(last) };
        if let Some(index) = self.stage_named(name) {
            return Ok(index);
        }
        // Unnamed stages go by the names the log gives them, but cannot be asked for by those.
        let shown = |index: usize| self.stages[index].source.name.clone().unwrap_or_else(|| format!("stage-{index}"));
        // `HasStage` also takes a number.
        if let Some(index) = name.parse::<usize>().ok().filter(|index| *index < self.stages.len()) {
            return Ok(StageIndex(index));
        }
        let names: Vec<String> = (0..self.stages.len()).map(shown).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let suggestion = rbuild_parser::suggest::nearest_ignoring_case(name, &names);
        let hint = suggestion.map(|s| format!(" (did you mean {s}?)")).unwrap_or_default();
        Err(PlanError::builder(format!("target stage {} could not be found{hint}", go::quote(name)), None))
    }

    /// Finds the stages that an instruction reads from, adding images that are no stages.
    fn sources_of(&mut self, stage: StageIndex, at: usize, is_trigger: bool) -> Result<StageSources, PlanError> {
        let instruction = self.stages[stage.0].source.instructions[at].clone();
        let lines = Some(emit::lines(instruction.lines));
        let mut from = Vec::new();
        match &instruction.kind {
            InstructionKind::Copy(copy) => {
                if let Some(name) = copy.from.as_deref().filter(|name| !name.is_empty()) {
                    let expanded = self.lexer.process_word(name, &Lookup(&Variables::default()));
                    if expanded.as_deref() != Ok(name) {
                        return Err(PlanError::builder(
                            "variable expansion is not supported for --from, define a new stage with FROM using ARG \
                             from global scope as a workaround",
                            lines,
                        ));
                    }
                    from.push(Some(match name.parse::<i64>() {
                        Ok(number) => usize::try_from(number)
                            .ok()
                            .filter(|index| *index < self.stages.len())
                            .map(StageIndex)
                            .ok_or_else(|| PlanError::builder(format!("invalid stage index {number}"), lines))?,
                        Err(_) => self.stage_or_image(name, &instruction),
                    }));
                }
            }
            InstructionKind::Run(run) => {
                for written in &run.mounts {
                    let name = mount_from(written);
                    from.push(match name.as_deref() {
                        None | Some("" | "scratch") => None,
                        Some(name) => Some(self.stage_or_image(name, &instruction)),
                    });
                }
            }
            _ => {}
        }
        Ok(StageSources { from, is_trigger })
    }

    fn stage_or_image(&mut self, name: &str, by: &Instruction) -> StageIndex {
        if let Some(index) = self.stage_named(name) {
            return index;
        }
        let base = (self.contexts)(name).unwrap_or(StageBase::Unresolved);
        self.stages.push(DraftStage {
            source: Stage { base: name.to_owned(), lines: by.lines, span: by.span, ..Stage::default() },
            base_name: name.to_owned(),
            base,
            platform: self.target_platform.clone(),
            implicit: true,
            sources: Vec::new(),
            triggers_done: true,
        });
        StageIndex(self.stages.len() - 1)
    }

    fn dependencies(&self, stage: StageIndex) -> Vec<StageIndex> {
        let stage = &self.stages[stage.0];
        let base = match stage.base {
            StageBase::Stage(index) => Some(index),
            _ => None,
        };
        base.into_iter().chain(stage.sources.iter().flat_map(|sources| sources.from.iter().flatten().copied())).collect()
    }

    fn check_cycles(&self) -> Result<(), PlanError> {
        fn visit(draft: &Draft<'_>, stage: StageIndex, state: &mut [u8]) -> Option<StageIndex> {
            match state[stage.0] {
                1 => return Some(stage),
                2 => return None,
                _ => {}
            }
            state[stage.0] = 1;
            let found = draft.dependencies(stage).into_iter().find_map(|next| visit(draft, next, state));
            state[stage.0] = 2;
            found
        }
        let mut state = vec![0; self.stages.len()];
        for index in 0..self.stages.len() {
            if let Some(stage) = visit(self, StageIndex(index), &mut state) {
                let name = self.shown_name(stage.0).unwrap_or_default();
                let lines = Some(emit::lines(self.stages[stage.0].source.lines));
                return Err(PlanError::builder(format!("circular dependency detected on stage: {name}"), lines));
            }
        }
        Ok(())
    }

    /// Name in brackets; `None` where the only stage has none. Images that are only copied from have none either.
    fn shown_name(&self, index: usize) -> Option<String> {
        let stage = &self.stages[index];
        if stage.implicit || self.stages.len() == 1 {
            return None;
        }
        Some(stage.source.name.clone().unwrap_or_else(|| format!("stage-{index}")))
    }

    fn reachable(&self) -> BTreeSet<StageIndex> {
        let mut seen = BTreeSet::new();
        let mut open = vec![self.target];
        while let Some(stage) = open.pop() {
            if seen.insert(stage) {
                open.extend(self.dependencies(stage));
            }
        }
        seen
    }

    /// Base images that the target needs and that are not known yet, in the order of the Dockerfile.
    pub(crate) fn wanted_images(&self) -> Result<Vec<WantedImage>, PlanError> {
        let mut wanted = Vec::new();
        for index in self.reachable() {
            let stage = &self.stages[index.0];
            if !matches!(stage.base, StageBase::Unresolved) {
                continue;
            }
            let lines = Some(emit::lines(stage.source.lines));
            let reference = Reference::parse_normalized(&stage.base_name, docker_version(self.version))
                .map_err(|error| {
                    let name = go::quote(&stage.base_name);
                    PlanError::builder(format!("failed to parse stage name {name}: {error}"), lines)
                })?
                .or_latest();
            wanted.push(WantedImage {
                stage: index,
                reference,
                platform: stage.platform.clone(),
                lines,
            });
        }
        Ok(wanted)
    }

    /// Tells the draft a base image.
    pub(crate) fn set_image(&mut self, stage: StageIndex, image: Arc<BaseImage>) {
        self.stages[stage.0].base = StageBase::Image(image);
    }

    /// Puts the triggers of base images before the instructions of their stages. True if that may have made images
    /// needed that are not known yet.
    pub(crate) fn add_triggers(&mut self) -> Result<bool, PlanError> {
        let mut changed = false;
        for index in self.reachable() {
            if self.stages[index.0].triggers_done {
                continue;
            }
            self.stages[index.0].triggers_done = true;
            let triggers = match &self.stages[index.0].base {
                StageBase::Image(image) => image.triggers(),
                StageBase::Stage(base) => self.stages[base.0]
                    .source
                    .instructions
                    .iter()
                    .filter_map(|instruction| match &instruction.kind {
                        InstructionKind::Onbuild(text) => Some(text.clone()),
                        _ => None,
                    })
                    .collect(),
                _ => Vec::new(),
            };
            let lines = self.stages[index.0].source.lines;
            for (at, trigger) in triggers.iter().enumerate() {
                let mut instruction = rbuild_parser::parse_trigger(trigger, self.trigger_options())
                    .map_err(|error| PlanError::builder(error.to_string(), Some(emit::lines(lines))))?;
                instruction.lines = lines;
                self.stages[index.0].source.instructions.insert(at, instruction);
                let sources = self.sources_of(index, at, true)?;
                changed |= !sources.from.is_empty();
                self.stages[index.0].sources.insert(at, sources);
            }
        }
        Ok(changed)
    }

    fn trigger_options(&self) -> rbuild_parser::ParseOptions {
        rbuild_parser::ParseOptions::for_version(self.version)
    }

    /// Resolves every instruction of the stages that the target needs.
    pub(crate) fn finish(mut self) -> Result<Plan, PlanError> {
        let reachable = self.reachable();
        let mut plan = Plan { stages: Vec::new(), target: self.target, context_paths: BTreeSet::new() };
        let mut states: Vec<Option<State>> = Vec::new();
        for index in 0..self.stages.len() {
            let needed = reachable.contains(&StageIndex(index));
            let (stage, state) = if needed { self.resolve(index, &states, &mut plan)? } else { (self.skipped(index), None) };
            plan.stages.push(stage);
            states.push(state);
        }
        let target = &mut plan.stages[plan.target.0];
        for (name, value) in &self.options.labels {
            target.image.add_label(name, value);
        }
        if self.options.platform.is_some() {
            target.image.config.os.set(self.target_platform.os.clone());
            target.image.config.architecture.set(self.target_platform.architecture.clone());
            if !self.target_platform.variant.is_empty() {
                target.image.config.variant.set(self.target_platform.variant.clone());
            }
        }
        Ok(plan)
    }

    fn skipped(&self, index: usize) -> StagePlan {
        StagePlan {
            shown: self.shown_name(index),
            base: self.stages[index].base.clone(),
            reachable: false,
            steps: Vec::new(),
            positions: 0,
            from: None,
            image: StageImage::default(),
            no_cache: false,
        }
    }

    fn resolve(
        &mut self,
        index: usize,
        states: &[Option<State>],
        plan: &mut Plan,
    ) -> Result<(StagePlan, Option<State>), PlanError> {
        let stage = &self.stages[index];
        let mut state = match &stage.base {
            StageBase::Stage(base) => match states.get(base.0).and_then(Option::as_ref) {
                Some(state) => State { image: state.image.clone(), ..state.clone() },
                None => {
                    let lines = Some(emit::lines(stage.source.lines));
                    return Err(PlanError::builder(
                        format!("stage {} needs to be defined before it is used", go::quote(&stage.base_name)),
                        lines,
                    ));
                }
            },
            StageBase::Image(image) => {
                let mut start = StageImage::from_base(&image.config);
                start.keep_buildkit_members();
                State::new(start)
            }
            StageBase::Scratch | StageBase::Directory(_) | StageBase::Unresolved => {
                State::new(StageImage::scratch(&stage.platform))
            }
        };
        state.image.clear_triggers();
        if stage.implicit {
            let from = matches!(stage.base, StageBase::Image(_)).then(|| self.base_label(index, 0, 0));
            let planned = StagePlan {
                shown: None,
                base: stage.base.clone(),
                reachable: true,
                steps: Vec::new(),
                positions: 0,
                from,
                image: state.image.clone(),
                no_cache: false,
            };
            return Ok((planned, Some(state)));
        }
        state.image.ensure_path();
        let inherited: Vec<String> = state.image.env().to_vec();
        for (name, value) in inherited.iter().filter_map(|pair| super::image::split_env(pair)) {
            state.set_env(name, value);
        }
        let has_own_base = matches!(stage.base, StageBase::Image(_));
        let counted = |kind: &InstructionKind| {
            matches!(
                kind,
                InstructionKind::Add(_) | InstructionKind::Copy(_) | InstructionKind::Run(_) | InstructionKind::Workdir(_)
            )
        };
        let own = stage.source.instructions.iter().zip(&stage.sources);
        // Every trigger counts, whatever it is.
        let total = own.filter(|(i, sources)| sources.is_trigger || counted(&i.kind)).count() + usize::from(has_own_base);
        let total = u32::try_from(total).unwrap_or(u32::MAX);
        let triggers = stage.sources.iter().filter(|sources| sources.is_trigger).count();
        let triggers = u32::try_from(triggers).unwrap_or(u32::MAX);
        let mut position = u32::from(has_own_base);
        let mut steps = Vec::new();
        for at in 0..stage.source.instructions.len() {
            let instruction = &self.stages[index].source.instructions[at];
            let sources = self.stages[index].sources[at].clone();
            let lines = Some(emit::lines(instruction.lines));
            let resolved = self.dispatch(index, instruction, &sources, states, &mut state, plan);
            let resolved = resolved.map_err(|mut error| {
                error.lines = error.lines.or(lines);
                error
            })?;
            if let Some((title, op)) = resolved {
                position += 1;
                let title = if sources.is_trigger { format!("ONBUILD {title}") } else { title };
                let instruction = instruction.kind.name().to_owned();
                steps.push(PlannedStep { label: StepLabel { instruction, title, position, positions: total, lines }, op });
            }
        }
        let stage = &self.stages[index];
        let name = stage.source.name.as_deref();
        let planned = StagePlan {
            shown: self.shown_name(index),
            base: stage.base.clone(),
            reachable: true,
            steps,
            positions: total,
            from: has_own_base.then(|| self.base_label(index, 1, total - triggers)),
            image: state.image.clone(),
            no_cache: self.options.no_cache
                || name.is_some_and(|name| self.options.no_cache_filter.iter().any(|f| f.eq_ignore_ascii_case(name))),
        };
        Ok((planned, Some(state)))
    }

    fn base_label(&self, index: usize, position: u32, positions: u32) -> StepLabel {
        let stage = &self.stages[index];
        let shown = match &stage.base {
            StageBase::Image(image) => image.shown.clone(),
            _ => stage.base_name.clone(),
        };
        StepLabel {
            instruction: "FROM".to_owned(),
            title: format!("FROM {shown}"),
            position,
            positions,
            lines: Some(emit::lines(stage.source.lines)),
        }
    }

    #[allow(clippy::too_many_lines)]
    fn dispatch(
        &self,
        stage: usize,
        instruction: &Instruction,
        sources: &StageSources,
        states: &[Option<State>],
        state: &mut State,
        plan: &mut Plan,
    ) -> Result<Option<(String, Op)>, PlanError> {
        let lines = Some(emit::lines(instruction.lines));
        let fail = |message: String| PlanError::instruction(message, lines);
        let variables = state.variables();
        let kind = expand::expand(&instruction.kind, &mut |word| self.lexer.process_word(word, &Lookup(&variables)))
            .map_err(|error| fail(error.to_string()))?;
        match kind {
            InstructionKind::Env(pairs) => {
                let mut created_by = "ENV".to_owned();
                for pair in pairs {
                    created_by.push_str(&format!(" {}={}", pair.key, pair.value));
                    state.set_env(&pair.key, &pair.value);
                    state.image.set_env(&pair.key, &pair.value);
                }
                state.image.push_buildkit_history(created_by, false);
            }
            InstructionKind::Arg(declared) => self.dispatch_arg(&declared, state).map_err(fail)?,
            InstructionKind::Label(pairs) => {
                let mut created_by = "LABEL".to_owned();
                for pair in pairs {
                    created_by.push_str(&format!(" {}={}", pair.key, pair.value));
                    state.image.add_label(&pair.key, &pair.value);
                }
                state.image.push_buildkit_history(created_by, false);
            }
            InstructionKind::Maintainer(name) => {
                state.image.set_author(&name);
                state.image.push_buildkit_history(format!("MAINTAINER {name}"), false);
            }
            InstructionKind::Onbuild(trigger) => state.image.run_mut().on_build.get_or_default().push(trigger),
            InstructionKind::Cmd(command) => {
                let args = with_shell(&state.image, &command);
                let created_by = format!("CMD {}", go::quote_list(&args));
                let run = state.image.run_mut();
                run.cmd.set(args);
                run.args_escaped.set(true);
                state.cmd_set = true;
                state.image.push_buildkit_history(created_by, false);
            }
            InstructionKind::Entrypoint(command) => {
                let args = with_shell(&state.image, &command);
                let created_by = format!("ENTRYPOINT {}", go::quote_list(&args));
                let cmd_set = state.cmd_set;
                let run = state.image.run_mut();
                run.entrypoint.set(args);
                if !cmd_set {
                    run.cmd = rbuild_image::json::Field::Absent;
                }
                state.image.push_buildkit_history(created_by, false);
            }
            InstructionKind::Healthcheck(check) => {
                let created_by = format!(
                    "HEALTHCHECK &{{{} {} {} {} {} {}}}",
                    go::quote_list(&check.test),
                    go::quote(&go::duration(check.interval)),
                    go::quote(&go::duration(check.timeout)),
                    go::quote(&go::duration(check.start_period)),
                    go::quote(&go::duration(check.start_interval)),
                    go::quote_rune(i64::from(check.retries)),
                );
                let times = HealthTimes {
                    interval: check.interval,
                    timeout: check.timeout,
                    start_period: check.start_period,
                    start_interval: check.start_interval,
                };
                state.image.run_mut().healthcheck.set(healthcheck(check.test, times, i64::from(check.retries)));
                state.image.push_buildkit_history(created_by, false);
            }
            InstructionKind::Expose(written) => {
                let mut words = Vec::new();
                for port in &written {
                    let expanded = self.lexer.process_words(port, &Lookup(&variables));
                    words.extend(expanded.map_err(|error| fail(error.to_string()))?);
                }
                let exposed = ports::parse(&words, Builder::Buildkit).map_err(fail)?;
                state.image.expose(&exposed);
                state.image.push_buildkit_history(format!("EXPOSE {}", go::list(&exposed)), false);
            }
            InstructionKind::User(user) => {
                state.image.run_mut().user.set(user.clone());
                state.image.push_buildkit_history(format!("USER {user}"), false);
            }
            InstructionKind::Volume(volumes) => {
                state.image.add_volumes(&volumes).map_err(fail)?;
                state.image.push_buildkit_history(format!("VOLUME {}", go::list(&volumes)), false);
            }
            InstructionKind::StopSignal(signal) => {
                super::check_signal(&signal).map_err(fail)?;
                state.image.run_mut().stop_signal.set(signal.clone());
                state.image.push_buildkit_history(format!("STOPSIGNAL {signal}"), false);
            }
            InstructionKind::Shell(shell) => {
                let created_by = format!("SHELL {}", go::list(&shell));
                state.image.run_mut().shell.set(shell);
                state.image.push_buildkit_history(created_by, false);
            }
            InstructionKind::Workdir(path) => {
                let path = super::working_dir(state.image.working_dir(), &path);
                state.image.run_mut().working_dir.set(path.clone());
                let makes = path != "/";
                state.image.push_buildkit_history(format!("WORKDIR {path}"), makes);
                if makes {
                    let title = self.title(&instruction.original, self.lexer, &variables);
                    let user = state.image.user().to_owned();
                    return Ok(Some((title, Op::Mkdir { path, user })));
                }
            }
            InstructionKind::Run(run) => {
                let step = self.dispatch_run(stage, instruction, &run, sources, states, state, plan)?;
                return Ok(Some(step));
            }
            InstructionKind::Copy(copy) => {
                let title = self.title(&instruction.original, self.lexer, &variables);
                let from = match sources.from.first().copied().flatten() {
                    Some(source) if source.0 >= states.len() && !self.stages[source.0].implicit => {
                        let from = copy.from.as_deref().unwrap_or_default();
                        let here = self.shown_name(stage).unwrap_or_default();
                        return Err(fail(format!(
                            "cannot copy from stage {}, it needs to be defined before current stage {}",
                            go::quote(from),
                            go::quote(&here)
                        )));
                    }
                    Some(source) => MountFrom::Stage(source),
                    None => MountFrom::Context,
                };
                let flags = CopyFlags {
                    instruction: "COPY",
                    chown: copy.chown.clone(),
                    chmod: copy.chmod.clone(),
                    link: copy.link,
                    parents: copy.parents,
                    exclude: copy.exclude.clone(),
                    unpack: false,
                    checksum: None,
                    keep_git_dir: false,
                    unpack_remote: false,
                };
                let op = self.dispatch_copy(&copy.paths, from, flags, &variables, state, plan).map_err(fail)?;
                return Ok(Some((title, op)));
            }
            InstructionKind::Add(add) => {
                let title = self.title(&instruction.original, self.lexer, &variables);
                let flags = CopyFlags {
                    instruction: "ADD",
                    chown: add.chown.clone(),
                    chmod: add.chmod.clone(),
                    link: add.link,
                    parents: false,
                    exclude: add.exclude.clone(),
                    unpack: add.unpack.unwrap_or(true),
                    checksum: add.checksum.clone(),
                    keep_git_dir: add.keep_git_dir.unwrap_or(false),
                    unpack_remote: add.unpack.unwrap_or(false),
                };
                let op = self.dispatch_copy(&add.paths, MountFrom::Context, flags, &variables, state, plan).map_err(fail)?;
                return Ok(Some((title, op)));
            }
            other => return Err(fail(format!("unsupported command type: {}", other.name()))),
        }
        Ok(None)
    }

    /// What the log shows of an instruction: its keyword in capitals, variables substituted.
    fn title(&self, text: &str, lexer: Lexer, variables: &Variables) -> String {
        let shown = lexer.process_word(text, &Lookup(variables)).unwrap_or_else(|_| text.to_owned());
        match shown.split_once(' ') {
            Some((keyword, rest)) => format!("{} {rest}", keyword.to_uppercase()),
            None => shown.to_uppercase(),
        }
    }

    fn dispatch_arg(
        &self,
        declared: &[rbuild_parser::ArgVariable],
        state: &mut State,
    ) -> Result<(), String> {
        let mut shown = Vec::new();
        for variable in declared {
            let value = match (self.build_args.get(&variable.key), &variable.value) {
                (Some(given), _) => Some(given.to_owned()),
                (None, Some(default)) => {
                    let variables = state.variables();
                    Some(self.lexer.process_word(default, &Lookup(&variables)).map_err(|error| error.to_string())?)
                }
                (None, None) => self.globals.get(&variable.key).map(str::to_owned),
            };
            shown.push(match &value {
                Some(value) => format!("{}={value}", variable.key),
                None => variable.key.clone(),
            });
            if let Some(value) = &value {
                state.set_env(&variable.key, value);
            }
            state.args.push((variable.key.clone(), value.unwrap_or_default()));
        }
        state.image.push_buildkit_history(format!("ARG {}", shown.join(" ")), false);
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn dispatch_run(
        &self,
        stage: usize,
        instruction: &Instruction,
        run: &Run,
        sources: &StageSources,
        states: &[Option<State>],
        state: &mut State,
        plan: &mut Plan,
    ) -> Result<(String, Op), PlanError> {
        let lines = Some(emit::lines(instruction.lines));
        let fail = |message: String| PlanError::instruction(message, lines);
        if !run.devices.is_empty() {
            return Err(fail("RUN --device is not supported: there are no CDI devices here".to_owned()));
        }
        check_security(run.security).map_err(fail)?;
        let mut text = instruction.original.clone();
        let InlineCommand { mut args, script, summary } = inline_command(&run.command);
        if let Some(summary) = summary {
            text.push_str(&format!(" ({summary})"));
        }
        if run.command.prepend_shell {
            let mut argv = state.image.shell();
            argv.push(args.join(" "));
            args = argv;
        }
        let variables = state.variables();
        let mut mounts = Vec::new();
        let mut masked = variables.clone();
        for (written, from) in run.mounts.iter().zip(&sources.from) {
            let mount = Mount::parse_with(written, self.version, |word| self.lexer.process_word(word, &Lookup(&variables)))
                .map_err(|error| fail(error.message(self.version)))?;
            if let (MountType::Secret, Some(name)) = (mount.kind, &mount.env) {
                masked.set(name, "****");
            }
            mounts.push(self.run_mount(stage, mount, *from, states, state, plan).map_err(fail)?);
        }
        let title = self.title(&text, self.lexer.raw_quotes().skip_unset(), &masked);
        let created_by = format!("RUN {} # buildkit", run_command_string(&args, &state.args, &variables));
        state.image.push_buildkit_history(created_by, true);
        let proxy = self
            .build_args
            .iter()
            .filter(|(name, _)| PROXIES.contains(&name.to_lowercase().as_str()))
            .flat_map(|(name, value)| {
                [format!("{}={value}", name.to_uppercase()), format!("{}={value}", name.to_lowercase())]
            })
            .collect();
        let op = RunOp {
            argv: args,
            env: state.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            proxy,
            cwd: if state.image.working_dir().is_empty() { "/".to_owned() } else { state.image.working_dir().to_owned() },
            user: state.image.user().to_owned(),
            mounts,
            network: run.network,
            script,
        };
        Ok((title, Op::Run(op)))
    }

    fn run_mount(
        &self,
        stage: usize,
        mount: Mount,
        from: Option<StageIndex>,
        states: &[Option<State>],
        state: &State,
        plan: &mut Plan,
    ) -> Result<RunMount, String> {
        let written_target = mount.target.clone().unwrap_or_default();
        let source = go::join_path("/", mount.source.as_deref().unwrap_or_default());
        let source = if source.is_empty() { "/".to_owned() } else { source };
        let place = match (mount.kind, from) {
            (MountType::Bind | MountType::Cache, Some(index)) => {
                if index.0 >= states.len() && !self.stages[index.0].implicit || index.0 == stage {
                    return Err(format!(
                        "cannot mount from stage {} to {}, stage needs to be defined before current command",
                        go::quote(mount.from.as_deref().unwrap_or_default()),
                        go::quote(&written_target)
                    ));
                }
                MountFrom::Stage(index)
            }
            (MountType::Bind, None) if mount.from.as_deref().unwrap_or_default().is_empty() => {
                plan.context_paths.insert(source.clone());
                MountFrom::Context
            }
            // BuildKit asks for all of the context then, though it uses none of it.
            (MountType::Tmpfs, None) if mount.from.as_deref().unwrap_or_default().is_empty() => {
                plan.context_paths.insert(source.clone());
                MountFrom::Empty
            }
            _ => MountFrom::Empty,
        };
        resolve_mount(mount, place, source, state.image.working_dir())
    }

    fn dispatch_copy(
        &self,
        paths: &SourcesAndDest,
        from: MountFrom,
        flags: CopyFlags,
        variables: &Variables,
        state: &mut State,
        plan: &mut Plan,
    ) -> Result<Op, String> {
        let dest = copy_dest(state.image.working_dir(), &paths.dest);
        if let Some(chmod) = &flags.chmod {
            check_chmod(chmod)?;
        }
        if flags.checksum.is_some() {
            if paths.sources.len() != 1 {
                return Err("checksum can't be specified for multiple sources".to_owned());
            }
            if !is_http(&paths.sources[0]) && !is_git(&paths.sources[0]) {
                return Err("checksum requires HTTP(S) or Git sources".to_owned());
            }
        }
        let mut created_by = flags.instruction.to_owned();
        if flags.parents {
            created_by.push_str(" --parents");
        }
        for (name, value) in [("chown", &flags.chown), ("chmod", &flags.chmod)] {
            if let Some(value) = value {
                created_by.push_str(&format!(" --{name}={value}"));
            }
        }
        let mut sources = Vec::new();
        for source in &paths.sources {
            created_by.push_str(&format!(" {source}"));
            if is_git(source) {
                if flags.instruction == "COPY" {
                    return Err("source can't be a git ref for COPY".to_owned());
                }
                let (checksum, keep_git_dir) = (flags.checksum.clone(), flags.keep_git_dir);
                sources.push(CopySource::Git { url: source.clone(), checksum, keep_git_dir });
            } else if is_http(source) {
                if flags.instruction == "COPY" {
                    return Err("source can't be a URL for COPY".to_owned());
                }
                sources.push(CopySource::Http {
                    url: source.clone(),
                    file_name: url_file_name(source),
                    checksum: flags.checksum.clone(),
                    unpack: flags.unpack_remote,
                });
            } else {
                let absolute = go::join_path("/", source);
                if from == MountFrom::Context {
                    plan.context_paths.insert(if absolute.is_empty() { "/".to_owned() } else { absolute });
                }
                sources.push(files_source(source, flags.parents, from, flags.unpack));
            }
        }
        for content in &paths.contents {
            created_by.push_str(&format!(" <<{}", content.path));
            let data = if content.expand {
                let text = String::from_utf8_lossy(&content.data);
                let lexer = Lexer::new('\\').version(self.version).skip_quotes();
                let expanded = lexer.process_word(&text, &Lookup(variables)).map_err(|error| error.to_string())?;
                expanded.into_bytes()
            } else {
                content.data.clone()
            };
            sources.push(CopySource::Inline { name: content.path.clone(), data });
        }
        created_by.push_str(&format!(" {} # buildkit", paths.dest));
        state.image.push_buildkit_history(created_by, true);
        Ok(Op::Copy(CopyOp {
            sources,
            dest,
            chown: flags.chown.filter(|owner| !owner.is_empty()),
            chmod: flags.chmod.filter(|mode| !mode.is_empty()),
            link: flags.link,
            exclude: flags.exclude,
        }))
    }
}

/// A mount with its defaults filled in.
///
/// # Errors
/// Docker's text.
pub(crate) fn resolve_mount(
    mount: Mount,
    place: MountFrom,
    source: String,
    working_dir: &str,
) -> Result<RunMount, String> {
    let written_target = mount.target.clone().unwrap_or_default();
    let base = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let mut id = mount.id.clone().unwrap_or_default();
    let mut target = written_target.clone();
    match mount.kind {
        MountType::Secret => {
            if let Some(source) = mount.source.as_deref().filter(|s| !s.is_empty()) {
                id = source.to_owned();
            }
            if id.is_empty() {
                if target.is_empty() {
                    return Err("one of source, target required".to_owned());
                }
                id = base(&target);
            }
            if target.is_empty() && mount.env.is_none() {
                target = format!("/run/secrets/{}", base(&id));
            }
        }
        MountType::Ssh if id.is_empty() => id = "default".to_owned(),
        MountType::Cache if id.is_empty() => id = go::clean_path(&target),
        _ => {}
    }
    let in_env_only = mount.kind == MountType::Secret && target.is_empty();
    if mount.kind != MountType::Ssh && !in_env_only {
        target = super::working_dir(working_dir, &target);
        if target == "/" {
            return Err(format!("invalid mount target {}", go::quote(&written_target)));
        }
    }
    Ok(RunMount {
        kind: mount.kind,
        from: place,
        source,
        target,
        read_only: mount.read_only,
        size: u64::try_from(mount.size).ok().filter(|size| *size > 0),
        id,
        sharing: mount.sharing.unwrap_or(Sharing::Shared),
        required: mount.required,
        env: mount.env,
        mode: mount.mode,
        uid: mount.uid,
        gid: mount.gid,
    })
}

struct CopyFlags {
    instruction: &'static str,
    chown: Option<String>,
    chmod: Option<String>,
    link: bool,
    parents: bool,
    exclude: Vec<String>,
    unpack: bool,
    checksum: Option<String>,
    keep_git_dir: bool,
    unpack_remote: bool,
}

/// What instructions have made of a stage so far.
#[derive(Clone, Debug)]
struct State {
    image: StageImage,
    /// The environment of RUN: that of the image, and build arguments, in the order they were first set.
    env: Vec<(String, String)>,
    /// Build arguments declared, in order.
    args: Vec<(String, String)>,
    cmd_set: bool,
}

impl State {
    fn new(image: StageImage) -> State {
        State { image, env: Vec::new(), args: Vec::new(), cmd_set: false }
    }

    fn set_env(&mut self, name: &str, value: &str) {
        match self.env.iter_mut().find(|(old, _)| old == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.env.push((name.to_owned(), value.to_owned())),
        }
    }

    fn variables(&self) -> Variables {
        let mut variables = Variables::default();
        for (name, value) in &self.env {
            variables.set(name, value);
        }
        variables
    }
}

/// Variables as the parser looks them up.
pub(crate) struct Lookup<'a>(pub(crate) &'a Variables);

impl rbuild_parser::words::Environment for Lookup<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)
    }
}

/// A parse error as BuildKit tells it.
pub(crate) fn parse_failure(error: &rbuild_parser::ParseError) -> PlanError {
    PlanError {
        failure: rbuild_logfmt::event::Failure::Parse { message: error.to_string() },
        lines: Some(emit::lines(error.lines)),
    }
}

/// The platform that a build is for.
pub(crate) fn target_platform(options: &BuildOptions) -> Result<Platform, PlanError> {
    match &options.platform {
        Some(text) => Platform::parse(text, DockerVersion::V28)
            .map_err(|error| PlanError::builder(format!("failed to parse target platform {text}: {error}"), None)),
        None => Ok(Platform::host()),
    }
}

pub(crate) fn docker_version(version: Version) -> DockerVersion {
    match version {
        Version::V20 => DockerVersion::V20,
        _ => DockerVersion::V28,
    }
}

/// Arguments that are set without being given, known outside of stages.
fn platform_args(target: &Platform, stage: Option<&str>) -> Variables {
    let build = Platform::host();
    let mut variables = Variables::default();
    for (prefix, platform) in [("BUILD", &build), ("TARGET", target)] {
        variables.set(&format!("{prefix}PLATFORM"), &platform.to_string());
        variables.set(&format!("{prefix}OS"), &platform.os);
        variables.set(&format!("{prefix}OSVERSION"), &platform.os_version);
        variables.set(&format!("{prefix}ARCH"), &platform.architecture);
        variables.set(&format!("{prefix}VARIANT"), &platform.variant);
    }
    variables.set("TARGETSTAGE", stage.filter(|name| !name.is_empty()).unwrap_or("default"));
    variables
}

/// The value of `from` in a mount as written: it may hold no variables, so that it is known before they are.
fn mount_from(written: &str) -> Option<String> {
    written.split(',').find_map(|field| {
        let (key, value) = field.split_once('=')?;
        key.trim().eq_ignore_ascii_case("from").then(|| value.to_owned())
    })
}

fn with_shell(image: &StageImage, command: &CommandLine) -> Vec<String> {
    if !command.prepend_shell {
        return command.args.clone();
    }
    let mut args = image.shell();
    args.push(command.args.join(" "));
    args
}

/// A command as history has it, with the build arguments that were in its environment.
fn run_command_string(args: &[String], declared: &[(String, String)], variables: &Variables) -> String {
    let mut env: Vec<(String, String)> = Vec::new();
    for (name, default) in declared {
        let value = variables.get(name).unwrap_or(default).to_owned();
        match env.iter_mut().find(|(old, _)| old == name) {
            Some((_, old)) => *old = value,
            None => env.push((name.clone(), value)),
        }
    }
    let mut words = Vec::new();
    if !env.is_empty() {
        words.push(format!("|{}", env.len()));
        words.extend(env.into_iter().map(|(name, value)| format!("{name}={value}")));
    }
    words.extend(args.iter().cloned());
    words.join(" ")
}

/// Whether a RUN may be confined like this. Nobody can grant `security.insecure` here, so that a Dockerfile never gets
/// more than Docker's default allows.
///
/// # Errors
/// BuildKit's text.
pub(crate) fn check_security(security: RunSecurity) -> Result<(), String> {
    match security {
        RunSecurity::Sandbox => Ok(()),
        RunSecurity::Insecure => Err("security.insecure is not allowed".to_owned()),
    }
}

/// What RUN executes where its here-documents are known.
pub(crate) struct InlineCommand {
    /// The command line, here-documents included.
    pub(crate) args: Vec<String>,
    /// A document with an interpreter line, which is run as a file of this name.
    pub(crate) script: Option<(String, Vec<u8>)>,
    /// What a title shows of a document that is the whole command.
    pub(crate) summary: Option<String>,
}

impl InlineCommand {
    /// The command line as it is.
    pub(crate) fn plain(command: &CommandLine) -> InlineCommand {
        InlineCommand { args: command.args.clone(), script: None, summary: None }
    }
}

/// Puts the here-documents of a RUN where its command needs them: one that is the whole command is the command; others
/// stay with the command line, for the shell to read.
pub(crate) fn inline_command(command: &CommandLine) -> InlineCommand {
    let [first, ..] = command.files.as_slice() else {
        return InlineCommand::plain(command);
    };
    let line = command.args.first().cloned().unwrap_or_default();
    if !is_lone_heredoc(&line) {
        let mut whole = line;
        for file in &command.files {
            whole.push('\n');
            whole.push_str(&String::from_utf8_lossy(&file.data));
            whole.push_str(&file.name);
        }
        return InlineCommand { args: vec![whole], script: None, summary: None };
    }
    let data = if first.chomp { rbuild_parser::chomp_tabs(&first.data) } else { first.data.clone() };
    let summary = Some(summary(&String::from_utf8_lossy(&first.data)));
    if first.data.starts_with(b"#!") {
        let args = vec![format!("{PIPES}/{}", first.name)];
        return InlineCommand { args, script: Some((first.name.clone(), data)), summary };
    }
    InlineCommand { args: vec![String::from_utf8_lossy(&data).into_owned()], script: None, summary }
}

/// Where here-documents lie that are run as files.
pub(crate) const PIPES: &str = "/dev/pipes";

/// Whether a command line is nothing but the start of one here-document.
fn is_lone_heredoc(line: &str) -> bool {
    let word = line.trim();
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let Some(rest) = word[digits..].strip_prefix("<<") else { return false };
    let name = rest.strip_prefix('-').unwrap_or(rest);
    !name.is_empty() && !name.starts_with('<') && !name.contains(char::is_whitespace)
}

/// The first line of a here-document, for a title.
fn summary(document: &str) -> String {
    let document = document.trim().replace("\r\n", "\n");
    match document.split_once('\n') {
        Some((first, _)) => format!("{first}..."),
        None => document,
    }
}

/// The destination of COPY as an absolute path that keeps its final slash.
pub(crate) fn copy_dest(working_dir: &str, dest: &str) -> String {
    let slash = matches!(dest, "" | ".") || dest.ends_with('/') || dest.ends_with("/.");
    let mut path = super::working_dir(working_dir, if dest.is_empty() { "." } else { dest });
    if slash && !path.ends_with('/') {
        path.push('/');
    }
    path
}

/// A source of COPY or ADD that is a path or pattern. With `--parents`, `/./` in it is where the kept directories begin.
pub(crate) fn files_source(written: &str, keeps_parents: bool, from: MountFrom, unpack: bool) -> CopySource {
    if !keeps_parents {
        return CopySource::Files { from, pattern: go::join_path("/", written), parents: None, unpack };
    }
    let (pivot, below) = written.split_once("/./").unwrap_or(("/", written));
    let below = go::join_path("/", below).trim_start_matches('/').to_owned();
    CopySource::Files { from, pattern: go::join_path("/", pivot), parents: Some(below), unpack }
}

pub(crate) fn check_chmod(text: &str) -> Result<(), String> {
    let wrong = || format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777");
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(()),
        Ok(_) => Err(wrong()),
        Err(_) if crate::mode::ModeChange::parse(text).is_some() => Ok(()),
        Err(_) => Err(wrong()),
    }
}

/// Whether ADD takes a source from the web.
pub(crate) fn is_http(source: &str) -> bool {
    (source.starts_with("http://") || source.starts_with("https://")) && !is_git(source)
}

/// Whether ADD takes a source from a git repository (`dfgitutil.ParseGitRef`).
pub(crate) fn is_git(source: &str) -> bool {
    if source.starts_with("git://") || source.starts_with("ssh://") || source.starts_with("git@") {
        return true;
    }
    let Some(rest) = source.strip_prefix("https://").or_else(|| source.strip_prefix("http://")) else { return false };
    let path = rest.split(['#', '?']).next().unwrap_or_default();
    path.contains('/') && path.ends_with(".git")
}

/// The name that a file from the web gets.
pub(crate) fn url_file_name(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    let path = path.split_once('/').map_or("", |(_, path)| path);
    match path.trim_end_matches('/').rsplit('/').next() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => "__unnamed__".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_keep_their_slash() {
        for (dir, dest, path) in [
            ("", ".", "/"),
            ("/a", ".", "/a/"),
            ("/a", "b", "/a/b"),
            ("/a", "b/", "/a/b/"),
            ("/a", "/x/.", "/x/"),
            ("/a", "../y", "/y"),
        ] {
            assert_eq!(copy_dest(dir, dest), path);
        }
    }

    #[test]
    fn remote_sources() {
        assert!(is_http("https://example.org/a.tgz"));
        assert!(!is_http("a.tgz"));
        assert!(is_git("https://example.org/x/y.git#main:sub"));
        assert!(is_git("git@example.org:x/y.git"));
        assert_eq!(url_file_name("http://h/a/b.txt?x=1"), "b.txt");
        assert_eq!(url_file_name("http://h/"), "__unnamed__");
    }

    #[test]
    fn run_strings() {
        let mut variables = Variables::default();
        variables.set("A", "2");
        let declared = [("A".to_owned(), "1".to_owned()), ("B".to_owned(), String::new()), ("A".to_owned(), "1".to_owned())];
        let args = ["/bin/sh".to_owned(), "-c".to_owned(), "x".to_owned()];
        assert_eq!(run_command_string(&args, &declared, &variables), "|2 A=2 B= /bin/sh -c x");
        assert_eq!(summary("\n one\r\ntwo\n"), "one...");
        assert_eq!(mount_from("type=bind,from=x,target=/y").as_deref(), Some("x"));
    }
}
