//! Names of images: Docker's reference grammar, its normalisation and its words when a name is wrong.
//!
//! The grammar is that of `distribution/reference` (as in Docker 28.5); what differs in Docker 20.10 is chosen by
//! [`DockerVersion`].

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, DigestError};

/// The registry that names without a host belong to.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// The tag of a name that has neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const NAME_MAX: usize = 255;

/// The release of Docker whose grammar and words apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DockerVersion {
    /// 20.10.
    V20,
    /// 28.
    #[default]
    V28,
}

/// Why a text is no reference. The text of each is Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// The text does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// The repository has upper-case letters (Docker 28).
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// The repository has upper-case letters (Docker 20.10).
    #[error("invalid reference format: repository name must be lowercase")]
    UppercaseUnnamed,
    /// The name becomes valid in lower case only, and the fault is in the host part (Docker 28).
    #[error("repository name must be lowercase")]
    UppercaseHost,
    /// The repository name is too long.
    #[error("repository name must not be more than 255 characters")]
    TooLong,
    /// The text could be mistaken for an image identifier.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Identifier(String),
    /// The part after `@` is no digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// A tag alone is not valid.
    #[error("invalid tag format")]
    Tag,
}

/// A normalised name of an image: registry, repository, and perhaps tag and digest.
///
/// `Display` gives the canonical form, `docker.io/library/busybox:latest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses and normalises a name as a user writes it. No tag is added; see [`Reference::or_latest`].
    ///
    /// # Errors
    /// With Docker's words for the version given.
    pub fn parse_normalized(text: &str, version: DockerVersion) -> Result<Reference, ReferenceError> {
        if text.len() == 64 && text.bytes().all(is_lower_hex) {
            return Err(ReferenceError::Identifier(text.to_owned()));
        }
        let (domain, remainder) = split_domain(text, version);
        let remote = remainder.split(':').next().unwrap_or_default();
        if remote.to_lowercase() != remote {
            return Err(match version {
                DockerVersion::V28 => ReferenceError::Uppercase(remote.to_owned()),
                DockerVersion::V20 => ReferenceError::UppercaseUnnamed,
            });
        }
        let full = format!("{domain}/{remainder}");
        let Some(parts) = match_reference(&full, version) else {
            return Err(match (match_reference(&full.to_lowercase(), version), version) {
                (None, _) => ReferenceError::Format,
                (Some(_), DockerVersion::V28) => ReferenceError::UppercaseHost,
                (Some(_), DockerVersion::V20) => ReferenceError::UppercaseUnnamed,
            });
        };
        let name_len = match version {
            DockerVersion::V28 => parts.path.len(),
            // 20.10 counts the host too.
            DockerVersion::V20 => parts.domain.len() + usize::from(!parts.domain.is_empty()) + parts.path.len(),
        };
        if name_len > NAME_MAX {
            return Err(ReferenceError::TooLong);
        }
        Ok(Reference {
            domain: parts.domain.to_owned(),
            path: parts.path.to_owned(),
            tag: parts.tag.map(str::to_owned),
            digest: parts.digest.map(str::parse).transpose()?,
        })
    }

    /// The registry's host, perhaps with a port. Empty only for a name whose first part cannot be a host
    /// (`a_b.c/d`), which Docker takes as a name of no registry.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry, such as `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if there is one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if there is one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository, without tag and digest: `docker.io/library/busybox`.
    pub fn name(&self) -> String {
        if self.domain.is_empty() { self.path.clone() } else { format!("{}/{}", self.domain, self.path) }
    }

    /// The name without tag and digest as Docker shows it: `busybox`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        match self.path.strip_prefix(OFFICIAL_PREFIX) {
            Some(rest) if !rest.contains('/') => rest.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The name as Docker shows it: `busybox:latest`.
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_name())
    }

    /// Adds the tag `latest` unless there is a tag or a digest.
    pub fn or_latest(mut self) -> Reference {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same repository with another tag and no digest.
    ///
    /// # Errors
    /// [`ReferenceError::Tag`].
    pub fn with_tag(&self, tag: &str) -> Result<Reference, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::Tag);
        }
        Ok(Reference { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same name and tag with a digest.
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference { digest: Some(digest), ..self.clone() }
    }

    /// The same name without tag and digest.
    pub fn without_version(&self) -> Reference {
        Reference { tag: None, digest: None, ..self.clone() }
    }

    fn with_suffix(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest.as_str());
        }
        text
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    /// Parses with Docker 28's grammar and adds the tag `latest` where there is neither tag nor digest.
    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        Reference::parse_normalized(text, DockerVersion::V28).map(Reference::or_latest)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.with_suffix(self.name()))
    }
}

