//! The legacy dialect: each instruction decided as it comes.
//!
//! Follows `builder/dockerfile/{evaluator,dispatchers,internals,buildargs}.go` of moby 28.5 and 20.10. Nothing here
//! touches a file: [`Stage::dispatch`] says what an instruction asks for, and the caller does it.

use std::collections::{BTreeMap, BTreeSet};

use rbuild_image::config::{ContainerConfig, ImageConfig};
use rbuild_image::json::Field;
use rbuild_image::platform::Platform;
use rbuild_logfmt::event::Builder;
use rbuild_parser::Version;
use rbuild_parser::words::{Lexer, WordError};
use rbuild_parser::{ArgVariable, CommandLine, Instruction, InstructionKind, SourcesAndDest};

use super::buildkit::{
    CopyOp, CopySource, InlineCommand, Lookup, MountFrom, copy_dest, files_source, inline_command, is_http,
};
use super::image::{HealthTimes, StageImage, Variables, healthcheck, inherit_healthcheck, split_env};
use super::{expand, go, ports};

/// Arguments that need no ARG and leave no trace in the image.
const BUILTIN: &[&str] = &[
    "ALL_PROXY",
    "FTP_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "all_proxy",
    "ftp_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// Build arguments and where they may be used.
#[derive(Clone, Debug, Default)]
pub(crate) struct BuildArgs {
    /// Declared in this stage.
    allowed: BTreeMap<String, Option<String>>,
    /// Declared before the first FROM.
    meta: BTreeMap<String, Option<String>>,
    referenced: BTreeSet<String>,
    given: BTreeMap<String, Option<String>>,
}

impl BuildArgs {
    pub(crate) fn new(given: &[(String, Option<String>)]) -> BuildArgs {
        BuildArgs { given: given.iter().cloned().collect(), ..BuildArgs::default() }
    }

    /// Those of a new stage.
    pub(crate) fn for_stage(&self) -> BuildArgs {
        BuildArgs { allowed: BTreeMap::new(), ..self.clone() }
    }

    pub(crate) fn merge_referenced(&mut self, stage: &BuildArgs) {
        self.referenced.extend(stage.referenced.iter().cloned());
    }

    /// Given, but never used.
    pub(crate) fn unused(&self) -> Vec<String> {
        let unused = self.given.keys().filter(|name| !self.referenced.contains(*name) && !is_builtin(name));
        unused.cloned().collect()
    }

    /// Takes an ARG before the first FROM.
    ///
    /// # Errors
    /// Docker's text.
    pub(crate) fn add_meta(&mut self, variables: &[ArgVariable], lexer: Lexer) -> Result<(), String> {
        let mut known = Variables::default();
        for (name, value) in self.values(&self.allowed) {
            known.set(&name, &value);
        }
        let expanded = expand::expand_args(variables, &mut |word| lexer.process_word(word, &Lookup(&known)));
        for variable in expanded.map_err(|error| error.to_string())? {
            self.declare(&variable.key, variable.value.clone());
            self.meta.insert(variable.key, variable.value);
        }
        Ok(())
    }

    fn declare(&mut self, name: &str, value: Option<String>) {
        self.allowed.insert(name.to_owned(), value);
        self.referenced.insert(name.to_owned());
    }

    fn value(&self, name: &str, among: &BTreeMap<String, Option<String>>) -> Option<String> {
        if let Some(Some(given)) = self.given.get(name) {
            return Some(given.clone());
        }
        among.get(name).cloned().flatten().or_else(|| self.meta.get(name).cloned().flatten())
    }

    fn values(&self, among: &BTreeMap<String, Option<String>>) -> BTreeMap<String, String> {
        let names = among.keys().map(String::as_str).chain(BUILTIN.iter().copied());
        names.filter_map(|name| Some((name.to_owned(), self.value(name, among)?))).collect()
    }

    /// Variables for FROM.
    pub(crate) fn meta_variables(&self) -> Variables {
        let mut variables = Variables::default();
        for (name, value) in self.values(&self.meta) {
            variables.set(&name, &value);
        }
        variables
    }

    /// What RUN gets beside the environment of the image, `NAME=value` each.
    fn beside(&self, env: &[String]) -> Vec<String> {
        let set: BTreeSet<&str> = env.iter().filter_map(|pair| split_env(pair)).map(|(name, _)| name).collect();
        let values = self.values(&self.allowed).into_iter().filter(|(name, _)| !set.contains(name.as_str()));
        values.map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// Whether an argument is told in history and cache: a builtin one only if ARG declares it.
    fn leaves_trace(&self, pair: &str) -> bool {
        let name = pair.split('=').next().unwrap_or(pair);
        self.allowed.contains_key(name) || !is_builtin(name)
    }
}

fn is_builtin(name: &str) -> bool {
    BUILTIN.contains(&name)
}

/// How instructions are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) lexer: Lexer,
    pub(crate) version: Version,
    /// What only BuildKit can do is done, and neither refused nor passed over.
    pub(crate) lenient: bool,
}

/// A stage as far as its instructions have come.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    pub(crate) image: StageImage,
    pub(crate) args: BuildArgs,
    lexer: Lexer,
    version: Version,
    lenient: bool,
    cmd_set: bool,
    /// The last instruction made a health check that lacks what the one before it had, and takes that over.
    pub(crate) inherits_health: bool,
}

