//! What this machine allows, for `rbuild doctor`.

use crate::{
    idmap::{IdKind, SubordinateRange, find_helper, is_setuid_or_capable, load_grants, user_names},
    isolation::{Facts, Privilege},
    overlay::probe_overlay,
    worker::{Worker, WorkerChannel, WorkerOptions},
};
use rustix::process::{getegid, geteuid};
use serde::{Deserialize, Serialize};
use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
};

/// The entry of the worker that a probe starts.
pub(crate) const ENTRY: &str = "rbuild.probe";

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Probe {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// The user's name, where `/etc/passwd` or the directory service has one.
    pub user: Option<String>,
    /// Release of the kernel.
    pub kernel: String,
    /// Ranges granted in `/etc/subuid`: first id and how many.
    pub subordinate_uids: Vec<SubordinateRange>,
    /// Ranges granted in `/etc/subgid`.
    pub subordinate_gids: Vec<SubordinateRange>,
    /// `newuidmap` and `newgidmap`.
    pub helpers: Vec<Helper>,
    /// `/proc/sys/user/max_user_namespaces`.
    pub max_user_namespaces: Option<u64>,
    /// Debian's `/proc/sys/kernel/unprivileged_userns_clone`: whether ordinary users may have user namespaces.
    pub unprivileged_userns_clone: Option<bool>,
    /// Ubuntu's `/proc/sys/kernel/apparmor_restrict_unprivileged_userns`.
    pub apparmor_restricts_userns: Option<bool>,
    /// Whether programs cannot gain privileges.
    pub no_new_privs: bool,
    /// The line `Seccomp` of `/proc/self/status`: 0 is none, 2 a filter.
    pub seccomp: Option<u32>,
    /// What a worker found, or why there is none.
    pub worker: Result<Facts, String>,
    /// Whether an overlay works in the directory that was asked about, or why not.
    pub overlay: Result<(), String>,
    /// That directory.
    #[serde(with = "crate::bytes::path")]
    pub directory: PathBuf,
}

/// A program that maps subordinate ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Helper {
    /// Its name.
    pub name: String,
    /// Where it is, if it is installed.
    #[serde(with = "crate::bytes::optional_path")]
    pub path: Option<PathBuf>,
    /// Whether it is set-user-id root or has a file capability.
    pub privileged: bool,
}

#[derive(Serialize, Deserialize)]
struct Question {
    #[serde(with = "crate::bytes::path")]
    directory: PathBuf,
}

/// Looks at this machine, starts a worker and mounts an overlay in `directory`.
pub fn probe(directory: &Path) -> Probe {
    let uid = geteuid().as_raw();
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let helpers = [IdKind::User, IdKind::Group].map(|kind| {
        let path = find_helper(kind);
        let privileged = path.as_deref().is_some_and(is_setuid_or_capable);
        Helper {
            name: kind.helper().to_owned(),
            path,
            privileged,
        }
    });
    let (worker, overlay) = ask_worker(directory);
    Probe {
        uid,
        gid: getegid().as_raw(),
        user: user_names(uid)
            .first()
            .map(|name| String::from_utf8_lossy(name).into_owned()),
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        subordinate_uids: load_grants(IdKind::User, uid).unwrap_or_default(),
        subordinate_gids: load_grants(IdKind::Group, uid).unwrap_or_default(),
        helpers: helpers.into(),
        max_user_namespaces: number("/proc/sys/user/max_user_namespaces"),
        unprivileged_userns_clone: number("/proc/sys/kernel/unprivileged_userns_clone")
            .map(|value| value != 0),
        apparmor_restricts_userns: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
            .map(|value| value != 0),
        no_new_privs: rustix::thread::no_new_privs().unwrap_or(false),
        seccomp: seccomp_mode(),
        worker,
        overlay,
        directory: directory.to_owned(),
    }
}

fn seccomp_mode() -> Option<u32> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp:"))?
        .trim()
        .parse()
        .ok()
}

fn ask_worker(directory: &Path) -> (Result<Facts, String>, Result<(), String>) {
    let mut worker = match Worker::spawn(WorkerOptions::new(ENTRY)) {
        Ok(worker) => worker,
        Err(error) => {
            return (
                Err(chain(&error)),
                Err("there is no worker to mount one".into()),
            );
        }
    };
    let asked = worker.send(&Question {
        directory: directory.to_owned(),
    });
    let answer = match asked.and_then(|()| worker.recv::<Result<(), String>>()) {
        Ok(Some(answer)) => answer,
        Ok(None) => Err("the worker ended".into()),
        Err(error) => Err(chain(&error)),
    };
    let _ = worker.kill();
    (Ok(worker.facts().clone()), answer)
}

/// The worker of a probe.
pub(crate) fn serve(channel: WorkerChannel) -> i32 {
    while let Ok(Some(Question { directory })) = channel.recv() {
        let answer = probe_overlay(&directory).map_err(|error| chain(&error));
        if channel.send(&answer).is_err() {
            return 1;
        }
    }
    0
}

