//! Contexts from elsewhere: repositories, archives and Dockerfiles behind a URL.
//!
//! In BuildKit the frontend fetches them in steps of the log (`frontend/dockerui/context.go`). Docker's legacy client
//! fetches them before it sends anything (`docker/cli`, `cli/command/image/build/context.go`).

use std::io::Read as _;
use std::path::{Path, PathBuf};

use rbuild_logfmt::event::{Builder, Fact, Failure, Speaker, StepId, StepKind, Version};

use crate::context::{Context, ContextError, ContextRequest, NamedRepository, is_archive_file, is_plain_tar};
use crate::git::{self, Address, AddressError, Wanted, without_password};
use crate::key::{CacheKey, KeyBuilder};
use crate::options::{BuildOptions, ContextSource, DockerfileSource};
use crate::session::Session;
use crate::solve::instruction_failed;
use crate::stop::Stop;

/// The build argument that keeps `.git`.
const KEEP_GIT_DIR: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";

/// The name of a Dockerfile that is a whole context, as COPY finds it.
const WHOLE_CONTEXT: &str = "context";

/// Opens a context behind a URL.
pub(crate) fn open(session: &Session<'_>, url: &str, mut request: ContextRequest) -> Result<Context, Stop> {
    let dialect = session.options().dialect;
    let address = Address::parse(url, dialect)
        .transpose()
        .map_err(|AddressError(message)| Stop::failed(Failure::Request { message, by: Speaker::Builder }))?;
    match (address, dialect.builder) {
        (Some(address), Builder::Buildkit) => repository(session, url, address, request),
        (Some(address), Builder::Legacy) => {
            let directory = git::clone(session, &address)?;
            if let DockerfileSource::Path(path) = &request.dockerfile {
                request.dockerfile = DockerfileSource::Path(directory.join(path));
            }
            request.source = ContextSource::Dir(directory);
            Context::open(request).map_err(|error| session.context_failed(&error))
        }
        (None, _) if !url.starts_with("http://") && !url.starts_with("https://") => {
            let path = PathBuf::from(url);
            Err(session.context_failed(&ContextError::NotFound { path }))
        }
        (None, _) if request.dockerfile == DockerfileSource::Stdin => Err(Stop::failed(Failure::Own {
            message: "a Dockerfile on standard input cannot be used with an archive behind a URL".to_owned(),
            hint: Some("fetch the archive and pass its directory".to_owned()),
        })),
        (None, Builder::Buildkit) => web(session, url, request),
        (None, Builder::Legacy) => legacy_web(session, url, request),
    }
}

fn repository(session: &Session<'_>, url: &str, address: Address, request: ContextRequest) -> Result<Context, Stop> {
    if request.dockerfile == DockerfileSource::Stdin {
        // The repository is not needed before a step reads it, and the log shows it there.
        let mut bytes = Vec::new();
        if let Some(input) = request.input {
            input.take(MAX_DOCKERFILE).read_to_end(&mut bytes)?;
        }
        let keep_git_dir = keeps_git_dir(session.options());
        let context = later_repository(session, "context", url, address, keep_git_dir)?;
        return Ok(context.with_dockerfile(bytes));
    }
    let loaded = load_repository(session, url, address)?;
    let dialect = session.options().dialect;
    let opened = Context::open_fetched("context", &loaded, &request.dockerfile, dialect);
    opened.map(Context::told).map_err(|error| session.context_failed(&error))
}

/// Whether the build argument asks for `.git` (`strconv.ParseBool`).
fn keeps_git_dir(options: &BuildOptions) -> bool {
    let argument = options.build_args.iter().rev().find(|(name, _)| name == KEEP_GIT_DIR);
    let is_true = |text: &str| matches!(text, "1" | "t" | "T" | "TRUE" | "true" | "True");
    argument.and_then(|(_, value)| value.as_deref()).is_some_and(is_true)
}

/// Fetches a repository in a step of its own; gives the directory of its files.
pub(crate) fn load_repository(session: &Session<'_>, url: &str, address: Address) -> Result<PathBuf, Stop> {
    let options = session.options();
    let keep_git_dir = keeps_git_dir(options) || address.keep_git_dir == Some(true);
    let step = session.emitter().begin(StepKind::LoadRepository { url: without_password(url) }, &[]);
    Ok(git::load(session, &Wanted { address, keep_git_dir }, step)?.path)
}

