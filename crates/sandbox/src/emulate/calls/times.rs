//! Times of files.

use super::{
    CWD, DONE, Outcome,
    caller::{Caller, Target},
};
use crate::emulate::vfs::NewTime;
use nix::libc;
use rustix::{
    fs::{AtFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT},
    io::Errno,
};

const NANOSECONDS: i64 = 1_000_000_000;
const MICROSECONDS: i64 = 1_000_000;

type Pair = (NewTime, NewTime);

const NOW: Pair = (NewTime::Now, NewTime::Now);

/// Two pairs of numbers; `None` where the pointer is null.
fn read_pairs(caller: &Caller<'_>, address: u64) -> Result<Option<[(i64, i64); 2]>, Errno> {
    if address == 0 {
        return Ok(None);
    }
    let mut bytes = [0; 32];
    caller.memory.read(address, &mut bytes)?;
    let mut numbers = bytes.chunks_exact(8).map(|word| i64::from_ne_bytes(word.try_into().unwrap_or_default()));
    let mut number = || numbers.next().unwrap_or_default();
    let first = (number(), number());
    Ok(Some([first, (number(), number())]))
}

pub(super) fn utime(caller: &Caller<'_>, path: u64, times: u64) -> Outcome {
    let times = if times == 0 {
        NOW
    } else {
        let mut bytes = [0; 16];
        caller.memory.read(times, &mut bytes)?;
        let number =
            |at: usize| bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, i64::from_ne_bytes);
        (NewTime::At(number(0), 0), NewTime::At(number(8), 0))
    };
    set(caller, &caller.find_at(CWD, path, 0)?, times)
}

pub(super) fn utimes(caller: &Caller<'_>, dir: i32, path: u64, times: u64) -> Outcome {
    let times = match read_pairs(caller, times)? {
        None => NOW,
        Some(pairs) if pairs.iter().any(|(_, micro)| !(0..MICROSECONDS).contains(micro)) => return Err(Errno::INVAL),
        Some([access, modified]) => {
            let time = |(seconds, micro): (i64, i64)| NewTime::At(seconds, micro * 1000);
            (time(access), time(modified))
        }
    };
    // futimesat with no path means the descriptor.
    let target = if path == 0 && dir != CWD { caller.descriptor(dir)? } else { caller.find_at(dir, path, 0)? };
    set(caller, &target, times)
}

fn new_time((seconds, nano): (i64, i64)) -> Result<NewTime, Errno> {
    match nano {
        libc::UTIME_NOW => Ok(NewTime::Now),
        libc::UTIME_OMIT => Ok(NewTime::Omit),
        0..NANOSECONDS => Ok(NewTime::At(seconds, nano)),
        _ => Err(Errno::INVAL),
    }
}

pub(super) fn utimensat(caller: &Caller<'_>, dir: i32, path: u64, times: u64, flags: i32) -> Outcome {
    let times = match read_pairs(caller, times)? {
        None => NOW,
        // Nothing at all is looked at then.
        Some([(_, libc::UTIME_OMIT), (_, libc::UTIME_OMIT)]) => return Ok(DONE),
        Some([access, modified]) => (new_time(access)?, new_time(modified)?),
    };
    let target = if path == 0 && dir != CWD {
        if flags != 0 {
            return Err(Errno::INVAL);
        }
        caller.descriptor(dir)?
    } else {
        if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
            return Err(Errno::INVAL);
        }
        caller.find_at(dir, path, flags)?
    };
    set(caller, &target, times)
}

fn set(caller: &Caller<'_>, target: &Target, (access, modified): Pair) -> Outcome {
    match target {
        Target::Place(place) => place.set_times(access, modified, &caller.who)?,
        Target::Descriptor(path) => {
            let time = |new: NewTime| match new {
                NewTime::Now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
                NewTime::Omit => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
                NewTime::At(tv_sec, tv_nsec) => Timespec { tv_sec, tv_nsec },
            };
            let times = Timestamps { last_access: time(access), last_modification: time(modified) };
            rustix::fs::utimensat(rustix::fs::CWD, path, &times, AtFlags::empty())?;
        }
    }
    Ok(DONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_the_kernel_reads_them() {
        assert_eq!(new_time((5, 7)), Ok(NewTime::At(5, 7)));
        assert_eq!(new_time((-5, 0)), Ok(NewTime::At(-5, 0)));
        assert_eq!(new_time((5, libc::UTIME_NOW)), Ok(NewTime::Now));
        assert_eq!(new_time((5, libc::UTIME_OMIT)), Ok(NewTime::Omit));
        assert_eq!(new_time((5, NANOSECONDS)), Err(Errno::INVAL));
        assert_eq!(new_time((5, -1)), Err(Errno::INVAL));
    }
}
