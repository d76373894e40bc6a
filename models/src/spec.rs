use crate::RopeSpec;

/// A decoder-only transformer, described by data. The engine's one decoder reads nothing else about a model.
///
/// Per layer: `x += post_attn(attn(norm(x)))`, `x += post_ffn(ffn(norm(x)))`, the post norms where present.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// Hugging Face's `architectures[0]`, for messages.
    pub architecture: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    /// Query heads.
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// `max_position_embeddings`: the longest sequence the checkpoint was made for.
    pub max_positions: usize,
    pub norm_eps: f32,
    /// Added to every RMSNorm weight at load (1.0 for Gemma, else 0.0).
    pub norm_offset: f32,
    /// Multiplies the embeddings (√hidden for Gemma, else 1.0).
    pub embedding_scale: f32,
    /// Multiplies `q · k`.
    pub attention_scale: f32,
    pub attention_softcap: Option<f32>,
    pub logit_softcap: Option<f32>,
    pub activation: Activation,
    /// The model's rotary tables; layers refer to them by index.
    pub ropes: Vec<RopeSpec>,
    pub layers: Vec<LayerSpec>,
    pub tensors: TensorNames,
}

/// What differs from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerSpec {
    /// Sliding window: a query at `i` sees keys `j` with `i - j < window`.
    pub window: Option<u32>,
    /// Index into [`ModelSpec::ropes`].
    pub rope: usize,
}

/// The non-linearity of a feed-forward block, or of a head on top of an encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    Silu,
    /// Exact, with erf.
    Gelu,
    GeluTanh,
    Relu,
    Tanh,
}

/// Where the weights are. An architecture is, besides numbers, this table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorNames {
    /// `[vocab, hidden]`.
    pub embedding: String,
    pub final_norm: String,
    /// `[vocab, hidden]`; `None` ties the head to the embedding.
    pub head: Option<String>,
    /// One entry per layer.
    pub layers: Vec<LayerTensors>,
}

/// One layer's tensor names. A list is stacked by rows in its order; a fused checkpoint lists one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerTensors {
    pub attn_norm: String,
    /// Query, key, value: `[(heads + 2 kv_heads) * head_dim, hidden]` stacked.
    pub qkv: Vec<String>,
    /// Empty without bias.
    pub qkv_bias: Vec<String>,
    /// Per-head RMSNorm of queries and keys, `[head_dim]` each.
    pub qk_norm: Option<(String, String)>,
    /// `[hidden, heads * head_dim]`.
    pub output: String,
    pub output_bias: Option<String>,
    pub post_attn_norm: Option<String>,
    pub ffn_norm: String,
    /// Gate then up: `[2 * intermediate, hidden]` stacked.
    pub gate_up: Vec<String>,
    /// Empty without bias.
    pub gate_up_bias: Vec<String>,
    /// `[hidden, intermediate]`.
    pub down: String,
    pub down_bias: Option<String>,
    pub post_ffn_norm: Option<String>,
}

impl TensorNames {
    /// Gives every tensor another name.
    pub(crate) fn rename(&mut self, name: impl Fn(&str) -> String) {
        let again = |old: &mut String| *old = name(old);
        [&mut self.embedding, &mut self.final_norm].into_iter().chain(&mut self.head).for_each(again);
        for layer in &mut self.layers {
            let LayerTensors { attn_norm, qkv, qkv_bias, qk_norm, output, output_bias, .. } = layer;
            [attn_norm, output].into_iter().chain(qkv).chain(qkv_bias).chain(output_bias).for_each(again);
            if let Some((q, k)) = qk_norm {
                [q, k].into_iter().for_each(again);
            }
            let LayerTensors { post_attn_norm, ffn_norm, gate_up, gate_up_bias, .. } = layer;
            [ffn_norm].into_iter().chain(post_attn_norm).chain(gate_up).chain(gate_up_bias).for_each(again);
            let LayerTensors { down, down_bias, post_ffn_norm, .. } = layer;
            [down].into_iter().chain(down_bias).chain(post_ffn_norm).for_each(again);
        }
    }
}
