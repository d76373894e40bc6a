//! The softmax of a row in fixed point.
//!
//! Token `i` has the integer weight `round(2^s * exp(logit[i] - max))`, and its probability is its weight over the
//! sum of all weights. `s` is 44, or what keeps the sum of a vocabulary beyond a million tokens below `2^63`. The
//! exponential is built from IEEE additions and multiplications of `f64` alone (no library call, nothing fused), so
//! every device computes the same integer.

use std::f64::consts::{LN_2, LOG2_E};

/// Logits that are looked at together; a whole block is skipped when its maximum is too small.
pub(super) const BLOCK: usize = 64;
const MAX_SCALE_BITS: u32 = 44;
/// Beyond this distance from the maximum a weight is 0 for any scale.
const FAR: f64 = 64.0;
/// Adding it rounds a number in `(-2^51, 2^51)` to an integer, found in the low bits of the sum.
const ROUND_SIGNED: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52
/// The same for numbers in `[0, 2^52)`.
const ROUND_UNSIGNED: f64 = 4_503_599_627_370_496.0; // 2^52
/// The leading 32 bits of ln 2, whose product with a small integer is exact, and the rest.
const LN_2_HIGH: f64 = f64::from_bits(LN_2.to_bits() & !0x1F_FFFF);
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;

/// A token and its logit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peak {
    pub id: u32,
    pub logit: f32,
}

/// `s` for a row of `vocab` tokens.
pub(super) fn scale_bits(vocab: usize) -> u32 {
    (vocab as u64).leading_zeros().saturating_sub(1).min(MAX_SCALE_BITS)
}

/// `2^bits * exp(-distance)` for `distance >= 0`, relative error below `2^-46`. NaN and infinity count as [`FAR`].
#[inline(always)]
pub(super) fn scaled_exp(distance: f64, bits: u32) -> f64 {
    let d = if distance < FAR { distance } else { FAR };
    let rounded = d * LOG2_E + ROUND_SIGNED;
    let halvings = rounded - ROUND_SIGNED;
    // exp(-d) = 2^-halvings * exp(x) with |x| <= ln(2) / 2, where the Taylor series to degree 11 is good to 2^-47.
    let x = (halvings * LN_2_HIGH - d) + halvings * LN_2_LOW;
    let mut sum = INVERSE_FACTORIALS[11];
    for degree in (0..11).rev() {
        sum = sum * x + INVERSE_FACTORIALS[degree];
    }
    let exponent = u64::from(1023 + bits).wrapping_sub(rounded.to_bits());
    sum * f64::from_bits(exponent << 52)
}

const INVERSE_FACTORIALS: [f64; 12] = {
    let mut table = [1.0; 12];
    let mut factorial = 1.0;
    let mut n = 1;
    while n < table.len() {
        factorial *= n as f64;
        table[n] = 1.0 / factorial;
        n += 1;
    }
    table
};

/// Rounds `x` in `[0, 2^52)` to the nearest integer.
#[inline(always)]
fn to_integer(x: f64) -> u64 {
    (x + ROUND_UNSIGNED).to_bits() - ROUND_UNSIGNED.to_bits()
}

/// A weight, and the same weighted with the distance from the maximum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Weighed {
    pub weight: u64,
    pub moment: u64,
}

impl Weighed {
    #[inline(always)]
    fn of(logit: f32, max: f32, bits: u32) -> Self {
        let distance = f64::from(max) - f64::from(logit);
        let d = if distance < FAR { distance } else { FAR };
        let exp = scaled_exp(d, bits);
        Self { weight: to_integer(exp), moment: to_integer(d * exp) }
    }

    /// The mean distance from the maximum.
    pub(super) fn mean_distance(self) -> f64 {
        self.moment as f64 / self.weight as f64
    }
}

impl std::ops::AddAssign for Weighed {
    #[inline(always)]
    fn add_assign(&mut self, other: Self) {
        self.weight += other.weight;
        self.moment += other.moment;
    }
}

