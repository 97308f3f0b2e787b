//! The seccomp filter of a command.
//!
//! The calls are sorted into intervals and found by search; conditions on arguments are compiled by `seccompiler`.

mod profile;

use crate::{
    bpf::{
        AND, ARCH_OFFSET, ARGUMENTS_OFFSET, AUDIT_ARCH_AARCH64, AUDIT_ARCH_I386, AUDIT_ARCH_X86_64, JUMP,
        JUMP_IF_EQUAL, LOAD, NUMBER_OFFSET, RET_ALLOW, RET_ERRNO, RET_USER_NOTIF, RETURN, jump, search, statement,
    },
    sys,
};
use nix::libc;
use profile::{ABSENT, ALLOWED, CONDITIONAL, Call, Condition};
use rustix::{fd::OwnedFd, io::Errno};
use seccompiler::{BpfProgram, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule, sock_filter};
use std::{collections::BTreeMap, io};

/// A kind of system call table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arch {
    X86_64,
    X86,
    Aarch64,
}

impl Arch {
    /// Those that a kernel of this program's architecture serves and the profile knows.
    const NATIVE: &'static [Self] = if cfg!(target_arch = "x86_64") {
        &[Self::X86_64, Self::X86]
    } else if cfg!(target_arch = "aarch64") {
        &[Self::Aarch64]
    } else {
        &[]
    };

    fn audit(self) -> u32 {
        match self {
            Self::X86_64 => AUDIT_ARCH_X86_64,
            Self::X86 => AUDIT_ARCH_I386,
            Self::Aarch64 => AUDIT_ARCH_AARCH64,
        }
    }

    fn number(self, call: &Call) -> Option<u32> {
        let number = match self {
            Self::X86_64 => call.x86_64,
            Self::X86 => call.x86,
            Self::Aarch64 => call.aarch64,
        };
        u32::try_from(number).ok()
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Verdict {
    Allow,
    Error(Errno),
    If(&'static [Condition]),
}

/// Puts Docker's default profile on this process.
pub(crate) fn confine() -> io::Result<()> {
    sys::filter::install(&profile()?)
}

/// The same, with somebody who makes device nodes in the name of the process ([`crate::run`]): gives the descriptor for
/// him, or `None` where there is one already around this process.
pub(crate) fn confine_but_devices() -> io::Result<Option<OwnedFd>> {
    let mut program = devices();
    program.extend(profile()?);
    match sys::notify::install(&program) {
        Ok(listener) => Ok(Some(listener)),
        Err(Errno::BUSY) => confine().map(|()| None),
        Err(errno) => Err(errno.into()),
    }
}

fn profile() -> io::Result<Vec<sock_filter>> {
    if Arch::NATIVE.is_empty() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "no seccomp profile for this architecture"));
    }
    compile(Arch::NATIVE).map_err(io::Error::other)
}

/// The option of prctl(2) by which a process asks for the end of such notifications, since it has a use for some of its own
/// and there can be one listener only. No kernel has it.
pub(crate) const RELEASE: u32 = 0x7262_7265;

/// Notifies mknod(2) of a device, and [`RELEASE`]; all else is for the program that comes after it.
fn devices() -> Vec<sock_filter> {
    let number = |name: &str| {
        let call = ALLOWED.iter().find(|call| call.name == name)?;
        Arch::NATIVE.first()?.number(call)
    };
    // The type is in the second argument of one call, in the third of the other.
    let calls = [(number("mknod"), 1), (number("mknodat"), 2)];
    let mut program = Vec::new();
    for (number, mode) in calls.iter().filter_map(|(number, mode)| Some(((*number)?, *mode))) {
        program.extend([
            statement(LOAD, NUMBER_OFFSET),
            jump(JUMP_IF_EQUAL, number, 0, 5),
            statement(LOAD, ARGUMENTS_OFFSET + 8 * mode),
            statement(AND, libc::S_IFMT),
            jump(JUMP_IF_EQUAL, libc::S_IFCHR, 1, 0),
            jump(JUMP_IF_EQUAL, libc::S_IFBLK, 0, 1),
            statement(RETURN, RET_USER_NOTIF),
        ]);
    }
    if let Some(number) = number("prctl") {
        program.extend([
            statement(LOAD, NUMBER_OFFSET),
            jump(JUMP_IF_EQUAL, number, 0, 3),
            statement(LOAD, ARGUMENTS_OFFSET),
            jump(JUMP_IF_EQUAL, RELEASE, 0, 1),
            statement(RETURN, RET_USER_NOTIF),
        ]);
    }
    let arch = Arch::NATIVE.first().map_or(0, |arch| arch.audit());
    let skip = statement(JUMP, program.len() as u32);
    [vec![statement(LOAD, ARCH_OFFSET), jump(JUMP_IF_EQUAL, arch, 1, 0), skip], program].concat()
}

