//! Writing to registries.

use std::io::{self, Read};
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Method, StatusCode, Url};

use crate::digest::{Digest, DigestError, Hasher};
use crate::manifest::Descriptor;
use crate::reference::{DEFAULT_TAG, Reference};

use super::endpoint::Endpoint;
use super::error::{RegistryError, RegistryErrorKind, Subject, redact};
use super::pull::{CONTENT_DIGEST, join};
use super::session::{Request, Sent, protocol};
use super::transport::{Answer, Body, Failure};
use super::{Registry, TransferEvent};

/// The size of the pieces of an upload that the registry does not take whole, in bytes.
const CHUNK: u64 = 16 << 20;
/// A registry may ask for longer pieces (`OCI-Chunk-Min-Length`), within reason.
const CHUNK_MOST: u64 = 1 << 30;

/// Opens the content of a blob from its beginning; called again for every attempt.
pub type BlobSource<'a> = dyn FnMut() -> io::Result<Box<dyn Read + 'a>> + 'a;

/// How a blob got into the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pushed {
    /// It was there already.
    Existed,
    /// The registry took it from another of its repositories.
    Mounted,
    /// It was uploaded.
    Uploaded,
}

impl Registry {
    /// Puts a blob into the repository of `reference`, unless it is there. `mount_from` names another repository of the
    /// same registry that is likely to have it, such as `library/debian`.
    ///
    /// # Errors
    /// [`RegistryErrorKind::Unauthorized`], [`RegistryErrorKind::Denied`], [`RegistryError::Source`] and those of the way
    /// there.
    pub fn push_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        source: &mut BlobSource<'_>,
        mount_from: Option<&str>,
        on_event: &mut dyn FnMut(TransferEvent<'_>),
        cancel: &AtomicBool,
    ) -> Result<Pushed, RegistryError> {
        let endpoint = self.session.endpoints.for_push(reference)?;
        let mut upload = Upload { registry: self, endpoint, reference, descriptor, cancel, chunked: false };
        let mut mount = mount_from.filter(|from| *from != reference.path());
        let attempts = self.session.transport.options().retries.attempts.max(1);
        let mut attempt = 1;
        let mut renewed = false;
        loop {
            let error = match upload.run(source, mount, on_event) {
                Ok(pushed) => return Ok(pushed),
                Err(error) => error,
            };
            match error.kind() {
                // The token server, or the registry, does not let us read from the other repository.
                RegistryErrorKind::Unauthorized | RegistryErrorKind::Denied | RegistryErrorKind::NotFound
                    if mount.is_some() =>
                {
                    mount = None;
                    continue;
                }
                // A streamed body cannot be sent twice, so a token that ran out shows only here.
                RegistryErrorKind::Unauthorized if error.refusal().is_some_and(|r| r.method == "PUT") && !renewed => {
                    renewed = true;
                    continue;
                }
                RegistryErrorKind::Client(_) if !upload.chunked && wants_pieces(&error) => {
                    upload.chunked = true;
                    continue;
                }
                _ => {}
            }
            if !error.is_transient() || attempt >= attempts {
                return Err(error);
            }
            self.session.pause(attempt, &error, on_event, cancel)?;
            attempt += 1;
        }
    }

