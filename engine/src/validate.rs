//! What the engine refuses before it queues anything.

use std::fmt::Display;

use weirgate_types::{GenerateRequest, RejectReason, SamplingParams};

use crate::ExecutorLimits;

/// Most sequences of one request.
const MAX_N: u32 = 128;

/// A request that can be served to its end; made only by [`ValidRequest::check`].
#[derive(Debug, Clone)]
pub struct ValidRequest(GenerateRequest);

impl ValidRequest {
    /// # Errors
    /// The [`RejectReason`] that applies.
    pub fn check(request: GenerateRequest, limits: &ExecutorLimits) -> Result<Self, RejectReason> {
        if request.prompt.is_empty() {
            return Err(RejectReason::EmptyPrompt);
        }
        let vocab = limits.vocab_size as u32;
        if let Some(&token) = request.prompt.iter().find(|&&token| token >= vocab) {
            return Err(RejectReason::TokenOutOfRange { token, vocab });
        }
        require(request.n >= 1 && request.n <= MAX_N, "n", request.n, "1..=128")?;
        let max_new_tokens = request.stop.max_new_tokens;
        require(max_new_tokens >= 1, "max_new_tokens", max_new_tokens, "at least 1")?;
        let limit = max_total_tokens(limits) as u64;
        let needed = match request.shift {
            Some(shift) => {
                let most = u64::from(shift.limit);
                require(most <= limit, "shift.limit", most, limit)?;
                let keep = u64::from(shift.keep);
                require(keep + 2 <= most, "shift.keep", keep, format_args!("two below {most}"))?;
                // One token has to fit behind the prompt.
                request.prompt.len() as u64 + 1 + limit - most
            }
            None => request.prompt.len() as u64 + u64::from(max_new_tokens),
        };
        if needed > limit {
            return Err(RejectReason::TooLong { needed, limit });
        }
        check_sampling(&request.sampling, vocab)?;
        Ok(Self(request))
    }

    pub fn id(&self) -> weirgate_types::RequestId {
        self.0.id
    }

    pub(crate) fn get(&self) -> &GenerateRequest {
        &self.0
    }
}

/// The longest sequence that fits the model and the pool.
pub(crate) fn max_total_tokens(limits: &ExecutorLimits) -> usize {
    limits.max_seq_len.min(limits.blocks * limits.block_size)
}

fn check_sampling(params: &SamplingParams, vocab: u32) -> Result<(), RejectReason> {
    let positive = |field, x: f32| require(x.is_finite() && x > 0.0, field, x, "finite, above 0");
    let share = |field, x: f32| require((0.0..=1.0).contains(&x), field, x, "0..=1");
    let finite = |field, x: f32| require(x.is_finite(), field, x, "finite");
    positive("temperature", params.temperature)?;
    positive("repetition_penalty", params.repetition_penalty)?;
    share("top_p", params.top_p)?;
    share("typical_p", params.typical_p)?;
    share("min_p", params.min_p)?;
    share("tfs_z", params.tfs_z)?;
    finite("presence_penalty", params.presence_penalty)?;
    match params.frequency_penalty {
        weirgate_types::Frequency::Count(x) | weirgate_types::Frequency::Relative(x) => {
            finite("frequency_penalty", x)?;
        }
    }
    for &(token, bias) in &params.logit_bias {
        require(token < vocab, "logit_bias", token, format_args!("token ids below {vocab}"))?;
        require(!bias.is_nan(), "logit_bias", bias, "a number")?;
    }
    if let Some(mirostat) = params.mirostat {
        positive("mirostat_tau", mirostat.tau)?;
        finite("mirostat_eta", mirostat.eta)?;
    }
    if let Some(watermark) = params.watermark {
        let gamma = watermark.gamma;
        require(gamma > 0.0 && gamma < 1.0, "watermark.gamma", gamma, "between 0 and 1")?;
        finite("watermark.delta", watermark.delta)?;
    }
    Ok(())
}

fn require(
    ok: bool,
    field: &'static str,
    value: impl Display,
    limit: impl Display,
) -> Result<(), RejectReason> {
    if ok {
        return Ok(());
    }
    Err(RejectReason::InvalidParameter { field, value: value.to_string(), limit: limit.to_string() })
}
