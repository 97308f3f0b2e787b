//! The commands and their flags, as written.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::build::{BuildArgs, LogFormat, StopArgs};
use super::container::{CommitArgs, ConfigArgs, ContainersArgs, CopyArgs, FromArgs, RmArgs};
use super::run::{CpArgs, ExportArgs, RunArgs};
use super::shared::{CommonArgs, RegistryArgs};
use super::values;
use crate::logs::LogFileSpec;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "rbuild",
    version,
    about = "Build container images from Dockerfiles with no daemon, no root and no privileges",
    override_usage = "rbuild [OPTIONS] PATH | URL | -\n       rbuild COMMAND [OPTIONS] …",
    after_help = "The flags of a build are shown by `rbuild build --help`. A directory that is named like a command is\n\
                  reached as `./images`. Every flag of a build can also be set by a variable, as RBUILD_LOG_FORMAT or\n\
                  RBUILD_TAG (several values: one a line, or separated by spaces); a flag of another command by\n\
                  RBUILD_COMMAND_FLAG, as RBUILD_LOGIN_USERNAME."
)]
pub(crate) struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image (the default command).
    #[command(override_usage = "rbuild [build] [OPTIONS] PATH | URL | -")]
    Build(Box<BuildArgs>),
    /// Clone a git repository at a commit, find its Dockerfile, and build that in its own directory.
    #[command(
        override_usage = "rbuild repo [OPTIONS] URL[@COMMIT]",
        after_help = "Example:\n  rbuild repo -t app https://github.com/owner/app@3f2a9c1e…\n\nThe flags are those of \
                      `rbuild build`. COMMIT may also be a branch or a tag; without it, the default branch is built."
    )]
    Repo(Box<RepoArgs>),
    /// Run a command in an image.
    Run(Box<RunArgs>),
    /// Open a shell in a failed build, in a step, or in an image.
    Shell(Box<ShellArgs>),
    /// List the files that a step changed.
    Diff(DiffArgs),
    /// Show a file as a step left it.
    Cat(CatArgs),
    /// Write the file system of an image as a tar.
    Export(ExportArgs),
    /// Copy a file or directory out of an image.
    Cp(CpArgs),
    /// Begin a working container: an image made by hand.
    From(FromArgs),
    /// Copy files into a working container.
    #[command(
        override_usage = "rbuild copy [OPTIONS] CONTAINER SRC... [DEST]",
        after_help = "Examples:\n  rbuild copy work app.conf /etc/\n  rbuild copy --chown web:web work site /srv/site\n  \
                      rbuild copy --from builder:1 work /out/app /usr/bin/\n\nPaths are yours, or lie in what --from or \
                      --contextdir names. Of a directory the content is copied. DEST is absolute, or relative to the \
                      container's working directory, which is the default. A digest of what was copied is written to \
                      standard output."
    )]
    Copy(CopyArgs),
    /// As `copy`; archives are unpacked, and what an address names is fetched.
    #[command(
        override_usage = "rbuild add [OPTIONS] CONTAINER SRC... [DEST]",
        after_help = "Examples:\n  rbuild add work rootfs.tar.gz /\n  rbuild add work https://example.com/tool /usr/bin/\n\n\
                      Everything else is as with `rbuild copy`."
    )]
    Add(CopyArgs),
    /// Change what an image of a working container will say.
    Config(Box<ConfigArgs>),
    /// Make an image of a working container.
    Commit(CommitArgs),
    /// Remove working containers.
    Rm(RmArgs),
    /// List working containers.
    Containers(ContainersArgs),
    /// List images.
    Images(ImagesArgs),
    /// Remove names of images, and images without names.
    Rmi(RmiArgs),
    /// Give an image another name.
    #[command(override_usage = "rbuild tag [OPTIONS] IMAGE NAME[:TAG]")]
    Tag(TagArgs),
    /// Remove images without names, the build cache, or everything.
    Prune(PruneArgs),
    /// Write images into an archive.
    Save(SaveArgs),
    /// Read images from an archive.
    Load(LoadArgs),
    /// Download an image.
    Pull(PullArgs),
    /// Upload an image.
    Push(PushArgs),
    /// Log in to a registry.
    Login(LoginArgs),
    /// Forget the credentials of a registry.
    Logout(LogoutArgs),
    /// Show images in full, as JSON.
    Inspect(InspectArgs),
    /// Show how an image was made.
    History(HistoryArgs),
    /// Show the log of a recorded build, in any form, without building.
    Replay(ReplayArgs),
    /// List builds; show one, its log, or what it left.
    Builds(BuildsArgs),
    /// Build again from the failed instruction on.
    #[command(
        after_help = "Example: rbuild resume\n\nWhat came before the failed instruction is in the build cache. Secrets are \
                      not remembered and must be given again."
    )]
    Resume(ResumeArgs),
    /// Tell what this machine allows and what is missing.
    Doctor(DoctorArgs),
    /// Write the completion script of a shell.
    Completion(CompletionArgs),
    /// Write the manual page.
    Man(ManArgs),
    /// Show the version.
    Version(VersionArgs),
}

