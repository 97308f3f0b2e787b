//! The process that does one build.

use crate::{
    channel::{Channel, ChannelError},
    guardian::{Plan, Proceed, Report, Setup},
    idmap::{HelperMap, IdKind, IdMapError, current_map, write_map_of},
    init::{self, Known},
    isolation::{Facts, IdRange, Isolation, Privilege},
    run::ExitStatus,
    sys::{process, spawn::spawn_self},
    userns::Refusal,
};
use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal, geteuid},
    thread::CapabilitySet,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    ffi::{CString, OsString},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
    sync::Arc,
};

/// How a worker is started.
#[derive(Debug)]
pub struct WorkerOptions {
    /// The name of its entry among those given to [`init`](crate::init()).
    pub entry: String,
    /// How it is confined.
    pub isolation: Isolation,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Open files for it, in this order: [`WorkerChannel::take_fd`].
    pub fds: Vec<OwnedFd>,
    /// Its standard error, for panics and diagnostics; `/dev/null` where there is none.
    pub stderr: Option<OwnedFd>,
    /// Do without subordinate ids even where there are some.
    pub one_id: bool,
    /// Under [`Isolation::Auto`]: a directory, made if need be, in which the worker is going to mount overlays. Where the
    /// kernel makes none there, namespaces are passed over.
    pub overlay_on: Option<PathBuf>,
    /// A directory, made if need be, for attributes of files: used where the kernel is emulated and the file system of
    /// the directory keeps none. To be given again as long as the files are there.
    pub attributes_in: Option<PathBuf>,
}

impl WorkerOptions {
    /// The entry `entry` under [`Isolation::Auto`], with an empty environment.
    pub fn new(entry: impl Into<String>) -> Self {
        Self {
            entry: entry.into(),
            isolation: Isolation::Auto,
            env: Vec::new(),
            fds: Vec::new(),
            stderr: None,
            one_id: false,
            overlay_on: None,
            attributes_in: None,
        }
    }
}

