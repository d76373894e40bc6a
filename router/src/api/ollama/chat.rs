//! `POST /api/chat`.

use std::time::Instant;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::convert::{self, Asked};
use super::duration::keep_alive;
use super::errors::Refusal;
use super::reply::{Kind, Shape};
use super::stream;
use super::types::{ChatRequest, ChatResponse, OllamaChatAnswer};
use super::{messages, models, names};
use crate::api::extract::AnyType;
use crate::api::{AppState, Caller};
use crate::residency::{KeepAlive, Model};
use crate::service::{Conversation, Prompt, ServiceError};
use crate::tools::{self, Calls};

/// The next message of a chat.
#[utoipa::path(
    post,
    path = "/api/chat",
    tag = super::TAG,
    operation_id = "ollama_chat",
    request_body = ChatRequest,
    responses(
        (status = 200, description = "The message, or its parts as lines", content(
            (ChatResponse = "application/x-ndjson"),
            (OllamaChatAnswer = "application/json")
        )),
        Refusal,
    )
)]
pub(super) async fn chat(Caller(state): Caller, body: AnyType<ChatRequest>) -> Response {
    let answered = match body.0 {
        Ok(body) => answer(&state, body).await,
        Err(error) => Err(error.into()),
    };
    answered.unwrap_or_else(|refusal| refusal.book(&state.service).into_response())
}

async fn answer(state: &AppState, mut body: ChatRequest) -> Result<Response, Refusal> {
    let started = Instant::now();
    let name = names::asked(body.model.take(), body.name.take())?;
    let keep = keep_alive(body.common.keep_alive.as_ref())?;
    let streams = body.stream.unwrap_or(true);
    let empty = body.messages.as_ref().is_none_or(Vec::is_empty);
    if empty && keep == Some(KeepAlive::NOT_AT_ALL) {
        models::find(state, &name).await?;
        state.models.release(&name);
        return Ok(stream::single(Shape::new(Kind::Chat, name, started).nothing("unload"), streams));
    }
    let lease = models::acquire(state, &name, keep).await?;
    let mut shape = Shape::new(Kind::Chat, name, started);
    if empty {
        return Ok(stream::single(shape.nothing("load"), streams));
    }
    models::check_generates(&lease, &shape.model, "chat")?;
    let asked = convert::asked(&body.common, &lease)?;
    shape.logprobs = asked.logprobs;
    let render_only = body.common.debug_render_only.unwrap_or(false);
    let (prompt, asked, calls) = lower(body, &lease, asked)?;
    if render_only {
        return models::rendered(&lease, &shape.model, prompt)
            .await
            .map(|rendered| Json(rendered).into_response());
    }
    let request = convert::request(prompt, asked, &lease, state.tenant);
    Ok(stream::answer(state.models.queue(), lease, request, shape, calls, streams).await)
}

/// The prompt, what is asked of its continuation, and how calls in it are read.
fn lower(
    body: ChatRequest,
    model: &Model,
    mut asked: Asked,
) -> Result<(Prompt, Asked, Option<Calls>), Refusal> {
    let forms = &model.service.forms;
    let wanted = match &body.tools {
        Some(given) if !given.is_empty() => {
            Some(tools::Asked::new(given, &tools::Choice::Auto, true, forms)?.all_strict())
        }
        _ => None,
    };
    let calls = wanted.as_ref().map(|wanted| wanted.calls.clone());
    let form = convert::format(body.format.as_ref())?;
    asked.parameters.constraint = convert::constraint(form, calls.as_ref()).map_err(ServiceError::from)?;
    let mut list = messages::for_template(body.messages.unwrap_or_default())?;
    list.splice(0..0, own_messages(model, &list));
    let variables = std::mem::take(&mut asked.think);
    let begun = list.last().is_some_and(|last| last.get("role") == Some(&json!("assistant")));
    let continue_final_message = begun && calls.is_none();
    let mut conversation =
        Conversation { messages: list, variables, continue_final_message, ..Conversation::default() };
    if let Some(wanted) = wanted {
        wanted.tell(&mut conversation, forms);
    }
    Ok((convert::prompt(None, conversation, model), asked, calls))
}

/// The messages that the model itself begins with: its system text, unless the request brings one, and its history.
fn own_messages(model: &Model, given: &[Map<String, Value>]) -> Vec<Map<String, Value>> {
    let has_system = given.first().is_some_and(|first| first.get("role") == Some(&json!("system")));
    let system = model.card.layers.system.iter().filter(|text| !has_system && !text.is_empty());
    let system = system.filter_map(|text| json!({"role": "system", "content": text}).as_object().cloned());
    system.chain(model.card.layers.messages.iter().cloned()).collect()
}
