//! `rbuild shell`, `diff` and `cat`: what builds left, step by step.

use std::io::{self, IsTerminal};

use rbuild_executor::manage::{self, Force, Located, ManageError};
use rbuild_executor::{
    BuildRecord, ChangedFile, Changes, Commit, FileChange, Isolation, RunError, StepRecord, StoreOptions, Take,
    TakeOptions,
};
use serde_json::json;

use crate::args::{CatArgs, DiffArgs, Environment, ListFormat, ResumeArgs, ShellArgs, StopArgs};
use crate::convert::{self, store_options};
use crate::error::CliError;
use crate::human;
use crate::output::Output;

use super::run::{self, Executed, More};
use super::{build, take};

/// Every image with a shell has this one.
const SHELL: &str = "/bin/sh";

/// Where a busybox of this machine is mounted.
const HOST_SHELL: &str = "/.rbuild-busybox";

/// Opens a shell, or runs a command, in a failed build, a step or an image.
pub(crate) fn shell(mut args: ShellArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    let store = store_options(&args.run.common, environment)?;
    let place = match args.run.container {
        Some(_) => Place { image: None, step: None, amends: false },
        None => {
            let named = (!args.run.words.is_empty()).then(|| args.run.words.remove(0));
            place(&store, named.as_deref(), args.resume)?
        }
    };
    if args.resume && place.step.is_none() {
        return Err(CliError::ResumeWithoutStep);
    }
    let commit = (args.commit.is_some() || args.resume)
        .then(|| Commit { names: args.commit.iter().cloned().collect(), amend: place.amends });
    let busybox = args.with_shell.as_deref().map(|file| convert::busybox(file, environment)).transpose()?;
    let by_default = args.run.words.is_empty() && args.run.entrypoint.is_none();
    args.run.interactive = true;
    args.run.tty |= io::stdin().is_terminal();
    if by_default {
        if !args.run.tty {
            return Err(CliError::ShellWithoutTerminal);
        }
        args.run.words.push(SHELL.to_owned());
    }
    // What the image runs by itself is not asked for.
    args.run.entrypoint.get_or_insert_default();
    let command = args.run.words.len();
    args.run.words.splice(0..0, place.image);
    let more = More { commit: commit.clone(), busybox: None };
    let executed = match (run::execute(&args.run, more, environment, output), busybox) {
        (Err(CliError::Executor(RunError::NotFound { .. })), Some(busybox)) if by_default => {
            let at = args.run.words.len() - command;
            args.run.words.splice(at.., [HOST_SHELL.to_owned(), "sh".to_owned()]);
            let more = More { commit, busybox: Some((busybox, HOST_SHELL)) };
            run::execute(&args.run, more, environment, output)?
        }
        (Err(CliError::Executor(RunError::NotFound { .. })), None) if by_default => return Err(CliError::NoShell),
        (executed, _) => executed?,
    };
    tell_image(&executed, output);
    let Some((record, step)) = place.step.filter(|_| args.resume && executed.code == 0) else {
        return executed.into_result();
    };
    let Some((image, _)) = executed.image else { return Ok(()) };
    let force = if args.force { Force::Yes } else { Force::No };
    let options = manage::resumed_after(&record, &step, &image, force)?;
    let args = ResumeArgs {
        build: None,
        force: args.force,
        keep_partial: false,
        stops: StopArgs::default(),
        secret: args.secret,
        log_format: None,
        common: args.run.common,
        registry: args.run.registry,
    };
    build::run_request(convert::resume_request(args, options, environment, Output::terminals())?, output)
}

fn tell_image(executed: &Executed, output: &mut Output) {
    if let Some((image, names)) = &executed.image {
        let names = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
        output.err(format!("rbuild: what is left is image {image}{names}\n"));
    }
}

/// Where a shell is opened.
struct Place {
    /// None of a working container.
    image: Option<String>,
    /// The step that it is, if it is one.
    step: Option<(BuildRecord, StepRecord)>,
    /// What is changed becomes part of the image's topmost layer.
    amends: bool,
}

fn place(store: &StoreOptions, named: Option<&str>, resumes: bool) -> Result<Place, CliError> {
    let of_step = |build: BuildRecord, step: StepRecord| -> Result<Place, CliError> {
        let image = match resumes {
            true => step_with_layer(store, &build, &step)?,
            false => manage::step_image(store, &build, &step)?,
        };
        Ok(Place { image: Some(image), step: Some((build, step)), amends: resumes })
    };
    match manage::locate(store, named)? {
        Located::Image(image) => Ok(Place { image: Some(image), step: None, amends: false }),
        Located::Step(build, step) => of_step(*build, *step),
        Located::Build(build) => match &build.image {
            Some(image) => Ok(Place { image: Some(image.clone()), step: None, amends: false }),
            None if build.failure.as_ref().is_some_and(|failure| failure.image.is_some()) => {
                let (build, step) = manage::find_step(store, Some(&build.id))?;
                of_step(build, step)
            }
            None => Err(ManageError::NothingKept { build: build.id }.into()),
        },
    }
}

/// Lists the files that a step, or the topmost layer of an image, changed.
pub(crate) fn diff(args: &DiffArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    let store = store_options(&args.common, environment)?;
    let image = match manage::locate(&store, args.step.as_deref())? {
        Located::Image(image) => image,
        Located::Build(build) => {
            let (build, step) = manage::find_step(&store, Some(&build.id))?;
            step_with_layer(&store, &build, &step)?
        }
        Located::Step(build, step) => step_with_layer(&store, &build, &step)?,
    };
    let options = TakeOptions { store, image, isolation: Isolation::Auto, take: Take::Changes };
    let Changes { files, further } = take::run(options)?.unwrap_or_default();
    output.out(match args.format {
        ListFormat::Json => files.iter().map(|file| format!("{}\n", json!(file))).collect(),
        ListFormat::Table => files.iter().map(line).collect::<String>(),
    });
    if further > 0 {
        output.err(format!("rbuild: note: {further} more files are not listed\n"));
    }
    Ok(())
}

/// The image of a step that changed something by itself.
fn step_with_layer(store: &StoreOptions, build: &BuildRecord, step: &StepRecord) -> Result<String, CliError> {
    let image = manage::step_image(store, build, step)?;
    let is_half = build.failure.as_ref().and_then(|failure| failure.image.as_ref()) == Some(&image);
    if is_half || step.state.as_ref().is_some_and(|state| state.has_layer) {
        return Ok(image);
    }
    Err(CliError::NoLayer { step: step.text.clone() })
}

fn line(file: &ChangedFile) -> String {
    let (letter, size) = match file.change {
        FileChange::Added => ('A', human::size(file.size)),
        FileChange::Changed => ('C', human::size(file.size)),
        FileChange::Deleted => ('D', String::new()),
    };
    format!("{letter} {size:>7} {}\n", file.path)
}

/// Shows a file as a step left it.
pub(crate) fn cat(args: &CatArgs, environment: &Environment) -> Result<(), CliError> {
    let store = store_options(&args.common, environment)?;
    let (step, path) = match take::split(&args.file) {
        _ if args.file.starts_with('/') => (None, args.file.as_str()),
        Some((step, path)) => (Some(step), path),
        None => (None, args.file.as_str()),
    };
    let image = place(&store, step, false)?.image.unwrap_or_default();
    let take = Take::Content { path: path.to_owned() };
    take::run(TakeOptions { store, image, isolation: Isolation::Auto, take }).map(drop)
}
