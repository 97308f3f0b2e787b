//! Build checks: where the rules' findings go, and those that need what only a plan knows.

use std::cell::RefCell;
use std::collections::BTreeSet;

use rbuild_image::platform::Platform;
use rbuild_image::reference::Reference;
use rbuild_logfmt::event::{Builder, Fact, Failure, Version, Warning};
use rbuild_parser::lint::{self, Config, Finding, Rule, Violation};
use rbuild_parser::words::Expansion;
use rbuild_parser::{CommandLine, Instruction, KeyValue, LineRange, Stage};

use super::docker_version;
use crate::base::BaseImage;
use crate::emit;
use crate::options::BuildOptions;
use crate::plan::PlanError;
use crate::plan::image::{StageImage, Variables};

/// The build argument that configures the checks in place of the Dockerfile.
const BUILD_ARG: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// Takes what the rules find, and passes on what the configuration lets through.
pub(crate) struct Linter<'a> {
    /// `None` where Docker has no build checks.
    config: Option<Config>,
    raise: &'a dyn Fn(Fact),
    /// Rules that found something, and the first lines of it.
    raised: RefCell<Vec<(usize, Rule)>>,
}

/// The configuration that the request brings, if it does. Only BuildKit of Docker 28 has build checks.
///
/// # Errors
/// Docker's text.
pub(crate) fn requested_config(options: &BuildOptions) -> Result<Option<Config>, PlanError> {
    if !has_checks(options) {
        return Ok(None);
    }
    let value =
        options.build_args.iter().rev().find(|(name, _)| name == BUILD_ARG).and_then(|(_, value)| value.as_ref());
    let config = value.map(|value| Config::parse(value)).transpose();
    config.map_err(|error| PlanError::builder(format!("failed to parse build-arg:{BUILD_ARG}: {error}"), None))
}

fn has_checks(options: &BuildOptions) -> bool {
    options.dialect.builder == Builder::Buildkit && options.dialect.version == Version::V28
}

