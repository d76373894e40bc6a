//! The sampling op: from one row of logits to a token, in the order that [`SampleParams`] documents.
//!
//! A row that is drawn from goes through four stages. Penalties edit the logits in place. The temperature divides
//! them. Filters reduce the row to a list of candidates, or leave it whole. The choice walks the integer weights of
//! what is left (see [`weights`]) in ascending id order.
//!
//! Weights are integers so that every sum is exact: it does not depend on the order of the additions, hence not on
//! vector width or device. With [`rng`] this makes a draw from the same `f32` logits reproducible bit for bit
//! anywhere. Inverse-CDF was preferred to Gumbel-max because it needs one variate instead of one per token.

mod filters;
mod mirostat;
mod penalties;
mod rng;
mod tail_free;
mod watermark;
mod weights;

use crate::{FilterOrder, Mirostat, SampleParams, SampleRow, Sampled};
use filters::Candidates;
use penalties::Tally;
use watermark::GreenList;
use weights::Distribution;

/// Buffers reused from row to row; nothing is allocated once they have grown to the vocabulary and the history.
#[derive(Debug, Default)]
pub(crate) struct SampleScratch {
    tally: Tally,
    green: GreenList,
    dist: Distribution,
    candidates: Candidates,
}

/// Draws one token from `logits` `[vocab]`, which it overwrites. See [`sample_row`].
pub fn sample_logits(logits: &mut [f32], row: &SampleRow<'_>) -> Sampled {
    sample_row(logits, row, &mut SampleScratch::default())
}

/// Draws one token from `logits` `[vocab]`, which it overwrites.
///
/// A NaN logit counts as `-inf`. A row without a finite maximum has no distribution: the answer is then its most
/// likely token if there is one (`+inf`), else the lowest id that the bans and the mask leave, else 0, with log-probability
/// `-inf` and no top tokens.
pub(crate) fn sample_row(logits: &mut [f32], row: &SampleRow<'_>, scratch: &mut SampleScratch) -> Sampled {
    let params = row.params;
    adjust(logits, row, scratch);
    let SampleScratch { dist, candidates, .. } = scratch;
    let Some(peak) = dist.scan(logits) else {
        return no_distribution(lowest_allowed(logits.len(), row));
    };
    if !peak.logit.is_finite() {
        return no_distribution(peak.id);
    }
    candidates.reset();
    let chosen = match params.seed {
        None => peak,
        Some(seed) => {
            filter(logits, row, dist, candidates);
            candidates.choose(logits, dist, rng::bits(seed, row.draw)).unwrap_or(peak)
        }
    };
    let (max, log_total) = (f64::from(dist.max()), candidates.log_total(logits, dist));
    let logprob = |logit: f32| (f64::from(logit) - max - log_total) as f32;
    let top = match params.top_n {
        0 => Vec::new(),
        n => candidates.top(logits, dist, n as usize).iter().map(|c| (c.id, logprob(c.logit))).collect(),
    };
    Sampled { token: chosen.id, logprob: logprob(chosen.logit), top }
}

/// The steps that edit single logits: watermark, penalties, bias, bans, mask.
fn adjust(logits: &mut [f32], row: &SampleRow<'_>, scratch: &mut SampleScratch) {
    if let (Some((gamma, delta)), Some(&previous)) = (row.params.watermark, row.history.last()) {
        scratch.green.favour(logits, previous, gamma, delta);
    }
    penalties::apply(logits, row, &mut scratch.tally);
    for &(id, bias) in &row.params.logit_bias {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit += bias;
        }
    }
    for &id in row.banned {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
    if let Some(mask) = row.mask {
        apply_mask(logits, mask);
    }
}

