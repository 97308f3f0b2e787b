//! `rbuild pull` and `push`, told as Docker's client tells them where there is no terminal.

use std::sync::atomic::AtomicBool;

use rbuild_executor::manage::{self, LayerState, TransferFact};

use crate::args::{Arity, Environment, PullArgs, PushArgs, check_command_arity};
use crate::convert::{registry_access, store_options};
use crate::error::CliError;
use crate::human;
use crate::output::Output;

/// Downloads an image.
pub(crate) fn pull(
    args: PullArgs,
    environment: &Environment,
    output: &mut Output,
    cancel: &AtomicBool,
) -> Result<(), CliError> {
    check_command_arity("pull", "[OPTIONS] NAME[:TAG|@DIGEST]", Arity::Exactly(1), args.images.len())?;
    let store = store_options(&args.common, environment)?;
    let access = registry_access(&args.registry, environment);
    for image in &args.images {
        if !args.quiet && !has_version(image) {
            output.out("Using default tag: latest\n");
        }
        let mut tell = |fact: &TransferFact| {
            if !args.quiet {
                output.out(show_pull(fact));
            }
        };
        let pulled = manage::pull(&store, &access, image, args.platform.as_deref(), &mut tell, cancel)?;
        if !args.quiet {
            let status = if pulled.newer { "Downloaded newer image for" } else { "Image is up to date for" };
            output.out(format!("Digest: {}\nStatus: {status} {}\n", pulled.digest, pulled.name));
        }
        output.out(pulled.canonical + "\n");
    }
    Ok(())
}

/// Uploads an image, or all tags of a repository.
pub(crate) fn push(
    args: PushArgs,
    environment: &Environment,
    output: &mut Output,
    cancel: &AtomicBool,
) -> Result<(), CliError> {
    check_command_arity("push", "[OPTIONS] NAME[:TAG]", Arity::Exactly(1), args.images.len())?;
    let store = store_options(&args.common, environment)?;
    let access = registry_access(&args.registry, environment);
    for image in &args.images {
        let names = match args.all_tags {
            false => vec![image.clone()],
            true if has_version(image) => return Err(CliError::TagWithAllTags),
            true => manage::tags(&store, image)?,
        };
        if names.is_empty() {
            return Err(manage::ManageError::NoImage { name: image.clone() }.into());
        }
        if !args.quiet && !args.all_tags && !has_version(image) {
            output.out("Using default tag: latest\n");
        }
        for (at, name) in names.iter().enumerate() {
            let mut tell = |fact: &TransferFact| {
                if !args.quiet && (at == 0 || !matches!(fact, TransferFact::Started { .. })) {
                    output.out(show_push(fact));
                }
            };
            let pushed = manage::push(&store, &access, name, &mut tell, cancel)?;
            if args.quiet {
                output.out(full_name(&pushed.name) + "\n");
            } else {
                output.out(format!("{}: digest: {} size: {}\n", pushed.tag, pushed.digest, pushed.size));
            }
        }
    }
    Ok(())
}

/// Whether a name has a tag or a digest. A colon before a slash belongs to the registry's port.
fn has_version(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.contains([':', '@'])
}

/// Docker shows the registry in full here.
fn full_name(name: &str) -> String {
    match name.split_once('/') {
        None => format!("docker.io/library/{name}"),
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
    }
}

pub(super) fn show_pull(fact: &TransferFact) -> String {
    match fact {
        TransferFact::Started { path, version, .. } => format!("{version}: Pulling from {path}\n"),
        TransferFact::Layer { digest, state } => {
            let id = human::short_id(digest);
            match state {
                LayerState::Exists => format!("{id}: Already exists\n"),
                LayerState::Waiting => format!("{id}: Pulling fs layer\n"),
                LayerState::Downloaded => {
                    format!("{id}: Verifying Checksum\n{id}: Download complete\n")
                }
                LayerState::Complete => format!("{id}: Pull complete\n"),
                _ => String::new(),
            }
        }
        TransferFact::Retrying { digest, error } => {
            format!("{}: Retrying: {error}\n", human::short_id(digest))
        }
        _ => String::new(),
    }
}

fn show_push(fact: &TransferFact) -> String {
    match fact {
        TransferFact::Started { repository, .. } => {
            format!("The push refers to repository [{repository}]\n")
        }
        TransferFact::Layer { digest, state } => {
            let id = human::short_id(digest);
            match state {
                LayerState::Waiting => format!("{id}: Preparing\n"),
                LayerState::Exists => format!("{id}: Layer already exists\n"),
                LayerState::Mounted { from } => format!("{id}: Mounted from {from}\n"),
                LayerState::Complete => format!("{id}: Pushed\n"),
                _ => String::new(),
            }
        }
        TransferFact::Retrying { digest, error } => {
            format!("{}: Retrying: {error}\n", human::short_id(digest))
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_names() {
        for (name, has) in [
            ("busybox", false),
            ("busybox:1", true),
            ("127.0.0.1:5000/x", false),
            ("127.0.0.1:5000/x:1", true),
            ("x@sha256:00", true),
        ] {
            assert_eq!(has_version(name), has, "{name}");
        }
        assert_eq!(full_name("busybox:1"), "docker.io/library/busybox:1");
        assert_eq!(full_name("a/b:1"), "docker.io/a/b:1");
        assert_eq!(full_name("127.0.0.1:5000/b:1"), "127.0.0.1:5000/b:1");
    }

    #[test]
    fn lines_as_docker_has_them() {
        let layer = |state| TransferFact::Layer { digest: "sha256:8359e783cc098ab9".into(), state };
        let started =
            TransferFact::Started { repository: "127.0.0.1:5000/x".into(), path: "x".into(), version: "1".into() };
        assert_eq!(show_pull(&started), "1: Pulling from x\n");
        assert_eq!(show_pull(&layer(LayerState::Exists)), "8359e783cc09: Already exists\n");
        assert_eq!(
            show_pull(&layer(LayerState::Downloaded)),
            "8359e783cc09: Verifying Checksum\n8359e783cc09: Download complete\n"
        );
        assert_eq!(show_pull(&layer(LayerState::Progress { current: 1, total: 2 })), "");
        assert_eq!(show_push(&started), "The push refers to repository [127.0.0.1:5000/x]\n");
        assert_eq!(show_push(&layer(LayerState::Waiting)), "8359e783cc09: Preparing\n");
        assert_eq!(show_push(&layer(LayerState::Exists)), "8359e783cc09: Layer already exists\n");
        assert_eq!(
            show_push(&layer(LayerState::Mounted { from: "library/busybox".into() })),
            "8359e783cc09: Mounted from library/busybox\n"
        );
    }
}
