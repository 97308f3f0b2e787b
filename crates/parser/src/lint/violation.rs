//! What the rules find, as facts, and Docker's words for them.

use crate::lint::Rule;
use crate::text::go_quote;

/// What a rule finds fault with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// A stage's name has capitals.
    StageNameCasing {
        /// The name as written.
        name: String,
    },
    /// FROM and AS differ in case.
    FromAsCasing {
        /// FROM as written.
        from: String,
        /// AS as written.
        keyword: String,
    },
    /// A blank line within a continued instruction.
    NoEmptyContinuation,
    /// A keyword differs in case from most others.
    ConsistentInstructionCasing {
        /// The keyword as written.
        keyword: String,
        /// Whether most are in lower case.
        lower: bool,
    },
    /// Two stages have one name.
    DuplicateStageName {
        /// The name.
        name: String,
    },
    /// A stage has a name that means something else.
    ReservedStageName {
        /// The name.
        name: String,
    },
    /// CMD or ENTRYPOINT in shell form, with the default shell.
    JSONArgsRecommended {
        /// The keyword as written.
        instruction: String,
    },
    /// MAINTAINER.
    MaintainerDeprecated,
    /// FROM names a variable that no ARG before it declares.
    UndefinedArgInFrom {
        /// The variable.
        name: String,
        /// The nearest one there is.
        suggestion: Option<String>,
    },
    /// The first WORKDIR of a build leads on from the base image's.
    WorkdirRelativePath {
        /// The path, variables expanded.
        path: String,
    },
    /// A variable that nothing sets.
    UndefinedVar {
        /// The variable.
        name: String,
        /// The nearest one there is.
        suggestion: Option<String>,
    },
    /// An instruction that a later one of the same stage makes void.
    MultipleInstructionsDisallowed {
        /// The keyword of the later one, as written.
        instruction: String,
    },
    /// `ENV name value` or `LABEL name value`.
    LegacyKeyValueFormat {
        /// The keyword as written.
        instruction: String,
    },
    /// A base image is for another platform than the stage.
    InvalidBaseImagePlatform {
        /// The image as written.
        image: String,
        /// The stage's platform.
        expected: String,
        /// The image's platform.
        actual: String,
    },
    /// `FROM --platform=$TARGETPLATFORM`.
    RedundantTargetPlatform {
        /// The value of the flag as written.
        platform: String,
    },
    /// A variable of ARG or ENV that is named like a secret.
    SecretsUsedInArgOrEnv {
        /// `ARG` or `ENV`.
        instruction: &'static str,
        /// The variable.
        name: String,
    },
    /// FROM makes no sense unless build arguments are given.
    InvalidDefaultArgInFrom {
        /// The base as written.
        base: String,
    },
    /// `FROM --platform` without a variable.
    FromPlatformFlagConstDisallowed {
        /// The platform.
        platform: String,
    },
    /// COPY or ADD of a file that the ignore file excludes.
    CopyIgnoredFile {
        /// Whether it is ADD.
        is_add: bool,
        /// The source.
        path: String,
    },
    /// A comment above a stage or an argument that does not begin with its name.
    InvalidDefinitionDescription {
        /// `FROM` or `ARG`.
        instruction: &'static str,
        /// The name; of several arguments a placeholder.
        name: String,
    },
    /// A protocol in capitals.
    ExposeProtoCasing {
        /// The port with its protocol.
        port: String,
    },
    /// An address, or a port of the host.
    ExposeInvalidFormat {
        /// The word.
        port: String,
    },
}

fn with_suggestion(mut text: String, prefix: &str, suggestion: Option<&String>) -> String {
    if let Some(suggestion) = suggestion {
        text.push_str(&format!(" (did you mean {prefix}{suggestion}?)"));
    }
    text
}

