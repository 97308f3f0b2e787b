//! Tests of the root. They run as any user; what needs uid 0 says so when it is left out.
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::*;

struct Tree {
    outer: tempfile::TempDir,
    root: Root,
}

impl Tree {
    fn top(&self) -> PathBuf {
        self.outer.path().join("root")
    }
}

/// A root in a directory beside which lies a file that nothing may reach.
fn trees() -> Vec<Tree> {
    [true, false]
        .into_iter()
        .map(|openat2| {
            let outer = tempfile::tempdir().unwrap();
            let top = outer.path().join("root");
            fs::create_dir(&top).unwrap();
            fs::write(outer.path().join("secret"), "secret").unwrap();
            let fd = OwnedFd::from(fs::File::open(&top).unwrap());
            let root = Root::with_resolver(fd, Ownership::detect(), openat2);
            Tree { outer, root }
        })
        .collect()
}

fn tree() -> Tree {
    trees().remove(0)
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root() && Ownership::detect() == Ownership::Real;
    if !root {
        println!("left out: needs uid 0 and many ids");
    }
    root
}

#[test]
fn nothing_leads_out() {
    for tree in trees() {
        let top = tree.top();
        symlink("../secret", top.join("up")).unwrap();
        symlink(tree.outer.path().join("secret"), top.join("absolute")).unwrap();
        symlink("..", top.join("dir")).unwrap();
        for path in ["up", "absolute", "dir/secret", "../secret", "dir/../../secret", "/../secret"] {
            let error = tree.root.open_file(path).unwrap_err();
            assert!(error.is_not_found(), "{path}: {error:?}");
            assert!(tree.root.stat(path).unwrap_err().is_not_found(), "{path}");
        }
        // What is written through such a link lands inside.
        tree.root.create_file("dir/new").unwrap();
        assert!(top.join("new").exists());
        assert!(!tree.outer.path().join("new").exists());
        symlink("/elsewhere", top.join("away")).unwrap();
        tree.root
            .create_dir_all("away/deep", NewDirs { mode: 0o755, owner: tree.root.dir().shared().ids, time: None })
            .unwrap();
        assert!(top.join("elsewhere/deep").is_dir());
    }
}

#[test]
fn magic_links_are_not_followed() {
    let outer = tempfile::tempdir().unwrap();
    if !Path::new("/proc/self/root").exists() {
        println!("left out: needs /proc");
        return;
    }
    drop(outer);
    let root = Root::open("/proc/self", Ownership::detect()).unwrap();
    assert!(root.open_file("root/etc/passwd").is_err());
    assert!(root.open_dir("cwd").is_err());
}

#[test]
fn paths_resolve_inside_the_root() {
    for tree in trees() {
        let top = tree.top();
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::write(top.join("a/b/file"), "x").unwrap();
        symlink("/a", top.join("to-a")).unwrap();
        symlink("../to-a/b", top.join("a/back")).unwrap();
        symlink("loop", top.join("loop")).unwrap();
        symlink("/none/x", top.join("dangling")).unwrap();
        let cases = [
            ("to-a/back/file", "a/b/file"),
            ("/to-a/./back/../back", "a/b"),
            ("../../..", ""),
            ("", ""),
            ("missing/../x", "x"),
            ("dangling/y", "none/x/y"),
            ("to-a/none", "a/none"),
        ];
        for (path, want) in cases {
            assert_eq!(tree.root.resolve(path).unwrap(), Path::new(want), "{path}");
        }
        assert_eq!(tree.root.resolve_parent("to-a/back").unwrap(), Path::new("a/back"));
        assert_eq!(tree.root.resolve("loop").unwrap_err().errno(), Some(Errno::LOOP.raw_os_error()));
        assert_eq!(tree.root.resolve("a/b/file/x").unwrap_err().kind(), std::io::ErrorKind::NotADirectory);
        let mut text = String::new();
        let mut file = tree.root.open_file("to-a/back/file").unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        assert!(tree.root.lstat("to-a").unwrap().is_symlink());
        assert!(tree.root.stat("to-a").unwrap().is_dir());
        assert!(tree.root.lstat("/").unwrap().is_dir());
    }
}

