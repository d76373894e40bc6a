//! What to train on what, as a server writes it down.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use weirgate_models::ModelFiles;

use crate::FinetuneError;

/// The name of the model inside the program.
pub const DEMO_MODEL: &str = "weirgate-demo";
/// How far the worker steps back behind the server, where nothing is said.
const NICE: i32 = 10;

/// A training.
#[derive(Debug, Clone, Deserialize)]
pub struct Job {
    /// A folder with a checkpoint, a .gguf file, or [`DEMO_MODEL`].
    pub base_model: String,
    /// A file of conversations, see [`crate::read_dataset`].
    pub dataset: PathBuf,
    /// The PEFT folder to be. Appears when the training is done.
    pub output: PathBuf,
    /// Where checkpoints go, this job's alone.
    pub checkpoints: PathBuf,
    /// What the training is called, for the picture of its losses.
    #[serde(default)]
    pub name: Option<String>,
    /// See [`crate::Hyperparameters::read`].
    #[serde(default)]
    pub hyperparameters: Map<String, Value>,
    /// Goes on from the last checkpoint, if there is one.
    #[serde(default)]
    pub resume: bool,
    /// A PEFT adapter to begin with, in place of a fresh one.
    #[serde(default)]
    pub initial_adapter: Option<PathBuf>,
    #[serde(default = "default_nice")]
    pub nice: i32,
    /// Of what the worker allocates; see [`crate::confine`].
    #[serde(default)]
    pub memory_limit_bytes: Option<u64>,
}

fn default_nice() -> i32 {
    NICE
}

impl Job {
    /// The job written in a JSON file.
    ///
    /// # Errors
    /// A file that cannot be read or is no job; names the file and the field.
    pub fn read(path: &Path) -> Result<Self, FinetuneError> {
        let text = std::fs::read(path).map_err(|error| FinetuneError::file(path, error))?;
        serde_json::from_slice(&text).map_err(|error| FinetuneError::file(path, error))
    }

    /// The base model's files.
    ///
    /// # Errors
    /// A path that is neither a folder nor a GGUF file.
    pub fn base_files(&self) -> Result<ModelFiles, FinetuneError> {
        if self.base_model == DEMO_MODEL && !Path::new(DEMO_MODEL).exists() {
            return Ok(ModelFiles::embedded(weirgate_demo_model::FILES));
        }
        Ok(ModelFiles::open(&self.base_model)?)
    }
}
