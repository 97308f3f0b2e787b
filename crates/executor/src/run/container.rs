//! A command in a snapshot with the surroundings of a container. Knows no image: what is entered may as well be a step
//! that was kept.

use std::path::PathBuf;

use rbuild_logfmt::event::Failure;
use rbuild_sandbox::root::{NewDirs, Root};
use rbuild_sandbox::{Access, ExecError, ExitStatus, Mount, Network, RootAccess, RootFs, RunSpec, Signals, Streams};

use super::error::RunError;
use super::options::RunMount;
use super::process::Process;
use crate::exec;
use crate::options;
use crate::plan::{go, users};
use crate::session::Session;
use crate::snapshot::Change;
use crate::stop::Stop;
use crate::worker::with_causes;

/// Runs a command to its end. What it changes is in the upper directory of `change`, to be kept or thrown away.
pub(crate) fn enter(
    session: &Session<'_>,
    change: &Change,
    process: &Process,
    signals: &Signals,
    streams: Streams<'_>,
) -> Result<ExitStatus, RunError> {
    let view = change.look().map_err(stopped)?;
    let root = Root::open(view.path(), session.ownership()).map_err(|error| stopped(error.into()))?;
    let file = |path: &str| {
        let bytes = root.read(path, 4 << 20).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let passwd = file("etc/passwd");
    let who = users::exec_user(&process.user, &passwd, &file("etc/group")).map_err(RunError::refused)?;
    let is_dir = |path: &str| root.stat(path).is_ok_and(|found| found.is_dir());
    let lacks =
        !is_dir(&process.cwd) || process.volumes.iter().any(|volume| process.mounts_volumes() || !is_dir(volume));
    drop(root);
    drop(view);
    let volumes = if lacks { make_directories(session, change, process)? } else { Vec::new() };

    let bytes = |list: &[String]| list.iter().map(|item| item.clone().into_bytes()).collect::<Vec<_>>();
    let mut spec = RunSpec::new(RootFs::Overlay(change.overlay().clone()), bytes(&process.argv));
    spec.root_access = if process.read_only { RootAccess::ReadOnly } else { RootAccess::ReadWrite };
    spec.env = bytes(&process.env);
    if !process.env.iter().any(|pair| pair.starts_with("HOME=")) {
        spec.env.push(format!("HOME={}", users::home_of(who.uid, &passwd)).into_bytes());
    }
    spec.cwd = PathBuf::from(&process.cwd);
    (spec.uid, spec.gid) = (who.uid, who.gid);
    spec.groups = std::iter::once(who.gid).chain(who.groups.iter().copied().filter(|gid| *gid != who.gid)).collect();
    spec.mounts = exec::network_files(session, &process.hostname, true);
    spec.mounts.extend(volumes);
    spec.mounts.extend(process.mounts.iter().filter_map(mount));
    let no_network = session.options().network == options::Network::None;
    spec.network = if no_network { Network::None } else { Network::Host };
    spec.hostname = process.hostname.clone().into_bytes();
    spec.mount_points = Some(session.mount_points().map_err(stopped)?);
    spec.ulimits = exec::ulimits(&session.options().ulimits).map_err(stopped)?;
    if let Some(size) = session.options().shm_size {
        spec.shm_size = size;
    }
    match rbuild_sandbox::run_with(&spec, session.cancel().commands(), signals, streams) {
        Ok(report) => Ok(report.status),
        Err(rbuild_sandbox::RunError::Cancelled) => Err(RunError::Cancelled),
        Err(rbuild_sandbox::RunError::Exec { argv0, reason }) => {
            Err(exec_failed(&String::from_utf8_lossy(&argv0), reason))
        }
        Err(rbuild_sandbox::RunError::Chdir { path, source }) => {
            Err(RunError::refused(format!("cannot enter the working directory `{}`: {source}", path.display())))
        }
        Err(error @ rbuild_sandbox::RunError::NoSuchId { .. }) => {
            Err(stopped(Stop::failed(exec::no_such_id(session, &process.user, &error))))
        }
        Err(error) => Err(RunError::refused(with_causes(&error))),
    }
}

/// Makes the working directory and the places of volumes. Those are part of the root where that is thrown away as they
/// are; where it cannot be written, or is kept, they are mounted.
fn make_directories(session: &Session<'_>, change: &Change, process: &Process) -> Result<Vec<Mount>, RunError> {
    let mount = change.mount().map_err(stopped)?;
    let root = Root::open(mount.target(), session.ownership()).map_err(|error| stopped(error.into()))?;
    let make = |what: &str, path: &str| {
        let made = root.create_dir_all(path, NewDirs { mode: 0o755, owner: (0, 0), time: None });
        made.map(drop).map_err(|error| {
            let why = error.errno().map_or_else(|| error.to_string(), go::errno_text);
            RunError::refused(format!("cannot make the {what} `{path}`: {why}"))
        })
    };
    make("working directory", &process.cwd)?;
    let mut mounts = Vec::new();
    for volume in &process.volumes {
        if process.mounts_volumes() {
            mounts.push(exec::volume_mount(session, &root, volume).map_err(stopped)?);
        } else {
            make("volume", volume)?;
        }
    }
    Ok(mounts)
}

fn mount(mount: &RunMount) -> Option<Mount> {
    let access = |read_only: bool| if read_only { Access::ReadOnly } else { Access::ReadWrite };
    match mount {
        RunMount::Bind { source, target, read_only, .. } => Some(Mount::Bind {
            source: source.clone(),
            within: None,
            target: PathBuf::from(target),
            access: access(*read_only),
        }),
        RunMount::Tmpfs { target, size, mode, exec, read_only } => Some(Mount::Tmpfs {
            target: PathBuf::from(target),
            size: *size,
            mode: *mode,
            closed: !exec,
            access: access(*read_only),
        }),
        RunMount::Volume { .. } => None,
    }
}

/// Why a command was not executed, with the exit codes that shells and Docker have for it.
fn exec_failed(argv0: &str, reason: ExecError) -> RunError {
    let not_found = |why: &str| RunError::NotFound { message: format!("cannot run `{argv0}`: {why}") };
    let not_executable = |why: &str| RunError::NotExecutable { message: format!("cannot run `{argv0}`: {why}") };
    let text = |errno| std::io::Error::from_raw_os_error(errno).to_string();
    let missing = |errno| errno == rustix::io::Errno::NOENT.raw_os_error();
    match reason {
        ExecError::NotFoundInPath => not_found("no such program in PATH"),
        ExecError::Stat(errno) if missing(errno) => not_found("no such file in the image"),
        ExecError::Exec(errno) if missing(errno) => not_found("its interpreter or loader is not in the image"),
        ExecError::IsDirectory => not_executable("it is a directory"),
        ExecError::PermissionDenied => not_executable("permission denied"),
        ExecError::Stat(errno) | ExecError::Exec(errno) => not_executable(&text(errno)),
    }
}

/// What ended the work before the command began.
pub(crate) fn stopped(stop: Stop) -> RunError {
    let failed = match stop {
        Stop::Cancelled => return RunError::Cancelled,
        Stop::Failed(failed) => failed,
    };
    match failed.failure {
        Failure::Own { message, hint } => RunError::Refused { message, hint },
        Failure::Instruction { message } | Failure::Setup { message, .. } => RunError::refused(message),
        other => RunError::refused(format!("the image cannot be used: {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_of_commands_that_do_not_start() {
        for (reason, code) in [
            (ExecError::NotFoundInPath, 127),
            (ExecError::Stat(2), 127),
            (ExecError::Exec(2), 127),
            (ExecError::Stat(20), 126),
            (ExecError::Exec(8), 126),
            (ExecError::IsDirectory, 126),
            (ExecError::PermissionDenied, 126),
        ] {
            let error = exec_failed("x", reason);
            assert_eq!(error.exit_code(), code, "{error}");
            assert!(error.to_string().starts_with("cannot run `x`: "));
        }
    }
}
