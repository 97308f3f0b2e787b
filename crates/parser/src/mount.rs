//! `RUN --mount` and `RUN --device`: comma-separated fields, read when their variables are known.

use std::fmt;

use crate::csv::{CsvError, fields};
use crate::options::Version;
use crate::suggest::nearest;
use crate::text::go_quote;
use crate::words::WordError;

/// What is mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MountType {
    /// A part of the context, a stage or an image.
    #[default]
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// Memory.
    Tmpfs,
    /// A secret.
    Secret,
    /// An SSH agent.
    Ssh,
}

impl MountType {
    const ALL: [Self; 5] = [Self::Bind, Self::Cache, Self::Tmpfs, Self::Secret, Self::Ssh];

    /// The name in `type=`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }
}

impl fmt::Display for MountType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who else may use a cache at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// Everyone.
    Shared,
    /// Nobody: a second user gets a cache of its own.
    Private,
    /// Nobody: a second user waits.
    Locked,
}

impl Sharing {
    const ALL: [Self; 3] = [Self::Shared, Self::Private, Self::Locked];

    /// The name in `sharing=`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Private => "private",
            Self::Locked => "locked",
        }
    }
}

/// A mount of a RUN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted.
    pub kind: MountType,
    /// Stage, context or image it comes from.
    pub from: Option<String>,
    /// Path in there, or a secret's id.
    pub source: Option<String>,
    /// Path in the container.
    pub target: Option<String>,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Size of a tmpfs in bytes, 0 for no limit.
    pub size: i64,
    /// `id`: of a cache, a secret or an agent.
    pub id: Option<String>,
    /// Sharing of a cache, if given.
    pub sharing: Option<Sharing>,
    /// Whether a missing secret or agent is an error.
    pub required: bool,
    /// `env` of a secret: the variable it is put in; an empty one takes the id.
    pub env: Option<String>,
    /// File mode.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

/// A mount that Docker refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The list of fields cannot be read.
    Csv(CsvError),
    /// A field without a value that needs one.
    NotKeyValue {
        /// The field.
        field: String,
    },
    /// A field that the type does not have.
    KeyNotForType {
        /// The field's name.
        key: String,
        /// The type.
        kind: MountType,
    },
    /// A field that does not exist.
    UnexpectedKey {
        /// Its name in lower case.
        key: String,
        /// The field.
        field: String,
        /// The nearest name.
        suggestion: Option<String>,
    },
    /// A variable in `from`.
    VariableInFrom,
    /// A type that does not exist.
    UnsupportedType {
        /// The type as written.
        value: String,
        /// The nearest one.
        suggestion: Option<String>,
    },
    /// A sharing mode that does not exist.
    UnsupportedSharing {
        /// The mode as written.
        value: String,
        /// The nearest one.
        suggestion: Option<String>,
    },
    /// A value that cannot be read.
    InvalidValue {
        /// The field's name.
        key: String,
        /// The value.
        value: String,
    },
    /// A mode, uid or gid that cannot be read.
    InvalidNumber {
        /// The field's name.
        key: &'static str,
        /// The value.
        value: String,
    },
    /// Mode, uid or gid on a mount that has none.
    OwnershipNotAllowed {
        /// The field's name.
        key: &'static str,
        /// The type.
        kind: MountType,
    },
    /// A secret with `from`.
    SecretFrom,
    /// A secret with `sharing`.
    SecretSharing,
    /// A secret without a name.
    SecretUnnamed,
    /// A secret with two names.
    SecretSourceAndId,
    /// `sharing` on something else than a cache.
    SharingNotAllowed {
        /// The type.
        kind: MountType,
    },
    /// A variable that cannot be expanded.
    Word(WordError),
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message(Version::V28))
    }
}

impl From<WordError> for MountError {
    fn from(error: WordError) -> Self {
        Self::Word(error)
    }
}

