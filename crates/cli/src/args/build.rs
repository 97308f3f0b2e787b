//! The flags of `rbuild [build]`, as written.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use rbuild_executor::{Breakpoint, Ulimit};

use super::output::{OutputSpec, parse_output};
use super::shared::{CommonArgs, RegistryArgs};
use super::values::{self, Assignment, CallSpec, SecretSpec, SshSpec};
use crate::logs::LogFileSpec;

/// Build an image from a Dockerfile.
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// Directory of the build context, a URL, or `-` for a tar (plain or compressed) or a Dockerfile on standard input.
    #[arg(value_name = "PATH | URL | -")]
    pub(crate) contexts: Vec<PathBuf>,

    /// The Dockerfile [default: PATH/Dockerfile]; `-` reads it from standard input.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Name, and tag if any, of the image. May be repeated.
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub(crate) tag: Vec<String>,
    /// Set an argument of the build; with a name alone, its value comes from the environment. May be repeated.
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = values::assignment)]
    pub(crate) build_arg: Vec<Assignment>,
    /// Stage to build [default: the last one].
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// Label of the image. May be repeated.
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = values::label)]
    pub(crate) label: Vec<(String, String)>,
    /// Platform of the image, as linux/arm64 [default: this machine's].
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<String>,
    /// Another build context, for FROM and --from to name. May be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::build_context)]
    pub(crate) build_context: Vec<(String, String)>,

    /// Do not read the build cache.
    #[arg(long, help_heading = "Cache")]
    pub(crate) no_cache: bool,
    /// Do not read the build cache for this stage. May be repeated; several stages may be separated by commas.
    #[arg(long, value_name = "STAGE", help_heading = "Cache")]
    pub(crate) no_cache_filter: Vec<String>,
    /// Ask the registries for base images even where the store has them.
    #[arg(long, help_heading = "Cache")]
    pub(crate) pull: bool,

    /// Network of RUN steps: `host` (also `default`) or `none`.
    #[arg(long, value_name = "MODE", help_heading = "RUN steps")]
    pub(crate) network: Option<NetworkArg>,
    /// Line for /etc/hosts; `host-gateway` as address stands for the host. May be repeated.
    #[arg(long, value_name = "HOST:IP", value_parser = values::add_host, help_heading = "RUN steps")]
    pub(crate) add_host: Vec<(String, String)>,
    /// Size of /dev/shm, as 64m [default: 64m].
    #[arg(long, value_name = "SIZE", value_parser = values::size, help_heading = "RUN steps")]
    pub(crate) shm_size: Option<u64>,
    /// Resource limit. May be repeated.
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = values::ulimit, help_heading = "RUN steps")]
    pub(crate) ulimit: Vec<Ulimit>,
    /// Secret that RUN --mount=type=secret may read. May be repeated.
    #[arg(
        long,
        value_name = "id=NAME[,src=FILE|,env=VARIABLE]",
        value_parser = values::secret,
        help_heading = "RUN steps"
    )]
    pub(crate) secret: Vec<SecretSpec>,
    /// SSH agent that RUN --mount=type=ssh may use. May be repeated.
    #[arg(long, value_name = "default|ID=SOCKET", value_parser = values::ssh, help_heading = "RUN steps")]
    pub(crate) ssh: Vec<SshSpec>,
    /// How RUN steps are confined: `auto` takes the strongest way that works here (see `rbuild doctor`).
    #[arg(long, value_name = "KIND", help_heading = "RUN steps")]
    pub(crate) isolation: Option<IsolationArg>,

    /// What to make: type=store|docker|oci|tar|local|registry, with dest=, name=, tar=false, push=true as the type has
    /// them; a path alone is type=local, `-` is a tar on standard output. May be repeated.
    #[arg(short, long, value_name = "PATH | - | type=TYPE[,KEY=VALUE]", value_parser = parse_output, help_heading = "Result")]
    pub(crate) output: Vec<OutputSpec>,
    /// Push the image to the registries that its names say.
    #[arg(long, help_heading = "Result")]
    pub(crate) push: bool,
    /// Keep the image in the store (the default; with --output or --push: also in the store).
    #[arg(long, help_heading = "Result")]
    pub(crate) load: bool,
    /// Write the image id to this file.
    #[arg(long, value_name = "FILE", help_heading = "Result")]
    pub(crate) iidfile: Option<PathBuf>,
    /// Write digests and names of the image to this file, as JSON.
    #[arg(long, value_name = "FILE", help_heading = "Result")]
    pub(crate) metadata_file: Option<PathBuf>,
    /// Write what is known of a failure to this file, as JSON: stage, step, lines, command, exit code or signal, the last
    /// lines of output, changed files, the kept image.
    #[arg(long, value_name = "FILE", help_heading = "Result")]
    pub(crate) failure_file: Option<PathBuf>,
    /// When a RUN fails, give the half-built image the names of --tag with `-failed` added, and tell its id (also in the
    /// file of --iidfile). The exit code is that of the failure.
    #[arg(short, long, help_heading = "Result")]
    pub(crate) interactive: bool,
    #[command(flatten)]
    pub(crate) stops: StopArgs,
    /// How much of failed RUNs is kept in the store, as 10g; older ones go. 0 keeps nothing [default: 10g].
    #[arg(long, value_name = "SIZE", value_parser = values::size, help_heading = "Result")]
    pub(crate) keep_failed: Option<u64>,
    /// Every time in the result, in seconds since 1970 [default: $SOURCE_DATE_EPOCH, else the current time].
    #[arg(long, value_name = "SECONDS", value_parser = values::timestamp, help_heading = "Result")]
    pub(crate) timestamp: Option<i64>,

    /// Show nothing but the id of the image.
    #[arg(short, long, help_heading = "Log")]
    pub(crate) quiet: bool,
    /// Form of the log: `docker` and `buildkit` also choose whose semantics hold [default: tty on a terminal, else
    /// buildkit].
    #[arg(long, value_name = "FORMAT", help_heading = "Log")]
    pub(crate) log_format: Option<LogFormat>,
    /// BuildKit's names for forms of the log.
    #[arg(long, value_name = "FORM", help_heading = "Log")]
    pub(crate) progress: Option<Progress>,
    /// Docker release whose log and semantics are reproduced [default: 28].
    #[arg(long, value_name = "RELEASE", help_heading = "Log")]
    pub(crate) docker_version: Option<DockerVersion>,
    /// Write the log into this file too, in the same form or in another: docker, buildkit, rawjson or events, as
    /// events:build.events. What a form has on two streams is there in the order in which it was written; --quiet is for
    /// the terminal alone. May be repeated.
    #[arg(long, value_name = "[FORMAT:]FILE", value_parser = values::log_file, help_heading = "Log")]
    pub(crate) log_file: Vec<LogFileSpec>,
    /// Show all that a step writes where BuildKit clips it (2 MiB of a step, 200 KiB a second).
    #[arg(long, help_heading = "Log")]
    pub(crate) no_clip: bool,
    /// With --log-format=docker: run what only BuildKit can do instead of refusing it.
    #[arg(long, help_heading = "Log")]
    pub(crate) lenient: bool,

    /// Check the Dockerfile for what Docker warns of, and build nothing.
    #[arg(long, help_heading = "Checks")]
    pub(crate) check: bool,
    /// What to do with the Dockerfile: `build`, or `check` (also `lint`) as --check, with `,format=json` to print JSON and
    /// `,ignorestatus=true` to end well in spite of warnings.
    #[arg(long, value_name = "CALL", value_parser = values::call, overrides_with = "check", help_heading = "Checks")]
    pub(crate) call: Option<CallSpec>,

    /// Unpack xz archives in ADD, or do not [default: as the recorded Docker: 20 yes, 28 no]
    ///
    /// Docker unpacks them only where its daemon finds an `xz` program.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) unpack_xz: Option<bool>,

    #[command(flatten)]
    pub(crate) common: CommonArgs,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    /// With --log-format=docker: say that containers of steps are removed; none is ever kept [default: true].
    #[arg(long, value_name = "BOOL", value_parser = values::boolean, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", help_heading = "Log")]
    pub(crate) rm: Option<bool>,
    /// As --rm, also of a RUN that fails.
    #[arg(long, help_heading = "Log")]
    pub(crate) force_rm: bool,

    #[command(flatten)]
    pub(crate) harmless: HarmlessArgs,
    #[command(flatten)]
    pub(crate) refused: RefusedArgs,
}

