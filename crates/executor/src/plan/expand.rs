//! Which words of an instruction have their variables expanded.

use rbuild_parser::words::WordError;
use rbuild_parser::{Add, ArgVariable, Copy, InstructionKind, KeyValue, SourcesAndDest};

/// Expands the words of an instruction that Docker expands as single words. ARG, EXPOSE and the mounts of RUN have
/// rules of their own and are left as they are, as are the instructions that expand nothing.
pub(crate) fn expand(
    kind: &InstructionKind,
    word: &mut dyn FnMut(&str) -> Result<String, WordError>,
) -> Result<InstructionKind, WordError> {
    let mut each = |list: &[String]| list.iter().map(|item| word(item)).collect::<Result<Vec<_>, _>>();
    Ok(match kind {
        InstructionKind::Env(pairs) => InstructionKind::Env(key_values(pairs, word)?),
        InstructionKind::Label(pairs) => InstructionKind::Label(key_values(pairs, word)?),
        InstructionKind::Workdir(path) => InstructionKind::Workdir(word(path)?),
        InstructionKind::User(user) => InstructionKind::User(word(user)?),
        InstructionKind::StopSignal(signal) => InstructionKind::StopSignal(word(signal)?),
        InstructionKind::Volume(volumes) => InstructionKind::Volume(each(volumes)?),
        // In Docker's order, which warnings about the words show. Patterns of --exclude are not expanded.
        InstructionKind::Copy(copy) => InstructionKind::Copy(Copy {
            chown: optional(copy.chown.as_deref(), word)?,
            chmod: optional(copy.chmod.as_deref(), word)?,
            paths: paths(&copy.paths, word)?,
            ..copy.clone()
        }),
        InstructionKind::Add(add) => InstructionKind::Add(Add {
            chown: optional(add.chown.as_deref(), word)?,
            chmod: optional(add.chmod.as_deref(), word)?,
            checksum: optional(add.checksum.as_deref(), word)?,
            paths: paths(&add.paths, word)?,
            ..add.clone()
        }),
        other => other.clone(),
    })
}

/// Expands names and values of a legacy ARG.
pub(crate) fn expand_args(
    variables: &[ArgVariable],
    word: &mut dyn FnMut(&str) -> Result<String, WordError>,
) -> Result<Vec<ArgVariable>, WordError> {
    let expand_one = |variable: &ArgVariable, word: &mut dyn FnMut(&str) -> Result<String, WordError>| {
        Ok(ArgVariable {
            key: word(&variable.key)?,
            value: optional(variable.value.as_deref(), word)?,
            comment: variable.comment.clone(),
        })
    };
    variables.iter().map(|variable| expand_one(variable, word)).collect()
}

fn key_values(
    pairs: &[KeyValue],
    word: &mut dyn FnMut(&str) -> Result<String, WordError>,
) -> Result<Vec<KeyValue>, WordError> {
    let mut out = Vec::with_capacity(pairs.len());
    for pair in pairs {
        out.push(KeyValue { key: word(&pair.key)?, value: word(&pair.value)?, ..pair.clone() });
    }
    Ok(out)
}

fn paths(
    paths: &SourcesAndDest,
    word: &mut dyn FnMut(&str) -> Result<String, WordError>,
) -> Result<SourcesAndDest, WordError> {
    let sources = paths.sources.iter().map(|source| word(source)).collect::<Result<_, _>>()?;
    Ok(SourcesAndDest { sources, dest: word(&paths.dest)?, contents: paths.contents.clone() })
}

fn optional(
    text: Option<&str>,
    word: &mut dyn FnMut(&str) -> Result<String, WordError>,
) -> Result<Option<String>, WordError> {
    text.map(word).transpose()
}
