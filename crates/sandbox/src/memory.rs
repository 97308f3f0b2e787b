//! The memory of another process.

use crate::sys::memory;
use nix::libc;
use rustix::io::Errno;

const PATH_MAX: usize = libc::PATH_MAX as usize;
/// Within one page everything can be read, or nothing.
const PAGE: u64 = 4096;

/// Access to a task's memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    tid: u32,
}

impl Memory {
    pub(crate) fn of(tid: u32) -> Self {
        Self { tid }
    }

    pub(crate) fn tid(self) -> u32 {
        self.tid
    }

    /// Reads exactly as much; EFAULT otherwise.
    pub(crate) fn read(self, address: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        if buffer.is_empty() {
            return Ok(());
        }
        match memory::read(self.tid, address, buffer)? {
            read if read == buffer.len() => Ok(()),
            _ => Err(Errno::FAULT),
        }
    }

    /// A C string of at most PATH_MAX: ENAMETOOLONG, EFAULT.
    pub(crate) fn read_path(self, address: u64) -> Result<Vec<u8>, Errno> {
        self.read_string(address, PATH_MAX - 1)
    }

    /// A C string of at most `limit` bytes; ENAMETOOLONG where it is longer.
    pub(crate) fn read_string(self, address: u64, limit: usize) -> Result<Vec<u8>, Errno> {
        let mut string = Vec::new();
        // Most are short; the rest of a page costs little more.
        let mut piece = [0; 256];
        while string.len() <= limit {
            let at = address.checked_add(string.len() as u64).ok_or(Errno::FAULT)?;
            let length = (PAGE - at % PAGE).min(piece.len() as u64) as usize;
            let piece = piece.get_mut(..length).ok_or(Errno::FAULT)?;
            self.read(at, piece)?;
            match piece.iter().position(|byte| *byte == 0) {
                Some(end) => {
                    string.extend_from_slice(piece.get(..end).unwrap_or_default());
                    return if string.len() <= limit { Ok(string) } else { Err(Errno::NAMETOOLONG) };
                }
                None => string.extend_from_slice(piece),
            }
        }
        Err(Errno::NAMETOOLONG)
    }

    /// Writes exactly as much; EFAULT otherwise.
    pub(crate) fn write(self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        if bytes.is_empty() {
            return Ok(());
        }
        match memory::write(self.tid, address, bytes)? {
            written if written == bytes.len() => Ok(()),
            _ => Err(Errno::FAULT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_and_bytes() {
        let me = Memory::of(std::process::id());
        let long = [&[b'a'; 300][..], b"\0rest"].concat();
        let at = long.as_ptr() as u64;
        assert_eq!(me.read_path(at).unwrap(), vec![b'a'; 300]);
        assert_eq!(me.read_string(at, 300).unwrap().len(), 300);
        assert_eq!(me.read_string(at, 299), Err(Errno::NAMETOOLONG));
        assert_eq!(me.read_path(1), Err(Errno::FAULT));
        let mut four = [0; 4];
        me.read(at + 301, &mut four).unwrap();
        assert_eq!(&four, b"rest");
        assert_eq!(me.write(8, b"x"), Err(Errno::FAULT));
    }
}
