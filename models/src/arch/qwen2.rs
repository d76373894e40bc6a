//! Qwen 2 and 2.5: Llama with query, key and value biases, and windows in the upper layers if asked for.

use super::base::{self, Defaults, LLAMA_LIKE};
use super::rope;
use crate::config::Config;
use crate::{ModelError, ModelSpec};

pub(super) fn read(config: &Config) -> Result<ModelSpec, ModelError> {
    let defaults = Defaults { max_positions: 32_768, ..LLAMA_LIKE };
    let mut spec = base::read(config, &defaults)?;
    let rope = rope::read(config, &spec, &rope::PLAIN)?;
    base::set_uniform_layers(&mut spec, rope, None);
    base::add_qkv_bias(&mut spec);
    set_windows(config, &mut spec)?;
    Ok(spec)
}

/// Sets the windows of the layers from `max_window_layers` on, or of those that `layer_types` names.
pub(super) fn set_windows(config: &Config, spec: &mut ModelSpec) -> Result<(), ModelError> {
    let window = match config.flag("use_sliding_window", false)? {
        true => base::read_window(config, Some(4096))?,
        false => None,
    };
    // May be 0, so it is not read as a size.
    let first = config.optional_number("max_window_layers")?.unwrap_or(28.0);
    let sliding = base::sliding_layers(config, spec.layers.len(), |layer| layer as f64 >= first)?;
    for (layer, sliding) in spec.layers.iter_mut().zip(sliding) {
        layer.window = if sliding { window } else { None };
    }
    Ok(())
}