impl MountError {
    /// Docker's words. 20.10 suggests nothing.
    #[must_use]
    pub fn message(&self, version: Version) -> String {
        let suggest = |text: String, suggestion: &Option<String>| match suggestion {
            Some(suggestion) if version >= Version::V28 => {
                format!("{text} (did you mean {suggestion}?)")
            }
            _ => text,
        };
        match self {
            Self::Csv(error) => format!("failed to parse csv mounts: {error}"),
            Self::NotKeyValue { field } => {
                format!("invalid field '{field}' must be a key=value pair")
            }
            Self::KeyNotForType { key, kind } => {
                format!("unexpected key '{key}' for mount type '{kind}'")
            }
            Self::UnexpectedKey { key, field, suggestion } => {
                suggest(format!("unexpected key '{key}' in '{field}'"), suggestion)
            }
            Self::VariableInFrom => "'from' doesn't support variable expansion, define alias stage instead".to_owned(),
            Self::UnsupportedType { value, suggestion } => {
                suggest(format!("unsupported mount type {}", go_quote(value)), suggestion)
            }
            Self::UnsupportedSharing { value, suggestion } => {
                suggest(format!("unsupported sharing value {}", go_quote(value)), suggestion)
            }
            Self::InvalidValue { key, value } => format!("invalid value for {key}: {value}"),
            Self::InvalidNumber { key, value } => format!("invalid value {value} for {key}"),
            Self::OwnershipNotAllowed { key, kind } => {
                format!("{key} not allowed for \"{kind}\" type mounts")
            }
            Self::SecretFrom => "secret mount should not have a from".to_owned(),
            Self::SecretSharing => "secret mount should not define sharing".to_owned(),
            Self::SecretUnnamed => "invalid secret mount. one of source, target required".to_owned(),
            Self::SecretSourceAndId => "both source and id can't be set".to_owned(),
            Self::SharingNotAllowed { kind } => {
                format!("invalid cache sharing set for {kind} mount")
            }
            Self::Word(error) => error.to_string(),
        }
    }
}

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

fn filled(value: String) -> Option<String> {
    Some(value).filter(|value| !value.is_empty())
}

impl Mount {
    /// Reads a mount whose variables are already expanded.
    ///
    /// # Errors
    ///
    /// What Docker refuses.
    pub fn parse(mount: &str, version: Version) -> Result<Self, MountError> {
        Self::parse_with(mount, version, |value| Ok(value.to_owned()))
    }

    /// Reads a mount as written, each value passing through `expand` on its way, as Docker does:
    /// a comma in a variable does not start a new field.
    ///
    /// # Errors
    ///
    /// What Docker refuses, and the errors of `expand`.
    pub fn parse_with(
        mount: &str,
        version: Version,
        mut expand: impl FnMut(&str) -> Result<String, WordError>,
    ) -> Result<Self, MountError> {
        let mut parsed = Self::default();
        let mut read_only = None;
        for field in fields(mount).map_err(MountError::Csv)? {
            let Some((key, value)) = field.split_once('=') else {
                let key = field.to_lowercase();
                match key.as_str() {
                    "readonly" | "ro" => read_only = Some(true),
                    "readwrite" | "rw" => read_only = Some(false),
                    "required" if parsed.is_given() => parsed.required = true,
                    "required" => return Err(parsed.misplaced(key)),
                    _ => return Err(MountError::NotKeyValue { field }),
                }
                continue;
            };
            let key = key.to_lowercase();
            let value = expand(value)?;
            match key.as_str() {
                "readonly" | "ro" => read_only = Some(boolean(&key, &value)?),
                "readwrite" | "rw" => read_only = Some(!boolean(&key, &value)?),
                _ => parsed.set(key, value, &field, version)?,
            }
        }
        parsed.read_only = read_only.unwrap_or(!matches!(parsed.kind, MountType::Cache | MountType::Tmpfs));
        parsed.check(version)?;
        Ok(parsed)
    }

