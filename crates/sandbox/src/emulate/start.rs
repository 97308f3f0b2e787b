//! How the guardian becomes the supervisor of a worker.

use super::{
    Kernel,
    calls::Calls,
    filter,
    supervise::supervise,
    task::{Credentials, Fs, PidSpace, Process, Task},
    vfs::{FileSystem, Found, Identity, MountFlags, Namespace, NoLinks, Place, Start, keep_directories_in},
};
use crate::{
    channel::{Channel, ChannelError},
    guardian::{Report, Side, watch},
    isolation::Facts,
    root::{beside, xattr},
    seccomp::RELEASE,
    sys::{
        notify,
        process::{Fork, ask, fork},
        ptrace,
    },
    worker::WorkerChannel,
};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{Mode, OFlags},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal},
};
use std::{
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicU32},
};

/// How the directories for what is emulated in memory are called; a process id and a time follow.
const PREFIX: &str = ".rbuild-memory-";

/// The umask with which a worker begins.
const UMASK: u32 = 0o022;

/// Forks the worker, and plays the kernel for it and all that it starts.
pub(crate) fn split(
    control: Channel,
    channel: Channel,
    fds: Vec<OwnedFd>,
    facts: Facts,
    attributes_in: Option<&Path>,
) -> Result<Side, ()> {
    let fail = |action: &str, error: io::Error| {
        let errno = error.raw_os_error().unwrap_or(0);
        let _ = control.send(&Report::Failed { action: action.to_owned(), errno });
    };
    let directory = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    // What is made really gets the mode that it is given; where a process is, is known here alone.
    rustix::process::umask(Mode::empty());
    rustix::process::chdir("/").map_err(|error| fail("enter the root", error.into()))?;
    let (above, below) = Channel::pair().map_err(|error| fail("create a socket", error))?;
    match fork().map_err(|error| fail("start the worker", error))? {
        Fork::Child => {
            drop((control, above));
            become_supervised(&below).map_err(drop)?;
            Ok(Side::Worker(WorkerChannel::new(channel, facts, fds)))
        }
        Fork::Parent(pid) => {
            drop((channel, below, fds));
            let begun = begin(pid, &above, &directory, attributes_in).map_err(|Failed(action, error)| {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
                fail(action, error);
            })?;
            guard(&control, &above, begun)
        }
    }
}

/// What a supervisor has when its worker is about to start.
struct Begun {
    task: Arc<Task>,
    kernel: Kernel,
    listener: OwnedFd,
    pidfd: OwnedFd,
}

/// What was tried, and why it failed.
struct Failed(&'static str, io::Error);

/// Takes the new process under control and receives the listener of its filter.
fn begin(pid: Pid, worker: &Channel, directory: &Path, attributes_in: Option<&Path>) -> Result<Begun, Failed> {
    let lost = |_: ChannelError| Failed("talk to the worker", Errno::PIPE.into());
    let failed = |action| move |error: io::Error| Failed(action, error);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| Failed("watch the worker", error.into()))?;
    let number = pid.as_raw_nonzero().get().unsigned_abs();
    ptrace::seize(number).map_err(|error| Failed("trace the worker", error.into()))?;
    worker.send(&()).map_err(lost)?;
    match worker.recv::<Result<(), i32>>().map_err(lost)? {
        Some(Ok(())) => {}
        Some(Err(errno)) => return Err(Failed("install a seccomp filter", io::Error::from_raw_os_error(errno))),
        None => return Err(Failed("start the worker", Errno::PIPE.into())),
    }
    let listener = worker.recv_descriptor().map_err(failed("receive the filter's listener"))?;
    let scratch = scratch().map_err(failed("make a directory for temporary files"))?;
    for dir in attributes_in.map(Path::to_owned).into_iter().chain([scratch.join("attributes")]) {
        // Of a directory that cannot be had the worker tells more.
        let Some(above) = dir.parent().filter(|above| std::fs::create_dir_all(above).is_ok()) else { continue };
        if !xattr::are_kept(above) {
            beside::keep_in(&dir).map_err(failed("make a directory for attributes"))?;
        }
    }
    keep_directories_in(scratch.clone());
    let task = first_task(number, directory).map_err(|error| Failed("look at the root", error.into()))?;
    Ok(Begun { task, kernel: Kernel::new(scratch), listener, pidfd })
}

fn become_supervised(supervisor: &Channel) -> Result<(), ChannelError> {
    let armed = set_parent_process_death_signal(Some(Signal::KILL)).is_ok();
    if !armed || supervisor.recv::<()>()?.is_none() {
        return Err(ChannelError::Truncated);
    }
    let listener = rustix::thread::set_no_new_privs(true).and_then(|()| match notify::install(&filter::program()) {
        // In a step of a build.
        Err(Errno::BUSY) => {
            let _ = ask(RELEASE);
            notify::install(&filter::program())
        }
        other => other,
    });
    supervisor.send(&listener.as_ref().map(drop).map_err(|errno| errno.raw_os_error()))?;
    let Ok(listener) = listener else { return Err(ChannelError::Truncated) };
    supervisor.send_descriptor(listener.as_fd()).map_err(|_| ChannelError::Truncated)?;
    drop(listener);
    match supervisor.recv::<()>()? {
        Some(()) => Ok(()),
        None => Err(ChannelError::Truncated),
    }
}

