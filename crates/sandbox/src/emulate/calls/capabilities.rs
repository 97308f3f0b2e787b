//! The rules of credentials(7) and capabilities(7).

use crate::emulate::task::Credentials;
use rustix::io::Errno;

pub(crate) const KILL: u32 = 5;
pub(crate) const SETGID: u32 = 6;
pub(crate) const SETUID: u32 = 7;
pub(crate) const SETPCAP: u32 = 8;
pub(crate) const NET_RAW: u32 = 13;
pub(crate) const SYS_CHROOT: u32 = 18;
pub(crate) const SYS_ADMIN: u32 = 21;
/// CAP_CHECKPOINT_RESTORE.
pub(crate) const LAST: u32 = 40;
/// All capabilities that there are.
pub(crate) const ALL: u64 = (1 << (LAST + 1)) - 1;

/// Those that go with the file system user id: CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, LINUX_IMMUTABLE,
/// MKNOD, MAC_OVERRIDE.
const FILES: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 9 | 1 << 27 | 1 << 32;

/// `linux/securebits.h`.
pub(crate) const NO_SETUID_FIXUP: u32 = 1 << 2;
pub(crate) const KEEP_CAPS: u32 = 1 << 4;
const KEEP_CAPS_LOCKED: u32 = 1 << 5;
const NO_AMBIENT_RAISE: u32 = 1 << 6;
const ALL_BITS: u32 = 0x55;
const ALL_LOCKS: u32 = 0xaa;

/// Leaves an id as it is, and is none itself.
const NONE: u32 = u32::MAX;

type Done = Result<(), Errno>;

impl Credentials {
    /// Root with everything.
    pub(crate) fn root() -> Self {
        Self {
            uid: [0; 4],
            gid: [0; 4],
            groups: Vec::new(),
            effective: ALL,
            permitted: ALL,
            inheritable: 0,
            ambient: 0,
            bounding: ALL,
            securebits: 0,
            no_new_privs: false,
        }
    }

    pub(crate) fn has(&self, capability: u32) -> bool {
        self.effective & (1 << capability) != 0
    }

    /// Takes over new user ids, with what that does to capabilities.
    fn become_user(&mut self, uid: [u32; 4]) {
        let old = std::mem::replace(&mut self.uid, uid);
        if self.securebits & NO_SETUID_FIXUP != 0 {
            return;
        }
        let [real, effective, saved, _] = uid;
        let was_root = old.iter().take(3).any(|id| *id == 0);
        if was_root && real != 0 && effective != 0 && saved != 0 {
            if self.securebits & KEEP_CAPS == 0 {
                self.permitted = 0;
                self.effective = 0;
            }
            self.ambient = 0;
        }
        if old[1] == 0 && effective != 0 {
            self.effective = 0;
        }
        if old[1] != 0 && effective == 0 {
            self.effective = self.permitted;
        }
    }

    pub(crate) fn set_uid(&mut self, uid: u32) -> Done {
        if uid == NONE {
            return Err(Errno::INVAL);
        }
        let [mut real, _, mut saved, _] = self.uid;
        if self.has(SETUID) {
            (real, saved) = (uid, uid);
        } else if uid != real && uid != saved {
            return Err(Errno::PERM);
        }
        self.become_user([real, uid, saved, uid]);
        Ok(())
    }

    pub(crate) fn set_gid(&mut self, gid: u32) -> Done {
        if gid == NONE {
            return Err(Errno::INVAL);
        }
        let [mut real, _, mut saved, _] = self.gid;
        if self.has(SETGID) {
            (real, saved) = (gid, gid);
        } else if gid != real && gid != saved {
            return Err(Errno::PERM);
        }
        self.gid = [real, gid, saved, gid];
        Ok(())
    }

    pub(crate) fn set_reuid(&mut self, real: u32, effective: u32) -> Done {
        let new = set_two(self.uid, real, effective, self.has(SETUID))?;
        self.become_user(new);
        Ok(())
    }

    pub(crate) fn set_regid(&mut self, real: u32, effective: u32) -> Done {
        self.gid = set_two(self.gid, real, effective, self.has(SETGID))?;
        Ok(())
    }

    pub(crate) fn set_resuid(&mut self, real: u32, effective: u32, saved: u32) -> Done {
        let new = set_three(self.uid, [real, effective, saved], self.has(SETUID))?;
        self.become_user(new);
        Ok(())
    }

    pub(crate) fn set_resgid(&mut self, real: u32, effective: u32, saved: u32) -> Done {
        self.gid = set_three(self.gid, [real, effective, saved], self.has(SETGID))?;
        Ok(())
    }

