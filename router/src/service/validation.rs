//! The rules a request must keep (reference/tgi.md §2b), and its lowering to what the engine takes.

use std::sync::Arc;

use weirgate_types::{
    Frequency, GenerateRequest, Logprobs, RequestId, SamplingParams, Selection, StopRules, TokenId, Watermark,
};

use super::error::ValidationError;
use super::request::{MaxNewTokens, Parameters, Prompt, Request};

/// TGI counts at most this much output when it checks the total (reference/tgi.md §2b, rule 15).
const COUNTED_NEW_TOKENS: u32 = 1024;
/// vLLM's cap after GHSA-4fv6-24cq-h5pw; a list beyond it serves no honest purpose.
const MAX_LOGIT_BIAS: usize = 1024;
/// Least cap on OpenAI's `n`, where `max_best_of` is lower.
const MAX_CHOICES: usize = 8;

/// Limits of this server, resolved, and what is fixed about its model.
#[derive(Debug, Clone)]
pub(crate) struct Validator {
    pub max_best_of: usize,
    pub max_input_tokens: usize,
    pub max_total_tokens: usize,
    pub vocab_size: u32,
    /// The model's end-of-sequence ids.
    pub eos_tokens: Arc<[TokenId]>,
    /// The token of a line feed.
    pub newline: Option<TokenId>,
    pub watermark: Watermark,
    pub disable_grammar_support: bool,
}

impl Validator {
    /// Rules that concern a stream, checked before a place is taken.
    pub fn check_streaming(&self, parameters: &Parameters) -> Result<(), ValidationError> {
        if parameters.best_of.is_some_and(|n| n != 1) {
            return Err(ValidationError::BestOfStream);
        }
        if parameters.prompt_logprobs {
            return Err(ValidationError::PrefillDetailsStream);
        }
        Ok(())
    }

    /// Rules 20 and 21, checked before a place is taken.
    pub fn check_best_of(&self, parameters: &Parameters) -> Result<(), ValidationError> {
        let given = parameters.best_of.unwrap_or(1);
        if given <= 1 {
            return Ok(());
        }
        if self.max_best_of == 1 {
            return Err(ValidationError::BestOfDisabled);
        }
        if given > self.max_best_of {
            return Err(ValidationError::BestOf { limit: self.max_best_of, given });
        }
        Ok(())
    }

    /// Rules 1 to 13: all that can be said before tokenizing.
    pub fn check_parameters(&self, request: &Request) -> Result<(), ValidationError> {
        let p = &request.parameters;
        let best_of = p.best_of.unwrap_or(1);
        ensure(best_of <= 1 || p.sampling(), ValidationError::BestOfSampling)?;
        check_samplers(p)?;
        ensure(p.max_new_tokens != MaxNewTokens::Given(0), ValidationError::NegativeMaxNewTokens)?;
        let (limit, given) = (request.max_stop_sequences, p.stop.len());
        ensure(given <= limit, ValidationError::StopSequences { limit, given })?;
        ensure(best_of <= 1 || p.seed.is_none(), ValidationError::BestOfSeed)?;
        let (limit, given) = (request.max_top_n_tokens, p.top_n_tokens);
        ensure(given <= limit, ValidationError::TopNTokens { limit, given })?;
        ensure(
            !matches!(&request.prompt, Prompt::Text(text) if text.is_empty()),
            ValidationError::EmptyInput,
        )?;
        if let Some(given) = request.truncate {
            let limit = self.max_input_tokens;
            ensure(given > 0 && given <= limit, ValidationError::Truncate { limit, given })?;
        }
        self.check_additions(p)
    }

    /// Rules for what TGI does not have.
    fn check_additions(&self, p: &Parameters) -> Result<(), ValidationError> {
        if let Some(min_p) = p.min_p {
            check_range("min_p", min_p, 0.0, 1.0)?;
        }
        if let Some(penalty) = p.presence_penalty {
            check_range("presence_penalty", penalty, -2.0, 2.0)?;
        }
        let (limit, given) = (self.max_best_of.max(MAX_CHOICES), p.choices);
        if given == 0 || given > limit {
            return Err(range("n", 1, limit, given));
        }
        if let MaxNewTokens::Given(max) | MaxNewTokens::Default(max) = p.max_new_tokens
            && p.min_new_tokens > max
        {
            return Err(range("min_tokens", 0, max, p.min_new_tokens));
        }
        let (limit, given) = (MAX_LOGIT_BIAS, p.logit_bias.len());
        ensure(given <= limit, ValidationError::TooMany { field: "logit_bias", limit, given })?;
        for (token, bias) in &p.logit_bias {
            self.token("logit_bias", *token)?;
            check_range("logit_bias", *bias, -100.0, 100.0)?;
        }
        Ok(())
    }

    /// A token id as the client sent it.
    pub fn token(&self, field: &'static str, token: i64) -> Result<TokenId, ValidationError> {
        TokenId::try_from(token).ok().filter(|id| *id < self.vocab_size).ok_or(ValidationError::Token {
            field,
            token,
            vocab: self.vocab_size,
        })
    }

