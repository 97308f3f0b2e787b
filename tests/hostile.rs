//! Input that is broken, or meant to do harm: one clear error, another exit code than 0, and a store that works on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rbuild_testkit::registry::{DOCKER_MANIFEST, Fault, Layer, Registry};
use rbuild_testkit::tarball::Tarball;
use rbuild_testkit::workspace::{Output, Workspace, finish};
use rbuild_testkit::{leftovers, listing, require};
use serde_json::json;
use tar::EntryType;

use crate::{build_flags, with_bases};

const FORMATS: [&str; 2] = ["buildkit", "docker"];

fn build(workspace: &Workspace, registry: &Registry, format: &str, context: &str) -> Command {
    let mut build = workspace.rbuild(build_flags(registry));
    build.arg(format!("--log-format={format}")).arg(context);
    build
}

/// The one error of a build that failed.
fn error(output: &Output, what: &str) -> String {
    assert_eq!(output.code(), 1, "{what}: {}", output.text());
    let text = output.text();
    for word in ["panicked", "backtrace", "unwrap"] {
        assert!(!text.contains(word), "{what}: {text}");
    }
    let stderr = output.stderr();
    let errors = |begin: &str| -> Vec<&str> { stderr.lines().filter(|line| line.starts_with(begin)).collect() };
    // BuildKit's errors, and those that are our own.
    let mut lines = [errors("ERROR: "), errors("rbuild: error: ")].concat();
    if lines.is_empty() {
        // The legacy builder prints the error alone, after what the client says of itself.
        let notes = ["DEPRECATED: ", "            BuildKit is", "            environment-variable"];
        let is_note = |line: &str| line.is_empty() || notes.iter().any(|note| line.starts_with(note));
        lines = stderr.lines().filter(|line| !is_note(line)).collect();
    }
    assert_eq!(lines.len(), 1, "{what}: not one error: {text}");
    lines[0].to_owned()
}

/// A sound build works on the same store, and nothing is left of the broken one.
fn expect_usable(workspace: &Workspace, registry: &Registry) {
    leftovers::expect_none(workspace.dir(), Duration::from_secs(5));
    workspace.files("sound", &[("Dockerfile", "FROM layers:1\nCOPY x /x\nRUN cat /x\n"), ("x", "sound\n")]);
    let _ = finish(&mut build(workspace, registry, "buildkit", "sound"), None).success();
}

/// Builds `FROM host/broken:TAG` in both dialects and expects an error that has one of the `words` in it.
fn from_broken(workspace: &Workspace, registry: &Registry, tag: &str, words: &[&str]) {
    let dockerfile = format!("FROM {}/broken:{tag}\nRUN echo never\n", registry.host());
    workspace.files("broken", &[("Dockerfile", &dockerfile)]);
    for format in FORMATS {
        let output = finish(&mut build(workspace, registry, format, "broken"), None);
        let error = error(&output, tag);
        assert!(words.iter().any(|word| error.contains(word)), "{tag}, {format}: {error}");
        let ran = |line: &str| {
            line == "never" || (line.starts_with('#') && line.ends_with(" never") && !line.contains("RUN"))
        };
        assert!(!output.text().lines().any(ran), "{tag}, {format}: {}", output.text());
    }
}

fn config() -> serde_json::Value {
    json!({"architecture": "amd64", "os": "linux", "config": {}, "history": []})
}

