//! Tests that run inside a worker, where steps are started.

use rbuild_sandbox::{
    Access, Cancel, Durability, ExecError, ExitStatus, Facts, Mount, Network, Overlay, Privilege, Resource, RootAccess,
    RootFs, RunError, RunReport, RunSpec, Security, Stream, Ulimit, Worker, WorkerChannel, idmap::IdKind, mount_layers,
    mount_overlay, probe_overlay, remove_tree, run,
};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

type Test = (&'static str, fn(&Place));

const TESTS: &[Test] = &[
    ("ids_are_mapped", ids_are_mapped),
    ("exit_codes_and_signals", exit_codes_and_signals),
    ("output_is_kept_apart_and_in_order", output_is_kept_apart_and_in_order),
    ("output_is_binary_and_unlimited", output_is_binary_and_unlimited),
    ("nothing_survives_the_command", nothing_survives_the_command),
    ("no_descriptor_leaks", no_descriptor_leaks),
    ("environment_is_exact", environment_is_exact),
    ("mount_and_unshare_are_refused", mount_and_unshare_are_refused),
    ("system_calls_are_filtered", system_calls_are_filtered),
    ("paths_are_masked", paths_are_masked),
    ("capabilities_are_dockers", capabilities_are_dockers),
    ("insecure_is_not_confined", insecure_is_not_confined),
    ("devices_are_dockers", devices_are_dockers),
    ("no_network", no_network),
    ("hostile_links_do_not_lead_outside", hostile_links_do_not_lead_outside),
    ("hostile_proc_is_refused", hostile_proc_is_refused),
    ("the_host_is_not_seen", the_host_is_not_seen),
    ("commands_that_cannot_start", commands_that_cannot_start),
    ("a_user_has_no_capabilities", a_user_has_no_capabilities),
    ("setuid_programs_work", setuid_programs_work),
    ("chown_to_other_ids", chown_to_other_ids),
    ("mounts_of_every_kind", mounts_of_every_kind),
    ("mount_points_leave_no_trace", mount_points_leave_no_trace),
    ("hidden_mount_points_leave_no_trace", hidden_mount_points_leave_no_trace),
    ("a_directory_is_a_root", a_directory_is_a_root),
    ("a_read_only_root", a_read_only_root),
    ("limits_are_set", limits_are_set),
    ("cancel_ends_a_command", cancel_ends_a_command),
    ("a_panic_in_the_callback_ends_the_command", a_panic_in_the_callback_ends_the_command),
    ("many_steps_at_once", many_steps_at_once),
    ("many_layers_and_none", many_layers_and_none),
    ("trees_of_other_ids_are_removed", trees_of_other_ids_are_removed),
    ("a_start_is_cheap", a_start_is_cheap),
];

#[derive(Serialize, Deserialize)]
struct Job {
    base: PathBuf,
    wanted: Vec<String>,
}

#[derive(Serialize, Deserialize)]
enum Message {
    Begin(String),
    End(bool),
    Note(String),
}

/// Outside: has the tests run and tells their results.
pub(crate) fn drive(worker: &mut Worker, base: &Path, wanted: &[String]) -> Result<(), ()> {
    worker.send(&Job { base: base.to_owned(), wanted: wanted.to_vec() }).unwrap();
    let mut result = Ok(());
    let mut running = None;
    while let Ok(Some(message)) = worker.recv::<Message>() {
        match message {
            Message::Begin(name) => running = Some(name),
            Message::Note(text) => println!("   {text}"),
            Message::End(passed) => {
                println!("test {} ... {}", running.take().unwrap_or_default(), if passed { "ok" } else { "FAILED" });
                if !passed {
                    result = Err(());
                }
            }
        }
    }
    let status = worker.wait().unwrap();
    if status != ExitStatus::Code(0) || running.is_some() {
        println!("the worker ended with {status:?} in {running:?}");
        result = Err(());
    }
    result
}

/// Where the tests of a worker take place.
struct Place<'a> {
    base: PathBuf,
    channel: &'a WorkerChannel,
}

pub(crate) fn serve(channel: WorkerChannel) -> i32 {
    let Ok(Some(job)) = channel.recv::<Job>() else {
        return 2;
    };
    let place = Place { base: job.base, channel: &channel };
    for (name, test) in TESTS {
        if !job.wanted.is_empty() && !job.wanted.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        channel.send(&Message::Begin((*name).to_owned())).unwrap();
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&place))).is_ok();
        channel.send(&Message::End(passed)).unwrap();
    }
    0
}

struct Done {
    report: RunReport,
    stdout: String,
    stderr: String,
}

impl Place<'_> {
    fn note(&self, text: impl Into<String>) {
        self.channel.send(&Message::Note(text.into())).unwrap();
    }

    fn facts(&self) -> &Facts {
        self.channel.facts()
    }

    /// A new directory of this name.
    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.base.join(name);
        remove_tree(&dir).unwrap();
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// An overlay over these layers, in a new directory of this name.
    fn overlay(&self, name: &str, lower: Vec<PathBuf>) -> Overlay {
        let dir = self.dir(name);
        let sub = |name: &str| {
            fs::create_dir(dir.join(name)).unwrap();
            dir.join(name)
        };
        Overlay { lower, upper: sub("upper"), work: sub("work"), durability: Durability::Volatile }
    }

    fn busybox(&self) -> PathBuf {
        self.base.join("busybox")
    }

    /// `/bin/sh -c SCRIPT` over busybox and the layers above it, top first.
    fn script_over(&self, name: &str, mut above: Vec<PathBuf>, script: &str) -> RunSpec {
        above.push(self.busybox());
        let overlay = self.overlay(name, above);
        let mut spec = RunSpec::new(RootFs::Overlay(overlay), words(&["/bin/sh", "-c", script]));
        spec.env = vec![b"PATH=/bin".to_vec()];
        spec
    }

    fn script(&self, name: &str, script: &str) -> RunSpec {
        self.script_over(name, Vec::new(), script)
    }
}