    /// What can be said of a mount before its variables are known: Docker 28 reads the fields, and
    /// refuses variables in `from`; 20.10, which expands none, reads it all.
    pub(crate) fn precheck(mount: &str, version: Version) -> Result<(), MountError> {
        if version == Version::V20 {
            return Self::parse(mount, version).map(drop);
        }
        for field in fields(mount).map_err(MountError::Csv)? {
            if let Some((key, value)) = field.split_once('=')
                && key.eq_ignore_ascii_case("from")
                && value.find('$').is_some_and(|at| at + 1 != value.len())
            {
                return Err(MountError::VariableInFrom);
            }
        }
        Ok(())
    }

    /// Whether it is a secret or an agent, which the caller of the build gives.
    fn is_given(&self) -> bool {
        matches!(self.kind, MountType::Secret | MountType::Ssh)
    }

    fn misplaced(&self, key: String) -> MountError {
        MountError::KeyNotForType { key, kind: self.kind }
    }

    fn set(&mut self, key: String, value: String, field: &str, version: Version) -> Result<(), MountError> {
        match key.as_str() {
            "type" => {
                let lower = value.to_lowercase();
                let Some(kind) = MountType::ALL.into_iter().find(|k| k.as_str() == lower) else {
                    let suggestion = nearest(&value, &MountType::ALL.map(MountType::as_str));
                    return Err(MountError::UnsupportedType { suggestion: suggestion.map(str::to_owned), value });
                };
                self.kind = kind;
            }
            "from" => self.from = filled(value),
            "source" | "src" => self.source = filled(value),
            "target" | "dst" | "destination" => self.target = filled(value),
            "required" if self.is_given() => self.required = boolean(&key, &value)?,
            "required" => return Err(self.misplaced(key)),
            "size" if version >= Version::V28 => {
                if self.kind != MountType::Tmpfs {
                    return Err(self.misplaced(key));
                }
                let Some(size) = ram_in_bytes(&value) else {
                    return Err(MountError::InvalidValue { key, value });
                };
                self.size = size;
            }
            "id" => self.id = filled(value),
            "sharing" => {
                let lower = value.to_lowercase();
                let Some(sharing) = Sharing::ALL.into_iter().find(|s| s.as_str() == lower) else {
                    let suggestion = nearest(&value, &Sharing::ALL.map(Sharing::as_str));
                    return Err(MountError::UnsupportedSharing { suggestion: suggestion.map(str::to_owned), value });
                };
                self.sharing = Some(sharing);
            }
            "mode" => self.mode = Some(number("mode", value, 8)?),
            "uid" => self.uid = Some(number("uid", value, 10)?),
            "gid" => self.gid = Some(number("gid", value, 10)?),
            "env" if version >= Version::V28 => self.env = Some(value),
            _ => {
                return Err(MountError::UnexpectedKey {
                    suggestion: nearest(&key, &KEYS).map(str::to_owned),
                    field: field.to_owned(),
                    key,
                });
            }
        }
        Ok(())
    }

    fn check(&self, version: Version) -> Result<(), MountError> {
        let kind = self.kind;
        if matches!(kind, MountType::Bind | MountType::Tmpfs) {
            for (key, given) in
                [("mode", self.mode.is_some()), ("uid", self.uid.is_some()), ("gid", self.gid.is_some())]
            {
                if given {
                    return Err(MountError::OwnershipNotAllowed { key, kind });
                }
            }
        }
        let sharing = match self.sharing {
            Some(_) if kind != MountType::Cache => Err(MountError::SharingNotAllowed { kind }),
            _ => Ok(()),
        };
        // 20.10 asks for the sharing first.
        if version == Version::V20 {
            sharing.clone()?;
        }
        if kind == MountType::Secret {
            if self.from.is_some() {
                return Err(MountError::SecretFrom);
            }
            if self.sharing.is_some() {
                return Err(MountError::SecretSharing);
            }
            if self.source.is_none() && self.target.is_none() && self.id.is_none() {
                return Err(MountError::SecretUnnamed);
            }
            if self.source.is_some() && self.id.is_some() {
                return Err(MountError::SecretSourceAndId);
            }
        }
        sharing
    }
}

fn number(key: &'static str, value: String, radix: u32) -> Result<u32, MountError> {
    parse_uint(&value, radix).ok_or(MountError::InvalidNumber { key, value })
}