    /// Rules 15 to 17: what is known once the prompt has a length. Gives the number of tokens to generate.
    pub fn check_lengths(&self, parameters: &Parameters, input: usize) -> Result<u32, ValidationError> {
        ensure(input > 0, ValidationError::EmptyInput)?;
        let limit = self.max_total_tokens;
        let room = u32::try_from(limit.saturating_sub(input)).unwrap_or(u32::MAX);
        if let MaxNewTokens::Given(new) = parameters.max_new_tokens {
            let new = new.min(COUNTED_NEW_TOKENS);
            let fits = input as u64 + u64::from(new) <= limit as u64;
            ensure(fits, ValidationError::MaxTotalTokens { limit, input, new })?;
        }
        let limit = self.max_input_tokens;
        ensure(input <= limit && room > 0, ValidationError::InputLength { limit, given: input })?;
        self.check_grammar(parameters)?;
        Ok(match parameters.max_new_tokens {
            MaxNewTokens::Given(new) | MaxNewTokens::Default(new) => new.min(room),
            MaxNewTokens::Open => room,
        })
    }

    pub fn check_grammar(&self, parameters: &Parameters) -> Result<(), ValidationError> {
        let refused = self.disable_grammar_support && parameters.constraint.is_some();
        ensure(!refused, ValidationError::Grammar)
    }

    /// The engine's request, from parameters that passed the checks.
    pub fn lower(
        &self,
        id: RequestId,
        request: &Request,
        prompt: Arc<[TokenId]>,
        max_new_tokens: u32,
    ) -> GenerateRequest {
        let p = &request.parameters;
        let stop_tokens = if p.ignore_eos { Arc::default() } else { self.eos_tokens.clone() };
        GenerateRequest {
            id,
            prompt,
            n: u32::try_from(p.sequences()).unwrap_or(1),
            sampling: self.sampling(p),
            stop: StopRules {
                max_new_tokens,
                min_new_tokens: p.min_new_tokens.min(max_new_tokens),
                stop_tokens,
            },
            logprobs: Logprobs { top_n: p.top_n_tokens, prompt: p.prompt_logprobs },
            priority: 0,
            deadline: None,
            shift: None,
            cache_salt: request.tenant.0,
            adapter: None,
        }
    }

    fn sampling(&self, p: &Parameters) -> SamplingParams {
        let mut sampling = SamplingParams {
            repetition_penalty: p.repetition_penalty.unwrap_or(1.0),
            frequency_penalty: p.frequency_penalty.unwrap_or(Frequency::Count(0.0)),
            presence_penalty: p.presence_penalty.unwrap_or(0.0),
            penalty_window: p.penalty_window,
            penalty_exempt: self.newline.filter(|_| !p.penalize_newline),
            logit_bias: self.logit_bias(p),
            watermark: p.watermark.then_some(self.watermark),
            ..SamplingParams::default()
        };
        if p.sampling() {
            sampling.selection = Selection::Random { seed: p.seed.unwrap_or_else(super::random::seed) };
            sampling.temperature = p.temperature.unwrap_or(1.0);
            sampling.top_k = p.top_k.map_or(0, i32::unsigned_abs);
            sampling.top_p = p.top_p.unwrap_or(1.0);
            sampling.typical_p = p.typical_p.unwrap_or(1.0);
            sampling.min_p = p.min_p.unwrap_or(0.0);
            sampling.tfs_z = p.tfs_z.unwrap_or(1.0);
            sampling.order = p.order;
            sampling.mirostat = p.mirostat;
        }
        sampling
    }

    fn logit_bias(&self, p: &Parameters) -> Vec<(TokenId, f32)> {
        p.logit_bias
            .iter()
            .filter_map(|(token, bias)| Some((self.token("logit_bias", *token).ok()?, *bias)))
            .collect()
    }
}

/// Rules 2 to 7.
fn check_samplers(p: &Parameters) -> Result<(), ValidationError> {
    let positive = |value: Option<f32>| value.is_none_or(|v| v > 0.0 && v.is_finite());
    let inside = |value: Option<f32>| value.is_none_or(|v| v > 0.0 && v < 1.0);
    ensure(positive(p.temperature), ValidationError::Temperature)?;
    ensure(positive(p.repetition_penalty), ValidationError::RepetitionPenalty)?;
    let frequency = match p.frequency_penalty {
        Some(Frequency::Count(value) | Frequency::Relative(value)) => value,
        None => 0.0,
    };
    ensure((-2.0..=2.0).contains(&frequency), ValidationError::FrequencyPenalty)?;
    ensure(inside(p.top_p), ValidationError::TopP)?;
    ensure(inside(p.typical_p), ValidationError::TypicalP)?;
    ensure(p.top_k.is_none_or(|k| k > 0), ValidationError::TopK)
}

fn ensure(kept: bool, error: ValidationError) -> Result<(), ValidationError> {
    if kept { Ok(()) } else { Err(error) }
}

fn check_range(field: &'static str, given: f32, min: f32, max: f32) -> Result<(), ValidationError> {
    if (min..=max).contains(&given) {
        Ok(())
    } else {
        Err(range(field, format!("{min:?}"), format!("{max:?}"), given))
    }
}

fn range(
    field: &'static str,
    min: impl ToString,
    max: impl ToString,
    given: impl ToString,
) -> ValidationError {
    ValidationError::Range { field, min: min.to_string(), max: max.to_string(), given: given.to_string() }
}

#[cfg(test)]
mod tests;
