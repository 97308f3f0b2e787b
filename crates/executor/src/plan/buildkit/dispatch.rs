//! What each instruction makes of its stage, and what it asks to be done.

use rbuild_logfmt::event::Builder;
use rbuild_parser::lint::{self, Violation};
use rbuild_parser::mount::{Mount, MountType};
use rbuild_parser::words::{Lexer, WordError};
use rbuild_parser::{ArgVariable, Instruction, InstructionKind, LineRange, Run, SourcesAndDest, Version};

use super::command::{InlineCommand, check_security, inline_command, resolve_mount, run_command_string, with_shell};
use super::draft::{Draft, StageSources};
use super::sources::{check_chmod, copy_dest, files_source, is_git, is_http, url_file_name};
use super::{CopyOp, CopySource, Lookup, MountFrom, Op, Plan, RunMount, RunOp, StageIndex};
use crate::emit;
use crate::plan::image::{HealthTimes, StageImage, Variables, healthcheck};
use crate::plan::{PlanError, check_signal, expand, go, ports, working_dir};

/// Build arguments that are proxies; they need no ARG.
const PROXIES: &[&str] = &["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];

/// Where an instruction stands, and what is around it.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) stage: usize,
    /// The stages that the instruction reads from.
    pub(super) sources: &'a StageSources,
    /// What became of the stages before.
    pub(super) states: &'a [Option<State>],
    /// Whether the ignore file excludes a path.
    pub(super) ignored: &'a dyn Fn(&str) -> bool,
}

