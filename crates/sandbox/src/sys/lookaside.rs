//! Code that processes under the emulated kernel have in their memory, and the memory that it reads: see
//! [`crate::emulate::lookaside`].

#![allow(unsafe_code)]

use nix::libc;
use rustix::{
    fd::BorrowedFd,
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap},
};
use std::{arch::global_asm, ptr::NonNull, slice, sync::atomic::AtomicU32};

/// Where the code lies in every process that has it: where no loader, no `mmap` and no sanitizer puts anything, a little
/// beneath the place of position-independent programs.
pub(crate) const CODE: u64 = 0x5510_0000_0000;
/// The page of the process: two view numbers (32 bits each), for absolute and for relative paths.
pub(crate) const VIEWS: u64 = CODE + 0x1000;
/// Generations, and after them entries.
pub(crate) const TABLE: u64 = CODE + 0x2000;

/// How many generations there are (32 bits each).
pub(crate) const GENERATIONS: usize = 1 << 14;
/// How many entries; an entry is at its hash or beside it.
pub(crate) const ENTRIES: usize = 1 << 13;
/// Words (of 32 bits) of an entry.
pub(crate) const ENTRY_WORDS: usize = 104;
/// Directories that an entry may depend on.
pub(crate) const MOST_SLOTS: usize = 16;
/// The longest path of an entry.
pub(crate) const LONGEST: usize = 248;

/// Positions in an entry, in words. It is odd while the entry is written.
pub(crate) const SEQUENCE: usize = 0;
/// Lower half: the error; upper half: the length of the path.
pub(crate) const ERROR_AND_LENGTH: usize = 1;
/// Two words.
pub(crate) const HASH: usize = 2;
pub(crate) const VIEW: usize = 4;
pub(crate) const CLASS: usize = 5;
pub(crate) const SLOT_COUNT: usize = 6;
/// Pairs: which generation, and what it was.
pub(crate) const SLOTS: usize = 8;
pub(crate) const PATH: usize = SLOTS + 2 * MOST_SLOTS;

/// Length of generations and entries in bytes.
pub(crate) const TABLE_LENGTH: usize = 4 * (GENERATIONS + ENTRIES * ENTRY_WORDS);

/// Of a call: the last link of the path is followed, is not followed, or is what is asked for.
pub(crate) const FOLLOWS: u32 = 1;
pub(crate) const STAYS: u32 = 2;
pub(crate) const READS_LINK: u32 = 3;

/// FNV-1a with 64 bits.
pub(crate) const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;
pub(crate) const HASH_FACTOR: u64 = 0x100_0000_01b3;

