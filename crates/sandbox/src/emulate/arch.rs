//! What depends on the processor: x86-64.

use crate::sys::ptrace::Registers;
use nix::libc;

/// `e_machine` of ELF (elf.h) that runs here.
pub(crate) const MACHINE: u16 = 62;
/// `e_machine` of 32-bit programs that the kernel might run, but this emulation does not.
pub(crate) const MACHINE_32: u16 = 3;
/// Length of the instruction that enters the kernel.
const CALL_LENGTH: u64 = 2;
/// Where position-independent programs lie, before randomisation: two thirds of the address space.
pub(crate) const PROGRAM_BASE: u64 = 0x5555_5555_4000;

/// A call's number and arguments, and where its thread goes on.
pub(crate) fn number(registers: &Registers) -> i64 {
    registers.orig_rax as i64
}

pub(crate) fn args(registers: &Registers) -> [u64; 6] {
    [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9]
}

pub(crate) fn set_args(registers: &mut Registers, args: [u64; 6]) {
    [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9] = args;
}

pub(crate) fn instruction(registers: &Registers) -> u64 {
    registers.rip
}

pub(crate) fn stack(registers: &Registers) -> u64 {
    registers.rsp
}

pub(crate) fn result(registers: &Registers) -> i64 {
    registers.rax as i64
}

/// At a stop before a call: another call is made.
pub(crate) fn set_number(registers: &mut Registers, number: i64) {
    registers.orig_rax = number as u64;
}

/// At a stop before a call: none is made, and this is what the thread sees of it.
pub(crate) fn skip(registers: &mut Registers, result: i64) {
    registers.orig_rax = u64::MAX;
    registers.rax = result as u64;
}

/// At a stop after a call: this is what the thread sees of it.
pub(crate) fn set_result(registers: &mut Registers, result: i64) {
    // A number would have the kernel look whether the call is to be restarted.
    skip(registers, result);
}

/// At a stop after a call that a signal interrupts before it has begun: it is made again, by this number.
pub(crate) fn set_restart(registers: &mut Registers, number: i64, result: i64) {
    registers.orig_rax = number as u64;
    registers.rax = result as u64;
}

/// At a stop right after a call: the thread makes this one from the same place.
pub(crate) fn repeat(registers: &mut Registers, number: i64) {
    registers.orig_rax = u64::MAX;
    registers.rax = number as u64;
    registers.rip = registers.rip.wrapping_sub(CALL_LENGTH);
}

/// Where the thread goes on, and with which stack.
pub(crate) fn go_to(registers: &mut Registers, instruction: u64, stack: u64) {
    registers.rip = instruction;
    registers.rsp = stack;
}

/// Makes a list of calls. Each is eight words: number, six arguments, room for the result; `SCRIPT_LIST` holds where the
/// list begins. An argument 1 or 5 of [`FIRST_RESULT`] is the result of the first call. It never ends: the last call of
/// the list must be one at which the tracer stops.
///
/// ```asm
/// next: mov rax, [r12]
///       mov rdi, [r12+8]
///       mov rsi, [r12+16]
///       mov rdx, [r12+24]
///       mov r10, [r12+32]
///       mov r8, [r12+40]
///       mov r9, [r12+48]
///       cmp r8, -2
///       cmove r8, r13
///       cmp rdi, -2
///       cmove rdi, r13
///       syscall
///       mov [r12+56], rax
///       test r13, r13
///       cmovs r13, rax
///       add r12, 64
///       jmp next
///       nop; nop
/// ```
pub(crate) const SCRIPT: [u64; 9] = script();

pub(crate) const FIRST_RESULT: u64 = -2i64 as u64;

const fn script() -> [u64; 9] {
    const CODE: [u8; 72] = [
        0x49, 0x8b, 0x04, 0x24, 0x49, 0x8b, 0x7c, 0x24, 0x08, 0x49, 0x8b, 0x74, 0x24, 0x10, 0x49, 0x8b, 0x54, 0x24,
        0x18, 0x4d, 0x8b, 0x54, 0x24, 0x20, 0x4d, 0x8b, 0x44, 0x24, 0x28, 0x4d, 0x8b, 0x4c, 0x24, 0x30, 0x49, 0x83,
        0xf8, 0xfe, 0x4d, 0x0f, 0x44, 0xc5, 0x48, 0x83, 0xff, 0xfe, 0x49, 0x0f, 0x44, 0xfd, 0x0f, 0x05, 0x49, 0x89,
        0x44, 0x24, 0x38, 0x4d, 0x85, 0xed, 0x4c, 0x0f, 0x48, 0xe8, 0x49, 0x83, 0xc4, 0x40, 0xeb, 0xba, 0x90, 0x90,
    ];
    let mut words = [0; 9];
    let mut index = 0;
    while index < CODE.len() {
        words[index / 8] |= (CODE[index] as u64) << (8 * (index % 8));
        index += 1;
    }
    words
}

/// Prepares the registers for [`SCRIPT`] at an address, with its list at another.
pub(crate) fn start_script(registers: &mut Registers, script: u64, list: u64) {
    registers.rip = script;
    registers.r12 = list;
    // Negative until there is a first result.
    registers.r13 = u64::MAX;
    registers.rax = 0;
    registers.orig_rax = u64::MAX;
}

/// The call with which a script ends: the tracer stops at it, and it is never made.
pub(crate) const SCRIPT_END: i64 = libc::SYS_getdents64;
