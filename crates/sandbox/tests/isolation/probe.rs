//! What a step sees, as lines of `name=value`: system calls that busybox has no word for.

use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, socket};
use std::{fmt::Debug, process::ExitCode};

fn tell<T, E: Debug>(name: &str, outcome: Result<T, E>) {
    match outcome {
        Ok(_) => println!("{name}=ok"),
        Err(error) => println!("{name}={error:?}"),
    }
}

/// A directory that was opened as a file, as Go does it: it is listed, again from the start, and not read.
fn list_plainly() -> Result<(), Errno> {
    let directory = rustix::fs::open("/", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let list = || -> Result<Vec<Vec<u8>>, Errno> {
        let (mut buffer, mut names) = (Vec::with_capacity(64), Vec::new());
        let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            names.push(entry?.file_name().to_bytes().to_vec());
        }
        Ok(names)
    };
    let first = list()?;
    if !first.iter().any(|name| name == b"bin") || !list()?.is_empty() {
        return Err(Errno::NOENT);
    }
    rustix::fs::seek(&directory, SeekFrom::Start(0))?;
    if list()? != first {
        return Err(Errno::STALE);
    }
    match rustix::io::read(&directory, &mut [0; 8]) {
        Err(Errno::ISDIR) => Ok(()),
        Err(errno) => Err(errno),
        Ok(_) => Err(Errno::NOTDIR),
    }
}

pub(crate) fn main() -> ExitCode {
    tell("inet", socket(AddressFamily::INET, SocketType::STREAM, None));
    tell("vsock", socket(AddressFamily::from_raw(40), SocketType::STREAM, None));
    tell("fsopen", rustix::mount::fsopen("tmpfs", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC));
    tell("unshare-user", nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER));
    tell("setns", nix::sched::setns(std::io::stdin(), nix::sched::CloneFlags::empty()));
    // The C library tries clone3 first, and falls back only on ENOSYS.
    tell("thread", std::thread::Builder::new().spawn(|| ()).map(|thread| thread.join()));
    tell("child", std::process::Command::new("/bin/busybox").arg("true").status());
    tell("directory", list_plainly());
    println!("euid={}", rustix::process::geteuid().as_raw());
    println!("nnp={:?}", rustix::thread::no_new_privs());
    ExitCode::SUCCESS
}
