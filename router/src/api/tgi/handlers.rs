use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::convert;
use super::errors::ApiError;
use super::stream::{self, StreamOptions};
use super::types::{
    BestOfSequence, Details, ErrorResponse, GenerateRequest, GenerateResponse, Info, PrefillToken,
    SimpleToken, Token,
};
use crate::api::extract::Body;
use crate::api::headers::{compute_headers, figure_headers};
use crate::api::{AppState, Caller, Settings};
use crate::service::{Event, Generation, SequenceEnd, ServiceError};

/// What TGI's router calls itself; clients tell TGI by it.
const ROUTER: &str = "text-generation-router";

pub(super) async fn generate(Caller(state): Caller, body: Body<GenerateRequest>) -> Response {
    match body.0 {
        Ok(body) => generate_response(state, body)
            .await
            .map_or_else(IntoResponse::into_response, |(headers, body)| {
                (headers, Json(body)).into_response()
            }),
        Err(error) => error.into_response(),
    }
}

pub(super) async fn generate_stream(Caller(state): Caller, body: Body<GenerateRequest>) -> Response {
    match body.0 {
        Ok(body) => stream_response(state, body),
        Err(error) => error.into_response(),
    }
}

/// `/`: either of the two by `stream`, an array where it does not stream, and the full text by default.
pub(super) async fn compatible(Caller(state): Caller, body: Body<GenerateRequest>) -> Response {
    let mut body = match body.0 {
        Ok(body) => body,
        Err(error) => return error.into_response(),
    };
    // TGI's default where the hub calls the model a text-generation model or does not say.
    body.parameters.return_full_text.get_or_insert(true);
    if body.stream {
        return stream_response(state, body);
    }
    generate_response(state, body)
        .await
        .map_or_else(IntoResponse::into_response, |(headers, body)| (headers, Json([body])).into_response())
}

fn stream_response(state: AppState, body: GenerateRequest) -> Response {
    let prefix =
        if body.parameters.return_full_text == Some(true) { body.inputs.clone() } else { String::new() };
    let options = StreamOptions { details: body.parameters.details, prefix };
    let headers = compute_headers(body.inputs.chars().count());
    let request = convert::request(body, &state.settings);
    let checked = request.and_then(|mut request| {
        request.tenant = state.tenant;
        state.service.validator.check_streaming(&request.parameters)?;
        Ok(request)
    });
    let request = match checked {
        Ok(request) => request,
        Err(error) => {
            state.service.refuse(&error);
            return stream::refuse(error, headers);
        }
    };
    match state.service.admit_one() {
        Ok(account) => stream::respond(state, request, account, options, headers),
        // Before the stream begins a refusal can be told by a status, which load balancers understand.
        Err(error) => ApiError(error).into_response(),
    }
}

async fn generate_response(
    state: AppState,
    body: GenerateRequest,
) -> Result<(HeaderMap, GenerateResponse), ApiError> {
    let wanted = Wanted {
        details: body.parameters.details || body.parameters.decoder_input_details,
        best_of: body.parameters.best_of.unwrap_or(1) > 1,
        prefix: if body.parameters.return_full_text == Some(true) {
            body.inputs.clone()
        } else {
            String::new()
        },
    };
    let characters = body.inputs.chars().count();
    let mut request =
        convert::request(body, &state.settings).inspect_err(|error| state.service.refuse(error))?;
    request.tenant = state.tenant;
    request.parameters.prompt_logprobs &= state.settings.enable_prefill_logprobs;
    let checked = state.service.validator.check_best_of(&request.parameters).map_err(ServiceError::from);
    checked.inspect_err(|error| state.service.refuse(error))?;
    let account = state.service.admit_one()?;
    let mut generation = state.service.generate(request, account).await?;
    let (prefill, sequences) = collect(&state, &mut generation).await?;
    let mut headers = compute_headers(characters);
    figure_headers(&mut headers, &generation);
    Ok((headers, response(wanted, prefill, sequences, generation.facts.seed)))
}

/// What of the result the client asked to see.
struct Wanted {
    details: bool,
    best_of: bool,
    prefix: String,
}

/// One finished sequence.
struct Finished {
    end: SequenceEnd,
    tokens: Vec<Token>,
    top_tokens: Vec<Vec<Token>>,
}

impl Finished {
    fn mean_logprob(&self) -> f32 {
        self.tokens.iter().map(|token| token.logprob).sum::<f32>() / self.tokens.len().max(1) as f32
    }
}

