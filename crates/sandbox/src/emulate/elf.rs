//! What is in a program file: elf(5).

use super::arch;
use rustix::{fd::OwnedFd, io::Errno};

pub(crate) const PAGE: u64 = 4096;

/// `e_type`.
const EXEC: u16 = 2;
const DYN: u16 = 3;

/// `p_type`.
const LOAD: u32 = 1;
const INTERP: u32 = 3;
const PHDR: u32 = 6;
const GNU_STACK: u32 = 0x6474_e551;

const PHDR_SIZE: usize = 56;
/// As the kernel: the table must lie within 64 KiB.
const MAX_TABLE: usize = 65536;

/// `p_flags`.
pub(crate) const EXECUTE: u32 = 1;
pub(crate) const WRITE: u32 = 2;
pub(crate) const READ: u32 = 4;

/// A part of the file that is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) flags: u32,
    pub(crate) offset: u64,
    pub(crate) address: u64,
    pub(crate) file_size: u64,
    pub(crate) memory_size: u64,
    pub(crate) alignment: u64,
}

/// A program that this machine runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Elf {
    /// It may lie anywhere (ET_DYN).
    pub(crate) movable: bool,
    pub(crate) entry: u64,
    /// Where its table of segments is found once it is mapped, before it is moved.
    pub(crate) table: u64,
    pub(crate) table_length: u16,
    pub(crate) segments: Vec<Segment>,
    /// The path of its loader.
    pub(crate) interpreter: Option<Vec<u8>>,
    /// PT_GNU_STACK asks for an executable stack.
    pub(crate) executable_stack: bool,
}

fn read_at(file: &OwnedFd, offset: u64, length: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match rustix::io::pread(file, bytes.get_mut(filled..).unwrap_or_default(), offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// The beginning of a file, by which the kernel knows what it is.
pub(crate) fn head(file: &OwnedFd) -> Result<Vec<u8>, Errno> {
    read_at(file, 0, super::script::HEAD)
}

pub(crate) fn is_elf(head: &[u8]) -> bool {
    head.starts_with(b"\x7fELF")
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Whether it is for the 32-bit mode of this processor.
pub(crate) fn is_32_bit(head: &[u8]) -> bool {
    is_elf(head) && u16_at(head, 18) == Some(arch::MACHINE_32)
}

/// Reads the tables of a program.
///
/// # Errors
/// ENOEXEC where it is none for this machine.
pub(crate) fn parse(file: &OwnedFd, head: &[u8]) -> Result<Elf, Errno> {
    let known = is_elf(head) && head.get(4) == Some(&2) && u16_at(head, 18) == Some(arch::MACHINE);
    let kind = u16_at(head, 16).filter(|kind| known && matches!(*kind, EXEC | DYN)).ok_or(Errno::NOEXEC)?;
    let fields = || Some((u64_at(head, 24)?, u64_at(head, 32)?, u16_at(head, 54)?, u16_at(head, 56)?));
    let (entry, offset, size, count) = fields().ok_or(Errno::NOEXEC)?;
    let length = usize::from(count) * PHDR_SIZE;
    if usize::from(size) != PHDR_SIZE || length == 0 || length > MAX_TABLE {
        return Err(Errno::NOEXEC);
    }
    let table = match head.get(offset as usize..).and_then(|rest| rest.get(..length)) {
        Some(table) => table.to_vec(),
        None => read_at(file, offset, length)?,
    };
    if table.len() < length {
        return Err(Errno::NOEXEC);
    }
    let mut elf = Elf {
        movable: kind == DYN,
        entry,
        table: 0,
        table_length: count,
        segments: Vec::new(),
        interpreter: None,
        executable_stack: false,
    };
    let mut told = None;
    for header in table.chunks_exact(PHDR_SIZE) {
        let fields = || {
            Some((
                u32_at(header, 0)?,
                Segment {
                    flags: u32_at(header, 4)?,
                    offset: u64_at(header, 8)?,
                    address: u64_at(header, 16)?,
                    file_size: u64_at(header, 32)?,
                    memory_size: u64_at(header, 40)?,
                    alignment: u64_at(header, 48)?,
                },
            ))
        };
        let (kind, segment) = fields().ok_or(Errno::NOEXEC)?;
        match kind {
            LOAD => {
                let end = segment.address.checked_add(segment.memory_size);
                let sane = segment.file_size <= segment.memory_size
                    && end.is_some_and(|end| end < arch::PROGRAM_BASE * 3 / 2)
                    && segment.address % PAGE == segment.offset % PAGE;
                if !sane {
                    return Err(Errno::NOEXEC);
                }
                if (segment.offset..segment.offset.saturating_add(segment.file_size)).contains(&offset) {
                    elf.table = offset - segment.offset + segment.address;
                }
                elf.segments.push(segment);
            }
            INTERP if elf.interpreter.is_none() => {
                // As the kernel: at least one character and the NUL, at most PATH_MAX.
                let size = segment.file_size as usize;
                if !(2..=4096).contains(&size) {
                    return Err(Errno::NOEXEC);
                }
                let mut path = read_at(file, segment.offset, size)?;
                if path.len() < size || path.pop() != Some(0) {
                    return Err(Errno::NOEXEC);
                }
                path.truncate(path.iter().position(|byte| *byte == 0).unwrap_or(path.len()));
                elf.interpreter = Some(path);
            }
            PHDR => told = Some(segment.address),
            GNU_STACK => elf.executable_stack = segment.flags & EXECUTE != 0,
            _ => {}
        }
    }
    elf.table = told.unwrap_or(elf.table);
    if elf.segments.is_empty() { Err(Errno::NOEXEC) } else { Ok(elf) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_program() {
        let file = rustix::fs::open("/bin/sh", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
        let head = head(&file).unwrap();
        let elf = parse(&file, &head).unwrap();
        assert!(!is_32_bit(&head));
        assert!(elf.segments.len() >= 2 && elf.table > 0);
        if let Some(interpreter) = elf.interpreter {
            assert!(interpreter.starts_with(b"/lib"));
        }
    }
}
