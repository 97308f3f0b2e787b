//! Ids and capabilities as calls see them.

use super::{
    Answer, DONE, Outcome,
    caller::lock,
    capabilities::{self, SETGID},
    int,
};
use crate::{
    emulate::{
        Kernel,
        filter::NEST,
        task::{Credentials, Task},
    },
    run::TELL_LIMITS,
};
use nix::libc;
use rustix::io::Errno;
use std::sync::{Arc, PoisonError};

/// A value that cannot fail to be had.
pub(super) fn get(task: &Task, value: impl FnOnce(&mut Credentials) -> u32) -> Outcome {
    Ok(Answer::Return(i64::from(value(&mut lock(&task.credentials)))))
}

pub(super) fn get_three(task: &Task, to: [u64; 3], value: impl FnOnce(&Credentials) -> [u32; 4]) -> Outcome {
    let values = value(&lock(&task.credentials));
    for (address, value) in to.into_iter().zip(values) {
        task.memory().write(address, &value.to_ne_bytes())?;
    }
    Ok(DONE)
}

pub(super) fn set(task: &Task, change: impl FnOnce(&mut Credentials) -> Result<(), Errno>) -> Outcome {
    change(&mut lock(&task.credentials)).map(|()| DONE)
}

pub(super) fn get_groups(task: &Task, size: i32, list: u64) -> Outcome {
    let size = usize::try_from(size).map_err(|_| Errno::INVAL)?;
    let groups = lock(&task.credentials).groups.clone();
    if size > 0 {
        if groups.len() > size {
            return Err(Errno::INVAL);
        }
        let bytes: Vec<u8> = groups.iter().flat_map(|gid| gid.to_ne_bytes()).collect();
        if !bytes.is_empty() {
            task.memory().write(list, &bytes)?;
        }
    }
    Ok(Answer::Return(groups.len() as i64))
}

/// NGROUPS_MAX.
const MAX_GROUPS: usize = 65536;

pub(super) fn set_groups(task: &Task, size: i32, list: u64) -> Outcome {
    if !lock(&task.credentials).has(SETGID) {
        return Err(Errno::PERM);
    }
    let size = usize::try_from(size).ok().filter(|size| *size <= MAX_GROUPS).ok_or(Errno::INVAL)?;
    let mut bytes = vec![0; size * 4];
    if size > 0 {
        task.memory().read(list, &mut bytes)?;
    }
    let groups = bytes.chunks_exact(4).map(|id| u32::from_ne_bytes(id.try_into().unwrap_or_default())).collect();
    set(task, |it| it.set_groups(groups))
}

/// `_LINUX_CAPABILITY_VERSION_1` to 3, and how many words each set has in them.
const VERSIONS: [(u32, usize); 3] = [(0x1998_0330, 1), (0x2007_1026, 2), (0x2008_0522, 2)];
const CURRENT_VERSION: u32 = 0x2008_0522;

/// Reads the header; an unknown version is answered with the one that the kernel prefers.
fn capability_header(task: &Task, address: u64) -> Result<(Option<usize>, i32), Errno> {
    let mut header = [0; 8];
    task.memory().read(address, header.get_mut(..4).unwrap_or_default())?;
    let word = |at: usize, header: &[u8; 8]| header.get(at..at + 4).and_then(|it| it.try_into().ok());
    let version = word(0, &header).map_or(0, u32::from_ne_bytes);
    let Some((_, words)) = VERSIONS.iter().find(|(known, _)| *known == version) else {
        task.memory().write(address, &CURRENT_VERSION.to_ne_bytes())?;
        return Ok((None, 0));
    };
    task.memory().read(address, &mut header)?;
    Ok((Some(*words), word(4, &header).map_or(0, i32::from_ne_bytes)))
}

pub(super) fn capget(kernel: &Kernel, task: &Arc<Task>, header: u64, data: u64) -> Outcome {
    let (words, pid) = capability_header(task, header)?;
    let Some(words) = words else {
        return if data == 0 { Ok(DONE) } else { Err(Errno::INVAL) };
    };
    if data == 0 {
        return Ok(DONE);
    }
    let pid = u32::try_from(pid).map_err(|_| Errno::INVAL)?;
    let other;
    let of = if pid == 0 || pid == task.tid {
        task
    } else {
        let tasks = kernel.tasks.read().unwrap_or_else(PoisonError::into_inner);
        other = Arc::clone(tasks.get(&pid).ok_or(Errno::SRCH)?);
        &other
    };
    let sets = {
        let it = lock(&of.credentials);
        [it.effective, it.permitted, it.inheritable]
    };
    let bytes: Vec<u8> =
        (0..words).flat_map(|word| sets.map(|set| (set >> (32 * word)) as u32)).flat_map(u32::to_ne_bytes).collect();
    task.memory().write(data, &bytes).map(|()| DONE)
}

