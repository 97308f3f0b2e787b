//! The `rbuild` command: flags to calls of the library, its answers to the terminal.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod convert;
mod error;
mod human;
mod logs;
mod output;
mod results;
mod signals;
mod step_shell;
mod terminal;

use std::ffi::OsString;
use std::process::ExitCode;

use args::{ArgsError, Environment};
use error::CliError;
use output::Output;

fn main() -> ExitCode {
    // Workers of builds are this program again: they end here.
    rbuild_executor::init();
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    ExitCode::from(run(&arguments, &Environment::of_process()))
}

/// Does what the arguments say and gives the exit code.
fn run(arguments: &[OsString], environment: &Environment) -> u8 {
    let mut output = Output::new();
    let mut hints = true;
    let done = args::parse(arguments, environment).map_err(CliError::from).and_then(|command| {
        hints = !command.common().no_hint;
        output::trace(command.verbosity(), environment);
        commands::run(command, environment, &mut output)
    });
    if let Err(CliError::Args(ArgsError::Shown(text))) = &done {
        output.out(text);
    }
    let failed = done.err();
    if let Some(error) = &failed {
        output.err(error.report(hints));
    }
    let written = output.finish().map_err(CliError::from);
    match (failed, written) {
        (Some(error), Ok(())) => error.exit_code(),
        (_, Err(error)) => error.exit_code(),
        (None, Ok(())) => 0,
    }
}
