//! One folder per dialect: types, handlers, conversion, stream, errors. A dialect knows
//! [`crate::service`] and no other dialect; [`platforms`] stands on top of TGI's and OpenAI's, [`jan`], [`responses`] and
//! [`anthropic`] on OpenAI's.

pub(crate) mod anthropic;
mod blocks;
mod collect;
pub(crate) mod docs;
mod events;
mod extract;
mod headers;
mod jan;
pub(crate) mod management;
pub(crate) mod ollama;
pub(crate) mod openai;
pub(crate) mod platforms;
mod responses;
mod store_errors;
mod tei;
mod text_or;
pub(crate) mod tgi;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::Response;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use weirgate_store::Store;

use crate::config::Profile;
use crate::management::Management;
use crate::residency::{AcquireError, Lease, Models};
use crate::service::{Service, ServiceError, Tenant};

/// What many tools look for at `/` before they take a server for Ollama's.
pub(crate) const OLLAMA_GREETING: &str = "Ollama is running";

/// Every dialect's routes, and the document that they make up.
pub(crate) fn routes() -> (Router<AppState>, OpenApi) {
    let (routes, mut document) = OpenApiRouter::with_openapi(docs::head())
        .merge(tgi::routes())
        .merge(openai::routes())
        .merge(responses::routes())
        .merge(anthropic::routes())
        .merge(ollama::routes())
        .merge(tei::routes())
        .merge(jan::routes())
        .merge(platforms::routes())
        .merge(management::routes())
        .split_for_parts();
    docs::complete(&mut document);
    (routes.merge(docs::routes(&document)), document)
}

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct AppState {
    pub models: Arc<Models>,
    /// Of the model that is served where none is named.
    pub service: Arc<Service>,
    pub settings: Arc<Settings>,
    /// Keeps the model loaded.
    pub lease: Lease,
    /// Where models can be made; `None`: nowhere.
    pub store: Option<Arc<Store>>,
    /// `None`: this server keeps no state.
    pub management: Option<Arc<Management>>,
    /// Who asks; set per request by [`Caller`].
    pub tenant: Tenant,
}

impl AppState {
    pub fn new(models: Arc<Models>, store: Option<Arc<Store>>) -> Self {
        let lease = models.pinned();
        let (service, settings) = (lease.service.clone(), lease.settings.clone());
        Self { models, service, settings, lease, store, management: None, tenant: Tenant::default() }
    }

    /// The same for a listener of another profile.
    pub fn under(&self, profile: Profile) -> Self {
        Self { settings: Arc::new(Settings { profile, ..Settings::clone(&self.settings) }), ..self.clone() }
    }

    /// Whether this is how the model that is served where none is named is called: by no name, by TGI's word for it, or
    /// by its own.
    pub fn is_own_name(&self, name: &str) -> bool {
        name.is_empty() || name == "tgi" || name == self.settings.model_id || self.lease.card.is_called(name)
    }

    /// The state of the model that an adapter belongs to: this one, unless a name stands for another model with the
    /// adapter.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub async fn with_adapter(&self, adapter: Option<&str>) -> Result<Self, AcquireError> {
        let others = |name: &&str| !self.service.adapters.contains(name) && self.models.is_adapter(name);
        match adapter.filter(others) {
            Some(name) => self.serving(Some(name)).await,
            None => Ok(self.clone()),
        }
    }

    /// The state of the model that a request names. Where there is but one, any name is its, as in TGI.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub async fn serving(&self, model: Option<&str>) -> Result<Self, AcquireError> {
        if self.models.is_single() || model.is_none_or(|name| self.is_own_name(name)) {
            return Ok(self.clone());
        }
        let lease = self.models.acquire(model.unwrap_or_default(), None).await?;
        let service = lease.service.clone();
        // What is answered depends on the listener, too.
        let settings =
            Arc::new(Settings { profile: self.settings.profile, ..Settings::clone(&lease.settings) });
        Ok(Self { service, settings, lease, ..self.clone() })
    }
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Why a model that there is cannot be used now, for clients: the reasons are the log's. `None`: there is none.
pub(crate) fn unavailable(error: &AcquireError) -> Option<ServiceError> {
    match error {
        AcquireError::NotFound => None,
        AcquireError::Busy => Some(ServiceError::Overloaded),
        AcquireError::Memory { .. } => Some(ServiceError::Unavailable("there is no memory for the model")),
        AcquireError::Failed(_) => Some(ServiceError::Unavailable("the model cannot be loaded")),
    }
}

/// The state as a request's handler sees it: with the tenant that the key layer found.
pub(crate) struct Caller(pub AppState);

impl FromRequestParts<AppState> for Caller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Self::Rejection> {
        let tenant = parts.extensions.get().copied().unwrap_or_default();
        Ok(Self(AppState { tenant, ..state.clone() }))
    }
}

/// What may be done; the key layer says which of it, per request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// To use models.
    User,
    /// To change which models there are as well.
    Admin,
}

/// Mark of a request from a page of another site.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Foreign;

/// [`Caller`] for what changes models: refused to everybody else before anything is read.
pub(crate) struct Administrator(pub AppState);

impl FromRequestParts<AppState> for Administrator {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Response> {
        let refusal = if parts.extensions.get::<Foreign>().is_some() {
            "models cannot be changed from pages of other sites"
        } else if parts.extensions.get() != Some(&Role::Admin) {
            "models can be changed with a key given as `--admin-api-key`; without any key, over a listener on a \
             loopback address"
        } else {
            return Ok(Self(state.clone()));
        };
        // In the words of the dialect that the path belongs to.
        let path = parts.uri.path();
        Err(if path.starts_with("/v1/") {
            openai::forbidden(refusal, state.settings.profile)
        } else if management::is_own(path) {
            management::forbidden(refusal)
        } else {
            ollama::forbidden(refusal)
        })
    }
}

/// What the handlers need to know of the configuration.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub profile: Profile,
    pub compute_type: String,
    pub model_id: String,
    pub model_sha: Option<String>,
    pub max_concurrent_requests: usize,
    pub max_best_of: usize,
    pub max_stop_sequences: usize,
    pub max_top_n_tokens: u32,
    pub max_client_batch_size: usize,
    pub max_input_tokens: usize,
    pub max_total_tokens: usize,
    pub validation_workers: usize,
    pub default_max_new_tokens: Option<u32>,
    /// Ollama's `num_ctx` where a request has none; `None`: all that the model allows.
    pub default_num_ctx: Option<usize>,
    /// What clients compare with the versions of Ollama that brought the features they use.
    pub ollama_version: String,
    pub enable_prefill_logprobs: bool,
}
