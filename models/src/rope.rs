use std::borrow::Cow;
use std::f64::consts::PI;

use crate::{ModelError, ModelSpec};

/// How positions become rotation angles, as read from the checkpoint (see [`Rope`] for the arithmetic).
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSpec {
    /// How many elements of each head rotate; even, at most `head_dim`.
    pub rotary_dim: usize,
    pub base: f64,
    pub scaling: RopeScaling,
}

/// The scalings of transformers' `ROPE_INIT_FUNCTIONS`.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    None,
    Linear {
        factor: f64,
    },
    /// NTK-aware; the base grows with the sequence length past `original_max`.
    Dynamic {
        factor: f64,
        original_max: usize,
    },
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max: usize,
    },
    Yarn {
        factor: f64,
        beta_fast: f64,
        beta_slow: f64,
        original_max: usize,
        attention_factor: f64,
        truncate: bool,
    },
    /// Phi-3: one table up to `original_max`, another beyond.
    LongRope {
        short: Vec<f64>,
        long: Vec<f64>,
        original_max: usize,
        attention_factor: f64,
    },
}

impl RopeSpec {
    /// Which rotary table a sequence of `len` tokens uses: keys computed under different classes differ. Always 0
    /// where the table does not depend on the length.
    pub fn length_class(&self, len: usize) -> u64 {
        match &self.scaling {
            RopeScaling::Dynamic { original_max, .. } if len > *original_max => len as u64,
            RopeScaling::LongRope { original_max, .. } if len > *original_max => 1,
            _ => 0,
        }
    }
}

/// A scaling asked for by the operator, in place of the checkpoint's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeOverride {
    Linear,
    Dynamic,
}

impl ModelSpec {
    /// See [`RopeSpec::length_class`], for all of the model's tables.
    pub fn length_class(&self, len: usize) -> u64 {
        self.ropes.iter().map(|rope| rope.length_class(len)).max().unwrap_or(0)
    }

    /// Replaces the scaling of every rotary table and stretches `max_positions` by `factor`.
    ///
    /// # Errors
    /// A factor that is not between 1 and 1,000,000.
    pub fn override_rope(&mut self, scaling: RopeOverride, factor: f64) -> Result<(), ModelError> {
        if !(1.0..=1e6).contains(&factor) {
            return Err(ModelError::RopeFactor { factor });
        }
        let original_max = self.max_positions;
        for rope in &mut self.ropes {
            rope.scaling = match scaling {
                RopeOverride::Linear => RopeScaling::Linear { factor },
                RopeOverride::Dynamic => RopeScaling::Dynamic { factor, original_max },
            };
        }
        self.max_positions = (original_max as f64 * factor) as usize;
        Ok(())
    }
}

/// A rotary table ready for use: fills cosines and sines for any positions.
///
/// The inverse frequencies, the angles and their cosines and sines are computed in f32, step by step as transformers
/// does, because at position 100,000 one bit of a frequency is a hundredth of a radian.
#[derive(Debug, Clone)]
pub struct Rope {
    table: Table,
    /// Multiplies cosines and sines.
    attention_factor: f32,
}

/// Inverse frequencies, `[rotary_dim / 2]` each.
#[derive(Debug, Clone)]
enum Table {
    Fixed(Vec<f32>),
    Dynamic { plain: Vec<f32>, rotary_dim: usize, base: f64, factor: f64, original_max: usize },
    Long { short: Vec<f32>, long: Vec<f32>, original_max: usize },
}

