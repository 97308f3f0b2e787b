//! `rbuild save` and `load`: images into archives and out of them.

use std::io::{self, IsTerminal};
use std::sync::atomic::AtomicBool;

use rbuild_executor::manage::{self, Loaded};

use crate::args::{ArchiveFormat, Arity, Environment, LoadArgs, SaveArgs, check_command_arity};
use crate::convert::store_options;
use crate::error::CliError;
use crate::output::{self, Output};

/// Writes images into an archive.
pub(crate) fn save(args: SaveArgs, environment: &Environment, cancel: &AtomicBool) -> Result<(), CliError> {
    if args.failed {
        let store = store_options(&args.common, environment)?;
        let path = args.output.filter(|path| path.as_os_str() != "-").ok_or(CliError::SaveFailedWhere)?;
        let ([] | [_]) = args.images.as_slice() else { return Err(CliError::SaveFailedOne) };
        return Ok(manage::save_failed(&store, args.images.first().map(String::as_str), &path, cancel)?);
    }
    check_command_arity("save", "[OPTIONS] IMAGE [IMAGE...]", Arity::AtLeast(1), args.images.len())?;
    let store = store_options(&args.common, environment)?;
    let format = match args.format {
        None | Some(ArchiveFormat::Docker) => manage::ArchiveFormat::Docker,
        Some(ArchiveFormat::Oci) => manage::ArchiveFormat::Oci,
    };
    match args.output.filter(|path| path.as_os_str() != "-") {
        Some(path) => manage::save_file(&store, &args.images, format, &path, cancel)?,
        None if Output::terminals().stdout => return Err(CliError::Terminal("written to")),
        None => output::archive(|out| manage::save(&store, &args.images, format, out, cancel))??,
    }
    Ok(())
}

/// Reads images from an archive.
///
/// A signal ends it at once: a read from standard input cannot be cancelled, and the store stays usable.
pub(crate) fn load(args: LoadArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    let cancel = &AtomicBool::new(false);
    check_command_arity("load", "[OPTIONS]", Arity::None, args.rest.len())?;
    let store = store_options(&args.common, environment)?;
    let loaded = match args.input.filter(|path| path.as_os_str() != "-") {
        Some(path) => manage::load_file(&store, &path, cancel)?,
        None if io::stdin().is_terminal() => return Err(CliError::Terminal("read from")),
        None => manage::load(&store, &mut io::stdin().lock(), cancel)?,
    };
    output.out(show_loaded(&loaded));
    Ok(())
}

/// What was loaded, as `docker load` tells it.
fn show_loaded(loaded: &[Loaded]) -> String {
    let mut text = String::new();
    for image in loaded {
        for name in &image.names {
            text.push_str(&format!("Loaded image: {name}\n"));
        }
        if image.names.is_empty() {
            text.push_str(&format!("Loaded image ID: {}\n", image.id));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_loaded() {
        let image =
            |names: &[&str]| Loaded { id: "sha256:1".into(), names: names.iter().map(ToString::to_string).collect() };
        assert_eq!(
            show_loaded(&[image(&["q1:a", "q1:b"]), image(&[])]),
            "Loaded image: q1:a\nLoaded image: q1:b\nLoaded image ID: sha256:1\n"
        );
    }
}