/// The distribution of a whole row, before filters.
#[derive(Debug, Default)]
pub(super) struct Distribution {
    max: f32,
    bits: u32,
    /// The largest logit of each block; NaN is passed over.
    block_max: Vec<f32>,
    /// The weight of each block; empty until it is asked for.
    block_weight: Vec<u64>,
    /// The sum of `round(2^s * distance * exp(-distance))`, known with `block_weight`.
    moment: u64,
    /// Work space to find the `n`-th largest block maximum.
    select: Vec<f32>,
}

impl Distribution {
    /// Looks the row over; its most likely token (lowest id on ties), unless all logits are NaN or `-inf`.
    pub(super) fn scan(&mut self, logits: &[f32]) -> Option<Peak> {
        self.bits = scale_bits(logits.len());
        self.block_weight.clear();
        self.block_max.clear();
        self.block_max.extend(logits.chunks(BLOCK).map(largest));
        self.max = largest(&self.block_max);
        if self.max == f32::NEG_INFINITY {
            return None;
        }
        let block = self.block_max.iter().position(|&x| x == self.max)?;
        let within = logits.chunks(BLOCK).nth(block)?.iter().position(|&x| x == self.max)?;
        Some(Peak { id: (block * BLOCK + within) as u32, logit: self.max })
    }

    /// Divides the row by the temperature. Where that would overflow, the maximum is moved to 0 first.
    pub(super) fn temper(&mut self, logits: &mut [f32], temperature: f32) {
        self.block_weight.clear();
        let shift = if (self.max / temperature).is_finite() { 0.0 } else { self.max };
        // Division is monotone, so the maxima stay maxima.
        for values in [logits, &mut self.block_max, std::slice::from_mut(&mut self.max)] {
            for x in values {
                *x = (*x - shift) / temperature;
            }
        }
    }

    /// The largest logit, at which weights are `2^s`.
    pub(super) fn max(&self) -> f32 {
        self.max
    }

    /// How far below the maximum a logit lies; never `-0`, so that equal logits have the same bits.
    #[inline(always)]
    pub(super) fn distance(&self, logit: f32) -> f64 {
        f64::from(self.max) - f64::from(logit) + 0.0
    }

    /// The weight of a token, and its weight times its distance, rounded.
    #[inline]
    pub(super) fn weigh(&self, logit: f32) -> Weighed {
        Weighed::of(logit, self.max, self.bits)
    }

    /// The weights of all blocks, in order.
    pub(super) fn block_weights(&mut self, logits: &[f32]) -> &[u64] {
        if self.block_weight.is_empty() {
            self.moment = 0;
            for block in logits.chunks(BLOCK) {
                let sum = weigh_all(block, self.max, self.bits);
                self.block_weight.push(sum.weight);
                self.moment += sum.moment;
            }
        }
        &self.block_weight
    }

    /// The sums over the whole row.
    pub(super) fn weigh_row(&mut self, logits: &[f32]) -> Weighed {
        let weight = self.block_weights(logits).iter().sum();
        Weighed { weight, moment: self.moment }
    }

    /// `ln(sum of exp(logit - max))` from the sum of the weights.
    pub(super) fn log_total(&self, total: u64) -> f64 {
        (total as f64).ln() - f64::from(self.bits) * LN_2
    }

    /// Measures distances and weights from `max` from now on.
    pub(super) fn set_max(&mut self, max: f32) {
        self.max = max;
        self.block_weight.clear();
    }

    /// A distance within which at least `n` tokens lie (all of them, if the row has too few blocks to tell).
    pub(super) fn reach(&mut self, n: usize) -> f64 {
        self.select.clear();
        self.select.extend_from_slice(&self.block_max);
        if n == 0 || n > self.select.len() {
            return f64::INFINITY;
        }
        // `n` blocks have a maximum at least as large as the `n`-th largest one.
        let (_, &mut nth, _) = self.select.select_nth_unstable_by(n - 1, |x, y| y.total_cmp(x));
        self.distance(nth)
    }

