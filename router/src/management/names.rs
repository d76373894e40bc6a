//! What the names of this API mean.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use weirgate_models::is_cross_encoder;
use weirgate_store::{Entry, Store};

use super::{Deployment, lock};
use crate::residency::{Alias, Models};

/// How clients of this API call the model that is deployed.
pub(super) const MODEL: &str = "Compressa-LLM";
/// How they call the one that makes embeddings.
pub(super) const EMBEDDING: &str = "Compressa-Embedding";
/// How they call the one that ranks texts.
pub(super) const RANKING: &str = "Compressa-ReRank";

/// What an encoder makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoder {
    Vectors,
    Scores,
}

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
        let encoder = |wanted| self.encoder(&model, wanted).unwrap_or_else(|| model.clone());
        let plain = |name: &str, model: String| (name.to_lowercase(), Alias { model, adapter: None });
        let adapters = deployment.iter().flat_map(|deployment| &deployment.adapter_ids);
        let adapters = adapters
            .map(|name| (name.to_lowercase(), Alias { model: model.clone(), adapter: Some(name.clone()) }));
        let encoders = [(EMBEDDING, Encoder::Vectors), (RANKING, Encoder::Scores)];
        let encoders = encoders.map(|(name, wanted)| plain(name, encoder(wanted)));
        let names = std::iter::once(plain(MODEL, model.clone())).chain(encoders);
        self.models.set_aliases(names.chain(adapters).collect::<HashMap<_, _>>());
    }

    /// The deployed model, if `wanted` is what it makes; else the one that the server was started for; else one of the
    /// others.
    fn encoder(&self, model: &str, wanted: Encoder) -> Option<String> {
        let own = self.models.pinned();
        if !own.card.is_called(model) && self.store.find(model).is_ok_and(|entry| self.makes(&entry, wanted))
        {
            return Some(model.to_owned());
        }
        let own_makes = match wanted {
            Encoder::Vectors => own.card.capabilities.contains(&"embedding"),
            Encoder::Scores => own.service.engine.ranker().is_ok(),
        };
        if own_makes {
            return Some(own.card.name.clone());
        }
        self.store.list().into_iter().find(|entry| self.makes(entry, wanted)).map(|entry| entry.name)
    }

    fn makes(&self, entry: &Entry, wanted: Encoder) -> bool {
        let scores = || entry.location.open().is_ok_and(|files| is_cross_encoder(&files).unwrap_or(false));
        self.store.is_embedder(entry) && scores() == (wanted == Encoder::Scores)
    }
}