    /// Gives the former id, whether or not the new one is taken.
    pub(crate) fn set_fsuid(&mut self, uid: u32) -> u32 {
        let old = self.uid[3];
        if uid == NONE || uid == old || !(self.uid.contains(&uid) || self.has(SETUID)) {
            return old;
        }
        self.uid[3] = uid;
        if self.securebits & NO_SETUID_FIXUP == 0 {
            if old == 0 && uid != 0 {
                self.effective &= !FILES;
            }
            if old != 0 && uid == 0 {
                self.effective |= FILES & self.permitted;
            }
        }
        old
    }

    pub(crate) fn set_fsgid(&mut self, gid: u32) -> u32 {
        let old = self.gid[3];
        if gid != NONE && (self.gid.contains(&gid) || self.has(SETGID)) {
            self.gid[3] = gid;
        }
        old
    }

    pub(crate) fn set_groups(&mut self, mut groups: Vec<u32>) -> Done {
        if !self.has(SETGID) {
            return Err(Errno::PERM);
        }
        if groups.contains(&NONE) {
            return Err(Errno::INVAL);
        }
        groups.sort_unstable();
        self.groups = groups;
        Ok(())
    }

    /// capset(2).
    pub(crate) fn set_capabilities(&mut self, effective: u64, permitted: u64, inheritable: u64) -> Done {
        let (effective, permitted, inheritable) = (effective & ALL, permitted & ALL, inheritable & ALL);
        let subset = |part: u64, of: u64| part & !of == 0;
        if (!self.has(SETPCAP) && !subset(inheritable, self.inheritable | self.permitted))
            || !subset(inheritable, self.inheritable | self.bounding)
            || !subset(permitted, self.permitted)
            || !subset(effective, permitted)
        {
            return Err(Errno::PERM);
        }
        (self.effective, self.permitted, self.inheritable) = (effective, permitted, inheritable);
        self.ambient &= permitted & inheritable;
        Ok(())
    }

    /// PR_CAPBSET_DROP.
    pub(crate) fn drop_bounding(&mut self, capability: u64) -> Done {
        if !self.has(SETPCAP) {
            return Err(Errno::PERM);
        }
        self.bounding &= !bit(capability)?;
        Ok(())
    }

    /// PR_SET_KEEPCAPS.
    pub(crate) fn keep_capabilities(&mut self, keep: u64) -> Done {
        if keep > 1 {
            return Err(Errno::INVAL);
        }
        if self.securebits & KEEP_CAPS_LOCKED != 0 {
            return Err(Errno::PERM);
        }
        self.securebits = if keep == 1 { self.securebits | KEEP_CAPS } else { self.securebits & !KEEP_CAPS };
        Ok(())
    }

    /// PR_SET_SECUREBITS.
    pub(crate) fn set_securebits(&mut self, bits: u64) -> Done {
        let allowed = u64::from(ALL_BITS | ALL_LOCKS);
        let locked = self.securebits & ALL_LOCKS;
        let new = (bits & allowed) as u32;
        if bits & !allowed != 0
            || (locked >> 1) & (self.securebits ^ new) != 0
            || locked & !new != 0
            || !self.has(SETPCAP)
        {
            return Err(Errno::PERM);
        }
        self.securebits = new;
        Ok(())
    }

    /// PR_CAP_AMBIENT_RAISE.
    pub(crate) fn raise_ambient(&mut self, capability: u64) -> Done {
        let bit = bit(capability)?;
        if self.permitted & self.inheritable & bit == 0 || self.securebits & NO_AMBIENT_RAISE != 0 {
            return Err(Errno::PERM);
        }
        self.ambient |= bit;
        Ok(())
    }
}

/// The bit of a capability; EINVAL where there is none.
pub(crate) fn bit(capability: u64) -> Result<u64, Errno> {
    if capability > u64::from(LAST) { Err(Errno::INVAL) } else { Ok(1 << capability) }
}

fn set_two(old: [u32; 4], real: u32, effective: u32, may: bool) -> Result<[u32; 4], Errno> {
    let mut new = old;
    if real != NONE {
        if real != old[0] && real != old[1] && !may {
            return Err(Errno::PERM);
        }
        new[0] = real;
    }
    if effective != NONE {
        if !old.iter().take(3).any(|id| *id == effective) && !may {
            return Err(Errno::PERM);
        }
        new[1] = effective;
    }
    if real != NONE || (effective != NONE && effective != old[0]) {
        new[2] = new[1];
    }
    new[3] = new[1];
    Ok(new)
}

