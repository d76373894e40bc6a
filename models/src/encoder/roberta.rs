//! RoBERTa, XLM-RoBERTa and CamemBERT: BERT whose positions begin after the padding token's.

use super::base::{self, BERT_KEYS, Defaults, Names};
use super::bert::absolute_positions;
use super::spec::EncoderSpec;
use crate::arch::base::{MAX_VOCAB, MAX_WIDTH};
use crate::config::Config;
use crate::{Activation, ModelError, TensorSource};

const WORDS: &str = "embeddings.word_embeddings.weight";
const DEFAULTS: Defaults = Defaults { max_positions: 512, norm_eps: 1e-12, activation: "gelu" };

pub(super) fn read(config: &Config, tensors: &dyn TensorSource) -> Result<EncoderSpec, ModelError> {
    let names = Names::find(tensors, &["", "roberta."], WORDS);
    absolute_positions(config)?;
    let norm = names.norm("embeddings.LayerNorm");
    let mut spec = base::read(config, &BERT_KEYS, &DEFAULTS, names.tensor(WORDS), norm)?;
    skip_padding(config, &mut spec, "pad_token_id")?;
    spec.token_types = config.optional_size("type_vocab_size", MAX_WIDTH)?.unwrap_or(2);
    spec.tensors.positions = Some(names.tensor("embeddings.position_embeddings.weight"));
    spec.tensors.types = Some(names.tensor("embeddings.token_type_embeddings.weight"));
    let layers = base::layer_count(config, &BERT_KEYS)?;
    spec.layers = (0..layers).map(|index| base::bert_layer(&names, index)).collect();
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

/// Positions are counted from the padding token's id (1 unless `key` says otherwise) plus one.
pub(super) fn skip_padding(config: &Config, spec: &mut EncoderSpec, key: &str) -> Result<(), ModelError> {
    let padding = match config.value(key).and_then(serde_json::Value::as_u64) {
        Some(0) => 0,
        _ => config.optional_size(key, MAX_VOCAB)?.unwrap_or(1),
    };
    spec.first_position = padding + 1;
    spec.max_tokens =
        spec.max_tokens.checked_sub(spec.first_position).filter(|left| *left > 0).ok_or_else(|| {
            config.error("max_position_embeddings", format!("leaves no position after {padding}"))
        })?;
    Ok(())
}
