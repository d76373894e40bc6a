//! Gemma 2: norms before and after each block, soft-capped scores and logits, a window in every other layer.

use super::base::{self, Defaults};
use super::rope;
use crate::config::Config;
use crate::{ModelError, ModelSpec};

pub(super) const GEMMA: Defaults = Defaults {
    max_positions: 8192,
    norm_eps: 1e-6,
    tied: true,
    head_dim: Some(256),
    activation: ("hidden_activation", "gelu_pytorch_tanh"),
};

pub(super) fn read(config: &Config) -> Result<ModelSpec, ModelError> {
    let mut spec = base::read(config, &GEMMA)?;
    base::apply_gemma_scales(&mut spec, config)?;
    spec.attention_softcap =
        config.positive_setting("attn_logit_softcapping")?.or(50.0).map(|cap| cap as f32);
    spec.logit_softcap = config.positive_setting("final_logit_softcapping")?.or(30.0).map(|cap| cap as f32);
    if config.flag("attention_bias", false)? {
        base::add_qkv_bias(&mut spec);
        base::add_output_bias(&mut spec);
    }
    let rope = rope::read(config, &spec, &rope::PLAIN)?;
    base::set_uniform_layers(&mut spec, rope, None);
    let window = base::read_window(config, Some(4096))?;
    let sliding = base::sliding_layers(config, spec.layers.len(), |layer| layer % 2 == 0)?;
    for (layer, sliding) in spec.layers.iter_mut().zip(sliding) {
        layer.window = if sliding { window } else { None };
    }
    Ok(spec)
}
