//! Word expansion: quotes, escapes and variables, as Docker reads them in the arguments of
//! instructions (BuildKit `frontend/dockerfile/shell/lex.go`, 0.25 and 0.8).

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::iter::Peekable;
use std::str::Chars;

use crate::options::Version;
use crate::shell_pattern::{InvalidEscape, ShellPattern, Stars, trim_prefix, trim_suffix};
use crate::text::go_quote;

/// How deep substitutions may nest, as in `${a:-${b:-c}}`. Docker's limit is its memory.
const MAX_DEPTH: usize = 128;

/// Where variables come from.
pub trait Environment {
    /// The variable's value, `None` if it is unset.
    fn get(&self, name: &str) -> Option<&str>;
}

/// No variable is set.
impl Environment for () {
    fn get(&self, _: &str) -> Option<&str> {
        None
    }
}

impl<E: Environment + ?Sized> Environment for &E {
    fn get(&self, name: &str) -> Option<&str> {
        (**self).get(name)
    }
}

/// Names and values; the last of a name counts.
impl<K: AsRef<str>, V: AsRef<str>> Environment for [(K, V)] {
    fn get(&self, name: &str) -> Option<&str> {
        let found = self.iter().rev().find(|(key, _)| key.as_ref() == name)?;
        Some(found.1.as_ref())
    }
}

impl<K: AsRef<str>, V: AsRef<str>> Environment for Vec<(K, V)> {
    fn get(&self, name: &str) -> Option<&str> {
        self.as_slice().get_variable(name)
    }
}

/// `NAME=value` entries as in an image's configuration; the last of a name counts, and an entry
/// without `=` is an empty variable.
impl Environment for [String] {
    fn get(&self, name: &str) -> Option<&str> {
        self.iter().rev().find_map(|entry| {
            let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
            (key == name).then_some(value)
        })
    }
}

impl Environment for Vec<String> {
    fn get(&self, name: &str) -> Option<&str> {
        self.as_slice().get_variable(name)
    }
}

impl<K: Borrow<str> + Hash + Eq, V: AsRef<str>, S: BuildHasher> Environment for HashMap<K, V, S> {
    fn get(&self, name: &str) -> Option<&str> {
        Self::get(self, name).map(AsRef::as_ref)
    }
}

impl<K: Borrow<str> + Ord, V: AsRef<str>> Environment for BTreeMap<K, V> {
    fn get(&self, name: &str) -> Option<&str> {
        Self::get(self, name).map(AsRef::as_ref)
    }
}

/// Reaches [`Environment::get`] of a slice, whose own `get` hides it.
trait GetVariable {
    fn get_variable(&self, name: &str) -> Option<&str>;
}

impl<E: Environment + ?Sized> GetVariable for E {
    fn get_variable(&self, name: &str) -> Option<&str> {
        Environment::get(self, name)
    }
}

/// A word that cannot be expanded; displays as Docker's error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct WordError {
    /// The word as given.
    pub word: String,
    /// What is wrong with it.
    pub kind: WordErrorKind,
    /// The variables that were asked for before, and that nothing sets.
    pub unmatched: Box<BTreeSet<String>>,
}

impl fmt::Display for WordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to process {}: {}", go_quote(&self.word), self.kind)
    }
}

/// What is wrong with a word.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WordErrorKind {
    /// The word ends inside of quotes or of a substitution.
    UnexpectedEnd {
        /// What should have come: `single-quote`, `double-quote` or a character.
        wanted: String,
    },
    /// `${` without `}`.
    MissingBrace,
    /// `${}`, `${{…` or `${:…`.
    BadSubstitution,
    /// An operator that does not exist.
    UnsupportedModifier {
        /// The operator.
        modifier: String,
    },
    /// `${x/a` without the second `/`.
    MissingSlash,
    /// `${x?…}`: the variable is unset, or empty and must not be.
    Refused {
        /// The variable.
        name: String,
        /// The message given there, or Docker's own.
        message: String,
    },
    /// A pattern with an escape that means nothing.
    InvalidPattern {
        /// The pattern, back to front in `${x%…}` as Docker shows it.
        pattern: String,
        /// The escaped character; U+FFFD at the end of the pattern.
        escaped: char,
    },
    /// 20.10: something else than `:` or `?` after the name.
    MissingColon,
    /// Substitutions are nested too deep; a limit of ours.
    TooDeep,
}

