//! Reads the rotary settings: `rope_parameters`, or in older files `rope_scaling` and `rope_theta`. The defaults and
//! precedences are those of transformers' `modeling_rope_utils`.

use super::base::MAX_POSITIONS;
use crate::config::Config;
use crate::{ModelError, ModelSpec, RopeScaling, RopeSpec};

/// A family's rotary defaults.
pub(super) struct RopeDefaults {
    pub theta: f64,
    /// Whether only a part of each head may rotate (`partial_rotary_factor`).
    pub partial: bool,
    /// For `original_max_position_embeddings`; `None`: `max_position_embeddings`.
    pub original_max: Option<usize>,
}

pub(super) const PLAIN: RopeDefaults = RopeDefaults { theta: 10_000.0, partial: false, original_max: None };

/// The rotary table of a model that has one for all layers.
pub(super) fn read(
    config: &Config,
    spec: &ModelSpec,
    defaults: &RopeDefaults,
) -> Result<RopeSpec, ModelError> {
    let parameters = match config.object("rope_scaling")?.filter(|scaling| scaling.keys().next().is_some()) {
        Some(scaling) => Some(scaling),
        None => config.object("rope_parameters")?,
    };
    let theta = config.optional_positive("rope_theta")?.unwrap_or(defaults.theta);
    read_parameters(config, parameters.as_ref(), spec, &RopeDefaults { theta, ..*defaults })
}

/// One table from its own object (`None`: no scaling); `config` is the root.
pub(super) fn read_parameters(
    config: &Config,
    parameters: Option<&Config>,
    spec: &ModelSpec,
    defaults: &RopeDefaults,
) -> Result<RopeSpec, ModelError> {
    let own = parameters.unwrap_or(config);
    let base = match parameters {
        Some(own) => own.optional_positive("rope_theta")?.unwrap_or(defaults.theta),
        None => defaults.theta,
    };
    if base <= 1.0 {
        return Err(own.error("rope_theta", format!("is {base}, expected a number above 1")));
    }
    let rotary_dim = read_rotary_dim(config, own, spec.head_dim, defaults.partial)?;
    let scaling = match parameters {
        Some(own) => Reader { config, own, spec, rotary_dim, defaults }.scaling()?,
        None => RopeScaling::None,
    };
    Ok(RopeSpec { rotary_dim, base, scaling })
}

fn read_rotary_dim(
    config: &Config,
    own: &Config,
    head_dim: usize,
    partial: bool,
) -> Result<usize, ModelError> {
    let key = "partial_rotary_factor";
    let factor = match own.optional_positive(key)? {
        Some(factor) => factor,
        None => config.optional_positive(key)?.unwrap_or(1.0),
    };
    if factor == 1.0 {
        return Ok(head_dim);
    }
    if !partial {
        return Err(own.error(key, format!("is {factor}, this architecture rotates whole heads")));
    }
    let rotary_dim = (head_dim as f64 * factor) as usize;
    if factor > 1.0 || rotary_dim == 0 || !rotary_dim.is_multiple_of(2) {
        return Err(own.error(
            key,
            format!(
                "is {factor}: rotates {rotary_dim} of {head_dim} elements, expected an even number of them"
            ),
        ));
    }
    Ok(rotary_dim)
}

struct Reader<'a> {
    config: &'a Config,
    own: &'a Config,
    spec: &'a ModelSpec,
    rotary_dim: usize,
    defaults: &'a RopeDefaults,
}

