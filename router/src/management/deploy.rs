//! A model and adapters are served as long as their job runs.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::runtime::Handle;
use weirgate_jobs::{Context, Job, Kind, Table, Work, WorkError};

use super::names::Names;
use crate::residency::Pin;

const LOOK: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(3600);

/// What is served, or is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Deployment {
    pub model_id: String,
    pub adapter_ids: Vec<String>,
}

impl Deployment {
    pub fn of(job: &Job) -> Self {
        serde_json::from_value(job.subject.clone()).unwrap_or_default()
    }
}

pub(super) struct Deploying {
    pub names: Arc<Names>,
    pub table: Arc<Table>,
    pub runtime: Handle,
}

impl Work for Deploying {
    fn kind(&self) -> Kind {
        Kind::Deploy
    }

    fn places(&self) -> usize {
        1
    }

    fn run(&self, job: &Job, context: &Context) -> Result<(), WorkError> {
        let deployment = Deployment::of(job);
        context.log(&format!("loading {}", deployment.model_id));
        let pin = self.load(&deployment.model_id, context)?;
        let mut loaded = Vec::new();
        let done = self.serve(&deployment, &pin, &mut loaded, context);
        self.names.set(None);
        for name in &loaded {
            // Somebody may have unloaded it meanwhile.
            let _ = pin.service.adapters.unload(name);
        }
        drop(pin);
        // What comes after it may be the same model, with other adapters.
        let next = self.table.live(super::DEPLOYMENT).ok().flatten();
        if next.is_none_or(|job| Deployment::of(&job).model_id != deployment.model_id) {
            self.names.models.release(&deployment.model_id);
        }
        done
    }
}

impl Deploying {
    /// The model, to stay until the pin goes.
    fn load(&self, model: &str, context: &Context) -> Result<Pin, WorkError> {
        self.runtime.block_on(async {
            let mut loading = std::pin::pin!(self.names.models.pin(model));
            loop {
                match tokio::time::timeout(LOOK, &mut loading).await {
                    Ok(pinned) => {
                        return pinned.map_err(|error| WorkError::Failed(format!("the model: {error}")));
                    }
                    Err(_) if context.is_stopped().is_some() => return Err(WorkError::Stopped),
                    Err(_) => {}
                }
            }
        })
    }

    /// Serves until the job is stopped. The adapters that this loaded are in `loaded`.
    fn serve(
        &self,
        deployment: &Deployment,
        pin: &Pin,
        loaded: &mut Vec<String>,
        context: &Context,
    ) -> Result<(), WorkError> {
        let adapters = &pin.service.adapters;
        for name in &deployment.adapter_ids {
            match context.insist(|table| table.adapter(name))? {
                Some(adapter) => {
                    context.log(&format!("loading the adapter {name}"));
                    let done = adapters.load(name, &adapter.path, true);
                    done.map_err(|error| WorkError::Failed(format!("the adapter {name:?}: {error}")))?;
                    loaded.push(name.clone());
                }
                None if adapters.contains(name) => {}
                None => return Err(WorkError::Failed(format!("the adapter {name:?} is gone"))),
            }
        }
        self.names.set(Some(deployment.clone()));
        context.log("deployed");
        context.progress(json!({"deployed": true}));
        while context.wait_for_stop(LONG).is_none() {}
        Err(WorkError::Stopped)
    }
}
