//! Values of single flags: text to typed value, without the environment and without touching the disk.
//!
//! Forms and limits are those of Docker 28.5 (docker/go-units, buildx `util/buildflags`).

use std::path::PathBuf;

use rbuild_executor::Ulimit;
use rbuild_logfmt::{Format, WrongValue};

use super::csv::{self, CsvError};
use crate::logs::LogFileSpec;

/// Why a value of a flag is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ValueError {
    /// Neither true nor false.
    #[error("`{0}` is neither true nor false")]
    Boolean(String),
    /// No size.
    #[error("`{0}` is no size, write bytes or a number with k, m, g, t or p")]
    Size(String),
    /// Not `NAME=SOFT[:HARD]`.
    #[error("`{0}` is no limit, write NAME=SOFT[:HARD]")]
    Ulimit(String),
    /// A limit the kernel does not have.
    #[error("there is no limit `{0}`")]
    UlimitName(String),
    /// The soft limit is above the hard one.
    #[error("the soft limit {soft} is above the hard limit {hard}")]
    UlimitOrder {
        /// Soft limit, -1 is unlimited.
        soft: i64,
        /// Hard limit.
        hard: i64,
    },
    /// Not `HOST:IP`.
    #[error("`{0}` is no host and address, write HOST:IP or HOST=IP")]
    AddHost(String),
    /// Not an address.
    #[error("`{0}` is no IP address")]
    Address(String),
    /// Nothing before the `=`.
    #[error("`{0}` has no name, write NAME=VALUE")]
    EmptyKey(String),
    /// No `=`.
    #[error("`{text}` is not of the form {form}")]
    Form {
        /// What was written.
        text: String,
        /// What should have been.
        form: &'static str,
    },
    /// Bad quotes.
    #[error(transparent)]
    Csv(#[from] CsvError),
    /// A key that this flag does not have.
    #[error("`{key}` is no key of this flag, which has {known}")]
    Key {
        /// The key.
        key: String,
        /// Those there are.
        known: &'static str,
    },
    /// A `type=` of a secret.
    #[error("a secret has no type `{0}`, write file or env")]
    SecretType(String),
    /// A form that no file can have.
    #[error(
        "a log file has no form `{name}`, write docker, buildkit, rawjson or events; a file of that name is `./{text}`"
    )]
    LogFileFormat {
        /// The form.
        name: String,
        /// All that was written.
        text: String,
    },
    /// No file.
    #[error("a log file needs a name")]
    LogFileName,
    /// Standard output.
    #[error("standard output has a log of its own, see --log-format; a file named `-` is `./-`")]
    LogFileStdout,
    /// A secret without a name.
    #[error("the secret has no id, write id=NAME")]
    SecretId,
    /// A named context with a name that is none.
    #[error("`{name}` is no name: {reason}")]
    ContextName {
        /// As given.
        name: String,
        /// Why.
        reason: String,
    },
    /// A mount that is none.
    #[error("`{text}` is no mount: {reason}")]
    Mount {
        /// As given.
        text: String,
        /// Why.
        reason: String,
    },
    /// No time to ask a registry.
    #[error("`{0}` is none of missing, always and never")]
    Pull(String),
    /// Nothing that is done with a Dockerfile here.
    #[error("there is no call `{0}`, only build and check")]
    Call(String),
    /// Two names of calls.
    #[error("`{0}` names more than one call")]
    Calls(String),
}

impl ValueError {
    /// The same for Docker's clients, for those flags whose values they look at first.
    pub(crate) fn docker(&self, flag: &str, value: &str) -> Option<WrongValue> {
        Some(match self {
            ValueError::Boolean(text) => WrongValue::Boolean(text.clone()),
            ValueError::Size(text) => WrongValue::Size(text.clone()),
            ValueError::Ulimit(text) => WrongValue::Ulimit(text.clone()),
            ValueError::UlimitName(name) => WrongValue::UlimitName(name.clone()),
            ValueError::UlimitOrder { soft, hard } => WrongValue::UlimitOrder { soft: *soft, hard: *hard },
            ValueError::AddHost(_) => WrongValue::AddHost(value.to_owned()),
            ValueError::Address(address) => WrongValue::Address(address.clone()),
            ValueError::EmptyKey(_) if flag == "--label" => WrongValue::Label(value.to_owned()),
            ValueError::EmptyKey(_) => WrongValue::Variable(value.to_owned()),
            ValueError::ContextName { name, reason } => {
                WrongValue::ContextName { name: name.clone(), reason: reason.clone() }
            }
            ValueError::Form { .. } if flag == "--build-context" => WrongValue::Context(value.to_owned()),
            _ => return None,
        })
    }
}

