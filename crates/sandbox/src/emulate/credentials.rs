//! What executing a program does to credentials: execve(2), capabilities(7).

use super::task::Credentials;

/// `S_ISUID`, `S_ISGID`, and the latter only where the group may execute.
const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2010;

/// Bits of `securebits` (linux/securebits.h).
const NO_ROOT: u32 = 1 << 0;
const KEEP_CAPS: u32 = 1 << 4;

/// `security.capability` (linux/capability.h).
const REVISION_MASK: u32 = 0xff00_0000;
const REVISIONS: [(u32, usize); 3] = [(0x0100_0000, 12), (0x0200_0000, 20), (0x0300_0000, 24)];
const FLAG_EFFECTIVE: u32 = 1;

/// What of a program file matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Privileges {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
    /// `security.capability`, where there is one.
    pub(crate) capability: Option<Vec<u8>>,
    /// It lies on a mount where set-user-id and capabilities mean nothing.
    pub(crate) nosuid: bool,
}

struct FileCapabilities {
    permitted: u64,
    inheritable: u64,
    effective: bool,
}

fn parse(value: &[u8]) -> Option<FileCapabilities> {
    let word = |index: usize| {
        let bytes = value.get(4 * index..4 * index + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let magic = word(0)?;
    let (revision, length) = REVISIONS.into_iter().find(|(revision, _)| *revision == magic & REVISION_MASK)?;
    if value.len() != length || (revision == REVISIONS[2].0 && word(5)? != 0) {
        return None;
    }
    let wide = |low: usize, high: usize| {
        let high = if revision == REVISIONS[0].0 { 0 } else { word(high)? };
        Some(u64::from(word(low)?) | u64::from(high) << 32)
    };
    let (permitted, inheritable) = (wide(1, 3)?, wide(2, 4)?);
    Some(FileCapabilities { permitted, inheritable, effective: magic & FLAG_EFFECTIVE != 0 })
}

/// The credentials of the new program, and whether it must mistrust its environment (AT_SECURE).
///
/// `None`: the file demands more capabilities than may be had (EPERM).
pub(crate) fn after_exec(old: &Credentials, file: &Privileges) -> Option<(Credentials, bool)> {
    let mut new = old.clone();
    let trusted = !file.nosuid && !old.no_new_privs;
    if trusted && file.mode & SET_UID != 0 {
        new.uid[1] = file.uid;
    }
    if trusted && file.mode & SET_GID == SET_GID {
        new.gid[1] = file.gid;
    }

    new.permitted = 0;
    let mut effective = false;
    let of_file = if file.nosuid { None } else { file.capability.as_deref().and_then(parse) };
    if let Some(of_file) = &of_file {
        new.permitted = (old.bounding & of_file.permitted) | (old.inheritable & of_file.inheritable);
        effective = of_file.effective;
        if effective && of_file.permitted & !new.permitted != 0 {
            return None;
        }
    }
    let became_root = new.uid[1] == 0 && new.uid[0] != 0;
    if old.securebits & NO_ROOT == 0 && !(of_file.is_some() && became_root) {
        if new.uid[0] == 0 || new.uid[1] == 0 {
            new.permitted = old.bounding | old.inheritable;
        }
        effective |= new.uid[1] == 0;
    }
    let is_member = |gid: u32| gid == old.gid[3] || old.groups.contains(&gid);
    let mut changed = new.uid[1] != old.uid[0] || !is_member(new.gid[1]);
    if old.no_new_privs && (changed || new.permitted & !old.permitted != 0) {
        new.uid[1] = new.uid[0];
        new.gid[1] = new.gid[0];
        new.permitted &= old.permitted;
        changed = false;
    }
    new.uid = [new.uid[0], new.uid[1], new.uid[1], new.uid[1]];
    new.gid = [new.gid[0], new.gid[1], new.gid[1], new.gid[1]];
    if of_file.is_some() || changed {
        new.ambient = 0;
    }
    new.permitted |= new.ambient;
    new.effective = if effective { new.permitted } else { new.ambient };
    new.securebits &= !KEEP_CAPS;
    let secure = changed || (new.uid[0] != 0 && (effective || new.permitted & !new.ambient != 0));
    Some((new, secure))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> Credentials {
        Credentials {
            uid: [uid; 4],
            gid: [uid; 4],
            groups: vec![],
            effective: 0,
            permitted: 0,
            inheritable: 0,
            ambient: 0,
            bounding: 0xff,
            securebits: 0,
            no_new_privs: false,
        }
    }

    fn program(mode: u32) -> Privileges {
        Privileges { mode, ..Privileges::default() }
    }

    #[test]
    fn root_has_all_that_is_bounding() {
        let (new, secure) = after_exec(&user(0), &program(0o755)).unwrap();
        assert_eq!((new.permitted, new.effective, secure), (0xff, 0xff, false));
        let limited = Credentials { securebits: NO_ROOT | KEEP_CAPS, ..user(0) };
        let (new, _) = after_exec(&limited, &program(0o755)).unwrap();
        assert_eq!((new.permitted, new.effective, new.securebits), (0, 0, NO_ROOT));
        // Of a real id of root alone, the effective set is empty.
        let (new, secure) = after_exec(&Credentials { uid: [0, 33, 33, 33], ..user(0) }, &program(0o755)).unwrap();
        assert_eq!((new.permitted, new.effective, secure), (0xff, 0, true));
    }

    #[test]
    fn a_user_keeps_what_is_ambient() {
        let old = Credentials { effective: 3, permitted: 3, inheritable: 2, ambient: 2, ..user(33) };
        let (new, secure) = after_exec(&old, &program(0o755)).unwrap();
        assert_eq!((new.permitted, new.effective, new.ambient, secure), (2, 2, 2, false));
    }

    #[test]
    fn set_user_id() {
        let (new, secure) = after_exec(&user(33), &program(0o4755)).unwrap();
        assert_eq!((new.uid, new.permitted, new.effective, secure), ([33, 0, 0, 0], 0xff, 0xff, true));
        for (old, file) in [
            (Credentials { no_new_privs: true, ..user(33) }, program(0o4755)),
            (user(33), Privileges { nosuid: true, ..program(0o4755) }),
        ] {
            let (new, secure) = after_exec(&old, &file).unwrap();
            assert_eq!((new.uid, new.permitted, secure), ([33; 4], 0, false));
        }
        let (new, secure) = after_exec(&user(33), &Privileges { gid: 42, ..program(0o2755) }).unwrap();
        assert_eq!((new.gid, secure), ([33, 42, 42, 42], true));
        let (new, _) = after_exec(&user(33), &Privileges { gid: 42, ..program(0o2745) }).unwrap();
        assert_eq!(new.gid, [33; 4]);
    }

    #[test]
    fn capabilities_of_files() {
        let capability = |flags: u32, permitted: u32, inheritable: u32| {
            let words = [0x0200_0000 | flags, permitted, inheritable, 0, 0];
            let capability = Some(words.into_iter().flat_map(u32::to_le_bytes).collect());
            Privileges { capability, ..program(0o755) }
        };
        let (new, secure) = after_exec(&user(33), &capability(1, 4, 0)).unwrap();
        assert_eq!((new.permitted, new.effective, secure), (4, 4, true));
        assert_eq!(after_exec(&user(33), &capability(1, 0x100, 0)), None);
        let (new, _) = after_exec(&user(33), &capability(0, 0x104, 0)).unwrap();
        assert_eq!((new.permitted, new.effective), (4, 0));
        let old = Credentials { inheritable: 2, ..user(33) };
        assert_eq!(after_exec(&old, &capability(1, 0, 6)).unwrap().0.permitted, 2);
    }
}
