//! The arguments of one instruction: each keyword has its rule (BuildKit
//! `frontend/dockerfile/parser/line_parsers.go`).

use std::borrow::Cow;

use crate::ast::Node;
use crate::error::ParseErrorKind;
use crate::flags::split_flags;
use crate::json::{Array, Trailing, string_array};
use crate::options::Version;
use crate::text::{is_separator, is_space_byte, lossy, split_separators};

/// How the lines of a file are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LineRules {
    pub(crate) escape: char,
    pub(crate) version: Version,
}

/// The rule by which arguments are cut.
enum Rule {
    JsonOrWords,
    JsonOrText,
    Words,
    Text,
    NameOrNameValue,
    NameValue(&'static str),
    Healthcheck,
    Onbuild,
    Unknown,
}

fn rule(keyword: &str) -> Rule {
    match keyword.to_lowercase().as_str() {
        "add" | "copy" | "volume" => Rule::JsonOrWords,
        "cmd" | "entrypoint" | "run" | "shell" => Rule::JsonOrText,
        "expose" | "from" => Rule::Words,
        "maintainer" | "stopsignal" | "user" | "workdir" => Rule::Text,
        "arg" => Rule::NameOrNameValue,
        "env" => Rule::NameValue("ENV"),
        "label" => Rule::NameValue("LABEL"),
        "healthcheck" => Rule::Healthcheck,
        "onbuild" => Rule::Onbuild,
        _ => Rule::Unknown,
    }
}

/// Reads an instruction whose continuation lines are joined.
pub(crate) fn parse_node(line: &str, rules: LineRules) -> Result<Node, ParseErrorKind> {
    let (mut node, args) = split(line, rules);
    node.original = line.to_owned();
    if !matches!(rule(&node.keyword), Rule::Onbuild) {
        fill(&mut node, &args, rules)?;
        return Ok(node);
    }
    if args.is_empty() {
        return Ok(node);
    }
    let (mut trigger, trigger_args) = split(&args, rules);
    trigger.original = args.to_string();
    if matches!(rule(&trigger.keyword), Rule::Onbuild) {
        // ONBUILD ONBUILD is refused later on. An error of what it leads to comes first.
        check_chain(&trigger_args, rules)?;
    } else {
        fill(&mut trigger, &trigger_args, rules)?;
    }
    node.args = vec![trigger.keyword.clone()];
    node.args.extend(trigger.args.iter().cloned());
    node.trigger = Some(Box::new(trigger));
    Ok(node)
}

/// Looks for an error at the end of a chain of ONBUILD, however long it is.
fn check_chain(args: &str, rules: LineRules) -> Result<(), ParseErrorKind> {
    let mut text = Cow::Borrowed(args);
    'copied: loop {
        let mut rest: &str = &text;
        while !rest.is_empty() {
            let (mut node, args) = split(rest, rules);
            if !matches!(rule(&node.keyword), Rule::Onbuild) {
                return fill(&mut node, &args, rules);
            }
            match args {
                Cow::Borrowed(args) => rest = args,
                Cow::Owned(args) => {
                    text = Cow::Owned(args);
                    continue 'copied;
                }
            }
        }
        return Ok(());
    }
}

/// Cuts a line into keyword and flags, and the arguments.
fn split(line: &str, rules: LineRules) -> (Node, Cow<'_, str>) {
    let parts = split_separators(line.trim(), 2);
    let (flags, args) = match parts.get(1) {
        Some(rest) => {
            // 20.10 knows no other escape here.
            let escape = match rules.version {
                Version::V20 => '\\',
                Version::V28 => rules.escape,
            };
            split_flags(rest, escape)
        }
        None => (Vec::new(), Cow::Borrowed("")),
    };
    let args = match args {
        Cow::Borrowed(args) => Cow::Borrowed(args.trim()),
        Cow::Owned(args) => Cow::Owned(args.trim().to_owned()),
    };
    let node = Node { keyword: parts.first().copied().unwrap_or_default().to_owned(), flags, ..Node::default() };
    (node, args)
}

