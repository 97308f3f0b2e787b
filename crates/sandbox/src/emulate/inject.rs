//! What the kernel does after an execve, where it could not do so by itself: the stack of a new program is rewritten and
//! calls are made in its name, before its first instruction.

use super::{
    arch::{self, FIRST_RESULT},
    elf::{self, Elf, PAGE, Segment},
    exec::Plan,
    filter::CARRIER,
    lookaside::{AddressSpace, MAPPINGS},
};
use crate::{
    memory::Memory,
    sys::ptrace::{self, Registers},
};
use nix::libc;
use rustix::io::Errno;
use std::{ops::Range, sync::Arc};

/// What comes with a program on its stack (linux/auxvec.h).
mod aux {
    pub(super) const NULL: u64 = 0;
    pub(super) const PHDR: u64 = 3;
    pub(super) const PHENT: u64 = 4;
    pub(super) const PHNUM: u64 = 5;
    pub(super) const BASE: u64 = 7;
    pub(super) const ENTRY: u64 = 9;
    pub(super) const UID: u64 = 11;
    pub(super) const EUID: u64 = 12;
    pub(super) const GID: u64 = 13;
    pub(super) const EGID: u64 = 14;
    pub(super) const SECURE: u64 = 23;
    pub(super) const RANDOM: u64 = 25;
    pub(super) const EXECFN: u64 = 31;
}

/// More than the kernel lets arguments and variables take.
const MAX_VECTOR: usize = 1 << 23;
/// The room that there is beneath the stack of a new program (128 KiB), less some.
const ROOM: usize = 96 << 10;
/// Each call of a list: number, six arguments, result.
const CALL_WORDS: usize = 8;

/// Calls that are being made in the name of a new program.
#[derive(Debug)]
pub(crate) struct Script {
    /// What the program starts with.
    start: Registers,
    /// Where the calls' code covers the program's, and what was there.
    code: u64,
    covered: [u64; arch::SCRIPT.len()],
    list: u64,
    /// Calls without whose success the program cannot run: indices in the list.
    needed: Vec<usize>,
    /// The first of those that map [`MAPPINGS`].
    mappings: Option<usize>,
    loader: Range<u64>,
    /// What is zeroed at last: ends of segments.
    zeros: Vec<(u64, u64)>,
    /// Where the thread is seen while it makes a call.
    pub(crate) instruction: u64,
}

/// Offset in the code of what follows the call instruction.
const AFTER_CALL: u64 = 0x34;

/// What the kernel has laid on the stack.
struct Image {
    arguments: Vec<u64>,
    variables: Vec<u64>,
    auxiliary: Vec<(u64, u64)>,
    end: u64,
}

impl Image {
    fn read(memory: Memory, stack: u64) -> Result<Self, Errno> {
        let mut length = 4096;
        loop {
            let mut bytes = vec![0; length];
            let read = crate::sys::memory::read(memory.tid(), stack, &mut bytes)?;
            bytes.truncate(read);
            let words: Vec<u64> =
                bytes.chunks_exact(8).filter_map(|word| Some(u64::from_le_bytes(word.try_into().ok()?))).collect();
            if let Some(image) = Self::parse(&words, stack) {
                return Ok(image);
            }
            if read < length || length > MAX_VECTOR {
                return Err(Errno::FAULT);
            }
            length *= 2;
        }
    }

    fn parse(words: &[u64], stack: u64) -> Option<Self> {
        let count = usize::try_from(*words.first()?).ok()?;
        let arguments = words.get(1..count.checked_add(1)?)?.to_vec();
        let rest = words.get(count + 2..)?;
        let variables = rest.get(..rest.iter().position(|word| *word == 0)?)?.to_vec();
        let rest = rest.get(variables.len() + 1..)?;
        let pairs: Vec<(u64, u64)> =
            rest.chunks_exact(2).filter_map(|pair| Some((*pair.first()?, *pair.get(1)?))).collect();
        let length = pairs.iter().position(|(key, _)| *key == aux::NULL)?;
        let auxiliary = pairs.get(..length)?.to_vec();
        let words = 1 + count + 1 + variables.len() + 1 + 2 * (length + 1);
        Some(Self { arguments, variables, auxiliary, end: stack + 8 * words as u64 })
    }

    fn get(&self, key: u64) -> Option<u64> {
        self.auxiliary.iter().find(|(known, _)| *known == key).map(|(_, value)| *value)
    }

    fn set(&mut self, key: u64, value: u64) {
        if let Some(entry) = self.auxiliary.iter_mut().find(|(known, _)| *known == key) {
            entry.1 = value;
        }
    }

