//! Working containers: an image made by hand, layer by layer, as a shell script wants it.
//!
//! [`create`] begins with an image, [`copy`] and [`run`](crate::run()) (with
//! [`RunOptions::container`](crate::RunOptions)) change the files, [`configure`] the configuration, and [`commit`] makes an
//! image of it all, with one layer for what was changed. In between the container lies in the store, under
//! `containers/<name>/`: whoever uses it takes its lock, and waits where another has it.

mod commit;
mod configure;
mod copy;
mod create;
mod host;
mod options;
mod state;
mod worker;

pub use configure::{ConfigChange, HealthcheckChange};
pub use host::{commit, configure, copy, create, list, remove};
pub use options::{CommitOptions, Committed, ContainerSummary, CopyOptions, CreateOptions, Created};
pub(crate) use state::isolation_of;
pub(crate) use worker::{Reply, Request, in_worker, open};
