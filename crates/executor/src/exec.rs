//! RUN: a command in a snapshot.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rbuild_image::digest::DiffId;
use rbuild_logfmt::event::{Fact, Failure, Lines, StepId, Stream, Version};
use rbuild_logfmt::go_reason;
use rbuild_parser::Network as RunNetwork;
use rbuild_sandbox::root::{NewDirs, Root};
use rbuild_sandbox::{
    Access, ExecError, Mount, Network, Privilege, Resource, RootAccess, RootFs, RunError, RunSpec, Ulimit,
};

use crate::journal::Surroundings;
use crate::kept::{Half, HalfBuilt};
use crate::key::CacheKey;
use crate::options;
use crate::plan::{go, users};
use crate::rootfs::{self, CopyOptions, Source};
use crate::session::Session;
use crate::snapshot::{Change, NewLayer};
use crate::stop::Stop;

/// A command and its surroundings, independent of the dialect.
pub(crate) struct Command<'a> {
    pub(crate) argv: &'a [String],
    pub(crate) env: Vec<String>,
    /// Further variables, which are in no image: secrets and proxies.
    pub(crate) hidden_env: Vec<String>,
    /// Absolute; made if it is missing.
    pub(crate) cwd: &'a str,
    /// Value of USER.
    pub(crate) user: &'a str,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) network: RunNetwork,
    /// Legacy: the id of the container, 64 digits.
    pub(crate) container: Option<&'a str>,
    /// Legacy: the image's volumes. What a command writes there is lost.
    pub(crate) volumes: Vec<String>,
}

impl<'a> Command<'a> {
    /// For somebody who looks around.
    pub(crate) fn look(surroundings: &'a Surroundings) -> Command<'a> {
        Command {
            argv: &[],
            env: surroundings.env.clone(),
            hidden_env: Vec::new(),
            cwd: &surroundings.cwd,
            user: &surroundings.user,
            mounts: Vec::new(),
            network: RunNetwork::Default,
            container: None,
            volumes: Vec::new(),
        }
    }
}

/// The step that a command is run for.
#[derive(Clone, Copy)]
pub(crate) struct RunStep<'a> {
    pub(crate) id: StepId,
    pub(crate) lines: Option<Lines>,
    /// What its result is filed under.
    pub(crate) key: &'a CacheKey,
    /// A layer, of an earlier try, that the command begins with.
    pub(crate) start: Option<&'a DiffId>,
}

/// The layer of a command.
pub(crate) struct Ran {
    pub(crate) layer: NewLayer,
    /// It is not what the command alone gives.
    pub(crate) by_hand: bool,
}

/// Runs a command on a stack of layers and makes its changes a layer.
pub(crate) fn run(
    session: &Session<'_>,
    layers: &[DiffId],
    command: Command<'_>,
    step: RunStep<'_>,
) -> Result<Ran, Stop> {
    let stack = session.unpacked(layers)?;
    let beneath = match command.container {
        Some(_) => vec![init_layer(session, &stack)?],
        None => Vec::new(),
    };
    let change = Change::begin(session, layers, &beneath)?;
    let half = Half {
        below: layers.to_vec(),
        argv: command.argv.to_vec(),
        env: command.env.clone(),
        cwd: command.cwd.to_owned(),
        user: command.user.to_owned(),
    };
    let started = match step.start {
        Some(layer) => change.start_with(session, layer),
        None => Ok(()),
    };
    let ran = started.and_then(|()| {
        let spec = prepare(session, &change, command)?;
        match execute(session, &spec, &half, step.id) {
            Err(Stop::Failed(failed)) if let Failure::Run { code, .. } = failed.failure => {
                let fixed = session.shells().after_failure(session, &spec, step.id, step.lines, code)?;
                if fixed { Ok(true) } else { Err(Stop::Failed(failed)) }
            }
            ended => ended.map(|()| false),
        }
    });
    match ran {
        Ok(fixed) => {
            let layer = change.commit(session)?;
            if fixed {
                half.keep_fixed(session, step, &layer.diff_id)?;
            }
            Ok(Ran { layer, by_hand: fixed || step.start.is_some() })
        }
        Err(Stop::Failed(failed))
            if session.options().keep_failed.max_bytes > 0
                && let Failure::Run { code: exit_code, .. } = failed.failure =>
        {
            Err(Stop::Failed(failed).leaving(HalfBuilt { change, half, exit_code }))
        }
        Err(stop) => {
            change.discard(session);
            Err(stop)
        }
    }
}

