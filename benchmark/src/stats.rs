//! Summaries of measured values.

use serde::Serialize;

/// A distribution in a few numbers, in the unit of its values. Quantiles are nearest-rank: values that were measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Summary {
    pub count: usize,
    pub mean: f64,
    pub min: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Summary {
    /// All zero for no values.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let sum: f64 = sorted.iter().sum();
        Self {
            count,
            mean: sum / count.max(1) as f64,
            min: quantile(&sorted, 0.0),
            p50: quantile(&sorted, 0.50),
            p90: quantile(&sorted, 0.90),
            p99: quantile(&sorted, 0.99),
            max: quantile(&sorted, 1.0),
        }
    }
}

/// The smallest of the ascending `sorted` values that at least a share `q` of them does not exceed.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// Counts of `values` in `bins` equal parts of the range from their least to their 99th percentile; what lies above
/// is counted in the last part. Each with its lower edge.
pub fn histogram(values: &[f64], bins: usize) -> Vec<(f64, u64)> {
    let summary = Summary::of(values);
    let width = (summary.p99 - summary.min) / bins as f64;
    let mut counts: Vec<(f64, u64)> = (0..bins).map(|bin| (summary.min + bin as f64 * width, 0)).collect();
    for value in values {
        let bin = if width > 0.0 { ((value - summary.min) / width) as usize } else { 0 };
        if let Some((_, count)) = counts.get_mut(bin.min(bins.saturating_sub(1))) {
            *count += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_measured_values() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let summary = Summary::of(&values);
        assert_eq!((summary.p50, summary.p90, summary.p99), (50.0, 90.0, 99.0));
        assert_eq!((summary.min, summary.max, summary.mean, summary.count), (1.0, 100.0, 50.5, 100));
        assert_eq!(Summary::of(&[7.0]).p99, 7.0);
        assert_eq!(Summary::of(&[]), Summary::default());
    }

    #[test]
    fn every_value_is_counted_once() {
        let values = [1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 5.0];
        let bins = histogram(&values, 4);
        assert_eq!(bins.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [2, 1, 1, 3]);
        assert_eq!(bins.iter().map(|(edge, _)| *edge).collect::<Vec<_>>(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(histogram(&[3.0, 3.0], 2), [(3.0, 2), (3.0, 0)]);
        assert!(histogram(&[], 3).iter().all(|(_, count)| *count == 0));
    }
}