impl fmt::Display for WordErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnexpectedEnd { wanted } => {
                write!(f, "unexpected end of statement while looking for matching {wanted}")
            }
            Self::MissingBrace => f.write_str("syntax error: missing '}'"),
            Self::BadSubstitution => f.write_str("syntax error: bad substitution"),
            Self::UnsupportedModifier { modifier } => {
                write!(f, "unsupported modifier ({modifier}) in substitution")
            }
            Self::MissingSlash => f.write_str("syntax error: missing '/' in ${}"),
            Self::Refused { name, message } => write!(f, "{name}: {message}"),
            Self::InvalidPattern { pattern, escaped } => {
                write!(f, "invalid pattern ({pattern}) in substitution: invalid escape '\\{escaped}'")
            }
            Self::MissingColon => f.write_str("missing ':' in substitution"),
            Self::TooDeep => write!(f, "substitutions nested deeper than {MAX_DEPTH}"),
        }
    }
}

/// An expanded word, and what it took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expansion {
    /// The result as one word.
    pub result: String,
    /// The result cut at blanks that were not quoted.
    pub words: Vec<String>,
    /// Variables that were asked for and set.
    pub matched: BTreeSet<String>,
    /// Variables that were asked for and unset.
    pub unmatched: BTreeSet<String>,
}

/// Expands words.
///
/// ```
/// use rbuild_parser::words::Lexer;
///
/// let env = [("name", "world"), ("file", "a.tar.gz")];
/// let lexer = Lexer::new('\\');
/// assert_eq!(lexer.process_word("hello ${name:-you}", &env[..])?, "hello world");
/// assert_eq!(lexer.process_word("${file%%.*}", &env[..])?, "a");
/// # Ok::<(), rbuild_parser::words::WordError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Lexer {
    escape: char,
    version: Version,
    raw_quotes: bool,
    raw_escapes: bool,
    skip_quotes: bool,
    skip_unset: bool,
}

impl Lexer {
    /// A lexer of Docker 28 with this escape character.
    #[must_use]
    pub fn new(escape: char) -> Self {
        Self {
            escape,
            version: Version::V28,
            raw_quotes: false,
            raw_escapes: false,
            skip_quotes: false,
            skip_unset: false,
        }
    }

    /// Takes that Docker's rules: 20.10 knows `:-`, `:+`, `:?` and `?`, no other operator.
    #[must_use]
    pub fn version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// Keeps quotes in the result.
    #[must_use]
    pub fn raw_quotes(mut self) -> Self {
        self.raw_quotes = true;
        self
    }

    /// Keeps escape characters in the result.
    #[must_use]
    pub fn raw_escapes(mut self) -> Self {
        self.raw_escapes = true;
        self
    }

    /// Takes quotes as ordinary characters.
    #[must_use]
    pub fn skip_quotes(mut self) -> Self {
        self.skip_quotes = true;
        self
    }

    /// Leaves references to unset variables as they are.
    #[must_use]
    pub fn skip_unset(mut self) -> Self {
        self.skip_unset = true;
        self
    }

    /// The lexer for the bodies of here-documents that COPY and ADD expand: its escape character is
    /// a backslash whatever the file says, and quotes are ordinary.
    #[must_use]
    pub fn for_heredoc() -> Self {
        Self::new('\\').skip_quotes()
    }

    /// Expands a word to one word.
    ///
    /// # Errors
    ///
    /// Unbalanced quotes and braces, unknown operators, `${x?}` of an unset variable.
    pub fn process_word<E: Environment + ?Sized>(&self, word: &str, env: &E) -> Result<String, WordError> {
        Ok(self.process_word_with_matches(word, env)?.result)
    }

    /// Expands a word and cuts the result at blanks that were not quoted.
    ///
    /// # Errors
    ///
    /// As [`Self::process_word`].
    pub fn process_words<E: Environment + ?Sized>(&self, word: &str, env: &E) -> Result<Vec<String>, WordError> {
        Ok(self.process_word_with_matches(word, env)?.words)
    }