/// What an instruction asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// The configuration changed.
    Commit(Comment),
    /// A directory is made, as far as it is missing.
    Workdir { path: String, comment: Comment },
    /// A command is run.
    Run {
        /// What is executed.
        argv: Vec<String>,
        /// What history and cache have: `argv`, behind the build arguments.
        recorded: Vec<String>,
        /// The environment.
        env: Vec<String>,
        /// Lenient: a here-document that is run as a file of this name.
        script: Option<(String, Vec<u8>)>,
    },
    /// Files come in. The comment is known when the sources have been hashed: [`Stage::copy_comment`].
    Copy(CopyAction),
}

/// COPY or ADD.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CopyAction {
    /// `COPY` or `ADD`.
    pub(crate) instruction: &'static str,
    pub(crate) paths: SourcesAndDest,
    pub(crate) from: Option<String>,
    pub(crate) chown: Option<String>,
    /// Only in the lenient dialect.
    pub(crate) chmod: Option<String>,
    pub(crate) exclude: Vec<String>,
    pub(crate) parents: bool,
}

impl CopyAction {
    /// Whether it asks for something that the legacy builder passes over.
    pub(crate) fn needs_buildkit(&self) -> bool {
        self.parents || !self.exclude.is_empty() || !self.paths.contents.is_empty() || self.chmod.is_some()
    }

    /// The same as an operation of BuildKit's.
    ///
    /// # Errors
    /// Docker's text, for a here-document that cannot be expanded or a wrong mode.
    pub(crate) fn as_buildkit(
        &self,
        working_dir: &str,
        expand: &dyn Fn(&str) -> Result<String, WordError>,
    ) -> Result<CopyOp, String> {
        if let Some(chmod) = &self.chmod {
            super::buildkit::check_chmod(chmod)?;
        }
        let mut sources = Vec::new();
        for written in &self.paths.sources {
            sources.push(if is_http(written) {
                let file_name = super::buildkit::url_file_name(written);
                CopySource::Http { url: written.clone(), file_name, checksum: None, unpack: false }
            } else {
                let from = MountFrom::Context;
                let unpack = self.instruction == "ADD";
                files_source(written, self.parents, from, unpack)
            });
        }
        for content in &self.paths.contents {
            let data = if content.expand {
                let text = String::from_utf8_lossy(&content.data);
                expand(&text).map_err(|error| error.to_string())?.into_bytes()
            } else {
                content.data.clone()
            };
            sources.push(CopySource::Inline { name: content.path.clone(), data });
        }
        Ok(CopyOp {
            sources,
            dest: copy_dest(working_dir, &self.paths.dest),
            chown: self.chown.clone().filter(|owner| !owner.is_empty()),
            chmod: self.chmod.clone().filter(|mode| !mode.is_empty()),
            link: false,
            exclude: self.exclude.clone(),
        })
    }
}

/// The command that history and cache have for an instruction that runs none: shell, `#(nop)` and a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Comment(pub(crate) Vec<String>);

impl Stage {
    pub(crate) fn new(base: Option<&ImageConfig>, platform: &Platform, args: BuildArgs, rules: Rules) -> Stage {
        let Rules { lexer, version, lenient } = rules;
        let mut image = match base {
            Some(base) => StageImage::from_base(base),
            None => StageImage::scratch(platform),
        };
        image.ensure_path();
        let run = image.run_mut();
        run.open_stdin.set(false);
        run.stdin_once.set(false);
        Stage { image, args, lexer, version, lenient, cmd_set: false, inherits_health: false }
    }

