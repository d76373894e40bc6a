//! What `/metrics` says: TGI's series (reference/tgi.md §2d, same names, types and buckets) and Weirgate's own.

mod buckets;
mod render;
mod series;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use weirgate_engine::EngineStats;
use weirgate_types::{SeqUpdate, StepOutputs};

pub(crate) use render::render_loading;
use series::{Counter, Histogram};

/// What is asked of a model at the moment its metrics are asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading {
    pub engine: EngineStats,
    pub adapters: AdapterReading,
}

/// A model's adapters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AdapterReading {
    /// Most that a batch can hold.
    pub max: usize,
    /// Names, separated by commas.
    pub ready: String,
    pub loading: String,
    pub changed: Option<SystemTime>,
}

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

    pub const fn label(self) -> &'static str {
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
    /// The part of the inference up to the first token.
    pub prefill: Duration,
    pub total: Duration,
    pub generated_tokens: u32,
}

impl RequestFigures {
    pub fn time_per_token(&self) -> Duration {
        self.inference.checked_div(self.generated_tokens).unwrap_or_default()
    }
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

/// How a request that got a place ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Success,
    Failure,
    Cancelled,
}

impl Outcome {
    const ALL: [(Self, &str); 3] =
        [(Self::Success, "success"), (Self::Failure, "failure"), (Self::Cancelled, "cancelled")];
}

#[derive(Debug)]
pub(crate) struct Metrics {
    /// `model="…"`, on Weirgate's own series.
    model: String,
    block_size: u64,
    /// Seconds since 1970 when the process began to serve.
    started: f64,
    requests: RequestMetrics,
    batches: BatchMetrics,
    own: OwnMetrics,
}

/// `tgi_request_*`.
#[derive(Debug)]
struct RequestMetrics {
    count: Counter,
    success: Counter,
    failure: [Counter; FailureKind::ALL.len()],
    duration: Histogram,
    validation_duration: Histogram,
    queue_duration: Histogram,
    inference_duration: Histogram,
    mean_time_per_token_duration: Histogram,
    generated_tokens: Histogram,
    input_length: Histogram,
    max_new_tokens: Histogram,
    skipped_tokens: Histogram,
}

/// `tgi_batch_*`: one engine step is one "batch inference".
#[derive(Debug)]
struct BatchMetrics {
    next_size: Histogram,
    concat: Counter,
    concat_duration: Histogram,
    inference_success: PerMethod<Counter>,
    inference_failure: PerMethod<Counter>,
    inference_duration: PerMethod<Histogram>,
    forward_duration: PerMethod<Histogram>,
    decode_duration: PerMethod<Histogram>,
    filter_duration: PerMethod<Histogram>,
}

/// `weirgate_*`, as far as it is not read from the engine.
#[derive(Debug)]
struct OwnMetrics {
    duration: [Histogram; Outcome::ALL.len()],
    time_to_first_token: Histogram,
    inter_token_latency: Histogram,
    cancellations: Counter,
    prompt_tokens: Counter,
    generated_tokens: Counter,
}

