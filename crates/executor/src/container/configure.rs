//! Changing the configuration of a working container.

use rbuild_image::config::ContainerConfig;
use rbuild_image::json::Field;
use rbuild_logfmt::event::Builder;
use rbuild_parser::parse_duration;
use serde_json::json;

use super::state::State;
use crate::plan::image::{HealthTimes, StageImage, healthcheck};
use crate::plan::{check_signal, go, ports};
use crate::run::RunError;

/// One change of what an image of a working container will say. What ends in `None` or is empty is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigChange {
    /// Sets a variable. `$NAME` and `${NAME}` in the value stand for variables of the container; of one that it does not
    /// have the text stays as it is.
    Env {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// Removes a variable, or all of them.
    RemoveEnv(Option<String>),
    /// Sets a label.
    Label {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// Removes a label, or all of them.
    RemoveLabel(Option<String>),
    /// CMD.
    Cmd(Vec<String>),
    /// ENTRYPOINT; CMD stays.
    Entrypoint(Vec<String>),
    /// USER.
    User(String),
    /// WORKDIR: absolute, or relative to the one before.
    WorkingDir(String),
    /// EXPOSE: `80`, `53/udp`, `8000-8002`.
    Port(String),
    /// No longer EXPOSE, or nothing of it.
    RemovePort(Option<String>),
    /// VOLUME.
    Volume(String),
    /// No longer VOLUME, or nothing of it.
    RemoveVolume(Option<String>),
    /// STOPSIGNAL.
    StopSignal(String),
    /// SHELL.
    Shell(Vec<String>),
    /// ONBUILD: adds an instruction.
    OnBuild(String),
    /// Removes all ONBUILD instructions.
    RemoveOnBuild,
    /// HEALTHCHECK.
    Healthcheck(HealthcheckChange),
    /// Who made the image.
    Author(String),
    /// What history says of how the layer was made.
    CreatedBy(String),
    /// What history says of it besides.
    Comment(String),
    /// The processor that the image is for.
    Architecture(String),
    /// Its variant.
    Variant(String),
    /// The operating system that the image is for.
    Os(String),
}

/// A health check, or parts of one; the others stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthcheckChange {
    /// `["NONE"]`, `["CMD", program, argument…]` or `["CMD-SHELL", command]`; an empty list removes all of it.
    pub test: Option<Vec<String>>,
    /// Time between two checks, as `30s` or `1m30s`.
    pub interval: Option<String>,
    /// Time until a check has failed.
    pub timeout: Option<String>,
    /// Time in which failures do not count.
    pub start_period: Option<String>,
    /// Time between two checks in that.
    pub start_interval: Option<String>,
    /// Failures until the container is unhealthy.
    pub retries: Option<i64>,
}

/// Makes one change.
pub(super) fn apply(state: &mut State, change: &ConfigChange) -> Result<(), RunError> {
    let mut image = StageImage { config: std::mem::take(&mut state.config) };
    let done = apply_to_image(&mut image, change);
    state.config = image.config;
    match change {
        ConfigChange::CreatedBy(text) => state.created_by = text_or_none(text),
        ConfigChange::Comment(text) => state.comment = text_or_none(text),
        _ => {}
    }
    done
}

