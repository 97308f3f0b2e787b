//! What the legacy builder refuses although it parses it.

use crate::instruction::{Instruction, InstructionKind, SourcesAndDest};
use crate::options::Version;

/// An instruction that the legacy builder refuses when it comes to it; displays as Docker's error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LegacyError {
    /// A flag that only BuildKit honours.
    #[error(
        "the --{flag} option requires BuildKit. Refer to https://docs.docker.com/go/buildkit/ to \
         learn how to build images with BuildKit enabled"
    )]
    RequiresBuildkit {
        /// The flag, without dashes.
        flag: String,
    },
    /// COPY or ADD of nothing but here-documents, which the legacy builder passes over.
    #[error("{instruction} failed: no source files were specified")]
    NoSources {
        /// The instruction.
        instruction: &'static str,
    },
}

/// Checks an instruction as the legacy builder does before it runs it. Flags that may hold
/// variables (`--chmod=$MODE`) are to be expanded before: an empty one is as good as none.
///
/// What is neither here nor an error of the parser the legacy builder passes over without a word:
/// `--link`, `--exclude`, `--checksum`, `--keep-git-dir`, `--unpack`, and the bodies of
/// here-documents. Docker's answer to several flags of a RUN is any of them; here it is the first.
///
/// # Errors
///
/// What Docker answers.
pub fn legacy_check(instruction: &Instruction, version: Version) -> Result<(), LegacyError> {
    let chmod = |chmod: &Option<String>| match chmod {
        Some(_) => Err(LegacyError::RequiresBuildkit { flag: "chmod".to_owned() }),
        None => Ok(()),
    };
    match &instruction.kind {
        InstructionKind::Run(run) => match run.flags_used.first() {
            Some(flag) => Err(LegacyError::RequiresBuildkit { flag: flag.clone() }),
            None => Ok(()),
        },
        InstructionKind::Copy(copy) => {
            chmod(&copy.chmod)?;
            has_sources(&copy.paths, "COPY", version)
        }
        InstructionKind::Add(add) => {
            chmod(&add.chmod)?;
            has_sources(&add.paths, "ADD", version)
        }
        _ => Ok(()),
    }
}

fn has_sources(paths: &SourcesAndDest, instruction: &'static str, version: Version) -> Result<(), LegacyError> {
    // 20.10 has no here-documents, so that what looks like one is a source.
    if version >= Version::V28 && paths.sources.is_empty() {
        return Err(LegacyError::NoSources { instruction });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    #[test]
    fn refuses_what_needs_buildkit() {
        let help = "Refer to https://docs.docker.com/go/buildkit/ to learn how to build images \
                    with BuildKit enabled";
        for (line, flag) in [
            ("RUN --mount=type=cache,target=/x true", Some("mount")),
            ("RUN --network=none --mount=target=/x true", Some("network")),
            ("RUN true", None),
            ("COPY --chmod=755 a /a", Some("chmod")),
            ("COPY --chmod= a /a", None),
            ("COPY --link --exclude=*.o a /a", None),
            ("ADD --chmod=755 a /a", Some("chmod")),
            ("ADD --checksum=sha256:00 a /a", None),
            ("ENV A=1", None),
        ] {
            let file = parse(format!("FROM scratch\n{line}\n").as_bytes()).unwrap();
            let stages = file.instructions().unwrap().stages;
            let found = legacy_check(&stages[0].instructions[0], Version::V28);
            let expected = flag.map(|flag| format!("the --{flag} option requires BuildKit. {help}"));
            assert_eq!(found.err().map(|e| e.to_string()), expected, "{line}");
        }
    }

    #[test]
    fn refuses_copies_of_nothing() {
        let file = parse(b"FROM scratch\nCOPY <<EOF /a\nEOF\nADD <<EOF /a\nEOF\n").unwrap();
        let stages = file.instructions().unwrap().stages;
        let errors: Vec<String> =
            stages[0].instructions.iter().map(|i| legacy_check(i, Version::V28).unwrap_err().to_string()).collect();
        assert_eq!(
            errors,
            ["COPY failed: no source files were specified", "ADD failed: no source files were specified"]
        );
    }
}
