//! Build arguments: which exist without being declared, and what an ARG makes of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::instruction::{ArgVariable, Instruction, InstructionKind};
use crate::options::Version;
use crate::source::LineRange;
use crate::words::{Environment, Lexer, WordError};

/// Arguments that need no ARG: every RUN sees them, and neither history nor cache keys do.
pub const PROXY_ARGS: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Whether the argument is one of [`PROXY_ARGS`].
#[must_use]
pub fn is_proxy_arg(name: &str) -> bool {
    PROXY_ARGS.contains(&name)
}

/// A platform as BuildKit's arguments describe it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// Mostly empty.
    pub os_version: String,
    /// `amd64`, `arm64` …
    pub architecture: String,
    /// `v8` … or empty.
    pub variant: String,
}

impl Platform {
    fn format(&self, with_version: bool) -> String {
        let mut text = if self.os.is_empty() { "unknown".to_owned() } else { self.os.clone() };
        if with_version && !self.os_version.is_empty() {
            text = format!("{text}({})", self.os_version);
        }
        for part in [&self.architecture, &self.variant] {
            if !part.is_empty() {
                text.push('/');
                text.push_str(part);
            }
        }
        text
    }
}

/// The arguments that BuildKit sets in the global scope, in its order. A build argument of the
/// same name takes precedence. The stage is the one that is built, by name.
#[must_use]
pub fn platform_args(
    build: &Platform,
    target: &Platform,
    stage: Option<&str>,
    version: Version,
) -> Vec<(String, String)> {
    let mut args = Vec::new();
    for (prefix, platform) in [("BUILD", build), ("TARGET", target)] {
        let new = version >= Version::V28;
        let whole = platform.format(new && prefix == "TARGET");
        let mut add = |name: &str, value: &str| {
            args.push((format!("{prefix}{name}"), value.to_owned()));
        };
        add("PLATFORM", &whole);
        add("OS", &platform.os);
        if new {
            add("OSVERSION", &platform.os_version);
        }
        add("ARCH", &platform.architecture);
        add("VARIANT", &platform.variant);
    }
    if version >= Version::V28 {
        let stage = stage.filter(|stage| !stage.is_empty()).unwrap_or("default");
        args.push(("TARGETSTAGE".to_owned(), stage.to_owned()));
    }
    args
}

/// An ARG before the first FROM whose default cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct MetaArgError {
    /// What is wrong with it.
    pub error: WordError,
    /// The lines of the ARG.
    pub lines: LineRange,
}

/// The global scope of BuildKit, which FROM lines are expanded with: [`platform_args`], then the
/// ARG instructions before the first FROM, each seeing those before it. A build argument takes the
/// place of a default; an ARG with neither leaves what was there.
///
/// # Errors
///
/// A default that cannot be expanded.
pub fn global_scope(
    platform: Vec<(String, String)>,
    meta_args: &[Instruction],
    build_args: &BTreeMap<String, String>,
    lexer: Lexer,
) -> Result<Vec<(String, String)>, MetaArgError> {
    let mut scope: Vec<(String, String)> = platform
        .into_iter()
        .map(|(key, value)| {
            let value = build_args.get(&key).cloned().unwrap_or(value);
            (key, value)
        })
        .collect();
    for instruction in meta_args {
        let InstructionKind::Arg(variables) = &instruction.kind else {
            continue;
        };
        for variable in variables {
            let value = match (build_args.get(&variable.key), &variable.value) {
                (Some(value), _) => value.clone(),
                (None, Some(default)) => lexer
                    .process_word(default, &scope)
                    .map_err(|error| MetaArgError { error, lines: instruction.lines })?,
                (None, None) => continue,
            };
            match scope.iter_mut().find(|(key, _)| *key == variable.key) {
                Some((_, old)) => *old = value,
                None => scope.push((variable.key.clone(), value)),
            }
        }
    }
    Ok(scope)
}

