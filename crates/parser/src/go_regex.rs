//! The part of Go's regular expressions that ignore patterns become: literals, classes, `.`, `*`,
//! `(…)?`, assertions and escapes, matched in time linear in the text.

/// A set of characters.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Class {
    fn contains(&self, c: char) -> bool {
        self.ranges.iter().any(|&(low, high)| (low..=high).contains(&c)) != self.negated
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Char(char),
    Class(Class),
    /// Any character but a line feed.
    Dot,
    /// Goes to both.
    Split(usize, usize),
    Start,
    End,
    WordBoundary(bool),
}

/// A compiled expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Regex(Vec<Step>);

const DIGITS: &[(char, char)] = &[('0', '9')];
const BLANKS: &[(char, char)] = &[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')];
const WORDS: &[(char, char)] = &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];

/// POSIX classes by name.
const NAMED: [(&str, &[(char, char)]); 14] = [
    ("alnum", &[('0', '9'), ('A', 'Z'), ('a', 'z')]),
    ("alpha", &[('A', 'Z'), ('a', 'z')]),
    ("ascii", &[('\0', '\x7f')]),
    ("blank", &[('\t', '\t'), (' ', ' ')]),
    ("cntrl", &[('\0', '\x1f'), ('\x7f', '\x7f')]),
    ("digit", DIGITS),
    ("graph", &[('!', '~')]),
    ("lower", &[('a', 'z')]),
    ("print", &[(' ', '~')]),
    ("punct", &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')]),
    ("space", &[('\t', '\r'), (' ', ' ')]),
    ("upper", &[('A', 'Z')]),
    ("word", WORDS),
    ("xdigit", &[('0', '9'), ('A', 'F'), ('a', 'f')]),
];

struct Compiler<'a> {
    rest: &'a str,
    steps: Vec<Step>,
}

impl Regex {
    /// Compiles an expression; nothing if Go would refuse it. Unicode classes (`\pL`) and `\Q` are
    /// refused too.
    pub(crate) fn new(expression: &str) -> Option<Self> {
        let mut compiler = Compiler { rest: expression, steps: Vec::new() };
        while !compiler.rest.is_empty() {
            let start = compiler.steps.len();
            compiler.atom()?;
            compiler.repeat(start);
        }
        Some(Self(compiler.steps))
    }

    /// Whether the expression, which must be anchored at both ends, matches the text.
    pub(crate) fn is_match(&self, text: &str) -> bool {
        let end = self.0.len();
        let mut now = vec![false; end + 1];
        let mut next = vec![false; end + 1];
        let mut work = Vec::new();
        let mut before: Option<char> = None;
        let mut chars = text.chars();
        self.add(0, before, chars.clone().next(), &mut now, &mut work);
        while let Some(c) = chars.next() {
            before = Some(c);
            let after = chars.clone().next();
            next.fill(false);
            for (i, step) in self.0.iter().enumerate() {
                let takes = now[i]
                    && match step {
                        Step::Char(wanted) => *wanted == c,
                        Step::Class(class) => class.contains(c),
                        Step::Dot => c != '\n',
                        _ => false,
                    };
                if takes {
                    self.add(i + 1, before, after, &mut next, &mut work);
                }
            }
            std::mem::swap(&mut now, &mut next);
        }
        now[end]
    }

    /// Marks a step, and all that follow it without a character.
    fn add(&self, step: usize, before: Option<char>, after: Option<char>, active: &mut [bool], work: &mut Vec<usize>) {
        work.push(step);
        while let Some(at) = work.pop() {
            if std::mem::replace(&mut active[at], true) {
                continue;
            }
            let holds = match self.0.get(at) {
                Some(Step::Split(first, second)) => {
                    work.extend([*first, *second]);
                    false
                }
                Some(Step::Start) => before.is_none(),
                Some(Step::End) => after.is_none(),
                Some(Step::WordBoundary(wanted)) => (is_word(before) != is_word(after)) == *wanted,
                _ => false,
            };
            if holds {
                work.push(at + 1);
            }
        }
    }
}

