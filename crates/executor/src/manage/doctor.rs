//! What this machine allows, what is missing, and what to do about it.

use rbuild_image::store::{ATTRIBUTES, Store, TMP};
use rbuild_sandbox::{Facts, Isolation, Privilege, Probe, SpawnError, Worker, probe};
use serde::Serialize;
use serde_json::Value;

use super::error::ManageError;
use super::forecast::{Confinement, Place, StepForecast, forecast};
use super::worker::{ENTRY, texts};
use crate::{StoreOptions, worker::worker_options};

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diagnosis {
    /// Whether RUN steps can be run here.
    pub can_run: bool,
    /// How RUN steps will be confined, in words; none where they cannot run.
    pub isolation: Option<String>,
    /// Everything that was looked at.
    pub checks: Vec<Check>,
    /// What to do for the best isolation, most important first.
    pub remedies: Vec<String>,
    /// The facts themselves.
    pub probe: Value,
    /// With a Dockerfile: what is to be expected of its RUN steps, in their order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<Vec<StepForecast>>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it is.
    pub name: String,
    /// How it is.
    pub state: CheckState,
    /// What was found.
    pub detail: String,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// As it should be.
    Good,
    /// A build works without it, but less well.
    Lacking,
    /// A build does not work without it.
    Bad,
}

/// As [`doctor`], and foretells what each RUN of a Dockerfile will run under, and what is likely not to work in it.
///
/// # Errors
/// What Docker refuses in the Dockerfile.
pub fn doctor_of(store: &StoreOptions, dockerfile: &[u8]) -> Result<Diagnosis, ManageError> {
    // Before anything is looked at: it is the cheaper one.
    forecast(dockerfile, None).map_err(ManageError::Dockerfile)?;
    let (mut diagnosis, facts) = examine(store);
    let place = diagnosis.isolation.as_deref().zip(facts.as_ref()).map(|(under, facts)| Place {
        under,
        confinement: Confinement::of(facts),
        may_ping: may_ping(),
    });
    diagnosis.steps = Some(forecast(dockerfile, place).map_err(ManageError::Dockerfile)?);
    Ok(diagnosis)
}

/// Whether the kernel lets this group send echo requests without privileges (icmp(7)).
fn may_ping() -> bool {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ping_group_range").unwrap_or_default();
    let ends: Vec<u32> = range.split_whitespace().filter_map(|end| end.parse().ok()).collect();
    matches!(ends[..], [first, last] if (first..=last).contains(&rustix::process::getegid().as_raw()))
}

/// Looks at this machine and at the store, which is made where there is none. Starts workers for a moment.
pub fn doctor(store: &StoreOptions) -> Diagnosis {
    examine(store).0
}

/// The diagnosis, and what a worker found.
fn examine(store: &StoreOptions) -> (Diagnosis, Option<Facts>) {
    let opened = Store::open(&store.root).map(drop);
    // The overlay is tried where the layers will lie.
    let directory = if opened.is_ok() { store.root.join(TMP) } else { store.root.clone() };
    let found = probe(&directory, &store.root.join(ATTRIBUTES));
    let mut checks = checks(&found);
    checks.push(match &opened {
        Ok(()) => good("store", store.root.display().to_string()),
        Err(error) => bad("store", texts(error).join(": ")),
    });
    for isolation in [Isolation::Chroot, Isolation::Ptrace] {
        let mut options = worker_options(store, ENTRY.0);
        options.isolation = isolation;
        let name = format!("isolation {isolation}");
        checks.push(match Worker::spawn(options) {
            Ok(mut worker) => {
                // It was only wanted to know whether it starts.
                let _ = worker.kill();
                good(&name, "available".to_owned())
            }
            Err(SpawnError::Unavailable { reason, .. }) => lacking(&name, reason),
            Err(error) => lacking(&name, texts(&error).join(": ")),
        });
    }
    let diagnosis = Diagnosis {
        can_run: found.worker.is_ok() && opened.is_ok(),
        isolation: found.worker.as_ref().ok().map(|facts| {
            let ids = match facts.privilege {
                Privilege::Root => "as root",
                Privilege::ManyIds => "with subordinate ids",
                Privilege::Emulated => "with an emulated kernel",
                Privilege::OneId => "with one id",
            };
            format!("{} {ids}", facts.isolation)
        }),
        checks,
        remedies: found.remedies(),
        probe: serde_json::to_value(&found).unwrap_or_default(),
        steps: None,
    };
    (diagnosis, found.worker.ok())
}

