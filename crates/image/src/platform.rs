//! Platforms: parsing `os/arch[/variant]`, Docker's normalisation, and the order in which an index is searched.
//!
//! The rules are those of containerd's `platforms` package, which Docker uses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::reference::DockerVersion;

/// Why a text is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlatformError {
    /// A part has characters that no platform has.
    #[error(
        "{component:?} is an invalid component of {text:?}: platform specifier component must match {pattern:?}: invalid argument"
    )]
    Component {
        /// The faulty part.
        component: String,
        /// The whole text.
        text: String,
        /// The expression that Docker shows.
        pattern: &'static str,
    },
    /// The first part is no operating system with an optional version (Docker 28).
    #[error(
        "{component:?} is an invalid OS component of {text:?}: OSAndVersion specifier component must match {pattern:?}: invalid argument"
    )]
    Os {
        /// The faulty part.
        component: String,
        /// The whole text.
        text: String,
        /// The expression that Docker shows.
        pattern: &'static str,
    },
    /// A single word that names neither a known system nor a known architecture.
    #[error("{0:?}: unknown operating system or architecture: invalid argument")]
    Unknown(String),
    /// More than three parts.
    #[error("{0:?}: cannot parse platform specifier: invalid argument")]
    Parts(String),
    /// A `*`.
    #[error("{0:?}: wildcards not yet supported: invalid argument")]
    Wildcard(String),
}

const SPECIFIER_20: &str = "^[A-Za-z0-9_-]+$";
const SPECIFIER_28: &str = "^[A-Za-z0-9_.-]+$";
const OS_28: &str = r"^([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*)((?:\+[A-Za-z0-9_.%-]+)*)\))?$";

/// An operating system and a processor, as in an index's descriptors.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
pub struct Platform {
    /// The processor in Go's words: `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// The system in Go's words: `linux`.
    #[serde(default)]
    pub os: String,
    /// The system's version; only Windows images have one.
    #[serde(rename = "os.version", default, skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Features the system must have.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// The processor's variant: `v7`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// A platform of these parts, as they are.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Platform {
        Platform { os: os.into(), architecture: architecture.into(), variant: variant.into(), ..Platform::default() }
    }

    /// The platform this program runs on.
    pub fn host() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            other => other,
        };
        let variant = if architecture == "arm" { "v7" } else { "" };
        Platform::new(std::env::consts::OS, architecture, variant)
    }

    /// The same platform in Docker's preferred words.
    pub fn normalized(&self) -> Platform {
        let os = if self.os.is_empty() { std::env::consts::OS.to_owned() } else { normalize_os(&self.os) };
        let (architecture, variant) = normalize_arch(&self.architecture, &self.variant);
        let mut os_features = self.os_features.clone();
        os_features.sort();
        os_features.dedup();
        Platform { os, architecture, variant, os_version: self.os_version.clone(), os_features }
    }

    /// The platforms whose images run on this one, best first: lesser variants, 386 after amd64, arm after arm64.
    pub fn compatible(&self) -> Vec<Platform> {
        let base = self.normalized();
        let with = |architecture: &str, variant: String| Platform {
            architecture: architecture.to_owned(),
            variant,
            ..base.clone()
        };
        let number = base.variant.strip_prefix('v').and_then(|v| v.parse::<u32>().ok());
        match base.architecture.as_str() {
            "amd64" => {
                let lesser = (1..number.unwrap_or(1).min(9)).rev().map(|n| with("amd64", format!("v{n}")));
                std::iter::once(base.clone()).chain(lesser).chain([with("386", String::new())]).collect()
            }
            "arm" => {
                let lesser = (5..number.unwrap_or(5).clamp(5, 9)).rev().map(|n| with("arm", format!("v{n}")));
                std::iter::once(base.clone()).chain(lesser).collect()
            }
            "arm64" => {
                let mut all: Vec<_> =
                    arm64_versions(&base.variant).into_iter().map(|variant| with("arm64", variant)).collect();
                if !all.is_empty() {
                    all.extend((5..=8).rev().map(|n| with("arm", format!("v{n}"))));
                }
                all
            }
            _ => vec![base],
        }
    }

    /// Whether an image for `other` is one for this platform, both in preferred words. An image may ask for no feature
    /// that this platform lacks; a version matters on Windows only.
    pub fn is_same(&self, other: &Platform) -> bool {
        let (mine, theirs) = (self.normalized(), other.normalized());
        mine.os == theirs.os
            && mine.architecture == theirs.architecture
            && mine.variant == theirs.variant
            && (mine.os != "windows" || mine.os_version.is_empty() || mine.os_version == theirs.os_version)
            && theirs.os_features.iter().all(|feature| mine.os_features.contains(feature))
    }

    /// The place of the best among `offers` for this platform; the first one wins among equals.
    pub fn best<'a>(&self, offers: impl IntoIterator<Item = &'a Platform>) -> Option<usize> {
        let order = self.compatible();
        offers
            .into_iter()
            .enumerate()
            .filter_map(|(at, offer)| Some((order.iter().position(|wanted| wanted.is_same(offer))?, at)))
            .min()
            .map(|(_, at)| at)
    }
}

