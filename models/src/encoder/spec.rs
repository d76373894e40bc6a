use crate::{Activation, RopeSpec};

/// A bidirectional transformer, described by data. The engine's one encoder reads nothing else about a model.
///
/// Embeddings (words, positions, token types) are summed and normalised. Per layer, where norms come first:
/// `x += attn(norm(x))`, `x += ffn(norm(x))`; else `x = norm(x + attn(x))`, `x = norm(x + ffn(x))`.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderSpec {
    /// Hugging Face's `architectures[0]`, for messages.
    pub architecture: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub heads: usize,
    pub head_dim: usize,
    /// The longest sequence, in tokens.
    pub max_tokens: usize,
    pub norm_eps: f32,
    /// Multiplies `q · k`.
    pub attention_scale: f32,
    pub activation: Activation,
    /// The feed-forward block multiplies its activation by a second projection.
    pub gated: bool,
    /// Norms come before the blocks, and one at the end.
    pub pre_norm: bool,
    /// Row of the position table that belongs to position 0.
    pub first_position: usize,
    /// Rows of the token-type table; token types from this on are read as 0.
    pub token_types: usize,
    /// A bias by relative position on every attention score, the same in all layers.
    pub relative_bias: Option<RelativeBiasSpec>,
    /// The model's rotary tables; layers refer to them by index.
    pub ropes: Vec<RopeSpec>,
    pub layers: Vec<EncoderLayer>,
    pub tensors: EncoderTensors,
    /// What a cross-encoder has on top.
    pub classifier: Option<Classifier>,
}

/// Buckets of relative positions, `[buckets, heads]`, as in T5, half of them for each direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelativeBiasSpec {
    pub tensor: String,
    pub buckets: usize,
}

/// The distance from which on all positions share the last bucket.
const MAX_DISTANCE: f32 = 128.0;

impl RelativeBiasSpec {
    /// The bucket of a key `distance` tokens after its query.
    pub fn bucket(&self, distance: isize) -> usize {
        let half = self.buckets / 2;
        let first = if distance > 0 { half } else { 0 };
        let (far, exact) = (distance.unsigned_abs(), half / 2);
        if far < exact {
            return first + far;
        }
        let exact_f = exact as f32;
        let steps = (far as f32 / exact_f).ln() / (MAX_DISTANCE / exact_f).ln() * (half - exact) as f32;
        first + (exact + steps as usize).min(half - 1)
    }
}

/// Weight and bias of a LayerNorm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormTensors {
    pub weight: String,
    pub bias: Option<String>,
}

/// A projection: matrices stacked by rows, with as many biases, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearTensors {
    pub weights: Vec<String>,
    pub biases: Vec<String>,
}

/// The tables and norms outside of layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncoderTensors {
    /// `[vocab, hidden]`.
    pub words: String,
    /// `[first_position + max_tokens or more, hidden]`.
    pub positions: Option<String>,
    /// `[token_types, hidden]`.
    pub types: Option<String>,
    pub norm: NormTensors,
    /// After the last layer, where norms come first.
    pub final_norm: Option<NormTensors>,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncoderLayer {
    /// A query at `i` sees keys `j` with `|i - j| <= window`.
    pub window: Option<u32>,
    /// Index into [`EncoderSpec::ropes`].
    pub rope: Option<usize>,
    /// `[3 * heads * head_dim, hidden]` stacked: query, key, value.
    pub qkv: LinearTensors,
    /// `[hidden, heads * head_dim]`.
    pub output: LinearTensors,
    /// `None`: the block reads its input as it is.
    pub attn_norm: Option<NormTensors>,
    /// `[intermediate, hidden]`, or twice that: what the activation is taken of, then what it is multiplied by.
    pub up: LinearTensors,
    /// `[hidden, intermediate]`.
    pub down: LinearTensors,
    pub ffn_norm: NormTensors,
}

/// How the tokens of a text become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    Mean,
    /// The first token's.
    Cls,
    /// The last token's.
    Last,
    /// The largest of each dimension.
    Max,
}

/// From a pair's pooled vector to its score: `output(norm(act(dense(x))))`.
#[derive(Debug, Clone, PartialEq)]
pub struct Classifier {
    pub pooling: Pooling,
    /// `[hidden, hidden]`.
    pub dense: LinearTensors,
    pub activation: Activation,
    pub norm: Option<NormTensors>,
    /// `[labels, hidden]`.
    pub output: LinearTensors,
    pub labels: usize,
    /// A score is the sigmoid of what comes out.
    pub sigmoid: bool,
}
