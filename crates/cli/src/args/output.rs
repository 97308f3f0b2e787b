//! What `-o/--output` says.

use std::path::PathBuf;

use rbuild_executor::{Destination, Output};

use super::csv::{self, CsvError};
use super::values;

/// Why an output is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum OutputError {
    /// Bad quotes.
    #[error(transparent)]
    Csv(#[from] CsvError),
    /// A part without `=`.
    #[error("`{0}` is not of the form KEY=VALUE")]
    Field(String),
    /// No `type=`.
    #[error("the output has no type, write type=store, docker, oci, tar, local or registry")]
    NoType,
    /// A type there is not.
    #[error("there is no output type `{0}`, write type=store, docker, oci, tar, local or registry")]
    Type(String),
    /// A key that this type does not have.
    #[error("an output of type {kind} has no `{key}`")]
    Key {
        /// The type.
        kind: &'static str,
        /// The key.
        key: String,
    },
    /// A value that is not honoured.
    #[error("`{key}={value}` is not supported for an output of type {kind}")]
    Value {
        /// The type.
        kind: &'static str,
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// `dest=` is missing.
    #[error("an output of type {0} needs dest=")]
    NoDestination(&'static str),
    /// A directory cannot be written to standard output.
    #[error("an output of type {0} cannot be written to standard output")]
    Stdout(&'static str),
}

/// Kinds of outputs, as `type=` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `store`, and BuildKit's `image`.
    Store,
    /// `docker`.
    Docker,
    /// `oci`.
    Oci,
    /// `tar`.
    Tar,
    /// `local`.
    Local,
    /// `registry`.
    Registry,
    /// `cacheonly`: the build fills the cache and makes nothing.
    CacheOnly,
}

impl Kind {
    fn parse(text: &str) -> Option<Kind> {
        Some(match text {
            "store" | "image" => Kind::Store,
            "docker" => Kind::Docker,
            "oci" => Kind::Oci,
            "tar" => Kind::Tar,
            "local" => Kind::Local,
            "registry" => Kind::Registry,
            "cacheonly" => Kind::CacheOnly,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Store => "store",
            Kind::Docker => "docker",
            Kind::Oci => "oci",
            Kind::Tar => "tar",
            Kind::Local => "local",
            Kind::Registry => "registry",
            Kind::CacheOnly => "cacheonly",
        }
    }

    /// Whether the result is an image, which has names.
    fn is_image(self) -> bool {
        matches!(self, Kind::Store | Kind::Docker | Kind::Oci | Kind::Registry)
    }
}

/// One `-o`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OutputSpec {
    /// What is made.
    pub(crate) kind: Kind,
    /// `dest=`.
    pub(crate) dest: Option<PathBuf>,
    /// `name=`: names of the image, separated by commas.
    pub(crate) names: Vec<String>,
    /// `push=true`: the image goes to its registries too.
    pub(crate) push: bool,
    /// `tar=false`: a directory instead of an archive.
    pub(crate) tar: bool,
}

/// Reads one `-o`: comma separated `key=value`, or a path alone (`type=local`), or `-` (`type=tar` to standard output).
///
/// Keys are those of buildx 0.29 as far as they can be honoured; any other is an error.
pub(crate) fn parse_output(text: &str) -> Result<OutputSpec, OutputError> {
    let plain = |kind, dest: &str| OutputSpec {
        kind,
        dest: Some(PathBuf::from(dest)),
        names: Vec::new(),
        push: false,
        tar: true,
    };
    if text == "-" {
        return Ok(plain(Kind::Tar, "-"));
    }
    let fields = csv::parse_fields(text)?;
    if let [only] = fields.as_slice()
        && only == text
        && !only.starts_with("type=")
    {
        return if only.is_empty() { Err(OutputError::NoType) } else { Ok(plain(Kind::Local, only)) };
    }
    let mut pairs = Vec::new();
    let mut kind = None;
    for field in &fields {
        let (key, value) = field.split_once('=').ok_or_else(|| OutputError::Field(field.clone()))?;
        let key = key.trim().to_ascii_lowercase();
        if key == "type" {
            kind = Some(Kind::parse(value).ok_or_else(|| OutputError::Type(value.to_owned()))?);
        } else {
            pairs.push((key, value));
        }
    }
    let kind = kind.ok_or(OutputError::NoType)?;
    let mut spec = OutputSpec { kind, dest: None, names: Vec::new(), push: kind == Kind::Registry, tar: true };
    for (key, value) in pairs {
        let bad_value = || OutputError::Value { kind: kind.name(), key: key.clone(), value: value.to_owned() };
        let flag = || values::boolean(value).map_err(|_| bad_value());
        match key.as_str() {
            "dest" if matches!(kind, Kind::Docker | Kind::Oci | Kind::Tar | Kind::Local) => {
                spec.dest = (!value.is_empty()).then(|| PathBuf::from(value));
            }
            "name" if kind.is_image() => {
                spec.names.extend(value.split(',').filter(|n| !n.is_empty()).map(str::to_owned))
            }
            "push" if matches!(kind, Kind::Store | Kind::Registry) => spec.push = flag()?,
            "tar" if matches!(kind, Kind::Docker | Kind::Oci) => spec.tar = flag()?,
            // Both say what is done anyway.
            "store" if kind == Kind::Store && flag()? => {}
            "rewrite-timestamp" if flag()? => {}
            "store" | "rewrite-timestamp" => return Err(bad_value()),
            _ => {
                return Err(OutputError::Key { kind: kind.name(), key });
            }
        }
    }
    match kind {
        Kind::Local if spec.dest.is_none() => Err(OutputError::NoDestination("local")),
        Kind::Local if spec.dest.as_deref().is_some_and(|d| d.as_os_str() == "-") => Err(OutputError::Stdout("local")),
        Kind::Docker if !spec.tar => {
            Err(OutputError::Value { kind: "docker", key: "tar".to_owned(), value: "false".to_owned() })
        }
        Kind::Oci if !spec.tar => match &spec.dest {
            None => Err(OutputError::NoDestination("oci")),
            Some(dest) if dest.as_os_str() == "-" => Err(OutputError::Stdout("oci")),
            Some(_) => Ok(spec),
        },
        _ => Ok(spec),
    }
}

impl OutputSpec {
    /// What the library is asked for.
    pub(crate) fn outputs(&self) -> Vec<Output> {
        let destination = || match &self.dest {
            Some(path) if path.as_os_str() != "-" => Destination::File(path.clone()),
            _ => Destination::Stdout,
        };
        let mut outputs = match (self.kind, &self.dest) {
            // As Docker's: without a file the image is loaded where images are.
            (Kind::Store, _) | (Kind::Docker, None) => vec![Output::Store],
            (Kind::Docker, _) => vec![Output::DockerArchive(destination())],
            (Kind::Oci, Some(dest)) if !self.tar => vec![Output::OciDir(dest.clone())],
            (Kind::Oci, _) => vec![Output::OciArchive(destination())],
            (Kind::Tar, _) => vec![Output::Tar(destination())],
            (Kind::Local, Some(dest)) => vec![Output::Local(dest.clone())],
            (Kind::Local | Kind::Registry | Kind::CacheOnly, _) => Vec::new(),
        };
        if self.push {
            outputs.push(Output::Registry { names: self.names.clone() });
        }
        outputs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(text: &str) -> Vec<Output> {
        parse_output(text).unwrap_or_else(|error| panic!("{text}: {error}")).outputs()
    }

    #[test]
    fn every_type() {
        let file = |path: &str| Destination::File(PathBuf::from(path));
        let cases = [
            ("-", vec![Output::Tar(Destination::Stdout)]),
            ("out", vec![Output::Local("out".into())]),
            ("./a=b", vec![Output::Local("./a=b".into())]),
            ("type=store", vec![Output::Store]),
            ("type=image", vec![Output::Store]),
            ("type=image,push=true,name=r/x", vec![Output::Store, Output::Registry { names: vec!["r/x".into()] }]),
            ("type=docker", vec![Output::Store]),
            ("type=docker,dest=x.tar", vec![Output::DockerArchive(file("x.tar"))]),
            ("type=docker,dest=-", vec![Output::DockerArchive(Destination::Stdout)]),
            ("type=oci", vec![Output::OciArchive(Destination::Stdout)]),
            ("type=oci,dest=x.tar", vec![Output::OciArchive(file("x.tar"))]),
            ("type=oci,dest=d,tar=false", vec![Output::OciDir("d".into())]),
            ("TYPE=oci,DEST=x.tar", vec![Output::OciArchive(file("x.tar"))]),
            ("type=tar", vec![Output::Tar(Destination::Stdout)]),
            ("type=tar,dest=x", vec![Output::Tar(file("x"))]),
            ("type=local,dest=d", vec![Output::Local("d".into())]),
            ("type=registry", vec![Output::Registry { names: vec![] }]),
            (r#"type=registry,"name=r/x,r/y""#, vec![Output::Registry { names: vec!["r/x".into(), "r/y".into()] }]),
            ("type=registry,push=false", vec![]),
            ("type=cacheonly", vec![]),
            ("type=store,rewrite-timestamp=true,store=1", vec![Output::Store]),
        ];
        for (text, want) in cases {
            assert_eq!(outputs(text), want, "{text}");
        }
    }

    #[test]
    fn nothing_is_dropped_silently() {
        for text in [
            "",
            "dest=x,tar=true",
            "type=vault",
            "type=local",
            "type=local,dest=-",
            "type=oci,tar=false",
            "type=oci,tar=false,dest=-",
            "type=oci,tar=maybe,dest=x",
            "type=docker,tar=false,dest=x",
            "type=store,dest=x",
            "type=store,compression=zstd",
            "type=store,store=false",
            "type=tar,name=x",
            "type=store,foo",
            "type=registry,rewrite-timestamp=false",
        ] {
            assert!(parse_output(text).is_err(), "{text}: {:?}", parse_output(text));
        }
    }
}
