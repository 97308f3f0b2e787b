//! Addresses of repositories: which arguments are some, and what they say.

use rbuild_logfmt::event::{Builder, Dialect, Version};

use crate::plan::go;

/// A repository, and what is wanted of it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// As git takes it, without name and password.
    pub(crate) remote: String,
    /// As Docker shows it, with name and password masked.
    pub(crate) shown: String,
    /// Name and password that were part of a web address.
    pub(crate) login: Option<(String, String)>,
    /// Branch, tag or commit; none is the default branch.
    pub(crate) reference: String,
    /// Directory in the repository; none is its root.
    pub(crate) directory: String,
    /// The commit that it must be, or the beginning of its hash.
    pub(crate) checksum: String,
    /// Whether `.git` is kept, if the address says so.
    pub(crate) keep_git_dir: Option<bool>,
    /// Whether the repositories inside of it are wanted, if the address says so.
    pub(crate) submodules: Option<bool>,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Address")
            .field("remote", &self.remote)
            .field("reference", &self.reference)
            .finish_non_exhaustive()
    }
}

/// What Docker says of an address that contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct AddressError(pub(crate) String);

impl Address {
    /// Understands an argument; `None` if it is no address of a repository.
    ///
    /// # Errors
    /// If the query says what cannot be (`dfgitutil.ParseGitRef`).
    pub(crate) fn parse(argument: &str, dialect: Dialect) -> Option<Result<Address, AddressError>> {
        match dialect {
            Dialect { builder: Builder::Buildkit, version: Version::V28 } => Self::parse_28(argument),
            Dialect { builder: Builder::Buildkit, version: Version::V20 } => {
                is_git_url(argument).then(|| Ok(Self::parse_20(argument)))
            }
            Dialect { builder: Builder::Legacy, .. } => is_git_url(argument).then(|| Ok(Self::parse_legacy(argument))),
        }
    }

    fn new(remote: &str) -> Address {
        let (remote, login) = match split_login(remote) {
            Some((without, login)) => (without, Some(login)),
            None => (remote.to_owned(), None),
        };
        Address {
            shown: remote.clone(),
            remote,
            login,
            reference: String::new(),
            directory: String::new(),
            checksum: String::new(),
            keep_git_dir: None,
            submodules: None,
        }
    }

    fn parse_28(argument: &str) -> Option<Result<Address, AddressError>> {
        if argument.starts_with("./") || argument.starts_with("../") {
            return None;
        }
        let (rest, fragment) = argument.split_once('#').unwrap_or((argument, ""));
        let (remote, query) = rest.split_once('?').unwrap_or((rest, ""));
        let remote = match scheme(remote).as_deref() {
            Some("http" | "https") if !path(remote).ends_with(".git") => return None,
            Some("http" | "https" | "ssh" | "git" | "file") => remote.to_owned(),
            Some(_) => return None,
            None if remote.starts_with("github.com/") => format!("https://{remote}"),
            None if is_scp(remote) => remote.to_owned(),
            None => return None,
        };
        let masked = without_password(&remote);
        let mut address = Address { shown: masked, ..Self::new(&remote) };
        let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
        address.reference = percent_decoded(reference);
        address.directory = percent_decoded(directory);
        Some(address.take_query(query).map(|()| address))
    }

    fn parse_20(argument: &str) -> Address {
        let (remote, fragment) = argument.split_once('#').unwrap_or((argument, ""));
        let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
        let reference = if reference.is_empty() { "master" } else { reference };
        let full = if remote.starts_with("github.com/") { format!("https://{remote}") } else { remote.to_owned() };
        let masked = without_password(&full);
        let (reference, directory) = (reference.to_owned(), directory.to_owned());
        Address { shown: masked, reference, directory, ..Self::new(&full) }
    }

    fn parse_legacy(argument: &str) -> Address {
        let is_transport = is_scp(argument) || scheme(argument).is_some();
        let full = if is_transport { argument.to_owned() } else { format!("https://{argument}") };
        let address = Self::parse_20(&full);
        if argument.starts_with("git@") {
            return address;
        }
        let (reference, directory) = (percent_decoded(&address.reference), percent_decoded(&address.directory));
        Address { reference, directory, ..address }
    }

