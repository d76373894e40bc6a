//! `POST /v1/completions`.

use axum::Json;
use axum::response::{IntoResponse, Response};

use super::answer::{envelope, usage};
use super::collect::{Collected, Finished, collect};
use super::errors::Refusal;
use super::models::serving;
use super::parameters::{Shape, field, parameters, request};
use super::quirks::Quirks;
use super::stream::{self, TextChunks};
use super::types::{CompletionLogprobs, CompletionRequest, Envelope, PromptInput, TextChoice};
use super::{constraints, logprobs};
use crate::api::docs::schemas::{Chunk, CompletionFinal};
use crate::api::extract::{Body, BodyError};
use crate::api::headers::{compute_headers, summed_figure_headers};
use crate::api::{AppState, Caller, Settings};
use crate::service::{Generation, MaxNewTokens, Prompt, Request, ServiceError, ValidationError, Vocabulary};

const ID_PREFIX: &str = "cmpl";
const OBJECT: &str = "text_completion";
/// TGI 2.4.1's default for `max_tokens`.
const MAX_TOKENS: u32 = 32;
const NO_PROMPTS: &str = "prompt: Empty array detected. Do not use an empty array for the prompt.";

#[utoipa::path(
    post,
    path = "/v1/completions",
    tag = super::TAG,
    operation_id = "completions",
    request_body = CompletionRequest,
    responses(
        (status = 200, description = "The answer, or its parts as events", content(
            (CompletionFinal = "application/json"),
            (Chunk = "text/event-stream")
        )),
        Refusal,
    )
)]
pub(crate) async fn completions(Caller(state): Caller, body: Body<CompletionRequest>) -> Response {
    let quirks = Quirks::of(state.settings.profile);
    match body.0 {
        Ok(body) => {
            let streams = body.common.streams();
            answer(&state, body).await.unwrap_or_else(|refusal| refusal.respond(quirks, streams))
        }
        Err(error) => Refusal::from(error).respond(quirks, false),
    }
}

async fn answer(state: &AppState, mut body: CompletionRequest) -> Result<Response, Refusal> {
    let state = &serving(state, &mut body.common).await?;
    tracing::debug!(user = body.common.user, "a completion");
    let echo = body.echo.unwrap_or(false);
    let infills = state.service.completion_template.is_some();
    let lowered = lower(body, infills, &state.settings);
    let (requests, shape) = lowered.inspect_err(|refusal| refusal.book(&state.service))?;
    let Started { mut generations, echoes } = start(state, requests, echo).await?;
    let characters = generations.iter().map(|generation| generation.facts.prompt_characters).sum();
    let mut headers = compute_headers(&state.settings, characters);
    let vocabulary = &state.service.vocabulary;
    if shape.stream {
        for generation in &mut generations {
            generation.started().await?;
        }
        let chunks = TextChunks::new(vocabulary.clone(), echoes, &shape);
        let envelope = envelope(ID_PREFIX, OBJECT, &shape);
        return Ok((headers, stream::respond(envelope, chunks, generations, &shape)).into_response());
    }
    let mut choices = Vec::new();
    let mut generated_tokens = 0;
    for (generation, echo) in generations.iter_mut().zip(echoes) {
        let Collected { sequences, generated_tokens: generated, prompt } =
            collect(generation, shape.n).await?;
        generated_tokens += generated;
        let echo = Echo { text: echo, tokens: generation.facts.prompt.to_vec(), logprobs: prompt };
        for sequence in sequences {
            choices.push(choice(vocabulary, &shape, choices.len(), sequence, &echo));
        }
    }
    summed_figure_headers(&mut headers, &generations);
    let answer = Envelope {
        choices,
        usage: Some(Some(usage(&generations, generated_tokens))),
        ..envelope(ID_PREFIX, OBJECT, &shape)
    };
    Ok((headers, Json(answer)).into_response())
}

/// The generations of a request's prompts, and what each choice's text begins with.
struct Started {
    generations: Vec<Generation>,
    /// Empty where nothing is echoed.
    echoes: Vec<String>,
}

async fn start(state: &AppState, mut requests: Vec<Request>, echo: bool) -> Result<Started, Refusal> {
    for request in &mut requests {
        request.tenant = state.tenant;
    }
    let text = |request: &Request| match &request.prompt {
        Prompt::Text(text) | Prompt::Infill { text, .. } if echo => Some(text.clone()),
        _ => None,
    };
    let texts: Vec<Option<String>> = requests.iter().map(text).collect();
    let generations = state.service.generate_all(requests).await?;
    let tokenizer = &state.service.vocabulary.tokenizer;
    let echoed = |(generation, text): (&Generation, Option<String>)| {
        let decoded = || tokenizer.decode(&generation.facts.prompt, true).unwrap_or_default();
        if echo { text.unwrap_or_else(decoded) } else { String::new() }
    };
    let echoes = generations.iter().zip(texts).map(echoed).collect();
    Ok(Started { generations, echoes })
}

