//! The transports alone: calls mean what they mean to the kernel, and paths are real ones.
//!
//! A test starts this program again for itself: tracer and traced must be processes of their own.

use super::{
    Answer, Call, Kernel, Program, Rewritten, Semantics,
    credentials::Privileges,
    filter,
    supervise::supervise,
    task::{Credentials, Fs, PidSpace, Process, Task},
};
use crate::{
    channel::Channel,
    run::ExitStatus,
    sys::{
        notify,
        process::{Fork, fork},
        ptrace,
    },
};
use nix::libc;
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
};
use std::{
    ffi::CString,
    os::unix::{ffi::OsStringExt, fs::PermissionsExt},
    process::Command,
    sync::{Arc, Mutex, atomic::AtomicU32},
};

const COMMAND: &str = "RBUILD_TEST_EMULATE";
/// Between its arguments.
const SEPARATOR: u8 = 1;

#[derive(Debug)]
struct Real;

impl Semantics for Real {
    fn answer(&self, _kernel: &Kernel, call: &Call) -> Answer {
        match call.number {
            // A call that the test asks with, answered at once.
            libc::SYS_getegid => Answer::Return(4712),
            libc::SYS_chroot => Answer::Return(0),
            libc::SYS_sethostname => Answer::Return(call.args[1] as i64),
            libc::SYS_unshare => {
                call.task.unshare(call.args[0] & !(libc::CLONE_NEWNS as u64));
                Answer::Return(0)
            }
            _ => Answer::Native,
        }
    }

