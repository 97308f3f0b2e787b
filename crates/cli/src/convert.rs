//! What the flags mean together: typed flags and the environment to the library's options.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rbuild_executor::logfmt::event::{Builder, Dialect, Version};
use rbuild_executor::{
    BuildOptions, ContainerRemoval, ContextSource, Destination, DockerfileSource, Interaction, Isolation, KeepFailed,
    Network, Output, RegistryAccess, RepositoryOptions, Secret, SecretSource, Ssh, StoreOptions,
};
use rbuild_logfmt::Format;

use crate::args::{
    self, ArgsError, Arity, Assignment, BuildArgs, CallSpec, CommonArgs, DockerVersion, Environment, IsolationArg,
    LogFormat, NetworkArg, Progress, RegistryArgs, ReplayArgs, RepoArgs, ResumeArgs, SecretSpec, SshSpec, StopArgs,
};
use crate::logs::{LogFileSpec, LogSpec};
use crate::step_shell;

/// Largest secret, as BuildKit has it.
const MAX_SECRET: u64 = 500 * 1024;

/// Why flags that are right one by one make no build.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ConvertError {
    /// The number of arguments is wrong.
    #[error(transparent)]
    Args(#[from] ArgsError),
    /// Nothing tells where the store is.
    #[error("there is no place for the store: neither RBUILD_ROOT nor XDG_DATA_HOME nor HOME is set")]
    NoRoot,
    /// A flag of Docker's that would not be honoured.
    #[error("{flag} is not supported")]
    Refused {
        /// The flag.
        flag: &'static str,
        /// What to do instead.
        hint: &'static str,
    },
    /// Two flags contradict each other.
    #[error("{first} and {second} contradict each other")]
    Contradiction {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// A variable that is not ours has a bad value.
    #[error("the variable {name} is wrong: `{value}` is not {want}")]
    Variable {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        want: &'static str,
    },
    /// Several platforms.
    #[error("an image is built for one platform, not for `{0}`")]
    Platforms(String),
    /// Context and Dockerfile both from standard input.
    #[error("context and Dockerfile cannot both be read from standard input")]
    StdinTwice,
    /// Several results for standard output.
    #[error("only one result can be written to standard output")]
    StdoutTwice,
    /// Two logs in one file.
    #[error("the log file `{0}` is named twice")]
    LogFileTwice(PathBuf),
    /// An archive for a terminal.
    #[error("an archive is not written to a terminal")]
    StdoutTerminal,
    /// No shell for images without one.
    #[error("there is no statically linked busybox in PATH")]
    NoBusybox,
    /// Nothing to push to.
    #[error("an image needs a name to be pushed")]
    PushWithoutName,
    /// The file of a secret cannot be had.
    #[error("cannot read the file `{path}` of the secret `{id}`")]
    SecretFile {
        /// Id of the secret.
        id: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A secret is too large.
    #[error("the secret `{id}` has more than 500 KiB")]
    SecretSize {
        /// Id of the secret.
        id: String,
    },
    /// There is no agent.
    #[error("there is no SSH agent for `{id}`: SSH_AUTH_SOCK is not set")]
    NoAgent {
        /// Id of the agent.
        id: String,
    },
    /// The socket of an agent cannot be had.
    #[error("cannot use the SSH agent socket `{path}`")]
    Agent {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A key instead of a socket.
    #[error("`{path}` is not the socket of an SSH agent")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
}

impl ConvertError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        Some(match self {
            ConvertError::NoRoot => "name a directory with --root or the variable RBUILD_ROOT",
            ConvertError::Refused { hint, .. } => hint,
            ConvertError::Platforms(_) => "build once for each platform",
            ConvertError::StdoutTerminal => "redirect standard output, or name a file with dest=FILE",
            ConvertError::NoBusybox => "install one (package busybox-static), or name it: --with-shell=FILE",
            ConvertError::PushWithoutName => "name it with --tag",
            ConvertError::NoAgent { .. } => "start ssh-agent, or name its socket: --ssh ID=SOCKET",
            ConvertError::NotASocket { .. } => {
                "keys are not read; add the key to an agent with ssh-add and name the agent's socket"
            }
            ConvertError::Args(_)
            | ConvertError::Contradiction { .. }
            | ConvertError::Variable { .. }
            | ConvertError::StdinTwice
            | ConvertError::StdoutTwice
            | ConvertError::LogFileTwice(_)
            | ConvertError::SecretFile { .. }
            | ConvertError::SecretSize { .. }
            | ConvertError::Agent { .. } => return None,
        })
    }
}

/// Which of the standard streams are terminals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terminals {
    /// Standard output is one.
    pub(crate) stdout: bool,
    /// Standard error is one.
    pub(crate) stderr: bool,
}

