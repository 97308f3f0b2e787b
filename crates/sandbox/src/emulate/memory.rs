//! The memory of another process.

use rustix::io::Errno;

/// Access to a task's memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    tid: u32,
}

impl Memory {
    pub(crate) fn of(tid: u32) -> Self {
        Self { tid }
    }

    /// Reads exactly as much; EFAULT otherwise.
    pub(crate) fn read(self, _address: u64, _buffer: &mut [u8]) -> Result<(), Errno> {
        todo!("{}", self.tid)
    }
    /// A C string of at most PATH_MAX: ENAMETOOLONG, EFAULT.
    pub(crate) fn read_path(self, _address: u64) -> Result<Vec<u8>, Errno> {
        todo!()
    }
    /// A C string of at most `limit` bytes.
    pub(crate) fn read_string(self, _address: u64, _limit: usize) -> Result<Vec<u8>, Errno> {
        todo!()
    }
    pub(crate) fn write(self, _address: u64, _bytes: &[u8]) -> Result<(), Errno> {
        todo!()
    }
}