/// An echoed prompt. Without log-probabilities asked for, its tokens have none.
struct Echo {
    text: String,
    tokens: Vec<u32>,
    logprobs: Vec<Option<f32>>,
}

fn choice(
    vocabulary: &Vocabulary,
    shape: &Shape,
    index: usize,
    sequence: Finished,
    echo: &Echo,
) -> TextChoice {
    let logprobs = || {
        if shape.quirks.plain_logprobs {
            return logprobs::plain(&sequence.tokens);
        }
        let prompt = echo.tokens.iter().copied().zip(echo.logprobs.iter().copied());
        CompletionLogprobs::Lists(logprobs::text(prompt, &sequence.tokens, vocabulary, &mut 0))
    };
    TextChoice {
        index,
        logprobs: shape.logprobs.then(logprobs),
        finish_reason: Some(shape.quirks.finish_reason(sequence.end.reason)),
        stop_reason: shape.quirks.stop_reason(),
        text: echo.text.clone() + &sequence.end.text,
    }
}

/// One request per prompt. `infills`: the model has a template for suffixes.
fn lower(
    body: CompletionRequest,
    infills: bool,
    settings: &Settings,
) -> Result<(Vec<Request>, Shape), Refusal> {
    if body.prompt.is_empty() {
        // TGI finds it while it reads the body, so it is told as what is no request.
        return Err(BodyError::data(NO_PROMPTS).into());
    }
    if body.suffix.is_some() && !infills {
        return Err(Refusal::Invalid {
            message: "Suffix is not supported and can be achieved by preprocessing the prompt.".to_owned(),
            param: "suffix",
            error_type: "suffix not supported",
        });
    }
    let prompts = prompts(body.prompt, body.suffix)?;
    let limit = settings.max_client_batch_size;
    if prompts.len() > limit {
        return Err(Refusal::Invalid {
            message: format!("Number of prompts exceeds the maximum allowed batch size of {limit}"),
            param: "prompt",
            error_type: "batch size exceeded",
        });
    }
    let shape = Shape::new(&body.common, body.logprobs.is_some(), settings);
    let default = body.common.own_max_tokens.or(settings.default_max_new_tokens.map(|_| MAX_TOKENS));
    let max_new_tokens = MaxNewTokens::new(body.common.max_tokens, default);
    let mut parameters = parameters(&body.common, max_new_tokens, shape.quirks)?;
    parameters.choices = best_of(parameters.choices, body.best_of, shape.stream)?;
    parameters.constraint = constraints::completion(&body.common)?;
    parameters.top_n_tokens = body.logprobs.unwrap_or(0);
    parameters.prompt_logprobs = body.echo.unwrap_or(false) && shape.logprobs && !shape.quirks.plain_logprobs;
    let text = shape.quirks.text(false);
    let requests = prompts.into_iter().map(|prompt| request(prompt, parameters.clone(), text, settings));
    Ok((requests.collect(), shape))
}

fn best_of(n: usize, best_of: Option<usize>, stream: bool) -> Result<usize, ServiceError> {
    match best_of {
        None => Ok(n),
        Some(given) if given < n => Err(field("best_of", "must be at least `n`")),
        Some(given) if given > n && stream => Err(ValidationError::BestOfStream.into()),
        Some(given) => Ok(given),
    }
}

fn prompts(input: PromptInput, suffix: Option<String>) -> Result<Vec<Prompt>, ServiceError> {
    let prompt = |text| match &suffix {
        Some(suffix) => Prompt::Infill { text, suffix: suffix.clone() },
        None => Prompt::Text(text),
    };
    match input {
        PromptInput::Text(text) => Ok(vec![prompt(text)]),
        PromptInput::Texts(texts) => Ok(texts.into_iter().map(prompt).collect()),
        PromptInput::Tokens(_) | PromptInput::TokenLists(_) if suffix.is_some() => {
            Err(field("suffix", "needs a prompt of text"))
        }
        PromptInput::Tokens(tokens) => Ok(vec![Prompt::Tokens(tokens)]),
        PromptInput::TokenLists(lists) => Ok(lists.into_iter().map(Prompt::Tokens).collect()),
    }
}
