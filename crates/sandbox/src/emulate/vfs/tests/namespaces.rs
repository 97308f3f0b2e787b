//! Mounts, paths and descriptors.

use super::{
    super::{FileSystem, Found, MountFlags, Namespace, NoLinks, Opened, Place, Start},
    ours::{Ours, root},
};
use rustix::{
    fd::{AsRawFd, OwnedFd},
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// An overlay root of `usr/bin`, `mnt/in`, `old` and some files.
fn start() -> (tempfile::TempDir, Ours) {
    let base = tempfile::tempdir().unwrap();
    for dir in ["lower/usr/bin", "lower/mnt/in", "lower/old", "upper", "host/deep/er", "scratch"] {
        fs::create_dir_all(base.path().join(dir)).unwrap();
    }
    fs::write(base.path().join("lower/usr/bin/tool"), "tool").unwrap();
    fs::write(base.path().join("host/deep/er/file"), "host").unwrap();
    std::os::unix::fs::symlink("/usr/bin", base.path().join("lower/bin")).unwrap();
    std::os::unix::fs::symlink("turn", base.path().join("lower/turn")).unwrap();
    std::os::unix::fs::symlink("/usr", base.path().join("host/up")).unwrap();
    let lower = vec![open(&base.path().join("lower"))];
    let upper = Some(open(&base.path().join("upper")));
    let namespace = Namespace::new(FileSystem::Overlay { lower, upper }).unwrap();
    (base, Ours { namespace })
}

fn host(base: &tempfile::TempDir) -> FileSystem {
    let path: PathBuf = base.path().join("host");
    FileSystem::Host { root: open(&path), path, is_proc: false }
}

fn mount(ours: &Ours, file_system: FileSystem, at: &str) {
    let tree = ours.namespace.mount(file_system, MountFlags::default()).unwrap();
    ours.namespace.attach(&tree, &find(ours, at)).unwrap();
}

fn find(ours: &Ours, path: &str) -> Place {
    ours.find(path, true, &root()).unwrap()
}

fn path_of(ours: &Ours, place: &Place) -> Option<String> {
    ours.namespace.path_of(&ours.namespace.root(), place).map(|path| String::from_utf8(path).unwrap())
}

#[test]
fn paths_are_followed_as_the_kernel_follows_them() {
    let (_base, ours) = start();
    let fails = |path: &str, follow| ours.resolve(path, follow, &root()).map(drop).unwrap_err();
    assert_eq!(fails("/turn", true), Errno::LOOP);
    assert_eq!(fails("/turn/x", false), Errno::LOOP);
    assert!(ours.find("/turn", false, &root()).is_ok());
    assert_eq!(fails(&format!("/{}", "x".repeat(256)), true), Errno::NAMETOOLONG);
    assert_eq!(fails("/usr/bin/tool/", true), Errno::NOTDIR);
    assert_eq!(fails("/usr/bin/tool/x", true), Errno::NOTDIR);
    assert_eq!(fails("/none/x", true), Errno::NOENT);
    assert_eq!(fails("", true), Errno::NOENT);
    assert_eq!(path_of(&ours, &find(&ours, "/../../bin/../bin/./tool")).as_deref(), Some("/usr/bin/tool"));
    match ours.resolve("/bin/new/", true, &root()).unwrap() {
        Found::Missing { parent, name, trailing_slash } => {
            assert_eq!((path_of(&ours, &parent).as_deref(), name.as_slice()), (Some("/usr/bin"), &b"new"[..]));
            assert!(trailing_slash);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn mounts_are_crossed_both_ways() {
    let (base, ours) = start();
    mount(&ours, host(&base), "/mnt/in");
    assert_eq!(path_of(&ours, &find(&ours, "/mnt/in/deep/er/file")).as_deref(), Some("/mnt/in/deep/er/file"));
    assert_eq!(path_of(&ours, &find(&ours, "/mnt/in/deep/../..")).as_deref(), Some("/mnt"));
    assert_eq!(path_of(&ours, &find(&ours, "/mnt/in/up/bin/tool")).as_deref(), Some("/usr/bin/tool"));
    let top = find(&ours, "/mnt");
    assert_eq!(top.rmdir(b"in", &root()), Err(Errno::BUSY));
    assert_eq!(top.rename(b"in", &top, b"out", 0, &root()), Err(Errno::BUSY));
    let file = find(&ours, "/mnt/in/deep/er/file");
    assert_eq!(file.link(&find(&ours, "/usr"), b"x", &root()), Err(Errno::XDEV));
    assert!(ours.resolve("/mnt/in/../in/up/bin", true, &root()).is_ok());
    ours.namespace.detach(&find(&ours, "/mnt/in")).unwrap();
    assert!(ours.find("/mnt/in/deep", true, &root()).is_err());
    assert_eq!(ours.namespace.detach(&find(&ours, "/mnt/in")), Err(Errno::INVAL));
}

#[test]
fn read_only_mounts_refuse() {
    let (base, ours) = start();
    mount(&ours, host(&base), "/mnt/in");
    let only = MountFlags { read_only: true, ..MountFlags::default() };
    ours.namespace.set_flags(&find(&ours, "/mnt/in"), only, MountFlags::default(), true).unwrap();
    let dir = find(&ours, "/mnt/in/deep/er");
    assert_eq!(dir.mkdir(b"x", 0o755, &root()), Err(Errno::ROFS));
    assert_eq!(dir.mkdir(b"file", 0o755, &root()), Err(Errno::EXIST));
    assert_eq!(dir.unlink(b"file", &root()), Err(Errno::ROFS));
    let file = find(&ours, "/mnt/in/deep/er/file");
    assert_eq!(file.open(1, &root()).map(drop), Err(Errno::ROFS));
    assert_eq!(file.access(2, &root()), Err(Errno::ROFS));
    assert!(file.open(0, &root()).is_ok());
}

#[test]
fn roots_are_changed() {
    let (base, ours) = start();
    let copy = Ours { namespace: ours.namespace.clone_namespace() };
    mount(&copy, host(&base), "/mnt/in");
    assert!(ours.find("/mnt/in/deep", true, &root()).is_err());
    let cwd = copy.namespace.same_place(&find(&ours, "/usr"));
    assert_eq!(path_of(&copy, &cwd).as_deref(), Some("/usr"));
    copy.namespace.pivot(&find(&copy, "/mnt/in"), &find(&copy, "/mnt/in/deep")).unwrap();
    assert_eq!(path_of(&copy, &cwd).as_deref(), Some("/deep/usr"));
    assert_eq!(path_of(&copy, &find(&copy, "/deep/usr/bin/tool")).as_deref(), Some("/deep/usr/bin/tool"));
    copy.namespace.detach(&find(&copy, "/deep")).unwrap();
    assert_eq!(path_of(&copy, &cwd), None);
    assert!(copy.find("/deep/er/file", true, &root()).is_ok());
    // A bind mount of a part, with what is mounted in it.
    mount(&ours, host(&base), "/mnt/in");
    let tree = ours.namespace.copy_tree(&find(&ours, "/mnt"), true).unwrap();
    ours.namespace.attach(&tree, &find(&ours, "/old")).unwrap();
    assert_eq!(path_of(&ours, &find(&ours, "/old/in/deep/er")).as_deref(), Some("/old/in/deep/er"));
    assert_eq!(path_of(&ours, &find(&ours, "/old/..")).as_deref(), Some("/"));
    let info = String::from_utf8(ours.namespace.mountinfo(&ours.namespace.root())).unwrap();
    assert_eq!(info.lines().count(), 4, "{info}");
    assert!(info.contains(" /mnt /old rw"), "{info}");
}

#[test]
fn descriptors_are_found_again() {
    let (base, ours) = start();
    mount(&ours, host(&base), "/mnt/in");
    let opened = |place: &Place, flags| match place.open(flags, &root()).unwrap() {
        Opened::File(file) => file,
        Opened::Blocking(_) => panic!("no pipe"),
    };
    let again = |file: &OwnedFd| {
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        ours.namespace.place_of(&path).unwrap()
    };
    for path in ["/usr/bin", "/usr/bin/tool", "/mnt/in/deep", "/mnt/in/deep/er/file"] {
        let file = opened(&find(&ours, path), 0);
        let place = again(&file).unwrap();
        assert_eq!(path_of(&ours, &place).as_deref(), Some(path));
        assert!(place.same(&find(&ours, path)), "{path}");
    }
    // Copied up and renamed while it is open, and then removed.
    let bin = find(&ours, "/usr/bin");
    let file = opened(&find(&ours, "/usr/bin/tool"), 0);
    let before = find(&ours, "/usr/bin/tool").stat().unwrap();
    bin.rename(b"tool", &find(&ours, "/usr"), b"moved", 0, &root()).unwrap();
    let place = again(&file).unwrap();
    assert_eq!(path_of(&ours, &place).as_deref(), Some("/usr/moved"));
    assert_eq!((place.stat().unwrap().dev, place.stat().unwrap().ino), (before.dev, before.ino));
    let file = opened(&place, 1);
    find(&ours, "/usr").unlink(b"moved", &root()).unwrap();
    let place = again(&file).unwrap();
    place.chown(33, 34, &root()).unwrap();
    let stat = place.stat().unwrap();
    assert_eq!((stat.uid, stat.gid, stat.nlink), (33, 34, 0));
    let pipe = rustix::pipe::pipe().unwrap().0;
    assert!(again(&pipe).is_none());
}

#[test]
fn memory_file_systems_go_with_their_last_use() {
    let (base, ours) = start();
    let scratch = base.path().join("scratch");
    mount(&ours, FileSystem::Temporary { backing: scratch.clone(), mode: 0o1777, size: None }, "/mnt/in");
    let place = find(&ours, "/mnt/in");
    assert_eq!(place.stat().unwrap().mode, 0o041_777);
    drop(place.create(b"file", 0o101, 0o600, &root()).unwrap());
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 1);
    ours.namespace.detach(&place).unwrap();
    drop(place);
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
    // An open directory of the file system above does not hold it.
    mount(&ours, FileSystem::Temporary { backing: scratch.clone(), mode: 0o755, size: None }, "/mnt/in");
    let directory = find(&ours, "/mnt").open(0, &root()).unwrap();
    drop(ours);
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
    drop(directory);
}

#[test]
fn search_permission_is_needed() {
    let (_base, ours) = start();
    find(&ours, "/usr").chmod(0o700, &root()).unwrap();
    let who = super::super::Identity { uid: 33, gid: 33, groups: Vec::new(), capabilities: 0 };
    assert_eq!(ours.resolve("/usr/bin", true, &who).map(drop).unwrap_err(), Errno::ACCESS);
    let place = ours.namespace.root();
    let start = Start { root: &place, base: &place, who: &who, proc: &NoLinks };
    assert!(ours.namespace.resolve(&start, b"usr", true).is_ok());
    assert_eq!(ours.namespace.resolve_parent(&start, b"usr/bin").map(drop).unwrap_err(), Errno::ACCESS);
}

#[test]
fn attributes_of_overlays_are_kept_apart_from_those_of_programs() {
    let (base, ours) = start();
    let dir = find(&ours, "/usr/bin");
    dir.chown(33, 33, &root()).unwrap();
    assert_eq!(dir.list_xattr(&root()).unwrap(), Vec::<Vec<u8>>::new());
    dir.set_xattr(b"user.overlay.opaque", b"y", 0, &root()).unwrap();
    dir.set_xattr(b"user.rbuild.owner", b"1 1", 0, &root()).unwrap();
    assert_eq!(dir.get_xattr(b"user.overlay.opaque", &root()).unwrap(), b"y");
    assert_eq!(dir.list_xattr(&root()).unwrap().len(), 2);
    let stat = dir.stat().unwrap();
    assert_eq!((stat.uid, stat.gid), (33, 33));
    let upper = vec![open(&base.path().join("upper")), open(&base.path().join("lower"))];
    let again = Ours { namespace: Namespace::new(FileSystem::Overlay { lower: upper, upper: None }).unwrap() };
    let dir = find(&again, "/usr/bin");
    let stat = dir.stat().unwrap();
    assert_eq!((stat.uid, stat.gid, again.find("/usr/bin/tool", true, &root()).is_ok()), (33, 33, true));
    assert_eq!(dir.mkdir(b"x", 0o755, &root()), Err(Errno::ROFS));
}

#[test]
fn unnamed_files_get_names() {
    let (_base, ours) = start();
    let dir = find(&ours, "/usr/bin");
    let Ok(file) = dir.create_unnamed(OFlags::RDWR.bits(), 0o4755, &root()) else {
        println!("SKIPPED: this file system has no unnamed files");
        return;
    };
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let place = ours.namespace.place_of(&path).unwrap().unwrap();
    assert_eq!((place.stat().unwrap().mode, place.stat().unwrap().nlink), (0o104_755, 0));
    place.link(&dir, b"named", &root()).unwrap();
    assert_eq!(find(&ours, "/bin/named").stat().unwrap().mode, 0o104_755);
    let place = ours.namespace.place_of(&path).unwrap().unwrap();
    assert_eq!(path_of(&ours, &place).as_deref(), Some("/usr/bin/named"));
}

#[test]
fn what_is_covered_stays_covered_in_a_limited_namespace() {
    let (base, ours) = start();
    mount(&ours, host(&base), "/mnt/in");
    let limited = Ours { namespace: ours.namespace.clone_limited() };
    assert!(limited.namespace.is_limited() && limited.namespace.clone_namespace().is_limited());
    let all = limited.namespace.copy_tree(&find(&limited, "/"), true).unwrap();
    limited.namespace.attach(&all, &find(&limited, "/old")).unwrap();
    let held = find(&limited, "/old/mnt");
    limited.namespace.detach(&find(&limited, "/old")).unwrap();
    assert!(limited.find("/old/mnt", true, &root()).is_err());
    let here = Start { root: &held, base: &held, who: &root(), proc: &NoLinks };
    assert!(matches!(limited.namespace.resolve(&here, b"in/deep", true), Ok(Found::File(_))));
    // Of the mounts of others it changes nothing.
    let outside = find(&ours, "/mnt/in");
    assert_eq!(limited.namespace.detach(&outside), Err(Errno::INVAL));
    assert_eq!(limited.namespace.copy_tree(&outside, true).map(drop), Err(Errno::INVAL));
    ours.namespace.detach(&outside).unwrap();
}
