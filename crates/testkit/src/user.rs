//! Who runs rbuild in tests: an ordinary user with subordinate ids.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::require;

/// Variable that names the user that tests started by root drop to.
pub const VARIABLE: &str = "RBUILD_TEST_USER";

/// Name of that user where the variable is not set.
pub const DEFAULT: &str = "rbuild-test";

/// An ordinary user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestUser {
    /// Name in `/etc/passwd`.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Whether the tests run as somebody else (root) and drop to this user.
    drop: bool,
}

impl TestUser {
    /// The user that runs the tests, or the test user where that is root.
    ///
    /// # Errors
    /// With the reason to skip a test: there is no such user, or he has no subordinate ids, or no way to use them.
    pub fn find() -> Result<TestUser, String> {
        let me = rustix::process::geteuid().as_raw();
        let passwd = fs::read_to_string("/etc/passwd").map_err(|error| format!("/etc/passwd: {error}"))?;
        let wanted = std::env::var(VARIABLE).unwrap_or_else(|_| DEFAULT.to_owned());
        let user = passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let (name, uid, gid) = (*fields.first()?, fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
            let is_it = if me == 0 { name == wanted } else { uid == me };
            is_it.then(|| TestUser { name: name.to_owned(), uid, gid, drop: me == 0 })
        });
        let user = user.ok_or_else(|| {
            if me == 0 {
                format!("no user `{wanted}`: `useradd --create-home {wanted}` (as .ci/run does), or set {VARIABLE}")
            } else {
                format!("no passwd entry for uid {me}, so no subordinate ids")
            }
        })?;
        for file in ["/etc/subuid", "/etc/subgid"] {
            let ranges = fs::read_to_string(file).unwrap_or_default();
            let (name, uid) = (format!("{}:", user.name), format!("{}:", user.uid));
            if !ranges.lines().any(|line| line.starts_with(&name) || line.starts_with(&uid)) {
                return Err(format!("user `{}` has no range in {file}", user.name));
            }
        }
        require::program("newuidmap")?;
        require::program("newgidmap")?;
        Ok(user)
    }

    /// Lets a command run as this user.
    pub fn run_as(&self, command: &mut Command) {
        if self.drop {
            // The standard library drops the supplementary groups of root as well.
            command.uid(self.uid).gid(self.gid);
        }
    }

    /// Gives this user a tree, modes kept.
    pub fn own(&self, path: &Path) {
        if !self.drop {
            return;
        }
        let metadata = fs::symlink_metadata(path).unwrap();
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid)).unwrap();
        if metadata.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                self.own(&entry.unwrap().path());
            }
        } else if !metadata.is_symlink() {
            // A change of owner takes the setuid bit away.
            fs::set_permissions(path, metadata.permissions()).unwrap();
        }
    }

    /// Whether the tests themselves run as root.
    #[must_use]
    pub fn tests_are_root(&self) -> bool {
        self.drop
    }
}