    fn words(&self) -> Vec<u64> {
        let mut words = vec![self.arguments.len() as u64];
        words.extend(&self.arguments);
        words.push(0);
        words.extend(&self.variables);
        words.push(0);
        words.extend(self.auxiliary.iter().flat_map(|(key, value)| [*key, *value]));
        words.extend([aux::NULL, 0]);
        words
    }
}

/// The calls that map a program.
#[derive(Default)]
struct Calls {
    list: Vec<[u64; CALL_WORDS]>,
    needed: Vec<usize>,
    mappings: Option<usize>,
}

impl Calls {
    /// Of a descriptor that the carrier gives.
    fn map_lookaside(&mut self) {
        self.push(CARRIER, LOOKASIDE);
        self.mappings = Some(self.list.len());
        for mapping in MAPPINGS {
            let (fd, offset) = mapping.offset.map_or((u64::MAX, 0), |offset| (FIRST_RESULT, offset));
            let flags = (mapping.flags | libc::MAP_FIXED_NOREPLACE) as u64;
            let args = [mapping.address, mapping.length, mapping.protection as u64, flags, fd, offset];
            self.push(libc::SYS_mmap, args);
        }
        self.push(libc::SYS_close, [FIRST_RESULT, 0, 0, 0, 0, 0]);
    }

    fn push(&mut self, number: i64, args: [u64; 6]) {
        let [a, b, c, d, e, f] = args;
        self.list.push([number as u64, a, b, c, d, e, f, 0]);
    }

    fn push_needed(&mut self, number: i64, args: [u64; 6]) {
        self.needed.push(self.list.len());
        self.push(number, args);
    }

    /// What the kernel's loader maps for a segment; what is to be zeroed then.
    fn map(&mut self, segment: &Segment, base: u64) -> Option<(u64, u64)> {
        let address = base.wrapping_add(segment.address);
        let (start, within) = (address & !(PAGE - 1), address % PAGE);
        let protection = protection(segment.flags);
        let flags = (libc::MAP_PRIVATE | libc::MAP_FIXED) as u64;
        let page_end = |end: u64| (end + PAGE - 1) & !(PAGE - 1);
        let file_end = address + segment.file_size;
        let mut anonymous = start;
        if segment.file_size > 0 {
            let length = page_end(segment.file_size + within);
            let offset = segment.offset - within;
            self.push_needed(libc::SYS_mmap, [start, length, protection, flags, FIRST_RESULT, offset]);
            anonymous = start + length;
        }
        let end = page_end(address + segment.memory_size);
        if end > anonymous {
            let flags = flags | libc::MAP_ANONYMOUS as u64;
            self.push_needed(libc::SYS_mmap, [anonymous, end - anonymous, protection, flags, u64::MAX, 0]);
        }
        let partial = segment.memory_size > segment.file_size
            && segment.file_size > 0
            && segment.flags & elf::WRITE != 0
            && !file_end.is_multiple_of(PAGE);
        partial.then(|| (file_end, PAGE - file_end % PAGE))
    }
}

fn protection(flags: u32) -> u64 {
    let bit = |flag, protection: i32| if flags & flag != 0 { protection as u64 } else { 0 };
    bit(elf::READ, libc::PROT_READ) | bit(elf::WRITE, libc::PROT_WRITE) | bit(elf::EXECUTE, libc::PROT_EXEC)
}

/// Where code and data of a program lie, for /proc/PID/stat and `brk` (prctl(2), PR_SET_MM_MAP).
fn extents(elf: &Elf, base: u64) -> [u64; 5] {
    let (mut code, mut data, mut top) = ((u64::MAX, 0), (0, 0), 0);
    for segment in &elf.segments {
        let start = base.wrapping_add(segment.address);
        let end = start + segment.file_size;
        if segment.flags & elf::EXECUTE != 0 {
            code = (code.0.min(start), code.1.max(end));
        }
        data = (data.0.max(start), data.1.max(end));
        top = top.max(start + segment.memory_size);
    }
    [code.0, code.1, data.0, data.1, top]
}

/// The arguments of the carrier for the program, and for what [`MAPPINGS`] is of.
pub(crate) const PROGRAM: [u64; 6] = [0; 6];
pub(crate) const LOOKASIDE: [u64; 6] = [1, 0, 0, 0, 0, 0];

