//! Content digests and the identifiers made of them.
//!
//! Text form as in the OCI image specification ("Descriptors", section "Digests"). Hashing uses `ring`, whose assembly is
//! fast also on processors without SHA extensions.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A hash function that may name content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, the only one that is written.
    Sha256,
    /// SHA-512, accepted on reading.
    Sha512,
}

impl Algorithm {
    /// The name before the colon.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// The number of hexadecimal digits of a digest.
    pub fn hex_len(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }
}

/// Why a text is no digest, or why content does not fit one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// The text has not the form `algorithm:hex`, or has upper-case digits.
    #[error("invalid checksum digest format")]
    Format,
    /// The algorithm is neither sha256 nor sha512.
    #[error("unsupported digest algorithm")]
    Unsupported,
    /// The number of digits is not that of the algorithm.
    #[error("invalid checksum digest length")]
    Length,
    /// The content has another digest.
    #[error("digest mismatch: expected {expected}, content has {actual}")]
    Mismatch {
        /// What was promised.
        expected: Digest,
        /// What was read.
        actual: Digest,
    },
    /// The content has another size.
    #[error("size mismatch for {digest}: expected {expected} bytes, got {actual}{}", if *.more { " or more" } else { "" })]
    Size {
        /// The digest of the promised content.
        digest: Digest,
        /// Bytes promised.
        expected: u64,
        /// Bytes read.
        actual: u64,
        /// Reading stopped as soon as there was too much.
        more: bool,
    },
}

/// The digest of some content: `sha256:<64 hex>` or `sha512:<128 hex>`, lower case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    text: Box<str>,
}

impl Digest {
    /// The SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::sha256();
        hasher.update(bytes);
        hasher.finish()
    }

    /// A SHA-256 digest from its 64 lower-case hexadecimal digits.
    ///
    /// # Errors
    /// As [`Digest::from_str`].
    pub fn from_sha256_hex(hex: &str) -> Result<Digest, DigestError> {
        format!("sha256:{hex}").parse()
    }

    /// The whole text, `sha256:…`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The hash function.
    pub fn algorithm(&self) -> Algorithm {
        if self.text.starts_with("sha512:") { Algorithm::Sha512 } else { Algorithm::Sha256 }
    }

    /// The hexadecimal digits alone.
    pub fn hex(&self) -> &str {
        &self.text["sha256:".len()..]
    }

    /// The first twelve digits, as Docker shows identifiers.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    /// Parses as Docker's `go-digest` does, with its order of complaints: form, algorithm, length, digits.
    fn from_str(text: &str) -> Result<Digest, DigestError> {
        let (name, hex) = text.split_once(':').ok_or(DigestError::Format)?;
        let name_ok = !name.is_empty()
            && name
                .split(['+', '.', '_', '-'])
                .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
        let hex_chars_ok = !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_alphanumeric() || b"=_-".contains(&b));
        if !name_ok || !hex_chars_ok {
            return Err(DigestError::Format);
        }
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(DigestError::Unsupported),
        };
        if hex.len() != algorithm.hex_len() {
            return Err(DigestError::Length);
        }
        if !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(DigestError::Format);
        }
        Ok(Digest { text: text.into() })
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Digest, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.text.into()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