/// What an ARG within a stage is worth in BuildKit: the build argument, else the default expanded
/// in the stage's environment, else the value of the global scope.
///
/// # Errors
///
/// A default that cannot be expanded, unless a build argument takes its place.
pub fn stage_arg<E: Environment + ?Sized>(
    variable: &ArgVariable,
    build_args: &BTreeMap<String, String>,
    global_scope: &[(String, String)],
    environment: &E,
    lexer: Lexer,
) -> Result<Option<String>, WordError> {
    if let Some(value) = build_args.get(&variable.key) {
        return Ok(Some(value.clone()));
    }
    match &variable.value {
        Some(default) => lexer.process_word(default, environment).map(Some),
        None => Ok(Environment::get(global_scope, &variable.key).map(str::to_owned)),
    }
}

/// The build arguments of the legacy builder (moby `builder/dockerfile/buildargs.go`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LegacyArgs {
    /// Given by the caller; `None` for one that is named without a value.
    given: BTreeMap<String, Option<String>>,
    /// Declared in this stage.
    declared: BTreeMap<String, Option<String>>,
    /// Declared before the first FROM.
    meta: BTreeMap<String, Option<String>>,
    referenced: BTreeSet<String>,
}

impl LegacyArgs {
    /// Starts with what the caller of the build gives.
    #[must_use]
    pub fn new(given: BTreeMap<String, Option<String>>) -> Self {
        Self { given, ..Self::default() }
    }

    /// Declares an argument before the first FROM, its default already expanded.
    pub fn add_meta(&mut self, name: &str, default: Option<&str>) {
        self.add(name, default);
        let default = default.map(str::to_owned);
        self.meta.insert(name.to_owned(), default);
    }

    /// Declares an argument in the stage, its default already expanded.
    pub fn add(&mut self, name: &str, default: Option<&str>) {
        let default = default.map(str::to_owned);
        self.declared.insert(name.to_owned(), default);
        self.referenced.insert(name.to_owned());
    }

    /// Begins a stage: what other stages declared does not hold here.
    pub fn begin_stage(&mut self) {
        self.declared.clear();
    }

    /// Takes over what another stage referred to, for [`Self::unused`].
    pub fn merge_referenced(&mut self, other: &Self) {
        self.referenced.extend(other.referenced.iter().cloned());
    }

    /// Whether history and cache keys show the argument: a proxy's is shown only if declared.
    #[must_use]
    pub fn is_shown(&self, name: &str) -> bool {
        self.declared.contains_key(name) || !is_proxy_arg(name)
    }

    /// Arguments before the first FROM, and proxies: what FROM is expanded with.
    #[must_use]
    pub fn meta_values(&self) -> BTreeMap<String, String> {
        self.values(&self.meta)
    }

    /// Arguments that hold in the stage, and proxies.
    #[must_use]
    pub fn stage_values(&self) -> BTreeMap<String, String> {
        self.values(&self.declared)
    }

    fn values(&self, declared: &BTreeMap<String, Option<String>>) -> BTreeMap<String, String> {
        let names = declared.keys().map(String::as_str).chain(PROXY_ARGS);
        names
            .filter_map(|name| {
                let given = self.given.get(name).cloned().flatten();
                let value = given
                    .or_else(|| declared.get(name).cloned().flatten())
                    .or_else(|| self.meta.get(name).cloned().flatten())?;
                Some((name.to_owned(), value))
            })
            .collect()
    }

