//! ptrace(2), as a tracer that seizes: one thread starts, stops and examines others.

#![allow(unsafe_code)]

use nix::libc;
use rustix::io::Errno;
use std::{
    ffi::{c_long, c_uint, c_void},
    mem::{MaybeUninit, size_of},
};

/// The general registers of this architecture.
pub(crate) type Registers = libc::user_regs_struct;

/// What a stopped thread does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resume {
    /// It runs until something is to be told.
    Continue,
    /// It runs until the next entry to, or exit from, a system call.
    ToCall,
}

/// What `wait` tells of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It has ended with this code.
    Exited(i32),
    /// It was ended by this signal.
    Killed(i32),
    /// It is about to get this signal.
    Signal(i32),
    /// At the entry to or the exit from a system call.
    Call,
    /// PTRACE_EVENT_*, and the signal that comes with it.
    Event(i32, i32),
}

/// PTRACE_EVENT_* (linux/ptrace.h).
pub(crate) mod event {
    pub(crate) const FORK: i32 = 1;
    pub(crate) const VFORK: i32 = 2;
    pub(crate) const CLONE: i32 = 3;
    pub(crate) const EXEC: i32 = 4;
    pub(crate) const EXIT: i32 = 6;
    pub(crate) const SECCOMP: i32 = 7;
    pub(crate) const STOP: i32 = 128;
}

/// PTRACE_O_* of every traced thread: what it starts is traced before it runs, and dies with the tracer.
const OPTIONS: c_long = (libc::PTRACE_O_TRACESYSGOOD
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEEXEC
    | libc::PTRACE_O_TRACESECCOMP
    | libc::PTRACE_O_EXITKILL) as c_long;

/// `NT_PRSTATUS` (linux/elf.h).
const NT_PRSTATUS: usize = 1;

fn request(request: c_uint, tid: u32, address: usize, data: usize) -> Result<(), Errno> {
    let tid = tid as libc::pid_t;
    // SAFETY: every caller passes an address and data that this request takes: numbers, or pointers to memory of the
    // right size that lives through the call.
    let result = unsafe { libc::ptrace(request as _, tid, address as *mut c_void, data as *mut c_void) };
    if result == -1 { Err(last()) } else { Ok(()) }
}

fn last() -> Errno {
    Errno::from_raw_os_error(nix::errno::Errno::last_raw())
}

/// Becomes the tracer of a running process and of all that it starts.
pub(crate) fn seize(pid: u32) -> Result<(), Errno> {
    request(libc::PTRACE_SEIZE as c_uint, pid, 0, OPTIONS as usize)
}

/// Has this thread stop when it begins to exit, or no more.
pub(crate) fn trace_exit(tid: u32, on: bool) -> Result<(), Errno> {
    let exit = if on { libc::PTRACE_O_TRACEEXIT as c_long } else { 0 };
    request(libc::PTRACE_SETOPTIONS as c_uint, tid, 0, (OPTIONS | exit) as usize)
}

/// Lets a stopped thread go on, with a signal unless 0.
pub(crate) fn resume(tid: u32, how: Resume, signal: i32) -> Result<(), Errno> {
    let how = match how {
        Resume::Continue => libc::PTRACE_CONT,
        Resume::ToCall => libc::PTRACE_SYSCALL,
    };
    request(how as c_uint, tid, 0, signal as usize)
}

/// Leaves a thread in its group stop, to be told of its end.
pub(crate) fn listen(tid: u32) -> Result<(), Errno> {
    request(libc::PTRACE_LISTEN as c_uint, tid, 0, 0)
}

/// The registers of a stopped thread.
pub(crate) fn registers(tid: u32) -> Result<Registers, Errno> {
    let mut registers = MaybeUninit::<Registers>::zeroed();
    let vector = libc::iovec { iov_base: registers.as_mut_ptr().cast(), iov_len: size_of::<Registers>() };
    request(libc::PTRACE_GETREGSET as c_uint, tid, NT_PRSTATUS, (&raw const vector) as usize)?;
    // SAFETY: it holds integers only, for which zero and whatever the kernel wrote are values.
    Ok(unsafe { registers.assume_init() })
}

/// Changes the registers of a stopped thread.
pub(crate) fn set_registers(tid: u32, registers: &Registers) -> Result<(), Errno> {
    let base = std::ptr::from_ref(registers).cast_mut().cast();
    let vector = libc::iovec { iov_base: base, iov_len: size_of::<Registers>() };
    request(libc::PTRACE_SETREGSET as c_uint, tid, NT_PRSTATUS, (&raw const vector) as usize)
}

/// What comes with an event: the id of a new thread, or the former one of a thread that executed a program.
pub(crate) fn event_message(tid: u32) -> Result<u64, Errno> {
    let mut message: libc::c_ulong = 0;
    request(libc::PTRACE_GETEVENTMSG as c_uint, tid, 0, (&raw mut message) as usize)?;
    Ok(message)
}

/// Code and error number of the signal that a thread has stopped for.
pub(crate) fn signal_info(tid: u32) -> Result<(i32, i32), Errno> {
    // SAFETY: a `siginfo_t` is integers and pointers that are not followed, for which zero is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    request(libc::PTRACE_GETSIGINFO as c_uint, tid, 0, (&raw mut info) as usize)?;
    Ok((info.si_code, info.si_errno))
}

/// The signals that a stopped thread has blocked.
pub(crate) fn signal_mask(tid: u32) -> Result<u64, Errno> {
    let mut mask: u64 = 0;
    request(libc::PTRACE_GETSIGMASK as c_uint, tid, size_of::<u64>(), (&raw mut mask) as usize)?;
    Ok(mask)
}

pub(crate) fn set_signal_mask(tid: u32, mask: u64) -> Result<(), Errno> {
    request(libc::PTRACE_SETSIGMASK as c_uint, tid, size_of::<u64>(), (&raw const mask) as usize)
}

/// Overwrites a word of a stopped thread's memory, be it writable or not.
pub(crate) fn poke(tid: u32, address: u64, word: u64) -> Result<(), Errno> {
    request(libc::PTRACE_POKEDATA as c_uint, tid, address as usize, word as usize)
}

/// Waits for news of any traced thread or child; `None` where there is none left.
pub(crate) fn wait_any() -> Result<Option<(u32, Status)>, Errno> {
    let mut status = 0;
    loop {
        // SAFETY: `status` lives through the call.
        let tid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) };
        if tid > 0 {
            return Ok(Some((tid as u32, decode(status))));
        }
        match last() {
            Errno::INTR => {}
            Errno::CHILD => return Ok(None),
            errno => return Err(errno),
        }
    }
}

fn decode(status: i32) -> Status {
    if libc::WIFEXITED(status) {
        return Status::Exited(libc::WEXITSTATUS(status));
    }
    if libc::WIFSIGNALED(status) {
        return Status::Killed(libc::WTERMSIG(status));
    }
    let signal = libc::WSTOPSIG(status);
    match status >> 16 {
        0 if signal == libc::SIGTRAP | 0x80 => Status::Call,
        0 => Status::Signal(signal),
        event => Status::Event(event, signal),
    }
}
