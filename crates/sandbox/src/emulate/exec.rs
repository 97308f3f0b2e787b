//! Execution of programs: what an execve means, before the task is changed.

use super::{
    Shared, arch,
    credentials::{Privileges, after_exec},
    elf::{self, Elf},
    script,
    task::{Credentials, Task},
    vfs::Place,
};
use crate::run::Limit;
use nix::libc;
use rustix::{fd::OwnedFd, fs::fstat, io::Errno};
use std::sync::{Arc, PoisonError};

/// As the kernel: a script whose interpreter is a script, and so on.
const MAX_DEPTH: usize = 5;

/// A file that may be executed, as a task sees it.
#[derive(Debug)]
pub(crate) struct Program {
    /// Open for reading.
    pub(crate) file: OwnedFd,
    pub(crate) privileges: Privileges,
    /// Where it is; a file without a name has none.
    pub(crate) place: Option<Place>,
}

/// What is to be done to execute a program.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The file that the kernel executes: the program, or its loader.
    pub(crate) real: OwnedFd,
    pub(crate) real_elf: Elf,
    /// Device and inode of that file.
    pub(crate) identity: (u64, u64),
    /// The program, where the kernel executes its loader.
    pub(crate) program: Option<(OwnedFd, Elf)>,
    /// AT_EXECFN; the last part of it is the name of the process.
    pub(crate) name: Vec<u8>,
    /// What stands in place of the first argument, where scripts were met.
    pub(crate) prefix: Option<Vec<Vec<u8>>>,
    pub(crate) credentials: Credentials,
    pub(crate) secure: bool,
    pub(crate) place: Option<Place>,
}

/// Reads the arguments of an execve or execveat and finds what they mean.
pub(crate) fn plan(shared: &Shared, task: &Arc<Task>, number: i64, args: [u64; 6]) -> Result<Plan, Errno> {
    let (dir, path, flags) = match number {
        libc::SYS_execve => (libc::AT_FDCWD, args[0], 0),
        _ => (args[0] as i32, args[1], args[4] as i32),
    };
    if flags & !(libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno::INVAL);
    }
    let path = task.memory().read_path(path)?;
    if path.is_empty() && flags & libc::AT_EMPTY_PATH == 0 {
        return Err(Errno::NOENT);
    }
    let find = |dir, path: &[u8], flags| shared.semantics.program(&shared.kernel, task, dir, path, flags);
    let name = if dir == libc::AT_FDCWD || path.first() == Some(&b'/') {
        path.clone()
    } else if path.is_empty() {
        format!("/dev/fd/{dir}").into_bytes()
    } else {
        [format!("/dev/fd/{dir}/").as_bytes(), &path].concat()
    };

    let mut program = find(dir, &path, flags)?;
    let mut head = elf::head(&program.file)?;
    let mut prefix: Option<Vec<Vec<u8>>> = None;
    let mut interpreted = name.clone();
    for depth in 0.. {
        if !script::is_script(&head) {
            break;
        }
        if depth == MAX_DEPTH {
            return Err(Errno::LOOP);
        }
        let line = script::parse(&head).ok_or(Errno::NOEXEC)?;
        let mut arguments = vec![line.interpreter.clone()];
        arguments.extend(line.argument);
        arguments.push(interpreted);
        // What an earlier script was called is the first argument, which its interpreter's name takes the place of.
        arguments.extend(prefix.into_iter().flatten().skip(1));
        prefix = Some(arguments);
        program = find(libc::AT_FDCWD, &line.interpreter, 0)?;
        head = elf::head(&program.file)?;
        interpreted = line.interpreter;
    }
    if elf::is_32_bit(&head) {
        shared.kernel.meet(Limit::Program32);
        return Err(Errno::NOEXEC);
    }
    let parsed = elf::parse(&program.file, &head)?;

    let old = task.credentials.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (credentials, secure) = after_exec(&old, &program.privileges).ok_or(Errno::PERM)?;
    let Program { file, place, .. } = program;
    let (real, real_elf, program) = match &parsed.interpreter {
        None => (file, parsed, None),
        Some(loader) => {
            let loader = find(libc::AT_FDCWD, loader, 0)?;
            let head = elf::head(&loader.file)?;
            let loader_elf = elf::parse(&loader.file, &head).map_err(|_| Errno::LIBBAD)?;
            (loader.file, loader_elf, Some((file, parsed)))
        }
    };
    let status = fstat(&real)?;
    let identity = (status.st_dev, status.st_ino);
    Ok(Plan { real, real_elf, identity, program, name, prefix, credentials, secure, place })
}

impl Plan {
    /// Where a position-independent program is put; `random` tells where in the range.
    pub(crate) fn base(elf: &Elf, random: u64) -> u64 {
        if !elf.movable {
            return 0;
        }
        let lowest = elf.segments.iter().map(|segment| segment.address & !(elf::PAGE - 1)).min().unwrap_or(0);
        let aligned = |segment: &elf::Segment| segment.alignment.is_power_of_two();
        let alignment = elf.segments.iter().filter(|s| aligned(s)).map(|s| s.alignment).max().unwrap_or(1);
        let alignment = alignment.max(elf::PAGE);
        // Above where the heap begins, which the kernel has put beside the loader (at most a GiB above the base).
        let base = arch::PROGRAM_BASE + (64 << 30) + (random & ((1 << 28) - 1)) * elf::PAGE;
        ((base + alignment - 1) & !(alignment - 1)).wrapping_sub(lowest & !(alignment - 1))
    }
}