/// `--log-file`: `FILE`, or `FORMAT:FILE`. What stands before the first colon is a format if it is a word.
pub(crate) fn log_file(text: &str) -> Result<LogFileSpec, ValueError> {
    let is_word = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphabetic());
    let (format, path) = match text.split_once(':') {
        Some((name, path)) if is_word(name) => (Some(name), path),
        _ => (None, text),
    };
    let format = match format {
        None => None,
        Some(name) => match Format::from_name(name, false) {
            Ok(format @ (Format::Legacy | Format::Buildkit | Format::RawJson | Format::Events)) if name != "auto" => {
                Some(format)
            }
            _ => return Err(ValueError::LogFileFormat { name: name.to_owned(), text: text.to_owned() }),
        },
    };
    match path {
        "" => Err(ValueError::LogFileName),
        "-" => Err(ValueError::LogFileStdout),
        path => Ok(LogFileSpec { format, path: PathBuf::from(path) }),
    }
}

/// True or false as Go's `strconv.ParseBool` reads it.
pub(crate) fn boolean(text: &str) -> Result<bool, ValueError> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(ValueError::Boolean(text.to_owned())),
    }
}

/// `--call`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CallSpec {
    /// The checks are run in place of a build.
    pub(crate) check: bool,
    /// The result is JSON.
    pub(crate) json: bool,
    /// Warnings are no failure.
    pub(crate) ignore_status: bool,
}

/// What is done with the Dockerfile, as buildx writes it: `NAME[,format=FORMAT][,ignorestatus=BOOL]`.
pub(crate) fn call(text: &str) -> Result<CallSpec, ValueError> {
    let mut spec = CallSpec::default();
    if text.is_empty() {
        return Ok(spec);
    }
    let mut name: Option<String> = None;
    for field in csv::parse_fields(text)? {
        match field.split_once('=') {
            // A format that buildx does not know is text.
            Some(("format", format)) => spec.json = format == "json",
            Some(("ignorestatus", value)) => spec.ignore_status = boolean(value)?,
            Some((key, _)) => {
                return Err(ValueError::Key { key: key.to_owned(), known: "format and ignorestatus" });
            }
            None if name.is_some() => return Err(ValueError::Calls(text.to_owned())),
            None => name = Some(field),
        }
    }
    spec.check = match name.as_deref() {
        Some("check" | "lint") => true,
        Some("build") => false,
        name => return Err(ValueError::Call(name.unwrap_or_default().to_owned())),
    };
    Ok(spec)
}

/// A size in bytes: `64m`, `1.5 GiB`, `1024`. All units are powers of 1024 (go-units `RAMInBytes`).
pub(crate) fn size(text: &str) -> Result<u64, ValueError> {
    let bad = || ValueError::Size(text.to_owned());
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ').ok_or_else(bad)?;
    let number: f64 = text[..=end].trim_end_matches(' ').parse().map_err(|_| bad())?;
    let suffix = text[end + 1..].to_ascii_lowercase();
    let unit = suffix.strip_suffix("ib").or_else(|| suffix.strip_suffix('b')).unwrap_or(&suffix);
    let shift = match (unit, suffix.as_str()) {
        ("", "ib") => return Err(bad()),
        ("", _) => 0,
        ("k", _) => 10,
        ("m", _) => 20,
        ("g", _) => 30,
        ("t", _) => 40,
        ("p", _) => 50,
        _ => return Err(bad()),
    };
    let bytes = number * (1u64 << shift) as f64;
    // Not negative, and well inside what an i64 holds: beyond that the kernel takes no size either.
    if !(0.0..9.0e18).contains(&bytes) {
        return Err(bad());
    }
    Ok(bytes as u64)
}