fn is_word(c: Option<char>) -> bool {
    c.is_some_and(|c| c == '_' || c.is_ascii_alphanumeric())
}

impl Compiler<'_> {
    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next();
        self.rest = chars.as_str();
        c
    }

    fn eat(&mut self, prefix: &str) -> bool {
        match self.rest.strip_prefix(prefix) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn atom(&mut self) -> Option<()> {
        // The only group there is.
        if self.eat("(.*/)") {
            let start = self.steps.len();
            self.steps.push(Step::Dot);
            self.repeat_zero_or_more(start);
            self.steps.push(Step::Char('/'));
            return Some(());
        }
        let step = match self.next()? {
            '.' => Step::Dot,
            '^' => Step::Start,
            '$' => Step::End,
            '[' => Step::Class(self.class()?),
            '\\' => self.escape()?,
            c => Step::Char(c),
        };
        self.steps.push(step);
        Some(())
    }

    fn repeat(&mut self, start: usize) {
        if self.eat("*") {
            self.repeat_zero_or_more(start);
        } else if self.eat("?") {
            self.shift(start);
            let end = self.steps.len() + 1;
            self.steps.insert(start, Step::Split(start + 1, end));
        }
    }

    fn repeat_zero_or_more(&mut self, start: usize) {
        self.shift(start);
        let end = self.steps.len() + 2;
        self.steps.insert(start, Step::Split(start + 1, end));
        self.steps.push(Step::Split(start + 1, end));
    }

    /// Makes the splits from `start` on fit for being moved by one.
    fn shift(&mut self, start: usize) {
        for step in &mut self.steps[start..] {
            if let Step::Split(first, second) = step {
                *first += 1;
                *second += 1;
            }
        }
    }

    /// An escape outside of a class, behind its backslash.
    fn escape(&mut self) -> Option<Step> {
        let rest = self.rest;
        match self.next()? {
            'A' => Some(Step::Start),
            'z' => Some(Step::End),
            'b' => Some(Step::WordBoundary(true)),
            'B' => Some(Step::WordBoundary(false)),
            c => {
                if let Some((negated, ranges)) = perl_class(c) {
                    let ranges = ranges.to_vec();
                    return Some(Step::Class(Class { negated, ranges }));
                }
                self.rest = rest;
                self.escaped_char().map(Step::Char)
            }
        }
    }

    /// A character behind a backslash.
    fn escaped_char(&mut self) -> Option<char> {
        match self.next()? {
            'a' => Some('\x07'),
            'f' => Some('\x0c'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\x0b'),
            'x' => self.hexadecimal(),
            c @ '1'..='7' if !self.rest.starts_with(|c| matches!(c, '0'..='7')) => {
                // A reference to a group, which Go does not have.
                let _ = c;
                None
            }
            c @ '0'..='7' => {
                let mut code = c.to_digit(8)?;
                for _ in 0..2 {
                    let Some(digit) = self.rest.chars().next().and_then(|c| c.to_digit(8)) else {
                        break;
                    };
                    self.next();
                    code = code * 8 + digit;
                }
                char::from_u32(code)
            }
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => Some(c),
            _ => None,
        }
    }

    fn hexadecimal(&mut self) -> Option<char> {
        let digits = if self.eat("{") {
            let end = self.rest.find('}')?;
            let digits = &self.rest[..end];
            self.rest = &self.rest[end + 1..];
            digits
        } else {
            let digits = self.rest.get(..2)?;
            self.rest = &self.rest[2..];
            digits
        };
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        char::from_u32(u32::from_str_radix(digits, 16).ok()?)
    }

    /// A class, behind its bracket.
    fn class(&mut self) -> Option<Class> {
        let negated = self.eat("^");
        let mut ranges = Vec::new();
        let mut first = true;
        loop {
            if !first && self.eat("]") {
                return Some(Class { negated, ranges });
            }
            first = false;
            if self.rest.starts_with("[:")
                && let Some(end) = self.rest.find(":]")
            {
                let name = &self.rest[2..end];
                self.rest = &self.rest[end + 2..];
                let (inverse, name) = match name.strip_prefix('^') {
                    Some(name) => (true, name),
                    None => (false, name),
                };
                let (_, named) = NAMED.iter().find(|(known, _)| *known == name)?;
                extend(&mut ranges, named, inverse);
                continue;
            }
            if let Some(rest) = self.rest.strip_prefix('\\')
                && let Some((inverse, named)) = rest.chars().next().and_then(perl_class)
            {
                self.rest = &rest[1..];
                extend(&mut ranges, named, inverse);
                continue;
            }
            let low = self.class_char()?;
            let mut high = low;
            if self.rest.starts_with('-') && !self.rest.starts_with("-]") && self.rest.len() > 1 {
                self.next();
                high = self.class_char()?;
                if high < low {
                    return None;
                }
            }
            ranges.push((low, high));
        }
    }

    fn class_char(&mut self) -> Option<char> {
        match self.next()? {
            '\\' => self.escaped_char(),
            c => Some(c),
        }
    }
}

fn perl_class(c: char) -> Option<(bool, &'static [(char, char)])> {
    Some(match c {
        'd' => (false, DIGITS),
        'D' => (true, DIGITS),
        's' => (false, BLANKS),
        'S' => (true, BLANKS),
        'w' => (false, WORDS),
        'W' => (true, WORDS),
        _ => return None,
    })
}

/// Adds sorted ranges, or all that lies between them.
fn extend(ranges: &mut Vec<(char, char)>, named: &[(char, char)], inverse: bool) {
    if !inverse {
        ranges.extend_from_slice(named);
        return;
    }
    // The ranges are ASCII, so that one below and above each is a character.
    let mut low = '\0';
    for &(start, end) in named {
        if let Some(high) = u32::from(start).checked_sub(1).and_then(char::from_u32)
            && low <= high
        {
            ranges.push((low, high));
        }
        low = char::from_u32(u32::from(end) + 1).unwrap_or(char::MAX);
    }
    ranges.push((low, char::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches() {
        for (expression, text, expected) in [
            ("^a$", "a", Some(true)),
            ("^a$", "ab", Some(false)),
            ("^[^/]*$", "", Some(true)),
            ("^[^/]*\\.c$", "main.c", Some(true)),
            ("^(.*/)?a$", "a", Some(true)),
            ("^(.*/)?a$", "x/y/a", Some(true)),
            ("^(.*/)?a$", "xa", Some(false)),
            ("^(.*/)?(.*/)?b.*$", "x/b/c", Some(true)),
            ("^a.*$", "a\n", Some(false)),
            ("^[a-c\\d]$", "7", Some(true)),
            ("^[[^/]*]$", "[[]", Some(true)),
            ("^[[:alpha:]]$", "x", Some(true)),
            ("^[[:^alpha:]]$", "x", Some(false)),
            ("^[\\D]$", "x", Some(true)),
            ("^[\\W]$", "x", Some(false)),
            ("^[[:nope:]]$", "x", None),
            ("^[b-a]$", "x", None),
            ("^[]a]$", "]", Some(true)),
            ("^[a-]$", "-", Some(true)),
            ("^a\\bb$", "ab", Some(false)),
            ("^a\\b-$", "a-", Some(true)),
            ("^\\x41\\x{42}\\101\\Bc$", "ABAc", Some(true)),
            ("^\\8$", "8", None),
            ("^\\1$", "1", None),
            ("^\\é$", "é", None),
            ("^[a", "a", None),
        ] {
            let found = Regex::new(expression).map(|regex| regex.is_match(text));
            assert_eq!(found, expected, "{expression} {text}");
        }
    }
}
