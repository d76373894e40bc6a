//! What the names of this API mean.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use weirgate_models::is_encoder;
use weirgate_store::{Location, Store};

use super::{Deployment, lock};
use crate::residency::{Alias, Models};

/// How clients of this API call the model that is deployed.
pub(super) const MODEL: &str = "Compressa-LLM";
/// How they call the one that makes embeddings.
pub(super) const EMBEDDING: &str = "Compressa-Embedding";

/// Tells the models by which names they are asked for.
pub(super) struct Names {
    pub models: Arc<Models>,
    pub store: Arc<Store>,
    deployment: Mutex<Option<Deployment>>,
}

impl Names {
    pub fn new(models: Arc<Models>, store: Arc<Store>) -> Self {
        Self { models, store, deployment: Mutex::default() }
    }

    /// With this deployment from now on. Without one, the model that the server was started for stands in.
    pub fn set(&self, deployment: Option<Deployment>) {
        *lock(&self.deployment) = deployment;
        self.refresh();
    }

    /// There may be other models now. Blocks.
    pub fn refresh(&self) {
        let deployment = lock(&self.deployment);
        let own = self.models.pinned().card.name.clone();
        let model = deployment.as_ref().map_or(own, |deployment| deployment.model_id.clone());
        let embedder = self.embedder(&model).unwrap_or_else(|| model.clone());
        let plain = |name: &str, model: String| (name.to_lowercase(), Alias { model, adapter: None });
        let adapters = deployment.iter().flat_map(|deployment| &deployment.adapter_ids);
        let adapters = adapters
            .map(|name| (name.to_lowercase(), Alias { model: model.clone(), adapter: Some(name.clone()) }));
        let names = [plain(MODEL, model.clone()), plain(EMBEDDING, embedder)];
        self.models.set_aliases(names.into_iter().chain(adapters).collect::<HashMap<_, _>>());
    }

    /// The deployed model, if embeddings are what it makes; else the one that the server was started for; else one of the
    /// others.
    fn embedder(&self, model: &str) -> Option<String> {
        let own = self.models.pinned();
        let is_own = own.card.is_called(model);
        if !is_own && self.store.find(model).is_ok_and(|entry| is_embedder(&entry.location)) {
            return Some(model.to_owned());
        }
        if own.card.capabilities.contains(&"embedding") {
            return Some(own.card.name.clone());
        }
        self.store.list().into_iter().find(|entry| is_embedder(&entry.location)).map(|entry| entry.name)
    }
}

/// Whether there is an encoder. GGUF files hold none that are served.
pub(super) fn is_embedder(location: &Location) -> bool {
    match location {
        Location::Folder(_) => location.open().is_ok_and(|files| is_encoder(&files).unwrap_or(false)),
        Location::Gguf(_) | Location::Unsupported(_) => false,
    }
}
