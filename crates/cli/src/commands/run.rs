//! `rbuild run`: one call of the library, with the streams and signals of this process.

use std::fs;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};

use rbuild_executor::manage::{self, ManageError, TransferFact};
use rbuild_executor::{Network, PullPolicy, RunControl, RunError, RunFact, RunOptions, RunStreams, TerminalSize};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::transfer::show_pull;
use crate::args::{ArgsError, Arity, Environment, NetworkArg, PullArg, RunArgs, check_command_arity};
use crate::convert::{self, ConvertError, registry_access, store_options};
use crate::error::CliError;
use crate::output::Output;
use crate::signals;

/// Runs a command in an image. An error of ours has the exit code 125, so that it is not taken for one of the command.
pub(crate) fn run(args: RunArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    let usage = match args.container {
        Some(_) => "--container NAME [OPTIONS] COMMAND [ARG...]",
        None => "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    };
    check_command_arity("run", usage, Arity::AtLeast(1), args.words.len())?;
    execute(args, environment, output).map_err(|error| match error {
        CliError::Ended { .. } | CliError::Interrupted { .. } | CliError::Args(ArgsError::Shown(_)) => error,
        error => CliError::Run(Box::new(error)),
    })
}

/// Opens a shell, or runs a command, in what is left of a failed build, in an image or in a working container.
pub(crate) fn shell(mut args: RunArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    if args.container.is_some() {
        return enter(args, None, environment, output);
    }
    let store = store_options(&args.common, environment)?;
    let named = (!args.words.is_empty()).then(|| args.words.remove(0));
    let image = match manage::build_record(&store, named.as_deref()) {
        Ok(record) => match record.failure.and_then(|failure| failure.image).or(record.image) {
            Some(image) => image,
            None => return Err(ManageError::NothingKept { build: record.id }.into()),
        },
        Err(ManageError::NoBuild { name: Some(image) }) => image,
        Err(error) => return Err(error.into()),
    };
    enter(args, Some(image), environment, output)
}

/// Runs a shell, or the command, in an image or in the working container that is named.
fn enter(
    mut args: RunArgs,
    image: Option<String>,
    environment: &Environment,
    output: &mut Output,
) -> Result<(), CliError> {
    args.interactive = true;
    args.tty |= io::stdin().is_terminal();
    if args.words.is_empty() && args.entrypoint.is_none() {
        if !args.tty {
            return Err(CliError::ShellWithoutTerminal);
        }
        args.words.push(SHELL.to_owned());
    }
    // What the image runs by itself is not asked for.
    args.entrypoint.get_or_insert_default();
    args.words.splice(0..0, image);
    run(args, environment, output)
}

/// Every image with a shell has this one.
const SHELL: &str = "/bin/sh";

fn execute(args: RunArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    let options = options(&args, environment)?;
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
        RunStreams::Terminal { input: stdin()?, output: stdout()?, size: terminal_size().unwrap_or_default() }
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
                if let Some(size) = terminal_size() {
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
    let quiet = args.quiet;
    let ended = rbuild_executor::run(options, streams, &control, &mut |fact| match fact {
        RunFact::Starting if raw => match RawMode::enter() {
            Ok(entered) => mode = Some(entered),
            Err(error) => {
                failed = Some(error);
                control.cancel();
            }
        },
        RunFact::Limit { text } => limits.push(text.clone()),
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
        Ok(0) => Ok(()),
        Ok(code) => Err(CliError::Ended { code: u8::try_from(code).ok().filter(|code| *code != 0).unwrap_or(255) }),
        Err(RunError::Cancelled) => match received.signal() {
            Some(signal) => Err(CliError::Interrupted { signal }),
            None => Err(CliError::Executor(RunError::Cancelled)),
        },
        Err(error) => Err(CliError::Executor(error)),
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

/// The size of the terminal, wherever one is.
fn terminal_size() -> Option<TerminalSize> {
    let size = |fd: std::os::fd::BorrowedFd<'_>| tcgetwinsize(fd).ok();
    let found = size(io::stdout().as_fd()).or_else(|| size(io::stdin().as_fd()))?;
    Some(TerminalSize { rows: found.ws_row, columns: found.ws_col })
}

/// The terminal passes on every key as it is; dropped, it is again what it was.
struct RawMode(Termios);

impl RawMode {
    fn enter() -> io::Result<RawMode> {
        let before = tcgetattr(io::stdin().as_fd())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin().as_fd(), OptionalActions::Now, &raw)?;
        Ok(RawMode(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(io::stdin().as_fd(), OptionalActions::Drain, &self.0);
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
