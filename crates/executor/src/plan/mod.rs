//! From instructions to what is to be done: stages as a graph, variables resolved, a dialect's rules applied.
//!
//! The BuildKit dialect plans all stages before anything runs ([`buildkit`]); the legacy dialect decides at each
//! instruction, as it comes ([`legacy`]).

pub(crate) mod buildkit;
mod expand;
pub(crate) mod go;
pub(crate) mod image;
pub(crate) mod legacy;
pub(crate) mod ports;
pub(crate) mod users;

use rbuild_logfmt::event::{Failure, Lines, Speaker};

/// Why nothing can be planned.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PlanError {
    pub(crate) failure: Failure,
    pub(crate) lines: Option<Lines>,
}

impl PlanError {
    /// What the builder says of a request.
    pub(crate) fn builder(message: impl Into<String>, lines: Option<Lines>) -> PlanError {
        PlanError { failure: Failure::Request { message: message.into(), by: Speaker::Builder }, lines }
    }

    /// What the builder says of an instruction.
    pub(crate) fn instruction(message: impl Into<String>, lines: Option<Lines>) -> PlanError {
        PlanError { failure: Failure::Instruction { message: message.into() }, lines }
    }
}

/// Checks the value of STOPSIGNAL (moby/sys `signal.ParseSignal`).
///
/// # Errors
/// Docker's text.
pub(crate) fn check_signal(text: &str) -> Result<(), String> {
    const NAMES: &[&str] = &[
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
        "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
        "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
    ];
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = || {
        let offset = |rest: &str, sign: char| rest.strip_prefix(sign).and_then(|n| n.parse::<u8>().ok());
        match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
            (Some(rest), _) => rest.is_empty() || offset(rest, '+').is_some_and(|n| (1..=15).contains(&n)),
            (_, Some(rest)) => rest.is_empty() || offset(rest, '-').is_some_and(|n| (1..=14).contains(&n)),
            _ => false,
        }
    };
    let number = text.parse::<i64>();
    if number.as_ref().is_ok_and(|n| *n != 0) || (number.is_err() && (NAMES.contains(&name) || real_time())) {
        Ok(())
    } else {
        Err(format!("invalid signal: {text}"))
    }
}

/// The directory that WORKDIR leads to from `current`.
fn working_dir(current: &str, path: &str) -> String {
    if path.starts_with('/') { go::clean_path(path) } else { go::join_path("/", &go::join_path(current, path)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for good in ["SIGTERM", "term", "9", "SIGRTMIN+3", "RTMAX-14", "-1"] {
            assert_eq!(check_signal(good), Ok(()), "{good}");
        }
        for bad in ["0", "SIGFOO", "", "RTMIN+16"] {
            assert_eq!(check_signal(bad), Err(format!("invalid signal: {bad}")), "{bad}");
        }
    }

    #[test]
    fn directories() {
        assert_eq!(working_dir("", "a"), "/a");
        assert_eq!(working_dir("/a", "../b/"), "/b");
        assert_eq!(working_dir("/a", "/x/../y"), "/y");
    }
}
