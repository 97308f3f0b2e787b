//! Why an image cannot be had, as facts.

use serde::{Deserialize, Serialize};

/// Why an image cannot be had.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
#[non_exhaustive]
pub enum PullFailure {
    /// A server answered, and refused.
    Refused(Box<Refusal>),
    /// No answer came.
    NoAnswer {
        /// What was asked for.
        #[serde(flatten)]
        request: Request,
        /// Why none came.
        problem: NoAnswer,
    },
    /// The registry wants a password, and there is none.
    NoCredentials {
        /// What was asked for.
        #[serde(flatten)]
        request: Request,
    },
    /// The token server answered well, but gave no token.
    NoToken {
        /// What was asked for.
        #[serde(flatten)]
        request: Request,
    },
    /// No manifest for this platform.
    NoPlatform {
        /// The platform asked for.
        platform: String,
        /// Digest of the index that lacks it.
        index: String,
    },
    /// It is of a kind that is no image.
    UnknownMediaType {
        /// Whether the manifest is, or the configuration that it names.
        part: Part,
        /// As declared.
        media_type: String,
        /// The digest of what has this type.
        digest: String,
    },
    /// A manifest of schema 1.
    SchemaOne {
        /// As declared.
        media_type: String,
        /// Its digest.
        digest: String,
        /// Whether it bears a signature.
        signed: bool,
    },
    /// What came is not what its digest promises.
    Corrupt {
        /// Of what.
        part: Part,
        /// What was promised.
        expected: String,
        /// What came.
        actual: String,
    },
    /// The connection ended before the end of the content.
    Short {
        /// Of what.
        part: Part,
        /// Bytes that were promised.
        expected: u64,
        /// Bytes that came.
        actual: u64,
    },
    /// Anything else, in our own words.
    Other {
        /// The text.
        detail: String,
    },
}

impl PullFailure {
    /// What of the image could not be had, if that is known.
    #[must_use]
    pub fn part(&self) -> Option<Part> {
        match self {
            PullFailure::Refused(refusal) => Some(refusal.request.part),
            PullFailure::NoAnswer { request, .. }
            | PullFailure::NoCredentials { request }
            | PullFailure::NoToken { request } => Some(request.part),
            PullFailure::UnknownMediaType { part, .. }
            | PullFailure::Corrupt { part, .. }
            | PullFailure::Short { part, .. } => Some(*part),
            PullFailure::NoPlatform { .. } | PullFailure::SchemaOne { .. } => Some(Part::Manifest),
            PullFailure::Other { .. } => None,
        }
    }
}

/// What of an image was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Part {
    /// The manifest or index that its name points to.
    Name,
    /// A manifest or index that the registry itself named by its digest.
    Manifest,
    /// The configuration.
    Config,
    /// A layer.
    Layer,
    /// The token that the registry demands.
    Token,
}

/// What was asked for when it went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What of the image.
    pub part: Part,
    /// The HTTP method.
    pub method: String,
    /// The address that did not answer, or answered so; secrets in it are hidden.
    pub url: String,
    /// For whom a token was wanted: `true` if there was a password.
    #[serde(default)]
    pub user: bool,
    /// Digest and media type of what was asked for, where they were known.
    #[serde(default)]
    pub content: Option<Content>,
}

/// A piece of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Its digest.
    pub digest: String,
    /// Its media type.
    pub media_type: String,
}

/// An answer that refuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What was asked for.
    #[serde(flatten)]
    pub request: Request,
    /// The HTTP status.
    pub status: u16,
    /// The status of the HEAD request before this one, if it was that which refused.
    pub head: Option<u16>,
    /// `Content-Type` of the answer.
    pub content_type: Option<String>,
    /// The body, lossily decoded, as far as it was read.
    pub body: String,
    /// The `error` of the challenge, as `insufficient_scope`.
    pub challenge: Option<String>,
}

/// Why no answer came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "problem", rename_all = "snake_case")]
#[non_exhaustive]
pub enum NoAnswer {
    /// The name has no address, or nobody told it.
    Resolve {
        /// The name.
        host: String,
        /// The name server, `address:port`.
        server: Option<String>,
        /// What the name server did.
        what: Lookup,
    },
    /// No connection.
    Connect {
        /// The address, `address:port`, where known.
        address: Option<String>,
        /// The system's words, in lower case.
        why: String,
    },
    /// The server speaks plain HTTP.
    PlainHttp,
    /// No known authority signed the certificate.
    UnknownAuthority,
    /// The certificate is for other names.
    WrongName {
        /// The one that was wanted.
        host: String,
        /// Those that it is for.
        names: Vec<String>,
    },
    /// The certificate is not valid now.
    Expired {
        /// The time of the comparison, as RFC 3339 has it.
        now: String,
        /// When it expired, or will be valid; as `is after 2024-02-01T00:00:00Z`.
        than: String,
    },
    /// Another problem of the secure connection.
    Tls {
        /// In the words of the TLS library.
        why: String,
    },
    /// The connection was closed without an answer.
    Closed,
    /// The connection was reset.
    Reset,
    /// Nothing came for too long.
    Timeout {
        /// Whether already the connection was waited for in vain.
        connecting: bool,
    },
}

/// What a name server did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lookup {
    /// It knows no such name.
    NoSuchHost,
    /// It did not answer.
    Timeout,
    /// It failed.
    Failed,
}
