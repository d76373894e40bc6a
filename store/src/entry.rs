//! What the store knows of one model.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use weirgate_models::{Gguf, ModelError, ModelFiles};

use crate::layout::Origin;
use crate::name::Digest;

/// A model of the store, whatever layout its files have.
#[derive(Debug, Clone)]
pub struct Entry {
    /// As lists show it: `llama3:8b` (Ollama), `org/name` (hub), a folder's or file's name otherwise.
    pub name: String,
    pub kind: Kind,
    /// Bytes on disk.
    pub size: u64,
    /// Of the manifest (Ollama), else of the files' names, sizes and times: changes whenever the model does.
    pub digest: Digest,
    pub modified: SystemTime,
    pub details: Details,
    pub location: Location,
    pub(crate) origin: Origin,
    /// What the digest of a model without a manifest was made of.
    pub(crate) files: Vec<PathBuf>,
}

/// The layout that a model was found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Manifests and blobs.
    Ollama,
    /// `models--org--name` in a Hugging Face cache.
    HubCache,
    /// A Hugging Face folder.
    Folder,
    /// A loose GGUF file.
    Gguf,
    /// A folder with Jan's `model.json`.
    Jan,
}

/// As Ollama's API shows it. Empty where it is not known.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Details {
    pub parent_model: String,
    /// `gguf` or `safetensors`.
    pub format: String,
    /// The architecture, as `llama`.
    pub family: String,
    pub families: Vec<String>,
    /// As `7.2B`.
    pub parameter_size: String,
    /// As `Q4_K_M`.
    pub quantization_level: String,
}

/// Where the weights are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    Folder(PathBuf),
    /// A GGUF file, whatever its name ends with.
    Gguf(PathBuf),
    /// Weights in a form that is not served, or none on this machine; says why.
    Unsupported(String),
}

impl Location {
    /// Opens the checkpoint.
    ///
    /// # Errors
    /// Files that are missing or damaged.
    pub fn open(&self) -> Result<ModelFiles, ModelError> {
        match self {
            Location::Folder(path) => ModelFiles::open(path),
            Location::Gguf(path) => Ok(ModelFiles::from(Gguf::open(path)?)),
            Location::Unsupported(why) => {
                Err(ModelError::File { file: "the model".to_owned(), message: why.clone() })
            }
        }
    }
}

/// Options by name; values typed as Ollama types them .
pub type Parameters = Map<String, Value>;

/// What a model brings beside its weights.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ModelSettings {
    /// Go template text.
    pub template: Option<String>,
    pub system: Option<String>,
    pub parameters: Parameters,
    /// Said before every conversation.
    pub messages: Vec<Message>,
    pub licenses: Vec<String>,
    /// GGUF files or PEFT folders.
    pub adapters: Vec<PathBuf>,
    /// GGUF files of image encoders.
    pub projectors: Vec<PathBuf>,
    /// How a chat is put together, in place of the checkpoint's own template.
    pub prompt: Option<PromptPieces>,
    pub load: LoadSettings,
}

/// What stands before the texts of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PromptPieces {
    /// Before everything.
    pub before: String,
    pub system: String,
    pub user: String,
    pub assistant: String,
}

/// How a model wants to be loaded; `None`: as the server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadSettings {
    /// Longest context, in tokens.
    pub context: Option<usize>,
    /// Layers on a GPU; 0: none.
    pub gpu_layers: Option<usize>,
    /// Sequences computed at once.
    pub parallel: Option<usize>,
    pub threads: Option<usize>,
    /// Whether sequences join others that are under way.
    pub continuous: Option<bool>,
    /// Whether it makes vectors of texts.
    pub embedding: Option<bool>,
}

/// A message of a Modelfile or of a stored history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

/// One line of progress, as Ollama's API streams it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Progress {
    pub status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// Bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    /// Bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub completed: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Progress {
    pub(crate) fn status(status: impl Into<String>) -> Self {
        Self { status: status.into(), ..Self::default() }
    }
}

/// Is told of each step; `Break` stops the work as soon as it can be.
pub type Report<'a> = dyn FnMut(Progress) -> std::ops::ControlFlow<()> + 'a;

/// Reports, and turns a wish to stop into an error.
pub(crate) fn tell(report: &mut Report<'_>, progress: Progress) -> Result<(), crate::StoreError> {
    match report(progress) {
        std::ops::ControlFlow::Continue(()) => Ok(()),
        std::ops::ControlFlow::Break(()) => Err(crate::StoreError::Canceled),
    }
}
