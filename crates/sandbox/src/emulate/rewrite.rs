//! Calls that the kernel makes, with other arguments.

use super::{Shared, task::Task};
use nix::libc;
use rustix::{fd::OwnedFd, io::Errno};
use std::sync::Arc;

/// The largest buffer for entries that is filled at once.
const MAX_ENTRIES: usize = 64 << 10;
/// Beneath the stack pointer there may be data of functions that call no other.
const RED_ZONE: u64 = 128;

/// What becomes of a call.
pub(super) enum Change {
    /// It is made as it is.
    None,
    /// It is not made: this is its result.
    Answer(Result<i64, Errno>),
    /// Another is made, and where that succeeds, this is the result.
    Other { number: i64, args: [u64; 6], result: i64 },
    /// It is made with other arguments.
    Arguments([u64; 6], Box<Restore>),
}

/// What is undone after a call.
#[derive(Debug)]
pub(super) struct Restore {
    args: [u64; 6],
    /// Where memory was changed, and what was there.
    memory: Option<(u64, Vec<u8>)>,
    /// The address of a bind.
    bound: Option<Vec<u8>>,
    _hold: Option<OwnedFd>,
}

impl Restore {
    /// The arguments as they were.
    pub(super) fn finish(&self, shared: &Shared, task: &Arc<Task>, result: i64) -> [u64; 6] {
        if let Some((at, bytes)) = &self.memory {
            let _ = task.memory().write(*at, bytes);
        }
        if let Some(address) = &self.bound {
            shared.semantics.socket_bound(&shared.kernel, task, address, result);
        }
        self.args
    }
}

pub(super) fn rewrite(shared: &Shared, task: &Arc<Task>, number: i64, args: [u64; 6], stack: u64) -> Change {
    match number {
        libc::SYS_getdents64 | libc::SYS_getdents => entries(shared, task, number, args),
        libc::SYS_connect | libc::SYS_bind => address(shared, task, args, 1, 2, number == libc::SYS_bind, stack),
        libc::SYS_sendto => address(shared, task, args, 4, 5, false, stack),
        libc::SYS_inotify_add_watch => watch(shared, task, args, stack),
        _ => Change::None,
    }
}

/// The next entries of a directory. Its cursor is that of the real file, and is moved by a seek in place of the call.
fn entries(shared: &Shared, task: &Arc<Task>, number: i64, args: [u64; 6]) -> Change {
    let [fd, buffer, length, ..] = args;
    let tid = task.tid;
    let cursor = || position(tid, fd as i32);
    let length = (length as u32 as usize).min(MAX_ENTRIES);
    let (mut bytes, cursor) = match shared.semantics.read_directory(&shared.kernel, task, fd as i32, length, &cursor) {
        None => return Change::None,
        Some(Ok(read)) => read,
        Some(Err(errno)) => return Change::Answer(Err(errno)),
    };
    if number == libc::SYS_getdents {
        to_old_layout(&mut bytes);
    }
    if let Err(errno) = task.memory().write(buffer, &bytes) {
        return Change::Answer(Err(errno));
    }
    if bytes.is_empty() {
        return Change::Answer(Ok(0));
    }
    let args = [fd, cursor, libc::SEEK_SET as u64, 0, 0, 0];
    Change::Other { number: libc::SYS_lseek, args, result: bytes.len() as i64 }
}

/// The offset of an open file.
fn position(tid: u32, fd: i32) -> Result<u64, Errno> {
    let info = std::fs::read_to_string(format!("/proc/{tid}/fdinfo/{fd}")).map_err(|_| Errno::BADF)?;
    let position = info.lines().find_map(|line| line.strip_prefix("pos:")?.trim().parse().ok());
    position.ok_or(Errno::BADF)
}