/// Whether `tag` alone is a valid tag.
pub fn is_tag(tag: &str) -> bool {
    let bytes = tag.as_bytes();
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&bytes.len()) && word(bytes[0]) && bytes.iter().all(|&b| word(b) || b == b'.' || b == b'-')
}

/// Splits the host off, adding the defaults.
fn split_domain(text: &str, version: DockerVersion) -> (&str, String) {
    let (domain, mut remainder) = match text.split_once('/') {
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':'])
                // 20.10 takes an upper-case first part as part of the repository.
                || (version == DockerVersion::V28 && first.to_lowercase() != first) =>
        {
            (if first == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { first }, rest.to_owned())
        }
        _ => (DEFAULT_DOMAIN, text.to_owned()),
    };
    if domain == DEFAULT_DOMAIN && !remainder.contains('/') {
        remainder.insert_str(0, OFFICIAL_PREFIX);
    }
    (domain, remainder)
}

struct Parts<'a> {
    domain: &'a str,
    path: &'a str,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

/// The anchored reference expression, on a text that has a `/`.
fn match_reference(text: &str, version: DockerVersion) -> Option<Parts<'_>> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    if !digest.is_none_or(is_digest_shaped) {
        return None;
    }
    let slash = rest.rfind('/')?;
    let (name, tag) = match rest[slash..].find(':') {
        Some(colon) => (&rest[..slash + colon], Some(&rest[slash + colon + 1..])),
        None => (rest, None),
    };
    if !tag.is_none_or(is_tag) {
        return None;
    }
    let (domain, path) = name.split_once('/')?;
    if is_domain(domain, version) && is_path(path) {
        Some(Parts { domain, path, tag, digest })
    } else if is_path(name) {
        Some(Parts { domain: "", path: name, tag, digest })
    } else {
        None
    }
}

fn is_lower_hex(b: u8) -> bool {
    b.is_ascii_digit() || (b'a'..=b'f').contains(&b)
}

/// The loose form the expression wants; the digest itself is parsed after it.
fn is_digest_shaped(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else {
        return false;
    };
    algorithm.split(['-', '_', '+', '.']).all(|part| {
        part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
    }) && hex.len() >= 32
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_domain(text: &str, version: DockerVersion) -> bool {
    let (host, port) = match text.rfind(':') {
        Some(colon) if !text[colon..].contains(']') => (&text[..colon], Some(&text[colon + 1..])),
        _ => (text, None),
    };
    if !port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    if version == DockerVersion::V28
        && let Some(address) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'))
    {
        return !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
    }
    host.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    })
}

fn is_path(text: &str) -> bool {
    text.split('/').all(is_path_component)
}