/// `--network`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkArg {
    /// What rbuild does by default: the host's.
    Default,
    /// The host's.
    Host,
    /// None but loopback.
    None,
}

/// `--isolation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IsolationArg {
    /// The strongest that works here.
    #[value(alias = "default")]
    Auto,
    /// A user namespace.
    Userns,
    /// A changed root without mounts.
    Chroot,
    /// Path translation without any privilege.
    Ptrace,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// The log of Docker's legacy builder, byte for byte.
    Docker,
    /// BuildKit's plain log, byte for byte.
    Buildkit,
    /// Steps shown live on a terminal.
    Tty,
    /// BuildKit's status messages as JSON lines.
    Rawjson,
    /// rbuild's own events as JSON lines.
    Events,
}

/// `--progress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Progress {
    /// `tty` on a terminal, else `plain`.
    Auto,
    /// `--log-format=buildkit`.
    Plain,
    /// `--log-format=tty`.
    Tty,
    /// `--quiet`.
    Quiet,
    /// `--log-format=rawjson`.
    Rawjson,
}

/// `--docker-version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DockerVersion {
    /// Docker 28.5 with buildx 0.29.
    #[value(name = "28")]
    V28,
    /// Docker 20.10.
    #[value(name = "20")]
    V20,
}

/// Flags of docker build that change nothing here: nothing is sent to a daemon, and no attestation is made.
#[derive(Debug, Args)]
#[allow(dead_code, reason = "taken from the command line and, being harmless, never looked at")]
pub(crate) struct HarmlessArgs {
    #[arg(long, hide = true)]
    compress: bool,
    #[arg(long, hide = true)]
    disable_content_trust: bool,
    #[arg(long, hide = true)]
    builder: Option<String>,
    /// As docker's: the same as -v.
    #[arg(short = 'D', long, hide = true)]
    pub(crate) debug: bool,
}

