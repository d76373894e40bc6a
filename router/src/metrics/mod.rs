//! What `/metrics` says: TGI's series (reference/tgi.md §2d, same names, types and buckets) and Weirgate's own.

mod render;
mod series;

use std::time::Duration;

use weirgate_types::{SeqUpdate, StepOutputs};

use series::{Counter, Gauge, Histogram};

/// Labels of `tgi_request_failure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    Overloaded,
    Validation,
    Template,
    Incomplete,
    /// The client went away.
    Dropped,
    Generation,
}

impl FailureKind {
    const ALL: [Self; 6] = [
        Self::Overloaded,
        Self::Validation,
        Self::Template,
        Self::Incomplete,
        Self::Dropped,
        Self::Generation,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::Overloaded => "overloaded",
            Self::Validation => "validation",
            Self::Template => "template",
            Self::Incomplete => "incomplete",
            Self::Dropped => "dropped",
            Self::Generation => "generation",
        }
    }
}

/// Times and counts of one request that ended well.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct RequestFigures {
    pub validation: Duration,
    pub queue: Duration,
    pub inference: Duration,
    pub total: Duration,
    pub generated_tokens: u32,
}

impl RequestFigures {
    pub fn time_per_token(&self) -> Duration {
        self.inference.checked_div(self.generated_tokens).unwrap_or_default()
    }
}

/// Durations: 0.0001·1.5^k seconds, k = 1..=35.
fn duration_bounds() -> Vec<f64> {
    let mut bound = 0.0001;
    (0..35)
        .map(|_| {
            bound *= 1.5;
            bound
        })
        .collect()
}

/// 100 linear steps up to `max` tokens.
fn token_bounds(max: usize) -> Vec<f64> {
    (1..=100).map(|step| max as f64 / 100.0 * f64::from(step)).collect()
}

/// 1, 2, ... 1024 sequences.
fn batch_bounds() -> Vec<f64> {
    (1..=1024).map(f64::from).collect()
}

/// Seconds, for what a person feels.
fn latency_bounds() -> Vec<f64> {
    vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0]
}

/// One request metric per kind of step.
#[derive(Debug)]
struct PerMethod<T> {
    prefill: T,
    decode: T,
}

impl<T> PerMethod<T> {
    fn new(make: impl Fn() -> T) -> Self {
        Self { prefill: make(), decode: make() }
    }

    /// A step that computes any prompt tokens counts as a prefill, as in TGI's chunked mode.
    fn of(&self, prefill: bool) -> &T {
        if prefill { &self.prefill } else { &self.decode }
    }
}

#[derive(Debug)]
pub(crate) struct Metrics {
    /// `model="…"`, on Weirgate's own series.
    model: String,
    request_count: Counter,
    request_success: Counter,
    request_failure: [Counter; FailureKind::ALL.len()],
    request_duration: Histogram,
    request_validation_duration: Histogram,
    request_queue_duration: Histogram,
    request_inference_duration: Histogram,
    request_mean_time_per_token_duration: Histogram,
    request_generated_tokens: Histogram,
    request_input_length: Histogram,
    request_max_new_tokens: Histogram,
    request_skipped_tokens: Histogram,
    queue_size: Gauge,
    batch_current_size: Gauge,
    batch_current_max_tokens: Gauge,
    batch_next_size: Histogram,
    batch_concat: Counter,
    batch_concat_duration: Histogram,
    batch_inference_count: PerMethod<Counter>,
    batch_inference_duration: PerMethod<Histogram>,
    batch_forward_duration: PerMethod<Histogram>,
    batch_filter_duration: PerMethod<Histogram>,
    time_to_first_token: Histogram,
    inter_token_latency: Histogram,
    cancellations: Counter,
    prompt_tokens: Counter,
    generated_tokens: Counter,
    block_size: u64,
}