/// A build, and what the program itself does around it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BuildRequest {
    /// For the library.
    pub(crate) options: BuildOptions,
    /// The log.
    pub(crate) log: LogSpec,
    /// The result goes to standard output: the log must not.
    pub(crate) stdout_taken: bool,
    /// The build checks are run in place of a build.
    pub(crate) check: Option<CallSpec>,
    /// `--iidfile`.
    pub(crate) iidfile: Option<PathBuf>,
    /// `--metadata-file`.
    pub(crate) metadata_file: Option<PathBuf>,
    /// `--failure-file`.
    pub(crate) failure_file: Option<PathBuf>,
    /// What is left of a failure is told beside the log, whoever reads it.
    pub(crate) tells_failure: bool,
}

/// Where the store is: `--root`, `RBUILD_ROOT`, `$XDG_DATA_HOME/rbuild`, `~/.local/share/rbuild`.
pub(crate) fn store_options(args: &CommonArgs, environment: &Environment) -> Result<StoreOptions, ConvertError> {
    // The base directory specification says that a relative XDG_DATA_HOME is to be ignored.
    let data = || environment.path("XDG_DATA_HOME").filter(|path| path.is_absolute());
    let root = args
        .root
        .clone()
        .or_else(|| environment.path("RBUILD_ROOT"))
        .or_else(|| data().map(|data| data.join("rbuild")))
        .or_else(|| environment.path("HOME").map(|home| home.join(".local/share/rbuild")))
        .ok_or(ConvertError::NoRoot)?;
    Ok(StoreOptions { root })
}

/// Docker's client configuration: `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`.
pub(crate) fn docker_config(environment: &Environment) -> Option<PathBuf> {
    let directory =
        environment.path("DOCKER_CONFIG").or_else(|| environment.path("HOME").map(|home| home.join(".docker")))?;
    Some(directory.join("config.json"))
}

/// How registries are reached.
pub(crate) fn registry_access(args: &RegistryArgs, environment: &Environment) -> RegistryAccess {
    let proxy = |lower: &str, upper: &str| environment.get(lower).or_else(|| environment.get(upper)).map(str::to_owned);
    RegistryAccess {
        mirrors: args.registry_mirror.clone(),
        insecure: args.insecure_registry.clone(),
        certificates: args.registry_certificate.clone(),
        docker_config: docker_config(environment),
        https_proxy: proxy("https_proxy", "HTTPS_PROXY"),
        http_proxy: proxy("http_proxy", "HTTP_PROXY"),
        no_proxy: proxy("no_proxy", "NO_PROXY"),
    }
}