/// The versions of arm64 that run on this one, as containerd's table has them: v9.n runs v8.(n+5).
fn arm64_versions(variant: &str) -> Vec<String> {
    let variant = if variant.is_empty() { "v8" } else { variant };
    let Some(version) = variant.strip_prefix('v') else {
        return Vec::new();
    };
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    let (Ok(major), Ok(minor)) = (major.parse::<u32>(), minor.parse::<u32>()) else {
        return Vec::new();
    };
    let upto = match (major, minor) {
        (8, 0..=9) => vec![(8, minor)],
        (9, 0..=7) => vec![(9, minor), (8, (minor + 5).min(9))],
        _ => return Vec::new(),
    };
    let name = |major, minor| {
        if minor == 0 { format!("v{major}") } else { format!("v{major}.{minor}") }
    };
    upto.into_iter().flat_map(|(major, top)| (0..=top).rev().map(move |minor| name(major, minor))).collect()
}

impl fmt::Display for Platform {
    /// `os/arch[/variant]`, or `unknown` without a system.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.os.is_empty() {
            return f.write_str("unknown");
        }
        f.write_str(&self.os)?;
        for part in [&self.architecture, &self.variant] {
            if !part.is_empty() {
                write!(f, "/{part}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    /// Parses with Docker 28's rules.
    fn from_str(text: &str) -> Result<Platform, PlatformError> {
        Platform::parse(text, DockerVersion::V28)
    }
}

impl Platform {
    /// Parses `os`, `arch`, `os/arch` or `os/arch/variant`; in Docker 28 the system may have a version and features,
    /// `windows(10.0.17763+win32k)`.
    ///
    /// # Errors
    /// With the words of that version of Docker.
    pub fn parse(text: &str, version: DockerVersion) -> Result<Platform, PlatformError> {
        if text.contains('*') {
            return Err(PlatformError::Wildcard(text.to_owned()));
        }
        let parts: Vec<&str> = text.splitn(4, '/').collect();
        let mut platform = match version {
            DockerVersion::V28 => parse_os(parts[0]).ok_or_else(|| PlatformError::Os {
                component: parts[0].to_owned(),
                text: text.to_owned(),
                pattern: OS_28,
            })?,
            DockerVersion::V20 => Platform { os: normalize_os(parts[0]), ..Platform::default() },
        };
        let (checked, pattern) = match version {
            DockerVersion::V28 => (&parts[1..], SPECIFIER_28),
            DockerVersion::V20 => (&parts[..], SPECIFIER_20),
        };
        let allowed = |b: u8| is_word(b) && (b != b'.' || version == DockerVersion::V28);
        if let Some(part) = checked.iter().find(|part| part.is_empty() || !part.bytes().all(allowed)) {
            return Err(PlatformError::Component { component: (*part).to_owned(), text: text.to_owned(), pattern });
        }
        match parts[1..] {
            [] => {
                let host = Platform::host();
                if KNOWN_OS.contains(&platform.os.as_str()) {
                    platform.architecture = host.architecture;
                } else {
                    let (architecture, variant) = normalize_arch(parts[0], "");
                    if !KNOWN_ARCH.contains(&architecture.as_str()) {
                        return Err(PlatformError::Unknown(text.to_owned()));
                    }
                    platform = Platform::new(&host.os, &architecture, &without_v7(&architecture, variant));
                }
            }
            [arch] => {
                let (architecture, variant) = normalize_arch(arch, "");
                platform.variant = without_v7(&architecture, variant);
                platform.architecture = architecture;
            }
            [arch, variant] => {
                (platform.architecture, platform.variant) = normalize_arch(arch, variant);
                if platform.architecture == "arm64" && platform.variant.is_empty() {
                    platform.variant = "v8".to_owned();
                }
            }
            _ => return Err(PlatformError::Parts(text.to_owned())),
        }
        Ok(platform)
    }
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || b == b'.'
}

/// `os`, `os(version)`, `os(version+feature…)`.
fn parse_os(text: &str) -> Option<Platform> {
    let (os, options) = match text.split_once('(') {
        Some((os, rest)) => (os, rest.strip_suffix(')')?),
        None => (text, ""),
    };
    let mut options = options.split('+');
    let os_version = options.next().unwrap_or_default();
    let os_features: Vec<String> = options.map(str::to_owned).collect();
    let option_ok = |text: &str| text.bytes().all(|b| is_word(b) || b == b'%');
    let ok = !os.is_empty()
        && os.bytes().all(|b| is_word(b) && b != b'.')
        && option_ok(os_version)
        && os_features.iter().all(|feature| !feature.is_empty() && option_ok(feature));
    ok.then(|| Platform { os: normalize_os(os), os_version: os_version.to_owned(), os_features, ..Platform::default() })
}

/// `linux/arm` is shown without the variant it stands for.
fn without_v7(architecture: &str, variant: String) -> String {
    if architecture == "arm" && variant == "v7" { String::new() } else { variant }
}

fn normalize_os(os: &str) -> String {
    let os = os.to_lowercase();
    if os == "macos" { "darwin".to_owned() } else { os }
}

fn normalize_arch(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = (architecture.to_lowercase(), variant.to_lowercase());
    let (a, v) = match (architecture.as_str(), variant.as_str()) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", v) => ("amd64", v),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64" | "arm64", v) => ("arm64", v),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        (a, v) => (a, v),
    };
    (a.to_owned(), v.to_owned())
}

