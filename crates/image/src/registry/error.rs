//! What can go wrong between this program and a registry, as facts.

use std::fmt;
use std::io;
use std::path::PathBuf;

use reqwest::{Method, StatusCode, Url};
use serde_json::Value;

use crate::config::ConfigError;
use crate::digest::{Digest, DigestError};
use crate::manifest::ManifestError;
use crate::platform::Platform;

use super::credentials::CredentialError;

/// At most this many bytes of an error answer are kept.
pub const ERROR_BODY_LIMIT: usize = 64 * 1024;

/// A failed exchange with a registry.
///
/// Every variant carries the facts from which the text of any Docker version can be made; [`RegistryError::kind`] sorts
/// them. URLs are stored without user names, passwords and secret query values.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The registry, or its token server, refused with an HTTP status.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// The registry demands a password and none is known for it.
    #[error("{at}: no basic auth credentials")]
    NoCredentials {
        /// The request.
        at: Box<RequestLine>,
    },
    /// The token server answered, but without a token.
    #[error("{at}: the token answer holds no token")]
    NoToken {
        /// The request.
        at: Box<RequestLine>,
    },
    /// A secret would have to be sent in clear text to a host that is not allowed to.
    #[error("{url}: refusing to send credentials over plain HTTP")]
    PlainTextSecret {
        /// The address that wanted the secret.
        url: String,
    },
    /// The credential source failed.
    #[error("cannot look up credentials for {server}")]
    Credentials {
        /// The server as the source knows it.
        server: String,
        /// Why.
        #[source]
        source: CredentialError,
    },
    /// The host has no address.
    #[error("{at}: lookup {host}{}: {problem}", servers.first().map(|s| format!(" on {s}")).unwrap_or_default())]
    Resolve {
        /// The request.
        at: Box<RequestLine>,
        /// The name that was looked up.
        host: String,
        /// The name servers, `address:port`, in the order of the configuration.
        servers: Vec<String>,
        /// What came out.
        problem: ResolveProblem,
    },
    /// No connection could be made.
    #[error("{at}: cannot connect{}", address.as_deref().map(|a| format!(" to {a}")).unwrap_or_default())]
    Connect {
        /// The request.
        at: Box<RequestLine>,
        /// The address that was tried, where known: that of an IP literal, or the only one of a name.
        address: Option<String>,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The proxy refused or failed.
    #[error("{at}: proxy: {message}")]
    Proxy {
        /// The request.
        at: Box<RequestLine>,
        /// What the proxy or the connection to it said.
        message: String,
    },
    /// No secure connection could be agreed.
    #[error("{at}: {problem}")]
    Tls {
        /// The request.
        at: Box<RequestLine>,
        /// What is wrong.
        problem: TlsProblem,
    },
    /// Nothing came for too long.
    #[error("{at}: timeout {phase}")]
    Timeout {
        /// The request.
        at: Box<RequestLine>,
        /// What was waited for.
        phase: TimeoutPhase,
    },
    /// The connection broke in the middle of an exchange.
    #[error("{at}: connection lost: {message}")]
    Broken {
        /// The request.
        at: Box<RequestLine>,
        /// What the connection said.
        message: String,
        /// The system's error, where there was one.
        #[source]
        source: Option<io::Error>,
    },
    /// The answer breaks the protocol.
    #[error("{at}: {problem}")]
    Protocol {
        /// The request.
        at: Box<RequestLine>,
        /// What is wrong with the answer.
        problem: String,
    },
    /// An answer that must fit in memory is too long.
    #[error("{at}: answer is longer than {limit} bytes")]
    TooLong {
        /// The request.
        at: Box<RequestLine>,
        /// The limit in bytes.
        limit: u64,
    },
    /// The content is not what its digest or size promises.
    #[error("{url}: {problem}")]
    Content {
        /// The address it came from.
        url: String,
        /// Wrong digest, or wrong size.
        problem: DigestError,
    },
    /// The manifest or index cannot be read.
    #[error("{url}: unusable manifest")]
    Manifest {
        /// The address it came from.
        url: String,
        /// What is wrong.
        source: ManifestError,
    },
    /// The image's configuration cannot be read.
    #[error("{url}: unusable image configuration")]
    Config {
        /// The address it came from.
        url: String,
        /// What is wrong.
        source: ConfigError,
    },
    /// The registry has the image only in the old schema 1, which Docker 28 no longer reads.
    #[error("{url}: manifest schema 1 ({media_type}) is not supported")]
    SchemaOne {
        /// The address it came from.
        url: String,
        /// Its digest.
        digest: Digest,
        /// Whether it bears a signature, as nearly every such manifest does.
        signed: bool,
        /// As the registry declared it.
        media_type: String,
    },
    /// The manifest is of a kind that is no image.
    #[error("{url}: media type `{media_type}` is not supported")]
    UnknownMediaType {
        /// The address it came from.
        url: String,
        /// Whether it is that of the manifest, or that of the image's configuration.
        of: Subject,
        /// The digest of what has it.
        digest: Digest,
        /// As declared.
        media_type: String,
    },
    /// The index holds no image for the platform.
    #[error("{}: no image for platform {}", .0.url, .0.wanted)]
    NoPlatform(Box<NoPlatform>),
    /// The receiver of a download could not write.
    #[error("cannot write {digest}")]
    Sink {
        /// The blob.
        digest: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The source of an upload could not be read, or is shorter than promised.
    #[error("cannot read {digest}")]
    Source {
        /// The blob.
        digest: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
    /// An option is unusable.
    #[error("invalid registry option {option}: `{value}`: {problem}")]
    Option {
        /// Which.
        option: &'static str,
        /// Its value, without secrets.
        value: String,
        /// Why.
        problem: String,
    },
    /// A file named by an option cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The system gives no threads or sockets.
    #[error("cannot start the network runtime")]
    Runtime(#[source] io::Error),
}

/// A request, as errors name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestLine {
    /// The HTTP method.
    pub method: String,
    /// The address, redacted.
    pub url: String,
}

impl RequestLine {
    pub(super) fn of(method: &Method, url: &Url) -> Box<RequestLine> {
        Box::new(RequestLine { method: method.to_string(), url: redact(url) })
    }
}

impl fmt::Display for RequestLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.url)
    }
}

