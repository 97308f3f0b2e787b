//! The image that a stage is making: its configuration and history, as each builder writes them.

use std::collections::BTreeMap;

use rbuild_image::config::{ContainerConfig, Healthcheck, History, ImageConfig};
use rbuild_image::json::Field;
use rbuild_image::platform::Platform;
use serde_json::json;

use crate::journal::Surroundings;

/// PATH of an image that sets none (`oci.DefaultPathEnv`).
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What BuildKit writes as comment into each line of history (`buildkit.dockerfile.v0`).
const BUILDKIT_COMMENT: &str = "buildkit.dockerfile.v0";

/// The configuration of an image under construction. Layers are counted elsewhere: only history knows which
/// instruction made one.
#[derive(Clone, Debug, Default)]
pub(crate) struct StageImage {
    /// Everything but the layers.
    pub(crate) config: ImageConfig,
}

impl StageImage {
    /// An image without a base.
    pub(crate) fn scratch(platform: &Platform) -> StageImage {
        let mut config = ImageConfig::default();
        let platform = platform.normalized();
        config.architecture.set(platform.architecture);
        config.os.set(platform.os);
        if !platform.variant.is_empty() {
            config.variant.set(platform.variant);
        }
        config.config.set(ContainerConfig::default());
        StageImage { config }
    }

    /// The image that a base image begins.
    pub(crate) fn from_base(base: &ImageConfig) -> StageImage {
        let mut config = base.clone();
        config.config.get_or_default();
        StageImage { config }
    }

    /// Drops what BuildKit's image format has no place for.
    pub(crate) fn keep_buildkit_members(&mut self) {
        let top = &mut self.config;
        (top.container, top.container_config) = (Field::Absent, Field::Absent);
        (top.docker_version, top.comment) = (Field::Absent, Field::Absent);
        top.extra.clear();
        let run = self.run_mut();
        for text in [&mut run.hostname, &mut run.domainname, &mut run.image, &mut run.mac_address] {
            *text = Field::Absent;
        }
        for flag in [
            &mut run.attach_stdin,
            &mut run.attach_stdout,
            &mut run.attach_stderr,
            &mut run.tty,
            &mut run.open_stdin,
            &mut run.stdin_once,
            &mut run.network_disabled,
        ] {
            *flag = Field::Absent;
        }
    }

    pub(crate) fn run(&self) -> ContainerConfig {
        self.config.config.get().cloned().unwrap_or_default()
    }

    pub(crate) fn run_mut(&mut self) -> &mut ContainerConfig {
        self.config.config.get_or_default()
    }

