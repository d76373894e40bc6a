//! `POST /api/generate`.

use std::time::Instant;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::convert::{self, Asked};
use super::duration::keep_alive;
use super::errors::Refusal;
use super::reply::{Kind, Shape};
use super::stream;
use super::types::{GenerateRequest, GenerateResponse};
use super::{messages, models, names};
use crate::api::extract::AnyType;
use crate::api::{AppState, Caller};
use crate::residency::{KeepAlive, Model};
use crate::service::{Conversation, Prompt};

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
            (GenerateResponse = "application/json")
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
    let prompt = prompt(&mut body, &lease, &mut asked).await?;
    if body.common.debug_render_only.unwrap_or(false) {
        return models::rendered(&lease, &shape.model, prompt)
            .await
            .map(|rendered| Json(rendered).into_response());
    }
    let request = convert::request(prompt, asked, &lease, state.tenant);
    stream::answer(lease, request, shape, None, streams).await
}

fn is_empty(body: &GenerateRequest) -> bool {
    body.prompt.as_ref().is_none_or(String::is_empty) && body.suffix.as_ref().is_none_or(String::is_empty)
}

/// The text to go on from, and through `asked` what precedes it.
async fn prompt(body: &mut GenerateRequest, model: &Model, asked: &mut Asked) -> Result<Prompt, Refusal> {
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
    if let Some(suffix) = body.suffix.take().filter(|suffix| !suffix.is_empty()) {
        if model.service.completion_template.is_none() {
            return Err(Refusal::bad(format!("{:?} does not support insert", model.card.name)));
        }
        return Ok(Prompt::Infill { text, suffix });
    }
    let system =
        body.system.take().or_else(|| model.card.layers.system.clone()).filter(|text| !text.is_empty());
    let template =
        body.template.take().filter(|text| !text.is_empty()).or_else(|| model.card.layers.template.clone());
    if let Some(template) = template {
        let messages =
            conversation(system, text, Map::new()).messages.into_iter().map(Value::Object).collect();
        let conversation =
            weirgate_store::Conversation { messages, ..weirgate_store::Conversation::default() };
        return models::render(template, conversation).await.map(Prompt::Text);
    }
    if model.service.template.text().is_empty() {
        // Without a template there is nothing but the texts themselves.
        let paragraphs: Vec<String> = system.into_iter().chain([text]).collect();
        return Ok(Prompt::Text(paragraphs.join("\n\n")));
    }
    Ok(Prompt::Chat(conversation(system, text, std::mem::take(&mut asked.think))))
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
