//! `POST /v1/chat/completions`.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::answer::{envelope, usage};
use super::collect::{Finished, collect};
use super::errors::Refusal;
use super::parameters::{Shape, field, parameters, request};
use super::quirks::Quirks;
use super::stream::{self, ChatChunks};
use super::types::{AssistantMessage, ChatChoice, ChatRequest, Envelope, Message};
use super::{logprobs, messages};
use crate::api::extract::Body;
use crate::api::headers::{compute_headers, figure_headers};
use crate::api::{AppState, Caller, Settings};
use crate::service::{Conversation, MaxNewTokens, Prompt, Request, ServiceError, Vocabulary};

const ID_PREFIX: &str = "chatcmpl";

pub(crate) async fn completions(Caller(state): Caller, body: Body<ChatRequest>) -> Response {
    let quirks = Quirks::of(state.settings.profile);
    match body.0 {
        Ok(body) => {
            let streams = body.common.streams();
            answer(&state, body).await.unwrap_or_else(|refusal| refusal.respond(quirks, streams))
        }
        Err(error) => Refusal::from(error).respond(quirks, false),
    }
}

async fn answer(state: &AppState, body: ChatRequest) -> Result<Response, Refusal> {
    tracing::debug!(user = body.common.user, "a chat");
    let lowered = lower(body, &state.settings);
    let (mut request, shape) = lowered.inspect_err(|error| state.service.refuse(error))?;
    request.tenant = state.tenant;
    let account = state.service.admit_one()?;
    let mut generation = state.service.generate(request, account).await?;
    let mut headers = compute_headers(&state.settings, generation.facts.prompt_characters);
    if shape.stream {
        generation.started().await?;
        let chunks = ChatChunks::new(state.service.vocabulary.clone(), &shape);
        let envelope = envelope(ID_PREFIX, "chat.completion.chunk", &shape);
        return Ok((headers, stream::respond(envelope, chunks, vec![generation], &shape)).into_response());
    }
    let finished = collect(&mut generation, shape.n).await?;
    figure_headers(&mut headers, &generation);
    let choices = finished.sequences.into_iter().enumerate();
    let choices = choices.map(|(index, sequence)| choice(&state.service.vocabulary, &shape, index, sequence));
    let answer = Envelope {
        choices: choices.collect(),
        usage: Some(Some(usage(&[generation], finished.generated_tokens))),
        ..envelope(ID_PREFIX, "chat.completion", &shape)
    };
    Ok((headers, Json(answer)).into_response())
}

fn choice(vocabulary: &Vocabulary, shape: &Shape, index: usize, sequence: Finished) -> ChatChoice {
    ChatChoice {
        index,
        logprobs: shape.logprobs.then(|| logprobs::chat(&sequence.tokens, vocabulary)),
        finish_reason: shape.quirks.finish_reason(sequence.end.reason),
        message: AssistantMessage { role: "assistant", content: sequence.end.text },
    }
}

/// A chat for routes that answer in a form of their own.
pub(crate) fn chat_request(body: ChatRequest, settings: &Settings) -> Result<Request, ServiceError> {
    lower(body, settings).map(|(request, _)| request)
}

fn lower(body: ChatRequest, settings: &Settings) -> Result<(Request, Shape), ServiceError> {
    if let Some(unserved) = body.unserved() {
        return Err(field(unserved, "is not supported"));
    }
    let logprobs = body.logprobs.unwrap_or(false);
    let shape = Shape::new(&body.common, logprobs, settings);
    let top = body.top_logprobs.unwrap_or(0);
    if top > 0 && !logprobs && !shape.quirks.tgi_bounds {
        return Err(field("top_logprobs", "`logprobs` must be true to use `top_logprobs`"));
    }
    let max_tokens = body.max_completion_tokens.or(body.common.max_tokens);
    let max_new_tokens = MaxNewTokens::new(max_tokens, settings.default_max_new_tokens);
    let mut parameters = parameters(&body.common, max_new_tokens, shape.quirks)?;
    parameters.top_n_tokens = top;
    parameters.grammar = wants_grammar(&body);
    let prompt = Prompt::Chat(conversation(body)?);
    Ok((request(prompt, parameters, shape.quirks.text(true), settings), shape))
}

/// Tools or a response format: what the grammar seam will serve.
fn wants_grammar(body: &ChatRequest) -> bool {
    let tools = body.tools.as_ref().is_some_and(|tools| !tools.is_empty());
    let refuses_tools = body.tool_choice.as_ref().and_then(Value::as_str) == Some("none");
    let format = body.response_format.as_ref().filter(|format| !format.is_null());
    let text = |format: &Value| format.get("type").and_then(Value::as_str) == Some("text");
    (tools && !refuses_tools) || format.is_some_and(|format| !text(format))
}

fn conversation(body: ChatRequest) -> Result<Conversation, ServiceError> {
    // As in TGI, what the assistant began is continued, unless the client wants it answered.
    let begun = |message: &Message| message.role == "assistant" && message.content.is_some();
    let begun = body.messages.last().is_some_and(begun) && body.add_generation_prompt != Some(true);
    let mut variables = body.chat_template_kwargs.unwrap_or_default();
    variables.extend(body.guideline.map(|guideline| ("guideline".to_owned(), Value::String(guideline))));
    Ok(Conversation {
        messages: messages::for_template(body.messages)?,
        documents: body.documents,
        variables,
        add_generation_prompt: body.add_generation_prompt,
        continue_final_message: body.continue_final_message.unwrap_or(begun),
        ..Conversation::default()
    })
}
