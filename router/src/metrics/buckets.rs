//! Upper bounds of the histograms. Those of `tgi_*` are text-generation-inference's (reference/tgi.md §2d).

/// Durations: 0.0001·1.5^k seconds, k = 1..=35.
pub(super) fn durations() -> Vec<f64> {
    let mut bound = 0.0001;
    (0..35)
        .map(|_| {
            bound *= 1.5;
            bound
        })
        .collect()
}

/// 100 linear steps up to `max` tokens.
pub(super) fn tokens(max: usize) -> Vec<f64> {
    (1..=100).map(|step| max as f64 / 100.0 * f64::from(step)).collect()
}

/// 1, 2, ... 1024 sequences.
pub(super) fn batch_sizes() -> Vec<f64> {
    (1..=1024).map(f64::from).collect()
}

/// Tokens that speculation won in one step: 0, 1, ... 16.
pub(super) fn skipped() -> Vec<f64> {
    (0..=16).map(f64::from).collect()
}

/// Seconds, for what a person feels.
pub(super) fn latencies() -> Vec<f64> {
    vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0]
}

/// Seconds, for whole requests.
pub(super) fn whole_requests() -> Vec<f64> {
    vec![0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0]
}