impl<'a> Linter<'a> {
    /// The checks of one build.
    ///
    /// # Errors
    /// Docker's text, for a configuration that cannot be read.
    pub(crate) fn new(
        options: &BuildOptions,
        dockerfile: &[u8],
        raise: &'a dyn Fn(Fact),
    ) -> Result<Linter<'a>, PlanError> {
        let config = match requested_config(options)? {
            None if has_checks(options) => Some(
                Config::of_file(dockerfile)
                    .map_err(|error| PlanError::builder(format!("failed to parse check options: {error}"), None))?,
            ),
            config => config,
        };
        Ok(Linter { config, raise, raised: RefCell::default() })
    }

    /// How many warnings there were.
    pub(crate) fn count(&self) -> usize {
        self.raised.borrow().len()
    }

    pub(super) fn raise(&self, violation: Violation, lines: LineRange) {
        self.raise_finding(Finding { violation, lines });
    }

    pub(super) fn raise_all(&self, violations: impl IntoIterator<Item = Violation>, lines: LineRange) {
        violations.into_iter().for_each(|violation| self.raise(violation, lines));
    }

    pub(super) fn raise_finding(&self, finding: Finding) {
        let rule = finding.rule();
        if !self.config.as_ref().is_some_and(|config| config.allows(rule)) {
            return;
        }
        self.raised.borrow_mut().push((finding.lines.start, rule));
        (self.raise)(Fact::Warning(Warning::Lint {
            rule: rule.name().to_owned(),
            message: finding.violation.message(),
            description: rule.description().to_owned(),
            url: rule.url(),
            lines: Some(emit::lines(finding.lines)),
        }));
    }

    /// Whether the configuration makes failures of warnings, of which there were some. Docker names the rules in random
    /// order; here it is that of the lines.
    pub(super) fn verdict(&self) -> Result<(), PlanError> {
        let mut raised = self.raised.borrow().clone();
        if raised.is_empty() || !self.config.as_ref().is_some_and(|config| config.error) {
            return Ok(());
        }
        raised.sort_by_key(|(line, _)| *line);
        let mut rules: Vec<String> = Vec::new();
        for name in raised.iter().map(|(_, rule)| rule.name()) {
            if !rules.iter().any(|known| known == name) {
                rules.push(name.to_owned());
            }
        }
        Err(PlanError { failure: Failure::Lint { rules }, lines: None })
    }

    /// A base name, with the arguments' defaults in it.
    pub(super) fn default_base(&self, stage: &Stage, expanded: &str, version: rbuild_parser::Version) {
        if Reference::parse_normalized(expanded, docker_version(version)).is_err() {
            self.raise(Violation::InvalidDefaultArgInFrom { base: stage.base.clone() }, stage.lines);
        }
    }

    /// Variables of a FROM. `declared` are arguments before the first FROM, which may have no value.
    pub(super) fn undeclared_args(
        &self,
        unmatched: &BTreeSet<String>,
        globals: &Variables,
        declared: &[String],
        lines: LineRange,
    ) {
        let mut known: Vec<&str> =
            globals.iter().map(|(name, _)| name).chain(declared.iter().map(String::as_str)).collect();
        known.sort_unstable();
        known.dedup();
        self.raise_all(lint::undefined_args(unmatched, &known), lines);
    }

    /// `FROM --platform`.
    pub(super) fn stage_platform(
        &self,
        stage: &Stage,
        written: &str,
        expanded: &Expansion,
        globals: &Variables,
        parsed: Option<&Platform>,
    ) {
        let target = globals.get("TARGETPLATFORM").unwrap_or_default();
        self.raise_all(lint::redundant_platform(written, expanded, target), stage.lines);
        if let Some(platform) = parsed {
            let constant =
                lint::constant_platform(stage.name.as_deref(), expanded, &platform.os, &platform.architecture);
            self.raise_all(constant, stage.lines);
        }
    }

    /// The platform of a base image. One without layers has none that matters.
    pub(super) fn base_platform(&self, name: &str, expected: &Platform, image: &BaseImage, lines: LineRange) {
        let actual = image.config.platform();
        let same = expected.os == actual.os && expected.architecture == actual.architecture;
        if same || image.layers.is_empty() {
            return;
        }
        let (expected, actual) = (expected.normalized().to_string(), actual.normalized().to_string());
        let image = name.to_owned();
        self.raise(Violation::InvalidBaseImagePlatform { image, expected, actual }, lines);
    }

    /// CMD, ENTRYPOINT or HEALTHCHECK, of which only the last counts: what stood before is at fault.
    pub(super) fn used_once(&self, instruction: &Instruction, previous: &mut Option<LineRange>) {
        if let Some(lines) = previous.replace(instruction.lines) {
            let instruction = instruction.keyword.clone();
            self.raise(Violation::MultipleInstructionsDisallowed { instruction }, lines);
        }
    }

    /// CMD or ENTRYPOINT in shell form, if nobody chose the shell.
    pub(super) fn shell_form(&self, instruction: &Instruction, command: &CommandLine, image: &StageImage) {
        if command.prepend_shell && !image.has_shell() {
            let keyword = instruction.keyword.clone();
            self.raise(Violation::JSONArgsRecommended { instruction: keyword }, instruction.lines);
        }
    }

    /// A pair of ENV or LABEL.
    pub(super) fn legacy_pair(&self, pair: &KeyValue, instruction: &Instruction) {
        if pair.legacy_form {
            let keyword = instruction.keyword.clone();
            self.raise(Violation::LegacyKeyValueFormat { instruction: keyword }, instruction.lines);
        }
    }
}

#[cfg(test)]
mod tests {
    use rbuild_image::digest::ImageId;
    use rbuild_image::reference::DockerVersion;

    use super::super::Draft;
    use super::*;
    use crate::base::BaseLayer;
    use crate::options::ContextSource;

    fn options(version: Version, check: Option<&str>) -> BuildOptions {
        let mut options = BuildOptions::new("/s", ContextSource::Stdin);
        options.dialect.version = version;
        options.build_args.extend(check.map(|value| (BUILD_ARG.to_owned(), Some(value.to_owned()))));
        options
    }

