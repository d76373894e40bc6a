use serde_json::Value;
use weirgate_models::{DType, ModelFiles};

use crate::generator;

/// A tiny checkpoint: its `config.json` and how its weights are generated.
#[derive(Debug, Clone)]
pub struct Definition {
    pub name: String,
    /// What the weights are stored as.
    pub dtype: DType,
    pub seed: u64,
    /// Half the width of the embedding's distribution.
    pub embedding_scale: f32,
    /// What norm weights scatter around: 1, or 0 where the architecture adds 1 itself.
    pub norm_center: f32,
    /// A checkpoint that consists of its `config.json` only.
    pub files: ModelFiles,
}

macro_rules! configs {
    ($($name:literal),* $(,)?) => {
        &[$(($name, &[("config.json", include_bytes!(concat!("../checkpoints/", $name, "/config.json")))])),*]
    };
}

type NamedFiles = (&'static str, &'static [(&'static str, &'static [u8])]);

const CONFIGS: &[NamedFiles] = configs![
    "llama",
    "llama-llama3",
    "llama-linear",
    "llama-dynamic",
    "llama-yarn",
    "mistral",
    "qwen2",
    "qwen2-sliding",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3",
    "phi3-longrope",
    "phi4-mini",
    "llama-bf16",
    "llama-f16",
    "qwen2-bf16",
    "gemma3-bf16",
    "phi3-f16",
];

/// All of them, in the order of `testkit/checkpoints/definitions.json`.
pub fn definitions() -> Vec<Definition> {
    let table: Value =
        serde_json::from_str(include_str!("../checkpoints/definitions.json")).unwrap_or(Value::Null);
    CONFIGS.iter().filter_map(|(name, files)| definition(name, files, &table[*name])).collect()
}

fn definition(
    name: &str,
    files: &'static [(&'static str, &'static [u8])],
    recipe: &Value,
) -> Option<Definition> {
    Some(Definition {
        name: name.to_owned(),
        dtype: match recipe["dtype"].as_str()? {
            "F32" => DType::F32,
            "F16" => DType::F16,
            "BF16" => DType::BF16,
            _ => return None,
        },
        seed: recipe["seed"].as_u64()?,
        embedding_scale: recipe["embedding_scale"].as_f64()? as f32,
        norm_center: recipe["norm_center"].as_f64()? as f32,
        files: ModelFiles::embedded(files),
    })
}

impl Definition {
    /// The definition called `name`.
    pub fn named(name: &str) -> Option<Self> {
        definitions().into_iter().find(|definition| definition.name == name)
    }

    /// Centre and half width of the distribution of tensor `name`.
    pub(crate) fn range(&self, name: &str, shape: &[usize]) -> (f32, f32) {
        match shape {
            _ if name.ends_with("norm.weight") => (self.norm_center, 0.3),
            _ if name == "model.embed_tokens.weight" => (0.0, self.embedding_scale),
            // Keeps the variance of activations, and a little more, so that logits are well spread.
            [_, cols] => (0.0, (1.6 * (3.0 / *cols as f64).sqrt()) as f32),
            _ => (0.0, 0.3),
        }
    }

    /// Prompt `index`, `len` tokens long.
    pub fn prompt(&self, index: usize, len: usize, vocab: usize) -> Vec<u32> {
        generator::prompt(self.seed, index, len, vocab)
    }
}

/// The lengths of the 20 prompts whose greedy continuations are compared: eight short ones, four that cross position
/// 100 within 64 tokens, eight beyond it.
pub fn prompt_lengths() -> impl Iterator<Item = usize> {
    let short = (0..8).map(|k| 4 + 3 * k);
    short.chain((0..4).map(|k| 60 + 5 * k)).chain((0..8).map(|k| 101 + 4 * k))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_has_its_config_and_is_read() {
        let table: Value = serde_json::from_str(include_str!("../checkpoints/definitions.json")).unwrap();
        let names: Vec<&String> = table.as_object().unwrap().keys().collect();
        let read = definitions();
        assert_eq!(names, read.iter().map(|definition| &definition.name).collect::<Vec<_>>());
        assert_eq!(prompt_lengths().count(), 20);
    }
}
