//! The Prometheus text of everything, in a fixed order.

use std::time::UNIX_EPOCH;

use weirgate_engine::EngineStats;

use super::series::{Counter, Exposition, escape};
use super::{FailureKind, Metrics, Outcome, PerMethod, Reading};

const METHODS: [(bool, &str); 2] = [(true, "method=\"prefill\""), (false, "method=\"decode\"")];

/// How far loads are, of models by their names; nothing where there are none.
pub(crate) fn render_loading(loading: &[(String, f64)]) -> String {
    let mut out = Exposition::default();
    let name = "weirgate_model_load_progress";
    if !loading.is_empty() {
        out.family(name, "gauge", "What part of a model that is being loaded has come, 0 to 1.");
    }
    for (model, part) in loading {
        out.value(name, &format!("model=\"{}\"", escape(model)), part);
    }
    out.into_text()
}

/// Why a sequence joined running ones. TGI's other two reasons are about waiting for a batch, which nobody does here.
const CONCAT_REASONS: [&str; 3] = ["backpressure", "chunking", "wait_exceeded"];

impl Metrics {
    /// Of the model that the server was started for, and, under their names, of `others` that are loaded.
    pub fn render(&self, reading: &Reading, others: &[(&Self, Reading)]) -> String {
        let mut out = Exposition::default();
        self.render_requests(&mut out);
        self.render_request_histograms(&mut out);
        self.render_queue(&mut out, &reading.engine);
        self.render_batches(&mut out);
        for (metrics, reading) in std::iter::once((self, reading)).chain(others.iter().map(|(m, r)| (*m, r)))
        {
            metrics.render_own(&mut out);
            metrics.render_engine(&mut out, &reading.engine);
            metrics.render_protocol(&mut out, reading);
        }
        self.render_process(&mut out);
        out.into_text()
    }

    fn render_requests(&self, out: &mut Exposition) {
        let requests = &self.requests;
        for (name, help, counter) in [
            ("tgi_request_count", "Requests received.", &requests.count),
            ("tgi_request_success", "Requests that ended well.", &requests.success),
        ] {
            out.family(name, "counter", help);
            out.value(name, "", counter.get());
        }
        out.family("tgi_request_failure", "counter", "Requests that failed, by cause.");
        for (kind, counter) in FailureKind::ALL.iter().zip(&requests.failure) {
            out.value("tgi_request_failure", &format!("err=\"{}\"", kind.label()), counter.get());
        }
    }

    fn render_request_histograms(&self, out: &mut Exposition) {
        let requests = &self.requests;
        for (name, help, value) in [
            ("tgi_request_duration", "Seconds from arrival to end.", &requests.duration),
            ("tgi_request_validation_duration", "Seconds of validation.", &requests.validation_duration),
            ("tgi_request_queue_duration", "Seconds in the queue.", &requests.queue_duration),
            ("tgi_request_inference_duration", "Seconds of inference.", &requests.inference_duration),
            (
                "tgi_request_mean_time_per_token_duration",
                "Seconds of inference per generated token.",
                &requests.mean_time_per_token_duration,
            ),
            ("tgi_request_generated_tokens", "Generated tokens.", &requests.generated_tokens),
            ("tgi_request_input_length", "Prompt tokens.", &requests.input_length),
            (
                "tgi_request_max_new_tokens",
                "Tokens to generate at most, counted to 1024.",
                &requests.max_new_tokens,
            ),
            (
                "tgi_request_skipped_tokens",
                "Tokens that speculation won, per sequence and step.",
                &requests.skipped_tokens,
            ),
        ] {
            out.family(name, "histogram", help);
            out.histogram(name, "", value);
        }
    }

    fn render_queue(&self, out: &mut Exposition, engine: &EngineStats) {
        for (name, help, value) in [
            ("tgi_queue_size", "Sequences in the queue.", engine.waiting + engine.inbox),
            ("tgi_batch_current_size", "Sequences running.", engine.running),
            (
                "tgi_batch_current_max_tokens",
                "Tokens of KV cache held by running sequences.",
                engine.used_blocks * self.block_size,
            ),
            (
                "tgi_batch_max_total_tokens",
                "Tokens of KV cache in all.",
                engine.total_blocks * self.block_size,
            ),
        ] {
            out.family(name, "gauge", help);
            out.value(name, "", value);
        }
    }

    fn render_batches(&self, out: &mut Exposition) {
        let batches = &self.batches;
        out.family("tgi_batch_next_size", "histogram", "Sequences that joined in one step.");
        out.histogram("tgi_batch_next_size", "", &batches.next_size);
        out.family("tgi_batch_concat", "counter", "Steps in which sequences joined running ones, by reason.");
        for reason in CONCAT_REASONS {
            let count = if reason == "chunking" { batches.concat.get() } else { 0 };
            out.value("tgi_batch_concat", &format!("reason=\"{reason}\""), count);
        }
        out.family("tgi_batch_concat_duration", "histogram", "Seconds of planning those steps.");
        out.histogram("tgi_batch_concat_duration", "method=\"decode\"", &batches.concat_duration);
        let (success, failure) = (&batches.inference_success, &batches.inference_failure);
        let both = |prefill| success.of(prefill).get() + failure.of(prefill).get();
        per_method(out, "tgi_batch_inference_count", "Steps, by kind.", both);
        let get = |counters: &PerMethod<Counter>, prefill| counters.of(prefill).get();
        per_method(out, "tgi_batch_inference_success", "Steps that succeeded, by kind.", |prefill| {
            get(success, prefill)
        });
        per_method(out, "tgi_batch_inference_failure", "Steps that failed, by kind.", |prefill| {
            get(failure, prefill)
        });
        for (name, help, value) in [
            ("tgi_batch_inference_duration", "Seconds per step.", &batches.inference_duration),
            ("tgi_batch_forward_duration", "Seconds of the forward pass.", &batches.forward_duration),
            (
                "tgi_batch_decode_duration",
                "Seconds of taking a step's tokens in after the forward pass.",
                &batches.decode_duration,
            ),
            (
                "tgi_batch_filter_duration",
                "Seconds of planning which sequences a step runs.",
                &batches.filter_duration,
            ),
        ] {
            out.family(name, "histogram", help);
            for (prefill, labels) in METHODS {
                out.histogram(name, labels, value.of(prefill));
            }
        }
    }

