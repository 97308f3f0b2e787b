//! Reading from registries.

use std::io::Write;
use std::sync::atomic::AtomicBool;

use reqwest::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, RANGE};
use reqwest::{Method, StatusCode, Url};

use crate::config::ImageConfig;
use crate::digest::{Digest, DigestError, Hasher};
use crate::manifest::{Descriptor, ImageManifest, Manifest, ManifestKind, media_type};
use crate::platform::Platform;
use crate::reference::{DEFAULT_TAG, Reference};

use super::endpoint::Endpoint;
use super::error::{NoPlatform, Refuser, RegistryError, RegistryErrorKind, RequestLine, Subject, redact};
use super::session::{Request, protocol};
use super::transport::{Answer, check};
use super::{Registry, TransferEvent};

/// The longest manifest or index; also the limit of Docker's own registry.
const MANIFEST_LIMIT: u64 = 4 << 20;
/// The longest image configuration.
const CONFIG_LIMIT: u64 = 16 << 20;
/// How deep indexes may nest.
const INDEX_DEPTH: usize = 3;
/// A download that got on by so many bytes since it last broke begins to count its attempts anew.
const PROGRESS: u64 = 256 * 1024;

/// The header in which a registry tells the digest of what it sends.
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// How far the search for an image got.
#[derive(Debug)]
pub enum Found<'a> {
    /// Its name points to a manifest or an index that can be used.
    Name,
    /// This is the image; its configuration comes next.
    Image(&'a ImageManifest),
}

/// An image found in a registry: which one a name means on a platform.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Resolved {
    /// What the name points to: an index, or the image's manifest itself.
    pub top: Manifest,
    /// The image's manifest. Equals `top` if that is no index.
    pub manifest: Manifest,
    /// The image's configuration.
    pub config: ImageConfig,
    /// The configuration's bytes, verified.
    pub config_bytes: Vec<u8>,
    /// The platform the configuration states.
    pub platform: Platform,
    /// Whether an image for that platform runs on the one asked for. An image without an index is taken whatever its
    /// platform; Docker then warns or fails, depending on the builder.
    pub platform_matches: bool,
    image: ImageManifest,
}

impl Resolved {
    /// The image's manifest, parsed.
    pub fn image(&self) -> &ImageManifest {
        &self.image
    }
}

