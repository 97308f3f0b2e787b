//! What Docker says of failures, by builder and release.
//!
//! Texts were taken from runs of Docker 20.10.24 and 28.5.2.

use crate::event::{Builder, Dialect, DownloadProblem, Failure, Part, Speaker, StepKind, Version};
use crate::go_quote::quote;
use crate::reference::canonical;
use crate::report::report;
use crate::repository_failure::RepositoryProblem;
use crate::usage::{WrongUse, WrongValue};
use crate::{download_text, pull_text, repository_text};

/// The legacy client's last words on standard error, without the line feed. `None` for our own failures.
pub(crate) fn legacy(failure: &Failure, version: Version) -> Option<String> {
    Some(match failure {
        Failure::Parse { message, file: Some(file) } => {
            format!("Error response from daemon: failed to parse {file}: {message}")
        }
        Failure::Parse { message, file: None } | Failure::Request { message, by: Speaker::Daemon } => {
            format!("Error response from daemon: {message}")
        }
        Failure::Request { message, .. } | Failure::Setup { message, .. } | Failure::Instruction { message } => {
            message.clone()
        }
        Failure::Tag { tag, reason } => {
            return wrong_tag(tag, reason).hint(Dialect { builder: Builder::Legacy, version });
        }
        Failure::Run { argv, code } => {
            format!("The command '{}' returned a non-zero code: {code}", argv.join(" "))
        }
        Failure::Start { message, .. } => match version {
            Version::V20 => format!(
                "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container \
                 process: {message}: unknown"
            ),
            Version::V28 => format!(
                "failed to create task for container: failed to create shim task: OCI runtime create failed: runc \
                 create failed: unable to start container process: error during container init: {message}"
            ),
        },
        Failure::Copy { instruction, message, .. } => format!("{instruction} failed: {message}"),
        Failure::Lint { rules } => lint(rules),
        Failure::Pull { reference, cause, flag } => {
            let why = pull_text::legacy(reference, cause, version);
            match flag {
                Some(flag) => format!("invalid from flag value {flag}: {why}"),
                None => why,
            }
        }
        Failure::Download { url, problem } => format!("ADD failed: {}", download_text::legacy(url, problem, version)),
        Failure::ContextDownload { url, problem } => {
            let why = download_text::legacy(url, problem, version);
            format!("unable to prepare context: unable to download remote context {url}: {why}")
        }
        Failure::Repository { remote, problem, .. } => repository_text::legacy(remote, problem),
        Failure::Own { .. } => return None,
    })
}

/// Whether the file came, but is another: BuildKit finds that when it has the key.
fn is_checksum(problem: &DownloadProblem) -> bool {
    matches!(problem, DownloadProblem::Checksum { .. })
}

/// A name for the image that is none.
fn wrong_tag(tag: &str, reason: &str) -> WrongUse {
    let cause = WrongValue::Reference(reason.to_owned());
    WrongUse::Value { flag: "-t, --tag".to_owned(), value: tag.to_owned(), cause }
}

/// What BuildKit says at the step, after `ERROR: `. `vertex` is the digest of the step.
pub(crate) fn vertex(failure: &Failure, version: Version, vertex: &str) -> String {
    match failure {
        Failure::Run { argv, code } | Failure::Start { argv, code, .. } => {
            process(argv, &format!("exit code: {code}"), version)
        }
        Failure::Setup { argv, message } if !argv.is_empty() => process(argv, message, version),
        Failure::Parse { message, .. }
        | Failure::Request { message, .. }
        | Failure::Setup { message, .. }
        | Failure::Instruction { message } => message.clone(),
        Failure::Tag { tag, reason } => format!("invalid tag {}: {reason}", quote(tag)),
        Failure::Copy { message, missing: None, .. } => message.clone(),
        Failure::Copy { message, missing: Some(path), .. } => match version {
            Version::V20 => format!("{} not found: not found", quote(path)),
            Version::V28 if message.starts_with("failed to calculate checksum of ref ") => message.clone(),
            Version::V28 => {
                let cause = match message.as_str() {
                    // It is there, but leads nowhere.
                    "too many links" => message.clone(),
                    _ => format!("{}: not found", quote(path)),
                };
                format!("failed to calculate checksum of ref {}: {cause}", source_ref(vertex))
            }
        },
        Failure::Lint { rules } => lint(rules),
        Failure::Pull { reference, cause, .. } => pull_text::vertex(reference, cause, version),
        Failure::Download { url, problem } | Failure::ContextDownload { url, problem } => {
            download_text::buildkit(url, problem, version)
        }
        Failure::Repository { remote, problem, .. } => repository_text::buildkit(remote, problem, version),
        Failure::Own { message, .. } => message.lines().next().unwrap_or_default().to_owned(),
    }
}

