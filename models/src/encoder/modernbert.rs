//! ModernBERT: norms first, rotary positions, gated feed-forward, windows in two of three layers.

use super::base::{self, Defaults, Keys, Names};
use super::spec::{EncoderLayer, EncoderSpec, Pooling};
use crate::arch::base::{MAX_LAYERS, MAX_POSITIONS};
use crate::config::Config;
use crate::{ModelError, RopeScaling, RopeSpec, TensorSource};

const WORDS: &str = "embeddings.tok_embeddings.weight";
const KEYS: Keys = Keys {
    hidden: "hidden_size",
    intermediate: "intermediate_size",
    heads: "num_attention_heads",
    layers: "num_hidden_layers",
    positions: "max_position_embeddings",
    activation: "hidden_activation",
    norm_eps: "norm_eps",
};
const DEFAULTS: Defaults = Defaults { max_positions: 8192, norm_eps: 1e-5, activation: "gelu" };
/// Indices of the two rotary tables.
const GLOBAL: usize = 0;
const LOCAL: usize = 1;

pub(super) fn read(config: &Config, tensors: &dyn TensorSource) -> Result<EncoderSpec, ModelError> {
    let names = Names::find(tensors, &["", "model."], WORDS);
    let norm = names.norm_without_bias("embeddings.norm");
    let mut spec = base::read(config, &KEYS, &DEFAULTS, names.tensor(WORDS), norm)?;
    spec.gated = true;
    spec.pre_norm = true;
    spec.tensors.final_norm = Some(names.norm_without_bias("final_norm"));
    spec.ropes = vec![
        rope(config, ("full_attention", "global_rope_theta", 160_000.0), spec.head_dim)?,
        rope(config, ("sliding_attention", "local_rope_theta", 10_000.0), spec.head_dim)?,
    ];
    // Half of it lies on either side.
    let window = config.optional_size("local_attention", MAX_POSITIONS)?.unwrap_or(128) / 2;
    let window = u32::try_from(window).unwrap_or(u32::MAX);
    let sliding = sliding(config, base::layer_count(config, &KEYS)?)?;
    let layer = |(index, sliding): (usize, bool)| {
        let name = |part: &str| format!("layers.{index}.{part}");
        EncoderLayer {
            window: sliding.then_some(window),
            rope: Some(if sliding { LOCAL } else { GLOBAL }),
            qkv: names.linear_or_bare(&[name("attn.Wqkv")]),
            output: names.linear_or_bare(&[name("attn.Wo")]),
            // The embeddings' norm serves the first block.
            attn_norm: (index > 0).then(|| names.norm_without_bias(&name("attn_norm"))),
            up: names.linear_or_bare(&[name("mlp.Wi")]),
            down: names.linear_or_bare(&[name("mlp.Wo")]),
            ffn_norm: names.norm_without_bias(&name("mlp_norm")),
        }
    };
    spec.layers = sliding.into_iter().enumerate().map(layer).collect();
    Ok(spec)
}

/// With the prediction head and one label on top.
pub(super) fn read_classifier(
    config: &Config,
    tensors: &dyn TensorSource,
) -> Result<EncoderSpec, ModelError> {
    const POOLING: &str = "classifier_pooling";
    let mut spec = read(config, tensors)?;
    let activation = base::activation(config, "classifier_activation", "gelu")?;
    let mut classifier = base::classifier(config, tensors, ("head.dense", "classifier"), activation)?;
    classifier.norm = Some(Names::find(tensors, &[], "").norm_without_bias("head.norm"));
    classifier.pooling = match config.optional_text(POOLING)?.unwrap_or("cls") {
        "cls" => Pooling::Cls,
        "mean" => Pooling::Mean,
        other => return Err(config.error(POOLING, format!("'{other}' is not supported"))),
    };
    spec.classifier = Some(classifier);
    Ok(spec)
}

fn rope(
    config: &Config,
    (kind, key, default): (&str, &str, f64),
    rotary_dim: usize,
) -> Result<RopeSpec, ModelError> {
    let mut base = config.optional_positive(key)?;
    if let Some(own) = match config.object("rope_parameters")? {
        Some(parameters) => parameters.object(kind)?,
        None => None,
    } {
        if !matches!(own.optional_text("rope_type")?, None | Some("default")) {
            return Err(own.error("rope_type", "is not supported, only 'default'"));
        }
        base = own.optional_positive("rope_theta")?.or(base);
    }
    if !rotary_dim.is_multiple_of(2) {
        return Err(config.error("hidden_size", format!("makes heads of {rotary_dim}, which is odd")));
    }
    Ok(RopeSpec { rotary_dim, base: base.unwrap_or(default), scaling: RopeScaling::None })
}

/// Which layers have a window: `layer_types` where present, else all but every third.
fn sliding(config: &Config, layers: usize) -> Result<Vec<bool>, ModelError> {
    let every = config.optional_size("global_attn_every_n_layers", MAX_LAYERS)?.unwrap_or(3);
    crate::arch::base::sliding_layers(config, layers, |index| index % every != 0)
}
