//! Tests of root file systems. They run as any user: what an ordinary user may not give to a file is recorded beside it.
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rbuild_image::layer::{Entry, Kind, LayerReader, LayerWriter, Mtime};
use rbuild_sandbox::root::{CAPABILITY, FileKind, NewDirs, Ownership, Root, Timestamp};

use super::*;

struct Tree {
    _dir: tempfile::TempDir,
    root: Root,
}

fn tree() -> Tree {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path(), Ownership::detect()).unwrap();
    Tree { _dir: dir, root }
}

/// cap_net_bind_service=ep, as setcap(8) writes it.
fn capability() -> Vec<u8> {
    let mut value = vec![1, 0, 0, 2, 0, 4, 0, 0];
    value.resize(20, 0);
    value
}

fn write(root: &Root, path: &str, content: &[u8], mode: u32) {
    let node = root.create_file(path).unwrap();
    node.file().unwrap().write_all(content).unwrap();
    node.chown(0, 0).unwrap();
    node.chmod(mode).unwrap();
    let time = Timestamp { seconds: 1_500_000_000, nanoseconds: 987_654_321 };
    node.set_times(time, time).unwrap();
}

fn mkdir(root: &Root, path: &str, mode: u32) {
    let node = root.create_dir(path).unwrap();
    node.chown(0, 0).unwrap();
    node.chmod(mode).unwrap();
}

/// The tree whose hashes Docker 28.5.2 has recorded.
fn recorded_tree() -> Tree {
    let tree = tree();
    let root = &tree.root;
    write(root, "plain", b"hello\n", 0o644);
    write(root, "empty", b"", 0o644);
    mkdir(root, "d", 0o755);
    mkdir(root, "d/sub", 0o2775);
    mkdir(root, "d/empty", 0o1777);
    write(root, "d/a", b"linked", 0o644);
    root.hard_link("d/a", "d/b").unwrap();
    root.hard_link("d/a", "d/sub/c").unwrap();
    for (name, mode) in [
        ("d/suid", 0o4755),
        ("d/sgid", 0o2755),
        ("d/sgidnox", 0o2644),
        ("d/sticky", 0o1644),
        ("d/none", 0),
        ("d/xattr", 0o644),
        ("d/cap", 0o755),
    ] {
        write(root, name, b"x", mode);
    }
    root.set_xattr("d/xattr", "user.note", b"hi\0there").unwrap();
    root.set_xattr("d/cap", CAPABILITY, &capability()).unwrap();
    for (name, target) in [
        ("d/link", "a"),
        ("d/abs", "/etc/passwd"),
        ("d/dangling", "nowhere"),
        ("d/dirlink", "sub"),
        ("toplink", "plain"),
        ("dlink", "d"),
    ] {
        root.create_symlink(name, target).unwrap().chown(0, 0).unwrap();
    }
    let fifo = root.create_special("d/fifo", FileKind::Fifo, (0, 0)).unwrap();
    fifo.chown(0, 0).unwrap();
    fifo.chmod(0o644).unwrap();
    write(root, "d/.wh.foo", b"", 0o644);
    write(root, "d/näme €", b"u", 0o644);
    write(root, &format!("d/{}", "l".repeat(150)), b"long", 0o644);
    let mut sparse = vec![0; 5_000_000];
    sparse[3_000_000..3_000_003].copy_from_slice(b"end");
    write(root, "d/sparse", &sparse, 0o644);
    tree
}

fn legacy(source: &Source<'_>, sums: &Sums, patterns: &[&str]) -> String {
    let mut hashes = Vec::new();
    for pattern in patterns {
        let pattern = Path::new(pattern);
        let paths =
            if has_wildcards(pattern) { legacy_matches(source, pattern).unwrap() } else { vec![pattern.to_path_buf()] };
        for path in paths {
            hashes.push(legacy_hash(source, sums, &path).unwrap().unwrap());
        }
    }
    legacy_multi_hash(&hashes)
}

