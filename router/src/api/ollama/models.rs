//! The models as Ollama lists and shows them.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Local, TimeDelta, Utc};
use serde_json::{Map, Value};
use weirgate_store::{ModelSettings, Show};

use super::errors::Refusal;
use super::names;
use super::reply::timestamp;
use super::types::{
    Details, Listed, Message, Processes, Rendered, RenderedTemplate, Running, ShowRequest, ShowResponse,
    Tags, Version,
};
use crate::api::extract::AnyType;
use crate::api::{AppState, Caller};
use crate::memory::Place;
use crate::residency::{AcquireError, Card, KeepAlive, Layers, Lease, Model, tagged};
use crate::service::{Prompt, ServiceError};

/// What Ollama shows for models that stay for ever: about the longest time its language has.
const FOREVER: TimeDelta = TimeDelta::days(292 * 365);

/// The model of this name, loaded.
///
/// # Errors
/// When there is none, or it cannot be loaded now.
pub(super) async fn acquire(state: &AppState, name: &str, keep: Option<KeepAlive>) -> Result<Lease, Refusal> {
    state.models.acquire(name, keep).await.map_err(|error| refusal(error, name))
}

/// Whether there is a model of this name.
///
/// # Errors
/// When there is none.
pub(super) async fn find(state: &AppState, name: &str) -> Result<Arc<Card>, Refusal> {
    state.models.card(name).await.map_err(|error| refusal(error, name))
}

/// # Errors
/// When the model makes vectors of texts and none of its own.
pub(super) fn check_generates(model: &Model, name: &str, what: &str) -> Result<(), Refusal> {
    let refuse = |_| Refusal::bad(format!("{name:?} does not support {what}"));
    model.service.engine.generator().map(drop).map_err(refuse)
}

fn refusal(error: AcquireError, name: &str) -> Refusal {
    match error {
        AcquireError::NotFound => Refusal::ModelNotFound(name.to_owned()),
        AcquireError::Busy => ServiceError::Overloaded.into(),
        error => Refusal::Load(error.to_string()),
    }
}

/// What a prompt reads as.
pub(super) async fn rendered(model: &Model, name: &str, prompt: Prompt) -> Result<Rendered, Refusal> {
    let text = match prompt {
        Prompt::Text(text) => text,
        prompt => model.service.tokenize_rendered(&prompt).await?.0,
    };
    Ok(Rendered {
        model: name.to_owned(),
        created_at: timestamp(Utc::now()),
        debug_info: RenderedTemplate { rendered_template: text },
    })
}

/// The models that can be served.
#[utoipa::path(
    get,
    path = "/api/tags",
    tag = super::TAG,
    operation_id = "ollama_tags",
    responses((status = 200, description = "The models, the latest first", body = Tags))
)]
pub(super) async fn tags(State(state): State<AppState>) -> Json<Tags> {
    let cards = state.models.cards().await;
    Json(Tags { models: cards.iter().filter(|card| !card.absent).map(|card| listed(card)).collect() })
}

fn listed(card: &Card) -> Listed {
    let name = tagged(&card.name);
    Listed {
        model: name.clone(),
        name,
        modified_at: local(card.modified.unwrap_or(std::time::UNIX_EPOCH)),
        size: card.bytes,
        digest: card.digest.clone(),
        details: details(card),
    }
}

fn details(card: &Card) -> Details {
    Details {
        parent_model: card.parent.clone(),
        format: card.format.clone(),
        family: card.family.clone(),
        families: card.families.clone(),
        parameter_size: card.parameter_size.clone(),
        quantization_level: card.quantization.clone(),
    }
}

