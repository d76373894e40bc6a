//! The engine on a CUDA device against the engine on the CPU.
#![allow(clippy::expect_used)]

use weirgate_engine::LoadOptions;
use weirgate_kernels::cuda::{CudaBackend, Watched};
use weirgate_models::DType;
use weirgate_types::{GenerateRequest, Selection};

use crate::gpu;
use crate::kv::prompts;
use crate::real::{Engine, Generated, Model, Results, Rng, Setup, greedy};

/// Steps of so many tokens are recorded.
const GRAPHS: [usize; 4] = [1, 2, 4, 16];

/// How a model in parts is loaded, and its blocks of KV.
pub const OPTIONS: LoadOptions = LoadOptions {
    threads: 1,
    block_size: 16,
    blocks: 0,
    max_step_tokens: 24,
    max_seqs: 4,
    max_seq_len: 96,
    kv_dtype: None,
    commit_cache: true,
};
pub const BLOCKS: usize = 40;

pub fn exact(model: &Model, setup: Setup) -> Engine {
    Engine::start_on(CudaBackend::deterministic(gpu()), model, setup)
}

fn recorded(model: &Model, setup: Setup) -> Engine {
    Engine::start_on(CudaBackend::deterministic(gpu()).with_graphs(&GRAPHS), model, setup)
}

/// Prompts of several lengths, two of which share their start; greedy, and one drawn.
pub fn requests(vocab: usize, max_new_tokens: u32) -> Vec<GenerateRequest> {
    let mut rng = Rng(41);
    let shared = rng.tokens(18, vocab);
    let mut requests: Vec<GenerateRequest> = [1, 5, 40, 23]
        .into_iter()
        .zip(0..)
        .map(|(len, id)| {
            let mut prompt = if id % 2 == 1 { shared.clone() } else { Vec::new() };
            prompt.extend(rng.tokens(len, vocab));
            greedy(id, prompt, max_new_tokens)
        })
        .collect();
    if let Some(last) = requests.last_mut() {
        last.sampling.selection = Selection::Random { seed: 9 };
        last.sampling.top_k = 30;
        last.sampling.repetition_penalty = 1.2;
    }
    requests
}

/// The same tokens, and log-probabilities that rounding alone tells apart.
pub fn assert_parity(expected: &Results, found: &Results, what: &str, bound: f32) {
    assert_eq!(expected.len(), found.len(), "{what}");
    for (key, Generated { tokens, finish, .. }) in expected {
        let other = &found[key];
        let ids = |tokens: &[(u32, u32)]| -> Vec<u32> { tokens.iter().map(|(token, _)| *token).collect() };
        assert_eq!(ids(tokens), ids(&other.tokens), "{what}: request {key:?}");
        assert_eq!(*finish, other.finish, "{what}: request {key:?}");
        for (&(_, want), &(_, got)) in tokens.iter().zip(&other.tokens) {
            let (want, got) = (f32::from_bits(want), f32::from_bits(got));
            assert!((want - got).abs() < bound, "{what}: log-probability {got}, on the CPU {want}");
        }
    }
}

/// After how many tokens two greedy sequences part, and how far their log-probabilities are from each other until then.
pub fn apart(expected: &Generated, found: &Generated) -> (usize, f32) {
    let pairs = expected.tokens.iter().zip(&found.tokens);
    let same = pairs.take_while(|((want, _), (got, _))| want == got);
    same.fold((0, 0.0), |(count, most), (&(_, want), &(_, got))| {
        (count + 1, f32::max(most, (f32::from_bits(want) - f32::from_bits(got)).abs()))
    })
}

fn check(name: &str) {
    let model = Model::tiny(name);
    check_model(&model, &requests(model.spec.vocab_size, 16));
}

fn check_model(model: &Model, requests: &[GenerateRequest]) {
    let name = &model.name;
    let (dtype, _) = model.tensors.info(&model.spec.tensors.layers[0].output).expect("a matrix");
    // Small steps, so that prompts are cut; few blocks, so that somebody is preempted.
    let setup = Setup { threads: 1, blocks: 64, step_tokens: 24, ..Setup::default() };
    let cpu = Engine::start(model, setup);
    let expected = cpu.run(requests);
    cpu.finish();
    // Activations in front of bf16 weights have 16 bits, or 17 by their rounding.
    let bound = if dtype == DType::BF16 { 5e-3 } else { 1e-3 };
    let cuda = exact(model, setup);
    assert_parity(&expected, &cuda.run(requests), name, bound);
    cuda.finish();
    if dtype != DType::F32 {
        // With tensor cores for prompts, which round activations where weights and cache have 16 bits.
        let cuda = Engine::start_on(CudaBackend::new(gpu()), model, setup);
        assert_parity(&expected, &cuda.run(requests), name, 0.05);
        cuda.finish();
    }
}

