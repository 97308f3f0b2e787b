//! What this machine allows, for `rbuild doctor`.

/// What was found.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Probe {}
/// x
pub fn probe(_: &std::path::Path) -> Probe {
    Probe {}
}