fn fill(node: &mut Node, args: &str, rules: LineRules) -> Result<(), ParseErrorKind> {
    match rule(&node.keyword) {
        Rule::JsonOrWords => {
            if let Some(strings) = json(args, rules)? {
                node.args = strings;
                node.json = true;
            } else {
                node.args = words_at_separators(args);
            }
        }
        Rule::JsonOrText => (node.args, node.json) = json_or_text(args, rules)?,
        Rule::Words => node.args = words_at_separators(args),
        Rule::Text => node.args = text(args),
        Rule::NameOrNameValue => node.args = split_words(args, rules),
        Rule::NameValue(instruction) => node.args = name_values(args, instruction, rules)?,
        Rule::Healthcheck => healthcheck(node, args, rules)?,
        Rule::Onbuild | Rule::Unknown => {}
    }
    Ok(())
}

fn json(args: &str, rules: LineRules) -> Result<Option<Vec<String>>, ParseErrorKind> {
    let trailing = match rules.version {
        Version::V20 => Trailing::Ignore,
        Version::V28 => Trailing::Refuse,
    };
    match string_array(args, trailing) {
        Array::No => Ok(None),
        Array::Mixed => Err(ParseErrorKind::NotStringArray),
        Array::Strings(strings) => Ok(Some(strings)),
    }
}

fn json_or_text(args: &str, rules: LineRules) -> Result<(Vec<String>, bool), ParseErrorKind> {
    Ok(match json(args, rules)? {
        Some(strings) => (strings, true),
        None => (text(args), false),
    })
}

fn text(args: &str) -> Vec<String> {
    if args.is_empty() { Vec::new() } else { vec![args.to_owned()] }
}

fn words_at_separators(args: &str) -> Vec<String> {
    if args.is_empty() {
        return Vec::new();
    }
    split_separators(args, usize::MAX).into_iter().map(str::to_owned).collect()
}

/// Cuts words at blanks outside of quotes; quotes and escapes stay in them.
fn split_words(text: &str, rules: LineRules) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote: Option<char> = None;
    let mut seen_quote = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            if seen_quote || !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            seen_quote = false;
            continue;
        }
        match quote {
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                seen_quote = true;
            }
            Some(open) if c == open => quote = None,
            _ => {}
        }
        // In single quotes nothing can be escaped.
        if c == rules.escape && quote != Some('\'') {
            let Some(next) = chars.next() else {
                // An escape at the end is dropped.
                break;
            };
            word.push(c);
            word.push(next);
            continue;
        }
        word.push(c);
    }
    if seen_quote || !word.is_empty() {
        words.push(word);
    }
    words
}

/// Reads `name=value …` or `name value`, as triples of name, value and separator.
fn name_values(args: &str, instruction: &'static str, rules: LineRules) -> Result<Vec<String>, ParseErrorKind> {
    let words = split_words(args, rules);
    let Some(first) = words.first() else {
        return Ok(Vec::new());
    };
    if !first.contains('=') {
        let parts = split_separators(args, 2);
        let [name, value] = parts[..] else {
            return Err(ParseErrorKind::MissingValue { instruction });
        };
        return Ok(vec![name.to_owned(), value.to_owned(), String::new()]);
    }
    let mut triples = Vec::with_capacity(words.len() * 3);
    for word in words {
        let Some((name, value)) = word.split_once('=') else {
            return Err(ParseErrorKind::NoEqualsSign { word });
        };
        triples.extend([name.to_owned(), value.to_owned(), "=".to_owned()]);
    }
    Ok(triples)
}

/// Reads the type of the check, then its command as JSON or text.
fn healthcheck(node: &mut Node, args: &str, rules: LineRules) -> Result<(), ParseErrorKind> {
    let bytes = args.as_bytes();
    let end = bytes.iter().position(|&byte| is_space_byte(byte)).unwrap_or(bytes.len());
    if end == 0 {
        return Ok(());
    }
    let blanks = bytes[end..].iter().take_while(|&&byte| is_space_byte(byte)).count();
    let (command, json) = json_or_text(&lossy(&bytes[end + blanks..]), rules)?;
    node.args = vec![lossy(&bytes[..end])];
    node.args.extend(command);
    node.json = json;
    Ok(())
}

/// Whether the text of an ONBUILD begins with that word, and what follows it.
pub(crate) fn strip_onbuild(original: &str) -> &str {
    let blank = |c: char| is_separator(c) && c != '\x0b' || c == '\n';
    let text = original.trim_start_matches(blank);
    match text.get(.."onbuild".len()) {
        Some(keyword) if keyword.eq_ignore_ascii_case("onbuild") => text["onbuild".len()..].trim_start_matches(blank),
        _ => original,
    }
}