    /// `GitRef.loadQuery` of v0.25.
    fn take_query(&mut self, query: &str) -> Result<(), AddressError> {
        let wrong = |text: String| Err(AddressError(text));
        let mut seen: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (form_decoded(key), form_decoded(value));
            if seen.iter().any(|(known, _)| *known == key) {
                return wrong(format!("query {} has multiple values", go::quote(&key)));
            }
            seen.push((key, value));
        }
        let (mut tag, mut branch) = (String::new(), String::new());
        for (key, value) in seen {
            if value.is_empty() && !matches!(key.as_str(), "submodules" | "keep-git-dir") {
                return wrong(format!("query {} has no value", go::quote(&key)));
            }
            match key.as_str() {
                "ref" => set(&mut self.reference, value, "ref")?,
                "tag" => tag = value,
                "branch" => branch = value,
                "subdir" => set(&mut self.directory, value, "subdir")?,
                "checksum" | "commit" => self.checksum = value,
                "keep-git-dir" => self.keep_git_dir = Some(truth(&key, &value)?),
                "submodules" => self.submodules = Some(truth(&key, &value)?),
                _ => return wrong(format!("unexpected query {}", go::quote(&key))),
            }
        }
        if !tag.is_empty() && !branch.is_empty() {
            return wrong("branch conflicts with tag".to_owned());
        }
        for (name, prefix) in [(tag, "refs/tags/"), (branch, "refs/heads/")] {
            if !name.is_empty() {
                let full = if name.starts_with(prefix) { name } else { format!("{prefix}{name}") };
                set(&mut self.reference, full, "ref")?;
            }
        }
        Ok(())
    }

    /// The host, for tokens of one host.
    pub(crate) fn host(&self) -> &str {
        let rest = self.remote.split_once("://").map_or("", |(_, rest)| rest);
        rest.split('/').next().unwrap_or_default()
    }

    /// Whether it lies on this machine's disks.
    pub(crate) fn is_file(&self) -> bool {
        scheme(&self.remote).as_deref() == Some("file")
    }
}

fn set(field: &mut String, value: String, name: &str) -> Result<(), AddressError> {
    if !field.is_empty() && *field != value {
        let (old, new) = (go::quote(field), go::quote(&value));
        return Err(AddressError(format!("{name} conflicts: {old} vs {new}")));
    }
    *field = value;
    Ok(())
}

/// `strconv.ParseBool`; nothing is true.
fn truth(key: &str, value: &str) -> Result<bool, AddressError> {
    match value {
        "" | "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(AddressError(format!("invalid {key} value: {}", go::quote(value)))),
    }
}

/// `urlutil.IsGitURL` of Docker's legacy client, and of 20.10's BuildKit; files and ssh are rbuild's own addition.
fn is_git_url(argument: &str) -> bool {
    let is_web = argument.starts_with("http://") || argument.starts_with("https://");
    let ends = argument.split_once('#').map_or(argument, |(before, after)| if after.is_empty() { "" } else { before });
    if is_web && ends.ends_with(".git") {
        return true;
    }
    ["git://", "github.com/", "git@", "ssh://", "file://"].iter().any(|prefix| argument.starts_with(prefix))
}

/// The scheme in lower case, if there is one.
fn scheme(address: &str) -> Option<String> {
    let (scheme, _) = address.split_once("://")?;
    let is_scheme = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_scheme.then(|| scheme.to_ascii_lowercase())
}

fn path(address: &str) -> &str {
    let rest = address.split_once("://").map_or("", |(_, rest)| rest);
    rest.find('/').map_or("", |slash| &rest[slash..])
}

/// `user@host:path` (`sshutil.ParseSCPStyleURL`).
fn is_scp(address: &str) -> bool {
    let Some((user, rest)) = address.split_once('@') else { return false };
    let Some((host, _)) = rest.split_once(':') else { return false };
    let of = |text: &str, more: &[u8]| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
    };
    of(user, b"-_") && of(host, b"-.")
}

/// Takes name and password out of a web address; those of ssh are no secret.
fn split_login(address: &str) -> Option<(String, (String, String))> {
    if !matches!(scheme(address).as_deref(), Some("http" | "https")) {
        return None;
    }
    let (scheme, rest) = address.split_once("://")?;
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (login, host) = authority.rsplit_once('@')?;
    let (name, password) = login.split_once(':').unwrap_or((login, ""));
    Some((format!("{scheme}://{host}{path}"), (percent_decoded(name), percent_decoded(password))))
}