#[test]
fn llama() {
    check("llama");
}

#[test]
fn llama_in_bf16() {
    check("llama-bf16");
}

#[test]
fn llama_in_f16() {
    check("llama-f16");
}

#[test]
fn sliding_windows_and_qk_norm() {
    check("gemma3");
}

#[test]
fn soft_caps() {
    check("gemma2");
}

#[test]
fn biases_in_bf16() {
    check("qwen2-bf16");
}

#[test]
fn rotary_tables_that_depend_on_length() {
    check("phi3-longrope");
}

#[test]
fn qk_norm() {
    check("qwen3");
}

#[test]
fn mistral() {
    check("mistral");
}

/// Trained, with heads of 64, and a KV cache of its weights' type.
#[test]
fn the_demo_model() {
    check_model(&Model::demo(), &prompts());
}

/// A model in two and four parts, each on a device of its own; sums go by way of the host.
#[test]
fn shards() {
    let model = Model::tiny("llama-llama3");
    let requests = requests(model.spec.vocab_size, 12);
    let setup = Setup { threads: 1, blocks: 64, ..Setup::default() };
    let cpu = Engine::start(&model, setup);
    let expected = cpu.run(&requests);
    cpu.finish();
    for count in [2, 4] {
        let devices = (count, || CudaBackend::deterministic(gpu()));
        let cuda = Engine::start_on_shards(&model, setup, devices);
        assert_parity(&expected, &cuda.run(&requests), &format!("{count} shards"), 5e-3);
        cuda.finish();
    }
}

/// A replayed step computes what its launches would, in bits; and steps are replayed.
#[test]
fn recorded_steps() {
    for name in ["llama-bf16", "gemma3"] {
        let model = Model::tiny(name);
        let requests = requests(model.spec.vocab_size, 12);
        let setup = Setup { blocks: 64, step_tokens: 24, ..Setup::default() };
        let engine = exact(&model, setup);
        let expected = engine.run(&requests);
        engine.finish();
        let (gpu, watch) = Watched::new(gpu());
        let engine = Engine::start_on(CudaBackend::deterministic(gpu).with_graphs(&GRAPHS), &model, setup);
        assert_eq!(engine.run(&requests), expected, "{name}");
        let steps = engine.finish().steps;
        let counts = watch.counts();
        assert!(counts.replays > steps / 3, "{name}: {counts:?} in {steps} steps");
    }
}

/// Requests for a batch: most of them short, two with more positions than attention's splits have; greedy and drawn.
fn many(vocab: usize) -> Vec<GenerateRequest> {
    let mut rng = Rng(77);
    let shared = rng.tokens(16, vocab);
    (0..64)
        .map(|id| {
            let mut prompt = if id % 4 == 0 { shared.clone() } else { Vec::new() };
            let len = if id % 40 == 7 { 260 } else { 1 + rng.below(12) };
            prompt.extend(rng.tokens(len, vocab));
            let mut request = greedy(id, prompt, 6);
            if id % 2 == 1 {
                request.sampling.selection = Selection::Random { seed: id };
                request.sampling.temperature = 0.9;
            }
            request
        })
        .collect()
}

/// 64 requests alone, all at once, and with so little room that some are preempted, on one device that is asked to be
/// deterministic: in bits, the batch changes nothing.
#[test]
fn sixty_four_requests_alone_batched_and_preempted() {
    let model = Model::tiny("llama-bf16");
    let requests = many(model.spec.vocab_size);
    let engine = recorded(&model, Setup { blocks: 64, prefix_cache: false, ..Setup::default() });
    let mut alone = Results::new();
    for request in &requests {
        alone.extend(engine.run(std::slice::from_ref(request)));
    }
    engine.finish();
    for (blocks, preempts) in [(256, false), (32, true)] {
        let engine = recorded(&model, Setup { blocks, step_tokens: 128, ..Setup::default() });
        let together = engine.run(&requests);
        let stats = engine.finish();
        assert_eq!(stats.preemptions > 0, preempts, "{stats:?}");
        for (key, sequence) in &alone {
            assert_eq!(sequence.tokens, together[key].tokens, "request {key:?} in {blocks} blocks");
            assert_eq!(sequence.finish, together[key].finish);
        }
    }
}