fn words(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

fn upper(spec: &RunSpec) -> &Path {
    match &spec.root {
        RootFs::Overlay(overlay) => &overlay.upper,
        RootFs::Directory(dir) => dir,
    }
}

/// All that lies in a directory, sorted.
fn listing(dir: &Path) -> Vec<String> {
    fn visit(dir: &Path, base: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(base).unwrap().to_str().unwrap().to_owned());
            if path.symlink_metadata().unwrap().is_dir() {
                visit(&path, base, found);
            }
        }
    }
    let mut found = Vec::new();
    visit(dir, dir, &mut found);
    found.sort();
    found
}

fn try_do(spec: &RunSpec) -> Result<Done, RunError> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let report = run(spec, &Cancel::new().unwrap(), &mut |output| match output.stream {
        Stream::Stdout => stdout.extend_from_slice(output.bytes),
        Stream::Stderr => stderr.extend_from_slice(output.bytes),
    })?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Done { report, stdout: text(stdout), stderr: text(stderr) })
}

#[track_caller]
fn do_it(spec: &RunSpec) -> Done {
    match try_do(spec) {
        Ok(done) => done,
        Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
    }
}

/// What a successful command wrote to its standard output.
#[track_caller]
fn output(spec: &RunSpec) -> String {
    let done = do_it(spec);
    assert_eq!(done.report.status, ExitStatus::Code(0), "{}{}", done.stdout, done.stderr);
    done.stdout
}

fn ids_are_mapped(place: &Place) {
    let map = output(&place.script("ids", "id -u; id -g; cat /proc/self/uid_map"));
    let mut lines = map.lines();
    assert_eq!((lines.next(), lines.next()), (Some("0"), Some("0")));
    let ranges: Vec<Vec<u32>> =
        lines.map(|line| line.split_whitespace().map(|number| number.parse().unwrap()).collect()).collect();
    if place.facts().privilege != Privilege::Root {
        let told: Vec<Vec<u32>> = place.facts().uids.iter().map(|r| vec![r.inside, r.count]).collect();
        // Where they lie outside is told as the caller of the worker sees it, and here as its parent does.
        let ranges: Vec<Vec<u32>> = ranges.iter().map(|r| vec![r[0], r[2]]).collect();
        assert_eq!(ranges, told);
    }
    assert_eq!(place.facts().has_ids(33, 33), place.facts().privilege != Privilege::OneId);
    assert_eq!(rustix::process::getpid().as_raw_nonzero().get(), 1, "the worker is PID 1");
    let script = "echo $$; umask; pwd; readlink /proc/self/ns/pid; cat /proc/1/comm; ps | wc -l";
    let text = output(&place.script("ids", script));
    assert!(text.starts_with("1\n0022\n/\npid:["), "{text}");
    if place.facts().privilege != Privilege::OneId {
        let mut spec = place.script("ids", "id -u; id -g; id -G");
        (spec.uid, spec.gid, spec.groups) = (1000, 33, vec![33, 4, 5]);
        assert_eq!(output(&spec), "1000\n33\n33 4 5\n");
    }
    // What the namespace has not, root does without, and others do not.
    let far = 4_000_000_000;
    let has_far = place.facts().has_ids(far, far);
    let has = |gid: u32| place.facts().has_ids(0, gid);
    let mut spec = place.script("ids", "id -G");
    spec.groups = vec![0, 4, far];
    let expected: Vec<String> = spec.groups.iter().filter(|gid| has(**gid)).map(ToString::to_string).collect();
    // With one id the caller's groups stay, which are seen as the overflow group.
    let text = output(&spec);
    assert!(text.split_whitespace().filter(|gid| *gid != "65534").eq(&expected), "{text}");
    if place.facts().privilege != Privilege::OneId && !has_far {
        spec.uid = 1000;
        let error = try_do(&spec).err().unwrap();
        let kind = IdKind::Group;
        assert!(matches!(error, RunError::NoSuchId { kind: k, id, .. } if k == kind && id == far), "{error}");
    }
}

fn exit_codes_and_signals(place: &Place) {
    for code in [0, 1, 42, 255] {
        let done = do_it(&place.script("exit", &format!("exit {code}")));
        assert_eq!(done.report.status, ExitStatus::Code(code));
        assert_eq!(done.report.status.code(), code);
    }
    let done = do_it(&place.script("exit", "sh -c 'kill -TERM $$'; exit $?"));
    assert_eq!(done.report.status, ExitStatus::Code(143), "a child of PID 1");
    // The kernel kills PID 1 itself where it has used up its time.
    let mut spec = place.script("exit", "while :; do :; done");
    spec.ulimits = vec![Ulimit { resource: Resource::Cpu, soft: 1, hard: 1 }];
    let done = do_it(&spec);
    assert_eq!(done.report.status, ExitStatus::Signal(9));
    assert_eq!(done.report.status.code(), 137);
}

