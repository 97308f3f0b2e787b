use std::io::{Read, Write};
use std::process::{Command, Stdio};

use pretty_assertions::assert_eq;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

fn read_all(tar: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, LayerError> {
    let mut reader = LayerReader::new(tar);
    let mut all = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        let at = reader.offset();
        reader.content().read_to_end(&mut data).map_err(|source| LayerError::Io {
            action: "read",
            offset: at,
            source,
        })?;
        all.push((entry, data));
    }
    Ok(all)
}

fn write_all(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = LayerWriter::new(Vec::new());
    for (entry, data) in entries {
        let before = writer.offset();
        writer.append(entry, data.as_slice()).unwrap();
        assert_eq!(go_tar_size(entry).unwrap(), writer.offset() - before);
    }
    writer.finish().unwrap()
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    crate::compression::decoder(bytes).unwrap().read_to_end(&mut out).unwrap();
    out
}

/// Layers that Docker 28.5 made of long, non-ASCII and non-UTF-8 names, hard links, devices, old and future times,
/// large owners and whiteouts, come out again byte for byte.
#[test]
fn writes_what_docker_writes() {
    for (name, bytes) in [
        ("copy", &include_bytes!("testdata/docker28-copy.tar.gz")[..]),
        ("run", &include_bytes!("testdata/docker28-run.tar.gz")[..]),
    ] {
        let tar = gunzip(bytes);
        let entries = read_all(&tar).unwrap();
        assert!(entries.len() > 8);
        let again = write_all(&entries);
        for (at, (a, b)) in tar.chunks(512).zip(again.chunks(512)).enumerate() {
            assert_eq!(String::from_utf8_lossy(a), String::from_utf8_lossy(b), "{name} block {at}");
        }
        assert_eq!(tar.len(), again.len(), "{name}");
    }
}

#[test]
fn reads_docker_20_layers() {
    let entries = read_all(&gunzip(include_bytes!("testdata/docker20-run.tar.gz"))).unwrap();
    let find = |path: &[u8]| entries.iter().map(|e| &e.0).find(|e| e.path == path).unwrap();
    assert_eq!(find(b"ctx/b").kind, Kind::Block { major: 300, minor: 70000 });
    assert_eq!((find(b"ctx/old").uid, find(b"ctx/old").gid), (3_000_000, 4_000_000));
    assert!(find(b"ctx/older").mtime.secs < -600_000_000);
    assert_eq!(find(b"ctx").mode, 0o755);
    assert!(matches!(Whiteout::of(&find(b"bin/.wh.ping").path), Some(Whiteout::File { dir: b"bin", name: b"ping" })));
}

#[test]
fn whiteouts() {
    assert_eq!(Whiteout::of(b"a/b"), None);
    assert_eq!(Whiteout::of(b".wh.x"), Some(Whiteout::File { dir: b"", name: b"x" }));
    assert_eq!(Whiteout::of(b"a/.wh..wh..opq"), Some(Whiteout::Opaque { dir: b"a" }));
    assert_eq!(Whiteout::of(b".wh..wh.plnk"), Some(Whiteout::Reserved));
    assert_eq!(whiteout_path(b"a/b", b"c"), b"a/b/.wh.c");
    assert_eq!(opaque_path(b""), b".wh..wh..opq");
}