/// Makes a snapshot ready for a command, and tells how it is run.
pub(crate) fn prepare(session: &Session<'_>, change: &Change, command: Command<'_>) -> Result<RunSpec, Stop> {
    let setup = |message: String| Stop::failed(Failure::Setup { argv: command.argv.to_vec(), message });
    let view = change.look()?;
    let root = Root::open(view.path(), session.ownership())?;
    let file = |path: &str| {
        let bytes = root.read(path, 4 << 20).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let passwd = file("etc/passwd");
    let who = users::exec_user(command.user, &passwd, &file("etc/group")).map_err(setup)?;
    let kept = kept_mount_points(session, &command);
    let lacks = lacks_directories(&root, &command)? || !kept.is_empty();
    drop(root);
    drop(view);
    let volumes = if lacks { make_directories(session, change, &command, &kept)? } else { Vec::new() };

    let host_network = command.network != RunNetwork::None && session.options().network != options::Network::None;
    let hostname = hostname(session, &command);
    let mut env = command.env;
    env.extend(command.hidden_env);
    let has = |env: &[String], name: &str| env.iter().any(|pair| pair.split('=').next() == Some(name));
    if command.container.is_some() && !has(&env, "HOSTNAME") {
        env.push(format!("HOSTNAME={hostname}"));
    }
    if !has(&env, "HOME") {
        env.push(format!("HOME={}", users::home_of(who.uid, &passwd)));
    }
    let bytes = |list: &[String]| list.iter().map(|item| item.clone().into_bytes()).collect::<Vec<_>>();
    let mut spec = RunSpec::new(RootFs::Overlay(change.overlay().clone()), bytes(command.argv));
    spec.root_access = RootAccess::ReadWrite;
    spec.env = bytes(&env);
    spec.cwd = PathBuf::from(command.cwd);
    (spec.uid, spec.gid) = (who.uid, who.gid);
    let own_group = session.is_legacy() || session.options().dialect.version != Version::V20;
    spec.groups = match own_group {
        true => std::iter::once(who.gid).chain(who.groups.iter().copied().filter(|gid| *gid != who.gid)).collect(),
        // BuildKit of 20.10 leaves the primary group out, and asks for no groups where there is no USER.
        false if command.user.is_empty() => Vec::new(),
        false => who.groups.clone(),
    };
    spec.mounts = network_files(session, &hostname, command.container.is_some());
    spec.mounts.extend(volumes);
    spec.mounts.extend(command.mounts);
    spec.network = if host_network { Network::Host } else { Network::None };
    spec.hostname = hostname.into_bytes();
    spec.mount_points = Some(session.mount_points()?);
    spec.ulimits = ulimits(&session.options().ulimits)?;
    if let Some(size) = session.options().shm_size {
        spec.shm_size = size;
    }
    Ok(spec)
}

/// Runs a command, and tells what it writes.
fn execute(session: &Session<'_>, spec: &RunSpec, half: &Half, step: StepId) -> Result<(), Stop> {
    let emitter = session.emitter();
    let mut offsets = [0; 2];
    let mut output = |written: rbuild_sandbox::Output<'_>| {
        let [to_stdout, to_stderr] = &mut offsets;
        let (stream, so_far) = match written.stream {
            rbuild_sandbox::Stream::Stdout => (Stream::Stdout, to_stdout),
            rbuild_sandbox::Stream::Stderr => (Stream::Stderr, to_stderr),
        };
        let offset = *so_far;
        *so_far += written.bytes.len() as u64;
        emitter.emit(Fact::Output { step, stream, offset, data: written.bytes.to_vec() });
    };
    let argv = half.argv.clone();
    let result = rbuild_sandbox::run(spec, session.cancel().commands(), &mut output);
    // Not after a success: what another command meets at the same time is to be told with that one.
    if !matches!(&result, Ok(report) if report.status.success()) {
        for limit in rbuild_sandbox::limits_met() {
            emitter.emit(Fact::Note { text: limit.to_string(), shown: true });
        }
    }
    match result {
        Ok(report) if report.status.success() => Ok(()),
        Ok(report) => Err(Stop::failed(Failure::Run { argv, code: report.status.code() })),
        Err(RunError::Cancelled) => Err(Stop::Cancelled),
        Err(RunError::Exec { argv0, reason }) => {
            Err(Stop::failed(exec_failed(session, step, argv, &String::from_utf8_lossy(&argv0), reason)))
        }
        Err(RunError::Chdir { path, source }) => {
            let text = format!("chdir to cwd ({}) set in config.json failed: {}", path_text(&path), go_reason(&source));
            Err(Stop::failed(Failure::Start { argv, message: text, code: 1 }))
        }
        Err(error @ RunError::NoSuchId { .. }) => Err(Stop::failed(no_such_id(session, &half.user, &error))),
        Err(error) => Err(Stop::own(&error)),
    }
}