macro_rules! digest_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl $name {
            /// The digest itself.
            pub fn digest(&self) -> &Digest {
                &self.0
            }
            /// The hexadecimal digits alone.
            pub fn hex(&self) -> &str {
                self.0.hex()
            }
            /// The first twelve digits, as Docker shows identifiers.
            pub fn short(&self) -> &str {
                self.0.short()
            }
        }

        impl From<Digest> for $name {
            fn from(digest: Digest) -> Self {
                $name(digest)
            }
        }

        impl FromStr for $name {
            type Err = DigestError;
            fn from_str(text: &str) -> Result<Self, DigestError> {
                text.parse().map($name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

digest_newtype! {
    /// The digest of a layer's uncompressed tar.
    DiffId
}
digest_newtype! {
    /// The digest of an image's configuration, which is the image's identifier in Docker.
    ImageId
}
digest_newtype! {
    /// The identifier of a stack of layers (OCI image specification, "Layer ChainID").
    ChainId
}

impl ChainId {
    /// The chain of one layer on top of `parent`, or on nothing.
    pub fn of(parent: Option<&ChainId>, layer: &DiffId) -> ChainId {
        match parent {
            None => ChainId(layer.0.clone()),
            Some(parent) => ChainId(Digest::of(format!("{parent} {layer}").as_bytes())),
        }
    }

    /// The chain of a whole stack, lowest layer first; `None` for no layers.
    pub fn of_stack<'a>(layers: impl IntoIterator<Item = &'a DiffId>) -> Option<ChainId> {
        layers.into_iter().fold(None, |parent, layer| Some(ChainId::of(parent.as_ref(), layer)))
    }
}

/// Computes a digest of bytes as they come.
#[derive(Clone)]
pub struct Hasher {
    algorithm: Algorithm,
    context: ring::digest::Context,
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl Hasher {
    /// Starts a computation.
    pub fn new(algorithm: Algorithm) -> Hasher {
        let implementation = match algorithm {
            Algorithm::Sha256 => &ring::digest::SHA256,
            Algorithm::Sha512 => &ring::digest::SHA512,
        };
        Hasher { algorithm, context: ring::digest::Context::new(implementation) }
    }

    /// Starts a SHA-256.
    pub fn sha256() -> Hasher {
        Hasher::new(Algorithm::Sha256)
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// The digest of all bytes added.
    pub fn finish(self) -> Digest {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let raw = self.context.finish();
        let mut text = String::with_capacity(7 + 2 * raw.as_ref().len());
        text.push_str(self.algorithm.name());
        text.push(':');
        for byte in raw.as_ref() {
            text.push(HEX[usize::from(byte >> 4)] as char);
            text.push(HEX[usize::from(byte & 15)] as char);
        }
        Digest { text: text.into() }
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Passes bytes on to a writer while hashing and counting them.
#[derive(Debug)]
pub struct HashingWriter<W> {
    inner: W,
    hasher: Hasher,
    size: u64,
}

impl<W: Write> HashingWriter<W> {
    /// Wraps `inner`; the digest is a SHA-256.
    pub fn new(inner: W) -> HashingWriter<W> {
        HashingWriter { inner, hasher: Hasher::sha256(), size: 0 }
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The inner writer, the digest and the number of the bytes written. Does not flush.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, self.hasher.finish(), self.size)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Passes bytes on from a reader and checks digest and size once it ends.
///
/// A wrong digest or size is an [`io::Error`] of kind `InvalidData` whose inner error is a [`DigestError`]; it comes in
/// place of the end of file, or as soon as more bytes came than promised. A caller that stops before the end of file has
/// verified nothing: use [`VerifiedReader::finish`].
#[derive(Debug)]
pub struct VerifiedReader<R> {
    inner: R,
    hasher: Option<Hasher>,
    expected: Digest,
    size: Option<u64>,
    seen: u64,
}

impl<R: Read> VerifiedReader<R> {
    /// Wraps `inner`, which must yield content of this digest and, where known, this size in bytes.
    pub fn new(inner: R, digest: Digest, size: Option<u64>) -> VerifiedReader<R> {
        let hasher = Some(Hasher::new(digest.algorithm()));
        VerifiedReader { inner, hasher, expected: digest, size, seen: 0 }
    }

    /// Reads to the end, so that everything is checked, and returns the number of bytes in all.
    ///
    /// # Errors
    /// Those of the inner reader and of the check.
    pub fn finish(mut self) -> io::Result<u64> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.seen)
    }

    fn check_size(&self, at_end: bool) -> Result<(), DigestError> {
        match self.size {
            Some(expected) if self.seen > expected || (at_end && self.seen != expected) => {
                Err(DigestError::Size { digest: self.expected.clone(), expected, actual: self.seen, more: !at_end })
            }
            _ => Ok(()),
        }
    }
}

impl<R: Read> Read for VerifiedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let invalid = |error: DigestError| io::Error::new(io::ErrorKind::InvalidData, error);
        let n = self.inner.read(buffer)?;
        if n > 0 {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&buffer[..n]);
            }
            self.seen += n as u64;
            self.check_size(false).map_err(invalid)?;
            return Ok(n);
        }
        self.check_size(true).map_err(invalid)?;
        if let Some(hasher) = self.hasher.take() {
            let actual = hasher.finish();
            if actual != self.expected {
                return Err(invalid(DigestError::Mismatch { expected: self.expected.clone(), actual }));
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn hashes_and_parses() {
        assert_eq!(Digest::of(b"").as_str(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>().unwrap().short(), "e3b0c44298fc");
        let mut h = Hasher::new(Algorithm::Sha512);
        h.update(b"abc");
        let d = h.finish();
        assert!(d.hex().starts_with("ddaf35a193617aba"));
        assert_eq!(d.as_str().parse::<Digest>().unwrap(), d);
    }

    #[test]
    fn refuses_what_is_no_digest() {
        let z = "0".repeat(64);
        for (text, error) in [
            ("", DigestError::Format),
            ("sha256", DigestError::Format),
            ("sha256:", DigestError::Format),
            ("sha256:../../etc", DigestError::Format),
            ("sha256:ab", DigestError::Length),
            (&format!("md5:{z}"), DigestError::Unsupported),
            (&format!("sha256:{}", z.replace('0', "A")), DigestError::Format),
            (&format!("sha512:{z}"), DigestError::Length),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(error), "{text}");
        }
    }

    #[test]
    fn chain_follows_the_specification() {
        let a: DiffId = Digest::of(b"a").into();
        let b: DiffId = Digest::of(b"b").into();
        assert_eq!(ChainId::of_stack([]), None);
        assert_eq!(ChainId::of_stack([&a]).unwrap().0, a.0);
        let both = ChainId::of_stack([&a, &b]).unwrap();
        assert_eq!(both.0, Digest::of(format!("{a} {b}").as_bytes()));
    }

    #[test]
    fn verified_reader_sees_every_fault() {
        let data = b"hello";
        let digest = Digest::of(data);
        assert_eq!(VerifiedReader::new(&data[..], digest.clone(), Some(5)).finish().unwrap(), 5);
        assert_eq!(VerifiedReader::new(&data[..], digest.clone(), None).finish().unwrap(), 5);
        for (bytes, size) in [(&b"hellO"[..], Some(5)), (b"hell", Some(5)), (b"hello!", Some(5)), (b"hell", None)] {
            let error = VerifiedReader::new(bytes, digest.clone(), size).finish().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn hashing_writer_counts() {
        let mut w = HashingWriter::new(Vec::new());
        w.write_all(b"hello").unwrap();
        let (inner, digest, size) = w.finish();
        assert_eq!((inner.as_slice(), digest, size), (&b"hello"[..], Digest::of(b"hello"), 5));
    }
}