/// An address without what is secret in it (`urlutil.RedactCredentials`).
pub(crate) fn without_password(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let Some((login, host)) = authority.rsplit_once('@') else { return address.to_owned() };
    let masked = match login.split_once(':') {
        Some(("", _)) => ":xxxxx",
        Some(_) => "xxxxx:xxxxx",
        None => "xxxxx",
    };
    format!("{scheme}://{masked}@{host}{path}")
}

fn form_decoded(text: &str) -> String {
    percent_decoded(&text.replace('+', " "))
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILDKIT: Dialect = Dialect { builder: Builder::Buildkit, version: Version::V28 };
    const LEGACY: Dialect = Dialect { builder: Builder::Legacy, version: Version::V28 };

    fn parsed(argument: &str) -> Address {
        Address::parse(argument, BUILDKIT).expect("an address").expect("a right one")
    }

    #[test]
    fn forms() {
        for (argument, remote, reference, directory) in [
            ("https://h/o/r.git", "https://h/o/r.git", "", ""),
            ("https://h/o/r.git#main:a/b", "https://h/o/r.git", "main", "a/b"),
            ("http://h/o/r.git#:a", "http://h/o/r.git", "", "a"),
            ("github.com/o/r", "https://github.com/o/r", "", ""),
            ("git@h:o/r.git#v1", "git@h:o/r.git", "v1", ""),
            ("ssh://git@h:22/o/r#feature%2Fx", "ssh://git@h:22/o/r", "feature/x", ""),
            ("git://h/r", "git://h/r", "", ""),
            ("file:///srv/r.git#main", "file:///srv/r.git", "main", ""),
        ] {
            let found = parsed(argument);
            assert_eq!((&*found.remote, &*found.reference, &*found.directory), (remote, reference, directory));
        }
        for argument in ["https://h/o/r.tar.gz", "http://h.git", "./a.git", "dir", "ftp://h/r.git", "a:b", "/a@b:c"] {
            assert_eq!(Address::parse(argument, BUILDKIT), None, "{argument}");
        }
    }

    #[test]
    fn queries() {
        let found = parsed("https://h/r.git?branch=main&subdir=a%20b&checksum=00ff&keep-git-dir&submodules=0");
        assert_eq!(found.reference, "refs/heads/main");
        assert_eq!((&*found.directory, &*found.checksum), ("a b", "00ff"));
        assert_eq!((found.keep_git_dir, found.submodules), (Some(true), Some(false)));
        assert_eq!(parsed("git@h:r.git?tag=v1").reference, "refs/tags/v1");
        for (query, text) in [
            ("?foo=1", "unexpected query \"foo\""),
            ("?ref=", "query \"ref\" has no value"),
            ("?ref=main#side", "ref conflicts: \"side\" vs \"main\""),
            ("?tag=a&branch=b", "branch conflicts with tag"),
            ("?ref=a&ref=b", "query \"ref\" has multiple values"),
            ("?submodules=maybe", "invalid submodules value: \"maybe\""),
        ] {
            let error = Address::parse(&format!("https://h/r.git{query}"), BUILDKIT).unwrap().unwrap_err();
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn logins_are_taken_out_and_masked() {
        let found = parsed("https://me:p%40ss@h:8443/r.git#main");
        assert_eq!(found.remote, "https://h:8443/r.git");
        assert_eq!(found.shown, "https://xxxxx:xxxxx@h:8443/r.git");
        assert_eq!(found.login, Some(("me".to_owned(), "p@ss".to_owned())));
        assert_eq!(found.host(), "h:8443");
        assert!(!format!("{found:?}").contains("p@ss"));
        assert_eq!(without_password("https://token@h/r.git#a@b"), "https://xxxxx@h/r.git#a@b");
        assert_eq!(without_password("https://h/a@b"), "https://h/a@b");
    }

    #[test]
    fn the_legacy_client_knows_master_and_no_query() {
        let parsed = |argument| Address::parse(argument, LEGACY).unwrap().unwrap();
        assert_eq!(parsed("https://h/r.git").reference, "master");
        assert_eq!(parsed("github.com/o/r#:d").remote, "https://github.com/o/r");
        assert_eq!(parsed("github.com/o/r#:d").directory, "d");
        assert_eq!(Address::parse("https://h/r.git?ref=main", LEGACY), None);
        assert_eq!(Address::parse("https://h/r.git#", LEGACY), None);
    }
}
