//! What is run, and what comes of it.

use crate::{bytes, overlay::Overlay};
use serde::{Deserialize, Serialize};
use std::{path::PathBuf, time::SystemTime};

/// One command and all that it can see. Nothing is taken from the environment of the caller.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunSpec {
    /// The root file system.
    pub root: RootFs,
    /// Whether the command may write to it.
    pub root_access: RootAccess,
    /// The command and its arguments; looked up in the `PATH` of `env` inside the root where it has no slash.
    #[serde(with = "bytes::list")]
    pub argv: Vec<Vec<u8>>,
    /// The whole environment, as `NAME=value`.
    #[serde(with = "bytes::list")]
    pub env: Vec<Vec<u8>>,
    /// Working directory inside the root; it must exist.
    #[serde(with = "bytes::path")]
    pub cwd: PathBuf,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
    /// File mode creation mask, 0o022 for a build.
    pub umask: u32,
    /// What is mounted over the root, in this order, after `/proc`, `/dev` and `/sys`.
    pub mounts: Vec<Mount>,
    /// A directory on the file system of the layers, in which layers of mount points are kept from one command to the
    /// next, so that they are made once; without one they are made anew in the work directory. For an overlay only.
    #[serde(with = "bytes::optional_path")]
    pub mount_points: Option<PathBuf>,
    /// What network there is.
    pub network: Network,
    /// The host name.
    #[serde(with = "bytes")]
    pub hostname: Vec<u8>,
    /// Resource limits over the default ones.
    pub ulimits: Vec<Ulimit>,
    /// Size of `/dev/shm` in bytes; Docker's default is 64 MiB.
    pub shm_size: u64,
    /// How much is forbidden.
    pub security: Security,
}

impl RunSpec {
    /// A command as uid 0 in `/` of `root`, with Docker's defaults and an empty environment.
    pub fn new(root: RootFs, argv: Vec<Vec<u8>>) -> Self {
        Self {
            root,
            root_access: RootAccess::ReadWrite,
            argv,
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            umask: 0o022,
            mounts: Vec::new(),
            mount_points: None,
            network: Network::Host,
            hostname: b"buildkitsandbox".to_vec(),
            ulimits: Vec::new(),
            shm_size: 64 << 20,
            security: Security::Sandbox,
        }
    }
}

/// Where the root file system comes from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootFs {
    /// An overlay, mounted for this command alone.
    Overlay(Overlay),
    /// A directory, changed in place.
    Directory(#[serde(with = "bytes::path")] PathBuf),
}

/// Whether the root file system can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootAccess {
    /// It can.
    ReadWrite,
    /// It cannot; what is mounted over it may.
    ReadOnly,
}

/// Whether a mount can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// It can.
    ReadWrite,
    /// It cannot.
    ReadOnly,
}

/// Something mounted over the root. A target is resolved inside the root, symbolic links included; one that is missing
/// is made for the time of the command.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mount {
    /// A file, directory or socket from outside, with the mounts beneath it.
    Bind {
        /// A path in the worker's view; with `within`, a path inside that.
        #[serde(with = "bytes::path")]
        source: PathBuf,
        /// A directory whose content is not trusted: `source` is resolved inside it, symbolic links included.
        #[serde(with = "bytes::optional_path")]
        within: Option<PathBuf>,
        /// Where.
        #[serde(with = "bytes::path")]
        target: PathBuf,
        /// Whether it can be written.
        access: Access,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Where.
        #[serde(with = "bytes::path")]
        target: PathBuf,
        /// Limit in bytes; without one half of the memory.
        size: Option<u64>,
        /// Mode of its root directory, 0o1777 in Docker.
        mode: u32,
        /// Programs and devices in it are none.
        closed: bool,
        /// Whether it can be written.
        access: Access,
    },
    /// A file with this content, on memory, never on disk.
    File {
        /// The bytes.
        #[serde(with = "bytes")]
        content: Vec<u8>,
        /// Where.
        #[serde(with = "bytes::path")]
        target: PathBuf,
        /// Mode bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Whether it can be written; what is written is lost.
        access: Access,
    },
}

/// The network of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// That of the worker.
    Host,
    /// A loopback interface and nothing else.
    None,
}

/// How much is forbidden to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    /// Docker's default capabilities, seccomp profile, masked and read-only paths.
    Sandbox,
    /// All capabilities that the worker has, no seccomp profile, nothing masked (`RUN --security=insecure`).
    Insecure,
}

/// A resource limit (setrlimit(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Which.
    pub resource: Resource,
    /// Soft limit; `u64::MAX` is none.
    pub soft: u64,
    /// Hard limit; `u64::MAX` is none. One above the worker's own is cut to that.
    pub hard: u64,
}

/// What a [`Ulimit`] limits, with the names of `docker build --ulimit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Resource {
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

/// One of the two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Bytes that a command wrote, as they arrived.
#[derive(Debug, Clone, Copy)]
pub struct Output<'a> {
    /// Where they were written.
    pub stream: Stream,
    /// The bytes; cut anywhere, also within a character.
    pub bytes: &'a [u8],
    /// When they were read.
    pub time: SystemTime,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl ExitStatus {
    /// Whether it is exit code 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// The code that Docker shows: 128 and the number of the signal for a killed command.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// A mount point that was missing and was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stub {
    /// Its path in the root, without symbolic links, relative.
    #[serde(with = "bytes::path")]
    pub path: PathBuf,
    /// Whether it was removed after the command: it stays where the command put something in it.
    pub removed: bool,
}

/// What is known after a command ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunReport {
    /// How it ended.
    pub status: ExitStatus,
    /// The mount points that were made for it.
    pub stubs: Vec<Stub>,
}
