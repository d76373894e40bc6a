use std::sync::Arc;
use std::time::Instant;

/// An index into the model's vocabulary.
pub type TokenId = u32;

/// Names one request for its whole life; unique within the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names a loaded adapter of one engine; never given out twice within the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AdapterId(pub u64);

/// One prompt to be continued `n` times.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    pub id: RequestId,
    /// The prompt, at least one token, each below the vocabulary size (the engine checks both).
    pub prompt: Arc<[TokenId]>,
    /// How many sequences to generate from the prompt (at least 1). They share the prompt's KV blocks.
    pub n: u32,
    pub sampling: SamplingParams,
    pub stop: StopRules,
    pub logprobs: Logprobs,
    /// Lower runs first; equal priorities run first come, first served.
    pub priority: i32,
    /// When set, the request ends with [`crate::Finish::Deadline`] at the first step after this moment.
    pub deadline: Option<Instant>,
    /// What happens when the sequence is as long as its context; `None`: it may not become longer than the model and the
    /// KV cache allow, which is checked before it starts.
    pub shift: Option<ContextShift>,
    /// The tenant: requests share cached prefixes only with requests of the same salt.
    pub cache_salt: u64,
    /// The adapter to compute with; `None`: the model alone. They share no cached prefixes.
    pub adapter: Option<AdapterId>,
}

/// A sequence that reaches `limit` tokens keeps its first `keep` ones, loses the older half of the others, and goes on
/// (llama.cpp's context shift, by recomputing what is left).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextShift {
    /// At most what the model and the KV cache allow, and more than the prompt has.
    pub limit: u32,
    /// At least two below the limit.
    pub keep: u32,
}

/// How the next token is chosen from the (processed) distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// The most likely token; ties go to the lowest id.
    Greedy,
    /// A draw. Sequence `i` of a request draws from a generator that is a pure function of `(seed, i, position)`,
    /// so it depends on nothing else in the batch and survives preemption.
    Random { seed: u64 },
}

/// Which tokens a frequency penalty counts, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Frequency {
    /// OpenAI: `logit -= penalty * count`, over generated tokens.
    Count(f32),
    /// TGI: `logit -= penalty * count / length`, over prompt and generated tokens.
    Relative(f32),
}

/// Kirchenbauer et al., "A Watermark for Large Language Models" (arXiv 2301.10226).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Watermark {
    /// Share of the vocabulary on the green list, in (0, 1).
    pub gamma: f32,
    /// Added to the logits of green tokens.
    pub delta: f32,
}

/// Which filters come before which.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FilterOrder {
    /// TGI's: temperature, top-k, tail-free, top-p, typical-p, min-p.
    #[default]
    TemperatureFirst,
    /// llama.cpp's: top-k, tail-free, typical-p, top-p, min-p, temperature.
    TemperatureLast,
}

/// Mirostat (arXiv 2007.14966): the surprise of the tokens is kept near `tau` bits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mirostat {
    pub version: MirostatVersion,
    /// The goal, in bits; above 0.
    pub tau: f32,
    /// How fast it is approached.
    pub eta: f32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MirostatVersion {
    V1,
    V2,
}

/// Applied in this order: watermark, repetition, frequency, (presence, bias,) grammar, then temperature and filters as
/// [`FilterOrder`] says, or temperature and Mirostat. The values are validated by the API layer; the neutral value of each field switches it off.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    pub selection: Selection,
    /// Divides the logits; > 0; neutral 1.0.
    pub temperature: f32,
    /// Keep the `k` most likely tokens; neutral 0.
    pub top_k: u32,
    /// Keep the smallest set of likely tokens whose probability reaches `p`; neutral 1.0.
    pub top_p: f32,
    /// Locally typical sampling (arXiv 2202.00666); neutral 1.0.
    pub typical_p: f32,
    /// Keep tokens at least this fraction as likely as the best one; neutral 0.0.
    pub min_p: f32,
    /// Tail-free sampling; neutral 1.0.
    pub tfs_z: f32,
    pub order: FilterOrder,
    /// In place of all filters.
    pub mirostat: Option<Mirostat>,
    /// CTRL's penalty over prompt and generated tokens (arXiv 1909.05858); > 0; neutral 1.0.
    pub repetition_penalty: f32,
    pub frequency_penalty: Frequency,
    /// Subtracted once from every token generated before; neutral 0.0.
    pub presence_penalty: f32,
    /// `Some(n)`: the three penalties look at the last `n` tokens, prompt or not, and at no others (llama.cpp).
    pub penalty_window: Option<u32>,
    /// A token that no penalty changes.
    pub penalty_exempt: Option<TokenId>,
    /// Added to the logits of single tokens.
    pub logit_bias: Vec<(TokenId, f32)>,
    pub watermark: Option<Watermark>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            selection: Selection::Greedy,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            typical_p: 1.0,
            min_p: 0.0,
            tfs_z: 1.0,
            order: FilterOrder::TemperatureFirst,
            mirostat: None,
            repetition_penalty: 1.0,
            frequency_penalty: Frequency::Count(0.0),
            presence_penalty: 0.0,
            penalty_window: None,
            penalty_exempt: None,
            logit_bias: Vec::new(),
            watermark: None,
        }
    }
}

/// When a sequence ends, as far as token ids tell. Stop strings are text and belong to the router, which drops the
/// request's ticket when one matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopRules {
    /// At least 1. The limit is checked before the stop tokens, as in TGI.
    pub max_new_tokens: u32,
    /// Until this many tokens are generated, `stop_tokens` cannot be chosen.
    pub min_new_tokens: u32,
    /// The model's end-of-sequence ids; empty under `ignore_eos`.
    pub stop_tokens: Arc<[TokenId]>,
}

/// The log-probabilities a client wants to see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Logprobs {
    /// Report the `top_n` most likely tokens at each generated position.
    pub top_n: u32,
    /// Report the log-probability of every prompt token.
    pub prompt: bool,
}
