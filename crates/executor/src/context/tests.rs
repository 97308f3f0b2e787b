use std::fs;
use std::io::{Cursor, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rbuild_image::compression::{Encoder, EncoderOptions};
use rbuild_image::layer::{Entry, Kind, LayerWriter};
use rbuild_logfmt::event::{Builder, Dialect, Failure, Speaker, Version};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};
use rustix::thread::CapabilitySet;
use tempfile::TempDir;

use super::*;
use crate::{ContextSource, DockerfileSource};

const LEGACY: Dialect = Dialect { builder: Builder::Legacy, version: Version::V28 };
const LEGACY_20: Dialect = Dialect { builder: Builder::Legacy, version: Version::V20 };
const BUILDKIT: Dialect = Dialect { builder: Builder::Buildkit, version: Version::V28 };
const BUILDKIT_20: Dialect = Dialect { builder: Builder::Buildkit, version: Version::V20 };
const ALL: [Dialect; 4] = [LEGACY, LEGACY_20, BUILDKIT, BUILDKIT_20];

/// A directory `ctx` in a directory of its own.
struct Fixture {
    base: TempDir,
}

impl Fixture {
    fn new(files: &[(&str, &str)]) -> Self {
        let fixture = Self { base: TempDir::new().unwrap() };
        fs::create_dir(fixture.dir()).unwrap();
        for (name, content) in files {
            fixture.write(name, content.as_bytes());
        }
        fixture
    }

    fn dir(&self) -> PathBuf {
        // Error texts name the path with links followed.
        self.base.path().canonicalize().unwrap().join("ctx")
    }

