//! `rbuild repo`: a build of what a git repository has at a commit.

use rbuild_executor::logfmt::event::{Builder, Dialect, Outcome, Version};
use rbuild_executor::{BuildError, find_dockerfiles};

use crate::args::{Environment, RepoArgs};
use crate::convert::{self, RepoRequest};
use crate::error::CliError;
use crate::output::Output;

/// Builds, or lists the Dockerfiles.
pub(crate) fn run(args: RepoArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    let options = match convert::repo_request(args, environment, Output::terminals())? {
        RepoRequest::Build(request) => return super::build::run_request(*request, output),
        RepoRequest::Find(options) => options,
    };
    let found = find_dockerfiles(&options).map_err(|error| match error {
        // No log has told of it.
        BuildError::Failed(failed) => {
            let failure = failed.failure;
            let dialect = Dialect { builder: Builder::Buildkit, version: Version::V28 };
            output.err(rbuild_executor::logfmt::failure_report(&failure));
            let outcome = Outcome::Failure { failure, step: None, lines: None };
            CliError::Build { outcome: Box::new(outcome), dialect }
        }
        other => CliError::Worker { message: other.to_string(), hint: None },
    })?;
    output.out(found.paths.iter().map(|path| format!("{}\n", path.display())).collect::<String>());
    if found.paths.is_empty() { Err(CliError::Partly) } else { Ok(()) }
}
