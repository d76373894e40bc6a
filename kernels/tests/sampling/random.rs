//! Random logits and settings.

use proptest::prelude::*;
use weirgate_kernels::{FilterOrder, FrequencyPenalty, Mirostat, SampleParams};

pub const NEG: f32 = f32::NEG_INFINITY;

/// A reproducible stream of numbers that has nothing to do with the sampler's generator.
pub struct Noise(pub u64);

impl Noise {
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as f64 + 0.5) / (1u64 << 31) as f64
    }

    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    pub fn logits(&mut self, len: usize, spread: f64) -> Vec<f32> {
        (0..len).map(|_| (self.normal() * spread) as f32).collect()
    }
}

pub fn some_or<T: Clone + std::fmt::Debug>(
    neutral: T,
    on: impl Strategy<Value = T>,
) -> impl Strategy<Value = T> {
    prop_oneof![Just(neutral), on]
}

pub fn any_params() -> impl Strategy<Value = SampleParams> {
    let filters = (
        some_or(1.0, 0.2f32..3.0),
        some_or(0, 1u32..2100),
        some_or(1.0, prop_oneof![0.0f32..1.0, 0.99f32..1.0]),
        some_or(1.0, 0.01f32..0.999),
        some_or(0.0, prop_oneof![0.0f32..=1.0, 1e-9f32..1e-3]),
        some_or(1.0, 0.01f32..0.999),
        prop_oneof![Just(FilterOrder::TemperatureFirst), Just(FilterOrder::TemperatureLast)],
        some_or(None, prop_oneof![Just(Some(Mirostat::V1)), Just(Some(Mirostat::V2))]),
    );
    let frequency = prop_oneof![
        (-2.0f32..2.0).prop_map(FrequencyPenalty::Count),
        (-9.0f32..9.0).prop_map(FrequencyPenalty::Relative),
    ];
    let penalties = (
        some_or(1.0, 0.5f32..2.0),
        some_or(FrequencyPenalty::Count(0.0), frequency),
        some_or(0.0, -2.0f32..2.0),
        prop::collection::vec((0u32..2100, -20.0f32..20.0), 0..4),
        some_or(None, (0.0f32..1.0, -3.0f32..3.0).prop_map(Some)),
        some_or(None, (0u32..70).prop_map(Some)),
        some_or(None, (0u32..2100).prop_map(Some)),
    );
    (prop::option::weighted(0.85, any::<u64>()), filters, penalties).prop_map(|(seed, filters, penalties)| {
        let (temperature, top_k, top_p, typical_p, min_p, tfs_z, order, mirostat) = filters;
        let (repetition_penalty, frequency_penalty, presence_penalty, logit_bias, watermark, window, exempt) =
            penalties;
        SampleParams {
            seed,
            temperature,
            top_k,
            top_p,
            typical_p,
            min_p,
            tfs_z,
            order,
            mirostat,
            repetition_penalty,
            frequency_penalty,
            presence_penalty,
            penalty_window: window,
            penalty_exempt: exempt,
            logit_bias,
            watermark,
            top_n: 2000,
        }
    })
}

/// Rows with all values apart, with many equal ones, or with a few tokens far above the rest; some impossible ones.
pub fn any_logits() -> impl Strategy<Value = Vec<f32>> {
    (1usize..2000, any::<u64>(), 0.01f64..8.0, 0..3, some_or(0.0, 0.0f64..0.9)).prop_map(
        |(len, seed, spread, kind, holes)| {
            let mut noise = Noise(seed);
            let mut logits = noise.logits(len, spread);
            for x in &mut logits {
                match kind {
                    0 => {}
                    1 => *x = (*x * 2.0).round() / 2.0,
                    _ if noise.uniform() < 0.005 => *x += 20.0,
                    _ => {}
                }
                if noise.uniform() < holes {
                    *x = NEG;
                }
            }
            if logits.iter().all(|&x| x == NEG) {
                logits[len / 2] = 0.0;
            }
            logits
        },
    )
}
