use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::convert::{self, Shape};
use super::errors::ApiError;
use super::stream::{self, ChatChunks, TextChunks};
use super::types::{
    AssistantMessage, ChatChoice, ChatLogprobs, ChatRequest, CompletionRequest, Envelope, ModelInfo,
    ModelList, PromptTokensDetails, TextChoice, TextLogprobs, Usage,
};
use crate::api::extract::Body;
use crate::api::headers::{compute_headers, figure_headers};
use crate::api::{AppState, Caller};
use crate::service::{Event, Generation, Prompt, SequenceEnd, ServiceError, Token, random};

/// TGI's form: the version, and where the build comes from.
const FINGERPRINT: &str = concat!(env!("CARGO_PKG_VERSION"), "-native");

pub(super) async fn chat_completions(Caller(state): Caller, body: Body<ChatRequest>) -> Response {
    respond(match body.0 {
        Ok(body) => chat(state, body).await,
        Err(error) => Err(error.into()),
    })
}

pub(super) async fn completions(Caller(state): Caller, body: Body<CompletionRequest>) -> Response {
    respond(match body.0 {
        Ok(body) => complete(state, body).await,
        Err(error) => Err(error.into()),
    })
}

fn respond(result: Result<Response, ApiError>) -> Response {
    result.unwrap_or_else(IntoResponse::into_response)
}

async fn chat(state: AppState, body: ChatRequest) -> Result<Response, ApiError> {
    let converted = convert::chat(body, &state.settings);
    let (mut request, shape) = converted.inspect_err(|error| state.service.refuse(error))?;
    request.tenant = state.tenant;
    let account = state.service.admit_one()?;
    let mut generation = state.service.generate(request, account).await?;
    if shape.stream {
        generation.started().await?;
        let chunks = ChatChunks::new(state.service.vocabulary.clone(), shape.logprobs);
        let envelope = envelope("chatcmpl", "chat.completion.chunk", &shape);
        let headers = compute_headers(generation.facts.prompt_characters);
        return Ok((headers, stream::respond(envelope, chunks, vec![generation], &shape)).into_response());
    }
    let finished = collect(&mut generation, shape.n).await?;
    let mut headers = compute_headers(generation.facts.prompt_characters);
    figure_headers(&mut headers, &generation);
    let choices = finished.sequences.into_iter().enumerate();
    let choices = choices.map(|(index, sequence)| chat_choice(&state, &shape, index, sequence)).collect();
    let usage = Some(usage(&[generation], finished.generated_tokens));
    let answer = envelope("chatcmpl", "chat.completion", &shape);
    Ok((headers, Json(Envelope { choices, usage, ..answer })).into_response())
}

fn chat_choice(state: &AppState, shape: &Shape, index: usize, sequence: Finished) -> ChatChoice {
    let logprob = |token: &Token| convert::chat_logprob(token, &state.service.vocabulary);
    let logprobs = || ChatLogprobs { content: sequence.tokens.iter().map(logprob).collect() };
    ChatChoice {
        index,
        logprobs: shape.logprobs.then(logprobs),
        finish_reason: convert::finish_reason(sequence.end.reason),
        message: AssistantMessage { role: "assistant", content: sequence.end.text },
    }
}

async fn complete(state: AppState, body: CompletionRequest) -> Result<Response, ApiError> {
    let (requests, shape) = convert::completion(body, &state.settings)?;
    let accounts = state.service.admit(requests.len())?;
    let mut echoes = Vec::new();
    let mut generations = Vec::new();
    for (mut request, account) in requests.into_iter().zip(accounts) {
        request.tenant = state.tenant;
        let text = match &request.prompt {
            Prompt::Text(text) if shape.echo => Some(text.clone()),
            _ => None,
        };
        let generation = state.service.generate(request, account).await?;
        let decoded =
            || state.service.vocabulary.tokenizer.decode(&generation.facts.prompt, true).unwrap_or_default();
        echoes.push(if shape.echo { text.unwrap_or_else(decoded) } else { String::new() });
        generations.push(generation);
    }
    if shape.stream {
        for generation in &mut generations {
            generation.started().await?;
        }
        let chunks = TextChunks::new(state.service.vocabulary.clone(), shape.logprobs, echoes, shape.n);
        return Ok(stream::respond(envelope("cmpl", "text_completion", &shape), chunks, generations, &shape));
    }
    let mut choices = Vec::new();
    let mut generated_tokens = 0;
    for (generation, echo) in generations.iter_mut().zip(echoes) {
        let finished = collect(generation, shape.n).await?;
        generated_tokens += finished.generated_tokens;
        for sequence in finished.sequences {
            let index = choices.len();
            choices.push(text_choice(&state, &shape, index, sequence, &echo, generation, &finished.prompt));
        }
    }
    let usage = Some(usage(&generations, generated_tokens));
    let answer = envelope("cmpl", "text_completion", &shape);
    Ok(Json(Envelope { choices, usage, ..answer }).into_response())
}

