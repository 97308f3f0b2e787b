//! `rbuild export` and `rbuild cp`: files of an image, taken out as an ordinary user under each isolation.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use rbuild_testkit::registry::Registry;
use rbuild_testkit::workspace::{Output, Workspace, finish};
use rbuild_testkit::{leftovers, listing, require};
use rustix::process::Signal;

use crate::{build_flags, with_bases};

const ISOLATIONS: [&str; 2] = ["userns", "ptrace"];

const DOCKERFILE: &str = "FROM layers:1\nRUN mkdir -p /t/sub /links && cd /t && echo a >a && ln a b && ln -s a c && mkfifo p && \
    chown 33:44 a && chmod 4755 a && echo s >sub/s && ln -s / /links/root && ln -s /../../../../etc/passwd /links/up && \
    ln -s sub dir && rm -rf /l && touch -d @1500000000 sub/s && chmod 2755 sub\n";

fn with_image() -> Result<(Workspace, Registry), String> {
    let (workspace, registry) = with_bases()?;
    workspace.files("context", &[("Dockerfile", DOCKERFILE)]);
    let mut build = workspace.rbuild(build_flags(&registry));
    let _ = finish(build.args(["-q", "-t", "image:1", "context"]), None).success();
    Ok((workspace, registry))
}

fn rbuild(workspace: &Workspace, command: &str, isolation: &str, args: &[&str]) -> Output {
    finish(workspace.rbuild([command, &format!("--isolation={isolation}")]).args(args), None)
}

/// The entries of a tar: path, and type, mode, owner, size and target.
fn entries(tar: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(tar);
    let read = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let (header, path) = (entry.header(), entry.path().unwrap().display().to_string());
        let target = entry.link_name().unwrap().map(|target| format!(" -> {}", target.display())).unwrap_or_default();
        let kind = char::from(header.entry_type().as_byte());
        let (mode, uid, gid) = (header.mode().unwrap() & 0o7777, header.uid().unwrap(), header.gid().unwrap());
        (path, format!("{kind} {mode:o} {uid}:{gid} {}{target}", entry.size()))
    });
    read.collect()
}

#[test]
fn the_whole_file_system() {
    let (workspace, _registry) = require!(with_image());
    let image = listing::of_archive(&workspace.saved("image:1"));
    let mut first = None;
    for isolation in ISOLATIONS {
        let file = format!("{isolation}.tar");
        let _ = rbuild(&workspace, "export", isolation, &["-o", &file, "image:1"]).success();
        let tar = fs::read(workspace.path(&file)).unwrap();
        assert!(rbuild(&workspace, "export", isolation, &["image:1"]).success().stdout == tar, "both ways are one");
        let files = listing::of_root(&tar);
        for (name, wanted) in image["files"].as_object().unwrap() {
            if !matches!(name.as_str(), "/" | "/.") {
                assert_eq!(files[name], *wanted, "{isolation}: {name}");
            }
        }
        let entries = entries(&tar);
        assert_eq!(entries["t/a"], "0 4755 33:44 2");
        assert_eq!(entries["t/b"], "1 4755 33:44 0 -> t/a");
        assert_eq!(entries["t/p"].split(' ').next(), Some("6"));
        assert!(!entries.keys().any(|name| name.starts_with("l/") || name.contains(".wh.")), "{entries:?}");
        // The same archive, whatever the isolation.
        assert!(*first.get_or_insert_with(|| tar.clone()) == tar, "{isolation}");
    }
    let output = rbuild(&workspace, "export", "userns", &["nosuch:1"]);
    assert!(output.code() == 1 && output.stderr().contains("no such image: nosuch:1"), "{}", output.text());
    let output = rbuild(&workspace, "export", "userns", &["-o", "/nosuch/dir/x.tar", "image:1"]);
    assert!(output.code() == 1 && output.stderr().contains("/nosuch/dir/x.tar"), "{}", output.text());
    workspace.expect_clean();
}

#[test]
fn an_export_that_is_ended_leaves_no_file() {
    let (workspace, _registry) = require!(with_image());
    let mut export = workspace.rbuild(["export", "image:1"]);
    // Nobody reads, so that it gets stuck.
    let running = rbuild_testkit::workspace::Running::start_unread(&mut export);
    std::thread::sleep(std::time::Duration::from_millis(700));
    running.signal(Signal::TERM);
    assert_eq!(running.finish().code(), 143);
    leftovers::expect_none(workspace.dir(), std::time::Duration::from_secs(5));
    fs::write(workspace.path("kept.tar"), "before").unwrap();
    let output = rbuild(&workspace, "export", "userns", &["-o", "kept.tar", "nosuch"]);
    assert_eq!(output.code(), 1);
    assert_eq!(fs::read_to_string(workspace.path("kept.tar")).unwrap(), "before");
    workspace.expect_clean();
}

