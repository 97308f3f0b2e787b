//! Typed instructions, and stages of them.

use std::fmt;

use crate::mount::Device;
use crate::source::{LineRange, Span};
use crate::text::lossy;

/// What a Dockerfile says: arguments before the first FROM, then stages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instructions {
    /// ARG instructions before the first FROM.
    pub meta_args: Vec<Instruction>,
    /// The stages, in order.
    pub stages: Vec<Stage>,
}

/// A FROM and what follows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stage {
    /// The name behind AS, in lower case.
    pub name: Option<String>,
    /// The image or stage it begins with, variables unexpanded.
    pub base: String,
    /// `--platform`, variables unexpanded.
    pub platform: Option<String>,
    /// The comment above that begins with the stage's name.
    pub comment: Option<String>,
    /// FROM as it was written.
    pub keyword: String,
    /// The text of the FROM instruction.
    pub original: String,
    /// Lines of the FROM instruction.
    pub lines: LineRange,
    /// Bytes of the FROM instruction.
    pub span: Span,
    /// What follows it.
    pub instructions: Vec<Instruction>,
}

/// An instruction other than FROM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// The keyword as it was written.
    pub keyword: String,
    /// The text, continuation lines joined, without here-documents; what Docker's logs show.
    pub original: String,
    /// Its lines, here-documents included.
    pub lines: LineRange,
    /// Its bytes, here-documents included.
    pub span: Span,
    /// What it says.
    pub kind: InstructionKind,
}

/// What an instruction says. Strings are as written: variables and quotes are not expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InstructionKind {
    /// ADD.
    Add(Add),
    /// ARG.
    Arg(Vec<ArgVariable>),
    /// CMD.
    Cmd(CommandLine),
    /// COPY.
    Copy(Copy),
    /// ENTRYPOINT.
    Entrypoint(CommandLine),
    /// ENV.
    Env(Vec<KeyValue>),
    /// EXPOSE: ports, sorted as Docker sorts them.
    Expose(Vec<String>),
    /// HEALTHCHECK.
    Healthcheck(Healthcheck),
    /// LABEL.
    Label(Vec<KeyValue>),
    /// MAINTAINER.
    Maintainer(String),
    /// ONBUILD: the instruction it postpones, as text that [`crate::parse_trigger`] reads.
    Onbuild(String),
    /// RUN.
    Run(Run),
    /// SHELL.
    Shell(Vec<String>),
    /// STOPSIGNAL.
    StopSignal(String),
    /// USER.
    User(String),
    /// VOLUME.
    Volume(Vec<String>),
    /// WORKDIR.
    Workdir(String),
}

impl InstructionKind {
    /// The keyword in upper case.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::StopSignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}

/// A name and its value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The name.
    pub key: String,
    /// The value.
    pub value: String,
    /// Whether it was written without `=`.
    pub legacy_form: bool,
}

/// A variable that ARG declares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArgVariable {
    /// The name.
    pub key: String,
    /// The default.
    pub value: Option<String>,
    /// The comment above that begins with its name.
    pub comment: Option<String>,
}

/// A command of RUN, CMD or ENTRYPOINT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// Words of the JSON form, or the whole text of the shell form as one; empty for no command.
    pub args: Vec<String>,
    /// Whether the shell is to be put before it: it is not in JSON form.
    pub prepend_shell: bool,
    /// Here-documents.
    pub files: Vec<InlineFile>,
}

/// A here-document of a RUN.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct InlineFile {
    /// The terminator.
    pub name: String,
    /// The body with its leading tabs.
    pub data: Vec<u8>,
    /// Whether leading tabs are to be removed.
    pub chomp: bool,
    /// Whether no part of the terminator was quoted.
    pub expand: bool,
}

impl fmt::Debug for InlineFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InlineFile")
            .field("name", &self.name)
            .field("data", &lossy(&self.data))
            .field("chomp", &self.chomp)
            .field("expand", &self.expand)
            .finish()
    }
}

/// RUN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// The command.
    pub command: CommandLine,
    /// Values of `--mount`, for [`crate::mount::Mount::parse_with`].
    pub mounts: Vec<String>,
    /// `--network`.
    pub network: Network,
    /// `--security`.
    pub security: Security,
    /// `--device`.
    pub devices: Vec<Device>,
    /// Names of the flags that were given, without dashes, each once, in order.
    pub flags_used: Vec<String>,
}

/// The network of a RUN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Network {
    /// What the build as a whole has.
    #[default]
    Default,
    /// None.
    None,
    /// The host's.
    Host,
}

/// How a RUN is confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Security {
    /// As ever.
    #[default]
    Sandbox,
    /// With all privileges.
    Insecure,
}

/// What COPY and ADD copy, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourcesAndDest {
    /// Paths, patterns and URLs.
    pub sources: Vec<String>,
    /// Here-documents among the sources.
    pub contents: Vec<SourceContent>,
    /// The destination.
    pub dest: String,
}

/// A here-document of a COPY or ADD.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SourceContent {
    /// The name of the file.
    pub path: String,
    /// Its bytes, leading tabs already removed where `<<-` asks for it.
    pub data: Vec<u8>,
    /// Whether variables in it are to be expanded.
    pub expand: bool,
}

impl fmt::Debug for SourceContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceContent")
            .field("path", &self.path)
            .field("data", &lossy(&self.data))
            .field("expand", &self.expand)
            .finish()
    }
}

/// COPY.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copy {
    /// What and where.
    pub paths: SourcesAndDest,
    /// `--from`: a stage, a context or an image.
    pub from: Option<String>,
    /// `--chown`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`.
    pub exclude: Vec<String>,
}

/// ADD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Add {
    /// What and where.
    pub paths: SourcesAndDest,
    /// `--chown`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--exclude`.
    pub exclude: Vec<String>,
    /// `--keep-git-dir`, if given.
    pub keep_git_dir: Option<bool>,
    /// `--checksum`.
    pub checksum: Option<String>,
    /// `--unpack`, if given.
    pub unpack: Option<bool>,
}

/// HEALTHCHECK, as it goes into the image's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// `NONE`; or `CMD` and words; or `CMD-SHELL` and a text.
    pub test: Vec<String>,
    /// `--interval` in nanoseconds, 0 if not given.
    pub interval: i64,
    /// `--timeout` in nanoseconds, 0 if not given.
    pub timeout: i64,
    /// `--start-period` in nanoseconds, 0 if not given.
    pub start_period: i64,
    /// `--start-interval` in nanoseconds, 0 if not given.
    pub start_interval: i64,
    /// `--retries`, 0 if not given.
    pub retries: i32,
}
