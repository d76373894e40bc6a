//! Runs requests through the real engine (scheduler, cache, decoder, sampler, engine thread) and gathers their tokens.
#![allow(dead_code, clippy::expect_used, clippy::panic)]

pub mod adapters;

use std::collections::BTreeMap;
use std::sync::Arc;

use weirgate_engine::{
    EngineConfig, EngineHandle, Executor, LoadOptions, RopeRule, Ticket, load, load_cpu_sharded,
    load_sharded, spawn,
};
use weirgate_kernels::cpu::CpuBackend;
use weirgate_kernels::{Backend, KvType};
use weirgate_models::{ModelFiles, ModelSpec, SafetensorsSource, TensorSource, read_spec};
use weirgate_testkit::{Definition, RandomCheckpoint};
use weirgate_types::{Finish, GenerateRequest, RejectReason, RequestId, SeqUpdate, StepOutputs, TokenId};

/// A model to test on: the demo model or a tiny random one.
pub struct Model {
    pub name: String,
    pub spec: ModelSpec,
    pub tensors: Box<dyn TensorSource>,
}

impl Model {
    pub fn demo() -> Self {
        let files = ModelFiles::embedded(weirgate_demo_model::FILES);
        let spec = read_spec(&files).expect("the demo model's config");
        let tensors = Box::new(SafetensorsSource::open(&files).expect("the demo model's tensors"));
        Self { name: "demo".into(), spec, tensors }
    }

    pub fn tiny(name: &str) -> Self {
        let definition = Definition::named(name).expect("a testkit checkpoint");
        let checkpoint = RandomCheckpoint::new(&definition).expect("its config");
        Self { name: name.into(), spec: checkpoint.spec().clone(), tensors: Box::new(checkpoint) }
    }
}

/// How an engine is set up for a run.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub threads: usize,
    pub blocks: usize,
    pub step_tokens: usize,
    pub prefix_cache: bool,
    pub speculate: usize,
    /// Of the KV cache; `None`: what fits the weights.
    pub kv: Option<KvType>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { threads: 2, blocks: 4096, step_tokens: 256, prefix_cache: true, speculate: 0, kv: None }
    }
}

impl Setup {
    fn options(self) -> LoadOptions {
        LoadOptions {
            threads: self.threads,
            block_size: 16,
            blocks: self.blocks,
            max_step_tokens: self.step_tokens,
            max_seqs: 64,
            max_seq_len: 512,
            kv_dtype: self.kv,
            commit_cache: true,
        }
    }
}

/// A running engine.
pub struct Engine {
    pub handle: EngineHandle,
    outputs: flume::Receiver<StepOutputs>,
}

/// What one sequence gave: its tokens with the bits of their log-probabilities, and those of its prompt's but the first,
/// where they were asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Generated {
    pub tokens: Vec<(TokenId, u32)>,
    pub prompt: Vec<u32>,
    pub finish: Option<Finish>,
    pub cached_tokens: u32,
}

/// Sequences by `(request, index)`.
pub type Results = BTreeMap<(RequestId, u32), Generated>;

impl Engine {
    /// On the CPU.
    pub fn start(model: &Model, setup: Setup) -> Self {
        Self::start_on(CpuBackend::new(setup.threads), model, setup)
    }

    pub fn start_on<B: Backend>(backend: B, model: &Model, setup: Setup) -> Self {
        let executor = load(backend, &model.spec, model.tensors.as_ref(), &setup.options());
        Self::run_on(executor.expect("the model loads"), model, setup)
    }

    /// On the CPU, in `shards` parts.
    pub fn start_sharded(model: &Model, setup: Setup, shards: usize) -> Self {
        let executor = load_cpu_sharded(&model.spec, model.tensors.as_ref(), &setup.options(), shards);
        Self::run_on(executor.expect("the model loads"), model, setup)
    }

