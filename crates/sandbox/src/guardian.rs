//! The inner side of a worker's start: two processes.
//!
//! The *guardian* enters the namespaces and forks the worker proper, which is PID 1 of a pid namespace: when it dies,
//! the kernel kills everything that it started, at any depth. The guardian holds the socket on which the parent
//! listens; when that ends, be it by `kill -9` of the parent, it kills the worker. If the guardian itself dies, the
//! worker's parent-death signal does the same. The signal alone would not do: the kernel ties it to the *thread* that
//! forked, and the parent's may end at any time.

use crate::{
    channel::{Channel, ChannelError},
    chroot::become_namespace_root,
    emulate::{self, filter::NEST},
    idmap::{IdKind, deny_setgroups, write_own_map},
    init::Entry,
    isolation::{Facts, IdRange},
    overlay::probe_overlay,
    run::ExitStatus,
    sys::{
        descriptor::take_inherited,
        process::{Fork, ask, fork, wait},
        signal,
    },
    worker::WorkerChannel,
};
use nix::sched::CloneFlags;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::OwnedFd,
    io::Errno,
    mount::{MountPropagationFlags, mount_change},
    process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal, set_parent_process_death_signal},
};
use serde::{Deserialize, Serialize};
use std::{fs, io, path::PathBuf};

/// How the ids come about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Plan {
    /// No user namespace.
    Root,
    /// The parent, or a helper of it, writes the maps.
    MappedOutside,
    /// The guardian maps the caller's own id.
    OwnIds { uid: IdRange, gid: IdRange },
    /// No namespace: the guardian plays the kernel.
    Emulated,
}

/// From the parent, first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) plan: Plan,
    pub(crate) extra_fds: usize,
    /// Where overlays must work.
    #[serde(with = "crate::bytes::optional_path")]
    pub(crate) overlay_on: Option<PathBuf>,
    /// Where attributes go that the file system does not keep.
    #[serde(with = "crate::bytes::optional_path")]
    pub(crate) attributes_in: Option<PathBuf>,
}

/// From the parent, second: the maps are written as far as that is its business.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Proceed {
    pub(crate) facts: Facts,
}

/// From the guardian.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The namespaces exist.
    Unshared,
    /// The worker runs.
    Ready,
    /// The worker ended.
    Ended(ExitStatus),
    /// A step failed.
    Failed { action: String, errno: i32 },
    /// The kernel gave no user namespace, or one without any right.
    NoUserNamespace { errno: i32 },
}

trait OrFail<T> {
    fn or_fail(self, action: &str) -> Result<T, Report>;
}

impl<T, E: Into<io::Error>> OrFail<T> for Result<T, E> {
    fn or_fail(self, action: &str) -> Result<T, Report> {
        self.map_err(|error| Report::Failed {
            action: action.to_owned(),
            errno: error.into().raw_os_error().unwrap_or(0),
        })
    }
}

/// The work of a process that was started as a worker; its exit code, or `None` where it was not started by us.
pub(crate) fn guard(entry: Entry) -> Option<i32> {
    signal::reset();
    signal::ignore_group_signals();
    let mut fds = take_inherited(2).ok()?.into_iter();
    let (control, channel) = (Channel::from(fds.next()?), Channel::from(fds.next()?));
    let mut setup: Setup = control.recv().ok()??;
    // Within an emulated kernel that one goes on.
    if setup.plan == Plan::Emulated && ask(NEST).is_some() {
        setup.plan = Plan::Root;
    }
    let fds = take_inherited(setup.extra_fds).ok()?;

    match start(&setup, &control) {
        Ok(None) => None,
        Ok(Some(facts)) => Some(match divide(&setup, control, channel, fds, facts) {
            Ok(Side::Guardian(code)) => code,
            Ok(Side::Worker(channel)) => entry(channel),
            Err(()) => 1,
        }),
        Err(failure) => {
            let _ = control.send(&failure);
            Some(1)
        }
    }
}

