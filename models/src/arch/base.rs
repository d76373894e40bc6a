//! What the families share: sizes, activation, windows, and the tensor names of a Llama-like layer.

use crate::config::Config;
use crate::{Activation, LayerSpec, LayerTensors, ModelError, ModelSpec, RopeSpec, TensorNames};

/// Bounds on what a configuration may ask for: far above any published model, low enough that every product of two
/// of them fits in `usize`.
pub(crate) const MAX_LAYERS: usize = 1 << 10;
pub(crate) const MAX_HEADS: usize = 1 << 12;
const MAX_HEAD_DIM: usize = 1 << 12;
pub(crate) const MAX_WIDTH: usize = 1 << 20;
pub(crate) const MAX_VOCAB: usize = 1 << 24;
pub(crate) const MAX_POSITIONS: usize = 1 << 28;

/// A family's values for keys that its configurations may leave out.
pub(super) struct Defaults {
    pub max_positions: usize,
    pub norm_eps: f64,
    pub tied: bool,
    /// `None`: `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    /// The key of the activation's name, and the name.
    pub activation: (&'static str, &'static str),
}

pub(super) const LLAMA_LIKE: Defaults = Defaults {
    max_positions: 2048,
    norm_eps: 1e-6,
    tied: false,
    head_dim: None,
    activation: ("hidden_act", "silu"),
};

/// A pre-norm decoder with separate projections, no biases, no windows, no rotary tables yet.
pub(super) fn read(config: &Config, defaults: &Defaults) -> Result<ModelSpec, ModelError> {
    let hidden_size = config.size("hidden_size", MAX_WIDTH)?;
    let heads = config.size("num_attention_heads", MAX_HEADS)?;
    let kv_heads = config.optional_size("num_key_value_heads", MAX_HEADS)?.unwrap_or(heads);
    if heads % kv_heads != 0 {
        return Err(config.error(
            "num_key_value_heads",
            format!("is {kv_heads}, which does not divide num_attention_heads = {heads}"),
        ));
    }
    let head_dim = read_head_dim(config, defaults, hidden_size, heads)?;
    let layers = config.size("num_hidden_layers", MAX_LAYERS)?;
    let norm_eps = config.optional_positive("rms_norm_eps")?.unwrap_or(defaults.norm_eps);
    let tied = config.flag("tie_word_embeddings", defaults.tied)?;
    Ok(ModelSpec {
        architecture: String::new(),
        vocab_size: config.size("vocab_size", MAX_VOCAB)?,
        hidden_size,
        intermediate_size: config.size("intermediate_size", MAX_WIDTH)?,
        heads,
        kv_heads,
        head_dim,
        max_positions: config
            .optional_size("max_position_embeddings", MAX_POSITIONS)?
            .unwrap_or(defaults.max_positions),
        norm_eps: norm_eps as f32,
        norm_offset: 0.0,
        embedding_scale: 1.0,
        attention_scale: (head_dim as f64).powf(-0.5) as f32,
        attention_softcap: None,
        logit_softcap: None,
        activation: read_activation(config, defaults.activation)?,
        ropes: Vec::new(),
        layers: vec![LayerSpec { window: None, rope: 0 }; layers],
        tensors: TensorNames {
            embedding: "model.embed_tokens.weight".into(),
            final_norm: "model.norm.weight".into(),
            head: (!tied).then(|| "lm_head.weight".into()),
            layers: (0..layers).map(layer_names).collect(),
        },
    })
}

fn read_head_dim(
    config: &Config,
    defaults: &Defaults,
    hidden_size: usize,
    heads: usize,
) -> Result<usize, ModelError> {
    let head_dim = match config.optional_size("head_dim", MAX_HEAD_DIM)?.or(defaults.head_dim) {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            return Err(config.error(
                "hidden_size",
                format!("is {hidden_size}, not a multiple of num_attention_heads = {heads}, and there is no head_dim"),
            ));
        }
    };
    if head_dim % 2 != 0 || head_dim > MAX_HEAD_DIM {
        return Err(
            config.error("head_dim", format!("is {head_dim}, expected an even number up to {MAX_HEAD_DIM}"))
        );
    }
    Ok(head_dim)
}

fn read_activation(config: &Config, (key, default): (&str, &str)) -> Result<Activation, ModelError> {
    match config.optional_text(key)?.unwrap_or(default) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu" => Ok(Activation::Gelu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        other => {
            Err(config
                .error(key, format!("'{other}' is not supported; silu, gelu and gelu_pytorch_tanh are")))
        }
    }
}