/// Names of limits as `ulimit` in containers has them (go-units `ulimitNameMapping`).
const ULIMITS: &[&str] = &[
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// A limit: `nofile=1024:2048`, `nproc=-1`.
pub(crate) fn ulimit(text: &str) -> Result<Ulimit, ValueError> {
    let bad = || ValueError::Ulimit(text.to_owned());
    let (name, limits) = text.split_once('=').ok_or_else(bad)?;
    if !ULIMITS.contains(&name) {
        return Err(ValueError::UlimitName(name.to_owned()));
    }
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let soft: i64 = soft.parse().map_err(|_| bad())?;
    let hard: i64 = hard.parse().map_err(|_| bad())?;
    if soft < -1 || hard < -1 {
        return Err(bad());
    }
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(ValueError::UlimitOrder { soft, hard });
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

/// A line for /etc/hosts: `host:ip`, `host=ip`, `host=[ip6]`.
///
/// `host-gateway` stands for the address under which the host is reached. RUN steps share the host's network, so that is
/// loopback.
pub(crate) fn add_host(text: &str) -> Result<(String, String), ValueError> {
    let bad = || ValueError::AddHost(text.to_owned());
    let (host, address) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(bad)?;
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err(bad());
    }
    if address == "host-gateway" {
        return Ok((host.to_owned(), "127.0.0.1".to_owned()));
    }
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    if bare.parse::<std::net::IpAddr>().is_err() {
        return Err(ValueError::Address(address.to_owned()));
    }
    Ok((host.to_owned(), bare.to_owned()))
}

/// A name and its value, or a name alone (`--build-arg`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assignment {
    /// The name.
    pub(crate) name: String,
    /// The value; `None` says that it comes from the environment.
    pub(crate) value: Option<String>,
}

/// `NAME=VALUE` or `NAME`.
pub(crate) fn assignment(text: &str) -> Result<Assignment, ValueError> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    if name.is_empty() {
        return Err(ValueError::EmptyKey(text.to_owned()));
    }
    Ok(Assignment { name: name.to_owned(), value })
}

/// `NAME=VALUE`, or `NAME` for an empty value (`--label`).
pub(crate) fn label(text: &str) -> Result<(String, String), ValueError> {
    assignment(text).map(|a| (a.name, a.value.unwrap_or_default()))
}

/// `NAME=VALUE` (`--build-context`).
pub(crate) fn build_context(text: &str) -> Result<(String, String), ValueError> {
    match text.split_once('=') {
        Some((name, value)) => match rbuild_executor::context::context_name_error(name) {
            None => Ok((name.to_owned(), value.to_owned())),
            Some(reason) => Err(ValueError::ContextName { name: name.to_owned(), reason }),
        },
        None => Err(ValueError::Form { text: text.to_owned(), form: "NAME=VALUE" }),
    }
}

/// `HOST=FILE` (`--registry-certificate`).
pub(crate) fn certificate(text: &str) -> Result<(String, PathBuf), ValueError> {
    match text.split_once('=') {
        Some((host, file)) if !host.is_empty() && !file.is_empty() => Ok((host.to_owned(), PathBuf::from(file))),
        _ => Err(ValueError::Form { text: text.to_owned(), form: "HOST=FILE" }),
    }
}

/// What `--secret` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SecretSpec {
    /// Its id.
    pub(crate) id: String,
    /// `src=`.
    pub(crate) file: Option<PathBuf>,
    /// `env=`.
    pub(crate) variable: Option<String>,
}

