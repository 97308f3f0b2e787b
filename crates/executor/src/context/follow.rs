//! Turns the sources of COPY and ADD into the paths that BuildKit asks its client for: links on the way are followed,
//! since what they lead to is needed too (`tonistiigi/fsutil`, `FollowLinks`).

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::ContextError;
use super::tree::{SourceTree, is_absent};
use crate::rootfs::go_match;

/// The paths to include, sorted; `None` for everything.
pub(super) fn follow_links(tree: &SourceTree, wanted: &[String]) -> Result<Option<Vec<String>>, ContextError> {
    let mut resolved = BTreeSet::new();
    // A stack in place of recursion: links may lead to links without end but for `resolved`.
    let mut pending: Vec<PathBuf> = wanted.iter().rev().map(|path| joined(Path::new(path))).collect();
    while let Some(path) = pending.pop() {
        follow(tree, &path, &mut resolved, &mut pending)?;
    }
    let mut kept: Vec<String> = Vec::new();
    for path in resolved {
        if path == "." {
            return Ok(None);
        }
        if !kept.last().is_some_and(|last| path.strip_prefix(last.as_str()).is_some_and(|rest| rest.starts_with('/'))) {
            kept.push(path);
        }
    }
    Ok(Some(kept))
}

fn follow(
    tree: &SourceTree,
    path: &Path,
    resolved: &mut BTreeSet<String>,
    pending: &mut Vec<PathBuf>,
) -> Result<(), ContextError> {
    let mut components = path.components();
    let mut current = PathBuf::new();
    loop {
        if let Some(component) = components.next() {
            current.push(component);
        }
        let rest = components.as_path();
        let targets = targets(tree, &current)?;
        let name = if current.as_os_str().is_empty() { ".".into() } else { current.to_string_lossy().into_owned() };
        let is_last = rest.as_os_str().is_empty();
        if (is_last || !targets.is_empty()) && !resolved.insert(name) {
            return Ok(());
        }
        if !targets.is_empty() {
            pending.extend(targets.iter().rev().map(|target| joined(&target.join(rest))));
            return Ok(());
        }
        if is_last {
            return Ok(());
        }
    }
}

/// Where the links lead that a path names: one for a link, several where its last component has wildcards.
fn targets(tree: &SourceTree, path: &Path) -> Result<Vec<PathBuf>, ContextError> {
    let Some(name) = path.file_name() else {
        return Ok(Vec::new());
    };
    let name = name.to_string_lossy();
    let parent = path.parent().unwrap_or(Path::new(""));
    if !has_wildcards(&name) {
        return Ok(target(tree, path)?.into_iter().collect());
    }
    let names = match tree.names(parent) {
        Ok(names) => names,
        Err(error) if is_absent(&error) => Vec::new(),
        Err(error) => return Err(tree.failed(parent, error)),
    };
    let mut found = Vec::new();
    for candidate in names {
        if go_match(name.as_bytes(), candidate.as_bytes()).unwrap_or(false) {
            found.extend(target(tree, &parent.join(candidate))?);
        }
    }
    Ok(found)
}

fn target(tree: &SourceTree, path: &Path) -> Result<Option<PathBuf>, ContextError> {
    let Some(target) = tree.node(path)?.and_then(|node| node.target) else {
        return Ok(None);
    };
    Ok(Some(if target.is_absolute() {
        joined(&target)
    } else {
        joined(&path.parent().unwrap_or(Path::new("")).join(target))
    }))
}

fn has_wildcards(name: &str) -> bool {
    let mut bytes = name.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// A path cleaned as if it stood below `/`, relative to it.
pub(super) fn joined(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => drop(cleaned.pop()),
            _ => {}
        }
    }
    cleaned
}
