use weirgate_engine::EngineStats;
use weirgate_types::{Finish, RequestId, SeqOutput, StepStats, TokenOut, Usage};

use super::*;

fn metrics() -> Metrics {
    Metrics::new("a \"model\"", 1000, 2000, 16)
}

fn reading(engine: EngineStats) -> Reading {
    Reading { engine, ..Reading::default() }
}

fn lines(metrics: &Metrics) -> Vec<String> {
    metrics
        .render(&reading(EngineStats { prefix_hits: 5, ..EngineStats::default() }), &[])
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
        prefill: Duration::ZERO,
        total: Duration::from_secs(2),
        generated_tokens: 4,
        ..RequestFigures::default()
    });
    metrics.request_started();
    metrics.request_failed(FailureKind::Dropped, Duration::from_secs(3));
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
        "weirgate_request_duration_seconds_sum{model=\"a \\\"model\\\"\",outcome=\"success\"} 2",
        "weirgate_request_duration_seconds_sum{model=\"a \\\"model\\\"\",outcome=\"cancelled\"} 3",
        "weirgate_request_cancellations_total{model=\"a \\\"model\\\"\"} 1",
        "weirgate_prefix_cache_hit_tokens_total{model=\"a \\\"model\\\"\"} 5",
    ] {
        assert_line(&metrics, line);
    }
}

#[test]
fn steps_are_told_apart() {
    let metrics = metrics();
    let stats = StepStats {
        prefill_tokens: 3,
        schedule_time: Duration::from_secs(1),
        forward_time: Duration::from_secs(2),
        commit_time: Duration::from_secs(4),
        ..StepStats::default()
    };
    let step = |stats| StepOutputs { stats, ..StepOutputs::default() };
    metrics.observe_step(&step(stats));
    metrics.observe_step(&step(StepStats { decode_tokens: 2, ..stats }));
    let decode = StepStats { prefill_tokens: 0, decode_tokens: 2, ..stats };
    metrics.observe_step(&step(decode));
    metrics.observe_step(&step(StepStats { failed: true, ..decode }));
    // A message without a step.
    metrics.observe_step(&step(StepStats { prefill_tokens: 0, ..stats }));
    for line in [
        "tgi_batch_inference_count{method=\"prefill\"} 2",
        "tgi_batch_inference_count{method=\"decode\"} 2",
        "tgi_batch_inference_success{method=\"decode\"} 1",
        "tgi_batch_inference_failure{method=\"decode\"} 1",
        "tgi_batch_filter_duration_sum{method=\"decode\"} 1",
        "tgi_batch_forward_duration_sum{method=\"decode\"} 2",
        "tgi_batch_decode_duration_sum{method=\"decode\"} 4",
        "tgi_batch_inference_duration_sum{method=\"decode\"} 7",
        "tgi_batch_inference_duration_count{method=\"decode\"} 1",
    ] {
        assert_line(&metrics, line);
    }
}

#[test]
fn who_joins_those_that_pause_joins_them_too() {
    let metrics = metrics();
    for (running, decode_tokens) in [(1, 0), (3, 0), (1, 1)] {
        let update = SeqUpdate::Scheduled { cached_tokens: 0 };
        let outputs = vec![SeqOutput { request: RequestId(1), index: 0, update }];
        let stats = StepStats { prefill_tokens: 3, running, decode_tokens, ..StepStats::default() };
        metrics.observe_step(&StepOutputs { outputs, stats });
    }
    assert_line(&metrics, "tgi_batch_concat{reason=\"chunking\"} 2");
}

