//! The command line: text to typed flags.
//!
//! Flags are taken as Docker's client takes them: before and after the arguments, `--flag=value` and `--flag value`,
//! `-tname`, `--bool=false`, the last of several values counts where there can be one, `--` ends them. What the flags mean
//! together is decided in [`crate::convert`].

mod build;
mod commands;
mod container;
mod csv;
mod environment;
mod output;
mod run;
mod shared;
mod usage;
mod values;

use std::ffi::{OsStr, OsString};

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgAction, CommandFactory, FromArgMatches};
use rbuild_executor::logfmt::event::{Builder, Dialect, Version};
use rbuild_logfmt::WrongUse;

pub(crate) use build::{BuildArgs, DockerVersion, IsolationArg, LogFormat, NetworkArg, Progress, StopArgs};
pub(crate) use commands::*;
pub(crate) use container::{CommitArgs, ConfigArgs, ContainersArgs, CopyArgs, FromArgs, RmArgs, words};
pub(crate) use environment::Environment;
pub(crate) use output::OutputSpec;
pub(crate) use rbuild_logfmt::Arity;
pub(crate) use run::{CpArgs, ExportArgs, PullArg, RunArgs};
pub(crate) use shared::{CommonArgs, RegistryArgs};
pub(crate) use usage::{check_build_arity, check_command_arity};
use values::ValueError;
pub(crate) use values::{Assignment, CallSpec, SecretSpec, SshSpec};

/// Why a command line is not understood, or why it needs no understanding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ArgsError {
    /// Help or the version was asked for: the text for standard output.
    #[error("{0}")]
    Shown(String),
    /// A flag or its value is wrong.
    #[error("{message}")]
    Flag {
        /// What is wrong.
        message: String,
        /// Why, if there is more to say.
        cause: Option<String>,
        /// What to do.
        hint: Option<String>,
        /// The same for those who want Docker's words.
        wrong: Option<Box<WrongUse>>,
    },
    /// Docker's whole text, as it goes to standard error: the number of arguments is wrong, or a flag is.
    #[error("wrong usage")]
    Usage {
        /// The text.
        text: String,
        /// The exit code.
        code: u8,
    },
}

/// The whole command line as clap knows it.
///
/// A flag that is on or off can be given a value (`--pull=false`), and values may begin with a dash, both as Docker's
/// client has it.
pub(crate) fn command() -> clap::Command {
    CommandLine::command()
        .disable_help_subcommand(true)
        .mut_subcommand("repo", |repo| {
            repo.mut_arg("contexts", |url| {
                url.value_name("URL[@COMMIT]").help("Address of the repository, and what to build of it.")
            })
            .mut_arg("file", |file| file.help("The same as --dockerfile."))
        })
        // There -v is --volume, as with Docker.
        .mut_subcommand("run", |run| run.mut_arg("verbose", |verbose| verbose.short(None)))
        .mut_subcommand("config", |config| config.mut_arg("verbose", |verbose| verbose.short(None)))
        .mut_subcommand("shell", |shell| {
            shell
                .mut_arg("verbose", |verbose| verbose.short(None))
                .mut_arg("words", |words| words.value_name("[BUILD | STEP | STAGE | IMAGE] [COMMAND] [ARG...]"))
        })
        // What is done with builds has the flags of their list.
        .mut_subcommand("builds", |builds| {
            builds.mut_args(|arg| match arg.get_id().as_str() {
                "root" | "no_hint" | "verbose" => arg.global(true),
                _ => arg,
            })
        })
        .mut_subcommands(|command| command.args_override_self(true).disable_version_flag(true).mut_args(like_docker))
}

/// The command line as a reader sees it: the flags of a build may stand without `build`. For completion and manual; not
/// for parsing, where an argument would be taken for a command.
pub(crate) fn shown_command() -> clap::Command {
    <BuildArgs as clap::Args>::augment_args(command())
        .mut_args(like_docker)
        .override_usage("rbuild [OPTIONS] PATH | URL | -")
}

/// A flag as Docker's client takes it.
fn like_docker(arg: clap::Arg) -> clap::Arg {
    match arg.get_action() {
        ArgAction::SetTrue => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .hide_default_value(true)
            .hide_possible_values(true)
            .value_name("BOOL")
            .value_parser(ValueParser::new(values::boolean)),
        ArgAction::Set | ArgAction::Append if !arg.is_positional() => arg.allow_hyphen_values(true),
        _ => arg,
    }
}

