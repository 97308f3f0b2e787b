//! Rules for what the text of a Dockerfile shows.

use std::collections::HashSet;

use crate::ast::{Dockerfile, Node, Warning};
use crate::error::ParseError;
use crate::instruction::Instructions;
use crate::lint::{Finding, Violation};
use crate::source::LineRange;

/// Reads the instructions of a file, and tells what its text shows, in Docker's order. What is wrong
/// with the file ends it: nothing is told of what follows, nor of the file as a whole.
///
/// ```
/// use rbuild_parser::{lint, parse};
///
/// let file = parse(b"FROM busybox AS Base\nMAINTAINER me\n")?;
/// let mut found = Vec::new();
/// lint::check(&file, &mut |finding| found.push(finding))?;
/// assert_eq!(found[0].violation.message(), "Stage name 'Base' should be lowercase");
/// assert_eq!((found[1].rule().name(), found[1].lines.start), ("MaintainerDeprecated", 2));
/// # Ok::<(), rbuild_parser::ParseError>(())
/// ```
///
/// # Errors
///
/// As [`Dockerfile::instructions`].
pub fn check(dockerfile: &Dockerfile, raise: &mut dyn FnMut(Finding)) -> Result<Instructions, ParseError> {
    for warning in &dockerfile.warnings {
        let Warning::EmptyContinuation { line, .. } = warning;
        raise(Finding { violation: Violation::NoEmptyContinuation, lines: LineRange::line(*line) });
    }
    let instructions = dockerfile.instructions_with(&mut |node, understood| {
        let found = if understood { description(node) } else { keyword(node) };
        for violation in found {
            raise(Finding { violation, lines: node.lines });
        }
    })?;
    stage_names(&instructions, raise);
    casing(&instructions, raise);
    Ok(instructions)
}

/// What is said of a node whether or not it can be understood.
fn keyword(node: &Node) -> Vec<Violation> {
    if node.is("maintainer") {
        return vec![Violation::MaintainerDeprecated];
    }
    if !node.is("from") {
        return Vec::new();
    }
    let mut found = Vec::new();
    if let [_, _, name] = &node.args[..]
        && *name != name.to_lowercase()
    {
        found.push(Violation::StageNameCasing { name: name.clone() });
    }
    if let [_, keyword, _, ..] = &node.args[..] {
        let from = &node.keyword;
        // A FROM of mixed case is the business of another rule.
        let expected = match from {
            from if *from == from.to_lowercase() => Some(keyword.to_lowercase()),
            from if *from == from.to_uppercase() => Some(keyword.to_uppercase()),
            _ => None,
        };
        if expected.is_some_and(|expected| *keyword != expected) {
            found.push(Violation::FromAsCasing { from: from.clone(), keyword: keyword.clone() });
        }
    }
    found
}

/// What is said of the comment above a node.
fn description(node: &Node) -> Vec<Violation> {
    let (instruction, names): (_, Vec<String>) = if node.is("arg") {
        let name = |word: &String| word.split('=').next().unwrap_or_default().to_owned();
        ("ARG", node.args.iter().map(name).collect())
    } else if node.is("from") {
        ("FROM", node.args.get(2).map(|name| name.to_lowercase()).into_iter().collect())
    } else {
        return Vec::new();
    };
    let (Some(comment), Some(first)) = (node.comments.last(), names.first()) else {
        return Vec::new();
    };
    let word = comment.split(' ').next().unwrap_or_default();
    if names.iter().any(|name| name == word) {
        return Vec::new();
    }
    let name = if names.len() > 1 { "<arg_key>".to_owned() } else { first.clone() };
    vec![Violation::InvalidDefinitionDescription { instruction, name }]
}

fn stage_names(instructions: &Instructions, raise: &mut dyn FnMut(Finding)) {
    let mut seen = HashSet::new();
    for stage in &instructions.stages {
        let Some(name) = &stage.name else { continue };
        let mut raise = |violation| raise(Finding { violation, lines: stage.lines });
        if matches!(name.as_str(), "context" | "scratch") {
            raise(Violation::ReservedStageName { name: name.clone() });
        }
        if !seen.insert(name) {
            raise(Violation::DuplicateStageName { name: name.clone() });
        }
    }
}

