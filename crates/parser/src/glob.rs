//! Wildcards of COPY and ADD sources, as Go's `filepath.Match` on Unix has them: `*` and `?` stop
//! at slashes, `[…]` does not.

/// A pattern that cannot be read; displays as Go's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    /// `*`: any number of characters but slashes.
    Many,
    /// `?`: a character but a slash.
    One,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
    Literal(char),
}

impl Item {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Many | Self::One => c != '/',
            Self::Class { negated, ranges } => ranges.iter().any(|&(low, high)| (low..=high).contains(&c)) != *negated,
            Self::Literal(literal) => *literal == c,
        }
    }
}

/// A compiled pattern.
///
/// ```
/// use rbuild_parser::glob::Glob;
///
/// let glob = Glob::new("src/*.[ch]")?;
/// assert!(glob.matches("src/main.c"));
/// assert!(!glob.matches("src/lib/main.c"));
/// assert!(Glob::new("[").is_err());
/// # Ok::<(), rbuild_parser::glob::BadPattern>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Vec<Item>);

impl Glob {
    /// Compiles a pattern.
    ///
    /// # Errors
    ///
    /// A class without end or without members, and a backslash at the end.
    pub fn new(pattern: &str) -> Result<Self, BadPattern> {
        let mut items = Vec::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            items.push(match c {
                '*' if items.last() == Some(&Item::Many) => continue,
                '*' => Item::Many,
                '?' => Item::One,
                '\\' => Item::Literal(chars.next().ok_or(BadPattern)?),
                '[' => {
                    let negated = chars.next_if_eq(&'^').is_some();
                    let mut ranges = Vec::new();
                    while ranges.is_empty() || chars.next_if_eq(&']').is_none() {
                        let low = class_char(&mut chars)?;
                        let high = match chars.next_if_eq(&'-') {
                            Some(_) => class_char(&mut chars)?,
                            None => low,
                        };
                        ranges.push((low, high));
                    }
                    Item::Class { negated, ranges }
                }
                c => Item::Literal(c),
            });
        }
        Ok(Self(items))
    }

    /// Whether the pattern matches the whole name. Bytes that are no UTF-8 are to be given as
    /// [`crate::lossy`] gives them.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let items = &self.0;
        let mut active = vec![false; items.len() + 1];
        active[0] = true;
        skip_stars(items, &mut active);
        for c in name.chars() {
            let mut any = false;
            active[items.len()] = false;
            // Back to front, so that each state moves by one item.
            for i in (0..items.len()).rev() {
                if std::mem::take(&mut active[i]) && items[i].takes(c) {
                    any = true;
                    active[if items[i] == Item::Many { i } else { i + 1 }] = true;
                }
            }
            if !any {
                return false;
            }
            skip_stars(items, &mut active);
        }
        active[items.len()]
    }
}

fn skip_stars(items: &[Item], active: &mut [bool]) {
    for i in 0..items.len() {
        if active[i] && items[i] == Item::Many {
            active[i + 1] = true;
        }
    }
}

/// A member of a class. Dashes and brackets need a backslash, and something must follow.
fn class_char(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<char, BadPattern> {
    let c = match chars.next() {
        None | Some('-' | ']') => return Err(BadPattern),
        Some('\\') => chars.next().ok_or(BadPattern)?,
        Some(c) => c,
    };
    match chars.peek() {
        Some(_) => Ok(c),
        None => Err(BadPattern),
    }
}

/// Whether a source has wildcards, so that Docker treats it as a pattern.
#[must_use]
pub fn has_wildcards(source: &str) -> bool {
    let mut chars = source.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_go_does() {
        // The table of Go's path/filepath tests, and more.
        for (pattern, name, expected) in [
            ("abc", "abc", Ok(true)),
            ("*", "abc", Ok(true)),
            ("*c", "abc", Ok(true)),
            ("a*", "a", Ok(true)),
            ("a*", "abc", Ok(true)),
            ("a*", "ab/c", Ok(false)),
            ("a*/b", "abc/b", Ok(true)),
            ("a*/b", "a/c/b", Ok(false)),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", Ok(true)),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", Ok(true)),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", Ok(false)),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", Ok(false)),
            ("a*b?c*x", "abxbbxdbxebxczzx", Ok(true)),
            ("a*b?c*x", "abxbbxdbxebxczzy", Ok(false)),
            ("ab[c]", "abc", Ok(true)),
            ("ab[b-d]", "abc", Ok(true)),
            ("ab[e-g]", "abc", Ok(false)),
            ("ab[^c]", "abc", Ok(false)),
            ("ab[^b-d]", "abc", Ok(false)),
            ("ab[^e-g]", "abc", Ok(true)),
            ("a\\*b", "a*b", Ok(true)),
            ("a\\*b", "ab", Ok(false)),
            ("a?b", "a☺b", Ok(true)),
            ("a[^a]b", "a☺b", Ok(true)),
            ("a???b", "a☺b", Ok(false)),
            ("[a-ζ]*", "α", Ok(true)),
            ("*[a-ζ]", "A", Ok(false)),
            ("a?b", "a/b", Ok(false)),
            ("a*b", "a/b", Ok(false)),
            ("a[^b]c", "a/c", Ok(true)),
            ("[\\]a]", "]", Ok(true)),
            ("[\\-]", "-", Ok(true)),
            ("[x\\-]", "x", Ok(true)),
            ("[x\\-]", "-", Ok(true)),
            ("[x\\-]", "z", Ok(false)),
            ("[\\-x]", "x", Ok(true)),
            ("[\\-x]", "a", Ok(false)),
            ("[]a]", "]", Err(BadPattern)),
            ("[-]", "-", Err(BadPattern)),
            ("[x-]", "x", Err(BadPattern)),
            ("[-x]", "x", Err(BadPattern)),
            ("\\", "a", Err(BadPattern)),
            ("[a-b-c]", "a", Err(BadPattern)),
            ("[", "a", Err(BadPattern)),
            ("[^", "a", Err(BadPattern)),
            ("[^bc", "a", Err(BadPattern)),
            ("a[", "a", Err(BadPattern)),
            ("a[", "ab", Err(BadPattern)),
            ("a[", "x", Err(BadPattern)),
            ("a/b[", "x", Err(BadPattern)),
            ("*x", "xxx", Ok(true)),
            ("", "", Ok(true)),
            ("", "a", Ok(false)),
            ("[*]", "*", Ok(true)),
            ("a[b*c]d*", "a*dxx", Ok(true)),
        ] {
            let found = Glob::new(pattern).map(|glob| glob.matches(name));
            assert_eq!(found, expected, "{pattern} {name}");
        }
    }

    #[test]
    fn finds_wildcards() {
        for (source, expected) in [("a", false), ("a\\*", false), ("a*", true), ("[a]", true)] {
            assert_eq!(has_wildcards(source), expected);
        }
    }

    #[test]
    fn many_stars_take_linear_time() {
        let glob = Glob::new(&"*a".repeat(200)).unwrap();
        assert!(!glob.matches(&("a".repeat(5000) + "b")));
    }
}