fn output_is_kept_apart_and_in_order(place: &Place) {
    // The command waits until each of its lines has arrived, so that no load of the machine can bring two together.
    let script = "for i in 1 2 3 4 5 6 7 8; do echo out $i; until [ -e /sync/o$i ]; do usleep 500; done; \
        echo err $i >&2; until [ -e /sync/e$i ]; do usleep 500; done; done; printf end";
    let sync = place.dir("sync");
    let mut spec = place.script("order", script);
    spec.mounts =
        vec![Mount::Bind { source: sync.clone(), within: None, target: "/sync".into(), access: Access::ReadOnly }];
    let mut seen = Vec::new();
    run(&spec, &Cancel::new().unwrap(), &mut |output| {
        assert!(output.time.elapsed().unwrap() < Duration::from_secs(5));
        let text = String::from_utf8(output.bytes.to_vec()).unwrap();
        if let Some(number) = text.trim().split(' ').nth(1) {
            fs::write(sync.join(format!("{}{number}", &text[..1])), "").unwrap();
        }
        seen.push((output.stream, text));
    })
    .unwrap();
    let expected =
        (1..=8).flat_map(|i| [(Stream::Stdout, format!("out {i}\n")), (Stream::Stderr, format!("err {i}\n"))]);
    let expected: Vec<_> = expected.chain([(Stream::Stdout, "end".to_owned())]).collect();
    assert_eq!(seen, expected);
}

fn output_is_binary_and_unlimited(place: &Place) {
    let mut bytes = Vec::new();
    let mut errors = 0;
    let script = r"printf '\000\377\n\200'; head -c 3000000 /dev/zero; head -c 1000000 /dev/zero >&2; exit 5";
    let report = run(&place.script("binary", script), &Cancel::new().unwrap(), &mut |output| match output.stream {
        Stream::Stdout => bytes.extend_from_slice(output.bytes),
        Stream::Stderr => errors += output.bytes.len(),
    })
    .unwrap();
    assert_eq!(report.status, ExitStatus::Code(5));
    assert_eq!(&bytes[..4], b"\0\xff\n\x80");
    assert_eq!((bytes.len(), errors), (3_000_004, 1_000_000));
}

fn nothing_survives_the_command(place: &Place) {
    let seconds = format!("{}.77", 200_000 + std::process::id());
    let script = format!("(setsid sleep {seconds} > /dev/null 2>&1 &); sleep {seconds} & echo done");
    let start = Instant::now();
    assert_eq!(output(&place.script("stray", &script)), "done\n");
    assert!(start.elapsed() < Duration::from_secs(5));
    let wanted = format!("sleep\0{seconds}\0");
    for entry in fs::read_dir("/proc").unwrap() {
        let line = fs::read(entry.unwrap().path().join("cmdline")).unwrap_or_default();
        assert_ne!(line, wanted.as_bytes());
    }
}

fn no_descriptor_leaks(place: &Place) {
    let _open = fs::File::open("/").unwrap();
    let text = output(&place.script("fds", "ls -l /proc/self/fd | sed -n 's/.* \\([0-9]* -> .*\\)/\\1/p'"));
    let numbers: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(numbers, ["0", "1", "2"], "{text}");
    assert!(text.starts_with("0 -> /dev/null\n1 -> pipe:") && text.contains("2 -> pipe:"), "{text}");
    assert_eq!(output(&place.script("fds", "readlink /proc/self/cwd; readlink /proc/self/root; cat")), "/\n/\n");
}

fn environment_is_exact(place: &Place) {
    let mut spec = place.script("env", "env; echo $HOSTNAME; hostname; cat /proc/self/attr/current 2>/dev/null; true");
    spec.argv = words(&["env"]);
    spec.env = vec![b"PATH=/bin".to_vec(), b"A=b=c".to_vec(), b"BYTES=\xff\xfe".to_vec(), b"EMPTY=".to_vec()];
    let mut seen = Vec::new();
    run(&spec, &Cancel::new().unwrap(), &mut |output| seen.extend_from_slice(output.bytes)).unwrap();
    assert_eq!(seen, b"PATH=/bin\nA=b=c\nBYTES=\xff\xfe\nEMPTY=\n");
    let mut spec = place.script("env", "hostname; pwd; umask; touch f; stat -c %a f");
    spec.hostname = b"a-name".to_vec();
    spec.cwd = "/tmp".into();
    spec.umask = 0o077;
    assert_eq!(output(&spec), "a-name\n/tmp\n0077\n600\n");
}

fn mount_and_unshare_are_refused(place: &Place) {
    for (command, expected) in [
        ("mount -t tmpfs x /mnt", "permission denied"),
        ("mount -o bind /tmp /mnt", "permission denied"),
        ("umount /proc", "Operation not permitted"),
        ("unshare -r true", "Operation not permitted"),
        ("unshare -m true", "Operation not permitted"),
        ("hostname x", "Operation not permitted"),
    ] {
        let done = do_it(&place.script("refused", command));
        assert_ne!(done.report.status, ExitStatus::Code(0), "{command}");
        assert!(done.stderr.contains(expected), "{command}: {}", done.stderr);
    }
}

fn system_calls_are_filtered(place: &Place) {
    let mut spec = place.script("filter", "");
    spec.argv = words(&["probe"]);
    let text = output(&spec);
    for expected in [
        "inet=ok",
        "vsock=Os { code: 1,",
        "fsopen=Os { code: 1,",
        "unshare-user=EPERM",
        "setns=EPERM",
        "thread=ok",
        "child=ok",
        "euid=0",
        "nnp=Ok(false)",
    ] {
        let inherited = expected.starts_with("nnp") && rustix::thread::no_new_privs().unwrap();
        assert!(inherited || text.lines().any(|line| line.starts_with(expected)), "{expected} in\n{text}");
    }
}