impl Registry {
    /// Finds the image that `reference` means on `platform`. A digest in the reference wins over its tag; with neither
    /// the tag is `latest`.
    ///
    /// # Errors
    /// [`RegistryErrorKind::NotFound`], [`RegistryErrorKind::NoPlatform`], [`RegistryErrorKind::SchemaOne`],
    /// [`RegistryErrorKind::UnknownMediaType`], [`RegistryErrorKind::Content`] and those of the way there.
    pub fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        cancel: &AtomicBool,
    ) -> Result<Resolved, RegistryError> {
        self.resolve_noting(reference, platform, &mut |_| {}, cancel)
    }

    /// As [`Registry::resolve`]; `found` hears how far it got.
    ///
    /// # Errors
    /// As [`Registry::resolve`].
    pub fn resolve_noting(
        &self,
        reference: &Reference,
        platform: &Platform,
        found: &mut dyn FnMut(Found<'_>),
        cancel: &AtomicBool,
    ) -> Result<Resolved, RegistryError> {
        let (top, top_url) = self.top_manifest(reference, cancel)?;
        let signed = |manifest: &Manifest| manifest.media_type() == media_type::DOCKER_SCHEMA1_SIGNED;
        match top.kind() {
            ManifestKind::Unknown(_) => {}
            ManifestKind::Schema1 if !signed(&top) => {}
            _ => found(Found::Name),
        }
        let (mut manifest, mut url) = (top.clone(), top_url);
        let mut depth = 0;
        let image = loop {
            let unknown = |media_type: &str| RegistryError::UnknownMediaType {
                url: url.clone(),
                of: Subject::Manifest,
                digest: manifest.digest().clone(),
                media_type: media_type.to_owned(),
            };
            match manifest.kind() {
                ManifestKind::Image(image) => break image.clone(),
                ManifestKind::Index(_) if depth == INDEX_DEPTH => {
                    return Err(unknown(manifest.media_type()));
                }
                ManifestKind::Index(index) => {
                    let chosen = index.choose(platform).ok_or_else(|| {
                        RegistryError::NoPlatform(Box::new(NoPlatform {
                            url: url.clone(),
                            digest: manifest.digest().clone(),
                            wanted: platform.clone(),
                            available: index
                                .manifests
                                .iter()
                                .filter(|entry| !entry.is_attestation())
                                .filter_map(|entry| entry.platform.clone())
                                .collect(),
                        }))
                    })?;
                    let chosen = chosen.clone();
                    (manifest, url) = self.manifest_by_digest(reference, &chosen, cancel)?;
                    depth += 1;
                }
                ManifestKind::Schema1 => {
                    return Err(RegistryError::SchemaOne {
                        url,
                        digest: manifest.digest().clone(),
                        signed: signed(&manifest),
                        media_type: manifest.media_type().to_owned(),
                    });
                }
                ManifestKind::Unknown(media_type) => return Err(unknown(media_type)),
            }
        };
        if image.config.size > CONFIG_LIMIT {
            return Err(RegistryError::TooLong {
                at: Box::new(RequestLine { method: "GET".to_owned(), url }),
                limit: CONFIG_LIMIT,
            });
        }
        let foreign = !media_type::is_config(&image.config.media_type)
            && !matches!(image.config.media_type.as_str(), "" | "application/octet-stream" | "application/json");
        if foreign {
            let (of, digest) = (Subject::Config, image.config.digest);
            return Err(RegistryError::UnknownMediaType { url, of, digest, media_type: image.config.media_type });
        }
        found(Found::Image(&image));
        let mut config_bytes = Vec::new();
        self.fetch(reference, &image.config, Subject::Config, &mut config_bytes, &mut |_| {}, cancel)?;
        let config = ImageConfig::parse(&config_bytes).map_err(|source| RegistryError::Config { url, source })?;
        let actual = config.platform();
        let platform_matches = platform.compatible().iter().any(|wanted| wanted.is_same(&actual));
        Ok(Resolved { top, manifest, config, config_bytes, platform: actual, platform_matches, image })
    }

    /// Reads the manifest or index that a reference points to, whatever its kind.
    ///
    /// # Errors
    /// As [`Registry::resolve`].
    pub fn manifest(&self, reference: &Reference, cancel: &AtomicBool) -> Result<Manifest, RegistryError> {
        Ok(self.top_manifest(reference, cancel)?.0)
    }

    fn top_manifest(&self, reference: &Reference, cancel: &AtomicBool) -> Result<(Manifest, String), RegistryError> {
        let endpoints = self.session.endpoints.for_pull(reference)?;
        let tag = match reference.digest() {
            Some(digest) => {
                let wanted = Wanted { version: digest.as_str(), known: Some((digest, None)), media_type: None };
                return self.session.at_endpoints(&endpoints, |endpoint, attempts| {
                    self.get_manifest(endpoint, attempts, reference, &wanted, Subject::Manifest, cancel)
                });
            }
            None => reference.tag().unwrap_or(DEFAULT_TAG),
        };
        self.session.at_endpoints(&endpoints, |endpoint, attempts| {
            self.tagged_manifest(endpoint, attempts, reference, tag, cancel)
        })
    }

    /// Reads what a tag points to, as Docker does: a HEAD tells the digest, and the content is asked for by that. The first
    /// is free where pulls are counted.
    fn tagged_manifest(
        &self,
        endpoint: &Endpoint,
        attempts: u32,
        reference: &Reference,
        tag: &str,
        cancel: &AtomicBool,
    ) -> Result<(Manifest, String), RegistryError> {
        let path = format!("{}/manifests/{tag}", reference.path());
        let by_tag = Wanted { version: tag, known: None, media_type: None };
        let head = self.session.retrying(attempts, &mut |_| {}, cancel, |_| {
            let headers = &[(ACCEPT, ACCEPTED)];
            let answer = self.ask(Method::HEAD, endpoint, reference, &path, Subject::Manifest, headers, cancel)?;
            let digest: Option<Digest> = answer.header(CONTENT_DIGEST).and_then(|text| text.parse().ok());
            Ok((digest, answer.header(CONTENT_TYPE).map(str::to_owned)))
        });
        let refused = match head {
            Ok((Some(digest), media_type)) => {
                let (known, media_type) = (Some((&digest, None)), media_type.as_deref());
                let wanted = Wanted { version: digest.as_str(), known, media_type };
                return self.get_manifest(endpoint, attempts, reference, &wanted, Subject::Found, cancel);
            }
            Ok((None, _)) => {
                return self.get_manifest(endpoint, attempts, reference, &by_tag, Subject::Found, cancel);
            }
            Err(RegistryError::Refused(refusal)) if refusal.by == Refuser::Registry && !endpoint.mirror => refusal,
            Err(error) => return Err(self.pinged(endpoint, error, cancel)),
        };
        // A refused HEAD has no words, and not every server knows HEAD.
        match self.get_manifest(endpoint, 1, reference, &by_tag, Subject::Manifest, cancel) {
            Ok(found) => Ok(found),
            Err(RegistryError::Refused(mut second)) => {
                second.head = Some(refused.status);
                Err(RegistryError::Refused(second))
            }
            Err(RegistryError::Cancelled) => Err(RegistryError::Cancelled),
            Err(_) => Err(RegistryError::Refused(refused)),
        }
    }

    /// Of a connection that broke, tells whether this is so with every request to the host.
    fn pinged(&self, endpoint: &Endpoint, error: RegistryError, cancel: &AtomicBool) -> RegistryError {
        if !matches!(error, RegistryError::Broken { .. } | RegistryError::Connect { .. }) {
            return error;
        }
        let Ok(base) = self.session.base(endpoint, cancel) else { return error };
        match self.session.follow(Request::new(Method::GET, base), cancel) {
            Err(second @ (RegistryError::Broken { .. } | RegistryError::Connect { .. } | RegistryError::Cancelled)) => {
                second
            }
            _ => error,
        }
    }

    /// Reads a manifest named by a descriptor of an index.
    ///
    /// # Errors
    /// As [`Registry::resolve`].
    pub fn manifest_of(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        cancel: &AtomicBool,
    ) -> Result<Manifest, RegistryError> {
        Ok(self.manifest_by_digest(reference, descriptor, cancel)?.0)
    }

    fn manifest_by_digest(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        cancel: &AtomicBool,
    ) -> Result<(Manifest, String), RegistryError> {
        let known = Some((&descriptor.digest, Some(descriptor.size)));
        let media_type = Some(descriptor.media_type.as_str()).filter(|text| !text.is_empty());
        let wanted = Wanted { version: descriptor.digest.as_str(), known, media_type };
        let endpoints = self.session.endpoints.for_pull(reference)?;
        self.session.at_endpoints(&endpoints, |endpoint, attempts| {
            self.get_manifest(endpoint, attempts, reference, &wanted, Subject::Found, cancel)
        })
    }

    fn get_manifest(
        &self,
        endpoint: &Endpoint,
        attempts: u32,
        reference: &Reference,
        wanted: &Wanted<'_>,
        about: Subject,
        cancel: &AtomicBool,
    ) -> Result<(Manifest, String), RegistryError> {
        let Wanted { version, known, media_type } = *wanted;
        let path = format!("{}/manifests/{version}", reference.path());
        let described = |mut error: RegistryError| {
            if let (RegistryError::Refused(refusal), Some((digest, _))) = (&mut error, known) {
                refusal.content = Some((digest.clone(), media_type.unwrap_or_default().to_owned()));
            }
            error
        };
        let read = self.session.retrying(attempts, &mut |_| {}, cancel, |_| {
            let answer = self.get(endpoint, reference, &path, about, &[(ACCEPT, ACCEPTED)], cancel)?;
            let url = redact(&answer.url);
            let content_type = answer.header(CONTENT_TYPE).map(str::to_owned);
            let announced: Option<Digest> = answer.header(CONTENT_DIGEST).and_then(|text| text.parse().ok());
            let body = answer.bytes(MANIFEST_LIMIT, cancel)?;
            let wrong = |problem| RegistryError::Content { url: url.clone(), problem };
            if let Some((digest, Some(size))) = known
                && size != body.len() as u64
            {
                let (expected, actual) = (size, body.len() as u64);
                return Err(wrong(DigestError::Size { digest: digest.clone(), expected, actual, more: false }));
            }
            for expected in [known.map(|(digest, _)| digest), announced.as_ref()].into_iter().flatten() {
                let mut hasher = Hasher::new(expected.algorithm());
                hasher.update(&body);
                let actual = hasher.finish();
                if actual != *expected {
                    return Err(wrong(DigestError::Mismatch { expected: expected.clone(), actual }));
                }
            }
            let content_type = media_type.or(content_type.as_deref());
            let manifest = Manifest::parse(body, content_type)
                .map_err(|source| RegistryError::Manifest { url: url.clone(), source })?;
            Ok((manifest, url))
        });
        read.map_err(described)
    }

    /// Whether the registry has a blob. Mirrors are not asked.
    ///
    /// # Errors
    /// Those of the way there; a missing blob or repository is none.
    pub fn has_blob(&self, reference: &Reference, digest: &Digest, cancel: &AtomicBool) -> Result<bool, RegistryError> {
        let endpoint = self.session.endpoints.for_push(reference)?;
        let attempts = self.session.transport.options().retries.attempts;
        let scopes = [pull_scope(reference)];
        self.session
            .retrying(attempts, &mut |_| {}, cancel, |_| self.head_blob(&endpoint, reference, digest, &scopes, cancel))
    }

    pub(super) fn head_blob(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        digest: &Digest,
        scopes: &[String],
        cancel: &AtomicBool,
    ) -> Result<bool, RegistryError> {
        let base = self.session.base(endpoint, cancel)?;
        let url = join(&base, &format!("{}/blobs/{digest}", reference.path()))?;
        let sent = self.session.send(endpoint, &base, scopes, Request::new(Method::HEAD, url), cancel)?;
        match sent.answer.status {
            status if status.is_success() => Ok(true),
            // Some registries know no HEAD; an upload then tells.
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Ok(false),
            _ => Err(sent.refuse(&self.session, Subject::Blob, cancel)),
        }
    }

    fn get(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        path: &str,
        about: Subject,
        headers: &[(HeaderName, &str)],
        cancel: &AtomicBool,
    ) -> Result<Answer, RegistryError> {
        self.ask(Method::GET, endpoint, reference, path, about, headers, cancel)
    }

    #[allow(clippy::too_many_arguments, reason = "one request, said in full")]
    fn ask(
        &self,
        method: Method,
        endpoint: &Endpoint,
        reference: &Reference,
        path: &str,
        about: Subject,
        headers: &[(HeaderName, &str)],
        cancel: &AtomicBool,
    ) -> Result<Answer, RegistryError> {
        let base = self.session.base(endpoint, cancel)?;
        let request = Request { method, ..plain_get(join(&base, path)?, headers) };
        let sent = self.session.send(endpoint, &base, &[pull_scope(reference)], request, cancel)?;
        if sent.answer.status.is_success() {
            return Ok(sent.answer);
        }
        Err(sent.refuse(&self.session, about, cancel))
    }

    /// Writes a blob to `sink`, verified. If the connection breaks, the download goes on where it stopped; bytes already
    /// written are never written again. After an error the sink's content is worthless.
    ///
    /// A blob that the registry lacks is fetched from the descriptor's `urls`, without any credential.
    ///
    /// # Errors
    /// [`RegistryErrorKind::NotFound`], [`RegistryErrorKind::Content`] for a wrong digest or size,
    /// [`RegistryError::Sink`] and those of the way there.
    pub fn fetch_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        sink: &mut dyn Write,
        on_event: &mut dyn FnMut(TransferEvent<'_>),
        cancel: &AtomicBool,
    ) -> Result<(), RegistryError> {
        self.fetch(reference, descriptor, Subject::Blob, sink, on_event, cancel)
    }

    fn fetch(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        about: Subject,
        sink: &mut dyn Write,
        on_event: &mut dyn FnMut(TransferEvent<'_>),
        cancel: &AtomicBool,
    ) -> Result<(), RegistryError> {
        let described = |mut error: RegistryError| {
            if let RegistryError::Refused(refusal) = &mut error {
                refusal.content = Some((descriptor.digest.clone(), descriptor.media_type.clone()));
            }
            error
        };
        let mut download = Download {
            descriptor,
            sink,
            hasher: Some(Hasher::new(descriptor.digest.algorithm())),
            received: 0,
            whole_only: false,
            spoilt: false,
        };
        let endpoints = self.session.endpoints.for_pull(reference)?;
        let path = format!("{}/blobs/{}", reference.path(), descriptor.digest);
        // A spoilt sink ends it all: the inner result is final, whatever other places there are.
        let mut result = self
            .session
            .at_endpoints(&endpoints, |endpoint, attempts| {
                let result = self.keep_trying(attempts, &mut download, on_event, cancel, |range| {
                    self.get(endpoint, reference, &path, about, range, cancel)
                });
                match result {
                    Err(error) if !download.spoilt => Err(error),
                    result => Ok(result),
                }
            })
            .and_then(|result| result);
        for text in &descriptor.urls {
            let missing = matches!(&result, Err(error) if error.kind() == RegistryErrorKind::NotFound);
            if !missing {
                break;
            }
            let Some(url) = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https")) else {
                continue;
            };
            let attempts = self.session.transport.options().retries.attempts.max(1);
            result = self.keep_trying(attempts, &mut download, on_event, cancel, |range| {
                let (answer, _) = self.session.follow(plain_get(url.clone(), range), cancel)?;
                if answer.status.is_success() {
                    return Ok(answer);
                }
                Err(self.session.refusal(answer, Refuser::Elsewhere, Subject::Blob, false, cancel))
            });
        }
        result.map_err(described)
    }

    /// Downloads from one place, with as many attempts as are due, until done or given up.
    fn keep_trying(
        &self,
        attempts: u32,
        download: &mut Download<'_>,
        on_event: &mut dyn FnMut(TransferEvent<'_>),
        cancel: &AtomicBool,
        mut open: impl FnMut(&[(HeaderName, &str)]) -> Result<Answer, RegistryError>,
    ) -> Result<(), RegistryError> {
        let mut attempt = 1;
        loop {
            let before = download.received;
            let error = match download.attempt(&mut open, on_event, cancel) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if download.received - before >= PROGRESS {
                attempt = 1;
            }
            let ended_early = matches!(
                &error,
                RegistryError::Content { problem: DigestError::Size { more: false, .. }, .. } if !download.spoilt
            );
            if download.spoilt || !(error.is_transient() || ended_early) || attempt >= attempts {
                return Err(error);
            }
            self.session.pause(attempt, &error, on_event, cancel)?;
            attempt += 1;
        }
    }
}

/// A manifest to be had.
struct Wanted<'a> {
    /// Tag or digest.
    version: &'a str,
    /// Digest, and perhaps size, where they are known.
    known: Option<(&'a Digest, Option<u64>)>,
    /// The media type that something else has told of it.
    media_type: Option<&'a str>,
}

/// Asks for a blob with these headers besides.
type Open<'a> = dyn FnMut(&[(HeaderName, &str)]) -> Result<Answer, RegistryError> + 'a;

/// A download in progress, across attempts and places.
struct Download<'a> {
    descriptor: &'a Descriptor,
    sink: &'a mut dyn Write,
    hasher: Option<Hasher>,
    /// Bytes written to the sink.
    received: u64,
    /// A part was refused or came wrong: ask for the whole and drop what is there already.
    whole_only: bool,
    /// The sink holds, or got, something wrong: nothing can mend it.
    spoilt: bool,
}

