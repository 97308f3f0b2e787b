//! What a build is asked to do. Everything a library caller may set; nothing is read from the environment.

use std::path::PathBuf;

use rbuild_logfmt::event::{Builder, Dialect, Failure, Version};
use serde::{Deserialize, Serialize};

use crate::interactive::{ByHand, ExpectedStep, Interaction};

/// How to reach the store and the registries; shared by builds and every other operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreOptions {
    /// Root of the store: an OCI image layout with unpacked layers and the build cache beside it.
    pub root: PathBuf,
}

/// How registries are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryAccess {
    /// Mirrors of docker.io, asked in turn before it.
    pub mirrors: Vec<String>,
    /// Hosts (`host[:port]`) that may be spoken to in plain HTTP or with an unknown certificate.
    pub insecure: Vec<String>,
    /// PEM files of certificate authorities, by host.
    pub certificates: Vec<(String, PathBuf)>,
    /// Docker's client configuration (`config.json`) with credentials, if there is one.
    pub docker_config: Option<PathBuf>,
    /// Proxy for `https` registries.
    pub https_proxy: Option<String>,
    /// Proxy for `http` registries.
    pub http_proxy: Option<String>,
    /// Hosts that no proxy is used for, comma separated.
    pub no_proxy: Option<String>,
}

/// Where the build context comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContextSource {
    /// A directory.
    Dir(PathBuf),
    /// The standard input of the calling process: a tar (plain or compressed) or a Dockerfile.
    Stdin,
    /// A URL (git or http), as `docker build` takes them.
    Url(String),
    /// The directory of a Dockerfile in a git repository, cloned beside the log: what `rbuild repo` builds.
    Repository {
        /// Address of the repository, without `#…`.
        url: String,
        /// Commit, branch or tag; the default branch if there is none.
        reference: Option<String>,
        /// Path of the Dockerfile in the repository; the one that [`find_dockerfiles`](crate::find_dockerfiles) lists
        /// first if there is none.
        dockerfile: Option<PathBuf>,
    },
}

/// Where the Dockerfile comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DockerfileSource {
    /// `Dockerfile` in the context.
    #[default]
    Default,
    /// `-f PATH`.
    Path(PathBuf),
    /// `-f -`: the standard input.
    Stdin,
}

/// Network of RUN steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// What rbuild does by default: the host's.
    #[default]
    Default,
    /// The host's.
    Host,
    /// None but loopback.
    None,
}

/// A limit of `--ulimit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// As `nofile`.
    pub name: String,
    /// Soft limit; -1 is unlimited.
    pub soft: i64,
    /// Hard limit; -1 is unlimited.
    pub hard: i64,
}

/// A secret of `--secret`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// Its id, as RUN names it.
    pub id: String,
    /// Where it comes from.
    pub source: SecretSource,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Where a secret comes from.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretSource {
    /// A file, read when it is needed.
    File(PathBuf),
    /// Its bytes (from an environment variable, say).
    Value(Vec<u8>),
}

/// An agent of `--ssh`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ssh {
    /// Its id, `default` by default.
    pub id: String,
    /// Socket of the agent.
    pub socket: PathBuf,
}

/// A result of a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// The image is put into the store and named.
    Store,
    /// A docker-archive, as `docker save` writes it.
    DockerArchive(Destination),
    /// An OCI image layout as a tar.
    OciArchive(Destination),
    /// An OCI image layout as a directory.
    OciDir(PathBuf),
    /// The root file system as a tar.
    Tar(Destination),
    /// The root file system as a directory.
    Local(PathBuf),
    /// Pushed to the registries that the tags name (or to `name`).
    Registry {
        /// References to push to; the tags where empty.
        names: Vec<String>,
    },
}

/// A file, or the standard output of the calling process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    /// A file; made whole or not at all.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

/// When the legacy builder's log says that a step's container was removed. None is ever kept here: a log that is Docker's
/// tells of the same containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerRemoval {
    /// After steps that succeed, as by default.
    #[default]
    OnSuccess,
    /// Also after a RUN that fails (`--force-rm`).
    Always,
    /// Never (`--rm=false`).
    Never,
}

/// How RUN steps are confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// The strongest that works here.
    #[default]
    Auto,
    /// A user namespace.
    Userns,
    /// A changed root without mounts.
    Chroot,
    /// Path translation without any privilege.
    Ptrace,
}

/// Whether the file system of a RUN that failed is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepFailed {
    /// Bytes that the layers of all kept failures may have; the oldest go. 0 keeps none.
    pub max_bytes: u64,
    /// The image gets the names that the build was to give, with `-failed` added to their tags.
    pub named: bool,
}

impl Default for KeepFailed {
    /// 10 GiB, without names.
    fn default() -> KeepFailed {
        KeepFailed { max_bytes: 10 << 30, named: false }
    }
}

