//! Rules for what is known only when variables have values.

use std::collections::BTreeSet;

use crate::lint::Violation;
use crate::suggest::nearest;
use crate::words::Expansion;

/// Variables of a FROM that nothing declares. `known` are those that arguments before the first
/// FROM declare, with a value or without, and those that are always there.
#[must_use]
pub fn undefined_args(unmatched: &BTreeSet<String>, known: &[&str]) -> Vec<Violation> {
    let undeclared = unmatched.iter().filter(|name| !known.contains(&name.as_str()));
    undeclared
        .map(|name| Violation::UndefinedArgInFrom {
            name: name.clone(),
            suggestion: nearest(name, known).map(str::to_owned),
        })
        .collect()
}

/// Variables of an instruction that nothing sets: `declared` are the arguments of the stage, which
/// may have no value; `set` is the environment, in the order in which its variables were last set.
#[must_use]
pub fn undefined_variables(unmatched: &BTreeSet<String>, declared: &[&str], set: &[&str]) -> Vec<Violation> {
    // These are read from outside of the environment.
    const NOT_IN_ENVIRONMENT: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];
    unmatched
        .iter()
        .map(String::as_str)
        .filter(|name| !declared.contains(name) && !NOT_IN_ENVIRONMENT.contains(name))
        .map(|name| Violation::UndefinedVar {
            name: name.to_owned(),
            suggestion: nearest(name, set).map(str::to_owned),
        })
        .collect()
}

/// `FROM --platform` that says what holds anyway: its one variable is TARGETPLATFORM, whose value
/// is given, and nothing else stands there.
#[must_use]
pub fn redundant_platform(written: &str, expanded: &Expansion, target_platform: &str) -> Option<Violation> {
    const TARGET: &str = "TARGETPLATFORM";
    let only_target = expanded.unmatched.is_empty() && expanded.matched.iter().eq([TARGET]);
    (only_target && expanded.result == target_platform)
        .then(|| Violation::RedundantTargetPlatform { platform: written.to_owned() })
}

/// `FROM --platform` with a constant, for a stage whose name tells neither its system nor its
/// architecture.
#[must_use]
pub fn constant_platform(stage: Option<&str>, expanded: &Expansion, os: &str, architecture: &str) -> Option<Violation> {
    let constant = expanded.matched.is_empty() && expanded.unmatched.is_empty();
    let named = stage.is_some_and(|name| name.contains(os) || name.contains(architecture));
    (constant && !named).then(|| Violation::FromPlatformFlagConstDisallowed { platform: expanded.result.clone() })
}

/// A variable of ARG or ENV whose name has a word that means a secret, and none that says it is
/// public.
#[must_use]
pub fn secret(instruction: &'static str, name: &str) -> Option<Violation> {
    const SECRET: [&str; 10] =
        ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
    // Go's regular expressions ignore the case of these two letters, too.
    let fold = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    let folded: String = name.chars().map(fold).collect();
    let has = |list: &[&str]| folded.split('_').any(|word| list.contains(&word));
    (has(&SECRET) && !has(&["public"])).then(|| Violation::SecretsUsedInArgOrEnv { instruction, name: name.to_owned() })
}

