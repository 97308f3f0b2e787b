//! `/proc`, `/dev` and `/sys` as Docker gives them (moby `daemon/pkg/oci/defaults.go`, runc `rootfs_linux.go`).

use super::{
    Network, Security,
    mounts::{
        CLOSED, NO_SETUID, READ_ONLY, Tree, attach_to, copy_mount, failure, new_file_system, open_path, restrict,
    },
    walk::is_directory,
    wire::Failure,
};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{Mode, OFlags, mkdirat, openat, symlinkat},
    io::Errno,
};
use std::path::Path;

/// Hidden from a command: files under `/dev/null`, directories under an empty one.
const MASKED: &[&str] = &[
    "proc/acpi",
    "proc/asound",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/timer_list",
    "proc/timer_stats",
    "sys/devices/virtual/powercap",
    "sys/firmware",
];

/// Shown to a command, but not to be written.
const READ_ONLY_PATHS: &[&str] = &["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];

/// `linux/magic.h`.
const SYSFS_MAGIC: u64 = 0x6265_6572;

/// Devices taken from outside, since a user namespace cannot make any.
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];

/// Links in `/dev`.
const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Mount points that every root needs.
pub(super) const POINTS: &[&str] = &["proc", "dev", "sys"];

pub(super) fn mount_proc(tree: &Tree<'_>, security: Security) -> Result<(), Failure> {
    let target = Path::new("proc");
    let point = real_directory(tree, target)?;
    let proc = new_file_system("proc", "proc", &[], CLOSED);
    let proc = match proc {
        // The kernel gives no fresh one where parts of the outer one are masked, as in a container. The outer one
        // shows the outer processes, but those of other user namespaces and those with more capabilities, as the
        // worker, may not be inspected; a command with all capabilities could, and would find the host there.
        Err(Errno::PERM | Errno::ACCESS) if security == Security::Sandbox => {
            let outer = open_path(Path::new("/proc")).and_then(|proc| copy_mount(&proc));
            outer.and_then(|outer| restrict(&outer, CLOSED).map(|()| outer))
        }
        other => other,
    };
    proc.and_then(|proc| attach_to(&proc, &point)).map_err(|errno| failure("proc", target, "mount it", errno))
}

pub(super) fn mount_sys(tree: &Tree<'_>, network: Network, security: Security) -> Result<(), Failure> {
    let target = Path::new("sys");
    let point = real_directory(tree, target)?;
    let failed = |action| move |errno| failure("sysfs", target, action, errno);
    let access = if security == Security::Sandbox { READ_ONLY } else { 0 };
    let outer = |path: &str| {
        let copy = copy_mount(open_path(Path::new(path))?)?;
        restrict(&copy, CLOSED | access)?;
        Ok(copy)
    };
    let is_mounted = || rustix::fs::statfs("/sys").is_ok_and(|found| found.f_type as u64 == SYSFS_MAGIC);
    // A fresh one belongs to a network namespace, and only its owner may mount it. That of the host is taken from
    // outside, if it is there, which in a chroot it need not be.
    if network == Network::None || !is_mounted() {
        match new_file_system("sysfs", "sysfs", &[], CLOSED | access) {
            Ok(fresh) => {
                attach_to(&fresh, &point).map_err(failed("attach it"))?;
                let cgroup = Path::new("sys/fs/cgroup");
                if let (Ok(outer), Ok(point)) = (outer("/sys/fs/cgroup"), tree.find(cgroup)) {
                    attach_to(&outer, &point).map_err(|errno| failure("cgroup", cgroup, "attach it", errno))?;
                }
                return Ok(());
            }
            Err(Errno::PERM | Errno::ACCESS) => {}
            Err(errno) => return Err(failed("create it")(errno)),
        }
    }
    let outer: OwnedFd = outer("/sys").map_err(failed("bind the outer one"))?;
    attach_to(&outer, &point).map_err(failed("attach it"))
}

