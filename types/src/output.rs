use std::time::Duration;

use crate::{RequestId, TokenId};

/// Everything one engine step produced, for all requests at once.
#[derive(Debug, Clone, Default)]
pub struct StepOutputs {
    pub outputs: Vec<SeqOutput>,
    pub stats: StepStats,
}

impl StepOutputs {
    /// How many tokens each sequence got that got any; more than one where guesses came true or a grammar left no choice.
    pub fn tokens_per_sequence(&self) -> impl Iterator<Item = usize> {
        let same = |a: &SeqOutput, b: &SeqOutput| (a.request, a.index) == (b.request, b.index);
        let tokens = |outputs: &[SeqOutput]| {
            outputs.iter().filter(|output| matches!(output.update, SeqUpdate::Token(_))).count()
        };
        self.outputs.chunk_by(same).map(tokens).filter(|&tokens| tokens > 0)
    }
}

/// What one step did and how the engine stands after it. A message without a step (a refusal, a cancellation while
/// idle) has `tokens() == 0`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepStats {
    /// Prompt tokens computed (recomputed ones after a preemption included).
    pub prefill_tokens: u32,
    /// Sequences that were decoding.
    pub decode_tokens: u32,
    /// Guessed tokens that were computed on top (speculation), and how many of them came true.
    pub draft_tokens: u32,
    pub accepted_tokens: u32,
    pub running: u32,
    pub waiting: u32,
    /// KV blocks held by live sequences, kept only for their cached prefix, and in all.
    pub used_blocks: u32,
    pub cached_blocks: u32,
    pub total_blocks: u32,
    /// Sequences preempted while this step was planned.
    pub preemptions: u32,
    /// Making the plan and the batch, as far as it was not done while the step before was computed.
    pub schedule_time: Duration,
    /// Launch to result.
    pub forward_time: Duration,
    /// Taking the result in: tokens appended, blocks published, sequences ended.
    pub commit_time: Duration,
    /// The step had no result; the engine ends after it.
    pub failed: bool,
}

impl StepStats {
    /// Tokens computed in this step.
    pub fn tokens(&self) -> u32 {
        self.prefill_tokens + self.decode_tokens + self.draft_tokens
    }
}

/// One thing that happened to sequence `index` of a request.
#[derive(Debug, Clone)]
pub struct SeqOutput {
    pub request: RequestId,
    /// Which of the request's `n` sequences.
    pub index: u32,
    pub update: SeqUpdate,
}

/// Of every sequence: one `Scheduled` (unless it ended while waiting), at most one `Prompt`, then `Token`s, then exactly one `Finished`.
/// A refused request has exactly one `Rejected` at index 0 and nothing else.
#[derive(Debug, Clone)]
pub enum SeqUpdate {
    /// The sequence left the queue; `cached_tokens` of its prompt were in the prefix cache.
    Scheduled {
        cached_tokens: u32,
    },
    /// Log-probabilities of the prompt's tokens, the first being `None` (nothing precedes it). Index 0 only.
    Prompt {
        logprobs: Vec<Option<f32>>,
    },
    Token(TokenOut),
    Finished {
        reason: Finish,
        usage: Usage,
    },
    Rejected(RejectReason),
}

/// One generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenOut {
    pub id: TokenId,
    /// Natural logarithm, taken after penalties and filters, as TGI reports it.
    pub logprob: f32,
    /// The most likely tokens of the same distribution, most likely first; as many as were asked for.
    pub top: Vec<(TokenId, f32)>,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Finish {
    /// `max_new_tokens` was reached.
    Length,
    /// A stop token was generated; it is the last token reported.
    StopToken,
    /// The ticket was dropped or cancelled.
    Cancelled,
    /// The request's deadline passed.
    Deadline,
    /// The request's grammar is complete, nothing can follow, and no stop token can be generated.
    GrammarEnd,
    /// The request's grammar met a dead end, exceeded its limits or failed.
    GrammarFailed,
    /// The engine failed; every request that was in flight ends this way.
    EngineFailed,
}

/// Why a request was never started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RejectReason {
    /// The engine's inbox is full.
    Overloaded,
    /// The prompt is empty.
    EmptyPrompt,
    /// A prompt token is not below the vocabulary size.
    TokenOutOfRange { token: TokenId, vocab: u32 },
    /// Prompt plus `max_new_tokens` can never fit: `needed > limit` tokens.
    TooLong { needed: u64, limit: u64 },
    /// A parameter the API layer should have refused; names the field, the value and the limit.
    InvalidParameter { field: &'static str, value: String, limit: String },
    /// The request's adapter is not loaded, or no longer.
    UnknownAdapter,
    /// The engine has stopped.
    EngineStopped,
}

/// Token counts of one sequence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: u32,
    /// Of those, how many were found in the prefix cache when the sequence was first scheduled.
    pub cached_tokens: u32,
    pub completion_tokens: u32,
}