fn text_or_none(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn apply_to_image(image: &mut StageImage, change: &ConfigChange) -> Result<(), RunError> {
    match change {
        ConfigChange::Env { name, value } => {
            let value = expand(value, &|name| image.env_var(name).map(str::to_owned));
            image.set_env(check_key("variable", name)?, &value);
        }
        ConfigChange::RemoveEnv(name) => {
            let named = |pair: &String| pair.split('=').next() == name.as_deref();
            image.run_mut().env.get_or_default().retain(|pair| name.is_some() && !named(pair));
        }
        ConfigChange::Label { name, value } => image.add_label(check_key("label", name)?, value),
        ConfigChange::RemoveLabel(name) => {
            let run = image.run_mut();
            forget(&mut run.labels, |label, _| name.is_some() && Some(label) != name.as_ref());
        }
        ConfigChange::Cmd(words) => set_words(&mut image.run_mut().cmd, words),
        ConfigChange::Entrypoint(words) => set_words(&mut image.run_mut().entrypoint, words),
        ConfigChange::Shell(words) => set_words(&mut image.run_mut().shell, words),
        ConfigChange::User(user) => set_text(&mut image.run_mut().user, user),
        ConfigChange::StopSignal(signal) => {
            if !signal.is_empty() {
                check_signal(signal).map_err(RunError::refused)?;
            }
            set_text(&mut image.run_mut().stop_signal, signal);
        }
        ConfigChange::WorkingDir(path) => {
            let before = image.working_dir().to_owned();
            let path = match (path.as_str(), path.starts_with('/')) {
                ("", _) => String::new(),
                (path, true) => go::join_path("/", path),
                (path, false) => go::join_path("/", &go::join_path(&before, path)),
            };
            set_text(&mut image.run_mut().working_dir, &path);
        }
        ConfigChange::Port(port) => {
            let ports = parse_port(port)?;
            image.expose(&ports);
        }
        ConfigChange::RemovePort(port) => {
            let gone = port.as_deref().map(parse_port).transpose()?;
            forget(&mut image.run_mut().exposed_ports, |port, _| {
                gone.as_ref().is_some_and(|gone| !gone.contains(port))
            });
        }
        ConfigChange::Volume(path) => {
            if !path.starts_with('/') {
                return Err(RunError::refused(format!("the volume `{path}` is not an absolute path")));
            }
            image.run_mut().volumes.get_or_default().insert(path.clone(), json!({}));
        }
        ConfigChange::RemoveVolume(path) => {
            forget(&mut image.run_mut().volumes, |volume, _| path.is_some() && Some(volume) != path.as_ref());
        }
        ConfigChange::OnBuild(instruction) => image.run_mut().on_build.get_or_default().push(instruction.clone()),
        ConfigChange::RemoveOnBuild => image.run_mut().on_build = Field::Absent,
        ConfigChange::Healthcheck(change) => set_healthcheck(image.run_mut(), change)?,
        ConfigChange::Author(author) => set_text(&mut image.config.author, author),
        ConfigChange::Architecture(name) => image.config.architecture.set(needed("architecture", name)?),
        ConfigChange::Os(name) => image.config.os.set(needed("operating system", name)?),
        ConfigChange::Variant(name) => set_text(&mut image.config.variant, name),
        ConfigChange::CreatedBy(_) | ConfigChange::Comment(_) => {}
    }
    Ok(())
}

fn check_key<'a>(what: &str, name: &'a str) -> Result<&'a str, RunError> {
    match name {
        "" => Err(RunError::refused(format!("a {what} needs a name"))),
        name if name.contains('=') => Err(RunError::refused(format!("`{name}` is no name of a {what}"))),
        name => Ok(name),
    }
}

fn needed(what: &str, text: &str) -> Result<String, RunError> {
    text_or_none(text).ok_or_else(|| RunError::refused(format!("an image needs a name of its {what}")))
}

fn set_text(field: &mut Field<String>, text: &str) {
    *field = if text.is_empty() { Field::Absent } else { Field::Value(text.to_owned()) };
}

fn set_words(field: &mut Field<Vec<String>>, words: &[String]) {
    *field = if words.is_empty() { Field::Absent } else { Field::Value(words.to_vec()) };
}

/// Keeps what is to be kept of a map; an empty one goes itself.
fn forget<V>(field: &mut Field<std::collections::BTreeMap<String, V>>, keep: impl Fn(&String, &mut V) -> bool) {
    if let Some(map) = field.get_mut() {
        map.retain(keep);
        if map.is_empty() {
            *field = Field::Absent;
        }
    }
}

fn parse_port(port: &str) -> Result<Vec<String>, RunError> {
    ports::parse(&[port.to_owned()], Builder::Buildkit, &mut |_| ()).map_err(RunError::refused)
}

fn set_healthcheck(run: &mut ContainerConfig, change: &HealthcheckChange) -> Result<(), RunError> {
    if change.test.as_ref().is_some_and(Vec::is_empty) {
        run.healthcheck = Field::Absent;
        return Ok(());
    }
    let before = run.healthcheck.get().cloned().unwrap_or_default();
    let test = change.test.clone().or_else(|| before.test.get().cloned()).unwrap_or_default();
    if test.first().is_some_and(|kind| kind == "NONE") {
        run.healthcheck.set(healthcheck(vec!["NONE".to_owned()], HealthTimes::default(), 0));
        return Ok(());
    }
    if test.is_empty() {
        return Err(RunError::Refused {
            message: "there is no health check whose times could be set".to_owned(),
            hint: Some("give its command, too".to_owned()),
        });
    }
    let pick = |new: &Option<String>, old: &Field<i64>| match new {
        None => Ok(old.get().copied().unwrap_or_default()),
        Some(text) => match parse_duration(text) {
            Ok(time) if time >= 0 => Ok(time),
            _ => Err(RunError::refused(format!("`{text}` is no time; write 30s or 1m30s"))),
        },
    };
    let times = HealthTimes {
        interval: pick(&change.interval, &before.interval)?,
        timeout: pick(&change.timeout, &before.timeout)?,
        start_period: pick(&change.start_period, &before.start_period)?,
        start_interval: pick(&change.start_interval, &before.start_interval)?,
    };
    let retries = change.retries.or_else(|| before.retries.get().copied()).unwrap_or_default();
    run.healthcheck.set(healthcheck(test, times, retries));
    Ok(())
}