/// An index without an image for the platform asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoPlatform {
    /// The address of the index.
    pub url: String,
    /// The digest of the index.
    pub digest: Digest,
    /// What was asked for.
    pub wanted: Platform,
    /// What the index has.
    pub available: Vec<Platform>,
}

/// An HTTP answer that refuses.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Refusal {
    /// Who refused.
    pub by: Refuser,
    /// The HTTP method.
    pub method: String,
    /// The address, redacted.
    pub url: String,
    /// The HTTP status.
    pub status: u16,
    /// The errors the answer names, as sent.
    pub errors: Vec<ApiError>,
    /// The first [`ERROR_BODY_LIMIT`] bytes of the answer.
    pub body: Vec<u8>,
    /// The `Retry-After` header in seconds.
    pub retry_after: Option<u64>,
    /// Whether the request carried a password or an identity of the caller.
    pub authenticated: bool,
    /// The `error` parameter of the challenge, such as `insufficient_scope`.
    pub challenge_error: Option<String>,
    /// What the request was about.
    pub about: Subject,
    /// The request that refused first was a HEAD with this status; this answer was then asked for its words.
    pub head: Option<u16>,
    /// The `Content-Type` of the answer.
    pub content_type: Option<String>,
    /// Digest and media type of what was asked for, where they were known.
    pub content: Option<(Digest, String)>,
}

/// Which server refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refuser {
    /// The registry itself.
    Registry,
    /// The server that issues its tokens.
    TokenServer,
    /// Another host, reached by a redirection or named in a descriptor.
    Elsewhere,
}

/// What a refused request was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subject {
    /// The API as a whole (`/v2/`), or a token.
    Api,
    /// The manifest or index that a name points to.
    Manifest,
    /// A manifest or index whose digest the registry itself has named.
    Found,
    /// The configuration of an image.
    Config,
    /// Another blob.
    Blob,
    /// An upload of a blob.
    Upload,
}

/// One entry of a registry's `errors` (distribution specification, "Error Codes").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// Such as `MANIFEST_UNKNOWN`; empty if there is none.
    pub code: String,
    /// The words for people; empty if there are none.
    pub message: String,
    /// The detail as JSON text, `None` if absent or null.
    pub detail: Option<String>,
}

/// Why a host name has no address.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResolveProblem {
    /// The name does not exist, or has no address.
    NoSuchHost,
    /// No name server answered in time.
    Timeout,
    /// The name servers failed, with the resolver's words.
    Failed(String),
}

impl fmt::Display for ResolveProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResolveProblem::NoSuchHost => f.write_str("no such host"),
            ResolveProblem::Timeout => f.write_str("i/o timeout"),
            ResolveProblem::Failed(message) => f.write_str(message),
        }
    }
}

/// Why no secure connection came about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsProblem {
    /// The server speaks plain HTTP where HTTPS is wanted.
    PlainHttp,
    /// No known authority signed the certificate.
    UnknownAuthority,
    /// The certificate is for other names.
    WrongName {
        /// The name of the host.
        host: String,
        /// Those that it is for.
        names: Vec<String>,
    },
    /// The certificate has expired, or is not valid yet. Times are seconds since the Unix epoch.
    Expired {
        /// The time of the comparison.
        now: u64,
        /// When it expires, if it has.
        not_after: Option<u64>,
        /// When it begins to be valid, if that is to come.
        not_before: Option<u64>,
    },
    /// Anything else, in the words of the TLS library.
    Other(String),
}

