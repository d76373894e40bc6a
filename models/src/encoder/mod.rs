//! One reader per encoder family: from `config.json` to an [`EncoderSpec`]; and what sentence-transformers adds.

mod base;
mod bert;
mod check;
mod distilbert;
mod modernbert;
mod mpnet;
mod nomic;
mod roberta;
mod sentence;
mod spec;
#[cfg(test)]
mod tests;

use crate::config::Config;
use crate::{ModelError, ModelFiles, TensorSource};

pub use sentence::SentenceConfig;
pub use spec::{
    Classifier, EncoderLayer, EncoderSpec, EncoderTensors, LinearTensors, NormTensors, Pooling,
    RelativeBiasSpec,
};

type Reader = fn(&Config, &dyn TensorSource) -> Result<EncoderSpec, ModelError>;

/// Every supported architecture by the name `config.json` gives it.
const ARCHITECTURES: &[(&str, Reader)] = &[
    ("BertModel", bert::read),
    ("BertForMaskedLM", bert::read),
    ("BertForPreTraining", bert::read),
    ("BertForSequenceClassification", bert::read_classifier),
    ("RobertaModel", roberta::read),
    ("RobertaForMaskedLM", roberta::read),
    ("RobertaForSequenceClassification", roberta::read_classifier),
    ("XLMRobertaModel", roberta::read),
    ("XLMRobertaForMaskedLM", roberta::read),
    ("XLMRobertaForSequenceClassification", roberta::read_classifier),
    ("CamembertModel", roberta::read),
    ("CamembertForMaskedLM", roberta::read),
    ("CamembertForSequenceClassification", roberta::read_classifier),
    ("DistilBertModel", distilbert::read),
    ("DistilBertForMaskedLM", distilbert::read),
    ("DistilBertForSequenceClassification", distilbert::read_classifier),
    ("MPNetModel", mpnet::read),
    ("MPNetForMaskedLM", mpnet::read),
    ("MPNetForSequenceClassification", mpnet::read_classifier),
    ("ModernBertModel", modernbert::read),
    ("ModernBertForMaskedLM", modernbert::read),
    ("ModernBertForSequenceClassification", modernbert::read_classifier),
    ("NomicBertModel", nomic::read),
];

/// Whether `config.json` names an encoder.
///
/// # Errors
/// A malformed file.
pub fn is_encoder(files: &ModelFiles) -> Result<bool, ModelError> {
    Ok(match Config::read(files, "config.json")? {
        Some(config) => reader(&config)?.is_some(),
        None => false,
    })
}

/// Whether vectors or scores of texts are what the checkpoint makes: an encoder, or a decoder that comes with a pooling.
///
/// # Errors
/// A malformed file.
pub fn is_embedder(files: &ModelFiles) -> Result<bool, ModelError> {
    Ok(is_encoder(files)? || SentenceConfig::read(files)?.is_some())
}

/// Whether `config.json` names an encoder that makes scores of pairs of texts, and no vectors.
///
/// # Errors
/// A malformed file.
pub fn is_cross_encoder(files: &ModelFiles) -> Result<bool, ModelError> {
    let Some(config) = Config::read(files, "config.json")? else { return Ok(false) };
    Ok(reader(&config)?.is_some_and(|(name, _)| name.ends_with("ForSequenceClassification")))
}

/// Reads `config.json` of an encoder. Its tensors decide between the names that one architecture goes by.
///
/// # Errors
/// A missing or malformed file, an architecture that is no encoder's, or a value that is absent, of the wrong type or
/// out of bounds; names the file and the key.
pub fn read_encoder(files: &ModelFiles, tensors: &dyn TensorSource) -> Result<EncoderSpec, ModelError> {
    let Some(config) = Config::read(files, "config.json")? else {
        return Err(crate::files::file_error(files.label_of("config.json"), "is missing"));
    };
    let Some((name, read)) = reader(&config)? else {
        return Err(config.error("architectures", "names no encoder that is supported"));
    };
    let mut spec = read(&config, tensors)?;
    spec.architecture = name.into();
    Ok(spec)
}

fn reader(config: &Config) -> Result<Option<(&'static str, Reader)>, ModelError> {
    let names = config.optional_texts("architectures")?.unwrap_or_default();
    let found = |name: &&str| ARCHITECTURES.iter().find(|(known, _)| known == name).copied();
    Ok(names.first().and_then(found))
}