/// At the exec event: prepares the new program and has its thread make the calls.
///
/// # Errors
/// Where the program cannot be made to run: it must be killed then, as there is no way back.
pub(crate) fn begin(tid: u32, plan: &Plan, with_lookaside: bool) -> Result<Script, Errno> {
    let memory = Memory::of(tid);
    let registers = ptrace::registers(tid)?;
    let mut image = Image::read(memory, arch::stack(&registers))?;
    let mut random = [0; 16];
    if let Some(address) = image.get(aux::RANDOM) {
        memory.read(address, &mut random)?;
    }
    let random = |from: usize| random.iter().skip(from).take(8).fold(0u64, |n, byte| n << 8 ^ u64::from(*byte));

    // The strings: the name, and what scripts put before the arguments.
    let mut strings = plan.name.clone();
    strings.push(0);
    let mut offsets = Vec::new();
    if let Some(prefix) = &plan.prefix {
        for argument in prefix {
            offsets.push(strings.len() as u64);
            strings.extend_from_slice(argument);
            strings.push(0);
        }
    }
    // /proc/PID/cmdline is what lies between two addresses: the arguments must lie together.
    let mut own = Vec::new();
    if plan.prefix.is_some() {
        for address in image.arguments.iter().skip(1) {
            let argument = memory.read_string(*address, ROOM)?;
            own.push(strings.len() as u64);
            strings.extend_from_slice(&argument);
            strings.push(0);
            if strings.len() > ROOM / 2 {
                strings.truncate(own.first().map_or(strings.len(), |first| *first as usize));
                own.clear();
                break;
            }
        }
    }
    let comm = plan.name.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1) as u64;

    // The block that the program starts with lies at the bottom, what the kernel laid there is overwritten.
    let strings_at = (image.end - strings.len() as u64) & !15;
    let original = image.arguments.clone();
    if plan.prefix.is_some() {
        let rest = if own.is_empty() { original.iter().skip(1).copied().collect() } else { Vec::new() };
        image.arguments = offsets.iter().chain(&own).map(|offset| strings_at + offset).chain(rest).collect();
    }
    image.set(aux::EXECFN, strings_at);
    let credentials = &plan.credentials;
    image.set(aux::UID, credentials.uid[0].into());
    image.set(aux::EUID, credentials.uid[1].into());
    image.set(aux::GID, credentials.gid[0].into());
    image.set(aux::EGID, credentials.gid[1].into());
    image.set(aux::SECURE, plan.secure.into());

    let mut calls = Calls::default();
    let mut zeros = Vec::new();
    let mut mapped = None;
    if let Some((_, elf)) = &plan.program {
        let base = Plan::base(elf, random(0));
        calls.push_needed(CARRIER, PROGRAM);
        for segment in &elf.segments {
            zeros.extend(calls.map(segment, base));
        }
        calls.push(libc::SYS_close, [FIRST_RESULT, 0, 0, 0, 0, 0]);
        if with_lookaside {
            // The number of its descriptor is that of the one just closed: the lowest that is free.
            calls.map_lookaside();
        }
        let loader = arch::instruction(&registers).wrapping_sub(plan.real_elf.entry);
        image.set(aux::BASE, if plan.real_elf.movable { loader } else { 0 });
        image.set(aux::PHDR, base.wrapping_add(elf.table));
        image.set(aux::PHENT, 56);
        image.set(aux::PHNUM, elf.table_length.into());
        image.set(aux::ENTRY, base.wrapping_add(elf.entry));
        mapped = Some((elf, base));
    }

    let words = image.words();
    let stack = (strings_at - 8 * words.len() as u64) & !15;
    let aux_words = 2 * image.auxiliary.len() as u64 + 2;
    let aux_at = stack + 8 * (words.len() as u64 - aux_words);
    if let Some((elf, _)) = mapped
        && elf.executable_stack
    {
        let start = (stack - ROOM as u64) & !(PAGE - 1);
        let end = (image.end + PAGE) & !(PAGE - 1);
        let all = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC | libc::PROT_GROWSDOWN) as u64;
        calls.push(libc::SYS_mprotect, [start, end - start, all, 0, 0, 0]);
    }
    calls.push(libc::SYS_prctl, [libc::PR_SET_NAME as u64, strings_at + comm, 0, 0, 0, 0]);
    let mut map = Vec::new();
    if let Some((elf, base)) = mapped {
        let [start_code, end_code, start_data, end_data, top] = extents(elf, base);
        // As the kernel: the heap begins after the program, at a random place within 32 MiB.
        let heap = ((top + PAGE - 1) & !(PAGE - 1)) + ((random(8) % (32 << 20)) & !(PAGE - 1));
        let (args, env) = argument_area(&image, memory, &strings, strings_at, &offsets, &own);
        map = vec![start_code, end_code, start_data, end_data, heap, heap, stack, args.0, args.1, env.0, env.1];
        // The auxiliary vector, its size, and no file.
        map.extend([aux_at, (8 * aux_words) | (0xffff_ffff << 32)]);
    }

    // From bottom to top: list of calls, the map, the block, the strings.
    let map_at = stack - 8 * (map.len() as u64 + 2);
    let length = (8 * map.len()) as u64;
    if length > 0 {
        let option = libc::PR_SET_MM_MAP as u64;
        calls.push(libc::SYS_prctl, [libc::PR_SET_MM as u64, option, map_at, length, 0, 0]);
    }
    calls.push(arch::SCRIPT_END, [u64::MAX, 0, 0, 0, 0, 0]);
    let list = (map_at - 8 * (CALL_WORDS * calls.list.len()) as u64) & !15;
    let mut bytes = vec![0; (strings_at - list) as usize];
    let mut put = |at: u64, words: &[u64]| {
        let start = (at - list) as usize;
        for (room, word) in bytes.get_mut(start..).unwrap_or_default().chunks_exact_mut(8).zip(words) {
            room.copy_from_slice(&word.to_le_bytes());
        }
    };
    put(list, calls.list.as_flattened());
    put(map_at, &map);
    put(stack, &words);
    bytes.extend_from_slice(&strings);
    memory.write(list, &bytes)?;

    let code = arch::instruction(&registers) & !(PAGE - 1);
    let mut covered = [0; arch::SCRIPT.len()];
    for ((index, room), word) in covered.iter_mut().enumerate().zip(arch::SCRIPT) {
        let at = code + 8 * index as u64;
        let mut bytes = [0; 8];
        memory.read(at, &mut bytes)?;
        *room = u64::from_le_bytes(bytes);
        ptrace::poke(tid, at, word)?;
    }
    let mut running = registers;
    arch::start_script(&mut running, code, list);
    // Beneath everything, as a signal's frame would be.
    let entry = arch::instruction(&registers);
    let mut start = registers;
    arch::go_to(&mut start, entry, stack);
    arch::skip(&mut start, 0);
    arch::go_to(&mut running, code, list - 4096);
    ptrace::set_registers(tid, &running)?;
    let base = entry.wrapping_sub(plan.real_elf.entry);
    let ends = plan.real_elf.segments.iter().map(|segment| segment.address.saturating_add(segment.memory_size));
    let top = ends.max().unwrap_or(0);
    Ok(Script {
        start,
        code,
        covered,
        list,
        needed: calls.needed,
        mappings: calls.mappings,
        loader: base..base.wrapping_add(top),
        zeros,
        instruction: code + AFTER_CALL,
    })
}