/// What ADD takes from a repository; fetched once in a build, in the step that is given the first time.
pub(crate) fn load_added(
    session: &Session<'_>,
    url: &str,
    checksum: Option<&str>,
    keep_git_dir: bool,
    step: Option<StepId>,
) -> Result<git::Loaded, Stop> {
    let id = format!("{url} {} {keep_git_dir}", checksum.unwrap_or_default());
    let lock = || session.repositories().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(known) = lock().get(&id) {
        let known = known.clone();
        if let Some(step) = step {
            session.emitter().done(step);
        }
        return Ok(known);
    }
    let mut address = match Address::parse(url, session.options().dialect) {
        Some(Ok(address)) => address,
        Some(Err(AddressError(message))) => return Err(instruction_failed(message)),
        None => return Err(instruction_failed(format!("{} is no git repository", without_password(url)))),
    };
    if let Some(checksum) = checksum.filter(|checksum| !checksum.is_empty()) {
        address.checksum = checksum.to_owned();
    }
    let wanted = Wanted { keep_git_dir: keep_git_dir || address.keep_git_dir == Some(true), address };
    let loaded = match step {
        Some(step) => git::load(session, &wanted, step)?,
        None => git::load_quietly(session, &wanted).0?,
    };
    lock().insert(id, loaded.clone());
    Ok(loaded)
}

/// A repository that stands for a named context: fetched now, shown when its turn comes; `None` for any other URL.
pub(crate) fn named_repository(session: &Session<'_>, name: &str, url: &str) -> Result<Option<Context>, Stop> {
    let dialect = session.options().dialect;
    let address = match Address::parse(url, dialect) {
        Some(Ok(address)) => address,
        Some(Err(AddressError(message))) => {
            return Err(Stop::failed(Failure::Request { message, by: Speaker::Builder }));
        }
        None => return Ok(None),
    };
    later_repository(session, name, url, address, false).map(Some)
}

/// A repository that is fetched now and shown when its turn comes.
fn later_repository(
    session: &Session<'_>,
    name: &str,
    url: &str,
    address: Address,
    keep_git_dir: bool,
) -> Result<Context, Stop> {
    let dialect = session.options().dialect;
    let wanted = Wanted { keep_git_dir: keep_git_dir || address.keep_git_dir == Some(true), address };
    let url = without_password(url);
    let (loaded, log) = git::load_quietly(session, &wanted);
    match loaded {
        Ok(loaded) => {
            let repository = NamedRepository { url, log };
            let opened = Context::open_repository(name, &loaded.path, repository, dialect);
            opened.map_err(|error| session.context_failed(&error))
        }
        Err(stop) => {
            let step = session.emitter().begin(StepKind::LoadRepository { url }, &[]);
            log.replay(session.emitter(), step);
            Err(stop.at(step, None))
        }
    }
}

/// What the cache knows of an archive by its content: whether an earlier build has had it.
fn seen_before(session: &Session<'_>, what: &str, digest: &str) -> Result<(CacheKey, bool), Stop> {
    let key = KeyBuilder::new("remote context").field("what", what).field("content", digest).finish();
    let seen = session.cached_value::<bool>(&key)?.is_some();
    Ok((key, seen))
}

/// Ends a step; what is done a second time is cached.
fn end(session: &Session<'_>, step: StepId, what: &str, digest: &str) -> Result<(), Stop> {
    let (key, cached) = seen_before(session, what, digest)?;
    session.emitter().emit(Fact::StepDone { step, cached, image: None });
    session.remember_value(&key, &true)
}

fn fail(session: &Session<'_>, step: StepId, stop: Stop) -> Stop {
    let failure = match &stop {
        Stop::Failed(failed) => Some(failed.failure.clone()),
        Stop::Cancelled => None,
    };
    session.emitter().emit(Fact::StepFailed { step, failure });
    stop.at(step, None)
}

