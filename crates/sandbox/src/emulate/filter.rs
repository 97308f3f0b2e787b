//! The seccomp program that hands calls to the supervisor.
//!
//! Of several filters the kernel takes the strictest result, and a container's own filter refuses much of what is
//! emulated here (mounts, namespaces, chroot) with an error, which is stricter than a notification. A *trap* is stricter
//! still: such calls end in SIGSYS, which the tracer sees before the task does.
//!
//! What is simply allowed depends on the number alone, so that the kernel (5.11) need not run the program for it.

use super::calls::table::{Disposition, TABLE};
use crate::{
    bpf::{
        ARCH_OFFSET, ARGUMENTS_OFFSET, AUDIT_ARCH_X86_64, JUMP_IF_EQUAL, LOAD, NUMBER_OFFSET, RET_ALLOW, RET_ERRNO,
        RET_USER_NOTIF, RETURN, jump, search, statement,
    },
    run::TELL_LIMITS,
};
use nix::libc;
use seccompiler::sock_filter;
use std::convert::Infallible;

/// `linux/bpf_common.h`.
const JUMP_IF_ANY_BIT: u16 = 0x45;

/// `linux/seccomp.h`.
const RET_TRAP: u32 = 0x0003_0000;
const RET_TRACE: u32 = 0x7ff0_0000;

/// The error number that SIGSYS carries where this filter sent it.
pub(crate) const TRAP_MARK: u16 = 0x7262;

/// The option of prctl(2) by which a worker that is started within an emulated kernel asks it for the rights of a worker:
/// two cannot trace one process. No kernel has it.
pub(crate) const NEST: u32 = 0x7262_6e73;

/// A call that any filter around this one lets pass, and this one notifies: a trapped call goes on as this one.
pub(crate) const CARRIER: i64 = libc::SYS_umask;

/// Flags of clone(2) that no container allows (namespaces), and that which would keep a task from being traced.
pub(crate) const EMULATED_CLONE_FLAGS: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_UNTRACED) as u32 as u64;

/// Calls that a container's filter refuses, though the supervisor knows an answer.
const TRAPPED: &[i64] = &[
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
];

/// Calls that are intercepted beyond those of the table: they reach processes or files that are not the build's.
const FURTHER: &[(i64, Verdict)] = &[
    (libc::SYS_ioctl, Verdict::If(1, Test::OneOf(&[libc::SIOCSIFFLAGS as u32]), Action::Notify)),
    (libc::SYS_sendto, Verdict::If(4, Test::NotZero, Action::Trace)),
    (libc::SYS_getsockopt, Verdict::If(2, Test::OneOf(&[libc::SO_PEERCRED as u32]), Action::Notify)),
    (libc::SYS_clone, Verdict::If(0, Test::AnyOf(EMULATED_CLONE_FLAGS as u32), Action::Trap)),
    (
        libc::SYS_prctl,
        Verdict::If(
            0,
            Test::OneOf(&[
                libc::PR_GET_DUMPABLE as u32,
                libc::PR_SET_DUMPABLE as u32,
                libc::PR_GET_KEEPCAPS as u32,
                libc::PR_SET_KEEPCAPS as u32,
                libc::PR_CAPBSET_READ as u32,
                libc::PR_CAPBSET_DROP as u32,
                libc::PR_GET_SECUREBITS as u32,
                libc::PR_SET_SECUREBITS as u32,
                libc::PR_SET_NO_NEW_PRIVS as u32,
                libc::PR_GET_NO_NEW_PRIVS as u32,
                libc::PR_CAP_AMBIENT as u32,
                NEST,
                TELL_LIMITS,
            ]),
            Action::Notify,
        ),
    ),
    (libc::SYS_tkill, Verdict::Always(Action::Notify)),
    (libc::SYS_tgkill, Verdict::Always(Action::Notify)),
    (libc::SYS_rt_sigqueueinfo, Verdict::Always(Action::Notify)),
    (libc::SYS_rt_tgsigqueueinfo, Verdict::Always(Action::Notify)),
    (libc::SYS_pidfd_open, Verdict::Always(Action::Notify)),
    (libc::SYS_syslog, Verdict::Always(Action::Errno(libc::EPERM))),
    (libc::SYS_vhangup, Verdict::Always(Action::Errno(libc::EPERM))),
    (libc::SYS_add_key, Verdict::Always(Action::Errno(libc::EPERM))),
    (libc::SYS_request_key, Verdict::Always(Action::Errno(libc::EPERM))),
    (libc::SYS_keyctl, Verdict::Always(Action::Errno(libc::EPERM))),
    (libc::SYS_perf_event_open, Verdict::Always(Action::Errno(libc::EPERM))),
    (libc::SYS_bpf, Verdict::Always(Action::Errno(libc::EPERM))),
    (libc::SYS_userfaultfd, Verdict::Always(Action::Errno(libc::EPERM))),
];

/// The newest call that is known; those after it, and those of the x32 table, do not exist.
const LAST: u32 = 470;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Allow,
    Notify,
    Trace,
    Trap,
    Errno(i32),
}

impl Action {
    fn value(self) -> u32 {
        match self {
            Self::Allow => RET_ALLOW,
            Self::Notify => RET_USER_NOTIF,
            Self::Trace => RET_TRACE,
            Self::Trap => RET_TRAP | u32::from(TRAP_MARK),
            Self::Errno(errno) => RET_ERRNO | errno.unsigned_abs(),
        }
    }
}