/// Understands the arguments after the program's name; what they leave open is taken from the environment.
pub(crate) fn parse(arguments: &[OsString], environment: &Environment) -> Result<Command, ArgsError> {
    let command = command();
    let arguments = name_command(&command, arguments);
    let parse = |extra: &[OsString]| {
        let split = arguments.len().min(1);
        let line = [OsString::from("rbuild")].into_iter().chain(arguments[..split].iter().cloned());
        let line = line.chain(extra.iter().cloned()).chain(arguments[split..].iter().cloned());
        command.clone().try_get_matches_from(line)
    };
    let is_build = arguments.first().is_some_and(|command| command == "build");
    let wrong = |error: clap::Error| {
        let error = explain(error, &arguments);
        match (&error, if is_build { wanted_dialect(&arguments, environment) } else { None }) {
            (ArgsError::Flag { wrong: Some(wrong), .. }, Some(dialect)) => {
                usage::as_docker(wrong, dialect).unwrap_or(error)
            }
            _ => error,
        }
    };
    let mut matches = parse(&[]).map_err(wrong)?;
    let mut extra = Vec::new();
    if let Some((name, given)) = matches.subcommand()
        && let Some(subcommand) = command.find_subcommand(name)
    {
        for (variable, flags) in flags_from_environment(subcommand, given, environment) {
            if let Err(error) = parse(&flags) {
                return Err(blame(explain(error, &arguments), &variable));
            }
            extra.extend(flags);
        }
    }
    if !extra.is_empty() {
        matches = parse(&extra).map_err(wrong)?;
    }
    CommandLine::from_arg_matches(&matches).map(|line| line.command).map_err(wrong)
}

/// The dialect that a command line names which is not understood: who asks for Docker's log wants its errors, too.
fn wanted_dialect(arguments: &[OsString], environment: &Environment) -> Option<Dialect> {
    let last = |flag: &str| {
        let written = arguments.iter().enumerate().rev().find_map(|(at, argument)| {
            let rest = argument.to_str()?.strip_prefix("--")?.strip_prefix(flag)?;
            match rest.strip_prefix('=') {
                Some(value) => Some(value.to_owned()),
                None if rest.is_empty() => arguments.get(at + 1)?.to_str().map(str::to_owned),
                None => None,
            }
        });
        written.or_else(|| environment.get(&environment::variable_of(None, flag)).map(str::to_owned))
    };
    let builder = match (last("log-format").as_deref(), last("progress").as_deref()) {
        (Some("docker"), _) => Builder::Legacy,
        (Some("buildkit"), _) | (None, Some("plain")) => Builder::Buildkit,
        _ => return None,
    };
    let version = if last("docker-version").as_deref() == Some("20") { Version::V20 } else { Version::V28 };
    Some(Dialect { builder, version })
}

/// Puts the name of the command first: the first argument that is neither flag nor value of one if it names a command,
/// else `build`.
fn name_command(command: &clap::Command, arguments: &[OsString]) -> Vec<OsString> {
    let mut at = 0;
    let mut asks = false;
    while let Some(argument) = arguments.get(at) {
        let text = argument.to_string_lossy();
        if text == "--" {
            break;
        }
        asks |= matches!(&*text, "-h" | "--help" | "-V" | "--version");
        if text == "-" || !text.starts_with('-') {
            if command.get_subcommands().any(|known| OsStr::new(known.get_name()) == argument) {
                let mut named = vec![argument.clone()];
                named.extend(arguments[..at].iter().chain(&arguments[at + 1..]).cloned());
                return named;
            }
            asks = false;
            break;
        }
        at += if wants_next(command, &text) { 2 } else { 1 };
    }
    if asks {
        return arguments.to_vec();
    }
    let mut named = vec![OsString::from("build")];
    named.extend(arguments.iter().cloned());
    named
}

/// Whether a flag, as written, takes the next argument as its value.
fn wants_next(command: &clap::Command, flag: &str) -> bool {
    let takes = |found: Option<&clap::Arg>| {
        found.is_some_and(|arg| {
            matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
                && arg.get_num_args().is_none_or(|count| count.min_values() > 0)
        })
    };
    // The build's flags first: it is the default command.
    let find = |matching: &dyn Fn(&clap::Arg) -> bool| {
        command.get_subcommands().find_map(|sub| sub.get_arguments().find(|arg| matching(arg)))
    };
    if let Some(long) = flag.strip_prefix("--") {
        return !long.contains('=') && takes(find(&|arg| arg.get_long() == Some(long)));
    }
    let mut shorts = flag.chars().skip(1).peekable();
    while let Some(short) = shorts.next() {
        if takes(find(&|arg| arg.get_short() == Some(short))) {
            return shorts.peek().is_none();
        }
    }
    false
}

/// Flags that the environment sets and the command line does not, with the names of their variables.
fn flags_from_environment(
    command: &clap::Command,
    given: &clap::ArgMatches,
    environment: &Environment,
) -> Vec<(String, Vec<OsString>)> {
    let is_build = command.get_name() == "build";
    let mut found = Vec::new();
    for arg in command.get_arguments() {
        let (Some(long), action) = (arg.get_long(), arg.get_action()) else {
            continue;
        };
        if given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine) {
            continue;
        }
        // A flag that is the same for every command stands under a heading of its own.
        let common = matches!(arg.get_help_heading(), Some("Common" | "Registries"));
        let own = environment::variable_of((!is_build).then_some(command.get_name()), long);
        let shared = environment::variable_of(None, long);
        let names = if is_build || !common { vec![own] } else { vec![own, shared] };
        let Some((variable, value)) = names.into_iter().find_map(|name| {
            let value = environment.get(&name)?.to_owned();
            Some((name, value))
        }) else {
            continue;
        };
        let flag = |value: &str| OsString::from(format!("--{long}={value}"));
        let flags = match action {
            ArgAction::Append => environment::split_values(&value).into_iter().map(flag).collect(),
            ArgAction::Set => vec![flag(&value)],
            ArgAction::Count => {
                vec![OsString::from(format!("--{long}")); value.parse::<usize>().unwrap_or(1).min(3)]
            }
            _ => continue,
        };
        found.push((variable, flags));
    }
    found
}