/// A user or group that cannot be had: which one, why, and what gives more.
pub(crate) fn no_such_id(session: &Session<'_>, user: &str, error: &RunError) -> Failure {
    let why = session.facts().why_one_id.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    let hint = if session.facts().privilege == Privilege::OneId {
        "grant subordinate ids in /etc/subuid and /etc/subgid (`usermod --add-subuids … --add-subgids …`) and install \
         `newuidmap` (package uidmap), or build as root; `rbuild doctor` tells what is missing, and the ids to grant"
    } else {
        "grant more subordinate ids in /etc/subuid and /etc/subgid; `rbuild doctor` shows those there are"
    };
    Failure::Own { message: format!("cannot run as `{user}`: {error}{why}"), hint: Some(hint.to_owned()) }
}

/// Whether something must be made in the snapshot before the command starts: the working directory, places of volumes,
/// and what Docker's runtime makes there, which BuildKit leaves.
fn lacks_directories(root: &Root, command: &Command<'_>) -> Result<bool, Stop> {
    if !root.stat(command.cwd).is_ok_and(|found| found.is_dir()) {
        return Ok(true);
    }
    if command.container.is_some() {
        return Ok(!command.volumes.is_empty());
    }
    for dir in RUNTIME_DIRECTORIES {
        if root.try_lstat(dir)?.is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Mount points that every container has.
const RUNTIME_DIRECTORIES: &[&str] = &["dev", "proc", "sys"];

/// The directories that BuildKit of Docker 20.10 makes to mount on, or to have a file in that is mounted, and leaves.
fn kept_mount_points(session: &Session<'_>, command: &Command<'_>) -> Vec<PathBuf> {
    if command.container.is_some() || session.options().dialect.version != Version::V20 {
        return Vec::new();
    }
    let directory = |mount: &Mount| match mount {
        Mount::Bind { source, within, target, .. } => {
            let source = within
                .as_ref()
                .map_or(source.clone(), |within| within.join(source.strip_prefix("/").unwrap_or(source)));
            let is_file = std::fs::symlink_metadata(source).is_ok_and(|found| found.is_file());
            if is_file { target.parent().map(Path::to_owned) } else { Some(target.clone()) }
        }
        Mount::Tmpfs { target, .. } => Some(target.clone()),
        Mount::File { target, .. } => target.parent().map(Path::to_owned),
    };
    command.mounts.iter().filter_map(directory).collect()
}

/// Makes them, and tells the mounts of the volumes.
fn make_directories(
    session: &Session<'_>,
    change: &Change,
    command: &Command<'_>,
    kept: &[PathBuf],
) -> Result<Vec<Mount>, Stop> {
    let mount = change.mount()?;
    let root = Root::open(mount.target(), session.ownership())?;
    let made = root.create_dir_all(command.cwd, NewDirs { mode: 0o755, owner: (0, 0), time: None });
    if let Err(error) = made {
        let why = error.errno().map_or_else(|| error.to_string(), go::errno_text);
        let message = format!("mkdir {}: {why}", command.cwd);
        return Err(Stop::failed(Failure::Setup { argv: command.argv.to_vec(), message }));
    }
    let mut volumes = Vec::new();
    if command.container.is_some() {
        for volume in &command.volumes {
            volumes.push(volume_mount(session, &root, volume)?);
        }
    } else {
        for dir in RUNTIME_DIRECTORIES {
            if root.try_lstat(dir)?.is_none() {
                root.create_dir(dir)?.chmod(0o755)?;
            }
        }
        for dir in kept {
            match root.create_dir_all(dir, NewDirs { mode: 0o755, owner: (0, 0), time: None }) {
                // Where something is in the way, mounting tells of it.
                Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {}
                made => drop(made?),
            }
        }
    }
    Ok(volumes)
}

/// An anonymous volume as a container gets it: with what the image has at its place, in a directory that goes with the
/// step. The place itself becomes part of the layer.
pub(crate) fn volume_mount(session: &Session<'_>, root: &Root, volume: &str) -> Result<Mount, Stop> {
    let path = go::join_path("/", volume);
    let new = NewDirs { mode: 0o755, owner: (0, 0), time: None };
    if root.create_dir_all(&path, new).is_err_and(|error| error.kind() == std::io::ErrorKind::NotADirectory) {
        return Err(Stop::failed(Failure::Instruction {
            message: format!("cannot mount volume over existing file, file exists {path}"),
        }));
    }
    let seen = root.stat(&path)?;
    let dir = session.scratch_dir()?;
    let copy = Root::open(&dir, session.ownership())?;
    rootfs::copy(&Source::new(root), Path::new(&path), &copy, Path::new("/"), CopyOptions::default())?;
    let node = copy.node("/")?;
    node.chown(seen.uid, seen.gid)?;
    node.chmod(seen.mode)?;
    Ok(Mount::Bind { source: dir, within: None, target: PathBuf::from(path), access: Access::ReadWrite })
}

fn path_text(path: &Path) -> String {
    go::quote(&path.to_string_lossy())
}

/// What a runtime says of a command that cannot be executed (runc 1.3's words).
fn exec_failed(session: &Session<'_>, step: StepId, argv: Vec<String>, argv0: &str, reason: ExecError) -> Failure {
    let quoted = go::quote(argv0);
    let message = match reason {
        ExecError::NotFoundInPath => format!("exec: {quoted}: executable file not found in $PATH"),
        ExecError::PermissionDenied => format!("exec: {quoted}: permission denied"),
        ExecError::IsDirectory if session.is_legacy() => format!("exec: {quoted}: is a directory: permission denied"),
        ExecError::IsDirectory => format!("exec: {quoted}: is a directory"),
        ExecError::Stat(errno) => format!("exec: {quoted}: stat {argv0}: {}", go::errno_text(errno)),
        // The runtime has nothing left to say then but on the command's own output.
        ExecError::Exec(errno) => {
            let data = format!("exec {argv0}: {}\n", go::errno_text(errno)).into_bytes();
            session.emitter().emit(Fact::Output { step, stream: Stream::Stderr, offset: 0, data });
            return Failure::Run { argv, code: 255 };
        }
    };
    Failure::Start { argv, message, code: 1 }
}

/// BuildKit's steps are called `buildkitsandbox`; a legacy container has its own id, or the host's name with the host's
/// network.
fn hostname(session: &Session<'_>, command: &Command<'_>) -> String {
    match command.container {
        None => "buildkitsandbox".to_owned(),
        Some(_) if session.options().network == options::Network::Host => {
            rustix::system::uname().nodename().to_string_lossy().into_owned()
        }
        Some(id) => id.chars().take(12).collect(),
    }
}

/// What Docker puts over /etc: never part of a layer.
pub(crate) fn network_files(session: &Session<'_>, hostname: &str, legacy: bool) -> Vec<Mount> {
    let host_network = session.options().network == options::Network::Host;
    let mut hosts = match (legacy, host_network) {
        (false, _) => format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n"),
        (true, true) => std::fs::read_to_string("/etc/hosts").unwrap_or_default(),
        (true, false) => format!(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\t\
             ip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n127.0.0.1\t{hostname}\n"
        ),
    };
    for (name, address) in &session.options().add_hosts {
        let address = if address == "host-gateway" { "127.0.0.1" } else { address };
        hosts.push_str(&format!("{address}\t{name}\n"));
    }
    let resolver = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let resolver =
        if legacy && session.options().dialect.version >= Version::V28 { engine_resolver(&resolver) } else { resolver };
    let access = if legacy { Access::ReadWrite } else { Access::ReadOnly };
    let file = |target: &str, content: String| Mount::File {
        content: content.into_bytes(),
        target: PathBuf::from(target),
        mode: 0o644,
        uid: 0,
        gid: 0,
        access,
    };
    let mut files = vec![file("/etc/resolv.conf", resolver), file("/etc/hosts", hosts)];
    if legacy {
        files.push(file("/etc/hostname", format!("{hostname}\n")));
    }
    files
}

/// The resolver's configuration as Docker Engine 28 writes it for a container.
fn engine_resolver(host: &str) -> String {
    let lines = |keyword: &str| -> Vec<&str> {
        host.lines().map(str::trim).filter(|line| line.split_whitespace().next() == Some(keyword)).collect()
    };
    let mut out = String::from(
        "# Generated by Docker Engine.\n# This file can be edited; Docker Engine will not make further changes once it\n\
         # has been modified.\n\n",
    );
    for line in lines("nameserver").into_iter().chain(lines("search")).chain(lines("options")) {
        out.push_str(line);
        out.push('\n');
    }
    out.push_str("\n# Based on host file: '/etc/resolv.conf'\n# Overrides: []\n");
    out
}

/// The directory that Docker puts between the image and a container: mount points and names that a container finds
/// though no layer has them (moby `daemon/initlayer`).
pub(crate) fn init_layer(session: &Session<'_>, stack: &[PathBuf]) -> Result<PathBuf, Stop> {
    let dir = session.scratch_dir()?;
    let root = Root::open(&dir, session.ownership())?;
    let existing = |path: &str| stack.iter().find_map(|layer| layer.join(path).symlink_metadata().ok());
    session.copy_root_attributes(stack.first().map(PathBuf::as_path), &dir)?;
    let mut closed = Vec::new();
    for name in ["dev", "etc", "proc", "sys"] {
        match existing(name) {
            Some(found) if !found.is_dir() => closed.push(name),
            found => {
                let node = root.create_dir(name)?;
                let layer = stack.iter().find(|layer| layer.join(name).is_dir());
                match (found, layer) {
                    (Some(_), Some(layer)) => {
                        let seen = Root::open(layer, session.ownership())?.lstat(name)?;
                        node.chown(seen.uid, seen.gid)?;
                        node.chmod(seen.mode)?;
                    }
                    _ => node.chmod(0o755)?,
                }
            }
        }
    }
    for (parent, name) in [("dev", "dev/pts"), ("dev", "dev/shm")] {
        if !closed.contains(&parent) && existing(name).is_none() {
            root.create_dir(name)?.chmod(0o755)?;
        }
    }
    let files = ["dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf", ".dockerenv"];
    for name in files {
        let parent = name.split_once('/').map_or("", |(parent, _)| parent);
        if !closed.contains(&parent) && existing(name).is_none() {
            root.create_file(name)?.chmod(0o755)?;
        }
    }
    if !closed.contains(&"etc") && existing("etc/mtab").is_none() {
        root.create_symlink("etc/mtab", OsStr::from_bytes(b"/proc/mounts"))?;
    }
    Ok(dir)
}

pub(crate) fn ulimits(given: &[options::Ulimit]) -> Result<Vec<Ulimit>, Stop> {
    let value = |n: i64| u64::try_from(n).unwrap_or(u64::MAX);
    given
        .iter()
        .map(|limit| {
            let resource = resource(&limit.name).ok_or_else(|| {
                Stop::failed(Failure::Own {
                    message: format!("unknown resource limit `{}`", limit.name),
                    hint: Some("see `docker build --ulimit`: nofile, nproc, core, …".to_owned()),
                })
            })?;
            Ok(Ulimit { resource, soft: value(limit.soft), hard: value(limit.hard) })
        })
        .collect()
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}