/// History lines of `DOCKER_BUILDKIT=0 docker build`, Docker 28.5.2.
#[test]
fn legacy_hashes_are_dockers() {
    if !rustix::process::geteuid().is_root() {
        println!("left out: a file of mode 0 can be read by root only");
        return;
    }
    let tree = recorded_tree();
    let mut source = Source::new(&tree.root);
    source.owner = Some((0, 0));
    let sums = Sums::Directory(DirectorySums::default());
    let cases: &[(&[&str], &str)] = &[
        (&["plain"], "file:ace762f14711f844b63186befe15d9cb4516f2d6f480eb25829137a4ddf53d7a"),
        (&["plain", "empty"], "multi:9cb16c0d65c581a96b9443a710ffe26e2618ae6bf7d0e63de63381e1050ade54"),
        (&["d"], "dir:c5706b35ae18860244cba6b6f85df87650a0e93737ff49a214e22e26163191e3"),
        (&["/dlink/"], "dir:c5706b35ae18860244cba6b6f85df87650a0e93737ff49a214e22e26163191e3"),
        (&["d/link"], "file:faf685eb8a494af823ea71fb7171a2ad62132ac7412d61fb8451b47eda5e7f81"),
        (&["d/dirlink"], "dir:dc74810ae6fca15757324fe260297a24a622e186e6684521c8ad35569826a546"),
        (&["d/s*"], "multi:d6f6ed3855ae7f6684f80a24cb81adfd9c84573694309b455afcb3f3b824c99d"),
    ];
    for (patterns, want) in cases {
        assert_eq!(legacy(&source, &sums, patterns), *want, "{patterns:?}");
    }
    assert_eq!(legacy_hash(&source, &sums, Path::new("none")).unwrap(), None);
}

/// The same tree as `tar c . | docker build -` names it: every entry begins with `./`.
#[test]
fn hashes_of_a_tar_context_are_dockers() {
    let tree = tree();
    write(&tree.root, "plain", b"hello\n", 0o644);
    let mut tar = LayerWriter::new(Vec::new());
    tar.append_empty(&Entry::new("./", Kind::Dir)).unwrap();
    let entry = Entry::new("./plain", Kind::File { size: 6 });
    tar.append(&entry, &b"hello\n"[..]).unwrap();
    let tar = tar.finish().unwrap();
    let sums = ArchiveSums::read(&mut LayerReader::new(&tar[..])).unwrap();
    let source = Source::new(&tree.root);
    assert_eq!(
        legacy(&source, &Sums::Archive(sums), &["plain"]),
        "file:ecc9ff04c4a3c714ed1d8adf6ebbfc582b7078cccb9fc9906e0b691d9b1ccb47"
    );
}

type Listed = Vec<(Entry, Vec<u8>)>;

fn pack(entries: &Listed) -> Vec<u8> {
    let mut tar = LayerWriter::new(Vec::new());
    for (entry, content) in entries {
        tar.append(entry, &content[..]).unwrap();
    }
    tar.finish().unwrap()
}

fn list(tar: &[u8]) -> Listed {
    let mut reader = LayerReader::new(tar);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let mut content = Vec::new();
        reader.content().read_to_end(&mut content).unwrap();
        entries.push((entry, content));
    }
    entries
}

fn unpack(tree: &Tree, entries: &Listed) -> Result<Unpacked> {
    apply(&mut LayerReader::new(&pack(entries)[..]), &tree.root, &[])
}

fn repack(root: &Root, options: DiffOptions<'_>) -> Listed {
    let mut writer = LayerWriter::new(Vec::new());
    diff(root, &mut writer, options).unwrap();
    list(&writer.finish().unwrap())
}

fn names(entries: &Listed) -> Vec<String> {
    entries.iter().map(|(entry, _)| String::from_utf8_lossy(&entry.path).into_owned()).collect()
}

fn file(path: &str, content: &str) -> (Entry, Vec<u8>) {
    let size = content.len() as u64;
    (Entry::new(path, Kind::File { size }), content.into())
}

fn bare(path: &str, kind: Kind) -> (Entry, Vec<u8>) {
    (Entry::new(path, kind), Vec::new())
}

fn symlink(path: &str, target: &str) -> (Entry, Vec<u8>) {
    let target = target.into();
    bare(path, Kind::Symlink { target })
}

fn hard_link(path: &str, target: &str) -> (Entry, Vec<u8>) {
    let target = target.into();
    bare(path, Kind::Hardlink { target })
}

