//! The patterns of `${x#p}`, `${x%p}` and `${x/p/r}`: `*` and `?` alone are special.

/// A backslash before something that needs none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InvalidEscape {
    pub(crate) pattern: String,
    pub(crate) escaped: char,
}

/// How much a `*` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stars {
    Shortest,
    Longest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Literal(char),
    /// Any one character but a line feed.
    One,
    /// Any number of them.
    Many,
}

#[derive(Debug)]
pub(crate) struct ShellPattern(Vec<Item>);

impl ShellPattern {
    pub(crate) fn new(pattern: &str) -> Result<Self, InvalidEscape> {
        let text = pattern.strip_prefix('\u{feff}').unwrap_or(pattern);
        let mut items = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            items.push(match c {
                '*' if items.last() == Some(&Item::Many) => continue,
                '*' => Item::Many,
                '?' => Item::One,
                // These two are escaped for the sake of the substitution, not of the pattern.
                '\\' if matches!(chars.peek(), Some('}' | '/')) => continue,
                '\\' => match chars.next() {
                    Some(c @ ('*' | '?' | '\\')) => Item::Literal(c),
                    other => {
                        return Err(InvalidEscape {
                            pattern: pattern.to_owned(),
                            escaped: other.unwrap_or(char::REPLACEMENT_CHARACTER),
                        });
                    }
                },
                c => Item::Literal(c),
            });
        }
        Ok(Self(items))
    }

    /// Where a match that starts at the start of `text` ends.
    fn end(&self, text: &str, stars: Stars) -> Option<usize> {
        let items = &self.0;
        let mut active = vec![false; items.len() + 1];
        active[0] = true;
        let mut best = None;
        let mut chars = text.char_indices();
        loop {
            let next = chars.next();
            for i in 0..items.len() {
                if active[i] && items[i] == Item::Many {
                    active[i + 1] = true;
                }
            }
            if active[items.len()] {
                best = Some(next.map_or(text.len(), |(at, _)| at));
                if stars == Stars::Shortest {
                    return best;
                }
            }
            let Some((_, c)) = next else {
                return best;
            };
            // Back to front, so that each state moves by one item.
            let mut any = false;
            active[items.len()] = false;
            for i in (0..items.len()).rev() {
                let was = std::mem::take(&mut active[i]);
                match items[i] {
                    Item::Literal(l) if was && l == c => active[i + 1] = true,
                    Item::One if was && c != '\n' => active[i + 1] = true,
                    Item::Many if was && c != '\n' => active[i] = true,
                    _ => continue,
                }
                any = true;
            }
            if !any {
                return best;
            }
        }
    }

    /// The starts in `text` from which on a match is possible, by byte.
    fn starts(&self, text: &str) -> Vec<usize> {
        let items = &self.0;
        // from[j]: whether the items from j on match a prefix of the text from here on.
        let mut from = vec![false; items.len() + 1];
        let close = |from: &mut [bool]| {
            from[items.len()] = true;
            for j in (0..items.len()).rev() {
                from[j] |= items[j] == Item::Many && from[j + 1];
            }
        };
        close(&mut from);
        let mut starts = Vec::new();
        if from[0] {
            starts.push(text.len());
        }
        for (at, c) in text.char_indices().rev() {
            for j in 0..items.len() {
                from[j] = match items[j] {
                    Item::Literal(l) => l == c && from[j + 1],
                    Item::One => c != '\n' && from[j + 1],
                    Item::Many => c != '\n' && from[j],
                };
            }
            close(&mut from);
            if from[0] {
                starts.push(at);
            }
        }
        starts.reverse();
        starts
    }

    /// Replaces the first match by the text as it stands.
    pub(crate) fn replace_first(&self, value: &str, replacement: &str) -> String {
        let found = self
            .starts(value)
            .first()
            .and_then(|&start| Some((start, start + self.end(&value[start..], Stars::Longest)?)));
        match found {
            Some((start, end)) => [&value[..start], replacement, &value[end..]].concat(),
            None => value.to_owned(),
        }
    }

    /// Replaces every match by a template, as Go's `Regexp.ReplaceAllString` does: `$0` is the
    /// match, other `$name` are nothing.
    pub(crate) fn replace_all(&self, value: &str, template: &str) -> String {
        let mut out = String::with_capacity(value.len());
        let mut done = 0;
        let mut last_end = None;
        for start in self.starts(value) {
            if start < done {
                continue;
            }
            let Some(end) = self.end(&value[start..], Stars::Longest) else {
                continue;
            };
            let end = start + end;
            // An empty match right behind a match does not count.
            if start == end && last_end == Some(start) {
                continue;
            }
            out.push_str(&value[done..start]);
            expand_template(&mut out, template, &value[start..end]);
            done = end;
            last_end = Some(end);
        }
        out.push_str(&value[done..]);
        out
    }
}

/// Expands a template of Go's `regexp` for an expression without groups.
fn expand_template(out: &mut String, template: &str, matched: &str) {
    let is_name = |c: char| c == '_' || c.is_alphanumeric();
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let named = match after.strip_prefix('{') {
            Some(inner) => inner.find('}').map(|end| (&inner[..end], &inner[end + 1..])),
            None => {
                let end = after.find(|c| !is_name(c)).unwrap_or(after.len());
                Some(after.split_at(end))
            }
        };
        match named {
            Some((name, after)) if !name.is_empty() && name.chars().all(is_name) => {
                // Only group 0 exists; Go reads `00` as a name, not as that group.
                if name == "0" {
                    out.push_str(matched);
                }
                rest = after;
            }
            _ => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
}

/// Removes what the pattern matches at the start.
pub(crate) fn trim_prefix(pattern: &str, value: &str, stars: Stars) -> Result<String, InvalidEscape> {
    let end = ShellPattern::new(pattern)?.end(value, stars).unwrap_or(0);
    Ok(value[end..].to_owned())
}

/// Removes what the pattern matches at the end: both are turned around, which an error shows.
pub(crate) fn trim_suffix(pattern: &str, value: &str, stars: Stars) -> Result<String, InvalidEscape> {
    let turned: String = value.chars().rev().collect();
    let trimmed = trim_prefix(&reverse_pattern(pattern), &turned, stars)?;
    Ok(trimmed.chars().rev().collect())
}

/// Turns a pattern around, each backslash staying before what it escapes.
fn reverse_pattern(pattern: &str) -> String {
    let mut pieces = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match (c, chars.clone().next()) {
            ('\\', Some(next)) => {
                pieces.push(next);
                pieces.push('\\');
                chars.next();
            }
            _ => pieces.push(c),
        }
    }
    pieces.into_iter().rev().collect()
}
