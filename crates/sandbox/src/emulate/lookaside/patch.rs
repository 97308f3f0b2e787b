//! A C library whose calls look aside.
//!
//! Functions of the library set the number of a call and make it with two instructions, one after the other: `mov eax,
//! NUMBER` (five bytes) and `syscall`. The first becomes a jump; the second stays, so that whoever looks at a thread in a
//! call (signals, cancellation, a restart) finds it where it always was.

use crate::{
    emulate::elf::{self, EXECUTE, Elf, PAGE},
    sys::lookaside::CODE,
};
use nix::libc;

/// Calls that are looked aside for; the code knows how each takes its path.
const NUMBERS: [i64; 11] = [
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_openat,
    libc::SYS_newfstatat,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_statx,
];

/// `mov eax, imm32`.
const MOV: u8 = 0xb8;
const MOV_LENGTH: usize = 5;
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// `mov eax, imm32; lea rcx, [rip + rel32]; jmp rel32`.
const SPRINGBOARD: usize = 17;
/// `jmp [rip + 0]` and an address.
const FAR_JUMP: usize = 14;

/// Whether a call is one of those.
pub(super) fn is_looked_aside(number: i64) -> bool {
    NUMBERS.contains(&number)
}

/// Changes a library; whether it has such calls and room for what they need.
pub(super) fn patch(library: &mut [u8], elf: &Elf) -> bool {
    let Some((text, room)) = layout(library.len(), elf) else { return false };
    let sites = sites(library, text.clone());
    let needed = FAR_JUMP + sites.len() * SPRINGBOARD;
    let is_free = room.len() >= needed && library.get(room.clone()).is_some_and(|room| room.iter().all(|b| *b == 0));
    if sites.is_empty() || !is_free {
        return false;
    }
    let far_jump = room.start;
    let mut code = [&[0xff, 0x25, 0, 0, 0, 0][..], &CODE.to_le_bytes()].concat();
    for site in &sites {
        let board = far_jump + code.len();
        // All of it is in one segment, in which distances are those of the file.
        let distance = |from: usize, to: usize| (to as i64 - from as i64) as i32;
        code.extend_from_slice(&library[*site..site + MOV_LENGTH]);
        code.extend_from_slice(&[0x48, 0x8d, 0x0d]);
        code.extend_from_slice(&distance(board + 12, site + MOV_LENGTH).to_le_bytes());
        code.push(0xe9);
        code.extend_from_slice(&distance(board + SPRINGBOARD, far_jump).to_le_bytes());
        let jump = distance(site + MOV_LENGTH, board).to_le_bytes();
        library[*site] = 0xe9;
        library[site + 1..site + MOV_LENGTH].copy_from_slice(&jump);
    }
    library[far_jump..far_jump + code.len()].copy_from_slice(&code);
    true
}

/// Where in the file its code is, and what is mapped after it that belongs to nothing.
fn layout(length: usize, elf: &Elf) -> Option<(std::ops::Range<usize>, std::ops::Range<usize>)> {
    let mut texts = elf.segments.iter().filter(|segment| segment.flags & EXECUTE != 0);
    let text = texts.next().filter(|text| texts.next().is_none() && text.flags & elf::WRITE == 0)?;
    let end = text.offset.checked_add(text.file_size)?;
    let next = elf.segments.iter().map(|segment| segment.offset).filter(|offset| *offset >= end).min();
    let room_end = end.checked_next_multiple_of(PAGE)?.min(next.unwrap_or(u64::MAX)).min(length as u64);
    let place = |from: u64, to: u64| Some(usize::try_from(from).ok()?..usize::try_from(to).ok()?);
    let (text_range, room) = (place(text.offset, end)?, place(end, room_end)?);
    (text_range.end <= length && text.file_size == text.memory_size).then_some((text_range, room))
}

/// Where a number is set right before a call.
fn sites(library: &[u8], text: std::ops::Range<usize>) -> Vec<usize> {
    let is_site = |at: &usize| {
        let number = |bytes: &[u8]| Some(i32::from_le_bytes(bytes.get(1..MOV_LENGTH)?.try_into().ok()?));
        let before = at.checked_sub(1).and_then(|at| library.get(at));
        library.get(*at) == Some(&MOV)
            && library.get(at + MOV_LENGTH..at + MOV_LENGTH + 2) == Some(&SYSCALL)
            // With such a prefix it is another register.
            && before.is_none_or(|byte| byte & 0xf0 != 0x40)
            && library.get(*at..).and_then(number).is_some_and(|number| is_looked_aside(number.into()))
    };
    text.filter(is_site).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulate::elf::Segment;

    fn elf(text: u64, length: u64) -> Elf {
        let segment = |flags, offset, size| Segment {
            flags,
            offset,
            address: offset,
            file_size: size,
            memory_size: size,
            alignment: PAGE,
        };
        Elf {
            movable: true,
            entry: 0,
            table: 64,
            table_length: 2,
            segments: vec![segment(elf::READ | EXECUTE, text, length), segment(elf::READ, 2 * PAGE, 16)],
            interpreter: None,
            executable_stack: false,
        }
    }

    fn library(code: &[u8]) -> Vec<u8> {
        let mut library = vec![0; 3 * PAGE as usize];
        library[PAGE as usize..][..code.len()].copy_from_slice(code);
        library
    }

    #[test]
    fn a_call_jumps_to_code_that_knows_where_it_came_from() {
        let code = [0x90, MOV, 89, 0, 0, 0, 0x0f, 0x05, 0x48, 0x3d, MOV, 1, 0, 0, 0, 0x0f, 0x05];
        let mut library = library(&code);
        assert!(patch(&mut library, &elf(PAGE, code.len() as u64)));
        let (site, room) = (PAGE as usize + 1, PAGE as usize + code.len());
        let distance = |at: usize| i32::from_le_bytes(library[at..at + 4].try_into().unwrap()) as i64;
        let board = room + FAR_JUMP;
        assert_eq!((library[site], distance(site + 1)), (0xe9, (board - site - MOV_LENGTH) as i64));
        assert_eq!(library[site + MOV_LENGTH..][..2], SYSCALL);
        assert_eq!(library[board..][..5], [MOV, 89, 0, 0, 0]);
        assert_eq!(board as i64 + 12 + distance(board + 8), (site + MOV_LENGTH) as i64);
        assert_eq!(board as i64 + 17 + distance(board + 13), room as i64);
        assert_eq!(library[room + 6..][..8], CODE.to_le_bytes());
        // write(2) is none of those.
        assert_eq!(library[site + 9..][..7], code[10..]);
    }

    #[test]
    fn a_library_without_room_or_calls_stays_as_it_is() {
        let with = |code: &[u8], room: u8| {
            let mut library = library(code);
            library[PAGE as usize + code.len() + 20] = room;
            let before = library.clone();
            let done = patch(&mut library, &elf(PAGE, code.len() as u64));
            assert!(done || library == before);
            done
        };
        let call = [MOV, 89, 0, 0, 0, 0x0f, 0x05];
        assert!(with(&call, 0));
        assert!(!with(&call, 1));
        assert!(!with(&[MOV, 1, 0, 0, 0, 0x0f, 0x05], 0));
        // mov r8d, 89
        assert!(!with(&[0x41, MOV, 89, 0, 0, 0, 0x0f, 0x05], 0));
        let mut whole = library(&call);
        assert!(!patch(&mut whole, &elf(2 * PAGE - 7, 7)));
    }
}