/// From `linux_dirent64` to `linux_dirent`, which are equally long: the kind is in the last byte, not before the name.
fn to_old_layout(bytes: &mut [u8]) {
    const HEADER: usize = 18;
    let mut rest = bytes;
    while let Some(length) = rest.get(16..HEADER).and_then(|field| field.try_into().ok()).map(u16::from_le_bytes) {
        let length = usize::from(length);
        if length <= HEADER + 1 || length > rest.len() {
            return;
        }
        let (entry, further) = rest.split_at_mut(length);
        let kind = entry[HEADER];
        entry.copy_within(HEADER + 1.., HEADER);
        entry[length - 1] = kind;
        rest = further;
    }
}

/// The address of a Unix socket, which is a path.
fn address(
    shared: &Shared,
    task: &Arc<Task>,
    args: [u64; 6],
    pointer: usize,
    size: usize,
    binds: bool,
    stack: u64,
) -> Change {
    let memory = task.memory();
    let (at, length) = (args[pointer], args[size] as u32 as usize);
    // An address of another family is no longer than sockaddr_storage; what is refused is the kernel's to refuse.
    if !(3..=128).contains(&length) {
        return Change::None;
    }
    let mut given = vec![0; length];
    if memory.read(at, &mut given).is_err() {
        return Change::None;
    }
    let real = match shared.semantics.socket_address(&shared.kernel, task, &given, binds) {
        None => return Change::None,
        Some(Ok(real)) => real,
        Some(Err(errno)) => return Change::Answer(Err(errno)),
    };
    let needed = real.bytes.len();
    // Most have a whole sockaddr_un there, of which they name the beginning; some have a stack too small to be used.
    let mut there = vec![0; needed.max(length)];
    let whole = needed <= size_of::<libc::sockaddr_un>()
        && memory.read(at, &mut there).is_ok()
        && there.get(length..).is_some_and(|rest| rest.iter().all(|byte| *byte == 0));
    let mut new = args;
    let place = if whole { at } else { (stack - RED_ZONE - needed as u64) & !15 };
    there.truncate(needed);
    if !whole && memory.read(place, &mut there).is_err() {
        return Change::Answer(Err(Errno::NOBUFS));
    }
    if memory.write(place, &real.bytes).is_err() {
        return Change::Answer(Err(Errno::NOBUFS));
    }
    new[pointer] = place;
    new[size] = needed as u64;
    let bound = binds.then_some(given);
    Change::Arguments(new, Box::new(Restore { args, memory: Some((place, there)), bound, _hold: real.hold }))
}

/// A path to be watched.
fn watch(shared: &Shared, task: &Arc<Task>, args: [u64; 6], stack: u64) -> Change {
    let memory = task.memory();
    let path = match memory.read_path(args[1]) {
        Ok(path) => path,
        Err(errno) => return Change::Answer(Err(errno)),
    };
    let (mut real, mask) = match shared.semantics.watched_path(&shared.kernel, task, &path, args[2] as u32) {
        None => return Change::None,
        Some(Ok(real)) => real,
        Some(Err(errno)) => return Change::Answer(Err(errno)),
    };
    real.bytes.push(0);
    let place = (stack - RED_ZONE - real.bytes.len() as u64) & !15;
    let mut there = vec![0; real.bytes.len()];
    if memory.read(place, &mut there).and_then(|()| memory.write(place, &real.bytes)).is_err() {
        return Change::Answer(Err(Errno::NOMEM));
    }
    let new = [args[0], place, u64::from(mask), args[3], args[4], args[5]];
    Change::Arguments(new, Box::new(Restore { args, memory: Some((place, there)), bound: None, _hold: real.hold }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_entries() {
        let entry = |name: &[u8], kind: u8, length: u16| {
            let mut entry = [&[7; 16][..], &length.to_le_bytes(), &[kind], name].concat();
            entry.resize(length.into(), 0);
            entry
        };
        let mut bytes = [entry(b"abc", 4, 24), entry(b"abcd", 8, 24)].concat();
        to_old_layout(&mut bytes);
        assert_eq!(bytes[18..24], *b"abc\0\0\x04");
        assert_eq!(bytes[24 + 18..], *b"abcd\0\x08");
    }
}