/// Puts variables in the place of `$NAME` and `${NAME}`.
fn expand(text: &str, value: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let (name, whole) = match from[1..].strip_prefix('{') {
            Some(inner) => match inner.find('}') {
                Some(end) => (&inner[..end], &from[..end + 3]),
                None => ("", &from[..2]),
            },
            None => {
                let end = from[1..].find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(from.len() - 1);
                (&from[1..=end], &from[..=end])
            }
        };
        match Some(name).filter(|name| !name.is_empty()).and_then(value) {
            Some(value) => out.push_str(&value),
            None => out.push_str(whole),
        }
        rest = &from[whole.len()..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(before: &str, changes: &[ConfigChange]) -> Result<serde_json::Value, RunError> {
        let config = serde_json::from_str(&format!(r#"{{"config":{before}}}"#)).unwrap();
        let mut image = StageImage { config };
        for change in changes {
            apply_to_image(&mut image, change)?;
        }
        Ok(serde_json::to_value(image.run()).unwrap())
    }

    fn text(text: &str) -> String {
        text.to_owned()
    }

    #[test]
    fn variables_are_put_in() {
        let value = |name: &str| (name == "A" || name == "PATH").then(|| format!("<{name}>"));
        for (given, wanted) in [
            ("", ""),
            ("$A", "<A>"),
            ("x${A}y$PATH:/z", "x<A>y<PATH>:/z"),
            ("$B ${B} $ ${ ${A $5 $$A é$Aé", "$B ${B} $ ${ ${A $5 $<A> é<A>é"),
        ] {
            assert_eq!(expand(given, &value), wanted, "{given}");
        }
    }

    #[test]
    fn what_is_set_and_removed() {
        let env = |name: &str, value: &str| ConfigChange::Env { name: text(name), value: text(value) };
        let found = changed(
            r#"{"Env":["PATH=/p","A=1"],"Labels":{"l":"1","m":"2"},"Volumes":{"/v":{}},"ExposedPorts":{"80/tcp":{}}}"#,
            &[
                env("PATH", "/q:$PATH"),
                ConfigChange::RemoveEnv(Some(text("A"))),
                ConfigChange::RemoveLabel(Some(text("l"))),
                ConfigChange::RemoveVolume(Some(text("/v"))),
                ConfigChange::RemovePort(None),
                ConfigChange::Port(text("8000-8001/udp")),
                ConfigChange::WorkingDir(text("a")),
                ConfigChange::WorkingDir(text("../b/")),
                ConfigChange::Cmd(vec![text("x")]),
                ConfigChange::Entrypoint(Vec::new()),
            ],
        );
        assert_eq!(
            found.unwrap(),
            json!({"Env": ["PATH=/q:/p"], "Labels": {"m": "2"}, "ExposedPorts": {"8000/udp": {}, "8001/udp": {}},
                "WorkingDir": "/b", "Cmd": ["x"]})
        );
        assert!(changed("{}", &[env("", "1")]).is_err());
        assert!(changed("{}", &[ConfigChange::Volume(text("v"))]).is_err());
        assert!(changed("{}", &[ConfigChange::StopSignal(text("v"))]).is_err());
        assert!(changed("{}", &[ConfigChange::Port(text("http"))]).is_err());
    }

    #[test]
    fn health() {
        let timeout = Some(text("2s"));
        let part = HealthcheckChange { retries: Some(3), timeout, ..HealthcheckChange::default() };
        let test = HealthcheckChange { test: Some(vec![text("CMD"), text("x")]), ..HealthcheckChange::default() };
        let none = HealthcheckChange { test: Some(vec![text("NONE")]), ..HealthcheckChange::default() };
        let before = r#"{"Healthcheck":{"Test":["CMD-SHELL","a"],"Interval":5}}"#;
        for (change, wanted) in [
            (part, json!({"Test": ["CMD-SHELL", "a"], "Interval": 5, "Timeout": 2_000_000_000, "Retries": 3})),
            (test, json!({"Test": ["CMD", "x"], "Interval": 5})),
            (none, json!({"Test": ["NONE"]})),
        ] {
            assert_eq!(changed(before, &[ConfigChange::Healthcheck(change)]).unwrap()["Healthcheck"], wanted);
        }
    }
}
