/// How positions become rotation angles, as read from the checkpoint (see [`Rope`] for the arithmetic).
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSpec {
    /// How many elements of each head rotate; even, at most `head_dim`.
    pub rotary_dim: usize,
    pub base: f64,
    pub scaling: RopeScaling,
}

/// The scalings of transformers' `ROPE_INIT_FUNCTIONS`.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    None,
    Linear { factor: f64 },
    /// NTK-aware; the base grows with the sequence length past `original_max`.
    Dynamic { factor: f64, original_max: usize },
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, original_max: usize },
    Yarn { factor: f64, beta_fast: f64, beta_slow: f64, original_max: usize, attention_factor: f64, truncate: bool },
    /// Phi-3: one table up to `original_max`, another beyond.
    LongRope { short: Vec<f64>, long: Vec<f64>, original_max: usize, attention_factor: f64 },
}

/// A rotary table ready for use: fills cosines and sines for any positions.
pub struct Rope;
