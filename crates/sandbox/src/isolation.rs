//! How a worker is confined, and what was found when it was.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// How the steps of a build are confined (the ladder of isolation, strongest first).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// The strongest kind that works here.
    #[default]
    Auto,
    /// User namespace (none for real root), mount, pid, ipc and uts namespaces, overlayfs.
    Userns,
    /// A changed root without mounts, for root in a container without CAP_SYS_ADMIN.
    Chroot,
    /// Path translation by ptrace, for a process without any privilege.
    Ptrace,
}

impl Isolation {
    /// The word for it on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Userns => "userns",
            Self::Chroot => "chroot",
            Self::Ptrace => "ptrace",
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no isolation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no isolation: use auto, userns, chroot or ptrace")]
pub struct UnknownIsolation(pub String);

impl FromStr for Isolation {
    type Err = UnknownIsolation;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        [Self::Auto, Self::Userns, Self::Chroot, Self::Ptrace]
            .into_iter()
            .find(|isolation| isolation.as_str() == word)
            .ok_or_else(|| UnknownIsolation(word.to_owned()))
    }
}

/// A run of consecutive ids and where they lie outside (one line of `/proc/PID/uid_map`, user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// First id inside the namespace.
    pub inside: u32,
    /// First id in the namespace of the caller.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

impl IdRange {
    /// Whether this id exists inside.
    pub fn contains(&self, id: u32) -> bool {
        id >= self.inside && id - self.inside < self.count
    }
}

/// What makes the worker uid 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Privilege {
    /// The caller is root with CAP_SYS_ADMIN: no user namespace.
    Root,
    /// A user namespace with a subordinate range, or with all ids of a caller that may map them.
    ManyIds,
    /// A user namespace with one id alone: the caller's own, or that of a root whose namespace has no other.
    OneId,
    /// Nothing: the kernel is played by another process ([`Isolation::Ptrace`]).
    Emulated,
}

/// What a worker found when it was set up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The isolation in force, never [`Isolation::Auto`].
    pub isolation: Isolation,
    /// What makes it uid 0.
    pub privilege: Privilege,
    /// User ids that exist inside.
    pub uids: Vec<IdRange>,
    /// Group ids that exist inside.
    pub gids: Vec<IdRange>,
    /// With one id: why there are not more.
    pub why_one_id: Option<String>,
}

impl Facts {
    /// A word for the way in which owners of files are kept, the same for workers that can use each other's files: empty
    /// for real ids, `recorded` for records beside the files, else where the ids of the user namespace lie outside.
    pub fn owners(&self) -> String {
        let outside = |ranges: &[IdRange]| {
            let first: Vec<String> = ranges.iter().map(|range| range.outside.to_string()).collect();
            first.join("-")
        };
        match self.privilege {
            Privilege::Root => String::new(),
            Privilege::OneId | Privilege::Emulated => "recorded".to_owned(),
            Privilege::ManyIds if outside(&self.uids) == outside(&self.gids) => format!("ids-{}", outside(&self.uids)),
            Privilege::ManyIds => format!("ids-{}-{}", outside(&self.uids), outside(&self.gids)),
        }
    }

    /// Whether files can be owned by `uid` and `gid` inside.
    pub fn has_ids(&self, uid: u32, gid: u32) -> bool {
        let within = |ranges: &[IdRange], id: u32| ranges.iter().any(|range| range.contains(id));
        within(&self.uids, uid) && within(&self.gids, gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_keep_owners() {
        let range = |inside, outside| IdRange { inside, outside, count: 1 };
        let facts = |privilege, uids: &[IdRange], gids: &[IdRange]| Facts {
            isolation: Isolation::Userns,
            privilege,
            uids: uids.to_vec(),
            gids: gids.to_vec(),
            why_one_id: None,
        };
        let ids = [range(0, 1000), range(1, 100_000)];
        assert_eq!(facts(Privilege::Root, &ids, &ids).owners(), "");
        assert_eq!(facts(Privilege::OneId, &ids, &ids).owners(), "recorded");
        assert_eq!(facts(Privilege::ManyIds, &ids, &ids).owners(), "ids-1000-100000");
        assert_eq!(facts(Privilege::ManyIds, &ids, &ids[..1]).owners(), "ids-1000-100000-1000");
    }

    #[test]
    fn words() {
        for word in ["auto", "userns", "chroot", "ptrace"] {
            assert_eq!(word.parse::<Isolation>().unwrap().to_string(), word);
        }
        assert!("Userns".parse::<Isolation>().is_err());
    }
}
