//! What a build may not leave behind: processes, mounts, files of a store that was emptied.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Processes that have to do with `path`: in their arguments, environment or mounts.
///
/// rbuild's own processes bear the store in their environment, and a RUN has it in the mounts of its root.
#[must_use]
pub fn processes(path: &Path) -> Vec<String> {
    let wanted = path.to_str().unwrap().as_bytes();
    let me = std::process::id().to_string();
    let has = |bytes: &[u8]| bytes.windows(wanted.len()).any(|window| window == wanted);
    let mounts = |bytes: &[u8]| bytes.split(|byte| *byte == b'\n').filter(|line| has(line)).count();
    // Mounts that the test made are seen by every process.
    let ours = mounts(&fs::read("/proc/self/mountinfo").unwrap());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if pid == me || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let cmdline = read("cmdline");
        if has(&cmdline) || has(&read("environ")) || mounts(&read("mountinfo")) > ours {
            let args = String::from_utf8_lossy(&cmdline).replace('\0', " ");
            let state = String::from_utf8_lossy(&read("stat")).into_owned();
            found.push(format!("{pid}: {args} [{}]", state.chars().take(40).collect::<String>()));
        }
    }
    found
}

/// Waits until no process has to do with `path`.
///
/// # Panics
/// If some still do after `patience`.
pub fn expect_none(path: &Path, patience: Duration) {
    let begin = Instant::now();
    loop {
        let left = processes(path);
        if left.is_empty() {
            return;
        }
        assert!(begin.elapsed() < patience, "left behind after {patience:?}:\n{}", left.join("\n"));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Files of a store beyond those that an empty one has.
#[must_use]
pub fn store_residue(store: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    walk(store, &mut |path| files.push(path.to_owned()));
    files.retain(|path| {
        let name = path.strip_prefix(store).unwrap();
        if name == Path::new("index.json") {
            let index: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
            return index["manifests"].as_array().is_none_or(|manifests| !manifests.is_empty());
        }
        !["oci-layout", "gc.lock", "index.lock"].iter().any(|known| name == Path::new(known))
    });
    files
}

/// Calls `each` for everything below `dir` that is no directory.
pub fn walk(dir: &Path, each: &mut dyn FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, each);
        } else {
            each(&path);
        }
    }
}
