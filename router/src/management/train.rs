//! Adapters are trained, one at a time, by a worker process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use weirgate_jobs::{Adapter, Context, Datasets, Id, Job, Kind, Stopped, Work, WorkError};
use weirgate_store::{Location, Store};

use super::figures::{Figures, Step};
use super::worker::{Event, Outcome, Worker};
use crate::background::NICE;
use crate::config::ModelLocation;
use crate::residency::Models;

/// The picture of a training's losses, as the worker leaves it beside the adapter.
const CURVE: &str = "loss.svg";
/// How the worker calls the model inside the binary.
const EMBEDDED: &str = "weirgate-demo";

/// What is trained on what.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct TrainingSubject {
    /// What the adapter will be called.
    pub name: String,
    pub model_id: String,
    pub dataset_id: String,
    #[serde(default)]
    pub hyperparameters: Map<String, Value>,
}

impl TrainingSubject {
    pub fn of(job: &Job) -> Self {
        serde_json::from_value(job.subject.clone()).unwrap_or_default()
    }
}

pub(super) struct Training {
    /// Of the model that the server was started for.
    pub base: ModelLocation,
    pub models: Arc<Models>,
    pub store: Arc<Store>,
    pub datasets: Arc<Datasets>,
    /// A folder for each training.
    pub trainings: PathBuf,
    /// What came of them.
    pub adapters: PathBuf,
    pub memory: Option<u64>,
    pub figures: Arc<Figures>,
}

/// The folder of one training.
struct Folder {
    path: PathBuf,
    /// The adapter to be.
    output: PathBuf,
}

impl Folder {
    fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Of a data set that lies elsewhere.
    fn data(&self) -> PathBuf {
        self.path.join("data")
    }
}

impl Work for Training {
    fn kind(&self) -> Kind {
        Kind::Train
    }

    fn places(&self) -> usize {
        1
    }

    fn run(&self, job: &Job, context: &Context) -> Result<(), WorkError> {
        let subject = TrainingSubject::of(job);
        let path = self.trainings.join(job.id.as_str());
        let folder = Folder { output: self.adapters.join(job.id.as_str()), path };
        let done = self.train(job, &subject, &folder, context);
        self.figures.set(None);
        // Checkpoints are for who goes on.
        if !matches!((&done, context.is_stopped()), (Err(_), Some(Stopped::ServerEnds))) {
            clear(&folder, done.is_err());
        }
        done
    }
}

impl Training {
    fn train(
        &self,
        job: &Job,
        subject: &TrainingSubject,
        folder: &Folder,
        context: &Context,
    ) -> Result<(), WorkError> {
        if folder.output.join("adapter_config.json").is_file() {
            // It came to its end, and the server did before it was told.
            return self.register(job, subject, folder, context);
        }
        let io =
            |what: &'static str| move |error: std::io::Error| WorkError::Failed(format!("{what}: {error}"));
        fs::create_dir_all(folder.checkpoints()).map_err(io("the training's folder"))?;
        let dataset: Id =
            subject.dataset_id.parse().map_err(|_| WorkError::Failed("no such data set".to_owned()))?;
        let go_on = || context.is_stopped().is_none();
        let dataset = self.datasets.on_disk(&dataset, &folder.data(), &go_on);
        let dataset = dataset.map_err(|error| WorkError::Failed(error.to_string()))?;
        let request = json!({
            "base_model": self.base(&subject.model_id)?,
            "dataset": dataset,
            "output": folder.output,
            "checkpoints": folder.checkpoints(),
            "name": subject.name,
            "hyperparameters": subject.hyperparameters,
            // Where there is a checkpoint, an earlier run wrote it.
            "resume": true,
            "nice": NICE,
            "memory_limit_bytes": self.memory,
        });
        let path = folder.path.join("job.json");
        fs::write(&path, request.to_string()).map_err(io("the training's description"))?;
        let worker = Worker::start(&path).map_err(io("the training's process"))?;
        let told = |event: &Event| self.told(&subject.name, event, context);
        match worker.watch(context, self.memory, told)? {
            Outcome::Finished => self.register(job, subject, folder, context),
            Outcome::Stopped => Err(WorkError::Stopped),
        }
    }

    /// Where the worker finds the model.
    fn base(&self, model: &str) -> Result<PathBuf, WorkError> {
        if self.models.pinned().card.is_called(model) {
            return Ok(match &self.base {
                ModelLocation::Embedded => EMBEDDED.into(),
                ModelLocation::Local(path) => absolute(path),
            });
        }
        let entry = self.store.find(model).map_err(|error| WorkError::Failed(error.to_string()))?;
        match entry.location {
            Location::Folder(path) | Location::Gguf(path) => Ok(absolute(&path)),
            Location::Unsupported(why) => Err(WorkError::Failed(why)),
        }
    }

    fn told(&self, name: &str, event: &Event, context: &Context) {
        match event {
            Event::Progress(values) => {
                self.figures.set(Some(Step { name: name.to_owned(), event: values.clone() }));
                context.progress(values.clone());
            }
            Event::Line(line) => context.log(line),
        }
    }

    /// Makes the adapter one that can be deployed, unless somebody interrupted the training at its end.
    fn register(
        &self,
        job: &Job,
        subject: &TrainingSubject,
        folder: &Folder,
        context: &Context,
    ) -> Result<(), WorkError> {
        if context.is_stopped() == Some(Stopped::Killed) {
            return Err(WorkError::Stopped);
        }
        let adapter = Adapter {
            name: subject.name.clone(),
            base: subject.model_id.clone(),
            job: job.id.clone(),
            path: folder.output.clone(),
            created: chrono::Utc::now(),
        };
        context.insist(|table| table.add_adapter(&adapter))
    }
}

/// Where the picture of the losses of a training is, once it has ended, below the folder of adapters.
pub(super) fn curve(adapters: &Path, job: &Id) -> PathBuf {
    adapters.join(job.as_str()).join(CURVE)
}

/// The worker has a working folder of its own.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Leaves of a training that has ended its description, and its adapter unless it failed.
fn clear(folder: &Folder, failed: bool) {
    let gone = |path: PathBuf| {
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        if let Err(error) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "what a training left could not be removed");
        }
    };
    gone(folder.checkpoints());
    gone(folder.data());
    if failed {
        gone(folder.output.clone());
        // Where the worker was ended while it wrote it.
        gone(folder.output.with_extension("partial"));
    }
}
