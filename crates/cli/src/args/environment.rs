//! The process environment, taken once, and the flags that are set through it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The environment variables of the process.
///
/// Only `main` takes them from the process; everything else is given them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    variables: BTreeMap<OsString, OsString>,
}

impl Environment {
    /// Those of this process.
    pub(crate) fn of_process() -> Environment {
        std::env::vars_os().collect()
    }

    /// The value of a variable that is set, not empty and text.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.get_even_empty(name).filter(|value| !value.is_empty())
    }

    /// The value of a variable that is set and text.
    pub(crate) fn get_even_empty(&self, name: &str) -> Option<&str> {
        self.variables.get(OsStr::new(name)).and_then(|value| value.to_str())
    }

    /// The value of a variable as bytes, if it is set.
    pub(crate) fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.variables.get(OsStr::new(name)).map(|value| value.as_bytes())
    }

    /// A path in a variable that is set and not empty.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.variables.get(OsStr::new(name)).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// Names that begin with `RBUILD_`.
    pub(crate) fn own_names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().filter_map(|name| name.to_str()).filter(|name| name.starts_with("RBUILD_"))
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Environment {
        Environment { variables: variables.into_iter().map(|(k, v)| (k.into(), v.into())).collect() }
    }
}

/// The variable of a flag: `no-cache` is `RBUILD_NO_CACHE`; that of a command other than build has the command in it.
pub(crate) fn variable_of(command: Option<&str>, flag: &str) -> String {
    let mut name = "RBUILD_".to_owned();
    if let Some(command) = command {
        name.push_str(command);
        name.push('_');
    }
    name.push_str(flag);
    name.replace('-', "_").to_ascii_uppercase()
}

/// Several values in one variable: one a line, or, on a single line, separated by spaces.
pub(crate) fn split_values(text: &str) -> Vec<&str> {
    let split: Vec<&str> =
        if text.contains('\n') { text.lines().map(str::trim).collect() } else { text.split_whitespace().collect() };
    split.into_iter().filter(|value| !value.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_variables() {
        assert_eq!(variable_of(None, "no-cache-filter"), "RBUILD_NO_CACHE_FILTER");
        assert_eq!(variable_of(Some("login"), "password"), "RBUILD_LOGIN_PASSWORD");
    }

    #[test]
    fn values() {
        assert_eq!(split_values(" a  b "), ["a", "b"]);
        assert_eq!(split_values("A=b c\nD=e f\n"), ["A=b c", "D=e f"]);
        assert!(split_values(" \n").is_empty());
    }

    #[test]
    fn empty_is_not_set() {
        let environment: Environment = [("A", ""), ("B", "x"), ("RBUILD_C", "")].into_iter().collect();
        assert_eq!(environment.get("A"), None);
        assert_eq!(environment.get_even_empty("A"), Some(""));
        assert_eq!(environment.get("B"), Some("x"));
        assert_eq!(environment.path("A"), None);
        assert_eq!(environment.own_names().collect::<Vec<_>>(), ["RBUILD_C"]);
    }
}
