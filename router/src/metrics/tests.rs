use weirgate_engine::EngineStats;
use weirgate_types::StepStats;

use super::*;

fn metrics() -> Metrics {
    Metrics::new("a \"model\"", 1000, 2000, 16)
}

fn lines(metrics: &Metrics) -> Vec<String> {
    metrics
        .render(&EngineStats { prefix_hits: 5, ..EngineStats::default() })
        .lines()
        .map(str::to_owned)
        .collect()
}

#[track_caller]
fn assert_line(metrics: &Metrics, line: &str) {
    assert!(lines(metrics).iter().any(|l| l == line), "no line {line:?}");
}

#[test]
fn buckets_are_tgis() {
    let metrics = metrics();
    let text = lines(&metrics);
    let bounds = |name: &str| -> Vec<f64> {
        let prefix = format!("{name}_bucket{{le=\"");
        text.iter()
            .filter_map(|l| l.strip_prefix(&prefix)?.split('"').next()?.parse().ok())
            .filter(|bound: &f64| bound.is_finite())
            .collect()
    };
    assert_line(&metrics, "tgi_request_duration_bucket{le=\"0.00015000000000000001\"} 0");
    let durations = bounds("tgi_request_duration");
    assert_eq!(durations.len(), 35);
    assert!((durations[34] - 145.6).abs() < 0.1, "{}", durations[34]);
    assert_eq!(bounds("tgi_request_input_length")[..3], [10.0, 20.0, 30.0]);
    assert_eq!(bounds("tgi_request_generated_tokens").last(), Some(&2000.0));
    assert_eq!(bounds("tgi_batch_next_size").len(), 1024);
}

#[test]
fn a_request_is_counted_once() {
    let metrics = metrics();
    metrics.request_started();
    metrics.request_validated(20, 5000);
    metrics.request_succeeded(&RequestFigures {
        inference: Duration::from_secs(1),
        total: Duration::from_secs(2),
        generated_tokens: 4,
        ..RequestFigures::default()
    });
    metrics.request_started();
    metrics.request_failed(FailureKind::Dropped);
    for line in [
        "tgi_request_count 2",
        "tgi_request_success 1",
        "tgi_request_failure{err=\"dropped\"} 1",
        "tgi_request_failure{err=\"overloaded\"} 0",
        "tgi_request_input_length_bucket{le=\"10\"} 0",
        "tgi_request_input_length_bucket{le=\"20\"} 1",
        "tgi_request_max_new_tokens_sum 1024",
        "tgi_request_mean_time_per_token_duration_sum 0.25",
        "tgi_request_duration_count 1",
        "weirgate_request_cancellations_total{model=\"a \\\"model\\\"\"} 1",
        "weirgate_prefix_cache_hit_tokens_total{model=\"a \\\"model\\\"\"} 5",
    ] {
        assert_line(&metrics, line);
    }
}

#[test]
fn steps_are_told_apart() {
    let metrics = metrics();
    let stats =
        StepStats { prefill_tokens: 3, running: 2, waiting: 1, used_blocks: 4, ..StepStats::default() };
    metrics.observe_step(&StepOutputs { stats, ..StepOutputs::default() });
    metrics.observe_step(&StepOutputs {
        stats: StepStats { decode_tokens: 2, ..stats },
        ..StepOutputs::default()
    });
    let decode = StepStats { prefill_tokens: 0, decode_tokens: 2, running: 2, ..StepStats::default() };
    metrics.observe_step(&StepOutputs { stats: decode, ..StepOutputs::default() });
    assert_line(&metrics, "tgi_batch_inference_count{method=\"prefill\"} 2");
    assert_line(&metrics, "tgi_batch_inference_count{method=\"decode\"} 1");
    assert_line(&metrics, "tgi_batch_current_size 2");
    assert_line(&metrics, "tgi_queue_size 0");
}

#[test]
fn every_series_has_one_type_line() {
    let text = lines(&metrics());
    let mut types: Vec<&String> = text.iter().filter(|l| l.starts_with("# TYPE")).collect();
    let all = types.len();
    types.dedup();
    assert_eq!(types.len(), all);
    assert!(text.iter().all(|l| l.starts_with('#') || l.rsplit_once(' ').unwrap().1.parse::<f64>().is_ok()));
}