    #[test]
    fn the_request_goes_before_the_file() {
        let file = b"# check=skip=all\nFROM a\n";
        for (version, check, warnings) in [
            (Version::V28, None, 0),
            (Version::V28, Some(""), 1),
            (Version::V28, Some("skip=all"), 0),
            (Version::V20, Some(""), 0),
        ] {
            let linter = Linter::new(&options(version, check), file, &|_| ()).unwrap();
            linter.raise(Violation::MaintainerDeprecated, LineRange::line(1));
            assert_eq!(linter.count(), warnings, "{version:?} {check:?}");
        }
        let message = |error: PlanError| format!("{:?}", error.failure);
        let error = Linter::new(&options(Version::V28, Some("x")), file, &|_| ()).err().map(message).unwrap();
        assert!(error.contains("failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK: invalid check option"), "{error}");
        let error = Linter::new(&options(Version::V28, None), b"# check=x\n", &|_| ()).err().map(message).unwrap();
        assert!(error.contains("failed to parse check options: invalid check option"), "{error}");
    }

    #[test]
    fn warnings_may_be_errors() {
        let linter = Linter::new(&options(Version::V28, Some("error=true")), b"", &|_| ()).unwrap();
        assert_eq!(linter.verdict(), Ok(()));
        for (violation, line) in [
            (Violation::MaintainerDeprecated, 3),
            (Violation::NoEmptyContinuation, 2),
            (Violation::MaintainerDeprecated, 1),
        ] {
            linter.raise(violation, LineRange::line(line));
        }
        let rules = vec!["MaintainerDeprecated".to_owned(), "NoEmptyContinuation".to_owned()];
        assert_eq!(linter.verdict(), Err(PlanError { failure: Failure::Lint { rules }, lines: None }));
    }

