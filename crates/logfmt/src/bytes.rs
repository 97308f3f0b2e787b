//! Bytes in JSON: text where they are UTF-8 and that is short, else Base64, so that nothing is lost.

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

/// Writes bytes as a string if they are UTF-8 with few control characters, else as an object with their Base64.
pub(crate) fn serialize<S: Serializer>(data: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    // Six characters each in a string, where Base64 is a third longer than its bytes.
    let controls = data.iter().filter(|byte| **byte < b' ' && !matches!(byte, b'\n' | b'\r' | b'\t')).count();
    match std::str::from_utf8(data) {
        Ok(text) if 5 * controls <= data.len() / 3 => serializer.serialize_str(text),
        _ => Encoded { base64: STANDARD.encode(data) }.serialize(serializer),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Data(#[serde(with = "super")] Vec<u8>);

    #[test]
    fn the_short_form_that_loses_nothing() {
        let colour = b"a line \x1b[31mof colour\x1b[0m and more than that\n".to_vec();
        for (data, want) in [
            (b"".to_vec(), "\"\""),
            (b"a\r\n".to_vec(), r#""a\r\n""#),
            (colour, r#""a line \u001b[31mof colour\u001b[0m and more than that\n""#),
            (vec![0; 6], r#"{"base64":"AAAAAAAA"}"#),
            (vec![255, 10], r#"{"base64":"/wo="}"#),
        ] {
            let json = serde_json::to_string(&Data(data.clone())).expect("bytes");
            assert_eq!(json, want);
            assert_eq!(serde_json::from_str::<Data>(&json).expect("bytes").0, data);
        }
        assert_eq!(serde_json::from_str::<Data>("[255,10]").expect("format 1").0, [255, 10]);
        assert!(serde_json::from_str::<Data>(r#"{"base64":"/"}"#).is_err());
    }
}
