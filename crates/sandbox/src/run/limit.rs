//! What commands wanted and the isolation does not give.

use crate::sys::process::ask;
use std::fmt;

/// Something that works in a container of Docker and not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// ptrace(2): a process has one tracer, and under the emulated kernel that is the supervisor.
    Debugger,
    /// The execution of a program of 32 bits by the emulated kernel.
    Program32,
}

/// The option of prctl(2) by which a worker asks its emulated kernel which limits were met since it last asked, as bits in
/// the order of [`Limit::ALL`]. No other kernel has it.
pub(crate) const TELL_LIMITS: u32 = 0x7262_6c6d;

impl Limit {
    const ALL: [Self; 2] = [Self::Debugger, Self::Program32];

    pub(crate) const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// The system call, the isolation and the remedy.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (call, why) = match self {
            Self::Debugger => ("ptrace", "a process has one tracer, which is rbuild"),
            Self::Program32 => ("execve", "the program is one of 32 bits"),
        };
        write!(
            f,
            "`{call}` was refused under the isolation `ptrace`: {why}; it works where user namespaces with many ids do, \
             see `rbuild doctor`"
        )
    }
}

/// The limits that commands have met since this was last called; only in a worker, which runs several commands at once.
pub fn limits_met() -> Vec<Limit> {
    let bits = ask(TELL_LIMITS).unwrap_or(0);
    Limit::ALL.into_iter().filter(|limit| bits & limit.bit() != 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_names_call_isolation_and_remedy() {
        for limit in Limit::ALL {
            let text = limit.to_string();
            assert!(
                text.contains("isolation `ptrace`") && text.contains("rbuild doctor") && !text.contains('\n'),
                "{text}"
            );
        }
        // No other kernel knows of any.
        assert_eq!(limits_met(), []);
    }
}