/// Forms that lists are shown in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    /// Columns with headers.
    #[default]
    Table,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct RepoArgs {
    /// The Dockerfile, from the root of the repository [default: the one that --find lists first].
    #[arg(long, value_name = "PATH", conflicts_with = "file")]
    pub(crate) dockerfile: Option<PathBuf>,
    /// List the Dockerfiles of the repository, that which would be built first, and build nothing.
    #[arg(long)]
    pub(crate) find: bool,
    #[command(flatten)]
    pub(crate) build: BuildArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Only images of this name.
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub(crate) names: Vec<String>,
    /// Show intermediate images too.
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Show digests.
    #[arg(long)]
    pub(crate) digests: bool,
    /// Do not shorten ids.
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Show ids only.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Form of the list.
    #[arg(long, value_name = "FORM")]
    pub(crate) format: Option<ListFormat>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RmiArgs {
    /// Names, ids or beginnings of ids.
    #[arg(value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
    /// Remove an image that has several names; no error for an image there is not.
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Keep intermediate images that nothing needs any more.
    #[arg(long)]
    pub(crate) no_prune: bool,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// The image, and its new name.
    #[arg(value_name = "IMAGE NAME")]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Remove every image and the build cache, not only images without names. Working containers stay, with the layers
    /// they lie on.
    #[arg(short, long, conflicts_with = "cache")]
    pub(crate) all: bool,
    /// Remove the build cache only.
    #[arg(long)]
    pub(crate) cache: bool,
    /// Do not ask.
    #[arg(short, long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Forms of archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ArchiveFormat {
    /// As `docker save` writes it.
    Docker,
    /// An OCI image layout.
    Oci,
}

#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// Names, ids or beginnings of ids.
    #[arg(value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
    /// Write what is left of a failed build [default: the last one], with all that it needs to go on elsewhere: `rbuild
    /// shell FILE` and `rbuild resume FILE` read it. It holds the build context.
    #[arg(long)]
    pub(crate) failed: bool,
    /// File to write [default: standard output].
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Form of the archive [default: docker].
    #[arg(long, value_name = "FORM")]
    pub(crate) format: Option<ArchiveFormat>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    #[arg(hide = true)]
    pub(crate) rest: Vec<String>,
    /// Archive to read, plain or compressed [default: standard input].
    #[arg(short, long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// Show no progress.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// The image.
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub(crate) images: Vec<String>,
    /// Platform, as linux/arm64 [default: this machine's].
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<String>,
    /// Show nothing but the name.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// The image.
    #[arg(value_name = "NAME[:TAG]")]
    pub(crate) images: Vec<String>,
    /// Push every tag of this name.
    #[arg(short, long)]
    pub(crate) all_tags: bool,
    /// Show nothing but the name.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

#[derive(Args)]
pub(crate) struct LoginArgs {
    /// The registry [default: Docker Hub].
    #[arg(value_name = "SERVER")]
    pub(crate) servers: Vec<String>,
    /// User name.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) username: Option<String>,
    /// Password or access token; other users of this machine may see it, --password-stdin is safer.
    #[arg(short, long, value_name = "PASSWORD", hide_env_values = true)]
    pub(crate) password: Option<String>,
    /// Read the password from standard input.
    #[arg(long)]
    pub(crate) password_stdin: bool,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

impl std::fmt::Debug for LoginArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoginArgs")
            .field("servers", &self.servers)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    /// The registry [default: Docker Hub].
    #[arg(value_name = "SERVER")]
    pub(crate) servers: Vec<String>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Names, ids or beginnings of ids.
    #[arg(value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
    /// Form: json writes one line.
    #[arg(short, long, value_name = "FORM")]
    pub(crate) format: Option<InspectFormat>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Forms of `inspect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum InspectFormat {
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// Name, id or beginning of an id.
    #[arg(value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
    /// Sizes and dates for people [default: true].
    #[arg(short = 'H', long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", value_parser = values::boolean, hide_default_value = true, action = clap::ArgAction::Set)]
    pub(crate) human: bool,
    /// Do not shorten ids and texts.
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Show ids only.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Form of the list.
    #[arg(long, value_name = "FORM")]
    pub(crate) format: Option<ListFormat>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// What `--log-format=events` or `--log-file events:FILE` wrote; `-` is standard input.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Wait between events as long as the build took.
    #[arg(long)]
    pub(crate) realtime: bool,
    /// Form of the log [default: docker or buildkit, as the builder was].
    #[arg(long, value_name = "FORMAT", help_heading = "Log")]
    pub(crate) log_format: Option<LogFormat>,
    /// Show nothing but the id of the image, or more than that [default: as the build did].
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = values::boolean, action = clap::ArgAction::Set, help_heading = "Log")]
    pub(crate) quiet: Option<bool>,
    /// Write the log into this file too, in the same form or in another: docker, buildkit, rawjson or events, as
    /// events:build.events. What a form has on two streams is there in the order in which it was written; --quiet is for
    /// the terminal alone. May be repeated.
    #[arg(long, value_name = "[FORMAT:]FILE", value_parser = values::log_file, help_heading = "Log")]
    pub(crate) log_file: Vec<LogFileSpec>,
    /// Show all that a step writes where BuildKit clips it (2 MiB of a step, 200 KiB a second).
    #[arg(long, help_heading = "Log")]
    pub(crate) no_clip: bool,
    /// Of a recorded --check: show what was found as JSON, as --call=check,format=json does.
    #[arg(long, help_heading = "Log")]
    pub(crate) json: bool,
    /// As docker's: warnings of build checks in full.
    #[arg(short = 'D', long, hide = true)]
    pub(crate) debug: bool,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Example: rbuild builds log 6922b4f01a2b --log-format=docker")]
pub(crate) struct BuildsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<BuildsCommand>,
    /// Form of the list.
    #[arg(long, value_name = "FORM")]
    pub(crate) format: Option<ListFormat>,
    /// Show ids only.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// What is done with remembered builds; without one they are listed.
#[derive(Debug, Subcommand)]
pub(crate) enum BuildsCommand {
    /// Show what is known of a build: its steps, and what failed; all of it as JSON where nobody looks.
    Show {
        /// Its id, or the beginning of it [default: the last build].
        build: Option<String>,
        /// Form [default: a table on a terminal, else JSON].
        #[arg(long, value_name = "FORM")]
        format: Option<ListFormat>,
    },
    /// Show the log of a build.
    Log {
        /// Its id, or the beginning of it [default: the last build].
        build: Option<String>,
        /// Form of the log [default: docker or buildkit, as the builder was].
        #[arg(long, value_name = "FORMAT")]
        log_format: Option<LogFormat>,
    },
    /// Forget builds, and remove what is left of their failed steps.
    Rm {
        /// Ids, or beginnings of ids.
        #[arg(required = true, value_name = "BUILD")]
        builds: Vec<String>,
    },
}

/// Open a shell in a failed build, in a step, or in an image.
#[derive(Debug, Args)]
#[command(
    override_usage = "rbuild shell [OPTIONS] [BUILD | STEP | STAGE | IMAGE] [COMMAND] [ARG...]",
    after_help = "Examples:\n  rbuild shell                          what the last failed command left\n  rbuild shell 3 ls -l \
                  /app          after step 3 of the last build\n  rbuild shell --resume                 mend what failed, and \
                  go on\n  rbuild shell --commit app:fixed app   in an image, and keep what is done\n\nA step is its number \
                  in `rbuild builds show`, STAGE:NUMBER, or a STAGE for its last one; BUILD/STEP is one of another build. \
                  Environment, user and working directory are those of the step. Flags are those of `rbuild run`. Without \
                  --commit or --resume what is changed is gone when the shell ends."
)]
pub(crate) struct ShellArgs {
    /// Keep what is left as an image of this name; where the shell ends with an error, `-failed` is added to its tag.
    #[arg(long, value_name = "NAME[:TAG]", conflicts_with = "container")]
    pub(crate) commit: Option<String>,
    /// When the shell ends with 0, go on with the build: what is left is the result of the step.
    #[arg(long, conflicts_with = "container")]
    pub(crate) resume: bool,
    /// With --resume: go on although the Dockerfile or the context is another now.
    #[arg(short, long)]
    pub(crate) force: bool,
    /// With --resume: secret that RUN --mount=type=secret may read. May be repeated.
    #[arg(long, value_name = "id=NAME[,src=FILE|,env=VARIABLE]", value_parser = values::secret)]
    pub(crate) secret: Vec<values::SecretSpec>,
    /// In an image without a shell use a statically linked busybox of this machine: that of PATH, or this file.
    #[arg(long, value_name = "BUSYBOX", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) with_shell: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// List the files that a step changed.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rbuild diff              what the failed, or else the last, step of the last build changed\n  \
                        rbuild diff 3            its step 3\n  rbuild diff builder:2    step 2 of a stage\n\nA is added, C is \
                        changed, D is deleted; with the sizes of files."
)]
pub(crate) struct DiffArgs {
    /// The step, as `rbuild shell` takes it; of an image, its topmost layer.
    #[arg(value_name = "STEP")]
    pub(crate) step: Option<String>,
    /// Form of the list.
    #[arg(long, value_name = "FORM", default_value = "table", hide_default_value = true)]
    pub(crate) format: ListFormat,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// Show a file as a step left it.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  rbuild cat /opt/config.log     in what the last failed command left\n  rbuild cat \
                        3:/etc/passwd       after step 3 of the last build"
)]
pub(crate) struct CatArgs {
    /// The step, as `rbuild shell` takes it, or an image, and the path of the file.
    #[arg(value_name = "[STEP:]PATH")]
    pub(crate) file: String,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    /// The build: its id, the beginning of it, or a file of `rbuild save --failed` [default: the last build].
    #[arg(value_name = "BUILD|FILE")]
    pub(crate) build: Option<String>,
    /// Build although the Dockerfile is another now.
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Begin the failed RUN with what it had done when it failed, not with the step before it.
    #[arg(long)]
    pub(crate) keep_partial: bool,
    #[command(flatten)]
    pub(crate) stops: StopArgs,
    /// Secret that RUN --mount=type=secret may read. May be repeated.
    #[arg(long, value_name = "id=NAME[,src=FILE|,env=VARIABLE]", value_parser = values::secret)]
    pub(crate) secret: Vec<values::SecretSpec>,
    /// Form of the log [default: as the build's].
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// A Dockerfile, or a directory that has one: tell of each RUN what it will run under, and what is likely not to work
    /// in it; `-` reads it from standard input.
    #[arg(value_name = "DOCKERFILE")]
    pub(crate) dockerfile: Option<PathBuf>,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell.
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The command whose page is wanted [default: rbuild itself].
    #[arg(value_name = "COMMAND")]
    pub(crate) command: Option<String>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

impl Command {
    /// The flags that every command has.
    pub(crate) fn common(&self) -> &CommonArgs {
        match self {
            Command::Build(args) => &args.common,
            Command::Repo(args) => &args.build.common,
            Command::Run(args) => &args.common,
            Command::Shell(args) => &args.run.common,
            Command::Diff(args) => &args.common,
            Command::Cat(args) => &args.common,
            Command::Export(args) => &args.common,
            Command::Cp(args) => &args.common,
            Command::Images(args) => &args.common,
            Command::Rmi(args) => &args.common,
            Command::Tag(args) => &args.common,
            Command::Prune(args) => &args.common,
            Command::Save(args) => &args.common,
            Command::Load(args) => &args.common,
            Command::Pull(args) => &args.common,
            Command::Push(args) => &args.common,
            Command::Login(args) => &args.common,
            Command::Logout(args) => &args.common,
            Command::Inspect(args) => &args.common,
            Command::History(args) => &args.common,
            Command::Replay(args) => &args.common,
            Command::Builds(args) => &args.common,
            Command::Resume(args) => &args.common,
            Command::Doctor(args) => &args.common,
            Command::Completion(args) => &args.common,
            Command::Man(args) => &args.common,
            Command::From(args) => &args.common,
            Command::Copy(args) | Command::Add(args) => &args.common,
            Command::Config(args) => &args.common,
            Command::Commit(args) => &args.common,
            Command::Rm(args) => &args.common,
            Command::Containers(args) => &args.common,
            Command::Version(args) => &args.common,
        }
    }

    /// How much is told on standard error: 0 nothing, 1 what is done, 2 and more in detail.
    pub(crate) fn verbosity(&self) -> u8 {
        let debug = match self {
            Command::Build(args) => args.harmless.debug,
            Command::Repo(args) => args.build.harmless.debug,
            _ => false,
        };
        self.common().verbose.max(u8::from(debug))
    }
}