fn paths_are_masked(place: &Place) {
    let script = "cat /proc/keys /proc/timer_list /proc/interrupts 2>/dev/null | wc -c; \
        ls /proc/acpi /sys/firmware 2>/dev/null | grep -v :; \
        for f in /proc/sys/kernel/domainname /sys/x /sys/fs/cgroup/x; do (echo x > $f) 2>&1; done; \
        grep -E '^[^ ]+ /proc/(bus|fs|irq|sys|sysrq-trigger) [a-z0-9]+ ro,' /proc/mounts | wc -l";
    let text = do_it(&place.script("masked", script)).stdout;
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines[0], "0", "{text}");
    assert!(lines[1..3].iter().all(|line| line.contains("Read-only file system")), "{text}");
    // Without an outer one it is the kernel's directory that is always empty.
    let cgroup = if Path::new("/sys/fs/cgroup").exists() { "Read-only file system" } else { "nonexistent directory" };
    assert!(lines[3].contains(cgroup), "{text}");
    let there =
        ["bus", "fs", "irq", "sys", "sysrq-trigger"].iter().filter(|name| Path::new("/proc").join(name).exists());
    assert_eq!(lines[4..], [there.count().to_string()], "{text}");
}

fn capabilities_are_dockers(place: &Place) {
    let text = output(&place.script("caps", "grep -E '^(Cap|Seccomp:|Groups)' /proc/self/status"));
    let docker = "00000000a80425fb";
    for line in [
        "CapInh:\t0000000000000000".to_owned(),
        format!("CapPrm:\t{docker}"),
        format!("CapEff:\t{docker}"),
        format!("CapBnd:\t{docker}"),
        "CapAmb:\t0000000000000000".to_owned(),
        "Seccomp:\t2".to_owned(),
    ] {
        assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
    }
}

fn insecure_is_not_confined(place: &Place) {
    let mut spec = place.script("insecure", "mount -t tmpfs x /mnt && touch /mnt/x && grep Seccomp: /proc/self/status");
    spec.security = Security::Insecure;
    if fs::read_to_string("/proc/self/mounts").unwrap().contains(" /proc/sys/fs tmpfs") {
        let error = try_do(&spec).err().unwrap();
        assert!(matches!(&error, RunError::Mount { what, .. } if what == "proc"), "{error}");
        return place.note("insecure_is_not_confined: refused, since the outer /proc would show the worker");
    }
    let text = output(&spec);
    let outside = fs::read_to_string("/proc/self/status").unwrap();
    let filtered = outside.lines().any(|line| line == "Seccomp:\t2");
    assert!(filtered || text == "Seccomp:\t0\n", "{text}");
    assert_eq!(listing(upper(&spec)), Vec::<String>::new());
}

fn devices_are_dockers(place: &Place) {
    let text = output(&place.script(
        "devices",
        "cd /dev; ls -1; for l in fd stdin stdout stderr ptmx; do readlink $l; done; stat -c %a shm . pts/ptmx",
    ));
    let mut expected = vec![
        "fd",
        "full",
        "mqueue",
        "null",
        "ptmx",
        "pts",
        "random",
        "shm",
        "stderr",
        "stdin",
        "stdout",
        "tty",
        "urandom",
        "zero",
        "/proc/self/fd",
        "/proc/self/fd/0",
        "/proc/self/fd/1",
        "/proc/self/fd/2",
        "pts/ptmx",
        "1777",
        "755",
        "666",
    ];
    if Path::new("/proc/kcore").exists() {
        expected.insert(0, "core");
    }
    let expected = expected.join("\n") + "\n";
    assert_eq!(text, expected);
    let script = "echo x > /dev/null && head -c 3 /dev/zero | wc -c; echo x > /dev/full; echo $?; echo out > /dev/stdout; \
        head -c 8 /dev/urandom | wc -c; echo x > /dev/shm/x; df -k /dev/shm | tail -1 | awk '{print $2}'";
    let mut spec = place.script("devices", script);
    spec.shm_size = 1 << 20;
    assert_eq!(output(&spec), "3\n1\nout\n8\n1024\n");
}

fn no_network(place: &Place) {
    let mut spec = place
        .script("network", "ls /sys/class/net; ip -o addr show lo | head -1; ping -c 1 -W 1 192.0.2.1 2>&1 | tail -1");
    spec.network = Network::None;
    let done = do_it(&spec);
    assert!(done.stdout.starts_with("lo\n") && done.stdout.contains("127.0.0.1/8"), "{}", done.stdout);
    assert!(done.stdout.contains("unreachable"), "{}", done.stdout);
    // Two lines of heads; in a chroot there need be no `/sys`.
    let outside = fs::read_to_string("/proc/net/dev").unwrap().lines().count() - 2;
    let seen = output(&place.script("network", "ls /sys/class/net"));
    assert_eq!(seen.lines().count(), outside);
}

fn hostile_links_do_not_lead_outside(place: &Place) {
    let outside = place.dir("outside");
    fs::write(outside.join("file"), "untouched").unwrap();
    let layer = place.dir("hostile");
    // To the very same path as outside, by an absolute and by a climbing link, and in the place of /dev.
    symlink(&outside, layer.join("absolute")).unwrap();
    symlink(Path::new("../../../../../../../..").join(outside.strip_prefix("/").unwrap()), layer.join("climbing"))
        .unwrap();
    fs::create_dir(layer.join("etc")).unwrap();
    symlink(outside.join("file"), layer.join("etc/resolv.conf")).unwrap();
    let file = |target: &str| Mount::File {
        content: b"secret".to_vec(),
        target: target.into(),
        mode: 0o400,
        uid: 0,
        gid: 0,
        access: Access::ReadOnly,
    };
    let script = "cat /absolute/made /climbing/file2 /etc/resolv.conf; ls -l /etc/resolv.conf | grep -c outside/file; \
        ls /climbing/dir | wc -l; touch /climbing/dir/x";
    let mut spec = place.script_over("links", vec![layer], script);
    spec.mounts = vec![
        file("/absolute/made"),
        file("climbing/.//file2"),
        file("/etc/resolv.conf"),
        Mount::Tmpfs { target: "/climbing/dir".into(), size: None, mode: 0o755 },
    ];
    assert_eq!(output(&spec), "secretsecretsecret1\n0\n");
    assert_eq!(listing(&outside), ["file"]);
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "untouched");
    assert_eq!(listing(upper(&spec)), Vec::<String>::new(), "and no trace is left of the mount points");
}