/// Turns flags into a build.
pub(crate) fn build_request(
    args: BuildArgs,
    environment: &Environment,
    terminals: Terminals,
) -> Result<BuildRequest, ConvertError> {
    let (format, quiet) = log_format(&args, environment, terminals)?;
    let version = match args.docker_version {
        Some(DockerVersion::V20) => Version::V20,
        Some(DockerVersion::V28) | None => Version::V28,
    };
    let builder = if format == Format::Legacy { Builder::Legacy } else { Builder::Buildkit };
    let dialect = Dialect { builder, version };
    if let Some((flag, hint)) = args.refused.first() {
        return Err(ConvertError::Refused { flag, hint });
    }
    let check = check(&args, dialect)?;
    args::check_build_arity(args.contexts.len(), &args.tag, dialect)?;
    let context = args.contexts.first().map(|path| context_source(path)).unwrap_or(ContextSource::Stdin);
    let dockerfile = match &args.file {
        None => DockerfileSource::Default,
        Some(path) if path.as_os_str() == "-" => DockerfileSource::Stdin,
        Some(path) => DockerfileSource::Path(path.clone()),
    };
    if context == ContextSource::Stdin && dockerfile == DockerfileSource::Stdin {
        return Err(ConvertError::StdinTwice);
    }
    let (outputs, tags) = outputs(&args)?;
    let stdout_taken = match outputs.iter().filter(|output| writes_stdout(output)).count() {
        0 => false,
        1 if terminals.stdout => return Err(ConvertError::StdoutTerminal),
        1 => true,
        _ => return Err(ConvertError::StdoutTwice),
    };
    // BuildKit takes an empty filter for all stages.
    let no_cache_filter: Vec<String> = args
        .no_cache_filter
        .iter()
        .flat_map(|stages| stages.split(','))
        .filter(|s| !s.is_empty())
        .map(str::to_owned)
        .collect();
    let no_cache = args.no_cache || (no_cache_filter.is_empty() && !args.no_cache_filter.is_empty());
    let platform = args.platform.or_else(|| environment.get("DOCKER_DEFAULT_PLATFORM").map(str::to_owned));
    if let Some(several) = platform.as_ref().filter(|platform| platform.contains(',')) {
        return Err(ConvertError::Platforms(several.clone()));
    }
    let options = BuildOptions {
        store: store_options(&args.common, environment)?,
        registry: registry_access(&args.registry, environment),
        dialect,
        lenient: args.lenient,
        unpack_xz: args.unpack_xz,
        container_removal: match (args.force_rm, args.rm) {
            (true, _) => ContainerRemoval::Always,
            (false, Some(false)) => ContainerRemoval::Never,
            (false, _) => ContainerRemoval::OnSuccess,
        },
        context,
        dockerfile,
        tags,
        build_args: args.build_arg.into_iter().map(|arg| build_arg(arg, environment)).collect(),
        target: args.target.filter(|target| !target.is_empty()),
        labels: args.label,
        no_cache,
        no_cache_filter,
        pull: args.pull,
        platform,
        network: match args.network {
            None | Some(NetworkArg::Default) => Network::Default,
            Some(NetworkArg::Host) => Network::Host,
            Some(NetworkArg::None) => Network::None,
        },
        add_hosts: args.add_host,
        shm_size: args.shm_size.filter(|size| *size > 0),
        ulimits: args.ulimit,
        secrets: args.secret.into_iter().map(|spec| secret(spec, environment)).collect::<Result<_, _>>()?,
        ssh: args.ssh.into_iter().map(|spec| ssh(spec, environment)).collect::<Result<_, _>>()?,
        build_contexts: args.build_context,
        outputs,
        isolation: isolation(args.isolation),
        source_date_epoch: match args.timestamp {
            Some(seconds) => Some(seconds),
            None => source_date_epoch(environment)?,
        },
        quiet,
        interaction: interaction(&args.stops, environment)?,
        by_hand: Vec::new(),
        expected: Vec::new(),
        cache_scope: None,
        keep_failed: KeepFailed {
            max_bytes: args.keep_failed.unwrap_or(KeepFailed::default().max_bytes),
            named: args.interactive,
        },
    };
    let log = LogSpec {
        format: Some(format),
        files: log_files(args.log_file)?,
        hints: !args.common.no_hint,
        expand_warnings: args.harmless.debug,
        check_json: check.is_some_and(|check| check.json),
        no_clip: args.no_clip,
        quiet: None,
    };
    Ok(BuildRequest {
        options,
        tells_failure: args.interactive || tells_failure(format, log.hints, terminals),
        log,
        stdout_taken,
        check,
        iidfile: args.iidfile,
        metadata_file: args.metadata_file,
        failure_file: args.failure_file,
    })
}

/// Where a build stops for a shell.
fn interaction(args: &StopArgs, environment: &Environment) -> Result<Interaction, ConvertError> {
    Ok(Interaction {
        on_error: args.on_error.is_some(),
        shell: args.on_error.as_ref().and_then(|on_error| on_error.shell.clone()),
        busybox: args.with_shell.as_deref().map(|file| busybox(file, environment)).transpose()?,
        breakpoints: args.breakpoints.clone(),
    })
}

/// The busybox of `--with-shell`.
pub(crate) fn busybox(file: &Path, environment: &Environment) -> Result<PathBuf, ConvertError> {
    if !file.as_os_str().is_empty() {
        return Ok(std::path::absolute(file).unwrap_or_else(|_| file.to_owned()));
    }
    step_shell::host_busybox(environment.path("PATH").as_ref().map(|path| path.as_os_str()))
        .ok_or(ConvertError::NoBusybox)
}

/// How the log of a recorded build is shown.
pub(crate) fn replay_log(args: &ReplayArgs) -> Result<LogSpec, ConvertError> {
    Ok(LogSpec {
        format: args.log_format.map(form),
        files: log_files(args.log_file.clone())?,
        hints: !args.common.no_hint,
        expand_warnings: args.debug,
        check_json: args.json,
        no_clip: args.no_clip,
        quiet: args.quiet,
    })
}

