//! Answers: Jan's (its contract is `integration-tests/contracts/jan-models.json`), with OpenAI's fields beside its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

/// Which models are listed.
#[derive(Debug, Default, Deserialize, IntoParams)]
pub(crate) struct ListQuery {
    /// `all`, `running`, `downloaded` or `downloading`.
    pub filter: Option<String>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ModelList {
    pub object: &'static str,
    pub data: Vec<ModelInfo>,
}

/// What both forms of a model have.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ModelHead {
    #[schema(example = "zephyr-7b")]
    pub id: String,
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    pub owned_by: String,
    /// Prompt and answer together, in tokens; 0: known once it is loaded.
    pub max_model_len: usize,
    /// The model whose weights it has: its own name, or that of an adapter's model.
    pub root: String,
    /// The model that an adapter belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    pub parent: Option<String>,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub version: String,
    pub name: String,
    pub description: String,
    #[schema(example = "ggufv3")]
    pub format: String,
    pub source_url: String,
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    /// Its files; `.`: those of its folder.
    pub assets: Vec<String>,
}

/// A model in a list. Settings and parameters are texts there.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ModelInfo {
    #[serde(flatten)]
    pub head: ModelHead,
    /// `downloading`, `starting`, `ready` or `stopping`; left out at rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, example = "ready")]
    pub state: Option<&'static str>,
    pub settings: BTreeMap<&'static str, String>,
    pub parameters: BTreeMap<&'static str, String>,
}

/// A model by itself. Its numbers lie in the ranges of Jan's contract; `metadata` has those that do not.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ModelDetails {
    #[serde(flatten)]
    pub head: ModelHead,
    /// `not_downloaded`, `downloaded`, `running` or `stopped`.
    #[schema(example = "running")]
    pub state: &'static str,
    /// Of `engine_parameters` those that a list has, too.
    #[schema(value_type = Object)]
    pub settings: Map<String, Value>,
    /// What it is loaded with.
    #[schema(value_type = Object)]
    pub engine_parameters: Map<String, Value>,
    /// What requests that do not say otherwise are answered with.
    #[schema(value_type = Object)]
    pub model_parameters: Map<String, Value>,
    /// The same once more: the contract requires it by this name, too.
    #[schema(value_type = Object)]
    pub parameters: Map<String, Value>,
}

/// A model was deleted.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Deleted {
    pub id: String,
    pub object: &'static str,
    pub deleted: bool,
}

/// A model was started or stopped.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Switched {
    pub id: String,
    pub object: &'static str,
    #[schema(example = "running")]
    pub state: &'static str,
}

/// What became of a wish.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Notice {
    #[schema(example = "Starting download zephyr-7b")]
    pub message: String,
}