#[test]
fn layers() {
    let (workspace, registry) = require!(with_bases());
    let big: Vec<u8> = (0..200_000_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
    let tar = Tarball::new().file("big", 0o644, &big).finish();
    let layer = Layer::of(&tar);
    let put = |tag: &str, stored: Vec<u8>| {
        // The digest is that of the sound layer, which is not what is kept.
        registry.put_image("broken", tag, config(), std::slice::from_ref(&layer));
        registry.put_blob_as(&rbuild_testkit::registry::digest(&layer.blob), Arc::new(stored));
        from_broken(&workspace, &registry, tag, &["size", "digest", "length", "bytes", "EOF", "ended"]);
    };
    put("truncated", layer.blob[..layer.blob.len() / 2].to_vec());
    let mut corrupt = layer.blob.to_vec();
    corrupt[1000] ^= 1;
    put("corrupt", corrupt);
    put("longer", [&layer.blob[..], b"more"].concat());

    // A digest that is right, of something that is no layer.
    for (tag, blob) in [
        ("no-gzip", b"not a layer at all".to_vec()),
        ("cut-gzip", layer.blob[..5000].to_vec()),
        ("no-tar", rbuild_testkit::tarball::gzip(&[0x55; 2048])),
        ("cut-tar", rbuild_testkit::tarball::gzip(&tar[..10_000])),
    ] {
        let layer = Layer { diff_id: layer.diff_id.clone(), blob: Arc::new(blob) };
        registry.put_image("broken", tag, config(), &[layer]);
        from_broken(&workspace, &registry, tag, &["layer", "gzip", "tar", "archive", "digest", "unexpected"]);
    }
    // Not the content that the configuration promises.
    let other = Layer { diff_id: Layer::of(b"").diff_id, blob: Arc::clone(&layer.blob) };
    registry.put_image("broken", "diff-id", config(), &[other]);
    from_broken(&workspace, &registry, "diff-id", &["digest", "diff", "layer"]);
    expect_usable(&workspace, &registry);
    workspace.expect_clean();
}

#[test]
fn manifests() {
    let (workspace, registry) = require!(with_bases());
    for (tag, manifest) in [
        ("no-json", b"{ this is no JSON".to_vec()),
        ("empty", b"{}".to_vec()),
        ("no-digest", json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": {"digest": "sha256:zz", "size": 1, "mediaType": "x"}, "layers": []}).to_string().into_bytes()),
        ("missing-blobs", json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": {"digest": format!("sha256:{}", "0".repeat(64)), "size": 1, "mediaType": rbuild_testkit::registry::DOCKER_CONFIG}, "layers": []}).to_string().into_bytes()),
    ] {
        registry.put_manifest("broken", tag, DOCKER_MANIFEST, manifest);
        from_broken(&workspace, &registry, tag, &[""]);
    }
    // Asked for by digest, another manifest comes.
    let good = registry.put_image("broken", "good", config(), &[Layer::of(&Tarball::new().dir("d/", 0o755).finish())]);
    registry.fail(&format!("/manifests/{good}"), Fault::WrongBytes, usize::MAX);
    let dockerfile = format!("FROM {}/broken@{good}\n", registry.host());
    workspace.files("by-digest", &[("Dockerfile", &dockerfile)]);
    for format in FORMATS {
        let error = error(&finish(&mut build(&workspace, &registry, format, "by-digest"), None), "by digest");
        assert!(error.contains("digest"), "{error}");
    }
    registry.heal();
    expect_usable(&workspace, &registry);
    workspace.expect_clean();
}

#[test]
fn registries_that_fail() {
    let (workspace, registry) = require!(with_bases());
    // What passes is tried again, and a cut transfer goes on where it was.
    registry.fail("/manifests/", Fault::Status(429), 1);
    registry.fail("/manifests/", Fault::Status(500), 1);
    registry.fail("/blobs/", Fault::Close, 1);
    registry.fail("/blobs/", Fault::CutAfter(100_000), 2);
    workspace
        .files("context", &[("Dockerfile", &format!("FROM {}/library/layers:1\nRUN cat /l/a/i\n", registry.host()))]);
    let output = finish(&mut build(&workspace, &registry, "buildkit", "context"), None).success();
    assert!(output.text().contains(" again"), "{}", output.text());
    let asked = registry.asked();
    assert!(asked.iter().any(|line| line.ends_with(" bytes=100000-")), "nothing was resumed: {asked:#?}");
    let _ = workspace.run(["prune", "--all", "--force"]).success();
    registry.heal();

    // What stays is an error.
    registry.put_image("broken", "closed", config(), &[Layer::of(&Tarball::new().dir("d/", 0o755).finish())]);
    for (tag, fault) in [("closed", Fault::Close), ("closed", Fault::Status(500)), ("closed", Fault::Status(403))] {
        registry.fail("/broken/", fault, usize::MAX);
        from_broken(&workspace, &registry, tag, &[""]);
        registry.heal();
    }
    from_broken(&workspace, &registry, "unknown", &["not found", "manifest unknown"]);
    // Nobody listens.
    let gone = Registry::start().host();
    workspace.files("gone", &[("Dockerfile", &format!("FROM {gone}/image\n"))]);
    for format in FORMATS {
        error(&finish(&mut build(&workspace, &registry, format, "gone"), None), "nobody listens");
    }
    expect_usable(&workspace, &registry);
    workspace.expect_clean();
}

/// Names that lead out of where they belong, in entries of a tar.
fn escapes(target: &Path) -> Vec<(&'static str, Tarball)> {
    let evil = target.join("evil");
    let evil = evil.to_str().unwrap();
    let file = |tar: Tarball, name: &str| tar.file(name, 0o644, b"evil\n");
    let up = format!("{}{}", "../".repeat(12), evil.trim_start_matches('/'));
    vec![
        ("parent", file(Tarball::new(), &up)),
        ("parent-inside", file(Tarball::new(), &format!("d/../../../../../../..{evil}"))),
        ("absolute", file(Tarball::new(), evil)),
        ("symlink", file(Tarball::new().symlink("l", target.to_str().unwrap()), "l/evil")),
        ("symlink-of-symlink", file(Tarball::new().symlink("a", target.to_str().unwrap()).symlink("b", "a"), "b/evil")),
        (
            "hard-link",
            Tarball::new().hard_link("h", target.join("victim").to_str().unwrap()).file("h", 0o644, b"evil\n"),
        ),
        (
            "hard-link-parent",
            Tarball::new()
                .hard_link("h", &format!("../../../../../../../..{}/victim", target.display()))
                .file("h", 0o644, b"evil\n"),
        ),
        (
            "whiteout",
            Tarball::new().entry(&format!("{}/.wh.victim", target.display()), EntryType::Regular, 0o644, "", b""),
        ),
    ]
}

/// A directory that anybody may write to, with a file that nobody should.
fn outside(workspace: &Workspace) -> PathBuf {
    let dir = workspace.files("o", &[("victim", "victim\n")]);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    dir
}

fn expect_untouched(outside: &Path, what: &str) {
    let names: Vec<_> = fs::read_dir(outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["victim"], "{what}");
    assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "victim\n", "{what}");
}

#[test]
fn names_that_escape_from_a_context() {
    let (workspace, registry) = require!(with_bases());
    let outside = outside(&workspace);
    for (what, tar) in escapes(&outside) {
        let tar = tar.file("Dockerfile", 0o644, b"FROM busybox\nCOPY . /c\nADD h* /h/\n").finish();
        for format in FORMATS {
            let output = finish(&mut build(&workspace, &registry, format, "-"), Some(tar.clone()));
            // Docker refuses some and keeps others inside; either is right, and nothing else.
            if output.code() != 0 {
                error(&output, what);
            }
            expect_untouched(&outside, what);
        }
    }
    expect_usable(&workspace, &registry);
    workspace.expect_clean();
}

#[test]
fn names_that_escape_from_a_layer_or_an_added_archive() {
    let (workspace, registry) = require!(with_bases());
    let outside = outside(&workspace);
    for (what, tar) in escapes(&outside) {
        let tar = tar.finish();
        registry.put_image("broken", what, config(), &[Layer::of(&tar)]);
        let from = format!("FROM {}/broken:{what}\nCOPY x /x\n", registry.host());
        workspace.files("from", &[("Dockerfile", &from), ("x", "")]);
        let context = workspace.files("add", &[("Dockerfile", "FROM busybox\nADD a.tar /a/\n")]);
        fs::write(context.join("a.tar"), &tar).unwrap();
        for context in ["from", "add"] {
            for format in FORMATS {
                let output = finish(&mut build(&workspace, &registry, format, context), None);
                if output.code() != 0 {
                    error(&output, what);
                }
                expect_untouched(&outside, what);
            }
        }
    }
    expect_usable(&workspace, &registry);
    workspace.expect_clean();
}

#[test]
fn a_build_that_tries_to_leave_its_root() {
    let (workspace, registry) = require!(with_bases());
    let outside = outside(&workspace);
    let dir = outside.display();
    // Links made by a RUN, followed by what is done from outside of it.
    let dockerfile = format!(
        "FROM busybox AS one\nRUN ln -s {dir} /out && ln -s ../../../../../../..{dir} /up && mkdir /d && ln -s / /d/root\n\
         FROM busybox\nCOPY --from=one /out /up /d /\nCOPY x /out/evil\nCOPY --from=one /d/root/{dir}/victim* /v/\n\
         ADD x /up/evil\nWORKDIR /out/evil-dir\nRUN echo evil >x\n"
    );
    workspace.files("context", &[("Dockerfile", &dockerfile), ("x", "evil\n")]);
    for format in FORMATS {
        let output = finish(&mut build(&workspace, &registry, format, "context"), None);
        if output.code() != 0 {
            error(&output, format);
        }
        assert!(!output.text().contains("victim\n"));
        expect_untouched(&outside, format);
    }
    // And an output that is a directory with such links in it.
    workspace.files(
        "links",
        &[("Dockerfile", &format!("FROM busybox\nRUN ln -s {dir} /l && mkdir -p /m && echo x >/m/evil\n"))],
    );
    let mut local = build(&workspace, &registry, "buildkit", "links");
    let _ = finish(local.args(["-o", "local"]), None).success();
    assert_eq!(fs::read_link(workspace.path("local/l")).unwrap(), outside);
    workspace.files("into", &[("Dockerfile", "FROM scratch\nCOPY evil /l/evil\n"), ("evil", "evil\n")]);
    let _ = finish(build(&workspace, &registry, "buildkit", "into").args(["-o", "local"]), None);
    expect_untouched(&outside, "local output");
    workspace.expect_clean();
}

#[test]
fn dockerfiles_and_names() {
    let (workspace, registry) = require!(with_bases());
    for (what, dockerfile, wanted) in [
        ("unknown instruction", "FROM busybox\nCOPPY a b\n", "unknown instruction"),
        ("comment", "# nothing\n", ""),
        ("no stage", "RUN x\n", "no build stage"),
        ("flag", "FROM busybox\nCOPY --nosuch=1 a b\n", "nknown flag"),
        ("variable", "FROM busybox\nENV A=\"${b:?wanted here}\"\n", "wanted here"),
        ("quote", "FROM busybox\nENV A=\"unfinished\n", "unexpected end"),
    ] {
        workspace.files("context", &[("Dockerfile", dockerfile)]);
        for format in FORMATS {
            let error = error(&finish(&mut build(&workspace, &registry, format, "context"), None), what);
            assert!(error.contains(wanted), "{what}, {format}: {error}");
        }
    }
    let missing = finish(&mut build(&workspace, &registry, "buildkit", "nosuch"), None);
    assert!(error(&missing, "no context").contains("nosuch"));
    expect_usable(&workspace, &registry);
    workspace.expect_clean();
}

#[test]
fn a_context_that_changes_while_it_is_read() {
    let (workspace, registry) = require!(with_bases());
    let context = workspace.files("context", &[("Dockerfile", "FROM busybox\nCOPY . /c\nRUN ls /c | wc -l\n")]);
    let stop = Arc::new(AtomicBool::new(false));
    let changer = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            for round in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                // Files that grow, shrink, go, come back, and become directories.
                for n in 0..40_u64 {
                    let path = context.join(format!("f{n}"));
                    match (round + n) % 4 {
                        0 => drop(fs::write(&path, vec![b'x'; (round % 7) as usize * 40_000])),
                        1 => drop(fs::write(&path, b"short")),
                        2 => drop(fs::remove_file(&path)),
                        _ => drop(fs::create_dir(&path).and_then(|()| fs::remove_dir(&path))),
                    }
                }
            }
        }
    });
    let outputs: Vec<Output> =
        (0..6).map(|n| finish(&mut build(&workspace, &registry, FORMATS[n % 2], "context"), None)).collect();
    stop.store(true, Ordering::Relaxed);
    changer.join().unwrap();
    for output in &outputs {
        if output.code() != 0 {
            error(output, "changing context");
        }
    }
    expect_usable(&workspace, &registry);
    workspace.expect_clean();
}

