//! Why the kernel gives no user namespace.

use crate::{
    chroot,
    idmap::{IdKind, current_map},
    status::TaskStatus,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::{fmt, fs};

/// Why the kernel gives no user namespace, as far as can be found out (clone(2), user_namespaces(7)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Refusal {
    /// The root directory was changed by chroot(2).
    Chroot,
    /// There are as many as allowed, or they are nested too deeply.
    Limit {
        /// `user.max_user_namespaces` of this user namespace; an outer one may allow fewer.
        max: Option<u64>,
    },
    /// Debian's `kernel.unprivileged_userns_clone` is 0.
    Sysctl,
    /// Ubuntu's `kernel.apparmor_restrict_unprivileged_userns` is 1.
    AppArmor,
    /// The user or group of this process does not exist in its user namespace.
    UnmappedId,
    /// A seccomp filter is in force, as in a container.
    Seccomp,
    /// The kernel has none.
    NotBuilt,
    /// Nothing that could be seen: a chroot to a mount point, or the policy of a security module.
    Unknown,
}

impl Refusal {
    /// What stands behind the kernel's error number for this process.
    pub(crate) fn of(errno: i32) -> Self {
        match Errno::from_raw_os_error(errno) {
            // EUSERS is from kernels before 4.9.
            Errno::NOSPC | Errno::USERS => Self::Limit { max: max_user_namespaces() },
            Errno::INVAL | Errno::NOSYS => Self::NotBuilt,
            _ if chroot::is_certain() => Self::Chroot,
            _ if unprivileged_userns_clone() == Some(false) => Self::Sysctl,
            _ if !is_mapped() => Self::UnmappedId,
            _ if seccomp_mode().unwrap_or(0) != 0 => Self::Seccomp,
            _ if apparmor_restricts_userns() == Some(true) => Self::AppArmor,
            _ => Self::Unknown,
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Chroot => {
                "enter the root with pivot_root instead of chroot, as container runtimes, `systemd-nspawn` and \
                 `unshare --mount` with `pivot_root` do; or build as root, which can do so itself"
            }
            Self::Limit { max: Some(0) } => "allow user namespaces: `sysctl user.max_user_namespaces=15000`",
            Self::Limit { .. } => {
                "raise `sysctl user.max_user_namespaces`, here and outside of this container, or end what uses them up"
            }
            Self::Sysctl => "allow user namespaces: `sysctl kernel.unprivileged_userns_clone=1`",
            Self::AppArmor => {
                "allow this program user namespaces: an AppArmor profile with `userns,`, or \
                 `sysctl kernel.apparmor_restrict_unprivileged_userns=0`"
            }
            Self::UnmappedId => {
                "map the user and the group of this process into its user namespace (`unshare --map-root-user`)"
            }
            Self::Seccomp => {
                "a seccomp filter is in force, as in a container: start it with `--security-opt seccomp=unconfined` \
                 (and `--security-opt apparmor=unconfined`)"
            }
            Self::NotBuilt => "use a kernel built with CONFIG_USER_NS, or build as root",
            Self::Unknown => {
                "if this is a chroot, enter its root with pivot_root instead, as container runtimes and \
                 `systemd-nspawn` do; else the kernel's log may name the security module"
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chroot => f.write_str("the kernel gives none in a chroot"),
            Self::Limit { max: Some(max) } => {
                write!(f, "the limit is reached: user.max_user_namespaces is {max}")
            }
            Self::Limit { max: None } => f.write_str("the limit is reached"),
            Self::Sysctl => f.write_str("kernel.unprivileged_userns_clone is 0"),
            Self::AppArmor => f.write_str("kernel.apparmor_restrict_unprivileged_userns is 1"),
            Self::UnmappedId => f.write_str("the user or group of this process is not mapped in the one around it"),
            Self::Seccomp => f.write_str("a seccomp filter is in force"),
            Self::NotBuilt => f.write_str("the kernel was built without CONFIG_USER_NS"),
            Self::Unknown => f.write_str("the kernel refuses: a chroot, or the policy of a security module"),
        }
    }
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

pub(crate) fn max_user_namespaces() -> Option<u64> {
    number("/proc/sys/user/max_user_namespaces")
}

pub(crate) fn unprivileged_userns_clone() -> Option<bool> {
    number("/proc/sys/kernel/unprivileged_userns_clone").map(|value| value != 0)
}

pub(crate) fn apparmor_restricts_userns() -> Option<bool> {
    number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").map(|value| value != 0)
}

/// The line `Seccomp` of `/proc/self/status`.
pub(crate) fn seccomp_mode() -> Option<u32> {
    TaskStatus::own()?.number("Seccomp")
}

/// Whether the ids of this process exist in its user namespace; an unmapped one is seen as the overflow id.
fn is_mapped() -> bool {
    [IdKind::User, IdKind::Group]
        .into_iter()
        .all(|kind| current_map(kind).is_ok_and(|map| map.iter().any(|range| range.contains(kind.own()))))
}
