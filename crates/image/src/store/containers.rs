//! Working containers: directories that outlive the processes that use them, each with a change of layers of the store.
//!
//! `containers/<name>/container.json` says, beside what only its users know, on which layers the container lies. A
//! collection keeps those. Everything else in the directory is the users' business.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Store, StoreError, atomic, gc};
use crate::digest::DiffId;

/// Where working containers lie in a store.
pub(super) const CONTAINERS: &str = "containers";

/// What is known of one, in its directory.
const STATE: &str = "container.json";

/// What a collection reads of it.
#[derive(serde::Deserialize)]
struct Held {
    layers: Vec<DiffId>,
}

impl Store {
    /// Where the working container of this name lies, or would lie.
    pub fn container_dir(&self, name: &str) -> PathBuf {
        self.root.join(CONTAINERS).join(name)
    }

    /// The names of all working containers, sorted.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn container_names(&self) -> Result<Vec<String>, StoreError> {
        let dirs = gc::list(&self.root.join(CONTAINERS))?;
        let named = |path: &PathBuf| Some(path.file_name()?.to_str()?.to_owned());
        Ok(dirs.iter().filter(|dir| dir.join(STATE).is_file()).filter_map(named).collect())
    }

    /// What is known of a working container; nothing if there is none of this name.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Json`].
    pub fn container<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        atomic::read_json(&self.container_dir(name).join(STATE))
    }

    /// Writes what is known of a working container into its directory, which may still be staged. It must have a member
    /// `layers`: the layers that collections keep for it.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Encode`].
    pub fn write_container(&self, dir: &Path, state: &impl Serialize) -> Result<(), StoreError> {
        let path = dir.join(STATE);
        let bytes = serde_json::to_vec(state).map_err(|source| StoreError::Encode { path: path.clone(), source })?;
        let _shared = self.gc_shared()?;
        atomic::write(&self.root, &path, &bytes)
    }

    /// Gives a staged directory, in which [`Store::write_container`] has written, its name; `false` if there is such a
    /// working container already.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn publish_container(&self, name: &str, staged: &Path) -> Result<bool, StoreError> {
        let (above, target) = (self.root.join(CONTAINERS), self.container_dir(name));
        std::fs::create_dir_all(&above).map_err(StoreError::io("create directory", &above))?;
        let _shared = self.gc_shared()?;
        match std::fs::rename(staged, &target) {
            Ok(()) => Ok(true),
            // A directory with something in it is replaced by no rename.
            Err(_) if target.symlink_metadata().is_ok() => Ok(false),
            Err(e) => Err(StoreError::io("publish", &target)(e)),
        }
    }

    /// Takes a working container away: its directory is moved to `to`, which must not exist yet.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn retire_container(&self, name: &str, to: &Path) -> Result<(), StoreError> {
        let dir = self.container_dir(name);
        let _shared = self.gc_shared()?;
        std::fs::rename(&dir, to).map_err(StoreError::io("move away", &dir))
    }

    /// The layers that working containers lie on.
    pub(super) fn layers_of_containers(&self) -> Result<Vec<DiffId>, StoreError> {
        let mut layers = Vec::new();
        for dir in gc::list(&self.root.join(CONTAINERS))? {
            // Without one, somebody else has put it there.
            if let Some(held) = atomic::read_json::<Held>(&dir.join(STATE))? {
                layers.extend(held.layers);
            }
        }
        Ok(layers)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::tests::put_layer;
    use crate::store::{Prune, remove_tree};

    #[test]
    fn a_container_keeps_its_layers() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let lease = store.lease().unwrap();
        let (kept, blob) = put_layer(&store, &lease, b"kept");
        store.add_diff_blob(&kept, &blob).unwrap();
        let (other, blob) = put_layer(&store, &lease, b"other");
        store.add_diff_blob(&other, &blob).unwrap();
        let state = json!({"layers": [kept], "more": 1});
        let stage = || {
            let staged = lease.stage_dir().unwrap();
            store.write_container(&staged, &state).unwrap();
            staged
        };
        assert!(store.publish_container("c", &stage()).unwrap());
        assert!(!store.publish_container("c", &stage()).unwrap());
        // What others put there is no container.
        std::fs::create_dir_all(store.container_dir("none")).unwrap();
        assert_eq!(store.container_names().unwrap(), ["c"]);
        assert_eq!(store.container::<serde_json::Value>("c").unwrap(), Some(state.clone()));
        assert_eq!(store.container::<serde_json::Value>("none").unwrap(), None);
        lease.end(&mut remove_tree).unwrap();

        store.gc(Prune::All, &mut remove_tree).unwrap();
        assert!(store.open_layer(&kept).is_ok());
        assert!(store.open_layer(&other).is_err());

        let lease = store.lease().unwrap();
        store.retire_container("c", &lease.stage_dir().unwrap().join("gone")).unwrap();
        lease.end(&mut remove_tree).unwrap();
        store.gc(Prune::Unreferenced, &mut remove_tree).unwrap();
        assert!(store.open_layer(&kept).is_err());
    }
}