fn apply_mask(logits: &mut [f32], mask: &[u32]) {
    for (logits, &word) in logits.chunks_mut(32).zip(mask.iter().chain(std::iter::repeat(&0))) {
        match word {
            0 => logits.fill(f32::NEG_INFINITY),
            u32::MAX => {}
            _ => {
                for (bit, logit) in logits.iter_mut().enumerate() {
                    if (word >> bit) & 1 == 0 {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

/// Temperature and filters.
fn filter(logits: &mut [f32], row: &SampleRow<'_>, dist: &mut Distribution, candidates: &mut Candidates) {
    let params = row.params;
    match (params.mirostat, params.order) {
        (Some(version), _) => {
            candidates.temper(logits, dist, params.temperature);
            match version {
                Mirostat::V1 => candidates.mirostat_1(logits, dist, row.surprise),
                Mirostat::V2 => candidates.mirostat_2(logits, dist, row.surprise),
            }
        }
        (None, FilterOrder::TemperatureFirst) => {
            candidates.temper(logits, dist, params.temperature);
            shorten(logits, params, dist, candidates);
            top_p(logits, params, dist, candidates);
            typical_p(logits, params, dist, candidates);
            min_p(logits, params, dist, candidates);
        }
        (None, FilterOrder::TemperatureLast) => {
            shorten(logits, params, dist, candidates);
            typical_p(logits, params, dist, candidates);
            top_p(logits, params, dist, candidates);
            min_p(logits, params, dist, candidates);
            candidates.temper(logits, dist, params.temperature);
        }
    }
}

/// Top-k, then tail-free: first in both orders.
fn shorten(logits: &[f32], params: &SampleParams, dist: &mut Distribution, candidates: &mut Candidates) {
    let k = params.top_k as usize;
    if k > 0 && k < logits.len() {
        candidates.top_k(logits, dist, k);
    }
    if params.tfs_z < 1.0 {
        candidates.tail_free(logits, dist, params.tfs_z);
    }
}

fn top_p(logits: &[f32], params: &SampleParams, dist: &mut Distribution, candidates: &mut Candidates) {
    if params.top_p < 1.0 {
        candidates.top_p(logits, dist, params.top_p);
    }
}

fn typical_p(logits: &[f32], params: &SampleParams, dist: &mut Distribution, candidates: &mut Candidates) {
    if params.typical_p < 1.0 {
        candidates.typical_p(logits, dist, params.typical_p);
    }
}

fn min_p(logits: &[f32], params: &SampleParams, dist: &mut Distribution, candidates: &mut Candidates) {
    if params.min_p > 0.0 {
        candidates.min_p(logits, dist, params.min_p);
    }
}

fn lowest_allowed(vocab: usize, row: &SampleRow<'_>) -> u32 {
    (0..vocab as u32).find(|&id| row.allows(id)).unwrap_or(0)
}

fn no_distribution(token: u32) -> Sampled {
    Sampled { token, logprob: f32::NEG_INFINITY, top: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FrequencyPenalty;

    #[test]
    fn what_earlier_rows_left_in_the_scratch_changes_nothing() {
        let mut scratch = SampleScratch::default();
        let seed = Some(9);
        let settings = [
            SampleParams {
                seed,
                top_p: 0.9,
                typical_p: 0.8,
                repetition_penalty: 1.3,
                ..SampleParams::default()
            },
            SampleParams { watermark: Some((0.5, 2.0)), top_n: 4, ..SampleParams::default() },
            SampleParams {
                seed,
                top_n: 3,
                frequency_penalty: FrequencyPenalty::Count(2.0),
                ..SampleParams::default()
            },
            SampleParams { seed, typical_p: 0.5, top_n: 50, temperature: 0.5, ..SampleParams::default() },
        ];
        for draw in 0..200 {
            // Vocabularies grow and shrink, and some rows have no distribution.
            let vocab = [700, 3, 130, 64, 1][draw % 5];
            let logit =
                |i: usize| if draw % 11 == 0 { f32::NAN } else { ((i * 37 + draw * 11) % 101) as f32 / 9.0 };
            let logits: Vec<f32> = (0..vocab).map(logit).collect();
            let history = [draw as u32, 2, 600, 2, 63];
            let params = &settings[draw % 4];
            let row = SampleRow {
                params,
                history: &history,
                prompt_len: 1,
                draw: draw as u64,
                surprise: 0.0,
                banned: &[],
                mask: None,
            };
            let reused = sample_row(&mut logits.clone(), &row, &mut scratch);
            assert_eq!(reused, sample_logits(&mut logits.clone(), &row), "row {draw}");
        }
    }
}
