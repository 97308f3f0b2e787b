//! Working containers: `rbuild from`, `copy`, `add`, `config`, `commit`, `rm` and `containers`.

use rbuild_executor::container::{
    self, CommitOptions, ConfigChange, ContainerSummary, CopyOptions, CreateOptions, HealthcheckChange,
};
use rbuild_executor::{Isolation, RunControl, RunError, RunFact, StoreOptions};
use serde_json::json;
use time::OffsetDateTime;

use super::run::{pull_policy, told};
use crate::args::{
    Arity, CommitArgs, ConfigArgs, ContainersArgs, CopyArgs, Environment, FromArgs, RmArgs, check_command_arity, words,
};
use crate::convert::{self, registry_access, store_options};
use crate::error::CliError;
use crate::output::Output;
use crate::{human, results, signals};

/// Begins a working container.
pub(crate) fn from(args: FromArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    check_command_arity("from", "[OPTIONS] IMAGE|scratch", Arity::Exactly(1), args.images.len())?;
    let store = store_options(&args.common, environment)?;
    let mut options = CreateOptions::new(store.root, args.images.concat());
    options.registry = registry_access(&args.registry, environment);
    options.name = args.name;
    options.platform = args.platform;
    options.pull = pull_policy(args.pull);
    options.isolation = convert::isolation(args.isolation);
    let created = act(output, args.quiet, |control, observer| container::create(options, control, observer))?;
    if !created.triggers.is_empty() {
        output.err("rbuild: note: ONBUILD instructions of the image are not done, and are not passed on:\n");
        output.err(created.triggers.iter().map(|trigger| format!("  {trigger}\n")).collect::<String>());
    }
    output.out(created.name + "\n");
    Ok(())
}

/// Copies into a working container; `add` unpacks archives and fetches addresses.
pub(crate) fn copy(args: CopyArgs, add: bool, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    let command = if add { "add" } else { "copy" };
    check_command_arity(command, "[OPTIONS] CONTAINER SRC... [DEST]", Arity::AtLeast(2), args.words.len())?;
    let store = store_options(&args.common, environment)?;
    let mut sources = args.words;
    let mut options = CopyOptions::new(store.root, sources.remove(0));
    options.registry = registry_access(&args.registry, environment);
    options.dest = if sources.len() > 1 { sources.pop() } else { None };
    options.sources = sources;
    options.from = args.from;
    options.context_dir = args.contextdir;
    options.ignore_file = args.ignorefile;
    options.chown = args.chown;
    options.chmod = args.chmod;
    options.add = add;
    options.pull = pull_policy(args.pull);
    options.isolation = convert::isolation(args.isolation);
    let digest = act(output, args.quiet, |control, observer| container::copy(options, control, observer))?;
    if !args.quiet {
        output.out(digest + "\n");
    }
    Ok(())
}

/// Changes the configuration of a working container.
pub(crate) fn config(args: ConfigArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    check_command_arity("config", "[OPTIONS] CONTAINER", Arity::Exactly(1), args.containers.len())?;
    let store = store_options(&args.common, environment)?;
    let container = args.containers.concat();
    let changes = changes(args, environment).map_err(|message| refused(&message))?;
    act(output, false, |control, observer| container::configure(&store, &container, &changes, control, observer))
}

fn refused(message: &str) -> CliError {
    CliError::Container(RunError::Refused { message: message.to_owned(), hint: None })
}

