use weirgate_engine::EngineStats;

use super::series::{Counter, Exposition, Histogram};
use super::{FailureKind, Metrics};

impl Metrics {
    /// The Prometheus text of everything.
    pub fn render(&self, engine: &EngineStats) -> String {
        let mut out = Exposition::default();
        self.render_requests(&mut out);
        self.render_batches(&mut out);
        self.render_own(&mut out);
        self.render_engine(&mut out, engine);
        out.into_text()
    }

    fn render_requests(&self, out: &mut Exposition) {
        counter(out, "tgi_request_count", "Requests received.", &self.request_count);
        counter(out, "tgi_request_success", "Requests that ended well.", &self.request_success);
        out.family("tgi_request_failure", "counter", "Requests that failed, by cause.");
        for (kind, counter) in FailureKind::ALL.iter().zip(&self.request_failure) {
            out.value("tgi_request_failure", &format!("err=\"{}\"", kind.label()), counter.get());
        }
        let histograms = [
            ("tgi_request_duration", "Seconds from arrival to end.", &self.request_duration),
            ("tgi_request_validation_duration", "Seconds of validation.", &self.request_validation_duration),
            ("tgi_request_queue_duration", "Seconds in the queue.", &self.request_queue_duration),
            ("tgi_request_inference_duration", "Seconds of inference.", &self.request_inference_duration),
            (
                "tgi_request_mean_time_per_token_duration",
                "Seconds of inference per generated token.",
                &self.request_mean_time_per_token_duration,
            ),
            ("tgi_request_generated_tokens", "Generated tokens.", &self.request_generated_tokens),
            ("tgi_request_input_length", "Prompt tokens.", &self.request_input_length),
            (
                "tgi_request_max_new_tokens",
                "Tokens to generate at most, counted to 1024.",
                &self.request_max_new_tokens,
            ),
            ("tgi_request_skipped_tokens", "Speculated tokens accepted.", &self.request_skipped_tokens),
        ];
        for (name, help, value) in histograms {
            histogram(out, name, help, value);
        }
    }

    fn render_batches(&self, out: &mut Exposition) {
        let gauges = [
            ("tgi_queue_size", "Sequences in the queue.", &self.queue_size),
            ("tgi_batch_current_size", "Sequences running.", &self.batch_current_size),
            (
                "tgi_batch_current_max_tokens",
                "Tokens of KV cache held by them.",
                &self.batch_current_max_tokens,
            ),
        ];
        for (name, help, gauge) in gauges {
            out.family(name, "gauge", help);
            out.value(name, "", gauge.get());
        }
        histogram(out, "tgi_batch_next_size", "Sequences that joined in one step.", &self.batch_next_size);
        out.family("tgi_batch_concat", "counter", "Steps in which sequences joined running ones, by reason.");
        out.value("tgi_batch_concat", "reason=\"chunking\"", self.batch_concat.get());
        out.family("tgi_batch_concat_duration", "histogram", "Seconds of planning those steps.");
        out.histogram("tgi_batch_concat_duration", "method=\"decode\"", &self.batch_concat_duration);
        // A failed step ends the process, so every step counted here succeeded.
        for (name, help) in [
            ("tgi_batch_inference_count", "Steps, by kind."),
            ("tgi_batch_inference_success", "Steps that succeeded, by kind."),
        ] {
            out.family(name, "counter", help);
            for (prefill, labels) in METHODS {
                out.value(name, labels, self.batch_inference_count.of(prefill).get());
            }
        }
        let histograms = [
            ("tgi_batch_inference_duration", "Seconds per step.", &self.batch_inference_duration),
            ("tgi_batch_forward_duration", "Seconds of the forward pass.", &self.batch_forward_duration),
            ("tgi_batch_filter_duration", "Seconds of planning.", &self.batch_filter_duration),
        ];
        for (name, help, value) in histograms {
            out.family(name, "histogram", help);
            for (prefill, labels) in METHODS {
                out.histogram(name, labels, value.of(prefill));
            }
        }
    }

    fn render_own(&self, out: &mut Exposition) {
        let model = self.model.as_str();
        for (name, help, value) in [
            (
                "weirgate_time_to_first_token_seconds",
                "From arrival to the first token.",
                &self.time_to_first_token,
            ),
            (
                "weirgate_inter_token_latency_seconds",
                "Between two tokens of a sequence.",
                &self.inter_token_latency,
            ),
        ] {
            out.family(name, "histogram", help);
            out.histogram(name, model, value);
        }
        for (name, help, value) in [
            ("weirgate_request_cancellations_total", "Requests whose client went away.", &self.cancellations),
            ("weirgate_prompt_tokens_total", "Prompt tokens of valid requests.", &self.prompt_tokens),
            ("weirgate_generated_tokens_total", "Tokens generated.", &self.generated_tokens),
        ] {
            out.family(name, "counter", help);
            out.value(name, model, value.get());
        }
    }

    fn render_engine(&self, out: &mut Exposition, engine: &EngineStats) {
        let model = self.model.as_str();
        for (name, help, value) in [
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
                "Prompt tokens found in the cache.",
                engine.prefix_hits,
            ),
            ("weirgate_prefix_cache_query_tokens_total", "Prompt tokens looked up.", engine.prefix_queries),
            ("weirgate_preemptions_total", "Sequences preempted.", engine.preemptions),
            ("weirgate_engine_steps_total", "Engine steps.", engine.steps),
            (
                "weirgate_integrity_errors_total",
                "Contradictions found in the idle books.",
                engine.integrity_errors,
            ),
        ] {
            out.family(name, "counter", help);
            out.value(name, model, value);
        }
    }
}

const METHODS: [(bool, &str); 2] = [(true, "method=\"prefill\""), (false, "method=\"decode\"")];

fn counter(out: &mut Exposition, name: &str, help: &str, counter: &Counter) {
    out.family(name, "counter", help);
    out.value(name, "", counter.get());
}

fn histogram(out: &mut Exposition, name: &str, help: &str, histogram: &Histogram) {
    out.family(name, "histogram", help);
    out.histogram(name, "", histogram);
}
