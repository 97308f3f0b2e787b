//! Mounts that are asked for, and their mount points.

use super::{Place, Test, do_it, listing, output, try_do, upper, words};
use rbuild_sandbox::{Access, Mount, RunError};
use std::{fs, os::unix::fs::symlink, path::Path};

pub(super) const TESTS: &[Test] = &[
    ("mounts_of_every_kind", mounts_of_every_kind),
    ("mount_points_leave_no_trace", mount_points_leave_no_trace),
    ("hidden_mount_points_leave_no_trace", hidden_mount_points_leave_no_trace),
    ("hostile_links_do_not_lead_outside", hostile_links_do_not_lead_outside),
    ("hostile_proc_is_refused", hostile_proc_is_refused),
];

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
        Mount::Tmpfs {
            target: "/scratch".into(),
            size: Some(1 << 20),
            mode: 0o1700,
            closed: false,
            access: Access::ReadWrite,
        },
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
        Mount::Tmpfs { target: "/a/b/c".into(), size: None, mode: 0o755, closed: false, access: Access::ReadWrite },
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
        Mount::Tmpfs {
            target: "/opt/sub/deep".into(),
            size: None,
            mode: 0o755,
            closed: false,
            access: Access::ReadWrite,
        },
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
        Mount::Tmpfs {
            target: "/climbing/dir".into(),
            size: None,
            mode: 0o755,
            closed: false,
            access: Access::ReadWrite,
        },
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