    /// Puts a manifest or an index, exactly these bytes, under the tag of `reference`, or under its digest if it has no
    /// tag. Everything it points to must be there before. Returns its digest.
    ///
    /// # Errors
    /// [`RegistryErrorKind::Content`] if the reference has another digest, and those of the way there.
    pub fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: &[u8],
        cancel: &AtomicBool,
    ) -> Result<Digest, RegistryError> {
        let endpoint = self.session.endpoints.for_push(reference)?;
        let mut hasher = Hasher::new(reference.digest().map_or(crate::digest::Algorithm::Sha256, Digest::algorithm));
        hasher.update(bytes);
        let digest = hasher.finish();
        let wrong = |expected: &Digest, url: String| RegistryError::Content {
            url,
            problem: DigestError::Mismatch { expected: expected.clone(), actual: digest.clone() },
        };
        if let Some(expected) = reference.digest().filter(|expected| **expected != digest) {
            return Err(wrong(expected, reference.to_string()));
        }
        let version = match (reference.tag(), reference.digest()) {
            (Some(tag), _) => tag,
            (None, Some(digest)) => digest.as_str(),
            (None, None) => DEFAULT_TAG,
        };
        let content_type = HeaderValue::from_str(media_type).map_err(|_| RegistryError::Option {
            option: "media type",
            value: media_type.escape_default().to_string(),
            problem: "it cannot be sent in a header".to_owned(),
        })?;
        let body = Bytes::copy_from_slice(bytes);
        let attempts = self.session.transport.options().retries.attempts.max(1);
        self.session.retrying(attempts, &mut |_| {}, cancel, |_| {
            let base = self.session.base(&endpoint, cancel)?;
            let url = join(&base, &format!("{}/manifests/{version}", reference.path()))?;
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, content_type.clone());
            let request = Request { method: Method::PUT, url, headers, body: Body::Bytes(body.clone()) };
            let sent = self.session.send(&endpoint, &base, &[push_scope(reference)], request, cancel)?;
            if !sent.answer.status.is_success() {
                return Err(sent.refuse(&self.session, Subject::Manifest, cancel));
            }
            let stored: Option<Digest> = sent.answer.header(CONTENT_DIGEST).and_then(|text| text.parse().ok());
            match stored {
                Some(stored) if stored.algorithm() == digest.algorithm() && stored != digest => {
                    Err(wrong(&stored, redact(&sent.answer.url)))
                }
                _ => Ok(()),
            }
        })?;
        Ok(digest)
    }
}

/// One blob on its way.
struct Upload<'a> {
    registry: &'a Registry,
    endpoint: Endpoint,
    reference: &'a Reference,
    descriptor: &'a Descriptor,
    cancel: &'a AtomicBool,
    /// Send the content in pieces, since the registry did not take it whole.
    chunked: bool,
}

