//! One command in one root file system.

mod cancel;
mod devices;
mod error;
mod identity;
mod limit;
mod lookup;
mod mounts;
mod nodes;
mod spec;
mod step;
mod stubs;
mod supervise;
mod walk;
mod wire;

pub use cancel::Cancel;
pub use error::{ExecError, RunError};
pub(crate) use limit::TELL_LIMITS;
pub use limit::{Limit, limits_met};
pub use spec::{
    Access, ExitStatus, Mount, Network, Output, Resource, RootAccess, RootFs, RunReport, RunSpec, Security, Stream,
    Stub, Ulimit,
};
pub(crate) use step::become_command;
pub use supervise::run;