#[test]
fn errors_name_operation_and_path() {
    let tree = tree();
    let error = tree.root.open_file("/no/such").unwrap_err();
    assert_eq!(error.to_string(), "cannot open `no/such`");
    let error = tree.root.create_dir("no/such").unwrap_err();
    assert_eq!(error.to_string(), "cannot open the directory `no`");
    tree.root.create_dir("d").unwrap();
    let error = tree.root.create_dir("d").unwrap_err();
    assert_eq!(error.to_string(), "cannot create the directory `d`");
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
    assert!(matches!(tree.root.create_file("d/.."), Err(RootError::NoName { .. })));
}

#[test]
fn files_get_what_they_are_given() {
    let tree = tree();
    let ids = tree.root.dir().shared().ids;
    let file = tree.root.create_file("f").unwrap();
    file.file().unwrap().write_all(b"content").unwrap();
    file.chown(ids.0, ids.1).unwrap();
    file.chmod(0o4751).unwrap();
    let time = Timestamp { seconds: 1_000_000_000, nanoseconds: 123_456_789 };
    file.set_times(time, time).unwrap();
    let dir = tree.root.create_dir("d").unwrap();
    dir.chmod(0o1777).unwrap();
    dir.set_times(time, time).unwrap();
    tree.root.create_symlink("l", "../../etc").unwrap();
    tree.root.set_times("l", time, Timestamp::from_seconds(-5)).unwrap();
    tree.root.create_special("p", FileKind::Fifo, (0, 0)).unwrap().chmod(0o644).unwrap();
    tree.root.create_whiteout("w").unwrap();
    tree.root.hard_link("f", "g").unwrap();

    let shown = tree.root.lstat("f").unwrap();
    assert_eq!((shown.mode, shown.size, shown.links), (0o4751, 7, 2));
    assert_eq!((shown.mtime, shown.uid, shown.gid), (time, ids.0, ids.1));
    assert_eq!(tree.root.lstat("g").unwrap().id, shown.id);
    let shown = tree.root.lstat("d").unwrap();
    assert_eq!((shown.mode, shown.mtime), (0o1777, time));
    let shown = tree.root.lstat("l").unwrap();
    assert_eq!(shown.mtime, Timestamp::from_seconds(-5));
    assert_eq!(tree.root.read_link("l").unwrap(), Path::new("../../etc"));
    let shown = tree.root.lstat("p").unwrap();
    assert_eq!((shown.kind, shown.mode), (FileKind::Fifo, 0o644));
    assert!(tree.root.lstat("w").unwrap().is_whiteout());
    assert_eq!(tree.root.read_dir("/").unwrap(), ["d", "f", "g", "l", "p", "w"].map(OsString::from));
    tree.root.rename("g", "d/h").unwrap();
    assert_eq!(tree.root.read("d/h", 7).unwrap(), b"content");
    assert_eq!(tree.root.read("d/h", 6).unwrap_err().kind(), std::io::ErrorKind::FileTooLarge);
}

#[test]
fn owners_that_cannot_be_given_are_recorded() {
    let tree = tree();
    let root = Root::open(tree.top(), Ownership::Recorded).unwrap();
    let ids = root.dir().shared().ids;
    // No process owns this id pair when it has one id; as real root the kernel takes it, and nothing is recorded.
    for (path, kind) in [
        ("f", FileKind::File),
        ("d", FileKind::Directory),
        ("l", FileKind::Symlink),
        ("d/p", FileKind::Fifo),
        ("d/l", FileKind::Symlink),
    ] {
        let node = match kind {
            FileKind::File => root.create_file(path),
            FileKind::Directory => root.create_dir(path),
            FileKind::Symlink => root.create_symlink(path, "t"),
            _ => root.create_special(path, kind, (0, 0)),
        }
        .unwrap();
        node.chown(12, 34).unwrap();
        let shown = root.lstat(path).unwrap();
        assert_eq!((shown.kind, shown.uid, shown.gid), (kind, 12, 34), "{path}");
    }
    root.rename("l", "moved").unwrap();
    root.hard_link("moved", "linked").unwrap();
    for path in ["moved", "linked"] {
        let shown = root.lstat(path).unwrap();
        assert_eq!((shown.uid, shown.gid), (12, 34), "{path}");
    }
    // A name that is used again has no owner left over.
    root.remove_file("moved").unwrap();
    root.create_symlink("moved", "x").unwrap();
    let shown = root.lstat("moved").unwrap();
    assert_eq!((shown.uid, shown.gid), ids);
    root.chown("f", ids.0, ids.1).unwrap();
    let shown = root.lstat("f").unwrap();
    assert_eq!((shown.uid, shown.gid), ids);
    for path in ["f", "d", ""] {
        assert!(root.xattrs(path).unwrap().is_empty(), "records are not shown");
    }
}