/// The flags as changes, in the order in which a Dockerfile would have them.
fn changes(args: ConfigArgs, environment: &Environment) -> Result<Vec<ConfigChange>, String> {
    let mut changes = Vec::new();
    for text in args.env {
        changes.push(match (text.split_once('='), removal(&text)) {
            (Some((name, value)), _) => ConfigChange::Env { name: name.to_owned(), value: value.to_owned() },
            (None, Some(name)) => ConfigChange::RemoveEnv(name),
            (None, None) => {
                let value = environment.get_even_empty(&text).map(str::to_owned);
                ConfigChange::Env {
                    value: value.ok_or_else(|| format!("the variable `{text}` is not set; write NAME=VALUE"))?,
                    name: text,
                }
            }
        });
    }
    for text in args.label {
        changes.push(match (text.split_once('='), removal(&text)) {
            (Some((name, value)), _) => ConfigChange::Label { name: name.to_owned(), value: value.to_owned() },
            (None, Some(name)) => ConfigChange::RemoveLabel(name),
            (None, None) => ConfigChange::Label { name: text, value: String::new() },
        });
    }
    changes.extend(args.unsetlabel.into_iter().map(|name| ConfigChange::RemoveLabel(Some(name))));
    for text in args.port {
        changes.push(removal(&text).map_or(ConfigChange::Port(text), ConfigChange::RemovePort));
    }
    for text in args.volume {
        changes.push(removal(&text).map_or(ConfigChange::Volume(text), ConfigChange::RemoveVolume));
    }
    changes.extend(args.shell.as_deref().map(|text| list("shell", text)).transpose()?.map(ConfigChange::Shell));
    let entrypoint = args.entrypoint.map(|text| match array(&text) {
        Some(words) => words,
        None if text.trim().is_empty() => Vec::new(),
        None => vec!["/bin/sh".to_owned(), "-c".to_owned(), text],
    });
    changes.extend(entrypoint.map(ConfigChange::Entrypoint));
    changes.extend(args.cmd.as_deref().map(|text| list("cmd", text)).transpose()?.map(ConfigChange::Cmd));
    for text in args.onbuild {
        changes.push(if text == "-" { ConfigChange::RemoveOnBuild } else { ConfigChange::OnBuild(text) });
    }
    let mut health = HealthcheckChange::default();
    health.test = args.healthcheck.as_deref().map(health_test).transpose()?;
    health.interval = args.healthcheck_interval;
    health.timeout = args.healthcheck_timeout;
    health.start_period = args.healthcheck_start_period;
    health.start_interval = args.healthcheck_start_interval;
    health.retries = args.healthcheck_retries;
    if health != HealthcheckChange::default() {
        changes.push(ConfigChange::Healthcheck(health));
    }
    let texts = [
        args.user.map(ConfigChange::User),
        args.workingdir.map(ConfigChange::WorkingDir),
        args.stop_signal.map(ConfigChange::StopSignal),
        args.author.map(ConfigChange::Author),
        args.created_by.map(ConfigChange::CreatedBy),
        args.comment.map(ConfigChange::Comment),
        args.arch.map(ConfigChange::Architecture),
        args.variant.map(ConfigChange::Variant),
        args.os.map(ConfigChange::Os),
    ];
    changes.extend(texts.into_iter().flatten());
    Ok(changes)
}

/// What `NAME-` removes, and `-`: all.
fn removal(text: &str) -> Option<Option<String>> {
    let name = text.strip_suffix('-')?;
    Some((!name.is_empty()).then(|| name.to_owned()))
}

