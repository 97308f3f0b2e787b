//! User and group ids of commands.

use super::{Place, Test, do_it, output, try_do, upper, words};
use rbuild_sandbox::{
    Privilege, RunError,
    idmap::IdKind,
    root::{FileKind, Ownership, Root},
};
use std::{fs, os::unix::fs::MetadataExt};

pub(super) const TESTS: &[Test] = &[
    ("ids_are_mapped", ids_are_mapped),
    ("a_user_has_no_capabilities", a_user_has_no_capabilities),
    ("setuid_programs_work", setuid_programs_work),
    ("chown_to_other_ids", chown_to_other_ids),
    ("devices_are_made_or_recorded", devices_are_made_or_recorded),
];

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
    if place.facts().privilege == Privilege::Emulated {
        // Process ids are the real ones.
        return assert!(output(&place.script("ids", "umask; pwd; ls /proc/self/exe")).starts_with("0022\n/\n"));
    }
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

fn devices_are_made_or_recorded(place: &Place) {
    let script = "umask 027; mkdir -m 2755 /d; chgrp 33 /d; mknod /d/c c 1 3; mknod -m 4666 d/b b 8 17; ln -s /d /up; \
        mkdir /d/in; cd /d/in; mknod ../up c 1 5; mknod /up/x c 10 200; mknod none/x c 1 3; mknod ../c c 1 3; mknod /d/../etc c 1 3; \
        mv /d/c /d/moved; rm /d/x; echo swallowed > /d/moved; su -s /bin/sh www-data -c 'mknod /tmp/x c 1 3'; chroot /d /none; echo done";
    let mut spec = place.script("devices", script);
    // Then there is nobody else, and no other group.
    let alone = place.facts().privilege == Privilege::OneId;
    if alone {
        spec.argv[2] = script.replace("chgrp 33 /d;", "").into_bytes();
    }
    let done = do_it(&spec);
    assert_eq!(done.stdout, "done\n", "{}", done.stderr);
    let count = |text: &str| done.stderr.matches(text).count();
    assert_eq!(
        (count("No such file"), count("File exists"), count("mknod: /tmp/x")),
        (2, 2, usize::from(!alone)),
        "{}",
        done.stderr
    );
    let root = Root::open(upper(&spec), Ownership::detect()).unwrap();
    if root.lstat("d/moved").unwrap().is_file() {
        assert!(root.open_dir("d").unwrap().empty_device("moved").unwrap());
    }
    for (path, kind, device, mode) in [
        ("d/moved", FileKind::CharDevice, (1, 3), 0o640),
        ("d/b", FileKind::BlockDevice, (8, 17), 0o4666),
        ("d/up", FileKind::CharDevice, (1, 5), 0o640),
    ] {
        let found = root.lstat(path).unwrap();
        let group = if alone { 0 } else { 33 };
        assert_eq!(
            (found.kind, found.device, found.mode, found.uid, found.gid),
            (kind, device, mode, 0, group),
            "{path}"
        );
    }
    assert_eq!(root.try_lstat("d/x").unwrap(), None);
}
