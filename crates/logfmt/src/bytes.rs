//! Bytes in JSON: text where they are UTF-8, else Base64, so that nothing is lost.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize)]
struct Encoded {
    base64: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Repr {
    Text(String),
    Encoded {
        base64: String,
    },
    /// As format 1 has bytes that are no text.
    Numbers(Vec<u8>),
}

/// Writes bytes as a string if they are UTF-8, else as an object with their Base64.
pub(crate) fn serialize<S: Serializer>(data: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    match std::str::from_utf8(data) {
        Ok(text) => serializer.serialize_str(text),
        Err(_) => Encoded { base64: STANDARD.encode(data) }.serialize(serializer),
    }
}

/// Reads what [`serialize`] wrote.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    Ok(match Repr::deserialize(deserializer)? {
        Repr::Text(text) => text.into_bytes(),
        Repr::Encoded { base64 } => STANDARD.decode(base64).map_err(D::Error::custom)?,
        Repr::Numbers(numbers) => numbers,
    })
}