/// Go's `strconv.ParseUint` for 32 bits: digits alone, no sign.
fn parse_uint(value: &str, radix: u32) -> Option<u32> {
    if value.starts_with('+') {
        return None;
    }
    u32::from_str_radix(value, radix).ok()
}

fn boolean(key: &str, value: &str) -> Result<bool, MountError> {
    parse_bool(value).ok_or_else(|| MountError::InvalidValue { key: key.to_owned(), value: value.to_owned() })
}

/// Go's `strconv.ParseBool`.
pub(crate) fn parse_bool(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A size such as `64m` or `1.5 GiB` in bytes, as `go-units` reads it.
#[must_use]
pub fn ram_in_bytes(size: &str) -> Option<i64> {
    let at = size.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')?;
    let (number, suffix) = match size.as_bytes()[at] {
        b' ' => (&size[..at], &size[at + 1..]),
        _ => size.split_at(at + 1),
    };
    // Rust reads what Go does, and besides that "inf", "nan" and the like, which have no digit;
    // Go also reads hexadecimal floats and underscores, which nobody writes.
    let number: f64 = number.parse().ok()?;
    if !number.is_finite() || number < 0.0 {
        return None;
    }
    let suffix = suffix.to_ascii_lowercase();
    let mut letters = suffix.chars();
    let factor: f64 = match letters.next() {
        None => 1.0,
        Some('b') if suffix.len() == 1 => 1.0,
        Some(unit) => {
            if !matches!(letters.as_str(), "" | "b" | "ib") {
                return None;
            }
            let power = "kmgtp".find(unit)?;
            1024f64.powi(i32::try_from(power).ok()? + 1)
        }
    };
    // Go's conversion of what does not fit gives the least number.
    let bytes = number * factor;
    if bytes >= 9_223_372_036_854_775_808.0 {
        return Some(i64::MIN);
    }
    #[allow(clippy::cast_possible_truncation)]
    Some(bytes as i64)
}

/// A device of a RUN, by the name of the Container Device Interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// The name.
    pub name: String,
    /// Whether its absence is an error.
    pub required: bool,
}

/// A device that Docker refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The list of fields cannot be read.
    #[error("failed to parse csv devices: {0}")]
    Csv(CsvError),
    /// A second field without a value.
    #[error("invalid field '{field}' must be a key=value pair")]
    NotKeyValue {
        /// The field.
        field: String,
    },
    /// A second name.
    #[error("device name already set to {name}")]
    NameTwice {
        /// The first.
        name: String,
    },
    /// Something else than a boolean.
    #[error("invalid value for {key}: {value}")]
    InvalidValue {
        /// The field's name.
        key: String,
        /// The value.
        value: String,
    },
    /// A field that does not exist.
    #[error(
        "unexpected key '{key}' in '{field}'{}",
        suggestion.as_ref().map(|s| format!(" (did you mean {s}?)")).unwrap_or_default()
    )]
    UnexpectedKey {
        /// Its name in lower case.
        key: String,
        /// The field.
        field: String,
        /// The nearest name.
        suggestion: Option<String>,
    },
}

