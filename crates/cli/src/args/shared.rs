//! Flags that several commands have.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::values;

/// Flags of every command.
#[derive(Debug, Args)]
pub(crate) struct CommonArgs {
    /// Where images, layers and the build cache are kept [default: $XDG_DATA_HOME/rbuild, else ~/.local/share/rbuild].
    #[arg(long, value_name = "DIR", help_heading = "Common")]
    pub(crate) root: Option<PathBuf>,
    /// Tell on standard error what is done; twice for more.
    #[arg(short, long, action = ArgAction::Count, help_heading = "Common")]
    pub(crate) verbose: u8,
    /// Print no hints with errors.
    #[arg(long, help_heading = "Common")]
    pub(crate) no_hint: bool,
}

/// Flags of every command that speaks to registries.
#[derive(Debug, Default, Args)]
pub(crate) struct RegistryArgs {
    /// Mirror of docker.io, asked before it. May be repeated.
    #[arg(long, value_name = "URL", help_heading = "Registries")]
    pub(crate) registry_mirror: Vec<String>,
    /// Registry that may be spoken to in plain HTTP or with an unknown certificate (loopback always may). May be repeated.
    #[arg(long, value_name = "HOST[:PORT]", help_heading = "Registries")]
    pub(crate) insecure_registry: Vec<String>,
    /// Certificate authorities of a registry, PEM. May be repeated.
    #[arg(long, value_name = "HOST=FILE", value_parser = values::certificate, help_heading = "Registries")]
    pub(crate) registry_certificate: Vec<(String, PathBuf)>,
}