/// Runs a request to its end.
async fn collect(
    state: &AppState,
    generation: &mut Generation,
) -> Result<(Vec<PrefillToken>, Vec<Finished>), ServiceError> {
    let mut prefill = Vec::new();
    let mut tokens: Vec<(Vec<Token>, Vec<Vec<Token>>)> = Vec::new();
    let mut finished = Vec::new();
    while let Some(event) = generation.next().await {
        match event? {
            Event::Prompt(logprobs) => prefill = prefill_tokens(state, generation, &logprobs),
            Event::Token(token) => {
                if tokens.len() <= token.index {
                    tokens.resize_with(token.index + 1, Default::default);
                }
                if let Some((own, top)) = tokens.get_mut(token.index) {
                    own.push(convert::token(&token));
                    let likely = convert::top_tokens(&token);
                    if !likely.is_empty() {
                        top.push(likely);
                    }
                }
            }
            Event::End(end) => {
                let (mut tokens, top_tokens) =
                    tokens.get_mut(end.index).map(std::mem::take).unwrap_or_default();
                if let Some(last) = tokens.last_mut() {
                    last.text.push_str(&end.tail);
                }
                finished.push(Finished { end, tokens, top_tokens });
            }
        }
    }
    Ok((prefill, finished))
}

fn prefill_tokens(state: &AppState, generation: &Generation, logprobs: &[Option<f32>]) -> Vec<PrefillToken> {
    let vocabulary = &state.service.vocabulary;
    let token = |(id, logprob): (&u32, &Option<f32>)| PrefillToken {
        id: *id,
        text: vocabulary.text(*id),
        logprob: *logprob,
    };
    generation.facts.prompt.iter().zip(logprobs).map(token).collect()
}

/// The best sequence by its mean log-probability; the others go into `best_of_sequences`.
fn response(
    wanted: Wanted,
    prefill: Vec<PrefillToken>,
    mut sequences: Vec<Finished>,
    seed: Option<u64>,
) -> GenerateResponse {
    sequences.sort_by_key(|sequence| sequence.end.index);
    let best = (0..sequences.len()).reduce(|best, at| {
        let score = |at: usize| sequences.get(at).map_or(f32::NEG_INFINITY, Finished::mean_logprob);
        if score(at) > score(best) { at } else { best }
    });
    let Some(best) = best else { return GenerateResponse { generated_text: wanted.prefix, details: None } };
    let winner = sequences.remove(best);
    let generated_text = wanted.prefix.clone() + &winner.end.text;
    let details = wanted.details.then(|| {
        let others =
            sequences.into_iter().map(|other| best_of_sequence(&wanted, &prefill, other, seed)).collect();
        Details {
            finish_reason: convert::finish_reason(winner.end.reason),
            generated_tokens: winner.end.generated_tokens,
            seed,
            tokens: winner.tokens,
            top_tokens: winner.top_tokens,
            best_of_sequences: wanted.best_of.then_some(others),
            prefill,
        }
    });
    GenerateResponse { generated_text, details }
}

fn best_of_sequence(
    wanted: &Wanted,
    prefill: &[PrefillToken],
    other: Finished,
    seed: Option<u64>,
) -> BestOfSequence {
    BestOfSequence {
        generated_text: wanted.prefix.clone() + &other.end.text,
        finish_reason: convert::finish_reason(other.end.reason),
        generated_tokens: other.end.generated_tokens,
        seed,
        prefill: prefill.to_vec(),
        tokens: other.tokens,
        top_tokens: other.top_tokens,
    }
}

pub(super) async fn tokenize(State(state): State<AppState>, body: Body<GenerateRequest>) -> Response {
    let inputs = match body.0 {
        Ok(body) => body.inputs,
        Err(error) => return error.into_response(),
    };
    let placed = match state.service.tokenize(inputs.clone()).await {
        Ok(placed) => placed,
        Err(error) => return ApiError(error).into_response(),
    };
    let text = |start, stop| {
        let bytes = inputs.as_bytes().get(start..stop).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    };
    let tokens: Vec<SimpleToken> = placed
        .into_iter()
        .map(|token| SimpleToken {
            id: token.id,
            text: text(token.start, token.stop),
            start: token.start,
            stop: token.stop,
        })
        .collect();
    Json(tokens).into_response()
}

pub(super) async fn health(State(state): State<AppState>) -> Response {
    match state.service.check_ready() {
        Ok(()) => StatusCode::OK.into_response(),
        Err(_) => {
            let body = ErrorResponse { error: "unhealthy".to_owned(), error_type: "healthcheck" };
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

/// The process answers; nothing more is asked of it.
pub(super) async fn live() -> StatusCode {
    StatusCode::OK
}

pub(super) async fn info(State(state): State<AppState>) -> Json<Info> {
    let Settings { model_id, model_sha, .. } = &*state.settings;
    Json(Info {
        model_id: model_id.clone(),
        model_sha: model_sha.clone(),
        model_pipeline_tag: None,
        max_concurrent_requests: state.settings.max_concurrent_requests,
        max_best_of: state.settings.max_best_of,
        max_stop_sequences: state.settings.max_stop_sequences,
        max_input_tokens: state.settings.max_input_tokens,
        max_total_tokens: state.settings.max_total_tokens,
        validation_workers: state.settings.validation_workers,
        max_client_batch_size: state.settings.max_client_batch_size,
        router: ROUTER,
        version: env!("CARGO_PKG_VERSION"),
        sha: None,
        docker_label: None,
    })
}

pub(super) async fn metrics(State(state): State<AppState>) -> Response {
    let text = state.service.metrics.render(&state.service.engine.stats());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
