//! A request answered in one piece.

use axum::http::HeaderMap;

use super::convert;
use super::types::{
    BestOfSequence, Details, GenerateRequest, GenerateResponse, Parameters, PrefillToken, Token,
};
use crate::api::collect::{Collected, Finished, collect};
use crate::api::headers::{compute_headers, figure_headers};
use crate::api::{AppState, unavailable};
use crate::service::{Generation, ServiceError, ValidationError};

/// What of the result the client asked to see.
struct Wanted {
    details: bool,
    best_of: bool,
    /// Put before the generated text.
    prefix: String,
}

impl Wanted {
    fn of(parameters: &Parameters, inputs: &str) -> Self {
        Self {
            details: parameters.details || parameters.decoder_input_details,
            best_of: parameters.best_of.unwrap_or(1) > 1,
            prefix: prefix(parameters, inputs),
        }
    }
}

/// What is put before the generated text: the prompt, under `return_full_text`.
pub(super) fn prefix(parameters: &Parameters, inputs: &str) -> String {
    if parameters.return_full_text == Some(true) { inputs.to_owned() } else { String::new() }
}

/// The state of the model whose adapter a request names, and the request with the adapter's own name.
///
/// # Errors
/// When the model cannot be loaded now.
pub(super) async fn serving(
    state: &AppState,
    mut body: GenerateRequest,
) -> Result<(AppState, GenerateRequest), ServiceError> {
    let adapter = &mut body.parameters.adapter_id;
    let own = state.with_adapter(adapter.as_deref()).await.map_err(|error| {
        let absent = || ValidationError::Adapter(adapter.clone().unwrap_or_default()).into();
        let error = unavailable(&error).unwrap_or_else(absent);
        state.service.refuse(&error);
        error
    })?;
    if own.lease.adapter.is_some() {
        adapter.clone_from(&own.lease.adapter);
    }
    Ok((own, body))
}

/// Runs a request; its answer, and the headers that tell its figures.
pub(super) async fn generate(
    state: &AppState,
    body: GenerateRequest,
) -> Result<(HeaderMap, GenerateResponse), ServiceError> {
    let (state, body) = serving(state, body).await?;
    let refuse = |error: &ServiceError| state.service.refuse(error);
    let wanted = Wanted::of(&body.parameters, &body.inputs);
    let mut headers = compute_headers(&state.settings, body.inputs.chars().count());
    let mut request = convert::request(body, &state.settings).inspect_err(refuse)?;
    request.tenant = state.tenant;
    request.parameters.prompt_logprobs &= state.settings.enable_prefill_logprobs;
    let checked = state.service.validator.check_best_of(&request.parameters).map_err(ServiceError::from);
    checked.inspect_err(refuse)?;
    let account = state.service.admit_one()?;
    let mut generation = state.service.generate(request, account).await?;
    let collected = collect(&mut generation).await?;
    figure_headers(&mut headers, &generation);
    Ok((headers, response(&state, wanted, collected, &generation)))
}

/// The best sequence; the others go into `best_of_sequences`.
fn response(
    state: &AppState,
    wanted: Wanted,
    mut collected: Collected,
    generation: &Generation,
) -> GenerateResponse {
    let Some(winner) = collected.take_best() else {
        return GenerateResponse { generated_text: wanted.prefix, details: None, schema_check: None };
    };
    let seed = generation.facts.seed;
    let checks = generation.facts.checks.as_ref();
    let schema_check = checks.and_then(|checks| checks.content(&winner.end.text));
    let generated_text = wanted.prefix.clone() + &winner.end.text;
    let details = wanted.details.then(|| {
        let prefill = prefill_tokens(state, generation, &collected.prompt);
        let other = |other: &Finished| BestOfSequence {
            generated_text: wanted.prefix.clone() + &other.end.text,
            finish_reason: convert::finish_reason(other.end.reason),
            generated_tokens: other.end.generated_tokens,
            seed,
            prefill: prefill.clone(),
            tokens: tokens(other),
            top_tokens: top_tokens(other),
        };
        let others = collected.sequences.iter().map(other).collect();
        Details {
            finish_reason: convert::finish_reason(winner.end.reason),
            generated_tokens: winner.end.generated_tokens,
            seed,
            tokens: tokens(&winner),
            top_tokens: top_tokens(&winner),
            best_of_sequences: wanted.best_of.then_some(others),
            prefill,
        }
    });
    GenerateResponse { generated_text, details, schema_check }
}

/// Text that was held back until the end belongs to the last token.
fn tokens(sequence: &Finished) -> Vec<Token> {
    let mut tokens: Vec<Token> = sequence.tokens.iter().map(convert::token).collect();
    if let Some(last) = tokens.last_mut() {
        last.text.push_str(&sequence.end.tail);
    }
    tokens
}

fn top_tokens(sequence: &Finished) -> Vec<Vec<Token>> {
    sequence.tokens.iter().map(convert::top_tokens).filter(|top| !top.is_empty()).collect()
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
