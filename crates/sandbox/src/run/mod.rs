//! One command in one root file system.

mod cancel;
mod devices;
mod error;
mod identity;
mod limit;
mod lookup;
mod mounts;
mod nodes;
mod signals;
mod spec;
mod step;
mod streams;
mod stubs;
mod supervise;
mod terminal;
mod walk;
mod wire;

pub use cancel::Cancel;
pub use error::{ExecError, RunError};
pub(crate) use limit::TELL_LIMITS;
pub use limit::{Limit, limits_met};
pub use signals::Signals;
pub use spec::{
    Access, ExitStatus, Mount, Network, Output, Resource, RootAccess, RootFs, RunReport, RunSpec, Security, Stream,
    Stub, Ulimit,
};
pub(crate) use step::become_command;
pub use streams::{Streams, TerminalSize};
pub use supervise::{run, run_with};