#[test]
fn skipped_tokens_are_per_sequence_and_step() {
    let metrics = metrics();
    let token = |request, index| SeqOutput {
        request: RequestId(request),
        index,
        update: SeqUpdate::Token(TokenOut { id: 0, logprob: 0.0, top: Vec::new() }),
    };
    let end = SeqOutput {
        request: RequestId(1),
        index: 0,
        update: SeqUpdate::Finished { reason: Finish::Length, usage: Usage::default() },
    };
    let outputs = vec![token(1, 0), token(1, 0), token(1, 0), end, token(1, 1), token(2, 1)];
    metrics.observe_step(&StepOutputs { outputs, ..StepOutputs::default() });
    metrics.observe_step(&StepOutputs { outputs: vec![token(2, 1)], ..StepOutputs::default() });
    metrics.observe_step(&StepOutputs::default());
    for line in [
        "tgi_request_skipped_tokens_bucket{le=\"0\"} 3",
        "tgi_request_skipped_tokens_bucket{le=\"1\"} 3",
        "tgi_request_skipped_tokens_bucket{le=\"2\"} 4",
        "tgi_request_skipped_tokens_sum 2",
    ] {
        assert_line(&metrics, line);
    }
}

#[test]
fn the_engine_is_shown_as_it_is() {
    let engine = EngineStats {
        running: 3,
        waiting: 2,
        inbox: 1,
        live_requests: 5,
        queued_requests: 2,
        used_blocks: 4,
        total_blocks: 16,
        ..EngineStats::default()
    };
    let text = metrics().render(&reading(engine), &[]);
    let model = "model=\"a \\\"model\\\"\"";
    for line in [
        "tgi_queue_size 3".to_owned(),
        "tgi_batch_current_size 3".to_owned(),
        "tgi_batch_current_max_tokens 64".to_owned(),
        "tgi_batch_max_total_tokens 256".to_owned(),
        format!("weirgate_requests_running{{{model}}} 3"),
        format!("weirgate_requests_waiting{{{model}}} 2"),
        format!("weirgate_kv_cache_utilization_ratio{{{model}}} 0.25"),
        format!("weirgate_cache_config_info{{{model},block_size=\"16\",num_gpu_blocks=\"16\"}} 1"),
    ] {
        assert!(text.lines().any(|l| l == line), "no line {line:?}");
    }
}

#[test]
fn every_series_has_one_type_line() {
    let text = lines(&metrics());
    let mut types: Vec<&String> = text.iter().filter(|l| l.starts_with("# TYPE")).collect();
    let all = types.len();
    types.sort_unstable();
    types.dedup();
    assert_eq!(types.len(), all);
    assert!(text.iter().all(|l| l.starts_with('#') || l.rsplit_once(' ').unwrap().1.parse::<f64>().is_ok()));
}

#[test]
fn models_share_families_and_differ_in_their_label() {
    let (pinned, other) = (metrics(), Metrics::new("other", 10, 20, 16));
    let engine = |total_blocks| reading(EngineStats { total_blocks, ..EngineStats::default() });
    let text = pinned.render(&engine(3), &[(&other, engine(5))]);
    let heads: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
    let mut unique = heads.clone();
    unique.dedup();
    assert_eq!(heads.len(), unique.len());
    let at = text.find("# TYPE weirgate_kv_blocks gauge\n").unwrap();
    let series: Vec<&str> = text[at..].lines().skip(1).take(2).collect();
    assert_eq!(
        series,
        ["weirgate_kv_blocks{model=\"a \\\"model\\\"\"} 3", "weirgate_kv_blocks{model=\"other\"} 5"]
    );
    assert_eq!(text.lines().filter(|line| line.starts_with("tgi_request_count ")).count(), 1);
}

#[test]
fn adapters_are_told_as_the_endpoint_picker_reads_them() {
    let changed = Some(UNIX_EPOCH + Duration::from_millis(1_800_000_000_500));
    let adapters = AdapterReading { max: 16, ready: "a,b \"c\"".into(), loading: "d".into(), changed };
    let text = metrics().render(&Reading { adapters, ..Reading::default() }, &[]);
    let line = "weirgate_lora_requests_info{model=\"a \\\"model\\\"\",max_lora=\"16\",\
                running_lora_adapters=\"a,b \\\"c\\\"\",waiting_lora_adapters=\"d\"} 1800000000.5";
    assert!(text.lines().any(|l| l == line), "{text}");
}
