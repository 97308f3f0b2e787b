//! Which files the sources of COPY and ADD name.
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rbuild_sandbox::root::Visit;

use super::error::Result;
use super::source::Source;

/// Whether a source has wildcards (`containsWildcards` of both builders: `*`, `?` or `[` that no backslash precedes).
#[must_use]
pub fn has_wildcards(pattern: &Path) -> bool {
    let mut bytes = pattern.as_os_str().as_bytes().iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// The files that a pattern names for the legacy builder: every match below the root in the order of a walk, also those
/// inside of directories that match (moby 28 `copyWithWildcards`). A malformed pattern matches nothing.
///
/// # Errors
/// Fails if the tree cannot be read.
pub fn legacy_matches(source: &Source<'_>, pattern: &Path) -> Result<Vec<PathBuf>> {
    matches(source, Path::new(""), pattern, false)
}

/// The files that a pattern names for BuildKit: links before the first wildcard are followed, and what is inside of a
/// directory that matches is not matched again (fsutil `ResolveWildcards`). The paths are relative to the root.
///
/// # Errors
/// Fails if the tree cannot be read.
pub fn buildkit_matches(source: &Source<'_>, pattern: &Path) -> Result<Vec<PathBuf>> {
    let mut plain = PathBuf::new();
    let mut wild = PathBuf::new();
    for component in pattern.components() {
        let part = Path::new(component.as_os_str());
        if part.is_absolute() || part == Path::new(".") {
            continue;
        }
        if wild.as_os_str().is_empty() && !has_wildcards(part) {
            plain.push(part);
        } else {
            wild.push(part);
        }
    }
    if wild.as_os_str().is_empty() {
        return Ok(vec![plain]);
    }
    let base = source.root.resolve(&plain)?;
    match source.root.try_lstat(&base)? {
        Some(metadata) if metadata.is_dir() => matches(source, &base, &wild, true),
        _ => Ok(Vec::new()),
    }
}

fn matches(source: &Source<'_>, base: &Path, pattern: &Path, skip_matched: bool) -> Result<Vec<PathBuf>> {
    let pattern = pattern.as_os_str().as_bytes();
    let mut found = Vec::new();
    let mut walk = source.walk(base, None)?;
    while let Some(visit) = walk.next()? {
        if let Visit::Enter(entry) = visit
            && go_match(pattern, entry.path.as_os_str().as_bytes()) == Some(true)
        {
            found.push(base.join(&entry.path));
            if skip_matched && entry.metadata.is_dir() {
                walk.skip_dir();
            }
        }
    }
    Ok(found)
}

/// One character as Go ranges over a string: a byte that is no UTF-8 counts as U+FFFD.
fn next_char(bytes: &[u8]) -> Option<(char, &[u8])> {
    let first = *bytes.first()?;
    let length = match first {
        0x00..=0x7f => 1,
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    };
    let decoded =
        bytes.get(..length).and_then(|head| std::str::from_utf8(head).ok()).and_then(|text| text.chars().next());
    match decoded {
        Some(character) => Some((character, bytes.get(length..)?)),
        None => Some((char::REPLACEMENT_CHARACTER, bytes.get(1..)?)),
    }
}

/// Go's `filepath.Match` on Unix: `*`, `?`, `[a-z]`, `[^a]` and `\`, none of which matches a slash. None means that the
/// pattern is malformed.
#[must_use]
pub fn go_match(mut pattern: &[u8], mut name: &[u8]) -> Option<bool> {
    'pattern: while !pattern.is_empty() {
        let (star, chunk, rest) = scan_chunk(pattern);
        pattern = rest;
        if star && chunk.is_empty() {
            return Some(!name.contains(&b'/'));
        }
        if let Some(tail) = match_chunk(chunk, name)?
            && (tail.is_empty() || !pattern.is_empty())
        {
            name = tail;
            continue;
        }
        if star {
            for index in 0..name.len() {
                if name.get(index) == Some(&b'/') {
                    break;
                }
                let Some(from) = name.get(index + 1..) else {
                    break;
                };
                if let Some(tail) = match_chunk(chunk, from)? {
                    if pattern.is_empty() && !tail.is_empty() {
                        continue;
                    }
                    name = tail;
                    continue 'pattern;
                }
            }
        }
        // The rest is looked at only for its form.
        while !pattern.is_empty() {
            let (_, chunk, rest) = scan_chunk(pattern);
            pattern = rest;
            match_chunk(chunk, b"")?;
        }
        return Some(false);
    }
    Some(name.is_empty())
}

/// The stars at the start, then everything up to the next star outside of brackets, then the rest.
fn scan_chunk(mut pattern: &[u8]) -> (bool, &[u8], &[u8]) {
    let mut star = false;
    while let Some((b'*', rest)) = pattern.split_first() {
        pattern = rest;
        star = true;
    }
    let mut in_range = false;
    let mut index = 0;
    while let Some(byte) = pattern.get(index) {
        match byte {
            b'\\' if index + 1 < pattern.len() => index += 1,
            b'[' => in_range = true,
            b']' => in_range = false,
            b'*' if !in_range => break,
            _ => {}
        }
        index += 1;
    }
    let (chunk, rest) = pattern.split_at(index.min(pattern.len()));
    (star, chunk, rest)
}

