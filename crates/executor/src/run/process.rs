//! What a container of an image runs: its configuration, and what the caller puts in the place of it.

use rbuild_image::config::ContainerConfig;
use rbuild_image::json::Field;

use super::error::RunError;
use super::options::{RunMount, RunOptions};
use crate::plan::go;
use crate::plan::image::DEFAULT_PATH;

/// A command and its surroundings. Made from an image here; whoever enters a kept step makes one of that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) argv: Vec<String>,
    /// `NAME=value`; HOME is added where it is missing.
    pub(crate) env: Vec<String>,
    /// Absolute; made if it is missing.
    pub(crate) cwd: String,
    /// Value of USER.
    pub(crate) user: String,
    /// Those in which others lie come first.
    pub(crate) mounts: Vec<RunMount>,
    /// Places that can be written even if the root cannot.
    pub(crate) volumes: Vec<String>,
    pub(crate) hostname: String,
    /// The root cannot be written.
    pub(crate) read_only: bool,
    /// What is written to the root stays.
    pub(crate) kept: bool,
}

impl Process {
    /// Whether volumes are no part of the root.
    pub(super) fn mounts_volumes(&self) -> bool {
        self.read_only || self.kept
    }
}

/// What `docker run` would run.
pub(super) fn of_image(
    config: &ContainerConfig,
    options: &RunOptions,
    hostname: String,
    terminal: bool,
) -> Result<Process, RunError> {
    let cwd = match options.working_dir.as_deref().or(text(&config.working_dir)) {
        None => "/".to_owned(),
        Some(path) if path.starts_with('/') => go::join_path("/", path),
        Some(path) => {
            return Err(RunError::refused(format!("the working directory `{path}` is not an absolute path")));
        }
    };
    let mounts = mounts(&options.mounts)?;
    let mut volumes: Vec<String> = config.volumes.get().into_iter().flat_map(|set| set.keys().cloned()).collect();
    volumes.extend(options.mounts.iter().filter_map(|mount| match mount {
        RunMount::Volume { target } => Some(target.clone()),
        _ => None,
    }));
    let mut volumes: Vec<String> = volumes.iter().map(|volume| go::join_path("/", volume)).collect();
    volumes.retain(|volume| mounts.iter().all(|mount| mount.target() != volume));
    volumes.sort();
    volumes.dedup();
    Ok(Process {
        argv: argv(config, options)?,
        env: env(config.env.get().map_or(&[], Vec::as_slice), &options.env, &hostname, terminal),
        cwd,
        user: options.user.as_deref().or(text(&config.user)).unwrap_or_default().to_owned(),
        mounts,
        volumes,
        hostname,
        read_only: options.read_only,
        kept: false,
    })
}

/// What is run in a working container: what the caller says, with the variables, the user and the working directory of
/// its configuration. What is written to the places of its volumes stays, as in a build.
pub(super) fn of_container(
    config: &ContainerConfig,
    options: &RunOptions,
    hostname: String,
    terminal: bool,
) -> Result<Process, RunError> {
    let mut config = config.clone();
    (config.entrypoint, config.cmd, config.volumes) = (Field::Absent, Field::Absent, Field::Absent);
    if options.command.is_empty() && options.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        return Err(RunError::Refused {
            message: "no command specified".to_owned(),
            hint: Some("name one after the container: what the image would run is not run in it".to_owned()),
        });
    }
    Ok(Process { kept: true, ..of_image(&config, options, hostname, terminal)? })
}

fn text(field: &rbuild_image::json::Field<String>) -> Option<&str> {
    field.get().map(String::as_str).filter(|text| !text.is_empty())
}

/// ENTRYPOINT and CMD with what replaces them: an entry point of the caller's does away with the image's CMD.
fn argv(config: &ContainerConfig, options: &RunOptions) -> Result<Vec<String>, RunError> {
    let list = |field: &rbuild_image::json::Field<Vec<String>>| field.get().cloned().unwrap_or_default();
    let (mut argv, default) = match &options.entrypoint {
        Some(entrypoint) => (entrypoint.clone(), Vec::new()),
        None => (list(&config.entrypoint), list(&config.cmd)),
    };
    argv.extend(if options.command.is_empty() { default } else { options.command.clone() });
    if argv.is_empty() {
        return Err(RunError::Refused {
            message: "no command specified, and the image has none".to_owned(),
            hint: Some("name one after the image".to_owned()),
        });
    }
    Ok(argv)
}

/// Docker's own variables, those of the caller, and those of the image that neither replaces.
fn env(image: &[String], given: &[(String, Option<String>)], hostname: &str, terminal: bool) -> Vec<String> {
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let mut own = vec![format!("PATH={DEFAULT_PATH}"), format!("HOSTNAME={hostname}")];
    if terminal {
        own.push("TERM=xterm".to_owned());
    }
    let set = |env: &mut Vec<String>, pair: String| {
        let key = name(&pair);
        match env.iter_mut().find(|old| name(old) == key) {
            Some(old) => *old = pair,
            None => env.push(pair),
        }
    };
    for (name, value) in given.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
        set(&mut own, format!("{name}={value}"));
    }
    let image: Vec<&String> = image.iter().filter(|pair| given.iter().all(|(given, _)| *given != name(pair))).collect();
    for pair in image {
        set(&mut own, pair.clone());
    }
    // The last word on a variable counts.
    let gone = |key: &str| given.iter().rev().find(|(name, _)| name == key).is_some_and(|(_, value)| value.is_none());
    own.retain(|pair| !gone(&name(pair)));
    own
}

