//! Sockets: addresses that are paths, and steps without a network.

use super::{
    Answer, DONE, Outcome,
    caller::{Caller, Target, lock},
    capabilities::NET_RAW,
    int,
};
use crate::emulate::{
    Kernel, Rewritten,
    task::Task,
    vfs::{Identity, Parent, Place},
};
use nix::libc;
use rustix::{
    fd::{AsRawFd, OwnedFd},
    fs::{AtFlags, renameat, statat, unlinkat},
    io::Errno,
    net::{AddressFamily, Protocol, RawProtocol, SocketFlags, SocketType, socket_with, sockopt::socket_peercred},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};
use std::{
    collections::HashMap,
    os::unix::ffi::OsStrExt,
    sync::{Arc, Mutex, PoisonError},
};

/// socket(2) of a step without a network. The socket is bound to the loopback interface, so that nothing leaves by it,
/// however it is used; that there is no way to anywhere is told by connect.
pub(super) fn socket(task: &Task, family: i32, kind: i32, protocol: i32) -> Outcome {
    if !*lock(&task.network_none) || !matches!(family, libc::AF_INET | libc::AF_INET6) {
        return Ok(Answer::Native);
    }
    let family = AddressFamily::from_raw(family as u16);
    let flags = SocketFlags::from_bits_truncate(kind as u32) | SocketFlags::CLOEXEC;
    let raw = kind & 0xf == libc::SOCK_RAW;
    if raw && !lock(&task.credentials).has(NET_RAW) {
        return Err(Errno::PERM);
    }
    // A raw socket that leads nowhere may as well be another one.
    let kind_alone = if raw { SocketType::DGRAM } else { SocketType::from_raw((kind & 0xf) as u32) };
    let protocol = if raw { None } else { RawProtocol::new(protocol as u32).map(Protocol::from_raw) };
    let fd = socket_with(family, kind_alone, flags, protocol)?;
    // Older kernels (before 5.7) let only root do so.
    let _ = nix::sys::socket::setsockopt(&fd, nix::sys::socket::sockopt::BindToDevice, &"lo".into());
    Ok(Answer::Descriptor { fd, close_on_exec: kind & libc::SOCK_CLOEXEC != 0 })
}

/// Files that were made for calls of bind that have not ended, by task.
#[derive(Debug, Default)]
pub(super) struct Bound(Mutex<HashMap<u32, Made>>);

/// A file that was made for bind.
#[derive(Debug)]
struct Made {
    parent: Place,
    name: Vec<u8>,
    real_parent: OwnedFd,
    temporary: String,
}

impl Bound {
    /// To be called when the call of this task has ended.
    pub(super) fn finish(&self, tid: u32, succeeded: bool) {
        let Some(Made { parent, name, real_parent, temporary }) = lock(&self.0).remove(&tid) else { return };
        // The kernel makes the file itself: it replaces the one that was made to have a name, owner and mode.
        if !(succeeded && renameat(&real_parent, &temporary, &real_parent, name.as_slice()).is_ok()) {
            let _ = unlinkat(&real_parent, &temporary, AtFlags::empty());
            let anybody = Identity { capabilities: u64::MAX, ..Identity::default() };
            let _ = parent.unlink(&name, &anybody);
        }
    }
}

/// The credentials of the other end of a Unix socket are those that its process has here.
pub(super) fn getsockopt(kernel: &Kernel, task: &Arc<Task>, args: [u64; 6]) -> Outcome {
    let [fd, level, _, value, length, _] = args;
    if int(level) != libc::SOL_SOCKET {
        return Ok(Answer::Native);
    }
    let peer = || {
        let process = Pid::from_raw(i32::try_from(task.process.pid).ok()?)?;
        let process = pidfd_open(process, PidfdFlags::empty()).ok()?;
        let socket = pidfd_getfd(process, int(fd), PidfdGetfdFlags::empty()).ok()?;
        let peer = socket_peercred(&socket).ok()?;
        let pid = peer.pid.as_raw_nonzero().get().unsigned_abs();
        let tasks = kernel.tasks.read().unwrap_or_else(PoisonError::into_inner);
        let other = tasks.get(&pid)?;
        let it = lock(&other.credentials);
        Some((pid, it.uid[1], it.gid[1]))
    };
    // Where it cannot be had, the kernel tells of the user.
    let Some((pid, uid, gid)) = peer() else { return Ok(Answer::Native) };
    let mut room = [0; 4];
    task.memory().read(length, &mut room)?;
    let room = usize::try_from(i32::from_ne_bytes(room)).map_err(|_| Errno::INVAL)?;
    let bytes = [pid, uid, gid].map(u32::to_ne_bytes).concat();
    let given = bytes.get(..room.min(bytes.len())).unwrap_or_default();
    task.memory().write(value, given)?;
    task.memory().write(length, &(given.len() as u32).to_ne_bytes())?;
    Ok(DONE)
}

const FAMILY: usize = 2;
/// `sun_path`.
const MAX_PATH: usize = 108;

fn local_address(path: &[u8]) -> Result<Vec<u8>, Errno> {
    if path.len() >= MAX_PATH {
        return Err(Errno::NAMETOOLONG);
    }
    Ok([&(libc::AF_UNIX as u16).to_ne_bytes(), path, b"\0"].concat())
}

/// How the supervisor's descriptor is named from another process.
fn named(fd: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd())
}