impl Download<'_> {
    fn attempt(
        &mut self,
        open: &mut Open<'_>,
        on_event: &mut dyn FnMut(TransferEvent<'_>),
        cancel: &AtomicBool,
    ) -> Result<(), RegistryError> {
        let total = self.descriptor.size;
        let range = format!("bytes={}-", self.received);
        let identity = (ACCEPT_ENCODING, "identity");
        let resuming = self.received > 0 && self.received < total && !self.whole_only;
        let headers: &[(HeaderName, &str)] = if resuming { &[(RANGE, &range), identity] } else { &[identity] };
        let mut answer = match open(headers) {
            Err(error) if resuming && error.refusal().is_some_and(|refusal| refusal.status == 416) => {
                self.whole_only = true;
                return Err(broken(&error, "the server cannot send a part"));
            }
            other => other?,
        };
        let url = redact(&answer.url);
        let mut skip = match answer.status {
            StatusCode::PARTIAL_CONTENT if resuming => {
                if range_start(&answer) != Some(self.received) {
                    self.whole_only = true;
                    let problem = protocol(&answer, "the server sent another part than asked for");
                    return Err(broken(&problem, "the server sent another part than asked for"));
                }
                0
            }
            StatusCode::OK => self.received,
            _ => {
                return Err(protocol(&answer, "a blob comes with status 200, or 206 if a part was asked for"));
            }
        };
        let rest = total - (self.received - skip);
        if let Some(length) = answer.length().filter(|length| *length != rest) {
            let actual = (self.received - skip).saturating_add(length);
            return Err(self.announced(&url, actual));
        }
        on_event(TransferEvent::Progress { current: self.received, total });
        while let Some(piece) = answer.piece(cancel)? {
            let known = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
            skip -= known as u64;
            let new = &piece[known..];
            if new.is_empty() {
                continue;
            }
            if self.received + new.len() as u64 > total {
                self.spoilt = true;
                return Err(self.mismatch(&url, self.received + new.len() as u64, true));
            }
            self.sink.write_all(new).map_err(|source| {
                self.spoilt = true;
                RegistryError::Sink { digest: self.descriptor.digest.clone(), source }
            })?;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(new);
            }
            self.received += new.len() as u64;
            on_event(TransferEvent::Progress { current: self.received, total });
        }
        check(cancel)?;
        if self.received < total {
            return Err(self.mismatch(&url, self.received, false));
        }
        let actual = self.hasher.take().map(Hasher::finish);
        match actual {
            Some(actual) if actual == self.descriptor.digest => Ok(()),
            actual => {
                self.spoilt = true;
                let expected = self.descriptor.digest.clone();
                let actual = actual.unwrap_or_else(|| expected.clone());
                Err(RegistryError::Content { url, problem: DigestError::Mismatch { expected, actual } })
            }
        }
    }

    fn mismatch(&self, url: &str, actual: u64, more: bool) -> RegistryError {
        let (digest, expected) = (self.descriptor.digest.clone(), self.descriptor.size);
        RegistryError::Content { url: url.to_owned(), problem: DigestError::Size { digest, expected, actual, more } }
    }

    /// A wrong length that is announced will not mend itself; `more` keeps it from being tried again.
    fn announced(&self, url: &str, actual: u64) -> RegistryError {
        self.mismatch(url, actual, true)
    }
}

