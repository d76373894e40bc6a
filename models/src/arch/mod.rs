//! One reader per architecture family: from `config.json` to a [`ModelSpec`].

pub(crate) mod base;
mod gemma2;
mod gemma3;
mod llama;
mod phi3;
mod qwen2;
mod qwen3;
mod rope;
#[cfg(test)]
mod tests;

use crate::config::Config;
use crate::files::file_error;
use crate::gguf::use_gguf_layout;
use crate::quantized::Scheme;
use crate::{ModelError, ModelFiles, ModelSpec, TensorSource};

type Reader = fn(&Config) -> Result<ModelSpec, ModelError>;

/// Every supported architecture by the name `config.json` gives it.
const ARCHITECTURES: &[(&str, Reader)] = &[
    ("LlamaForCausalLM", llama::read_llama),
    ("MistralForCausalLM", llama::read_mistral),
    ("Qwen2ForCausalLM", qwen2::read),
    ("Qwen3ForCausalLM", qwen3::read),
    ("Gemma2ForCausalLM", gemma2::read),
    ("Gemma3ForCausalLM", gemma3::read),
    ("Phi3ForCausalLM", phi3::read),
];

/// Reads `config.json`; for a GGUF file, what its metadata says in its place.
///
/// # Errors
/// A missing or malformed file, an architecture that is not supported, or a value that is absent, of the wrong type
/// or out of bounds; names the file and the key.
pub fn read_spec(files: &ModelFiles) -> Result<ModelSpec, ModelError> {
    let Some(config) = Config::read(files, "config.json")? else {
        return Err(file_error(files.label_of("config.json"), "is missing"));
    };
    let names = config.optional_texts("architectures")?.unwrap_or_default();
    let Some(&name) = names.first() else {
        return Err(config.error("architectures", "is missing"));
    };
    let mut spec = read_named(&config, name)?;
    if files.gguf().is_some() {
        use_gguf_layout(&mut spec);
    }
    Ok(spec)
}

/// Reads `config.json` of a decoder whose last hidden states are wanted: with or without its head, and with names as
/// either of the two is saved.
///
/// # Errors
/// As for [`read_spec`].
pub fn read_headless(files: &ModelFiles, tensors: &dyn TensorSource) -> Result<ModelSpec, ModelError> {
    const PREFIX: &str = "model.";
    let Some(config) = Config::read(files, "config.json")? else {
        return Err(file_error(files.label_of("config.json"), "is missing"));
    };
    let names = config.optional_texts("architectures")?.unwrap_or_default();
    let name = names.first().copied().unwrap_or_default();
    let with_head = name.strip_suffix("Model").map(|family| format!("{family}ForCausalLM"));
    let mut spec = read_named(&config, with_head.as_deref().unwrap_or(name))?;
    spec.tensors.head = None;
    if files.gguf().is_some() {
        use_gguf_layout(&mut spec);
    } else if !tensors.contains(&spec.tensors.embedding) {
        spec.tensors.rename(|name| name.strip_prefix(PREFIX).unwrap_or(name).to_owned());
    }
    Ok(spec)
}

fn read_named(config: &Config, name: &str) -> Result<ModelSpec, ModelError> {
    let Some((_, read)) = ARCHITECTURES.iter().find(|(known, _)| *known == name) else {
        let supported: Vec<&str> = ARCHITECTURES.iter().map(|(known, _)| *known).collect();
        return Err(ModelError::UnsupportedArchitecture {
            file: config.file().into(),
            architecture: name.chars().take(100).collect(),
            supported: supported.join(", "),
        });
    };
    Scheme::read(config)?;
    let mut spec = read(config)?;
    spec.architecture = name.into();
    Ok(spec)
}