/// Runs of lower-case letters and digits between single separators: `.`, `_`, `__` or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends_ok = bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    ends_ok
        && bytes
            .split(alphanumeric)
            .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    #[test]
    fn normalises() {
        let hex = "a".repeat(64);
        for (text, canonical, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("busybox:1", "docker.io/library/busybox:1", "busybox:1"),
            ("a/b", "docker.io/a/b:latest", "a/b:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
            ("FOO/bar", "FOO/bar:latest", "FOO/bar:latest"),
            ("127.0.0.1:5000/library/x:t", "127.0.0.1:5000/library/x:t", "127.0.0.1:5000/library/x:t"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("a__b.c--d_e", "docker.io/library/a__b.c--d_e:latest", "a__b.c--d_e:latest"),
            (&format!("x@sha256:{hex}"), &format!("docker.io/library/x@sha256:{hex}"), &format!("x@sha256:{hex}")),
            (
                &format!("x:t@sha256:{hex}"),
                &format!("docker.io/library/x:t@sha256:{hex}"),
                &format!("x:t@sha256:{hex}"),
            ),
        ] {
            let r: Reference = text.parse().unwrap();
            assert_eq!((r.to_string().as_str(), r.familiar().as_str()), (canonical, familiar), "{text}");
        }
    }

    /// The words of `docker tag` of both releases.
    #[test]
    fn complains_as_docker_does() {
        const FORMAT: &str = "invalid reference format";
        const LOWER: &str = "invalid reference format: repository name must be lowercase";
        let (z, a, a300, upper) = ("Z".repeat(64), "a".repeat(64), "a".repeat(300), "A".repeat(64));
        let (tag, a247) = (format!("x:{}", "a".repeat(130)), "a".repeat(247));
        let long = "repository name must not be more than 255 characters";
        for (text, v28, v20) in [
            ("busyBox", "invalid reference format: repository name (library/busyBox) must be lowercase", LOWER),
            ("library/BusyBox", "invalid reference format: repository name (library/BusyBox) must be lowercase", LOWER),
            ("localhost/Foo", "invalid reference format: repository name (Foo) must be lowercase", LOWER),
            ("FOO/Bar", "invalid reference format: repository name (Bar) must be lowercase", LOWER),
            ("FOO/bar", "", LOWER),
            ("FOO_x/bar", "repository name must be lowercase", LOWER),
            ("Foo:5000/bar", "", ""),
            ("[::1]:5000/a", "", FORMAT),
            ("a:b:c", FORMAT, FORMAT),
            ("x@sha256:abc", FORMAT, FORMAT),
            ("-a", FORMAT, FORMAT),
            ("a/", FORMAT, FORMAT),
            ("a//b", FORMAT, FORMAT),
            ("", FORMAT, FORMAT),
            ("a:", FORMAT, FORMAT),
            ("busybox@", FORMAT, FORMAT),
            ("a_b.c", "", ""),
            (&tag, FORMAT, FORMAT),
            (&a300, long, long),
            (&a247, "", long),
            (&format!("x@sha256:{z}"), FORMAT, FORMAT),
            (&format!("x@sha256:{upper}"), "invalid checksum digest format", "invalid checksum digest format"),
            (&format!("x@md5:{a}"), "unsupported digest algorithm", "unsupported digest algorithm"),
            (
                &a,
                &format!("invalid repository name ({a}), cannot specify 64-byte hexadecimal strings"),
                &format!("invalid repository name ({a}), cannot specify 64-byte hexadecimal strings"),
            ),
        ] {
            for (version, words) in [(DockerVersion::V28, v28), (DockerVersion::V20, v20)] {
                let said = Reference::parse_normalized(text, version).map_or_else(|e| e.to_string(), |_| String::new());
                assert_eq!(said, words, "{text} {version:?}");
            }
        }
    }

    #[test]
    fn tags() {
        let r: Reference = "busybox".parse().unwrap();
        assert_eq!(r.with_tag("v1").unwrap().familiar(), "busybox:v1");
        assert_eq!(r.with_tag("-").unwrap_err(), ReferenceError::Tag);
    }

    proptest! {
        #[test]
        fn never_panics_and_canonical_is_a_fixed_point(text in "\\PC{0,40}|[a-zA-Z0-9:/@._-]{0,40}") {
            for version in [DockerVersion::V20, DockerVersion::V28] {
                if let Ok(r) = Reference::parse_normalized(&text, version) {
                    prop_assert_eq!(&Reference::parse_normalized(&r.to_string(), version).unwrap(), &r);
                    prop_assert_eq!(&Reference::parse_normalized(&r.familiar(), version).unwrap(), &r);
                }
            }
        }
    }
}
