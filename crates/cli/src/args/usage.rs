//! Wrong numbers of arguments, in the words of Docker's clients.

use rbuild_executor::logfmt::event::Dialect;
use rbuild_logfmt::{Arity, WrongUse, WrongValue};

use super::ArgsError;

/// What Docker's client of a dialect prints and ends with, where it refuses this.
pub(crate) fn as_docker(wrong: &WrongUse, dialect: Dialect) -> Option<ArgsError> {
    Some(ArgsError::Usage { text: wrong.text(dialect)?, code: wrong.code() })
}

/// Checks that a build has one context; the error is what Docker's client of this dialect prints, which may look at names
/// for the image first.
pub(crate) fn check_build_arity(count: usize, tags: &[String], dialect: Dialect) -> Result<(), ArgsError> {
    if count == 1 {
        return Ok(());
    }
    let wrong_tag = |tag: &String| {
        let cause = WrongValue::Reference(rbuild_executor::tag_error(tag, dialect)?);
        as_docker(&WrongUse::Value { flag: "-t, --tag".to_owned(), value: tag.clone(), cause }, dialect)
    };
    let error = tags.iter().find_map(wrong_tag).or_else(|| as_docker(&WrongUse::Arguments, dialect));
    error.map_or(Ok(()), Err)
}

/// Checks the number of arguments of another command.
pub(crate) fn check_command_arity(command: &str, usage: &str, arity: Arity, count: usize) -> Result<(), ArgsError> {
    if arity.allows(count) {
        return Ok(());
    }
    Err(ArgsError::Usage {
        code: WrongUse::Arguments.code(),
        text: format!(
            "rbuild: 'rbuild {command}' {arity}\n\nUsage:  rbuild {command} {usage}\n\nRun 'rbuild {command} --help' for \
             more information\n"
        ),
    })
}

#[cfg(test)]
mod tests {
    use rbuild_executor::logfmt::event::{Builder, Version};

    use super::*;

    #[test]
    fn a_build_has_one_context() {
        let dialect = Dialect { builder: Builder::Legacy, version: Version::V20 };
        for count in [0, 2] {
            let error = check_build_arity(count, &["a:b".to_owned()], dialect).unwrap_err();
            let ArgsError::Usage { text, code: 1 } = error else { panic!("{error:?}") };
            assert!(text.starts_with("\"docker build\" requires exactly 1 argument.\n"), "{text}");
        }
        let bad = ["A/b".to_owned()];
        let error = check_build_arity(2, &bad, dialect).unwrap_err();
        let ArgsError::Usage { text, code: 125 } = error else { panic!("{error:?}") };
        assert!(text.starts_with("invalid argument \"A/b\" for \"-t, --tag\" flag: "), "{text}");
        let buildx = Dialect { builder: Builder::Buildkit, version: Version::V28 };
        let error = check_build_arity(2, &bad, buildx).unwrap_err();
        assert!(matches!(error, ArgsError::Usage { code: 1, .. }), "{error:?}");
        assert!(check_build_arity(1, &bad, dialect).is_ok());
    }

    #[test]
    fn other_commands() {
        let error = check_command_arity("rmi", "[OPTIONS] IMAGE [IMAGE...]", Arity::AtLeast(1), 0).unwrap_err();
        let ArgsError::Usage { text, code: 1 } = error else { panic!("{error:?}") };
        assert_eq!(
            text,
            "rbuild: 'rbuild rmi' requires at least 1 argument\n\nUsage:  rbuild rmi [OPTIONS] IMAGE [IMAGE...]\n\n\
             Run 'rbuild rmi --help' for more information\n"
        );
        assert!(check_command_arity("images", "A", Arity::AtMost(1), 0).is_ok());
    }
}