// It is jumped to in place of the instruction that sets the number of a call, with that number in eax, and the address
// of the `syscall` that follows in rcx, which a call destroys anyway. What it finds it puts into rax and goes on after
// that `syscall`; otherwise it goes on at it, as if nothing had been.
//
// Calls with arguments that the kernel refuses are left to it, and so are those of a path that cannot be an address.
global_asm!(
    "
    .pushsection .rodata.rbuild_lookaside, \"a\", @progbits
    .globl rbuild_lookaside_begin
    .globl rbuild_lookaside_end
    .hidden rbuild_lookaside_begin
    .hidden rbuild_lookaside_end
rbuild_lookaside_begin:
    // The function that makes the call may have data beneath its stack pointer.
    lea rsp, [rsp - 128]
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r12
    push r13
    push r14
    push r15

    // Path to r12, class to ebx.
    mov ebx, {follows}
    mov r12, rdi
    cmp eax, {readlink}
    je 60f
    cmp eax, {stat}
    je 30f
    cmp eax, {lstat}
    je 61f
    cmp eax, {access}
    je 62f
    cmp eax, {open}
    je 63f
    mov r12, rsi
    cmp eax, {newfstatat}
    je 20f
    cmp eax, {openat}
    je 21f
    cmp eax, {faccessat}
    je 22f
    cmp eax, {faccessat2}
    je 23f
    cmp eax, {readlinkat}
    je 24f
    cmp eax, {statx}
    je 25f
    jmp 90f
60: // readlink
    test edx, edx
    jle 90f
    mov ebx, {reads_link}
    jmp 30f
61: // lstat
    mov ebx, {stays}
    jmp 30f
62: // access
    test esi, -8
    jnz 90f
    jmp 30f
63: // open
    test esi, {creates}
    jnz 90f
    jmp 30f
20: // newfstatat
    test r10d, {not_stat_flags}
    jnz 90f
    bt r10d, 8
    jnc 29f
    mov ebx, {stays}
    jmp 29f
21: // openat
    test edx, {creates}
    jnz 90f
    jmp 29f
22: // faccessat
    test edx, -8
    jnz 90f
    jmp 29f
23: // faccessat2
    test edx, -8
    jnz 90f
    test r10d, {not_access_flags}
    jnz 90f
    bt r10d, 8
    jnc 29f
    mov ebx, {stays}
    jmp 29f
24: // readlinkat
    test r10d, r10d
    jle 90f
    mov ebx, {reads_link}
    jmp 29f
25: // statx
    test edx, {not_statx_flags}
    jnz 90f
    test r10d, r10d
    js 90f
    bt edx, 8
    jnc 29f
    mov ebx, {stays}
29: // Relative paths begin at a descriptor, which must be the working directory.
    cmp r12, 0x10000
    jb 90f
    mov r11, {views}
    cmp byte ptr [r12], 0x2f
    je 31f
    cmp edi, -100
    jne 90f
    jmp 32f
30:
    cmp r12, 0x10000
    jb 90f
    mov r11, {views}
    cmp byte ptr [r12], 0x2f
    jne 32f
31:
    mov ebp, [r11]
    jmp 33f
32:
    mov ebp, [r11 + 4]
33: // The view in ebp; 0 is none.
    test ebp, ebp
    jz 90f

    // Hash to rax, length to ecx.
    mov eax, ebp
    shl rax, 2
    or rax, rbx
    mov r11, {hash_start}
    xor rax, r11
    mov r11, {hash_factor}
    imul rax, r11
    xor ecx, ecx
40:
    movzx edx, byte ptr [r12 + rcx]
    test edx, edx
    jz 41f
    xor rax, rdx
    imul rax, r11
    inc ecx
    cmp ecx, {longest}
    jbe 40b
    jmp 90f
41:
    test ecx, ecx
    jz 90f

    // The entry to r15.
    mov r15, rax
    shr r15, 32
    xor r15, rax
    and r15d, {entry_mask}
    mov r14d, 2
    mov rsi, {table}
50:
    imul r13, r15, {entry_size}
    lea r13, [rsi + r13 + {generations_size}]
    mov edi, [r13]
    test dil, 1
    jnz 59f
    cmp rax, [r13 + {hash_at}]
    jne 59f
    cmp ebp, [r13 + {view_at}]
    jne 59f
    cmp ebx, [r13 + {class_at}]
    jne 59f
    movzx edx, word ptr [r13 + {error_at} + 2]
    cmp edx, ecx
    jne 59f
    xor edx, edx
51:
    movzx r8d, byte ptr [r12 + rdx]
    cmp r8b, [r13 + rdx + {path_at}]
    jne 59f
    inc edx
    cmp edx, ecx
    jb 51b
    mov edx, [r13 + {count_at}]
    cmp edx, {most_slots}
    ja 59f
52:
    test edx, edx
    jz 53f
    dec edx
    mov r8d, [r13 + rdx * 8 + {slots_at}]
    cmp r8d, {generation_count}
    jae 59f
    mov r9d, [r13 + rdx * 8 + {slots_at} + 4]
    cmp r9d, [rsi + r8 * 4]
    jne 59f
    jmp 52b
53:
    movzx edx, word ptr [r13 + {error_at}]
    cmp edi, [r13]
    jne 59f
    // Found: the result, and past the call.
    neg rdx
    mov [rsp + 96], rdx
    add qword ptr [rsp + 88], 2
    jmp 90f
59:
    xor r15d, 1
    dec r14d
    jnz 50b

90:
    pop r15
    pop r14
    pop r13
    pop r12
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    lea rsp, [rsp + 128]
    jmp rcx
rbuild_lookaside_end:
    .popsection
    ",
    follows = const FOLLOWS,
    stays = const STAYS,
    reads_link = const READS_LINK,
    open = const libc::SYS_open,
    stat = const libc::SYS_stat,
    lstat = const libc::SYS_lstat,
    access = const libc::SYS_access,
    readlink = const libc::SYS_readlink,
    openat = const libc::SYS_openat,
    newfstatat = const libc::SYS_newfstatat,
    readlinkat = const libc::SYS_readlinkat,
    faccessat = const libc::SYS_faccessat,
    faccessat2 = const libc::SYS_faccessat2,
    statx = const libc::SYS_statx,
    // That which O_TMPFILE has beside O_DIRECTORY.
    creates = const libc::O_CREAT | libc::O_NOFOLLOW | (libc::O_TMPFILE & !libc::O_DIRECTORY),
    not_stat_flags = const !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT),
    not_access_flags = const !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EACCESS),
    not_statx_flags = const !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT),
    views = const VIEWS,
    table = const TABLE,
    hash_start = const HASH_START,
    hash_factor = const HASH_FACTOR,
    longest = const LONGEST,
    entry_mask = const ENTRIES - 1,
    entry_size = const 4 * ENTRY_WORDS,
    generations_size = const 4 * GENERATIONS,
    generation_count = const GENERATIONS,
    most_slots = const MOST_SLOTS,
    error_at = const 4 * ERROR_AND_LENGTH,
    hash_at = const 4 * HASH,
    view_at = const 4 * VIEW,
    class_at = const 4 * CLASS,
    count_at = const 4 * SLOT_COUNT,
    slots_at = const 4 * SLOTS,
    path_at = const 4 * PATH,
);

unsafe extern "C" {
    static rbuild_lookaside_begin: u8;
    static rbuild_lookaside_end: u8;
}

/// The code, which may lie at any address.
pub(crate) fn code() -> &'static [u8] {
    let (begin, end) = (&raw const rbuild_lookaside_begin, &raw const rbuild_lookaside_end);
    // SAFETY: both labels are in one section, in this order, and what lies between them is never written.
    unsafe { slice::from_raw_parts(begin, end as usize - begin as usize) }
}

/// Memory that other processes see, too.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    start: NonNull<AtomicU32>,
    words: usize,
}

// SAFETY: it is reached through atomic operations alone.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Maps the beginning of a file that has at least so many words (of 32 bits), and is never made shorter. The mapping
    /// stays as long as this process.
    pub(crate) fn map(file: BorrowedFd<'_>, words: usize) -> Result<Self, Errno> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: the kernel chooses a place where nothing is.
        let start = unsafe { mmap(std::ptr::null_mut(), 4 * words, access, flags, file, 0)? };
        Ok(Self { start: NonNull::new(start.cast()).ok_or(Errno::NOMEM)?, words })
    }

    pub(crate) fn words(&self) -> &[AtomicU32] {
        // SAFETY: the mapping has this length, is aligned to a page, and is never undone; any bits are a number.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}