/// Flags of docker build whose effect rbuild does not have. They are known so that the refusal says so.
#[derive(Debug, Args)]
pub(crate) struct RefusedArgs {
    #[arg(long, hide = true)]
    allow: Vec<String>,
    #[arg(long, hide = true)]
    annotation: Vec<String>,
    #[arg(long, hide = true)]
    attest: Vec<String>,
    #[arg(long, hide = true)]
    cache_from: Vec<String>,
    #[arg(long, hide = true)]
    cache_to: Vec<String>,
    #[arg(long, hide = true)]
    cgroup_parent: Option<String>,
    #[arg(long, hide = true)]
    cpu_period: Option<String>,
    #[arg(long, hide = true)]
    cpu_quota: Option<String>,
    #[arg(short = 'c', long, hide = true)]
    cpu_shares: Option<String>,
    #[arg(long, hide = true)]
    cpuset_cpus: Option<String>,
    #[arg(long, hide = true)]
    cpuset_mems: Option<String>,
    #[arg(short = 'm', long, hide = true)]
    memory: Option<String>,
    #[arg(long, hide = true)]
    memory_swap: Option<String>,
    #[arg(long, hide = true)]
    provenance: Option<String>,
    #[arg(long, hide = true)]
    sbom: Option<String>,
    #[arg(long, hide = true)]
    security_opt: Vec<String>,
    #[arg(long, hide = true)]
    squash: bool,
    #[arg(long, hide = true)]
    stream: bool,
}

impl RefusedArgs {
    /// The first flag that asks for something that would not be done, and what to do instead.
    pub(crate) fn first(&self) -> Option<(&'static str, &'static str)> {
        const CGROUPS: &str = "rbuild makes no cgroup; limit the whole build with `systemd-run --user --scope -p …`, your batch \
                               system or --ulimit";
        const ATTEST: &str = "no attestations are made; leave the flag out, or give it the value false";
        const CACHE: &str = "the build cache is in the store; keep the store between builds (--root, RBUILD_ROOT)";
        let no = |value: &Option<String>| value.as_deref().is_some_and(|v| values::boolean(v) != Ok(false));
        // The host's network is what RUN steps have anyway.
        let allow = self.allow.iter().any(|what| what != "network.host");
        [
            ("--allow", allow, "RUN steps get no privileges beyond Docker's default; only network.host is known"),
            ("--annotation", !self.annotation.is_empty(), "use --label, which is kept in the image's configuration"),
            ("--attest", self.attest.iter().any(|a| !a.contains("disabled=true")), ATTEST),
            ("--cache-from", !self.cache_from.is_empty(), CACHE),
            ("--cache-to", !self.cache_to.is_empty(), CACHE),
            ("--cgroup-parent", self.cgroup_parent.is_some(), CGROUPS),
            ("--cpu-period", self.cpu_period.is_some(), CGROUPS),
            ("--cpu-quota", self.cpu_quota.is_some(), CGROUPS),
            ("--cpu-shares", self.cpu_shares.is_some(), CGROUPS),
            ("--cpuset-cpus", self.cpuset_cpus.is_some(), "run the whole build under `taskset`"),
            ("--cpuset-mems", self.cpuset_mems.is_some(), "run the whole build under `numactl`"),
            ("--memory", self.memory.is_some(), CGROUPS),
            ("--memory-swap", self.memory_swap.is_some(), CGROUPS),
            ("--provenance", no(&self.provenance), ATTEST),
            ("--sbom", no(&self.sbom), ATTEST),
            (
                "--security-opt",
                !self.security_opt.is_empty(),
                "RUN steps are confined as Docker's default does; see --isolation",
            ),
            ("--squash", self.squash, "build FROM scratch with COPY --from=STAGE / / as the last stage instead"),
            ("--stream", self.stream, "the context is read where it is; leave the flag out"),
        ]
        .into_iter()
        .find_map(|(flag, set, hint)| set.then_some((flag, hint)))
    }
}

/// Where a build stops for a shell.
#[derive(Debug, Default, Args)]
pub(crate) struct StopArgs {
    /// When a RUN fails, open a shell in it, with its environment, user, directory and mounts: `exit 0` there makes what
    /// is left the step's layer and goes on, any other exit ends the build. With `shell:PROGRAM`, that program.
    #[arg(long, value_name = "shell[:PROGRAM]", value_parser = values::on_error, help_heading = "Debugging")]
    pub(crate) on_error: Option<values::OnError>,
    /// Open a shell before a step: a line of the Dockerfile, or STAGE:STEP as the log counts them. May be repeated.
    #[arg(long = "break", value_name = "LINE|STAGE:STEP", help_heading = "Debugging")]
    pub(crate) breakpoints: Vec<Breakpoint>,
    /// In an image without a shell use a statically linked busybox of this machine: that of PATH, or this file.
    #[arg(long, value_name = "BUSYBOX", num_args = 0..=1, require_equals = true, default_missing_value = "",
        help_heading = "Debugging")]
    pub(crate) with_shell: Option<PathBuf>,
}
