//! The worker's side.

use rbuild_image::store::NamedLock;
use rbuild_sandbox::WorkerChannel;
use serde::{Deserialize, Serialize};

use super::commit::{self, CommitRequest};
use super::copy::{self, CopyRequest};
use super::create::{self, CreateRequest};
use super::options::{Committed, Created};
use super::state::{self, State};
use crate::cancel::Cancel;
use crate::emit::Emitter;
use crate::options::{BuildOptions, ContextSource, StoreOptions};
use crate::run::{self, RunError, stopped};
use crate::session::Session;

/// What the caller asks for.
#[derive(Serialize, Deserialize)]
pub(crate) enum Request {
    Create(CreateRequest),
    Copy(Box<CopyRequest>),
    Commit(CommitRequest),
    Remove { store: StoreOptions, container: String },
}

/// What became of it.
#[derive(Serialize, Deserialize)]
pub(crate) enum Reply {
    Created(Created),
    /// The digest of what was copied, in hexadecimal digits.
    Copied(String),
    Committed(Committed),
    Removed,
}

/// Does what is asked for and tells what became of it.
pub(crate) fn in_worker(channel: &WorkerChannel, request: Request, cancel: &Cancel) -> Result<(), RunError> {
    let build = session_options(&request);
    let session = Session::open(&build, channel.facts().clone(), cancel, Emitter::new(Box::new(drop)), None, None)
        .map_err(|(_, stop)| stopped(stop))?;
    let done = match &request {
        Request::Create(request) => create::create(&session, request).map(Reply::Created),
        Request::Copy(request) => copy::copy(&session, request, channel).map(Reply::Copied),
        Request::Commit(request) => commit::commit(&session, request, channel).map(Reply::Committed),
        Request::Remove { container, .. } => remove(&session, container, channel).map(|()| Reply::Removed),
    };
    session.close();
    if cancel.was_asked() {
        return Err(RunError::Cancelled);
    }
    // Where the caller is gone, nobody wants to know.
    let _ = channel.send(&run::Reply::Container(Box::new(done?)));
    Ok(())
}

/// A request as a session sees it.
fn session_options(request: &Request) -> BuildOptions {
    let store = match request {
        Request::Create(request) => &request.store,
        Request::Copy(request) => &request.store,
        Request::Commit(request) => &request.store,
        Request::Remove { store, .. } => store,
    };
    let mut build = BuildOptions::new(store.root.clone(), ContextSource::Stdin);
    match request {
        Request::Create(request) => build.platform.clone_from(&request.platform),
        Request::Copy(request) => {
            build.registry = request.registry.clone();
            build.unpack_xz = Some(true);
        }
        Request::Commit(request) => build.source_date_epoch = request.source_date_epoch,
        Request::Remove { .. } => {}
    }
    build
}

/// Takes the lock of a container, and refuses one that cannot be used here.
pub(crate) fn open(session: &Session<'_>, name: &str, channel: &WorkerChannel) -> Result<(NamedLock, State), RunError> {
    let lock = lock(session, name, channel)?;
    let state = state::load(session.store(), name)?;
    state.check_owners(name, session.facts())?;
    Ok((lock, state))
}

fn lock(session: &Session<'_>, name: &str, channel: &WorkerChannel) -> Result<NamedLock, RunError> {
    // Before it is waited for.
    state::load(session.store(), name)?;
    // Where the caller is gone, the work is cancelled.
    let mut waiting = || drop(channel.send(&run::Reply::Waiting));
    state::lock(session.store(), name, &|| session.cancel().is_cancelled(), &mut waiting)
}

/// Moves it to where the end of the session removes it, whoever owns its files.
fn remove(session: &Session<'_>, name: &str, channel: &WorkerChannel) -> Result<(), RunError> {
    let _lock = lock(session, name, channel)?;
    state::load(session.store(), name)?;
    let to = session.scratch_dir().map_err(stopped)?.join("container");
    session.store().retire_container(name, &to).map_err(|error| stopped(error.into()))
}
