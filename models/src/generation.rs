use serde_json::Value;

use crate::config::Config;
use crate::{ModelError, ModelFiles};

/// What a checkpoint says about generating with it: special tokens and default sampling.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Any of these ends a generation; in the checkpoint's order, without repeats.
    pub eos_token_ids: Vec<u32>,
    pub bos_token_id: Option<u32>,
    pub pad_token_id: Option<u32>,
    pub do_sample: Option<bool>,
    pub temperature: Option<f32>,
    pub top_k: Option<u32>,
    pub top_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
}

impl GenerationConfig {
    /// Reads `generation_config.json` and, for the special tokens that it does not name, `config.json`. Both may be
    /// absent.
    ///
    /// # Errors
    /// A file that is not JSON, or a value of the wrong type.
    pub fn read(files: &ModelFiles) -> Result<Self, ModelError> {
        let mut merged = match Config::read(files, "config.json")? {
            Some(config) => Self::special_tokens(&config)?,
            None => Self::default(),
        };
        let Some(config) = Config::read(files, "generation_config.json")? else {
            return Ok(merged);
        };
        let own = Self::special_tokens(&config)?;
        if !own.eos_token_ids.is_empty() {
            merged.eos_token_ids = own.eos_token_ids;
        }
        merged.bos_token_id = own.bos_token_id.or(merged.bos_token_id);
        merged.pad_token_id = own.pad_token_id.or(merged.pad_token_id);
        merged.do_sample = config.optional_flag("do_sample")?;
        merged.temperature = float(&config, "temperature")?;
        merged.top_p = float(&config, "top_p")?;
        merged.repetition_penalty = float(&config, "repetition_penalty")?;
        merged.top_k = token(&config, "top_k")?;
        Ok(merged)
    }

    fn special_tokens(config: &Config) -> Result<Self, ModelError> {
        Ok(Self {
            eos_token_ids: tokens(config, "eos_token_id")?,
            bos_token_id: token(config, "bos_token_id")?,
            pad_token_id: token(config, "pad_token_id")?,
            ..Self::default()
        })
    }
}

fn float(config: &Config, key: &str) -> Result<Option<f32>, ModelError> {
    Ok(config.optional_number(key)?.map(|number| number as f32))
}

/// A token id (or count); a negative one means none, as in the first Llama checkpoints.
fn token(config: &Config, key: &str) -> Result<Option<u32>, ModelError> {
    match config.value(key) {
        None => Ok(None),
        Some(value) => token_value(config, key, value),
    }
}

fn token_value(config: &Config, key: &str, value: &Value) -> Result<Option<u32>, ModelError> {
    match value.as_i64() {
        Some(id) if id < 0 => Ok(None),
        Some(id) if id <= i64::from(u32::MAX) => Ok(Some(id as u32)),
        _ => Err(config.error(key, format!("{value} is not a token id"))),
    }
}

/// One id or a list of them.
fn tokens(config: &Config, key: &str) -> Result<Vec<u32>, ModelError> {
    let values = match config.value(key) {
        None => return Ok(Vec::new()),
        Some(Value::Array(values)) => values.as_slice(),
        Some(value) => std::slice::from_ref(value),
    };
    let mut ids = Vec::new();
    for value in values {
        if let Some(id) = token_value(config, key, value)?
            && !ids.contains(&id)
        {
            ids.push(id);
        }
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_config_wins_over_config() {
        let files = ModelFiles::embedded(&[
            ("config.json", br#"{"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": -1}"#),
            (
                "generation_config.json",
                br#"{"eos_token_id": [128001, 128008, 128009, 128001], "do_sample": true, "temperature": 0.6,
                    "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.05}"#,
            ),
        ]);
        let config = GenerationConfig::read(&files).unwrap();
        assert_eq!(config.eos_token_ids, [128001, 128008, 128009]);
        assert_eq!((config.bos_token_id, config.pad_token_id), (Some(1), None));
        assert_eq!((config.do_sample, config.top_k), (Some(true), Some(20)));
        assert_eq!((config.temperature, config.top_p), (Some(0.6), Some(0.9)));
        assert_eq!(config.repetition_penalty, Some(1.05));
    }

    #[test]
    fn config_alone_and_nothing_at_all() {
        let files = ModelFiles::embedded(&[("config.json", br#"{"eos_token_id": 7}"#)]);
        assert_eq!(GenerationConfig::read(&files).unwrap().eos_token_ids, [7]);
        assert_eq!(GenerationConfig::read(&ModelFiles::embedded(&[])).unwrap(), GenerationConfig::default());
    }

    #[test]
    fn wrong_types_name_file_and_key() {
        for (text, key) in [
            (&br#"{"eos_token_id": "end"}"#[..], "eos_token_id"),
            (br#"{"eos_token_id": [1, 1.5]}"#, "eos_token_id"),
            (br#"{"eos_token_id": 99999999999}"#, "eos_token_id"),
            (br#"{"temperature": "hot"}"#, "temperature"),
            (br#"{"do_sample": 1}"#, "do_sample"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("generation_config.json"), text).unwrap();
            let message =
                GenerationConfig::read(&ModelFiles::open(folder.path()).unwrap()).unwrap_err().to_string();
            assert!(message.contains("generation_config.json") && message.contains(key), "{message}");
        }
    }
}
