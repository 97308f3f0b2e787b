//! `.dockerignore`: reading it, and matching paths against its patterns (`moby/patternmatcher`).

use std::fmt;

use crate::glob::{BadPattern, Glob};
use crate::go_regex::Regex;
use crate::text::{lossy, strip_bom};

/// A pattern that Docker refuses; displays as Docker's error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IgnoreError {
    /// A lone `!`.
    #[error("illegal exclusion pattern: \"!\"")]
    LoneExclusion,
    /// A pattern that cannot be read.
    #[error("syntax error in pattern")]
    BadPattern {
        /// The pattern.
        pattern: String,
    },
    /// A line longer than Docker's reader takes.
    #[error("bufio.Scanner: token too long")]
    LineTooLong,
}

/// Reads the patterns of an ignore file: comments and blank lines go, blanks at the ends, `.` and
/// `..` and needless slashes too.
///
/// # Errors
///
/// A line of 64 KiB or more.
pub fn parse_ignore_file(file: &[u8]) -> Result<Vec<String>, IgnoreError> {
    let mut patterns = Vec::new();
    let file = strip_bom(file);
    for line in file.split_inclusive(|&byte| byte == b'\n') {
        if line.strip_suffix(b"\n").unwrap_or(line).len() > crate::MAX_LINE {
            return Err(IgnoreError::LineTooLong);
        }
        if line.starts_with(b"#") {
            continue;
        }
        let line = lossy(line);
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let (exclusion, pattern) = match line.strip_prefix('!') {
            Some(rest) => ("!", rest.trim()),
            None => ("", line),
        };
        let mut cleaned = match pattern {
            "" => String::new(),
            pattern => clean(pattern),
        };
        if cleaned.len() > 1 && cleaned.starts_with('/') {
            cleaned.remove(0);
        }
        patterns.push(format!("{exclusion}{cleaned}"));
    }
    Ok(patterns)
}

/// Shortens a path as Go's `filepath.Clean` does, without looking at files.
#[must_use]
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&last) if last != ".." => {
                    parts.pop();
                }
                _ if rooted => {}
                _ => parts.push(part),
            },
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// One pattern.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    exclusion: bool,
    matcher: Matcher,
}

#[derive(Clone, Debug)]
enum Matcher {
    Exact,
    /// `dir/**`: what begins like it, `**` left out.
    Prefix,
    /// `**/name`: what ends like it, `**` left out.
    Suffix,
    Regex(Regex),
    /// Passes the syntax check, but not the compiler: an error once it is used.
    Bad,
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Pattern {
    /// The pattern without its `!`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it takes paths back in: it began with `!`.
    #[must_use]
    pub fn is_exclusion(&self) -> bool {
        self.exclusion
    }

    fn new(text: String, exclusion: bool) -> Self {
        let matcher = compile(&text);
        Self { text, exclusion, matcher }
    }

    fn matches(&self, path: &str) -> Result<bool, IgnoreError> {
        Ok(match &self.matcher {
            Matcher::Exact => path == self.text,
            Matcher::Prefix => path.starts_with(&self.text[..self.text.len() - 2]),
            Matcher::Suffix => {
                // Bytes, since a byte order mark may stand before the `**`.
                let (suffix, path) = (&self.text.as_bytes()[2..], path.as_bytes());
                path.ends_with(suffix) || suffix.strip_prefix(b"/") == Some(path)
            }
            Matcher::Regex(regex) => regex.is_match(path),
            Matcher::Bad => {
                return Err(IgnoreError::BadPattern { pattern: self.text.clone() });
            }
        })
    }

    fn matches_a_parent(&self, path: &str) -> bool {
        path.match_indices('/').any(|(at, _)| self.matches(&path[..at]).unwrap_or(false))
    }

    /// The pattern without a last `/*` or `/**`.
    fn without_trailing_glob(&self) -> &str {
        let text = self.text.strip_suffix("/**").unwrap_or(&self.text);
        text.strip_suffix("/*").unwrap_or(text)
    }
}

/// Translates a pattern. Where Docker makes it a regular expression, that is spelled out just as
/// Docker spells it, so that its oddities (a `*` within a class, say) come out the same.
fn compile(pattern: &str) -> Matcher {
    #[derive(PartialEq)]
    enum Kind {
        Exact,
        Prefix,
        Suffix,
        Regex,
    }
    let text = pattern.strip_prefix('\u{feff}').unwrap_or(pattern);
    let mut regex = String::from("^");
    let mut kind = Kind::Exact;
    let mut chars = text.chars().peekable();
    let mut first = true;
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                if chars.peek().is_some() {
                    regex.push_str("(.*/)?");
                    kind = Kind::Regex;
                } else if kind == Kind::Exact {
                    kind = Kind::Prefix;
                } else {
                    regex.push_str(".*");
                    kind = Kind::Regex;
                }
                if first {
                    kind = Kind::Suffix;
                }
            }
            '*' => {
                regex.push_str("[^/]*");
                kind = Kind::Regex;
            }
            '?' => {
                regex.push_str("[^/]");
                kind = Kind::Regex;
            }
            '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => regex.extend(['\\', c]),
            '\\' => {
                regex.push('\\');
                if let Some(next) = chars.next() {
                    regex.push(next);
                    kind = Kind::Regex;
                }
            }
            '[' | ']' => {
                regex.push(c);
                kind = Kind::Regex;
            }
            c => regex.push(c),
        }
        first = false;
    }
    match kind {
        Kind::Exact => Matcher::Exact,
        Kind::Prefix => Matcher::Prefix,
        Kind::Suffix => Matcher::Suffix,
        Kind::Regex => {
            regex.push('$');
            match Regex::new(&regex) {
                Some(regex) => Matcher::Regex(regex),
                None => Matcher::Bad,
            }
        }
    }
}