impl Draft<'_> {
    #[allow(clippy::too_many_lines)]
    pub(super) fn dispatch(
        &self,
        place: Place<'_>,
        instruction: &Instruction,
        state: &mut State,
        plan: &mut Plan,
    ) -> Result<Option<(String, Op)>, PlanError> {
        let Place { stage, sources, states, .. } = place;
        let lines = Some(emit::lines(instruction.lines));
        let fail = |message: String| PlanError::instruction(message, lines);
        let linter = self.linter;
        let variables = state.variables();
        let expanded = expand::expand(&instruction.kind, &mut |word| {
            self.expand_word(word, self.lexer, &variables, state, instruction.lines)
        });
        let kind = expanded.map_err(|error| fail(error.to_string()))?;
        match kind {
            InstructionKind::Env(pairs) => {
                let mut created_by = "ENV".to_owned();
                for pair in pairs {
                    linter.legacy_pair(&pair, instruction);
                    linter.raise_all(lint::secret("ENV", &pair.key), instruction.lines);
                    created_by.push_str(&format!(" {}={}", pair.key, pair.value));
                    state.set_env(&pair.key, &pair.value);
                    state.image.set_env(&pair.key, &pair.value);
                }
                state.image.push_buildkit_history(created_by, false);
            }
            InstructionKind::Arg(declared) => {
                self.dispatch_arg(&declared, instruction.lines, state).map_err(fail)?;
            }
            InstructionKind::Label(pairs) => {
                let mut created_by = "LABEL".to_owned();
                for pair in pairs {
                    linter.legacy_pair(&pair, instruction);
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
                linter.used_once(instruction, &mut state.cmd);
                linter.shell_form(instruction, &command, &state.image);
                let args = with_shell(&state.image, &command);
                let created_by = format!("CMD {}", go::quote_list(&args));
                let run = state.image.run_mut();
                run.cmd.set(args);
                run.args_escaped.set(true);
                state.image.push_buildkit_history(created_by, false);
            }
            InstructionKind::Entrypoint(command) => {
                linter.used_once(instruction, &mut state.entrypoint);
                linter.shell_form(instruction, &command, &state.image);
                let args = with_shell(&state.image, &command);
                let created_by = format!("ENTRYPOINT {}", go::quote_list(&args));
                let cmd_set = state.cmd.is_some();
                let run = state.image.run_mut();
                run.entrypoint.set(args);
                if !cmd_set {
                    run.cmd = rbuild_image::json::Field::Absent;
                }
                state.image.push_buildkit_history(created_by, false);
            }
            InstructionKind::Healthcheck(check) => {
                linter.used_once(instruction, &mut state.healthcheck);
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
                // 20.10 reads ports as the legacy builder does.
                let is_old = self.version == Version::V20;
                let reader = if is_old { Builder::Legacy } else { Builder::Buildkit };
                let exposed = ports::parse(&words, reader, &mut |violations| {
                    linter.raise_all(violations, instruction.lines);
                });
                let exposed = exposed.map_err(fail)?;
                state.image.expose(&exposed);
                let shown = match is_old {
                    true => format!(
                        "map[{}]",
                        exposed.iter().map(|port| format!("{port}:{{}}")).collect::<Vec<_>>().join(" ")
                    ),
                    false => go::list(&exposed),
                };
                state.image.push_buildkit_history(format!("EXPOSE {shown}"), false);
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
                check_signal(&signal).map_err(fail)?;
                state.image.run_mut().stop_signal.set(signal.clone());
                state.image.push_buildkit_history(format!("STOPSIGNAL {signal}"), false);
            }
            InstructionKind::Shell(shell) => {
                let created_by = format!("SHELL {}", go::list(&shell));
                state.image.run_mut().shell.set(shell);
                state.image.push_buildkit_history(created_by, false);
            }
            InstructionKind::Workdir(path) => {
                if !state.workdir_set && !path.starts_with('/') {
                    linter.raise(Violation::WorkdirRelativePath { path: path.clone() }, instruction.lines);
                }
                state.workdir_set = true;
                let path = match path.as_str() {
                    // What is absolute stays as it was written: `/app/`.
                    absolute if absolute.starts_with('/') => path,
                    "" if self.version != Version::V20 && !state.image.working_dir().is_empty() => {
                        state.image.working_dir().to_owned()
                    }
                    _ => working_dir(state.image.working_dir(), &path),
                };
                state.image.run_mut().working_dir.set(path.clone());
                let makes = path != "/";
                state.image.push_buildkit_history(format!("WORKDIR {path}"), makes);
                if makes {
                    let title = self.title(&instruction.original, self.lexer, &variables);
                    let user = state.image.user().to_owned();
                    return Ok(Some((title, Op::Mkdir { path: go::clean_path(&path), user })));
                }
            }
            InstructionKind::Run(run) => {
                let step = self.dispatch_run(place, instruction, &run, state, plan)?;
                return Ok(Some(step));
            }
            InstructionKind::Copy(copy) => {
                let title = self.title(&instruction.original, self.lexer, &variables);
                let from = match sources.from.first().copied().flatten() {
                    Some(source) if source.0 >= states.len() && !self.stages[source.0].is_given() => {
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
                let op = self.dispatch_copy(place, instruction, &copy.paths, from, flags, state, plan).map_err(fail)?;
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
                let from = MountFrom::Context;
                let op = self.dispatch_copy(place, instruction, &add.paths, from, flags, state, plan).map_err(fail)?;
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

    /// Expands a word, and tells which of its variables nothing sets, also where the word turns out to be wrong.
    fn expand_word(
        &self,
        word: &str,
        lexer: Lexer,
        variables: &Variables,
        state: &State,
        lines: LineRange,
    ) -> Result<String, WordError> {
        let expanded = lexer.process_word_with_matches(word, &Lookup(variables));
        let unmatched = match &expanded {
            Ok(expansion) => &expansion.unmatched,
            Err(error) => &error.unmatched,
        };
        if !unmatched.is_empty() {
            let declared: Vec<&str> = state.args.iter().map(|(name, _)| name.as_str()).collect();
            let set: Vec<&str> = state.env.iter().map(|(name, _)| name.as_str()).collect();
            self.linter.raise_all(lint::undefined_variables(unmatched, &declared, &set), lines);
        }
        expanded.map(|expansion| expansion.result)
    }

    fn dispatch_arg(&self, declared: &[ArgVariable], lines: LineRange, state: &mut State) -> Result<(), String> {
        let mut shown = Vec::new();
        for variable in declared {
            self.linter.raise_all(lint::secret("ARG", &variable.key), lines);
            let value = match (self.build_args.get(&variable.key), &variable.value) {
                (Some(given), _) => Some(given.to_owned()),
                (None, Some(default)) => {
                    let variables = state.variables();
                    let expanded = self.expand_word(default, self.lexer, &variables, state, lines);
                    Some(expanded.map_err(|error| error.to_string())?)
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

    fn dispatch_run(
        &self,
        place: Place<'_>,
        instruction: &Instruction,
        run: &Run,
        state: &mut State,
        plan: &mut Plan,
    ) -> Result<(String, Op), PlanError> {
        let lines = Some(emit::lines(instruction.lines));
        let fail = |message: String| PlanError::instruction(message, lines);
        if !run.devices.is_empty() {
            return Err(fail("RUN --device is not supported: there are no CDI devices here".to_owned()));
        }
        check_security(run.security).map_err(fail)?;
        // It may read anything.
        self.reads(StageIndex(place.stage), "/", plan);
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
        for (written, from) in run.mounts.iter().zip(&place.sources.from) {
            let mount = Mount::parse_with(written, self.version, |word| {
                self.expand_word(word, self.lexer, &variables, state, instruction.lines)
            });
            let mount = mount.map_err(|error| fail(error.message(self.version)))?;
            if let (MountType::Secret, Some(name)) = (mount.kind, &mount.env) {
                masked.set(name, "****");
            }
            mounts.push(self.run_mount(place.stage, mount, *from, place.states, state, plan).map_err(fail)?);
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
            cwd: if state.image.working_dir().is_empty() {
                "/".to_owned()
            } else {
                go::clean_path(state.image.working_dir())
            },
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
                if index.0 >= states.len() && !self.stages[index.0].is_given() || index.0 == stage {
                    return Err(format!(
                        "cannot mount from stage {} to {}, stage needs to be defined before current command",
                        go::quote(mount.from.as_deref().unwrap_or_default()),
                        go::quote(&written_target)
                    ));
                }
                self.reads(index, &source, plan);
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

    #[allow(clippy::too_many_arguments)]
    fn dispatch_copy(
        &self,
        place: Place<'_>,
        instruction: &Instruction,
        paths: &SourcesAndDest,
        from: MountFrom,
        flags: CopyFlags,
        state: &mut State,
        plan: &mut Plan,
    ) -> Result<Op, String> {
        let variables = state.variables();
        let mut contents = Vec::new();
        for content in &paths.contents {
            let data = if content.expand {
                let text = String::from_utf8_lossy(&content.data);
                let lexer = Lexer::for_heredoc().version(self.version);
                let expanded = self.expand_word(&text, lexer, &variables, state, instruction.lines);
                expanded.map_err(|error| error.to_string())?.into_bytes()
            } else {
                content.data.clone()
            };
            contents.push((content.path.clone(), data));
        }
        let dest = copy_dest(state.image.working_dir(), &paths.dest);
        if let Some(chmod) = &flags.chmod
            && self.version == Version::V28
        {
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
                    if (place.ignored)(source) {
                        let violation =
                            Violation::CopyIgnoredFile { is_add: flags.instruction == "ADD", path: source.clone() };
                        self.linter.raise(violation, instruction.lines);
                    }
                    plan.context_paths.insert(if absolute.is_empty() { "/".to_owned() } else { absolute });
                } else if let MountFrom::Stage(stage) = from {
                    self.reads(stage, &absolute, plan);
                }
                sources.push(files_source(source, flags.parents, from, flags.unpack));
            }
        }
        for (name, data) in contents {
            created_by.push_str(&format!(" <<{name}"));
            sources.push(CopySource::Inline { name, data });
        }
        created_by.push_str(&format!(" {} # buildkit", paths.dest));
        state.image.push_buildkit_history(created_by, true);
        Ok(Op::Copy(CopyOp {
            sources,
            dest,
            chown: flags.chown.filter(|owner| !owner.is_empty()),
            // 20.10 passes over what is not octal.
            chmod: flags.chmod.filter(|mode| match self.version {
                Version::V20 => u32::from_str_radix(mode, 8).is_ok_and(|mode| mode <= 0o7777),
                Version::V28 => !mode.is_empty(),
            }),
            link: flags.link,
            exclude: flags.exclude,
        }))
    }
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
pub(super) struct State {
    pub(super) image: StageImage,
    /// The environment of RUN: that of the image, and build arguments, in the order in which they were last set.
    env: Vec<(String, String)>,
    /// Build arguments declared, in order.
    args: Vec<(String, String)>,
    /// Lines of the last CMD, ENTRYPOINT and HEALTHCHECK of the stage.
    cmd: Option<LineRange>,
    entrypoint: Option<LineRange>,
    healthcheck: Option<LineRange>,
    /// Whether this stage, or one that it begins with, has a WORKDIR.
    workdir_set: bool,
}

impl State {
    pub(super) fn new(image: StageImage) -> State {
        State {
            image,
            env: Vec::new(),
            args: Vec::new(),
            cmd: None,
            entrypoint: None,
            healthcheck: None,
            workdir_set: false,
        }
    }

    /// What a stage begins with whose base this is.
    pub(super) fn next_stage(&self) -> State {
        State { cmd: None, entrypoint: None, healthcheck: None, ..self.clone() }
    }

    pub(super) fn set_env(&mut self, name: &str, value: &str) {
        self.env.retain(|(old, _)| old != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    fn variables(&self) -> Variables {
        let mut variables = Variables::default();
        for (name, value) in &self.env {
            variables.set(name, value);
        }
        variables
    }
}
