//! The graph of stages, before and while base images become known.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use rbuild_image::platform::Platform;
use rbuild_image::reference::Reference;
use rbuild_logfmt::event::{Failure, Lines, Speaker};
use rbuild_parser::words::{Lexer, WordError};
use rbuild_parser::{Dockerfile, Instruction, InstructionKind, LineRange, Stage, Version};

use super::dispatch::{Place, State};
use super::{
    Linter, Lookup, NamedBase, Op, Plan, PlannedStep, StageBase, StageIndex, StagePlan, StepLabel, docker_version,
    parse_failure, target_platform,
};
use crate::context::{NamedContext, NamedSource};
use crate::emit;
use crate::options::BuildOptions;
use crate::plan::image::{StageImage, Variables, split_env};
use crate::plan::{PlanError, go};

/// A base image that must be looked up.
#[derive(Clone, Debug)]
pub(crate) struct WantedImage {
    pub(crate) stage: StageIndex,
    /// As written, with variables expanded.
    pub(crate) written: String,
    /// Normalised, with a tag.
    pub(crate) reference: Reference,
    /// What the log calls it: 20.10 adds no tag.
    pub(crate) shown: Reference,
    /// Whether asking for it is a step of its own, and its digest is shown; 20.10 takes an image that is only copied
    /// from as it is named.
    pub(crate) shows_metadata: bool,
    pub(crate) platform: Platform,
    pub(crate) lines: Option<Lines>,
    /// What `--build-context` gives in its place.
    pub(crate) context: Option<Arc<NamedBase>>,
}

pub(super) struct DraftStage {
    source: Stage,
    /// Base name with variables expanded.
    base_name: String,
    base: StageBase,
    platform: Platform,
    /// An image that COPY or a mount names, which is no stage of the Dockerfile.
    pub(super) implicit: bool,
    /// What `--build-context` gives in place of the whole stage.
    replaced_by: Option<Arc<NamedBase>>,
    /// What `--build-context` gives in place of its base.
    context: Option<Arc<NamedBase>>,
    /// Errors about its base tell its lines.
    located: bool,
    /// Stages that instructions copy or mount from.
    sources: Vec<StageSources>,
    triggers_done: bool,
}

impl DraftStage {
    /// Whether it is there before any stage is made.
    pub(super) fn is_given(&self) -> bool {
        self.implicit || self.replaced_by.is_some()
    }
}

/// The stages an instruction reads from, in the order of its mounts (or its one `--from`).
#[derive(Clone, Debug, Default)]
pub(super) struct StageSources {
    pub(super) from: Vec<Option<StageIndex>>,
    is_trigger: bool,
}

/// The graph of stages before base images are known.
pub(crate) struct Draft<'a> {
    options: &'a BuildOptions,
    pub(super) version: Version,
    pub(super) lexer: Lexer,
    pub(super) globals: Variables,
    pub(super) build_args: Variables,
    pub(super) stages: Vec<DraftStage>,
    target: StageIndex,
    target_platform: Platform,
    /// Whether there is nothing but one stage, so that the log needs no names.
    is_single: bool,
    /// The sources that `--build-context` names, by normal names.
    contexts: &'a HashMap<String, Arc<NamedBase>>,
    pub(super) linter: &'a Linter<'a>,
    /// Arguments before the first FROM, with a value or without.
    declared: Vec<String>,
    /// Stages that the target does not need are planned, too.
    all_stages: bool,
}

