use crate::{Activation, Backend, KernelError};

type Result<T> = std::result::Result<T, KernelError>;

/// The texts of one step, flat, as they cross to the device: `T` tokens of `S` sequences lie back to back, without
/// padding.
#[derive(Debug, Clone, Copy)]
pub struct PackedInputs<'a> {
    /// `[T]` token ids.
    pub ids: &'a [u32],
    /// `[T]` rows of the position table.
    pub positions: &'a [u32],
    /// `[T]` token types.
    pub types: &'a [u32],
    /// `[S + 1]` tokens of sequence `s` are `cu[s]..cu[s + 1]`; never empty for any `s`.
    pub cu: &'a [u32],
    /// One `(cos, sin)` pair per rotary table of the model, each `[T, rotary_dim / 2]`.
    pub rope: &'a [(&'a [f32], &'a [f32])],
}

/// What steps may ask for at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedLimits {
    pub tokens: usize,
    pub seqs: usize,
    /// Tokens of one sequence.
    pub seq_len: usize,
    pub head_dim: usize,
}

/// The tables that are summed for each token, `[rows, norm.weight.len()]` each.
#[derive(Debug)]
pub struct EmbeddingTables<'a, Buf> {
    pub words: &'a Buf,
    pub positions: Option<&'a Buf>,
    pub types: Option<&'a Buf>,
}

/// A LayerNorm over rows of `weight.len()` elements.
#[derive(Debug)]
pub struct LayerNorm<'a, Buf> {
    pub weight: &'a Buf,
    pub bias: Option<&'a Buf>,
    pub eps: f32,
}

/// A bias on attention scores by relative position: key `j` of query `i` in head `h` gets
/// `table[h * stride + center + j - i]`. A row must have a place for every distance, and fifteen more behind the last.
#[derive(Debug)]
pub struct RelativeBias<'a, Buf> {
    pub table: &'a Buf,
    pub stride: usize,
    pub center: usize,
}

/// Attention in which every token sees every other one of its sequence.
#[derive(Debug)]
pub struct BidirectionalParams<'a, Buf> {
    pub heads: usize,
    pub head_dim: usize,
    /// Multiplies `q · k`.
    pub scale: f32,
    /// A query at `i` sees keys `j` with `|i - j| <= window`.
    pub window: Option<u32>,
    pub bias: Option<RelativeBias<'a, Buf>>,
}

/// How the rows of a sequence become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolingKind {
    Mean,
    First,
    Last,
    /// The largest of each column.
    Max,
}

/// What an encoder needs of a device beside [`Backend`]. The same contract: out-parameters, shapes checked at entry,
/// nothing allocated, and a sequence's result is bit-identical whatever else is in the step.
pub trait EncoderBackend: Backend {
    /// One step's [`PackedInputs`] on the device.
    type Packed: Send;

    /// Room for steps within `limits`.
    fn packed(&mut self, limits: PackedLimits) -> Result<Self::Packed>;
    /// Brings one step's inputs to the device.
    fn pack(&mut self, packed: &mut Self::Packed, inputs: &PackedInputs<'_>) -> Result<()>;
    /// `out[t] = norm(words[ids[t]] + positions[positions[t]] + types[types[t]])`; `out` is `[T, hidden]`.
    fn embed_packed(
        &mut self,
        out: &mut Self::Buf,
        tables: &EmbeddingTables<'_, Self::Buf>,
        norm: &LayerNorm<'_, Self::Buf>,
        packed: &Self::Packed,
    ) -> Result<()>;
    /// `out = (x - mean(x)) / √(var(x) + eps) * weight + bias`; `out`, `x`: `[rows, cols]`.
    fn layer_norm(
        &mut self,
        out: &mut Self::Buf,
        x: &Self::Buf,
        norm: &LayerNorm<'_, Self::Buf>,
        rows: usize,
    ) -> Result<()>;
    /// `hidden = norm(hidden + delta)`, as [`EncoderBackend::layer_norm`].
    fn add_layer_norm(
        &mut self,
        hidden: &mut Self::Buf,
        delta: &Self::Buf,
        norm: &LayerNorm<'_, Self::Buf>,
        rows: usize,
    ) -> Result<()>;
    /// `out = act(x · wᵀ (+ bias))`, as [`Backend::linear`].
    fn linear_act(
        &mut self,
        out: &mut Self::Buf,
        x: &Self::Buf,
        w: &Self::Matrix,
        bias: Option<&Self::Buf>,
        act: Activation,
        rows: usize,
    ) -> Result<()>;
    /// Rotates the first `rotary_dim` elements of every query and key head (halves convention) with rotary table
    /// `rope`, in place; `qkv` is `[T, 3 * heads * head_dim]`.
    fn rotate(
        &mut self,
        qkv: &mut Self::Buf,
        packed: &Self::Packed,
        heads: usize,
        head_dim: usize,
        rope: usize,
    ) -> Result<()>;
    /// `out` `[T, heads * head_dim]`, `qkv` `[T, 3 * heads * head_dim]`: queries, keys, values.
    fn attend(
        &mut self,
        out: &mut Self::Buf,
        qkv: &Self::Buf,
        packed: &Self::Packed,
        params: &BidirectionalParams<'_, Self::Buf>,
    ) -> Result<()>;
    /// One row for each sequence: `x` is `[T, cols]`, `out` `[S, cols]`.
    fn pool(
        &mut self,
        out: &mut Self::Buf,
        x: &Self::Buf,
        packed: &Self::Packed,
        kind: PoolingKind,
        cols: usize,
    ) -> Result<()>;
}