/// An error and its causes on one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl Probe {
    /// What to do for the best isolation, one line each, most important first; nothing where it is had.
    pub fn remedies(&self) -> Vec<String> {
        let mut remedies = Vec::new();
        if self.worker.is_err() {
            if self.unprivileged_userns_clone == Some(false) {
                remedies.push(
                    "allow user namespaces: `sysctl kernel.unprivileged_userns_clone=1`".to_owned(),
                );
            }
            if self.max_user_namespaces == Some(0) {
                remedies.push(
                    "allow user namespaces: `sysctl user.max_user_namespaces=15000`".to_owned(),
                );
            }
            if self.apparmor_restricts_userns == Some(true) {
                remedies.push(
                    "allow this program user namespaces: an AppArmor profile with `userns,`, or \
                     `sysctl kernel.apparmor_restrict_unprivileged_userns=0`"
                        .to_owned(),
                );
            }
            if self.seccomp.unwrap_or(0) != 0 {
                remedies.push(
                    "a seccomp filter is in force, as in a container: start it with `--security-opt seccomp=unconfined` \
                     (and `--security-opt apparmor=unconfined`)"
                        .to_owned(),
                );
            }
            if remedies.is_empty() {
                remedies.push(
                    "the kernel refuses user namespaces: it may be built without CONFIG_USER_NS"
                        .to_owned(),
                );
            }
        }
        let one_id = !matches!(&self.worker, Ok(facts) if facts.privilege != Privilege::OneId);
        if one_id {
            if self.no_new_privs {
                remedies.push(
                    "no_new_privs is set, so only one id can be had: start without it (Kubernetes: \
                     `allowPrivilegeEscalation: true`, systemd: `NoNewPrivileges=no`)"
                        .to_owned(),
                );
            }
            for helper in &self.helpers {
                match &helper.path {
                    None => remedies.push(format!(
                        "install `{}` (package uidmap or shadow-utils)",
                        helper.name
                    )),
                    Some(path) if !helper.privileged => {
                        remedies.push(format!(
                            "make `{}` set-user-id: `chmod u+s {0}` as root",
                            path.display()
                        ));
                    }
                    Some(_) => {}
                }
            }
            let who = self.user.clone().unwrap_or_else(|| self.uid.to_string());
            for (file, ranges) in [
                ("/etc/subuid", &self.subordinate_uids),
                ("/etc/subgid", &self.subordinate_gids),
            ] {
                if ranges.is_empty() {
                    remedies.push(format!(
                        "grant subordinate ids: add `{who}:100000:65536` to {file}"
                    ));
                }
            }
            if self.user.is_none() {
                remedies.push(format!(
                    "give uid {} a line in /etc/passwd: `newuidmap` wants a user name",
                    self.uid
                ));
            }
        }
        if let (Ok(_), Err(reason)) = (&self.worker, &self.overlay) {
            remedies.push(format!(
                "overlayfs does not work in `{}` ({reason}): use a directory on ext4, xfs, btrfs or tmpfs, and Linux 5.12 \
                 or later",
                self.directory.display()
            ));
        }
        remedies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blank() -> Probe {
        Probe {
            uid: 1000,
            gid: 1000,
            user: Some("alice".into()),
            kernel: "6.1.0".into(),
            subordinate_uids: vec![(100_000, 65_536)],
            subordinate_gids: vec![(100_000, 65_536)],
            helpers: vec![Helper {
                name: "newuidmap".into(),
                path: Some("/usr/bin/newuidmap".into()),
                privileged: true,
            }],
            max_user_namespaces: Some(100),
            unprivileged_userns_clone: None,
            apparmor_restricts_userns: None,
            no_new_privs: false,
            seccomp: Some(0),
            worker: Err("cannot create a user namespace: EPERM".into()),
            overlay: Err("none".into()),
            directory: "/x".into(),
        }
    }

    #[test]
    fn remedies_name_the_cause() {
        let has =
            |probe: &Probe, word: &str| probe.remedies().iter().any(|remedy| remedy.contains(word));
        assert!(has(&blank(), "CONFIG_USER_NS"));
        assert!(has(
            &Probe {
                max_user_namespaces: Some(0),
                ..blank()
            },
            "user.max_user_namespaces"
        ));
        assert!(has(
            &Probe {
                apparmor_restricts_userns: Some(true),
                ..blank()
            },
            "AppArmor"
        ));
        assert!(has(
            &Probe {
                seccomp: Some(2),
                ..blank()
            },
            "seccomp=unconfined"
        ));
        assert!(has(
            &Probe {
                no_new_privs: true,
                ..blank()
            },
            "NoNewPrivileges"
        ));
        assert!(has(
            &Probe {
                subordinate_gids: vec![],
                ..blank()
            },
            "`alice:100000:65536` to /etc/subgid"
        ));
        assert!(has(
            &Probe {
                user: None,
                ..blank()
            },
            "newuidmap"
        ));
        let helper = Helper {
            name: "newuidmap".into(),
            path: None,
            privileged: false,
        };
        assert!(has(
            &Probe {
                helpers: vec![helper],
                ..blank()
            },
            "package uidmap"
        ));
        let facts = Facts {
            isolation: crate::Isolation::Userns,
            privilege: Privilege::ManyIds,
            uids: vec![],
            gids: vec![],
            why_one_id: None,
        };
        let good = Probe {
            worker: Ok(facts),
            overlay: Ok(()),
            ..blank()
        };
        assert_eq!(good.remedies(), Vec::<String>::new());
        assert!(has(
            &Probe {
                overlay: Err("EINVAL".into()),
                ..good
            },
            "overlayfs does not work in `/x` (EINVAL)"
        ));
    }
}
