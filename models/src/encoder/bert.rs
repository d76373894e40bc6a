//! BERT.

use super::base::{self, BERT_KEYS, Defaults, Names};
use super::spec::EncoderSpec;
use crate::arch::base::MAX_WIDTH;
use crate::config::Config;
use crate::{Activation, ModelError, TensorSource};

const WORDS: &str = "embeddings.word_embeddings.weight";
const DEFAULTS: Defaults = Defaults { max_positions: 512, norm_eps: 1e-12, activation: "gelu" };

pub(super) fn read(config: &Config, tensors: &dyn TensorSource) -> Result<EncoderSpec, ModelError> {
    let names = Names::find(tensors, &["", "bert."], WORDS);
    absolute_positions(config)?;
    let norm = names.norm("embeddings.LayerNorm");
    let mut spec = base::read(config, &BERT_KEYS, &DEFAULTS, names.tensor(WORDS), norm)?;
    spec.token_types = config.optional_size("type_vocab_size", MAX_WIDTH)?.unwrap_or(2);
    spec.tensors.positions = Some(names.tensor("embeddings.position_embeddings.weight"));
    spec.tensors.types = Some(names.tensor("embeddings.token_type_embeddings.weight"));
    let layers = base::layer_count(config, &BERT_KEYS)?;
    spec.layers = (0..layers).map(|index| base::bert_layer(&names, index)).collect();
    Ok(spec)
}

/// With the pooler and one label on top.
pub(super) fn read_classifier(
    config: &Config,
    tensors: &dyn TensorSource,
) -> Result<EncoderSpec, ModelError> {
    let mut spec = read(config, tensors)?;
    spec.classifier =
        Some(base::classifier(config, tensors, ("bert.pooler.dense", "classifier"), Activation::Tanh)?);
    Ok(spec)
}

/// # Errors
/// Positions other than those of the original.
pub(super) fn absolute_positions(config: &Config) -> Result<(), ModelError> {
    const KEY: &str = "position_embedding_type";
    match config.optional_text(KEY)? {
        None | Some("absolute") => Ok(()),
        Some(other) => Err(config.error(KEY, format!("'{other}' is not supported, only 'absolute'"))),
    }
}