impl Metrics {
    pub fn new(model_id: &str, max_input_tokens: usize, max_total_tokens: usize, block_size: usize) -> Self {
        let duration = || Histogram::new(duration_bounds());
        Self {
            model: format!("model=\"{}\"", series::escape(model_id)),
            request_count: Counter::default(),
            request_success: Counter::default(),
            request_failure: Default::default(),
            request_duration: duration(),
            request_validation_duration: duration(),
            request_queue_duration: duration(),
            request_inference_duration: duration(),
            request_mean_time_per_token_duration: duration(),
            request_generated_tokens: Histogram::new(token_bounds(max_total_tokens)),
            request_input_length: Histogram::new(token_bounds(max_input_tokens)),
            request_max_new_tokens: Histogram::new(token_bounds(max_total_tokens)),
            request_skipped_tokens: Histogram::new((0..=16).map(f64::from).collect()),
            queue_size: Gauge::default(),
            batch_current_size: Gauge::default(),
            batch_current_max_tokens: Gauge::default(),
            batch_next_size: Histogram::new(batch_bounds()),
            batch_concat: Counter::default(),
            batch_concat_duration: duration(),
            batch_inference_count: PerMethod::new(Counter::default),
            batch_inference_duration: PerMethod::new(duration),
            batch_forward_duration: PerMethod::new(duration),
            batch_filter_duration: PerMethod::new(duration),
            time_to_first_token: Histogram::new(latency_bounds()),
            inter_token_latency: Histogram::new(latency_bounds()),
            cancellations: Counter::default(),
            prompt_tokens: Counter::default(),
            generated_tokens: Counter::default(),
            block_size: block_size as u64,
        }
    }

    pub fn request_started(&self) {
        self.request_count.add(1);
    }

    /// The prompt was found valid.
    pub fn request_validated(&self, input_tokens: usize, max_new_tokens: u32) {
        self.request_input_length.observe(input_tokens as f64);
        self.request_max_new_tokens.observe(f64::from(max_new_tokens.min(1024)));
        self.prompt_tokens.add(input_tokens as u64);
    }

    pub fn request_succeeded(&self, figures: &RequestFigures) {
        self.request_success.add(1);
        self.request_duration.observe(figures.total.as_secs_f64());
        self.request_validation_duration.observe(figures.validation.as_secs_f64());
        self.request_queue_duration.observe(figures.queue.as_secs_f64());
        self.request_inference_duration.observe(figures.inference.as_secs_f64());
        self.request_mean_time_per_token_duration.observe(figures.time_per_token().as_secs_f64());
        self.request_generated_tokens.observe(f64::from(figures.generated_tokens));
    }

    pub fn request_failed(&self, kind: FailureKind) {
        if let Some(counter) = self.request_failure.get(kind as usize) {
            counter.add(1);
        }
        if kind == FailureKind::Dropped {
            self.cancellations.add(1);
        }
    }

    pub fn first_token(&self, after: Duration) {
        self.time_to_first_token.observe(after.as_secs_f64());
    }

    pub fn next_token(&self, after: Duration) {
        self.inter_token_latency.observe(after.as_secs_f64());
    }

    /// One message of the engine's.
    pub fn observe_step(&self, step: &StepOutputs) {
        let stats = &step.stats;
        self.queue_size.set(u64::from(stats.waiting));
        self.batch_current_size.set(u64::from(stats.running));
        self.batch_current_max_tokens.set(u64::from(stats.used_blocks) * self.block_size);
        let count =
            |wanted: fn(&SeqUpdate) -> bool| step.outputs.iter().filter(|o| wanted(&o.update)).count();
        let generated = count(|update| matches!(update, SeqUpdate::Token(_)));
        self.generated_tokens.add(generated as u64);
        for _ in 0..generated {
            // Without speculation no step accepts more than one token.
            self.request_skipped_tokens.observe(0.0);
        }
        let joined = count(|update| matches!(update, SeqUpdate::Scheduled { .. }));
        if joined > 0 {
            self.batch_next_size.observe(joined as f64);
        }
        if joined > 0 && stats.decode_tokens > 0 {
            self.batch_concat.add(1);
            self.batch_concat_duration.observe(stats.schedule_time.as_secs_f64());
        }
        if stats.tokens() > 0 {
            let prefill = stats.prefill_tokens > 0;
            let whole = stats.schedule_time + stats.forward_time;
            self.batch_inference_count.of(prefill).add(1);
            self.batch_inference_duration.of(prefill).observe(whole.as_secs_f64());
            self.batch_forward_duration.of(prefill).observe(stats.forward_time.as_secs_f64());
            self.batch_filter_duration.of(prefill).observe(stats.schedule_time.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests;