impl Rope {
    pub fn new(spec: &RopeSpec) -> Self {
        let plain = inverse_frequencies(spec.base as f32, spec.rotary_dim);
        let mut attention_factor = 1.0;
        let table = match &spec.scaling {
            RopeScaling::None => Table::Fixed(plain),
            RopeScaling::Linear { factor } => {
                Table::Fixed(plain.iter().map(|frequency| frequency / *factor as f32).collect())
            }
            RopeScaling::Dynamic { factor, original_max } => Table::Dynamic {
                plain,
                rotary_dim: spec.rotary_dim,
                base: spec.base,
                factor: *factor,
                original_max: *original_max,
            },
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max } => Table::Fixed(
                llama3(plain, *factor as f32, (*low_freq_factor, *high_freq_factor), *original_max),
            ),
            RopeScaling::Yarn { attention_factor: scale, .. } => {
                attention_factor = *scale as f32;
                Table::Fixed(yarn(spec))
            }
            RopeScaling::LongRope { short, long, original_max, attention_factor: scale } => {
                attention_factor = *scale as f32;
                let stretch = |factors: &[f64]| {
                    let powers = base_powers(spec.base as f32, spec.rotary_dim);
                    factors.iter().zip(powers).map(|(factor, power)| 1.0 / (*factor as f32 * power)).collect()
                };
                Table::Long { short: stretch(short), long: stretch(long), original_max: *original_max }
            }
        };
        Self { table, attention_factor }
    }

    /// Replaces `cos` and `sin` by `[T, rotary_dim / 2]` values for `T` tokens at `positions`, each under the table
    /// that a sequence of `rope_len[t]` tokens uses.
    pub fn fill(&self, positions: &[u32], rope_len: &[u32], cos: &mut Vec<f32>, sin: &mut Vec<f32>) {
        cos.clear();
        sin.clear();
        let mut table = (0, Cow::Borrowed(self.frequencies_for(0)));
        for (&position, &len) in positions.iter().zip(rope_len) {
            if table.0 != len {
                table = (len, self.frequencies(len as usize));
            }
            for frequency in table.1.iter() {
                let (s, c) = (position as f32 * frequency).sin_cos();
                cos.push(c * self.attention_factor);
                sin.push(s * self.attention_factor);
            }
        }
    }

    fn frequencies(&self, len: usize) -> Cow<'_, [f32]> {
        match &self.table {
            Table::Dynamic { rotary_dim, base, factor, original_max, .. } if len > *original_max => {
                Cow::Owned(inverse_frequencies(
                    grown_base(*base, *factor, *original_max, *rotary_dim, len),
                    *rotary_dim,
                ))
            }
            _ => Cow::Borrowed(self.frequencies_for(len)),
        }
    }

    /// The stored table for `len` tokens.
    fn frequencies_for(&self, len: usize) -> &[f32] {
        match &self.table {
            Table::Fixed(table) | Table::Dynamic { plain: table, .. } => table,
            Table::Long { long, original_max, .. } if len > *original_max => long,
            Table::Long { short, .. } => short,
        }
    }
}

/// `base^(2i / dim)`, `[dim / 2]`. The power is rounded once, from f64.
fn base_powers(base: f32, dim: usize) -> impl Iterator<Item = f32> {
    (0..dim / 2).map(move |i| f64::from(base).powf(f64::from((2 * i) as f32 / dim as f32)) as f32)
}

fn inverse_frequencies(base: f32, dim: usize) -> Vec<f32> {
    base_powers(base, dim).map(|power| 1.0 / power).collect()
}

/// Dynamic NTK's base for a sequence of `len` tokens, in f32 as the reference has it.
fn grown_base(base: f64, factor: f64, original_max: usize, dim: usize, len: usize) -> f32 {
    let growth = factor as f32 * len as f32 / original_max as f32 - (factor - 1.0) as f32;
    base as f32 * f64::from(growth).powf(dim as f64 / (dim as f64 - 2.0)) as f32
}

/// Long wavelengths are stretched by `factor`, short ones kept, those between blended.
fn llama3(plain: Vec<f32>, factor: f32, (low, high): (f64, f64), original_max: usize) -> Vec<f32> {
    let context = original_max as f64;
    let (low_wavelength, high_wavelength) = ((context / low) as f32, (context / high) as f32);
    plain
        .into_iter()
        .map(|frequency| {
            let wavelength = (1.0 / frequency) * (2.0 * PI) as f32;
            if wavelength > low_wavelength {
                return frequency / factor;
            }
            if wavelength < high_wavelength {
                return frequency;
            }
            let smooth = ((1.0 / wavelength) * context as f32 - low as f32) / (high - low) as f32;
            (1.0 - smooth) * frequency / factor + smooth * frequency
        })
        .collect()
}

/// Interpolates the slow dimensions, keeps the fast ones, ramps between.
fn yarn(spec: &RopeSpec) -> Vec<f32> {
    let RopeScaling::Yarn { factor, beta_fast, beta_slow, original_max, truncate, .. } = spec.scaling else {
        return Vec::new();
    };
    let dim = spec.rotary_dim as f64;
    let correction =
        |rotations: f64| dim * (original_max as f64 / (rotations * 2.0 * PI)).ln() / (2.0 * spec.base.ln());
    let (mut low, mut high) = (correction(beta_fast), correction(beta_slow));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dim - 1.0));
    if low == high {
        high += 0.001;
    }
    base_powers(spec.base as f32, spec.rotary_dim)
        .enumerate()
        .map(|(i, power)| {
            let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
            let keep = 1.0 - ramp;
            (1.0 / (factor as f32 * power)) * (1.0 - keep) + (1.0 / power) * keep
        })
        .collect()
}
