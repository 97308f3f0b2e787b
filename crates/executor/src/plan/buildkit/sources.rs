//! Sources and destinations of COPY and ADD.

use super::{CopySource, MountFrom};
use crate::plan::{go, working_dir as resolve_dir};

/// The destination of COPY as an absolute path that keeps its final slash.
pub(crate) fn copy_dest(working_dir: &str, dest: &str) -> String {
    let slash = matches!(dest, "" | ".") || dest.ends_with('/') || dest.ends_with("/.");
    let mut path = resolve_dir(working_dir, if dest.is_empty() { "." } else { dest });
    if slash && !path.ends_with('/') {
        path.push('/');
    }
    path
}

/// A source of COPY or ADD that is a path or pattern. With `--parents`, `/./` in it is where the kept directories begin.
pub(crate) fn files_source(written: &str, keeps_parents: bool, from: MountFrom, unpack: bool) -> CopySource {
    if !keeps_parents {
        return CopySource::Files { from, pattern: go::join_path("/", written), parents: None, unpack };
    }
    let (pivot, below) = written.split_once("/./").unwrap_or(("/", written));
    let below = go::join_path("/", below).trim_start_matches('/').to_owned();
    CopySource::Files { from, pattern: go::join_path("/", pivot), parents: Some(below), unpack }
}

pub(crate) fn check_chmod(text: &str) -> Result<(), String> {
    let wrong = || format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777");
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(()),
        Ok(_) => Err(wrong()),
        Err(_) if crate::mode::ModeChange::parse(text).is_some() => Ok(()),
        // Which parser complains follows from the first character.
        Err(_) if text.starts_with(|first: char| first.is_ascii_digit()) => Err(wrong()),
        Err(_) => Err("invalid syntax".to_owned()),
    }
}

/// Whether ADD takes a source from the web.
pub(crate) fn is_http(source: &str) -> bool {
    (source.starts_with("http://") || source.starts_with("https://")) && !is_git(source)
}

/// Whether ADD takes a source from a git repository (`dfgitutil.ParseGitRef`).
pub(super) fn is_git(source: &str) -> bool {
    if source.starts_with("git://") || source.starts_with("ssh://") || source.starts_with("git@") {
        return true;
    }
    let Some(rest) = source.strip_prefix("https://").or_else(|| source.strip_prefix("http://")) else { return false };
    let path = rest.split(['#', '?']).next().unwrap_or_default();
    path.contains('/') && path.ends_with(".git")
}

/// The name that a file from the web gets.
pub(crate) fn url_file_name(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    let path = path.split_once('/').map_or("", |(_, path)| path);
    match path.trim_end_matches('/').rsplit('/').next() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => "__unnamed__".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_keep_their_slash() {
        for (dir, dest, path) in [
            ("", ".", "/"),
            ("/a", ".", "/a/"),
            ("/a", "b", "/a/b"),
            ("/a", "b/", "/a/b/"),
            ("/a", "/x/.", "/x/"),
            ("/a", "../y", "/y"),
        ] {
            assert_eq!(copy_dest(dir, dest), path);
        }
    }

    #[test]
    fn remote_sources() {
        assert!(is_http("https://example.org/a.tgz"));
        assert!(!is_http("a.tgz"));
        assert!(is_git("https://example.org/x/y.git#main:sub"));
        assert!(is_git("git@example.org:x/y.git"));
        assert_eq!(url_file_name("http://h/a/b.txt?x=1"), "b.txt");
        assert_eq!(url_file_name("http://h/"), "__unnamed__");
    }
}