    fn write(&self, name: &str, content: &[u8]) {
        let path = self.dir().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Gives every file the time and the modes of the recordings.
    fn settle(&self) {
        let mut pending = vec![self.dir()];
        while let Some(path) = pending.pop() {
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_symlink() {
                continue;
            }
            if metadata.is_dir() {
                pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            set_time(&path, 1_700_000_000, 0);
        }
    }

    fn request(&self, dialect: Dialect) -> ContextRequest {
        ContextRequest {
            source: ContextSource::Dir(".".into()),
            dockerfile: DockerfileSource::Default,
            input: None,
            working_dir: self.dir(),
            scratch_dir: self.base.path().join("scratch"),
            dialect,
        }
    }

    fn open(&self, dialect: Dialect) -> Context {
        Context::open(self.request(dialect)).unwrap()
    }

    fn open_file(&self, dialect: Dialect, file: &str) -> Result<Context, ContextError> {
        Context::open(ContextRequest { dockerfile: DockerfileSource::Path(file.into()), ..self.request(dialect) })
    }

    fn open_input(&self, dialect: Dialect, input: Vec<u8>) -> Result<Context, ContextError> {
        Context::open(ContextRequest {
            source: ContextSource::Stdin,
            input: Some(Box::new(Cursor::new(input))),
            ..self.request(dialect)
        })
    }
}

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn wanted(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|path| (*path).to_owned()).collect()
}

fn context_bytes(context: &Context, paths: &[&str]) -> u64 {
    context.sync_size(&wanted(paths), None).unwrap().unwrap().bytes
}

fn dockerfile_bytes(context: &Context) -> u64 {
    context.dockerfile_sync_size(None).unwrap().unwrap().bytes
}

fn message(error: &ContextError, dialect: Dialect) -> (String, Speaker) {
    match error.failure(dialect) {
        Failure::Request { message, by } => (message, by),
        other => panic!("{other:?}"),
    }
}

/// Every path and what is seen of it.
fn seen(context: &Context) -> Vec<String> {
    let mut rows = Vec::new();
    context
        .tree
        .walk(&mut |node| {
            let mark = match context.shown(&node.path) {
                Shown::Yes => "+",
                Shown::Inside => "?",
                Shown::No => "-",
            };
            rows.push(format!("{mark}{}", node.path.display()));
            Ok(tree::Step::Enter)
        })
        .unwrap();
    rows
}

// ---- sizes; the numbers are Docker's for the same trees ----

#[test]
fn sizes_of_one_file() {
    // As the recording `run-fails`: a Dockerfile of 149 bytes and a file of 3.
    let fixture = Fixture::new(&[("Dockerfile", &"x".repeat(149)), ("hello.txt", "hi\n")]);
    fixture.settle();
    assert_eq!(fixture.open(LEGACY).legacy_tar_size().unwrap(), 3072);
    for dialect in [BUILDKIT, BUILDKIT_20] {
        let context = fixture.open(dialect);
        assert_eq!(dockerfile_bytes(&context), 188);
        assert_eq!(context.ignore_sync_size(None).unwrap().unwrap().bytes, 2);
        let first = context.sync_size(&wanted(&["hello.txt"]), None).unwrap().unwrap();
        assert_eq!(first.bytes, 39);
        let stored: SyncSnapshot = serde_json::from_str(&serde_json::to_string(&first.snapshot).unwrap()).unwrap();
        let second = context.sync_size(&wanted(&["hello.txt"]), Some(&stored)).unwrap().unwrap();
        assert_eq!(second.bytes, 30);
        assert_eq!(second.snapshot, first.snapshot);
    }
}

#[test]
fn only_28_sends_the_dockerfile_again() {
    let fixture = Fixture::new(&[("Dockerfile", &"x".repeat(149)), (".dockerignore", "a\n")]);
    fixture.settle();
    for (dialect, again) in [(BUILDKIT, 188), (BUILDKIT_20, 32)] {
        let context = fixture.open(dialect);
        let held = context.dockerfile_sync_size(None).unwrap().unwrap().snapshot;
        assert_eq!(context.dockerfile_sync_size(Some(&held)).unwrap().unwrap().bytes, again);
    }
}

#[test]
fn a_changed_file_is_sent_again() {
    let fixture = Fixture::new(&[("Dockerfile", "x"), ("a", "12345"), ("b", "12345")]);
    fixture.settle();
    let context = fixture.open(BUILDKIT);
    let first = context.sync_size(&wanted(&["a", "b"]), None).unwrap().unwrap();
    let quiet = context.sync_size(&wanted(&["a", "b"]), Some(&first.snapshot)).unwrap().unwrap().bytes;
    set_time(&fixture.dir().join("b"), 1_700_000_000, 1);
    let second = context.sync_size(&wanted(&["a", "b"]), Some(&first.snapshot)).unwrap().unwrap();
    assert_eq!(second.bytes - quiet, 2 + 2 + 2 + 5 + 2 + 2, "data and its end, each with an id");
    // What was not wanted the last time is no longer held.
    let other = context.sync_size(&wanted(&["a"]), Some(&second.snapshot)).unwrap().unwrap();
    let third = context.sync_size(&wanted(&["a", "b"]), Some(&other.snapshot)).unwrap().unwrap();
    assert_eq!(third.bytes, second.bytes);
}

#[test]
fn content_is_sent_in_pieces() {
    let fixture = Fixture::new(&[("Dockerfile", "x")]);
    let base = |size: usize| {
        fixture.write("f", &vec![0; size]);
        fixture.settle();
        context_bytes(&fixture.open(BUILDKIT), &["f"])
    };
    // Packet of data: type 2, tag 1, length, content.
    assert_eq!(base(0), 2 + (3 + 3 + 10) + 2 + 2);
    assert_eq!(base(127) - base(0), 2 + (2 + 1 + 1 + 127), "the size in the status, and a packet");
    assert_eq!(base(32768), 2 + (3 + 3 + 4 + 10) + (2 + 1 + 3 + 32768) + 2 + 2);
    assert_eq!(base(32769), 2 + (3 + 3 + 4 + 10) + (2 + 1 + 3 + 32768) + (2 + 1 + 1 + 1) + 2 + 2);
}

#[test]
fn tar_sizes() {
    let size = |make: &dyn Fn(&Fixture)| {
        let fixture = Fixture::new(&[("Dockerfile", "FROM scratch\n")]);
        make(&fixture);
        fixture.settle();
        fixture.open(LEGACY).legacy_tar_size().unwrap() - 2048
    };
    assert_eq!(size(&|_| {}), 0);
    assert_eq!(size(&|f| f.write("empty", b"")), 512);
    assert_eq!(size(&|f| f.write("a/b/c", b"1")), 512 * 4);
    assert_eq!(size(&|f| f.write("full", &[0; 512])), 1024);
    assert_eq!(size(&|f| f.write("more", &[0; 513])), 1536);
    assert_eq!(size(&|f| f.write(&"n".repeat(100), b"")), 512, "fits the name field");
    assert_eq!(size(&|f| f.write(&"n".repeat(101), b"")), 512 * 3, "has a pax header");
    assert_eq!(size(&|f| f.write("näme", b"")), 512 * 3);
    assert_eq!(size(&|f| symlink("t", f.dir().join("l")).unwrap()), 512);
    assert_eq!(size(&|f| symlink("t".repeat(101), f.dir().join("l")).unwrap()), 512 * 3);
    let hard_link = |f: &Fixture| {
        f.write("one", &[1; 1000]);
        fs::hard_link(f.dir().join("one"), f.dir().join("two")).unwrap();
    };
    assert_eq!(size(&hard_link), 512 + 1024 + 512);
    let pipe = |f: &Fixture| rustix::fs::mknodat(CWD, f.dir().join("p"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert_eq!(size(&pipe), 512);
    let socket = |f: &Fixture| drop(std::os::unix::net::UnixListener::bind(f.dir().join("s")).unwrap());
    assert_eq!(size(&socket), 0, "Go's tar refuses sockets");
}

#[test]
fn links_and_special_files_in_a_synchronisation() {
    let fixture = Fixture::new(&[("Dockerfile", "x"), ("d/one", "12345")]);
    let dir = fixture.dir();
    fs::hard_link(dir.join("d/one"), dir.join("d/two")).unwrap();
    rustix::fs::mknodat(CWD, dir.join("d/pipe"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(dir.join("d/sock")).unwrap();
    fixture.settle();
    let context = fixture.open(BUILDKIT);
    let stat = |path: usize, mode: u64, size: u64, link: u64| 2 + (2 + path as u64 + 1 + mode + size + 10 + link);
    let data = 4 + 2 + 5 + 4;
    let pipe = stat(6, 4, 0, 0);
    let sock = stat(6, 2, 0, 0) + 4; // A regular file without content.
    assert_eq!(
        context_bytes(&context, &["d"]),
        stat(1, 5, 0, 0) + stat(5, 2, 2, 0) + data + pipe + sock + stat(5, 2, 2, 7) + 2
    );
    // Without its first name, the second is the file.
    assert_eq!(context_bytes(&context, &["d/two"]), stat(1, 5, 0, 0) + stat(5, 2, 2, 0) + data + 2);
    drop(socket);
}

#[test]
fn links_are_followed_to_what_they_need() {
    let fixture = Fixture::new(&[("Dockerfile", "x"), ("real/deep/file", "1"), ("other", "2"), ("real/loop2", "")]);
    let dir = fixture.dir();
    symlink("real/deep", dir.join("link")).unwrap();
    symlink("/other", dir.join("absolute")).unwrap();
    symlink("../../../../other", dir.join("real/above")).unwrap();
    symlink("turn", dir.join("turn")).unwrap();
    let tree = SourceTree::open(&dir, rbuild_sandbox::root::Ownership::Real).unwrap();
    let follow = |paths: &[&str]| follow::follow_links(&tree, &wanted(paths)).unwrap();
    let some = |paths: &[&str]| Some(wanted(paths));
    assert_eq!(follow(&["link/file"]), some(&["link", "real/deep/file"]));
    assert_eq!(follow(&["absolute"]), some(&["absolute", "other"]));
    assert_eq!(follow(&["real/above"]), some(&["other", "real/above"]));
    assert_eq!(follow(&["turn"]), some(&["turn"]));
    assert_eq!(follow(&["a*"]), some(&["a*", "other"]));
    assert_eq!(follow(&["real", "real/deep", "./other/"]), some(&["other", "real"]));
    assert_eq!(follow(&["../other"]), some(&["other"]));
    assert_eq!(follow(&["missing/x"]), some(&["missing/x"]));
    assert_eq!(follow(&["link/../.."]), None);
}

// ---- Dockerfiles ----

#[test]
fn a_dockerfile_outside_of_the_context() {
    let fixture =
        Fixture::new(&[("a.Dockerfile", "FROM busybox\nCOPY . /x\n"), ("sub/b.Dockerfile", "FROM busybox\n")]);
    let text = "FROM busybox\nCOPY . /x\nRUN ls -a /x\n";
    fs::write(fixture.base.path().join("out.Dockerfile"), text).unwrap();
    // Docker's own number, which lacks the tar's trailer.
    let context = fixture.open_file(LEGACY, "../out.Dockerfile").unwrap();
    assert_eq!(context.legacy_tar_size().unwrap(), 4143);
    let (name, bytes) = context.dockerfile();
    assert!(name.starts_with(".dockerfile.") && name.len() == 32, "{name}");
    assert_eq!(bytes, text.as_bytes());
    let context = fixture.open_file(BUILDKIT, "../out.Dockerfile").unwrap();
    assert_eq!(context.dockerfile().0, "out.Dockerfile");
    assert_eq!(dockerfile_bytes(&context), 77);

    // With an ignore file in the context, the Dockerfile is last: its padding is missing.
    fixture.write(".dockerignore", b"none\n");
    let context = fixture.open_file(LEGACY, "../out.Dockerfile").unwrap();
    assert_eq!(context.legacy_tar_size().unwrap(), 1024 + 1024 + 512 + 1024 + 512 + text.len() as u64);
}

#[test]
fn a_dockerfile_on_standard_input() {
    let fixture = Fixture::new(&[("a", "1")]);
    let text = b"FROM busybox\nCOPY . /x\nRUN ls -a /x\n".to_vec();
    let context = fixture.open_input(LEGACY, text.clone()).unwrap();
    assert_eq!(context.legacy_tar_size().unwrap(), 2048);
    assert_eq!(seen(&context), ["+Dockerfile"]);
    drop(context);
    let context = fixture.open_input(BUILDKIT, text.clone()).unwrap();
    assert_eq!(seen(&context), [""; 0]);
    assert_eq!((dockerfile_bytes(&context), context_bytes(&context, &["."])), (73, 2));
    assert_eq!(context.dockerfile(), ("Dockerfile", text.as_slice()));
    drop(context);
    assert_eq!(fs::read_dir(fixture.base.path().join("scratch")).unwrap().count(), 0);

    let beside = |dialect| {
        let input = b"FROM busybox\nRUN true\n".to_vec();
        Context::open(ContextRequest {
            dockerfile: DockerfileSource::Stdin,
            input: Some(Box::new(Cursor::new(input))),
            ..fixture.request(dialect)
        })
        .unwrap()
    };
    assert_eq!(dockerfile_bytes(&beside(BUILDKIT)), 59);
    assert_eq!(seen(&beside(BUILDKIT)), ["+a"]);
    assert_eq!(beside(LEGACY).legacy_tar_size().unwrap(), 1024 + 1024 + 512 + 47);
}

#[test]
fn missing_dockerfiles() {
    let fixture = Fixture::new(&[("sub/b.Dockerfile", "FROM busybox\n"), ("e", "")]);
    let dir = fixture.dir();
    for dialect in [LEGACY, LEGACY_20] {
        let error = Context::open(fixture.request(dialect)).unwrap_err();
        let text = format!(
            "unable to prepare context: unable to evaluate symlinks in Dockerfile path: lstat {}/Dockerfile: no such file or \
             directory",
            dir.display()
        );
        assert_eq!(message(&error, dialect), (text, Speaker::Client));
        let error = fixture.open_file(dialect, "no/such").unwrap_err();
        assert!(
            message(&error, dialect).0.ends_with(&format!("lstat {}/no: no such file or directory", dir.display()))
        );
        let error = fixture.open_file(dialect, "e").unwrap_err();
        assert_eq!(message(&error, dialect), ("the Dockerfile (e) cannot be empty".into(), Speaker::Daemon));
        assert!(matches!(error, ContextError::Transferred { tar_bytes: Some(3072), .. }), "{error:?}");
        let (text, by) = message(&fixture.open_file(dialect, "sub").unwrap_err(), dialect);
        assert!(
            text.starts_with("unexpected error reading Dockerfile: read /") && text.ends_with("/sub: is a directory")
        );
        assert_eq!(by, Speaker::Daemon);
    }
    let error = Context::open(fixture.request(BUILDKIT)).unwrap_err();
    let text = "failed to read dockerfile: open Dockerfile: no such file or directory";
    assert_eq!(message(&error, BUILDKIT), (text.into(), Speaker::Daemon));
    assert!(
        matches!(&error, ContextError::Transferred { dockerfile: Some((name, 2)), .. } if name == "Dockerfile"),
        "{error:?}"
    );
    let error = fixture.open_file(BUILDKIT, "../missing.Dockerfile").unwrap_err();
    let text = "failed to read dockerfile: open missing.Dockerfile: no such file or directory";
    assert_eq!(message(&error, BUILDKIT).0, text);
    let (text, _) = message(&Context::open(fixture.request(BUILDKIT_20)).unwrap_err(), BUILDKIT_20);
    assert!(text.starts_with("failed to read dockerfile: open /") && text.contains("/buildkit-mount"), "{text}");
    let (text, _) = message(&fixture.open_file(BUILDKIT, "sub").unwrap_err(), BUILDKIT);
    assert!(text.starts_with("failed to read dockerfile: read /") && text.ends_with("/sub: is a directory"), "{text}");
    assert_eq!(fixture.open_file(BUILDKIT, "e").unwrap().dockerfile().1, b"");
}

#[test]
fn a_lower_case_dockerfile() {
    let fixture = Fixture::new(&[("dockerfile", "FROM a\n")]);
    let names = ALL.map(|dialect| fixture.open(dialect).dockerfile().0.to_owned());
    assert_eq!(names, ["dockerfile", "dockerfile", "dockerfile", "Dockerfile"]);
}

#[test]
fn contexts_that_are_none() {
    let fixture = Fixture::new(&[("file", "1")]);
    let open = |dialect, path: &str| {
        let source = ContextSource::Dir(path.into());
        message(&Context::open(ContextRequest { source, ..fixture.request(dialect) }).unwrap_err(), dialect).0
    };
    for dialect in ALL {
        assert_eq!(open(dialect, "nope"), "unable to prepare context: path \"nope\" not found");
    }
    let is_file = format!("unable to prepare context: context must be a directory: {}/file", fixture.dir().display());
    assert_eq!(open(LEGACY, "file"), is_file);
    assert_eq!(open(BUILDKIT, "file"), "unable to prepare context: path \"file\" not found");
    let text = "failed to read dockerfile: error from sender: walk file: not a directory";
    assert_eq!(open(BUILDKIT_20, "file"), text);
    for dialect in ALL {
        let both = ContextRequest {
            source: ContextSource::Stdin,
            dockerfile: DockerfileSource::Stdin,
            ..fixture.request(dialect)
        };
        let text = "invalid argument: can't use stdin for both build context and dockerfile";
        assert_eq!(message(&Context::open(both).unwrap_err(), dialect), (text.into(), Speaker::Client));
        let remote = ContextRequest { source: ContextSource::Url("git://x/y".into()), ..fixture.request(dialect) };
        let failure = Context::open(remote).unwrap_err().failure(dialect);
        assert!(matches!(failure, Failure::Own { hint: Some(_), .. }));
    }
    let two = |dialect| {
        let request = ContextRequest { dockerfile: DockerfileSource::Path("a".into()), ..fixture.request(dialect) };
        Context::open(ContextRequest {
            source: ContextSource::Stdin,
            input: Some(Box::new(Cursor::new(b"FROM busybox\n".to_vec()))),
            ..request
        })
    };
    let text = "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles";
    assert_eq!(message(&two(BUILDKIT).unwrap_err(), BUILDKIT).0, text);
    let legacy = message(&two(LEGACY).unwrap_err(), LEGACY).0;
    assert_eq!(legacy, format!("unable to prepare context from STDIN: {text}"));
    assert!(two(LEGACY_20).is_ok(), "20 takes what it reads");
}

// ---- ignore files ----

#[test]
fn the_recorded_ignore_file() {
    let ignore = "# comment\n*.log\n!keep.log\n**/tmp\ndocs/*.md\n!docs/README.md\n/top\n";
    let files = ["a.log", "keep.log", "tmp/x", "b/tmp/y", "b/c.log", "docs/a.md", "docs/README.md", "top", "b/top"];
    let files: Vec<_> = files.iter().map(|name| (*name, "1")).collect();
    let fixture = Fixture::new(&files);
    fixture.write(".dockerignore", ignore.as_bytes());
    fixture.write("Dockerfile", b"FROM a\n");
    for dialect in ALL {
        let shown: Vec<_> = seen(&fixture.open(dialect)).into_iter().filter(|row| row.starts_with('-')).collect();
        assert_eq!(shown, ["-a.log", "-b/tmp", "-b/tmp/y", "-docs/a.md", "-tmp", "-tmp/x", "-top"], "{dialect:?}");
    }
}

#[test]
fn exceptions_below_an_excluded_directory() {
    let fixture = Fixture::new(&[("Dockerfile", "x"), ("d/e/keep", "1"), ("d/e/drop", "1"), ("d/f/drop", "1")]);
    fixture.write(".dockerignore", b"d\n!d/e/keep\nDockerfile\n.dockerignore\n");
    fixture.settle();
    for dialect in ALL {
        let context = fixture.open(dialect);
        let rows = ["-.dockerignore", "-Dockerfile", "?d", "?d/e", "-d/e/drop", "+d/e/keep", "-d/f", "-d/f/drop"];
        if dialect == BUILDKIT_20 {
            // The directories themselves are sent.
            assert_eq!(seen(&context)[2..4], ["+d", "+d/e"]);
        } else {
            assert_eq!(seen(&context), rows, "{dialect:?}");
        }
        assert!(context.excluded(Path::new("d/f")) && !context.excluded(Path::new("d")));
    }
    // The legacy client sends Dockerfile and ignore file all the same: Docker says 4.096kB.
    assert_eq!(fixture.open(LEGACY).legacy_tar_size().unwrap(), 1024 * 3 + 1024);
    let sent = context_bytes(&fixture.open(BUILDKIT), &["."]);
    let stat = |path: u64, mode: u64, size: u64| 2 + (2 + path + 1 + mode + size + 10);
    assert_eq!(sent, stat(1, 5, 0) + stat(3, 5, 0) + stat(8, 2, 2) + (4 + 2 + 1 + 4) + 2);
}

#[test]
fn the_ignore_file_of_a_dockerfile() {
    let fixture = Fixture::new(&[("Dockerfile", "x"), ("Dockerfile.dockerignore", "a\n"), (".dockerignore", "b\n")]);
    fixture.write("a", b"1");
    fixture.write("b", b"1");
    let context = fixture.open(BUILDKIT);
    assert!(context.excluded(Path::new("a")) && !context.excluded(Path::new("b")));
    assert_eq!(context.ignore_sync_size(None).unwrap(), None, "the step is not shown");
    let context = fixture.open(LEGACY);
    assert!(context.excluded(Path::new("b")) && !context.excluded(Path::new("a")), "legacy knows none");
}

#[test]
fn bad_patterns() {
    let fixture = Fixture::new(&[("Dockerfile", "x"), ("a", "1")]);
    let failure = |pattern: &str, dialect| {
        fixture.write(".dockerignore", pattern.as_bytes());
        let opened = Context::open(fixture.request(dialect));
        let error = match opened {
            Ok(context) => context.check_ignore().err().unwrap_or_else(|| context.sync_size(&[], None).unwrap_err()),
            Err(error) => error,
        };
        message(&error, dialect).0
    };
    let lone = "illegal exclusion pattern: \"!\"";
    assert_eq!(failure("!\n", LEGACY), format!("checking context: {lone}"));
    assert_eq!(failure("!\n", LEGACY_20), format!("error checking context: {lone}"));
    assert_eq!(failure("!\n", BUILDKIT), lone);
    assert_eq!(failure("!\n", BUILDKIT_20), format!("error from sender: invalid excludepatterns: [!]: {lone}"));
    assert_eq!(failure("a[\n", BUILDKIT), "syntax error in pattern");
    let used = "error from sender: failed to match excludepatterns: syntax error in pattern";
    assert_eq!(failure("\\y\n", BUILDKIT), used);
    assert_eq!(failure("\\y\n", LEGACY), "checking context: syntax error in pattern");
}

// ---- what cannot be read ----

/// As one who may not read everything, which root is without these capabilities. They are those of a thread.
#[test]
fn unreadable_files_and_directories() {
    let test = || {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        let read_all = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        sets.effective.remove(read_all);
        // access(2) looks at these for root.
        sets.permitted.remove(read_all);
        rustix::thread::set_capabilities(None, sets).unwrap();
        unreadable_files_and_directories_of_others();
    };
    std::thread::scope(|scope| scope.spawn(test).join()).unwrap();
}

fn unreadable_files_and_directories_of_others() {
    let fixture = Fixture::new(&[("Dockerfile", "x"), ("secret", "1"), ("d/f", "1")]);
    let dir = fixture.dir();
    fs::set_permissions(dir.join("secret"), fs::Permissions::from_mode(0o000)).unwrap();
    let error = Context::open(fixture.request(LEGACY)).unwrap_err();
    let text = format!("checking context: no permission to read from '{}/secret'", dir.display());
    assert_eq!(message(&error, LEGACY), (text, Speaker::Client));
    let context = fixture.open(BUILDKIT);
    // BuildKit sends it empty.
    assert_eq!(context_bytes(&context, &["secret"]), 2 + (8 + 2 + 2 + 10 - 2) + 2 + 2);

    fs::remove_file(dir.join("secret")).unwrap();
    fs::set_permissions(dir.join("d"), fs::Permissions::from_mode(0o000)).unwrap();
    let error = Context::open(fixture.request(LEGACY_20)).unwrap_err();
    let text = format!("error checking context: can't stat '{}/d'", dir.display());
    assert_eq!(message(&error, LEGACY_20).0, text);
    let error = fixture.open(BUILDKIT).sync_size(&[], None).unwrap_err();
    assert_eq!(message(&error, BUILDKIT).0, "error from sender: open d: permission denied");
    assert!(fixture.open(BUILDKIT).sync_size(&wanted(&["Dockerfile"]), None).is_ok(), "what is not wanted is not read");
    fs::set_permissions(dir.join("d"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_pipe_as_dockerfile_is_no_reason_to_wait() {
    let fixture = Fixture::new(&[]);
    rustix::fs::mknodat(CWD, fixture.dir().join("Dockerfile"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    for dialect in ALL {
        assert!(Context::open(fixture.request(dialect)).is_err());
    }
}

// ---- tars ----

fn tar(entries: &[(Entry, &[u8])]) -> Vec<u8> {
    let mut writer = LayerWriter::new(Vec::new());
    for (entry, content) in entries {
        writer.append(entry, *content).unwrap();
    }
    writer.finish().unwrap()
}

fn file(path: &str, content: &'static str) -> (Entry, &'static [u8]) {
    let mut entry = Entry::new(path, Kind::File { size: content.len() as u64 });
    (entry.uid, entry.gid, entry.mode) = (1000, 1001, 0o4640);
    (entry, content.as_bytes())
}

fn other(path: &str, kind: Kind) -> (Entry, &'static [u8]) {
    (Entry::new(path, kind), b"")
}

fn link(target: &str) -> Kind {
    Kind::Symlink { target: target.into() }
}

#[test]
fn a_tar_keeps_what_the_builder_keeps() {
    let mut locked = Entry::new("locked", Kind::Dir);
    // Without any capability, no record can be read from a directory of mode 0, and nothing be put into it.
    let (mode, inside) = if rustix::process::geteuid().is_root() { (0, "locked/in") } else { (0o500, "open/in") };
    locked.mode = mode;
    let archive = tar(&[
        file("Dockerfile", "FROM a\n"),
        file("implied/deep/f", "hello"),
        (locked, b""),
        file(inside, "1"),
        other("null", Kind::Char { major: 1, minor: 3 }),
        other("pipe", Kind::Fifo),
        other("hard", Kind::Hardlink { target: b"implied/deep/f".to_vec() }),
        file("twice", "first"),
        file("twice", "2nd"),
    ]);
    let fixture = Fixture::new(&[]);
    for (dialect, owner) in [(BUILDKIT, (1000, 1001)), (LEGACY, (0, 0))] {
        let context = fixture.open_input(dialect, archive.clone()).unwrap();
        assert!(context.is_archive());
        assert_eq!(context.legacy_tar_size().unwrap(), archive.len() as u64);
        assert_eq!(context.dockerfile(), ("Dockerfile", b"FROM a\n".as_slice()));
        assert_eq!(context.sync_size(&[], None).unwrap(), None);
        assert_eq!(context.dockerfile_sync_size(None).unwrap(), None);
        assert_eq!(context.ignore_sync_size(None).unwrap(), None);
        let source = context.source();
        let stat = |path: &str| source.lstat(Path::new(path)).unwrap().unwrap();
        let twice = stat("twice");
        assert_eq!((twice.mode, twice.uid, twice.gid, twice.size), (0o4640, owner.0, owner.1, 3));
        assert_eq!(stat("implied").mode, 0o755);
        assert_eq!(stat("implied").uid, 0);
        assert_eq!(stat("locked").mode, mode);
        assert_eq!(context.root().read(inside, 9).unwrap(), b"1");
        assert_eq!((stat("null").kind, stat("null").device), (rbuild_sandbox::root::FileKind::CharDevice, (1, 3)));
        assert_eq!(stat("hard").id, stat("implied/deep/f").id);
        let path = context.path().to_owned();
        drop(context);
        assert!(!path.exists());
    }
}

const BZIP2: &str = "425a6839314159265359fcf996ab00002d5f80c91040007780050291006b2c9e0008182000545203d4d0d34d343d464794fd504a469320\
        d0068001279f20f70811e63390b18f406266dc2b708b068125082b6f996ad6369146b6595101c99b990f9554d11526800835bf8bb9229c\
        28487e7ccb5580";
const XZ: &str = "fd377a585a000004e6d6b4460200210116000000742fe5a3e007ff00505d00221bc866dc0964e1a65c41c242374503896c16edd26d265b\
        bf4af3a9789f4da314b2dffc0c7ed36dd56274b596eb94b9ed7f74981ef7a1a8bce8a042f94c052807841007c9c7d9fa9a3c58fd5b3386\
        0000408e0ffca9e36daa00016c8010000000f1fc9c5db1c467fb020000000004595a";

#[test]
fn every_compression() {
    let fixture = Fixture::new(&[]);
    let plain = tar(&[file("Dockerfile", "FROM a\n"), file("x", "1")]);
    let mut packed = vec![plain.clone()];
    for options in [EncoderOptions::Gzip { level: 6, threads: 1 }, EncoderOptions::Zstd { level: 3 }] {
        let mut encoder = Encoder::new(Vec::new(), options).unwrap();
        encoder.write_all(&plain).unwrap();
        packed.push(encoder.finish().unwrap());
    }
    // A tar of the same Dockerfile alone, packed by bzip2 and xz.
    for hex in [BZIP2, XZ] {
        packed.push((0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect());
    }
    for input in packed {
        for dialect in ALL {
            let context = fixture.open_input(dialect, input.clone()).unwrap();
            assert_eq!(context.dockerfile().1, b"FROM a\n");
            assert_eq!(context.legacy_tar_size().unwrap(), input.len() as u64, "as it came in");
        }
    }
}

#[test]
fn hostile_tars_stay_inside() {
    let fixture = Fixture::new(&[]);
    let dockerfile = || file("Dockerfile", "FROM a\n");
    let refused: [(Vec<_>, &str); 6] = [
        (vec![dockerfile(), file("../evil", "x")], "invalid entry name \"../evil\""),
        (vec![dockerfile(), file("a/../../evil", "x")], "invalid entry name \"a/../../evil\""),
        (
            vec![dockerfile(), other("l", link("../../../tmp")), file("l/evil", "x")],
            "statat l: path escapes from parent",
        ),
        (
            vec![dockerfile(), other("l", Kind::Hardlink { target: b"../../../etc/passwd".to_vec() })],
            "invalid hardlink target \"../../../etc/passwd\"",
        ),
        (
            vec![dockerfile(), other("l", Kind::Hardlink { target: b"nope".to_vec() })],
            "linkat nope l: no such file or directory",
        ),
        (vec![file("x", "1")], ""),
    ];
    for (entries, text) in refused {
        let archive = tar(&entries);
        let legacy = fixture.open_input(LEGACY, archive.clone()).unwrap_err();
        assert!(matches!(legacy, ContextError::Transferred { tar_bytes: Some(n), .. } if n == archive.len() as u64));
        let buildkit = fixture.open_input(BUILDKIT, archive).unwrap_err();
        if text.is_empty() {
            let legacy = message(&legacy, LEGACY);
            assert_eq!(legacy, ("Cannot locate specified Dockerfile: Dockerfile".into(), Speaker::Daemon));
            let text = "failed to read dockerfile: open Dockerfile: no such file or directory";
            assert_eq!(message(&buildkit, BUILDKIT).0, text);
            continue;
        }
        assert_eq!(message(&legacy, LEGACY), (text.into(), Speaker::Daemon));
        assert_eq!(message(&buildkit, BUILDKIT), (format!("failed to read dockerfile: {text}"), Speaker::Builder));
    }
    // Links that lead out are kept, and lead nowhere.
    let archive = tar(&[
        file("Dockerfile", "FROM a\n"),
        file("/abs/evil", "x"),
        other("out", link("../../etc/passwd")),
        other("l", link("/tmp")),
        file("l/evil", "x"),
    ]);
    let context = fixture.open_input(BUILDKIT, archive).unwrap();
    assert_eq!(seen(&context), ["+Dockerfile", "+abs", "+abs/evil", "+l", "+out", "+tmp", "+tmp/evil"]);
    assert!(context.root().read("out", 99).is_err());
    drop(context);
    assert_eq!(fs::read_dir(fixture.base.path().join("scratch")).unwrap().count(), 0, "nothing is left behind");
    assert_eq!(fs::read_dir(fixture.base.path()).unwrap().count(), 2);
}

#[test]
fn damaged_tars() {
    let fixture = Fixture::new(&[]);
    let archive = tar(&[file("Dockerfile", "FROM a\n"), file("big", "0123456789")]);
    let cut = archive[..1700].to_vec();
    assert_eq!(message(&fixture.open_input(LEGACY, cut.clone()).unwrap_err(), LEGACY).0, "unexpected EOF");
    let text = "failed to read dockerfile: unexpected EOF";
    assert_eq!(message(&fixture.open_input(BUILDKIT, cut).unwrap_err(), BUILDKIT).0, text);
    let mut encoder = Encoder::new(Vec::new(), EncoderOptions::Gzip { level: 6, threads: 1 }).unwrap();
    encoder.write_all(&archive).unwrap();
    let mut packed = encoder.finish().unwrap();
    packed.truncate(packed.len() / 2);
    assert!(fixture.open_input(BUILDKIT, packed).is_err());
    // Trailing bytes are counted, and else of no consequence.
    let mut longer = archive.clone();
    longer.extend_from_slice(&[7; 999]);
    let context = fixture.open_input(LEGACY, longer).unwrap();
    assert_eq!(context.legacy_tar_size().unwrap(), archive.len() as u64 + 999);
}

#[test]
fn the_dockerfile_of_a_tar() {
    let fixture = Fixture::new(&[]);
    let open = |dialect, given: Option<&str>, entries: &[(Entry, &[u8])]| {
        let dockerfile = given.map_or(DockerfileSource::Default, |path| DockerfileSource::Path(path.into()));
        Context::open(ContextRequest {
            source: ContextSource::Stdin,
            dockerfile,
            input: Some(Box::new(Cursor::new(tar(entries)))),
            ..fixture.request(dialect)
        })
    };
    let lower = [file("dockerfile", "FROM a\n")];
    assert_eq!(open(LEGACY, None, &lower).unwrap().dockerfile().0, "dockerfile");
    assert_eq!(open(BUILDKIT, None, &lower).unwrap().dockerfile().0, "Dockerfile");
    let nested = [file("./sub/x.Dockerfile", "FROM a\n")];
    for dialect in ALL {
        assert_eq!(open(dialect, Some("sub/x.Dockerfile"), &nested).unwrap().dockerfile().0, "sub/x.Dockerfile");
    }
    // An ignore file in a tar hides nothing, but the legacy daemon removes itself and the Dockerfile by it.
    let ignoring = [file("Dockerfile", "FROM a\n"), file(".dockerignore", "f\nDockerfile\n"), file("f", "1")];
    assert_eq!(seen(&open(LEGACY, None, &ignoring).unwrap()), ["+.dockerignore", "-Dockerfile", "+f"]);
    assert_eq!(seen(&open(BUILDKIT, None, &ignoring).unwrap()), ["+.dockerignore", "+Dockerfile", "+f"]);
}

#[test]
fn what_counts_as_a_tar() {
    let fixture = Fixture::new(&[]);
    let long = format!("FROM a\n# {}\n", "x".repeat(3000));
    for text in ["FROM a\n", long.as_str(), &"\0".repeat(1024)] {
        let context = fixture.open_input(BUILDKIT, text.as_bytes().to_vec()).unwrap();
        assert_eq!(context.dockerfile().1, text.as_bytes());
    }
}

// ---- named contexts ----

#[test]
fn named_contexts() {
    let parse = |value| NamedContext::parse(value).unwrap();
    assert_eq!(parse("base=docker-image://alpine:3").source, NamedSource::Image("alpine:3".into()));
    assert_eq!(parse("a=../dir").source, NamedSource::Directory("../dir".into()));
    assert_eq!(parse("a:latest=x").name, "a");
    assert_eq!(parse("docker.io/library/alpine=x").name, "alpine");
    assert_eq!(parse("a=docker-archive://x.tar").source, NamedSource::DockerArchive("x.tar".into()));
    assert_eq!(parse("a=target:b").source, NamedSource::Target("b".into()));
    assert_eq!(parse("a=https://x/y.git").source, NamedSource::Remote("https://x/y.git".into()));
    let layout = |tag: &str, digest: Option<&str>| NamedSource::OciLayout {
        path: "dir".into(),
        tag: tag.into(),
        digest: digest.map(str::to_owned),
    };
    assert_eq!(parse("a=oci-layout://dir").source, layout("latest", None));
    assert_eq!(parse("a=oci-layout://dir:t@sha256:ab").source, layout("t", Some("sha256:ab")));
    let refused = |value| message(&NamedContext::parse(value).unwrap_err(), BUILDKIT).0;
    assert_eq!(refused("foo"), "invalid context value: foo, expected key=value");
    assert_eq!(refused("=x"), "invalid context name : invalid reference format");

    let fixture = Fixture::new(&[("a", "1"), ("b", "2"), (".dockerignore", "a\n")]);
    fixture.settle();
    let open = |directory: &str| Context::open_named("foo", Path::new(directory), &fixture.dir(), BUILDKIT);
    let context = open(".").unwrap();
    assert_eq!(seen(&context), ["+.dockerignore", "-a", "+b"]);
    assert_eq!(context.dockerfile_sync_size(None).unwrap(), None);
    assert_eq!(context_bytes(&context, &["b"]), 2 + (3 + 3 + 2 + 10) + 5 + 2 + 2);
    assert_eq!(context.sync_key(Transfer::Context), "28:foo:context:foo:ctx");
    let missing = message(&open("nope").unwrap_err(), BUILDKIT).0;
    assert_eq!(missing, "failed to get build context foo: stat nope: no such file or directory");
    let is_file = message(&open("a").unwrap_err(), BUILDKIT).0;
    assert_eq!(is_file, "failed to get build context path {a <nil>}: not a directory");
}

#[test]
fn a_directory_is_not_touched() {
    let fixture = Fixture::new(&[("Dockerfile", "FROM a\n"), ("x", "1")]);
    fixture.settle();
    let before = fs::metadata(fixture.dir()).unwrap();
    for dialect in ALL {
        let context = fixture.open(dialect);
        context.legacy_tar_size().unwrap();
        context.sync_size(&[], None).unwrap();
    }
    let after = fs::metadata(fixture.dir()).unwrap();
    assert_eq!((before.ctime(), before.ctime_nsec()), (after.ctime(), after.ctime_nsec()));
    assert_eq!(fs::read_dir(fixture.dir()).unwrap().count(), 2);
}
