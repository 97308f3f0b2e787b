//! What a command may do and see.

use super::{Place, Test, do_it, listing, output, try_do, upper, words};
use crate::nested::{READ_ONLY, START, WORD};
use rbuild_sandbox::{Access, ExitStatus, Limit, Mount, Network, Privilege, RunError, Security, limits_met};
use std::{fs, path::Path};

pub(super) const TESTS: &[Test] = &[
    ("mount_and_unshare_are_refused", mount_and_unshare_are_refused),
    ("system_calls_are_filtered", system_calls_are_filtered),
    ("capabilities_are_dockers", capabilities_are_dockers),
    ("paths_are_masked", paths_are_masked),
    ("devices_are_dockers", devices_are_dockers),
    ("no_network", no_network),
    ("limits_are_told", limits_are_told),
    ("a_step_may_start_a_worker", a_step_may_start_a_worker),
    ("a_nested_root_undoes_nothing", a_nested_root_undoes_nothing),
    ("insecure_is_not_confined", insecure_is_not_confined),
    ("the_host_is_not_seen", the_host_is_not_seen),
];

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
        "directory=ok",
        "euid=0",
        "nnp=Ok(false)",
    ] {
        let inherited = expected.starts_with("nnp") && rustix::thread::no_new_privs().unwrap();
        assert!(inherited || text.lines().any(|line| line.starts_with(expected)), "{expected} in\n{text}");
    }
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

fn limits_are_told(place: &Place) {
    // The beginning of a program for i386.
    let script = r"printf '\177ELF\1\1\1\0\0\0\0\0\0\0\0\0\2\0\3\0' >/x; chmod 755 /x; /x";
    assert_ne!(do_it(&place.script("limits", script)).report.status, ExitStatus::Code(0));
    let emulated = place.facts().privilege == Privilege::Emulated;
    assert_eq!(limits_met(), if emulated { vec![Limit::Program32] } else { vec![] });
    assert_eq!(limits_met(), [], "they are told once");
}

fn a_step_may_start_a_worker(place: &Place) {
    let mut spec = place.script("worker", "");
    spec.argv = words(&["probe", START]);
    // Under Docker's profile it gets no namespaces.
    assert_eq!(output(&spec), "Emulated\n");
}

fn a_nested_root_undoes_nothing(place: &Place) {
    if place.facts().privilege != Privilege::Emulated {
        // There is a kernel that sees to it.
        return;
    }
    let kept = place.dir("kept");
    let bind = |access| Mount::Bind { source: kept.clone(), within: None, target: READ_ONLY.into(), access };
    let mut spec = place.script("nested", "");
    spec.argv = words(&["probe", WORD]);
    spec.mounts = vec![bind(Access::ReadOnly)];
    assert_eq!(output(&spec), "Emulated\n");
    assert_eq!(listing(&kept), Vec::<String>::new());
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
