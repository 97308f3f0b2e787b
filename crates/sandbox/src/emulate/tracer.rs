//! The thread that traces: it follows processes as they come and go, forwards signals, and rewrites the calls that
//! cannot be answered from outside.
//!
//! A task can vanish at any time (SIGKILL): then every request fails with ESRCH, and its end is told by `wait` later.

use super::{
    Meaning, RESTART, RESTART_ALWAYS, Shared, arch,
    calls::table::is_notified,
    exec::{self, Plan},
    filter::{CARRIER, EMULATED_CLONE_FLAGS, TRAP_MARK},
    inject::{self, Script},
    rewrite,
    task::Task,
};
use crate::{
    run::ExitStatus,
    status::TaskStatus,
    sys::ptrace::{self, Registers, Resume, Status, event},
};
use nix::libc;
use rustix::{
    fs::stat,
    io::Errno,
    process::{Pid, Signal, kill_process},
};
use std::{
    collections::HashMap,
    io,
    sync::{Arc, PoisonError, atomic::Ordering},
};

/// `si_code` of a SIGSYS that a filter sent (asm-generic/siginfo.h).
const SYS_SECCOMP: i32 = 1;
const CAP_SYS_ADMIN: u32 = 21;

/// An execve under way.
#[derive(Debug)]
pub(super) struct Exec {
    /// As the call was made.
    saved: Registers,
    /// Signals wait until it is over.
    mask: u64,
    plan: Plan,
    /// The descriptor by which the task reaches the file.
    fd: i64,
}

/// What the next stop of a task means.
#[derive(Debug)]
pub(super) enum State {
    Plain,
    /// It gets a descriptor of the program, as the result of a call.
    ExecDescriptor(Box<Exec>),
    /// It is about to execute it.
    ExecEntry(Box<Exec>),
    /// It executes it.
    Exec(Box<Exec>),
    /// That failed with this error: it closes the descriptor.
    ExecClose(Box<Exec>, i64),
    ExecClosed(Box<Exec>, i64),
    /// It makes calls before the first instruction of a new program.
    Script(Box<Script>, u64),
    /// It makes a call of which it shall see this of it, and these arguments.
    Result {
        args: [u64; 6],
        result: i64,
    },
    /// The same, but sees the call's own result; memory is written back.
    Restore(Box<rewrite::Restore>),
    /// It makes a clone again, without the flags that are emulated.
    CloneEntry {
        args: [u64; 6],
        flags: u64,
    },
    Clone {
        args: [u64; 6],
        flags: u64,
    },
    /// Being the first of a pid namespace, it becomes the one to whom orphans go.
    Reaper(Box<Registers>),
    ReaperDone(Box<Registers>),
}

#[derive(Debug)]
struct Tracee {
    /// `None` until its parent tells of it.
    task: Option<Arc<Task>>,
    /// It has stopped at its beginning, with this signal.
    held: Option<i32>,
    started: bool,
    /// Stops when it exits.
    exit_traced: bool,
    /// It has that from its parent, and shall not.
    exit_inherited: bool,
    /// It has stopped there, until all of its pid namespace have ended.
    exiting: bool,
    state: State,
    resume: Resume,
}

impl Tracee {
    fn new(task: Option<Arc<Task>>) -> Self {
        Self {
            task,
            held: None,
            started: false,
            exit_traced: false,
            exit_inherited: false,
            exiting: false,
            state: State::Plain,
            resume: Resume::Continue,
        }
    }
}

pub(super) struct Tracer<'a> {
    shared: &'a Shared,
    tracees: HashMap<u32, Tracee>,
    first: u32,
    status: Option<ExitStatus>,
    /// A first process of a pid namespace waits at its exit.
    exiting: usize,
}

impl<'a> Tracer<'a> {
    /// `first` has been seized.
    pub(super) fn new(shared: &'a Shared, first: Arc<Task>) -> Self {
        let tid = first.tid;
        let mut tracee = Tracee::new(Some(first));
        tracee.started = true;
        Self { shared, tracees: HashMap::from([(tid, tracee)]), first: tid, status: None, exiting: 0 }
    }