impl Device {
    /// Reads a device.
    ///
    /// # Errors
    ///
    /// What Docker refuses.
    pub fn parse(device: &str) -> Result<Self, DeviceError> {
        let mut parsed = Self::default();
        for field in fields(device).map_err(DeviceError::Csv)? {
            let Some((key, value)) = field.split_once('=') else {
                if field.eq_ignore_ascii_case("required") {
                    parsed.required = true;
                } else if parsed.name.is_empty() {
                    parsed.name = field;
                } else {
                    return Err(DeviceError::NotKeyValue { field });
                }
                continue;
            };
            let key = key.to_lowercase();
            match key.as_str() {
                "name" if !parsed.name.is_empty() => {
                    return Err(DeviceError::NameTwice { name: parsed.name });
                }
                "name" => parsed.name = value.to_owned(),
                "required" => {
                    parsed.required = parse_bool(value)
                        .ok_or_else(|| DeviceError::InvalidValue { key: key.clone(), value: value.to_owned() })?;
                }
                _ if parsed.name.is_empty() => parsed.name = field,
                _ => {
                    return Err(DeviceError::UnexpectedKey {
                        suggestion: nearest(&key, &["name", "required"]).map(str::to_owned),
                        key,
                        field,
                    });
                }
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mounts() {
        let mount = Mount::parse("TYPE=Cache,dst=/c,id=x,sharing=Locked,mode=0755,uid=1,gid=2,ro", Version::V28);
        let expected = Mount {
            kind: MountType::Cache,
            target: Some("/c".to_owned()),
            id: Some("x".to_owned()),
            sharing: Some(Sharing::Locked),
            mode: Some(0o755),
            uid: Some(1),
            gid: Some(2),
            read_only: true,
            ..Mount::default()
        };
        assert_eq!(mount, Ok(expected));
        for (mount, read_only) in [
            ("target=/a", true),
            ("target=/a,rw", false),
            ("target=/a,readwrite=false", true),
            ("type=cache,target=/a", false),
            ("type=tmpfs,target=/a", false),
            ("type=secret,id=a", true),
        ] {
            let found = Mount::parse(mount, Version::V28).map(|mount| mount.read_only);
            assert_eq!(found, Ok(read_only), "{mount}");
        }
        let expanded = Mount::parse_with("source=$a,target=/x", Version::V28, |value| Ok(value.replace("$a", "b,c")));
        assert_eq!(expanded.unwrap().source.as_deref(), Some("b,c"));
    }

    #[test]
    fn refuses_as_docker_does() {
        for (mount, error) in [
            ("", "failed to parse csv mounts: EOF"),
            ("type=foo,target=/a", "unsupported mount type \"foo\""),
            ("type=cach", "unsupported mount type \"cach\" (did you mean cache?)"),
            ("target", "invalid field 'target' must be a key=value pair"),
            ("sharing=x,type=cache", "unsupported sharing value \"x\""),
            ("type=cache,sharing=lock", "unsupported sharing value \"lock\" (did you mean locked?)"),
            ("type=tmpfs,target=/a,size=x", "invalid value for size: x"),
            ("size=1", "unexpected key 'size' for mount type 'bind'"),
            ("required", "unexpected key 'required' for mount type 'bind'"),
            ("type=bind,mode=1", "mode not allowed for \"bind\" type mounts"),
            ("type=cache,target=/a,mode=9", "invalid value 9 for mode"),
            ("type=cache,uid=-1,target=/a", "invalid value -1 for uid"),
            ("type=secret", "invalid secret mount. one of source, target required"),
            ("type=secret,from=x,id=a", "secret mount should not have a from"),
            ("type=secret,source=a,id=b", "both source and id can't be set"),
            ("type=secret,sharing=locked,id=a", "secret mount should not define sharing"),
            ("type=bind,sharing=locked,target=/a", "invalid cache sharing set for bind mount"),
            ("tagret=/a", "unexpected key 'tagret' in 'tagret=/a' (did you mean target?)"),
            ("ro=x", "invalid value for ro: x"),
            ("type=ssh,required=maybe", "invalid value for required: maybe"),
            ("type=tmpfs,uid=3", "uid not allowed for \"tmpfs\" type mounts"),
        ] {
            let found = Mount::parse(mount, Version::V28).map_err(|e| e.to_string());
            assert_eq!(found, Err(error.to_owned()), "{mount}");
        }
    }

    #[test]
    fn reads_sizes() {
        for (size, bytes) in [
            ("1", Some(1)),
            ("64m", Some(64 << 20)),
            ("1.5 GiB", Some(3 << 29)),
            ("2KB", Some(2048)),
            ("5b", Some(5)),
            ("-1", None),
            ("1x", None),
            ("1bb", None),
            ("m", None),
            ("", None),
        ] {
            assert_eq!(ram_in_bytes(size), bytes, "{size}");
        }
    }
}
