//! Both versions of Mirostat (Basu et al., arXiv 2007.14966), as llama.cpp has them.

use std::f64::consts::LN_2;

use super::filters::{Candidates, Ranked};
use super::weights::Distribution;

/// So many of the most likely tokens tell the exponent of the distribution.
const FITTED: usize = 100;

impl Candidates {
    /// Keeps the most likely tokens, as many as have the expected surprise `surprise` (bits) under Zipf's law.
    pub(super) fn mirostat_1(&mut self, logits: &[f32], dist: &Distribution, surprise: f32) {
        let ranked = self.ranked(logits, dist);
        let kept = zipf_cut(exponent(ranked), f64::from(surprise), logits.len());
        self.keep_ranked(dist, kept);
    }

    /// Keeps the tokens whose surprise is at most `surprise` (bits); at least the most likely one.
    pub(super) fn mirostat_2(&mut self, logits: &[f32], dist: &mut Distribution, surprise: f32) {
        let certain = self.log_total(logits, dist);
        let ranked = self.ranked(logits, dist);
        // -ln p is the distance from the maximum and what the maximum itself lacks to certainty.
        let reach = f64::from(surprise) * LN_2 - certain;
        let kept = ranked.partition_point(|token| token.key <= reach);
        self.keep_ranked(dist, kept);
    }
}

/// The exponent of Zipf's law that fits best (least squares): `ln(p[i] / p[i + 1])` is that many times
/// `ln((i + 2) / (i + 1))`.
fn exponent(ranked: &[Ranked]) -> f64 {
    let steps = ranked.iter().zip(ranked.iter().skip(1)).take(FITTED - 1);
    let (mut products, mut squares) = (0.0, 0.0);
    for (at, (likelier, next)) in (1u32..).zip(steps) {
        let t = (f64::from(at + 1) / f64::from(at)).ln();
        products += t * (next.key - likelier.key);
        squares += t * t;
    }
    products / squares
}

/// How many of `vocab` tokens to keep; all where the fit says nothing.
fn zipf_cut(exponent: f64, surprise: f64, vocab: usize) -> usize {
    let excess = exponent - 1.0;
    let k = (excess * surprise.exp2() / (1.0 - (vocab as f64).powf(-excess))).powf(exponent.recip());
    if k.is_nan() { vocab } else { k.clamp(1.0, vocab as f64) as usize }
}
