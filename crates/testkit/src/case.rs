//! Cases: Dockerfiles with contexts, one thing each, and how they are built.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use serde::Deserialize;

use crate::tarball::{TIME, Tarball};

/// Where the Dockerfiles of the cases and the goldens expect a registry.
pub const RECORDED_REGISTRY: &str = "127.0.0.1:5000";

/// `case.json`: how a case is built, where that is not `build .`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spec {
    /// Further arguments.
    pub args: Vec<String>,
    /// `-f`.
    pub file: Option<String>,
    /// The context instead of `.`.
    pub context: Option<String>,
    /// What goes to standard input: `tar`, `tar.gz` or `dockerfile`.
    pub stdin: Option<String>,
    /// The builders that it was recorded with, both by default.
    pub engines: Option<Vec<String>>,
    /// Whether the image gets a name, yes by default.
    pub tag: Option<bool>,
}

/// A case.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name, that of its directory.
    pub name: String,
    /// How it is built.
    pub spec: Spec,
    dir: PathBuf,
}

impl Case {
    /// The case in a directory, which names it.
    ///
    /// # Panics
    /// If it cannot be read.
    #[must_use]
    pub fn at(dir: &Path) -> Case {
        let spec = match fs::read(dir.join("case.json")) {
            Ok(text) => serde_json::from_slice(&text).unwrap(),
            Err(_) => Spec::default(),
        };
        Case { name: dir.file_name().unwrap().to_string_lossy().into_owned(), spec, dir: dir.to_owned() }
    }

    /// Every case below a directory, by name.
    ///
    /// # Panics
    /// If one cannot be read.
    #[must_use]
    pub fn all(cases: &Path) -> Vec<Case> {
        let mut all: Vec<Case> = fs::read_dir(cases).unwrap().map(|entry| Case::at(&entry.unwrap().path())).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Name of the image.
    #[must_use]
    pub fn image(&self) -> String {
        format!("oracle/{}:latest", self.name)
    }

    /// Copies the case to a new directory with fixed times and modes, so that sizes and digests repeat. `registry`
    /// (`127.0.0.1:` and four digits) takes the place of the recorded one in the Dockerfile.
    pub fn stage(&self, into: &Path, registry: &str) {
        copy(&self.dir, into, registry);
        let _ = fs::remove_file(into.join("case.json"));
        // For contexts that a checkout cannot hold: odd modes, links, times.
        let setup = into.join("setup.sh");
        if setup.exists() {
            let done = Command::new("sh")
                .args(["-e", "-c", "umask 022; . ./setup.sh"])
                .env_clear()
                .env("PATH", "/usr/bin:/bin")
                .current_dir(into)
                .status();
            assert!(done.unwrap().success(), "setup.sh of case {} failed", self.name);
            fs::remove_file(setup).unwrap();
        }
        fix_times(into);
    }

    /// Arguments after the flags that select a dialect, and what goes to standard input.
    #[must_use]
    pub fn arguments(&self, staged: &Path) -> (Vec<String>, Option<Vec<u8>>) {
        let mut args = Vec::new();
        if self.spec.tag.unwrap_or(true) {
            args.extend(["-t".to_owned(), self.image()]);
        }
        args.extend(self.spec.args.iter().cloned());
        if let Some(file) = &self.spec.file {
            args.extend(["-f".to_owned(), file.clone()]);
        }
        let input = match self.spec.stdin.as_deref() {
            None => None,
            Some("dockerfile") => Some(fs::read(staged.join("Dockerfile")).unwrap()),
            Some("tar") => Some(tar_of(staged)),
            Some("tar.gz") => Some(crate::tarball::gzip(&tar_of(staged))),
            Some(other) => panic!("case {}: standard input of an unknown kind: {other}", self.name),
        };
        args.push(match &input {
            Some(_) => "-".to_owned(),
            None => self.spec.context.clone().unwrap_or_else(|| ".".to_owned()),
        });
        (args, input)
    }
}

fn copy(from: &Path, to: &Path, registry: &str) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy(&source, &target, registry);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source).unwrap(), &target).unwrap();
        } else {
            let mut content = fs::read(&source).unwrap();
            if entry.file_name() == "Dockerfile"
                && let Ok(text) = std::str::from_utf8(&content)
            {
                content = text.replace(RECORDED_REGISTRY, registry).into_bytes();
            }
            fs::write(&target, content).unwrap();
            // A checkout keeps no more of the mode than this, and the rest depends on its umask.
            let executable = entry.metadata().unwrap().permissions().mode() & 0o100 != 0;
            let mode = if executable { 0o755 } else { 0o644 };
            fs::set_permissions(&target, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}

/// Gives a tree the fixed time; symbolic links keep theirs, as in the recordings.
pub fn fix_times(path: &Path) {
    let metadata = fs::symlink_metadata(path).unwrap();
    if metadata.is_symlink() {
        return;
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            fix_times(&entry.unwrap().path());
        }
    }
    let time = Timespec { tv_sec: TIME as i64, tv_nsec: 0 };
    utimensat(CWD, path, &Timestamps { last_access: time, last_modification: time }, AtFlags::empty()).unwrap();
}

/// A directory as a tar of files of root, in the order of names, all with the fixed time.
#[must_use]
pub fn tar_of(dir: &Path) -> Vec<u8> {
    let mut tar = append(Tarball::new(), dir, ".").finish();
    // Whole records of 20 blocks, as tar programs write; Docker shows the size.
    tar.resize(tar.len().next_multiple_of(20 * 512), 0);
    tar
}

/// Names begin with `./`, those of directories end with `/`, as tar programs write them: Docker's checksums have them.
fn append(tar: Tarball, path: &Path, name: &str) -> Tarball {
    let metadata = fs::symlink_metadata(path).unwrap();
    let mode = metadata.permissions().mode() & 0o7777;
    if metadata.is_dir() {
        let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names.iter().fold(tar.dir(&format!("{name}/"), mode), |tar, child| {
            append(tar, &path.join(child), &format!("{name}/{}", child.to_string_lossy()))
        })
    } else if metadata.is_symlink() {
        tar.symlink(name, fs::read_link(path).unwrap().to_str().unwrap())
    } else {
        tar.file(name, mode, &fs::read(path).unwrap())
    }
}