impl<'a> Draft<'a> {
    /// Reads the graph of stages.
    ///
    /// `contexts` are the sources that `--build-context` names.
    pub(crate) fn new(
        dockerfile: &Dockerfile,
        options: &'a BuildOptions,
        contexts: &'a HashMap<String, Arc<NamedBase>>,
        linter: &'a Linter<'a>,
    ) -> Result<Draft<'a>, PlanError> {
        let instructions = rbuild_parser::lint::check(dockerfile, &mut |finding| linter.raise_finding(finding))
            .map_err(|error| parse_failure(&error))?;
        let version = dockerfile.options.version;
        if instructions.stages.is_empty() {
            // Nothing but ARG: the daemon of 20.10 breaks off its answer.
            return Err(match version {
                Version::V20 => {
                    let message = "unexpected EOF".to_owned();
                    PlanError { failure: Failure::Request { message, by: Speaker::Client }, lines: None }
                }
                Version::V28 => PlanError::builder("dockerfile contains no stages to build", None),
            });
        }
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
        // The checks want a file that can be built without build arguments.
        if let Ok(defaults) = meta_args(&instructions.meta_args, &globals, &Variables::default(), lexer) {
            for stage in &instructions.stages {
                let Ok(base) = lexer.process_word(&stage.base, &Lookup(&defaults)) else { break };
                linter.default_base(stage, &base, version);
            }
        }
        let globals = meta_args(&instructions.meta_args, &globals, &build_args, lexer)?;
        let declared = instructions.meta_args.iter().flat_map(|meta| match &meta.kind {
            InstructionKind::Arg(variables) => variables.iter().map(|variable| variable.key.clone()).collect(),
            _ => Vec::new(),
        });
        let mut draft = Draft {
            options,
            version,
            lexer,
            globals,
            build_args,
            stages: Vec::new(),
            target: StageIndex(0),
            target_platform,
            is_single: false,
            contexts,
            linter,
            declared: declared.collect(),
            all_stages: false,
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
        draft.is_single = draft.stages.len() == 1 && !draft.reads_scratch();
        Ok(draft)
    }

