//! Sparse files: which parts of the content are there, and how they are given back as a whole.

use super::LayerError;

/// More parts than this are refused, as in Go's archive/tar; they would be kept in memory.
const PARTS_MAX: usize = 1 << 20;

/// The parts of a file that are stored; all else is zero.
#[derive(Debug, Default)]
pub(super) struct SparseMap {
    /// Offset and length of each part, in order, not overlapping.
    parts: Vec<(u64, u64)>,
    /// The part that is read next.
    next: usize,
    /// Where in the file reading has come to.
    position: u64,
    /// The size of the whole file.
    size: u64,
}

/// What comes next in a sparse file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// So many bytes of zeros.
    Hole(u64),
    /// So many bytes of the archive.
    Data(u64),
    /// Nothing.
    End,
}

impl SparseMap {
    /// Adds a part.
    pub(super) fn push(&mut self, offset: u64, len: u64, at: u64) -> Result<(), LayerError> {
        if self.parts.len() >= PARTS_MAX {
            return Err(LayerError::Corrupt { offset: at, what: "sparse file of too many parts" });
        }
        self.parts.push((offset, len));
        Ok(())
    }

    /// Checks the map against the size of the file and of what is stored, `at` for the error.
    pub(super) fn seal(&mut self, size: u64, stored: u64, at: u64) -> Result<(), LayerError> {
        let corrupt = |what| LayerError::Corrupt { offset: at, what };
        let (mut end, mut sum) = (0_u64, 0_u64);
        for &(offset, len) in &self.parts {
            if offset < end {
                return Err(corrupt("sparse file whose parts overlap"));
            }
            end = offset.checked_add(len).ok_or_else(|| corrupt("sparse file of impossible size"))?;
            sum += len;
        }
        if end > size {
            return Err(corrupt("sparse file with a part beyond its end"));
        }
        if sum != stored {
            return Err(corrupt("sparse file whose parts are not what is stored"));
        }
        self.parts.retain(|part| part.1 > 0);
        self.size = size;
        Ok(())
    }

    /// What comes next.
    pub(super) fn run(&self) -> Run {
        match self.parts.get(self.next) {
            Some(&(offset, _)) if self.position < offset => Run::Hole(offset - self.position),
            Some(&(offset, len)) => Run::Data(offset + len - self.position),
            None if self.position < self.size => Run::Hole(self.size - self.position),
            None => Run::End,
        }
    }

    /// Says that so many bytes of the run were read.
    pub(super) fn advance(&mut self, n: u64) {
        self.position += n;
        if let Some(&(offset, len)) = self.parts.get(self.next)
            && self.position >= offset + len
        {
            self.next += 1;
        }
    }
}