fn compile(arches: &[Arch]) -> Result<Vec<sock_filter>, seccompiler::BackendError> {
    let sections = arches.iter().map(|&arch| section(arch)).collect::<Result<Vec<_>, _>>()?;
    let mut program = vec![statement(LOAD, ARCH_OFFSET)];
    // After the two instructions of this architecture come those of the further ones, and the refusal.
    let mut distance = 2 * arches.len() as u32;
    for (arch, section) in arches.iter().zip(&sections) {
        program.push(jump(JUMP_IF_EQUAL, arch.audit(), 0, 1));
        distance -= 2;
        program.push(statement(JUMP, distance + 1));
        distance += section.len() as u32;
    }
    program.push(error(Errno::NOSYS));
    program.extend(sections.into_iter().flatten());
    Ok(program)
}

/// The part for one system call table.
fn section(arch: Arch) -> Result<Vec<sock_filter>, seccompiler::BackendError> {
    let mut verdicts = BTreeMap::new();
    let allowed = ALLOWED.iter().map(|call| (call, Verdict::Allow));
    let absent = ABSENT.iter().map(|call| (call, Verdict::Error(Errno::NOSYS)));
    let conditional = CONDITIONAL.iter().map(|(call, conditions)| (call, Verdict::If(conditions)));
    for (call, verdict) in allowed.chain(absent).chain(conditional) {
        if let Some(number) = arch.number(call) {
            verdicts.insert(number, verdict);
        }
    }
    // Each interval begins at its number and ends before the next one's.
    let mut intervals = vec![(0, Verdict::Error(Errno::PERM))];
    for (number, verdict) in verdicts {
        push(&mut intervals, number, verdict);
        push(&mut intervals, number + 1, Verdict::Error(Errno::PERM));
    }
    let mut merged: Vec<(u32, Verdict)> = Vec::with_capacity(intervals.len());
    for interval in intervals {
        if merged.last().is_none_or(|last| last.1 != interval.1) {
            merged.push(interval);
        }
    }
    let mut code = vec![statement(LOAD, NUMBER_OFFSET)];
    code.extend(search(&merged, &leaf)?);
    Ok(code)
}

fn push(intervals: &mut Vec<(u32, Verdict)>, from: u32, verdict: Verdict) {
    match intervals.last_mut() {
        Some(last) if last.0 == from => last.1 = verdict,
        _ => intervals.push((from, verdict)),
    }
}

fn leaf(verdict: Verdict) -> Result<Vec<sock_filter>, seccompiler::BackendError> {
    Ok(match verdict {
        Verdict::Allow => vec![statement(RETURN, RET_ALLOW)],
        Verdict::Error(errno) => vec![error(errno)],
        Verdict::If(conditions) => {
            let mut code = Vec::new();
            for condition in conditions {
                let (operator, value) = match *condition {
                    Condition::Equal(value) => (SeccompCmpOp::Eq, value),
                    Condition::Below(value) => (SeccompCmpOp::Lt, value),
                    Condition::Above(value) => (SeccompCmpOp::Gt, value),
                    Condition::Without(mask) => (SeccompCmpOp::MaskedEq(mask), 0),
                };
                let condition = SeccompCondition::new(0, SeccompCmpArgLen::Qword, operator, value)?;
                // Where the rule does not hold, its code jumps over the one instruction after it.
                code.extend(BpfProgram::from(SeccompRule::new(vec![condition])?));
                code.push(statement(RETURN, RET_ALLOW));
            }
            code.push(error(Errno::PERM));
            code
        }
    })
}

