//! Bytes in JSON: text where they are UTF-8, an array of numbers otherwise, so that nothing is lost.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Repr {
    Text(String),
    Raw(Vec<u8>),
}

/// Writes bytes as a string if they are UTF-8, else as an array of numbers.
pub(crate) fn serialize<S: Serializer>(data: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    match std::str::from_utf8(data) {
        Ok(text) => serializer.serialize_str(text),
        Err(_) => data.serialize(serializer),
    }
}

/// Reads what [`serialize`] wrote.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    Ok(match Repr::deserialize(deserializer)? {
        Repr::Text(text) => text.into_bytes(),
        Repr::Raw(raw) => raw,
    })
}