    /// The environment, `NAME=value` each.
    pub(crate) fn env(&self) -> &[String] {
        self.config.config.get().and_then(|run| run.env.get()).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn env_var(&self, name: &str) -> Option<&str> {
        self.env().iter().find_map(|pair| split_env(pair).filter(|(key, _)| *key == name).map(|(_, value)| value))
    }

    /// Sets a variable where it stands, or adds it at the end.
    pub(crate) fn set_env(&mut self, name: &str, value: &str) {
        let env = self.run_mut().env.get_or_default();
        let pair = format!("{name}={value}");
        match env.iter_mut().find(|old| old.split('=').next() == Some(name)) {
            Some(old) => *old = pair,
            None => env.push(pair),
        }
    }

    /// Sets PATH if it is not set.
    pub(crate) fn ensure_path(&mut self) {
        if self.env_var("PATH").is_none() {
            self.set_env("PATH", DEFAULT_PATH);
        }
    }

    pub(crate) fn user(&self) -> &str {
        self.text(|run| &run.user)
    }

    /// What a command finds; the values of ARG are not part of the image.
    pub(crate) fn surroundings(&self) -> Surroundings {
        Surroundings::of(&self.config)
    }

    pub(crate) fn working_dir(&self) -> &str {
        self.text(|run| &run.working_dir)
    }

    fn text(&self, field: impl Fn(&ContainerConfig) -> &Field<String>) -> &str {
        self.config.config.get().and_then(|run| field(run).get()).map_or("", String::as_str)
    }

    /// Whether a shell was chosen.
    pub(crate) fn has_shell(&self) -> bool {
        self.config.config.get().and_then(|run| run.shell.get()).is_some_and(|shell| !shell.is_empty())
    }

    /// What a container of the image runs if it is not told: ENTRYPOINT, or CMD where there is none.
    pub(crate) fn default_command(&self) -> &[String] {
        let list = |field: fn(&ContainerConfig) -> &Field<Vec<String>>| {
            self.config.config.get().and_then(|run| field(run).get()).map_or(&[][..], Vec::as_slice)
        };
        match list(|run| &run.entrypoint) {
            [] => list(|run| &run.cmd),
            entrypoint => entrypoint,
        }
    }

    /// The shell that the shell form of an instruction runs with.
    pub(crate) fn shell(&self) -> Vec<String> {
        match self.config.config.get().and_then(|run| run.shell.get()) {
            Some(shell) if !shell.is_empty() => shell.clone(),
            _ => vec!["/bin/sh".to_owned(), "-c".to_owned()],
        }
    }

    pub(crate) fn add_label(&mut self, name: &str, value: &str) {
        self.run_mut().labels.get_or_default().insert(name.to_owned(), value.to_owned());
    }

    pub(crate) fn expose(&mut self, ports: &[String]) {
        let exposed = self.run_mut().exposed_ports.get_or_default();
        exposed.extend(ports.iter().map(|port| (port.clone(), json!({}))));
    }

    /// Adds volumes.
    ///
    /// # Errors
    /// Docker's text for an empty one.
    pub(crate) fn add_volumes(&mut self, volumes: &[String]) -> Result<(), String> {
        let set = self.run_mut().volumes.get_or_default();
        for volume in volumes {
            if volume.is_empty() {
                return Err("VOLUME specified can not be an empty string".to_owned());
            }
            set.insert(volume.clone(), json!({}));
        }
        Ok(())
    }

    pub(crate) fn volumes(&self) -> Vec<String> {
        let volumes = self.config.config.get().and_then(|run| run.volumes.get());
        volumes.map(|volumes| volumes.keys().cloned().collect()).unwrap_or_default()
    }

    pub(crate) fn triggers(&self) -> Vec<String> {
        self.config.config.get().and_then(|run| run.on_build.get()).cloned().unwrap_or_default()
    }

    pub(crate) fn clear_triggers(&mut self) {
        self.run_mut().on_build = Field::Null;
    }

    pub(crate) fn set_author(&mut self, author: &str) {
        self.config.author.set(author.to_owned());
    }

    pub(crate) fn push_history(&mut self, history: History) {
        self.config.history.get_or_default().push(history);
    }

    /// Adds a line of history as BuildKit does; `created` is filled in when the image is written.
    pub(crate) fn push_buildkit_history(&mut self, created_by: String, layer: bool) {
        let mut history = History::default();
        history.created_by.set(created_by);
        history.comment.set(BUILDKIT_COMMENT.to_owned());
        if !layer {
            history.empty_layer.set(true);
        }
        self.push_history(history);
    }
}

/// Name and value of `NAME=value`; the value is empty where there is no `=`.
pub(crate) fn split_env(pair: &str) -> Option<(&str, &str)> {
    Some(pair.split_once('=').unwrap_or((pair, "")))
}

/// Fills what a health check leaves open from the one before it, as Docker does when it makes a container of an image.
pub(crate) fn inherit_healthcheck(check: &mut Healthcheck, before: &Healthcheck) {
    let fill = |field: &mut Field<i64>, before: &Field<i64>| {
        if field.get().is_none_or(|value| *value == 0) && before.get().is_some_and(|value| *value != 0) {
            *field = *before;
        }
    };
    fill(&mut check.interval, &before.interval);
    fill(&mut check.timeout, &before.timeout);
    fill(&mut check.start_period, &before.start_period);
    fill(&mut check.start_interval, &before.start_interval);
    fill(&mut check.retries, &before.retries);
    if check.test.get().is_none_or(Vec::is_empty) {
        check.test = before.test.clone();
    }
}

/// A health check from its parts, as both builders store it. Times in nanoseconds; parts that are 0 are left out.
pub(crate) fn healthcheck(test: Vec<String>, times: HealthTimes, retries: i64) -> Healthcheck {
    let mut check = Healthcheck::default();
    check.test.set(test);
    let set = |field: &mut Field<i64>, value: i64| {
        if value != 0 {
            field.set(value);
        }
    };
    set(&mut check.interval, times.interval);
    set(&mut check.timeout, times.timeout);
    set(&mut check.start_period, times.start_period);
    set(&mut check.start_interval, times.start_interval);
    set(&mut check.retries, retries);
    check
}

/// Times of a health check, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HealthTimes {
    /// Between two checks.
    pub(crate) interval: i64,
    /// Until a check has failed.
    pub(crate) timeout: i64,
    /// In which failures do not count.
    pub(crate) start_period: i64,
    /// Between two checks in the start period.
    pub(crate) start_interval: i64,
}

/// Variables for expanding words: later ones win.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Variables(BTreeMap<String, String>);

impl Variables {
    pub(crate) fn from_env(env: &[String]) -> Variables {
        let mut variables = Variables::default();
        for (name, value) in env.iter().filter_map(|pair| split_env(pair)) {
            // Docker's lookup takes the first of a name.
            variables.0.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
        variables
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    pub(crate) fn set_default(&mut self, name: &str, value: &str) {
        self.0.entry(name.to_owned()).or_insert_with(|| value.to_owned());
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}
