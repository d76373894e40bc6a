//! Resolves the limits that depend on the model and on the machine's memory.

use std::fmt::Write;

use weirgate_engine::BurstRule;

use crate::config::{EngineSettings, Limits};
use crate::error::RouterError;

/// Tokens per KV block: small enough that little is wasted, large enough that tables stay short.
pub(crate) const BLOCK_SIZE: usize = 16;
/// Share of the free memory the KV pool may take, in percent.
const MEMORY_PERCENT: u64 = 50;
/// Bytes of the KV pool beyond which a CPU gains nothing: it could not decode so many tokens at a useful speed.
const MAX_POOL_BYTES: u64 = 2 << 30;
/// Requests are this many times shorter than the longest on average; the engine preempts when they are not.
const LENGTH_RATIO: usize = 4;
/// A step's default token budget on a GPU: enough to keep the tensor cores busy for milliseconds.
const CUDA_STEP_TOKENS: usize = 4096;
/// Tokens of a step that decodes on a GPU: they take about as long as reading the weights a few times.
const CUDA_MIXED_STEP_TOKENS: usize = 512;
/// A step's default token budget on the CPU: beyond it prefill gains nothing and running sequences wait longer.
const STEP_TOKENS: usize = 256;
/// Tokens of a step that decodes a few sequences on the CPU, where each token costs.
const MIXED_STEP_TOKENS: usize = 16;
/// Most steps of prompts alone for which those that decode wait: some 2,000 tokens.
const BURST_STEPS: usize = 8;
/// Tokens that a sequence has drawn at most where it waits for them: requests that come together come within a step.
const BURST_YOUNG: usize = 2;
/// Default for sequences in one step.
const MAX_SEQS: usize = 256;

/// What sizing starts from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    /// The longest sequence the checkpoint and its tokenizer allow.
    pub model_tokens: usize,
    pub block_bytes: usize,
    /// What the device has left beside the weights; `None` if unknown.
    pub free_bytes: Option<u64>,
    /// Whether there is to be room for other models beside it.
    pub shared: bool,
    pub device: DeviceKind,
    pub processors: usize,
}

/// Where the KV cache is, and so what it may take and what a step may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceKind {
    /// Shares its memory with everything else.
    Cpu,
    /// What is free is there for the KV cache, and longer steps pay.
    Cuda,
}

impl DeviceKind {
    /// Most tokens in a step, if the settings do not say.
    pub fn step_tokens(self, engine: &EngineSettings) -> usize {
        let default = match self {
            Self::Cpu => STEP_TOKENS,
            Self::Cuda => CUDA_STEP_TOKENS,
        };
        engine.max_batch_prefill_tokens.unwrap_or(default).max(1)
    }

    pub fn mixed_step_tokens(self) -> usize {
        match self {
            Self::Cpu => MIXED_STEP_TOKENS,
            Self::Cuda => CUDA_MIXED_STEP_TOKENS,
        }
    }

    /// When prompts come before what decodes. On a GPU they gain nothing by it: steps that mix them are large enough.
    pub fn bursts(self, engine: &EngineSettings) -> BurstRule {
        match self {
            Self::Cpu if engine.max_waiting_tokens > 0 => {
                BurstRule { ratio: engine.waiting_served_ratio, young: BURST_YOUNG, max_steps: BURST_STEPS }
            }
            _ => BurstRule::NONE,
        }
    }
}

/// Most sequences in a step.
pub(crate) fn max_seqs(engine: &EngineSettings) -> usize {
    engine.max_batch_size.unwrap_or(MAX_SEQS).max(1)
}

/// Everything resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizing {
    pub max_input_tokens: usize,
    pub max_total_tokens: usize,
    pub blocks: usize,
    pub block_bytes: usize,
    pub max_step_tokens: usize,
    pub max_seqs: usize,
    pub threads: usize,
    pub device: DeviceKind,
}