#[test]
fn layers_come_back_as_they_were() {
    let tree = tree();
    let mut entries = vec![
        bare("a", Kind::Dir),
        file("a/.wh..wh..opq", ""),
        file("a/.wh.a-gone", ""),
        file("a/f", "content"),
        hard_link("a/g", "a/f"),
        symlink("a/l", "../../up"),
        bare("dev", Kind::Dir),
        bare("dev/null", Kind::Char { major: 1, minor: 3 }),
        bare("dev/sda", Kind::Block { major: 8, minor: 256 }),
        bare("pipe", Kind::Fifo),
        file("suid", "x"),
        symlink("zlink", "/abs"),
    ];
    for (index, (entry, _)) in entries.iter_mut().enumerate() {
        entry.uid = index as u32 * 100;
        entry.gid = index as u32 * 10;
        entry.mtime.secs = 1_000_000 + index as i64;
    }
    entries[0].0.mode = 0o1700;
    // What Docker writes for an opaque directory: its owner and permissions, and no time.
    (entries[1].0.uid, entries[1].0.gid) = (entries[0].0.uid, entries[0].0.gid);
    (entries[1].0.mode, entries[1].0.mtime) = (0o700, Mtime::default());
    entries[2].0.mode = 0o600;
    let first = entries[3].0.clone();
    let linked = &mut entries[4].0;
    (linked.uid, linked.gid, linked.mtime) = (first.uid, first.gid, first.mtime);
    entries[10].0.mode = 0o4755;
    entries[10].0.xattrs.insert(CAPABILITY.into(), capability());
    let unpacked = unpack(&tree, &entries).unwrap();
    assert_eq!((unpacked.entries, unpacked.bytes), (12, 8));
    assert!(tree.root.dir().is_opaque("a").unwrap());
    assert!(tree.root.lstat("a/a-gone").unwrap().is_whiteout());
    let mut back = repack(&tree.root, DiffOptions::default());
    // A whiteout's time is when it was made.
    back[2].0.mtime = entries[2].0.mtime;
    assert_eq!(back, entries);
}

#[test]
fn hostile_names_are_refused_or_contained() {
    // What Docker 28.5.2 answers: `invalid entry name`, `invalid hardlink target`, `path escapes from parent`.
    let refused = [
        vec![file("../up", "x")],
        vec![file("/../up", "x")],
        vec![file("a/../../up", "x")],
        vec![hard_link("h", "../etc/passwd")],
        vec![hard_link("h", ".")],
        vec![symlink("l", ".."), file("l/up", "x")],
        vec![hard_link("h", "none")],
        vec![file(".wh.", "")],
        vec![file("a/.wh..", "")],
        vec![bare("d", Kind::Dir), hard_link("h", "d")],
    ];
    for entries in refused {
        let outer = tempfile::tempdir().unwrap();
        std::fs::create_dir(outer.path().join("in")).unwrap();
        let root = Root::open(outer.path().join("in"), Ownership::detect()).unwrap();
        let tar = pack(&entries);
        let error = apply(&mut LayerReader::new(&tar[..]), &root, &[]).unwrap_err();
        let last = names(&entries).pop().unwrap();
        assert!(error.to_string().contains(&last), "{last}: {error}");
        assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 1);
    }
    let contained = [
        (vec![file("/abs", "x")], "abs"),
        (vec![file("a/../b", "x")], "b"),
        (vec![symlink("l", "/out"), file("l/x", "x")], "out/x"),
        (vec![file("f", "x"), hard_link("h", "/f")], "h"),
        (vec![symlink("l", "../../../etc")], "l"),
        (vec![file("f", "x"), file("f", "y")], "f"),
        (vec![file("deep/er/f", "x")], "deep/er/f"),
        (vec![bare("./", Kind::Dir), file("./f", "x")], "f"),
    ];
    for (entries, path) in contained {
        let tree = tree();
        unpack(&tree, &entries).unwrap();
        tree.root.lstat(path).unwrap();
    }
}

