//! `rbuild completion`, `man` and `version`: the program about itself.

use crate::args::{self, CompletionArgs, ManArgs};
use crate::error::CliError;
use crate::output::Output;

/// Writes the completion script of a shell.
pub(crate) fn completion(args: &CompletionArgs, output: &mut Output) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut args::shown_command(), "rbuild", &mut script);
    output.out(script);
    Ok(())
}

/// Writes the manual page of the program or of a command, for man(1).
pub(crate) fn man(args: &ManArgs, output: &mut Output) -> Result<(), CliError> {
    let program = args::shown_command();
    let command = match &args.command {
        None => program,
        Some(name) => {
            let found = program.find_subcommand(name).ok_or_else(|| CliError::NoCommand(name.clone()))?;
            found.clone().name(format!("rbuild-{name}")).display_name(format!("rbuild-{name}"))
        }
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut page)
        .map_err(|source| CliError::Io { action: "render the manual page".to_owned(), source })?;
    output.out(page);
    Ok(())
}

/// Shows the version.
pub(crate) fn version(output: &mut Output) -> Result<(), CliError> {
    output.out(format!("rbuild {}\n", env!("CARGO_PKG_VERSION")));
    Ok(())
}
