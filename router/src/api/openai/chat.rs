//! `POST /v1/chat/completions`.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use super::answer::{envelope, usage};
use super::collect::{Finished, collect};
use super::errors::Refusal;
use super::models::{serving, take_adapter};
use super::parameters::{Shape, field, parameters, request};
use super::quirks::Quirks;
use super::reading::Reading;
use super::stream::{self, ChatChunks};
use super::types::{ChatChoice, ChatRequest, Envelope, Message};
use super::{constraints, logprobs, messages, tools};
use crate::api::docs::schemas::{ChatCompletion, ChatCompletionChunk};
use crate::api::extract::Body;
use crate::api::headers::{compute_headers, figure_headers};
use crate::api::{AppState, Caller};
use crate::service::{Conversation, Generation, MaxNewTokens, Prompt, Request, ServiceError, Vocabulary};
use crate::tools::{Calls, Reasoning};

const ID_PREFIX: &str = "chatcmpl";

#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = super::TAG,
    operation_id = "chat_completions",
    request_body = ChatRequest,
    responses(
        (status = 200, description = "The answer, or its parts as events", content(
            (ChatCompletion = "application/json"),
            (ChatCompletionChunk = "text/event-stream")
        )),
        Refusal,
    )
)]
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

/// A chat under way.
pub(crate) struct Begun {
    /// Of the model that the request named.
    pub state: AppState,
    pub generation: Generation,
    /// How calls in its text are read.
    pub calls: Option<Calls>,
    shape: Shape,
}

impl Begun {
    /// The name to answer with.
    pub fn model(&self) -> &str {
        &self.shape.model
    }
}

/// Has the model that a chat names begin with it.
///
/// # Errors
/// There is no such model, or what it cannot do.
pub(crate) async fn begin(state: &AppState, body: ChatRequest) -> Result<Begun, Refusal> {
    let (state, Lowered { mut request, shape, calls }) = prepare(state, body).await?;
    request.tenant = state.tenant;
    let account = state.service.admit_one()?;
    let mut generation = state.service.generate(request, account).await?;
    generation.started().await?;
    Ok(Begun { state, generation, calls, shape })
}

/// The prompt that a chat makes, and the state of the model that it names.
///
/// # Errors
/// There is no such model, or what it cannot do.
pub(crate) async fn prompt(state: &AppState, body: ChatRequest) -> Result<(AppState, Prompt), Refusal> {
    let (state, lowered) = prepare(state, body).await?;
    Ok((state, lowered.request.prompt))
}

async fn prepare(state: &AppState, mut body: ChatRequest) -> Result<(AppState, Lowered), Refusal> {
    let state = serving(state, &mut body.common).await?;
    tracing::debug!(user = body.common.user, "a chat");
    let lowered = lower(body, &state).inspect_err(|error| state.service.refuse(error))?;
    Ok((state, lowered))
}

async fn answer(state: &AppState, body: ChatRequest) -> Result<Response, Refusal> {
    let Begun { state, mut generation, calls, shape } = begin(state, body).await?;
    let facts = &generation.facts;
    let reading =
        Reading { calls, thinking: facts.thinking, quirks: shape.quirks, checks: facts.checks.clone() };
    let mut headers = compute_headers(&state.settings, facts.prompt_characters);
    if shape.stream {
        let chunks = ChatChunks::new(state.service.vocabulary.clone(), &shape, reading);
        let envelope = envelope(ID_PREFIX, "chat.completion.chunk", &shape);
        return Ok((headers, stream::respond(envelope, chunks, vec![generation], &shape)).into_response());
    }
    let finished = collect(&mut generation, shape.n).await?;
    figure_headers(&mut headers, &generation);
    let choices = finished.sequences.into_iter().enumerate();
    let choices = choices
        .map(|(index, sequence)| choice(&state.service.vocabulary, (&shape, &reading), index, sequence));
    let answer = Envelope {
        choices: choices.collect::<Result<_, _>>()?,
        usage: Some(Some(usage(&[generation], finished.generated_tokens))),
        ..envelope(ID_PREFIX, "chat.completion", &shape)
    };
    Ok((headers, Json(answer)).into_response())
}