/// Compares the case of keywords with that of most. Arguments before the first FROM do not count.
fn casing(instructions: &Instructions, raise: &mut dyn FnMut(Finding)) {
    let keywords: Vec<(&str, LineRange)> = instructions
        .stages
        .iter()
        .flat_map(|stage| {
            let own = stage.instructions.iter().map(|instruction| (instruction.keyword.as_str(), instruction.lines));
            std::iter::once((stage.keyword.as_str(), stage.lines)).chain(own)
        })
        .collect();
    let (mut lower, mut upper) = (0, 0);
    for (keyword, _) in &keywords {
        if *keyword == keyword.to_lowercase() {
            lower += 1;
        } else if *keyword == keyword.to_uppercase() {
            upper += 1;
        }
    }
    let lower = lower > upper;
    for (keyword, lines) in keywords {
        let expected = if lower { keyword.to_lowercase() } else { keyword.to_uppercase() };
        if keyword != expected {
            let violation = Violation::ConsistentInstructionCasing { keyword: keyword.to_owned(), lower };
            raise(Finding { violation, lines });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    /// Findings as `RULE@LINE: MESSAGE`, and whether the file was understood.
    fn found(text: &str) -> (Vec<String>, bool) {
        let file = parse(text.as_bytes()).unwrap();
        let mut found = Vec::new();
        let understood = check(&file, &mut |finding| {
            let message = finding.violation.message();
            found.push(format!("{}@{}: {message}", finding.rule(), finding.lines.start));
        });
        (found, understood.is_ok())
    }

    #[test]
    fn what_the_text_shows() {
        let casing = |keyword: &str, line: usize, case: &str| {
            format!(
                "ConsistentInstructionCasing@{line}: Command '{keyword}' should match the case of the command \
                 majority ({case})"
            )
        };
        let other: Vec<(&str, Vec<String>)> = vec![
            ("FROM a\nRUN b\n", vec![]),
            ("FROM a AS Base\n", vec!["StageNameCasing@1: Stage name 'Base' should be lowercase".into()]),
            ("FROM a as base\n", vec!["FromAsCasing@1: 'as' and 'FROM' keywords' casing do not match".into()]),
            ("from a AS base\n", vec!["FromAsCasing@1: 'AS' and 'from' keywords' casing do not match".into()]),
            ("from a as base\nrun b\n", vec![]),
            ("From a as base\nRUN b\n", vec![casing("From", 1, "uppercase")]),
            ("FROM a\nRun b\nrun c\n", vec![casing("Run", 2, "uppercase"), casing("run", 3, "uppercase")]),
            ("from a\nrun b\nRUN c\n", vec![casing("RUN", 3, "lowercase")]),
            ("arg x\nFROM a\n", vec![]),
            ("FROM a\nonbuild RUN x\n", vec![casing("onbuild", 2, "uppercase")]),
            ("FROM a\nONBUILD run x\n", vec![]),
            ("FROM a\nRUN b \\\n\n  c\n", vec!["NoEmptyContinuation@4: Empty continuation line".into()]),
            (
                "FROM a AS b\nFROM c AS B\nFROM d AS context\nFROM e AS scratch\n",
                vec![
                    "StageNameCasing@2: Stage name 'B' should be lowercase".into(),
                    "DuplicateStageName@2: Duplicate stage name \"b\", stage names should be unique".into(),
                    "ReservedStageName@3: Stage name should not use the same name as reserved stage \"context\"".into(),
                    "ReservedStageName@4: Stage name should not use the same name as reserved stage \"scratch\"".into(),
                ],
            ),
            (
                "FROM a\nMAINTAINER me\n",
                vec!["MaintainerDeprecated@2: Maintainer instruction is deprecated in favor of using label".into()],
            ),
        ];
        for (text, expected) in other {
            assert_eq!(found(text), (expected, true), "{text}");
        }
    }

    #[test]
    fn descriptions() {
        let comment = |line: usize, instruction: &str, name: &str| {
            vec![format!(
                "InvalidDefinitionDescription@{line}: Comment for {instruction} should follow the format: `# {name} \
                 <description>`"
            )]
        };
        for (text, expected) in [
            ("# base is the base\nFROM a AS base\n", vec![]),
            ("# base\nFROM a AS base\n", vec![]),
            ("# the base\nFROM a AS base\n", comment(2, "FROM", "base")),
            ("# base:\nFROM a AS base\n", comment(2, "FROM", "base")),
            ("# the base\nFROM a\n", vec![]),
            ("# the base\n#\nFROM a AS base\n", vec![]),
            // The last line of a comment counts.
            ("# base is good\n# or not\nFROM a AS base\n", comment(3, "FROM", "base")),
            ("# x\nARG y=1\nFROM a\n", comment(2, "ARG", "y")),
            ("# y\nARG x=1 y=2\nFROM a\n", vec![]),
            ("# z\nARG x=1 y\nFROM a\n", comment(2, "ARG", "<arg_key>")),
            ("FROM a\n# z\nARG x\n", comment(3, "ARG", "x")),
            ("# check=error=true\nARG x\nFROM a\n", vec![]),
        ] {
            assert_eq!(found(text), (expected, true), "{text}");
        }
    }

    #[test]
    fn an_error_ends_it() {
        let (rules, understood) = found("from a as Base\nMAINTAINER me\nCOPPY a b\nMAINTAINER you\n");
        let rules: Vec<&str> = rules.iter().filter_map(|text| text.split(':').next()).collect();
        assert_eq!((rules, understood), (vec!["StageNameCasing@1", "MaintainerDeprecated@2"], false));
        // An instruction with an error is still looked at.
        let (rules, understood) = found("FROM a as Base,\n");
        assert_eq!((rules.len(), understood), (2, false));
        assert_eq!(found("# x\nARG =1\nFROM a\n"), (vec![], false));
        assert_eq!(found("FROM a\nMAINTAINER\n").0.len(), 1);
    }
}
