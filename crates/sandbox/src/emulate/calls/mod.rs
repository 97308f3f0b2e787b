//! What each intercepted system call means.
//!
//! One file per subject. Every function reads the arguments from the caller's memory once, does the work in the
//! supervisor, and answers with the kernel's result or error.

mod attrs;
mod caller;
pub(crate) mod capabilities;
mod dirs;
mod files;
mod ids;
mod mount_api;
mod mounts;
mod objects;
pub(crate) mod proc;
pub(crate) mod process;
mod reach;
mod semantics;
mod sockets;
mod stats;
pub(crate) mod table;
mod times;
mod walk;
mod xattrs;

use super::{Kernel, task::Task};
use crate::run::Limit;
use caller::Caller;
use nix::libc;
use rustix::{fd::OwnedFd, io::Errno};
use std::sync::Arc;
use table::new;

/// An intercepted call.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Number in the table of the architecture.
    pub(crate) number: i64,
    pub(crate) args: [u64; 6],
    pub(crate) task: Arc<Task>,
}

/// What the process gets.
pub(crate) enum Answer {
    /// This result.
    Return(i64),
    /// This error.
    Error(Errno),
    /// A new descriptor.
    Descriptor { fd: OwnedFd, close_on_exec: bool },
    /// The call is made as it is; only where it is harmless whatever its arguments are, or become.
    Native,
    /// The answer needs time (open of a FIFO): found in a thread of its own.
    Later(Box<dyn FnOnce() -> Answer + Send>),
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Return(value) => write!(f, "Return({value})"),
            Self::Error(errno) => write!(f, "Error({errno:?})"),
            Self::Descriptor { fd, .. } => write!(f, "Descriptor({fd:?})"),
            Self::Native => f.write_str("Native"),
            Self::Later(_) => f.write_str("Later"),
        }
    }
}

/// The meaning of calls over `vfs`, and what is remembered between one and the next.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    listings: dirs::Listings,
    objects: objects::Objects,
    bound: sockets::Bound,
}

type Outcome = Result<Answer, Errno>;

/// Success without a value.
const DONE: Answer = Answer::Return(0);

/// An argument that is a C `int`.
const fn int(argument: u64) -> i32 {
    argument as i32
}

/// An argument that is an `unsigned int`.
const fn uint(argument: u64) -> u32 {
    argument as u32
}

const CWD: i32 = libc::AT_FDCWD;