/// How the log of a build that the store remembers is shown.
pub(crate) fn recorded_log(format: Option<LogFormat>, hints: bool) -> LogSpec {
    LogSpec {
        format: format.map(form),
        files: Vec::new(),
        hints,
        expand_warnings: false,
        check_json: false,
        no_clip: false,
        quiet: None,
    }
}

/// Turns a build that is remembered into one of now.
pub(crate) fn resume_request(
    args: ResumeArgs,
    recorded: BuildOptions,
    environment: &Environment,
    terminals: Terminals,
) -> Result<BuildRequest, ConvertError> {
    let of_dialect = match recorded.dialect.builder {
        Builder::Legacy => Format::Legacy,
        Builder::Buildkit if terminals.stderr => Format::Tty,
        Builder::Buildkit => Format::Buildkit,
    };
    let format = args.log_format.map_or(of_dialect, form);
    let mut log = recorded_log(args.log_format, !args.common.no_hint);
    log.format = Some(format);
    let given = registry_access(&args.registry, environment);
    let options = BuildOptions {
        store: store_options(&args.common, environment)?,
        registry: RegistryAccess {
            http_proxy: given.http_proxy,
            https_proxy: given.https_proxy,
            no_proxy: given.no_proxy,
            mirrors: if given.mirrors.is_empty() { recorded.registry.mirrors.clone() } else { given.mirrors },
            ..recorded.registry.clone()
        },
        secrets: args.secret.into_iter().map(|spec| secret(spec, environment)).collect::<Result<_, _>>()?,
        interaction: interaction(&args.stops, environment)?,
        ..recorded
    };
    let stdout_taken = options.outputs.iter().any(writes_stdout);
    Ok(BuildRequest {
        tells_failure: tells_failure(format, log.hints, terminals),
        options,
        log,
        stdout_taken,
        check: None,
        iidfile: None,
        metadata_file: None,
        failure_file: None,
    })
}

/// Whether what is left of a failure is told beside the log. Where Docker's log goes into a file or a pipe there is
/// nothing but Docker's log.
fn tells_failure(format: Format, hints: bool, terminals: Terminals) -> bool {
    let is_dockers = matches!(format, Format::Legacy | Format::Buildkit | Format::Quiet | Format::RawJson);
    hints && (terminals.stderr || !is_dockers)
}

/// Whether the build checks are to be run in place of a build.
fn check(args: &BuildArgs, dialect: Dialect) -> Result<Option<CallSpec>, ConvertError> {
    let spec = args.call.unwrap_or(CallSpec { check: args.check, ..CallSpec::default() });
    if !spec.check {
        return Ok(None);
    }
    if dialect != (Dialect { builder: Builder::Buildkit, version: Version::V28 }) {
        let hint = "only BuildKit of Docker 28 has build checks: leave --log-format=docker and --docker-version=20 out";
        return Err(ConvertError::Refused { flag: "--check", hint });
    }
    let second = [
        ("--output", !args.output.is_empty()),
        ("--push", args.push),
        ("--metadata-file", args.metadata_file.is_some()),
    ];
    match second.into_iter().find(|(_, set)| *set) {
        Some((flag, _)) => Err(ConvertError::Contradiction { first: "--check".to_owned(), second: flag.to_owned() }),
        None => Ok(Some(spec)),
    }
}

fn log_files(files: Vec<LogFileSpec>) -> Result<Vec<LogFileSpec>, ConvertError> {
    for (index, file) in files.iter().enumerate() {
        if files.iter().take(index).any(|other| other.path == file.path) {
            return Err(ConvertError::LogFileTwice(file.path.clone()));
        }
    }
    Ok(files)
}

fn form(format: LogFormat) -> Format {
    match format {
        LogFormat::Docker => Format::Legacy,
        LogFormat::Buildkit => Format::Buildkit,
        LogFormat::Tty => Format::Tty,
        LogFormat::Rawjson => Format::RawJson,
        LogFormat::Events => Format::Events,
    }
}

