//! Image names as Docker shows them.

/// Splits a name into registry host, repository and the rest (tag and digest, with their marks).
fn split(name: &str) -> (Option<&str>, &str, &str) {
    let (host, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), rest),
        _ => (None, name),
    };
    let end = path.find(['@', ':']).unwrap_or(path.len());
    let (repository, rest) = path.split_at(end);
    (host, repository, rest)
}

/// The full form: `busybox` becomes `docker.io/library/busybox:latest` (distribution's `reference` package).
pub(crate) fn canonical(name: &str) -> String {
    let (host, repository, rest) = split(name);
    let host = match host {
        None | Some("index.docker.io") => "docker.io",
        Some(host) => host,
    };
    let library = if host == "docker.io" && !repository.contains('/') { "library/" } else { "" };
    let rest = if rest.is_empty() { ":latest" } else { rest };
    format!("{host}/{library}{repository}{rest}")
}

/// The short form: without `docker.io/` and `library/`; the tag stays.
pub(crate) fn familiar(name: &str) -> String {
    let (host, repository, rest) = split(name);
    match host {
        None | Some("docker.io" | "index.docker.io") => {
            format!("{}{rest}", repository.strip_prefix("library/").unwrap_or(repository))
        }
        Some(host) => format!("{host}/{repository}{rest}"),
    }
}

/// The short form without tag and digest.
pub(crate) fn familiar_name(name: &str) -> String {
    let short = familiar(name);
    let (host, repository, _) = split(&short);
    host.map_or_else(|| repository.to_owned(), |host| format!("{host}/{repository}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_every_form() {
        for (name, full, short, bare) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox", "busybox"),
            ("docker.io/library/busybox:1", "docker.io/library/busybox:1", "busybox:1", "busybox"),
            ("a/b@sha256:0", "docker.io/a/b@sha256:0", "a/b@sha256:0", "a/b"),
            ("localhost/x", "localhost/x:latest", "localhost/x", "localhost/x"),
            ("127.0.0.1:5000/a/b:t", "127.0.0.1:5000/a/b:t", "127.0.0.1:5000/a/b:t", "127.0.0.1:5000/a/b"),
        ] {
            assert_eq!(
                (canonical(name), familiar(name), familiar_name(name)),
                (full.into(), short.into(), bare.into())
            );
        }
    }
}
