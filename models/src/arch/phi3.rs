//! Phi-3, Phi-3.5, Phi-4 and Phi-4-mini: fused projections, LongRoPE, partly rotated heads.

use super::base::{self, Defaults, LLAMA_LIKE};
use super::rope::{self, RopeDefaults};
use crate::config::Config;
use crate::{ModelError, ModelSpec};

pub(super) fn read(config: &Config) -> Result<ModelSpec, ModelError> {
    let defaults = Defaults { max_positions: 4096, norm_eps: 1e-5, ..LLAMA_LIKE };
    let mut spec = base::read(config, &defaults)?;
    let rope_defaults = RopeDefaults { theta: 10_000.0, partial: true, original_max: Some(4096) };
    let rope = rope::read(config, &spec, &rope_defaults)?;
    let window = base::read_window(config, None)?;
    base::set_uniform_layers(&mut spec, rope, window);
    for (index, layer) in spec.tensors.layers.iter_mut().enumerate() {
        layer.qkv = vec![format!("model.layers.{index}.self_attn.qkv_proj.weight")];
        layer.gate_up = vec![format!("model.layers.{index}.mlp.gate_up_proj.weight")];
    }
    Ok(spec)
}