pub(super) fn capset(task: &Task, header: u64, data: u64) -> Outcome {
    let (words, pid) = capability_header(task, header)?;
    let words = words.ok_or(Errno::INVAL)?;
    if pid != 0 && pid != task.tid as i32 {
        return Err(Errno::PERM);
    }
    let mut bytes = vec![0; words * 12];
    task.memory().read(data, &mut bytes)?;
    let mut sets = [0u64; 3];
    for (index, word) in bytes.chunks_exact(4).enumerate() {
        let value = u64::from(u32::from_ne_bytes(word.try_into().unwrap_or_default()));
        if let Some(set) = sets.get_mut(index % 3) {
            *set |= value << (32 * (index / 3));
        }
    }
    let [effective, permitted, inheritable] = sets;
    set(task, |it| it.set_capabilities(effective, permitted, inheritable))
}

/// Those options of prctl(2) that are about ids, capabilities or being looked at; all others are made as they are.
pub(super) fn prctl(kernel: &Kernel, task: &Task, args: [u64; 6]) -> Outcome {
    let [option, a, b, c, d, _] = args;
    if option as u32 == NEST {
        return if task.nest() { Ok(DONE) } else { Err(Errno::PERM) };
    }
    if option as u32 == TELL_LIMITS {
        // The commands of a worker have not its rights.
        let is_worker = lock(&task.credentials).has(capabilities::SYS_ADMIN);
        return if is_worker { Ok(Answer::Return(kernel.take_limits().into())) } else { Err(Errno::INVAL) };
    }
    let mut it = lock(&task.credentials);
    let none_further = b | c | d == 0;
    match int(option) {
        libc::PR_CAPBSET_READ => Ok(Answer::Return(i64::from(it.bounding & capabilities::bit(a)? != 0))),
        libc::PR_CAPBSET_DROP => it.drop_bounding(a).map(|()| DONE),
        libc::PR_GET_KEEPCAPS => Ok(Answer::Return(i64::from(it.securebits & capabilities::KEEP_CAPS != 0))),
        libc::PR_SET_KEEPCAPS => it.keep_capabilities(a).map(|()| DONE),
        libc::PR_GET_SECUREBITS => Ok(Answer::Return(i64::from(it.securebits))),
        libc::PR_SET_SECUREBITS => it.set_securebits(a).map(|()| DONE),
        // The real one is set since the beginning.
        libc::PR_SET_NO_NEW_PRIVS if a == 1 && none_further => {
            it.no_new_privs = true;
            Ok(DONE)
        }
        libc::PR_SET_NO_NEW_PRIVS => Err(Errno::INVAL),
        libc::PR_GET_NO_NEW_PRIVS if a == 0 && none_further => Ok(Answer::Return(i64::from(it.no_new_privs))),
        libc::PR_GET_NO_NEW_PRIVS => Err(Errno::INVAL),
        libc::PR_CAP_AMBIENT => ambient(&mut it, [a, b, c, d]),
        // Really it stays so, or the supervisor could not look at it.
        libc::PR_SET_DUMPABLE if a > 1 => Err(Errno::INVAL),
        libc::PR_SET_DUMPABLE => {
            *lock(&task.process.dumpable) = a as u32;
            Ok(DONE)
        }
        libc::PR_GET_DUMPABLE => Ok(Answer::Return(i64::from(*lock(&task.process.dumpable)))),
        _ => Ok(Answer::Native),
    }
}

fn ambient(it: &mut Credentials, [what, capability, c, d]: [u64; 4]) -> Outcome {
    let what = int(what);
    if what == libc::PR_CAP_AMBIENT_CLEAR_ALL {
        if capability | c | d != 0 {
            return Err(Errno::INVAL);
        }
        it.ambient = 0;
        return Ok(DONE);
    }
    let bit = capabilities::bit(capability)?;
    if c | d != 0 {
        return Err(Errno::INVAL);
    }
    match what {
        libc::PR_CAP_AMBIENT_IS_SET => Ok(Answer::Return(i64::from(it.ambient & bit != 0))),
        libc::PR_CAP_AMBIENT_RAISE => it.raise_ambient(capability).map(|()| DONE),
        libc::PR_CAP_AMBIENT_LOWER => {
            it.ambient &= !bit;
            Ok(DONE)
        }
        _ => Err(Errno::INVAL),
    }
}