/// Where arguments and variables lie.
fn argument_area(
    image: &Image,
    memory: Memory,
    strings: &[u8],
    strings_at: u64,
    prefix: &[u64],
    own: &[u64],
) -> ((u64, u64), (u64, u64)) {
    let end_of = |address: Option<&u64>, or: u64| {
        address.map_or(or, |at| at + memory.read_string(*at, MAX_VECTOR).map_or(0, |text| text.len() as u64 + 1))
    };
    let first = image.arguments.first().copied().unwrap_or(strings_at);
    let arguments = match prefix.first() {
        Some(start) if image.arguments.len() == prefix.len() + own.len() => {
            (strings_at + start, strings_at + strings.len() as u64)
        }
        _ => (first, end_of(image.arguments.last(), first).max(first)),
    };
    let start = image.variables.first().copied().unwrap_or(arguments.1);
    (arguments, (start, end_of(image.variables.last(), start).max(start)))
}

impl Script {
    /// At the stop that ends the calls: the program starts. Gives its memory.
    ///
    /// # Errors
    /// Where a call has failed that the program needs.
    pub(crate) fn end(&self, tid: u32) -> Result<Arc<AddressSpace>, Errno> {
        let memory = Memory::of(tid);
        let size = 8 * CALL_WORDS;
        let mappings = self.mappings.map_or(0..0, |first| first..first + MAPPINGS.len());
        let count = self.needed.last().map_or(0, |last| last + 1).max(mappings.end);
        let mut bytes = vec![0; count * size];
        memory.read(self.list, &mut bytes)?;
        let result = |index: usize| {
            let result = bytes.get((index + 1) * size - 8..(index + 1) * size).unwrap_or_default();
            result.try_into().map_or(-1, i64::from_le_bytes)
        };
        for index in &self.needed {
            let result = result(*index);
            if (-4095..0).contains(&result) {
                return Err(Errno::from_raw_os_error(-result as i32));
            }
        }
        let is_mapped = !mappings.is_empty()
            && mappings.zip(MAPPINGS).all(|(index, mapping)| result(index) as u64 == mapping.address);
        for (at, length) in &self.zeros {
            memory.write(*at, &vec![0; *length as usize])?;
        }
        for (index, word) in self.covered.iter().enumerate() {
            ptrace::poke(tid, self.code + 8 * index as u64, *word)?;
        }
        ptrace::set_registers(tid, &self.start)?;
        Ok(AddressSpace::new(is_mapped.then(|| self.loader.clone())))
    }
}