impl Reader<'_> {
    fn scaling(&self) -> Result<RopeScaling, ModelError> {
        let key = if self.own.value("rope_type").is_some() { "rope_type" } else { "type" };
        let kind = self.own.optional_text(key)?.unwrap_or("default");
        // Phi-3's first configurations called LongRoPE "su" and "yarn".
        let long = self.defaults.partial && matches!(kind, "su" | "yarn");
        match kind {
            _ if long => self.longrope(),
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: self.own.positive("factor")? }),
            "dynamic" => self.dynamic(key),
            "llama3" => self.llama3(),
            "yarn" => self.yarn(),
            "longrope" => self.longrope(),
            other => Err(self.own.error(
                key,
                format!(
                    "'{other}' is not supported; default, linear, dynamic, llama3, yarn and longrope are"
                ),
            )),
        }
    }

    fn dynamic(&self, key: &str) -> Result<RopeScaling, ModelError> {
        if self.rotary_dim <= 2 {
            return Err(self.own.error(key, "'dynamic' needs heads of more than 2 elements"));
        }
        let factor = self.own.positive("factor")?;
        if factor < 1.0 {
            return Err(self.own.error("factor", format!("is {factor}, expected at least 1")));
        }
        Ok(RopeScaling::Dynamic { factor, original_max: self.spec.max_positions })
    }

    fn llama3(&self) -> Result<RopeScaling, ModelError> {
        let low_freq_factor = self.own.positive("low_freq_factor")?;
        let high_freq_factor = self.own.positive("high_freq_factor")?;
        if high_freq_factor <= low_freq_factor {
            return Err(self.own.error(
                "high_freq_factor",
                format!("is {high_freq_factor}, expected more than low_freq_factor = {low_freq_factor}"),
            ));
        }
        Ok(RopeScaling::Llama3 {
            factor: self.own.positive("factor")?,
            low_freq_factor,
            high_freq_factor,
            original_max: self.original_max()?,
        })
    }

    fn yarn(&self) -> Result<RopeScaling, ModelError> {
        let original_max = self.original_max()?;
        let factor = self.factor_or_ratio(original_max)?;
        let attention_factor = match self.own.optional_positive("attention_factor")? {
            Some(given) => given,
            None => {
                let all_dims = self.own.optional_number("mscale_all_dim")?.filter(|mscale| *mscale != 0.0);
                match (self.own.optional_number("mscale")?.filter(|mscale| *mscale != 0.0), all_dims) {
                    (Some(mscale), Some(all)) => yarn_mscale(factor, mscale) / yarn_mscale(factor, all),
                    _ => yarn_mscale(factor, 1.0),
                }
            }
        };
        Ok(RopeScaling::Yarn {
            factor,
            beta_fast: self.own.optional_positive("beta_fast")?.unwrap_or(32.0),
            beta_slow: self.own.optional_positive("beta_slow")?.unwrap_or(1.0),
            original_max,
            attention_factor,
            truncate: self.own.flag("truncate", true)?,
        })
    }

    fn longrope(&self) -> Result<RopeScaling, ModelError> {
        let original_max = self.original_max()?;
        let factor = self.factor_or_ratio(original_max)?;
        let attention_factor = match self.own.optional_positive("attention_factor")? {
            Some(given) => given,
            None if factor <= 1.0 || original_max == 1 => 1.0,
            None => (1.0 + factor.ln() / (original_max as f64).ln()).sqrt(),
        };
        Ok(RopeScaling::LongRope {
            short: self.own.positives("short_factor", self.rotary_dim / 2)?,
            long: self.own.positives("long_factor", self.rotary_dim / 2)?,
            original_max,
            attention_factor,
        })
    }

    fn factor_or_ratio(&self, original_max: usize) -> Result<f64, ModelError> {
        let ratio = self.spec.max_positions as f64 / original_max as f64;
        Ok(self.own.optional_positive("factor")?.unwrap_or(ratio))
    }

    /// The value beside the rotary settings wins over the one within.
    fn original_max(&self) -> Result<usize, ModelError> {
        let key = "original_max_position_embeddings";
        if let Some(outer) = self.config.optional_size(key, MAX_POSITIONS)?.or(self.defaults.original_max) {
            return Ok(outer);
        }
        Ok(self.own.optional_size(key, MAX_POSITIONS)?.unwrap_or(self.spec.max_positions))
    }
}

fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}
