//! The errors that a registry names in its answer, as distribution's package `errcode` reads them.

use serde::Deserialize;
use serde_json::Value;

/// One error. Its code is one that Docker knows, in lower case and with spaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) code: &'static str,
    /// `None` where it says no more than the code does.
    pub(super) message: Option<String>,
    /// The detail, if it is a text.
    detail: Option<String>,
}

/// Codes, how they are shown, and what is said with them if there is nothing else to say.
const CODES: [(&str, &str, &str); 20] = [
    ("UNKNOWN", "unknown", "unknown error"),
    ("UNSUPPORTED", "unsupported", "The operation is unsupported."),
    ("UNAUTHORIZED", "unauthorized", "authentication required"),
    ("DENIED", "denied", "requested access to the resource is denied"),
    ("UNAVAILABLE", "unavailable", "service unavailable"),
    ("TOOMANYREQUESTS", "toomanyrequests", "too many requests"),
    ("DIGEST_INVALID", "digest invalid", "provided digest did not match uploaded content"),
    ("SIZE_INVALID", "size invalid", "provided length did not match content length"),
    ("NAME_INVALID", "name invalid", "invalid repository name"),
    ("TAG_INVALID", "tag invalid", "manifest tag did not match URI"),
    ("NAME_UNKNOWN", "name unknown", "repository name not known to registry"),
    ("MANIFEST_UNKNOWN", "manifest unknown", "manifest unknown"),
    ("MANIFEST_INVALID", "manifest invalid", "manifest invalid"),
    ("MANIFEST_UNVERIFIED", "manifest unverified", "manifest failed signature verification"),
    ("MANIFEST_BLOB_UNKNOWN", "manifest blob unknown", "blob unknown to registry"),
    ("BLOB_UNKNOWN", "blob unknown", "blob unknown to registry"),
    ("BLOB_UPLOAD_UNKNOWN", "blob upload unknown", "blob upload unknown to registry"),
    ("BLOB_UPLOAD_INVALID", "blob upload invalid", "blob upload invalid"),
    ("RANGE_INVALID", "range invalid", "invalid content range"),
    ("PAGINATION_NUMBER_INVALID", "pagination number invalid", "invalid number of results requested"),
];

#[derive(Deserialize)]
struct Envelope {
    #[serde(default, alias = "Errors")]
    errors: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    detail: Value,
}

impl Said {
    /// An error with a message.
    pub(super) fn with(code: &str, message: Option<&str>) -> Said {
        let (_, shown, usual) = known(code);
        Said { code: shown, message: Some(message.unwrap_or(usual).to_owned()), detail: None }
    }

    /// The errors of an answer; `None` if it names none.
    pub(super) fn list(body: &str) -> Option<Vec<Said>> {
        let list = serde_json::from_str::<Envelope>(body).ok()?.errors?;
        let list: Vec<Said> = list
            .into_iter()
            .map(|entry| {
                let (_, shown, usual) = known(&entry.code);
                // What says no more than its code is taken for the code alone.
                let bare = entry.detail.is_null() && (entry.message.is_empty() || entry.message == *usual);
                let detail = entry.detail.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
                Said { code: shown, message: (!bare).then_some(entry.message), detail }
            })
            .collect();
        (!list.is_empty()).then_some(list)
    }

    /// The other form of answer, that of token servers.
    pub(super) fn details(body: &str) -> Option<String> {
        let value: Value = serde_json::from_str(body).ok()?;
        Some(value.get("details")?.as_str()?.to_owned()).filter(|text| !text.is_empty())
    }

    pub(super) fn text(&self) -> String {
        match &self.message {
            None => self.code.to_owned(),
            Some(message) => format!("{}: {message}", self.code),
        }
    }

    /// Several errors in one text.
    pub(super) fn joined(list: &[Said]) -> String {
        join(list, Said::text)
    }

    /// As above, each with its detail.
    pub(super) fn joined_with_details(list: &[Said]) -> String {
        join(list, |said| match (&said.message, &said.detail) {
            (Some(_), Some(detail)) => format!("{} - {detail}", said.text()),
            _ => said.text(),
        })
    }
}

fn join(list: &[Said], text: impl Fn(&Said) -> String) -> String {
    match list {
        [one] => text(one),
        many => many.iter().fold("errors:\n".to_owned(), |all, said| all + &text(said) + "\n"),
    }
}

fn known(code: &str) -> &'static (&'static str, &'static str, &'static str) {
    CODES.iter().find(|(name, _, _)| *name == code).unwrap_or(&CODES[0])
}

/// Why a text is no JSON, in the words of Go's `encoding/json`.
pub(super) fn json_error(text: &str) -> String {
    const END: &str = "unexpected end of JSON input";
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    if let Some(Ok(_)) = values.next() {
        let rest = text.get(values.byte_offset()..).unwrap_or_default();
        return match rest.trim_start().chars().next() {
            Some(c) => format!("invalid character {} after top-level value", quoted(c)),
            None => "json: cannot unmarshal into Go value".to_owned(),
        };
    }
    let begin = text.trim_start();
    let Some(first) = begin.chars().next() else { return END.to_owned() };
    for word in ["true", "false", "null"] {
        if !begin.starts_with(word.chars().next().unwrap_or_default()) {
            continue;
        }
        for (have, want) in begin.chars().map(Some).chain([None]).zip(word.chars()).skip(1) {
            match have {
                Some(c) if c == want => {}
                Some(c) => {
                    let c = quoted(c);
                    return format!("invalid character {c} in literal {word} (expecting {})", quoted(want));
                }
                None => return END.to_owned(),
            }
        }
    }
    if !matches!(first, '{' | '[' | '"' | '-' | '0'..='9') {
        return format!("invalid character {} looking for beginning of value", quoted(first));
    }
    END.to_owned()
}

fn quoted(c: char) -> String {
    match c {
        '\'' => "'\\''".to_owned(),
        '"' => "'\"'".to_owned(),
        c => {
            let text = crate::go_quote::quote(&c.to_string());
            format!("'{}'", text.trim_matches('"'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_nothing_more_is_its_code() {
        let list = |body: &str| Said::list(body).map(|list| Said::joined(&list));
        let denied = r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#;
        assert_eq!(list(denied).as_deref(), Some("denied"));
        let detailed =
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":"unknown tag=1"}]}"#;
        assert_eq!(list(detailed).as_deref(), Some("manifest unknown: manifest unknown"));
        let two = r#"{"errors":[{"code":"DENIED","message":"x"},{"code":"HOUSE_RULE","message":"y"}]}"#;
        assert_eq!(list(two).as_deref(), Some("errors:\ndenied: x\nunknown: y\n"));
        for none in ["", "{}", "[]", r#"{"errors":[]}"#, r#"{"errors":7}"#, "<html>"] {
            assert_eq!(list(none), None, "{none}");
        }
    }

    #[test]
    fn json_that_is_none() {
        for (text, want) in [
            ("", "unexpected end of JSON input"),
            ("<html>", "invalid character '<' looking for beginning of value"),
            ("404 page not found\n", "invalid character 'p' after top-level value"),
            ("Too Many", "invalid character 'T' looking for beginning of value"),
            ("not found", "invalid character 'o' in literal null (expecting 'u')"),
            ("{\"a\":", "unexpected end of JSON input"),
        ] {
            assert_eq!(json_error(text), want, "{text}");
        }
    }
}