pub(super) fn mount_dev(tree: &Tree<'_>, shm_size: u64) -> Result<(), Failure> {
    let target = Path::new("dev");
    let failed = |action| move |errno| failure("tmpfs", target, action, errno);
    let dev = new_file_system("tmpfs", "tmpfs", &[("mode", Some("755")), ("size", Some("65536k"))], NO_SETUID)
        .map_err(failed("create it"))?;
    tree.attach("tmpfs", &dev, target, true)?;

    for name in DEVICES {
        let path = Path::new("/dev").join(name);
        let failed = |action| {
            let path = &path;
            move |errno| failure("device", path, action, errno)
        };
        let device = match open_path(&path) {
            Err(Errno::NOENT) if *name != "null" => continue,
            other => other.map_err(failed("open the outer one"))?,
        };
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        openat(&dev, *name, flags, Mode::from_raw_mode(0o666)).map_err(failed("make the mount point"))?;
        let point = openat(&dev, *name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed("open it"))?;
        copy_mount(&device).and_then(|device| attach_to(&device, &point)).map_err(failed("bind it"))?;
    }
    for (name, to) in LINKS {
        symlinkat(*to, &dev, *name).map_err(failed("make its links"))?;
    }
    if open_path(Path::new("/proc/kcore")).is_ok() {
        symlinkat("/proc/kcore", &dev, "core").map_err(failed("make its links"))?;
    }

    let pts = |group: Option<&'static str>| {
        let mut options = vec![("newinstance", None), ("ptmxmode", Some("0666")), ("mode", Some("0620"))];
        options.extend(group.map(|group| ("gid", Some(group))));
        new_file_system("devpts", "devpts", &options, super::mounts::CLOSED_BUT_DEVICES)
    };
    // Group `tty`, where there is such an id.
    let pts = pts(Some("5")).or_else(|_| pts(None));
    let shm_size = shm_size.to_string();
    let shm = new_file_system("tmpfs", "shm", &[("mode", Some("1777")), ("size", Some(&shm_size))], CLOSED);
    let mqueue = new_file_system("mqueue", "mqueue", &[], CLOSED);
    for (name, mount) in [("pts", pts), ("shm", shm), ("mqueue", mqueue)] {
        let path = target.join(name);
        let failed = |errno| failure(name, &path, "mount it", errno);
        // A kernel without POSIX message queues has no `mqueue`.
        if name == "mqueue" && mount.as_ref().is_err_and(|errno| *errno == Errno::NODEV) {
            continue;
        }
        let mount = mount.map_err(failed)?;
        mkdirat(&dev, name, Mode::from_raw_mode(0o755)).map_err(failed)?;
        let point = openat(&dev, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        attach_to(&mount, &point).map_err(failed)?;
    }
    Ok(())
}

/// Docker's masked and read-only paths; a path that is not there needs no mask.
pub(super) fn mask(tree: &Tree<'_>) -> Result<(), Failure> {
    for path in READ_ONLY_PATHS {
        let path = Path::new(path);
        let Ok(found) = tree.find(path) else { continue };
        let read_only = copy_mount(&found).and_then(|copy| restrict(&copy, READ_ONLY).map(|()| copy));
        read_only
            .and_then(|copy| attach_to(&copy, &found))
            .map_err(|errno| failure("bind", path, "make it read-only", errno))?;
    }
    let throttles = thermal_throttles(tree);
    let null = tree.find(Path::new("dev/null"));
    let mut nothing = None;
    for path in MASKED.iter().map(Path::new).chain(throttles.iter().map(|path| path.as_path())) {
        let failed = |action| move |errno| failure("mask", path, action, errno);
        let Ok(found) = tree.find(path) else { continue };
        let cover = if is_directory(&found).map_err(failed("examine it"))? {
            if nothing.is_none() {
                let options = [("size", Some("4k")), ("nr_inodes", Some("1"))];
                nothing =
                    Some(new_file_system("tmpfs", "tmpfs", &options, READ_ONLY).map_err(failed("create a cover"))?);
                nothing
                    .as_ref()
                    .map_or(Err(Errno::NOENT), |cover| attach_to(cover, &found))
                    .map_err(failed("cover it"))?;
                continue;
            }
            nothing.as_ref().map_or(Err(Errno::NOENT), |cover| copy_mount(cover.as_fd()))
        } else {
            null.as_ref().map_err(|errno| *errno).and_then(copy_mount)
        };
        cover.and_then(|cover| attach_to(&cover, &found)).map_err(failed("cover it"))?;
    }
    Ok(())
}

/// `/sys/devices/system/cpu/cpuN/thermal_throttle` of each processor (moby GHSA-6fw5-f8r9-fgfm).
fn thermal_throttles(tree: &Tree<'_>) -> Vec<std::path::PathBuf> {
    let base = Path::new("sys/devices/system/cpu");
    (0..)
        .map(|number| base.join(format!("cpu{number}")))
        .take_while(|cpu| tree.find(cpu).is_ok())
        .map(|cpu| cpu.join("thermal_throttle"))
        .filter(|path| tree.find(path).is_ok())
        .collect()
}

/// The directory for `/proc` or `/sys`: as in runc, a symbolic link there is refused, so that the file system is
/// where everybody expects it.
fn real_directory(tree: &Tree<'_>, target: &Path) -> Result<OwnedFd, Failure> {
    let failed = |action| move |errno| failure("directory", target, action, errno);
    match openat(&tree.root, target, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(found) if is_directory(&found).map_err(failed("examine it"))? => Ok(found),
        Ok(_) => Err(failed("use it, which is no directory")(Errno::NOTDIR)),
        Err(Errno::NOENT) => tree.target(target, true).map_err(failed("make the mount point")),
        Err(errno) => Err(failed("open the mount point")(errno)),
    }
}