fn checks(found: &Probe) -> Vec<Check> {
    let mut checks = Vec::new();
    checks.push(good("kernel", found.kernel.clone()));
    let ids = format!("{}:{}", found.uid, found.gid);
    checks.push(match &found.user {
        Some(name) => good("user", format!("{name} ({ids})")),
        None => lacking("user", format!("{ids}, without a name")),
    });
    let root = matches!(&found.worker, Ok(facts) if facts.privilege == Privilege::Root);
    // Who is root needs no ids of others.
    let wanted = |fine: bool, name: &str, detail: String| {
        if fine || root { good(name, detail) } else { lacking(name, detail) }
    };
    for (name, ranges) in [("subordinate uids", &found.subordinate_uids), ("subordinate gids", &found.subordinate_gids)]
    {
        let shown: Vec<String> = ranges.iter().map(|(first, count)| format!("{count} from {first}")).collect();
        let detail = match (shown.is_empty(), root) {
            (false, _) => shown.join(", "),
            (true, true) => "none, and root needs none".to_owned(),
            (true, false) => "none".to_owned(),
        };
        checks.push(wanted(!ranges.is_empty(), name, detail));
    }
    for helper in &found.helpers {
        let detail = match &helper.path {
            None => "not installed".to_owned(),
            Some(path) if helper.privileged => path.display().to_string(),
            Some(path) => format!("{} is not set-user-id", path.display()),
        };
        checks.push(wanted(helper.privileged, &helper.name, detail));
    }
    checks.push(match (found.chroot, &found.namespaces) {
        (false, _) => good("chroot", "no sign of one".to_owned()),
        (true, Ok(_)) => good("chroot", "yes; a build makes it the root of mounts of its own".to_owned()),
        (true, Err(_)) => lacking("chroot", "yes, where the kernel gives no user namespaces".to_owned()),
    });
    let limit = match found.max_user_namespaces {
        Some(max) => format!("at most {max}"),
        None => "no limit is known".to_owned(),
    };
    checks.push(match (&found.refusal, &found.namespaces) {
        (Some(refusal), _) => lacking("user namespaces", refusal.to_string()),
        // With the right to make mounts a build starts without one.
        (None, Ok(_)) if found.max_user_namespaces == Some(0) => {
            good("user namespaces", format!("{limit}; not needed"))
        }
        (None, Ok(Facts { why_one_id: Some(why), .. })) => lacking("user namespaces", format!("one id: {why}")),
        (None, Ok(_)) => good("user namespaces", limit),
        (None, Err(why)) => lacking("user namespaces", why.clone()),
    });
    checks.push(wanted(
        !found.no_new_privs,
        "no_new_privs",
        if found.no_new_privs { "set" } else { "not set" }.to_owned(),
    ));
    checks.push(match found.seccomp {
        None | Some(0) => good("seccomp", "no filter".to_owned()),
        Some(_) if found.namespaces.is_ok() => good("seccomp", "a filter, which allows what is needed".to_owned()),
        Some(_) => lacking("seccomp", "a filter is in force".to_owned()),
    });
    checks.push(match &found.worker {
        Ok(facts) => match &facts.why_one_id {
            Some(_) => lacking("worker", "starts with one id: a command that changes owners fails".to_owned()),
            None => good("worker", "starts".to_owned()),
        },
        Err(why) => bad("worker", why.clone()),
    });
    checks.push(match &found.overlay {
        Ok(()) => good("overlayfs", format!("works in {}", found.directory.display())),
        // The emulated kernel has its own.
        Err(why) if matches!(&found.worker, Ok(facts) if facts.privilege == Privilege::Emulated) => {
            lacking("overlayfs", why.clone())
        }
        Err(why) => bad("overlayfs", why.clone()),
    });
    checks
}

fn good(name: &str, detail: String) -> Check {
    Check { name: name.to_owned(), state: CheckState::Good, detail }
}

fn lacking(name: &str, detail: String) -> Check {
    Check { name: name.to_owned(), state: CheckState::Lacking, detail }
}

fn bad(name: &str, detail: String) -> Check {
    Check { name: name.to_owned(), state: CheckState::Bad, detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_cannot_be_made_is_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let diagnosis = doctor(&StoreOptions { root: dir.path().join("file/store") });
        let store = diagnosis.checks.iter().find(|check| check.name == "store").unwrap();
        assert_eq!(store.state, CheckState::Bad);
        assert!(!diagnosis.can_run);
        // This program has not prepared for workers, and that is told as any other reason.
        let worker = diagnosis.checks.iter().find(|check| check.name == "worker").unwrap();
        assert_eq!(worker.state, CheckState::Bad);
        assert!(worker.detail.contains("init"), "{}", worker.detail);
        assert_eq!(diagnosis.isolation, None);
        assert!(serde_json::to_value(&diagnosis).unwrap()["probe"]["kernel"].is_string());
    }
}
