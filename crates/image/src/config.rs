//! The image configuration as Docker writes it.
//!
//! Names and meaning follow the OCI image specification ("Image Configuration") and Docker's additions to it (`OnBuild`,
//! `Healthcheck`, `Shell`, the container's fields). `oci-spec` has types for this too, but they drop Docker's members and
//! everything unknown, and keep maps in random order; here reading and writing loses nothing, and `null`, empty and absent
//! stay apart, since Docker gives them different meaning.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::digest::{ChainId, DiffId, Digest, ImageId};
use crate::json::{self, Field};
use crate::platform::Platform;

/// Why bytes are no configuration, or cannot become some.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The bytes are no JSON of the right form.
    #[error("image configuration is not valid JSON")]
    Parse(#[source] serde_json::Error),
    /// The configuration could not be written.
    #[error("cannot write image configuration as JSON")]
    Write(#[source] serde_json::Error),
    /// The configuration names no root file system of layers.
    #[error("image configuration has no list of layers (`rootfs`)")]
    NoRootfs,
}

/// A set in Go's clothes: a map from each member to `{}`.
pub type GoSet = BTreeMap<String, Value>;

/// The whole configuration of an image.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ImageConfig {
    /// The processor.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub architecture: Field<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub author: Field<String>,
    /// A remark of who made it; legacy.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub comment: Field<String>,
    /// What a container of the image runs with.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub config: Field<ContainerConfig>,
    /// The container that the last step of the legacy builder committed.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub container: Field<String>,
    /// The configuration of that container.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub container_config: Field<ContainerConfig>,
    /// When it was made, RFC 3339 with nanoseconds, as it is written.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub created: Field<String>,
    /// The release of Docker that made it.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub docker_version: Field<String>,
    /// The steps that made it.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub history: Field<Vec<History>>,
    /// The operating system.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub os: Field<String>,
    /// Features the operating system must have.
    #[serde(rename = "os.features", default, skip_serializing_if = "Field::is_absent")]
    pub os_features: Field<Vec<String>>,
    /// The version of the operating system.
    #[serde(rename = "os.version", default, skip_serializing_if = "Field::is_absent")]
    pub os_version: Field<String>,
    /// The layers.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub rootfs: Field<RootFs>,
    /// The variant of the processor.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub variant: Field<String>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What a container runs with: Docker's `container.Config`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct ContainerConfig {
    /// The container's host name.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub hostname: Field<String>,
    /// The container's domain name.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub domainname: Field<String>,
    /// `user[:group]`, by name or number.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub user: Field<String>,
    /// Whether stdin is attached.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub attach_stdin: Field<bool>,
    /// Whether stdout is attached.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub attach_stdout: Field<bool>,
    /// Whether stderr is attached.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub attach_stderr: Field<bool>,
    /// Ports, `80/tcp`.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub exposed_ports: Field<GoSet>,
    /// Whether there is a terminal.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub tty: Field<bool>,
    /// Whether stdin is open.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub open_stdin: Field<bool>,
    /// Whether stdin is closed after the first client.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub stdin_once: Field<bool>,
    /// The environment, `NAME=value`.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub env: Field<Vec<String>>,
    /// The default arguments or command.
    #[serde(default, skip_serializing_if = "Field::is_absent", deserialize_with = "words")]
    pub cmd: Field<Vec<String>>,
    /// How health is checked.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub healthcheck: Field<Healthcheck>,
    /// Whether the command line is escaped already (Windows).
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub args_escaped: Field<bool>,
    /// The image the container was made from; legacy.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub image: Field<String>,
    /// Mount points.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub volumes: Field<GoSet>,
    /// The working directory.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub working_dir: Field<String>,
    /// The program.
    #[serde(default, skip_serializing_if = "Field::is_absent", deserialize_with = "words")]
    pub entrypoint: Field<Vec<String>>,
    /// Whether there is no network.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub network_disabled: Field<bool>,
    /// The hardware address.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub mac_address: Field<String>,
    /// Instructions for builds on this image.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub on_build: Field<Vec<String>>,
    /// Labels.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub labels: Field<BTreeMap<String, String>>,
    /// The signal that stops a container.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub stop_signal: Field<String>,
    /// Seconds until a stopped container is killed.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub stop_timeout: Field<i64>,
    /// The shell of the shell form.
    #[serde(default, skip_serializing_if = "Field::is_absent", deserialize_with = "words")]
    pub shell: Field<Vec<String>>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// How health is checked. Times are in nanoseconds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", command]`.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub test: Field<Vec<String>>,
    /// Time between checks.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub interval: Field<i64>,
    /// Time until a check has failed.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub timeout: Field<i64>,
    /// Time in which failures do not count.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub start_period: Field<i64>,
    /// Time between checks in the start period.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub start_interval: Field<i64>,
    /// Failures until a container is unhealthy.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub retries: Field<i64>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The layers of an image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The layers, lowest first; Docker omits an empty list.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub diff_ids: Field<Vec<DiffId>>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl RootFs {
    /// A root file system of these layers, lowest first.
    pub fn new(diff_ids: Vec<DiffId>) -> RootFs {
        RootFs { kind: "layers".into(), diff_ids: Field::Value(diff_ids), extra: Map::new() }
    }
}