fn lint(rules: &[String]) -> String {
    format!("lint violation found for rules: {}", rules.join(", "))
}

fn process(argv: &[String], what: &str, version: Version) -> String {
    let command = argv.join(" ");
    match version {
        Version::V20 => format!("executor failed running [{command}]: {what}"),
        Version::V28 => format!("process {} did not complete successfully: {what}", quote(&command)),
    }
}

/// BuildKit names the snapshot of the source by ids drawn at random; here they come from the step, so that a log
/// repeats.
fn source_ref(vertex: &str) -> String {
    let digest = vertex.rsplit(':').next().unwrap_or_default();
    let hex: String = digest.chars().filter(char::is_ascii_hexdigit).chain("0".repeat(64).chars()).take(57).collect();
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}::{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32), part(32, 57))
}

/// BuildKit's client's last words on standard error, with the line feed; `step` is the step that failed, and its digest;
/// `frontend`: an image read the Dockerfile, and not what the release has built in.
pub(crate) fn buildkit(failure: &Failure, version: Version, step: Option<(&StepKind, &str)>, frontend: bool) -> String {
    if let Failure::Own { message, hint } = failure {
        return report(message, hint.as_deref());
    }
    if let (Failure::Tag { tag, reason }, Version::V20) = (failure, version)
        && let Some(text) = wrong_tag(tag, reason).hint(Dialect { builder: Builder::Buildkit, version })
    {
        return format!("{text}\n");
    }
    if let Failure::Request { by: Speaker::Client, .. } | Failure::Tag { .. } = failure {
        let message = vertex(failure, version, "");
        return match version {
            Version::V20 => format!("{message}\n"),
            Version::V28 => format!("ERROR: failed to build: {message}\n"),
        };
    }
    match version {
        Version::V20 => {
            let text = vertex(failure, version, step.map_or("", |(_, digest)| digest));
            let built_in = "failed to solve with frontend dockerfile.v0: ";
            let converting = match frontend {
                false => "failed to solve with frontend dockerfile.v0: failed to create LLB definition: ",
                // What an image says comes through a connection.
                true => {
                    "failed to solve with frontend dockerfile.v0: failed to solve with frontend gateway.v0: rpc error: \
                     code = Unknown desc = "
                }
            };
            if let Some(prefix) = context_prefix(failure, step.map(|(kind, _)| kind)) {
                return format!("{built_in}{prefix}{text}\n");
            }
            let prefix = match (failure, step.map(|(kind, _)| kind)) {
                (Failure::Request { by: Speaker::Daemon, .. }, _) => built_in,
                (Failure::Repository { resolving: true, .. }, _) => "failed to load cache key: ",
                (Failure::Copy { missing: Some(_), .. }, _) => "failed to compute cache key: ",
                (Failure::Download { problem, .. }, _) if !is_checksum(problem) => "failed to load cache key: ",
                (Failure::Pull { .. }, Some(StepKind::ResolveFrontend { argument: Some(argument), .. })) => {
                    let gateway = "failed to solve with frontend gateway.v0: ";
                    return format!("{built_in}failed with build-arg:BUILDKIT_SYNTAX = {argument}: {gateway}{text}\n");
                }
                (Failure::Pull { .. }, Some(StepKind::ResolveFrontend { .. } | StepKind::LoadFrontend { .. })) => {
                    "failed to solve with frontend dockerfile.v0: failed to solve with frontend gateway.v0: "
                }
                // The layers come after it is known which image it is.
                (Failure::Pull { cause, .. }, Some(StepKind::Image { .. })) if cause.part() != Some(Part::Layer) => {
                    "failed to load cache key: "
                }
                (Failure::Parse { .. } | Failure::Request { .. }, _) => converting,
                (_, None | Some(StepKind::LoadMetadata { .. } | StepKind::LoadContextMetadata { .. })) => converting,
                _ => "",
            };
            format!("{prefix}{text}\n")
        }
        Version::V28 => format!("ERROR: failed to build: failed to solve: {}\n", solve_error(failure, step)),
    }
}

