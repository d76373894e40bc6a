//! Nomic's BERT: norms last, rotary positions, gated feed-forward, hardly any biases. Checkpoints and configurations
//! come under the original names and under transformers'.

use super::base::{self, BERT_KEYS, Defaults, Keys, Names};
use super::spec::{EncoderLayer, EncoderSpec};
use crate::arch::base::{MAX_POSITIONS, MAX_WIDTH};
use crate::config::Config;
use crate::{ModelError, RopeScaling, RopeSpec, TensorSource};

const WORDS: &str = "embeddings.word_embeddings.weight";
const ORIGINAL_KEYS: Keys = Keys {
    hidden: "n_embd",
    intermediate: "n_inner",
    heads: "n_head",
    layers: "n_layer",
    positions: "n_positions",
    activation: "activation_function",
    norm_eps: "layer_norm_epsilon",
};
/// Tokens of the longest text that was trained on, where the configuration does not say.
const TRAINED_POSITIONS: usize = 2048;
const DEFAULTS: Defaults = Defaults { max_positions: TRAINED_POSITIONS, norm_eps: 1e-12, activation: "silu" };

pub(super) fn read(config: &Config, tensors: &dyn TensorSource) -> Result<EncoderSpec, ModelError> {
    refuse_variants(config)?;
    let names = Names::find(tensors, &["", "bert.", "nomic_bert."], WORDS);
    let original = names.contains("emb_ln.weight");
    let keys = if config.value("n_embd").is_some() { &ORIGINAL_KEYS } else { &BERT_KEYS };
    let norm = names.norm(if original { "emb_ln" } else { "embeddings.LayerNorm" });
    let mut spec = base::read(config, keys, &DEFAULTS, names.tensor(WORDS), norm)?;
    spec.gated = true;
    // Dynamic scaling turns by other angles only past what was trained, so up to there it is not needed.
    if config.optional_positive("rotary_scaling_factor")?.is_some() {
        let trained = config.optional_size("max_trained_positions", MAX_POSITIONS)?;
        spec.max_tokens = spec.max_tokens.min(trained.unwrap_or(TRAINED_POSITIONS));
    }
    spec.token_types = config.optional_size("type_vocab_size", MAX_WIDTH)?.unwrap_or(2);
    spec.tensors.types = Some(names.tensor("embeddings.token_type_embeddings.weight"));
    spec.ropes = vec![rope(config, spec.head_dim)?];
    let layers = base::layer_count(config, keys)?;
    let layer = if original { original_layer } else { transformers_layer };
    spec.layers = (0..layers).map(|index| layer(&names, index)).collect();
    Ok(spec)
}

/// # Errors
/// What the family's configuration can ask for and none of its published models does.
fn refuse_variants(config: &Config) -> Result<(), ModelError> {
    for (key, expected) in [
        ("prenorm", false),
        ("rotary_emb_interleaved", false),
        ("use_rms_norm", false),
        ("parallel_block", false),
        ("causal", false),
    ] {
        if config.flag(key, expected)? != expected {
            return Err(config.error(key, format!("is {}, only {expected} is supported", !expected)));
        }
    }
    for (key, expected) in [("rotary_emb_fraction", 1.0)] {
        if config.optional_number(key)?.unwrap_or(expected) != expected {
            return Err(config.error(key, format!("is not supported, only {expected}")));
        }
    }
    if let Some(experts) = config.optional_number("num_experts")?
        && experts > 0.0
    {
        return Err(config.error("num_experts", "mixtures of experts are not supported"));
    }
    Ok(())
}

fn rope(config: &Config, rotary_dim: usize) -> Result<RopeSpec, ModelError> {
    let mut base = config.optional_positive("rotary_emb_base")?;
    if let Some(own) = config.object("rope_parameters")? {
        if !matches!(own.optional_text("rope_type")?, None | Some("default")) {
            return Err(own.error("rope_type", "is not supported, only 'default'"));
        }
        base = own.optional_positive("rope_theta")?.or(base);
    }
    if !rotary_dim.is_multiple_of(2) {
        return Err(config.error("n_embd", format!("makes heads of {rotary_dim}, which is odd")));
    }
    Ok(RopeSpec { rotary_dim, base: base.unwrap_or(1000.0), scaling: RopeScaling::None })
}

fn original_layer(names: &Names<'_>, index: usize) -> EncoderLayer {
    let name = |part: &str| format!("encoder.layers.{index}.{part}");
    EncoderLayer {
        window: None,
        rope: Some(0),
        qkv: names.linear_or_bare(&[name("attn.Wqkv")]),
        output: names.linear_or_bare(&[name("attn.out_proj")]),
        attn_norm: Some(names.norm(&name("norm1"))),
        up: names.linear_or_bare(&[name("mlp.fc12"), name("mlp.fc11")]),
        down: names.linear_or_bare(&[name("mlp.fc2")]),
        ffn_norm: names.norm(&name("norm2")),
    }
}

fn transformers_layer(names: &Names<'_>, index: usize) -> EncoderLayer {
    let name = |part: &str| format!("layers.{index}.{part}");
    EncoderLayer {
        window: None,
        rope: Some(0),
        qkv: names
            .linear_or_bare(&["q_proj", "k_proj", "v_proj"].map(|part| name(&format!("self_attn.{part}")))),
        output: names.linear_or_bare(&[name("self_attn.o_proj")]),
        attn_norm: Some(names.norm(&name("post_attention_layernorm"))),
        up: names.linear_or_bare(&[name("mlp.gate_proj"), name("mlp.up_proj")]),
        down: names.linear_or_bare(&[name("mlp.down_proj")]),
        ffn_norm: names.norm(&name("post_mlp_layernorm")),
    }
}