/// A JSON array of texts.
fn array(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

fn list(flag: &str, text: &str) -> Result<Vec<String>, String> {
    array(text).or_else(|| words(text)).ok_or_else(|| format!("a quote is not closed in --{flag} `{text}`"))
}

fn health_test(text: &str) -> Result<Vec<String>, String> {
    if text == "NONE" {
        return Ok(vec!["NONE".to_owned()]);
    }
    if let Some(words) = array(text) {
        return Ok(words);
    }
    let shell = |command: &str| vec!["CMD-SHELL".to_owned(), command.to_owned()];
    match text.split_once(' ') {
        Some(("CMD-SHELL", command)) => Ok(shell(command.trim_start())),
        Some(("CMD", command)) => Ok(std::iter::once("CMD".to_owned()).chain(list("healthcheck", command)?).collect()),
        _ if text.trim().is_empty() => Ok(Vec::new()),
        _ => Ok(shell(text)),
    }
}

/// Makes an image of a working container.
pub(crate) fn commit(args: CommitArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    check_command_arity("commit", "[OPTIONS] CONTAINER [NAME[:TAG]...]", Arity::AtLeast(1), args.words.len())?;
    let store = store_options(&args.common, environment)?;
    let (container, names) =
        args.words.split_first().map_or_else(Default::default, |(first, names)| (first.clone(), names));
    let mut options = CommitOptions::new(store.root.clone(), container.clone());
    options.names = names.to_vec();
    options.source_date_epoch = match args.timestamp {
        Some(seconds) => Some(seconds),
        None => convert::source_date_epoch(environment)?,
    };
    options.squash = args.squash;
    options.isolation = convert::isolation(args.isolation);
    if let Some(path) = &args.iidfile {
        results::remove_stale(path)?;
    }
    let committed = act(output, false, |control, observer| container::commit(options, control, observer))?;
    match &args.iidfile {
        Some(path) => results::write_id(path, &committed.image_id)?,
        None => output.out(format!("{}\n", hex(&committed.image_id))),
    }
    if args.rm {
        act(output, false, |control, observer| container::remove(&store, &container, control, observer))?;
    }
    Ok(())
}

/// An id without the name of its algorithm.
fn hex(id: &str) -> &str {
    id.strip_prefix("sha256:").unwrap_or(id)
}

/// Removes working containers. One that cannot be removed does not keep the others.
pub(crate) fn rm(args: RmArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    let arity = if args.all { Arity::Exactly(0) } else { Arity::AtLeast(1) };
    check_command_arity("rm", "[OPTIONS] CONTAINER [CONTAINER...]", arity, args.containers.len())?;
    let store = store_options(&args.common, environment)?;
    let names = if args.all { names(&store)? } else { args.containers };
    let mut failed = false;
    for name in &names {
        match act(output, false, |control, observer| container::remove(&store, name, control, observer)) {
            Ok(()) => output.out(format!("{name}\n")),
            Err(error @ CliError::Interrupted { .. }) => return Err(error),
            Err(error) => {
                failed = true;
                output.err(error.report(!args.common.no_hint));
            }
        }
    }
    if failed { Err(CliError::Partly) } else { Ok(()) }
}

fn names(store: &StoreOptions) -> Result<Vec<String>, CliError> {
    Ok(container::list(store).map_err(error_of)?.into_iter().map(|container| container.name).collect())
}

/// Lists working containers.
pub(crate) fn containers(args: ContainersArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    let store = store_options(&args.common, environment)?;
    if args.quiet {
        output.out(names(&store)?.into_iter().map(|name| name + "\n").collect::<String>());
        return Ok(());
    }
    let all = container::list(&store).map_err(error_of)?;
    output.out(match args.json {
        true => format!("{:#}\n", json!(all.iter().map(as_json).collect::<Vec<_>>())),
        false => table(&all, OffsetDateTime::now_utc().unix_timestamp()),
    });
    Ok(())
}

fn isolation_name(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::Auto => "auto",
        Isolation::Userns => "userns",
        Isolation::Chroot => "chroot",
        Isolation::Ptrace => "ptrace",
    }
}

/// Names as buildah's where it has them.
fn as_json(container: &ContainerSummary) -> serde_json::Value {
    json!({
        "containername": container.name,
        "builder": true,
        "imagename": container.image_name,
        "imageid": container.image_id.as_deref().map_or("", hex),
        "created": container.created,
        "isolation": isolation_name(container.isolation),
        "config": container.config,
    })
}

fn table(all: &[ContainerSummary], now: i64) -> String {
    let row = |container: &ContainerSummary| {
        vec![
            container.name.clone(),
            container.image_name.clone(),
            container.image_id.as_deref().map_or("", hex).chars().take(12).collect(),
            human::ago(container.created, now),
            isolation_name(container.isolation).to_owned(),
        ]
    };
    human::table(
        &["CONTAINER NAME", "IMAGE NAME", "IMAGE ID", "CREATED", "ISOLATION"],
        &all.iter().map(row).collect::<Vec<_>>(),
    )
}

