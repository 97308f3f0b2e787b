//! User and group ids of a user namespace: the caller's own as 0, and the subordinate ones from 1 up (subuid(5),
//! newuidmap(1)).

use crate::isolation::IdRange;
use rustix::process::{Pid, getegid, geteuid};
use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// Which kind of id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdKind {
    /// Users.
    User,
    /// Groups.
    Group,
}

impl IdKind {
    /// Where subordinate ids of this kind are granted.
    pub fn grants(self) -> &'static Path {
        Path::new(match self {
            Self::User => "/etc/subuid",
            Self::Group => "/etc/subgid",
        })
    }

    /// The set-user-id program that maps them.
    pub fn helper(self) -> &'static str {
        match self {
            Self::User => "newuidmap",
            Self::Group => "newgidmap",
        }
    }

    /// Its file in `/proc/PID`.
    pub(crate) fn map_file(self) -> &'static str {
        match self {
            Self::User => "uid_map",
            Self::Group => "gid_map",
        }
    }

    /// The caller's effective id of this kind.
    pub(crate) fn own(self) -> u32 {
        match self {
            Self::User => geteuid().as_raw(),
            Self::Group => getegid().as_raw(),
        }
    }
}

impl std::fmt::Display for IdKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Group => "group",
        })
    }
}

impl IdMapError {
    /// The kernel's error number, 0 where there is none.
    pub(crate) fn errno(&self) -> i32 {
        match self {
            Self::Io { source, .. } => source.raw_os_error().unwrap_or(0),
            _ => 0,
        }
    }
}

/// A subordinate range: first id and how many.
pub type SubordinateRange = (u32, u32);

/// Why ids could not be mapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdMapError {
    /// The process may not gain privileges, so that set-user-id programs have no effect.
    #[error("no_new_privs is set, so `{helper}` has no effect")]
    NoNewPrivileges {
        /// The program.
        helper: &'static str,
    },
    /// The program is not installed.
    #[error("`{helper}` is not installed (package uidmap or shadow-utils)")]
    NoHelper {
        /// The program.
        helper: &'static str,
    },
    /// Nothing is granted to this user.
    #[error("`{}` grants no ids to user {user}", file.display())]
    NoGrant {
        /// The file.
        file: PathBuf,
        /// User name, or number where there is no name.
        user: String,
    },
    /// The program failed.
    #[error("`{helper}` failed: {message}")]
    HelperFailed {
        /// The program.
        helper: &'static str,
        /// What it said.
        message: String,
    },
    /// A file could not be read or written.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// The subordinate ranges that the text of `/etc/subuid` or `/etc/subgid` grants to a user, by any of its names or by
/// number, in order and each once. Lines that are not understood are skipped, as newuidmap(1) skips them.
pub fn parse_grants(text: &[u8], names: &[Vec<u8>], uid: u32) -> Vec<SubordinateRange> {
    let number = uid.to_string();
    let mut ranges = Vec::new();
    for line in text.split(|&b| b == b'\n') {
        let mut fields = line.split(|&b| b == b':');
        let (Some(owner), Some(start), Some(count), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if owner != number.as_bytes() && !names.iter().any(|name| name == owner) {
            continue;
        }
        let parse = |field: &[u8]| std::str::from_utf8(field).ok()?.trim().parse::<u32>().ok();
        if let (Some(start), Some(count)) = (parse(start), parse(count))
            && count > 0
            && start.checked_add(count).is_some()
            && !ranges.contains(&(start, count))
        {
            ranges.push((start, count));
        }
    }
    ranges
}

/// The first id above all that the text of `/etc/subuid` or `/etc/subgid` grants to anybody: two users who share one could
/// change each other's files. 100000 where nothing is granted (`SUB_UID_MIN` of login.defs(5)).
pub fn end_of_grants(text: &[u8]) -> u32 {
    let end = |line: &[u8]| {
        let mut fields = line.split(|&b| b == b':').skip(1);
        let mut number = || std::str::from_utf8(fields.next()?).ok()?.trim().parse::<u32>().ok();
        number()?.checked_add(number()?)
    };
    text.split(|&b| b == b'\n').filter_map(end).fold(100_000, u32::max)
}

/// The first id that neither file grants.
pub(crate) fn next_subordinate_id() -> u32 {
    let end = |kind: IdKind| end_of_grants(&fs::read(kind.grants()).unwrap_or_default());
    end(IdKind::User).max(end(IdKind::Group))
}

/// The login names of `uid` in the text of `/etc/passwd`.
pub fn parse_names(passwd: &[u8], uid: u32) -> Vec<Vec<u8>> {
    let number = uid.to_string();
    passwd
        .split(|&b| b == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|&b| b == b':');
            let name = fields.next()?;
            (fields.nth(1)? == number.as_bytes() && !name.is_empty()).then(|| name.to_vec())
        })
        .collect()
}

