//! MPNet: RoBERTa's positions, no token types, and a bias by relative position on every score.

use super::base::{self, BERT_KEYS, Defaults, LayerNames, Names, plain_layer};
use super::roberta::skip_padding;
use super::spec::{EncoderSpec, RelativeBiasSpec};
use crate::config::Config;
use crate::{Activation, ModelError, TensorSource};

const WORDS: &str = "embeddings.word_embeddings.weight";
const DEFAULTS: Defaults = Defaults { max_positions: 512, norm_eps: 1e-12, activation: "gelu" };
/// Buckets a configuration may ask for.
const MAX_BUCKETS: usize = 1 << 12;

pub(super) fn read(config: &Config, tensors: &dyn TensorSource) -> Result<EncoderSpec, ModelError> {
    const BUCKETS: &str = "relative_attention_num_buckets";
    let names = Names::find(tensors, &["", "mpnet."], WORDS);
    let norm = names.norm("embeddings.LayerNorm");
    let mut spec = base::read(config, &BERT_KEYS, &DEFAULTS, names.tensor(WORDS), norm)?;
    // The padding token is 1 whatever the configuration says.
    skip_padding(config, &mut spec, "")?;
    let buckets = config.optional_size(BUCKETS, MAX_BUCKETS)?.unwrap_or(32);
    if buckets < 4 {
        return Err(config.error(BUCKETS, format!("is {buckets}, expected at least 4")));
    }
    let tensor = names.tensor("encoder.relative_attention_bias.weight");
    spec.relative_bias = Some(RelativeBiasSpec { tensor, buckets });
    spec.tensors.positions = Some(names.tensor("embeddings.position_embeddings.weight"));
    spec.layers = (0..base::layer_count(config, &BERT_KEYS)?)
        .map(|index| {
            let name = |part: &str| format!("encoder.layer.{index}.{part}");
            let layer = LayerNames {
                qkv: ["q", "k", "v"].map(|part| name(&format!("attention.attn.{part}"))).into(),
                output: name("attention.attn.o"),
                attn_norm: name("attention.LayerNorm"),
                up: name("intermediate.dense"),
                down: name("output.dense"),
                ffn_norm: name("output.LayerNorm"),
            };
            plain_layer(&names, layer)
        })
        .collect();
    Ok(spec)
}

/// With the classification head and one label on top.
pub(super) fn read_classifier(
    config: &Config,
    tensors: &dyn TensorSource,
) -> Result<EncoderSpec, ModelError> {
    let mut spec = read(config, tensors)?;
    let head = ("classifier.dense", "classifier.out_proj");
    spec.classifier = Some(base::classifier(config, tensors, head, Activation::Tanh)?);
    Ok(spec)
}
