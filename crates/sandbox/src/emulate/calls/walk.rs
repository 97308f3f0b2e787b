//! The resolve flags of openat2(2).

use super::caller::Caller;
use crate::emulate::vfs::{Found, Place, Start};
use nix::libc;
use rustix::io::Errno;

const NO_XDEV: u64 = libc::RESOLVE_NO_XDEV;
const NO_MAGICLINKS: u64 = libc::RESOLVE_NO_MAGICLINKS;
const NO_SYMLINKS: u64 = libc::RESOLVE_NO_SYMLINKS;
const BENEATH: u64 = libc::RESOLVE_BENEATH;
const IN_ROOT: u64 = libc::RESOLVE_IN_ROOT;
const CACHED: u64 = libc::RESOLVE_CACHED;
pub(super) const VALID: u64 = NO_XDEV | NO_MAGICLINKS | NO_SYMLINKS | BENEATH | IN_ROOT | CACHED;

/// Links that are followed in one path.
const MAX_LINKS: usize = 40;

/// What a path leads to under these conditions.
pub(super) fn look_up(caller: &Caller<'_>, dir: i32, path: &[u8], follow: bool, resolve: u64) -> Result<Found, Errno> {
    if resolve & (BENEATH | IN_ROOT) == BENEATH | IN_ROOT {
        return Err(Errno::INVAL);
    }
    if path.is_empty() {
        return Err(Errno::NOENT);
    }
    let confined = resolve & (BENEATH | IN_ROOT) != 0;
    let base = if confined { caller.base_of(dir, b".")? } else { caller.base_of(dir, path)? };
    if resolve & !(IN_ROOT | CACHED) == 0 {
        let root = if resolve & IN_ROOT != 0 { &base } else { &caller.fs.root };
        let start = Start { root, base: &base, who: &caller.who, proc: &caller.links };
        return caller.namespace.resolve(&start, path, follow);
    }
    step_by_step(caller, base, path, follow, resolve)
}

/// The components that remain to be walked, last first.
fn push(rest: &mut Vec<Vec<u8>>, path: &[u8]) {
    rest.extend(path.split(|byte| *byte == b'/').rev().filter(|name| !name.is_empty()).map(<[u8]>::to_vec));
}

fn step_by_step(caller: &Caller<'_>, base: Place, path: &[u8], follow: bool, resolve: u64) -> Result<Found, Errno> {
    let confined = resolve & (BENEATH | IN_ROOT) != 0;
    let (root, top) = if confined { (base.clone(), base.clone()) } else { (caller.fs.root.clone(), base.clone()) };
    if resolve & BENEATH != 0 && path.first() == Some(&b'/') {
        return Err(Errno::XDEV);
    }
    let mount = base.stat()?.mount;
    let start_dir = if path.first() == Some(&b'/') { root.clone() } else { base };
    let trailing_slash = path.last() == Some(&b'/');
    let mut here = vec![start_dir];
    let (mut rest, mut links) = (Vec::new(), 0);
    push(&mut rest, path);
    while let Some(name) = rest.pop() {
        let current = here.last().unwrap_or(&top).clone();
        if !current.is_dir() {
            return Err(Errno::NOTDIR);
        }
        if name == b".." && confined {
            if current.same(&top) {
                if resolve & BENEATH != 0 {
                    return Err(Errno::XDEV);
                }
                continue;
            }
            if here.len() > 1 {
                here.pop();
                continue;
            }
        }
        let is_last = rest.is_empty();
        let start = Start { root: &root, base: &current, who: &caller.who, proc: &caller.links };
        let found = match caller.namespace.resolve(&start, &name, false)? {
            Found::File(place) => place,
            missing if is_last => {
                return Ok(match missing {
                    Found::Missing { parent, name, .. } => Found::Missing { parent, name, trailing_slash },
                    other => other,
                });
            }
            Found::Missing { .. } => return Err(Errno::NOENT),
            Found::Descriptor(_) => return Err(Errno::NOTDIR),
        };
        let status = found.stat()?;
        if resolve & NO_XDEV != 0 && status.mount != mount {
            return Err(Errno::XDEV);
        }
        if status.mode & libc::S_IFMT == libc::S_IFLNK && (!is_last || follow || trailing_slash) {
            links += 1;
            if resolve & NO_SYMLINKS != 0 || links > MAX_LINKS {
                return Err(Errno::LOOP);
            }
            let text = found.read_link()?;
            if text.first() == Some(&b'/') {
                if resolve & BENEATH != 0 {
                    return Err(Errno::XDEV);
                }
                here = vec![root.clone()];
            }
            push(&mut rest, &text);
            continue;
        }
        here.push(found);
    }
    let end = here.pop().unwrap_or(top);
    if trailing_slash && !end.is_dir() {
        return Err(Errno::NOTDIR);
    }
    Ok(Found::File(end))
}