/// What a directory's paths have matched so far; see [`PatternMatcher::matches_in`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MatchInfo(Vec<bool>);

/// Which of Docker's walks a directory is skipped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Walk {
    /// The tar of the legacy builder's client.
    Archive,
    /// BuildKit's file transfer.
    Fsutil,
}

/// Patterns to match paths against. The last one that matches a path or a directory above it
/// decides.
///
/// ```
/// use rbuild_parser::ignore::{PatternMatcher, parse_ignore_file};
///
/// let matcher = PatternMatcher::new(parse_ignore_file(b"# all but one\ndocs\n!docs/README.md\n")?)?;
/// assert!(matcher.matches("docs/a/b.md")?);
/// assert!(!matcher.matches("docs/README.md")?);
/// # Ok::<(), rbuild_parser::ignore::IgnoreError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct PatternMatcher {
    patterns: Vec<Pattern>,
}

impl PatternMatcher {
    /// Compiles patterns such as [`parse_ignore_file`] gives. Blank ones are skipped.
    ///
    /// # Errors
    ///
    /// A lone `!`, and what Go's `filepath.Match` refuses.
    pub fn new<P: AsRef<str>>(patterns: impl IntoIterator<Item = P>) -> Result<Self, IgnoreError> {
        let mut compiled = Vec::new();
        for pattern in patterns {
            let pattern = pattern.as_ref().trim();
            if pattern.is_empty() {
                continue;
            }
            let cleaned = clean(pattern);
            let (exclusion, text) = match cleaned.strip_prefix('!') {
                Some("") => return Err(IgnoreError::LoneExclusion),
                Some(rest) => (true, rest.to_owned()),
                None => (false, cleaned),
            };
            if let Err(BadPattern) = Glob::new(&text) {
                return Err(IgnoreError::BadPattern { pattern: text });
            }
            compiled.push(Pattern::new(text, exclusion));
        }
        Ok(Self { patterns: compiled })
    }

    /// The patterns in order.
    #[must_use]
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// Whether there is no pattern.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether some pattern takes paths back in.
    #[must_use]
    pub fn has_exclusions(&self) -> bool {
        self.patterns.iter().any(Pattern::is_exclusion)
    }

    /// Whether the path, or a directory above it, is matched and not taken back in later. The path
    /// is relative, with slashes, cleaned; bytes that are no UTF-8 as [`crate::lossy`] gives them.
    ///
    /// # Errors
    ///
    /// A pattern with an escape that means nothing, such as `\y`.
    pub fn matches(&self, path: &str) -> Result<bool, IgnoreError> {
        let mut matched = false;
        for pattern in &self.patterns {
            if pattern.exclusion == matched && (pattern.matches(path)? || pattern.matches_a_parent(path)) {
                matched = !pattern.exclusion;
            }
        }
        Ok(matched)
    }