    /// Until nothing is left; how the first one ended.
    pub(super) fn run(mut self) -> io::Result<Option<ExitStatus>> {
        while let Some((tid, status)) = ptrace::wait_any()? {
            match self.handle(tid, status) {
                // It has vanished, which `wait` will tell.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => {
                    tracing::warn!("task {tid} is lost after {status:?}: {errno}");
                    kill(tid);
                }
            }
        }
        Ok(self.status)
    }

    fn handle(&mut self, tid: u32, status: Status) -> Result<(), Errno> {
        match status {
            Status::Exited(code) => self.ended(tid, ExitStatus::Code(code)),
            Status::Killed(signal) => self.ended(tid, ExitStatus::Signal(signal)),
            Status::Event(event::EXEC, _) => return self.executed(tid),
            Status::Event(event::FORK | event::VFORK | event::CLONE, _) => return self.cloned(tid),
            Status::Event(event::STOP, signal) => return self.stopped(tid, signal),
            Status::Event(event::SECCOMP, _) => return self.called(tid),
            Status::Event(event::EXIT, _) => return self.exits(tid),
            Status::Event(..) => return self.resume(tid, 0),
            Status::Call => return self.at_call(tid),
            Status::Signal(libc::SIGSYS) if ptrace::signal_info(tid)? == (SYS_SECCOMP, TRAP_MARK.into()) => {
                return self.trapped(tid);
            }
            Status::Signal(signal) => {
                self.insist(tid)?;
                return self.resume(tid, signal);
            }
        }
        Ok(())
    }

    /// A signal may interrupt a call before its notification is received. No such call ends with EINTR by itself, so that it
    /// has to be made again whatever the handler says; but for those that were answered so.
    fn insist(&self, tid: u32) -> Result<(), Errno> {
        let mut registers = ptrace::registers(tid)?;
        let number = arch::number(&registers);
        if arch::result(&registers) == -RESTART && is_notified(number) && !self.shared.take_interrupted(tid) {
            arch::set_restart(&mut registers, number, -RESTART_ALWAYS);
            ptrace::set_registers(tid, &registers)?;
        }
        Ok(())
    }

    /// Goes on as before.
    fn resume(&self, tid: u32, signal: i32) -> Result<(), Errno> {
        let how = self.tracees.get(&tid).map_or(Resume::Continue, |tracee| tracee.resume);
        ptrace::resume(tid, how, signal)
    }

    /// Goes on, and the next stop means something else.
    fn go(&mut self, tid: u32, state: State, how: Resume) -> Result<(), Errno> {
        if let Some(tracee) = self.tracees.get_mut(&tid) {
            tracee.state = state;
            tracee.resume = how;
        }
        ptrace::resume(tid, how, 0)
    }

    fn plain(&mut self, tid: u32) -> Result<(), Errno> {
        self.go(tid, State::Plain, Resume::Continue)
    }

    fn task(&self, tid: u32) -> Result<Arc<Task>, Errno> {
        self.tracees.get(&tid).and_then(|tracee| tracee.task.clone()).ok_or(Errno::SRCH)
    }

    fn take_state(&mut self, tid: u32) -> State {
        self.tracees.get_mut(&tid).map_or(State::Plain, |tracee| std::mem::replace(&mut tracee.state, State::Plain))
    }

    // Beginnings and ends.

    fn stopped(&mut self, tid: u32, signal: i32) -> Result<(), Errno> {
        if self.status.is_some() {
            // Nothing begins any more.
            kill(tid);
        }
        let tracee = self.tracees.entry(tid).or_insert_with(|| Tracee::new(None));
        if !tracee.started {
            if tracee.task.is_some() {
                return self.start(tid, signal);
            }
            tracee.held = Some(signal);
            return Ok(());
        }
        match signal {
            libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => ptrace::listen(tid),
            _ => self.resume(tid, 0),
        }
    }

    /// A task that is known runs for the first time.
    fn start(&mut self, tid: u32, signal: i32) -> Result<(), Errno> {
        let Some(tracee) = self.tracees.get_mut(&tid) else {
            return Ok(());
        };
        tracee.started = true;
        tracee.held = None;
        let is_init = tracee
            .task
            .as_ref()
            .is_some_and(|task| task.process.pid == tid && task.process.pids.init.load(Ordering::Relaxed) == tid);
        if is_init {
            tracee.exit_traced = true;
            ptrace::trace_exit(tid, true)?;
            let registers = ptrace::registers(tid)?;
            let mut call = registers;
            arch::repeat(&mut call, libc::SYS_prctl);
            arch::set_args(&mut call, [libc::PR_SET_CHILD_SUBREAPER as u64, 1, 0, 0, 0, 0]);
            ptrace::set_registers(tid, &call)?;
            return self.go(tid, State::Reaper(Box::new(registers)), Resume::ToCall);
        }
        if tracee.exit_inherited {
            ptrace::trace_exit(tid, false)?;
        }
        if signal == libc::SIGTRAP { self.resume(tid, 0) } else { ptrace::listen(tid) }
    }

    /// A task has made another.
    fn cloned(&mut self, tid: u32) -> Result<(), Errno> {
        let new = ptrace::event_message(tid)? as u32;
        let parent = self.task(tid)?;
        let flags = match self.tracees.get(&tid).map(|tracee| &tracee.state) {
            Some(State::Clone { flags, .. }) => *flags,
            _ => {
                let registers = ptrace::registers(tid)?;
                match arch::number(&registers) {
                    libc::SYS_clone => arch::args(&registers)[0],
                    libc::SYS_vfork => (libc::CLONE_VM | libc::CLONE_VFORK) as u64,
                    _ => 0,
                }
            }
        };
        self.adopt(new, &parent, flags)?;
        if let (Some(lookaside), Some(child)) = (&self.shared.lookaside, self.shared.kernel.task(new)) {
            lookaside.cloned(&parent, &child, flags);
        }
        self.resume(tid, 0)
    }

    fn adopt(&mut self, new: u32, parent: &Task, flags: u64) -> Result<(), Errno> {
        if self.tracees.get(&new).is_some_and(|tracee| tracee.task.is_some()) {
            return Ok(());
        }
        let task = parent.child(new, flags);
        let init = task.process.pids.init.load(Ordering::Relaxed);
        if init != new && !self.tracees.contains_key(&init) {
            // Its pid namespace has ended.
            kill(new);
        }
        self.shared.kernel.add(&task);
        let exit_traced = self.tracees.get(&parent.tid).is_some_and(|tracee| tracee.exit_traced);
        let is_thread = task.process.pid == parent.process.pid;
        let tracee = self.tracees.entry(new).or_insert_with(|| Tracee::new(None));
        tracee.task = Some(task);
        tracee.exit_traced = exit_traced && is_thread;
        tracee.exit_inherited = exit_traced && !is_thread;
        match tracee.held {
            Some(signal) => match self.start(new, signal) {
                Err(Errno::SRCH) => Ok(()),
                other => other,
            },
            None => Ok(()),
        }
    }

    fn ended(&mut self, tid: u32, status: ExitStatus) {
        let Some(tracee) = self.tracees.remove(&tid) else {
            return;
        };
        self.shared.kernel.remove(tid);
        self.shared.forget(tid);
        if tracee.exiting {
            self.exiting -= 1;
        }
        if tid == self.first {
            self.status = Some(status);
            self.tracees.keys().for_each(|tid| kill(*tid));
        }
        if let Some(task) = tracee.task {
            if task.process.pid == tid {
                self.kill_space(tid);
            }
            if status == ExitStatus::Signal(libc::SIGKILL) {
                self.adopt_orphans(&task);
            }
        }
        if self.exiting > 0 {
            self.let_exit();
        }
    }

    /// Children of a task that was killed before it could tell of them. (Threads of it are killed with it.)
    fn adopt_orphans(&mut self, parent: &Task) {
        let held: Vec<u32> =
            self.tracees.iter().filter(|(_, it)| it.task.is_none() && it.held.is_some()).map(|(tid, _)| *tid).collect();
        for tid in held {
            let Some(status) = TaskStatus::of(tid) else { continue };
            let (Some(process), Some(now)) = (status.number("Tgid"), status.number("PPid")) else { continue };
            // Where its parent lives, and is not one to whom orphans go, that is its real one and will tell of it.
            let told = self.tracees.get(&now).is_some_and(|it| !it.exit_traced && now != self.first);
            if process != tid || told {
                continue;
            }
            if let Err(errno) = self.adopt(tid, parent, 0) {
                tracing::debug!("task {tid} was not adopted: {errno}");
                kill(tid);
            }
            // What it shares is not known.
            if let (Some(lookaside), Some(task)) = (&self.shared.lookaside, self.shared.kernel.task(tid)) {
                lookaside.end(&task);
            }
        }
    }

    fn members(&self, init: u32) -> impl Iterator<Item = &u32> {
        self.tracees
            .iter()
            .filter(move |(_, tracee)| {
                tracee.task.as_ref().is_some_and(|task| task.process.pid != init && task.process.pids.is_within(init))
            })
            .map(|(tid, _)| tid)
    }

    /// With the first process of a pid namespace end all others in it.
    fn kill_space(&self, init: u32) {
        self.members(init).for_each(|tid| kill(*tid));
    }

    /// The first process of a pid namespace begins to exit.
    fn exits(&mut self, tid: u32) -> Result<(), Errno> {
        let task = self.task(tid)?;
        let pid = task.process.pid;
        let threads = self.tracees.values().filter(|it| it.task.as_ref().is_some_and(|t| t.process.pid == pid)).count();
        self.kill_space_of_last(pid, threads);
        if threads == 1 && self.members(pid).next().is_some() {
            if let Some(tracee) = self.tracees.get_mut(&tid) {
                tracee.exiting = true;
                self.exiting += 1;
            }
            return Ok(());
        }
        self.resume(tid, 0)
    }

    fn kill_space_of_last(&self, pid: u32, threads: usize) {
        if threads == 1 {
            self.kill_space(pid);
        }
    }

    /// Lets those exit whose namespaces are empty now.
    fn let_exit(&mut self) {
        let waiting: Vec<u32> = self.tracees.iter().filter(|(_, it)| it.exiting).map(|(tid, _)| *tid).collect();
        for tid in waiting {
            let Ok(task) = self.task(tid) else { continue };
            if self.members(task.process.pid).next().is_none() {
                if let Some(tracee) = self.tracees.get_mut(&tid) {
                    tracee.exiting = false;
                    self.exiting -= 1;
                }
                let _ = self.resume(tid, 0);
            }
        }
    }

    // Calls.

    /// A filter has stopped a task before a call.
    fn called(&mut self, tid: u32) -> Result<(), Errno> {
        let registers = ptrace::registers(tid)?;
        match self.take_state(tid) {
            State::ExecEntry(exec) => return self.go(tid, State::Exec(exec), Resume::ToCall),
            State::Script(script, mask) => {
                if arch::number(&registers) != arch::SCRIPT_END {
                    return Err(Errno::PROTO);
                }
                let space = script.end(tid)?;
                let task = self.task(tid)?;
                *task.process.space.lock().unwrap_or_else(PoisonError::into_inner) = space;
                if let Some(lookaside) = &self.shared.lookaside {
                    lookaside.begin(&task)?;
                }
                ptrace::set_signal_mask(tid, mask)?;
                return self.plain(tid);
            }
            _ => {}
        }
        let task = self.task(tid)?;
        let (number, args) = (arch::number(&registers), arch::args(&registers));
        match number {
            libc::SYS_execve | libc::SYS_execveat => match exec::plan(self.shared, &task, number, args) {
                Ok(plan) => self.begin_exec(tid, registers, plan),
                Err(errno) => self.refuse(tid, registers, errno),
            },
            _ => match rewrite::rewrite(self.shared, &task, number, args, arch::stack(&registers)) {
                rewrite::Change::None => self.plain(tid),
                rewrite::Change::Answer(Ok(result)) => {
                    let mut registers = registers;
                    arch::skip(&mut registers, result);
                    ptrace::set_registers(tid, &registers)?;
                    self.plain(tid)
                }
                rewrite::Change::Answer(Err(errno)) => self.refuse(tid, registers, errno),
                rewrite::Change::Other { number, args: new, result } => {
                    let mut registers = registers;
                    arch::set_number(&mut registers, number);
                    arch::set_args(&mut registers, new);
                    ptrace::set_registers(tid, &registers)?;
                    self.go(tid, State::Result { args, result }, Resume::ToCall)
                }
                rewrite::Change::Arguments(new, restore) => {
                    let mut registers = registers;
                    arch::set_args(&mut registers, new);
                    ptrace::set_registers(tid, &registers)?;
                    self.go(tid, State::Restore(restore), Resume::ToCall)
                }
            },
        }
    }

    fn refuse(&mut self, tid: u32, mut registers: Registers, errno: Errno) -> Result<(), Errno> {
        arch::skip(&mut registers, -i64::from(errno.raw_os_error()));
        ptrace::set_registers(tid, &registers)?;
        self.plain(tid)
    }

    /// A filter refused a call, which another around it would have refused in silence.
    fn trapped(&mut self, tid: u32) -> Result<(), Errno> {
        let mut registers = ptrace::registers(tid)?;
        let (number, args) = (arch::number(&registers), arch::args(&registers));
        if number == libc::SYS_clone {
            let task = self.task(tid)?;
            if let Err(errno) = may_clone(&task, args[0]) {
                arch::set_result(&mut registers, -i64::from(errno.raw_os_error()));
                ptrace::set_registers(tid, &registers)?;
                return self.plain(tid);
            }
            let mut fewer = args;
            fewer[0] &= !EMULATED_CLONE_FLAGS;
            arch::set_args(&mut registers, fewer);
            arch::repeat(&mut registers, number);
            ptrace::set_registers(tid, &registers)?;
            return self.go(tid, State::CloneEntry { args, flags: args[0] }, Resume::ToCall);
        }
        self.shared.foretell(tid, args, arch::instruction(&registers), Meaning::Call(number));
        arch::repeat(&mut registers, CARRIER);
        ptrace::set_registers(tid, &registers)?;
        self.plain(tid)
    }

    /// At the entry to or exit from a call.
    fn at_call(&mut self, tid: u32) -> Result<(), Errno> {
        let mut registers = ptrace::registers(tid)?;
        let result = arch::result(&registers);
        match self.take_state(tid) {
            State::ExecDescriptor(exec) => self.execute(tid, exec, result),
            // Signals are blocked, so that it can only have failed.
            State::Exec(exec) => {
                arch::set_args(&mut registers, [exec.fd as u64, 0, 0, 0, 0, 0]);
                arch::repeat(&mut registers, libc::SYS_close);
                ptrace::set_registers(tid, &registers)?;
                self.go(tid, State::ExecClose(exec, result), Resume::ToCall)
            }
            State::ExecClose(exec, result) => self.go(tid, State::ExecClosed(exec, result), Resume::ToCall),
            State::ExecClosed(exec, result) => self.give_up(tid, &exec, result),
            State::Result { args, result: wanted } => {
                arch::set_args(&mut registers, args);
                if result >= 0 {
                    arch::set_result(&mut registers, wanted);
                }
                ptrace::set_registers(tid, &registers)?;
                self.plain(tid)
            }
            State::Restore(restore) => {
                let task = self.task(tid)?;
                arch::set_args(&mut registers, restore.finish(self.shared, &task, result));
                ptrace::set_registers(tid, &registers)?;
                self.plain(tid)
            }
            State::CloneEntry { args, flags } => self.go(tid, State::Clone { args, flags }, Resume::ToCall),
            State::Clone { args, .. } => {
                arch::set_args(&mut registers, args);
                ptrace::set_registers(tid, &registers)?;
                self.plain(tid)
            }
            State::Reaper(saved) => self.go(tid, State::ReaperDone(saved), Resume::ToCall),
            State::ReaperDone(saved) => {
                ptrace::set_registers(tid, &saved)?;
                self.plain(tid)
            }
            State::Plain | State::ExecEntry(_) | State::Script(..) => self.plain(tid),
        }
    }

    // Execution.

    /// The task gets a descriptor of the file: nothing of its memory need be changed, which it may share with its
    /// parent (vfork) and with other threads.
    fn begin_exec(&mut self, tid: u32, saved: Registers, plan: Plan) -> Result<(), Errno> {
        let mask = ptrace::signal_mask(tid)?;
        ptrace::set_signal_mask(tid, u64::MAX)?;
        let fd = rustix::io::fcntl_dupfd_cloexec(&plan.real, 0)?;
        let instruction = arch::instruction(&saved);
        self.shared.foretell(tid, arch::args(&saved), instruction, Meaning::Descriptor(fd));
        let mut registers = saved;
        arch::set_number(&mut registers, CARRIER);
        ptrace::set_registers(tid, &registers)?;
        self.go(tid, State::ExecDescriptor(Box::new(Exec { saved, mask, plan, fd: -1 })), Resume::ToCall)
    }

    fn execute(&mut self, tid: u32, mut exec: Box<Exec>, result: i64) -> Result<(), Errno> {
        if result < 0 {
            return self.give_up(tid, &exec, result);
        }
        exec.fd = result;
        let args = arch::args(&exec.saved);
        let (path, argv, envp) = match arch::number(&exec.saved) {
            libc::SYS_execve => (args[0], args[1], args[2]),
            _ => (args[1], args[2], args[3]),
        };
        // The end of the path is an empty one.
        let length = match self.task(tid)?.memory().read_path(path) {
            Ok(path) => path.len() as u64,
            Err(errno) => {
                return self.give_up(tid, &exec, -i64::from(errno.raw_os_error()));
            }
        };
        let mut registers = exec.saved;
        let flags = libc::AT_EMPTY_PATH as u64;
        arch::set_args(&mut registers, [result as u64, path + length, argv, envp, flags, 0]);
        arch::repeat(&mut registers, libc::SYS_execveat);
        ptrace::set_registers(tid, &registers)?;
        self.go(tid, State::ExecEntry(exec), Resume::Continue)
    }

    /// The call has failed, or must be made again.
    fn give_up(&mut self, tid: u32, exec: &Exec, result: i64) -> Result<(), Errno> {
        let mut registers = exec.saved;
        // -ERESTARTSYS and its like.
        if (-516..=-512).contains(&result) {
            arch::set_restart(&mut registers, arch::number(&exec.saved), result);
        } else {
            arch::set_result(&mut registers, result);
        }
        ptrace::set_registers(tid, &registers)?;
        ptrace::set_signal_mask(tid, exec.mask)?;
        self.plain(tid)
    }

    /// A program has been loaded, but has not begun.
    fn executed(&mut self, tid: u32) -> Result<(), Errno> {
        // A thread that is not the first takes the id of the first.
        let former = ptrace::event_message(tid)? as u32;
        let mut tracee = self.tracees.remove(&former).or_else(|| self.tracees.remove(&tid)).ok_or(Errno::SRCH)?;
        let mut task = tracee.task.take().ok_or(Errno::SRCH)?;
        if task.tid != tid {
            task = task.as_leader();
        }
        let others: Vec<u32> = self
            .tracees
            .iter()
            .filter(|(_, other)| other.task.as_ref().is_some_and(|other| other.process.pid == tid))
            .map(|(tid, _)| *tid)
            .collect();
        // At every moment there is such a task: whoever waited for the exec may ask for it now.
        self.shared.kernel.add(&task);
        for other in others.into_iter().chain([former]) {
            self.tracees.remove(&other);
            self.shared.forget(other);
            if other != tid {
                self.shared.kernel.remove(other);
            }
        }
        tracee.task = Some(Arc::clone(&task));
        let state = std::mem::replace(&mut tracee.state, State::Plain);
        self.tracees.insert(tid, tracee);
        let State::Exec(exec) = state else {
            // Past us: that cannot be.
            return Err(Errno::PROTO);
        };
        let Exec { mask, plan, .. } = *exec;
        // Another thread may have changed what the descriptor or the path was.
        let real = stat(format!("/proc/{tid}/exe"))?;
        if (real.st_dev, real.st_ino) != plan.identity {
            return Err(Errno::ACCESS);
        }
        let aside = self.shared.lookaside.as_ref().and_then(|lookaside| lookaside.file().ok());
        let script = inject::begin(tid, &plan, aside.is_some())?;
        let process = &task.process;
        *process.exe.lock().unwrap_or_else(PoisonError::into_inner) = plan.place;
        let same =
            plan.credentials.uid[0] == plan.credentials.uid[1] && plan.credentials.gid[0] == plan.credentials.gid[1];
        *process.dumpable.lock().unwrap_or_else(PoisonError::into_inner) = u32::from(same);
        *task.credentials.lock().unwrap_or_else(PoisonError::into_inner) = plan.credentials;
        if let Some((program, _)) = plan.program {
            self.shared.foretell(tid, inject::PROGRAM, script.instruction, Meaning::Descriptor(program));
            if let Some(file) = aside {
                self.shared.foretell(tid, inject::LOOKASIDE, script.instruction, Meaning::Descriptor(file));
            }
        }
        self.go(tid, State::Script(Box::new(script), mask), Resume::Continue)
    }
}

/// Whether a clone with these flags may be made.
fn may_clone(task: &Task, flags: u64) -> Result<(), Errno> {
    let has = |flag: i32| flags & u64::from(flag as u32) != 0;
    let namespaces = flags & EMULATED_CLONE_FLAGS & !u64::from(libc::CLONE_UNTRACED as u32);
    if namespaces == 0 {
        return Ok(());
    }
    let forbidden = has(libc::CLONE_NEWNS) && has(libc::CLONE_FS)
        || has(libc::CLONE_NEWPID) && has(libc::CLONE_THREAD)
        || has(libc::CLONE_NEWIPC) && has(libc::CLONE_SYSVSEM);
    if forbidden {
        return Err(Errno::INVAL);
    }
    let effective = task.credentials.lock().unwrap_or_else(PoisonError::into_inner).effective;
    if effective & 1 << CAP_SYS_ADMIN == 0 || has(libc::CLONE_NEWUSER) { Err(Errno::PERM) } else { Ok(()) }
}

fn kill(tid: u32) {
    if let Some(pid) = i32::try_from(tid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
}