    /// Arguments that were given and no ARG asked for; Docker warns of them.
    #[must_use]
    pub fn unused(&self) -> Vec<&str> {
        self.given
            .keys()
            .map(String::as_str)
            .filter(|name| !is_proxy_arg(name) && !self.referenced.contains(*name))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    fn linux(architecture: &str, variant: &str) -> Platform {
        Platform {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            ..Platform::default()
        }
    }

    #[test]
    fn platform_args_by_version() {
        let find = |version, stage, name: &str| {
            let args = platform_args(&linux("amd64", ""), &linux("arm", "v7"), stage, version);
            let found = args.into_iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value)
        };
        let v28 = |name| find(Version::V28, None, name);
        assert_eq!(v28("BUILDPLATFORM").as_deref(), Some("linux/amd64"));
        assert_eq!(v28("TARGETPLATFORM").as_deref(), Some("linux/arm/v7"));
        assert_eq!(v28("TARGETVARIANT").as_deref(), Some("v7"));
        assert_eq!(v28("TARGETOSVERSION").as_deref(), Some(""));
        assert_eq!(v28("TARGETSTAGE").as_deref(), Some("default"));
        assert_eq!(find(Version::V28, Some("a"), "TARGETSTAGE").as_deref(), Some("a"));
        assert_eq!(find(Version::V20, None, "TARGETSTAGE"), None);
        assert_eq!(find(Version::V20, None, "TARGETARCH").as_deref(), Some("arm"));
    }

    #[test]
    fn scopes_of_buildkit() {
        let file =
            parse(b"ARG A=1 B=${A}2\nARG C\nARG D=d\nARG TARGETARCH\nFROM x\nARG B\nARG C=c$B E D=in\n").unwrap();
        let instructions = file.instructions().unwrap();
        let given = BTreeMap::from([("D".to_owned(), "given".to_owned())]);
        let platform = vec![("TARGETARCH".to_owned(), "arm64".to_owned())];
        let scope = global_scope(platform, &instructions.meta_args, &given, Lexer::new('\\')).unwrap();
        let get = |name: &str| Environment::get(&scope[..], name);
        assert_eq!(get("B"), Some("12"));
        assert_eq!(get("C"), None);
        assert_eq!(get("D"), Some("given"));
        assert_eq!(get("TARGETARCH"), Some("arm64"));

        let mut env: Vec<(String, String)> = Vec::new();
        for instruction in &instructions.stages[0].instructions {
            let InstructionKind::Arg(variables) = &instruction.kind else {
                panic!("{instruction:?}");
            };
            for variable in variables {
                let lexer = Lexer::new('\\');
                let value = stage_arg(variable, &given, &scope, &env, lexer).unwrap();
                env.extend(value.map(|value| (variable.key.clone(), value)));
            }
        }
        let names = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            let pairs = pairs.iter();
            pairs.map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
        };
        assert_eq!(env, names(&[("B", "12"), ("C", "c12"), ("D", "given")]));
    }

    #[test]
    fn bad_defaults_name_their_lines() {
        let file = parse(b"ARG A=1\nARG B=${\nFROM x\n").unwrap();
        let meta_args = file.instructions().unwrap().meta_args;
        let error = global_scope(Vec::new(), &meta_args, &BTreeMap::new(), Lexer::new('\\')).unwrap_err();
        assert_eq!(error.lines, LineRange::line(2));
        assert_eq!(error.to_string(), "failed to process \"${\": syntax error: missing '}'");
    }

    #[test]
    fn scopes_of_the_legacy_builder() {
        let given = [("A", Some("given")), ("UNUSED", Some("x")), ("http_proxy", Some("p")), ("N", None)];
        let given = given.map(|(k, v)| (k.to_owned(), v.map(str::to_owned)));
        let mut args = LegacyArgs::new(BTreeMap::from(given));
        args.add_meta("A", Some("default"));
        args.add_meta("B", Some("b"));
        assert_eq!(args.meta_values()["A"], "given");
        args.begin_stage();
        let only = |args: &LegacyArgs| args.stage_values().into_keys().collect::<Vec<_>>();
        assert_eq!(only(&args), ["http_proxy"]);
        args.add("B", None);
        args.add("N", None);
        args.add("M", Some("m"));
        assert_eq!(only(&args), ["B", "M", "http_proxy"]);
        assert_eq!(args.stage_values()["B"], "b");
        assert_eq!(args.unused(), ["UNUSED"]);
        assert!(args.is_shown("B") && !args.is_shown("http_proxy"));
    }
}
