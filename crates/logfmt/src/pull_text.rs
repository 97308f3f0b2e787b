//! What Docker says when an image cannot be had.
//!
//! The legacy builder speaks with the words of distribution's registry client and of moby's `distribution` package,
//! BuildKit with those of containerd's `remotes/docker` and of its own session. Texts were taken from runs of Docker
//! 20.10.24 and 28.5.2 against a registry that answers as Docker Hub does; see `tests/fixtures/registry`.

mod legacy;
mod said;

pub(crate) use legacy::legacy;

use crate::event::{Lookup, NoAnswer, Part, PullFailure, Refusal, Request, Version};
use crate::reference::canonical;
use said::Said;

/// What BuildKit says at the step.
pub(crate) fn vertex(reference: &str, cause: &PullFailure, version: Version) -> String {
    let text = buildkit(reference, cause, version);
    if !is_about_token(cause) {
        return text;
    }
    match version {
        // There the error of the client's session is still wrapped as its transport does it.
        Version::V20 => format!("failed to authorize: rpc error: code = Unknown desc = {text}"),
        Version::V28 => format!("failed to authorize: {text}"),
    }
}

/// What BuildKit says at last of a token: the daemon's own words are lost where the error came from the client itself.
pub(crate) fn token(reference: &str, cause: &PullFailure, version: Version) -> String {
    buildkit(reference, cause, version)
}

/// Tokens are fetched by the client, in the name of the daemon.
pub(crate) fn is_about_token(cause: &PullFailure) -> bool {
    match cause {
        PullFailure::Refused(refusal) => refusal.request.part == Part::Token,
        PullFailure::NoAnswer { request, .. } => request.part == Part::Token,
        PullFailure::NoToken { .. } => true,
        _ => false,
    }
}

fn buildkit(reference: &str, cause: &PullFailure, version: Version) -> String {
    match cause {
        PullFailure::Refused(refusal) => refused(reference, refusal, version),
        PullFailure::NoAnswer { request, problem } => {
            let problem = no_answer(problem, version);
            match request.part {
                Part::Token => {
                    format!("{} Get \"{}\": {problem}", fetching(request), token_url(request))
                }
                Part::Name => {
                    // 28 names the address that it tried first.
                    let url = lookup_url(reference, is_plain(request) && version == Version::V20);
                    format!("failed to do request: Head \"{url}\": {problem}")
                }
                _ => format!("{OPEN} failed to do request: Get \"{}\": {problem}", request.url),
            }
        }
        PullFailure::NoCredentials { request } => status_of_lookup(reference, is_plain(request), 401, version),
        PullFailure::NoToken { request } => {
            format!("{} authorization server did not include a token in the response", fetching(request))
        }
        PullFailure::NoPlatform { index, .. } => match version {
            Version::V20 => format!("no match for platform in manifest {index}: not found"),
            Version::V28 => "no match for platform in manifest: not found".to_owned(),
        },
        PullFailure::UnknownMediaType { part: Part::Config, media_type, .. } => {
            format!("encountered unknown type {media_type}; children may not be fetched")
        }
        // What is no manifest is taken for a blob, and as such the registry does not have it.
        PullFailure::UnknownMediaType { media_type, digest, .. }
        | PullFailure::SchemaOne { media_type, digest, signed: false } => could_not_fetch(digest, media_type),
        PullFailure::SchemaOne { .. } => {
            "support Docker Image manifest version 2, schema 1 has been removed. More information at \
             https://docs.docker.com/go/deprecated-image-specs/"
                .to_owned()
        }
        PullFailure::Corrupt { part, expected, actual } => {
            let kind = match part {
                Part::Config => "config",
                Part::Layer => "layer",
                _ => "manifest",
            };
            format!(
                "failed commit on ref \"{kind}-{expected}\": unexpected commit digest {actual}, expected {expected}: \
                 failed precondition"
            )
        }
        PullFailure::Short { expected, actual, .. } => match version {
            Version::V20 => "failed to read expected number of bytes: unexpected EOF".to_owned(),
            Version::V28 => format!("short read: expected {expected} bytes but got {actual}: unexpected EOF"),
        },
        PullFailure::Other { detail } => detail.clone(),
    }
}

/// How containerd says that content cannot be read.
const OPEN: &str = "failed to copy: httpReadSeeker: failed open:";

fn could_not_fetch(digest: &str, media_type: &str) -> String {
    format!("{OPEN} could not fetch content descriptor {digest} ({media_type}) from remote: not found")
}

fn fetching(request: &Request) -> String {
    let kind = if request.user { "oauth" } else { "anonymous" };
    format!("failed to fetch {kind} token:")
}

fn refused(reference: &str, refusal: &Refusal, version: Version) -> String {
    let Refusal { request, status, .. } = refusal;
    if request.part == Part::Token {
        return format!("{} {}", fetching(request), token_refused(refusal, version));
    }
    if let (401, Some(error)) = (status, &refusal.challenge) {
        let said = format!("server message: {error}: authorization failed");
        return match request.part {
            Part::Name => {
                format!("pull access denied, repository does not exist or may require authorization: {said}")
            }
            _ => format!("{OPEN} {said}"),
        };
    }
    if request.part == Part::Name {
        let status = refusal.head.unwrap_or(*status);
        return match status {
            404 => format!("{}: not found", canonical(reference)),
            status => status_of_lookup(reference, is_plain(request), status, version),
        };
    }
    if *status == 404 {
        return match (&request.content, request.part) {
            (Some(content), Part::Config | Part::Layer) => could_not_fetch(&content.digest, &content.media_type),
            _ => format!("{OPEN} content at {} not found: not found", request.url),
        };
    }
    let said = Said::list(&refusal.body).map(|list| Said::joined(&list));
    let line = status_line(*status);
    match version {
        Version::V20 => {
            let said = said.map(|said| format!(" - Server message: {said}")).unwrap_or_default();
            let url = own_url(reference, request);
            format!("{OPEN} unexpected status code {url}: {line}{said}")
        }
        Version::V28 => {
            let said = said.map(|said| format!("\n{said}")).unwrap_or_default();
            format!("{OPEN} unexpected status from GET request to {}: {line}{said}", request.url)
        }
    }
}