impl Upload<'_> {
    fn run(
        &self,
        source: &mut BlobSource<'_>,
        mount_from: Option<&str>,
        on_event: &mut dyn FnMut(TransferEvent<'_>),
    ) -> Result<Pushed, RegistryError> {
        let session = &self.registry.session;
        let Descriptor { digest, size: total, .. } = self.descriptor;
        let mut scopes = vec![push_scope(self.reference)];
        if self.registry.head_blob(&self.endpoint, self.reference, digest, &scopes, self.cancel)? {
            return Ok(Pushed::Existed);
        }
        let base = session.base(&self.endpoint, self.cancel)?;
        let mut url = join(&base, &format!("{}/blobs/uploads/", self.reference.path()))?;
        if let Some(from) = mount_from {
            scopes.push(format!("repository:{from}:pull"));
            url.query_pairs_mut().append_pair("mount", digest.as_str()).append_pair("from", from);
        }
        let start = Request { method: Method::POST, url, headers: no_content(), body: Body::None };
        let sent = session.send(&self.endpoint, &base, &scopes, start, self.cancel)?;
        match sent.answer.status {
            StatusCode::CREATED => return Ok(Pushed::Mounted),
            StatusCode::ACCEPTED => {}
            status if status.is_success() => {
                return Err(protocol(&sent.answer, "an upload begins with status 202"));
            }
            _ => return Err(self.refuse(sent)),
        }
        scopes.truncate(1);
        let location = next_location(&base, &sent.answer)?;
        let least =
            sent.answer.header(HeaderName::from_static("oci-chunk-min-length")).and_then(|t| t.trim().parse().ok());
        drop(sent);
        on_event(TransferEvent::Progress { current: 0, total: *total });
        let failed = |source| RegistryError::Source { digest: digest.clone(), source };
        let mut content = source().map_err(failed)?;
        if self.chunked {
            let piece = CHUNK.max(least.unwrap_or(0)).min(CHUNK_MOST);
            self.send_pieces(&base, &scopes, location, content.as_mut(), piece, on_event)?;
            return Ok(Pushed::Uploaded);
        }
        let mut url = location;
        url.query_pairs_mut().append_pair("digest", digest.as_str());
        let mut sent_so_far = |current| on_event(TransferEvent::Progress { current, total: *total });
        let body = match total {
            0 => Body::None,
            size => Body::Stream { source: content.as_mut(), size: *size, sent: &mut sent_so_far },
        };
        let mut headers = octets();
        if *total == 0 {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        let sent = self.send_stream(&base, &scopes, Request { method: Method::PUT, url, headers, body })?;
        self.finished(sent)
    }

    fn send_pieces(
        &self,
        base: &Url,
        scopes: &[String],
        mut location: Url,
        content: &mut dyn Read,
        piece: u64,
        on_event: &mut dyn FnMut(TransferEvent<'_>),
    ) -> Result<(), RegistryError> {
        let total = self.descriptor.size;
        let mut done = 0;
        while done < total {
            let size = piece.min(total - done);
            let mut headers = octets();
            let range = format!("{done}-{}", done + size - 1);
            if let Ok(value) = HeaderValue::from_str(&range) {
                headers.insert(CONTENT_RANGE, value);
            }
            let mut sent_so_far = |n| on_event(TransferEvent::Progress { current: done + n, total });
            let body = Body::Stream { source: content, size, sent: &mut sent_so_far };
            let request = Request { method: Method::PATCH, url: location, headers, body };
            let sent = self.send_stream(base, scopes, request)?;
            if !sent.answer.status.is_success() {
                return Err(self.refuse(sent));
            }
            location = next_location(base, &sent.answer)?;
            done += size;
        }
        location.query_pairs_mut().append_pair("digest", self.descriptor.digest.as_str());
        let request = Request { method: Method::PUT, url: location, headers: no_content(), body: Body::None };
        let sent = self.registry.session.send(&self.endpoint, base, scopes, request, self.cancel)?;
        self.finished(sent).map(drop)
    }

    fn send_stream(&self, base: &Url, scopes: &[String], request: Request<'_>) -> Result<Sent, RegistryError> {
        let digest = &self.descriptor.digest;
        self.registry.session.send_stream(&self.endpoint, base, scopes, request, self.cancel).map_err(|failure| {
            match failure {
                Failure::Registry(error) => error,
                Failure::Source(source) => RegistryError::Source { digest: digest.clone(), source },
            }
        })
    }

    fn finished(&self, sent: Sent) -> Result<Pushed, RegistryError> {
        if sent.answer.status.is_success() { Ok(Pushed::Uploaded) } else { Err(self.refuse(sent)) }
    }

    fn refuse(&self, sent: Sent) -> RegistryError {
        sent.refuse(&self.registry.session, Subject::Upload, self.cancel)
    }
}

/// Whether a refused upload may be taken in pieces: the whole was too long, or not understood.
fn wants_pieces(error: &RegistryError) -> bool {
    error.refusal().is_some_and(|refusal| {
        let answered_upload = refusal.method == "PUT" && refusal.about == Subject::Upload;
        answered_upload && matches!(refusal.status, 405 | 411 | 413 | 415 | 416)
    })
}

/// Where an upload goes on: absolute, or relative to the request. A registry behind a proxy that ends TLS may name itself
/// with `http:`; it is still reached the way it was.
fn next_location(base: &Url, answer: &Answer) -> Result<Url, RegistryError> {
    let text = answer.header(LOCATION).ok_or_else(|| protocol(answer, "the upload has no Location"))?;
    let mut url = answer.url.join(text).map_err(|_| protocol(answer, "the Location of the upload is no address"))?;
    if base.scheme() == "https" && url.scheme() == "http" && url.host_str() == base.host_str() && url.port().is_none() {
        // Both schemes are special ones, between which a change cannot fail.
        let _ = url.set_scheme("https");
        let _ = url.set_port(base.port());
    }
    if !matches!(url.scheme(), "http" | "https") {
        return Err(protocol(answer, "the Location of the upload is no HTTP address"));
    }
    Ok(url)
}

fn octets() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers
}

fn no_content() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    headers
}

fn push_scope(reference: &Reference) -> String {
    format!("repository:{}:pull,push", reference.path())
}
