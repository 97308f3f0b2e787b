//! Root file systems: overlays of layers, and plain directories.

use super::{Place, Test, do_it, listing, output, upper, words};
use rbuild_sandbox::{
    Access, Durability, Mount, Overlay, Privilege, RootAccess, RootFs, RunSpec, mount_layers, mount_overlay,
    probe_overlay, remove_tree,
};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub(super) const TESTS: &[Test] = &[
    ("a_directory_is_a_root", a_directory_is_a_root),
    ("a_read_only_root", a_read_only_root),
    ("many_layers_and_none", many_layers_and_none),
    ("trees_of_other_ids_are_removed", trees_of_other_ids_are_removed),
    ("a_start_is_cheap", a_start_is_cheap),
];

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
    spec.mounts =
        vec![Mount::Tmpfs { target: "/in".into(), size: None, mode: 0o755, closed: false, access: Access::ReadWrite }];
    let done = do_it(&spec);
    assert_eq!(done.stdout, "in\nnull\n");
    assert_eq!(done.stderr.matches("Read-only file system").count(), 2, "{}", done.stderr);
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