/// What is asked of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    /// Its lower half is one of these.
    OneOf(&'static [u32]),
    /// Its lower half has any of these bits.
    AnyOf(u32),
    NotZero,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Always(Action),
    /// The action, if the test holds for the argument of that index; allowed otherwise.
    If(u32, Test, Action),
}

fn verdict(number: i64) -> Verdict {
    if TRAPPED.contains(&number) {
        return Verdict::Always(Action::Trap);
    }
    if let Some((_, verdict)) = FURTHER.iter().find(|(known, _)| *known == number) {
        return *verdict;
    }
    Verdict::Always(match TABLE.iter().find(|(known, _)| *known == number) {
        None => Action::Allow,
        Some((_, Disposition::Notify)) => Action::Notify,
        Some((_, Disposition::Trace)) => Action::Trace,
        Some((_, Disposition::Errno(errno))) => Action::Errno(*errno),
    })
}

/// Whether a call comes by way of the carrier.
pub(crate) fn is_trapped(number: i64) -> bool {
    TRAPPED.contains(&number)
}

/// The program for all that the worker starts.
pub(crate) fn program() -> Vec<sock_filter> {
    let mut intervals: Vec<(u32, Verdict)> = Vec::new();
    for number in 0..=LAST {
        let verdict = verdict(i64::from(number));
        if intervals.last().is_none_or(|last| last.1 != verdict) {
            intervals.push((number, verdict));
        }
    }
    intervals.push((LAST + 1, Verdict::Always(Action::Errno(libc::ENOSYS))));
    let mut code = vec![
        statement(LOAD, ARCH_OFFSET),
        jump(JUMP_IF_EQUAL, AUDIT_ARCH_X86_64, 1, 0),
        statement(RETURN, Action::Errno(libc::ENOSYS).value()),
        statement(LOAD, NUMBER_OFFSET),
    ];
    let Ok(search) = search(&intervals, &|verdict| Ok::<_, Infallible>(leaf(verdict)));
    code.extend(search);
    code
}

fn leaf(verdict: Verdict) -> Vec<sock_filter> {
    let (argument, test, action) = match verdict {
        Verdict::Always(action) => return vec![statement(RETURN, action.value())],
        Verdict::If(argument, test, action) => (ARGUMENTS_OFFSET + 8 * argument, test, action),
    };
    // Numbers are in the byte order of the machine: the lower half comes first.
    let mut code = vec![statement(LOAD, argument)];
    match test {
        Test::OneOf(values) => {
            for (index, value) in values.iter().enumerate() {
                code.push(jump(JUMP_IF_EQUAL, *value, (values.len() - index) as u8, 0));
            }
        }
        Test::AnyOf(bits) => code.push(jump(JUMP_IF_ANY_BIT, bits, 1, 0)),
        Test::NotZero => {
            code.extend([jump(JUMP_IF_EQUAL, 0, 0, 3), statement(LOAD, argument + 4), jump(JUMP_IF_EQUAL, 0, 0, 1)])
        }
    }
    code.extend([statement(RETURN, RET_ALLOW), statement(RETURN, action.value())]);
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interpret(arch: u32, number: u32, arguments: [u64; 6]) -> (u32, usize) {
        crate::bpf::interpret(&program(), arch, number, arguments)
    }

    const ENOSYS: u32 = RET_ERRNO | 38;

    #[test]
    fn verdicts() {
        let of = |number: i64, args| interpret(AUDIT_ARCH_X86_64, number as u32, args).0;
        let none = [0; 6];
        assert_eq!(of(libc::SYS_read, none), RET_ALLOW);
        assert_eq!(of(libc::SYS_openat, none), RET_USER_NOTIF);
        assert_eq!(of(libc::SYS_execve, none), RET_TRACE);
        assert_eq!(of(libc::SYS_mount, none), RET_TRAP | u32::from(TRAP_MARK));
        assert_eq!(of(libc::SYS_clone3, none), ENOSYS);
        assert_eq!(of(libc::SYS_clone, [0x11, 0, 0, 0, 0, 0]), RET_ALLOW);
        assert_eq!(of(libc::SYS_clone, [0x2000_0011, 0, 0, 0, 0, 0]), RET_TRAP | u32::from(TRAP_MARK));
        assert_eq!(of(libc::SYS_sendto, none), RET_ALLOW);
        assert_eq!(of(libc::SYS_sendto, [0, 0, 0, 0, 1 << 40, 0]), RET_TRACE);
        assert_eq!(of(libc::SYS_sendto, [0, 0, 0, 0, 1, 0]), RET_TRACE);
        assert_eq!(of(libc::SYS_prctl, [libc::PR_SET_NAME as u64, 0, 0, 0, 0, 0]), RET_ALLOW);
        for option in [libc::PR_GET_DUMPABLE, libc::PR_CAP_AMBIENT, libc::PR_GET_SECUREBITS] {
            assert_eq!(of(libc::SYS_prctl, [option as u64, 0, 0, 0, 0, 0]), RET_USER_NOTIF);
        }
        assert_eq!(of(CARRIER, none), RET_USER_NOTIF);
        for number in [i64::from(LAST) + 1, 0x4000_0000, 0xffff_ffff] {
            assert_eq!(of(number, none), ENOSYS);
        }
        assert_eq!(interpret(0x4000_0003, 3, none).0, ENOSYS, "i386");
    }

    #[test]
    fn few_instructions_for_each() {
        let longest = (0..=LAST).map(|number| interpret(AUDIT_ARCH_X86_64, number, [0; 6]).1).max().unwrap();
        assert!(longest <= 30, "{longest}");
        assert!(program().len() < 400, "{}", program().len());
    }
}
