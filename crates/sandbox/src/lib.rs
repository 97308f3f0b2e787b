//! Runs one command in one root file system without privileges.
//!
//! A build is done by one *worker*: the program starts itself again ([`Worker::spawn`]), the copy enters a user, mount
//! and pid namespace in which it is uid 0, and calls the entry that the program gave to [`init()`]. Inside the worker,
//! [`run()`] starts one command as PID 1 of namespaces of its own, confined as Docker confines a build step. Nothing
//! outlives the worker, and the worker does not outlive the process that spawned it.
//!
//! The crate knows nothing of images, Dockerfiles or logs: it is given directories, bytes and ids, and gives back
//! output, exit statuses and errors that carry facts.
#![deny(unsafe_code)]

mod bpf;
mod bytes;
pub mod channel;
mod chroot;
#[cfg(target_arch = "x86_64")]
mod emulate;
mod guardian;
pub mod idmap;
pub mod init;
pub mod isolation;
mod memory;
pub mod overlay;
pub mod probe;
pub mod remove;
pub mod root;
pub mod run;
mod seccomp;
mod status;
mod sys;
pub mod userns;
pub mod worker;

pub use channel::{Channel, ChannelError};
pub use init::{Entry, init};
pub use isolation::{Facts, IdRange, Isolation, Privilege};
pub use overlay::{Durability, Overlay, OverlayError, OverlayMount, mount_layers, mount_overlay, probe_overlay};
pub use probe::{Probe, probe};
pub use remove::{RemoveError, remove_tree};
pub use run::{
    Access, Cancel, ExecError, ExitStatus, Limit, Mount, Network, Output, Resource, RootAccess, RootFs, RunError,
    RunReport, RunSpec, Security, Signals, Stream, Streams, Stub, TerminalSize, Ulimit, limits_met, run, run_with,
};
pub use userns::Refusal;
pub use worker::{Killer, SpawnError, Worker, WorkerChannel, WorkerOptions};
