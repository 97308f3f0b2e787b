//! What the store knows of a working container.

use std::time::Duration;

use rbuild_image::config::ImageConfig;
use rbuild_image::digest::DiffId;
use rbuild_image::store::{NamedLock, Store};
use rbuild_sandbox::Facts;
use serde::{Deserialize, Serialize};

use crate::manage::ManageError;
use crate::options::{Isolation, StoreOptions};
use crate::run::RunError;

/// The form of [`State`]: a later one may not be understood.
const VERSION: u32 = 1;

/// The longest name.
const LONGEST: usize = 128;

/// How often a lock that somebody has is tried.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A working container but for its files.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    version: u32,
    /// Seconds since 1970.
    pub(crate) created: i64,
    /// As it was asked for.
    pub(crate) image_name: String,
    /// Its id; none for `scratch`.
    pub(crate) image_id: Option<String>,
    /// What the changes lie on, lowest first; collections keep these.
    pub(crate) layers: Vec<DiffId>,
    /// How it was confined who began it.
    pub(crate) isolation: Isolation,
    /// How the owners of its files are kept ([`Facts::owners`]).
    pub(crate) owners: String,
    /// What an image of it will have, but for layers, time and the last line of history.
    pub(crate) config: ImageConfig,
    /// What history says of the layer.
    pub(crate) created_by: Option<String>,
    /// The same in the image's own words.
    pub(crate) comment: Option<String>,
}

impl State {
    /// A new container of an image.
    pub(crate) fn new(facts: &Facts, image_name: String, config: ImageConfig, layers: Vec<DiffId>) -> State {
        State {
            version: VERSION,
            created: time::OffsetDateTime::now_utc().unix_timestamp(),
            image_name,
            image_id: None,
            layers,
            isolation: isolation(facts),
            owners: facts.owners(),
            config,
            created_by: None,
            comment: None,
        }
    }

    /// Refuses a container whose files have owners that mean nothing here.
    pub(crate) fn check_owners(&self, name: &str, facts: &Facts) -> Result<(), RunError> {
        let here = facts.owners();
        if self.owners == here {
            return Ok(());
        }
        let hint = match (self.owners.as_str(), isolation(facts)) {
            ("recorded", Isolation::Ptrace) => "begin again with `rbuild from`".to_owned(),
            ("recorded", _) => "use it with --isolation=ptrace".to_owned(),
            (_, Isolation::Ptrace) if self.isolation != Isolation::Ptrace => {
                "leave out --isolation: it is used as it was begun".to_owned()
            }
            _ => {
                "use it as the user, and with the ids in /etc/subuid and /etc/subgid, that it was begun with; or begin \
                  again with `rbuild from`"
                    .to_owned()
            }
        };
        Err(RunError::Refused {
            message: format!(
                "the owners of the files of the working container `{name}` are kept {}, and here they are kept {}",
                way(&self.owners),
                way(&here)
            ),
            hint: Some(hint),
        })
    }
}

/// A way in which owners are kept, in words.
fn way(owners: &str) -> String {
    match owners.split_once('-') {
        None if owners.is_empty() => "as root's own".to_owned(),
        Some(("ids", first)) => format!("as subordinate ids ({first})"),
        _ => "as records beside them".to_owned(),
    }
}

/// The isolation in force.
fn isolation(facts: &Facts) -> Isolation {
    match facts.isolation {
        rbuild_sandbox::Isolation::Userns => Isolation::Userns,
        rbuild_sandbox::Isolation::Chroot => Isolation::Chroot,
        rbuild_sandbox::Isolation::Ptrace => Isolation::Ptrace,
        _ => Isolation::Auto,
    }
}

/// How a working container is used where the caller does not say: as it was begun.
pub(crate) fn isolation_of(store: &StoreOptions, name: &str, wanted: Isolation) -> Result<Isolation, RunError> {
    let store = Store::open(&store.root).map_err(ManageError::from)?;
    let state = load(&store, name)?;
    Ok(if wanted == Isolation::Auto { state.isolation } else { wanted })
}

/// Refuses what is no name: it is one of a directory.
pub(super) fn check_name(name: &str) -> Result<(), RunError> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins && name.len() <= LONGEST && name.chars().all(valid) {
        return Ok(());
    }
    Err(RunError::Refused {
        message: format!("`{name}` is no name of a working container"),
        hint: Some(format!(
            "a name has letters, digits, `-`, `_` and `.`, {LONGEST} at most, and begins with a letter or a digit"
        )),
    })
}

/// Reads what is known of a container.
pub(super) fn load(store: &Store, name: &str) -> Result<State, RunError> {
    check_name(name)?;
    let state: Option<State> = store.container(name).map_err(ManageError::from)?;
    let state = match state {
        Some(state) => state,
        None => return Err(unknown(store, name)),
    };
    if state.version > VERSION {
        return Err(RunError::Refused {
            message: format!("the working container `{name}` was begun by a newer rbuild"),
            hint: Some("use that one".to_owned()),
        });
    }
    Ok(state)
}

fn unknown(store: &Store, name: &str) -> RunError {
    let names = store.container_names().unwrap_or_default();
    let hint = match names.as_slice() {
        [] => "there is none at all; `rbuild from IMAGE` begins one".to_owned(),
        [only] => format!("there is `{only}`"),
        some if some.len() <= 5 => format!("there are `{}`", some.join("`, `")),
        _ => "`rbuild containers` lists those there are".to_owned(),
    };
    RunError::Refused { message: format!("there is no working container `{name}`"), hint: Some(hint) }
}

/// Takes the lock of a container, however long another process has it; `waiting` is told that one does.
pub(super) fn lock(
    store: &Store,
    name: &str,
    cancelled: &dyn Fn() -> bool,
    waiting: &mut dyn FnMut(),
) -> Result<NamedLock, RunError> {
    let mut told = false;
    loop {
        if cancelled() {
            return Err(RunError::Cancelled);
        }
        if let Some(lock) = store.try_lock(&format!("working container {name}")).map_err(ManageError::from)? {
            return Ok(lock);
        }
        if !told {
            waiting();
            told = true;
        }
        std::thread::sleep(LOCK_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "busybox-working-container-1", "A_b.c", "0"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-a", "a/b", "../a", "a b", "ä", &"a".repeat(129)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ways_in_words() {
        assert_eq!(way(""), "as root's own");
        assert_eq!(way("recorded"), "as records beside them");
        assert_eq!(way("ids-1000-100000"), "as subordinate ids (1000-100000)");
    }
}