/// The models that are loaded.
#[utoipa::path(
    get,
    path = "/api/ps",
    tag = super::TAG,
    operation_id = "ollama_ps",
    responses((status = 200, description = "The models, those that stay longest first", body = Processes))
)]
pub(super) async fn ps(State(state): State<AppState>) -> Json<Processes> {
    let now = Utc::now();
    let mut resident = state.models.resident();
    resident.sort_by_key(|(_, left)| std::cmp::Reverse(left.unwrap_or(Duration::MAX)));
    let running = |(model, left): (Model, Option<Duration>)| {
        let (card, name) = (&model.card, tagged(&model.card.name));
        let left = left.and_then(|left| TimeDelta::from_std(left).ok()).unwrap_or(FOREVER);
        Running {
            model: name.clone(),
            name,
            size: card.bytes,
            digest: card.digest.clone(),
            details: details(card),
            expires_at: local(now + left),
            size_vram: if model.place == Place::Gpu { card.bytes } else { 0 },
            context_length: model.settings.max_total_tokens,
        }
    };
    Json(Processes { models: resident.into_iter().map(running).collect() })
}

/// Everything about a model.
#[utoipa::path(
    post,
    path = "/api/show",
    tag = super::TAG,
    operation_id = "ollama_show",
    request_body = ShowRequest,
    responses((status = 200, description = "The model", body = ShowResponse), Refusal)
)]
pub(super) async fn show(Caller(state): Caller, body: AnyType<ShowRequest>) -> Response {
    let shown = match body.0 {
        Ok(body) => shown(&state, body).await,
        Err(error) => Err(error.into()),
    };
    shown.map(Json).map_or_else(Refusal::into_response, IntoResponse::into_response)
}

async fn shown(state: &AppState, body: ShowRequest) -> Result<ShowResponse, Refusal> {
    let name = names::asked(body.model, body.name)?;
    let card = find(state, &name).await?;
    let shown = state.models.show(&card, body.verbose.unwrap_or(false)).await;
    let facts = shown.map_err(|error| refusal(error, &name))?;
    let mut settings = settings(&card);
    settings.parameters.extend(body.options.unwrap_or_default());
    settings.template = body.template.or(settings.template);
    settings.system = body.system.or(settings.system);
    let words = Show::new(&tagged(&card.name), &settings);
    Ok(ShowResponse {
        license: words.license,
        modelfile: words.modelfile,
        parameters: words.parameters,
        template: settings.template.unwrap_or(facts.template),
        system: words.system,
        details: details(&card),
        messages: words.messages.into_iter().map(Message::from).collect(),
        model_info: facts.model_info,
        projector_info: Some(facts.projector_info).filter(|info| !info.is_empty()),
        tensors: Some(facts.tensors.iter().map(|tensor| serde_json::json!(tensor)).collect::<Vec<_>>())
            .filter(|list| !list.is_empty()),
        capabilities: facts.capabilities,
        modified_at: local(card.modified.unwrap_or(std::time::UNIX_EPOCH)),
    })
}

/// What a model brings beside its weights, in the store's terms.
fn settings(card: &Card) -> ModelSettings {
    let Layers { parameters, system, template, messages, licenses } = card.layers.clone();
    let text = |message: &Map<String, Value>, key: &str| {
        message.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let messages = messages.iter().map(|message| weirgate_store::Message {
        role: text(message, "role"),
        content: text(message, "content"),
    });
    ModelSettings {
        template,
        system,
        parameters,
        messages: messages.collect(),
        licenses,
        ..ModelSettings::default()
    }
}

/// The version of Ollama whose features this server has.
#[utoipa::path(
    get,
    path = "/api/version",
    tag = super::TAG,
    operation_id = "ollama_version",
    responses((status = 200, description = "The version", body = Version))
)]
pub(super) async fn version(Caller(state): Caller) -> Json<Version> {
    // Its own version follows where a version may have more to say about a build.
    let version = format!("{}+weirgate.{}", state.settings.ollama_version, env!("CARGO_PKG_VERSION"));
    Json(Version { version })
}

/// With the offset of this machine's time zone, as Ollama writes the times of models.
fn local(time: impl Into<DateTime<Local>>) -> String {
    time.into().to_rfc3339_opts(chrono::SecondsFormat::Nanos, false)
}