impl Violation {
    /// Which rule it is that finds fault.
    #[must_use]
    pub fn rule(&self) -> Rule {
        match self {
            Self::StageNameCasing { .. } => Rule::StageNameCasing,
            Self::FromAsCasing { .. } => Rule::FromAsCasing,
            Self::NoEmptyContinuation => Rule::NoEmptyContinuation,
            Self::ConsistentInstructionCasing { .. } => Rule::ConsistentInstructionCasing,
            Self::DuplicateStageName { .. } => Rule::DuplicateStageName,
            Self::ReservedStageName { .. } => Rule::ReservedStageName,
            Self::JSONArgsRecommended { .. } => Rule::JSONArgsRecommended,
            Self::MaintainerDeprecated => Rule::MaintainerDeprecated,
            Self::UndefinedArgInFrom { .. } => Rule::UndefinedArgInFrom,
            Self::WorkdirRelativePath { .. } => Rule::WorkdirRelativePath,
            Self::UndefinedVar { .. } => Rule::UndefinedVar,
            Self::MultipleInstructionsDisallowed { .. } => Rule::MultipleInstructionsDisallowed,
            Self::LegacyKeyValueFormat { .. } => Rule::LegacyKeyValueFormat,
            Self::InvalidBaseImagePlatform { .. } => Rule::InvalidBaseImagePlatform,
            Self::RedundantTargetPlatform { .. } => Rule::RedundantTargetPlatform,
            Self::SecretsUsedInArgOrEnv { .. } => Rule::SecretsUsedInArgOrEnv,
            Self::InvalidDefaultArgInFrom { .. } => Rule::InvalidDefaultArgInFrom,
            Self::FromPlatformFlagConstDisallowed { .. } => Rule::FromPlatformFlagConstDisallowed,
            Self::CopyIgnoredFile { .. } => Rule::CopyIgnoredFile,
            Self::InvalidDefinitionDescription { .. } => Rule::InvalidDefinitionDescription,
            Self::ExposeProtoCasing { .. } => Rule::ExposeProtoCasing,
            Self::ExposeInvalidFormat { .. } => Rule::ExposeInvalidFormat,
        }
    }

    /// Docker's words for it.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::StageNameCasing { name } => format!("Stage name '{name}' should be lowercase"),
            Self::FromAsCasing { from, keyword } => {
                format!("'{keyword}' and '{from}' keywords' casing do not match")
            }
            Self::NoEmptyContinuation => "Empty continuation line".to_owned(),
            Self::ConsistentInstructionCasing { keyword, lower } => format!(
                "Command '{keyword}' should match the case of the command majority ({})",
                if *lower { "lowercase" } else { "uppercase" }
            ),
            Self::DuplicateStageName { name } => {
                format!("Duplicate stage name {}, stage names should be unique", go_quote(name))
            }
            Self::ReservedStageName { name } => {
                format!("Stage name should not use the same name as reserved stage {}", go_quote(name))
            }
            Self::JSONArgsRecommended { instruction } => format!(
                "JSON arguments recommended for {instruction} to prevent unintended behavior related to OS signals"
            ),
            Self::MaintainerDeprecated => "Maintainer instruction is deprecated in favor of using label".to_owned(),
            Self::UndefinedArgInFrom { name, suggestion } => {
                with_suggestion(format!("FROM argument '{name}' is not declared"), "", suggestion.as_ref())
            }
            Self::WorkdirRelativePath { path } => {
                format!("Relative workdir {} can have unexpected results if the base image changes", go_quote(path))
            }
            Self::UndefinedVar { name, suggestion } => {
                with_suggestion(format!("Usage of undefined variable '${name}'"), "$", suggestion.as_ref())
            }
            Self::MultipleInstructionsDisallowed { instruction } => format!(
                "Multiple {instruction} instructions should not be used in the same stage because only the last one \
                 will be used"
            ),
            Self::LegacyKeyValueFormat { instruction } => format!(
                "\"{instruction} key=value\" should be used instead of legacy \"{instruction} key value\" format"
            ),
            Self::InvalidBaseImagePlatform { image, expected, actual } => format!(
                "Base image {image} was pulled with platform {}, expected {} for current build",
                go_quote(actual),
                go_quote(expected)
            ),
            Self::RedundantTargetPlatform { platform } => {
                format!(
                    "Setting platform to predefined {platform} in FROM is redundant as this is the default behavior"
                )
            }
            Self::SecretsUsedInArgOrEnv { instruction, name } => {
                format!("Do not use ARG or ENV instructions for sensitive data ({instruction} {})", go_quote(name))
            }
            Self::InvalidDefaultArgInFrom { base } => {
                format!("Default value for ARG {base} results in empty or invalid base image name")
            }
            Self::FromPlatformFlagConstDisallowed { platform } => {
                format!("FROM --platform flag should not use constant value {}", go_quote(platform))
            }
            Self::CopyIgnoredFile { is_add, path } => format!(
                "Attempting to {} file {} that is excluded by .dockerignore",
                if *is_add { "Add" } else { "Copy" },
                go_quote(path)
            ),
            Self::InvalidDefinitionDescription { instruction, name } => {
                format!("Comment for {instruction} should follow the format: `# {name} <description>`")
            }
            Self::ExposeProtoCasing { port } => {
                format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase")
            }
            Self::ExposeInvalidFormat { port } => {
                format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'")
            }
        }
    }
}