fn any_entry() -> impl Strategy<Value = (Entry, Vec<u8>)> {
    let part = prop_oneof!["[a-z]{1,8}", "[a-zé\\-]{60,99}", "[a-z]{101,160}"].prop_map(String::into_bytes);
    let byte_part =
        vec(1_u8..=255, 1..20).prop_map(|v| v.into_iter().map(|b| if b == b'/' { b'_' } else { b }).collect());
    let path = vec(prop_oneof![4 => part, 1 => byte_part], 1..5).prop_map(|parts: Vec<Vec<u8>>| parts.join(&b'/'));
    let data = vec(any::<u8>(), 0..1500);
    let id = prop_oneof![0_u32..5000, any::<u32>()];
    let time = prop_oneof![0_i64..4_000_000_000, any::<i32>().prop_map(i64::from), Just(1_i64 << 40)];
    let xattrs = btree_map("[a-z.]{1,20}".prop_map(String::into_bytes), vec(any::<u8>(), 0..40), 0..3);
    (path.clone(), path, data, id.clone(), id, 0_u32..0o10000, time, xattrs, 0..7_u8, any::<u16>(), 0_u32..1 << 20)
        .prop_map(|(path, target, mut data, uid, gid, mode, secs, xattrs, kind, major, minor)| {
            let major = u32::from(major);
            let kind = match kind {
                0 => Kind::Dir,
                1 => Kind::Symlink { target },
                2 => Kind::Hardlink { target },
                3 => Kind::Char { major, minor },
                4 => Kind::Block { major, minor: minor << 12 },
                5 => Kind::Fifo,
                _ => Kind::File { size: data.len() as u64 },
            };
            if !matches!(kind, Kind::File { .. }) {
                data.clear();
            }
            (Entry { path, kind, mode, uid, gid, mtime: Mtime { secs, nanos: 0 }, xattrs }, data)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(entries in vec(any_entry(), 0..6)) {
        let tar = write_all(&entries);
        prop_assert_eq!(&read_all(&tar).unwrap(), &entries);
        // The `tar` crate sees the same, but for records with a newline in them, which it cuts there.
        let plain = |bytes: &Vec<u8>| !bytes.contains(&b'\n');
        if !entries.iter().all(|(e, _)| plain(&e.path) && e.xattrs.values().all(plain)
            && !matches!(&e.kind, Kind::Symlink { target } | Kind::Hardlink { target } if !plain(target)))
        {
            return Ok(());
        }
        let mut archive = tar::Archive::new(&tar[..]);
        let mut seen = 0;
        for (theirs, (entry, data)) in archive.entries().unwrap().zip(&entries) {
            let mut theirs = theirs.unwrap();
            let mut path = theirs.path_bytes().into_owned();
            if entry.kind == Kind::Dir { path.pop(); }
            prop_assert_eq!(&path, &entry.path);
            let mut content = Vec::new();
            theirs.read_to_end(&mut content).unwrap();
            prop_assert_eq!(&content, data);
            seen += 1;
        }
        prop_assert_eq!(seen, entries.len());
    }

    #[test]
    fn hostile_bytes_give_errors_not_panics(
        entries in vec(any_entry(), 1..4), at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<prop::sample::Index>(),
    ) {
        let mut tar = write_all(&entries);
        let at = at.index(tar.len());
        tar[at] = with;
        tar.truncate(cut.index(tar.len()) + 1);
        let _ = read_all(&tar);
    }
}

#[test]
fn truncation_is_an_error_except_between_entries() {
    let entry = Entry::new(&b"f"[..], Kind::File { size: 700 });
    let tar = write_all(&[(entry, vec![1; 700])]);
    assert_eq!(tar.len(), 512 + 1024 + 1024);
    for len in 1..512 + 1024 {
        assert!(read_all(&tar[..len]).is_err(), "{len}");
        // Skipping sees it too.
        let mut reader = LayerReader::new(&tar[..len]);
        assert!(reader.next_entry().and_then(|_| reader.next_entry()).is_err(), "{len}");
    }
    // As in Go, an archive may end without its trailer.
    assert_eq!(read_all(&tar[..1536]).unwrap().len(), 1);
    let mut reader = LayerReader::new(&tar[..600]);
    reader.next_entry().unwrap();
    assert_eq!(reader.next_entry().unwrap_err().to_string(), "layer is truncated at byte 600 in `f`");
}

#[test]
fn corrupt_headers_are_named() {
    let entry = Entry::new(&b"f"[..], Kind::Fifo);
    let mut tar = write_all(&[(entry, vec![])]);
    tar[3] ^= 1;
    assert_eq!(read_all(&tar).unwrap_err().to_string(), "layer is corrupt at byte 0: invalid tar header");
    let mut huge = tar::Header::new_gnu();
    huge.set_entry_type(tar::EntryType::GNULongName);
    huge.set_size(1 << 40);
    huge.set_cksum();
    let error = read_all(huge.as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "layer is corrupt at byte 0: extended header is larger than 1 MiB");
    let mut volume = tar::Header::new_gnu();
    volume.set_entry_type(tar::EntryType::new(b'V'));
    volume.set_path("v").unwrap();
    volume.set_size(0);
    volume.set_cksum();
    assert!(matches!(read_all(volume.as_bytes()), Err(LayerError::Unsupported { flag: 'V', .. })));
}

#[test]
fn a_file_that_changes_is_an_error() {
    let entry = Entry::new(&b"f"[..], Kind::File { size: 5 });
    for data in [&b"1234"[..], b"123456"] {
        let error = LayerWriter::new(Vec::new()).append(&entry, data).unwrap_err();
        assert!(matches!(error, LayerError::SizeChanged { expected: 5, .. }), "{error}");
    }
    let mut bad = Entry::new(&b"f"[..], Kind::Fifo);
    bad.xattrs.insert(b"user.a=b".to_vec(), vec![]);
    assert!(matches!(go_tar_size(&bad), Err(LayerError::XattrName { .. })));
}

#[test]
fn huge_files_have_a_size_record() {
    let entry = Entry::new(&b"f"[..], Kind::File { size: 1 << 40 });
    assert_eq!(go_tar_size(&entry).unwrap(), 3 * 512 + (1 << 40));
    let mut reader_input = Vec::new();
    let mut writer = LayerWriter::new(&mut reader_input);
    assert!(writer.append(&entry, std::io::empty()).is_err());
    let read = LayerReader::new(&reader_input[..]).next_entry().unwrap().unwrap();
    assert_eq!(read, entry);
}

/// GNU tar's archives of a sparse file and long names, in all its formats.
#[test]
fn reads_gnu_tar() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(150);
    std::fs::write(dir.path().join(&long), b"long").unwrap();
    std::os::unix::fs::symlink(&long, dir.path().join("link")).unwrap();
    let mut expected = vec![0_u8; 3 << 20];
    let mut file = std::fs::File::create(dir.path().join("sparse")).unwrap();
    for i in 0..40_usize {
        use std::io::Seek;
        let at = i * 70_000;
        file.seek(std::io::SeekFrom::Start(at as u64)).unwrap();
        file.write_all(b"data").unwrap();
        expected[at..at + 4].copy_from_slice(b"data");
    }
    file.set_len(3 << 20).unwrap();
    for format in [
        &["--format=gnu"][..],
        &["--format=oldgnu"],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let out = Command::new("tar")
            .args(["-S", "-cf", "-"])
            .args(format)
            .args(["--mtime=@-5", "-C"])
            .arg(dir.path())
            .args(["sparse", "link", &long])
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(out.status.success());
        assert!(out.stdout.len() < 1 << 20, "GNU tar made no sparse archive");
        let entries = read_all(&out.stdout).unwrap();
        assert_eq!(entries.len(), 3, "{format:?}");
        assert_eq!(entries[0].0.path, b"sparse");
        assert!(entries[0].1 == expected, "{format:?}");
        assert_eq!(entries[1].0.kind, Kind::Symlink { target: long.clone().into_bytes() });
        assert_eq!((entries[2].0.path.as_slice(), entries[2].1.as_slice()), (long.as_bytes(), &b"long"[..]));
        assert_eq!(entries[2].0.mtime.secs, -5);
    }
}

/// What is written is what GNU tar lists.
#[test]
fn gnu_tar_lists_what_is_written() {
    let mut file = Entry::new("d/".repeat(70).into_bytes(), Kind::Dir);
    file.uid = 3_000_000;
    let tar =
        write_all(&[(file, vec![]), (Entry::new("é".as_bytes(), Kind::Char { major: 5, minor: 3_000_000 }), vec![])]);
    let mut child = Command::new("tar")
        .args(["-tvf", "-", "--numeric-owner", "--quoting-style=literal"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&tar).unwrap();
    let out = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert!(
        out.contains("3000000/0") && out.contains("5,3000000") && out.contains(&"d/".repeat(70)) && out.contains('é'),
        "{out}"
    );
}