    /// As [`Self::matches`] for a path as somebody wrote it, which may begin with `/` or `./`: only the directories above
    /// it are cleaned, as in the build check of COPY and ADD.
    ///
    /// # Errors
    ///
    /// As [`Self::matches`].
    pub fn matches_as_written(&self, path: &str) -> Result<bool, IgnoreError> {
        let directory = path.rfind('/').map_or_else(|| ".".to_owned(), |end| clean(&path[..=end]));
        let parents: Vec<&str> = match directory.as_str() {
            "." => Vec::new(),
            directory => {
                let ends = directory.match_indices('/').map(|(at, _)| at).chain([directory.len()]);
                ends.map(|end| &directory[..end]).collect()
            }
        };
        let mut matched = false;
        for pattern in &self.patterns {
            let hits = |pattern: &Pattern| -> Result<bool, IgnoreError> {
                let above = || parents.iter().any(|parent| pattern.matches(parent).unwrap_or(false));
                Ok(pattern.matches(path)? || above())
            };
            if pattern.exclusion == matched && hits(pattern)? {
                matched = !pattern.exclusion;
            }
        }
        Ok(matched)
    }

    /// As [`Self::matches`] for a walk: takes what the directory above gave, and gives what the
    /// paths in this one need. The result differs from that of `matches` where Docker's does.
    ///
    /// # Errors
    ///
    /// As [`Self::matches`].
    pub fn matches_in(&self, path: &str, parent: &MatchInfo) -> Result<(bool, MatchInfo), IgnoreError> {
        let known = parent.0.len() == self.patterns.len();
        let mut info = vec![false; self.patterns.len()];
        let mut matched = false;
        for (i, pattern) in self.patterns.iter().enumerate() {
            let mut found = known && parent.0[i];
            if !found {
                if pattern.exclusion != matched {
                    continue;
                }
                found = pattern.matches(path)? || (!known && pattern.matches_a_parent(path));
            }
            info[i] = found;
            if found {
                matched = !pattern.exclusion;
            }
        }
        Ok((matched, MatchInfo(info)))
    }

    /// As [`Self::matches`] in the client of Docker 20.10, which looks at one directory above the
    /// path only: the one as deep as the pattern.
    ///
    /// # Errors
    ///
    /// As [`Self::matches`].
    pub fn matches_v20(&self, path: &str) -> Result<bool, IgnoreError> {
        let mut matched = false;
        for pattern in &self.patterns {
            let depth = pattern.text.matches('/').count();
            let parent = path.match_indices('/').nth(depth).map(|(at, _)| &path[..at]);
            let found = pattern.matches(path)? || parent.is_some_and(|parent| pattern.matches(parent).unwrap_or(false));
            if found {
                matched = !pattern.exclusion;
            }
        }
        Ok(matched)
    }

