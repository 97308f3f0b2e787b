//! Moving the content of regular files.
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::SeekFrom as RawSeek;
use rustix::io::Errno;

/// Bytes moved at once.
const CHUNK: usize = 128 * 1024;

/// Files below this size are read and written in one go; sharing of blocks and holes do not pay.
const SMALL: u64 = 64 * 1024;

/// Copies content, sharing blocks where the file system can, and remembers what it cannot.
#[derive(Debug)]
pub(super) struct Mover {
    buffer: Vec<u8>,
    reflink: AtomicBool,
    copy_range: AtomicBool,
}

impl Default for Mover {
    fn default() -> Self {
        Mover { buffer: vec![0; CHUNK], reflink: AtomicBool::new(true), copy_range: AtomicBool::new(true) }
    }
}

impl Mover {
    /// Writes what `reader` gives into a new file, leaving holes where whole chunks are zero, and returns the length.
    pub(super) fn write(&mut self, mut reader: impl Read, mut file: &File) -> io::Result<u64> {
        let mut length = 0_u64;
        let mut hole = false;
        loop {
            let filled = fill(&mut reader, &mut self.buffer)?;
            let chunk = self.buffer.get(..filled).unwrap_or_default();
            if chunk.is_empty() {
                break;
            }
            hole = chunk.len() == CHUNK && is_zero(chunk);
            if hole {
                file.seek(SeekFrom::Current(CHUNK as i64))?;
            } else {
                file.write_all(chunk)?;
            }
            length += chunk.len() as u64;
            if chunk.len() < CHUNK {
                break;
            }
        }
        if hole {
            file.set_len(length)?;
        }
        Ok(length)
    }

    /// Copies `size` bytes of one file into a new one; holes stay holes. Returns how many bytes there were, which is
    /// less if the source has shrunk.
    pub(super) fn copy(&mut self, mut source: &File, mut target: &File, size: u64, sparse: bool) -> io::Result<u64> {
        if size == 0 {
            return Ok(0);
        }
        if size < SMALL {
            let mut copied = 0;
            while copied < size {
                let length = fill(&mut source, &mut self.buffer)?;
                let chunk = self.buffer.get(..length).unwrap_or_default();
                target.write_all(chunk)?;
                copied += chunk.len() as u64;
                if chunk.len() < self.buffer.len() {
                    break;
                }
            }
            return Ok(copied);
        }
        if self.reflink.load(Ordering::Relaxed) {
            match rustix::fs::ioctl_ficlone(target, source) {
                Ok(()) => return Ok(target.metadata()?.len()),
                Err(_) => self.reflink.store(false, Ordering::Relaxed),
            }
        }
        if !sparse {
            return self.copy_part(source, target, size);
        }
        let mut position = 0;
        while position < size {
            let data = match rustix::fs::seek(source, RawSeek::Data(position)) {
                Ok(data) => data,
                // No more data: a hole up to the end.
                Err(Errno::NXIO) => break,
                Err(_) => position,
            };
            let end = rustix::fs::seek(source, RawSeek::Hole(data)).map_or(size, |end| end.min(size));
            source.seek(SeekFrom::Start(data))?;
            target.seek(SeekFrom::Start(data))?;
            let wanted = end.saturating_sub(data);
            let copied = self.copy_part(source, target, wanted)?;
            if copied < wanted {
                return Ok(data + copied);
            }
            position = end.max(data + 1);
        }
        target.set_len(size)?;
        Ok(size.min(source.metadata()?.len()))
    }

    fn copy_part(&mut self, mut source: &File, mut target: &File, size: u64) -> io::Result<u64> {
        let mut copied = 0;
        while copied < size && self.copy_range.load(Ordering::Relaxed) {
            let wanted = usize::try_from(size - copied).unwrap_or(usize::MAX).min(1 << 30);
            match rustix::fs::copy_file_range(source, None, target, None, wanted) {
                Ok(0) => return Ok(copied),
                Ok(length) => copied += length as u64,
                Err(Errno::INTR) => {}
                // Between file systems, or by one that has no such call: copied by hand.
                Err(_) if copied == 0 => self.copy_range.store(false, Ordering::Relaxed),
                Err(errno) => return Err(errno.into()),
            }
        }
        while copied < size {
            let room = usize::try_from(size - copied).unwrap_or(usize::MAX).min(self.buffer.len());
            let chunk = self.buffer.get_mut(..room).unwrap_or_default();
            let length = fill(&mut source, chunk)?;
            target.write_all(chunk.get(..length).unwrap_or_default())?;
            copied += length as u64;
            if length < room {
                break;
            }
        }
        Ok(copied)
    }
}

/// Reads until the buffer is full or the end is there.
pub(super) fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
        match reader.read(room) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn is_zero(chunk: &[u8]) -> bool {
    let (head, words, tail) =
        (chunk.get(..16).unwrap_or(chunk), chunk.chunks_exact(8), chunk.chunks_exact(8).remainder());
    head.iter().all(|byte| *byte == 0)
        && words.into_iter().all(|word| word == [0; 8])
        && tail.iter().all(|byte| *byte == 0)
}
