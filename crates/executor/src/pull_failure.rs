//! A registry's errors as facts of a build.

use rbuild_image::digest::DigestError;
use rbuild_image::manifest::Descriptor;
use rbuild_image::platform::Platform;
use rbuild_image::registry::{Refuser, RegistryError, RequestLine, ResolveProblem, Subject, TimeoutPhase, TlsProblem};
use rbuild_logfmt::event::{Content, DownloadProblem, Lookup, NoAnswer, Part, PullFailure, Refusal, Request};
use rbuild_logfmt::go_reason;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::worker::with_causes;

/// What an error says of a pull; `layer` is what was being fetched, if that was a layer.
pub(crate) fn pull_failure(platform: &Platform, layer: Option<&Descriptor>, error: &RegistryError) -> PullFailure {
    let content = layer.map(|layer| Content { digest: layer.digest.to_string(), media_type: layer.media_type.clone() });
    let request = |at: &RequestLine| Request {
        part: part_of(&at.url, layer.is_some()),
        method: at.method.clone(),
        url: at.url.clone(),
        user: false,
        content: content.clone(),
    };
    let unanswered = |at: &RequestLine, problem| PullFailure::NoAnswer { request: request(at), problem };
    match error {
        RegistryError::Refused(refusal) => {
            let part = match (refusal.by, refusal.about) {
                (Refuser::TokenServer, _) => Part::Token,
                (_, Subject::Found) => Part::Manifest,
                (_, Subject::Config) => Part::Config,
                (_, Subject::Blob) => Part::Layer,
                _ => Part::Name,
            };
            let described = refusal.content.as_ref();
            let described = described
                .map(|(digest, media_type)| Content { digest: digest.to_string(), media_type: media_type.clone() });
            PullFailure::Refused(Box::new(Refusal {
                request: Request {
                    part,
                    method: refusal.method.clone(),
                    url: refusal.url.clone(),
                    user: refusal.authenticated,
                    content: described.or(content),
                },
                status: refusal.status,
                head: refusal.head,
                content_type: refusal.content_type.clone(),
                body: String::from_utf8_lossy(&refusal.body).into_owned(),
                challenge: refusal.challenge_error.clone(),
            }))
        }
        RegistryError::NoCredentials { at } => PullFailure::NoCredentials { request: request(at) },
        RegistryError::NoToken { at } => PullFailure::NoToken { request: Request { part: Part::Token, ..request(at) } },
        RegistryError::Resolve { at, host, servers, problem } => {
            let what = match problem {
                ResolveProblem::NoSuchHost => Lookup::NoSuchHost,
                ResolveProblem::Timeout => Lookup::Timeout,
                _ => Lookup::Failed,
            };
            unanswered(at, NoAnswer::Resolve { host: host.clone(), server: servers.first().cloned(), what })
        }
        RegistryError::Connect { at, address, source } => {
            use std::io::ErrorKind as K;
            let problem = match source.kind() {
                // In the middle of the handshake.
                K::UnexpectedEof => NoAnswer::Closed,
                K::ConnectionReset | K::BrokenPipe => NoAnswer::Reset,
                K::TimedOut => NoAnswer::Timeout { connecting: true },
                _ => NoAnswer::Connect { address: address.clone(), why: go_reason(source) },
            };
            unanswered(at, problem)
        }
        RegistryError::Tls { at, problem } => unanswered(at, tls(problem)),
        RegistryError::Timeout { at, phase } => {
            unanswered(at, NoAnswer::Timeout { connecting: *phase == TimeoutPhase::Connect })
        }
        RegistryError::Broken { at, source, .. } => {
            let reset = source.as_ref().is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
            unanswered(at, if reset { NoAnswer::Reset } else { NoAnswer::Closed })
        }
        RegistryError::NoPlatform(missing) => {
            PullFailure::NoPlatform { platform: platform.to_string(), index: missing.digest.to_string() }
        }
        RegistryError::UnknownMediaType { of, digest, media_type, .. } => PullFailure::UnknownMediaType {
            part: if *of == Subject::Config { Part::Config } else { Part::Name },
            media_type: media_type.clone(),
            digest: digest.to_string(),
        },
        RegistryError::SchemaOne { digest, signed, media_type, .. } => {
            PullFailure::SchemaOne { media_type: media_type.clone(), digest: digest.to_string(), signed: *signed }
        }
        RegistryError::Content { url, problem } => {
            let part = part_of(url, layer.is_some());
            match problem {
                DigestError::Mismatch { expected, actual } => {
                    PullFailure::Corrupt { part, expected: expected.to_string(), actual: actual.to_string() }
                }
                DigestError::Size { expected, actual, more: false, .. } => {
                    PullFailure::Short { part, expected: *expected, actual: *actual }
                }
                _ => PullFailure::Other { detail: with_causes(error) },
            }
        }
        RegistryError::Manifest { source, .. } if is_cut_json(source) => {
            PullFailure::Other { detail: "unexpected end of JSON input".to_owned() }
        }
        _ => PullFailure::Other { detail: with_causes(error) },
    }
}

/// Why a file cannot be downloaded.
pub(crate) fn download_problem(error: &RegistryError) -> DownloadProblem {
    match pull_failure(&Platform::host(), None, error) {
        PullFailure::Refused(refusal) => DownloadProblem::Status { status: refusal.status, body: refusal.body },
        PullFailure::NoAnswer { problem, .. } => DownloadProblem::NoAnswer { why: problem },
        _ => DownloadProblem::Other { detail: with_causes(error) },
    }
}

/// What of an image an address is about.
fn part_of(url: &str, is_layer: bool) -> Part {
    let path = url.split_once("://").map_or(url, |(_, rest)| rest);
    match path.split_once("/v2/") {
        _ if is_layer && !path.contains("/token") => Part::Layer,
        None => Part::Token,
        Some((_, rest)) if rest.contains("/blobs/") => Part::Config,
        Some((_, rest)) if rest.contains("/manifests/sha256:") => Part::Manifest,
        Some(_) => Part::Name,
    }
}

fn tls(problem: &TlsProblem) -> NoAnswer {
    match problem {
        TlsProblem::PlainHttp => NoAnswer::PlainHttp,
        TlsProblem::UnknownAuthority => NoAnswer::UnknownAuthority,
        TlsProblem::WrongName { host, names } => NoAnswer::WrongName { host: host.clone(), names: names.clone() },
        TlsProblem::Expired { now, not_after, not_before } => {
            let than = match (not_after, not_before) {
                (Some(end), _) => format!("is after {}", rfc3339(*end)),
                (None, Some(begin)) => format!("is before {}", rfc3339(*begin)),
                (None, None) => String::new(),
            };
            NoAnswer::Expired { now: rfc3339(*now), than }
        }
        other => NoAnswer::Tls { why: other.to_string().trim_start_matches("tls: ").to_owned() },
    }
}

fn rfc3339(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}

fn is_cut_json(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<serde_json::Error>().is_some_and(serde_json::Error::is_eof) {
            return true;
        }
        cause = error.source();
    }
    false
}