    /// The configuration that the cache is asked for: that of the stage, with another command.
    pub(crate) fn probe(&self, command: &[String]) -> ContainerConfig {
        let mut run = self.image.run();
        run.cmd.set(command.to_vec());
        for field in [&mut run.hostname, &mut run.domainname, &mut run.image, &mut run.mac_address] {
            *field = Field::Absent;
        }
        run
    }

    /// `COPY file:HASH in DEST`.
    pub(crate) fn copy_comment(&self, copy: &CopyAction, hash: &str) -> Comment {
        let chown = copy.chown.as_ref().filter(|owner| !owner.is_empty());
        let chown = chown.map(|owner| format!("--chown={owner} ")).unwrap_or_default();
        self.joined_comment(&format!("{} {chown}{hash} in {} ", copy.instruction, copy.paths.dest))
    }

    fn comment(&self, text: String) -> Comment {
        let mut words = self.image.shell();
        words.extend(["#(nop) ".to_owned(), text]);
        Comment(words)
    }

    fn joined_comment(&self, text: &str) -> Comment {
        let mut words = self.image.shell();
        words.push(format!("#(nop) {text}"));
        Comment(words)
    }

    fn resolve(&self, command: &CommandLine) -> Vec<String> {
        if !command.prepend_shell {
            return command.args.clone();
        }
        let mut args = self.image.shell();
        args.extend(command.args.iter().cloned());
        args
    }

    /// Expands a word with what this stage knows.
    ///
    /// # Errors
    /// As the lexer's.
    pub(crate) fn expand(&self, word: &str) -> Result<String, WordError> {
        self.lexer.process_word(word, &Lookup(&self.variables()))
    }

    fn variables(&self) -> Variables {
        let mut variables = Variables::from_env(self.image.env());
        for (name, value) in self.args.beside(self.image.env()).iter().filter_map(|pair| split_env(pair)) {
            variables.set_default(name, value);
        }
        variables
    }

