//! What an engine asks of its GPU while it serves: memory never, a wait per step; and what becomes of requests when the
//! GPU goes wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use weirgate_engine::{CudaModel, CudaOptions, EngineConfig, Executor, LoadOptions, RopeRule, spawn};
use weirgate_kernels::cuda::{Emulator, Watch, Watched};
use weirgate_types::{
    Finish, Frequency, GenerateRequest, Logprobs, RejectReason, RequestId, Selection, SeqUpdate,
};

use crate::gpu;
use crate::real::{Model, Rng, greedy};

const OPTIONS: LoadOptions = LoadOptions {
    threads: 1,
    block_size: 16,
    blocks: 0,
    max_step_tokens: 40,
    max_seqs: 6,
    max_seq_len: 300,
    kv_dtype: None,
    commit_cache: true,
};

fn load(model: &Model, cuda: &CudaOptions) -> (CudaModel<Watched<Emulator>>, Arc<Watch>) {
    let (gpu, watch) = Watched::new(gpu());
    let loaded = CudaModel::load(gpu, &model.spec, model.tensors.as_ref(), &OPTIONS, cuda);
    (loaded.expect("it loads"), watch)
}

fn serving(model: &Model, blocks: usize) -> (Box<dyn Executor>, Arc<Watch>) {
    let (loaded, watch) = load(model, &CudaOptions::default());
    (loaded.with_cache(blocks, 300).expect("room"), watch)
}

/// Runs all requests at once; how each sequence ended, and in how many steps.
fn run(executor: Box<dyn Executor>, model: &Model, requests: &[GenerateRequest]) -> (Vec<Finish>, u64) {
    let config = EngineConfig { rope: RopeRule::of(&model.spec), ..EngineConfig::default() };
    let (handle, outputs) = spawn(executor, config).expect("a thread");
    let tickets: Vec<_> =
        requests.iter().map(|request| handle.submit(request.clone()).expect("accepted")).collect();
    let mut ends: BTreeMap<RequestId, Finish> = BTreeMap::new();
    while ends.len() < requests.len() {
        for output in outputs.recv().expect("the engine lives until all have their ends").outputs {
            match output.update {
                SeqUpdate::Finished { reason, .. } => {
                    assert!(ends.insert(output.request, reason).is_none(), "{:?} ends once", output.request);
                }
                SeqUpdate::Rejected(reason) => panic!("rejected: {reason:?}"),
                _ => {}
            }
        }
    }
    drop(tickets);
    handle.stop();
    while let Ok(step) = outputs.recv() {
        assert!(step.outputs.is_empty(), "something after the ends");
    }
    let stats = handle.stats();
    assert_eq!((stats.used_blocks, stats.integrity_errors), (0, 0), "{stats:?}");
    (ends.into_values().collect(), stats.steps)
}

/// One request for everything that needs memory while a token is drawn, with prompts short and as long as a step.
fn demanding(vocab: usize) -> Vec<GenerateRequest> {
    let mut rng = Rng(5);
    (0..12)
        .map(|id| {
            let len = if id % 5 == 2 { 120 } else { 1 + rng.below(30) };
            let mut request = greedy(id, rng.tokens(len, vocab), 9);
            request.sampling.selection = Selection::Random { seed: id };
            request.sampling.temperature = 0.8;
            match id % 6 {
                0 => request.sampling.tfs_z = 0.7,
                1 => request.sampling.top_k = 9,
                2 => request.sampling.repetition_penalty = 1.3,
                3 => request.sampling.frequency_penalty = Frequency::Count(0.4),
                4 => request.logprobs = Logprobs { top_n: 20, prompt: true },
                _ => request.sampling.selection = Selection::Greedy,
            }
            request
        })
        .collect()
}

/// The emulated GPU says it has 1 GiB, all of it free; half of that is kept in reserve.
#[test]
fn the_cache_is_sized_after_the_largest_steps() {
    let model = Model::tiny("llama");
    let (mut loaded, watch) = load(&model, &CudaOptions::default());
    // The largest steps were taken, and those that decode recorded.
    let counts = watch.counts();
    assert!(counts.launches > 0 && counts.replays > 0, "{counts:?}");
    let free = loaded.free_bytes(1.0).expect("an answer");
    assert!((512 << 20..600 << 20).contains(&free), "{free}");
    assert!(loaded.free_bytes(0.25).expect("an answer") < 16 << 20);
    let limits = loaded.with_cache(77, 200).expect("room").limits();
    assert_eq!(
        (limits.blocks, limits.max_seq_len, limits.max_seqs, limits.max_step_tokens),
        (77, 200, 6, 40)
    );
}