impl fmt::Display for TlsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsProblem::PlainHttp => f.write_str("server gave HTTP response to HTTPS client"),
            TlsProblem::UnknownAuthority => f.write_str("certificate signed by unknown authority"),
            TlsProblem::WrongName { host, names } => {
                write!(f, "the certificate is valid for {}, not {host}", names.join(", "))
            }
            TlsProblem::Expired { .. } => f.write_str("the certificate has expired or is not yet valid"),
            TlsProblem::Other(words) => write!(f, "tls: {words}"),
        }
    }
}

/// What took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimeoutPhase {
    /// Making the connection.
    Connect,
    /// The answer to a request, or the acceptance of its body.
    Answer,
    /// More of a body.
    Body,
}

impl fmt::Display for TimeoutPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TimeoutPhase::Connect => "connecting",
            TimeoutPhase::Answer => "awaiting the answer",
            TimeoutPhase::Body => "reading the body",
        })
    }
}

/// The sort of a [`RegistryError`], for decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RegistryErrorKind {
    /// The manifest, tag or blob does not exist.
    NotFound,
    /// The repository does not exist.
    NameUnknown,
    /// The credentials are missing or wrong (401).
    Unauthorized,
    /// The credentials do not suffice (403, `DENIED`, `insufficient_scope`).
    Denied,
    /// Too many requests (429).
    TooManyRequests,
    /// The server failed (5xx); the status.
    Server(u16),
    /// Another refusal (4xx); the status.
    Client(u16),
    /// The host name has no address.
    Resolve,
    /// No connection.
    Connect,
    /// No secure connection.
    Tls,
    /// Nothing came for too long.
    Timeout,
    /// The connection broke.
    Broken,
    /// An answer that breaks the protocol or a limit.
    Protocol,
    /// Wrong digest or size.
    Content,
    /// Manifest schema 1.
    SchemaOne,
    /// Not the manifest of an image.
    UnknownMediaType,
    /// No image for the platform.
    NoPlatform,
    /// The caller's own side: sink, source, options, credentials.
    Local,
    /// The caller cancelled.
    Cancelled,
}

impl RegistryError {
    /// The sort of this error.
    pub fn kind(&self) -> RegistryErrorKind {
        use RegistryErrorKind as K;
        match self {
            RegistryError::Refused(refusal) => refusal.kind(),
            RegistryError::NoCredentials { .. } => K::Unauthorized,
            RegistryError::Resolve { .. } => K::Resolve,
            RegistryError::Connect { .. } | RegistryError::Proxy { .. } => K::Connect,
            RegistryError::Tls { .. } => K::Tls,
            RegistryError::Timeout { .. } => K::Timeout,
            RegistryError::Broken { .. } => K::Broken,
            RegistryError::Protocol { .. }
            | RegistryError::NoToken { .. }
            | RegistryError::TooLong { .. }
            | RegistryError::Manifest { .. }
            | RegistryError::Config { .. } => K::Protocol,
            RegistryError::Content { .. } => K::Content,
            RegistryError::SchemaOne { .. } => K::SchemaOne,
            RegistryError::UnknownMediaType { .. } => K::UnknownMediaType,
            RegistryError::NoPlatform(_) => K::NoPlatform,
            RegistryError::Cancelled => K::Cancelled,
            RegistryError::PlainTextSecret { .. }
            | RegistryError::Credentials { .. }
            | RegistryError::Sink { .. }
            | RegistryError::Source { .. }
            | RegistryError::Option { .. }
            | RegistryError::File { .. }
            | RegistryError::Runtime(_) => K::Local,
        }
    }

    /// The refusal, if the answer was one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            RegistryError::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether the same request may well succeed a little later: 429, 5xx, time-outs, broken connections and failing
    /// name servers. A refused connection, an unknown host or a bad certificate is final, as it is for BuildKit.
    pub fn is_transient(&self) -> bool {
        match self {
            RegistryError::Refused(refusal) => matches!(refusal.status, 408 | 429 | 500..=599) && refusal.status != 501,
            RegistryError::Timeout { .. } | RegistryError::Broken { .. } => true,
            // The resolver has asked several times already before it speaks of a timeout.
            RegistryError::Resolve { problem, .. } => matches!(problem, ResolveProblem::Failed(_)),
            RegistryError::Connect { source, .. } => {
                matches!(
                    source.kind(),
                    io::ErrorKind::ConnectionReset
                        | io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::TimedOut
                        | io::ErrorKind::UnexpectedEof
                        | io::ErrorKind::BrokenPipe
                )
            }
            _ => false,
        }
    }
}

