//! JSON as Go writes it, and values whose absence has a meaning.
//!
//! Docker's documents are written by Go's `encoding/json`: `<`, `>`, `&`, U+2028 and U+2029 are escaped, and a nil slice
//! is `null` while an omitted one is absent. Identifiers are digests of such bytes, so both matter.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A member of a JSON object that may be absent, `null`, or have a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Field<T> {
    /// The member is not there.
    #[default]
    Absent,
    /// The member is `null`.
    Null,
    /// The member has a value.
    Value(T),
}

impl<T> Field<T> {
    /// Whether the member is not there; for `skip_serializing_if`.
    pub fn is_absent(&self) -> bool {
        matches!(self, Field::Absent)
    }

    /// The value, if there is one.
    pub fn get(&self) -> Option<&T> {
        match self {
            Field::Value(value) => Some(value),
            _ => None,
        }
    }

    /// The value for changing, if there is one.
    pub fn get_mut(&mut self) -> Option<&mut T> {
        match self {
            Field::Value(value) => Some(value),
            _ => None,
        }
    }

    /// The value itself, if there is one.
    pub fn into_option(self) -> Option<T> {
        match self {
            Field::Value(value) => Some(value),
            _ => None,
        }
    }

    /// Sets the value.
    pub fn set(&mut self, value: T) {
        *self = Field::Value(value);
    }
}

impl<T: Default> Field<T> {
    /// The value for changing; a default one is put in place first if there is none.
    pub fn get_or_default(&mut self) -> &mut T {
        if !matches!(self, Field::Value(_)) {
            *self = Field::Value(T::default());
        }
        match self {
            Field::Value(value) => value,
            _ => unreachable!("a value was just set"),
        }
    }
}

impl<T> From<T> for Field<T> {
    fn from(value: T) -> Field<T> {
        Field::Value(value)
    }
}

impl<T: Serialize> Serialize for Field<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Field::Value(value) => serializer.serialize_some(value),
            _ => serializer.serialize_none(),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Field<T>, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Field::Null, Field::Value))
    }
}

/// serde_json's compact form with Go's escapes.
struct GoFormatter;

impl serde_json::ser::Formatter for GoFormatter {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut done = 0;
        for (at, c) in fragment.char_indices() {
            let escape = match c {
                '<' => "\\u003c",
                '>' => "\\u003e",
                '&' => "\\u0026",
                '\u{2028}' => "\\u2028",
                '\u{2029}' => "\\u2029",
                _ => continue,
            };
            writer.write_all(&fragment.as_bytes()[done..at])?;
            writer.write_all(escape.as_bytes())?;
            done = at + c.len_utf8();
        }
        writer.write_all(&fragment.as_bytes()[done..])
    }
}

/// Compact JSON with Go's escapes.
///
/// # Errors
/// If the value cannot be represented (a map whose keys are no strings).
pub fn to_go_bytes(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, GoFormatter))?;
    Ok(out)
}

/// The largest JSON document that is read from anywhere: configurations, manifests, archive tables. Docker's own limit
/// for manifests is 4 MiB; configurations and archive tables grow with layers and tags.
pub const DOCUMENT_MAX: u64 = 16 << 20;

/// Reads a JSON document of at most [`DOCUMENT_MAX`] bytes to its end.
///
/// # Errors
/// The reader's, or `InvalidData` for a larger document.
pub fn read_document(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(DOCUMENT_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > DOCUMENT_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "JSON document is larger than 16 MiB"));
    }
    Ok(bytes)
}

/// Parses a JSON document; nesting is bounded by serde_json.
///
/// # Errors
/// serde_json's.
pub fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_as_go_does() {
        let text = to_go_bytes(&"a<b>&\u{2028}é\"\n").unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), "\"a\\u003cb\\u003e\\u0026\\u2028é\\\"\\n\"");
    }

    #[test]
    fn large_documents_are_refused() {
        assert!(read_document(io::repeat(b' ')).is_err());
        assert_eq!(read_document(&b"{}"[..]).unwrap(), b"{}");
    }
}