/// Why no worker could be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// [`init`](crate::init()) was not called first in `main`.
    #[error("the program did not call the sandbox's `init` first in `main`")]
    NotInitialised,
    /// No such entry was given to [`init`](crate::init()).
    #[error("the program has no worker entry `{0}`")]
    UnknownEntry(String),
    /// The program cannot be started again.
    #[error("cannot start `{path}` again")]
    Exec {
        /// `/proc/self/exe`.
        path: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The kind of isolation asked for does not exist here.
    #[error("isolation `{isolation}` is not available: {reason}")]
    Unavailable {
        /// Which.
        isolation: Isolation,
        /// Why.
        reason: String,
    },
    /// A namespace could not be made or entered.
    #[error("cannot {action}")]
    Namespace {
        /// What was tried.
        action: String,
        /// The cause.
        source: io::Error,
    },
    /// The kernel gave no user namespace.
    #[error("cannot create a user namespace: {refusal}")]
    UserNamespace {
        /// Why, as far as can be found out.
        refusal: Refusal,
        /// The kernel's error number, which says less: ENOSPC for a limit, EPERM for most.
        errno: i32,
    },
    /// The ids could not be mapped.
    #[error(transparent)]
    IdMap(#[from] IdMapError),
    /// Sockets, pipes or processes could not be made.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The worker said nothing intelligible while it was set up.
    #[error("lost the worker while it was set up")]
    Channel(#[from] ChannelError),
    /// The worker died while it was set up.
    #[error("the worker died while it was set up")]
    Died,
}

impl SpawnError {
    /// The error and its cause on one line.
    fn to_string_with_source(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}

/// A running worker. Dropping it kills the worker and all that it started.
#[derive(Debug)]
pub struct Worker {
    facts: Facts,
    channel: Channel,
    control: Arc<Channel>,
    guardian: Pid,
    ended: Option<ExitStatus>,
}

impl Worker {
    /// Starts this program again as a worker.
    ///
    /// # Errors
    /// Where the program did not prepare for it, or no namespace can be had: the error says which step failed.
    pub fn spawn(options: WorkerOptions) -> Result<Self, SpawnError> {
        match init::knows(Some(&options.entry)) {
            Known::NotInitialised => return Err(SpawnError::NotInitialised),
            Known::NoSuchEntry => return Err(SpawnError::UnknownEntry(options.entry)),
            Known::Yes => {}
        }
        match options.isolation {
            Isolation::Auto => Self::spawn_strongest(&options),
            Isolation::Userns => Self::spawn_userns(&options),
            Isolation::Ptrace => Self::attempt(&options, Ids::Emulated),
            isolation @ Isolation::Chroot => Err(SpawnError::Unavailable {
                isolation,
                reason: "this version builds with `userns` and `ptrace` only; use `auto` or one of these".into(),
            }),
        }
    }

    /// A user namespace with many ids in which overlays work, else an emulated kernel: with one id alone a command that
    /// changes owners fails. That is taken where nothing can be emulated.
    fn spawn_strongest(options: &WorkerOptions) -> Result<Self, SpawnError> {
        let namespace = Self::spawn_userns(options);
        match &namespace {
            Ok(worker) if options.one_id || worker.facts.privilege != Privilege::OneId => return namespace,
            _ => {}
        }
        Self::attempt(options, Ids::Emulated).or_else(|error| {
            tracing::debug!(error = error.to_string_with_source(), "there is no emulated kernel");
            namespace
        })
    }

    /// Tries the ways to uid 0, best first.
    fn spawn_userns(options: &WorkerOptions) -> Result<Self, SpawnError> {
        let mut refused = None;
        if !options.one_id {
            let may = rustix::thread::capabilities(None).map(|sets| sets.effective).unwrap_or(CapabilitySet::empty());
            if geteuid().is_root() && may.contains(CapabilitySet::SYS_ADMIN) {
                match Self::attempt(options, Ids::Root) {
                    Err(error @ SpawnError::Namespace { .. }) => refused = Some(error.to_string_with_source()),
                    other => return other,
                }
            }
            if may.contains(CapabilitySet::SETUID | CapabilitySet::SETGID) {
                let attempt = identity_maps()
                    .map_err(SpawnError::from)
                    .and_then(|(uids, gids)| Self::attempt(options, Ids::Direct { uids, gids }));
                match attempt {
                    // Then no other map helps.
                    Ok(_) | Err(SpawnError::UserNamespace { .. }) => return attempt,
                    Err(error) => refused = Some(error.to_string_with_source()),
                }
            }
            let maps = HelperMap::find(IdKind::User).and_then(|users| Ok((users, HelperMap::find(IdKind::Group)?)));
            match maps {
                Ok((users, groups)) => match Self::attempt(options, Ids::Helper { users, groups }) {
                    Err(error @ (SpawnError::Namespace { .. } | SpawnError::IdMap(_))) => {
                        refused = Some(error.to_string_with_source());
                    }
                    other => return other,
                },
                Err(error) => refused = Some(refused.map_or_else(|| error.to_string(), |r| format!("{r}; {error}"))),
            }
        }
        let why = refused.unwrap_or_else(|| "one id was asked for".into());
        Self::attempt(options, Ids::One { why })
    }

    fn attempt(options: &WorkerOptions, ids: Ids) -> Result<Self, SpawnError> {
        let io = |action| move |source: io::Error| SpawnError::Io { action, source };
        let (control, inner_control) = Channel::pair().map_err(io("create a socket"))?;
        let (channel, inner_channel) = Channel::pair().map_err(io("create a socket"))?;
        let null = open_null().map_err(io("open `/dev/null`"))?;
        let stderr = options.stderr.as_ref().unwrap_or(&null);
        let mut fds = vec![null.as_fd(), null.as_fd(), stderr.as_fd(), inner_control.as_fd(), inner_channel.as_fd()];
        fds.extend(options.fds.iter().map(AsFd::as_fd));
        let argv = c_string([init::WORKER.as_bytes(), options.entry.as_bytes()].concat())?;
        let env = options
            .env
            .iter()
            .map(|(name, value)| c_string([name.as_bytes(), b"=", value.as_bytes()].concat()))
            .collect::<Result<Vec<_>, _>>()?;
        let guardian =
            spawn_self(&[argv], &env, &fds, 0).map_err(|source| SpawnError::Exec { path: "/proc/self/exe", source })?;
        drop((inner_control, inner_channel));

        // From here on dropping the worker ends the process.
        let mut worker = Self { facts: ids.facts(), channel, control: Arc::new(control), guardian, ended: None };
        let overlay_on = options.overlay_on.clone().filter(|_| options.isolation == Isolation::Auto);
        let attributes_in = options.attributes_in.clone();
        let extra_fds = options.fds.len();
        worker.control.send(&Setup { plan: ids.plan(), extra_fds, overlay_on, attributes_in })?;
        worker.expect_report(|report| matches!(report, Report::Unshared))?;
        ids.write(guardian)?;
        worker.control.send(&Proceed { facts: worker.facts.clone() })?;
        worker.expect_report(|report| matches!(report, Report::Ready))?;
        Ok(worker)
    }

    fn expect_report(&mut self, expected: fn(&Report) -> bool) -> Result<(), SpawnError> {
        match self.control.recv::<Report>()? {
            Some(Report::Failed { action, errno }) => {
                Err(SpawnError::Namespace { action, source: io::Error::from_raw_os_error(errno) })
            }
            Some(Report::NoUserNamespace { errno }) => {
                Err(SpawnError::UserNamespace { refusal: Refusal::of(errno), errno })
            }
            Some(report) if expected(&report) => Ok(()),
            _ => Err(SpawnError::Died),
        }
    }

    /// What was found when it was set up.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The connection to it.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Sends it a message.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub fn send<T: Serialize>(&self, message: &T) -> Result<(), ChannelError> {
        self.channel.send(message)
    }

    /// Waits for a message from it; `None` where it ended.
    ///
    /// # Errors
    /// As [`Channel::recv`].
    pub fn recv<T: DeserializeOwned>(&self) -> Result<Option<T>, ChannelError> {
        self.channel.recv()
    }

    /// The process to watch from outside: when it ends, nothing of the worker is left.
    pub fn pid(&self) -> u32 {
        self.guardian.as_raw_nonzero().get().unsigned_abs()
    }

    /// A handle that kills it from another thread.
    pub fn killer(&self) -> Killer {
        Killer { control: Arc::clone(&self.control) }
    }

    /// Kills it and all that it started, and waits until nothing of it is left.
    ///
    /// # Errors
    /// The kernel's, where it cannot be waited for.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.killer().kill();
        self.wait()
    }

    /// Waits for a message from it and the bytes that come with it; `None` where it ended.
    ///
    /// # Errors
    /// As [`Channel::recv`].
    pub fn recv_with<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<u8>)>, ChannelError> {
        self.channel.recv_with()
    }

    /// Waits for an open file that it sends after a message ([`WorkerChannel::send_passing`]).
    ///
    /// # Errors
    /// The kernel's, and where something else was sent.
    pub fn recv_descriptor(&self) -> io::Result<OwnedFd> {
        self.channel.recv_descriptor()
    }

    /// Waits for its end, after which nothing that it started is left.
    ///
    /// # Errors
    /// The kernel's, where it cannot be waited for.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        // The guardian tells how the worker ended; where it cannot, being killed or told to kill, that is the answer.
        let told = match self.control.recv::<Report>() {
            Ok(Some(Report::Ended(status))) => Some(status),
            _ => None,
        };
        let _ = self.control.shutdown();
        process::wait(self.guardian)?;
        let status = told.unwrap_or(ExitStatus::Signal(Signal::KILL.as_raw()));
        self.ended = Some(status);
        Ok(status)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Where the ids of a worker come from.
enum Ids {
    Root,
    Direct { uids: Vec<IdRange>, gids: Vec<IdRange> },
    Helper { users: HelperMap, groups: HelperMap },
    One { why: String },
    Emulated,
}

impl Ids {
    fn plan(&self) -> Plan {
        let own = |kind: IdKind| IdRange { inside: 0, outside: kind.own(), count: 1 };
        match self {
            Self::Root => Plan::Root,
            Self::Direct { .. } | Self::Helper { .. } => Plan::MappedOutside,
            Self::One { .. } => Plan::OwnIds { uid: own(IdKind::User), gid: own(IdKind::Group) },
            Self::Emulated => Plan::Emulated,
        }
    }

    fn facts(&self) -> Facts {
        let (privilege, uids, gids, why_one_id) = match self {
            Self::Root => {
                let all = |kind| current_map(kind).map(as_identity).unwrap_or_default();
                let (uids, gids) = (all(IdKind::User), all(IdKind::Group));
                // Root of a user namespace that somebody else made, and of nothing else in it.
                let lone = |ranges: &[IdRange]| matches!(ranges, [only] if only.count == 1);
                if lone(&uids) || lone(&gids) {
                    let why = "the user namespace around this process has one id".to_owned();
                    (Privilege::OneId, uids, gids, Some(why))
                } else {
                    (Privilege::Root, uids, gids, None)
                }
            }
            Self::Direct { uids, gids } => (Privilege::ManyIds, uids.clone(), gids.clone(), None),
            Self::Helper { users, groups } => (Privilege::ManyIds, users.ranges.clone(), groups.ranges.clone(), None),
            Self::One { why } => {
                let own = |kind: IdKind| vec![IdRange { inside: 0, outside: kind.own(), count: 1 }];
                (Privilege::OneId, own(IdKind::User), own(IdKind::Group), Some(why.clone()))
            }
            Self::Emulated => {
                let all = vec![IdRange { inside: 0, outside: 0, count: u32::MAX }];
                (Privilege::Emulated, all.clone(), all, None)
            }
        };
        let isolation = if matches!(self, Self::Emulated) { Isolation::Ptrace } else { Isolation::Userns };
        Facts { isolation, privilege, uids, gids, why_one_id }
    }

    fn write(&self, pid: Pid) -> Result<(), IdMapError> {
        match self {
            Self::Root | Self::One { .. } | Self::Emulated => Ok(()),
            Self::Direct { uids, gids } => {
                write_map_of(pid, IdKind::User, uids).and_then(|()| write_map_of(pid, IdKind::Group, gids))
            }
            Self::Helper { users, groups } => users.apply(pid).and_then(|()| groups.apply(pid)),
        }
    }
}

/// Every id of this namespace as itself.
fn as_identity(map: Vec<IdRange>) -> Vec<IdRange> {
    map.into_iter().map(|range| IdRange { outside: range.inside, ..range }).collect()
}

fn identity_maps() -> Result<(Vec<IdRange>, Vec<IdRange>), IdMapError> {
    Ok((as_identity(current_map(IdKind::User)?), as_identity(current_map(IdKind::Group)?)))
}

pub(crate) fn open_null() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

fn c_string(bytes: Vec<u8>) -> Result<CString, SpawnError> {
    CString::new(bytes)
        .map_err(|error| SpawnError::Io { action: "pass a name or variable with a NUL", source: error.into() })
}

/// Kills a worker from any thread.
#[derive(Debug, Clone)]
pub struct Killer {
    control: Arc<Channel>,
}

impl Killer {
    /// Kills the worker and all that it started; [`Worker::wait`] then returns.
    pub fn kill(&self) {
        let _ = self.control.shutdown();
    }
}

/// The worker's end of the connection, and what it was given.
#[derive(Debug)]
pub struct WorkerChannel {
    channel: Channel,
    facts: Facts,
    fds: Vec<Option<OwnedFd>>,
}

impl WorkerChannel {
    pub(crate) fn new(channel: Channel, facts: Facts, fds: Vec<OwnedFd>) -> Self {
        Self { channel, facts, fds: fds.into_iter().map(Some).collect() }
    }

    /// Sends a message to the process that spawned this one.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub fn send<T: Serialize>(&self, message: &T) -> Result<(), ChannelError> {
        self.channel.send(message)
    }

    /// Sends a message, and bytes that come with it as they are.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub fn send_with<T: Serialize>(&self, message: &T, bytes: &[u8]) -> Result<(), ChannelError> {
        self.channel.send_with(message, bytes)
    }

    /// Sends a message that tells that an open file comes, and the file.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub fn send_passing<T: Serialize>(&self, message: &T, fd: BorrowedFd<'_>) -> Result<(), ChannelError> {
        self.channel.send_passing(message, fd)
    }

    /// Waits for a message; `None` where the other end closed the channel.
    ///
    /// # Errors
    /// As [`Channel::recv`].
    pub fn recv<T: DeserializeOwned>(&self) -> Result<Option<T>, ChannelError> {
        self.channel.recv()
    }

    /// The connection itself.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// How this worker is confined.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The open file number `index` of [`WorkerOptions::fds`]; `None` where there is none or it was taken.
    pub fn take_fd(&mut self, index: usize) -> Option<OwnedFd> {
        self.fds.get_mut(index)?.take()
    }
}