    /// On as many devices as there are parts.
    pub fn start_on_shards<B: Backend>(
        model: &Model,
        setup: Setup,
        shards: (usize, impl FnMut() -> B),
    ) -> Self {
        let executor = load_sharded(shards, &model.spec, model.tensors.as_ref(), &setup.options());
        Self::run_on(executor.expect("the model loads"), model, setup)
    }

    pub fn run_on(executor: Box<dyn Executor>, model: &Model, setup: Setup) -> Self {
        let config = EngineConfig {
            prefix_cache: setup.prefix_cache,
            speculate: setup.speculate,
            rope: RopeRule::of(&model.spec),
            ..EngineConfig::default()
        };
        let (handle, outputs) = spawn(executor, config).expect("the engine thread starts");
        Self { handle, outputs }
    }

    pub fn submit(&self, request: &GenerateRequest) -> Ticket {
        self.handle.submit(request.clone()).expect("the request is accepted")
    }

    /// Takes outputs until `done` says so.
    pub fn drain(&self, results: &mut Results, mut done: impl FnMut(&Results) -> bool) {
        while !done(results) {
            let step = self.outputs.recv().expect("the engine lives");
            for output in step.outputs {
                let sequence = results.entry((output.request, output.index)).or_default();
                match output.update {
                    SeqUpdate::Scheduled { cached_tokens } => sequence.cached_tokens = cached_tokens,
                    SeqUpdate::Token(token) => sequence.tokens.push((token.id, token.logprob.to_bits())),
                    SeqUpdate::Finished { reason, .. } => {
                        assert_eq!(sequence.finish, None, "a sequence ends once");
                        sequence.finish = Some(reason);
                    }
                    SeqUpdate::Prompt { logprobs } => {
                        sequence.prompt =
                            logprobs.iter().flatten().map(|logprob| logprob.to_bits()).collect();
                    }
                    SeqUpdate::Rejected(reason) => panic!("rejected: {reason:?}"),
                }
            }
        }
    }

    /// The next request that is refused, and why.
    pub fn next_rejection(&self) -> (RequestId, RejectReason) {
        loop {
            let step = self.outputs.recv().expect("the engine lives");
            for output in step.outputs {
                if let SeqUpdate::Rejected(reason) = output.update {
                    return (output.request, reason);
                }
            }
        }
    }

    /// Submits all at once and waits for all; checks the books afterwards.
    pub fn run(&self, requests: &[GenerateRequest]) -> Results {
        let sequences: usize = requests.iter().map(|request| request.n as usize).sum();
        let tickets: Vec<Ticket> = requests.iter().map(|request| self.submit(request)).collect();
        let mut results = Results::new();
        self.drain(&mut results, |results| {
            results.values().filter(|sequence| sequence.finish.is_some()).count() == sequences
        });
        drop(tickets);
        results
    }

    /// Ends the engine and says how it stood.
    pub fn finish(self) -> weirgate_engine::EngineStats {
        self.handle.stop();
        while self.outputs.recv().is_ok() {}
        let stats = self.handle.stats();
        assert_eq!(stats.used_blocks, 0, "blocks leaked: {stats:?}");
        assert_eq!(stats.integrity_errors, 0, "{stats:?}");
        stats
    }
}

/// Pseudo-random numbers for test inputs (SplitMix64).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn tokens(&mut self, count: usize, vocab: usize) -> Vec<TokenId> {
        (0..count).map(|_| self.below(vocab) as TokenId).collect()
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// A plain greedy request.
pub fn greedy(id: u64, prompt: Vec<TokenId>, max_new_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        id: RequestId(id),
        prompt: prompt.into(),
        n: 1,
        sampling: weirgate_types::SamplingParams::default(),
        stop: weirgate_types::StopRules { max_new_tokens, min_new_tokens: 0, stop_tokens: Arc::from([]) },
        logprobs: weirgate_types::Logprobs::default(),
        priority: 0,
        deadline: None,
        shift: None,
        cache_salt: 0,
        adapter: None,
    }
}