    /// Applies an instruction to the configuration and says what else there is to do.
    ///
    /// # Errors
    /// Docker's text.
    pub(crate) fn dispatch(&mut self, instruction: &Instruction) -> Result<Action, String> {
        self.inherits_health = false;
        let variables = self.variables();
        let lexer = self.lexer;
        let mut word = |word: &str| lexer.process_word(word, &Lookup(&variables));
        let kind = expand::expand(&instruction.kind, &mut word).map_err(|error| error.to_string())?;
        let text = match kind {
            InstructionKind::Env(pairs) => {
                let mut text = "ENV".to_owned();
                for pair in pairs {
                    text.push_str(&format!(" {}={}", pair.key, pair.value));
                    self.image.set_env(&pair.key, &pair.value);
                }
                text
            }
            InstructionKind::Label(pairs) => {
                let mut text = "LABEL".to_owned();
                for pair in pairs {
                    text.push_str(&format!(" {}={}", pair.key, pair.value));
                    self.image.add_label(&pair.key, &pair.value);
                }
                text
            }
            InstructionKind::Maintainer(name) => {
                self.image.set_author(&name);
                format!("MAINTAINER {name}")
            }
            InstructionKind::Arg(declared) => {
                let declared = expand::expand_args(&declared, &mut word).map_err(|error| error.to_string())?;
                let mut shown = Vec::new();
                for variable in declared {
                    shown.push(match &variable.value {
                        Some(value) => format!("{}={value}", variable.key),
                        None => variable.key.clone(),
                    });
                    self.args.declare(&variable.key, variable.value);
                }
                format!("ARG {}", shown.join(" "))
            }
            InstructionKind::Onbuild(trigger) => {
                let text = format!("ONBUILD {trigger}");
                self.image.run_mut().on_build.get_or_default().push(trigger);
                text
            }
            InstructionKind::Cmd(command) => {
                let args = self.resolve(&command);
                let text = format!("CMD {}", go::quote_list(&args));
                self.image.run_mut().cmd.set(args);
                if !command.args.is_empty() {
                    self.cmd_set = true;
                }
                text
            }
            InstructionKind::Entrypoint(command) => {
                // An empty one is none, while an empty CMD is the shell alone.
                let args = if command.args.is_empty() { Vec::new() } else { self.resolve(&command) };
                let text = format!("ENTRYPOINT {}", go::quote_list(&args));
                let cmd_set = self.cmd_set;
                let run = self.image.run_mut();
                run.entrypoint.set(args);
                if !cmd_set {
                    run.cmd = Field::Null;
                }
                text
            }
            InstructionKind::Healthcheck(check) => {
                let times = HealthTimes {
                    interval: check.interval,
                    timeout: check.timeout,
                    start_period: check.start_period,
                    start_interval: check.start_interval,
                };
                let text = match self.version {
                    Version::V20 => format!(
                        "HEALTHCHECK &{{{} {} {} {} {}}}",
                        go::quote_list(&check.test),
                        go::quote(&go::duration(check.interval)),
                        go::quote(&go::duration(check.timeout)),
                        go::quote(&go::duration(check.start_period)),
                        go::quote_rune(i64::from(check.retries)),
                    ),
                    _ => format!(
                        "HEALTHCHECK &{{{} {} {} {} {} {}}}",
                        go::list(&check.test),
                        go::duration(check.interval),
                        go::duration(check.timeout),
                        go::duration(check.start_period),
                        go::duration(check.start_interval),
                        check.retries,
                    ),
                };
                let mut made = healthcheck(check.test, times, i64::from(check.retries));
                if let Some(before) = self.image.run().healthcheck.get() {
                    let own = made.clone();
                    inherit_healthcheck(&mut made, before);
                    self.inherits_health = own != made;
                }
                self.image.run_mut().healthcheck.set(made);
                text
            }
            InstructionKind::Expose(written) => {
                let mut words = Vec::new();
                for port in &written {
                    let expanded = lexer.process_words(port, &Lookup(&variables));
                    words.extend(expanded.map_err(|error| error.to_string())?);
                }
                self.image.expose(&ports::parse(&words, Builder::Legacy, &mut |_| ())?);
                format!("EXPOSE {}", words.join(" "))
            }
            InstructionKind::User(user) => {
                let text = format!("USER {user}");
                self.image.run_mut().user.set(user);
                text
            }
            InstructionKind::Volume(volumes) => {
                self.image.add_volumes(&volumes)?;
                format!("VOLUME {}", go::list(&volumes))
            }
            InstructionKind::StopSignal(signal) => {
                super::check_signal(&signal)?;
                let text = format!("STOPSIGNAL {signal}");
                self.image.run_mut().stop_signal.set(signal);
                text
            }
            InstructionKind::Shell(shell) => {
                let text = format!("SHELL {}", go::list(&shell));
                self.image.run_mut().shell.set(shell);
                text
            }
            InstructionKind::Workdir(path) => {
                if path.is_empty() {
                    return Err("cannot normalize nothing".to_owned());
                }
                let path = super::working_dir(self.image.working_dir(), &path);
                self.image.run_mut().working_dir.set(path.clone());
                let comment = self.joined_comment(&format!("WORKDIR {path}"));
                return Ok(Action::Workdir { path, comment });
            }
            InstructionKind::Run(run) => {
                let inline =
                    if self.lenient { inline_command(&run.command) } else { InlineCommand::plain(&run.command) };
                let argv = self.resolve(&CommandLine { args: inline.args, ..run.command.clone() });
                let beside = self.args.beside(self.image.env());
                let mut recorded = argv.clone();
                if !beside.is_empty() {
                    let told: Vec<String> =
                        beside.iter().filter(|pair| self.args.leaves_trace(pair)).cloned().collect();
                    recorded = std::iter::once(format!("|{}", told.len())).chain(told).chain(recorded).collect();
                }
                let env = self.image.env().iter().cloned().chain(beside).collect();
                return Ok(Action::Run { argv, recorded, env, script: inline.script });
            }
            InstructionKind::Copy(copy) => {
                return Ok(Action::Copy(CopyAction {
                    instruction: "COPY",
                    paths: copy.paths,
                    from: copy.from.filter(|from| !from.is_empty()),
                    chown: copy.chown,
                    chmod: copy.chmod,
                    exclude: copy.exclude,
                    parents: copy.parents,
                }));
            }
            InstructionKind::Add(add) => {
                return Ok(Action::Copy(CopyAction {
                    instruction: "ADD",
                    paths: add.paths,
                    from: None,
                    chown: add.chown,
                    chmod: add.chmod,
                    exclude: add.exclude,
                    parents: false,
                }));
            }
            other => return Err(format!("unsupported command type: {}", other.name())),
        };
        Ok(Action::Commit(self.comment(text)))
    }
}
