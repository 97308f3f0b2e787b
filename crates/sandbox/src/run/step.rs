//! The process that becomes a command: PID 1 of its own namespaces, with one thread.

use super::{
    ExecError, Network, RootAccess, RootFs, RunSpec, Security, devices, identity,
    lookup::look_up,
    mounts::{self, READ_ONLY, Tree, attach_to, copy_mount, mount_all, open_path},
    stubs, terminal,
    wire::{Failure, OrFail, Received, Report},
};
use crate::{
    channel::Channel,
    idmap::{self, IdKind},
    overlay::{OverlayError, attach, open_directory},
    seccomp,
    sys::{
        descriptor::{FIRST_INHERITED, close_on_exec_from, take_inherited},
        loopback,
        mount::add_attributes,
        signal,
    },
};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{Mode, OFlags},
    io::Errno,
    mount::{UnmountFlags, unmount},
    process::{chdir, fchdir, pivot_root, setsid, umask},
};
use std::{convert::Infallible, ffi::CString, io, path::Path};

/// The work of a process that was started as a step. Returns only where no command came of it: the exit code, or
/// `None` where it was not started by us.
pub(crate) fn become_command() -> Option<i32> {
    signal::reset();
    let worker = Channel::from(take_inherited(1).ok()?.into_iter().next()?);
    let order: Received = worker.recv().ok()??;
    let failure = match execute(&order, &worker) {
        Err(failure) => failure,
        Ok(never) => match never {},
    };
    let _ = worker.send(&Report::Failed(failure));
    Some(1)
}

fn execute(order: &Received, worker: &Channel) -> Result<Infallible, Failure> {
    let spec = &order.spec;
    umask(Mode::empty());
    setsid().map(drop).or_fail("start a session")?;
    if spec.network == Network::None {
        loopback::bring_up().or_fail("bring the loopback interface up")?;
    }
    rustix::system::sethostname(&spec.hostname).or_fail("set the host name")?;

    // The root of a user namespace is not given any (mknod(2)).
    let has_devices = idmap::is_whole(IdKind::User);
    let tree = mount_root(spec, worker)?;
    let files = mounts::Files::new(&tree, &spec.mounts)?;
    devices::mount_proc(&tree, spec.security)?;
    devices::mount_dev(&tree, spec.shm_size)?;
    devices::mount_sys(&tree, spec.network, spec.security)?;
    if spec.security == Security::Sandbox {
        devices::mask(&tree)?;
    }
    mount_all(&tree, &spec.mounts, &files)?;
    if spec.root_access == RootAccess::ReadOnly {
        add_attributes(tree.root.as_fd(), READ_ONLY, false).or_fail("make the root read-only")?;
    }
    enter(&tree.root)?;
    drop((tree, files));
    if let Some(size) = order.terminal {
        terminal::open(size, spec.uid, worker)?;
    }

    identity::limit(&spec.ulimits)?;
    // As runc does: as root first, and where that is refused as the user, who may see what root may not (NFS).
    let entered = chdir(&spec.cwd);
    if let Err(errno) = entered
        && !matches!(errno, Errno::ACCESS | Errno::PERM)
    {
        return Err(Failure::Chdir(errno.raw_os_error()));
    }
    identity::bound(spec.security)?;
    if spec.security == Security::Sandbox {
        // While there is CAP_SYS_ADMIN, without which a filter would need no_new_privs.
        let confined = if has_devices { seccomp::confine().map(|()| None) } else { seccomp::confine_but_devices() };
        if let Some(listener) = confined.or_fail("install the seccomp profile")? {
            worker
                .send(&Report::Listener)
                .map_err(io::Error::other)
                .and_then(|()| worker.send_descriptor(listener.as_fd()))
                .or_fail("hand over the listener of the seccomp profile")?;
        }
    }
    identity::become_user(spec)?;
    if entered.is_err() {
        chdir(&spec.cwd).map_err(|errno| Failure::Chdir(errno.raw_os_error()))?;
    }
    umask(Mode::from_raw_mode(spec.umask));

    let argv0 = spec.argv.first().map(Vec::as_slice).unwrap_or_default();
    let file = look_up(argv0, &spec.env).map_err(Failure::Exec)?;
    let text = |bytes: &Vec<u8>| CString::new(bytes.clone());
    let invalid = |_| Failure::Setup { action: "pass a NUL in an argument".into(), errno: Errno::INVAL.raw_os_error() };
    let file = text(&file).map_err(invalid)?;
    let argv = spec.argv.iter().map(text).collect::<Result<Vec<_>, _>>().map_err(invalid)?;
    let env = spec.env.iter().map(text).collect::<Result<Vec<_>, _>>().map_err(invalid)?;
    // Every descriptor was opened so already: this is the second lock. Kernels before 5.11 have no such flag.
    let _ = close_on_exec_from(FIRST_INHERITED);
    worker
        .send(&Report::Starting)
        .map_err(|_| Failure::Setup { action: "tell the worker".into(), errno: Errno::PIPE.raw_os_error() })?;
    let Err(errno) = nix::unistd::execve(&file, &argv, &env);
    Err(Failure::Exec(ExecError::Exec(errno as i32)))
}

/// Mounts the root where nothing else is.
fn mount_root<'a>(spec: &RunSpec, worker: &'a Channel) -> Result<Tree<'a>, Failure> {
    match &spec.root {
        RootFs::Overlay(overlay) => {
            let mut targets: Vec<_> = devices::POINTS.iter().map(|point| (Path::new(point).to_owned(), true)).collect();
            targets.extend(spec.mounts.iter().filter_map(|mount| {
                let directory = mounts::is_on_directory(mount)?;
                // What lies in these is covered by a mount, and its mount points are made in that.
                let target = super::walk::lexical(mounts::target_of(mount));
                let covered = devices::POINTS.iter().any(|point| target.starts_with(point));
                (!covered).then_some((target, directory))
            }));
            let failed = |error: OverlayError| Failure::Mount {
                what: "overlay".into(),
                target: "/".into(),
                errno: error.errno().unwrap_or(Errno::INVAL.raw_os_error()),
                action: error.to_string(),
            };
            let bottom = stubs::layer(spec.mount_points.as_deref(), &overlay.work, targets).map_err(failed)?;
            // Over its own work directory, which nobody needs to see any more.
            let point = open_directory(&overlay.work).map_err(failed)?;
            let upper = open_directory(&overlay.upper).map_err(failed)?;
            attach(overlay, Some(&bottom), point.as_fd()).map_err(failed)?;
            let root = open_directory(&overlay.work).map_err(failed)?;
            Ok(Tree { root, upper: Some(upper), worker })
        }
        RootFs::Directory(path) => {
            let failed = |action| {
                move |errno: Errno| mounts::failure(&path.display().to_string(), Path::new("/"), action, errno)
            };
            let handle = open_path(path).map_err(failed("open it"))?;
            let copy = copy_mount(&handle).map_err(failed("bind it"))?;
            attach_to(&copy, &handle).map_err(failed("attach it"))?;
            let root = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
            Ok(Tree { root: root.map_err(failed("open it as a root"))?, upper: None, worker })
        }
    }
}

/// Makes the tree the root of this process, and loses sight of the old one.
fn enter(root: &OwnedFd) -> Result<(), Failure> {
    fchdir(root).or_fail("enter the root")?;
    // The old root is put over the new one, and taken away from there (pivot_root(2)).
    pivot_root(".", ".").or_fail("make it the root")?;
    unmount(".", UnmountFlags::DETACH).or_fail("leave the old root")?;
    chdir("/").or_fail("enter the new root")
}