impl Sizing {
    /// # Errors
    /// Limits that contradict each other or do not fit the memory.
    pub fn resolve(
        limits: &Limits,
        engine: &EngineSettings,
        measured: Measured,
    ) -> Result<Self, RouterError> {
        let wanted_total = limits.max_total_tokens.unwrap_or(measured.model_tokens);
        let blocks = match engine.max_batch_total_tokens {
            Some(tokens) => tokens.div_ceil(BLOCK_SIZE),
            None => blocks_from_memory(wanted_total, limits.max_concurrent_requests, measured),
        };
        let pool = blocks * BLOCK_SIZE;
        let max_total_tokens = match limits.max_total_tokens {
            Some(total) if total > pool => {
                return Err(RouterError::Sizing(format!(
                    "`max_total_tokens` must be <= `max_batch_total_tokens`. Given: {total} and {pool}"
                )));
            }
            Some(total) => total,
            None => wanted_total.min(pool),
        };
        if max_total_tokens < 2 {
            let message =
                format!("the KV cache has room for {pool} tokens; free some memory or use a smaller model");
            return Err(RouterError::Sizing(message));
        }
        let max_input_tokens = limits.max_input_tokens.unwrap_or(max_total_tokens - 1);
        if max_input_tokens >= max_total_tokens {
            return Err(RouterError::Sizing(format!(
                "`max_input_tokens` must be < `max_total_tokens`. Given: {max_input_tokens} and {max_total_tokens}"
            )));
        }
        Ok(Self {
            max_input_tokens,
            max_total_tokens,
            blocks,
            block_bytes: measured.block_bytes,
            max_step_tokens: measured.device.step_tokens(engine),
            max_seqs: max_seqs(engine),
            threads: engine.threads.unwrap_or(measured.processors).max(1),
            device: measured.device,
        })
    }

    /// The resolved values as a table for people.
    pub fn table(&self, kv_dtype: &str) -> String {
        let mib = (self.blocks * self.block_bytes) as f64 / f64::from(1 << 20);
        let rows = [
            ("max_input_tokens", self.max_input_tokens.to_string()),
            ("max_total_tokens", self.max_total_tokens.to_string()),
            ("max_batch_prefill_tokens", self.max_step_tokens.to_string()),
            ("max_batch_total_tokens", (self.blocks * BLOCK_SIZE).to_string()),
            ("max_batch_size", self.max_seqs.to_string()),
            ("kv_blocks", format!("{} of {BLOCK_SIZE} tokens", self.blocks)),
            ("kv_cache", format!("{mib:.1} MiB in {kv_dtype}")),
            ("threads", self.threads.to_string()),
        ];
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut table = String::from("Sizes:");
        for (name, value) in rows {
            // Writing to a String cannot fail.
            let _ = write!(table, "\n  {name:<width$}  {value}");
        }
        table
    }
}