#[test]
fn copies() {
    let (workspace, _registry) = require!(with_image());
    for isolation in ISOLATIONS {
        let dest = workspace.files(isolation, &[("there/file", "before\n"), ("there/t/a/inside", "x")]);
        let cp = |args: &[&str]| rbuild(&workspace, "cp", isolation, args);
        let to = |name: &str| dest.join(name).to_str().unwrap().to_owned();
        let text = |name: &str| fs::read_to_string(dest.join(name)).unwrap();
        // Files: into a directory, under a new name, over another file.
        for (name, target) in [("there", "there/a"), ("new", "new"), ("there/file", "there/file")] {
            let _ = cp(&["image:1:/t/a", &to(name)]).success();
            assert_eq!(text(target), "a\n", "{isolation}: {name}");
            let seen = fs::metadata(dest.join(target)).unwrap();
            assert_eq!((seen.uid(), seen.mode() & 0o777), (workspace.user().uid, 0o755), "{isolation}: {name}");
        }
        // Directories: a new one, into an existing one, their content.
        let _ = cp(&["image:1:/t", &to("copied")]).success();
        let _ = cp(&["image:1:/t/sub", &to("there")]).success();
        let _ = cp(&["image:1:t/sub/.", &to("copied")]).success();
        for name in ["copied/sub/s", "there/sub/s", "copied/s"] {
            assert_eq!(text(name), "s\n", "{isolation}: {name}");
            assert_eq!(fs::metadata(dest.join(name)).unwrap().mtime(), 1_500_000_000, "{isolation}: {name}");
        }
        let inode = |name: &str| fs::metadata(dest.join(name)).unwrap().ino();
        assert_eq!(inode("copied/a"), inode("copied/b"));
        assert_eq!(fs::read_link(dest.join("copied/c")).unwrap().to_str(), Some("a"));
        // Links: as they are, or what they lead to in the image.
        let _ = cp(&["image:1:/t/dir", &to("link")]).success();
        assert_eq!(fs::read_link(dest.join("link")).unwrap().to_str(), Some("sub"));
        let _ = cp(&["-L", "image:1:/t/dir", &to("followed")]).success();
        assert_eq!(text("followed/s"), "s\n");
        let _ = cp(&["-L", "image:1:/links/up", &to("passwd")]).success();
        assert!(text("passwd").starts_with("root:") && !text("passwd").contains("rbuild-test"), "the host's file");
        // A tar, whose owners are those of the image.
        let tar = entries(&cp(&["image:1:/t", "-"]).success().stdout);
        assert_eq!(tar["t/a"], "0 4755 33:44 2");
        assert_eq!(tar["t/b"], "1 4755 33:44 0 -> t/a");
        assert!(tar.keys().all(|name| name == "t" || name.starts_with("t/")), "{tar:?}");
        let tar = entries(&cp(&["image:1:/t/a", "-"]).success().stdout);
        assert_eq!(tar.into_iter().collect::<Vec<_>>(), [("a".to_owned(), "0 4755 33:44 2".to_owned())]);
        for (args, word) in [
            (vec!["image:1:/nosuch", "."], "/nosuch"),
            (vec!["image:1:/t/a/", "."], "not a directory"),
            (vec!["image:1:/t", &to("there/file")], "cannot copy a directory to the file"),
            (vec!["image:1:/t/a", &to("there/t")], "over the directory"),
            (vec!["image:1:/t/a", &to("none/")], "does not exist"),
            (vec!["image:1:/t/a", &to("none/x")], "none"),
            (vec!["nosuch:1:/t", "."], "no such image: nosuch:1"),
            (vec!["-a", "image:1:/t", "."], "only root"),
            (vec!["no-path", "."], "no-path"),
        ] {
            let output = cp(&args);
            assert!(output.code() == 1 && output.stderr().contains(word), "{isolation} {args:?}: {}", output.text());
        }
        assert!(!dest.join("none").exists());
    }
    workspace.expect_clean();
}

/// Links, in the image and at the destination, lead nowhere out of it.
#[test]
fn nothing_escapes_the_destination() {
    let (workspace, registry) = require!(with_bases());
    // A directory of the second image is a link at the destination, where the first put it.
    for (name, script) in [
        ("first", "ln -s /outside /d/x && ln -s ../outside /d/y"),
        ("second", "mkdir /d/x /d/y && echo bad >/d/x/f && echo bad >/d/y/f"),
    ] {
        workspace.files(name, &[("Dockerfile", &format!("FROM busybox\nRUN mkdir /d && {script}\n"))]);
        let mut build = workspace.rbuild(build_flags(&registry));
        let _ = finish(build.args(["-q", "-t", name, name]), None).success();
    }
    for isolation in ISOLATIONS {
        let base = workspace.files(isolation, &[("outside/kept", "kept"), ("dest/a", "")]);
        let outside = base.join("outside");
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o777)).unwrap();
        let dest = base.join("dest");
        symlink(&outside, dest.join("z")).unwrap();
        for source in ["first:/d/.", "second:/d/.", "second:/d/x"] {
            let _ = rbuild(&workspace, "cp", isolation, &[source, dest.to_str().unwrap()]);
        }
        // A link where a file goes is replaced, and not followed.
        symlink(outside.join("kept"), dest.join("f")).unwrap();
        let _ = rbuild(&workspace, "cp", isolation, &["second:/d/x/f", dest.to_str().unwrap()]).success();
        assert_eq!(fs::read_to_string(dest.join("f")).unwrap(), "bad\n");
        assert!(!fs::symlink_metadata(dest.join("f")).unwrap().is_symlink());
        let names: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["kept"], "{isolation}");
        assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "kept");
    }
    workspace.expect_clean();
}
