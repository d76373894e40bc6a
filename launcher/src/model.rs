//! From the model that was asked for to where it is on disk.

use weirgate_hub::{Hub, HubError, HubSettings};
use weirgate_router::ModelLocation;

use crate::config::ModelSource;

/// A model that is on this machine.
#[derive(Debug, PartialEq, Eq)]
pub struct ResolvedModel {
    pub location: ModelLocation,
    /// The commit, for a model from the hub.
    pub sha: Option<String>,
}

/// Finds the model, downloading it where needed.
///
/// # Errors
/// What the hub client says.
pub fn locate(source: ModelSource, hub: HubSettings) -> Result<ResolvedModel, HubError> {
    match source {
        ModelSource::Embedded => Ok(ResolvedModel { location: ModelLocation::Embedded, sha: None }),
        ModelSource::Local(path) => Ok(ResolvedModel { location: ModelLocation::Local(path), sha: None }),
        ModelSource::Hub { id, revision } => {
            let snapshot = Hub::new(hub)?.snapshot(&id, &revision)?;
            Ok(ResolvedModel { location: ModelLocation::Local(snapshot.folder), sha: Some(snapshot.commit) })
        }
    }
}