/// `id=NAME[,src=FILE|,env=VARIABLE][,type=file|env]`. With `type=env`, `src` names the variable.
pub(crate) fn secret(text: &str) -> Result<SecretSpec, ValueError> {
    let (mut id, mut file, mut variable, mut from_env) = (None, None, None, false);
    for field in csv::parse_fields(text)? {
        let Some((key, value)) = field.split_once('=') else {
            return Err(ValueError::Form { text: field, form: "KEY=VALUE" });
        };
        match (key.to_ascii_lowercase().as_str(), value) {
            ("id", _) => id = Some(value.to_owned()),
            ("src" | "source", _) => file = Some(value.to_owned()),
            ("env", _) => variable = Some(value.to_owned()),
            ("type", "file") => from_env = false,
            ("type", "env") => from_env = true,
            ("type", _) => return Err(ValueError::SecretType(value.to_owned())),
            _ => {
                return Err(ValueError::Key { key: key.to_owned(), known: "id, src, env and type" });
            }
        }
    }
    if from_env && variable.is_none() {
        variable = file.take();
    }
    let id = id.filter(|id| !id.is_empty()).ok_or(ValueError::SecretId)?;
    let some = |text: String| (!text.is_empty()).then_some(text);
    Ok(SecretSpec { id, file: file.and_then(some).map(PathBuf::from), variable: variable.and_then(some) })
}

/// What `--ssh` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SshSpec {
    /// Its id.
    pub(crate) id: String,
    /// A socket of an agent; that of `SSH_AUTH_SOCK` where there is none.
    pub(crate) path: Option<PathBuf>,
}

/// `default`, `ID` or `ID=SOCKET`.
pub(crate) fn ssh(text: &str) -> Result<SshSpec, ValueError> {
    let (id, path) = text.split_once('=').unwrap_or((text, ""));
    if id.is_empty() {
        return Err(ValueError::Form { text: text.to_owned(), form: "ID or ID=SOCKET" });
    }
    Ok(SshSpec { id: id.to_owned(), path: (!path.is_empty()).then(|| PathBuf::from(path)) })
}

/// Seconds since the epoch (`--timestamp`).
pub(crate) fn timestamp(text: &str) -> Result<i64, ValueError> {
    text.parse().map_err(|_| ValueError::Form { text: text.to_owned(), form: "SECONDS since 1970" })
}

/// What `--on-error` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OnError {
    /// The shell, where one is named.
    pub(crate) shell: Option<String>,
}

