//! What is asked of working containers, and what comes of it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::options::{Isolation, RegistryAccess, StoreOptions};
use crate::run::PullPolicy;

/// How a working container is begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CreateOptions {
    /// Where images, layers and working containers are kept.
    pub store: StoreOptions,
    /// How registries are reached.
    pub registry: RegistryAccess,
    /// Name, id or beginning of the id of an image, or `scratch`.
    pub image: String,
    /// The container's name; one is made of the image's by default.
    pub name: Option<String>,
    /// Platform of the image; that of the store's image by default, the host's for one that is pulled.
    pub platform: Option<String>,
    /// Whether a registry is asked for the image.
    pub pull: PullPolicy,
    /// How the processes are confined that work on the container, from now on.
    pub isolation: Isolation,
}

impl CreateOptions {
    /// A container of `image` in the store at `root`, everything else as by default.
    pub fn new(root: impl Into<PathBuf>, image: impl Into<String>) -> CreateOptions {
        CreateOptions {
            store: StoreOptions { root: root.into() },
            registry: RegistryAccess::default(),
            image: image.into(),
            name: None,
            platform: None,
            pull: PullPolicy::Missing,
            isolation: Isolation::Auto,
        }
    }
}

/// A working container that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// Its name.
    pub name: String,
    /// ONBUILD instructions of the image: they were not done, and are no part of what is committed.
    pub triggers: Vec<String>,
}

/// What is copied into a working container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CopyOptions {
    /// Where images, layers and working containers are kept.
    pub store: StoreOptions,
    /// How registries are reached.
    pub registry: RegistryAccess,
    /// The container's name.
    pub container: String,
    /// Files and directories, perhaps with wildcards. Without [`CopyOptions::from`] and [`CopyOptions::context_dir`] they
    /// are paths of the caller's.
    pub sources: Vec<String>,
    /// Where to: absolute, or relative to the container's working directory, which is the default. With several sources
    /// it is a directory, and so it is with a slash at its end.
    pub dest: Option<String>,
    /// Another working container, or an image, that the sources lie in.
    pub from: Option<String>,
    /// A directory that the sources lie in; no link in it leads out of it.
    pub context_dir: Option<PathBuf>,
    /// A file of patterns, as `.dockerignore`, of what is left out of [`CopyOptions::context_dir`].
    pub ignore_file: Option<PathBuf>,
    /// The owner of what is copied: `user[:group]`, by name or number. By default root, or with [`CopyOptions::from`] that
    /// of the source.
    pub chown: Option<String>,
    /// The mode of what is copied, octal or symbolic.
    pub chmod: Option<String>,
    /// As ADD: archives are unpacked, and sources with `http://` or `https://` are fetched.
    pub add: bool,
    /// Whether a registry is asked for the image of [`CopyOptions::from`].
    pub pull: PullPolicy,
    /// How the process is confined that copies; as the container was begun by default.
    pub isolation: Isolation,
}

impl CopyOptions {
    /// Nothing yet, into the container `container` of the store at `root`.
    pub fn new(root: impl Into<PathBuf>, container: impl Into<String>) -> CopyOptions {
        CopyOptions {
            store: StoreOptions { root: root.into() },
            registry: RegistryAccess::default(),
            container: container.into(),
            sources: Vec::new(),
            dest: None,
            from: None,
            context_dir: None,
            ignore_file: None,
            chown: None,
            chmod: None,
            add: false,
            pull: PullPolicy::Missing,
            isolation: Isolation::Auto,
        }
    }
}

/// How an image is made of a working container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommitOptions {
    /// Where images, layers and working containers are kept.
    pub store: StoreOptions,
    /// The container's name.
    pub container: String,
    /// Names of the image.
    pub names: Vec<String>,
    /// The time that the image bears and that no file in its new layer is younger than, in seconds since 1970.
    pub source_date_epoch: Option<i64>,
    /// One layer for everything, in place of those of the base and one for the changes.
    pub squash: bool,
    /// How the process is confined that reads the container; as it was begun by default.
    pub isolation: Isolation,
}

impl CommitOptions {
    /// An image without a name of the container `container` of the store at `root`.
    pub fn new(root: impl Into<PathBuf>, container: impl Into<String>) -> CommitOptions {
        CommitOptions {
            store: StoreOptions { root: root.into() },
            container: container.into(),
            names: Vec::new(),
            source_date_epoch: None,
            squash: false,
            isolation: Isolation::Auto,
        }
    }
}

/// An image that was made of a working container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// Its id, `sha256:…`.
    pub image_id: String,
    /// Its names, whole.
    pub names: Vec<String>,
    /// Its layers, lowest first.
    pub layers: Vec<String>,
}

/// A working container as a list shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerSummary {
    /// Its name.
    pub name: String,
    /// The name by which its image was asked for, or `scratch`.
    pub image_name: String,
    /// The id of that image, `sha256:…`; none for `scratch`.
    pub image_id: Option<String>,
    /// When it was begun, in seconds since 1970.
    pub created: i64,
    /// How the processes are confined that work on it.
    pub isolation: Isolation,
    /// The configuration that an image of it would have, as in the image's JSON.
    pub config: Value,
}
