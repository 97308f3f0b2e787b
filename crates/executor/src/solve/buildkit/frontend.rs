//! The frontend that a Dockerfile names. Those of docker/dockerfile are built in; what the log shows of them is told by
//! their manifest, so that nothing else is fetched.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rbuild_image::platform::Platform;
use rbuild_image::reference::{DockerVersion, Reference, ReferenceError};
use rbuild_image::registry::{RegistryError, RegistryErrorKind, Resolved};
use rbuild_logfmt::event::{Fact, Failure, Item, Lines, Speaker, StepId, StepKind};
use rbuild_parser::{ParseOptions, Syntax, Version};

use super::pulled::Pulled;
use super::{fail_step, parser_version};
use crate::base::BaseImage;
use crate::emit;
use crate::key::KeyBuilder;
use crate::session::{PullProgress, Session};
use crate::stop::{Failed, Stop};

/// How long the registry of a frontend may take, since the build can do without.
const PATIENCE: Duration = Duration::from_secs(30);

/// The build argument that names a frontend in place of the Dockerfile.
const ARGUMENT: &str = "BUILDKIT_SYNTAX";

/// What reads the Dockerfile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frontend {
    /// Its grammar.
    pub(super) options: ParseOptions,
    /// Whether it is an image's, and not the one that the release has built in.
    pub(super) is_image: bool,
}

/// Finds out what reads the Dockerfile, showing how its image is looked up and loaded.
pub(super) fn load(session: &Session<'_>, text: &[u8]) -> Result<Frontend, Stop> {
    let built_in = ParseOptions::for_version(parser_version(session));
    let Some(named) = Named::find(session, text) else { return Ok(Frontend { options: built_in, is_image: false }) };
    let version = match built_in.version {
        Version::V20 => DockerVersion::V20,
        _ => DockerVersion::V28,
    };
    let parsed = Reference::parse_normalized(&named.image, version);
    let written = parsed.map_err(|error| named.failed(&no_reference(built_in.version, &named.image, &error)))?;
    let reference = written.clone().or_latest();
    let emitter = session.emitter();
    let kind = StepKind::ResolveFrontend { reference: reference.to_string(), argument: named.argument.clone() };
    let step = emitter.begin(kind, &[]);
    match ask(session, &reference) {
        Ok(resolved) if named.is_known => {
            emitter.done(step);
            show_image(session, &written, &reference, resolved)?;
        }
        Ok(_) => {
            let stop = Stop::failed(Failure::Own {
                message: format!("the frontend `{}` cannot be run: only docker/dockerfile is built in", named.image),
                hint: Some("remove the `# syntax=` line or name docker/dockerfile".to_owned()),
            });
            return Err(named.failed_at(session, step, stop));
        }
        Err(error) if named.is_known && is_unreachable(&error) && session.check().is_ok() => {
            emitter.done(step);
            let text = format!("the frontend `{}` is built in; its registry could not be asked: {error}", named.image);
            emitter.emit(Fact::Note { text, shown: true });
        }
        Err(error) => {
            let stop = session.pull_failed(&reference.to_string(), &Platform::host(), None, &error);
            return Err(named.failed_at(session, step, stop));
        }
    }
    Ok(Frontend { options: ParseOptions { version: Version::V28, heredocs: true, labs: true }, is_image: true })
}

/// The frontend that is asked for.
struct Named {
    image: String,
    /// Whether it is built in.
    is_known: bool,
    lines: Option<Lines>,
    /// The value of the build argument, if that names it.
    argument: Option<String>,
}

impl Named {
    fn find(session: &Session<'_>, text: &[u8]) -> Option<Named> {
        if let Some(value) = argument(session) {
            let image = value.trim().split(' ').next().unwrap_or_default().to_owned();
            let lines = rbuild_parser::LineRange::line(0);
            let syntax = Syntax { image, command_line: value.to_owned(), lines };
            let is_known = syntax.is_docker_frontend();
            return Some(Named { is_known, image: syntax.image, lines: None, argument: Some(value.to_owned()) });
        }
        let syntax = rbuild_parser::detect_syntax(text)?;
        let lines = Some(emit::lines(syntax.lines));
        Some(Named { is_known: syntax.is_docker_frontend(), image: syntax.image, lines, argument: None })
    }