const KNOWN_OS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];

const KNOWN_ARCH: &[&str] = &[
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "armbe",
    "arm64",
    "arm64be",
    "ppc64",
    "ppc64le",
    "loong64",
    "mips",
    "mipsle",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "ppc",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    #[test]
    fn parses_and_normalises() {
        for (text, shown) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AARCH64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64/v8"),
            ("linux/arm", "linux/arm"),
            ("linux/arm/7", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("i386", "linux/386"),
            ("windows(10.0.17763)/amd64", "windows/amd64"),
            ("linux/whatever", "linux/whatever"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), shown, "{text}");
        }
        assert_eq!("windows(10.0.17763)/amd64".parse::<Platform>().unwrap().os_version, "10.0.17763");
        assert_eq!("linux".parse::<Platform>().unwrap().architecture, Platform::host().architecture);
    }

    #[test]
    fn refuses() {
        assert_eq!("foo".parse::<Platform>(), Err(PlatformError::Unknown("foo".into())));
        assert_eq!("a/b/c/d".parse::<Platform>(), Err(PlatformError::Parts("a/b/c/d".into())));
        assert_eq!("linux/*".parse::<Platform>(), Err(PlatformError::Wildcard("linux/*".into())));
        assert!(matches!("linux/".parse::<Platform>(), Err(PlatformError::Component { .. })));
        assert!(matches!("".parse::<Platform>(), Err(PlatformError::Os { .. })));
        assert!(matches!("li nux/amd64".parse::<Platform>(), Err(PlatformError::Os { .. })));
    }

    /// The words of `docker pull --platform` of both releases.
    #[test]
    fn complains_as_docker_does() {
        let os28 = r#"OSAndVersion specifier component must match "^([A-Za-z0-9_-]+)(?:\\(([A-Za-z0-9_.%-]*)((?:\\+[A-Za-z0-9_.%-]+)*)\\))?$": invalid argument"#;
        for (text, v28, v20) in [
            (
                "li nux/amd64",
                format!(r#""li nux" is an invalid OS component of "li nux/amd64": {os28}"#),
                r#""li nux" is an invalid component of "li nux/amd64": platform specifier component must match "^[A-Za-z0-9_-]+$": invalid argument"#,
            ),
            (
                "linux/",
                r#""" is an invalid component of "linux/": platform specifier component must match "^[A-Za-z0-9_.-]+$": invalid argument"#.into(),
                r#""" is an invalid component of "linux/": platform specifier component must match "^[A-Za-z0-9_-]+$": invalid argument"#,
            ),
            (
                "linux/a.b",
                String::new(),
                r#""a.b" is an invalid component of "linux/a.b": platform specifier component must match "^[A-Za-z0-9_-]+$": invalid argument"#,
            ),
        ] {
            let said = |v| Platform::parse(text, v).map_or_else(|e| e.to_string(), |_| String::new());
            assert_eq!(said(DockerVersion::V28), v28);
            assert_eq!(said(DockerVersion::V20), v20);
        }
    }

    #[test]
    fn chooses_the_best() {
        let p = |t: &str| t.parse::<Platform>().unwrap();
        let offers = [p("linux/386"), p("linux/arm/v6"), p("linux/arm64"), p("linux/amd64"), p("linux/arm/v7")];
        assert_eq!(p("linux/amd64").best(&offers), Some(3));
        assert_eq!(p("linux/amd64/v3").best(&offers), Some(3));
        assert_eq!(p("linux/386").best(&offers), Some(0));
        assert_eq!(p("linux/arm").best(&offers), Some(4));
        assert_eq!(p("linux/arm/v6").best(&offers), Some(1));
        assert_eq!(p("linux/arm64/v8").best(&offers), Some(2));
        assert_eq!(p("linux/arm64").best(&offers[..2]), Some(1));
        assert_eq!(p("linux/amd64").best(&offers[..2]), Some(0));
        assert_eq!(p("linux/s390x").best(&offers), None);
    }
}