fn hostile_proc_is_refused(place: &Place) {
    for name in ["proc", "sys"] {
        let layer = place.dir("hostile-proc");
        fs::create_dir(layer.join("elsewhere")).unwrap();
        symlink("/elsewhere", layer.join(name)).unwrap();
        let error = try_do(&place.script_over("proc", vec![layer], "true")).err().unwrap();
        assert!(matches!(&error, RunError::Mount { target, .. } if target == Path::new(name)), "{error}");
    }
    let layer = place.dir("hostile-dev");
    symlink("/etc", layer.join("dev")).unwrap();
    let done = do_it(&place.script_over("proc", vec![layer], "echo x > /dev/null; ls /etc/null"));
    assert_eq!(done.stdout, "/etc/null\n", "inside the root a link may lead anywhere");
}

fn the_host_is_not_seen(place: &Place) {
    assert_eq!(output(&place.script("host", "ls /")), "bin\ndev\netc\nhome\nmnt\nproc\nsys\ntmp\n");
    let mounts = output(&place.script("host", "cat /proc/mounts"));
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let is_dockers = ["/proc", "/dev", "/sys"].iter().any(|top| Path::new(fields[1]).starts_with(top));
        assert!(is_dockers || fields[1..3] == ["/", "overlay"], "{mounts}");
    }
    // Not through the processes of the worker either, should the outer /proc be the one that is shown.
    let seen_outside = place.base.join("seen-outside");
    fs::write(&seen_outside, "").unwrap();
    let (path, up) = (seen_outside.display(), "/..".repeat(place.base.components().count() + 20));
    let script = format!("for p in /proc/[0-9]*; do ls $p/root{path} $p/cwd{up}{path}; done 2>/dev/null");
    assert_eq!(do_it(&place.script("host", &script)).stdout, "");
    // Not by leaving a changed root either: pivot_root left nothing behind.
    let script = "mkdir -p x; chroot x /bin/true; cd ..; cd ../../..; ls | head -1";
    assert_eq!(do_it(&place.script("host", script)).stdout, "bin\n");
}