/// A transient error in place of one that another attempt, made differently, may not meet.
fn broken(error: &RegistryError, message: &str) -> RegistryError {
    let at = match error {
        RegistryError::Protocol { at, .. } => at.clone(),
        other => Box::new(RequestLine {
            method: "GET".to_owned(),
            url: other.refusal().map(|refusal| refusal.url.clone()).unwrap_or_default(),
        }),
    };
    RegistryError::Broken { at, message: message.to_owned(), source: None }
}

/// Every kind of manifest, and last anything, so that an unknown kind is named and not just missing.
const ACCEPTED: &str = "application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.oci.image.index.v1+json, */*;q=0.1";

fn plain_get(url: Url, headers: &[(HeaderName, &str)]) -> Request<'static> {
    let mut request = Request::new(Method::GET, url);
    for (name, text) in headers {
        if let Ok(value) = HeaderValue::from_str(text) {
            request.headers.insert(name.clone(), value);
        }
    }
    request
}

/// The first byte of the part that came: `bytes FIRST-LAST/SIZE`.
fn range_start(answer: &Answer) -> Option<u64> {
    answer.header(CONTENT_RANGE)?.trim().strip_prefix("bytes")?.trim_start().split('-').next()?.trim().parse().ok()
}

pub(super) fn pull_scope(reference: &Reference) -> String {
    format!("repository:{}:pull", reference.path())
}

pub(super) fn join(base: &Url, path: &str) -> Result<Url, RegistryError> {
    base.join(path).map_err(|error| RegistryError::Option {
        option: "reference",
        value: path.to_owned(),
        problem: error.to_string(),
    })
}