#[test]
fn devices_are_shown_whether_real_or_not() {
    let tree = tree();
    let node = tree.root.create_special("null", FileKind::CharDevice, (1, 3)).unwrap();
    node.chmod(0o666).unwrap();
    let shown = tree.root.lstat("null").unwrap();
    assert_eq!((shown.kind, shown.device, shown.mode), (FileKind::CharDevice, (1, 3), 0o666));
    // A placeholder, made by hand, is shown by any root.
    let file = tree.root.create_file("disk").unwrap();
    let target = xattr::Target::Open(file.file().unwrap().as_fd());
    record::write_device(target, FileKind::BlockDevice, (8, 300), true).unwrap();
    let shown = tree.root.lstat("disk").unwrap();
    assert_eq!((shown.kind, shown.device), (FileKind::BlockDevice, (8, 300)));
    xattr::set(target, OsStr::new("user.rbuild.node"), b"nonsense", true).unwrap();
    assert!(matches!(tree.root.lstat("disk"), Err(RootError::BadRecord { .. })));
}

#[test]
fn reserved_attributes_never_pass() {
    let tree = tree();
    let file = tree.root.create_file("f").unwrap();
    for name in ["user.overlay.opaque", "user.rbuild.owner", "trusted.overlay.opaque"] {
        assert_eq!(file.set_xattr(name, b"y").unwrap(), XattrOutcome::Skipped);
    }
    assert_eq!(file.set_xattr("user.note", b"hello").unwrap(), XattrOutcome::Set);
    tree.root.create_dir("d").unwrap();
    tree.root.dir().set_opaque("d").unwrap();
    assert!(tree.root.dir().is_opaque("d").unwrap());
    assert!(!tree.root.dir().is_opaque("f").unwrap());
    assert!(tree.root.xattrs("d").unwrap().is_empty());
    tree.root.remove_xattr("d", "user.overlay.opaque").unwrap();
    assert!(tree.root.dir().is_opaque("d").unwrap());
    assert_eq!(tree.root.xattrs("f").unwrap(), [(OsString::from("user.note"), b"hello".to_vec())]);
    let long = vec![b'x'; 2000];
    tree.root.set_xattr("f", "user.note", &long).unwrap();
    assert_eq!(tree.root.xattr("f", "user.note").unwrap(), Some(long));
    tree.root.remove_xattr("f", "user.note").unwrap();
    assert_eq!(tree.root.xattr("f", "user.note").unwrap(), None);
    // The kernel allows none on a symbolic link, and Docker goes on without.
    let link = tree.root.create_symlink("l", "f").unwrap();
    assert_eq!(link.set_xattr("user.note", b"x").unwrap(), XattrOutcome::Skipped);
}

#[test]
fn capabilities_are_kept() {
    // cap_net_bind_service=ep, revision 2.
    let mut value = vec![1, 0, 0, 2, 0, 4, 0, 0];
    value.resize(20, 0);
    let tree = tree();
    let file = tree.root.create_file("f").unwrap();
    assert_eq!(file.set_xattr(CAPABILITY, &value).unwrap(), XattrOutcome::Set);
    assert_eq!(tree.root.xattr("f", CAPABILITY).unwrap(), Some(value.clone()));
    assert_eq!(tree.root.xattrs("f").unwrap(), [(OsString::from(CAPABILITY), value.clone())]);
    let mut third = value.clone();
    third[3] = 3;
    third.extend_from_slice(&1000_u32.to_le_bytes());
    assert_eq!(xattr::portable_capability(third), value);
}

