//! Contexts from elsewhere: repositories, archives and Dockerfiles behind a URL.
//!
//! In BuildKit the frontend fetches them in steps of the log (`frontend/dockerui/context.go`). Docker's legacy client
//! fetches them before it sends anything (`docker/cli`, `cli/command/image/build/context.go`).

use std::path::{Path, PathBuf};

use rbuild_logfmt::event::{Builder, Fact, Failure, Speaker, StepId, StepKind, Version};

use crate::context::{Context, ContextError, ContextRequest, is_archive_file, is_plain_tar};
use crate::git::{self, Address, AddressError, Wanted, without_password};
use crate::key::{CacheKey, KeyBuilder};
use crate::options::{ContextSource, DockerfileSource};
use crate::session::Session;
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
        (None, Builder::Buildkit) => web(session, url, request),
        (None, Builder::Legacy) => legacy_web(session, url, request),
    }
}

fn repository(session: &Session<'_>, url: &str, address: Address, request: ContextRequest) -> Result<Context, Stop> {
    let loaded = load_repository(session, url, address)?;
    let dialect = session.options().dialect;
    let opened = Context::open_fetched("context", &loaded, &request.dockerfile, dialect);
    opened.map(Context::told).map_err(|error| session.context_failed(&error))
}

/// Fetches a repository in a step of its own; gives the directory of its files.
pub(crate) fn load_repository(session: &Session<'_>, url: &str, address: Address) -> Result<PathBuf, Stop> {
    let options = session.options();
    let argument = options.build_args.iter().rev().find(|(name, _)| name == KEEP_GIT_DIR);
    let is_true = |text: &str| matches!(text, "1" | "t" | "T" | "TRUE" | "true" | "True");
    let keeps = argument.and_then(|(_, value)| value.as_deref()).is_some_and(is_true);
    let keep_git_dir = keeps || address.keep_git_dir == Some(true);
    let step = session.emitter().begin(StepKind::LoadRepository { url: without_password(url) }, &[]);
    Ok(git::load(session, &Wanted { address, keep_git_dir }, step)?.path)
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

/// Bytes of a tar of nothing.
const EMPTY_TAR: u64 = 1024;

/// Clones a repository for `rbuild repo`; gives the directory to build in and the Dockerfile.
pub(crate) fn clone_for_build(session: &Session<'_>, source: &ContextSource) -> Result<(PathBuf, PathBuf), Stop> {
    let ContextSource::Repository { url, reference, dockerfile } = source else {
        return Err(Stop::failed(Failure::Own { message: "the context is no repository".to_owned(), hint: None }));
    };
    let root = git::check_out(session, url, reference.as_deref())?;
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