    fn render_own(&self, out: &mut Exposition) {
        let (model, own) = (self.model.as_str(), &self.own);
        let name = "weirgate_request_duration_seconds";
        out.family(
            name,
            "histogram",
            "Seconds from arrival to end of requests that got a place, by outcome.",
        );
        for ((_, label), histogram) in Outcome::ALL.iter().zip(&own.duration) {
            out.histogram(name, &format!("{model},outcome=\"{label}\""), histogram);
        }
        for (name, help, value) in [
            (
                "weirgate_time_to_first_token_seconds",
                "Seconds from arrival to a request's first token.",
                &own.time_to_first_token,
            ),
            (
                "weirgate_inter_token_latency_seconds",
                "Seconds between two tokens of a sequence.",
                &own.inter_token_latency,
            ),
        ] {
            out.family(name, "histogram", help);
            out.histogram(name, model, value);
        }
        for (name, help, value) in [
            ("weirgate_request_cancellations_total", "Requests whose client went away.", &own.cancellations),
            ("weirgate_prompt_tokens_total", "Prompt tokens of valid requests.", &own.prompt_tokens),
            ("weirgate_generated_tokens_total", "Generated tokens of requests.", &own.generated_tokens),
        ] {
            out.family(name, "counter", help);
            out.value(name, model, value.get());
        }
    }

    fn render_engine(&self, out: &mut Exposition, engine: &EngineStats) {
        let model = self.model.as_str();
        let started = engine.live_requests.saturating_sub(engine.queued_requests);
        for (name, help, value) in [
            ("weirgate_requests_running", "Requests of which something was scheduled.", started),
            ("weirgate_requests_waiting", "Requests in the queue.", engine.queued_requests),
            ("weirgate_sequences_running", "Sequences running.", engine.running),
            ("weirgate_sequences_waiting", "Sequences waiting.", engine.waiting + engine.inbox),
            ("weirgate_kv_blocks_used", "KV blocks of live sequences.", engine.used_blocks),
            ("weirgate_kv_blocks_cached", "KV blocks kept for their prefix.", engine.cached_blocks),
            ("weirgate_kv_blocks", "KV blocks in all.", engine.total_blocks),
            ("weirgate_kv_block_size_tokens", "Tokens per KV block.", self.block_size),
        ] {
            out.family(name, "gauge", help);
            out.value(name, model, value);
        }
        for (name, help, value) in [
            (
                "weirgate_prefix_cache_hit_tokens_total",
                "Prompt tokens found in the prefix cache.",
                engine.prefix_hits,
            ),
            (
                "weirgate_prefix_cache_query_tokens_total",
                "Prompt tokens looked up in the prefix cache.",
                engine.prefix_queries,
            ),
            ("weirgate_preemptions_total", "Sequences preempted.", engine.preemptions),
            ("weirgate_engine_steps_total", "Engine steps.", engine.steps),
            (
                "weirgate_integrity_errors_total",
                "Contradictions found in the engine's books while idle.",
                engine.integrity_errors,
            ),
        ] {
            out.family(name, "counter", help);
            out.value(name, model, value);
        }
    }

    /// What the Gateway API Inference Extension's endpoint picker reads, in the label format it knows
    /// (its proposal 003, "Model Server Protocol").
    fn render_protocol(&self, out: &mut Exposition, Reading { engine, adapters }: &Reading) {
        let (model, blocks) = (self.model.as_str(), engine.total_blocks);
        let name = "weirgate_kv_cache_utilization_ratio";
        out.family(name, "gauge", "Share of the KV blocks that live sequences hold, 0 to 1.");
        let used = engine.used_blocks as f64 / blocks.max(1) as f64;
        out.value(name, model, used);
        let name = "weirgate_cache_config_info";
        out.family(name, "gauge", "Geometry of the KV cache, in the labels.");
        let labels = format!("{model},block_size=\"{}\",num_gpu_blocks=\"{blocks}\"", self.block_size);
        out.value(name, &labels, 1);
        let name = "weirgate_lora_requests_info";
        out.family(name, "gauge", "Adapters, in the labels; the value is the time of the last change.");
        let labels = format!(
            "{model},max_lora=\"{}\",running_lora_adapters=\"{}\",waiting_lora_adapters=\"{}\"",
            adapters.max,
            escape(&adapters.ready),
            escape(&adapters.loading)
        );
        let changed = adapters.changed.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        out.value(name, &labels, changed.map_or(self.started, |since| since.as_secs_f64()));
    }

    fn render_process(&self, out: &mut Exposition) {
        let name = "weirgate_build_info";
        out.family(name, "gauge", "The version, in the label.");
        out.value(name, &format!("version=\"{}\"", env!("CARGO_PKG_VERSION")), 1);
        let name = "process_start_time_seconds";
        out.family(name, "gauge", "When this process began to serve, in seconds since 1970.");
        out.value(name, "", self.started);
    }
}

fn per_method(out: &mut Exposition, name: &str, help: &str, value: impl Fn(bool) -> u64) {
    out.family(name, "counter", help);
    for (prefill, labels) in METHODS {
        out.value(name, labels, value(prefill));
    }
}