fn dispatch(calls: &Calls, kernel: &Kernel, call: &Call) -> Outcome {
    let task = &call.task;
    let [a, b, c, d, e, _] = call.args;
    // Those that need no view of the files.
    match call.number {
        libc::SYS_getuid => return ids::get(task, |it| it.uid[0]),
        libc::SYS_geteuid => return ids::get(task, |it| it.uid[1]),
        libc::SYS_getgid => return ids::get(task, |it| it.gid[0]),
        libc::SYS_getegid => return ids::get(task, |it| it.gid[1]),
        libc::SYS_getresuid => return ids::get_three(task, [a, b, c], |it| it.uid),
        libc::SYS_getresgid => return ids::get_three(task, [a, b, c], |it| it.gid),
        libc::SYS_setuid => return ids::set(task, |it| it.set_uid(uint(a))),
        libc::SYS_setgid => return ids::set(task, |it| it.set_gid(uint(a))),
        libc::SYS_setreuid => return ids::set(task, |it| it.set_reuid(uint(a), uint(b))),
        libc::SYS_setregid => return ids::set(task, |it| it.set_regid(uint(a), uint(b))),
        libc::SYS_setresuid => return ids::set(task, |it| it.set_resuid(uint(a), uint(b), uint(c))),
        libc::SYS_setresgid => return ids::set(task, |it| it.set_resgid(uint(a), uint(b), uint(c))),
        libc::SYS_setfsuid => return ids::get(task, |it| it.set_fsuid(uint(a))),
        libc::SYS_setfsgid => return ids::get(task, |it| it.set_fsgid(uint(a))),
        libc::SYS_getgroups => return ids::get_groups(task, int(a), b),
        libc::SYS_setgroups => return ids::set_groups(task, int(a), b),
        libc::SYS_capget => return ids::capget(kernel, task, a, b),
        libc::SYS_capset => return ids::capset(task, a, b),
        libc::SYS_prctl => return ids::prctl(kernel, task, call.args),
        libc::SYS_umask => return process::umask(task, uint(a)),
        libc::SYS_uname => return process::uname(task, a),
        libc::SYS_sethostname => return process::set_host_name(task, a, int(b)),
        libc::SYS_setdomainname => return process::set_domain_name(task, a, int(b)),
        libc::SYS_kill => return process::kill(kernel, task, int(a), int(b)),
        libc::SYS_tkill
        | libc::SYS_tgkill
        | libc::SYS_rt_sigqueueinfo
        | libc::SYS_rt_tgsigqueueinfo
        | libc::SYS_pidfd_open => return reach::only_own(kernel, task, int(a)),
        libc::SYS_ioctl => return process::ioctl(task, uint(b)),
        libc::SYS_getsockopt => return sockets::getsockopt(kernel, task, call.args),
        libc::SYS_socket => return sockets::socket(task, int(a), int(b), int(c)),
        libc::SYS_unshare => return process::unshare(task, a),
        libc::SYS_setns => return Err(Errno::PERM),
        libc::SYS_ptrace => {
            kernel.meet(Limit::Debugger);
            return Err(Errno::PERM);
        }
        _ => {}
    }
    let caller = &Caller::new(calls, kernel, task);
    match call.number {
        libc::SYS_open => files::open(caller, CWD, a, uint(b), uint(c)),
        libc::SYS_creat => {
            files::open(caller, CWD, a, (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u32, uint(b))
        }
        libc::SYS_openat => files::open(caller, int(a), b, uint(c), uint(d)),
        libc::SYS_openat2 => files::open2(caller, int(a), b, c, d),
        libc::SYS_truncate => files::truncate(caller, a, b as i64),
        libc::SYS_mknod => dirs::mknod(caller, CWD, a, uint(b), uint(c)),
        libc::SYS_mknodat => dirs::mknod(caller, int(a), b, uint(c), uint(d)),
        libc::SYS_readlink => files::readlink(caller, CWD, a, b, int(c)),
        libc::SYS_readlinkat => files::readlink(caller, int(a), b, c, int(d)),
        libc::SYS_statfs => stats::statfs(caller, a, b),
        libc::SYS_fstatfs => stats::fstatfs(caller, int(a), b),

        libc::SYS_stat => stats::stat(caller, CWD, a, b, 0),
        libc::SYS_lstat => stats::stat(caller, CWD, a, b, libc::AT_SYMLINK_NOFOLLOW),
        libc::SYS_fstat => stats::fstat(caller, int(a), b),
        libc::SYS_newfstatat => stats::stat(caller, int(a), b, c, int(d)),
        libc::SYS_statx => stats::statx(caller, int(a), b, int(c), uint(d), e),

        libc::SYS_mkdir => dirs::mkdir(caller, CWD, a, uint(b)),
        libc::SYS_mkdirat => dirs::mkdir(caller, int(a), b, uint(c)),
        libc::SYS_rmdir => dirs::rmdir(caller, CWD, a),
        libc::SYS_unlink => dirs::unlink(caller, CWD, a),
        libc::SYS_unlinkat => match int(c) {
            0 => dirs::unlink(caller, int(a), b),
            libc::AT_REMOVEDIR => dirs::rmdir(caller, int(a), b),
            _ => Err(Errno::INVAL),
        },
        libc::SYS_rename => dirs::rename(caller, (CWD, a), (CWD, b), 0),
        libc::SYS_renameat => dirs::rename(caller, (int(a), b), (int(c), d), 0),
        libc::SYS_renameat2 => dirs::rename(caller, (int(a), b), (int(c), d), uint(e)),
        libc::SYS_link => dirs::link(caller, (CWD, a), (CWD, b), 0),
        libc::SYS_linkat => dirs::link(caller, (int(a), b), (int(c), d), int(e)),
        libc::SYS_symlink => dirs::symlink(caller, a, CWD, b),
        libc::SYS_symlinkat => dirs::symlink(caller, a, int(b), c),
        libc::SYS_chdir => dirs::chdir(caller, a),
        libc::SYS_fchdir => dirs::fchdir(caller, int(a)),
        libc::SYS_getcwd => dirs::getcwd(caller, a, b),
        libc::SYS_chroot => dirs::chroot(caller, a),

        libc::SYS_chmod => attrs::chmod(caller, CWD, a, uint(b), 0),
        libc::SYS_fchmodat => attrs::chmod(caller, int(a), b, uint(c), 0),
        new::FCHMODAT2 => attrs::chmod(caller, int(a), b, uint(c), int(d)),
        libc::SYS_fchmod => attrs::fchmod(caller, int(a), uint(b)),
        libc::SYS_chown => attrs::chown(caller, CWD, a, (uint(b), uint(c)), 0),
        libc::SYS_lchown => attrs::chown(caller, CWD, a, (uint(b), uint(c)), libc::AT_SYMLINK_NOFOLLOW),
        libc::SYS_fchownat => attrs::chown(caller, int(a), b, (uint(c), uint(d)), int(e)),
        libc::SYS_fchown => attrs::fchown(caller, int(a), (uint(b), uint(c))),
        libc::SYS_access => attrs::access(caller, CWD, a, uint(b), 0),
        libc::SYS_faccessat => attrs::access(caller, int(a), b, uint(c), 0),
        libc::SYS_faccessat2 => attrs::access(caller, int(a), b, uint(c), int(d)),

        libc::SYS_utime => times::utime(caller, a, b),
        libc::SYS_utimes => times::utimes(caller, CWD, a, b),
        libc::SYS_futimesat => times::utimes(caller, int(a), b, c),
        libc::SYS_utimensat => times::utimensat(caller, int(a), b, c, int(d)),

        libc::SYS_getxattr..=libc::SYS_fgetxattr
        | libc::SYS_setxattr..=libc::SYS_fsetxattr
        | libc::SYS_listxattr..=libc::SYS_flistxattr
        | libc::SYS_removexattr..=libc::SYS_fremovexattr => xattrs::xattr(caller, call.number, call.args),
        new::SETXATTRAT..=new::REMOVEXATTRAT => xattrs::xattr_at(caller, call.number, call.args),

        libc::SYS_mount => mounts::mount(caller, call.args),
        libc::SYS_umount2 => mounts::umount(caller, a, int(b)),
        libc::SYS_pivot_root => mounts::pivot_root(caller, a, b),
        libc::SYS_fsopen => mount_api::fsopen(caller, a, uint(b)),
        libc::SYS_fsconfig => mount_api::fsconfig(caller, int(a), uint(b), c, d, int(e)),
        libc::SYS_fsmount => mount_api::fsmount(caller, int(a), uint(b), uint(c)),
        libc::SYS_move_mount => mount_api::move_mount(caller, (int(a), b), (int(c), d), uint(e)),
        libc::SYS_open_tree => mount_api::open_tree(caller, int(a), b, uint(c)),
        libc::SYS_mount_setattr => mount_api::mount_setattr(caller, int(a), b, uint(c), (d, e)),
        _ => Err(Errno::NOSYS),
    }
}

#[cfg(test)]
mod tests {
    use super::table::{Disposition, TABLE};

    /// A call that the filter sends here must be known here.
    #[test]
    fn every_notified_call_is_dispatched() {
        let source = include_str!("mod.rs");
        let table = include_str!("table.rs");
        for line in table.lines().map(str::trim).filter(|line| line.starts_with('(') && line.contains(", Notify)")) {
            let name = line.trim_start_matches('(').split(',').next().unwrap();
            let ranged = ["getxattr", "setxattr", "listxattr", "removexattr", "XATTRAT"];
            let known = source.contains(&format!("{name} ")) || ranged.iter().any(|part| name.contains(part));
            assert!(known, "{name}");
        }
        assert!(TABLE.iter().any(|(_, disposition)| *disposition == Disposition::Notify));
    }
}