/// One step that made an image.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct History {
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub created: Field<String>,
    /// By whom.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub author: Field<String>,
    /// The instruction.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub created_by: Field<String>,
    /// A remark, such as `buildkit.dockerfile.v0`.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub comment: Field<String>,
    /// Whether the step made no layer.
    #[serde(default, skip_serializing_if = "Field::is_absent")]
    pub empty_layer: Field<bool>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Docker takes one word for a list of one, as very old images have it.
fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Field<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        List(Vec<String>),
        One(String),
    }
    Ok(match Option::deserialize(deserializer)? {
        None => Field::Null,
        Some(Words::List(list)) => Field::Value(list),
        Some(Words::One(word)) => Field::Value(vec![word]),
    })
}

/// The order of the members of `config`. Both builders write the members of the whole in alphabetical order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOrder {
    /// As the legacy builder: Docker's `container.Config`.
    Legacy,
    /// As BuildKit: the OCI image specification's order, then Docker's additions.
    Buildkit,
}

/// The members of BuildKit's `config`, which differ in order from those of [`ContainerConfig`].
const BUILDKIT_ORDER: &[&str] = &[
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "ArgsEscaped",
    "Healthcheck",
    "OnBuild",
    "Shell",
];

impl ImageConfig {
    /// Parses a configuration.
    ///
    /// # Errors
    /// [`ConfigError::Parse`].
    pub fn parse(bytes: &[u8]) -> Result<ImageConfig, ConfigError> {
        json::from_bytes(bytes).map_err(ConfigError::Parse)
    }

    /// The bytes Docker would write: compact, members sorted, Go's escapes.
    ///
    /// # Errors
    /// [`ConfigError::Write`].
    pub fn to_bytes(&self, order: KeyOrder) -> Result<Vec<u8>, ConfigError> {
        let value = serde_json::to_value(self).map_err(ConfigError::Write)?;
        let Value::Object(mut top) = value else {
            return Ok(Vec::new());
        };
        top.sort_keys();
        if order == KeyOrder::Buildkit {
            for name in ["config", "container_config"] {
                if let Some(Value::Object(config)) = top.get_mut(name) {
                    let mut rest = std::mem::take(config);
                    for key in BUILDKIT_ORDER {
                        if let Some(value) = rest.shift_remove(*key) {
                            config.insert((*key).to_owned(), value);
                        }
                    }
                    config.extend(rest);
                }
            }
        }
        json::to_go_bytes(&top).map_err(ConfigError::Write)
    }

    /// The identifier of an image with a configuration of these bytes.
    pub fn id_of(bytes: &[u8]) -> ImageId {
        ImageId(Digest::of(bytes))
    }

    /// The layers, lowest first; none where there is no list.
    pub fn diff_ids(&self) -> &[DiffId] {
        self.rootfs.get().and_then(|rootfs| rootfs.diff_ids.get()).map_or(&[], Vec::as_slice)
    }

    /// The chain of all layers.
    pub fn chain_id(&self) -> Option<ChainId> {
        ChainId::of_stack(self.diff_ids())
    }

    /// The platform it is for.
    pub fn platform(&self) -> Platform {
        let text = |field: &Field<String>| field.get().cloned().unwrap_or_default();
        Platform {
            architecture: text(&self.architecture),
            os: text(&self.os),
            os_version: text(&self.os_version),
            os_features: self.os_features.get().cloned().unwrap_or_default(),
            variant: text(&self.variant),
        }
    }

    /// When it was made, if that is there and valid.
    pub fn created_time(&self) -> Option<OffsetDateTime> {
        OffsetDateTime::parse(self.created.get()?, &Rfc3339).ok()
    }

