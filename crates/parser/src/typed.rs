//! Nodes to typed instructions (BuildKit `frontend/dockerfile/instructions/parse.go`).

use crate::ast::{Dockerfile, Node};
use crate::duration::parse_duration;
use crate::error::{ParseError, ParseErrorKind};
use crate::flags::{FlagType, Flags};
use crate::instruction::{
    Add, ArgVariable, CommandLine, Copy, Healthcheck, InlineFile, Instruction, InstructionKind, Instructions, KeyValue,
    Network, Run, Security, SourceContent, SourcesAndDest, Stage,
};
use crate::mount::{Device, Mount};
use crate::node::strip_onbuild;
use crate::options::{ParseOptions, Version};
use crate::parse::{parse_heredoc, parse_with};
use crate::suggest::nearest_ignoring_case;
use crate::text::lossy;

/// The keywords there are, in upper case.
pub const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

const MILLISECOND: i64 = 1_000_000;

enum Parsed {
    From(Stage),
    Instruction(Instruction),
}

impl Dockerfile {
    /// Reads the nodes as instructions, and gathers them in stages.
    ///
    /// # Errors
    ///
    /// The first thing that Docker refuses.
    pub fn instructions(&self) -> Result<Instructions, ParseError> {
        self.instructions_with(&mut |_, _| ())
    }

    /// As [`Self::instructions`]; each node is shown before it is read, and again when it was
    /// understood.
    pub(crate) fn instructions_with(&self, look: &mut dyn FnMut(&Node, bool)) -> Result<Instructions, ParseError> {
        let version = self.options.version;
        let mut found = Instructions::default();
        for node in &self.nodes {
            let error = |kind, names_line| ParseError { kind, lines: node.lines, version, names_line };
            look(node, false);
            let parsed = parse_instruction(node, self.options).map_err(|kind| error(kind, true))?;
            look(node, true);
            match parsed {
                Parsed::From(stage) => found.stages.push(stage),
                Parsed::Instruction(instruction) => match found.stages.last_mut() {
                    Some(stage) => stage.instructions.push(instruction),
                    None if matches!(instruction.kind, InstructionKind::Arg(_)) => {
                        found.meta_args.push(instruction);
                    }
                    None => return Err(error(ParseErrorKind::NoStage, false)),
                },
            }
        }
        Ok(found)
    }
}

/// Reads the text of an ONBUILD trigger, from this file or from an image.
///
/// # Errors
///
/// What Docker refuses; the lines are those of the trigger's own text, and the message does not
/// name them.
pub fn parse_trigger(expression: &str, options: ParseOptions) -> Result<Instruction, ParseError> {
    let file = parse_with(expression.as_bytes(), options)?;
    let [node] = &file.nodes[..] else {
        return Err(ParseError::reader(
            ParseErrorKind::TriggerNotSingle,
            file.nodes.first().map(|node| node.lines).unwrap_or_default(),
            options.version,
        ));
    };
    let error = |kind| ParseError::reader(kind, node.lines, options.version);
    match parse_instruction(node, options).map_err(error)? {
        Parsed::Instruction(instruction) => Ok(instruction),
        Parsed::From(_) => Err(error(ParseErrorKind::OnbuildTrigger { instruction: "FROM".to_owned() })),
    }
}

fn parse_instruction(node: &Node, options: ParseOptions) -> Result<Parsed, ParseErrorKind> {
    let request = Request { node, options };
    let kind = match node.keyword.to_lowercase().as_str() {
        "from" => return request.from().map(Parsed::From),
        "add" => InstructionKind::Add(request.add()?),
        "arg" => InstructionKind::Arg(request.arg()?),
        "cmd" => InstructionKind::Cmd(request.command_line()?),
        "copy" => InstructionKind::Copy(request.copy()?),
        "entrypoint" => InstructionKind::Entrypoint(request.command_line()?),
        "env" => InstructionKind::Env(request.key_values("ENV")?),
        "expose" => {
            let mut ports = request.at_least_one("EXPOSE")?.to_vec();
            request.no_flags()?;
            ports.sort();
            InstructionKind::Expose(ports)
        }
        "healthcheck" => InstructionKind::Healthcheck(request.healthcheck()?),
        "label" => InstructionKind::Label(request.key_values("LABEL")?),
        "maintainer" => InstructionKind::Maintainer(request.exactly_one("MAINTAINER")?),
        "onbuild" => InstructionKind::Onbuild(request.onbuild()?),
        "run" => InstructionKind::Run(request.run()?),
        "shell" => InstructionKind::Shell(request.shell()?),
        "stopsignal" => {
            // Its flags are not looked at.
            let [signal] = &node.args[..] else {
                return Err(ParseErrorKind::ExactlyOneArgument { instruction: "STOPSIGNAL" });
            };
            InstructionKind::StopSignal(signal.clone())
        }
        "user" => InstructionKind::User(request.exactly_one("USER")?),
        "volume" => InstructionKind::Volume(request.volume()?),
        "workdir" => InstructionKind::Workdir(request.exactly_one("WORKDIR")?),
        _ => {
            return Err(ParseErrorKind::UnknownInstruction {
                suggestion: (options.version >= Version::V28)
                    .then(|| nearest_ignoring_case(&node.keyword, &KEYWORDS))
                    .flatten(),
                keyword: node.keyword.clone(),
            });
        }
    };
    Ok(Parsed::Instruction(Instruction {
        keyword: node.keyword.clone(),
        original: node.original.trim().to_owned(),
        lines: node.lines,
        span: node.span,
        kind,
    }))
}