impl Refusal {
    /// The sort of this refusal.
    pub fn kind(&self) -> RegistryErrorKind {
        use RegistryErrorKind as K;
        let has = |code: &str| self.errors.iter().any(|error| error.code == code);
        match self.status {
            404 if has("NAME_UNKNOWN") => K::NameUnknown,
            404 => K::NotFound,
            401 if has("DENIED") || self.challenge_error.as_deref() == Some("insufficient_scope") => K::Denied,
            401 => K::Unauthorized,
            403 => K::Denied,
            429 => K::TooManyRequests,
            status @ 500..=599 => K::Server(status),
            status => K::Client(status),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.method, self.url, self.status)?;
        if let Some(reason) = StatusCode::from_u16(self.status).ok().and_then(|s| s.canonical_reason()) {
            write!(f, " {reason}")?;
        }
        for (i, error) in self.errors.iter().enumerate() {
            f.write_str(if i == 0 { ": " } else { "; " })?;
            match (error.code.as_str(), error.message.as_str()) {
                ("", message) => f.write_str(message)?,
                (code, "") => f.write_str(code)?,
                (code, message) => write!(f, "{code}: {message}")?,
            }
        }
        if self.errors.is_empty() {
            let text = String::from_utf8_lossy(&self.body);
            let line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
            if !line.is_empty() {
                write!(f, ": {line}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

/// Reads the `errors` of an answer, and the two other forms that token servers use (`details`, `message`).
pub(super) fn parse_api_errors(body: &[u8]) -> Vec<ApiError> {
    const MOST: usize = 32;
    let Ok(Value::Object(answer)) = serde_json::from_slice::<Value>(body) else {
        return Vec::new();
    };
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(Value::Array(errors)) = answer.get("errors") {
        let known = errors.iter().filter_map(Value::as_object).take(MOST).map(|entry| ApiError {
            code: text(entry.get("code")),
            message: text(entry.get("message")),
            detail: entry.get("detail").filter(|d| !d.is_null()).map(Value::to_string),
        });
        return known.collect();
    }
    let single = [answer.get("details"), answer.get("message"), answer.get("error_description")];
    let message = single.into_iter().flatten().find_map(Value::as_str);
    let code = text(answer.get("error"));
    match message {
        Some(message) => vec![ApiError { code, message: message.to_owned(), detail: None }],
        None if !code.is_empty() => vec![ApiError { code, message: String::new(), detail: None }],
        None => Vec::new(),
    }
}

/// The address without user, password and secret query values.
pub(super) fn redact(url: &Url) -> String {
    const SHOWN: [&str; 12] = [
        "scope",
        "service",
        "digest",
        "mount",
        "from",
        "n",
        "last",
        "ns",
        "client_id",
        "offline_token",
        "account",
        "access_type",
    ];
    let mut shown = url.clone();
    // Fails only for addresses that cannot have a user, which are then clean already.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    if url.query().is_some() {
        let pairs: Vec<(String, String)> = url
            .query_pairs()
            .map(|(key, value)| {
                let value = if SHOWN.contains(&key.as_ref()) { value.into_owned() } else { "REDACTED".to_owned() };
                (key.into_owned(), value)
            })
            .collect();
        shown.query_pairs_mut().clear().extend_pairs(pairs);
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lose_their_secrets() {
        let url = Url::parse("https://me:pw@h.example/v2/a/blobs/x?X-Amz-Signature=abc&digest=sha256:1").unwrap();
        let shown = redact(&url);
        assert!(!shown.contains("pw") && !shown.contains("abc") && !shown.contains("me"), "{shown}");
        assert!(shown.ends_with("?X-Amz-Signature=REDACTED&digest=sha256%3A1"), "{shown}");
    }

    #[test]
    fn every_form_of_error_answer_is_read() {
        let two = br#"{"errors":[{"code":"DENIED","message":"no","detail":{"a":1}},{"code":"X"}]}"#;
        let errors = parse_api_errors(two);
        assert_eq!((errors.len(), errors[0].code.as_str()), (2, "DENIED"));
        assert_eq!(errors[0].detail.as_deref(), Some(r#"{"a":1}"#));
        assert_eq!(
            parse_api_errors(br#"{"details":"incorrect username or password"}"#)[0].message,
            "incorrect username or password"
        );
        assert_eq!(parse_api_errors(br#"{"error":"invalid_grant"}"#)[0].code, "invalid_grant");
        for junk in [&b""[..], b"<html>", b"[]", br#"{"errors":7}"#, br#"{"errors":[7]}"#] {
            assert!(parse_api_errors(junk).is_empty());
        }
    }
}