    /// Whether a directory that is matched needs no look inside: no pattern can take back in what
    /// is there.
    #[must_use]
    pub fn can_skip_directory(&self, directory: &str, walk: Walk) -> bool {
        let mut exclusions = self.patterns.iter().filter(|pattern| pattern.exclusion);
        let inside =
            |text: &str| text.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        match walk {
            Walk::Archive => !exclusions.any(|pattern| inside(&pattern.text)),
            // Wildcards may match anywhere.
            Walk::Fsutil => !exclusions.any(|pattern| {
                let text = pattern.without_trailing_glob();
                text.contains(['*', '[', ']', '?', '^', '\\']) || inside(text)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(patterns: &[&str]) -> PatternMatcher {
        PatternMatcher::new(patterns).unwrap()
    }

    #[test]
    fn sources_as_they_are_written() {
        for (patterns, path, matched) in [
            (&["b.log"][..], "b.log", true),
            (&["b.log"], "./b.log", false),
            (&["b.log"], "/b.log", false),
            (&["sub"], "sub/", true),
            (&["sub"], "sub/x", true),
            (&["sub"], "./sub/x", true),
            (&["*"], "./b.log", false),
            (&["*"], "/b.log", true),
            (&["*.md", "!docs/a.md"], "docs/a.md", false),
            (&["docs", "!docs/a.md"], "docs/a.md", false),
            (&["docs"], "docs//x/../a.md", true),
            (&["\u{feff}**"], "a", false),
        ] {
            assert_eq!(matcher(patterns).matches_as_written(path), Ok(matched), "{patterns:?} {path}");
        }
    }

    #[test]
    fn reads_files_as_docker_does() {
        let file = b"\xef\xbb\xbftest1\n/test2\n/a/file/here\r\n\nlastfile\n# this is a comment\n \
                     # no comment\n! /inverted/abs/path\n!\n! \n/\n./a/../b/\n  x  \n";
        assert_eq!(
            parse_ignore_file(file).unwrap(),
            [
                "test1",
                "test2",
                "a/file/here",
                "lastfile",
                "# no comment",
                "!inverted/abs/path",
                "!",
                "!",
                "/",
                "b",
                "x",
            ]
        );
        assert_eq!(parse_ignore_file(&vec![b'a'; 65536]), Err(IgnoreError::LineTooLong));
    }

    #[test]
    fn cleans_as_go_does() {
        for (path, expected) in [
            ("", "."),
            ("abc", "abc"),
            ("abc/def/../ghi", "abc/ghi"),
            ("/", "/"),
            ("//a//", "/a"),
            ("/../a", "/a"),
            ("../../a", "../../a"),
            ("a/../..", ".."),
            ("./.", "."),
            ("!a/../b", "b"),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }

    #[test]
    fn matches_single_patterns() {
        // The cases of patternmatcher's own tests, regrouped by pattern.
        for (pattern, yes, no) in [
            ("**", &["file", "file/", "/", "dir/file", "dir/file/"][..], &[][..]),
            ("**/**", &["file", "dir/file"], &[]),
            ("dir/**", &["dir/file", "dir/file/", "dir/dir2/file"], &["dir", "dirx/file"]),
            ("**/dir", &["dir", "dir/file", "a/dir", "a/dir/b"], &["adir"]),
            ("**/dir2/*", &["dir/dir2/file", "dir/dir2/dir2/file", "a/dir2/b/c"], &["dir2"]),
            ("**file", &["file", "dir/file", "dir/afile"], &["filex"]),
            ("**/file", &["file", "dir/file", "dir/dir/file"], &["dir/afile"]),
            ("**/file*", &["dir/file", "file.txt", "dir/dir/file.txt"], &[]),
            ("**/file*txt", &["dir/dir/file.txt"], &[]),
            ("**/file*.txt*", &["dir/dir/file.txt"], &[]),
            ("**/**/*.txt", &["dir/dir/file.txt"], &["dir/dir/file.txt2"]),
            ("**/**/*.txt2", &[], &["dir/dir/file.txt"]),
            ("a**/*.txt", &["a/file.txt", "a/dir/file.txt", "a/dir/dir/file.txt"], &[]),
            ("a/*.txt", &["a/file.txt"], &["a/dir/file.txt"]),
            ("a/[b-d].txt", &["a/b.txt", "a/c.txt", "a/d.txt"], &["a/e.txt"]),
            (".*", &[".foo"], &["foo"]),
            ("abc.def", &["abc.def"], &["abcdef", "abcZdef"]),
            ("abc?def", &["abcZdef"], &["abcdef"]),
            ("a\\\\", &["a\\"], &[]),
            ("**/foo/bar", &["foo/bar", "dir/foo/bar", "dir/dir2/foo/bar"], &["foo"]),
            ("abc/**", &["abc/def", "abc/def/ghi"], &["abc"]),
            ("**/.foo", &[".foo", "bar/.foo"], &[]),
            ("a(b)c/def", &["a(b)c/def"], &["a(b)c/xyz", "abc/def"]),
            ("a.|)$(}+{bc", &["a.|)$(}+{bc"], &[]),
            (
                "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl",
                &["dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl"],
                &[],
            ),
            ("dist/*.whl", &["dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl"], &[]),
            ("*", &["a", "a/b", "\n"], &[]),
            ("a\u{e9}?", &["a\u{e9}\u{e8}"], &["ae"]),
            ("[!a]", &["!", "a"], &["b"]),
            ("[^a]", &["b", "/"], &["a"]),
            ("a/b/", &["a/b", "a/b/c"], &["a"]),
            ("fooaa", &["fooaa/bar"], &["foo"]),
            ("foo\\bar", &[], &["foobar", "fooar", "foo\\bar"]),
            ("\\d", &["7"], &["d"]),
            ("x^y*", &[], &["x^yz"]),
            ("x^y", &["x^y"], &[]),
        ] {
            let matcher = matcher(&[pattern]);
            for path in yes {
                assert_eq!(matcher.matches(path), Ok(true), "{pattern} {path}");
            }
            for path in no {
                assert_eq!(matcher.matches(path), Ok(false), "{pattern} {path}");
            }
        }
    }

    #[test]
    fn order_decides() {
        for (patterns, path, expected) in [
            (&["**", "!util/docker/web"][..], "util/docker/web/foo", false),
            (&["**", "!util/docker/web", "util/docker/web/foo"], "util/docker/web/foo", true),
            (&["**", "!dist/proxy.py-2.4.0rc3.whl"], "dist/proxy.py-2.4.0rc3.whl", false),
            (&["**", "!dist/*.whl"], "dist/proxy.py-2.4.0rc3.whl", false),
            (&["util/docker/web", "!util/docker/web/foo"], "util/docker/web/foo", false),
            (&["*", "!b"], "b", false),
            (&["!b", "*"], "b", true),
            (&["a", "!a/b", "a/b/c"], "a/b/c/d", true),
            (&["a", "!a/b", "a/b/c"], "a/b/d", false),
            (&["", "  "], "a", false),
        ] {
            let matcher = matcher(patterns);
            assert_eq!(matcher.matches(path), Ok(expected), "{patterns:?} {path}");
            // A walk down to the path comes to the same.
            let mut info = MatchInfo::default();
            let mut found = false;
            for (at, _) in path.match_indices('/').chain([(path.len(), "")]) {
                (found, info) = matcher.matches_in(&path[..at], &info).unwrap();
            }
            assert_eq!(found, expected, "walk {patterns:?} {path}");
        }
    }

    #[test]
    fn docker_20_looks_at_one_parent() {
        for (pattern, path, old, new) in [
            ("**/b", "a/b/c", true, true),
            ("**/b", "b/c", false, true),
            ("a", "a/b/c", true, true),
            ("a/*", "a/b/c/d", true, true),
        ] {
            let matcher = matcher(&[pattern]);
            assert_eq!(matcher.matches_v20(path), Ok(old), "{pattern} {path}");
            assert_eq!(matcher.matches(path), Ok(new), "{pattern} {path}");
        }
    }

    #[test]
    fn directories_are_skipped_if_nothing_comes_back() {
        for (patterns, directory, archive, fsutil) in [
            (&["a"][..], "a", true, true),
            (&["a", "!a/b"], "a", false, false),
            (&["a", "!ab"], "a", true, true),
            (&["a", "!a"], "a", false, false),
            (&["*", "!a/b/**"], "a", false, false),
            (&["*", "!a/b/**"], "c", true, true),
            (&["*", "!*.md"], "a", true, false),
            (&["*", "!**/x"], "a", true, false),
        ] {
            let matcher = matcher(patterns);
            for (walk, expected) in [(Walk::Archive, archive), (Walk::Fsutil, fsutil)] {
                assert_eq!(matcher.can_skip_directory(directory, walk), expected, "{patterns:?} {directory} {walk:?}");
            }
        }
    }

    #[test]
    fn refuses_bad_patterns() {
        for (pattern, error) in [
            ("!", "illegal exclusion pattern: \"!\""),
            ("[", "syntax error in pattern"),
            ("a\\", "syntax error in pattern"),
            ("!a[", "syntax error in pattern"),
            ("[]a]", "syntax error in pattern"),
        ] {
            let found = PatternMatcher::new([pattern]).map(drop);
            assert_eq!(found.map_err(|e| e.to_string()), Err(error.to_owned()));
        }
        assert!(matcher(&["a\\y"]).matches("a").is_err());
        assert!(matcher(&["\\pq"]).matches("a").is_err());
    }
}
