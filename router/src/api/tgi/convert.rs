//! TGI's request to the service's, and the service's events to TGI's tokens.

use weirgate_types::Frequency;

use super::types::{self, FinishReason, GenerateRequest, SimpleToken};
use crate::api::Settings;
use crate::service::{
    self, Field, MaxNewTokens, Parameters, Placed, Prompt, Request, ServiceError, StopReason, Tenant,
    TextOptions, tgi_grammar,
};

/// TGI keeps the stop string and shows special tokens token by token.
const TEXT: TextOptions = TextOptions { keep_stop: true, special_pieces: true };

/// The service's request.
pub(crate) fn request(body: GenerateRequest, settings: &Settings) -> Result<Request, ServiceError> {
    let p = body.parameters;
    let grammar = p.grammar.filter(|grammar| !grammar.is_null());
    let constraint = grammar.map(|grammar| tgi_grammar(&grammar, Field::Grammar)).transpose()?;
    let max_new_tokens = MaxNewTokens::new(p.max_new_tokens, settings.default_max_new_tokens);
    let parameters = Parameters {
        best_of: p.best_of,
        min_new_tokens: p.min_tokens.unwrap_or(0),
        ignore_eos: p.ignore_eos,
        do_sample: p.do_sample.unwrap_or(false),
        temperature: p.temperature,
        top_k: p.top_k,
        top_p: p.top_p,
        typical_p: p.typical_p,
        min_p: p.min_p,
        repetition_penalty: p.repetition_penalty,
        frequency_penalty: p.frequency_penalty.map(Frequency::Relative),
        seed: p.seed,
        watermark: p.watermark,
        stop: p.stop,
        top_n_tokens: p.top_n_tokens.unwrap_or(0),
        prompt_logprobs: p.decoder_input_details,
        constraint,
        adapter: p.adapter_id,
        ..Parameters::new(max_new_tokens)
    };
    Ok(Request {
        prompt: Prompt::Text(body.inputs),
        truncate: p.truncate,
        context: None,
        parameters,
        max_top_n_tokens: settings.max_top_n_tokens,
        max_stop_sequences: settings.max_stop_sequences,
        text: TEXT,
        marks: Vec::new(),
        tenant: Tenant::default(),
    })
}

pub(super) fn token(token: &service::Token) -> types::Token {
    types::Token { id: token.id, text: token.text.clone(), logprob: token.logprob, special: token.special }
}

pub(super) fn top_tokens(token: &service::Token) -> Vec<types::Token> {
    let convert = |top: &service::TopToken| types::Token {
        id: top.id,
        text: top.text.clone(),
        logprob: top.logprob,
        special: top.special,
    };
    token.top.iter().map(convert).collect()
}

/// Tokens of `text` with the part of it that each stands for.
pub(crate) fn simple_tokens(placed: &[Placed], text: &str) -> Vec<SimpleToken> {
    let part = |start, stop| text.as_bytes().get(start..stop).unwrap_or_default();
    let token = |token: &Placed| SimpleToken {
        id: token.id,
        text: String::from_utf8_lossy(part(token.start, token.stop)).into_owned(),
        start: token.start,
        stop: token.stop,
    };
    placed.iter().map(token).collect()
}

pub(super) fn finish_reason(reason: StopReason) -> FinishReason {
    match reason {
        StopReason::Length => FinishReason::Length,
        StopReason::EndOfSequence => FinishReason::EosToken,
        StopReason::StopString => FinishReason::StopSequence,
    }
}
