//! The threads of the supervisor.

use super::{
    Answer, Call, Kernel, Lookaside, Meaning, RESTART, Semantics, Shared,
    filter::{CARRIER, is_trapped},
    task::Task,
    tracer::Tracer,
};
use crate::{
    run::ExitStatus,
    status::TaskStatus,
    sys::{
        notify::{self, Notification},
        signal::{self, Blocking},
    },
};
use rustix::{
    fd::{AsFd, OwnedFd},
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// A call is answered by one thread; more than this wait in a queue.
const MOST_THREADS: usize = 4;

/// Answers every call of a process and all that it starts, until it has ended and nothing of it is left; how it ended.
///
/// This thread must have seized it. `task` is what it is, and `listener` that of its filter.
pub(crate) fn supervise(
    kernel: Kernel,
    semantics: Box<dyn Semantics>,
    task: Arc<Task>,
    listener: OwnedFd,
    started: impl FnOnce() -> io::Result<()>,
) -> io::Result<ExitStatus> {
    let shared = Arc::new(Shared {
        kernel,
        lookaside: Lookaside::new().inspect_err(|errno| tracing::debug!("every call is notified: {errno}")).ok(),
        semantics,
        foretold: Mutex::new(HashMap::new()),
        late: Mutex::new(HashMap::new()),
        interrupted: Mutex::new(HashSet::new()),
        over: AtomicBool::new(false),
    });
    let first = task.tid;
    // Whose parent has ended is waited for here.
    nix::sys::prctl::set_child_subreaper(true)?;
    // Descriptors are held for all of them.
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    signal::allow_waking()?;
    shared.kernel.add(&task);
    notify::wake_on_same_processor(listener.as_fd());
    let listener = Arc::new(listener);
    let threads = thread::available_parallelism().map_or(2, usize::from).clamp(2, MOST_THREADS);
    for index in 0..threads {
        let (shared, listener) = (Arc::clone(&shared), Arc::clone(&listener));
        // They end with the process, or where the filter has no user left.
        thread::Builder::new().name(format!("calls-{index}")).spawn(move || serve(&shared, &listener))?;
    }
    started()?;
    let status = Tracer::new(&shared, task).run();
    shared.over.store(true, Ordering::Relaxed);
    status?.ok_or_else(|| io::Error::other(format!("process {first} was lost")))
}

fn serve(shared: &Arc<Shared>, listener: &Arc<OwnedFd>) {
    while !shared.over.load(Ordering::Relaxed) {
        match notify::receive(listener.as_fd()) {
            Ok(Some(notification)) => handle(shared, listener, &notification),
            Ok(None) => {}
            Err(errno) => {
                tracing::debug!("no more notifications: {errno}");
                return;
            }
        }
    }
}

fn handle(shared: &Arc<Shared>, listener: &Arc<OwnedFd>, notification: &Notification) {
    let Notification { id, tid, number, args, instruction } = *notification;
    let Some(task) = shared.kernel.task(tid) else {
        // Gone meanwhile.
        let _ = notify::answer(listener.as_fd(), id, Err(Errno::NOSYS));
        return;
    };
    let foretold = if number == CARRIER { shared.take_foretold(tid, args, instruction) } else { None };
    let number = match foretold {
        None => number,
        Some(Meaning::Call(number)) => number,
        Some(Meaning::Descriptor(fd)) => {
            if let Err(errno) = notify::answer_with_descriptor(listener.as_fd(), id, fd.as_fd(), true) {
                let _ = notify::answer(listener.as_fd(), id, Err(errno));
            }
            return;
        }
    };
    let call = Call { number, args, task };
    let answer = shared.take_late(notification).unwrap_or_else(|| answer(shared, &call, instruction));
    match answer {
        Answer::Later(later) => {
            let (own, to, notification) = (Arc::clone(shared), Arc::clone(listener), *notification);
            let spawned = thread::Builder::new().name("later".into()).spawn(move || {
                if let Some(answer) = wait_for(&own, &to, &notification, later) {
                    give(&own, &to, &notification, number, answer);
                }
            });
            if let Err(error) = spawned {
                tracing::warn!("no thread for a call that blocks: {error}");
                let _ = notify::answer(listener.as_fd(), notification.id, Err(Errno::AGAIN));
            }
        }
        answer => give(shared, listener, notification, number, answer),
    }
}

fn answer(shared: &Shared, call: &Call, instruction: u64) -> Answer {
    let Some(lookaside) = &shared.lookaside else {
        return shared.semantics.answer(&shared.kernel, call);
    };
    lookaside.watch(call);
    let mut answer = shared.semantics.answer(&shared.kernel, call);
    lookaside.learn(call, &mut answer, instruction);
    answer
}

/// How often a call that blocks is looked after.
const PATIENCE: Duration = Duration::from_millis(20);

/// Finds an answer that needs time; none where nobody waits for it any more. A thread that waits for a notification is
/// told of no signal, as it is traced: here they are looked for.
fn wait_for(
    shared: &Shared,
    listener: &OwnedFd,
    notification: &Notification,
    later: Box<dyn FnOnce() -> Answer + Send>,
) -> Option<Answer> {
    let blocking = Blocking::this();
    let is_waiting = || notify::is_waiting(listener.as_fd(), notification.id);
    let (done, is_done) = (Mutex::new(false), Condvar::new());
    let answer = thread::scope(|threads| {
        threads.spawn(|| {
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            while !*done {
                if !is_waiting() || has_signal(notification.tid) {
                    blocking.wake();
                }
                done = is_done.wait_timeout(done, PATIENCE).unwrap_or_else(PoisonError::into_inner).0;
            }
        });
        let answer = later();
        *done.lock().unwrap_or_else(PoisonError::into_inner) = true;
        is_done.notify_all();
        answer
    });
    match answer {
        Answer::Error(Errno::INTR) => is_waiting().then(|| {
            shared.interrupted.lock().unwrap_or_else(PoisonError::into_inner).insert(notification.tid);
            Answer::Error(Errno::from_raw_os_error(RESTART as i32))
        }),
        answer => Some(answer),
    }
}

/// Whether a signal is to be delivered to a thread.
fn has_signal(tid: u32) -> bool {
    let Some(status) = TaskStatus::of(tid) else { return false };
    let set = |name| status.bits(name).unwrap_or(0);
    (set("SigPnd") | set("ShdPnd")) & !set("SigBlk") != 0
}

fn give(shared: &Shared, listener: &OwnedFd, notification: &Notification, number: i64, mut answer: Answer) {
    let (listener, id) = (listener.as_fd(), notification.id);
    while let Answer::Later(later) = answer {
        answer = later();
    }
    let given = match &answer {
        Answer::Return(value) => notify::answer(listener, id, Ok(*value)),
        Answer::Error(errno) => notify::answer(listener, id, Err(*errno)),
        // The kernel would make the call that carries it.
        Answer::Native if is_trapped(number) => notify::answer(listener, id, Err(Errno::PERM)),
        Answer::Native | Answer::Later(_) => notify::go_on(listener, id),
        Answer::Descriptor { fd, close_on_exec } => {
            match notify::answer_with_descriptor(listener, id, fd.as_fd(), *close_on_exec) {
                // Too many, which is the caller's business.
                Err(errno) if errno != Errno::NOENT => notify::answer(listener, id, Err(errno)),
                other => other,
            }
        }
    };
    match given {
        Ok(()) => {}
        Err(Errno::NOENT) if matches!(answer, Answer::Native) => {}
        Err(Errno::NOENT) => shared.keep(notification, answer),
        Err(errno) => tracing::debug!("call {number} could not be answered: {errno}"),
    }
}