/// The names Llama gave to a layer's tensors.
fn layer_names(layer: usize) -> LayerTensors {
    let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
    LayerTensors {
        attn_norm: name("input_layernorm"),
        qkv: vec![name("self_attn.q_proj"), name("self_attn.k_proj"), name("self_attn.v_proj")],
        qkv_bias: Vec::new(),
        qk_norm: None,
        output: name("self_attn.o_proj"),
        output_bias: None,
        post_attn_norm: None,
        ffn_norm: name("post_attention_layernorm"),
        gate_up: vec![name("mlp.gate_proj"), name("mlp.up_proj")],
        gate_up_bias: Vec::new(),
        down: name("mlp.down_proj"),
        down_bias: None,
        post_ffn_norm: None,
    }
}

/// The bias that belongs to weight `name`.
fn bias_of(name: &str) -> String {
    format!("{}bias", name.strip_suffix("weight").unwrap_or(name))
}

/// Names the query, key and value biases of every layer.
pub(super) fn add_qkv_bias(spec: &mut ModelSpec) {
    for layer in &mut spec.tensors.layers {
        layer.qkv_bias = layer.qkv.iter().map(|name| bias_of(name)).collect();
    }
}

/// Names the output projection's bias of every layer.
pub(super) fn add_output_bias(spec: &mut ModelSpec) {
    for layer in &mut spec.tensors.layers {
        layer.output_bias = Some(bias_of(&layer.output));
    }
}

/// Names the feed-forward biases of every layer.
pub(super) fn add_mlp_bias(spec: &mut ModelSpec) {
    for layer in &mut spec.tensors.layers {
        layer.gate_up_bias = layer.gate_up.iter().map(|name| bias_of(name)).collect();
        layer.down_bias = Some(bias_of(&layer.down));
    }
}

/// Names the per-head norms of queries and keys of every layer.
pub(super) fn add_qk_norm(spec: &mut ModelSpec) {
    for (index, layer) in spec.tensors.layers.iter_mut().enumerate() {
        let name = |part: &str| format!("model.layers.{index}.self_attn.{part}.weight");
        layer.qk_norm = Some((name("q_norm"), name("k_norm")));
    }
}

/// Gemma's four norms per layer: around attention and around the feed-forward block.
pub(super) fn use_sandwich_norms(spec: &mut ModelSpec) {
    for (index, layer) in spec.tensors.layers.iter_mut().enumerate() {
        let name = |part: &str| format!("model.layers.{index}.{part}.weight");
        layer.post_attn_norm = Some(name("post_attention_layernorm"));
        layer.ffn_norm = name("pre_feedforward_layernorm");
        layer.post_ffn_norm = Some(name("post_feedforward_layernorm"));
    }
}

/// What Gemma does to weights, embeddings and attention scores alike in all its versions.
pub(super) fn apply_gemma_scales(spec: &mut ModelSpec, config: &Config) -> Result<(), ModelError> {
    if config.flag("use_bidirectional_attention", false)? {
        return Err(config.error("use_bidirectional_attention", "is true: an encoder, not a text generator"));
    }
    let scalar = config.optional_positive("query_pre_attn_scalar")?.unwrap_or(256.0);
    spec.norm_offset = 1.0;
    spec.embedding_scale = (spec.hidden_size as f64).sqrt() as f32;
    spec.attention_scale = scalar.powf(-0.5) as f32;
    use_sandwich_norms(spec);
    Ok(())
}

/// `sliding_window`, `default` where the key is absent.
pub(super) fn read_window(config: &Config, default: Option<u32>) -> Result<Option<u32>, ModelError> {
    let window = config.size_setting("sliding_window", MAX_POSITIONS)?;
    Ok(match default {
        Some(default) => window.or(default as usize),
        None => config.optional_size("sliding_window", MAX_POSITIONS)?,
    }
    .map(|window| window as u32))
}

/// Which layers slide: `layer_types` where present, else `by_index`.
pub(crate) fn sliding_layers(
    config: &Config,
    layers: usize,
    by_index: impl Fn(usize) -> bool,
) -> Result<Vec<bool>, ModelError> {
    let Some(types) = config.optional_texts("layer_types")? else {
        return Ok((0..layers).map(by_index).collect());
    };
    if types.len() != layers {
        return Err(config
            .error("layer_types", format!("has {} entries, num_hidden_layers is {layers}", types.len())));
    }
    types
        .into_iter()
        .map(|name| match name {
            "sliding_attention" => Ok(true),
            "full_attention" => Ok(false),
            other => Err(config.error("layer_types", format!("'{other}' is not supported"))),
        })
        .collect()
}

/// One rotary table and one window for all layers.
pub(super) fn set_uniform_layers(spec: &mut ModelSpec, rope: RopeSpec, window: Option<u32>) {
    spec.ropes = vec![rope];
    spec.layers.fill(LayerSpec { window, rope: 0 });
}
