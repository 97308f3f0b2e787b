//! One line of comma-separated values, as Go's `encoding/csv` reads it.

/// A list of fields that cannot be read; displays as Go's error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsvError {
    /// Nothing there.
    #[error("EOF")]
    Empty,
    /// A quote inside a field that does not begin with one.
    #[error("parse error on line 1, column {column}: bare \" in non-quoted-field")]
    BareQuote {
        /// The column, in bytes from 1.
        column: usize,
    },
    /// A quoted field that ends badly.
    #[error("parse error on line 1, column {column}: extraneous or missing \" in quoted-field")]
    Quote {
        /// The column, in bytes from 1.
        column: usize,
    },
}

/// Cuts a line into its fields.
pub(crate) fn fields(line: &str) -> Result<Vec<String>, CsvError> {
    let line = match line.strip_suffix('\n') {
        Some(line) => line.strip_suffix('\r').unwrap_or(line),
        None => line,
    };
    if line.is_empty() {
        return Err(CsvError::Empty);
    }
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        let rest = &line[at..];
        let Some(quoted) = rest.strip_prefix('"') else {
            let end = rest.find(',').unwrap_or(rest.len());
            if let Some(quote) = rest[..end].find('"') {
                return Err(CsvError::BareQuote { column: at + quote + 1 });
            }
            found.push(rest[..end].to_owned());
            if end == rest.len() {
                return Ok(found);
            }
            at += end + 1;
            continue;
        };
        let mut field = String::new();
        let mut rest = quoted;
        loop {
            let Some(quote) = rest.find('"') else {
                return Err(CsvError::Quote { column: line.len() - rest.len() + 1 });
            };
            field.push_str(&rest[..quote]);
            rest = &rest[quote + 1..];
            if let Some(after) = rest.strip_prefix('"') {
                field.push('"');
                rest = after;
            } else {
                break;
            }
        }
        found.push(field);
        if rest.is_empty() {
            return Ok(found);
        }
        if !rest.starts_with(',') {
            return Err(CsvError::Quote { column: line.len() - rest.len() });
        }
        at = line.len() - rest.len() + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_fields() {
        for (line, expected) in [
            ("a,b=c", &["a", "b=c"][..]),
            ("a,", &["a", ""]),
            ("\"a,b\",c", &["a,b", "c"]),
            ("\"a\"\"b\"", &["a\"b"]),
            ("a\r\n", &["a"]),
            ("\"a\",", &["a", ""]),
        ] {
            let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
            assert_eq!(fields(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn refuses_stray_quotes() {
        for (line, error) in [
            ("", "EOF"),
            ("a\"b", "parse error on line 1, column 2: bare \" in non-quoted-field"),
            ("x,\"a\"b", "parse error on line 1, column 5: extraneous or missing \" in quoted-field"),
            ("\"ab", "parse error on line 1, column 2: extraneous or missing \" in quoted-field"),
        ] {
            assert_eq!(fields(line).map_err(|e| e.to_string()), Err(error.to_owned()));
        }
    }
}
