//! One module a command: calls of the library, and what is shown of their results.

mod build;
mod login;
mod program;

use crate::args::{Command, Environment};
use crate::error::CliError;
use crate::output::Output;

/// Does what the command line says.
pub(crate) fn run(command: Command, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    match command {
        Command::Build(args) => build::run(*args, environment, output),
        Command::Login(args) => login::login(args, environment, output),
        Command::Logout(args) => login::logout(args, environment, output),
        Command::Completion(args) => program::completion(&args, output),
        Command::Man(args) => program::man(&args, output),
        Command::Version(_) => program::version(output),
        _ => Ok(()),
    }
}
