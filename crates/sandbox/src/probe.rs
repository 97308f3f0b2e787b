//! What this machine allows, for `rbuild doctor`.

use crate::{
    chroot,
    idmap::{
        IdKind, SubordinateRange, current_map, find_helper, is_setuid_or_capable, load_grants, next_subordinate_id,
        user_names,
    },
    isolation::{Facts, Isolation, Privilege},
    overlay::probe_overlay,
    userns::{self, Refusal},
    worker::{SpawnError, Worker, WorkerChannel, WorkerOptions},
};
use rustix::process::{getegid, geteuid};
use serde::{Deserialize, Serialize};
use std::{
    error::Error,
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
    /// How many user ids there are in the user namespace around this process.
    pub uids_here: u64,
    /// Ranges granted in `/etc/subuid`: first id and how many.
    pub subordinate_uids: Vec<SubordinateRange>,
    /// Ranges granted in `/etc/subgid`.
    pub subordinate_gids: Vec<SubordinateRange>,
    /// The first id above all that `/etc/subuid` and `/etc/subgid` grant to anybody.
    pub next_subordinate_id: u32,
    /// `newuidmap` and `newgidmap`.
    pub helpers: Vec<Helper>,
    /// `/proc/sys/user/max_user_namespaces`.
    pub max_user_namespaces: Option<u64>,
    /// Debian's `/proc/sys/kernel/unprivileged_userns_clone`: whether ordinary users may have user namespaces.
    pub unprivileged_userns_clone: Option<bool>,
    /// Ubuntu's `/proc/sys/kernel/apparmor_restrict_unprivileged_userns`.
    pub apparmor_restricts_userns: Option<bool>,
    /// Whether this is surely a chroot, since nothing is mounted on `/`; one to a mount point is not recognised.
    pub chroot: bool,
    /// Whether programs cannot gain privileges.
    pub no_new_privs: bool,
    /// The line `Seccomp` of `/proc/self/status`: 0 is none, 2 a filter.
    pub seccomp: Option<u32>,
    /// What a worker found, or why there is none.
    pub worker: Result<Facts, String>,
    /// The same of a worker that takes namespaces and nothing less.
    pub namespaces: Result<Facts, String>,
    /// Why that one got no user namespace, where that is the reason.
    pub refusal: Option<Refusal>,
    /// Whether an overlay works in the directory that was asked about, or why not: in the worker's namespaces, or those
    /// that could be had.
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

/// Looks at this machine, starts a worker and mounts an overlay in `directory`; `attributes_in` is that of
/// [`WorkerOptions`].
pub fn probe(directory: &Path, attributes_in: &Path) -> Probe {
    let uid = geteuid().as_raw();
    let helpers = [IdKind::User, IdKind::Group].map(|kind| {
        let path = find_helper(kind);
        let privileged = path.as_deref().is_some_and(is_setuid_or_capable);
        Helper { name: kind.helper().to_owned(), path, privileged }
    });
    let Answer { worker, refusal, overlay } = ask_worker(directory, attributes_in, Isolation::Auto);
    let (namespaces, refusal, overlay) = match &worker {
        Ok(facts) if facts.isolation != Isolation::Userns => {
            let answer = ask_worker(directory, attributes_in, Isolation::Userns);
            let overlay = if answer.worker.is_ok() { answer.overlay } else { overlay };
            (answer.worker, answer.refusal, overlay)
        }
        other => (other.clone(), refusal, overlay),
    };
    Probe {
        uid,
        gid: getegid().as_raw(),
        user: user_names(uid).first().map(|name| String::from_utf8_lossy(name).into_owned()),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        uids_here: current_map(IdKind::User)
            .map(|map| map.iter().map(|range| u64::from(range.count)).sum())
            .unwrap_or_default(),
        subordinate_uids: load_grants(IdKind::User, uid).unwrap_or_default(),
        subordinate_gids: load_grants(IdKind::Group, uid).unwrap_or_default(),
        next_subordinate_id: next_subordinate_id(),
        helpers: helpers.into(),
        max_user_namespaces: userns::max_user_namespaces(),
        unprivileged_userns_clone: userns::unprivileged_userns_clone(),
        apparmor_restricts_userns: userns::apparmor_restricts_userns(),
        chroot: chroot::is_certain(),
        no_new_privs: rustix::thread::no_new_privs().unwrap_or(false),
        seccomp: userns::seccomp_mode(),
        worker,
        namespaces,
        refusal,
        overlay,
        directory: directory.to_owned(),
    }
}

struct Answer {
    worker: Result<Facts, String>,
    refusal: Option<Refusal>,
    overlay: Result<(), String>,
}

fn ask_worker(directory: &Path, attributes_in: &Path, isolation: Isolation) -> Answer {
    let mut options = WorkerOptions::new(ENTRY);
    options.isolation = isolation;
    options.overlay_on = Some(directory.to_owned());
    options.attributes_in = Some(attributes_in.to_owned());
    let mut worker = match Worker::spawn(options) {
        Ok(worker) => worker,
        Err(error) => {
            let text = chain(&error);
            let refusal = match error {
                SpawnError::UserNamespace { refusal, .. } => Some(refusal),
                _ => None,
            };
            let overlay = Err("there is no worker to mount one".into());
            return Answer { worker: Err(text), refusal, overlay };
        }
    };
    let asked = worker.send(&Question { directory: directory.to_owned() });
    let overlay = match asked.and_then(|()| worker.recv::<Result<(), String>>()) {
        Ok(Some(answer)) => answer,
        Ok(None) => Err("the worker ended".into()),
        Err(error) => Err(chain(&error)),
    };
    let _ = worker.kill();
    Answer { worker: Ok(worker.facts().clone()), refusal: None, overlay }
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
        if self.namespaces.is_err() {
            // The reason first, then what would be in the way after that.
            let sure = self.refusal.iter().cloned();
            let seen = [
                (self.chroot, Refusal::Chroot),
                (self.max_user_namespaces == Some(0), Refusal::Limit { max: Some(0) }),
                (self.unprivileged_userns_clone == Some(false), Refusal::Sysctl),
                (self.apparmor_restricts_userns == Some(true), Refusal::AppArmor),
                (self.seccomp.unwrap_or(0) != 0, Refusal::Seccomp),
            ];
            let seen = seen.into_iter().filter_map(|(is, refusal)| is.then_some(refusal));
            for refusal in sure.chain(seen) {
                let remedy = refusal.remedy().to_owned();
                if !remedies.contains(&remedy) {
                    remedies.push(remedy);
                }
            }
        }
        let one_id = !matches!(&self.namespaces, Ok(facts) if facts.privilege != Privilege::OneId);
        if one_id && (self.uids_here == 0 || self.uid == 0 && self.uids_here > 1) {
            // Nothing is known of a user that has no id, and root maps ids without help.
        } else if one_id && self.uids_here == 1 {
            remedies.push(
                "map more ids into the user namespace around this process (`unshare --map-root-user --map-auto`), or \
                 build outside of it"
                    .to_owned(),
            );
        } else if one_id {
            if self.no_new_privs {
                remedies.push(
                    "no_new_privs is set, so only one id can be had: start without it (Kubernetes: \
                     `allowPrivilegeEscalation: true`, systemd: `NoNewPrivileges=no`)"
                        .to_owned(),
                );
            }
            for helper in &self.helpers {
                match &helper.path {
                    None => remedies.push(format!("install `{}` (package uidmap or shadow-utils)", helper.name)),
                    Some(path) if !helper.privileged => {
                        remedies.push(format!("make `{}` set-user-id: `chmod u+s {0}` as root", path.display()));
                    }
                    Some(_) => {}
                }
            }
            let who = self.user.clone().unwrap_or_else(|| self.uid.to_string());
            for (file, ranges) in [("/etc/subuid", &self.subordinate_uids), ("/etc/subgid", &self.subordinate_gids)] {
                if ranges.is_empty() {
                    let first = self.next_subordinate_id;
                    remedies.push(format!("grant subordinate ids: add `{who}:{first}:65536` to {file}"));
                }
            }
            if self.user.is_none() {
                remedies.push(format!("give uid {} a line in /etc/passwd: `newuidmap` wants a user name", self.uid));
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
            uids_here: 1 << 32,
            subordinate_uids: vec![(100_000, 65_536)],
            subordinate_gids: vec![(100_000, 65_536)],
            next_subordinate_id: 165_536,
            helpers: vec![Helper {
                name: "newuidmap".into(),
                path: Some("/usr/bin/newuidmap".into()),
                privileged: true,
            }],
            max_user_namespaces: Some(100),
            unprivileged_userns_clone: None,
            apparmor_restricts_userns: None,
            chroot: false,
            no_new_privs: false,
            seccomp: Some(0),
            worker: Err("cannot create a user namespace: EPERM".into()),
            namespaces: Err("cannot create a user namespace: EPERM".into()),
            refusal: None,
            overlay: Err("none".into()),
            directory: "/x".into(),
        }
    }

    #[test]
    fn remedies_name_the_cause() {
        let has = |probe: &Probe, word: &str| probe.remedies().iter().any(|remedy| remedy.contains(word));
        for (refusal, word) in [
            (Refusal::NotBuilt, "CONFIG_USER_NS"),
            (Refusal::Chroot, "pivot_root"),
            (Refusal::Unknown, "if this is a chroot"),
            (Refusal::UnmappedId, "--map-root-user"),
            (Refusal::Limit { max: Some(5) }, "raise `sysctl user.max_user_namespaces`"),
        ] {
            let probe = Probe { refusal: Some(refusal), ..blank() };
            assert!(has(&probe, word), "{word}");
            assert!(!has(&blank(), word), "{word}");
        }
        for (probe, word) in [
            (Probe { max_user_namespaces: Some(0), ..blank() }, "sysctl user.max_user_namespaces="),
            (Probe { apparmor_restricts_userns: Some(true), ..blank() }, "AppArmor"),
            (Probe { seccomp: Some(2), ..blank() }, "seccomp=unconfined"),
        ] {
            assert!(has(&probe, word), "{word}");
            // Told once, though seen twice, and after what is in the way before it.
            let twice = Probe { refusal: Some(Refusal::Chroot), chroot: true, ..probe };
            let remedies = twice.remedies();
            assert!(remedies[0].contains("pivot_root") && remedies[1].contains(word));
        }
        assert!(has(&Probe { no_new_privs: true, ..blank() }, "NoNewPrivileges"));
        assert!(has(&Probe { subordinate_gids: vec![], ..blank() }, "`alice:165536:65536` to /etc/subgid"));
        assert!(has(&Probe { user: None, ..blank() }, "newuidmap"));
        let helper = Helper { name: "newuidmap".into(), path: None, privileged: false };
        assert!(has(&Probe { helpers: vec![helper], ..blank() }, "package uidmap"));
        assert!(has(&Probe { uids_here: 1, ..blank() }, "--map-auto"));
        let facts = Facts {
            isolation: crate::Isolation::Userns,
            privilege: Privilege::ManyIds,
            uids: vec![],
            gids: vec![],
            why_one_id: None,
        };
        let emulated = Facts { isolation: Isolation::Ptrace, privilege: Privilege::Emulated, ..facts.clone() };
        let better = Probe { worker: Ok(emulated), overlay: Ok(()), seccomp: Some(2), ..blank() };
        assert!(has(&better, "seccomp=unconfined"));
        let good = Probe { worker: Ok(facts.clone()), namespaces: Ok(facts), overlay: Ok(()), ..blank() };
        assert_eq!(good.remedies(), Vec::<String>::new());
        assert!(has(&Probe { overlay: Err("EINVAL".into()), ..good }, "overlayfs does not work in `/x` (EINVAL)"));
    }
}