fn choice(
    vocabulary: &Vocabulary,
    (shape, reading): (&Shape, &Reading),
    index: usize,
    sequence: Finished,
) -> Result<ChatChoice, ServiceError> {
    let schema_checks = reading.schema_checks(&sequence.end.text);
    let (message, called) = reading.message(sequence.end.text)?;
    Ok(ChatChoice {
        index,
        logprobs: shape.logprobs.then(|| logprobs::chat(&sequence.tokens, vocabulary)),
        finish_reason: reading.finish_reason(sequence.end.reason, called),
        message,
        stop_reason: shape.quirks.stop_reason(),
        schema_checks,
    })
}

/// A chat for routes that answer in a form of their own.
pub(crate) fn chat_request(mut body: ChatRequest, state: &AppState) -> Result<Request, ServiceError> {
    take_adapter(&mut body.common, state)?;
    lower(body, state).map(|lowered| lowered.request)
}

/// A chat for the service, and what its answer depends on.
struct Lowered {
    request: Request,
    shape: Shape,
    calls: Option<Calls>,
}

fn lower(body: ChatRequest, state: &AppState) -> Result<Lowered, ServiceError> {
    let (settings, forms) = (&state.settings, &state.service.forms);
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
    let default = body.common.own_max_tokens.or(settings.default_max_new_tokens);
    let max_new_tokens = MaxNewTokens::new(max_tokens, default);
    let mut parameters = parameters(&body.common, max_new_tokens, shape.quirks)?;
    parameters.top_n_tokens = top;
    let asked = tools::asked(&body, forms)?;
    let calls = asked.as_ref().map(|asked| asked.calls.clone());
    parameters.constraint = constraints::chat(&body, calls.clone(), shape.quirks)?;
    let mut conversation = conversation(body, forms.template_has_developers)?;
    if let Some(asked) = asked {
        asked.tell(&mut conversation, forms);
    }
    let mut request = request(Prompt::Chat(conversation), parameters, shape.quirks.text(true), settings);
    request.marks = calls.as_ref().map(Calls::marks).unwrap_or_default();
    request
        .marks
        .extend(forms.reasoning.into_iter().flat_map(|marks| [marks.open, marks.close]).map(str::to_owned));
    Ok(Lowered { request, shape, calls })
}

fn conversation(body: ChatRequest, has_developers: bool) -> Result<Conversation, ServiceError> {
    // As in TGI, what the assistant began is continued, unless the client wants it answered.
    let begun = |message: &Message| message.role == "assistant" && message.content.is_some();
    let begun = body.messages.last().is_some_and(begun) && body.add_generation_prompt != Some(true);
    let mut variables = match &body.reasoning_effort {
        Some(effort) => effort_wish(effort)?,
        None => Map::new(),
    };
    variables.extend(body.chat_template_kwargs.unwrap_or_default());
    variables.extend(body.guideline.map(|guideline| ("guideline".to_owned(), Value::String(guideline))));
    Ok(Conversation {
        messages: messages::for_template(body.messages, has_developers)?,
        documents: body.documents,
        variables,
        add_generation_prompt: body.add_generation_prompt,
        continue_final_message: body.continue_final_message.unwrap_or(begun),
        ..Conversation::default()
    })
}

/// What OpenAI's levels say to a template; most know three of them.
fn effort_wish(effort: &str) -> Result<Map<String, Value>, ServiceError> {
    let level = match effort {
        "none" => return Ok(Reasoning::wish(false, None)),
        "minimal" | "low" => "low",
        "medium" => "medium",
        "high" | "xhigh" | "max" => "high",
        _ => {
            let levels = "must be none, minimal, low, medium, high, xhigh or max";
            return Err(field("reasoning_effort", &format!("{levels}. Given: {effort:?}")));
        }
    };
    Ok(Reasoning::wish(true, Some(level)))
}
