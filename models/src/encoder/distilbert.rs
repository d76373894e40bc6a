//! DistilBERT: BERT without token types, under names of its own.

use super::base::{self, Defaults, Keys, LayerNames, Names, plain_layer};
use super::spec::EncoderSpec;
use crate::config::Config;
use crate::{Activation, ModelError, TensorSource};

const WORDS: &str = "embeddings.word_embeddings.weight";
const KEYS: Keys = Keys {
    hidden: "dim",
    intermediate: "hidden_dim",
    heads: "n_heads",
    layers: "n_layers",
    positions: "max_position_embeddings",
    activation: "activation",
    // Fixed; no configuration has it.
    norm_eps: "layer_norm_eps",
};
const DEFAULTS: Defaults = Defaults { max_positions: 512, norm_eps: 1e-12, activation: "gelu" };

pub(super) fn read(config: &Config, tensors: &dyn TensorSource) -> Result<EncoderSpec, ModelError> {
    let names = Names::find(tensors, &["", "distilbert."], WORDS);
    let norm = names.norm("embeddings.LayerNorm");
    let mut spec = base::read(config, &KEYS, &DEFAULTS, names.tensor(WORDS), norm)?;
    spec.tensors.positions = Some(names.tensor("embeddings.position_embeddings.weight"));
    spec.layers = (0..base::layer_count(config, &KEYS)?)
        .map(|index| {
            let name = |part: &str| format!("transformer.layer.{index}.{part}");
            let layer = LayerNames {
                qkv: ["q_lin", "k_lin", "v_lin"].map(|part| name(&format!("attention.{part}"))).into(),
                output: name("attention.out_lin"),
                attn_norm: name("sa_layer_norm"),
                up: name("ffn.lin1"),
                down: name("ffn.lin2"),
                ffn_norm: name("output_layer_norm"),
            };
            plain_layer(&names, layer)
        })
        .collect();
    Ok(spec)
}

/// With one label on top.
pub(super) fn read_classifier(
    config: &Config,
    tensors: &dyn TensorSource,
) -> Result<EncoderSpec, ModelError> {
    let mut spec = read(config, tensors)?;
    spec.classifier =
        Some(base::classifier(config, tensors, ("pre_classifier", "classifier"), Activation::Relu)?);
    Ok(spec)
}