/// The whole map: `own` as 0, then the subordinate ranges without overlap, from 1 up.
pub fn plan_map(own: u32, grants: &[SubordinateRange]) -> Vec<IdRange> {
    let mut map = vec![IdRange { inside: 0, outside: own, count: 1 }];
    let mut next = 1u32;
    for &(start, count) in grants {
        // The kernel takes no outer id twice, so cut out what is mapped already.
        let mut pieces = vec![(u64::from(start), u64::from(start) + u64::from(count))];
        for taken in &map {
            let (from, to) = (u64::from(taken.outside), u64::from(taken.outside) + u64::from(taken.count));
            pieces = pieces
                .into_iter()
                .flat_map(|(start, end)| [(start, end.min(from)), (start.max(to), end)])
                .filter(|(start, end)| start < end)
                .collect();
        }
        for (start, end) in pieces {
            // Inside, ids end below u32::MAX, which means "no id"; and the kernel takes 340 lines (user_namespaces(7)).
            let room = u64::from(u32::MAX - 1 - next);
            let count = (end - start).min(room) as u32;
            if count == 0 || map.len() == 340 {
                continue;
            }
            map.push(IdRange { inside: next, outside: start as u32, count });
            next += count;
        }
    }
    map
}

/// The names of this user. `/etc/passwd` is read directly, since a static program has no name service; a user of a
/// directory service is asked of `getent`, where there is one.
pub fn user_names(uid: u32) -> Vec<Vec<u8>> {
    let names = fs::read("/etc/passwd").map(|text| parse_names(&text, uid)).unwrap_or_default();
    if !names.is_empty() {
        return names;
    }
    Command::new("getent")
        .args(["passwd", &uid.to_string()])
        .stderr(std::process::Stdio::null())
        .stdin(std::process::Stdio::null())
        .output()
        .map(|output| parse_names(&output.stdout, uid))
        .unwrap_or_default()
}

/// The ranges granted to `uid`.
///
/// # Errors
/// Where the file exists but cannot be read.
pub fn load_grants(kind: IdKind, uid: u32) -> Result<Vec<SubordinateRange>, IdMapError> {
    let path = kind.grants();
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(IdMapError::Io { action: "read", path: path.to_owned(), source });
        }
    };
    let by_number = parse_grants(&text, &[], uid);
    let names = user_names(uid);
    let ranges = parse_grants(&text, &names, uid);
    Ok(if ranges.is_empty() { by_number } else { ranges })
}

/// Where the helper is: on `PATH`, or where distributions put it.
pub fn find_helper(kind: IdKind) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .chain(["/usr/bin", "/bin", "/usr/sbin", "/usr/local/bin", "/run/wrappers/bin"].map(PathBuf::from))
        .map(|dir| dir.join(kind.helper()))
        .find(|file| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file())
}

/// A map that can be asked of the helper.
#[derive(Debug)]
pub(crate) struct HelperMap {
    kind: IdKind,
    program: PathBuf,
    pub(crate) ranges: Vec<IdRange>,
}

impl HelperMap {
    /// What the helper would do for this user; the error says why there is nothing to ask.
    pub(crate) fn find(kind: IdKind) -> Result<Self, IdMapError> {
        let helper = kind.helper();
        if rustix::thread::no_new_privs().unwrap_or(false) {
            return Err(IdMapError::NoNewPrivileges { helper });
        }
        let program = find_helper(kind).ok_or(IdMapError::NoHelper { helper })?;
        let uid = geteuid().as_raw();
        let grants = load_grants(kind, uid)?;
        if grants.is_empty() {
            let user = user_names(uid).first().map(|name| String::from_utf8_lossy(name).into_owned());
            return Err(IdMapError::NoGrant {
                file: kind.grants().to_owned(),
                user: user.unwrap_or_else(|| uid.to_string()),
            });
        }
        Ok(Self { kind, program, ranges: plan_map(kind.own(), &grants) })
    }

    /// Has the helper write the map of process `pid`.
    pub(crate) fn apply(&self, pid: Pid) -> Result<(), IdMapError> {
        let helper = self.kind.helper();
        let mut command = Command::new(&self.program);
        command.arg(pid.as_raw_nonzero().to_string()).stdin(std::process::Stdio::null());
        for range in &self.ranges {
            command.args([range.inside, range.outside, range.count].map(|id| id.to_string()));
        }
        let failed = |message: String| IdMapError::HelperFailed { helper, message };
        let output = command.output().map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().strip_prefix(helper).map_or(said.trim(), |rest| rest.trim_start_matches([':', ' ']));
        Err(failed(if said.is_empty() { output.status.to_string() } else { said.to_owned() }))
    }
}

/// The ids that exist in the namespace of this process.
pub(crate) fn current_map(kind: IdKind) -> Result<Vec<IdRange>, IdMapError> {
    let path = Path::new("/proc/self").join(kind.map_file());
    let text = fs::read_to_string(&path).map_err(|source| IdMapError::Io { action: "read", path, source })?;
    Ok(parse_map(&text))
}