/// A word of EXPOSE, of which the protocol and whether it has an address or a port of the host are
/// known.
#[must_use]
pub fn exposed_port(word: &str, protocol: &str, has_host: bool) -> Vec<Violation> {
    let casing = (protocol != protocol.to_lowercase()).then(|| Violation::ExposeProtoCasing { port: word.to_owned() });
    let format = has_host.then(|| Violation::ExposeInvalidFormat { port: word.to_owned() });
    casing.into_iter().chain(format).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::Lexer;

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    fn messages(violations: impl IntoIterator<Item = Violation>) -> Vec<String> {
        violations.into_iter().map(|violation| violation.message()).collect()
    }

    #[test]
    fn variables_of_from() {
        for (unmatched, known, expected) in [
            (
                &["VERSON"][..],
                &["VERSION", "IMAGE"][..],
                &["FROM argument 'VERSON' is not declared (did you mean VERSION?)"][..],
            ),
            (&["other"], &["VERSION"], &["FROM argument 'other' is not declared"]),
            (&["VERSION"], &["VERSION"], &[]),
        ] {
            assert_eq!(messages(undefined_args(&names(unmatched), known)), expected);
        }
    }

    #[test]
    fn variables_of_instructions() {
        for (unmatched, declared, set, expected) in [
            (&["PAHT"][..], &[][..], &["PATH"][..], &["Usage of undefined variable '$PAHT' (did you mean $PATH?)"][..]),
            (&["a", "b"], &["a"], &["PATH"], &["Usage of undefined variable '$b'"]),
            (&["BUILDKIT_SBOM_SCAN_STAGE"], &[], &["PATH"], &[]),
            // Of equally near ones the one that was set first.
            (&["ab"], &[], &["ax", "ay"], &["Usage of undefined variable '$ab' (did you mean $ax?)"]),
        ] {
            assert_eq!(messages(undefined_variables(&names(unmatched), declared, set)), expected);
        }
    }

    #[test]
    fn platforms() {
        let env = [("TARGETPLATFORM", "linux/amd64"), ("BUILDPLATFORM", "linux/amd64"), ("empty", "")];
        let expand = |text: &str| Lexer::new('\\').process_word_with_matches(text, &env[..]).unwrap();
        for (written, redundant) in [
            ("$TARGETPLATFORM", true),
            ("${TARGETPLATFORM}", true),
            ("${TARGETPLATFORM:-x}", true),
            ("${TARGETPLATFORM}/v2", false),
            ("$BUILDPLATFORM", false),
            ("$TARGETPLATFORM$empty", false),
            ("$TARGETPLATFORM$unset", false),
            ("linux/amd64", false),
        ] {
            let found = redundant_platform(written, &expand(written), "linux/amd64");
            assert_eq!(found.is_some(), redundant, "{written}");
        }
        for (written, stage, constant) in [
            ("linux/arm64", None, true),
            ("linux/arm64", Some("base"), true),
            ("linux/arm64", Some("arm64-base"), false),
            ("linux/arm64", Some("linuxbase"), false),
            ("$BUILDPLATFORM", None, false),
            ("linux/$unset", None, false),
        ] {
            let found = constant_platform(stage, &expand(written), "linux", "arm64");
            assert_eq!(found.is_some(), constant, "{written} {stage:?}");
        }
    }

    #[test]
    fn secrets() {
        for (name, is_secret) in [
            ("api_key", true),
            ("DATABASE_PASSWORD", true),
            ("GITHUB_TOKEN", true),
            ("secret_MESSAGE", true),
            ("AUTH", true),
            ("apikey", true),
            ("my__key", true),
            ("monkey", false),
            ("tokens", false),
            ("public_key", false),
            ("KEY_PUBLIC", false),
            ("publickey_token", true),
            ("to\u{212a}en", true),
            ("\u{17f}ecret", true),
            ("pa\u{df}word", false),
            ("", false),
        ] {
            assert_eq!(secret("ENV", name).is_some(), is_secret, "{name}");
        }
        assert_eq!(
            messages(secret("ARG", "key")),
            ["Do not use ARG or ENV instructions for sensitive data (ARG \"key\")"]
        );
    }

    #[test]
    fn ports() {
        assert_eq!(
            messages(exposed_port("1:80/TCP", "TCP", true)),
            [
                "Defined protocol '1:80/TCP' in EXPOSE instruction should be lowercase",
                "EXPOSE instruction should not define an IP address or host-port mapping, found '1:80/TCP'"
            ]
        );
        assert_eq!(exposed_port("80", "tcp", false), []);
    }
}