    /// Expands a word and tells which variables it named.
    ///
    /// # Errors
    ///
    /// As [`Self::process_word`].
    pub fn process_word_with_matches<E: Environment + ?Sized>(
        &self,
        word: &str,
        env: &E,
    ) -> Result<Expansion, WordError> {
        // Go's scanner skips a byte order mark at the start.
        let text = word.strip_prefix('\u{feff}').unwrap_or(word);
        let lookup = |name: &str| env.get(name);
        let mut reader = Reader {
            lexer: *self,
            input: text.chars().peekable(),
            lookup: &lookup,
            raw_escapes: self.raw_escapes,
            buffer: String::new(),
            depth: 0,
            matched: BTreeSet::new(),
            unmatched: BTreeSet::new(),
        };
        match reader.read(None, self.raw_escapes) {
            Ok((result, words)) => {
                Ok(Expansion { result, words, matched: reader.matched, unmatched: reader.unmatched })
            }
            Err(kind) => Err(WordError { word: word.to_owned(), kind, unmatched: Box::new(reader.unmatched) }),
        }
    }
}

type Lookup<'a> = dyn Fn(&str) -> Option<&'a str> + 'a;

struct Reader<'a> {
    lexer: Lexer,
    input: Peekable<Chars<'a>>,
    lookup: &'a Lookup<'a>,
    /// Escapes are kept in patterns even where the lexer drops them.
    raw_escapes: bool,
    /// The word that grows. In 28 a substitution's own text shares it, so that what stood before
    /// the substitution in the same word is lost from the list of words.
    buffer: String,
    depth: usize,
    matched: BTreeSet<String>,
    unmatched: BTreeSet<String>,
}

/// A list of words that grows.
#[derive(Default)]
struct Words {
    list: Vec<String>,
    in_word: bool,
}

impl Words {
    fn push(&mut self, buffer: &mut String, c: char) {
        if !c.is_whitespace() {
            self.push_raw(buffer, c);
        } else if self.in_word && !buffer.is_empty() {
            self.list.push(std::mem::take(buffer));
            self.in_word = false;
        }
    }

    fn push_raw(&mut self, buffer: &mut String, c: char) {
        buffer.push(c);
        self.in_word = true;
    }

    fn finish(mut self, buffer: &mut String) -> Vec<String> {
        if !buffer.is_empty() {
            self.list.push(std::mem::take(buffer));
        }
        self.list
    }
}