/// What all admitted requests use at their average length, but at least one request at full length, and no more than half
/// the free memory; on the CPU no more than [`MAX_POOL_BYTES`], too (or one request at full length, where that is more).
/// On a GPU that no other model is to share, all that is free: what no request needs keeps prefixes.
fn blocks_from_memory(total_tokens: usize, requests: usize, measured: Measured) -> usize {
    let longest = total_tokens.div_ceil(BLOCK_SIZE);
    let Some(free) = measured.free_bytes else { return longest };
    let blocks =
        |bytes: u64| usize::try_from(bytes / measured.block_bytes.max(1) as u64).unwrap_or(usize::MAX);
    let most = match measured.device {
        DeviceKind::Cuda if !measured.shared => return blocks(free),
        DeviceKind::Cuda => usize::MAX,
        DeviceKind::Cpu => blocks(MAX_POOL_BYTES),
    };
    let useful = longest.saturating_mul(requests.max(1)) / LENGTH_RATIO;
    useful.min(most).max(longest).min(blocks(free / 100 * MEMORY_PERCENT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DeviceSetting;

    fn limits() -> Limits {
        Limits {
            max_concurrent_requests: 8,
            max_best_of: 2,
            max_stop_sequences: 4,
            max_top_n_tokens: 5,
            max_client_batch_size: 4,
            payload_limit: 1000,
            max_request_seconds: 0,
            max_input_tokens: None,
            max_total_tokens: None,
            max_context: None,
        }
    }

    fn engine() -> EngineSettings {
        EngineSettings {
            device: DeviceSetting::Cpu,
            cuda_memory_fraction: 1.0,
            cuda_graphs: None,
            deterministic: false,
            kernel_cache: None,
            own_gemm: false,
            kv_cache_dtype: None,
            threads: None,
            max_batch_prefill_tokens: None,
            max_batch_total_tokens: None,
            max_batch_size: None,
            waiting_served_ratio: 0.3,
            max_waiting_tokens: 20,
            prefix_caching: true,
            speculate: 0,
            rope_scaling: None,
            quantize: None,
            num_shard: 1,
        }
    }

    const MEASURED: Measured = Measured {
        model_tokens: 100,
        block_bytes: 1000,
        free_bytes: Some(1_000_000),
        shared: false,
        processors: 3,
        device: DeviceKind::Cpu,
    };

    #[test]
    fn plenty_of_memory_serves_every_request_at_average_length() {
        let sizing = Sizing::resolve(&limits(), &engine(), MEASURED).unwrap();
        assert_eq!((sizing.max_total_tokens, sizing.max_input_tokens), (100, 99));
        // Eight requests of 100 tokens would take seven blocks each; a quarter of that.
        assert_eq!((sizing.blocks, sizing.threads), (14, 3));
    }

    #[test]
    fn one_request_at_full_length_always_has_room() {
        let few = Limits { max_concurrent_requests: 1, ..limits() };
        assert_eq!(Sizing::resolve(&few, &engine(), MEASURED).unwrap().blocks, 7);
        let vast = Measured {
            model_tokens: 160,
            block_bytes: 1 << 30,
            free_bytes: Some(1 << 40),
            processors: 1,
            ..MEASURED
        };
        assert_eq!(Sizing::resolve(&limits(), &engine(), vast).unwrap().blocks, 10);
        let short = Measured { model_tokens: 16, ..vast };
        assert_eq!(Sizing::resolve(&limits(), &engine(), short).unwrap().blocks, 2);
    }

    #[test]
    fn a_gpu_gives_all_that_is_free_and_takes_longer_steps() {
        let gpu = Measured { free_bytes: Some(70_500), device: DeviceKind::Cuda, ..MEASURED };
        let sizing = Sizing::resolve(&limits(), &engine(), gpu).unwrap();
        assert_eq!((sizing.blocks, sizing.max_total_tokens, sizing.max_step_tokens), (70, 100, 4096));
        let short = Measured { free_bytes: Some(2_500), ..gpu };
        assert_eq!(Sizing::resolve(&limits(), &engine(), short).unwrap().max_total_tokens, 32);
    }

    #[test]
    fn prompts_come_first_on_a_cpu_unless_that_is_switched_off() {
        let rule = DeviceKind::Cpu.bursts(&engine());
        assert_eq!(rule, BurstRule { ratio: 0.3, young: 2, max_steps: 8 });
        assert_eq!(DeviceKind::Cuda.bursts(&engine()), BurstRule::NONE);
        let off = EngineSettings { max_waiting_tokens: 0, ..engine() };
        assert_eq!(DeviceKind::Cpu.bursts(&off), BurstRule::NONE);
    }

    #[test]
    fn a_gpu_that_models_share_gives_each_what_its_requests_need_or_half() {
        let shared = Measured { device: DeviceKind::Cuda, shared: true, ..MEASURED };
        assert_eq!(Sizing::resolve(&limits(), &engine(), shared).unwrap().blocks, 14);
        let tight = Measured { free_bytes: Some(20_000), ..shared };
        assert_eq!(Sizing::resolve(&limits(), &engine(), tight).unwrap().blocks, 10);
        // Where a CPU would have no use for it.
        let vast = Measured { block_bytes: 1 << 30, free_bytes: Some(1 << 40), ..shared };
        assert_eq!(Sizing::resolve(&limits(), &engine(), vast).unwrap().blocks, 14);
    }

    #[test]
    fn little_memory_shortens_the_longest_request() {
        let measured = Measured { free_bytes: Some(6_000), ..MEASURED };
        let sizing = Sizing::resolve(&limits(), &engine(), measured).unwrap();
        assert_eq!((sizing.blocks, sizing.max_total_tokens, sizing.max_input_tokens), (3, 48, 47));
        let nothing = Measured { free_bytes: Some(0), ..MEASURED };
        assert!(Sizing::resolve(&limits(), &engine(), nothing).is_err());
    }

    #[test]
    fn given_values_are_kept_or_refused() {
        let wanted = Limits { max_total_tokens: Some(64), max_input_tokens: Some(32), ..limits() };
        let sizing = Sizing::resolve(&wanted, &engine(), MEASURED).unwrap();
        assert_eq!((sizing.max_total_tokens, sizing.max_input_tokens, sizing.blocks), (64, 32, 8));
        let tiny = EngineSettings { max_batch_total_tokens: Some(48), ..engine() };
        let error = Sizing::resolve(&wanted, &tiny, MEASURED).unwrap_err().to_string();
        assert_eq!(error, "`max_total_tokens` must be <= `max_batch_total_tokens`. Given: 64 and 48");
        let crossed = Limits { max_input_tokens: Some(64), ..wanted };
        let error = Sizing::resolve(&crossed, &engine(), MEASURED).unwrap_err().to_string();
        assert_eq!(error, "`max_input_tokens` must be < `max_total_tokens`. Given: 64 and 64");
    }
}
