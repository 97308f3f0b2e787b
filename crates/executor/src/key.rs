//! Cache keys: digests over what a result depends on.

use rbuild_image::digest::{Digest, Hasher};

/// What a result is filed under.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CacheKey(Digest);

impl From<Digest> for CacheKey {
    fn from(digest: Digest) -> CacheKey {
        CacheKey(digest)
    }
}

impl CacheKey {
    /// As the store names it.
    pub(crate) fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

/// Hashes named fields; each is prefixed by its length, so that no two lists of fields hash alike.
pub(crate) struct KeyBuilder(Hasher);

impl KeyBuilder {
    /// Begins a key of one kind of operation. A change of what is hashed needs a new version here.
    pub(crate) fn new(kind: &str) -> KeyBuilder {
        let mut hasher = Hasher::sha256();
        hasher.update(b"rbuild cache 1\0");
        let mut builder = KeyBuilder(hasher);
        builder.bytes(kind.as_bytes());
        builder
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    pub(crate) fn field(mut self, name: &str, value: impl AsRef<[u8]>) -> KeyBuilder {
        self.bytes(name.as_bytes());
        self.bytes(value.as_ref());
        self
    }

    pub(crate) fn list<T: AsRef<[u8]>>(mut self, name: &str, values: impl IntoIterator<Item = T>) -> KeyBuilder {
        self.bytes(name.as_bytes());
        let mut count: u64 = 0;
        for value in values {
            self.bytes(value.as_ref());
            count += 1;
        }
        self.0.update(&count.to_le_bytes());
        self
    }

    pub(crate) fn key(self, name: &str, key: &CacheKey) -> KeyBuilder {
        self.field(name, key.as_str())
    }

    pub(crate) fn finish(self) -> CacheKey {
        CacheKey(self.0.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_run_together() {
        let key = |a: &str, b: &str| KeyBuilder::new("x").field("a", a).field("b", b).finish();
        assert_ne!(key("12", "3"), key("1", "23"));
        assert_eq!(key("1", "2"), key("1", "2"));
        let list = |items: &[&str]| KeyBuilder::new("x").list("l", items).finish();
        assert_ne!(list(&["a", "b"]), list(&["ab"]));
        assert_ne!(list(&[]), list(&[""]));
    }
}