impl Reader<'_> {
    fn is_v20(&self) -> bool {
        self.lexer.version == Version::V20
    }

    /// Reads up to `stop`, or to the end without one.
    fn read(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<(String, Vec<String>), WordErrorKind> {
        let outer = std::mem::take(&mut self.buffer);
        let outer_raw = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        let found = self.read_inner(stop);
        self.raw_escapes = outer_raw;
        if self.is_v20() {
            self.buffer = outer;
        }
        found
    }

    fn read_inner(&mut self, stop: Option<char>) -> Result<(String, Vec<String>), WordErrorKind> {
        let mut result = String::new();
        let mut words = Words::default();
        while let Some(&c) = self.input.peek() {
            if stop == Some(c) {
                self.input.next();
                return Ok((result, words.finish(&mut self.buffer)));
            }
            let special = match c {
                '$' => Some(self.dollar()?),
                '\'' if !self.lexer.skip_quotes => Some(self.single_quote()?),
                '"' if !self.lexer.skip_quotes => Some(self.double_quote()?),
                '<' if !self.is_v20() => Some(self.possible_heredoc()),
                _ => None,
            };
            if let Some(text) = special {
                result.push_str(&text);
                if c == '$' {
                    for c in text.chars() {
                        words.push(&mut self.buffer, c);
                    }
                } else {
                    self.buffer.push_str(&text);
                    words.in_word = true;
                }
                continue;
            }
            self.input.next();
            if c != self.lexer.escape {
                words.push(&mut self.buffer, c);
                result.push(c);
                continue;
            }
            if self.raw_escapes {
                words.push_raw(&mut self.buffer, c);
                result.push(c);
            }
            let Some(c) = self.input.next() else {
                break;
            };
            words.push_raw(&mut self.buffer, c);
            result.push(c);
        }
        match stop {
            Some(stop) => Err(WordErrorKind::UnexpectedEnd { wanted: stop.to_string() }),
            None => Ok((result, words.finish(&mut self.buffer))),
        }
    }

    fn single_quote(&mut self) -> Result<String, WordErrorKind> {
        let mut result = String::new();
        self.quote_char(&mut result);
        loop {
            match self.input.peek() {
                None => {
                    return Err(WordErrorKind::UnexpectedEnd { wanted: "single-quote".to_owned() });
                }
                Some('\'') => {
                    self.quote_char(&mut result);
                    return Ok(result);
                }
                Some(&c) => {
                    self.input.next();
                    result.push(c);
                }
            }
        }
    }

    fn quote_char(&mut self, result: &mut String) {
        if let Some(quote) = self.input.next()
            && self.lexer.raw_quotes
        {
            result.push(quote);
        }
    }

    fn double_quote(&mut self) -> Result<String, WordErrorKind> {
        let mut result = String::new();
        self.quote_char(&mut result);
        loop {
            match self.input.peek() {
                None => {
                    return Err(WordErrorKind::UnexpectedEnd { wanted: "double-quote".to_owned() });
                }
                Some('"') => {
                    self.quote_char(&mut result);
                    return Ok(result);
                }
                Some('$') => result.push_str(&self.dollar()?),
                Some(&c) => {
                    self.input.next();
                    if c != self.lexer.escape {
                        result.push(c);
                        continue;
                    }
                    if self.raw_escapes {
                        result.push(c);
                    }
                    match self.input.peek() {
                        // An escape at the end is dropped.
                        None => {}
                        Some(&next) if matches!(next, '"' | '$') || next == self.lexer.escape => {
                            self.input.next();
                            result.push(next);
                        }
                        // Nothing else can be escaped here.
                        Some(_) => result.push(c),
                    }
                }
            }
        }
    }

    fn possible_heredoc(&mut self) -> String {
        self.input.next();
        let mut text = String::from("<");
        if self.input.next_if_eq(&'<').is_some() {
            text.push('<');
            while let Some(blank) = self.input.next_if(|c| matches!(c, '\t' | '\r' | ' ')) {
                text.push(blank);
            }
        }
        text
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.input.peek() {
            Some(c) if c.is_numeric_digit() => {
                while let Some(c) = self.input.next_if(|c| c.is_numeric_digit()) {
                    name.push(c);
                }
                return name;
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => {
                name.extend(self.input.next());
                return name;
            }
            _ => {}
        }
        while let Some(c) = self.input.next_if(|c| c.is_letter() || c.is_numeric_digit() || *c == '_') {
            name.push(c);
        }
        name
    }

    fn get(&mut self, name: &str) -> Option<String> {
        let value = (self.lookup)(name).map(str::to_owned);
        let seen = match value {
            Some(_) => &mut self.matched,
            None => &mut self.unmatched,
        };
        if !seen.contains(name) {
            seen.insert(name.to_owned());
        }
        value
    }

    fn dollar(&mut self) -> Result<String, WordErrorKind> {
        self.depth += 1;
        let found = if self.depth > MAX_DEPTH { Err(WordErrorKind::TooDeep) } else { self.dollar_inner() };
        self.depth -= 1;
        found
    }

    fn dollar_inner(&mut self) -> Result<String, WordErrorKind> {
        self.input.next();
        if self.input.peek() != Some(&'{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.get(&name) {
                None if self.lexer.skip_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        self.input.next();
        match self.input.peek() {
            None => return Err(WordErrorKind::MissingBrace),
            Some('{' | '}' | ':') => return Err(WordErrorKind::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        match self.input.next() {
            Some('}') => Ok(match self.get(&name) {
                None if self.lexer.skip_unset => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            }),
            Some(':') => {
                let modifier = self.input.next();
                self.operator(&name, modifier, true)
            }
            Some('?') => self.operator(&name, Some('?'), false),
            _ if self.is_v20() => Err(WordErrorKind::MissingColon),
            Some(c @ ('+' | '-' | '#' | '%')) => self.operator(&name, Some(c), false),
            Some('/') => self.replace(&name),
            other => Err(WordErrorKind::UnsupportedModifier {
                modifier: other.unwrap_or(char::REPLACEMENT_CHARACTER).to_string(),
            }),
        }
    }

    /// `${name-word}` and its like, behind the operator's character; `colon` if one stood before.
    fn operator(&mut self, name: &str, modifier: Option<char>, colon: bool) -> Result<String, WordErrorKind> {
        let mut text = String::from(if colon { ":" } else { "" });
        text.push(modifier.unwrap_or(char::REPLACEMENT_CHARACTER));
        let unsupported = || WordErrorKind::UnsupportedModifier {
            modifier: if self.lexer.version == Version::V20 {
                text.trim_start_matches(':').to_owned()
            } else {
                text.clone()
            },
        };
        let unsupported = unsupported();
        let trims = matches!(modifier, Some('#' | '%'));
        if colon && trims && !self.is_v20() {
            return Err(unsupported);
        }
        let raw_escapes = if self.is_v20() { self.raw_escapes } else { trims };
        let word = self.read_part('}', raw_escapes, WordErrorKind::MissingBrace)?;
        let value = self.get(name);
        if value.is_none() && self.lexer.skip_unset && matches!(modifier, Some('+' | '-' | '?'))
            || value.is_none() && self.lexer.skip_unset && !self.is_v20()
        {
            return Ok(format!("${{{name}{text}{word}}}"));
        }
        let missing = value.as_ref().is_none_or(|value| colon && value.is_empty());
        let unset = value.is_none();
        let value = value.unwrap_or_default();
        match modifier {
            Some('-') => Ok(if missing { word } else { value }),
            Some('+') => Ok(if missing { String::new() } else { word }),
            Some('?') if missing => Err(WordErrorKind::Refused {
                name: name.to_owned(),
                message: if !word.is_empty() {
                    word
                } else if unset {
                    "is not allowed to be unset".to_owned()
                } else {
                    "is not allowed to be empty".to_owned()
                },
            }),
            Some('?') => Ok(value),
            Some(c @ ('#' | '%')) if !self.is_v20() => {
                let (pattern, stars) = match word.strip_prefix(c) {
                    Some(pattern) => (pattern, Stars::Longest),
                    None => (word.as_str(), Stars::Shortest),
                };
                let trimmed =
                    if c == '#' { trim_prefix(pattern, &value, stars) } else { trim_suffix(pattern, &value, stars) };
                trimmed.map_err(Into::into)
            }
            _ => Err(unsupported),
        }
    }

    /// `${name/pattern/replacement}`, behind the first slash.
    fn replace(&mut self, name: &str) -> Result<String, WordErrorKind> {
        let all = self.input.next_if_eq(&'/').is_some();
        let pattern = self.read_part('/', true, WordErrorKind::MissingSlash)?;
        let replacement = self.read_part('}', true, WordErrorKind::MissingBrace)?;
        let value = self.get(name);
        if value.is_none() && self.lexer.skip_unset {
            return Ok(format!("${{{name}/{pattern}/{replacement}}}"));
        }
        let value = value.unwrap_or_default();
        let compiled = ShellPattern::new(&pattern)?;
        Ok(if all { compiled.replace_all(&value, &replacement) } else { compiled.replace_first(&value, &replacement) })
    }

    fn read_part(&mut self, stop: char, raw_escapes: bool, at_end: WordErrorKind) -> Result<String, WordErrorKind> {
        match self.read(Some(stop), raw_escapes) {
            Ok((text, _)) => Ok(text),
            Err(WordErrorKind::TooDeep) => Err(WordErrorKind::TooDeep),
            Err(_) if self.input.peek().is_none() => Err(at_end),
            Err(error) => Err(error),
        }
    }
}

impl From<InvalidEscape> for WordErrorKind {
    fn from(error: InvalidEscape) -> Self {
        Self::InvalidPattern { pattern: error.pattern, escaped: error.escaped }
    }
}

/// Go's classes of characters, of which Rust's differ slightly.
trait GoClass {
    /// `unicode.IsDigit`: category Nd.
    fn is_numeric_digit(&self) -> bool;
    /// `unicode.IsLetter`: category L.
    fn is_letter(&self) -> bool;
}

impl GoClass for char {
    fn is_numeric_digit(&self) -> bool {
        // Outside of ASCII the category Nd is not to be had from the standard library; such a
        // name can name no variable that exists.
        self.is_ascii_digit()
    }

    fn is_letter(&self) -> bool {
        self.is_alphabetic()
    }
}
