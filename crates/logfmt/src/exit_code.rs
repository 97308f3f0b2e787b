//! Exit codes as Docker's clients give them.

use crate::event::{Builder, Dialect, Failure, Outcome, Version};

/// The exit code that Docker's client would end with.
///
/// The legacy builder passes on the code of a RUN that failed; all other failures are 1. BuildKit's are 1. A build
/// interrupted from outside ends with 128 and the number of the signal, but for BuildKit under Docker 20.10, which says 1
/// (measured).
#[must_use]
pub fn exit_code(outcome: &Outcome, dialect: Dialect) -> i32 {
    match (outcome, dialect.builder) {
        (Outcome::Success { .. }, _) => 0,
        (Outcome::Failure { failure: Failure::Run { code, .. }, .. }, Builder::Legacy) if *code != 0 => *code,
        (Outcome::Failure { failure: Failure::Tag { .. }, .. }, _) if !crate::usage::is_buildx(dialect) => {
            i32::from(crate::usage::WRONG_FLAG)
        }
        (Outcome::Failure { .. }, _) => 1,
        (Outcome::Checked { warnings, failure, ignored, .. }, _) => {
            i32::from(failure.is_some() || *warnings > 0 && !ignored)
        }
        (Outcome::Cancelled { .. }, Builder::Buildkit) if dialect.version == Version::V20 => 1,
        (Outcome::Cancelled { signal }, _) => 128 + signal.filter(|signal| (1..128).contains(signal)).unwrap_or(2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_by_dialect() {
        let failed = |failure| Outcome::Failure { failure, step: None, lines: None };
        let run = failed(Failure::Run { argv: vec!["false".into()], code: 127 });
        let parse = failed(Failure::Parse { message: "x".into(), file: None });
        let start = failed(Failure::Start { argv: vec!["x".into()], message: "exec: x".into(), code: 127 });
        let checked =
            |warnings, failure, ignored| Outcome::Checked { warnings, failure, step: None, lines: None, ignored };
        let fine = Outcome::Success { image: "sha256:0".into(), tags: vec![] };
        // outcome, legacy 20, legacy 28, BuildKit 20, BuildKit 28
        for (outcome, want) in [
            (&run, [127, 127, 1, 1]),
            (&parse, [1; 4]),
            (&start, [1; 4]),
            (&fine, [0; 4]),
            (&checked(0, None, false), [0; 4]),
            (&checked(2, None, false), [1; 4]),
            (&checked(2, None, true), [0; 4]),
            (&checked(0, Some(Failure::Parse { message: "x".into(), file: None }), false), [1; 4]),
            (&checked(0, Some(Failure::Parse { message: "x".into(), file: None }), true), [1; 4]),
            (&Outcome::Cancelled { signal: None }, [130, 130, 1, 130]),
            (&Outcome::Cancelled { signal: Some(15) }, [143, 143, 1, 143]),
            (&Outcome::Cancelled { signal: Some(i32::MAX) }, [130, 130, 1, 130]),
        ] {
            let mut got = Vec::new();
            for builder in [Builder::Legacy, Builder::Buildkit] {
                for version in [Version::V20, Version::V28] {
                    got.push(exit_code(outcome, Dialect { builder, version }));
                }
            }
            assert_eq!(got, want, "{outcome:?}");
        }
    }
}
