//! Plays the kernel for a worker that is allowed nothing (the rung `ptrace`): see the design in docs/emulation.md.

pub(crate) mod calls;
pub(crate) mod memory;
pub(crate) mod task;
pub(crate) mod vfs;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, RwLock},
};
use task::Task;

/// The supervisor's state, shared by its threads.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) tasks: RwLock<HashMap<u32, Arc<Task>>>,
    /// A directory of the user's own, for files of emulated memory file systems.
    pub(crate) scratch: PathBuf,
    /// What the calls remember between each other.
    pub(crate) calls: calls::State,
}
