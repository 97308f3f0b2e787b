//! The memory of a process, or of several that share it.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// What is known of it.
#[derive(Debug, Default)]
pub(crate) struct AddressSpace {
    /// The table is there, and used.
    is_mapped: AtomicBool,
    /// Where the loader of dynamic libraries is.
    loader: Range<u64>,
}

impl AddressSpace {
    /// That of a new program; with its loader if it has everything that is to be mapped.
    pub(crate) fn new(loader: Option<Range<u64>>) -> Arc<Self> {
        Arc::new(Self { is_mapped: AtomicBool::new(loader.is_some()), loader: loader.unwrap_or_default() })
    }

    /// A copy, as fork(2) makes it.
    pub(crate) fn fork(&self) -> Arc<Self> {
        Arc::new(Self { is_mapped: AtomicBool::new(self.is_mapped()), loader: self.loader.clone() })
    }

    pub(super) fn is_mapped(&self) -> bool {
        self.is_mapped.load(Ordering::Relaxed)
    }

    pub(super) fn is_loader(&self, instruction: u64) -> bool {
        self.loader.contains(&instruction)
    }

    /// Whether one process has it. The caller holds one reference, its process the other.
    pub(super) fn is_alone(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) <= 2
    }

    pub(super) fn forget(&self) {
        self.is_mapped.store(false, Ordering::Relaxed);
    }
}
