//! What a run is asked to do, and what it tells.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rbuild_sandbox::TerminalSize;
use serde::{Deserialize, Serialize};

use crate::manage::{Pulled, TransferFact};
use crate::options::{Isolation, Network, RegistryAccess, StoreOptions, Ulimit};

/// Everything a run is asked to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunOptions {
    /// Where images and layers are kept.
    pub store: StoreOptions,
    /// How registries are reached.
    pub registry: RegistryAccess,
    /// Name, id or beginning of the id of the image.
    pub image: String,
    /// A working container in which the command is run in place of the image: what it changes stays there. Neither
    /// ENTRYPOINT nor CMD count then. See [`container`](crate::container).
    pub container: Option<String>,
    /// Takes the place of CMD where it is not empty.
    pub command: Vec<String>,
    /// Takes the place of ENTRYPOINT, and does away with the image's CMD; an empty list has no entry point.
    pub entrypoint: Option<Vec<String>>,
    /// Variables, over those of the image; one without a value is removed.
    pub env: Vec<(String, Option<String>)>,
    /// Takes the place of WORKDIR.
    pub working_dir: Option<String>,
    /// Takes the place of USER: `name|uid[:group|gid]`.
    pub user: Option<String>,
    /// What is mounted.
    pub mounts: Vec<RunMount>,
    /// What network there is.
    pub network: Network,
    /// Host name; 12 random digits by default, or the host's with [`Network::Host`].
    pub hostname: Option<String>,
    /// Lines for /etc/hosts: name and address.
    pub add_hosts: Vec<(String, String)>,
    /// Limits.
    pub ulimits: Vec<Ulimit>,
    /// Size of /dev/shm in bytes.
    pub shm_size: Option<u64>,
    /// The root file system cannot be written; what is mounted can.
    pub read_only: bool,
    /// How the command is confined.
    pub isolation: Isolation,
    /// Platform of the image; that of the store's image by default, the host's for one that is pulled.
    pub platform: Option<String>,
    /// Whether a registry is asked for the image.
    pub pull: PullPolicy,
    /// What becomes of the files that the command changes; they are thrown away by default.
    pub commit: Option<Commit>,
}

/// An image of what a command leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Names for it. Where the command fails it gets them with `-failed` added to their tags.
    pub names: Vec<String>,
    /// The changes become part of the image's topmost layer, in place of a layer of their own.
    pub amend: bool,
}

impl RunOptions {
    /// The command of `image` from the store at `root`, everything else as by default.
    pub fn new(root: impl Into<PathBuf>, image: impl Into<String>) -> RunOptions {
        RunOptions {
            store: StoreOptions { root: root.into() },
            registry: RegistryAccess::default(),
            image: image.into(),
            container: None,
            command: Vec::new(),
            entrypoint: None,
            env: Vec::new(),
            working_dir: None,
            user: None,
            mounts: Vec::new(),
            network: Network::Default,
            hostname: None,
            add_hosts: Vec::new(),
            ulimits: Vec::new(),
            shm_size: None,
            read_only: false,
            isolation: Isolation::Auto,
            platform: None,
            pull: PullPolicy::Missing,
            commit: None,
        }
    }
}

/// When a registry is asked for the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// Where the store does not have it, or has it for another platform than the one asked for.
    #[default]
    Missing,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Something mounted over the image's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunMount {
    /// A file or directory of the host.
    Bind {
        /// Absolute, or relative to the caller's directory.
        source: PathBuf,
        /// An absolute path in the image.
        target: String,
        /// It cannot be written.
        read_only: bool,
        /// A source that is not there is made, as a directory.
        create: bool,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// An absolute path in the image.
        target: String,
        /// Limit in bytes; without one half of the memory.
        size: Option<u64>,
        /// Mode of its root directory, 0o1777 in Docker.
        mode: u32,
        /// Programs in it can be executed.
        exec: bool,
        /// It cannot be written.
        read_only: bool,
    },
    /// A place that can be written, with what the image has there, and is thrown away at the end.
    Volume {
        /// An absolute path in the image.
        target: String,
    },
}

impl RunMount {
    /// Where it is mounted.
    pub fn target(&self) -> &str {
        match self {
            RunMount::Bind { target, .. } | RunMount::Tmpfs { target, .. } | RunMount::Volume { target } => target,
        }
    }
}

/// Where the standard streams of the command lead. The command never has these files themselves.
#[derive(Debug)]
pub enum RunStreams {
    /// A pipe for each stream.
    Pipes {
        /// What is copied to standard input; without one that is empty.
        stdin: Option<OwnedFd>,
        /// Where standard output goes.
        stdout: OwnedFd,
        /// Where standard error goes.
        stderr: OwnedFd,
    },
    /// One pseudo terminal.
    Terminal {
        /// What is typed; without one, nothing. A terminal must be in raw mode by then.
        input: Option<OwnedFd>,
        /// Where goes what is shown.
        output: OwnedFd,
        /// Its size at the start.
        size: TerminalSize,
    },
}

/// What happens in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunFact {
    /// The store does not have the image, and a registry will be asked.
    Missing {
        /// Its name, with the tag that was meant.
        name: String,
    },
    /// The image is being pulled.
    Transfer(TransferFact),
    /// It was.
    Pulled(Pulled),
    /// Another process is at work in the working container; this one waits for it.
    Waiting {
        /// Its name.
        container: String,
    },
    /// The command starts now.
    Starting,
    /// What it left is an image.
    Committed {
        /// Its id.
        image: String,
        /// Its names.
        names: Vec<String>,
    },
    /// The command failed, and had met something that the isolation does not give.
    Limit {
        /// What, and what helps.
        text: String,
    },
}