/// Reads `shell[:PROGRAM]`.
pub(crate) fn on_error(text: &str) -> Result<OnError, String> {
    match text.split_once(':') {
        None if text == "shell" => Ok(OnError { shell: None }),
        Some(("shell", program)) if !program.is_empty() => Ok(OnError { shell: Some(program.to_owned()) }),
        _ => Err("give `shell` or `shell:PROGRAM`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans() {
        for text in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(boolean(text), Ok(true), "{text}");
        }
        for text in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(boolean(text), Ok(false), "{text}");
        }
        for text in ["", "yes", "tRUE", "2"] {
            assert!(boolean(text).is_err(), "{text}");
        }
    }

    #[test]
    fn calls() {
        let spec = |check, json, ignore_status| Ok(CallSpec { check, json, ignore_status });
        for (text, expected) in [
            ("", spec(false, false, false)),
            ("build", spec(false, false, false)),
            ("check", spec(true, false, false)),
            ("lint", spec(true, false, false)),
            ("check,format=json", spec(true, true, false)),
            ("format=text,lint,ignorestatus=1", spec(true, false, true)),
            ("outline", Err(ValueError::Call("outline".into()))),
            ("format=json", Err(ValueError::Call(String::new()))),
            ("check,check", Err(ValueError::Calls("check,check".into()))),
            ("check,ignorestatus=x", Err(ValueError::Boolean("x".into()))),
            ("check,a=b", Err(ValueError::Key { key: "a".into(), known: "format and ignorestatus" })),
        ] {
            assert_eq!(call(text), expected, "{text}");
        }
    }

    #[test]
    fn sizes() {
        let cases = [
            ("0", 0),
            ("1024", 1024),
            ("64m", 64 << 20),
            ("64M", 64 << 20),
            ("64mb", 64 << 20),
            ("64MiB", 64 << 20),
            ("1.5g", 3 << 29),
            ("2 GB", 2 << 30),
            ("7b", 7),
            ("1t", 1 << 40),
            ("3k", 3072),
        ];
        for (text, want) in cases {
            assert_eq!(size(text), Ok(want), "{text}");
        }
        for text in ["", "m", "3q", "3ib", "3mbb", "-1", "1e400", "99999999p", "nan", "6 4m"] {
            assert!(size(text).is_err(), "{text}: {:?}", size(text));
        }
    }

    #[test]
    fn ulimits() {
        let limit = |soft, hard| Ok(Ulimit { name: "nofile".into(), soft, hard });
        assert_eq!(ulimit("nofile=1024"), limit(1024, 1024));
        assert_eq!(ulimit("nofile=1024:2048"), limit(1024, 2048));
        assert_eq!(ulimit("nofile=-1"), limit(-1, -1));
        assert_eq!(ulimit("nofile=10:-1"), limit(10, -1));
        assert_eq!(ulimit("nofile=20:10"), Err(ValueError::UlimitOrder { soft: 20, hard: 10 }));
        assert_eq!(ulimit("nofile=-1:10"), Err(ValueError::UlimitOrder { soft: -1, hard: 10 }));
        assert_eq!(ulimit("files=1"), Err(ValueError::UlimitName("files".into())));
        for text in ["nofile", "nofile=", "nofile=a", "nofile=1:2:3", "nofile=-2", ""] {
            assert!(ulimit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hosts() {
        let pair = |a: &str, b: &str| Ok((a.to_owned(), b.to_owned()));
        assert_eq!(add_host("db:10.0.0.1"), pair("db", "10.0.0.1"));
        assert_eq!(add_host("db=10.0.0.1"), pair("db", "10.0.0.1"));
        assert_eq!(add_host("db:::1"), pair("db", "::1"));
        assert_eq!(add_host("db=[2001:db8::1]"), pair("db", "2001:db8::1"));
        assert_eq!(add_host("db:host-gateway"), pair("db", "127.0.0.1"));
        for text in ["db", ":1.2.3.4", "db:", "db:nowhere", "a b:1.2.3.4", ""] {
            assert!(add_host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn assignments() {
        assert_eq!(assignment("A=b=c"), Ok(Assignment { name: "A".into(), value: Some("b=c".into()) }));
        assert_eq!(assignment("A="), Ok(Assignment { name: "A".into(), value: Some(String::new()) }));
        assert_eq!(assignment("A"), Ok(Assignment { name: "A".into(), value: None }));
        assert_eq!(label("a"), Ok(("a".into(), String::new())));
        assert!(assignment("=b").is_err());
        assert!(label("").is_err());
        assert_eq!(build_context("a=docker-image://x=y"), Ok(("a".into(), "docker-image://x=y".into())));
        assert!(build_context("a").is_err() && build_context("=a").is_err());
        assert_eq!(certificate("h:5000=/ca.pem"), Ok(("h:5000".into(), "/ca.pem".into())));
        assert!(certificate("h").is_err());
    }

    #[test]
    fn secrets() {
        let spec = |file: Option<&str>, variable: Option<&str>| {
            Ok(SecretSpec { id: "x".into(), file: file.map(PathBuf::from), variable: variable.map(str::to_owned) })
        };
        assert_eq!(secret("id=x"), spec(None, None));
        assert_eq!(secret("id=x,src=/f"), spec(Some("/f"), None));
        assert_eq!(secret("ID=x,source=/f,type=file"), spec(Some("/f"), None));
        assert_eq!(secret("id=x,env=V"), spec(None, Some("V")));
        assert_eq!(secret("type=env,id=x,src=V"), spec(None, Some("V")));
        assert_eq!(secret(r#"id=x,"src=/a,b""#), spec(Some("/a,b"), None));
        assert_eq!(secret("src=/f"), Err(ValueError::SecretId));
        assert_eq!(secret("id=x,type=vault"), Err(ValueError::SecretType("vault".into())));
        assert!(secret("foo").is_err() && secret("id=x,mode=1").is_err());
    }

    #[test]
    fn agents() {
        assert_eq!(ssh("default"), Ok(SshSpec { id: "default".into(), path: None }));
        assert_eq!(ssh("a=/s"), Ok(SshSpec { id: "a".into(), path: Some("/s".into()) }));
        assert!(ssh("").is_err() && ssh("=/s").is_err());
        assert_eq!(timestamp("-1"), Ok(-1));
        assert!(timestamp("now").is_err());
    }
}