fn web(session: &Session<'_>, url: &str, mut request: ContextRequest) -> Result<Context, Stop> {
    let emitter = session.emitter();
    let step = emitter.begin(StepKind::LoadRemoteContext, &[]);
    let file = session.download(url, None).map_err(|stop| fail(session, step, stop))?;
    let mut opened = std::fs::File::open(file.path())?;
    let digest = file.digest().to_owned();
    end(session, step, &without_password(url), &digest)?;
    if !is_archive_file(&mut opened)? {
        let directory = file.named(session, WHOLE_CONTEXT)?.directory().to_owned();
        let dockerfile = DockerfileSource::Path(WHOLE_CONTEXT.into());
        let opened = Context::open_fetched("context", &directory, &dockerfile, session.options().dialect);
        return opened.map(Context::told).map_err(|error| session.context_failed(&error));
    }
    let step = emitter.begin(StepKind::CopyContext, &[step]);
    request.source = ContextSource::Stdin;
    request.input = Some(Box::new(opened));
    match Context::open(request) {
        Ok(context) => {
            end(session, step, "files", &digest)?;
            Ok(context.told())
        }
        Err(error) => match error.unpack_failure() {
            Some(failure) => Err(fail(session, step, Stop::failed(failure))),
            None => {
                end(session, step, "files", &digest)?;
                Err(session.context_failed(&error))
            }
        },
    }
}

fn legacy_web(session: &Session<'_>, url: &str, mut request: ContextRequest) -> Result<Context, Stop> {
    let emitter = session.emitter();
    let is_old = session.options().dialect.version == Version::V20;
    // 28's client forgets what is wrong, and sends an empty tar.
    let forgotten = |why: String| {
        let text = format!("the context cannot be had from {}: {why}", without_password(url));
        emitter.emit(Fact::Note { text, shown: true });
        emitter.emit(Fact::Context { tar_bytes: EMPTY_TAR });
        session.context_failed(&ContextError::DockerfileMissing { name: "Dockerfile".to_owned() })
    };
    let file = match session.download(url, None) {
        Ok(file) => file,
        Err(Stop::Failed(failed)) => {
            return Err(match failed.failure {
                Failure::Download { problem, .. } if is_old => {
                    Stop::failed(Failure::ContextDownload { url: without_password(url), problem })
                }
                Failure::Download { problem, .. } => {
                    forgotten(rbuild_logfmt::download_problem(&without_password(url), &problem))
                }
                failure => Stop::failed(failure),
            });
        }
        Err(stop) => return Err(stop),
    };
    let mut opened = std::fs::File::open(file.path())?;
    let is_named = matches!(request.dockerfile, DockerfileSource::Path(_));
    if is_named && !is_old && !is_archive_file(&mut opened)? {
        return Err(forgotten("it is a Dockerfile, and another is named".to_owned()));
    }
    emitter.emit(Fact::ContextFetched {
        url: without_password(url),
        bytes: file.size(),
        total: file.announced_size(),
        plain: is_plain_tar(&mut opened)?,
    });
    request.source = ContextSource::Stdin;
    request.input = Some(Box::new(opened));
    Context::open(request).map_err(|error| {
        if let ContextError::Transferred { tar_bytes: Some(tar_bytes), .. } = &error {
            emitter.emit(Fact::Context { tar_bytes: *tar_bytes });
        }
        session.context_failed(&error)
    })
}

/// The largest Dockerfile that is read, in bytes.
const MAX_DOCKERFILE: u64 = 64 << 20;

/// Bytes of a tar of nothing.
const EMPTY_TAR: u64 = 1024;

/// Clones a repository for `rbuild repo`; gives the directory to build in and the Dockerfile.
pub(crate) fn clone_for_build(session: &Session<'_>, source: &ContextSource) -> Result<(PathBuf, PathBuf), Stop> {
    let ContextSource::Repository { url, reference, dockerfile } = source else {
        return Err(Stop::failed(Failure::Own { message: "the context is no repository".to_owned(), hint: None }));
    };
    let root = git::check_out(session, url, reference.as_deref())?;
    if !keeps_git_dir(session.options()) {
        // As BuildKit has it: what git keeps for itself has times in it, and would make each build another.
        std::fs::remove_dir_all(root.join(".git"))?;
    }
    let dockerfile = match dockerfile {
        Some(path) => path.clone(),
        None => git::dockerfiles(&root)?.into_iter().next().ok_or_else(|| {
            Stop::failed(Failure::Own {
                message: format!("there is no Dockerfile in `{}`", without_password(url)),
                hint: Some("name one with `--dockerfile`".to_owned()),
            })
        })?,
    };
    let inside = dockerfile.strip_prefix("/").unwrap_or(&dockerfile);
    let directory = git::directory_of(&root, inside.parent().unwrap_or(Path::new("")))?;
    Ok((directory.clone(), directory.join(inside.file_name().unwrap_or_default())))
}