/// What BuildKit was doing when a context from elsewhere could not be had: the frontend fetches that for itself, to read
/// the Dockerfile.
fn context_prefix(failure: &Failure, step: Option<&StepKind>) -> Option<&'static str> {
    match (failure, step?) {
        (Failure::Repository { resolving: true, .. }, StepKind::LoadRepository { .. }) => {
            Some("failed to read dockerfile: failed to load cache key: ")
        }
        (Failure::Own { .. }, _) => None,
        (Failure::Download { .. }, StepKind::LoadRemoteContext) => {
            Some("failed to read downloaded context: failed to load cache key: ")
        }
        (_, StepKind::LoadRepository { .. } | StepKind::CopyContext) => Some("failed to read dockerfile: "),
        _ => None,
    }
}

/// What BuildKit 28 says to its client of a failure, without the client's own words.
pub(crate) fn solve_error(failure: &Failure, step: Option<(&StepKind, &str)>) -> String {
    if let Failure::Pull { reference, cause, .. } = failure
        && pull_text::is_about_token(cause)
    {
        return pull_text::token(reference, cause, Version::V28);
    }
    let prefix = match (failure, step.map(|(kind, _)| kind)) {
        (failure, kind) if context_prefix(failure, kind).is_some() => {
            context_prefix(failure, kind).unwrap_or_default().to_owned()
        }
        (Failure::Repository { resolving: true, .. }, _) => "failed to load cache key: ".to_owned(),
        (Failure::Copy { missing: Some(_), .. }, _) => "failed to compute cache key: ".to_owned(),
        (Failure::Download { problem, .. }, _) if !is_checksum(problem) => "failed to load cache key: ".to_owned(),
        (
            Failure::Pull { reference, .. },
            Some(StepKind::ResolveFrontend { .. } | StepKind::LoadContextMetadata { .. }),
        ) => {
            format!("failed to resolve source metadata for {}: ", canonical(reference))
        }
        (Failure::Pull { reference, .. }, None | Some(StepKind::LoadMetadata { .. })) => {
            format!("{reference}: failed to resolve source metadata for {}: ", canonical(reference))
        }
        _ => String::new(),
    };
    format!("{prefix}{}", vertex(failure, Version::V28, step.map_or("", |(_, digest)| digest)))
}

/// A failure that no log tells of.
#[must_use]
pub fn failure_report(failure: &Failure) -> String {
    match failure {
        Failure::Own { message, hint } => report(message, hint.as_deref()),
        Failure::Repository { remote, problem: RepositoryProblem::Git { failed, .. }, .. } => {
            let causes = failed.output.trim_end();
            report(&format!("cannot fetch `{remote}`: git failed\n{causes}"), None)
        }
        failure => report(&vertex(failure, Version::V28, ""), None),
    }
}