    /// What a plan of a Dockerfile whose stages begin with nothing finds, as `RULE@LINE MESSAGE`; of all stages if asked.
    /// Everything in `secret` is ignored.
    fn found(text: &str, build_args: &[(&str, &str)], all_stages: bool) -> Vec<String> {
        let mut options = options(Version::V28, Some("experimental=all"));
        let given = build_args.iter().map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned())));
        options.build_args.extend(given);
        let found = RefCell::new(Vec::new());
        let raise = |fact| {
            let Fact::Warning(Warning::Lint { rule, message, lines, .. }) = fact else { panic!("{fact:?}") };
            found.borrow_mut().push(format!("{rule}@{} {message}", lines.unwrap().start));
        };
        let linter = Linter::new(&options, text.as_bytes(), &raise).unwrap();
        let dockerfile = rbuild_parser::parse(text.as_bytes()).unwrap();
        let contexts = std::collections::HashMap::new();
        let mut draft = Draft::new(&dockerfile, &options, &contexts, &linter).unwrap();
        if all_stages {
            draft = draft.with_all_stages();
        }
        draft.add_triggers().unwrap();
        draft.finish(&|path| path.starts_with("secret")).unwrap();
        assert_eq!(linter.count(), found.borrow().len());
        found.into_inner()
    }

    #[test]
    fn what_a_plan_shows() {
        let undefined = |line: usize, name: &str| format!("UndefinedVar@{line} Usage of undefined variable '${name}'");
        let shell = |line: usize, keyword: &str| {
            format!(
                "JSONArgsRecommended@{line} JSON arguments recommended for {keyword} to prevent unintended behavior \
                 related to OS signals"
            )
        };
        let multiple = |line: usize, keyword: &str| {
            format!(
                "MultipleInstructionsDisallowed@{line} Multiple {keyword} instructions should not be used in the same \
                 stage because only the last one will be used"
            )
        };
        let relative = |line: usize, path: &str| {
            format!(
                "WorkdirRelativePath@{line} Relative workdir \"{path}\" can have unexpected results if the base image \
                 changes"
            )
        };
        let ignored = |line: usize, what: &str, path: &str| {
            format!("CopyIgnoredFile@{line} Attempting to {what} file \"{path}\" that is excluded by .dockerignore")
        };
        let legacy = |line: usize, keyword: &str| {
            format!(
                "LegacyKeyValueFormat@{line} \"{keyword} key=value\" should be used instead of legacy \"{keyword} key \
                 value\" format"
            )
        };
        let cases: Vec<(&str, Vec<String>)> = vec![
            ("FROM scratch\nENV a=b c=$a\nLABEL d=$c\n", vec![undefined(2, "a")]),
            ("FROM scratch\nARG a\nENV b=$a c=${x:-1} d=\"$y\" e='$z'\n", vec![undefined(3, "x"), undefined(3, "y")]),
            ("FROM scratch\nARG a=$b b=1\n", vec![undefined(2, "b")]),
            ("FROM scratch\nARG b=1\nARG a=$b\n", vec![]),
            (
                "FROM scratch\nENV known=1\nUSER $knwon\n",
                vec![format!("{} (did you mean $known?)", undefined(3, "knwon"))],
            ),
            (
                "FROM scratch\nCOPY --chown=$a --exclude=$x b$b $c/ /d/\n",
                vec![undefined(2, "a"), undefined(2, "b"), undefined(2, "c")],
            ),
            ("FROM scratch\nCOPY <<a <<'b' /\n$one\na\n$two\nb\n", vec![undefined(2, "one")]),
            (
                "FROM scratch\nRUN --mount=type=cache,target=/c$a,id=$b echo $c\n",
                vec![undefined(2, "a"), undefined(2, "b")],
            ),
            ("FROM scratch\nEXPOSE ${port:-80}\nCMD [\"$x\"]\n", vec![]),
            ("FROM scratch\nCMD a\n", vec![shell(2, "CMD")]),
            ("FROM scratch\nSHELL [\"/x\"]\nCMD a\nENTRYPOINT b\n", vec![]),
            ("FROM scratch\nENTRYPOINT [\"a\"]\nENTRYPOINT [\"b\"]\n", vec![multiple(2, "ENTRYPOINT")]),
            ("FROM scratch\nHEALTHCHECK NONE\nHEALTHCHECK NONE\n", vec![multiple(2, "HEALTHCHECK")]),
            (
                "FROM scratch\nCMD [\"a\"]\nCMD b\nCMD [\"c\"]\n",
                vec![multiple(2, "CMD"), shell(3, "CMD"), multiple(3, "CMD")],
            ),
            // Only a stage's own instructions count.
            ("FROM scratch AS a\nCMD [\"a\"]\nFROM a\nCMD [\"b\"]\n", vec![]),
            ("FROM scratch\nWORKDIR a\nWORKDIR b\n", vec![relative(2, "a")]),
            ("FROM scratch\nWORKDIR /a\nWORKDIR b\n", vec![]),
            ("FROM scratch AS a\nWORKDIR /a\nFROM a\nWORKDIR b\n", vec![]),
            ("FROM scratch\nENV a b\nLABEL c d\n", vec![legacy(2, "ENV"), legacy(3, "LABEL")]),
            (
                "FROM scratch\nENV key=a\nARG token\n",
                vec![
                    "SecretsUsedInArgOrEnv@2 Do not use ARG or ENV instructions for sensitive data (ENV \"key\")"
                        .into(),
                    "SecretsUsedInArgOrEnv@3 Do not use ARG or ENV instructions for sensitive data (ARG \"token\")"
                        .into(),
                ],
            ),
            (
                "FROM scratch AS a\nFROM scratch\nCOPY secret1 b /c/\nADD secret2 /c/\nCOPY --from=a secret3 /c/\n",
                vec![ignored(3, "Copy", "secret1"), ignored(4, "Add", "secret2")],
            ),
            (
                "FROM scratch\nEXPOSE 1:80/TCP\n",
                vec![
                    "ExposeProtoCasing@2 Defined protocol '1:80/TCP' in EXPOSE instruction should be lowercase".into(),
                    "ExposeInvalidFormat@2 EXPOSE instruction should not define an IP address or host-port mapping, \
                     found '1:80/TCP'"
                        .into(),
                ],
            ),
            // A trigger is told of where it is pulled.
            ("FROM scratch AS a\nONBUILD CMD b\nFROM a\n", vec![shell(3, "CMD")]),
        ];
        for (text, expected) in cases {
            assert_eq!(found(text, &[], false), expected, "{text}");
        }
    }

    /// A Dockerfile, build arguments, and what is found.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Vec<String>);

    #[test]
    fn what_from_shows() {
        let invalid = |line: usize, base: &str| {
            format!(
                "InvalidDefaultArgInFrom@{line} Default value for ARG {base} results in empty or invalid base image name"
            )
        };
        let constant =
            "FromPlatformFlagConstDisallowed@1 FROM --platform flag should not use constant value \"linux/386\"";
        let redundant = "RedundantTargetPlatform@1 Setting platform to predefined $TARGETPLATFORM in FROM is redundant as \
                         this is the default behavior";
        let undeclared = "UndefinedArgInFrom@2 FROM argument 'VERSON' is not declared (did you mean VERSION?)";
        let given: &[(&str, &str)] = &[("BASE", "scratch")];
        let cases: Vec<Case<'_>> = vec![
            ("FROM --platform=linux/386 scratch\n", &[], vec![constant.to_owned()]),
            ("FROM --platform=linux/386 scratch AS my-386\n", &[], vec![]),
            ("FROM --platform=$TARGETPLATFORM scratch\n", &[], vec![redundant.to_owned()]),
            ("FROM --platform=$BUILDPLATFORM scratch\n", &[], vec![]),
            ("ARG VERSION\nFROM scratch$VERSON\n", &[], vec![undeclared.to_owned()]),
            ("ARG VERSION\nFROM scratch$VERSION\n", &[], vec![]),
            ("ARG BASE\nFROM $BASE\n", given, vec![invalid(2, "$BASE")]),
            ("ARG BASE=scratch\nFROM $BASE\n", given, vec![]),
            (
                "ARG BASE=x:\nFROM $BASE\nFROM ${BASE}y AS z\nFROM scratch\n",
                &[("BASE", "a")],
                vec![invalid(2, "$BASE")],
            ),
        ];
        for (text, build_args, expected) in cases {
            assert_eq!(found(text, build_args, false), expected, "{text}");
        }
    }

    #[test]
    fn stages_that_are_not_needed() {
        let text = "FROM scratch AS unused\nLABEL a b\nFROM scratch\nLABEL c d\n";
        assert_eq!(found(text, &[], false).len(), 1);
        assert_eq!(found(text, &[], true).len(), 2);
    }

    #[test]
    fn platforms_of_base_images() {
        let image = |architecture: &str, layers: usize| {
            let mut config = rbuild_image::config::ImageConfig::default();
            config.os.set("linux".to_owned());
            config.architecture.set(architecture.to_owned());
            let digest = rbuild_image::digest::Digest::of(b"");
            let layer = BaseLayer { diff_id: digest.clone().into(), blob: None };
            let layers = vec![layer; layers];
            BaseImage { id: ImageId(digest), config, layers, shown: String::new(), remote: None }
        };
        let amd64 = Platform::parse("linux/amd64", DockerVersion::V28).unwrap();
        for (image, message) in [
            (image("amd64", 1), None),
            (image("arm64", 0), None),
            (
                image("arm64", 1),
                Some(
                    "Base image x:1 was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build",
                ),
            ),
        ] {
            let found = RefCell::new(None);
            let raise = |fact| {
                if let Fact::Warning(Warning::Lint { message, .. }) = fact {
                    found.replace(Some(message));
                }
            };
            let options = options(Version::V28, None);
            let linter = Linter::new(&options, b"", &raise).unwrap();
            linter.base_platform("x:1", &amd64, &image, LineRange::line(1));
            assert_eq!(found.borrow().as_deref(), message);
        }
    }
}