/// The form of the log, and whether nothing but the image id is shown.
fn log_format(
    args: &BuildArgs,
    environment: &Environment,
    terminals: Terminals,
) -> Result<(Format, bool), ConvertError> {
    let live = || {
        if terminals.stderr { Format::Tty } else { Format::Buildkit }
    };
    let progress = match (args.progress, args.log_format) {
        (None, None) => match environment.get("BUILDKIT_PROGRESS") {
            None => None,
            Some(name) => {
                Some(<Progress as clap::ValueEnum>::from_str(name, false).map_err(|_| ConvertError::Variable {
                    name: "BUILDKIT_PROGRESS",
                    value: name.to_owned(),
                    want: "auto, plain, tty, quiet or rawjson",
                })?)
            }
        },
        (progress, _) => progress,
    };
    let chosen = args.log_format.map(form);
    let format = match (chosen, progress) {
        (chosen, None | Some(Progress::Auto | Progress::Quiet)) => chosen.unwrap_or_else(live),
        (None | Some(Format::Buildkit), Some(Progress::Plain)) => Format::Buildkit,
        // The legacy builder has but one form, and it is plain.
        (Some(Format::Legacy), Some(Progress::Plain)) => Format::Legacy,
        (None | Some(Format::Tty), Some(Progress::Tty)) => Format::Tty,
        (None | Some(Format::RawJson), Some(Progress::Rawjson)) => Format::RawJson,
        (Some(format), Some(progress)) => {
            return Err(ConvertError::Contradiction {
                first: format!("--log-format={format}"),
                second: format!("--progress={}", format!("{progress:?}").to_lowercase()),
            });
        }
    };
    let quiet = args.quiet || progress == Some(Progress::Quiet);
    Ok(match format {
        Format::Buildkit | Format::Tty if quiet => (Format::Quiet, true),
        format => (format, quiet),
    })
}

/// What `rbuild repo` is asked to do.
pub(crate) enum RepoRequest {
    /// To build.
    Build(Box<BuildRequest>),
    /// To list Dockerfiles.
    Find(RepositoryOptions),
}

/// Turns the flags of `rbuild repo` into a build of its own context.
pub(crate) fn repo_request(
    args: RepoArgs,
    environment: &Environment,
    terminals: Terminals,
) -> Result<RepoRequest, ConvertError> {
    let RepoArgs { dockerfile, find, mut build } = args;
    args::check_command_arity("repo", "[OPTIONS] URL[@COMMIT]", Arity::Exactly(1), build.contexts.len())?;
    let given = build.contexts.drain(..).next().unwrap_or_default();
    let (url, reference) = split_commit(&given.to_string_lossy());
    let dockerfile = dockerfile.or_else(|| build.file.take());
    // The rest of the flags is checked as for a build of any directory.
    build.contexts = vec![PathBuf::from(".")];
    build.file = None;
    let mut request = build_request(build, environment, terminals)?;
    if find {
        let BuildOptions { secrets, ssh, .. } = request.options;
        return Ok(RepoRequest::Find(RepositoryOptions { url, reference, secrets, ssh }));
    }
    request.options.context = ContextSource::Repository { url, reference, dockerfile };
    Ok(RepoRequest::Build(Box::new(request)))
}

/// `URL@COMMIT`: the last `@` in the path of the address divides them.
fn split_commit(text: &str) -> (String, Option<String>) {
    let start = match text.split_once("://") {
        Some((scheme, rest)) => rest.find('/').map(|slash| scheme.len() + 3 + slash),
        None if is_scp(text) => text.find(':'),
        None => text.find('/'),
    };
    let divided = start.and_then(|start| Some(start + text.get(start..)?.rfind('@')?));
    match divided {
        Some(at) => (text[..at].to_owned(), text.get(at + 1..).filter(|commit| !commit.is_empty()).map(str::to_owned)),
        None => (text.to_owned(), None),
    }
}

