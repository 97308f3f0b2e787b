//! umask, host names, signals, namespaces.

use super::{
    Answer, DONE, Outcome,
    caller::lock,
    capabilities::{KILL, SYS_ADMIN},
};
use crate::emulate::{Kernel, task::Task};
use nix::libc;
use rustix::io::Errno;
use std::sync::{Arc, PoisonError, atomic::Ordering};

pub(super) fn umask(task: &Task, mask: u32) -> Outcome {
    let fs = lock(&task.fs);
    let mut fs = lock(&fs);
    let old = std::mem::replace(&mut fs.umask, mask & 0o777);
    Ok(Answer::Return(i64::from(old)))
}

/// A field of `struct new_utsname`.
const NAME: usize = 65;

pub(super) fn uname(task: &Task, buffer: u64) -> Outcome {
    let real = rustix::system::uname();
    let host = lock(&lock(&task.hostname)).clone();
    let fields = [
        real.sysname().to_bytes(),
        &host,
        real.release().to_bytes(),
        real.version().to_bytes(),
        real.machine().to_bytes(),
        b"(none)",
    ];
    let mut bytes = [0; NAME * 6];
    for (field, value) in bytes.chunks_exact_mut(NAME).zip(fields) {
        let length = value.len().min(NAME - 1);
        if let (Some(to), Some(from)) = (field.get_mut(..length), value.get(..length)) {
            to.copy_from_slice(from);
        }
    }
    task.memory().write(buffer, &bytes).map(|()| DONE)
}

fn host_name(task: &Task, address: u64, length: i32) -> Result<Vec<u8>, Errno> {
    if !lock(&task.credentials).has(SYS_ADMIN) {
        return Err(Errno::PERM);
    }
    let length = usize::try_from(length).ok().filter(|length| *length < NAME).ok_or(Errno::INVAL)?;
    let mut name = vec![0; length];
    task.memory().read(address, &mut name)?;
    name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(length));
    Ok(name)
}

pub(super) fn set_host_name(task: &Task, address: u64, length: i32) -> Outcome {
    let name = host_name(task, address, length)?;
    *lock(&lock(&task.hostname)) = name;
    Ok(DONE)
}

/// The name is not kept: nobody asks for it.
pub(super) fn set_domain_name(task: &Task, address: u64, length: i32) -> Outcome {
    host_name(task, address, length).map(|_| DONE)
}

/// kill(2) with the ids that there would be in a container: not those of the user's other processes.
pub(super) fn kill(kernel: &Kernel, task: &Arc<Task>, pid: i32, signal: i32) -> Outcome {
    if !(0..=64).contains(&signal) {
        return Err(Errno::INVAL);
    }
    let Ok(wanted) = u32::try_from(pid) else {
        return if pid == -1 { kill_all(kernel, task, signal) } else { Ok(Answer::Native) };
    };
    if wanted == 0 || wanted == task.process.pid {
        return Ok(Answer::Native);
    }
    let target = {
        let tasks = kernel.tasks.read().unwrap_or_else(PoisonError::into_inner);
        tasks.get(&wanted).or_else(|| tasks.values().find(|other| other.process.pid == wanted)).map(Arc::clone)
    };
    match target {
        Some(other) if !task.sees(&other) => Err(Errno::SRCH),
        Some(other) if may_signal(task, &other, signal) => Ok(Answer::Native),
        Some(_) => Err(Errno::PERM),
        // It has ended, and waits for its parent.
        None if has_ended(wanted) => Ok(Answer::Native),
        None => Err(Errno::SRCH),
    }
}

fn may_signal(from: &Task, to: &Task, signal: i32) -> bool {
    let (own, capable) = {
        let it = lock(&from.credentials);
        (it.uid, it.has(KILL))
    };
    let other = lock(&to.credentials).uid;
    capable
        || [own[0], own[1]].iter().any(|id| *id == other[0] || *id == other[2])
        // Within a session.
        || signal == libc::SIGCONT
}

pub(super) fn has_ended(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|text| text.rsplit_once(") ").map(|(_, rest)| rest.starts_with(['Z', 'X'])))
        .unwrap_or(false)
}

/// Every process that the caller could see, but the first and itself.
fn kill_all(kernel: &Kernel, task: &Arc<Task>, signal: i32) -> Outcome {
    let mut targets: Vec<(u32, Arc<Task>)> = {
        let tasks = kernel.tasks.read().unwrap_or_else(PoisonError::into_inner);
        tasks.values().map(|other| (other.process.pid, Arc::clone(other))).collect()
    };
    targets.sort_by_key(|(pid, _)| *pid);
    targets.dedup_by_key(|(pid, _)| *pid);
    let first = task.process.pids.init.load(Ordering::Relaxed);
    let mut sent = false;
    for (pid, other) in targets {
        if pid == task.process.pid || pid == first || !task.sees(&other) || !may_signal(task, &other, signal) {
            continue;
        }
        let Some(pid) = i32::try_from(pid).ok().map(nix::unistd::Pid::from_raw) else { continue };
        let signal = nix::sys::signal::Signal::try_from(signal).ok();
        sent |= nix::sys::signal::kill(pid, signal).is_ok();
    }
    if sent { Ok(DONE) } else { Err(Errno::SRCH) }
}

const NEW_TIME: i32 = 0x80;
/// What only the kernel can part.
const REAL: i32 = libc::CLONE_FILES | libc::CLONE_SYSVSEM | libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_VM;
const PRIVILEGED: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP
    | NEW_TIME;

pub(super) fn unshare(task: &Task, flags: u64) -> Outcome {
    let known = REAL | PRIVILEGED | libc::CLONE_NEWUSER | libc::CLONE_FS;
    if flags & !(known as u32 as u64) != 0 {
        return Err(Errno::INVAL);
    }
    let flags = flags as i32;
    // User namespaces are refused, as in a container.
    if flags & libc::CLONE_NEWUSER != 0 || (flags & PRIVILEGED != 0 && !lock(&task.credentials).has(SYS_ADMIN)) {
        return Err(Errno::PERM);
    }
    task.unshare(u64::from(flags as u32));
    let rest = flags & !(PRIVILEGED | libc::CLONE_FS);
    Ok(if rest != 0 && rest == flags { Answer::Native } else { DONE })
}

/// Those requests of ioctl(2) that the filter sends here: the interfaces of a step without a network are as they should
/// be, and those of others are not to be changed.
pub(super) fn ioctl(task: &Task, request: u32) -> Outcome {
    if u64::from(request) != libc::SIOCSIFFLAGS {
        return Ok(Answer::Native);
    }
    if *lock(&task.network_none) { Ok(DONE) } else { Err(Errno::PERM) }
}