#[test]
fn later_entries_replace_earlier_ones() {
    let tree = tree();
    let mut dir = bare("d", Kind::Dir);
    dir.0.mtime.secs = 99;
    let entries = vec![
        dir,
        file("d/x", "1"),
        file("d/x", "22"),
        symlink("d/s", "x"),
        bare("d/s", Kind::Dir),
        file("d/s/in", "y"),
        bare("t", Kind::Dir),
        file("t/gone", ""),
        file("t", "file now"),
        file("d/s/in", "z"),
    ];
    unpack(&tree, &entries).unwrap();
    assert_eq!(tree.root.read("d/x", 10).unwrap(), b"22");
    assert_eq!(tree.root.read("t", 10).unwrap(), b"file now");
    assert_eq!(tree.root.read("d/s/in", 10).unwrap(), b"z");
    let time = tree.root.lstat("d").unwrap().mtime;
    assert_eq!(time, Timestamp::from_seconds(99));
}

#[test]
fn hard_links_to_lower_layers_become_copies() {
    let (bottom, middle, top) = (tree(), tree(), tree());
    let mut below = file("a/f", "lower");
    below.0.mode = 0o4711;
    unpack(&bottom, &vec![below, file("b/g", "hidden"), file("c", "x")]).unwrap();
    unpack(&middle, &vec![file("b/.wh..wh..opq", ""), file(".wh.c", "")]).unwrap();
    let lower = [&middle.root, &bottom.root];
    let tar = |target| {
        let (mut entry, content) = hard_link("h", target);
        entry.mode = 0o4711;
        pack(&vec![(entry, content)])
    };
    apply(&mut LayerReader::new(&tar("a/f")[..]), &top.root, &lower).unwrap();
    assert_eq!(top.root.read("h", 10).unwrap(), b"lower");
    assert_eq!(top.root.lstat("h").unwrap().mode, 0o4711);
    for hidden in ["b/g", "c", "none"] {
        let error = apply(&mut LayerReader::new(&tar(hidden)[..]), &top.root, &lower).unwrap_err();
        assert!(matches!(error, RootfsError::MissingLinkTarget { .. }), "{hidden}: {error}");
    }
}

#[test]
fn archives_unpack_into_what_exists() {
    let tree = tree();
    let new = NewDirs { mode: 0o755, owner: (0, 0), time: None };
    tree.root.create_dir_all("usr/lib", new).unwrap();
    tree.root.create_symlink("lib", "usr/lib").unwrap();
    tree.root.create_dir_all("dst/old", new).unwrap();
    let entries = vec![file("lib/f", "x"), file(".wh.usr", ""), file("dst/old", "now a file")];
    let options = UnpackOptions { chown: Some((7, 8)) };
    let tar = pack(&entries);
    unpack_archive(&mut LayerReader::new(&tar[..]), &tree.root, Path::new("/"), options).unwrap();
    let shown = tree.root.lstat("usr/lib/f").unwrap();
    assert_eq!((shown.uid, shown.gid), (7, 8));
    assert!(tree.root.lstat(".wh.usr").unwrap().is_file());
    assert!(tree.root.lstat("usr").unwrap().is_dir());
    assert_eq!(tree.root.read("dst/old", 20).unwrap(), b"now a file");
    // The destination is the root of what is unpacked.
    let tar = pack(&vec![symlink("out", "/"), file("out/x", "x")]);
    unpack_archive(&mut LayerReader::new(&tar[..]), &tree.root, Path::new("/new/dir"), options).unwrap();
    assert!(tree.root.lstat("new/dir/x").unwrap().is_file());
}

#[test]
fn layers_are_clamped_and_filtered() {
    let tree = tree();
    write(&tree.root, "a", b"x", 0o644);
    write(&tree.root, "b", b"x", 0o644);
    tree.root.set_times("b", Timestamp::default(), Timestamp::from_seconds(5)).unwrap();
    mkdir(&tree.root, "skip", 0o755);
    write(&tree.root, "skip/me", b"x", 0o644);
    tree.root.set_xattr("a", "user.note", b"hello").unwrap();
    tree.root.create_special("socket", FileKind::Socket, (0, 0)).unwrap();
    let exclude = |path: &Path| path == Path::new("skip");
    let back = repack(
        &tree.root,
        DiffOptions { rewrite_timestamp: Some(1000), exclude: Some(&exclude), xattrs: LayerXattrs::All },
    );
    assert_eq!(names(&back), ["a", "b"]);
    let times: Vec<i64> = back.iter().map(|(entry, _)| entry.mtime.secs).collect();
    assert_eq!(times, [1000, 5]);
    assert_eq!(back[0].0.xattrs[&b"user.note".to_vec()], b"hello");
    let plain = repack(&tree.root, DiffOptions::default());
    assert!(plain.iter().all(|(entry, _)| entry.xattrs.is_empty()));
}

