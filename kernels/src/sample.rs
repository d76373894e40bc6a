//! What the sampling op takes and gives. The order of the steps: watermark, repetition, frequency, presence, bias, bans
//! and mask, temperature and filters in one of two orders ([`FilterOrder`]) or Mirostat in their place, then the choice.

/// Numeric sampling settings of one row; neutral values switch a step off (see `Default`).
#[derive(Debug, Clone, PartialEq)]
pub struct SampleParams {
    /// `None` takes the most likely token (lowest id on ties). As in TGI that choice knows no temperature, top-k,
    /// top-p, typical-p or min-p: these fields then change neither the token nor the log-probabilities.
    pub seed: Option<u64>,
    pub temperature: f32,
    pub top_k: u32,
    pub top_p: f32,
    pub typical_p: f32,
    pub min_p: f32,
    /// Tail-free sampling (Phillips 2019): likely tokens are kept up to where the second derivative of the sorted
    /// probabilities has given this share of its sum.
    pub tfs_z: f32,
    pub order: FilterOrder,
    /// In place of all filters.
    pub mirostat: Option<Mirostat>,
    pub repetition_penalty: f32,
    pub frequency_penalty: FrequencyPenalty,
    pub presence_penalty: f32,
    /// `Some(n)`: all three penalties look at the last `n` tokens of the history, prompt or not, and at no others.
    pub penalty_window: Option<u32>,
    /// A token that no penalty changes.
    pub penalty_exempt: Option<u32>,
    pub logit_bias: Vec<(u32, f32)>,
    /// `(gamma, delta)`; the green list is seeded by the last token of the history.
    pub watermark: Option<(f32, f32)>,
    /// How many of the most likely tokens to report.
    pub top_n: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FrequencyPenalty {
    /// `logit -= p * count` over the generated part of the history.
    Count(f32),
    /// `logit -= p * count / len(history)` over the whole history.
    Relative(f32),
}

/// What comes after what when a token is drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FilterOrder {
    /// TGI's and transformers': temperature, top-k, tail-free, top-p, typical-p, min-p.
    #[default]
    TemperatureFirst,
    /// llama.cpp's: top-k, tail-free, typical-p, top-p, min-p, temperature.
    TemperatureLast,
}

/// Mirostat (arXiv 2007.14966) after the temperature: tokens are cut so that the expected surprise is near
/// [`SampleRow::surprise`]. Whoever calls moves that towards its goal after every draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mirostat {
    /// The paper's: as many tokens as a Zipf distribution fitted to the 100 most likely ones needs.
    V1,
    /// Tokens that are no more surprising than that.
    V2,
}

impl Default for SampleParams {
    fn default() -> Self {
        Self {
            seed: None,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            typical_p: 1.0,
            min_p: 0.0,
            tfs_z: 1.0,
            order: FilterOrder::TemperatureFirst,
            mirostat: None,
            repetition_penalty: 1.0,
            frequency_penalty: FrequencyPenalty::Count(0.0),
            presence_penalty: 0.0,
            penalty_window: None,
            penalty_exempt: None,
            logit_bias: Vec::new(),
            watermark: None,
            top_n: 0,
        }
    }
}

impl SampleParams {
    /// Whether a draw depends on more of the history than its last token.
    pub fn needs_history(&self) -> bool {
        let (FrequencyPenalty::Count(frequency) | FrequencyPenalty::Relative(frequency)) =
            self.frequency_penalty;
        let penalized = self.repetition_penalty != 1.0 || frequency != 0.0 || self.presence_penalty != 0.0;
        penalized && self.penalty_window != Some(0)
    }
}

/// One row of logits to draw from.
#[derive(Debug, Clone, Copy)]
pub struct SampleRow<'a> {
    pub params: &'a SampleParams,
    /// Prompt then generated tokens; never empty. The last token suffices where [`SampleParams::needs_history`] says so.
    pub history: &'a [u32],
    /// `history[..prompt_len]` is the prompt, if the whole history is given.
    pub prompt_len: usize,
    /// Which draw this is: the uniform variate is a pure function of `(seed, draw)`.
    pub draw: u64,
    /// Mirostat's target μ in bits; of no effect without it.
    pub surprise: f32,
    /// Tokens that cannot be chosen (stop tokens below the minimum length).
    pub banned: &'a [u32],
    /// `[ceil(vocab / 32)]` bit `i % 32` of word `i / 32` says whether token `i` can be chosen; a token beyond the last
    /// word cannot. `None` allows all.
    pub mask: Option<&'a [u32]>,
}

impl SampleRow<'_> {
    /// Whether the bans and the mask leave this token.
    pub fn allows(&self, id: u32) -> bool {
        let masked =
            |words: &[u32]| words.get(id as usize / 32).is_none_or(|word| (word >> (id % 32)) & 1 == 0);
        !self.mask.is_some_and(masked) && !self.banned.contains(&id)
    }
}

/// The outcome of one row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sampled {
    pub token: u32,
    /// Log-probability after all steps, among the tokens that the filters left. `-inf` if the row had no finite
    /// maximum.
    pub logprob: f32,
    /// Most likely first, lower ids first among equals: `top_n` entries, or as many as have a probability above 0.
    pub top: Vec<(u32, f32)>,
}