/// Names of variables that look like ours and set nothing.
pub(crate) fn unknown_variables(environment: &Environment) -> Vec<String> {
    let command = command();
    let known: Vec<String> = command
        .get_subcommands()
        .flat_map(|sub| sub.get_arguments().filter_map(move |arg| Some((sub.get_name(), arg.get_long()?))))
        .flat_map(|(sub, long)| match sub {
            "build" => vec![environment::variable_of(None, long)],
            _ => vec![environment::variable_of(Some(sub), long)],
        })
        .collect();
    environment.own_names().filter(|name| !known.iter().any(|known| known == name)).map(str::to_owned).collect()
}

fn blame(error: ArgsError, variable: &str) -> ArgsError {
    match error {
        ArgsError::Flag { message, cause, .. } => ArgsError::Flag {
            message: format!("the variable {variable} is wrong"),
            cause: Some(match cause {
                Some(cause) => format!("{message}: {cause}"),
                None => message,
            }),
            hint: None,
            wrong: None,
        },
        other => other,
    }
}

/// clap's error in our words; the arguments are those that it is about.
fn explain(error: clap::Error, arguments: &[OsString]) -> ArgsError {
    let text = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        _ => None,
    };
    // `-t, --tag <NAME[:TAG]>` and the like: the flag alone.
    let bare = |arg: String| {
        if !arg.starts_with('-') {
            return arg;
        }
        let end = arg.find(['<', '[', '=']).unwrap_or(arg.len());
        arg[..end].trim_end().to_owned()
    };
    let flag = || text(ContextKind::InvalidArg).map(bare);
    let suggestion = |kind| text(kind).map(|known| format!("did you mean `{known}`?"));
    let help = || Some("`rbuild --help` shows the commands, `rbuild COMMAND --help` their flags".to_owned());
    let mut wrong = None;
    let (message, cause, hint) = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return ArgsError::Shown(error.render().to_string());
        }
        ErrorKind::UnknownArgument => {
            let flag = text(ContextKind::InvalidArg).unwrap_or_default();
            let kind = if flag.starts_with('-') { "unknown flag" } else { "unexpected argument" };
            wrong = flag.starts_with('-').then(|| WrongUse::UnknownFlag(flag.clone()));
            (format!("{kind}: {flag}"), None, suggestion(ContextKind::SuggestedArg).or_else(help))
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let (flag, value) = (flag().unwrap_or_default(), text(ContextKind::InvalidValue).unwrap_or_default());
            let known = text(ContextKind::ValidValue).filter(|known| !known.is_empty());
            let known = known.map(|known| format!("it can be {known}"));
            let source = std::error::Error::source(&error);
            if let Some(cause) = source.and_then(|source| source.downcast_ref::<ValueError>()) {
                let flag = shown_flag(&flag);
                let cause = cause.docker(&flag, &value);
                wrong = cause.map(|cause| WrongUse::Value { flag, value: value.clone(), cause });
            }
            if value.is_empty() && source.is_none() {
                let last = arguments.last().map(|last| last.to_string_lossy().into_owned());
                wrong = last.filter(|last| last.starts_with('-')).map(WrongUse::NoValue);
                (format!("flag needs a value: {flag}"), known, help())
            } else {
                (
                    format!("invalid value `{value}` for {flag}"),
                    source.map(ToString::to_string).or(known),
                    suggestion(ContextKind::SuggestedValue),
                )
            }
        }
        ErrorKind::ArgumentConflict => {
            let other = text(ContextKind::PriorArg).map(bare).unwrap_or_default();
            (format!("{} cannot be used together with {other}", flag().unwrap_or_default()), None, None)
        }
        ErrorKind::MissingRequiredArgument => {
            (format!("missing argument: {}", text(ContextKind::InvalidArg).unwrap_or_default()), None, help())
        }
        ErrorKind::InvalidUtf8 => ("an argument is not UTF-8".to_owned(), None, None),
        _ => (error.kind().as_str().unwrap_or("the command line is not understood").to_owned(), None, help()),
    };
    ArgsError::Flag { message, cause, hint, wrong: wrong.map(Box::new) }
}

/// A flag as Docker's help shows it, `-t, --tag`.
fn shown_flag(long: &str) -> String {
    let command = command();
    let build = command.find_subcommand("build").into_iter().flat_map(clap::Command::get_arguments);
    let short = build.filter(|arg| arg.get_long() == long.strip_prefix("--")).find_map(clap::Arg::get_short);
    short.map_or_else(|| long.to_owned(), |short| format!("-{short}, {long}"))
}

#[cfg(test)]
mod tests;