fn copied(from: &str, to: &str, options: CopyOptions<'_>) -> Tree {
    let (source, dest) = (small_tree(), tree());
    let mut source = Source::new(&source.root);
    source.owner = Some((0, 0));
    copy(&source, Path::new(from), &dest.root, Path::new(to), options).unwrap();
    dest
}

fn small_tree() -> Tree {
    let tree = tree();
    mkdir(&tree.root, "d", 0o750);
    write(&tree.root, "d/f", b"content", 0o4755);
    tree.root.hard_link("d/f", "d/g").unwrap();
    tree.root.create_symlink("d/l", "/abs").unwrap();
    mkdir(&tree.root, "d/s", 0o700);
    write(&tree.root, "d/s/deep", b"x", 0o600);
    tree.root.create_symlink("to-d", "d").unwrap();
    tree
}

#[test]
fn copies_land_where_buildkit_puts_them() {
    let none = CopyOptions::default();
    let cases: &[(&str, &str, CopyOptions<'_>, &[&str])] = &[
        ("d/f", "/x", none, &["x"]),
        ("d/f", "/x/", none, &["x", "x/f"]),
        ("d/f", "a/b/c", none, &["a", "a/b", "a/b/c"]),
        ("d/s", "/n", none, &["n", "n/deep"]),
        ("to-d/s", "/", none, &["deep"]),
        ("to-d", "/n", CopyOptions { follow: false, ..none }, &["n"]),
        ("d/s", "/", CopyOptions { contents: false, ..none }, &["s", "s/deep"]),
    ];
    for (from, to, options, want) in cases {
        let dest = copied(from, to, *options);
        let back = repack(&dest.root, DiffOptions::default());
        assert_eq!(names(&back), *want, "{from} to {to}");
    }
}

#[test]
fn copies_keep_what_buildkit_keeps() {
    let dest =
        copied("d", "/x", CopyOptions { chown: Some((3, 4)), parents: (0o755, (3, 4)), ..CopyOptions::default() });
    let shown = dest.root.lstat("x/f").unwrap();
    assert_eq!((shown.mode, shown.uid, shown.gid), (0o4755, 3, 4));
    assert_eq!(shown.mtime.nanoseconds, 987_654_321);
    assert_eq!(dest.root.lstat("x/g").unwrap().id, shown.id);
    assert_eq!(dest.root.read_link("x/l").unwrap(), Path::new("/abs"));
    // The directory that was named is created like a parent; those inside are copies.
    assert_eq!(dest.root.lstat("x").unwrap().mode, 0o755);
    assert_eq!(dest.root.lstat("x/s").unwrap().mode, 0o700);

    let filter = |path: &Path| match path.to_str() {
        Some("f") => Shown::No,
        Some("s") => Shown::Inside,
        _ => Shown::Yes,
    };
    let dest = copied(
        "d",
        "/x",
        CopyOptions {
            chmod: Some(&|mode, is_dir| if is_dir { mode } else { 0o640 }),
            filter: Some(&filter),
            time: Some(Timestamp::from_seconds(7)),
            ..CopyOptions::default()
        },
    );
    let back = repack(&dest.root, DiffOptions::default());
    assert_eq!(names(&back), ["x", "x/g", "x/l", "x/s", "x/s/deep"]);
    assert!(back.iter().all(|(entry, _)| entry.mtime.secs == 7));
    assert_eq!(back[1].0.mode, 0o640);
}

#[test]
fn conflicts_are_errors_or_not() {
    let source = small_tree();
    let source = Source::new(&source.root);
    let options = CopyOptions::default();
    let (from, slash) = (Path::new("d"), Path::new("/t/"));

    let dest = tree();
    mkdir(&dest.root, "t", 0o755);
    mkdir(&dest.root, "t/f", 0o755);
    let error = copy(&source, from, &dest.root, slash, options).unwrap_err();
    assert!(matches!(&error, RootfsError::FileOverDirectory { path } if path == Path::new("t/f")));
    let replace = CopyOptions { replace: true, ..options };
    copy(&source, from, &dest.root, slash, replace).unwrap();
    assert!(dest.root.lstat("t/f").unwrap().is_file());

    let dest = tree();
    mkdir(&dest.root, "t", 0o755);
    mkdir(&dest.root, "z", 0o755);
    dest.root.create_symlink("t/s", "/z").unwrap();
    let error = copy(&source, from, &dest.root, slash, options).unwrap_err();
    assert!(matches!(&error, RootfsError::DirectoryOverFile { path } if path == Path::new("t/s")));
    // The legacy builder replaces both.
    copy_legacy(&source, from, &dest.root, slash, Some((0, 0))).unwrap();
    assert!(dest.root.lstat("t/s").unwrap().is_dir());
    assert!(dest.root.read_dir("z").unwrap().is_empty());

    let dest = tree();
    write(&dest.root, "u", b"", 0o644);
    let to = Path::new("/u");
    let error = copy(&source, from, &dest.root, to, options).unwrap_err();
    assert!(matches!(error, RootfsError::DirectoryOverFile { .. }));
    let error = copy_legacy(&source, from, &dest.root, to, None).unwrap_err();
    assert!(matches!(error, RootfsError::DirectoryOverFile { .. }));
    let error = copy(&source, Path::new("none"), &dest.root, to, options).unwrap_err();
    assert!(error.is_not_found());
}

#[test]
fn legacy_copies_lose_privileges_with_an_owner() {
    let source = small_tree();
    source.root.set_xattr("d/f", CAPABILITY, &capability()).unwrap();
    let source = Source::new(&source.root);
    let dest = tree();
    let dir = Path::new("d");
    copy_legacy(&source, dir, &dest.root, Path::new("own"), Some((0, 0))).unwrap();
    copy_legacy(&source, dir, &dest.root, Path::new("keep"), None).unwrap();
    let shown = dest.root.lstat("own/f").unwrap();
    assert_eq!((shown.mode, shown.mtime.nanoseconds), (0o755, 0));
    assert_eq!(dest.root.xattr("own/f", CAPABILITY).unwrap(), None);
    assert_eq!(dest.root.lstat("own").unwrap().mode, 0o755);
    assert_eq!(dest.root.lstat("keep/f").unwrap().mode, 0o4755);
    assert_eq!(dest.root.xattr("keep/f", CAPABILITY).unwrap(), Some(capability()));
    let id = dest.root.lstat("own/f").unwrap().id;
    assert_eq!(dest.root.lstat("own/g").unwrap().id, id);
}

#[test]
fn holes_and_large_files_survive() {
    let (source, dest) = (tree(), tree());
    let mut content = vec![0_u8; 3_000_000];
    content[1_000_000..1_000_003].copy_from_slice(b"mid");
    content[2_500_000] = 1;
    let node = source.root.create_file("sparse").unwrap();
    content::Mover::default().write(&content[..], node.file().unwrap()).unwrap();
    assert!(source.root.lstat("sparse").unwrap().is_sparse());
    write(&source.root, "dense", &vec![b'd'; 300_000], 0o644);
    let view = Source::new(&source.root);
    let (from, to) = (Path::new(""), Path::new("/"));
    copy(&view, from, &dest.root, to, CopyOptions::default()).unwrap();
    assert_eq!(dest.root.read("sparse", 1 << 30).unwrap(), content);
    assert!(dest.root.lstat("sparse").unwrap().is_sparse());
    assert_eq!(dest.root.read("dense", 1 << 30).unwrap(), vec![b'd'; 300_000]);
    // A file that is shorter than it was when it was met.
    for (name, size) in [("dense", 300_001), ("sparse", 3_000_001)] {
        let target = dest.root.create_file(format!("short-{name}")).unwrap();
        let file = source.root.open_file(name).unwrap();
        let sparse = name == "sparse";
        let copied = content::Mover::default().copy(&file, target.file().unwrap(), size, sparse).unwrap();
        assert_eq!(copied, size - 1, "{name}");
    }
}

#[test]
fn hidden_files_are_not_there() {
    let tree = small_tree();
    let filter = |path: &Path| match path.to_str() {
        Some("d/s" | "d/f") => Shown::No,
        _ => Shown::Yes,
    };
    let mut source = Source::new(&tree.root);
    source.filter = Some(&filter);
    assert_eq!(buildkit_matches(&source, Path::new("d/[f-s]")).unwrap(), [PathBuf::from("d/g"), PathBuf::from("d/l")]);
    let hash = |path: &str| content_hash(&source, &[path.into()], HashOptions::default());
    assert!(hash("d/f").unwrap_err().is_not_found());
    let dest = super::tests::tree();
    let error = copy(&source, Path::new("d/f"), &dest.root, Path::new("/x"), CopyOptions::default());
    assert!(error.unwrap_err().is_not_found());
}

#[test]
fn wildcards_choose_as_each_builder_does() {
    let tree = small_tree();
    let source = Source::new(&tree.root);
    let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect::<Vec<_>>();
    let pattern = Path::new("*");
    let want = paths(&["d", "to-d"]);
    assert_eq!(buildkit_matches(&source, pattern).unwrap(), want);
    assert_eq!(legacy_matches(&source, pattern).unwrap(), want);
    // BuildKit follows links before the first wildcard, the legacy builder matches names as they are.
    let pattern = Path::new("to-d/?");
    let want = paths(&["d/f", "d/g", "d/l", "d/s"]);
    assert_eq!(buildkit_matches(&source, pattern).unwrap(), want);
    assert!(legacy_matches(&source, pattern).unwrap().is_empty());
    let plain = Path::new("/none");
    assert_eq!(buildkit_matches(&source, plain).unwrap(), paths(&["none"]));
}

#[test]
fn content_hashes_see_all_but_times() {
    let hash = |tree: &Tree, paths: &[&str], options: HashOptions<'_>| {
        let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
        content_hash(&Source::new(&tree.root), &paths, options).unwrap()
    };
    let none = HashOptions::default();
    let tree = small_tree();
    write(&tree.root, "d/large", &vec![b'l'; 200_000], 0o644);
    write(&tree.root, "d/larger", &vec![b'm'; 400_000], 0o644);
    let before = hash(&tree, &["d"], none);
    assert_eq!(hash(&tree, &["d"], none), before);
    tree.root.set_times("d/f", Timestamp::default(), Timestamp::default()).unwrap();
    assert_eq!(hash(&tree, &["d"], none), before);

    let change = |what: &dyn Fn(&Root)| {
        let tree = small_tree();
        write(&tree.root, "d/large", &vec![b'l'; 200_000], 0o644);
        write(&tree.root, "d/larger", &vec![b'm'; 400_000], 0o644);
        assert_eq!(hash(&tree, &["d"], none), before);
        what(&tree.root);
        assert_ne!(hash(&tree, &["d"], none), before);
    };
    change(&|root| root.chmod("d/s/deep", 0o640).unwrap());
    change(&|root| root.chown("d/s/deep", 1, 0).unwrap());
    change(&|root| root.rename("d/s", "d/t").unwrap());
    change(&|root| root.chmod("d", 0o755).unwrap());
    change(&|root| {
        root.set_xattr("d/f", "user.note", b"x").unwrap();
    });
    change(&|root| {
        root.remove_file("d/large").unwrap();
        write(root, "d/large", &vec![b'k'; 200_000], 0o644);
    });
    change(&|root| {
        root.remove_file("d/l").unwrap();
        root.create_symlink("d/l", "/other").unwrap();
    });
    // The name of one file does not count, those of several do.
    let one = hash(&tree, &["d/f"], none);
    assert_eq!(hash(&tree, &["d/g"], none), one);
    assert_ne!(hash(&tree, &["d/f", "d/g"], none), hash(&tree, &["d/g", "d/f"], none));
    let follow = HashOptions { follow: true, ..none };
    assert_eq!(hash(&tree, &["to-d"], follow), before);
    assert_ne!(hash(&tree, &["to-d"], none), before);
    let contents = HashOptions { contents: true, ..none };
    let inside = hash(&tree, &["d"], contents);
    tree.root.chmod("d", 0o711).unwrap();
    assert_eq!(hash(&tree, &["d"], contents), inside);
}