    fn failed(&self, failure: &Failure) -> Stop {
        Stop::Failed(Box::new(Failed { failure: failure.clone(), step: None, lines: self.lines, half: None }))
    }

    fn failed_at(&self, session: &Session<'_>, step: StepId, stop: Stop) -> Stop {
        fail_step(session, step, stop).at(step, self.lines)
    }
}

/// The frontend that is named from outside. The client of 28 does not even read the Dockerfile then before it asks for it.
pub(super) fn argument<'a>(session: &'a Session<'_>) -> Option<&'a str> {
    let given = session.options().build_args.iter().rev().find(|(name, _)| name == ARGUMENT);
    given.and_then(|(_, value)| value.as_deref())
}

/// What Docker says of a name that cannot be one of an image.
fn no_reference(version: Version, image: &str, error: &ReferenceError) -> Failure {
    let message = match version {
        Version::V20 => format!("failed to solve with frontend gateway.v0: {error}"),
        _ => format!("invalid context name {image}: {error}"),
    };
    Failure::Request { message, by: Speaker::Daemon }
}

/// Asks the registry, but not for longer than the build should wait for something that it does not need.
fn ask(session: &Session<'_>, reference: &Reference) -> Result<Resolved, RegistryError> {
    let give_up = AtomicBool::new(false);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let (sender, answer) = mpsc::channel();
        let give_up = &give_up;
        scope.spawn(move || {
            // Somebody listens until it is sent.
            let _ = sender.send(session.registry().resolve(reference, &Platform::host(), give_up));
        });
        loop {
            match answer.recv_timeout(Duration::from_millis(50)) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Disconnected) => return Err(RegistryError::Cancelled),
                Err(RecvTimeoutError::Timeout) => {
                    if began.elapsed() > PATIENCE || session.check().is_err() {
                        give_up.store(true, Ordering::Relaxed);
                    }
                }
            }
        }
    })
}

/// Whether a registry could not be asked, or would not answer now, as opposed to an answer that says no.
fn is_unreachable(error: &RegistryError) -> bool {
    use RegistryErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::Resolve
            | Kind::Connect
            | Kind::Tls
            | Kind::Timeout
            | Kind::Broken
            | Kind::TooManyRequests
            | Kind::Server(_)
            | Kind::Cancelled
    )
}

/// Shows the image of the frontend as it is loaded: its blobs the first time, later that it is cached.
fn show_image(
    session: &Session<'_>,
    written: &Reference,
    reference: &Reference,
    resolved: Resolved,
) -> Result<(), Stop> {
    let image = session.image_of(reference, resolved)?;
    let shown = match (written.digest(), image.top_digest()) {
        (None, Some(digest)) => written.with_digest(digest.clone()).to_string(),
        _ => written.to_string(),
    };
    let image = BaseImage { shown, ..image };
    let emitter = session.emitter();
    let step = emitter.begin(StepKind::LoadFrontend { reference: image.shown.clone() }, &[]);
    let key = KeyBuilder::new("frontend").field("image", &image.shown).finish();
    let cached = session.cached_value::<bool>(&key)?.is_some();
    if !cached {
        let pulled = Pulled { session, step, image: &image };
        emitter.progress(step, Item::Resolve { reference: image.shown.clone() }, 0, None, true);
        pulled.begin();
        for layer in &image.layers {
            pulled.extracting(layer);
            pulled.exists(layer);
            pulled.extracted(layer);
        }
        session.remember_value(&key, &true)?;
    }
    emitter.emit(Fact::StepDone { step, cached, image: None });
    Ok(())
}
