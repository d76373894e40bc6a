//! Adapters on a CUDA device: the CPU's tokens, and in a batch the bits that each gives alone.

use weirgate_kernels::cuda::{CudaBackend, Watched};
use weirgate_types::{AdapterId, GenerateRequest};

use crate::gpu;
use crate::parity::{assert_parity, exact, requests};
use crate::real::adapters::{load, random};
use crate::real::{Engine, Model, Results, Setup};

/// Small steps, so that prompts are cut; few blocks, so that somebody is preempted.
const SETUP: Setup =
    Setup { threads: 1, blocks: 64, step_tokens: 24, prefix_cache: true, speculate: 0, kv: None };
const ADAPTERS: usize = 3;

fn start(engine: Engine, model: &Model) -> (Engine, Vec<AdapterId>) {
    let ids = (0..ADAPTERS as u64).map(|seed| load(&engine, random(&model.spec, 500 + seed))).collect();
    (engine, ids)
}

/// Each of the prompts under the base and under every adapter.
fn under_all(adapters: &[AdapterId], vocab: usize) -> Vec<GenerateRequest> {
    let under = std::iter::once(None).chain(adapters.iter().copied().map(Some));
    let mut all = Vec::new();
    for adapter in under {
        for request in requests(vocab, 10) {
            let id = weirgate_types::RequestId(all.len() as u64);
            all.push(GenerateRequest { id, adapter, ..request });
        }
    }
    all
}

#[test]
fn many_in_one_batch_have_the_cpus_tokens_and_each_ones_own_bits() {
    for (name, bound) in [("llama", 1e-3), ("qwen2-bf16", 1e-2)] {
        let model = Model::tiny(name);
        let (cpu, ids) = start(Engine::start(&model, SETUP), &model);
        let all = under_all(&ids, model.spec.vocab_size);
        let expected = cpu.run(&all);
        cpu.finish();
        let mut texts: Vec<_> = expected.values().map(|one| &one.tokens).collect();
        texts.sort();
        texts.dedup();
        assert!(texts.len() > all.len() / 2, "the adapters hardly matter: {} texts", texts.len());

        let (cuda, ids) = start(exact(&model, SETUP), &model);
        let all = under_all(&ids, model.spec.vocab_size);
        let together = cuda.run(&all);
        cuda.finish();
        assert_parity(&expected, &together, name, bound);

        let (cuda, ids) = start(exact(&model, Setup { prefix_cache: false, ..SETUP }), &model);
        let mut alone = Results::new();
        for request in &under_all(&ids, model.spec.vocab_size) {
            alone.extend(cuda.run(std::slice::from_ref(request)));
        }
        cuda.finish();
        for (key, sequence) in &alone {
            assert_eq!(sequence.tokens, together[key].tokens, "{name}: request {key:?}");
        }
    }
}

/// Steps are replayed with adapters as without, each for itself, and have the same results as without any recording.
#[test]
fn steps_with_adapters_are_replayed() {
    let model = Model::tiny("llama-bf16");
    let run = |backend| {
        let (engine, ids) = start(Engine::start_on(backend, &model, SETUP), &model);
        let all = under_all(&ids, model.spec.vocab_size);
        let base = all.len() / (ADAPTERS + 1);
        let found = [engine.run(&all[..base]), engine.run(&all[base..]), engine.run(&all)];
        engine.finish();
        found
    };
    let expected = run(CudaBackend::deterministic(Watched::new(gpu()).0));
    let (gpu, watch) = Watched::new(gpu());
    assert_eq!(run(CudaBackend::deterministic(gpu).with_graphs(&[1, 2, 4, 16])), expected);
    assert!(watch.counts().replays > 0);
}

/// A slot that is taken anew has nothing left of the adapter before it.
#[test]
fn adapters_come_and_go() {
    let model = Model::tiny("llama");
    let run = |engine: Engine| {
        let mut found = Vec::new();
        for seed in [1, 2, 1] {
            let id = load(&engine, random(&model.spec, seed));
            let ask = |request| GenerateRequest { adapter: Some(id), ..request };
            let all: Vec<_> = requests(model.spec.vocab_size, 8).into_iter().map(ask).collect();
            found.push(engine.run(&all));
            engine.handle.unload_adapter(id).recv().expect("it is gone");
        }
        engine.finish();
        found
    };
    let setup = Setup { prefix_cache: false, ..SETUP };
    let (expected, found) = (run(Engine::start(&model, setup)), run(exact(&model, setup)));
    for (number, (expected, found)) in expected.iter().zip(&found).enumerate() {
        assert_parity(expected, found, &format!("adapter {number}"), 1e-3);
    }
    assert_eq!(found[0], found[2]);
    assert_ne!(found[0], found[1]);
}
