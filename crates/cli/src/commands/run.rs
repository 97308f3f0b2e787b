//! `rbuild run`: one call of the library, with the streams and signals of this process.

use std::fs;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rbuild_executor::manage::TransferFact;
use rbuild_executor::{Commit, Network, PullPolicy, RunControl, RunError, RunFact, RunMount, RunOptions, RunStreams};

use super::transfer::show_pull;
use crate::args::{ArgsError, Arity, Environment, NetworkArg, PullArg, RunArgs, check_command_arity};
use crate::convert::{self, ConvertError, registry_access, store_options};
use crate::error::CliError;
use crate::output::Output;
use crate::signals;
use crate::terminal::{self, RawMode};

/// Runs a command in an image. An error of ours has the exit code 125, so that it is not taken for one of the command.
pub(crate) fn run(args: RunArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    let usage = match args.container {
        Some(_) => "--container NAME [OPTIONS] COMMAND [ARG...]",
        None => "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    };
    check_command_arity("run", usage, Arity::AtLeast(1), args.words.len())?;
    let ended = execute(&args, More::default(), environment, output).and_then(Executed::into_result);
    ended.map_err(|error| match error {
        CliError::Ended { .. } | CliError::Interrupted { .. } | CliError::Args(ArgsError::Shown(_)) => error,
        error => CliError::Run(Box::new(error)),
    })
}

/// What a run that is more than that needs.
#[derive(Debug, Default)]
pub(super) struct More {
    pub(super) commit: Option<Commit>,
    /// A busybox of this machine, mounted there.
    pub(super) busybox: Option<(PathBuf, &'static str)>,
}

/// Runs; gives the image that was made, and the exit code.
pub(super) fn execute(
    args: &RunArgs,
    more: More,
    environment: &Environment,
    output: &mut Output,
) -> Result<Executed, CliError> {
    let mut options = options(args, environment)?;
    options.commit = more.commit;
    if let Some((source, target)) = more.busybox {
        options.mounts.push(RunMount::Bind { source, target: target.to_owned(), read_only: true, create: false });
    }
    let io_failed = |action: &str| {
        let action = action.to_owned();
        move |source| CliError::Io { action, source }
    };
    if args.tty && args.interactive && !io::stdin().is_terminal() {
        return Err(CliError::NotATerminal);
    }
    let own = |fd: io::Result<OwnedFd>| fd.map_err(io_failed("use the standard streams"));
    let stdin = || args.interactive.then(|| own(io::stdin().as_fd().try_clone_to_owned())).transpose();
    let stdout = || own(io::stdout().as_fd().try_clone_to_owned());
    let streams = if args.tty {
        RunStreams::Terminal { input: stdin()?, output: stdout()?, size: terminal::size().unwrap_or_default() }
    } else {
        let stderr = own(io::stderr().as_fd().try_clone_to_owned())?;
        RunStreams::Pipes { stdin: stdin()?, stdout: stdout()?, stderr }
    };
    let control = RunControl::new();
    let received = {
        let control = control.clone();
        let tty = args.tty;
        signals::forward(move |forwarded| match forwarded {
            signals::Forwarded::Resized if tty => {
                if let Some(size) = terminal::size() {
                    control.resize(size);
                }
            }
            signals::Forwarded::Resized => {}
            signals::Forwarded::Signal(signal) => control.signal(signal),
            signals::Forwarded::Enough => control.cancel(),
        })
        .map_err(io_failed("listen to signals"))?
    };
    let raw = args.tty && args.interactive;
    let mut mode = None;
    let mut failed = None;
    let mut limits = Vec::new();
    let mut image = None;
    let quiet = args.quiet;
    let ended = rbuild_executor::run(options, streams, &control, &mut |fact| match fact {
        RunFact::Starting if raw => match RawMode::enter(io::stdin().as_fd()) {
            Ok(entered) => mode = Some(entered),
            Err(error) => {
                failed = Some(error);
                control.cancel();
            }
        },
        RunFact::Limit { text } => limits.push(text.clone()),
        RunFact::Committed { image: id, names } => image = Some((id.clone(), names.clone())),
        RunFact::Waiting { .. } => output.err(told(fact)),
        _ if quiet => {}
        fact => output.err(told(fact)),
    });
    // Before anything is said.
    drop(mode);
    for limit in limits {
        output.err(format!("rbuild: note: {limit}\n"));
    }
    if let Some(source) = failed {
        return Err(io_failed("put the terminal into raw mode")(source));
    }
    match ended {
        Ok(code) => Ok(Executed { code, image }),
        Err(RunError::Cancelled) => match received.signal() {
            Some(signal) => Err(CliError::Interrupted { signal }),
            None => Err(CliError::Executor(RunError::Cancelled)),
        },
        Err(error) => Err(CliError::Executor(error)),
    }
}

/// How a command ended.
pub(super) struct Executed {
    pub(super) code: i32,
    /// Id and names of what it left.
    pub(super) image: Option<(String, Vec<String>)>,
}

impl Executed {
    /// As the exit code of this program.
    pub(super) fn into_result(self) -> Result<(), CliError> {
        match self.code {
            0 => Ok(()),
            code => Err(CliError::Ended { code: u8::try_from(code).ok().filter(|code| *code != 0).unwrap_or(255) }),
        }
    }
}

/// The flags as options of the library.
fn options(args: &RunArgs, environment: &Environment) -> Result<RunOptions, CliError> {
    if let Some((flag, hint)) = args.refused.first() {
        return Err(ConvertError::Refused { flag, hint }.into());
    }
    if args.rm == Some(false) {
        let hint = "what a command changes is thrown away when it ends; keep files with --volume";
        return Err(ConvertError::Refused { flag: "--rm=false", hint }.into());
    }
    let store = store_options(&args.common, environment)?;
    let (image, command) = match (&args.container, args.words.split_first()) {
        (None, Some((image, rest))) => (image.clone(), rest),
        (_, _) => (String::new(), args.words.as_slice()),
    };
    let mut options = RunOptions::new(store.root, image);
    options.container = args.container.clone();
    options.registry = registry_access(&args.registry, environment);
    options.command = command.to_vec();
    options.entrypoint =
        args.entrypoint.clone().map(|program| if program.is_empty() { Vec::new() } else { vec![program] });
    for file in &args.env_file {
        let shown = file.display();
        let text = fs::read_to_string(file)
            .map_err(|source| CliError::Io { action: format!("read the variables in `{shown}`"), source })?;
        let variables = variables(&text).map_err(|reason| CliError::Io {
            action: format!("read the variables in `{shown}`"),
            source: io::Error::new(io::ErrorKind::InvalidData, reason),
        })?;
        // In a file a name alone that is not set means nothing.
        let of_file = variables.into_iter().filter_map(|(name, value)| match value {
            Some(value) => Some((name, Some(value))),
            None => Some((name.clone(), Some(environment.get_even_empty(&name)?.to_owned()))),
        });
        options.env.extend(of_file);
    }
    for given in &args.env {
        let value = given.value.clone().or_else(|| environment.get_even_empty(&given.name).map(str::to_owned));
        options.env.push((given.name.clone(), value));
    }
    options.working_dir = args.workdir.clone();
    options.user = args.user.clone();
    options.mounts = args.volume.iter().chain(&args.mount).chain(&args.tmpfs).cloned().collect();
    options.network = match args.network {
        None | Some(NetworkArg::Default) => Network::Default,
        Some(NetworkArg::Host) => Network::Host,
        Some(NetworkArg::None) => Network::None,
    };
    options.hostname = args.hostname.clone();
    options.add_hosts = args.add_host.clone();
    options.ulimits = args.ulimit.clone();
    options.shm_size = args.shm_size;
    options.read_only = args.read_only;
    options.isolation = convert::isolation(args.isolation);
    options.platform = args.platform.clone();
    options.pull = pull_policy(args.pull);
    Ok(options)
}

/// `--pull`.
pub(super) fn pull_policy(arg: Option<PullArg>) -> PullPolicy {
    match arg {
        None | Some(PullArg::Missing) => PullPolicy::Missing,
        Some(PullArg::Always) => PullPolicy::Always,
        Some(PullArg::Never) => PullPolicy::Never,
    }
}

/// The lines of a file of variables (docker/cli `opts/envfile.go`): `NAME=VALUE` as it is, or `NAME`.
fn variables(text: &str) -> Result<Vec<(String, Option<String>)>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = match line.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (line.trim_end(), None),
            };
            if name.is_empty() {
                return Err(format!("no variable name on line `{line}`"));
            }
            if name.contains(char::is_whitespace) {
                return Err(format!("the variable `{name}` contains whitespace"));
            }
            Ok((name.to_owned(), value))
        })
        .collect()
}

/// What Docker's client tells of an image that it fetches, and what is waited for.
pub(super) fn told(fact: &RunFact) -> String {
    match fact {
        RunFact::Waiting { container } => {
            format!("rbuild: note: another process uses the working container {container}; waiting for it\n")
        }
        RunFact::Missing { name } => format!("Unable to find image '{name}' locally\n"),
        RunFact::Transfer(fact @ TransferFact::Retrying { .. }) => show_pull(fact),
        RunFact::Transfer(fact) => show_pull(fact),
        RunFact::Pulled(pulled) => {
            let status = if pulled.newer { "Downloaded newer image for" } else { "Image is up to date for" };
            format!("Digest: {}\nStatus: {status} {}\n", pulled.digest, pulled.name)
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_variables() {
        let pair = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
        assert_eq!(
            variables("\u{feff}# c\n  X=1 2 \n\nY\nZ=\n#=\nW==a\r\n").unwrap(),
            [pair("X", Some("1 2 ")), pair("Y", None), pair("Z", Some("")), pair("W", Some("=a"))]
        );
        assert!(variables("a b=1\n").unwrap_err().contains("whitespace"));
        assert!(variables("=1\n").unwrap_err().contains("no variable name"));
    }
}