/// The mounts with clean targets, those in which others lie first.
fn mounts(given: &[RunMount]) -> Result<Vec<RunMount>, RunError> {
    let mut mounts = Vec::new();
    let mut targets = Vec::new();
    for mount in given {
        let mut mount = mount.clone();
        let (RunMount::Bind { target, .. } | RunMount::Tmpfs { target, .. } | RunMount::Volume { target }) = &mut mount;
        if !target.starts_with('/') {
            return Err(RunError::refused(format!("the mount point `{target}` is not an absolute path")));
        }
        *target = go::join_path("/", target);
        if target == "/" {
            return Err(RunError::refused("nothing can be mounted on `/`"));
        }
        if targets.contains(target) {
            return Err(RunError::refused(format!("duplicate mount point: {target}")));
        }
        targets.push(target.clone());
        if !matches!(mount, RunMount::Volume { .. }) {
            mounts.push(mount);
        }
    }
    mounts.sort_by_key(|mount| mount.target().matches('/').count());
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> ContainerConfig {
        serde_json::from_str(json).unwrap()
    }

    fn options(change: impl FnOnce(&mut RunOptions)) -> RunOptions {
        let mut options = RunOptions::new("/store", "image");
        change(&mut options);
        options
    }

    fn process(image: &str, change: impl FnOnce(&mut RunOptions)) -> Result<Process, RunError> {
        of_image(&config(image), &options(change), "h".to_owned(), false)
    }

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn entry_points_and_commands() {
        const BOTH: &str = r#"{"Entrypoint":["e","1"],"Cmd":["c"]}"#;
        let argv = |image, entrypoint: Option<&[&str]>, command: &[&str]| {
            process(image, |options| {
                options.entrypoint = entrypoint.map(words);
                options.command = words(command);
            })
            .map(|process| process.argv.join(" "))
        };
        assert_eq!(argv(BOTH, None, &[]).unwrap(), "e 1 c");
        assert_eq!(argv(BOTH, None, &["x", "y"]).unwrap(), "e 1 x y");
        assert_eq!(argv(BOTH, Some(&["n"]), &[]).unwrap(), "n");
        assert_eq!(argv(BOTH, Some(&["n"]), &["x"]).unwrap(), "n x");
        assert_eq!(argv(BOTH, Some(&[]), &["x"]).unwrap(), "x");
        assert_eq!(argv(r#"{"Cmd":["/bin/sh","-c","a b"]}"#, None, &[]).unwrap(), "/bin/sh -c a b");
        for (image, entrypoint) in [("{}", None), (BOTH, Some(&[] as &[&str]))] {
            assert_eq!(argv(image, entrypoint, &[]).unwrap_err().exit_code(), 125);
        }
    }

    #[test]
    fn variables() {
        let image = words(&["PATH=/p", "A=1", "B=2", "E="]);
        let given = |list: &[(&str, Option<&str>)]| -> Vec<(String, Option<String>)> {
            list.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect()
        };
        assert_eq!(
            env(&image, &given(&[("A", Some("x")), ("C", Some("=")), ("B", None)]), "h", false),
            ["PATH=/p", "HOSTNAME=h", "A=x", "C==", "E="]
        );
        assert_eq!(
            env(&[], &given(&[("A", Some("1")), ("A", Some("2")), ("TERM", Some("dumb"))]), "h", true),
            [&format!("PATH={DEFAULT_PATH}"), "HOSTNAME=h", "TERM=dumb", "A=2"]
        );
        assert_eq!(env(&[], &given(&[("A", Some("1")), ("A", None), ("PATH", None)]), "h", false), ["HOSTNAME=h"]);
    }

    #[test]
    fn directories_and_users() {
        let found = process(r#"{"Cmd":["x"],"WorkingDir":"/a/","User":"web"}"#, |_| {}).unwrap();
        assert_eq!((found.cwd.as_str(), found.user.as_str()), ("/a", "web"));
        let found = process(r#"{"Cmd":["x"],"WorkingDir":"/a","User":"web"}"#, |options| {
            options.working_dir = Some("/b/../c".to_owned());
            options.user = Some("7:8".to_owned());
        })
        .unwrap();
        assert_eq!((found.cwd.as_str(), found.user.as_str()), ("/c", "7:8"));
        assert_eq!(process("{}", |_| {}).unwrap_err().exit_code(), 125);
        let refused = process(r#"{"Cmd":["x"]}"#, |options| options.working_dir = Some("b".to_owned())).unwrap_err();
        assert!(refused.to_string().contains("absolute"), "{refused}");
    }

    #[test]
    fn what_is_mounted() {
        let volume = |target: &str| RunMount::Volume { target: target.to_owned() };
        let bind = |target: &str| RunMount::Bind {
            source: "/s".into(),
            target: target.to_owned(),
            read_only: false,
            create: false,
        };
        let with = |mounts: Vec<RunMount>| {
            process(r#"{"Cmd":["x"],"Volumes":{"/v":{},"/w/":{}}}"#, |options| options.mounts = mounts)
        };
        let found = with(vec![bind("/a/b/c"), bind("/v/"), volume("/a"), volume("/n")]).unwrap();
        assert_eq!(found.mounts.iter().map(RunMount::target).collect::<Vec<_>>(), ["/v", "/a/b/c"]);
        assert_eq!(found.volumes, ["/a", "/n", "/w"]);
        for bad in [vec![bind("a")], vec![bind("/")], vec![bind("/x"), volume("/x/")], vec![bind("/x/..")]] {
            assert_eq!(with(bad).unwrap_err().exit_code(), 125);
        }
    }
}