fn commands_that_cannot_start(place: &Place) {
    let layer = place.dir("commands");
    fs::create_dir(layer.join("x")).unwrap();
    for (name, mode, content) in [
        ("x/plain", 0o644, "no program"),
        ("x/garbage", 0o755, "\0no program"),
        ("x/orphan", 0o755, "#!/none\n"),
        ("x/script", 0o755, "#!/bin/sh\necho script\n"),
    ] {
        fs::write(layer.join(name), content).unwrap();
        fs::set_permissions(layer.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let with = |argv0: &str, path: &str| {
        let mut spec = place.script_over("start", vec![layer.clone()], "");
        spec.argv = words(&[argv0]);
        spec.env = words(&[&format!("PATH={path}")]);
        spec
    };
    for (argv0, path, expected) in [
        ("nothing", "/bin", ExecError::NotFoundInPath),
        ("sh", "", ExecError::NotFoundInPath),
        ("plain", "/x", ExecError::NotFoundInPath),
        ("/bin/nothing", "/bin", ExecError::Stat(2)),
        ("/x/plain/y", "/bin", ExecError::Stat(20)),
        ("/x/plain", "/bin", ExecError::PermissionDenied),
        ("/x", "/bin", ExecError::IsDirectory),
        ("garbage", "/none:/x", ExecError::Exec(8)),
        ("/x/orphan", "/bin", ExecError::Exec(2)),
    ] {
        match try_do(&with(argv0, path)) {
            Err(RunError::Exec { argv0: told, reason }) => {
                assert_eq!((told.as_slice(), reason), (argv0.as_bytes(), expected));
            }
            other => panic!("{argv0}: {:?}", other.map(|done| done.report)),
        }
    }
    assert_eq!(output(&with("script", "/none:/x:/bin")), "script\n");
    let mut spec = with("x/script", "");
    assert_eq!(output(&spec), "script\n", "a relative name is seen from the working directory");
    for (cwd, errno) in [("/none", 2), ("/x/script", 20)] {
        spec.cwd = cwd.into();
        let error = try_do(&spec).err().unwrap();
        assert!(matches!(&error, RunError::Chdir { path, .. } if path == Path::new(cwd)), "{error}");
        assert_eq!(error.errno(), Some(errno));
    }
    spec = with("script", "/x");
    spec.argv = Vec::new();
    assert!(matches!(try_do(&spec), Err(RunError::Exec { reason: ExecError::NotFoundInPath, .. })));
    spec.argv = words(&["a\0b"]);
    assert!(try_do(&spec).is_err());
    let overlay = Overlay { lower: vec!["/none".into()], ..place.overlay("start", Vec::new()) };
    spec.root = RootFs::Overlay(overlay);
    assert!(matches!(try_do(&spec), Err(RunError::Mount { .. })));
}

fn a_user_has_no_capabilities(place: &Place) {
    let mut spec = place.script("user", "id -u; grep -E '^Cap(Eff|Prm|Bnd)' /proc/self/status; touch /bin/x");
    (spec.uid, spec.gid) = (33, 33);
    if place.facts().privilege == Privilege::OneId {
        let error = try_do(&spec).err().unwrap();
        assert_eq!(error.to_string(), "user 33 does not exist here: there is one id only, that of root");
        (spec.uid, spec.gid) = (0, 33);
        let error = try_do(&spec).err().unwrap();
        assert!(matches!(error, RunError::NoSuchId { kind: IdKind::Group, id: 33, available: 1, .. }), "{error}");
        return place.note("a_user_has_no_capabilities: one id only, so that uid 33 is refused");
    }
    let done = do_it(&spec);
    assert_eq!(done.stdout, "33\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb\n");
    assert!(done.stderr.contains("Permission denied"), "{}", done.stderr);
}

fn setuid_programs_work(place: &Place) {
    if place.facts().privilege == Privilege::OneId {
        return place.note("setuid_programs_work: skipped: one id only");
    }
    let mut spec = place.script("setuid", "cp /bin/probe /tmp/probe && chmod 4755 /tmp/probe && chmod 755 /tmp");
    output(&spec);
    spec.argv = words(&["/bin/sh", "-c", "exec -a probe /tmp/probe || true"]);
    spec.argv = words(&["probe"]);
    spec.env = words(&["PATH=/tmp"]);
    (spec.uid, spec.gid) = (1000, 1000);
    let text = output(&spec);
    let expected = if rustix::thread::no_new_privs().unwrap() { "euid=1000" } else { "euid=0" };
    assert!(text.contains(expected), "{text}");
}

fn chown_to_other_ids(place: &Place) {
    let spec = place.script("chown", "touch /tmp/f && chown 33:33 /tmp/f && stat -c %u:%g /tmp/f");
    let done = do_it(&spec);
    if place.facts().privilege == Privilege::OneId {
        assert!(done.stderr.contains("Invalid argument"), "{}", done.stderr);
        return;
    }
    assert_eq!(done.stdout, "33:33\n");
    let meta = fs::metadata(upper(&spec).join("tmp/f")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (33, 33));
}

fn mounts_of_every_kind(place: &Place) {
    let source = place.dir("source");
    fs::write(source.join("file"), "from outside").unwrap();
    symlink("/", source.join("root")).unwrap();
    symlink("../../../..", source.join("up")).unwrap();
    let bind = |source: &Path, within: Option<&Path>, target: &str, access| Mount::Bind {
        source: source.to_owned(),
        within: within.map(Path::to_owned),
        target: target.into(),
        access,
    };
    let script = "cat /in/file /one; echo changed > /in/file; echo x > /ro/new; ls /whole | head -1; cat /whole/file; \
        stat -c '%a %u %g' /run/secrets/key; cat /run/secrets/key; echo x > /run/secrets/key; echo y >> /etc/hosts; cat /etc/hosts; \
        df -k /scratch | tail -1 | awk '{print $2}'; stat -c %a /scratch; echo x > /scratch/x";
    let mut spec = place.script("mounts", script);
    let file = |content: &str, target: &str, mode, access| Mount::File {
        content: content.as_bytes().to_vec(),
        target: target.into(),
        mode,
        uid: 0,
        gid: 0,
        access,
    };
    spec.mounts = vec![
        bind(&source, None, "/in", Access::ReadWrite),
        bind(&source.join("file"), None, "/one", Access::ReadOnly),
        bind(&source, None, "/ro", Access::ReadOnly),
        // A link to / inside is the directory itself, and one that climbs gets no higher.
        bind(Path::new("root/up"), Some(&source), "/whole", Access::ReadOnly),
        file("k\0y", "/run/secrets/key", 0o400, Access::ReadOnly),
        file("hosts\n", "/etc/hosts", 0o644, Access::ReadWrite),
        Mount::Tmpfs { target: "/scratch".into(), size: Some(1 << 20), mode: 0o1700 },
    ];
    let done = do_it(&spec);
    assert_eq!(
        done.stdout, "from outsidefrom outsidefile\nchanged\n400 0 0\nk\0yhosts\ny\n1024\n1700\n",
        "{}",
        done.stderr
    );
    assert_eq!(done.stderr.matches("Read-only file system").count(), 2, "{}", done.stderr);
    assert_eq!(fs::read_to_string(source.join("file")).unwrap(), "changed\n");
    assert_eq!(listing(upper(&spec)), Vec::<String>::new());
    for (mount, errno) in [
        (bind(Path::new("/none"), None, "/x", Access::ReadOnly), 2),
        (bind(&source, None, "/etc/passwd", Access::ReadOnly), 20),
        (bind(Path::new("../source/none"), Some(&source), "/x", Access::ReadOnly), 2),
    ] {
        spec.mounts = vec![mount];
        let error = try_do(&spec).err().unwrap();
        assert!(matches!(error, RunError::Mount { .. }), "{error}");
        assert_eq!(error.errno(), Some(errno), "{error}");
        assert_eq!(listing(upper(&spec)), Vec::<String>::new());
    }
}

fn mount_points_leave_no_trace(place: &Place) {
    let mut spec = place.script(
        "points",
        "ls -d /proc /a/b/c /run/secrets/x; stat -c %a /a /a/b /run/secrets; rmdir /a/b/c; rm -rf /run; echo $?; \
         touch /a/own",
    );
    spec.mounts = vec![
        Mount::Tmpfs { target: "/a/b/c".into(), size: None, mode: 0o755 },
        Mount::File {
            content: Vec::new(),
            target: "/run/secrets/x".into(),
            mode: 0o400,
            uid: 0,
            gid: 0,
            access: Access::ReadOnly,
        },
    ];
    let done = do_it(&spec);
    assert_eq!(done.stdout, "/a/b/c\n/proc\n/run/secrets/x\n755\n755\n755\n1\n");
    assert_eq!(listing(upper(&spec)), ["a", "a/own"], "what the command made itself stays");
    assert_eq!(done.report.stubs, []);

    // Kept from one command to the next.
    let points = place.dir("points-kept");
    for _ in 0..2 {
        let mounts = spec.mounts;
        spec = place.script("points", "ls -d /a/b/c; touch /a/own");
        (spec.mounts, spec.mount_points) = (mounts, Some(points.clone()));
        assert_eq!(output(&spec), "/a/b/c\n");
        assert_eq!(listing(upper(&spec)), ["a", "a/own"]);
        assert_eq!(fs::read_dir(&points).unwrap().count(), 1);
    }
    spec.mounts.pop();
    assert_eq!(output(&spec), "/a/b/c\n");
    assert_eq!(fs::read_dir(&points).unwrap().count(), 2);
}

fn hidden_mount_points_leave_no_trace(place: &Place) {
    // A layer in which `/opt` was made anew, so that nothing beneath it shows, and one that it hides.
    let old = place.dir("points-old");
    fs::create_dir_all(old.join("opt/sub")).unwrap();
    let first = place.script_over(
        "points-first",
        vec![old.clone()],
        "rm -r /opt && mkdir /opt && mkdir /opt/kept && chmod 750 /opt",
    );
    output(&first);
    let opaque = upper(&first).to_owned();
    let mut spec =
        place.script_over("points-second", vec![opaque, old], "ls -a /opt/sub/deep /opt; ls -l /opt/kept/file | wc -l");
    spec.mounts = vec![
        Mount::Tmpfs { target: "/opt/sub/deep".into(), size: None, mode: 0o755 },
        Mount::File {
            content: b"x".to_vec(),
            target: "/opt/kept/file".into(),
            mode: 0o400,
            uid: 0,
            gid: 0,
            access: Access::ReadOnly,
        },
    ];
    let done = do_it(&spec);
    assert_eq!(done.stdout, "/opt:\n.\n..\nkept\nsub\n\n/opt/sub/deep:\n.\n..\n1\n", "{}", done.stderr);
    let stubs: Vec<_> = done.report.stubs.iter().map(|stub| (stub.path.to_str().unwrap(), stub.removed)).collect();
    assert_eq!(stubs, [("opt/sub", true), ("opt/sub/deep", true), ("opt/kept/file", true)]);
    assert_eq!(listing(upper(&spec)), Vec::<String>::new());
    // What the command did to a directory that was copied up for a mount point is a change of its own.
    spec.argv = words(&["/bin/sh", "-c", "chmod 700 /opt/kept; touch /opt/sub/deep/x /opt/sub/y"]);
    let done = do_it(&spec);
    assert_eq!(listing(upper(&spec)), ["opt", "opt/kept", "opt/sub", "opt/sub/y"]);
    let removed: Vec<bool> = done.report.stubs.iter().map(|stub| stub.removed).collect();
    assert_eq!(removed, [false, true, true]);
}

fn a_directory_is_a_root(place: &Place) {
    let root = place.dir("plain-root");
    fs::create_dir(root.join("bin")).unwrap();
    fs::create_dir(root.join("etc")).unwrap();
    fs::copy(place.busybox().join("bin/busybox"), root.join("bin/sh")).unwrap();
    let modified = fs::metadata(root.join("etc")).unwrap().mtime_nsec();
    let mut spec =
        RunSpec::new(RootFs::Directory(root.clone()), words(&["/bin/sh", "-c", "echo $0 > /made; busybox ls /"]));
    spec.env = words(&["PATH=/bin"]);
    spec.mounts = vec![Mount::File {
        content: Vec::new(),
        target: "/etc/hosts".into(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        access: Access::ReadOnly,
    }];
    let done = do_it(&spec);
    assert_eq!(done.report.stubs.iter().filter(|stub| stub.removed).count(), 4, "{:?}", done.report.stubs);
    assert_eq!(listing(&root), ["bin", "bin/sh", "etc", "made"]);
    assert_eq!(fs::metadata(root.join("etc")).unwrap().mtime_nsec(), modified);
    assert!(fs::read_dir("/proc/self/fd").unwrap().count() < 20);
}

fn a_read_only_root(place: &Place) {
    let mut spec =
        place.script("read-only", "touch /x; touch /tmp/x; touch /in/x && echo in; echo x > /dev/null && echo null");
    spec.root_access = RootAccess::ReadOnly;
    spec.mounts = vec![Mount::Tmpfs { target: "/in".into(), size: None, mode: 0o755 }];
    let done = do_it(&spec);
    assert_eq!(done.stdout, "in\nnull\n");
    assert_eq!(done.stderr.matches("Read-only file system").count(), 2, "{}", done.stderr);
}

fn limits_are_set(place: &Place) {
    let mut spec = place.script("limits", "ulimit -Sn; ulimit -Hn; ulimit -Sc");
    spec.ulimits = vec![
        Ulimit { resource: Resource::Nofile, soft: 100, hard: 200 },
        Ulimit { resource: Resource::Core, soft: 0, hard: u64::MAX },
    ];
    assert_eq!(output(&spec), "100\n200\n0\n");
    spec.ulimits = vec![Ulimit { resource: Resource::Nofile, soft: u64::MAX, hard: 1 << 40 }];
    if place.facts().privilege != Privilege::Root {
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap();
        assert_eq!(output(&spec), format!("{most}\n{most}\n0\n"));
    }
}

fn cancel_ends_a_command(place: &Place) {
    let spec = place.script("cancel", "echo running; trap '' TERM INT; sleep 1000");
    let cancel = Cancel::new().unwrap();
    let other = cancel.clone();
    let start = Instant::now();
    let result = run(&spec, &cancel, &mut |_| other.cancel());
    assert!(matches!(result, Err(RunError::Cancelled)), "{result:?}");
    assert!(matches!(run(&spec, &cancel, &mut |_| {}), Err(RunError::Cancelled)), "a handle stays cancelled");
    assert!(start.elapsed() < Duration::from_secs(5));
}

fn a_panic_in_the_callback_ends_the_command(place: &Place) {
    let spec = place.script("panic", "echo; sleep 1000");
    std::panic::set_hook(Box::new(|_| {}));
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = run(&spec, &Cancel::new().unwrap(), &mut |_| panic!("as is tested"));
    }));
    let _ = std::panic::take_hook();
    assert!(caught.is_err());
    assert!(rustix::process::waitpid(None, rustix::process::WaitOptions::NOHANG).is_err(), "no child is left");
}