/// Whether every id exists and is itself, as without a user namespace.
pub(crate) fn is_whole(kind: IdKind) -> bool {
    current_map(kind).is_ok_and(|map| map == [IdRange { inside: 0, outside: 0, count: u32::MAX }])
}

/// The lines of a `uid_map` or `gid_map`.
pub(crate) fn parse_map(text: &str) -> Vec<IdRange> {
    text.lines()
        .filter_map(|line| {
            let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
            match (numbers.next()?, numbers.next()?, numbers.next()?) {
                (Ok(inside), Ok(outside), Ok(count)) => Some(IdRange { inside, outside, count }),
                _ => None,
            }
        })
        .collect()
}

/// Writes a map of this process itself.
pub(crate) fn write_own_map(kind: IdKind, ranges: &[IdRange]) -> Result<(), IdMapError> {
    write_map(Path::new("/proc/self"), kind, ranges)
}

/// Writes the map of the process `pid`, for a caller with CAP_SETUID and CAP_SETGID.
pub(crate) fn write_map_of(pid: Pid, kind: IdKind, ranges: &[IdRange]) -> Result<(), IdMapError> {
    write_map(&Path::new("/proc").join(pid.as_raw_nonzero().to_string()), kind, ranges)
}

/// In one write, as the kernel demands.
fn write_map(process: &Path, kind: IdKind, ranges: &[IdRange]) -> Result<(), IdMapError> {
    let text: String = ranges.iter().map(|r| format!("{} {} {}\n", r.inside, r.outside, r.count)).collect();
    write_proc(process.join(kind.map_file()), text.as_bytes())
}

/// Gives up setgroups(2), without which the kernel lets nobody map a group for himself (user_namespaces(7)).
pub(crate) fn deny_setgroups() -> Result<(), IdMapError> {
    write_proc(PathBuf::from("/proc/self/setgroups"), b"deny")
}

fn write_proc(path: PathBuf, text: &[u8]) -> Result<(), IdMapError> {
    let file = fs::OpenOptions::new().write(true).open(&path);
    let written = file.and_then(|mut file| io::Write::write_all(&mut file, text));
    written.map_err(|source| IdMapError::Io { action: "write", path, source })
}

/// Whether the helper can gain the privilege that it needs: set-user-id root, or a file capability.
pub(crate) fn is_setuid_or_capable(program: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let setuid = fs::metadata(program).is_ok_and(|meta| meta.uid() == 0 && meta.mode() & 0o4000 != 0);
    let mut value = [0u8; 64];
    setuid || rustix::fs::getxattr(program, OsStr::new("security.capability"), &mut value[..]).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_by_name_and_number() {
        let text =
            b"alice:100000:65536\n1000:300000:1000\n# no\nbob:1:2:3\nbob:7:0\nalice:4294967295:2\nalice:200000:10\n";
        let alice = [b"alice".to_vec()];
        assert_eq!(parse_grants(text, &alice, 1001), [(100000, 65536), (200000, 10)]);
        assert_eq!(parse_grants(text, &alice, 1000), [(100000, 65536), (300000, 1000), (200000, 10)]);
        assert_eq!(parse_grants(text, &[b"bob".to_vec()], 5), []);
        assert_eq!(parse_grants(b"", &alice, 1000), []);
        assert_eq!(end_of_grants(b""), 100_000);
        assert_eq!(end_of_grants(b"a:300000:65536\nbroken\nb:100000:65536\nc:5:6\nd:4294967295:2\n"), 365_536);
    }

    #[test]
    fn names_of_a_uid() {
        let passwd = b"root:x:0:0::/:/bin/sh\nbroken\na:x:1000:1000\nb:x:1000:1\n:x:1000:1\n";
        assert_eq!(parse_names(passwd, 1000), [b"a".to_vec(), b"b".to_vec()]);
        assert!(parse_names(passwd, 1).is_empty());
    }

    #[test]
    fn a_map_has_no_outer_id_twice() {
        let own = IdRange { inside: 0, outside: 1000, count: 1 };
        assert_eq!(plan_map(1000, &[]), [own]);
        assert_eq!(
            plan_map(1000, &[(990, 20), (1005, 10)]),
            [
                own,
                IdRange { inside: 1, outside: 990, count: 10 },
                IdRange { inside: 11, outside: 1001, count: 9 },
                IdRange { inside: 20, outside: 1010, count: 5 },
            ]
        );
        let many: Vec<_> = (0..1000).map(|i| (2000 + 2 * i, 1)).collect();
        assert_eq!(plan_map(1000, &many).len(), 340);
        assert_eq!(plan_map(0, &[(1, u32::MAX - 1)])[1].count, u32::MAX - 2);
    }

    #[test]
    fn maps_of_the_kernel() {
        let text = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(
            parse_map(text),
            [IdRange { inside: 0, outside: 1000, count: 1 }, IdRange { inside: 1, outside: 100000, count: 65536 }]
        );
    }
}
