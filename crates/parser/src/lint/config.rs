//! Which rules hold: `# check=skip=…;error=true;experimental=…`, and the build argument of the same
//! form.

use std::fmt;

use crate::directive::detect_check;
use crate::lint::Rule;
use crate::text::go_quote;

/// Some rules, or all.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Selection {
    All,
    These(Vec<String>),
}

impl Selection {
    fn parse(value: &str) -> Self {
        match value.trim() {
            "all" => Self::All,
            list => Self::These(list.split(',').map(|rule| rule.trim().to_owned()).collect()),
        }
    }

    fn has(&self, rule: Rule) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.iter().any(|name| name == rule.name()),
        }
    }
}

/// Which rules hold, and what follows from a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    skip: Selection,
    experimental: Selection,
    /// Whether a finding fails the build.
    pub error: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { skip: Selection::These(Vec::new()), experimental: Selection::These(Vec::new()), error: false }
    }
}

impl Config {
    /// Reads options as they are written after `# check=`. An option of the same name replaces the
    /// one before, and names of rules that do not exist mean nothing.
    ///
    /// # Errors
    ///
    /// An option that does not exist, or has no proper value; displays as Docker's text.
    pub fn parse(options: &str) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        let options = options.trim();
        if options.is_empty() {
            return Ok(config);
        }
        for option in options.splitn(3, ';') {
            let (key, value) =
                option.split_once('=').ok_or_else(|| ConfigError::UnknownOption { option: option.to_owned() })?;
            // `skip=all` adds to rules skipped by name, and so on: all of them is no list.
            match key.trim() {
                "skip" if config.skip != Selection::All => config.skip = Selection::parse(value),
                "experimental" if config.experimental != Selection::All => {
                    config.experimental = Selection::parse(value);
                }
                "skip" | "experimental" => {}
                "error" => {
                    let value = value.trim();
                    config.error = parse_bool(value).ok_or_else(|| ConfigError::NotBoolean {
                        option: option.to_owned(),
                        value: value.to_owned(),
                    })?;
                }
                key => return Err(ConfigError::UnknownOption { option: key.to_owned() }),
            }
        }
        Ok(config)
    }

    /// Reads the options that a Dockerfile gives; they end at the first blank.
    ///
    /// # Errors
    ///
    /// As [`Self::parse`].
    pub fn of_file(dockerfile: &[u8]) -> Result<Self, ConfigError> {
        match detect_check(dockerfile) {
            Some(directive) => Self::parse(&directive.image),
            None => Ok(Self::default()),
        }
    }

    /// Whether a rule holds.
    #[must_use]
    pub fn allows(&self, rule: Rule) -> bool {
        if rule.is_experimental() { self.experimental.has(rule) } else { !self.skip.has(rule) }
    }
}

/// Go's `strconv.ParseBool`.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Options that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// No such option.
    UnknownOption {
        /// Its name, or all of it where it has no `=`.
        option: String,
    },
    /// `error=` with neither true nor false.
    NotBoolean {
        /// The option.
        option: String,
        /// Its value.
        value: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownOption { option } => write!(f, "invalid check option {}", go_quote(option)),
            Self::NotBoolean { option, value } => write!(
                f,
                "failed to parse check option {}: strconv.ParseBool: parsing {}: invalid syntax",
                go_quote(option),
                go_quote(value)
            ),
        }
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        use Rule::{CopyIgnoredFile, FromAsCasing, StageNameCasing};
        // options, rules that hold of these three, error
        for (options, holds, error) in [
            ("", [true, true, false], false),
            ("  ", [true, true, false], false),
            ("skip=StageNameCasing", [false, true, false], false),
            ("skip= StageNameCasing , FromAsCasing ;error=true", [false, false, false], true),
            ("skip=stagenamecasing,None", [true, true, false], false),
            ("skip=all", [false, false, false], false),
            ("skip=all;experimental=all", [false, false, true], false),
            ("skip=CopyIgnoredFile;experimental=CopyIgnoredFile", [true, true, true], false),
            (" error = 1 ; skip=FromAsCasing", [true, false, false], true),
            ("error=true;error=F", [true, true, false], false),
            ("skip=all;skip=FromAsCasing", [false, false, false], false),
        ] {
            let config = Config::parse(options).unwrap();
            let got = [StageNameCasing, FromAsCasing, CopyIgnoredFile].map(|rule| config.allows(rule));
            assert_eq!((got, config.error), (holds, error), "{options}");
        }
    }

    #[test]
    fn options_that_are_none() {
        for (options, text) in [
            ("skp=x", "invalid check option \"skp\""),
            ("foo", "invalid check option \"foo\""),
            ("skip=all;", "invalid check option \"\""),
            (
                "error=maybe",
                "failed to parse check option \"error=maybe\": strconv.ParseBool: parsing \"maybe\": invalid syntax",
            ),
            (
                "skip=all;error=true;error=x;skip=y",
                "failed to parse check option \"error=x;skip=y\": strconv.ParseBool: parsing \"x;skip=y\": invalid \
                 syntax",
            ),
        ] {
            assert_eq!(Config::parse(options).unwrap_err().to_string(), text, "{options}");
        }
    }

    #[test]
    fn options_of_a_file() {
        let error = |text: &str| Config::of_file(text.as_bytes()).map(|config| config.error);
        assert_eq!(error("# check=error=true\nFROM a\n"), Ok(true));
        assert_eq!(error("# escape=`\n#check = skip=all;error=true\nFROM a\n"), Ok(true));
        // Nothing counts behind a blank.
        assert_eq!(
            error("# check=skip=all; error=true\nFROM a\n").unwrap_err().to_string(),
            "invalid check option \"\""
        );
        assert_eq!(error("# a comment\n# check=error=true\nFROM a\n"), Ok(false));
    }
}