    /// Layers and non-empty steps must agree in number for a history to be shown beside layers.
    pub fn history_fits_layers(&self) -> bool {
        let steps = self
            .history
            .get()
            .map_or(0, |history| history.iter().filter(|step| step.empty_layer.get() != Some(&true)).count());
        steps == self.diff_ids().len()
    }
}

/// A time as Go's `time.RFC3339Nano` writes it: fraction without trailing zeros, `Z` for UTC.
pub fn go_time(time: OffsetDateTime) -> String {
    // `time` writes the fraction the same way; years beyond 9999 have no such form.
    time.format(&Rfc3339).unwrap_or_else(|_| "0001-01-01T00:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    const LEGACY: &str = r#"{"architecture":"amd64","config":{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":false,"AttachStderr":false,"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":["PATH=/bin","X=\u003ca\u0026b\u003e"],"Cmd":["sh"],"Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":5000000000},"ArgsEscaped":true,"Image":"sha256:0a","Volumes":null,"WorkingDir":"","Entrypoint":null,"OnBuild":[],"Labels":{"a":"1","b":"2"},"Future":{"x":[1,2.5]}},"container":"0123","created":"2024-01-02T03:04:05.678Z","docker_version":"20.10.24","history":[{"created":"2024-01-02T03:04:05Z","created_by":"/bin/sh -c #(nop) CMD","empty_layer":true}],"os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},"unknown":null}"#;
    const BUILDKIT: &str = r#"{"architecture":"amd64","config":{"User":"u","ExposedPorts":{"80/tcp":{}},"Env":["A=b"],"Entrypoint":["/e"],"Cmd":["c"],"Volumes":{"/v":{}},"WorkingDir":"/","Labels":{"l":"v"},"StopSignal":"SIGINT","ArgsEscaped":true,"OnBuild":["RUN x"],"Shell":["/bin/sh","-c"]},"created":"2024-01-02T03:04:05.678Z","history":[],"os":"linux","rootfs":{"type":"layers","diff_ids":null},"variant":"v2"}"#;

    #[test]
    fn round_trips_byte_for_byte() {
        for (text, order) in [(LEGACY, KeyOrder::Legacy), (BUILDKIT, KeyOrder::Buildkit)] {
            let config = ImageConfig::parse(text.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(config.to_bytes(order).unwrap()).unwrap(), text);
        }
    }

    /// What both builders of Docker 28.5 wrote for one Dockerfile with every instruction that changes a configuration.
    #[test]
    fn dockers_own_configurations_round_trip_byte_for_byte() {
        for (bytes, order) in [
            (&include_bytes!("testdata/docker28-legacy-config.json")[..], KeyOrder::Legacy),
            (&include_bytes!("testdata/docker28-buildkit-config.json")[..], KeyOrder::Buildkit),
        ] {
            let config = ImageConfig::parse(bytes).unwrap();
            assert_eq!(String::from_utf8(config.to_bytes(order).unwrap()).unwrap(), String::from_utf8_lossy(bytes));
            assert!(config.history_fits_layers());
            let inner = config.config.get().unwrap();
            assert_eq!(inner.healthcheck.get().unwrap().start_interval, Field::Value(2_000_000_000));
            assert!(inner.extra.is_empty() && config.extra.is_empty(), "{:?} {:?}", inner.extra, config.extra);
        }
    }

    #[test]
    fn null_empty_and_absent_stay_apart() {
        let config = ImageConfig::parse(LEGACY.as_bytes()).unwrap();
        let c = config.config.get().unwrap();
        assert_eq!(c.entrypoint, Field::Null);
        assert_eq!(c.on_build, Field::Value(vec![]));
        assert_eq!(c.shell, Field::Absent);
        assert_eq!(config.diff_ids().len(), 1);
        assert!(!config.history_fits_layers());
        assert_eq!(go_time(config.created_time().unwrap()), "2024-01-02T03:04:05.678Z");
    }

    #[test]
    fn a_word_is_a_list_of_one() {
        let config = ImageConfig::parse(br#"{"config":{"Cmd":"sh"}}"#).unwrap();
        assert_eq!(config.config.get().unwrap().cmd, Field::Value(vec!["sh".to_owned()]));
        assert!(ImageConfig::parse(b"[]").is_err());
        assert!(ImageConfig::parse(br#"{"rootfs":{"type":"layers","diff_ids":["sha256:../x"]}}"#).is_err());
    }
}