fn token_refused(refusal: &Refusal, version: Version) -> String {
    let line = status_line(refusal.status);
    if version == Version::V20 {
        return format!("unexpected status: {line}");
    }
    let status = format!("unexpected status from GET request to {}: {line}", token_url(&refusal.request));
    if !refusal.request.user || refusal.body.is_empty() {
        return status;
    }
    // The client tells users more than it tells the anonymous.
    const SHOWN: usize = 256;
    match (Said::list(&refusal.body), Said::details(&refusal.body)) {
        (Some(list), _) => Said::joined_with_details(&list),
        (None, Some(details)) => format!("{status}: {details}"),
        (None, None) => {
            let body = &refusal.body;
            match body.get(..SHOWN) {
                Some(begin) if body.len() > SHOWN => {
                    format!("{status}: {begin}... ({} bytes truncated)", body.len() - SHOWN)
                }
                _ => format!("{status}: {body}"),
            }
        }
    }
}

fn status_of_lookup(reference: &str, plain: bool, status: u16, version: Version) -> String {
    let line = status_line(status);
    match version {
        Version::V20 => {
            let (host, _, name) = parts(reference);
            format!("pulling from host {host} failed with status code [manifests {name}]: {line}")
        }
        Version::V28 => format!("unexpected status from HEAD request to {}: {line}", lookup_url(reference, plain)),
    }
}

/// Host of the registry, repository, and tag or digest.
fn parts(reference: &str) -> (String, String, String) {
    let full = canonical(reference);
    let (host, rest) = full.split_once('/').unwrap_or(("", &full));
    let (repository, name) = match rest.split_once('@') {
        // A tag beside a digest says nothing.
        Some((repository, digest)) => (repository.split(':').next().unwrap_or_default(), digest),
        None => rest.split_once(':').unwrap_or((rest, "latest")),
    };
    let host = if host == "docker.io" { "registry-1.docker.io" } else { host };
    (host.to_owned(), repository.to_owned(), name.to_owned())
}

/// Where the name was looked up.
fn lookup_url(reference: &str, plain: bool) -> String {
    let (host, repository, name) = parts(reference);
    let scheme = if plain { "http" } else { "https" };
    format!("{scheme}://{host}/v2/{repository}/manifests/{name}")
}

/// BuildKit does not say for which account it wants a token.
fn token_url(request: &Request) -> String {
    let Some((address, query)) = request.url.split_once('?') else { return request.url.clone() };
    let rest: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("account=")).collect();
    format!("{address}?{}", rest.join("&"))
}

fn is_plain(request: &Request) -> bool {
    request.url.starts_with("http://")
}

/// The address in the registry of what was asked for, whichever host answered at last.
fn own_url(reference: &str, request: &Request) -> String {
    let (host, repository, _) = parts(reference);
    let Some(content) = &request.content else { return request.url.clone() };
    let scheme = if is_plain(request) { "http" } else { "https" };
    let kind = if request.part == Part::Manifest { "manifests" } else { "blobs" };
    format!("{scheme}://{host}/v2/{repository}/{kind}/{}", content.digest)
}

/// The problem in the words of Go's `net/http`.
pub(crate) fn no_answer(problem: &NoAnswer, version: Version) -> String {
    let verify = match version {
        Version::V20 => "",
        Version::V28 => "tls: failed to verify certificate: ",
    };
    match problem {
        NoAnswer::Resolve { host, server, what } => {
            let what = match what {
                Lookup::NoSuchHost => "no such host",
                Lookup::Timeout => "i/o timeout",
                Lookup::Failed => "server misbehaving",
            };
            let server = server.as_ref().map(|server| format!(" on {server}")).unwrap_or_default();
            format!("dial tcp: lookup {host}{server}: {what}")
        }
        NoAnswer::Connect { address, why } => {
            let address = address.as_ref().map(|address| format!(" {address}")).unwrap_or_default();
            format!("dial tcp{address}: connect: {why}")
        }
        NoAnswer::PlainHttp => "http: server gave HTTP response to HTTPS client".to_owned(),
        NoAnswer::UnknownAuthority => format!("{verify}x509: certificate signed by unknown authority"),
        NoAnswer::WrongName { host, names } => {
            format!("{verify}x509: certificate is valid for {}, not {host}", names.join(", "))
        }
        NoAnswer::Expired { now, than } => {
            format!("{verify}x509: certificate has expired or is not yet valid: current time {now} {than}")
        }
        NoAnswer::Tls { why } => format!("tls: {why}"),
        NoAnswer::Closed => "EOF".to_owned(),
        NoAnswer::Reset => "read: connection reset by peer".to_owned(),
        NoAnswer::Timeout { connecting: true } => "net/http: TLS handshake timeout".to_owned(),
        NoAnswer::Timeout { connecting: false } => "net/http: timeout awaiting response headers".to_owned(),
    }
}

/// Code and words of a status, as Go's `net/http` has them.
pub(crate) fn status_line(status: u16) -> String {
    let words = match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Request Entity Too Large",
        414 => "Request URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Requested Range Not Satisfiable",
        417 => "Expectation Failed",
        418 => "I'm a teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Entity",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => return status.to_string(),
    };
    format!("{status} {words}")
}
