//! Seccomp programs: the instructions that occur, and the search for a number.

use seccompiler::sock_filter;

/// `linux/audit.h`.
pub(crate) const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
pub(crate) const AUDIT_ARCH_I386: u32 = 0x4000_0003;
pub(crate) const AUDIT_ARCH_AARCH64: u32 = 0xc000_00b7;

/// `linux/filter.h` and `linux/bpf_common.h`.
pub(crate) const LOAD: u16 = 0x20;
pub(crate) const JUMP: u16 = 0x05;
pub(crate) const JUMP_IF_EQUAL: u16 = 0x15;
pub(crate) const JUMP_IF_AT_LEAST: u16 = 0x35;
pub(crate) const AND: u16 = 0x54;
pub(crate) const RETURN: u16 = 0x06;

/// `linux/seccomp.h`.
pub(crate) const RET_ERRNO: u32 = 0x0005_0000;
pub(crate) const RET_USER_NOTIF: u32 = 0x7fc0_0000;
pub(crate) const RET_ALLOW: u32 = 0x7fff_0000;
pub(crate) const NUMBER_OFFSET: u32 = 0;
pub(crate) const ARCH_OFFSET: u32 = 4;
/// Six of eight bytes each; of each the low half comes first on the processors that there is a table for.
pub(crate) const ARGUMENTS_OFFSET: u32 = 16;

pub(crate) fn statement(code: u16, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

pub(crate) fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// The code for the interval in which the loaded number lies, found by binary search: a filter runs before each call
/// that the kernel cannot decide in advance. Each interval begins at its number and ends before the next one's; the
/// first begins at 0.
pub(crate) fn search<V: Copy, E>(
    intervals: &[(u32, V)],
    leaf: &impl Fn(V) -> Result<Vec<sock_filter>, E>,
) -> Result<Vec<sock_filter>, E> {
    let (below, above) = intervals.split_at(intervals.len() / 2);
    let Some((pivot, verdict)) = above.first() else {
        return Ok(Vec::new());
    };
    if below.is_empty() {
        return leaf(*verdict);
    }
    let (lower, upper) = (search(below, leaf)?, search(above, leaf)?);
    let mut code = match u8::try_from(lower.len()) {
        Ok(distance) => vec![jump(JUMP_IF_AT_LEAST, *pivot, distance, 0)],
        Err(_) => vec![jump(JUMP_IF_AT_LEAST, *pivot, 0, 1), statement(JUMP, lower.len() as u32)],
    };
    code.extend(lower);
    code.extend(upper);
    Ok(code)
}

/// What the kernel does with a program, for the instructions that occur, and how many of them that takes.
#[cfg(test)]
pub(crate) fn interpret(program: &[sock_filter], arch: u32, number: u32, arguments: [u64; 6]) -> (u32, usize) {
    let mut data = Vec::new();
    data.extend(number.to_ne_bytes());
    data.extend(arch.to_ne_bytes());
    data.extend([0; 8]);
    data.extend(arguments.into_iter().flat_map(u64::to_ne_bytes));
    let (mut at, mut accumulator) = (0, 0u32);
    for steps in 1.. {
        let i = &program[at];
        at += 1;
        let branch = |taken: bool| usize::from(if taken { i.jt } else { i.jf });
        match i.code {
            LOAD => accumulator = u32::from_ne_bytes(data[i.k as usize..i.k as usize + 4].try_into().unwrap()),
            JUMP => at += i.k as usize,
            JUMP_IF_EQUAL => at += branch(accumulator == i.k),
            JUMP_IF_AT_LEAST => at += branch(accumulator >= i.k),
            0x25 => at += branch(accumulator > i.k),
            0x45 => at += branch(accumulator & i.k != 0),
            AND => accumulator &= i.k,
            RETURN => return (i.k, steps),
            code => panic!("instruction {code:#x}"),
        }
    }
    unreachable!()
}
