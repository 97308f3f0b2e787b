//! One module a command: calls of the library, and what is shown of their results.

mod archive;
mod build;
mod builds;
mod container;
mod doctor;
mod images;
mod login;
mod program;
mod prune;
mod replay;
mod repo;
mod run;
mod steps;
mod take;
mod transfer;

use std::sync::atomic::AtomicBool;

use crate::args::{Command, Environment};
use crate::error::CliError;
use crate::output::Output;
use crate::signals;

/// Does what the command line says.
pub(crate) fn run(command: Command, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    match command {
        Command::Build(args) => build::run(*args, environment, output),
        Command::Repo(args) => repo::run(*args, environment, output),
        Command::Run(args) => run::run(*args, environment, output),
        Command::Shell(args) => steps::shell(*args, environment, output),
        Command::Diff(args) => steps::diff(&args, environment, output),
        Command::Cat(args) => steps::cat(&args, environment),
        Command::Export(args) => take::export(args, environment),
        Command::Cp(args) => take::cp(args, environment),
        Command::From(args) => container::from(args, environment, output),
        Command::Copy(args) => container::copy(args, false, environment, output),
        Command::Add(args) => container::copy(args, true, environment, output),
        Command::Config(args) => container::config(*args, environment, output),
        Command::Commit(args) => container::commit(args, environment, output),
        Command::Rm(args) => container::rm(args, environment, output),
        Command::Containers(args) => container::containers(args, environment, output),
        Command::Images(args) => images::images(args, environment, output),
        Command::Rmi(args) => images::rmi(args, environment, output),
        Command::Tag(args) => images::tag(args, environment),
        Command::Prune(args) => prune::prune(args, environment, output),
        Command::Save(args) => cancellable(|cancel| archive::save(args, environment, cancel)),
        Command::Load(args) => archive::load(args, environment, output),
        Command::Pull(args) => cancellable(|cancel| transfer::pull(args, environment, output, cancel)),
        Command::Push(args) => cancellable(|cancel| transfer::push(args, environment, output, cancel)),
        Command::Login(args) => login::login(args, environment, output),
        Command::Logout(args) => login::logout(args, environment, output),
        Command::Inspect(args) => images::inspect(args, environment, output),
        Command::History(args) => images::history(args, environment, output),
        Command::Replay(args) => replay::replay(args, output),
        Command::Completion(args) => program::completion(&args, output),
        Command::Man(args) => program::man(&args, output),
        Command::Version(_) => program::version(output),
        Command::Builds(args) => builds::builds(args, environment, output),
        Command::Resume(args) => builds::resume(args, environment, output),
        Command::Doctor(args) => doctor::doctor(args, environment, output),
    }
}

/// Runs what a signal cancels.
fn cancellable(run: impl FnOnce(&AtomicBool) -> Result<(), CliError>) -> Result<(), CliError> {
    let cancel = std::sync::Arc::new(AtomicBool::new(false));
    let flag = cancel.clone();
    let received = signals::listen(move || flag.store(true, std::sync::atomic::Ordering::SeqCst))
        .map_err(|source| CliError::Io { action: "listen to signals".to_owned(), source })?;
    let done = run(&cancel);
    match received.signal() {
        Some(signal) if done.is_err() => Err(CliError::Interrupted { signal }),
        _ => done,
    }
}
