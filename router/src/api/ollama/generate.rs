//! `POST /api/generate`.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::convert::{self, Asked};
use super::duration::keep_alive;
use super::errors::Refusal;
use super::reply::{Kind, Shape};
use super::stream;
use super::types::{GenerateRequest, GenerateResponse, OllamaGenerateAnswer};
use super::{messages, models, names};
use crate::api::extract::AnyType;
use crate::api::{AppState, Caller};
use crate::residency::{KeepAlive, Model};
use crate::service::{ChatTemplate, Conversation, Prompt};

/// A text from a prompt.
#[utoipa::path(
    post,
    path = "/api/generate",
    tag = super::TAG,
    operation_id = "ollama_generate",
    request_body = GenerateRequest,
    responses(
        (status = 200, description = "The answer, or its parts as lines", content(
            (GenerateResponse = "application/x-ndjson"),
            (OllamaGenerateAnswer = "application/json")
        )),
        Refusal,
    )
)]
pub(super) async fn generate(Caller(state): Caller, body: AnyType<GenerateRequest>) -> Response {
    let answered = match body.0 {
        Ok(body) => answer(&state, body).await,
        Err(error) => Err(error.into()),
    };
    answered.unwrap_or_else(|refusal| refusal.book(&state.service).into_response())
}

async fn answer(state: &AppState, mut body: GenerateRequest) -> Result<Response, Refusal> {
    let started = Instant::now();
    let name = names::asked(body.model.take(), body.name.take())?;
    let keep = keep_alive(body.common.keep_alive.as_ref())?;
    let streams = body.stream.unwrap_or(true);
    if is_empty(&body) && keep == Some(KeepAlive::NOT_AT_ALL) {
        models::find(state, &name).await?;
        state.models.release(&name);
        let shape = Shape::new(Kind::Generate, name, started);
        return Ok(stream::single(shape.nothing("unload"), streams));
    }
    let lease = models::acquire(state, &name, keep).await?;
    let mut shape = Shape::new(Kind::Generate, name, started);
    if is_empty(&body) {
        return Ok(stream::single(shape.nothing("load"), streams));
    }
    models::check_generates(&lease, &shape.model, "generate")?;
    let mut asked = convert::asked(&body.common, &lease)?;
    shape.logprobs = asked.logprobs;
    shape.context = !body.raw.unwrap_or(false);
    asked.parameters.constraint = convert::format(body.format.as_ref())?;
    let prompt = prompt(&mut body, &lease, &mut asked)?;
    if body.common.debug_render_only.unwrap_or(false) {
        return models::rendered(&lease, &shape.model, prompt)
            .await
            .map(|rendered| Json(rendered).into_response());
    }
    let request = convert::request(prompt, asked, &lease, state.tenant);
    Ok(stream::answer(state.models.queue(), lease, request, shape, None, streams).await)
}

fn is_empty(body: &GenerateRequest) -> bool {
    body.prompt.as_ref().is_none_or(String::is_empty) && body.suffix.as_ref().is_none_or(String::is_empty)
}

/// The text to go on from, and through `asked` what precedes it.
fn prompt(body: &mut GenerateRequest, model: &Model, asked: &mut Asked) -> Result<Prompt, Refusal> {
    messages::refuse_images(body.images.as_ref())?;
    let text = body.prompt.take().unwrap_or_default();
    let given = |field: &Option<String>| field.as_ref().is_some_and(|text| !text.is_empty());
    let context = body.context.take().unwrap_or_default();
    if body.raw.unwrap_or(false) {
        if given(&body.template) || given(&body.system) || !context.is_empty() {
            return Err(Refusal::bad("raw mode does not support template, system, or context".to_owned()));
        }
        return Ok(Prompt::Text(text));
    }
    asked.context.preceding = context;
    let template = body.template.take().filter(|text| !text.is_empty());
    let template = template.map(|text| Arc::new(ChatTemplate::go(&text)));
    if let Some(suffix) = body.suffix.take().filter(|suffix| !suffix.is_empty()) {
        return infill(text, suffix, template, model);
    }
    let system =
        body.system.take().or_else(|| model.card.layers.system.clone()).filter(|text| !text.is_empty());
    let conversation = conversation(system, text, std::mem::take(&mut asked.think));
    Ok(convert::prompt(template, conversation, model))
}

/// # Errors
/// When neither the request's template nor the model has a place for what follows.
fn infill(
    text: String,
    suffix: String,
    template: Option<Arc<ChatTemplate>>,
    model: &Model,
) -> Result<Prompt, Refusal> {
    match template {
        // One that cannot be read says so once it is rendered.
        Some(template) if template.asks_for("Suffix") || template.broken().is_some() => {
            Ok(Prompt::Templated(template, Conversation::infill(&text, &suffix)))
        }
        None if model.service.completion_template.is_some() => Ok(Prompt::Infill { text, suffix }),
        _ => Err(Refusal::bad(format!("{:?} does not support insert", model.card.name))),
    }
}

fn conversation(system: Option<String>, prompt: String, variables: Map<String, Value>) -> Conversation {
    let message = |role: &str, content: String| {
        json!({"role": role, "content": content}).as_object().cloned().unwrap_or_default()
    };
    let system = system.map(|text| message("system", text));
    Conversation {
        messages: system.into_iter().chain([message("user", prompt)]).collect(),
        variables,
        ..Conversation::default()
    }
}