fn guard(control: &Channel, worker: &Channel, begun: Begun) -> Result<Side, ()> {
    let Begun { task, kernel, listener, pidfd } = begun;
    let scratch = kernel.scratch.clone();
    let status = std::thread::scope(|threads| {
        threads.spawn(|| watch(control, &pidfd));
        let started = || {
            let told = worker.send(&()).map_err(io::Error::other);
            let _ = control.send(&Report::Ready);
            told
        };
        supervise(kernel, Box::new(Calls::default()), task, listener, started)
    });
    let _ = crate::remove::remove_tree(&scratch);
    match status {
        Ok(status) => {
            let _ = control.send(&Report::Ended(status));
            Ok(Side::Guardian(status.code()))
        }
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(0);
            let _ = control.send(&Report::Failed { action: "supervise the worker".into(), errno });
            Err(())
        }
    }
}

/// A new directory for what is emulated in memory. Best on a file system that keeps attributes, in which owners are
/// recorded.
fn scratch() -> io::Result<PathBuf> {
    let mut bases: Vec<PathBuf> = ["TMPDIR", "HOME"].iter().filter_map(std::env::var_os).map(PathBuf::from).collect();
    bases.extend(["/tmp", "/var/tmp", "/dev/shm", "/run/lock"].map(PathBuf::from));
    let mut last = io::Error::from(Errno::ROFS);
    let mut second_best: Option<PathBuf> = None;
    for base in bases {
        remove_stale(&base);
        let path = base.join(format!("{PREFIX}{}-{:x}", std::process::id(), nanoseconds()));
        match std::fs::create_dir(&path) {
            Err(error) => last = error,
            Ok(()) if xattr::are_kept(&path) => {
                if let Some(other) = second_best {
                    let _ = std::fs::remove_dir(other);
                }
                return Ok(path);
            }
            Ok(()) if second_best.is_none() => second_best = Some(path),
            Ok(()) => {
                let _ = std::fs::remove_dir(path);
            }
        }
    }
    second_best.ok_or(last)
}

/// Those of supervisors that were killed.
fn remove_stale(base: &Path) {
    let entries = std::fs::read_dir(base).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split_once('-')).map(|(pid, _)| pid);
        if let Some(pid) = pid
            && pid.bytes().all(|byte| byte.is_ascii_digit())
            && !Path::new("/proc").join(pid).exists()
        {
            // Those of other users stay.
            let _ = crate::remove::remove_tree(&entry.path());
        }
    }
}

fn nanoseconds() -> u128 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_nanos())
}

/// The worker: root of this machine's files, as it sees it.
fn first_task(pid: u32, directory: &Path) -> Result<Arc<Task>, Errno> {
    let host = |path: &str, is_proc| {
        let root = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok::<_, Errno>(FileSystem::Host { root, path: PathBuf::from(path), is_proc })
    };
    let namespace = Namespace::new(host("/", false)?)?;
    let root = namespace.root();
    let who = Identity { capabilities: u64::MAX, ..Identity::default() };
    let find = |path: &Path| -> Option<Place> {
        let start = Start { root: &root, base: &root, who: &who, proc: &NoLinks };
        match namespace.resolve(&start, path.as_os_str().as_bytes(), true) {
            Ok(Found::File(place)) => Some(place),
            _ => None,
        }
    };
    // Its own links must mean the task.
    if let Some(point) = find(Path::new("/proc")) {
        let proc = namespace.mount(host("/proc", true)?, MountFlags::default())?;
        namespace.attach(&proc, &point)?;
    }
    let cwd = find(directory).filter(Place::is_dir).unwrap_or_else(|| root.clone());
    let exe = std::fs::read_link("/proc/self/exe").ok().and_then(|path| find(&path));
    let hostname = rustix::system::uname().nodename().to_bytes().to_vec();
    let pids = Arc::new(PidSpace { init: AtomicU32::new(pid), parent: None });
    Ok(Arc::new(Task {
        tid: pid,
        process: Arc::new(Process {
            pid,
            exe: Mutex::new(exe),
            dumpable: Mutex::new(1),
            pids,
            space: Mutex::default(),
        }),
        fs: Mutex::new(Arc::new(Mutex::new(Fs { root: root.clone(), cwd, umask: UMASK }))),
        credentials: Mutex::new(Credentials::root()),
        namespace: Mutex::new(Arc::clone(&namespace)),
        hostname: Mutex::new(Arc::new(Mutex::new(hostname))),
        network_none: Mutex::new(false),
        pids_for_children: Mutex::new(None),
    }))
}
