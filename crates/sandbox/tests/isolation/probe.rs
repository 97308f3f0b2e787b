//! What a step sees, as lines of `name=value`: system calls that busybox has no word for.

use rustix::net::{AddressFamily, SocketType, socket};
use std::{fmt::Debug, process::ExitCode};

fn tell<T, E: Debug>(name: &str, outcome: Result<T, E>) {
    match outcome {
        Ok(_) => println!("{name}=ok"),
        Err(error) => println!("{name}={error:?}"),
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
    println!("euid={}", rustix::process::geteuid().as_raw());
    println!("nnp={:?}", rustix::thread::no_new_privs());
    ExitCode::SUCCESS
}