    /// Plans stages that the target does not need, too.
    pub(crate) fn with_all_stages(self) -> Draft<'a> {
        Draft { all_stages: true, ..self }
    }

    fn add_stage(&mut self, source: Stage) -> Result<(), PlanError> {
        let lines = Some(emit::lines(source.lines));
        let word = |text: &str| {
            let expanded = self.lexer.process_word_with_matches(text, &Lookup(&self.globals))?;
            self.linter.undeclared_args(&expanded.unmatched, &self.globals, &self.declared, source.lines);
            Ok(expanded)
        };
        let base_name =
            word(&source.base).map_err(|error: WordError| PlanError::builder(error.to_string(), lines))?.result;
        if base_name.is_empty() {
            return Err(PlanError::builder(format!("base name ({}) should not be blank", source.base), lines));
        }
        let mut platform = self.target_platform.clone();
        if let Some(written) = &source.platform {
            let expanded = word(written).map_err(|error| {
                PlanError::builder(format!("failed to process arguments for platform {written}: {error}"), lines)
            })?;
            let parsed = Platform::parse(&expanded.result, docker_version(self.version));
            self.linter.stage_platform(&source, written, &expanded, &self.globals, parsed.as_ref().ok());
            if expanded.result.is_empty() {
                return Err(PlanError::builder(format!("empty platform value from expression {written}"), lines));
            }
            platform = parsed
                .map_err(|error| PlanError::builder(format!("failed to parse platform {written}: {error}"), lines))?;
        }
        let replaced_by = match &source.name {
            Some(name) => self.replacement(name)?,
            None => None,
        };
        // A stage's name counts in lower case, in which it is kept, and in no other.
        let same = self.stage_named(&base_name).filter(|_| base_name == base_name.to_lowercase());
        let base = match same {
            _ if replaced_by.is_some() => StageBase::Unresolved,
            // Even one that is called `scratch`.
            Some(index) => StageBase::Stage(index),
            None if base_name == "scratch" => StageBase::Scratch,
            None => StageBase::Unresolved,
        };
        self.stages.push(DraftStage {
            source,
            base_name,
            base,
            platform,
            implicit: false,
            replaced_by,
            context: None,
            located: true,
            sources: Vec::new(),
            triggers_done: false,
        });
        Ok(())
    }

    /// What `--build-context` gives in place of a stage of this name.
    fn replacement(&self, name: &str) -> Result<Option<Arc<NamedBase>>, PlanError> {
        if matches!(name, "scratch" | "context") {
            return Ok(None);
        }
        match Reference::parse_normalized(name, docker_version(self.version)) {
            Ok(reference) => Ok(self.contexts.get(&NamedContext::key(&reference)).cloned()),
            // 20.10 knows no such contexts.
            Err(_) if self.version == Version::V20 => Ok(None),
            Err(error) => Err(PlanError::builder(format!("invalid context name {name}: {error}"), None)),
        }
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
        if self.version == Version::V20 {
            return Err(PlanError::builder(format!("target stage {name} could not be found"), None));
        }
        // Unnamed stages go by the names the log gives them, but can be asked for neither by those nor by number.
        let shown = |index: usize| self.stages[index].source.name.clone().unwrap_or_else(|| format!("stage-{index}"));
        let names: Vec<String> = (0..self.stages.len()).map(shown).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let suggestion = rbuild_parser::suggest::nearest_ignoring_case(name, &names);
        let hint = suggestion.map(|s| format!(" (did you mean {s}?)")).unwrap_or_default();
        Err(PlanError::builder(format!("target stage {} could not be found{hint}", go::quote(name)), None))
    }

    /// Finds the stages that an instruction reads from, adding images that are no stages.
    fn sources_of(&mut self, stage: StageIndex, at: usize, is_trigger: bool) -> Result<StageSources, PlanError> {
        let instruction = self.stages[stage.0].source.instructions[at].clone();
        let mut from = Vec::new();
        match &instruction.kind {
            InstructionKind::Copy(copy) => {
                if let Some(name) = copy.from.as_deref().filter(|name| !name.is_empty()) {
                    let expanded = self.lexer.process_word(name, &Lookup(&Variables::default()));
                    if expanded.as_deref() != Ok(name) && self.version != Version::V20 {
                        return Err(PlanError::builder(
                            "variable expansion is not supported for --from, define a new stage with FROM using ARG \
                             from global scope as a workaround",
                            None,
                        ));
                    }
                    from.push(Some(match name.parse::<i64>() {
                        Ok(number) => usize::try_from(number)
                            .ok()
                            .filter(|index| *index < self.stages.len())
                            .map(StageIndex)
                            .ok_or_else(|| PlanError::builder(format!("invalid stage index {number}"), None))?,
                        Err(_) => self.stage_or_image(name, &instruction, true),
                    }));
                }
            }
            InstructionKind::Run(run) => {
                for written in &run.mounts {
                    let name = mount_field(written, "from");
                    from.push(match name.as_deref() {
                        None | Some("" | "scratch") => None,
                        Some(name) => Some(self.stage_or_image(name, &instruction, false)),
                    });
                }
            }
            _ => {}
        }
        Ok(StageSources { from, is_trigger })
    }

    /// Whether some mount begins empty: BuildKit counts the image `scratch` for a stage then
    /// (`dockerfile2llb/convert_runmount.go`).
    fn reads_scratch(&self) -> bool {
        let mut instructions = self.stages.iter().flat_map(|stage| &stage.source.instructions);
        instructions.any(|instruction| match &instruction.kind {
            InstructionKind::Run(run) => run.mounts.iter().any(|written| {
                let from = mount_field(written, "from").unwrap_or_default();
                let kind = mount_field(written, "type").unwrap_or_default();
                match (self.version, from.as_str()) {
                    (Version::V20, "") => kind.eq_ignore_ascii_case("cache"),
                    (Version::V20, "scratch") => !kind.eq_ignore_ascii_case("tmpfs"),
                    (_, from) => matches!(from, "" | "scratch"),
                }
            }),
            _ => false,
        })
    }

    /// A stage, or the image that an instruction names; `located` if errors about that image tell where it is named.
    fn stage_or_image(&mut self, name: &str, by: &Instruction, located: bool) -> StageIndex {
        if let Some(index) = self.stage_named(name) {
            return index;
        }
        self.stages.push(DraftStage {
            source: Stage { base: name.to_owned(), lines: by.lines, span: by.span, ..Stage::default() },
            base_name: name.to_owned(),
            base: StageBase::Unresolved,
            platform: self.target_platform.clone(),
            implicit: true,
            replaced_by: None,
            context: None,
            located,
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
        base.into_iter()
            .chain(stage.sources.iter().flat_map(|sources| sources.from.iter().flatten().copied()))
            .collect()
    }

    /// Whether an instruction of a stage copies or mounts from another.
    fn reads_stage(&self, stage: StageIndex, other: StageIndex) -> bool {
        self.stages[stage.0].sources.iter().any(|sources| sources.from.contains(&Some(other)))
    }

    fn check_cycles(&self) -> Result<(), PlanError> {
        /// The stage that needs itself, and the last instruction on the way there.
        fn visit(draft: &Draft<'_>, stage: StageIndex, state: &mut [u8]) -> Option<(StageIndex, Option<LineRange>)> {
            match state[stage.0] {
                1 => return Some((stage, None)),
                2 => return None,
                _ => {}
            }
            state[stage.0] = 1;
            // 28 does not count what a stage begins with: that is an error of the instruction then.
            let needs = draft.dependencies(stage).into_iter().filter(|next| {
                let base = matches!(draft.stages[stage.0].base, StageBase::Stage(base) if base == *next);
                draft.version == Version::V20 || !base || draft.reads_stage(stage, *next)
            });
            let found = needs.into_iter().find_map(|next| {
                let (found, by) = visit(draft, next, state)?;
                let here = &draft.stages[stage.0];
                let reads = |(sources, _): &(&StageSources, &Instruction)| sources.from.contains(&Some(next));
                // Of several instructions that read one stage the last counts.
                let by_this = here.sources.iter().zip(&here.source.instructions).rfind(reads);
                Some((found, by.or(by_this.map(|(_, instruction)| instruction.lines))))
            });
            state[stage.0] = 2;
            found
        }
        let mut state = vec![0; self.stages.len()];
        for index in 0..self.stages.len() {
            if let Some((stage, by)) = visit(self, StageIndex(index), &mut state) {
                let stage = if self.version == Version::V20 { stage } else { StageIndex(index) };
                let name = self.shown_name(stage.0).unwrap_or_default();
                let by = by.filter(|_| self.version != Version::V20);
                let lines = Some(emit::lines(by.unwrap_or(self.stages[stage.0].source.lines)));
                return Err(PlanError::builder(format!("circular dependency detected on stage: {name}"), lines));
            }
        }
        Ok(())
    }

    /// Name in brackets; `None` where the only stage has none. Images that are only copied from have none either.
    pub(super) fn shown_name(&self, index: usize) -> Option<String> {
        let stage = &self.stages[index];
        if stage.implicit || self.is_single {
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

    /// The stages that are planned: those that the target needs, or all.
    fn planned(&self) -> BTreeSet<StageIndex> {
        if self.all_stages { (0..self.stages.len()).map(StageIndex).collect() } else { self.reachable() }
    }

    /// Base images that the target needs and that are not known yet, in the order of the Dockerfile; and Docker's text of
    /// the first name that is none, whether the target needs that stage or not.
    pub(crate) fn wanted_images(&self) -> (Vec<WantedImage>, Option<PlanError>) {
        let planned = self.planned();
        let is_old = self.version == Version::V20;
        let (mut wanted, mut refused) = (Vec::new(), None);
        for (index, stage) in self.stages.iter().enumerate() {
            if !matches!(stage.base, StageBase::Unresolved) {
                continue;
            }
            let lines = stage.located.then(|| emit::lines(stage.source.lines));
            let written = match Reference::parse_normalized(&stage.base_name, docker_version(self.version)) {
                Ok(written) => written,
                Err(error) => {
                    let name = go::quote(&stage.base_name);
                    let text = format!("failed to parse stage name {name}: {error}");
                    refused.get_or_insert_with(|| PlanError::builder(text, lines));
                    continue;
                }
            };
            if !planned.contains(&StageIndex(index)) {
                continue;
            }
            let mut reference = written.clone().or_latest();
            let named = || self.contexts.get(&NamedContext::key(&reference)).cloned();
            let context = stage.replaced_by.clone().or_else(named);
            let mut name = stage.base_name.clone();
            if let Some(NamedSource::Image(image)) = context.as_ref().map(|named| &named.context.source) {
                name.clone_from(image);
                reference = match Reference::parse_normalized(image, docker_version(self.version)) {
                    Ok(reference) => reference.or_latest(),
                    Err(error) => {
                        refused.get_or_insert_with(|| PlanError::builder(error.to_string(), lines));
                        continue;
                    }
                };
            }
            wanted.push(WantedImage {
                context,
                stage: StageIndex(index),
                written: name,
                shown: if is_old && !stage.implicit { written } else { reference.clone() },
                shows_metadata: !(is_old && stage.implicit),
                reference,
                platform: stage.platform.clone(),
                lines,
            });
        }
        (wanted, refused)
    }

    /// Tells the draft what a stage begins with.
    pub(crate) fn set_base(&mut self, want: &WantedImage, base: StageBase) {
        let stage = &mut self.stages[want.stage.0];
        stage.context.clone_from(&want.context);
        if let (StageBase::Image(image), None) = (&base, &want.context) {
            self.linter.base_platform(&stage.base_name, &stage.platform, image, stage.source.lines);
        }
        stage.base = base;
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

    /// Resolves every instruction of the stages that are planned. `ignored` tells of a path as it is written whether the
    /// ignore file excludes it.
    pub(crate) fn finish(mut self, ignored: &dyn Fn(&str) -> bool) -> Result<Plan, PlanError> {
        let planned = self.planned();
        let mut plan = Plan {
            stages: Vec::new(),
            target: self.target,
            context_paths: BTreeSet::new(),
            stage_paths: HashMap::new(),
        };
        let mut states: Vec<Option<State>> = Vec::new();
        for index in 0..self.stages.len() {
            let needed = planned.contains(&StageIndex(index));
            let (stage, state) =
                if needed { self.resolve(index, &states, &mut plan, ignored)? } else { (self.skipped(index), None) };
            plan.stages.push(stage);
            states.push(state);
        }
        self.reads(self.target, "/", &mut plan);
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
        self.linter.verdict()?;
        // Found when the graph is put together of what the target needs: only checks never do that.
        let mut needed = plan.stages.iter().filter(|stage| stage.reachable && !self.all_stages);
        let is_empty = |step: &PlannedStep| matches!(&step.op, Op::Run(run) if run.argv.is_empty());
        if needed.any(|stage| stage.steps.iter().any(is_empty)) {
            let message = "failed to marshal LLB definition: arguments are required".to_owned();
            return Err(PlanError { failure: Failure::Request { message, by: Speaker::Daemon }, lines: None });
        }
        Ok(plan)
    }

    /// Notes that something reads a path of a stage. What begins with a stage reads that one.
    pub(super) fn reads(&self, stage: StageIndex, path: &str, plan: &mut Plan) {
        let mut root = stage;
        while let StageBase::Stage(base) = self.stages[root.0].base {
            root = base;
        }
        plan.stage_paths.entry(root).or_default().insert(path.to_owned());
    }

    fn skipped(&self, index: usize) -> StagePlan {
        StagePlan {
            shown: self.shown_name(index),
            base: self.stages[index].base.clone(),
            reachable: false,
            steps: Vec::new(),
            from: None,
            context: None,
            image: StageImage::default(),
            no_cache: false,
        }
    }

    fn resolve(
        &mut self,
        index: usize,
        states: &[Option<State>],
        plan: &mut Plan,
        ignored: &dyn Fn(&str) -> bool,
    ) -> Result<(StagePlan, Option<State>), PlanError> {
        let stage = &self.stages[index];
        let mut state = match &stage.base {
            StageBase::Stage(base) => match states.get(base.0).and_then(Option::as_ref) {
                Some(state) => state.next_stage(),
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
            StageBase::Scratch | StageBase::Directory(_) | StageBase::Missing(..) | StageBase::Unresolved => {
                // Whatever FROM says, what begins empty is for the platform of the build.
                let mut start = StageImage::scratch(&self.target_platform);
                start.run_mut().working_dir.set("/".to_owned());
                State::new(start)
            }
        };
        state.image.clear_triggers();
        if stage.is_given() {
            let has_step = matches!(stage.base, StageBase::Image(_) | StageBase::Missing(..));
            let from = has_step.then(|| self.base_label(index, 0, 0));
            let planned = StagePlan {
                shown: None,
                base: stage.base.clone(),
                reachable: true,
                steps: Vec::new(),
                from,
                context: stage.context.clone(),
                image: state.image.clone(),
                no_cache: false,
            };
            return Ok((planned, Some(state)));
        }
        state.image.ensure_path();
        let inherited: Vec<String> = state.image.env().to_vec();
        for (name, value) in inherited.iter().filter_map(|pair| split_env(pair)) {
            state.set_env(name, value);
        }
        // One that a context gives counts, but has no place among the steps.
        let has_own_base = stage.context.is_some() || matches!(stage.base, StageBase::Image(_));
        let base_is_shown = has_own_base && stage.context.is_none();
        let counted = |kind: &InstructionKind| {
            matches!(
                kind,
                InstructionKind::Add(_)
                    | InstructionKind::Copy(_)
                    | InstructionKind::Run(_)
                    | InstructionKind::Workdir(_)
            )
        };
        let own = stage.source.instructions.iter().zip(&stage.sources);
        // Every trigger counts, whatever it is; in 20.10 none does.
        let is_old = self.version == Version::V20;
        let counts = |kind: &InstructionKind, is_trigger: bool| match is_trigger {
            true => !is_old,
            false => counted(kind),
        };
        let total = own.filter(|(i, sources)| counts(&i.kind, sources.is_trigger)).count() + usize::from(has_own_base);
        let total = u32::try_from(total).unwrap_or(u32::MAX);
        let triggers = stage.sources.iter().filter(|sources| sources.is_trigger && !is_old).count();
        let triggers = u32::try_from(triggers).unwrap_or(u32::MAX);
        let mut position = u32::from(base_is_shown);
        let mut steps = Vec::new();
        for at in 0..stage.source.instructions.len() {
            let instruction = &self.stages[index].source.instructions[at];
            let sources = self.stages[index].sources[at].clone();
            let lines = Some(emit::lines(instruction.lines));
            let resolved = self.dispatch(
                Place { stage: index, sources: &sources, states, ignored },
                instruction,
                &mut state,
                plan,
            );
            let resolved = resolved.map_err(|mut error| {
                error.lines = error.lines.or(lines);
                error
            })?;
            if let Some((title, op)) = resolved {
                position += 1;
                let title = if sources.is_trigger && !is_old { format!("ONBUILD {title}") } else { title };
                let instruction = instruction.kind.name().to_owned();
                steps.push(PlannedStep {
                    label: StepLabel { instruction, title, position, positions: total, lines },
                    op,
                    surroundings: state.image.surroundings(),
                });
            }
        }
        let stage = &self.stages[index];
        let name = stage.source.name.as_deref();
        let planned = StagePlan {
            shown: self.shown_name(index),
            base: stage.base.clone(),
            reachable: true,
            steps,
            from: matches!(stage.base, StageBase::Image(_)).then(|| self.base_label(index, 1, total - triggers)),
            context: stage.context.clone(),
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
            StageBase::Missing(shown, _) => shown.clone(),
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
}

/// The values of arguments before the first FROM, added to those that are always there.
fn meta_args(
    instructions: &[Instruction],
    globals: &Variables,
    build_args: &Variables,
    lexer: Lexer,
) -> Result<Variables, PlanError> {
    let mut values = globals.clone();
    for meta in instructions {
        let InstructionKind::Arg(variables) = &meta.kind else { continue };
        for variable in variables {
            let value = match (build_args.get(&variable.key), &variable.value) {
                (Some(given), _) => Some(given.to_owned()),
                (None, Some(default)) => Some(
                    lexer
                        .process_word(default, &Lookup(&values))
                        .map_err(|error| PlanError::builder(error.to_string(), Some(emit::lines(meta.lines))))?,
                ),
                (None, None) => None,
            };
            if let Some(value) = value {
                values.set(&variable.key, &value);
            }
        }
    }
    Ok(values)
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

/// The value of a field of a mount as written: `from` may hold no variables, so that it is known before they are.
fn mount_field(written: &str, name: &str) -> Option<String> {
    written.split(',').find_map(|field| {
        let (key, value) = field.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_names_its_stage() {
        assert_eq!(mount_field("type=bind,from=x,target=/y", "from").as_deref(), Some("x"));
        assert_eq!(mount_field("type=cache,target=/y", "from"), None);
    }
}
