//! Plays the kernel for a worker that is allowed nothing (the rung `ptrace`): see the design in docs/emulation.md.

mod arch;
pub(crate) mod calls;
mod credentials;
mod elf;
mod exec;
pub(crate) mod filter;
mod inject;
pub(crate) mod lookaside;
mod rewrite;
mod script;
mod start;
mod supervise;
pub(crate) mod task;
mod tracer;
pub(crate) mod vfs;

use crate::{run::Limit, sys::notify::Notification};
use calls::{Answer, Call};
use exec::Program;
use lookaside::Lookaside;
use rustix::{fd::OwnedFd, io::Errno};
use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use task::Task;

#[cfg(test)]
mod tests;

pub(crate) use start::split;

/// The supervisor's state, shared by its threads.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) tasks: RwLock<HashMap<u32, Arc<Task>>>,
    /// A directory of the user's own, for files of emulated memory file systems.
    pub(crate) scratch: PathBuf,
    /// Bits of the limits that were met.
    limits: AtomicU32,
}

impl Kernel {
    pub(crate) fn new(scratch: PathBuf) -> Self {
        Self { tasks: RwLock::default(), scratch, limits: AtomicU32::new(0) }
    }

    pub(crate) fn meet(&self, limit: Limit) {
        self.limits.fetch_or(limit.bit(), Ordering::Relaxed);
    }

    pub(crate) fn take_limits(&self) -> u32 {
        self.limits.swap(0, Ordering::Relaxed)
    }

    pub(crate) fn task(&self, tid: u32) -> Option<Arc<Task>> {
        self.tasks.read().unwrap_or_else(PoisonError::into_inner).get(&tid).cloned()
    }

    fn add(&self, task: &Arc<Task>) {
        self.tasks.write().unwrap_or_else(PoisonError::into_inner).insert(task.tid, Arc::clone(task));
    }

    fn remove(&self, tid: u32) -> Option<Arc<Task>> {
        self.tasks.write().unwrap_or_else(PoisonError::into_inner).remove(&tid)
    }
}

/// What a call is rewritten to, with what must stay open until it is made.
#[derive(Debug)]
pub(crate) struct Rewritten {
    /// In place of what the caller's pointer leads to.
    pub(crate) bytes: Vec<u8>,
    pub(crate) hold: Option<OwnedFd>,
}

/// What calls mean, apart from how they arrive. One is over `calls` and `vfs`; tests have their own.
pub(crate) trait Semantics: Send + Sync + Debug {
    /// Answers a call that came as a notification.
    fn answer(&self, kernel: &Kernel, call: &Call) -> Answer;

    /// Finds a file that this task may execute; flags are AT_EMPTY_PATH and AT_SYMLINK_NOFOLLOW.
    fn program(&self, kernel: &Kernel, task: &Arc<Task>, dir: i32, path: &[u8], flags: i32) -> Result<Program, Errno>;

    /// The next entries of an emulated directory (as getdents64 lays them out), from a cursor on, and the cursor after
    /// them. `None`: the kernel can do this.
    fn read_directory(
        &self,
        kernel: &Kernel,
        task: &Arc<Task>,
        fd: i32,
        length: usize,
        cursor: &dyn Fn() -> Result<u64, Errno>,
    ) -> Option<Result<(Vec<u8>, u64), Errno>>;

    /// The real address of a socket; `binds`: it is made there. `None`: as it is.
    fn socket_address(
        &self,
        kernel: &Kernel,
        task: &Arc<Task>,
        address: &[u8],
        binds: bool,
    ) -> Option<Result<Rewritten, Errno>>;

    /// After a bind of such an address: the result.
    fn socket_bound(&self, kernel: &Kernel, task: &Arc<Task>, address: &[u8], result: i64);

    /// The real path to watch (inotify_add_watch).
    fn watched_path(
        &self,
        kernel: &Kernel,
        task: &Arc<Task>,
        path: &[u8],
        mask: u32,
    ) -> Option<Result<(Rewritten, u32), Errno>>;
}

/// What the tracer tells those who answer notifications about the next call of a task.
#[derive(Debug)]
struct Foretold {
    args: [u64; 6],
    instruction: u64,
    what: Meaning,
}

#[derive(Debug)]
enum Meaning {
    /// It is really this call.
    Call(i64),
    /// This is the answer.
    Descriptor(OwnedFd),
}

/// An answer that came too late, as a signal had interrupted the call: before kernel 5.19 any signal does. What was done
/// cannot be undone, so the call must find its answer when it is made again.
#[derive(Debug)]
struct Late {
    number: i64,
    args: [u64; 6],
    instruction: u64,
    answer: Answer,
    since: Instant,
}

/// What the kernel takes for a call that a signal has interrupted (linux/errno.h): it is made again, or ends with EINTR,
/// as the handler was installed (`ERESTARTSYS`).
const RESTART: i64 = 512;
/// The same, but it is made again in any case (`ERESTARTNOINTR`).
const RESTART_ALWAYS: i64 = 513;

/// How long a handler may take until the interrupted call is made again.
const LATE: Duration = Duration::from_secs(1);

/// What all threads of the supervisor share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) kernel: Kernel,
    /// None where it cannot be had.
    lookaside: Option<Lookaside>,
    semantics: Box<dyn Semantics>,
    foretold: Mutex<HashMap<u32, Vec<Foretold>>>,
    late: Mutex<HashMap<u32, Late>>,
    /// Threads whose call, that blocks, a signal has rightly interrupted.
    interrupted: Mutex<HashSet<u32>>,
    over: AtomicBool,
}

impl Shared {
    fn foretell(&self, tid: u32, args: [u64; 6], instruction: u64, what: Meaning) {
        let mut foretold = self.foretold.lock().unwrap_or_else(PoisonError::into_inner);
        foretold.entry(tid).or_default().push(Foretold { args, instruction, what });
    }

    /// What was foretold of this very call.
    fn take_foretold(&self, tid: u32, args: [u64; 6], instruction: u64) -> Option<Meaning> {
        let mut foretold = self.foretold.lock().unwrap_or_else(PoisonError::into_inner);
        let all = foretold.get_mut(&tid)?;
        let index = all.iter().position(|this| this.args == args && this.instruction == instruction)?;
        Some(all.remove(index).what)
    }

    /// Keeps the answer to a call that does not wait any more, for when it is made again.
    fn keep(&self, notification: &Notification, answer: Answer) {
        let Notification { tid, number, args, instruction, .. } = *notification;
        if self.kernel.task(tid).is_some() {
            let late = Late { number, args, instruction, answer, since: Instant::now() };
            self.late.lock().unwrap_or_else(PoisonError::into_inner).insert(tid, late);
        }
    }

    /// The answer to this very call, if it was interrupted before.
    fn take_late(&self, notification: &Notification) -> Option<Answer> {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        let this = late.get(&notification.tid)?;
        let same = this.number == notification.number
            && this.args == notification.args
            && this.instruction == notification.instruction;
        if same || this.since.elapsed() > LATE {
            let this = late.remove(&notification.tid)?;
            return same.then_some(this.answer);
        }
        None
    }

    fn take_interrupted(&self, tid: u32) -> bool {
        self.interrupted.lock().unwrap_or_else(PoisonError::into_inner).remove(&tid)
    }

    fn forget(&self, tid: u32) {
        self.take_interrupted(tid);
        self.late.lock().unwrap_or_else(PoisonError::into_inner).remove(&tid);
        self.foretold.lock().unwrap_or_else(PoisonError::into_inner).remove(&tid);
    }
}