fn error(errno: Errno) -> sock_filter {
    statement(RETURN, RET_ERRNO | errno.raw_os_error().unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::interpret;

    const EPERM: u32 = RET_ERRNO | 1;
    const ENOSYS: u32 = RET_ERRNO | 38;

    #[test]
    fn verdicts_are_those_of_the_profile() {
        for arches in [&[Arch::X86_64, Arch::X86][..], &[Arch::Aarch64]] {
            let program = compile(arches).unwrap();
            for &arch in arches {
                let verdict = |number, argument| interpret(&program, arch.audit(), number, [argument, 0, 0, 0, 0, 0]).0;
                let known: Vec<u32> = ALLOWED.iter().filter_map(|call| arch.number(call)).collect();
                let special: Vec<u32> = CONDITIONAL
                    .iter()
                    .map(|(call, _)| call)
                    .chain(ABSENT)
                    .filter_map(|call| arch.number(call))
                    .collect();
                for number in 0..600 {
                    if !special.contains(&number) {
                        let expected = if known.contains(&number) { RET_ALLOW } else { EPERM };
                        assert_eq!(verdict(number, 7), expected, "{arch:?} {number}");
                    }
                }
                let number = |name: &str| {
                    CONDITIONAL.iter().find(|(call, _)| call.name == name).and_then(|(c, _)| arch.number(c)).unwrap()
                };
                assert_eq!(verdict(435, 0), ENOSYS);
                assert_eq!(verdict(number("clone"), 0x11), RET_ALLOW);
                assert_eq!(verdict(number("clone"), 0x1000_0011), EPERM);
                assert_eq!(verdict(number("socket"), 2), RET_ALLOW);
                assert_eq!(verdict(number("socket"), 38), EPERM);
                assert_eq!(verdict(number("socket"), 39), RET_ALLOW);
                assert_eq!(verdict(number("socket"), 40), EPERM);
                assert_eq!(verdict(number("socket"), 41), RET_ALLOW);
                assert_eq!(verdict(number("personality"), 0xffff_ffff), RET_ALLOW);
                assert_eq!(verdict(number("personality"), 1), EPERM);
                assert_eq!(verdict(0x4000_0000, 0), EPERM, "x32");
            }
            assert_eq!(interpret(&program, 0x28, 1, [0; 6]).0, ENOSYS, "an architecture without a table");
            assert!(program.len() < 2000, "{} instructions", program.len());
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn devices_are_notified() {
        let mut program = devices();
        program.extend(profile().unwrap());
        let verdict = |arch, number: i64, arguments| interpret(&program, arch, number as u32, arguments).0;
        let path = 0xffff_7fff;
        for (kind, expected) in [
            (libc::S_IFCHR, RET_USER_NOTIF),
            (libc::S_IFBLK, RET_USER_NOTIF),
            (libc::S_IFIFO, RET_ALLOW),
            (libc::S_IFSOCK, RET_ALLOW),
            (libc::S_IFREG, RET_ALLOW),
            (0, RET_ALLOW),
        ] {
            let mode = u64::from(kind | 0o644);
            assert_eq!(verdict(AUDIT_ARCH_X86_64, libc::SYS_mknod, [path, mode, 0x103, 0, 0, 0]), expected);
            assert_eq!(verdict(AUDIT_ARCH_X86_64, libc::SYS_mknodat, [1, path, mode, 0x103, 0, 0]), expected);
            // Of another table, where the number means something else.
            assert_ne!(verdict(AUDIT_ARCH_I386, libc::SYS_mknod, [path, mode, 0x103, 0, 0, 0]), RET_USER_NOTIF);
        }
        assert_eq!(verdict(AUDIT_ARCH_X86_64, libc::SYS_prctl, [RELEASE.into(), 0, 0, 0, 0, 0]), RET_USER_NOTIF);
        assert_eq!(verdict(AUDIT_ARCH_X86_64, libc::SYS_prctl, [4, 0, 0, 0, 0, 0]), RET_ALLOW);
        assert_eq!(verdict(AUDIT_ARCH_X86_64, libc::SYS_read, [0; 6]), RET_ALLOW);
        assert_eq!(verdict(AUDIT_ARCH_X86_64, libc::SYS_mount, [0; 6]), EPERM);
    }

    #[test]
    fn no_number_is_given_twice() {
        for arch in [Arch::X86_64, Arch::X86, Arch::Aarch64] {
            let all = ALLOWED.iter().chain(CONDITIONAL.iter().map(|(call, _)| call)).chain(ABSENT);
            let mut seen = BTreeMap::new();
            for call in all {
                if let Some(number) = arch.number(call) {
                    assert_eq!(seen.insert(number, call.name), None, "{arch:?} {}", call.name);
                }
            }
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn numbers_are_the_kernels() {
        use nix::libc;
        for (name, number) in [
            ("execve", libc::SYS_execve),
            ("fchmodat2", libc::SYS_fchmodat2),
            ("mseal", libc::SYS_mseal),
            ("openat2", libc::SYS_openat2),
            ("chroot", libc::SYS_chroot),
        ] {
            let call = ALLOWED.iter().find(|call| call.name == name).unwrap();
            assert_eq!(i64::from(call.x86_64), number, "{name}");
        }
        for name in
            ["mount", "unshare", "setns", "bpf", "keyctl", "add_key", "kexec_load", "open_by_handle_at", "reboot"]
        {
            assert!(ALLOWED.iter().all(|call| call.name != name), "{name}");
        }
    }
}