/// Translates the address of a connect or a bind (`bind`). `Ok(None)`: the address stays as it is.
pub(super) fn real_address(caller: &Caller<'_>, address: &[u8], bind: bool) -> Result<Option<Rewritten>, Errno> {
    let family = address.get(..FAMILY).and_then(|it| it.try_into().ok()).map_or(0, u16::from_ne_bytes);
    if matches!(i32::from(family), libc::AF_INET | libc::AF_INET6) {
        let reachable = bind || !*lock(&caller.task.network_none) || is_loopback(address);
        return if reachable { Ok(None) } else { Err(Errno::NETUNREACH) };
    }
    let path = address.get(FAMILY..).unwrap_or_default();
    let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
    // Abstract names and names that the kernel makes up have no path.
    if i32::from(family) != libc::AF_UNIX || path.is_empty() {
        return Ok(None);
    }
    if bind { bind_path(caller, path).map(Some) } else { connect_path(caller, path).map(Some) }
}

/// Whether an address is one of this machine alone, or none.
fn is_loopback(address: &[u8]) -> bool {
    match address.len() {
        16.. if address.first() == Some(&(libc::AF_INET as u8)) => {
            matches!(address.get(4..8), Some([127, ..] | [0, 0, 0, 0]))
        }
        24.. => match address.get(8..24) {
            Some([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]) => *last <= 1,
            Some([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, ..]) => true,
            _ => false,
        },
        // The kernel refuses it.
        _ => true,
    }
}

fn connect_path(caller: &Caller<'_>, path: &[u8]) -> Result<Rewritten, Errno> {
    let place = match caller.find(super::CWD, path, true)? {
        Target::Place(place) => place,
        Target::Descriptor(_) => return Err(Errno::CONNREFUSED),
    };
    place.access(libc::W_OK as u32, &caller.who)?;
    if place.stat()?.mode & libc::S_IFMT != libc::S_IFSOCK {
        return Err(Errno::CONNREFUSED);
    }
    let keep = place.real(false)?;
    Ok(Rewritten { bytes: local_address(named(&keep).as_bytes())?, hold: Some(keep) })
}

fn bind_path(caller: &Caller<'_>, path: &[u8]) -> Result<Rewritten, Errno> {
    let base = caller.base_of(super::CWD, path)?;
    let in_use = |errno: Errno| if errno == Errno::EXIST { Errno::ADDRINUSE } else { errno };
    let Parent { dir, name, .. } = caller.namespace.new_name(&caller.start(&base), path).map_err(in_use)?;
    let mode = libc::S_IFSOCK | (0o777 & !caller.fs.umask);
    dir.mknod(&name, mode, 0, &caller.who).map_err(in_use)?;
    let undo = |errno: Errno| {
        let _ = dir.unlink(&name, &caller.who);
        errno
    };
    let keep = dir.real(true).map_err(undo)?;
    let temporary = format!(".rbuild-socket-{}", caller.task.tid);
    let bytes = local_address(format!("{}/{temporary}", named(&keep)).as_bytes()).map_err(undo)?;
    // Left by a call that was interrupted.
    if statat(&keep, &temporary, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        let _ = unlinkat(&keep, &temporary, AtFlags::empty());
    }
    let hold = keep.try_clone().map_err(|_| undo(Errno::MFILE))?;
    let made = Made { parent: dir.clone(), name, real_parent: keep, temporary };
    lock(&caller.calls.bound.0).insert(caller.task.tid, made);
    Ok(Rewritten { bytes, hold: Some(hold) })
}

/// Translates the path of an inotify_add_watch. Of a directory of an overlay the upper one is watched, in which all
/// changes happen.
pub(super) fn watched_path(caller: &Caller<'_>, path: &[u8], mask: u32) -> Result<(Rewritten, u32), Errno> {
    let follow = mask & libc::IN_DONT_FOLLOW == 0;
    let mask = mask & !libc::IN_DONT_FOLLOW;
    match caller.find(super::CWD, path, follow)? {
        Target::Descriptor(path) => Ok((Rewritten { bytes: path.as_os_str().as_bytes().to_vec(), hold: None }, mask)),
        Target::Place(place) => {
            place.access(libc::R_OK as u32, &caller.who)?;
            let directory = place.is_dir();
            if mask & libc::IN_ONLYDIR != 0 && !directory {
                return Err(Errno::NOTDIR);
            }
            // Only a directory of an own upper layer can be copied up; others never change.
            let hold = place.real(directory).or_else(|_| place.real(false))?;
            Ok((Rewritten { bytes: named(&hold).into_bytes(), hold: Some(hold) }, mask))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_addresses() {
        let v4 = |ip: [u8; 4]| [&(libc::AF_INET as u16).to_ne_bytes()[..], &[0, 80], &ip, &[0; 8]].concat();
        let v6 = |ip: std::net::Ipv6Addr| {
            [&(libc::AF_INET6 as u16).to_ne_bytes()[..], &[0, 80, 0, 0, 0, 0], &ip.octets(), &[0; 4]].concat()
        };
        assert!(is_loopback(&v4([127, 0, 0, 1])) && is_loopback(&v4([0; 4])));
        assert!(!is_loopback(&v4([1, 1, 1, 1])));
        assert!(is_loopback(&v6("::1".parse().unwrap())) && is_loopback(&v6("::ffff:127.0.0.1".parse().unwrap())));
        assert!(!is_loopback(&v6("2001:db8::1".parse().unwrap())));
    }

    #[test]
    fn addresses_are_short() {
        let address = local_address(b"/proc/1/fd/2").unwrap();
        assert_eq!(&address[..2], (libc::AF_UNIX as u16).to_ne_bytes());
        assert_eq!(&address[2..], b"/proc/1/fd/2\0");
        assert_eq!(local_address(&[b'a'; 108]), Err(Errno::NAMETOOLONG));
    }
}