/// Matches a chunk without stars at the start of `name`: the rest of the name, or none; malformed is the outer none.
#[allow(clippy::option_option)]
fn match_chunk<'n>(mut chunk: &[u8], mut name: &'n [u8]) -> Option<Option<&'n [u8]>> {
    let mut failed = false;
    while let Some((&byte, after)) = chunk.split_first() {
        failed = failed || name.is_empty();
        match byte {
            b'[' => {
                let mut character = '\0';
                if !failed {
                    let (first, rest) = next_char(name)?;
                    character = first;
                    name = rest;
                }
                chunk = after;
                let negated = chunk.first() == Some(&b'^');
                if negated {
                    chunk = chunk.get(1..)?;
                }
                let mut matched = false;
                let mut ranges = 0;
                loop {
                    if chunk.first() == Some(&b']') && ranges > 0 {
                        chunk = chunk.get(1..)?;
                        break;
                    }
                    let low = range_end(&mut chunk)?;
                    let mut high = low;
                    if chunk.first() == Some(&b'-') {
                        chunk = chunk.get(1..)?;
                        high = range_end(&mut chunk)?;
                    }
                    matched = matched || (low <= character && character <= high);
                    ranges += 1;
                }
                failed = failed || matched == negated;
            }
            b'?' => {
                if !failed {
                    failed = name.first() == Some(&b'/');
                    name = next_char(name)?.1;
                }
                chunk = after;
            }
            _ => {
                let mut literal = byte;
                chunk = after;
                if byte == b'\\' {
                    let (&escaped, after) = chunk.split_first()?;
                    literal = escaped;
                    chunk = after;
                }
                if !failed {
                    failed = name.first() != Some(&literal);
                    name = name.get(1..)?;
                }
            }
        }
    }
    Some((!failed).then_some(name))
}

/// One end of a range in brackets, `getEsc` in Go.
fn range_end(chunk: &mut &[u8]) -> Option<char> {
    let first = *chunk.first()?;
    if first == b'-' || first == b']' {
        return None;
    }
    if first == b'\\' {
        *chunk = chunk.get(1..)?;
    }
    let (character, rest) = next_char(chunk)?;
    if character == char::REPLACEMENT_CHARACTER && chunk.len() - rest.len() == 1 {
        return None;
    }
    *chunk = rest;
    (!chunk.is_empty()).then_some(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Go's `filepath.Match` answers; none is `ErrBadPattern`.
    #[test]
    fn matches_as_go_does() {
        let cases: &[(&str, &str, Option<bool>)] = &[
            ("abc", "abc", Some(true)),
            ("*", "abc", Some(true)),
            ("*c", "abc", Some(true)),
            ("a*", "a", Some(true)),
            ("a*", "ab/c", Some(false)),
            ("a*/b", "abc/b", Some(true)),
            ("a*/b", "a/c/b", Some(false)),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", Some(true)),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", Some(false)),
            ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
            ("a*b?c*x", "abxbbxdbxebxczzy", Some(false)),
            ("ab[c]", "abc", Some(true)),
            ("ab[b-d]", "abc", Some(true)),
            ("ab[e-g]", "abc", Some(false)),
            ("ab[^c]", "abc", Some(false)),
            ("ab[^e-g]", "abc", Some(true)),
            ("a\\*b", "a*b", Some(true)),
            ("a\\*b", "ab", Some(false)),
            ("a?b", "a☺b", Some(true)),
            ("a[^a]b", "a☺b", Some(true)),
            ("a???b", "a☺b", Some(false)),
            ("[a-ζ]*", "α", Some(true)),
            ("*[a-ζ]", "A", Some(false)),
            ("a?b", "a/b", Some(false)),
            ("a*b", "a/b", Some(false)),
            ("[\\]a]", "]", Some(true)),
            ("[\\-]", "-", Some(true)),
            ("[x\\-]", "-", Some(true)),
            ("[]a]", "]", None),
            ("[-]", "-", None),
            ("[x-]", "x", None),
            ("[a-b-c]", "a", None),
            ("[", "a", None),
            ("[^bc", "a", None),
            ("a[", "ab", None),
            ("*x", "xxx", Some(true)),
            ("", "", Some(true)),
            ("", "a", Some(false)),
        ];
        for (pattern, name, want) in cases {
            let got = go_match(pattern.as_bytes(), name.as_bytes());
            assert_eq!(got, *want, "{pattern} {name}");
        }
    }

    #[test]
    fn wildcards_are_seen() {
        assert!(has_wildcards(Path::new("a/*")));
        assert!(has_wildcards(Path::new("a[b")));
        assert!(!has_wildcards(Path::new("a\\*b")));
    }
}
