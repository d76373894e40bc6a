//! Gemma 3 (text): Gemma 2 without soft caps, with per-head norms; five layers with a window and their own rotary
//! base for each one without.

use super::base::{self, Defaults};
use super::gemma2::GEMMA;
use super::rope::{self, RopeDefaults};
use crate::config::Config;
use crate::{LayerSpec, ModelError, ModelSpec, RopeSpec};

const GLOBAL_THETA: f64 = 1_000_000.0;
const LOCAL_THETA: f64 = 10_000.0;

pub(super) fn read(config: &Config) -> Result<ModelSpec, ModelError> {
    let defaults = Defaults { max_positions: 131_072, ..GEMMA };
    let mut spec = base::read(config, &defaults)?;
    base::apply_gemma_scales(&mut spec, config)?;
    base::add_qk_norm(&mut spec);
    if config.flag("attention_bias", false)? {
        base::add_qkv_bias(&mut spec);
        base::add_output_bias(&mut spec);
    }
    // Its configurations may carry attn_logit_softcapping too; the architecture does not apply it.
    spec.logit_softcap = config.optional_positive("final_logit_softcapping")?.map(|cap| cap as f32);
    spec.ropes = read_ropes(config, &spec)?;
    let window = base::read_window(config, Some(4096))?;
    let pattern = config.optional_size("sliding_window_pattern", spec.layers.len().max(64))?.unwrap_or(6);
    let sliding = base::sliding_layers(config, spec.layers.len(), |layer| (layer + 1) % pattern != 0)?;
    for (layer, sliding) in spec.layers.iter_mut().zip(sliding) {
        *layer = if sliding { LayerSpec { window, rope: 1 } } else { LayerSpec { window: None, rope: 0 } };
    }
    Ok(spec)
}

/// The rotary tables of the full and of the sliding layers.
fn read_ropes(config: &Config, spec: &ModelSpec) -> Result<Vec<RopeSpec>, ModelError> {
    let nested = config.object("rope_parameters")?;
    let of = |kind: &str| match &nested {
        Some(nested) => nested.object(kind),
        None => Ok(None),
    };
    // `rope_scaling` of the older form concerns the full layers only.
    let full = match of("full_attention")? {
        Some(full) => Some(full),
        None => config.object("rope_scaling")?,
    };
    let theta = config.optional_positive("rope_theta")?.unwrap_or(GLOBAL_THETA);
    let global = rope::read_parameters(config, full.as_ref(), spec, &RopeDefaults { theta, ..rope::PLAIN })?;
    let theta = config.optional_positive("rope_local_base_freq")?.unwrap_or(LOCAL_THETA);
    let sliding = of("sliding_attention")?;
    let local =
        rope::read_parameters(config, sliding.as_ref(), spec, &RopeDefaults { theta, ..rope::PLAIN })?;
    Ok(vec![global, local])
}