/// BuildKit's client's last words when the build was interrupted, with the line feed.
pub(crate) fn buildkit_cancelled(version: Version) -> &'static str {
    match version {
        Version::V20 => "context canceled\n",
        Version::V28 => "ERROR: failed to build: failed to solve: Canceled: context canceled\n",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{PullFailure, Refusal, Request};

    #[test]
    fn no_dockerfile_at_all() {
        let failure = Failure::Parse { message: "file with no instructions".into(), file: Some("a/b".into()) };
        for version in [Version::V20, Version::V28] {
            assert_eq!(
                legacy(&failure, version).unwrap(),
                "Error response from daemon: failed to parse a/b: file with no instructions"
            );
            assert_eq!(vertex(&failure, version, ""), "file with no instructions");
        }
    }

    #[test]
    fn a_bad_name_of_the_image() {
        let failure = Failure::Tag { tag: "a\u{7}:b c".into(), reason: "invalid reference format".into() };
        assert_eq!(
            legacy(&failure, Version::V20).unwrap(),
            "invalid argument \"a\\a:b c\" for \"-t, --tag\" flag: invalid reference format\nSee 'docker build --help'."
        );
        assert_eq!(
            buildkit(&failure, Version::V28, None, false),
            "ERROR: failed to build: invalid tag \"a\\a:b c\": invalid reference format\n"
        );
    }

    #[test]
    fn starting_a_missing_program() {
        let failure = Failure::Start {
            argv: vec!["nosuchbinary".into(), "x".into()],
            message: "exec: \"nosuchbinary\": executable file not found in $PATH".into(),
            code: 1,
        };
        assert_eq!(
            legacy(&failure, Version::V20).unwrap(),
            "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container \
             process: exec: \"nosuchbinary\": executable file not found in $PATH: unknown"
        );
        assert_eq!(
            legacy(&failure, Version::V28).unwrap(),
            "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create \
             failed: unable to start container process: error during container init: exec: \"nosuchbinary\": \
             executable file not found in $PATH"
        );
        assert_eq!(
            buildkit(&failure, Version::V28, None, false),
            "ERROR: failed to build: failed to solve: process \"nosuchbinary x\" did not complete successfully: exit \
             code: 1\n"
        );
    }

    #[test]
    fn the_registry_says_no() {
        let refused = |challenge: Option<&str>, status, body: &str| Failure::Pull {
            reference: "nosuchrepo/img".into(),
            flag: None,
            cause: Box::new(PullFailure::Refused(Box::new(Refusal {
                request: Request {
                    part: Part::Name,
                    method: "GET".into(),
                    url: "https://registry-1.docker.io/v2/nosuchrepo/img/manifests/latest".into(),
                    user: false,
                    content: None,
                },
                status,
                head: Some(status),
                content_type: Some("application/json".into()),
                body: body.into(),
                challenge: challenge.map(str::to_owned),
            }))),
        };
        let denied = refused(Some("insufficient_scope"), 401, "{}");
        assert_eq!(
            legacy(&denied, Version::V28).unwrap(),
            "pull access denied for nosuchrepo/img, repository does not exist or may require 'docker login': denied: \
             requested access to the resource is denied"
        );
        let missing =
            refused(None, 404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":1}]}"#);
        let step = StepKind::LoadMetadata { reference: "docker.io/nosuchrepo/img:latest".into() };
        assert_eq!(
            buildkit(&missing, Version::V28, Some((&step, "")), false),
            "ERROR: failed to build: failed to solve: nosuchrepo/img: failed to resolve source metadata for \
             docker.io/nosuchrepo/img:latest: docker.io/nosuchrepo/img:latest: not found\n"
        );
        assert_eq!(
            legacy(&missing, Version::V28).unwrap(),
            "manifest for nosuchrepo/img:latest not found: manifest unknown: manifest unknown"
        );
    }

    #[test]
    fn a_missing_source_has_a_ref_of_the_usual_form() {
        let text = source_ref("sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef");
        assert_eq!(text, "01234567-89ab-cdef-0123-456789abcdef::0123456789abcdef012345678");
        assert_eq!(source_ref("").len(), 36 + 2 + 25);
    }
}