#[test]
fn trees_are_removed_whatever_their_modes() {
    let tree = tree();
    let top = tree.top();
    fs::create_dir_all(top.join("t/a/b")).unwrap();
    fs::write(top.join("t/a/b/f"), "x").unwrap();
    symlink(tree.outer.path(), top.join("t/a/out")).unwrap();
    fs::set_permissions(top.join("t/a/b"), fs::Permissions::from_mode(0o0)).unwrap();
    fs::set_permissions(top.join("t/a"), fs::Permissions::from_mode(0o0)).unwrap();
    tree.root.remove_tree("t").unwrap();
    assert!(!top.join("t").exists());
    assert!(tree.outer.path().join("secret").exists());
    tree.root.remove_tree("t").unwrap();
    tree.root.remove_tree("t/none").unwrap();
    fs::write(top.join("f"), "x").unwrap();
    tree.root.remove_tree("f").unwrap();
    assert!(!top.join("f").exists());
}

#[test]
fn depth_is_bounded_by_nothing() {
    let tree = tree();
    let mut dir = tree.root.dir().clone();
    for _ in 0..1500 {
        dir = dir.create_dir("deep").unwrap().into_dir().unwrap();
    }
    drop(dir);
    let visits = tree.root.walk("").unwrap().inspect(|visit| {
        visit.as_ref().unwrap();
    });
    assert_eq!(visits.count(), 3000);
    tree.root.remove_tree("deep").unwrap();
    assert!(tree.root.read_dir("").unwrap().is_empty());
}

#[test]
fn walks_go_in_order() {
    let tree = tree();
    let top = tree.top();
    for path in ["a/z", "a.b", "a-b", "b"] {
        fs::create_dir_all(top.join(path)).unwrap();
    }
    fs::write(top.join("a/f"), "").unwrap();
    fs::write(top.join("B"), "").unwrap();
    let mut steps = Vec::new();
    let mut walk = tree.root.walk("/").unwrap();
    while let Some(visit) = walk.next() {
        match visit.unwrap() {
            Visit::Enter(found) => {
                if found.name == "b" {
                    walk.skip_dir();
                }
                steps.push(found.path.display().to_string());
            }
            Visit::Leave(found) => steps.push(format!("{}!", found.path.display())),
        }
    }
    assert_eq!(steps, ["B", "a", "a/f", "a/z", "a/z!", "a!", "a-b", "a-b!", "a.b", "a.b!", "b"]);
}

#[test]
fn handles_of_removed_directories_are_not_used() {
    let tree = tree();
    tree.root.create_dir("d").unwrap();
    tree.root.create_file("d/a").unwrap();
    tree.root.remove_tree("d").unwrap();
    assert!(tree.root.create_file("d/b").is_err());
    tree.root.create_dir("d").unwrap();
    tree.root.create_file("d/b").unwrap();
    tree.root.create_dir("e").unwrap();
    tree.root.remove_tree("d").unwrap();
    tree.root.create_symlink("d", "e").unwrap();
    tree.root.create_file("d/c").unwrap();
    assert!(tree.top().join("e/c").exists());
}

#[test]
fn missing_parents_get_mode_and_owner() {
    let tree = tree();
    let owner = if is_root() { (5, 6) } else { tree.root.dir().shared().ids };
    let time = Timestamp::from_seconds(77);
    let new = NewDirs { mode: 0o2775, owner, time: Some(time) };
    fs::create_dir(tree.top().join("a")).unwrap();
    let created = tree.root.create_dir_all("/a/b/c", new).unwrap();
    assert_eq!(created, [Path::new("a/b"), Path::new("a/b/c")]);
    let meta = fs::metadata(tree.top().join("a/b/c")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), owner);
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o2775, 77));
    assert!(tree.root.create_dir_all("a/b", new).unwrap().is_empty());
    fs::write(tree.top().join("f"), "").unwrap();
    let error = tree.root.create_dir_all("f/x", new).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotADirectory);
}
