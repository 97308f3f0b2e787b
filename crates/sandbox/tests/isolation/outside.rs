//! Tests of what the process that spawns a worker sees.

use crate::{BASE, MODE, options};
use rbuild_sandbox::{
    Cancel, ExitStatus, Isolation, Overlay, RootFs, RunSpec, SpawnError, Worker, WorkerChannel, WorkerOptions, run,
};
use std::{
    fs,
    io::{Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

type Test = (&'static str, fn(&Path));

const TESTS: &[Test] = &[
    ("messages_and_files_reach_the_worker", messages_and_files_reach_the_worker),
    ("a_worker_that_is_killed_is_gone", a_worker_that_is_killed_is_gone),
    ("kill_9_of_the_parent_leaves_nothing", kill_9_of_the_parent_leaves_nothing),
    ("kill_9_of_the_guardian_leaves_nothing", kill_9_of_the_guardian_leaves_nothing),
    ("the_thread_that_spawned_may_end", the_thread_that_spawned_may_end),
    ("what_is_not_there_is_refused", what_is_not_there_is_refused),
    ("one_id_on_request", one_id_on_request),
    ("the_probe_agrees", the_probe_agrees),
];

pub(crate) fn spawn(entry: &str) -> Result<Worker, SpawnError> {
    Worker::spawn(options(entry))
}

pub(crate) fn test_all(base: &Path, wanted: &[String]) -> Result<(), ()> {
    let mut result = Ok(());
    for (name, test) in TESTS {
        if !wanted.is_empty() && !wanted.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        let passed = std::panic::catch_unwind(|| test(base)).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            result = Err(());
        }
    }
    result
}

/// A worker that answers, and sleeps in a step where it is told to.
pub(crate) fn sleeper(mut channel: WorkerChannel) -> i32 {
    if let Some(fd) = channel.take_fd(0) {
        let mut text = String::new();
        fs::File::from(fd).read_to_string(&mut text).unwrap();
        let taken = channel.take_fd(0).is_none();
        channel.send(&(text, taken, std::env::vars().collect::<Vec<_>>())).unwrap();
    }
    while let Ok(Some((base, seconds))) = channel.recv::<(PathBuf, String)>() {
        let dir = base.join(format!("sleep-{seconds}"));
        let overlay = Overlay {
            lower: vec![base.join("busybox")],
            upper: dir.join("upper"),
            work: dir.join("work"),
            durability: rbuild_sandbox::Durability::Volatile,
        };
        fs::create_dir_all(&overlay.upper).unwrap();
        fs::create_dir_all(&overlay.work).unwrap();
        // A command that would survive a parent-death signal, and a child of another session.
        let script = format!("echo started; (setsid sleep {seconds} &) ; exec sleep {seconds}");
        let argv = ["/bin/sh", "-c", &script].map(|word| word.as_bytes().to_vec()).to_vec();
        let mut spec = RunSpec::new(RootFs::Overlay(overlay), argv);
        spec.env = vec![b"PATH=/bin".to_vec()];
        let mut told = false;
        let _ = run(&spec, &Cancel::new().unwrap(), &mut |_| {
            if !std::mem::replace(&mut told, true) {
                channel.send(&"started").unwrap();
            }
        });
    }
    7
}

/// The processes whose command line is `sleep SECONDS`.
fn sleeping(seconds: &str) -> usize {
    let wanted = format!("sleep\0{seconds}\0");
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read(entry.unwrap().path().join("cmdline")).ok())
        .filter(|line| line == wanted.as_bytes())
        .count()
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Seconds that no other test, kind of user or process uses.
fn unique(tag: u32) -> String {
    format!("{}.{tag}", 100_000 + std::process::id())
}

fn start_sleeping(worker: &Worker, base: &Path, seconds: &str) {
    worker.send(&(base, seconds)).unwrap();
    assert_eq!(worker.recv::<String>().unwrap().as_deref(), Some("started"));
    wait_for("two processes sleep", || sleeping(seconds) == 2);
}

fn messages_and_files_reach_the_worker(_: &Path) {
    let (read, mut write) = std::io::pipe().unwrap();
    write.write_all(b"through a pipe").unwrap();
    drop(write);
    let mut options = options("sleeper");
    options.fds = vec![OwnedFd::from(read)];
    options.env = vec![("ONLY".into(), "this".into())];
    let mut worker = Worker::spawn(options).unwrap();
    let (text, taken, env): (String, bool, Vec<(String, String)>) = worker.recv().unwrap().unwrap();
    assert_eq!((text.as_str(), taken), ("through a pipe", true));
    assert_eq!(env, [("ONLY".to_owned(), "this".to_owned())]);
    worker.channel().stream().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(worker.wait().unwrap(), ExitStatus::Code(7));
}

fn a_worker_that_is_killed_is_gone(base: &Path) {
    let mut worker = spawn("sleeper").unwrap();
    let seconds = unique(1);
    start_sleeping(&worker, base, &seconds);
    let killer = worker.killer();
    std::thread::spawn(move || killer.kill());
    assert_eq!(worker.wait().unwrap(), ExitStatus::Signal(9));
    assert_eq!(sleeping(&seconds), 0, "at the return of `wait`");
}

fn kill_9_of_the_parent_leaves_nothing(base: &Path) {
    let mut victim = Command::new("/proc/self/exe")
        .env_clear()
        .env(MODE, "victim")
        .env(BASE, base)
        .env("SECONDS", unique(2))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 1];
    victim.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    assert_eq!(sleeping(&unique(2)), 2);
    victim.kill().unwrap();
    victim.wait().unwrap();
    wait_for("all processes of the build die", || sleeping(&unique(2)) == 0);
}

pub(crate) fn victim() -> ExitCode {
    let base = PathBuf::from(std::env::var_os(BASE).unwrap());
    let worker = spawn("sleeper").unwrap();
    start_sleeping(&worker, &base, &std::env::var("SECONDS").unwrap());
    println!("x");
    loop {
        std::thread::park();
    }
}

fn kill_9_of_the_guardian_leaves_nothing(base: &Path) {
    let mut worker = spawn("sleeper").unwrap();
    let seconds = unique(3);
    start_sleeping(&worker, base, &seconds);
    let pid = rustix::process::Pid::from_raw(worker.pid() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert_eq!(worker.wait().unwrap(), ExitStatus::Signal(9));
    wait_for("all processes of the build die", || sleeping(&seconds) == 0);
}

fn the_thread_that_spawned_may_end(base: &Path) {
    let mut worker = std::thread::spawn(|| spawn("sleeper").unwrap()).join().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let seconds = unique(4);
    start_sleeping(&worker, base, &seconds);
    worker.kill().unwrap();
    assert_eq!(sleeping(&seconds), 0);
}

fn what_is_not_there_is_refused(_: &Path) {
    assert!(matches!(spawn("nothing"), Err(SpawnError::UnknownEntry(name)) if name == "nothing"));
    let options = WorkerOptions { isolation: Isolation::Chroot, ..options("sleeper") };
    assert!(matches!(Worker::spawn(options), Err(SpawnError::Unavailable { .. })));
    let spec = RunSpec::new(RootFs::Directory("/".into()), vec![b"true".to_vec()]);
    if !rustix::process::geteuid().is_root() {
        let error = run(&spec, &Cancel::new().unwrap(), &mut |_| {}).unwrap_err();
        assert_eq!(error.to_string(), "cannot set up the step: create the namespaces of the step");
    }
}

fn one_id_on_request(_: &Path) {
    let mut options = options("sleeper");
    options.isolation = Isolation::Userns;
    options.one_id = true;
    let worker = match Worker::spawn(options) {
        // One id is a user namespace.
        Err(SpawnError::UserNamespace { .. }) if crate::is_in_chroot() => return,
        other => other.unwrap(),
    };
    assert_eq!(worker.facts().privilege, rbuild_sandbox::Privilege::OneId);
    assert!(worker.facts().has_ids(0, 0) && !worker.facts().has_ids(1, 0));
}

fn the_probe_agrees(base: &Path) {
    let found = rbuild_sandbox::probe(base, &base.join("attributes"));
    let worker = Worker::spawn(WorkerOptions { isolation: Isolation::Auto, ..options("sleeper") }).unwrap();
    let facts = found.worker.as_ref().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(facts, worker.facts());
    // The kernel's own does not, where directories cannot be marked.
    let plain = std::env::var(crate::MODE).is_ok_and(|kind| kind == crate::WITHOUT_ATTRIBUTES);
    assert_eq!(found.overlay.is_ok(), !plain, "{:?}", found.overlay);
    let json = serde_json::to_string(&found).unwrap();
    assert_eq!(serde_json::from_str::<rbuild_sandbox::Probe>(&json).unwrap(), found);
    match &found.namespaces {
        Ok(facts) if facts.privilege != rbuild_sandbox::Privilege::OneId => {
            assert_eq!(found.remedies(), Vec::<String>::new());
        }
        _ => assert!(!found.remedies().is_empty()),
    }
}