fn many_steps_at_once(place: &Place) {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let spec =
                    place.script(&format!("parallel-{number}"), &format!("usleep 20000; echo {number}; exit {number}"));
                scope.spawn(move || (number, do_it(&spec)))
            })
            .collect();
        for thread in threads {
            let (number, done) = thread.join().unwrap();
            assert_eq!(done.stdout, format!("{number}\n"));
            assert_eq!(done.report.status, ExitStatus::Code(number));
        }
    });
}

/// Directories with one file each, top first, with busybox at the bottom.
fn stack(place: &Place, count: usize) -> Vec<PathBuf> {
    let base = place.dir("stack");
    let mut layers: Vec<PathBuf> = (0..count)
        .map(|number| {
            let layer = base.join(format!("a-name-that-is-not-so-short-as-to-fit-{number}:with,{number}\\colon"));
            fs::create_dir(&layer).unwrap();
            fs::write(layer.join(format!("file-{number}")), "").unwrap();
            fs::write(layer.join("same"), number.to_string()).unwrap();
            layer
        })
        .collect();
    layers.push(place.busybox());
    layers
}

fn many_layers_and_none(place: &Place) {
    let layers = stack(place, 400);
    let overlay = place.overlay("layers", layers);
    let mut spec = RunSpec::new(RootFs::Overlay(overlay), words(&["/bin/sh", "-c", "ls / | grep -c file-; cat /same"]));
    spec.env = words(&["PATH=/bin"]);
    assert_eq!(output(&spec), "400\n0");
    assert_eq!(listing(upper(&spec)), Vec::<String>::new());

    probe_overlay(&place.base).unwrap();
    assert!(probe_overlay(Path::new("/none")).is_err());
    let merged = place.dir("merged");
    let overlay = place.overlay("scratch", Vec::new());
    for durability in [Durability::Volatile, Durability::Volatile, Durability::Synced] {
        let overlay = Overlay { durability, ..overlay.clone() };
        let mounted = mount_overlay(&overlay, &merged).unwrap();
        fs::write(mounted.target().join("file"), "x").unwrap();
        mounted.unmount().unwrap();
    }
    assert_eq!(listing(&overlay.upper), ["file"]);
    assert_eq!(listing(&merged), Vec::<String>::new());

    let layers = stack(place, 3);
    let mounted = mount_layers(&layers, &merged).unwrap();
    assert_eq!(fs::read_to_string(merged.join("same")).unwrap(), "0", "the top one hides the others");
    assert_eq!(listing(&merged).iter().filter(|name| name.starts_with("file-")).count(), 3);
    let refused = fs::write(merged.join("same"), "").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    mounted.unmount().unwrap();
}