fn set_three(old: [u32; 4], wanted: [u32; 3], may: bool) -> Result<[u32; 4], Errno> {
    let mut new = old;
    for (slot, id) in new.iter_mut().zip(wanted) {
        if id != NONE {
            if !may && !old.iter().take(3).any(|known| *known == id) {
                return Err(Errno::PERM);
            }
            *slot = id;
        }
    }
    new[3] = new[1];
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: [u32; 4]) -> Credentials {
        Credentials { uid, effective: 0, permitted: 0, ..Credentials::root() }
    }

    #[test]
    fn root_becomes_another_for_good() {
        let mut it = Credentials::root();
        it.set_uid(33).unwrap();
        assert_eq!((it.uid, it.effective, it.permitted), ([33; 4], 0, 0));
        assert_eq!(it.set_uid(0), Err(Errno::PERM));
        assert_eq!(it.set_groups(vec![]), Err(Errno::PERM));
        assert_eq!(it.set_uid(NONE), Err(Errno::INVAL));
    }

    #[test]
    fn root_comes_back_by_the_saved_id() {
        let mut it = Credentials::root();
        it.set_resuid(NONE, 33, NONE).unwrap();
        assert_eq!((it.uid, it.effective, it.permitted), ([0, 33, 0, 33], 0, ALL));
        it.set_resuid(NONE, 0, NONE).unwrap();
        assert_eq!((it.uid, it.effective), ([0; 4], ALL));
    }

    #[test]
    fn capabilities_are_kept_where_it_was_asked() {
        let mut it = Credentials::root();
        it.keep_capabilities(1).unwrap();
        it.set_resuid(33, 33, 33).unwrap();
        assert_eq!((it.effective, it.permitted), (0, ALL));
        it.set_capabilities(1 << SETUID, 1 << SETUID, 0).unwrap();
        assert!(it.has(SETUID));
        assert_eq!(it.set_capabilities(0, ALL, 0), Err(Errno::PERM));
    }

    #[test]
    fn set_ids_as_tables() {
        // setreuid: before, arguments, after.
        let two = [
            ([5, 6, 7, 6], (NONE, NONE), Ok([5, 6, 7, 6])),
            ([5, 6, 7, 6], (6, 5), Ok([6, 5, 5, 5])),
            ([5, 6, 7, 6], (NONE, 7), Ok([5, 7, 7, 7])),
            ([5, 6, 7, 6], (NONE, 5), Ok([5, 5, 7, 5])),
            ([5, 6, 7, 6], (7, NONE), Err(Errno::PERM)),
            ([5, 6, 7, 6], (NONE, 8), Err(Errno::PERM)),
        ];
        for (before, (real, effective), after) in two {
            let mut it = user(before);
            let done = it.set_reuid(real, effective);
            assert_eq!(done.map(|()| it.uid), after, "{before:?} {real} {effective}");
        }
        let three = [
            ([5, 6, 7, 6], [7, 5, 6], Ok([7, 5, 6, 5])),
            ([5, 6, 7, 6], [NONE, NONE, 8], Err(Errno::PERM)),
            ([5, 6, 7, 1], [NONE, NONE, NONE], Ok([5, 6, 7, 6])),
        ];
        for (before, [real, effective, saved], after) in three {
            let mut it = user(before);
            let done = it.set_resuid(real, effective, saved);
            assert_eq!(done.map(|()| it.uid), after, "{before:?}");
        }
        let mut it = user([5, 6, 7, 6]);
        assert_eq!((it.set_uid(7), it.uid), (Ok(()), [5, 7, 7, 7]));
        assert_eq!(it.set_uid(9), Err(Errno::PERM));
        assert_eq!((it.set_fsuid(5), it.set_fsuid(99), it.uid[3]), (7, 5, 5));
    }

    #[test]
    fn the_file_system_id_takes_capabilities_of_files_along() {
        let mut it = Credentials::root();
        it.set_fsuid(33);
        assert!(!it.has(1) && it.has(SETUID));
        it.set_fsuid(0);
        assert_eq!(it.effective, ALL);
    }

    #[test]
    fn securebits_and_ambient() {
        let mut it = Credentials::root();
        assert_eq!(it.raise_ambient(3), Err(Errno::PERM));
        it.set_capabilities(ALL, ALL, 1 << 3).unwrap();
        it.raise_ambient(3).unwrap();
        assert_eq!(it.ambient, 1 << 3);
        it.set_securebits(0b11).unwrap();
        assert_eq!(it.set_securebits(0b00), Err(Errno::PERM));
        it.drop_bounding(3).unwrap();
        assert_eq!((it.drop_bounding(64), it.bounding & 1 << 3), (Err(Errno::INVAL), 0));
    }
}
