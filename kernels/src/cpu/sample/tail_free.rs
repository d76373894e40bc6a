//! Tail-free sampling (T. Phillips, "Tail Free Sampling", 2019), as llama.cpp has it.

use super::filters::{Candidates, Ranked};
use super::weights::Distribution;

/// A curve whose second derivative sums up to less than this share of the weight is flat: all its points count alike.
const FLAT: f64 = 1e-6;

impl Candidates {
    /// Keeps likely tokens up to where the magnitudes of the sorted probabilities' second derivative have given more
    /// than the share `z` of their sum; at least one.
    pub(super) fn tail_free(&mut self, logits: &[f32], dist: &Distribution, z: f32) {
        let ranked = self.ranked(logits, dist);
        if let Some(kept) = before_tail(ranked, f64::from(z)) {
            self.keep_ranked(dist, kept);
        }
    }
}

/// How many tokens lie before the tail, if there is one.
fn before_tail(ranked: &[Ranked], z: f64) -> Option<usize> {
    // Weights in place of probabilities: only shares matter, and integers add up exactly.
    let curvature = || {
        ranked.windows(3).map(|three| match three {
            [a, b, c] => {
                (i128::from(a.amount) - 2 * i128::from(b.amount) + i128::from(c.amount)).unsigned_abs()
            }
            _ => 0,
        })
    };
    let sum: u128 = curvature().sum();
    let total: u128 = ranked.iter().map(|token| u128::from(token.amount)).sum();
    let flat = sum as f64 <= FLAT * total as f64;
    let count = ranked.len().saturating_sub(2);
    let mut passed = 0;
    curvature().enumerate().position(|(at, value)| {
        passed += if flat { 1 } else { value };
        let share = passed as f64 / if flat { count as f64 } else { sum as f64 };
        share > z && at >= 1
    })
}
