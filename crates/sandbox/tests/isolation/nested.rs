//! A worker in a step of an emulated kernel, whose root tries to undo what was mounted for the step.

use crate::options;
use rbuild_sandbox::{Isolation, Worker, WorkerChannel};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, UnmountFlags, fsconfig_create, fsconfig_set_string,
        fsmount, fsopen, mount, mount_bind, mount_bind_recursive, mount_move, mount_remount, unmount,
    },
};
use std::{fs, os::fd::AsRawFd, process::ExitCode};

/// The first argument of the program for [`main`].
pub(crate) const WORD: &str = "nested";
/// Where a directory is mounted that is not to be written to.
pub(crate) const READ_ONLY: &str = "/ro";

fn directory(path: &str) -> rustix::fd::OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn overlay(lower: &str, upper: &str, work: &str) -> Result<rustix::fd::OwnedFd, Errno> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, path) in [("lowerdir", lower), ("upperdir", upper), ("workdir", work)] {
        fsconfig_set_string(&context, name, path)?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// In the step: starts a worker, and tells what it found.
pub(crate) fn main() -> ExitCode {
    let mut options = options(WORD);
    options.isolation = Isolation::Ptrace;
    // Of the mount namespace around it.
    options.fds = vec![directory("/"), directory(READ_ONLY)];
    let worker = Worker::spawn(options).unwrap();
    println!("{:?}", worker.facts().privilege);
    for line in worker.recv::<Vec<String>>().unwrap().unwrap() {
        println!("{line}");
    }
    ExitCode::SUCCESS
}

/// The first argument of the program for [`start`].
pub(crate) const START: &str = "start";

/// In the step: tells what kind of worker starts there.
pub(crate) fn start() -> ExitCode {
    let mut options = options(WORD);
    options.isolation = Isolation::Auto;
    let mut worker = Worker::spawn(options).unwrap();
    println!("{:?}", worker.facts().privilege);
    worker.kill().unwrap();
    ExitCode::SUCCESS
}

/// In that worker: sends what it could do that it must not.
pub(crate) fn attack(mut channel: WorkerChannel) -> i32 {
    let outer = [0, 1].map(|index| channel.take_fd(index).unwrap());
    let [outer_root, outer_mount] = [0, 1].map(|index| format!("/proc/self/fd/{}", outer[index].as_raw_fd()));
    let mut wrong: Vec<String> = Vec::new();
    let mut expect = |what: &str, found: Result<(), Errno>, expected: Result<(), Errno>| {
        if found != expected {
            wrong.push(format!("{what}: {found:?}, and not {expected:?}"));
        }
    };
    let writable = |path: &str| mount_remount(path, MountFlags::BIND, "");
    let detach = |path: &str| unmount(path, UnmountFlags::DETACH);
    let write = |path: &str| {
        fs::write(path, "x").map_err(|error| Errno::from_raw_os_error(error.raw_os_error().unwrap_or_default()))
    };
    let within = format!("/mnt{READ_ONLY}");
    let new = |dir: &str| format!("{dir}/new");

    expect("writing", write(&new(READ_ONLY)), Err(Errno::ROFS));
    expect("making it writable", writable(READ_ONLY), Err(Errno::PERM));
    expect("making the file system writable", mount_remount(READ_ONLY, MountFlags::empty(), ""), Err(Errno::PERM));
    // It is found here by its path, where an overlay's directory belongs to the namespace in which it was opened.
    expect("through a descriptor from outside", writable(&outer_mount), Err(Errno::PERM));
    expect("binding the root from outside", mount_bind_recursive(&outer_root, "/mnt"), Err(Errno::INVAL));
    expect("unmounting", detach(READ_ONLY), Err(Errno::INVAL));
    expect("moving", mount_move(READ_ONLY, "/mnt"), Err(Errno::INVAL));
    expect("seeing what is covered", mount_bind("/", "/mnt"), Err(Errno::INVAL));

    expect("binding it", mount_bind(READ_ONLY, "/mnt"), Ok(()));
    expect("making the copy writable", writable("/mnt"), Err(Errno::PERM));
    expect("writing to the copy", write("/mnt/new"), Err(Errno::ROFS));
    expect("unmounting the copy", detach("/mnt"), Ok(()));

    expect("binding all", mount_bind_recursive("/", "/mnt"), Ok(()));
    expect("making the copy within writable", writable(&within), Err(Errno::PERM));
    expect("unmounting the copy within", detach(&within), Err(Errno::INVAL));
    expect("writing to the copy within", write(&new(&within)), Err(Errno::ROFS));
    expect("unmounting all copies", detach("/mnt"), Ok(()));

    for kind in ["proc", "sysfs"] {
        expect(kind, mount(kind, "/mnt", kind, MountFlags::empty(), None), Err(Errno::PERM));
    }
    expect("a tmpfs", mount("tmpfs", "/mnt", "tmpfs", MountFlags::empty(), None), Ok(()));
    for name in ["lower", "upper", "work"] {
        fs::create_dir(format!("/mnt/{name}")).unwrap();
    }
    let [lower, upper, work] = ["/mnt/lower", "/mnt/upper", "/mnt/work"];
    expect("an overlay", overlay(lower, upper, work).map(drop), Ok(()));
    for (upper, work) in [(READ_ONLY, work), (upper, READ_ONLY), ("/home", work)] {
        expect("an overlay that writes elsewhere", overlay(lower, upper, work).map(drop), Err(Errno::INVAL));
    }
    let parent = format!("/proc/{}/ns/mnt", rustix::process::getppid().unwrap().as_raw_nonzero());
    if let Ok(parent) = fs::File::open(parent) {
        let entered = nix::sched::setns(parent, nix::sched::CloneFlags::empty());
        expect("the namespace around it", entered.map_err(|_| Errno::PERM), Err(Errno::PERM));
    }
    channel.send(&wrong).unwrap();
    0
}
