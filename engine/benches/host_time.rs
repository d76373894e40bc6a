//! How long a device waits for the host between two steps: from the end of `collect` to the next `launch`, on a device
//! that computes nothing. A synchronous one waits for all that the host does, an asynchronous one for what cannot be done
//! while a step runs.
//!
//! `cargo bench -p weirgate-engine --profile release --bench host_time -- [sequences] [prompt tokens]`
#![allow(clippy::expect_used)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use weirgate_engine::{Batch, EngineConfig, Executor, ExecutorError, ExecutorLimits, StepResult, spawn};
use weirgate_kernels::{KernelError, Sampled};
use weirgate_models::Adapter;
use weirgate_types::{AdapterId, GenerateRequest, Logprobs, RequestId, SamplingParams, SeqUpdate, StopRules};

const NEW_TOKENS: u32 = 400;
const STEP: Duration = Duration::from_millis(2);

/// Every step takes [`STEP`], and every token is the same.
struct Null {
    seqs: usize,
    asynchronous: bool,
    result: StepResult,
    launched: Instant,
    collected: Option<Instant>,
    /// Of steps in which all sequences decode.
    gaps: Arc<Mutex<Vec<Duration>>>,
}

impl Executor for Null {
    fn limits(&self) -> ExecutorLimits {
        ExecutorLimits {
            blocks: self.seqs * 512,
            block_size: 16,
            max_step_tokens: 8192,
            max_seqs: self.seqs,
            vocab_size: 128_256,
            max_seq_len: 8192,
        }
    }

    fn is_asynchronous(&self) -> bool {
        self.asynchronous
    }

    fn launch(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
        self.launched = Instant::now();
        if let Some(collected) = self.collected.filter(|_| batch.tokens() == self.seqs) {
            self.gaps.lock().expect("no panic").push(self.launched - collected);
        }
        self.result.sampled.clear();
        self.result.sampled.resize(batch.samples.len(), Sampled { token: 7, ..Sampled::default() });
        Ok(())
    }

    fn collect(&mut self, out: &mut StepResult) -> Result<(), ExecutorError> {
        std::thread::sleep(STEP.saturating_sub(self.launched.elapsed()));
        std::mem::swap(out, &mut self.result);
        self.collected = Some(Instant::now());
        Ok(())
    }

    fn load_adapter(&mut self, _: AdapterId, _: &Adapter) -> Result<(), KernelError> {
        Ok(())
    }

    fn unload_adapter(&mut self, _: AdapterId) {}
}

fn main() {
    let args: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let seqs = args.first().copied().unwrap_or(256);
    let prompt_len = args.get(1).copied().unwrap_or(1024);
    for (penalty, asynchronous) in [(1.0, false), (1.0, true), (1.1, false), (1.1, true)] {
        let gaps = Arc::default();
        let null = Null {
            seqs,
            asynchronous,
            result: StepResult::default(),
            launched: Instant::now(),
            collected: None,
            gaps: Arc::clone(&gaps),
        };
        measure(null, prompt_len, penalty);
        let mut gaps = std::mem::take(&mut *gaps.lock().expect("no panic"));
        gaps.sort_unstable();
        let at = |percent: usize| gaps.get(gaps.len() * percent / 100).copied().unwrap_or_default();
        println!(
            "{seqs} sequences, repetition penalty {penalty}, {}: {} steps, median {:?}, p90 {:?}, p99 {:?}",
            if asynchronous { "asynchronous" } else { "synchronous" },
            gaps.len(),
            at(50),
            at(90),
            at(99)
        );
    }
}

fn measure(null: Null, prompt_len: usize, repetition_penalty: f32) {
    let seqs = null.seqs;
    let (handle, outputs) = spawn(Box::new(null), EngineConfig::default()).expect("a thread");
    let tickets: Vec<_> = (0..seqs as u64)
        .map(|id| {
            let prompt: Vec<u32> = (0..prompt_len as u32).map(|i| i * 31 % 1000 + id as u32).collect();
            let request = GenerateRequest {
                id: RequestId(id),
                prompt: prompt.into(),
                n: 1,
                sampling: SamplingParams { repetition_penalty, ..SamplingParams::default() },
                stop: StopRules { max_new_tokens: NEW_TOKENS, min_new_tokens: 0, stop_tokens: Arc::new([2]) },
                logprobs: Logprobs::default(),
                priority: 0,
                deadline: None,
                shift: None,
                cache_salt: 0,
                adapter: None,
            };
            handle.submit(request).expect("accepted")
        })
        .collect();
    let mut ended = 0;
    while ended < seqs {
        let step = outputs.recv().expect("the engine lives");
        ended +=
            step.outputs.iter().filter(|output| matches!(output.update, SeqUpdate::Finished { .. })).count();
    }
    drop(tickets);
    handle.stop();
}