/// So no request can bring the server out of memory.
#[test]
fn serving_allocates_nothing() {
    let model = Model::tiny("llama-bf16");
    let (executor, watch) = serving(&model, 40);
    let before = watch.counts();
    let (ends, _) = run(executor, &model, &demanding(model.spec.vocab_size));
    assert!(ends.iter().all(|end| *end == Finish::Length), "{ends:?}");
    let after = watch.counts();
    assert_eq!(after.allocations, before.allocations);
    assert!(after.replays > before.replays + 5, "{before:?} {after:?}");
}

/// Tokens, and log-probabilities of prompts, come back at a step's end, all in one piece.
#[test]
fn a_step_waits_once() {
    let model = Model::tiny("llama");
    let (executor, watch) = serving(&model, 60);
    let before = watch.counts().waits;
    // So the engine plans while the device computes.
    assert!(executor.is_asynchronous());
    let (_, steps) = run(executor, &model, &demanding(model.spec.vocab_size));
    assert_eq!(watch.counts().waits - before, steps);
}

/// `--cuda-graphs 0`, and sizes of one's own.
#[test]
fn graphs_are_recorded_for_the_sizes_that_are_asked_for() {
    let model = Model::tiny("llama");
    let requests: Vec<_> = (0..3).map(|id| greedy(id, vec![7; 20], 8)).collect();
    let mut replays = Vec::new();
    for graphs in [Some(vec![]), Some(vec![4]), None] {
        let (loaded, watch) = load(&model, &CudaOptions { graphs, ..CudaOptions::default() });
        let executor = loaded.with_cache(60, 300).expect("room");
        let (ends, _) = run(executor, &model, &requests);
        assert_eq!(ends, [Finish::Length; 3]);
        replays.push(watch.counts().replays);
    }
    assert_eq!(replays[0], 0);
    assert!(replays[1] > 3 && replays[2] > 3, "{replays:?}");
}

/// Wherever in a step the GPU goes wrong, each request gets one end that says so, and the engine ends.
#[test]
fn a_fault_ends_every_request_once() {
    let model = Model::tiny("llama");
    let requests: Vec<_> = (0..5).map(|id| greedy(id, vec![3 + id as u32; 4], 30)).collect();
    let mut failed_steps = Vec::new();
    for calls in [0, 1, 2, 40, 41, 90, 200, 333] {
        let (executor, watch) = serving(&model, 60);
        watch.fail_after(calls);
        let (handle, outputs) = spawn(executor, EngineConfig::default()).expect("a thread");
        // The first ones may have brought the fault about before the last ones come.
        let tickets: Vec<_> =
            requests.iter().filter_map(|request| handle.submit(request.clone()).ok()).collect();
        let mut ends: BTreeMap<RequestId, Vec<Finish>> = BTreeMap::new();
        let mut failed = 0;
        while let Ok(step) = outputs.recv() {
            failed += u32::from(step.stats.failed);
            for output in step.outputs {
                if let SeqUpdate::Finished { reason, .. } = output.update {
                    ends.entry(output.request).or_default().push(reason);
                }
            }
        }
        assert_eq!(ends.len(), tickets.len(), "after {calls} calls");
        assert!(ends.values().all(|ends| *ends == [Finish::EngineFailed]), "after {calls} calls: {ends:?}");
        assert_eq!(failed, 1, "after {calls} calls");
        let refused = handle.submit(requests[0].clone()).err();
        assert_eq!(refused, Some(RejectReason::EngineStopped));
        failed_steps.push(handle.stats().steps);
    }
    assert_eq!(failed_steps[0], 0);
    assert!(failed_steps[7] > 3, "{failed_steps:?}");
}

/// A GPU that goes wrong as it is taken into use says so; nothing is served.
#[test]
fn a_fault_while_loading_is_an_error_that_names_it() {
    let model = Model::tiny("llama");
    for calls in [0, 3, 60, 300] {
        let (gpu, watch) = Watched::new(gpu());
        watch.fail_after(calls);
        let cuda = CudaOptions::default();
        let loaded = CudaModel::load(gpu, &model.spec, model.tensors.as_ref(), &OPTIONS, &cuda);
        let message = loaded.err().expect("an error").to_string();
        assert!(message.contains("an illegal memory access"), "after {calls} calls: {message}");
    }
}
