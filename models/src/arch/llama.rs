//! Llama 2 and 3, everything that took its shape, and Mistral.

use super::base::{self, Defaults, LLAMA_LIKE};
use super::rope;
use crate::config::Config;
use crate::{ModelError, ModelSpec};

pub(super) fn read_llama(config: &Config) -> Result<ModelSpec, ModelError> {
    let mut spec = base::read(config, &LLAMA_LIKE)?;
    let rope = rope::read(config, &spec, &rope::PLAIN)?;
    base::set_uniform_layers(&mut spec, rope, None);
    if config.flag("attention_bias", false)? {
        base::add_qkv_bias(&mut spec);
        base::add_output_bias(&mut spec);
    }
    if config.flag("mlp_bias", false)? {
        base::add_mlp_bias(&mut spec);
    }
    Ok(spec)
}

/// Llama with a sliding window in every layer; later versions set the window to `null`.
pub(super) fn read_mistral(config: &Config) -> Result<ModelSpec, ModelError> {
    let defaults = Defaults { max_positions: 131_072, ..LLAMA_LIKE };
    let mut spec = base::read(config, &defaults)?;
    let rope = rope::read(config, &spec, &rope::PLAIN)?;
    let window = base::read_window(config, Some(4096))?;
    base::set_uniform_layers(&mut spec, rope, window);
    Ok(spec)
}
