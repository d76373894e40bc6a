//! Models are brought here.

use std::ops::ControlFlow;
use std::sync::Arc;

use serde_json::{Value, json};
use weirgate_hub::{HubSettings, ModelId, Revision};
use weirgate_jobs::{Context, Job, Kind, Work, WorkError};
use weirgate_store::{Progress, Store, StoreError};

use super::names::Names;

/// Downloads side by side.
const PLACES: usize = 4;

pub(super) struct Downloading {
    pub store: Arc<Store>,
    pub hub: HubSettings,
    pub names: Arc<Names>,
}

impl Work for Downloading {
    fn kind(&self) -> Kind {
        Kind::Download
    }

    fn places(&self) -> usize {
        PLACES
    }

    /// Goes on where an earlier run was cut off.
    fn run(&self, job: &Job, context: &Context) -> Result<(), WorkError> {
        let model = job.subject.get("model_id").and_then(Value::as_str).unwrap_or_default();
        let id = model.parse::<ModelId>().map_err(|error| WorkError::Failed(format!("{error}")))?;
        let revision = "main".parse::<Revision>().map_err(|error| WorkError::Failed(format!("{error}")))?;
        context.log(&format!("downloading {id}"));
        let mut report = |progress: Progress| {
            let Progress { status, total, completed, .. } = progress;
            context.progress(json!({"status": status, "completed": completed, "total": total}));
            match context.is_stopped() {
                Some(_) => ControlFlow::Break(()),
                None => ControlFlow::Continue(()),
            }
        };
        match self.store.pull_from_hub(&self.hub, &id, &revision, &mut report) {
            Ok(()) => {
                context.log(&format!("{id} is here"));
                self.names.refresh();
                Ok(())
            }
            Err(StoreError::Canceled) => Err(WorkError::Stopped),
            Err(error) => Err(WorkError::Failed(error.to_string())),
        }
    }
}