fn trees_of_other_ids_are_removed(place: &Place) {
    let other = if place.facts().privilege == Privilege::OneId { "0" } else { "33" };
    let script = format!(
        "mkdir -p /t/a/b && touch /t/a/b/c && ln -s /etc /t/a/etc && chown -R {other} /t && chmod 0 /t/a/b /t/a && mkdir -p /t/d/e && chmod 0 /t/d"
    );
    let spec = place.script("trees", &script);
    output(&spec);
    remove_tree(&upper(&spec).join("t")).unwrap();
    remove_tree(upper(&spec).parent().unwrap()).unwrap();
    assert!(!place.base.join("trees").exists());
}

fn a_start_is_cheap(place: &Place) {
    let mut told = Vec::new();
    let points = place.dir("kept-points");
    for (count, durability) in [(5, Durability::Volatile), (5, Durability::Synced), (100, Durability::Volatile)] {
        let layers = stack(place, count);
        let mut times: Vec<Duration> = (0..20)
            .map(|number| {
                let overlay = Overlay { durability, ..place.overlay(&format!("cheap-{number}"), layers.clone()) };
                let mut spec = RunSpec::new(RootFs::Overlay(overlay), words(&["/bin/busybox", "true"]));
                spec.env = words(&["PATH=/bin"]);
                spec.mount_points = Some(points.clone());
                let start = Instant::now();
                do_it(&spec);
                start.elapsed()
            })
            .collect();
        times.sort();
        told.push(format!("{count} layers, {durability:?}: {:.1} ms", times[10].as_secs_f64() * 1e3));
        // Far above what it takes, since machines that run tests are busy.
        assert!(times[0] < Duration::from_millis(200), "{times:?}");
    }
    place.note(format!("start and end of `true`, median of 20: {}", told.join("; ")));
}