    /// Calls `take(id, logit, distance)` in id order for each possible token at most `reach` below the maximum.
    pub(super) fn for_each_within(&self, logits: &[f32], reach: f64, mut take: impl FnMut(u32, f32, f64)) {
        for (block, (stretch, &max)) in logits.chunks(BLOCK).zip(&self.block_max).enumerate() {
            if self.distance(max) > reach {
                continue;
            }
            for (id, &logit) in ((block * BLOCK) as u32..).zip(stretch) {
                let distance = self.distance(logit);
                if distance <= reach && distance < f64::INFINITY {
                    take(id, logit, distance);
                }
            }
        }
    }
}

/// The maximum; NaN is passed over, and nothing is `-inf`.
#[inline]
fn largest(values: &[f32]) -> f32 {
    let greater = |best: f32, x: f32| if x > best { x } else { best };
    let (chunks, rest) = values.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = greater(*lane, x);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, greater)
}

#[inline(always)]
fn weigh_all_portable(logits: &[f32], max: f32, bits: u32) -> Weighed {
    let mut sum = Weighed::default();
    for &logit in logits {
        sum += Weighed::of(logit, max, bits);
    }
    sum
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn weigh_all_avx2(logits: &[f32], max: f32, bits: u32) -> Weighed {
    weigh_all_portable(logits, max, bits)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq")]
fn weigh_all_avx512(logits: &[f32], max: f32, bits: u32) -> Weighed {
    weigh_all_portable(logits, max, bits)
}

/// The sums over `logits`; the same integers whatever the instruction set.
#[allow(unsafe_code)]
fn weigh_all(logits: &[f32], max: f32, bits: u32) -> Weighed {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
            // SAFETY: the processor has the features that the function is compiled for.
            return unsafe { weigh_all_avx512(logits, max, bits) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { weigh_all_avx2(logits, max, bits) };
        }
    }
    weigh_all_portable(logits, max, bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaled_exp_is_accurate_and_exact_at_zero() {
        assert_eq!(scaled_exp(0.0, 44), (44f64).exp2());
        for step in 0..200_000 {
            let d = f64::from(step) * 3.1e-4;
            let (got, want) = (scaled_exp(d, 0), (-d).exp());
            assert!((got / want - 1.0).abs() < (-46f64).exp2(), "exp(-{d}) = {got}, expected {want}");
        }
    }

    #[test]
    fn scaled_exp_vanishes_far_from_the_maximum() {
        for d in [64.0, 1e9, f64::INFINITY, f64::NAN] {
            assert_eq!(to_integer(scaled_exp(d, MAX_SCALE_BITS)), 0, "distance {d}");
        }
    }

    #[test]
    fn the_sum_of_the_largest_weights_fits() {
        for vocab in [1usize, 2, 1000, 1 << 19, (1 << 20) + 1, 1 << 24, u32::MAX as usize] {
            let sum = (vocab as u128) << scale_bits(vocab);
            assert!(sum <= 1 << 63, "vocab {vocab}: {sum}");
        }
        assert_eq!(scale_bits(262_144), MAX_SCALE_BITS);
    }

    #[test]
    fn sums_match_the_definition_and_do_not_depend_on_the_vector_width() {
        let logits: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1009) as f32 * 0.037 - 20.0).collect();
        let max = largest(&logits);
        for stretch in logits.chunks(61) {
            let got = weigh_all(stretch, max, 44);
            assert_eq!(got, weigh_all_portable(stretch, max, 44));
            let (mut weight, mut moment) = (0.0, 0.0);
            for &x in stretch {
                let d = f64::from(max) - f64::from(x);
                weight += ((-d).exp() * 44f64.exp2()).round();
                moment += (d * (-d).exp() * 44f64.exp2()).round();
            }
            assert!((got.weight as f64 - weight).abs() <= 61.0 + weight * 2e-14, "{got:?} against {weight}");
            assert!((got.moment as f64 - moment).abs() <= 61.0 + moment * 2e-14, "{got:?} against {moment}");
        }
    }
}
