//! `rbuild export` and `cp`: files of an image.

use std::path::PathBuf;

use rbuild_executor::{Changes, Destination, RunControl, RunError, Take, TakeOptions, take};
use rbuild_logfmt::OutputStream;

use crate::args::{Arity, CpArgs, Environment, ExportArgs, check_command_arity};
use crate::convert::{self, store_options};
use crate::error::CliError;
use crate::output::{Output, WriteError};
use crate::signals;

/// Writes the file system of an image.
pub(crate) fn export(args: ExportArgs, environment: &Environment) -> Result<(), CliError> {
    check_command_arity("export", "[OPTIONS] IMAGE", Arity::Exactly(1), args.images.len())?;
    let to = match args.output.filter(|path| path.as_os_str() != "-") {
        Some(path) => Destination::File(path),
        None if Output::terminals().stdout => return Err(CliError::Terminal("written to")),
        None => Destination::Stdout,
    };
    let store = store_options(&args.common, environment)?;
    let image = args.images.concat();
    run(TakeOptions { store, image, isolation: convert::isolation(args.isolation), take: Take::Root(to) }).map(drop)
}

/// Copies a file or directory out of an image.
pub(crate) fn cp(args: CpArgs, environment: &Environment) -> Result<(), CliError> {
    check_command_arity("cp", "[OPTIONS] IMAGE:PATH DEST|-", Arity::Exactly(2), args.paths.len())?;
    let [source, dest] = args.paths.as_slice() else { return Ok(()) };
    let (image, path) = split(source).ok_or_else(|| CliError::NoImagePath(source.clone()))?;
    let (path, follow) = (path.to_owned(), args.follow_link);
    let take = if dest == "-" {
        if Output::terminals().stdout {
            return Err(CliError::Terminal("written to"));
        }
        Take::Archive { path, follow }
    } else {
        Take::Copy { path, follow, to: PathBuf::from(dest), keep_owners: args.archive }
    };
    let store = store_options(&args.common, environment)?;
    run(TakeOptions { store, image: image.to_owned(), isolation: convert::isolation(args.isolation), take }).map(drop)
}

/// The image and the path: the last colon with a slash, or nothing but a path, after it. A tag has no slash.
pub(super) fn split(source: &str) -> Option<(&str, &str)> {
    let at = source.find(":/").or_else(|| source.rfind(':'))?;
    let (image, path) = (&source[..at], &source[at + 1..]);
    (!image.is_empty() && !path.is_empty()).then_some((image, path))
}

/// Takes, until a signal comes.
pub(super) fn run(options: TakeOptions) -> Result<Option<Changes>, CliError> {
    let control = RunControl::new();
    let to_cancel = control.clone();
    let received = signals::listen(move || to_cancel.cancel())
        .map_err(|source| CliError::Io { action: "listen to signals".to_owned(), source })?;
    match take(options, &control) {
        Ok(changes) => Ok(changes),
        Err(RunError::Closed) => Err(CliError::Write(WriteError::Closed { stream: OutputStream::Stdout })),
        Err(RunError::Image(error)) => Err(error.into()),
        Err(error) => match received.signal() {
            Some(signal) => Err(CliError::Interrupted { signal }),
            None => Err(CliError::Take(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_and_paths() {
        for (source, wanted) in [
            ("alpine:/etc/passwd", Some(("alpine", "/etc/passwd"))),
            ("alpine:3:/a:b", Some(("alpine:3", "/a:b"))),
            ("127.0.0.1:5000/x:1:/a", Some(("127.0.0.1:5000/x:1", "/a"))),
            ("alpine:etc", Some(("alpine", "etc"))),
            ("sha256:00:/a", Some(("sha256:00", "/a"))),
            ("alpine", None),
            (":/a", None),
            ("alpine:", None),
        ] {
            assert_eq!(split(source), wanted, "{source}");
        }
    }
}
