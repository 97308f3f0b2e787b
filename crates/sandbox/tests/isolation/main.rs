//! Runs real commands in real namespaces, as several kinds of user.
//!
//! As root it starts itself again as an ordinary user with subordinate ids, as one without, with no_new_privs, and as
//! root; as anybody else it tests what that user can do. What cannot be tested is told with the reason.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test program with a main of its own")]

mod inside;
mod nested;
mod outside;
mod probe;

use rbuild_sandbox::{Facts, Isolation, Privilege, Refusal, SpawnError, WorkerOptions, init};
use rbuild_testkit::require::STRICT;
use std::{
    cell::Cell,
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

const MODE: &str = "RBUILD_SANDBOX_TEST_MODE";
const BASE: &str = "RBUILD_SANDBOX_TEST_BASE";
const USER: &str = "rbuild-test";
/// The kind of user to whom nothing is allowed.
const EMULATED: &str = "user with an emulated kernel";
/// The same, where the file system keeps no attributes.
const WITHOUT_ATTRIBUTES: &str = "user with an emulated kernel on a ramfs";
/// The kinds of user that get a namespace with one id, which is used if that is asked for.
const ONE_ID: &[&str] = &["user with no_new_privs", "user without a name", "root with one id"];

fn main() -> ExitCode {
    init(&[("inside", inside::serve), ("sleeper", outside::sleeper), (nested::WORD, nested::attack)]);
    if std::env::args().next().is_some_and(|name| name == "probe") {
        return match std::env::args().nth(1).as_deref() {
            Some(nested::WORD) => nested::main(),
            Some(nested::START) => nested::start(),
            _ => probe::main(),
        };
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    match std::env::var(MODE) {
        Ok(mode) if mode == "victim" => outside::victim(),
        Ok(_) => test_as_this_user(&wanted),
        Err(_) => orchestrate(&wanted),
    }
}

/// The kinds of user to test as; those that cannot be had are skipped aloud.
fn orchestrate(wanted: &[String]) -> ExitCode {
    let busybox = match busybox() {
        Ok(busybox) => busybox,
        Err(reason) => return exit_code(skipped("all", &reason)),
    };
    let base = tempfile::Builder::new().prefix("rbuild-sandbox-").tempdir().unwrap();
    // The user that tests must reach this program and its directory.
    let program = base.path().join("isolation");
    fs::copy("/proc/self/exe", &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let failed = Cell::new(false);
    let test = |kind: &str, uid: Option<u32>, mut command: Command| {
        println!("\n== {kind}");
        let dir = base.path().join(kind);
        fs::create_dir(&dir).unwrap();
        if let Some(uid) = uid {
            std::os::unix::fs::chown(&dir, Some(uid), Some(uid)).unwrap();
        }
        let status = command
            .arg(&program)
            .args(wanted)
            .env_clear()
            .env(MODE, kind)
            .env(BASE, &dir)
            .env("BASE_DIR", &dir)
            .envs(std::env::var_os(STRICT).map(|strict| (STRICT, strict)))
            .status()
            .unwrap();
        if !status.success() {
            println!("== {kind}: {status}");
            failed.set(true);
        }
        // Files of subordinate ids are not this user's to remove, unless this is root.
        let _ = rbuild_sandbox::remove_tree(&dir);
    };
    let env = || Command::new("env");
    if !rustix::process::geteuid().is_root() {
        test("as this user", None, env());
        return exit_code(failed.get());
    }
    let setpriv = |uid: u32, more: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".into()]).args(more);
        command
    };
    match test_user() {
        Ok(uid) => {
            test("user with many ids", Some(uid), setpriv(uid, &[]));
            // As in a container: with a part of /proc covered, nobody may mount a fresh one.
            let mut masked = Command::new("unshare");
            let cover = "mount -t tmpfs tmpfs /proc/sys/fs && exec \"$@\"";
            masked.args(["--mount", "sh", "-c", cover, "sh", "setpriv", "--clear-groups"]);
            masked.args([format!("--reuid={uid}"), format!("--regid={uid}")]);
            test("user with a masked proc", Some(uid), masked);
            test("user with no_new_privs", Some(uid), setpriv(uid, &["--no-new-privs"]));
        }
        Err(reason) => failed.set(failed.get() | skipped("user with many ids", &reason)),
    }
    test(EMULATED, Some(61_234), setpriv(61_234, &["--no-new-privs"]));
    let mut plain = Command::new("unshare");
    let cover = "mount -t ramfs ramfs \"$BASE_DIR\" && chown 61234:61234 \"$BASE_DIR\" && exec \"$@\"";
    plain.args(["--mount", "sh", "-c", cover, "sh", "setpriv", "--reuid=61234", "--regid=61234", "--clear-groups"]);
    test(WITHOUT_ATTRIBUTES, Some(61_234), plain);
    let mut nested = setpriv(61_234, &[]);
    nested.args(["unshare", "--user", "--map-root-user"]);
    test("root with one id", Some(61_234), nested);
    for place in ["a directory", "a mount point"] {
        for (kind, owner, drop) in [("root", 0, "--userspec=0:0"), ("user", 61_234, "--userspec=61234:61234")] {
            // A root on a file system whose mounts are shared with the mount namespace of the script.
            let mut chroot = Command::new("unshare");
            chroot.args(["--mount", "sh", "-ec", CHROOT, place, busybox, drop]);
            test(&format!("{kind} in a chroot to {place}"), Some(owner), chroot);
        }
    }
    test("user without a name", Some(61_234), setpriv(61_234, &[]));
    test("root", Some(0), env());
    exit_code(failed.get())
}

/// Tells what is not tested, and whether that is a failure: it is where everything must be.
fn skipped(kind: &str, reason: &str) -> bool {
    println!("SKIPPED {kind}: {reason}");
    std::env::var(STRICT).is_ok_and(|strict| strict == "1")
}

fn exit_code(failed: bool) -> ExitCode {
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs the program in a chroot, and fails where a mount of it is seen outside. Its arguments: `a directory` or
/// `a mount point`, a static busybox, an option of chroot, the program and its arguments.
const CHROOT: &str = r#"
busybox=$1 userspec=$2 program=$3
shift 3
mount --bind "$BASE_DIR" "$BASE_DIR"
mount --make-shared "$BASE_DIR"
root=$BASE_DIR/root
mkdir -p "$root/proc" "$root/dev" "$root/sys" "$root/bin" "$root/etc" "$root/tmp" "$root/base"
if [ "$0" = 'a mount point' ]; then mount --bind "$root" "$root"; fi
cp "$program" "$root/isolation"
cp "$busybox" "$root/bin/busybox"
chown --reference="$BASE_DIR" "$root/base"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
before=$(cat /proc/self/mountinfo)
(
    cd "$root"
    RBUILD_SANDBOX_TEST_BASE=/base exec chroot "$userspec" "$root" /isolation "$@"
) &
while [ -e "/proc/$!/exe" ]; do
    if [ "$(cat /proc/self/mountinfo)" != "$before" ]; then echo 'a mount leaked'; exit 1; fi
done
wait "$!"
"#;

/// The uid of a user with subordinate ids, made where there is none.
fn test_user() -> Result<u32, String> {
    let quiet = |program: &str, arguments: &[&str]| {
        Command::new(program)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    if !quiet("id", &[USER]) && !quiet("useradd", &["--no-create-home", "--shell", "/bin/sh", USER]) {
        return Err(format!("cannot create the user {USER}"));
    }
    let line = fs::read_to_string("/etc/subuid").unwrap_or_default();
    if !line.lines().any(|line| line.starts_with(USER)) {
        return Err(format!("/etc/subuid grants nothing to {USER}"));
    }
    if rbuild_sandbox::idmap::find_helper(rbuild_sandbox::idmap::IdKind::User).is_none() {
        return Err("newuidmap is not installed (package uidmap)".into());
    }
    let output = Command::new("id").args(["-u", USER]).output().map_err(|error| error.to_string())?;
    String::from_utf8_lossy(&output.stdout).trim().parse().map_err(|_| format!("no uid for {USER}"))
}

/// All tests of one kind of user.
fn test_as_this_user(wanted: &[String]) -> ExitCode {
    let base = PathBuf::from(std::env::var_os(BASE).unwrap());
    let kind = std::env::var(MODE).unwrap();
    make_root(&base).unwrap();
    let results = match outside::spawn("inside") {
        Ok(mut worker) => {
            println!("   {}", describe(worker.facts()));
            let expected = match kind.as_str() {
                "user with many ids" | "user with a masked proc" => Some(Privilege::ManyIds),
                kind if ONE_ID.contains(&kind) => Some(Privilege::OneId),
                EMULATED | WITHOUT_ATTRIBUTES => Some(Privilege::Emulated),
                "root" | "root in a chroot to a directory" | "root in a chroot to a mount point" => {
                    Some(Privilege::Root)
                }
                _ => None,
            };
            if let Some(expected) = expected {
                assert_eq!(worker.facts().privilege, expected, "{:?}", worker.facts());
            }
            inside::drive(&mut worker, &base, wanted).and(outside::test_all(&base, wanted))
        }
        // The kernel gives no user namespaces there, and tells a user nothing of what lies above a mount point.
        Err(SpawnError::UserNamespace { refusal: Refusal::Chroot, .. })
            if kind == "user in a chroot to a directory" =>
        {
            Ok(())
        }
        Err(SpawnError::UserNamespace { refusal: Refusal::Unknown, .. })
            if kind == "user in a chroot to a mount point" =>
        {
            Ok(())
        }
        Err(error) => {
            let reason = format!("no worker for this user: {error}: {:?}", std::error::Error::source(&error));
            // Where this is a user that the test made, it must work.
            return exit_code(skipped(&kind, &reason) || kind != "as this user");
        }
    };
    if results.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn is_in_chroot() -> bool {
    std::env::var(MODE).is_ok_and(|kind| kind.contains("chroot"))
}

fn describe(facts: &Facts) -> String {
    let why = facts.why_one_id.as_deref().unwrap_or("");
    format!("{:?}, {} ranges of user ids; {why}", facts.privilege, facts.uids.len())
}

/// A busybox of the machine.
fn busybox() -> Result<&'static str, String> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    busybox.ok_or_else(|| "/bin/busybox is missing (package busybox-static)".to_owned())
}

/// `busybox`: a root of one static program; `probe`: this program, to make system calls that busybox has no word for.
fn make_root(base: &Path) -> Result<(), String> {
    let root = base.join("busybox");
    for dir in ["bin", "tmp", "etc", "mnt", "home"] {
        fs::create_dir_all(root.join(dir)).map_err(|error| error.to_string())?;
    }
    let busybox = busybox()?;
    fs::copy(busybox, root.join("bin/busybox")).map_err(|error| error.to_string())?;
    let list = Command::new(busybox).arg("--list").output().map_err(|error| error.to_string())?;
    for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|applet| *applet != "busybox") {
        let _ = std::os::unix::fs::symlink("busybox", root.join("bin").join(applet));
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nwww-data:x:33:33::/:/bin/sh\n")
        .map_err(|e| e.to_string())?;
    fs::copy("/proc/self/exe", root.join("bin/probe")).map_err(|error| error.to_string())?;
    let statically = Command::new(busybox).arg0("chroot").args(["--help"]).output().is_ok();
    if statically { Ok(()) } else { Err("busybox does not start".into()) }
}

fn options(entry: &str) -> WorkerOptions {
    let mut options = WorkerOptions::new(entry);
    options.isolation = match std::env::var(MODE).as_deref() {
        Ok(EMULATED | WITHOUT_ATTRIBUTES) => Isolation::Ptrace,
        Ok(kind) if ONE_ID.contains(&kind) => Isolation::Userns,
        _ => Isolation::Auto,
    };
    options.attributes_in = std::env::var_os(BASE).map(|base| Path::new(&base).join("attributes"));
    options.stderr = std::os::fd::AsFd::as_fd(&std::io::stderr()).try_clone_to_owned().ok();
    options
}