/// Enters the namespaces and becomes uid 0; `None` where the parent gave up meanwhile.
fn start(setup: &Setup, control: &Channel) -> Result<Option<Facts>, Report> {
    let plan = &setup.plan;
    // No terminal: its signals are the parent's business, and a command must not push input into it.
    let _ = rustix::process::setsid();
    let spaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    match plan {
        Plan::Emulated => {}
        Plan::Root => {
            nix::sched::unshare(spaces).or_fail("create mount and pid namespaces")?;
            become_namespace_root().or_else(|(action, errno)| Err(errno).or_fail(action))?;
        }
        Plan::MappedOutside | Plan::OwnIds { .. } => {
            // Ubuntu's AppArmor gives one in which nothing is allowed.
            let refused = |errno: nix::errno::Errno| Report::NoUserNamespace { errno: errno as i32 };
            nix::sched::unshare(CloneFlags::CLONE_NEWUSER).map_err(refused)?;
            nix::sched::unshare(spaces).map_err(|errno| match errno {
                nix::errno::Errno::EPERM | nix::errno::Errno::EACCES => refused(errno),
                _ => Report::Failed {
                    action: "create mount and pid namespaces in the user namespace".into(),
                    errno: errno as i32,
                },
            })?;
        }
    }
    let lost =
        |_: ChannelError| Report::Failed { action: "talk to the parent".into(), errno: Errno::PIPE.raw_os_error() };
    control.send(&Report::Unshared).map_err(lost)?;
    let Some(Proceed { facts }) = control.recv().map_err(lost)? else {
        return Ok(None);
    };
    if *plan == Plan::Emulated {
        return Ok(Some(facts));
    }
    if let Plan::OwnIds { uid, gid } = plan {
        let map = |kind, range: &IdRange| write_own_map(kind, std::slice::from_ref(range));
        deny_setgroups()
            .and_then(|()| map(IdKind::User, uid))
            .and_then(|()| map(IdKind::Group, gid))
            .map_err(|error| Report::Failed { action: error.to_string(), errno: error.errno() })?;
    }
    if *plan != Plan::Root {
        nix::unistd::setresgid(0.into(), 0.into(), 0.into()).or_fail("become group 0")?;
        nix::unistd::setresuid(0.into(), 0.into(), 0.into()).or_fail("become user 0")?;
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .or_fail("make the mounts private")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // Of a directory that cannot be had the worker tells more.
    if let Some(directory) = &setup.overlay_on
        && fs::create_dir_all(directory).is_ok()
        && let Err(error) = probe_overlay(directory)
    {
        let action = format!("mount an overlay in `{}`", directory.display());
        return Err(Report::Failed { action, errno: error.errno().unwrap_or(Errno::OPNOTSUPP.raw_os_error()) });
    }
    Ok(Some(facts))
}

/// What of the two this process is, and how the guardian ended.
pub(crate) enum Side {
    Guardian(i32),
    Worker(WorkerChannel),
}

fn divide(setup: &Setup, control: Channel, channel: Channel, fds: Vec<OwnedFd>, facts: Facts) -> Result<Side, ()> {
    match setup.plan {
        Plan::Emulated => emulate::split(control, channel, fds, facts, setup.attributes_in.as_deref()),
        _ => split(control, channel, fds, facts),
    }
}

fn split(control: Channel, channel: Channel, fds: Vec<OwnedFd>, facts: Facts) -> Result<Side, ()> {
    let fail = |action: &str, error: io::Error| {
        let errno = error.raw_os_error().unwrap_or(0);
        let _ = control.send(&Report::Failed { action: action.to_owned(), errno });
    };
    let (above, below) = Channel::pair().map_err(|error| fail("create a socket", error))?;
    match fork().map_err(|error| fail("start PID 1 of the pid namespace", error))? {
        Fork::Child => {
            drop((control, above));
            // The guardian answers after the signal is armed, so that its death before that is seen as well.
            let armed = set_parent_process_death_signal(Some(Signal::KILL)).is_ok() && below.send(&()).is_ok();
            match below.recv::<()>() {
                Ok(Some(())) if armed => Ok(Side::Worker(WorkerChannel::new(channel, facts, fds))),
                _ => Err(()),
            }
        }
        Fork::Parent(pid) => {
            drop((channel, below, fds));
            let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| fail("watch the worker", error.into()))?;
            let started = matches!(above.recv::<()>(), Ok(Some(()))) && above.send(&()).is_ok();
            if !started {
                fail("start the worker", Errno::PIPE.into());
                return Err(());
            }
            let _ = control.send(&Report::Ready);
            drop(above);
            watch(&control, &pidfd);
            let status = wait(pid).map_err(|error| fail("wait for the worker", error))?;
            let _ = control.send(&Report::Ended(status));
            Ok(Side::Guardian(status.code()))
        }
    }
}

/// Waits until the worker has ended, or the parent has, and kills the worker then.
pub(crate) fn watch(control: &Channel, worker: &OwnedFd) {
    loop {
        let mut fds = [PollFd::new(control, PollFlags::RDHUP), PollFd::new(worker, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            Ok(_) if fds[0].revents().is_empty() && fds[1].revents().is_empty() => continue,
            _ => {}
        }
        if !fds[0].revents().is_empty() {
            let _ = pidfd_send_signal(worker, Signal::KILL);
        }
        return;
    }
}