/// A small file system; gone when it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(workspace: &Workspace, name: &str, kilobytes: u32) -> Result<SmallDisk, String> {
        if !workspace.user().tests_are_root() {
            return Err("only root can mount a small disk".to_owned());
        }
        let dir = workspace.files(name, &[]);
        let options = format!("size={kilobytes}k,mode=755,uid={},gid={}", workspace.user().uid, workspace.user().gid);
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&dir).output();
        match done {
            Ok(output) if output.status.success() => Ok(SmallDisk(dir)),
            Ok(output) => Err(format!("cannot mount a tmpfs: {}", String::from_utf8_lossy(&output.stderr))),
            Err(error) => Err(format!("cannot mount a tmpfs: {error}")),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk() {
    let (workspace, registry) = require!(with_bases());
    workspace.files("zeros", &[("Dockerfile", "FROM busybox\nRUN dd if=/dev/zero of=/zero bs=1M count=64\n")]);
    workspace.files("layer", &[("Dockerfile", "FROM busybox\nRUN head -c 9000000 /dev/urandom >/random\n")]);
    let context = workspace.files("copy", &[("Dockerfile", "FROM busybox\nCOPY big /big\n")]);
    fs::write(context.join("big"), vec![7; 30_000_000]).unwrap();
    // Too small for the base, for a command's files, for a copy, and for a layer beside the files it is made of.
    for (kilobytes, contexts) in [(1200, &["zeros"][..]), (2600, &["zeros"]), (16_000, &["zeros", "copy", "layer"])] {
        let disk = require!(SmallDisk::mount(&workspace, &format!("disk{kilobytes}"), kilobytes));
        let store = disk.0.join("store");
        let run = |command: &mut Command| finish(command.env("RBUILD_ROOT", &store), None);
        for context in contexts {
            for format in FORMATS {
                let output = run(&mut build(&workspace, &registry, format, context));
                let what = format!("{context} on {kilobytes} kB, {format}");
                error(&output, &what);
                assert!(output.text().to_lowercase().contains("no space"), "{what}: {}", output.text());
                leftovers::expect_none(&disk.0, Duration::from_secs(5));
            }
        }
        // What is there can be given up, also on a full disk, and then there is space again.
        let _ = run(&mut workspace.rbuild(["prune", "--all", "--force"])).success();
        assert_eq!(leftovers::store_residue(&store), Vec::<PathBuf>::new());
        if kilobytes == 16_000 {
            workspace.files("sound", &[("Dockerfile", "FROM layers:1\nRUN cat /l/a/i >/again\n")]);
            let _ = run(build(&workspace, &registry, "buildkit", "sound").args(["-t", "sound"])).success();
            let saved = run(&mut workspace.rbuild(["save", "sound"])).success();
            assert_eq!(listing::of_archive(&saved.stdout)["files"]["/again"]["size"], 6);
        }
        drop(disk);
    }
}
