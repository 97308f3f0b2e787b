//! Who a command is and what it may: capabilities, ids, limits.

use super::{
    Resource, RunError, RunSpec, Security, Ulimit,
    wire::{Failure, OrFail},
};
use crate::{
    idmap::{IdKind, current_map},
    isolation::IdRange,
};
use nix::unistd::{setgroups, setresgid, setresuid};
use rustix::{
    io::Errno,
    process::{Rlimit, getrlimit, setrlimit},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
        set_capabilities,
    },
};
use std::sync::OnceLock;

/// Docker's default capabilities (moby `daemon/pkg/oci/caps/defaults.go`).
const DEFAULT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// Open files where the limit of the worker is higher or none: what dockerd is started with, and what programs that
/// close every possible descriptor can bear.
const MAX_OPEN_FILES: u64 = 1 << 20;

/// The ids of the worker's user namespace.
struct Ids(&'static [IdRange]);

impl Ids {
    /// Read once: the map of a user namespace is written once.
    fn of(kind: IdKind) -> Self {
        static USERS: OnceLock<Vec<IdRange>> = OnceLock::new();
        static GROUPS: OnceLock<Vec<IdRange>> = OnceLock::new();
        let ids = match kind {
            IdKind::User => &USERS,
            IdKind::Group => &GROUPS,
        };
        Self(ids.get_or_init(|| current_map(kind).unwrap_or_default()))
    }

    /// Whether there is this one; an unknown map has them all.
    fn have(&self, id: u32) -> bool {
        self.0.is_empty() || self.0.iter().any(|range| range.contains(id))
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|range| u64::from(range.count)).sum()
    }
}

/// Refuses a user or group that the kernel would refuse with a bare EPERM or EINVAL. Supplementary groups of root that
/// there are not are left out: root needs none.
pub(super) fn check(spec: &RunSpec) -> Result<(), RunError> {
    let supplementary: &[u32] = if spec.uid == 0 { &[] } else { &spec.groups };
    let wanted = [(IdKind::User, spec.uid), (IdKind::Group, spec.gid)];
    let more = supplementary.iter().map(|&gid| (IdKind::Group, gid));
    for (kind, id) in wanted.into_iter().chain(more) {
        let ids = Ids::of(kind);
        if !ids.have(id) {
            let available = ids.count();
            return Err(RunError::NoSuchId { kind, id, available });
        }
    }
    Ok(())
}

/// The capabilities that are kept.
fn kept(security: Security) -> Result<CapabilitySet, Errno> {
    match security {
        Security::Sandbox => Ok(DEFAULT),
        Security::Insecure => Ok(capabilities(None)?.permitted),
    }
}

/// Gives up, for good, what the command may never have.
pub(super) fn bound(security: Security) -> Result<(), Failure> {
    clear_ambient_capability_set().or_fail("clear the ambient capabilities")?;
    let kept = kept(security).or_fail("read the capabilities")?;
    for number in 0..64u32 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            // The kernel knows no further one.
            Err(Errno::INVAL) => break,
            other => other.or_fail("give up a capability")?,
        }
    }
    Ok(())
}

/// Becomes the user of the command.
pub(super) fn become_user(spec: &RunSpec) -> Result<(), Failure> {
    let kept = kept(spec.security).or_fail("read the capabilities")?;
    let groups: Vec<_> = spec
        .groups
        .iter()
        .filter(|gid| spec.uid != 0 || **gid == 0 || Ids::of(IdKind::Group).have(**gid))
        .map(|&gid| gid.into())
        .collect();
    match setgroups(&groups) {
        // With one id alone the kernel forbids it, and the groups of the caller stay.
        Err(nix::errno::Errno::EPERM) if spec.uid == 0 && spec.gid == 0 => {}
        other => other.or_fail("set the supplementary groups")?,
    }
    let (uid, gid) = (spec.uid.into(), spec.gid.into());
    setresgid(gid, gid, gid).or_fail(&format!("become group {}", spec.gid))?;
    setresuid(uid, uid, uid).or_fail(&format!("become user {}", spec.uid))?;
    // The kernel takes the capabilities of a user that is not root away itself.
    let permitted = if spec.uid == 0 { kept } else { CapabilitySet::empty() };
    let sets = CapabilitySets { effective: permitted, permitted, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).or_fail("set the capabilities")
}

/// Resource limits: open files as many as allowed, then those asked for.
pub(super) fn limit(ulimits: &[Ulimit]) -> Result<(), Failure> {
    let files = getrlimit(rustix::process::Resource::Nofile);
    let most = files.maximum.unwrap_or(u64::MAX).min(MAX_OPEN_FILES);
    if files.current.is_some_and(|current| current < most) {
        let raised = Rlimit { current: Some(most), maximum: files.maximum };
        setrlimit(rustix::process::Resource::Nofile, raised).or_fail("raise the limit of open files")?;
    }
    for ulimit in ulimits {
        let resource = kernel_resource(ulimit.resource);
        let now = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let wish = |hard: u64| {
            let soft = ulimit.soft.min(hard);
            let value = |limit: u64| (limit != u64::MAX).then_some(limit);
            Rlimit { current: value(soft), maximum: value(hard) }
        };
        // Only CAP_SYS_RESOURCE of the machine itself may go above.
        let set = match setrlimit(resource, wish(ulimit.hard)) {
            Err(Errno::PERM) if ulimit.hard > now => setrlimit(resource, wish(now)),
            other => other,
        };
        set.or_fail(&format!("set ulimit {:?}", ulimit.resource).to_lowercase())?;
    }
    Ok(())
}

fn kernel_resource(resource: Resource) -> rustix::process::Resource {
    use rustix::process::Resource as Kernel;
    match resource {
        Resource::Core => Kernel::Core,
        Resource::Cpu => Kernel::Cpu,
        Resource::Data => Kernel::Data,
        Resource::Fsize => Kernel::Fsize,
        Resource::Locks => Kernel::Locks,
        Resource::Memlock => Kernel::Memlock,
        Resource::Msgqueue => Kernel::Msgqueue,
        Resource::Nice => Kernel::Nice,
        Resource::Nofile => Kernel::Nofile,
        Resource::Nproc => Kernel::Nproc,
        Resource::Rss => Kernel::Rss,
        Resource::Rtprio => Kernel::Rtprio,
        Resource::Rttime => Kernel::Rttime,
        Resource::Sigpending => Kernel::Sigpending,
        Resource::Stack => Kernel::Stack,
    }
}