/// Everything a build is asked to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BuildOptions {
    /// Where images and layers are kept.
    pub store: StoreOptions,
    /// How registries are reached.
    pub registry: RegistryAccess,
    /// Whose semantics and log are reproduced.
    pub dialect: Dialect,
    /// The legacy dialect runs BuildKit-only features instead of refusing them.
    pub lenient: bool,
    /// Whether ADD unpacks xz archives: as the recorded Docker of this version by default (28: no, 20: yes).
    pub unpack_xz: Option<bool>,
    /// Which containers the legacy log removes.
    pub container_removal: ContainerRemoval,
    /// The build context.
    pub context: ContextSource,
    /// The Dockerfile.
    pub dockerfile: DockerfileSource,
    /// Names for the image.
    pub tags: Vec<String>,
    /// Build arguments; `None` says that the name was given without a value and is unset outside.
    pub build_args: Vec<(String, Option<String>)>,
    /// Stage to build; the last one by default.
    pub target: Option<String>,
    /// Labels added to the image.
    pub labels: Vec<(String, String)>,
    /// No cache is read.
    pub no_cache: bool,
    /// No cache is read for these stages.
    pub no_cache_filter: Vec<String>,
    /// Base images are looked for in their registry even where the store has them.
    pub pull: bool,
    /// Target platform; the host's by default.
    pub platform: Option<String>,
    /// Network of RUN steps.
    pub network: Network,
    /// Lines for /etc/hosts: name and address.
    pub add_hosts: Vec<(String, String)>,
    /// Size of /dev/shm in bytes.
    pub shm_size: Option<u64>,
    /// Limits of RUN steps.
    pub ulimits: Vec<Ulimit>,
    /// Secrets that RUN steps may mount.
    pub secrets: Vec<Secret>,
    /// Agents that RUN steps may mount.
    pub ssh: Vec<Ssh>,
    /// Named contexts.
    pub build_contexts: Vec<(String, String)>,
    /// What is made of the image.
    pub outputs: Vec<Output>,
    /// How RUN steps are confined.
    pub isolation: Isolation,
    /// Seconds since the epoch for every time in the result (`SOURCE_DATE_EPOCH`).
    pub source_date_epoch: Option<i64>,
    /// Only the image id is shown.
    pub quiet: bool,
    /// What becomes of a RUN that failed.
    pub keep_failed: KeepFailed,
    /// Where it stops for a shell.
    #[serde(default)]
    pub interaction: Interaction,
    /// Steps whose layers were made by hand, or half of them by an earlier build.
    #[serde(default)]
    pub by_hand: Vec<ByHand>,
    /// What steps must be known by: the build ends where one is another.
    #[serde(default)]
    pub expected: Vec<ExpectedStep>,
    /// The name of a cache of its own, which no other build reads; all builds share one by default.
    #[serde(default)]
    pub cache_scope: Option<String>,
}

impl BuildOptions {
    /// A build of `context` into the store at `root`, everything else as by default: BuildKit's semantics, Docker 28,
    /// `Dockerfile` in the context, no tags, the image kept in the store.
    pub fn new(root: impl Into<PathBuf>, context: ContextSource) -> BuildOptions {
        BuildOptions {
            store: StoreOptions { root: root.into() },
            registry: RegistryAccess::default(),
            dialect: Dialect { builder: Builder::Buildkit, version: Version::V28 },
            lenient: false,
            unpack_xz: None,
            container_removal: ContainerRemoval::default(),
            context,
            dockerfile: DockerfileSource::Default,
            tags: Vec::new(),
            build_args: Vec::new(),
            target: None,
            labels: Vec::new(),
            no_cache: false,
            no_cache_filter: Vec::new(),
            pull: false,
            platform: None,
            network: Network::Default,
            add_hosts: Vec::new(),
            shm_size: None,
            ulimits: Vec::new(),
            secrets: Vec::new(),
            ssh: Vec::new(),
            build_contexts: Vec::new(),
            outputs: vec![Output::Store],
            isolation: Isolation::Auto,
            source_date_epoch: None,
            quiet: false,
            keep_failed: KeepFailed::default(),
            interaction: Interaction::default(),
            by_hand: Vec::new(),
            expected: Vec::new(),
            cache_scope: None,
        }
    }
}

/// What a build gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BuildResult {
    /// Image id: digest of its config, `sha256:…`.
    pub image_id: String,
    /// Digest of its manifest, `sha256:…`.
    pub manifest_digest: String,
    /// Canonical names given to it.
    pub names: Vec<String>,
}

/// What the build checks gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    /// How many warnings there were; each was an event.
    pub warnings: u32,
    /// What is wrong with the Dockerfile, so that the checks did not see all of it.
    pub failure: Option<Box<Failure>>,
}