/// What PATH is: `-`, a directory that is there, a URL, or a directory that is missing. Forms of URLs are those of Docker's
/// client, and `file://` for repositories on this machine.
fn context_source(path: &Path) -> ContextSource {
    if path.as_os_str() == "-" {
        return ContextSource::Stdin;
    }
    if path.is_dir() {
        return ContextSource::Dir(path.to_owned());
    }
    let is_url = |text: &str| {
        ["http://", "https://", "git://", "ssh://", "file://", "github.com/"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
            || is_scp(text)
    };
    match path.to_str() {
        Some(text) if is_url(text) => ContextSource::Url(text.to_owned()),
        _ => ContextSource::Dir(path.to_owned()),
    }
}

/// `user@host:path`, as ssh and BuildKit's client have it.
fn is_scp(text: &str) -> bool {
    let Some((user, rest)) = text.split_once('@') else { return false };
    let Some((host, _)) = rest.split_once(':') else { return false };
    let is_name = |name: &str, more: &str| {
        !name.is_empty() && name.chars().all(|char| char.is_ascii_alphanumeric() || more.contains(char))
    };
    is_name(user, "-_") && is_name(host, "-.")
}

fn outputs(args: &BuildArgs) -> Result<(Vec<Output>, Vec<String>), ConvertError> {
    let mut outputs: Vec<Output> = args.output.iter().flat_map(args::OutputSpec::outputs).collect();
    let names = || args.output.iter().flat_map(|spec| spec.names.iter().cloned());
    // As buildx has it: names given by --tag take the place of those given by name=.
    let tags: Vec<String> = if args.tag.is_empty() { names().collect() } else { args.tag.clone() };
    if (args.output.is_empty() || args.load) && !outputs.contains(&Output::Store) {
        outputs.insert(0, Output::Store);
    }
    if args.push && !outputs.iter().any(|output| matches!(output, Output::Registry { .. })) {
        outputs.push(Output::Registry { names: Vec::new() });
    }
    for output in &mut outputs {
        if let Output::Registry { names } = output {
            if !args.tag.is_empty() {
                names.clear();
            }
            if tags.is_empty() && names.is_empty() {
                return Err(ConvertError::PushWithoutName);
            }
        }
    }
    Ok((outputs, tags))
}

fn writes_stdout(output: &Output) -> bool {
    matches!(
        output,
        Output::DockerArchive(Destination::Stdout)
            | Output::OciArchive(Destination::Stdout)
            | Output::Tar(Destination::Stdout)
    )
}

/// `--isolation`.
pub(crate) fn isolation(arg: Option<IsolationArg>) -> Isolation {
    match arg {
        None | Some(IsolationArg::Auto) => Isolation::Auto,
        Some(IsolationArg::Userns) => Isolation::Userns,
        Some(IsolationArg::Chroot) => Isolation::Chroot,
        Some(IsolationArg::Ptrace) => Isolation::Ptrace,
    }
}

fn build_arg(arg: Assignment, environment: &Environment) -> (String, Option<String>) {
    let value =
        arg.value.or_else(|| environment.bytes(&arg.name).map(|bytes| String::from_utf8_lossy(bytes).into_owned()));
    (arg.name, value)
}

/// Where a secret comes from. Without file and variable, its id names one or the other, as in BuildKit.
fn secret(spec: SecretSpec, environment: &Environment) -> Result<Secret, ConvertError> {
    let SecretSpec { id, file, variable } = spec;
    let variable = match (&file, variable) {
        (None, None) => environment.bytes(&id).is_some().then(|| id.clone()),
        (_, variable) => variable,
    };
    if let Some(variable) = variable {
        // BuildKit takes a variable that is not set for an empty one.
        let value = environment.bytes(&variable).unwrap_or_default().to_vec();
        if value.len() as u64 > MAX_SECRET {
            return Err(ConvertError::SecretSize { id });
        }
        return Ok(Secret { id, source: SecretSource::Value(value) });
    }
    let path = file.unwrap_or_else(|| PathBuf::from(&id));
    match std::fs::metadata(&path) {
        Err(source) => Err(ConvertError::SecretFile { id, path, source }),
        Ok(found) if found.len() > MAX_SECRET => Err(ConvertError::SecretSize { id }),
        Ok(_) => Ok(Secret { id, source: SecretSource::File(path) }),
    }
}

fn ssh(spec: SshSpec, environment: &Environment) -> Result<Ssh, ConvertError> {
    let SshSpec { id, path } = spec;
    let Some(socket) = path.or_else(|| environment.path("SSH_AUTH_SOCK")) else {
        return Err(ConvertError::NoAgent { id });
    };
    match std::fs::metadata(&socket) {
        Err(source) => Err(ConvertError::Agent { path: socket, source }),
        Ok(found) if !found.file_type().is_socket() => Err(ConvertError::NotASocket { path: socket }),
        Ok(_) => Ok(Ssh { id, socket }),
    }
}

pub(crate) fn source_date_epoch(environment: &Environment) -> Result<Option<i64>, ConvertError> {
    environment
        .get("SOURCE_DATE_EPOCH")
        .map(|value| {
            value.parse().map_err(|_| ConvertError::Variable {
                name: "SOURCE_DATE_EPOCH",
                value: value.to_owned(),
                want: "a number of seconds",
            })
        })
        .transpose()
}

#[cfg(test)]
mod tests;