/// One node on its way to an instruction.
struct Request<'a> {
    node: &'a Node,
    options: ParseOptions,
}

impl Request<'_> {
    fn flags(&self, known: &[(&'static str, FlagType)]) -> Result<Flags, ParseErrorKind> {
        Flags::parse(&self.node.flags, known, self.options.version)
    }

    fn no_flags(&self) -> Result<(), ParseErrorKind> {
        self.flags(&[]).map(drop)
    }

    fn is_v28(&self) -> bool {
        self.options.version >= Version::V28
    }

    fn at_least_one(&self, instruction: &'static str) -> Result<&[String], ParseErrorKind> {
        if self.node.args.is_empty() {
            return Err(ParseErrorKind::AtLeastOneArgument { instruction });
        }
        Ok(&self.node.args)
    }

    fn exactly_one(&self, instruction: &'static str) -> Result<String, ParseErrorKind> {
        let [argument] = &self.node.args[..] else {
            return Err(ParseErrorKind::ExactlyOneArgument { instruction });
        };
        self.no_flags()?;
        Ok(argument.clone())
    }

    /// The comment above that begins with the name.
    fn comment(&self, name: &str) -> Option<String> {
        if name.is_empty() {
            return None;
        }
        let mut comments = self.node.comments.iter();
        comments.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(' ')?.to_owned()))
    }

    fn from(&self) -> Result<Stage, ParseErrorKind> {
        let args = &self.node.args;
        let name = match &args[..] {
            [_] => None,
            [_, keyword, name] if keyword.eq_ignore_ascii_case("as") => {
                let lower = name.to_lowercase();
                let valid = lower.starts_with(|c: char| c.is_ascii_lowercase())
                    && lower
                        .chars()
                        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'));
                if !valid {
                    return Err(ParseErrorKind::InvalidStageName { name: name.clone() });
                }
                Some(lower)
            }
            _ => return Err(ParseErrorKind::FromArguments),
        };
        let flags = self.flags(&[("platform", FlagType::String)])?;
        Ok(Stage {
            comment: name.as_deref().and_then(|name| self.comment(name)),
            name,
            base: args.first().cloned().unwrap_or_default(),
            platform: flags.string("platform"),
            keyword: self.node.keyword.clone(),
            original: self.node.original.trim().to_owned(),
            lines: self.node.lines,
            span: self.node.span,
            instructions: Vec::new(),
        })
    }

    fn key_values(&self, instruction: &'static str) -> Result<Vec<KeyValue>, ParseErrorKind> {
        self.no_flags()?;
        let mut pairs = Vec::new();
        for triple in self.at_least_one(instruction)?.chunks_exact(3) {
            let [key, value, delimiter] = triple else {
                continue;
            };
            if key.is_empty() {
                return Err(ParseErrorKind::BlankName { instruction });
            }
            pairs.push(KeyValue { key: key.clone(), value: value.clone(), legacy_form: delimiter.is_empty() });
        }
        Ok(pairs)
    }

    fn sources_and_dest(&self, instruction: &'static str) -> Result<SourcesAndDest, ParseErrorKind> {
        let no_destination = ParseErrorKind::NoDestination { instruction };
        let Some((dest, sources)) = self.node.args.split_last() else {
            return Err(no_destination);
        };
        let heredoc = |word: &str| match self.options.heredocs {
            true => parse_heredoc(word).ok().flatten(),
            false => None,
        };
        if heredoc(dest).is_some() {
            return Err(ParseErrorKind::HeredocDestination { instruction });
        }
        let mut paths = SourcesAndDest { dest: dest.clone(), ..SourcesAndDest::default() };
        for source in sources {
            let Some(mut heredoc) = heredoc(source) else {
                paths.sources.push(source.clone());
                continue;
            };
            let mut bodies = self.node.heredocs.iter().rev();
            heredoc.content =
                bodies.find(|body| body.name == heredoc.name).map(|body| body.content.clone()).unwrap_or_default();
            paths.contents.push(SourceContent { data: heredoc.text(), path: heredoc.name, expand: heredoc.expand });
        }
        Ok(paths)
    }

    fn at_least_two(&self, instruction: &'static str) -> Result<(), ParseErrorKind> {
        if self.node.args.len() < 2 {
            return Err(ParseErrorKind::NoDestination { instruction });
        }
        Ok(())
    }

    fn add(&self) -> Result<Add, ParseErrorKind> {
        self.at_least_two("ADD")?;
        let mut known = vec![("chown", FlagType::String), ("chmod", FlagType::String)];
        if self.is_v28() {
            known.extend([
                ("link", FlagType::Bool),
                ("keep-git-dir", FlagType::Bool),
                ("checksum", FlagType::String),
                ("unpack", FlagType::Bool),
                ("exclude", FlagType::Strings),
            ]);
        }
        let flags = self.flags(&known)?;
        Ok(Add {
            paths: self.sources_and_dest("ADD")?,
            chown: flags.string("chown"),
            chmod: flags.string("chmod"),
            link: flags.bool("link").unwrap_or_default(),
            exclude: flags.all("exclude").collect(),
            keep_git_dir: flags.bool("keep-git-dir"),
            checksum: flags.string("checksum"),
            unpack: flags.bool("unpack"),
        })
    }

    fn copy(&self) -> Result<Copy, ParseErrorKind> {
        self.at_least_two("COPY")?;
        let mut known = vec![("chown", FlagType::String), ("from", FlagType::String), ("chmod", FlagType::String)];
        if self.is_v28() {
            known.extend([("link", FlagType::Bool), ("exclude", FlagType::Strings)]);
        }
        if self.options.labs {
            known.push(("parents", FlagType::Bool));
        }
        let flags = self.flags(&known)?;
        Ok(Copy {
            paths: self.sources_and_dest("COPY")?,
            from: flags.string("from"),
            chown: flags.string("chown"),
            chmod: flags.string("chmod"),
            link: flags.bool("link").unwrap_or_default(),
            parents: flags.bool("parents").unwrap_or_default(),
            exclude: flags.all("exclude").collect(),
        })
    }

    fn onbuild(&self) -> Result<String, ParseErrorKind> {
        let trigger = self.at_least_one("ONBUILD")?;
        self.no_flags()?;
        let keyword = trigger.first().map(|keyword| keyword.trim().to_uppercase()).unwrap_or_default();
        match keyword.as_str() {
            "ONBUILD" => return Err(ParseErrorKind::ChainedOnbuild),
            "MAINTAINER" | "FROM" => {
                return Err(ParseErrorKind::OnbuildTrigger { instruction: keyword });
            }
            _ => {}
        }
        let mut expression = strip_onbuild(&self.node.original).to_owned();
        for heredoc in &self.node.heredocs {
            expression.push('\n');
            expression.push_str(&lossy(&heredoc.content));
            expression.push_str(&heredoc.name);
        }
        Ok(expression)
    }

    /// The command as JSON words or as one text, with its here-documents.
    fn command(&self) -> CommandLine {
        CommandLine {
            args: command_args(&self.node.args, self.node.json),
            prepend_shell: !self.node.json,
            files: self
                .node
                .heredocs
                .iter()
                .map(|heredoc| InlineFile {
                    name: heredoc.name.clone(),
                    data: heredoc.content.clone(),
                    chomp: heredoc.chomp,
                    expand: heredoc.expand,
                })
                .collect(),
        }
    }

    fn command_line(&self) -> Result<CommandLine, ParseErrorKind> {
        self.no_flags()?;
        Ok(self.command())
    }

    fn run(&self) -> Result<Run, ParseErrorKind> {
        let mut known = vec![("mount", FlagType::Strings)];
        if self.is_v28() {
            known.extend([("device", FlagType::Strings), ("network", FlagType::String)]);
        }
        if self.options.labs {
            known.push(("security", FlagType::String));
        }
        let flags = self.flags(&known)?;
        let devices: Result<Vec<Device>, _> =
            flags.all("device").map(|device| Device::parse(&device).map_err(ParseErrorKind::Device)).collect();
        let devices = devices?;
        let mounts: Vec<String> = flags.all("mount").collect();
        for mount in &mounts {
            Mount::precheck(mount, self.options.version).map_err(ParseErrorKind::Mount)?;
        }
        // A value given empty is not the default, hence no `string()`.
        let network = match flags.all("network").next().as_deref() {
            None | Some("default") => Network::Default,
            Some("none") => Network::None,
            Some("host") => Network::Host,
            Some(mode) => {
                return Err(ParseErrorKind::InvalidNetwork { mode: mode.to_owned() });
            }
        };
        let security = match flags.all("security").next().as_deref() {
            None | Some("sandbox") => Security::Sandbox,
            Some("insecure") => Security::Insecure,
            Some(mode) => {
                return Err(ParseErrorKind::InvalidSecurity { mode: mode.to_owned() });
            }
        };
        Ok(Run { command: self.command(), mounts, network, security, devices, flags_used: flags.used() })
    }

    fn healthcheck(&self) -> Result<Healthcheck, ParseErrorKind> {
        let args = self.at_least_one("HEALTHCHECK")?;
        let (kind, command) = match args.split_first() {
            Some((kind, command)) => (kind.to_uppercase(), command),
            None => (String::new(), args),
        };
        if kind == "NONE" {
            // Its flags are not looked at.
            if !command.is_empty() {
                return Err(ParseErrorKind::HealthcheckNoneArguments);
            }
            return Ok(Healthcheck { test: vec![kind], ..Healthcheck::default() });
        }
        let mut known = vec![
            ("interval", FlagType::String),
            ("timeout", FlagType::String),
            ("start-period", FlagType::String),
            ("retries", FlagType::String),
        ];
        if self.is_v28() {
            known.push(("start-interval", FlagType::String));
        }
        let flags = self.flags(&known)?;
        if kind != "CMD" {
            return Err(ParseErrorKind::HealthcheckUnknownType { kind });
        }
        let command = command_args(command, self.node.json);
        if command.is_empty() {
            return Err(ParseErrorKind::HealthcheckMissingCommand);
        }
        let mut test = vec![if self.node.json { "CMD" } else { "CMD-SHELL" }.to_owned()];
        test.extend(command);
        let interval = |flag| self.interval(&flags, flag);
        Ok(Healthcheck {
            test,
            interval: interval("interval")?,
            timeout: interval("timeout")?,
            start_period: interval("start-period")?,
            start_interval: interval("start-interval")?,
            retries: self.retries(&flags)?,
        })
    }

    fn interval(&self, flags: &Flags, flag: &'static str) -> Result<i64, ParseErrorKind> {
        let Some(text) = flags.string(flag) else {
            return Ok(0);
        };
        match parse_duration(&text).map_err(ParseErrorKind::Duration)? {
            0 if self.is_v28() => Ok(0),
            nanos if nanos < MILLISECOND => Err(ParseErrorKind::IntervalTooShort { flag }),
            nanos => Ok(nanos),
        }
    }

    fn retries(&self, flags: &Flags) -> Result<i32, ParseErrorKind> {
        let Some(value) = flags.string("retries") else {
            return Ok(0);
        };
        let digits = value.strip_prefix(['+', '-']).unwrap_or(&value);
        let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let Ok(retries) = value.parse::<i32>() else {
            return Err(ParseErrorKind::InvalidRetries { value, out_of_range: is_number });
        };
        let least = if self.is_v28() { 0 } else { 1 };
        if retries < least {
            return Err(ParseErrorKind::RetriesTooSmall { retries: i64::from(retries) });
        }
        Ok(retries)
    }

    fn volume(&self) -> Result<Vec<String>, ParseErrorKind> {
        let args = self.at_least_one("VOLUME")?;
        self.no_flags()?;
        args.iter()
            .map(|volume| match volume.trim() {
                "" => Err(ParseErrorKind::EmptyVolume),
                volume => Ok(volume.to_owned()),
            })
            .collect()
    }

    fn arg(&self) -> Result<Vec<ArgVariable>, ParseErrorKind> {
        // Its flags are not looked at.
        self.at_least_one("ARG")?
            .iter()
            .map(|word| {
                let (key, value) = match word.split_once('=') {
                    Some(("", _)) => {
                        return Err(ParseErrorKind::BlankName { instruction: "ARG" });
                    }
                    Some((key, value)) => (key, Some(value.to_owned())),
                    None => (word.as_str(), None),
                };
                Ok(ArgVariable { key: key.to_owned(), value, comment: self.comment(key) })
            })
            .collect()
    }

    fn shell(&self) -> Result<Vec<String>, ParseErrorKind> {
        self.no_flags()?;
        let shell = self.at_least_one("SHELL")?.to_vec();
        if !self.node.json {
            return Err(ParseErrorKind::NotJson { instruction: "SHELL" });
        }
        Ok(shell)
    }
}

/// JSON words as they are, anything else as one text.
fn command_args(args: &[String], json: bool) -> Vec<String> {
    if json || args.is_empty() { args.to_vec() } else { vec![args.join(" ")] }
}