/// What can be at a name of a random tree.
#[derive(Debug, Clone)]
enum Random {
    File(Vec<u8>),
    Symlink(String),
    Fifo,
    Whiteout,
    Dir(Vec<(String, u32, Random)>),
}

fn random() -> impl Strategy<Value = Random> {
    let leaf = prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 0..200).prop_map(Random::File),
        2 => "[a-z./]{1,20}".prop_map(Random::Symlink),
        1 => Just(Random::Fifo),
        1 => Just(Random::Whiteout),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let name = "[a-zA-Z0-9 é€_-]{1,120}";
        proptest::collection::vec((name, 0_u32..0o10000, inner), 0..6).prop_map(Random::Dir)
    })
}

fn flatten(dir: &str, children: &[(String, u32, Random)], entries: &mut Listed) {
    let mut sorted: Vec<_> = children.iter().collect();
    sorted.sort_by(|one, other| one.0.as_bytes().cmp(other.0.as_bytes()));
    sorted.dedup_by(|one, other| one.0 == other.0);
    for (name, mode, kind) in sorted {
        let path = |name: &str| match dir {
            "" => name.to_owned(),
            dir => format!("{dir}/{name}"),
        };
        let (kind, content) = match kind {
            Random::File(content) => {
                let size = content.len() as u64;
                (Kind::File { size }, content.clone())
            }
            Random::Symlink(target) => {
                let target = target.as_bytes().to_vec();
                (Kind::Symlink { target }, Vec::new())
            }
            Random::Fifo => (Kind::Fifo, Vec::new()),
            Random::Whiteout => {
                let mut entry = Entry::new(path(&format!(".wh.{name}")), Kind::File { size: 0 });
                entry.mode = 0o600;
                entries.push((entry, Vec::new()));
                continue;
            }
            Random::Dir(_) => (Kind::Dir, Vec::new()),
        };
        let mut entry = Entry::new(path(name), kind);
        if !matches!(entry.kind, Kind::Symlink { .. }) {
            // Without its owner's permissions an ordinary user could not read the tree back.
            entry.mode = mode | 0o700;
        }
        (entry.uid, entry.gid) = (mode * 3, mode * 5);
        entry.mtime.secs = i64::from(*mode) * 1000;
        entries.push((entry, content));
        if let Some((_, _, Random::Dir(children))) =
            children.iter().find(|(other, _, kind)| other == name && matches!(kind, Random::Dir(_)))
        {
            flatten(&path(name), children, entries);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_trees_round_trip(top in proptest::collection::vec(("[a-z]{1,8}", 0_u32..0o10000, random()), 0..6)) {
        let mut top = top;
        top.sort_by(|one, other| one.0.cmp(&other.0));
        top.dedup_by(|one, other| one.0 == other.0);
        let mut entries = Vec::new();
        flatten("", &top, &mut entries);
        let tree = tree();
        unpack(&tree, &entries).unwrap();
        let mut back = repack(&tree.root, DiffOptions::default());
        for (entry, _) in &mut back {
            let name = entry.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            if name.starts_with(b".wh.") {
                entry.mtime = Mtime::default();
            }
        }
        prop_assert_eq!(back, entries);
    }

    #[test]
    fn hostile_archives_stay_inside(
        entries in proptest::collection::vec(("(\\.\\./|/|\\./|[ab]/){0,4}[ab]", "(\\.\\./|/|[ab]/){0,4}[ab]?", 0..5_u8), 0..12),
    ) {
        let outer = tempfile::tempdir().unwrap();
        std::fs::create_dir(outer.path().join("in")).unwrap();
        std::fs::write(outer.path().join("a"), "outside").unwrap();
        let root = Root::open(outer.path().join("in"), Ownership::detect()).unwrap();
        let listed: Listed = entries
            .iter()
            .map(|(path, target, kind)| match kind {
                0 => file(path, "inside"),
                1 => symlink(path, target),
                2 => hard_link(path, target),
                3 => bare(path, Kind::Dir),
                _ => file(&format!("{path}/.wh.a"), ""),
            })
            .collect();
        // Whether it is taken or refused, nothing outside changes.
        let _ = apply(&mut LayerReader::new(&pack(&listed)[..]), &root, &[]);
        let names = std::fs::read_dir(outer.path()).unwrap().count();
        prop_assert_eq!(names, 2);
        prop_assert_eq!(std::fs::read(outer.path().join("a")).unwrap(), b"outside");
    }
}