    fn program(
        &self,
        _kernel: &Kernel,
        task: &Arc<Task>,
        dir: i32,
        path: &[u8],
        _flags: i32,
    ) -> Result<Program, Errno> {
        let own =
            path.strip_prefix(b"/proc/self/").map(|rest| [format!("/proc/{}/", task.tid).as_bytes(), rest].concat());
        let path = own.as_deref().unwrap_or(path);
        let base = if dir == libc::AT_FDCWD { "cwd".into() } else { format!("fd/{dir}") };
        let base = format!("/proc/{}/{base}", task.tid);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = if path.is_empty() {
            openat(CWD, &base, flags, Mode::empty())?
        } else {
            openat(openat(CWD, &base, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?, path, flags, Mode::empty())?
        };
        let status = rustix::fs::fstat(&file)?;
        if status.st_mode & 0o170_111 <= 0o100_000 || status.st_mode & 0o170_000 != 0o100_000 {
            return Err(Errno::ACCESS);
        }
        let privileges = Privileges { mode: status.st_mode & 0o777, ..Privileges::default() };
        Ok(Program { file, privileges, place: None })
    }

    fn read_directory(
        &self,
        _kernel: &Kernel,
        _task: &Arc<Task>,
        _fd: i32,
        _length: usize,
        _cursor: &dyn Fn() -> Result<u64, Errno>,
    ) -> Option<Result<(Vec<u8>, u64), Errno>> {
        None
    }

    fn socket_address(
        &self,
        _kernel: &Kernel,
        _task: &Arc<Task>,
        _address: &[u8],
        _binds: bool,
    ) -> Option<Result<Rewritten, Errno>> {
        None
    }

    fn socket_bound(&self, _kernel: &Kernel, _task: &Arc<Task>, _address: &[u8], _result: i64) {}

    fn watched_path(
        &self,
        _kernel: &Kernel,
        _task: &Arc<Task>,
        _path: &[u8],
        _mask: u32,
    ) -> Option<Result<(Rewritten, u32), Errno>> {
        None
    }
}

fn root(pid: u32) -> Arc<Task> {
    let credentials = Credentials {
        uid: [0; 4],
        gid: [0; 4],
        groups: vec![],
        effective: u64::MAX >> 23,
        permitted: u64::MAX >> 23,
        inheritable: 0,
        ambient: 0,
        bounding: u64::MAX >> 23,
        securebits: 0,
        no_new_privs: false,
    };
    let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let files = super::vfs::FileSystem::Host {
        root: openat(CWD, "/", open, Mode::empty()).unwrap(),
        path: "/".into(),
        is_proc: false,
    };
    let namespace = super::vfs::Namespace::new(files).unwrap();
    let place = namespace.root();
    let pids = Arc::new(PidSpace { init: AtomicU32::new(pid), parent: None });
    Arc::new(Task {
        tid: pid,
        process: Arc::new(Process {
            pid,
            exe: Mutex::new(None),
            dumpable: Mutex::new(1),
            pids,
            space: Mutex::default(),
        }),
        fs: Mutex::new(Arc::new(Mutex::new(Fs { root: place.clone(), cwd: place, umask: 0o22 }))),
        credentials: Mutex::new(credentials),
        namespace: Mutex::new(namespace),
        hostname: Mutex::new(Arc::new(Mutex::new(vec![]))),
        network_none: Mutex::new(false),
        pids_for_children: Mutex::new(None),
    })
}

/// Not a test by itself: the supervisor of a command, in a process of its own.
#[test]
fn supervised() {
    let Some(command) = std::env::var_os(COMMAND) else {
        return;
    };
    let argv: Vec<CString> =
        command.into_vec().split(|byte| *byte == SEPARATOR).map(|word| CString::new(word).unwrap()).collect();
    let (ours, theirs) = Channel::pair().unwrap();
    let status = match fork().unwrap() {
        Fork::Child => {
            drop(ours);
            theirs.recv::<()>().unwrap();
            rustix::thread::set_no_new_privs(true).unwrap();
            let listener = notify::install(&filter::program()).unwrap();
            theirs.send_descriptor(listener.as_fd()).unwrap();
            drop(listener);
            theirs.recv::<()>().unwrap();
            let Err(errno) = nix::unistd::execvp(&argv[0], &argv);
            panic!("{:?}: {errno}", argv[0]);
        }
        Fork::Parent(pid) => {
            drop(theirs);
            let pid = pid.as_raw_nonzero().get() as u32;
            ptrace::seize(pid).unwrap();
            ours.send(&()).unwrap();
            let listener: OwnedFd = ours.recv_descriptor().unwrap();
            let kernel = Kernel::new(std::env::temp_dir());
            supervise(kernel, Box::new(Real), root(pid), listener, || ours.send(&()).map_err(std::io::Error::other))
                .unwrap()
        }
    };
    if status != ExitStatus::Code(0) {
        println!("ended: {status:?}");
    }
    #[allow(clippy::exit, reason = "the status is the command's")]
    std::process::exit(status.code());
}

/// Runs a shell script under the supervisor: status and output.
fn run(script: &str) -> (i32, String) {
    let output = Command::new("/proc/self/exe")
        .args(["--exact", "emulate::tests::supervised", "--nocapture", "--test-threads=1", "-q"])
        .env(COMMAND, ["/bin/sh", "-c", script].join("\x01"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let text = text.trim_start_matches("\nrunning 1 test\n").to_owned();
    (output.status.code().unwrap_or(-1), text)
}

/// The output alone, of what must succeed.
fn output(script: &str) -> String {
    let (status, text) = run(script);
    assert_eq!(status, 0, "{text}");
    text
}

/// A directory with executable files.
fn programs(files: &[(&str, &str)]) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap().to_owned();
    for (name, content) in files {
        let file = dir.path().join(name);
        std::fs::write(&file, content.replace("DIR", &path)).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    (dir, path)
}

#[test]
fn a_shell() {
    assert_eq!(run("echo a; exit 3"), (3, "a\nended: Code(3)\n".into()));
    assert_eq!(output("for i in 1 2 3; do echo $i | cat; done | sort -r | tr -d '\\n'"), "321");
    let (status, text) = run("kill -TERM $$");
    assert_eq!((status, text.as_str()), (128 + 15, "ended: Signal(15)\n"));
}

#[test]
fn scripts() {
    let (_dir, dir) = programs(&[
        ("a", "#!/bin/sh\necho a \"$@\"; cat /proc/$$/comm; tr '\\0' ' ' < /proc/$$/cmdline"),
        ("b", "#! DIR/a  x y \n"),
        ("c", "echo no interpreter\n"),
        ("d", "#!DIR/gone\n"),
        ("1", "#!/bin/echo\n"),
        ("2", "#!DIR/1\n"),
        ("3", "#!DIR/2\n"),
        ("4", "#!DIR/3\n"),
        ("5", "#!DIR/4\n"),
        ("6", "#!DIR/5\n"),
    ]);
    assert_eq!(output(&format!("{dir}/a 1 2")), format!("a 1 2\na\n/bin/sh {dir}/a 1 2 "));
    assert_eq!(output(&format!("{dir}/b 3")), format!("a x y {dir}/b 3\nb\n/bin/sh {dir}/a x y {dir}/b 3 "));
    assert_eq!(output(&format!("{dir}/c")), "no interpreter\n");
    assert!(run(&format!("{dir}/d")).1.contains("not found"));
    assert_eq!(output(&format!("{dir}/5 z")), format!("{dir}/1 {dir}/2 {dir}/3 {dir}/4 {dir}/5 z\n"));
    assert!(run(&format!("{dir}/6 z")).1.contains("Too many levels of symbolic links"));
    assert_eq!(run(&format!("test -d {dir} && {dir}")).0, 126);
}

#[test]
fn what_a_program_sees_of_itself() {
    let text =
        output("cat /proc/self/comm; cat /proc/self/cmdline | tr '\\0' ' '; LD_SHOW_AUXV=1 /bin/true | grep -a EXECFN");
    assert_eq!(text.lines().next(), Some("cat"));
    assert!(text.contains("cat /proc/self/cmdline ") && text.contains("/bin/true"), "{text}");
}

#[test]
fn many_processes() {
    let script = "i=0; while [ $i -lt 100 ]; do /bin/true & i=$((i+1)); done; wait; echo all";
    assert_eq!(output(script), "all\n");
}

#[test]
fn stops_and_continues() {
    let script = "sleep 100 & p=$!; state() { sed -n 's/^State:.//p' /proc/$p/status; }
        kill -STOP $p; sleep 0.2; state; kill -CONT $p; sleep 0.2; state; kill $p; wait $p; echo $?";
    let text = output(script);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with(['T', 't']) && lines[1].starts_with('S') && lines[2] == "143", "{text}");
}

#[test]
fn calls_that_another_filter_refuses() {
    assert_eq!(output("chroot / id -g"), "4712\n");
}

#[test]
fn the_first_of_a_pid_namespace_takes_all_with_it() {
    let script = "unshare --pid --fork sh -c '(setsid sleep 1000 & echo $!); sleep 1000 & echo $!; exit 5' > $0;
        echo $?; for p in $(cat $0); do kill -0 $p 2>/dev/null && echo alive; done; true";
    let file = tempfile::NamedTempFile::new().unwrap();
    assert_eq!(output(&script.replace("$0", file.path().to_str().unwrap())), "5\n");
}
