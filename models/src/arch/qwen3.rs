//! Qwen 3 (dense): per-head norms of queries and keys, no biases by default.

use super::base::{self, Defaults, LLAMA_LIKE};
use super::{qwen2, rope};
use crate::config::Config;
use crate::{ModelError, ModelSpec};

pub(super) fn read(config: &Config) -> Result<ModelSpec, ModelError> {
    let defaults = Defaults { max_positions: 32_768, head_dim: Some(128), ..LLAMA_LIKE };
    let mut spec = base::read(config, &defaults)?;
    let rope = rope::read(config, &spec, &rope::PLAIN)?;
    base::set_uniform_layers(&mut spec, rope, None);
    base::add_qk_norm(&mut spec);
    if config.flag("attention_bias", false)? {
        base::add_qkv_bias(&mut spec);
        base::add_output_bias(&mut spec);
    }
    qwen2::set_windows(config, &mut spec)?;
    Ok(spec)
}