impl Metrics {
    pub fn new(model_id: &str, max_input_tokens: usize, max_total_tokens: usize, block_size: usize) -> Self {
        let duration = || Histogram::new(buckets::durations());
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            model: format!("model=\"{}\"", series::escape(model_id)),
            block_size: block_size as u64,
            started: now.map_or(0.0, |since| since.as_secs_f64()),
            requests: RequestMetrics {
                count: Counter::default(),
                success: Counter::default(),
                failure: Default::default(),
                duration: duration(),
                validation_duration: duration(),
                queue_duration: duration(),
                inference_duration: duration(),
                mean_time_per_token_duration: duration(),
                generated_tokens: Histogram::new(buckets::tokens(max_total_tokens)),
                input_length: Histogram::new(buckets::tokens(max_input_tokens)),
                max_new_tokens: Histogram::new(buckets::tokens(max_total_tokens)),
                skipped_tokens: Histogram::new(buckets::skipped()),
            },
            batches: BatchMetrics {
                next_size: Histogram::new(buckets::batch_sizes()),
                concat: Counter::default(),
                concat_duration: duration(),
                inference_success: PerMethod::new(Counter::default),
                inference_failure: PerMethod::new(Counter::default),
                inference_duration: PerMethod::new(duration),
                forward_duration: PerMethod::new(duration),
                decode_duration: PerMethod::new(duration),
                filter_duration: PerMethod::new(duration),
            },
            own: OwnMetrics {
                duration: std::array::from_fn(|_| Histogram::new(buckets::whole_requests())),
                time_to_first_token: Histogram::new(buckets::latencies()),
                inter_token_latency: Histogram::new(buckets::latencies()),
                cancellations: Counter::default(),
                prompt_tokens: Counter::default(),
                generated_tokens: Counter::default(),
            },
        }
    }

    /// A request came: one prompt to be continued, however many sequences it asks for.
    pub fn request_started(&self) {
        self.requests.count.add(1);
    }

    /// The prompt was found valid.
    pub fn request_validated(&self, input_tokens: usize, max_new_tokens: u32) {
        self.requests.input_length.observe(input_tokens as f64);
        self.requests.max_new_tokens.observe(f64::from(max_new_tokens.min(1024)));
        self.own.prompt_tokens.add(input_tokens as u64);
    }

    pub fn request_succeeded(&self, figures: &RequestFigures) {
        self.requests.success.add(1);
        self.requests.duration.observe(figures.total.as_secs_f64());
        self.requests.validation_duration.observe(figures.validation.as_secs_f64());
        self.requests.queue_duration.observe(figures.queue.as_secs_f64());
        self.requests.inference_duration.observe(figures.inference.as_secs_f64());
        self.requests.mean_time_per_token_duration.observe(figures.time_per_token().as_secs_f64());
        self.requests.generated_tokens.observe(f64::from(figures.generated_tokens));
        self.ended(Outcome::Success, figures.total);
    }

    /// A request that had a place failed, or its client went away, this long after it came.
    pub fn request_failed(&self, kind: FailureKind, after: Duration) {
        self.request_refused(kind);
        if kind == FailureKind::Dropped {
            self.own.cancellations.add(1);
            self.ended(Outcome::Cancelled, after);
        } else {
            self.ended(Outcome::Failure, after);
        }
    }

    /// A request failed before it got a place.
    pub fn request_refused(&self, kind: FailureKind) {
        if let Some(counter) = self.requests.failure.get(kind as usize) {
            counter.add(1);
        }
    }

    fn ended(&self, outcome: Outcome, after: Duration) {
        if let Some(histogram) = self.own.duration.get(outcome as usize) {
            histogram.observe(after.as_secs_f64());
        }
    }

    /// A request's first token, of whichever sequence.
    pub fn first_token(&self, after: Duration) {
        self.own.time_to_first_token.observe(after.as_secs_f64());
    }

    /// A sequence's next token, this long after the one before.
    pub fn next_token(&self, after: Duration) {
        self.own.inter_token_latency.observe(after.as_secs_f64());
    }

    /// A token that a request got.
    pub fn token(&self) {
        self.own.generated_tokens.add(1);
    }

    /// One message of the engine's.
    pub fn observe_step(&self, step: &StepOutputs) {
        for tokens in step.tokens_per_sequence() {
            self.requests.skipped_tokens.observe((tokens - 1) as f64);
        }
        let (stats, batches) = (&step.stats, &self.batches);
        let joined =
            step.outputs.iter().filter(|output| matches!(output.update, SeqUpdate::Scheduled { .. })).count();
        if joined > 0 {
            batches.next_size.observe(joined as f64);
        }
        // Those that run already may pause for this step.
        if joined > 0 && (stats.decode_tokens > 0 || stats.running as usize > joined) {
            batches.concat.add(1);
            batches.concat_duration.observe(stats.schedule_time.as_secs_f64());
        }
        if stats.tokens() == 0 {
            return;
        }
        let prefill = stats.prefill_tokens > 0;
        if stats.failed {
            batches.inference_failure.of(prefill).add(1);
            return;
        }
        let whole = stats.schedule_time + stats.forward_time + stats.commit_time;
        batches.inference_success.of(prefill).add(1);
        batches.inference_duration.of(prefill).observe(whole.as_secs_f64());
        batches.forward_duration.of(prefill).observe(stats.forward_time.as_secs_f64());
        batches.decode_duration.of(prefill).observe(stats.commit_time.as_secs_f64());
        batches.filter_duration.of(prefill).observe(stats.schedule_time.as_secs_f64());
    }
}

#[cfg(test)]
mod tests;