/// Does something that a signal cancels, and tells what is told meanwhile.
fn act<T>(
    output: &mut Output,
    quiet: bool,
    act: impl FnOnce(&RunControl, &mut dyn FnMut(&RunFact)) -> Result<T, RunError>,
) -> Result<T, CliError> {
    let control = RunControl::new();
    let to_cancel = control.clone();
    let received = signals::listen(move || to_cancel.cancel())
        .map_err(|source| CliError::Io { action: "listen to signals".to_owned(), source })?;
    let done = act(&control, &mut |fact| {
        if !quiet || matches!(fact, RunFact::Waiting { .. }) {
            output.err(told(fact));
        }
    });
    done.map_err(|error| match received.signal() {
        Some(signal) => CliError::Interrupted { signal },
        None => error_of(error),
    })
}

fn error_of(error: RunError) -> CliError {
    match error {
        RunError::Image(error) => error.into(),
        error => CliError::Container(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes_of(flags: &[&str]) -> Result<Vec<ConfigChange>, String> {
        let line: Vec<_> = ["config"].iter().chain(flags).chain(&["c"]).map(std::ffi::OsString::from).collect();
        let environment: Environment = [("HERE", "x")].into_iter().collect();
        match crate::args::parse(&line, &environment).map_err(|error| error.to_string())? {
            crate::args::Command::Config(args) => changes(*args, &environment),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_are_changes() {
        let text = |text: &str| text.to_owned();
        let texts = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let env = |name: &str, value: &str| ConfigChange::Env { name: text(name), value: text(value) };
        for (flags, wanted) in [
            (&["-e", "A=1=2", "-e", "HERE"][..], vec![env("A", "1=2"), env("HERE", "x")]),
            (&["-eA-"], vec![ConfigChange::RemoveEnv(Some(text("A")))]),
            (&["--label", "-"], vec![ConfigChange::RemoveLabel(None)]),
            (&["-l", "a"], vec![ConfigChange::Label { name: text("a"), value: String::new() }]),
            (
                &["-p", "80-81", "-p", "80-"],
                vec![ConfigChange::Port(text("80-81")), ConfigChange::RemovePort(Some(text("80")))],
            ),
            (&["-v", "/a"], vec![ConfigChange::Volume(text("/a"))]),
            (&["--cmd", "a 'b c'"], vec![ConfigChange::Cmd(texts(&["a", "b c"]))]),
            (&["--cmd", ""], vec![ConfigChange::Cmd(Vec::new())]),
            (&["--entrypoint", "[\"a\", \"b\"]"], vec![ConfigChange::Entrypoint(texts(&["a", "b"]))]),
            (&["--entrypoint", "a b"], vec![ConfigChange::Entrypoint(texts(&["/bin/sh", "-c", "a b"]))]),
            (
                &["-u", "web", "--workdir", "/w"],
                vec![ConfigChange::User(text("web")), ConfigChange::WorkingDir(text("/w"))],
            ),
            (&[], Vec::new()),
        ] {
            assert_eq!(changes_of(flags).unwrap(), wanted, "{flags:?}");
        }
        assert!(changes_of(&["-e", "NOT_SET"]).unwrap_err().contains("not set"));
        assert!(changes_of(&["--cmd", "'a"]).is_err());
    }

    #[test]
    fn health_checks() {
        let test = |text: &str| health_test(text).unwrap().join("|");
        assert_eq!(test("NONE"), "NONE");
        assert_eq!(test("CMD a 'b c'"), "CMD|a|b c");
        assert_eq!(test("CMD-SHELL  a | b"), "CMD-SHELL|a | b");
        assert_eq!(test("a || exit 1"), "CMD-SHELL|a || exit 1");
        assert_eq!(test("[\"CMD\",\"x\"]"), "CMD|x");
        assert_eq!(test(""), "");
        assert!(health_test("CMD 'a").is_err());
    }
}
