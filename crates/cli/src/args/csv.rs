//! The comma separated values in which `--output` and `--secret` are written.

/// Why a text is no line of comma separated values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CsvError {
    /// A quote stands inside a field that does not begin with one.
    #[error("bare `\"` in the field `{field}`")]
    BareQuote {
        /// The field so far.
        field: String,
    },
    /// A quoted field is not closed, or something follows its end.
    #[error("the quotes of `{text}` do not match")]
    Unbalanced {
        /// The whole text.
        text: String,
    },
}

/// Splits one line as RFC 4180 does: `a=1,"b=2,3"` gives `a=1` and `b=2,3`; a doubled quote inside quotes is one.
pub(crate) fn parse_fields(text: &str) -> Result<Vec<String>, CsvError> {
    let unbalanced = || CsvError::Unbalanced { text: text.to_owned() };
    let mut fields = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        let mut field = String::new();
        if chars.next_if_eq(&'"').is_some() {
            loop {
                match chars.next() {
                    None => return Err(unbalanced()),
                    Some('"') if chars.next_if_eq(&'"').is_some() => field.push('"'),
                    Some('"') => break,
                    Some(c) => field.push(c),
                }
            }
            if !matches!(chars.peek(), None | Some(',')) {
                return Err(unbalanced());
            }
        } else {
            while let Some(c) = chars.next_if(|c| *c != ',') {
                if c == '"' {
                    return Err(CsvError::BareQuote { field });
                }
                field.push(c);
            }
        }
        fields.push(field);
        if chars.next().is_none() {
            return Ok(fields);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[""]),
            ("a", &["a"]),
            ("a=1,b=2", &["a=1", "b=2"]),
            ("a,,b,", &["a", "", "b", ""]),
            (r#""name=a,b",push=true"#, &["name=a,b", "push=true"]),
            (r#""say ""hi""",x"#, &[r#"say "hi""#, "x"]),
        ];
        for (text, want) in cases {
            assert_eq!(parse_fields(text).unwrap(), *want, "{text}");
        }
    }

    #[test]
    fn bad_quotes() {
        assert!(matches!(parse_fields(r#"a"b"#), Err(CsvError::BareQuote { .. })));
        assert!(matches!(parse_fields(r#""a"#), Err(CsvError::Unbalanced { .. })));
        assert!(matches!(parse_fields(r#""a"b"#), Err(CsvError::Unbalanced { .. })));
    }
}