fn text_choice(
    state: &AppState,
    shape: &Shape,
    index: usize,
    sequence: Finished,
    echo: &str,
    generation: &Generation,
    prompt: &[Option<f32>],
) -> TextChoice {
    let vocabulary = &state.service.vocabulary;
    let logprobs = || {
        let mut offset = 0;
        let mut list: TextLogprobs =
            convert::prompt_logprobs(&generation.facts.prompt, prompt, vocabulary, &mut offset);
        for token in &sequence.tokens {
            convert::push_text_logprob(&mut list, token, vocabulary, &mut offset);
        }
        list
    };
    TextChoice {
        index,
        logprobs: shape.logprobs.then(logprobs),
        finish_reason: Some(convert::finish_reason(sequence.end.reason)),
        text: echo.to_owned() + &sequence.end.text,
    }
}

/// The model that is served.
pub(super) async fn models(State(state): State<AppState>) -> Json<ModelList> {
    let id = state.settings.model_id.clone();
    Json(ModelList {
        object: "list",
        data: vec![ModelInfo { id: id.clone(), object: "model", created: 0, owned_by: id }],
    })
}

/// One finished sequence.
struct Finished {
    end: SequenceEnd,
    tokens: Vec<Token>,
}

impl Finished {
    fn mean_logprob(&self) -> f32 {
        self.tokens.iter().map(|token| token.logprob).sum::<f32>() / self.tokens.len().max(1) as f32
    }
}

/// A finished request: its answers, and what it took.
struct Collected {
    sequences: Vec<Finished>,
    /// Of all sequences, those not among the answers included.
    generated_tokens: u32,
    /// Log-probabilities of the prompt's tokens, where asked for.
    prompt: Vec<Option<f32>>,
}

/// Runs a request to its end and keeps the `n` best of its sequences; in order, where all are kept.
async fn collect(generation: &mut Generation, n: usize) -> Result<Collected, ServiceError> {
    let mut prompt = Vec::new();
    let mut tokens: Vec<Vec<Token>> = Vec::new();
    let mut sequences: Vec<Finished> = Vec::new();
    while let Some(event) = generation.next().await {
        match event? {
            Event::Prompt(logprobs) => prompt = logprobs,
            Event::Token(token) => {
                if tokens.len() <= token.index {
                    tokens.resize_with(token.index + 1, Vec::new);
                }
                if let Some(own) = tokens.get_mut(token.index) {
                    own.push(token);
                }
            }
            Event::End(end) => {
                let tokens = tokens.get_mut(end.index).map(std::mem::take).unwrap_or_default();
                sequences.push(Finished { end, tokens });
            }
        }
    }
    let generated_tokens = sequences.iter().map(|sequence| sequence.end.generated_tokens).sum();
    sequences.sort_by_key(|sequence| sequence.end.index);
    if sequences.len() > n {
        sequences.sort_by(|a, b| b.mean_logprob().total_cmp(&a.mean_logprob()));
        sequences.truncate(n);
    }
    Ok(Collected { sequences, generated_tokens, prompt })
}

/// Token counts over all prompts of a request.
pub(super) fn usage(generations: &[Generation], completion_tokens: u32) -> Usage {
    let prompt_tokens = generations.iter().map(|generation| generation.facts.prompt.len() as u32).sum();
    let mut usage = Usage { prompt_tokens, completion_tokens, ..Usage::default() };
    usage.total_tokens = prompt_tokens + completion_tokens;
    let cached_tokens = generations.iter().map(Generation::cached_tokens).sum();
    usage.prompt_tokens_details = (cached_tokens > 0).then_some(PromptTokensDetails { cached_tokens });
    usage
}

/// An answer or chunk without its choices.
fn envelope<C>(prefix: &str, object: &'static str, shape: &Shape) -> Envelope<C> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Envelope {
        id: random::id(prefix),
        object,
        created: now.map_or(0, |now| now.as_secs()),
        model: shape.model.clone(),
        system_fingerprint: FINGERPRINT,
        choices: Vec::new(),
        usage: None,
    }
}
