//! Adapters on the real decoder and engine: PEFT's logits, merged and beside the base; many adapters in one batch as each
//! alone; loading and unloading while others run.
//!
//! The goldens come from `tools/parity/make_adapters.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod real;

use std::path::PathBuf;

use real::adapters::{load, random};
use real::{Engine, Model, Results, Rng, Setup, greedy};
use serde_json::Value;
use weirgate_engine::{Batch, Decoder, DecoderConfig};
use weirgate_kernels::DType;
use weirgate_kernels::cpu::CpuBackend;
use weirgate_models::{Adapter, ModelFiles, ModelSpec, to_gguf};
use weirgate_testkit::{Definition, RandomCheckpoint};
use weirgate_types::{AdapterId, GenerateRequest, RejectReason, RequestId, Selection};

const BOUND: f64 = 1e-4;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/adapters")
}

struct Golden {
    value: Value,
    prompt: Vec<u32>,
}

impl Golden {
    fn read(name: &str) -> Self {
        let text = std::fs::read_to_string(folder().join(format!("{name}.json"))).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        let prompt =
            value["prompt"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        Self { value, prompt }
    }

    fn checkpoint(&self) -> RandomCheckpoint {
        let name = self.value["base"].as_str().unwrap();
        RandomCheckpoint::new(&Definition::named(name).unwrap()).unwrap()
    }

    /// `merged` or `beside`, `[tokens, vocab]` flat.
    fn logits(&self, how: &str) -> Vec<f64> {
        let rows = self.value[how].as_array().unwrap();
        rows.iter().flat_map(|row| row.as_array().unwrap()).map(|logit| logit.as_f64().unwrap()).collect()
    }

    #[track_caller]
    fn check(&self, got: &[f32]) {
        for how in ["beside", "merged"] {
            let want = self.logits(how);
            assert_eq!(got.len(), want.len());
            let error =
                got.iter().zip(&want).map(|(got, want)| (f64::from(*got) - want).abs()).fold(0.0, f64::max);
            assert!(error < BOUND, "{how}: off by {error:e}");
        }
    }
}

fn decoder(spec: &ModelSpec, tensors: &dyn weirgate_models::TensorSource) -> Decoder<CpuBackend> {
    let config = DecoderConfig {
        blocks: 8,
        block_size: 16,
        kv_dtype: DType::F32.into(),
        max_step_tokens: 64,
        max_seqs: 4,
        max_seq_len: 32,
        max_logit_rows: 16,
    };
    Decoder::new(CpuBackend::new(2), spec, tensors, config).unwrap()
}

/// The logits of a prompt, twice in one step: under the adapter and without.
fn logits(
    decoder: &mut Decoder<CpuBackend>,
    prompt: &[u32],
    adapter: Option<AdapterId>,
) -> (Vec<f32>, Vec<f32>) {
    let tokens = prompt.len() as u32;
    let batch = Batch {
        ids: [prompt, prompt].concat(),
        positions: (0..tokens).chain(0..tokens).collect(),
        slots: (0..tokens).chain(16..16 + tokens).collect(),
        cu_q: vec![0, tokens, 2 * tokens],
        kv_len: vec![tokens; 2],
        block_tables: vec![0, 1],
        block_offsets: vec![0, 1, 2],
        rope_len: vec![tokens; 2 * prompt.len()],
        adapters: vec![adapter, None],
        ..Batch::default()
    };
    decoder.forward(&batch).unwrap();
    let mut all = Vec::new();
    decoder.logits(&(0..2 * tokens).collect::<Vec<_>>(), &mut all).unwrap();
    let plain = all.split_off(all.len() / 2);
    (all, plain)
}

#[test]
fn logits_are_pefts_merged_and_beside_the_base() {
    for name in ["llama-qv", "llama-all", "llama-regex", "qwen2-layer", "phi3-fused"] {
        let golden = Golden::read(name);
        let checkpoint = golden.checkpoint();
        let adapter = Adapter::open(folder().join(name), checkpoint.spec()).expect(name);
        let mut decoder = decoder(checkpoint.spec(), &checkpoint);
        let (_, before) = logits(&mut decoder, &golden.prompt, None);
        let id = AdapterId(5);
        decoder.load_adapter(id, &adapter).unwrap();
        let (adapted, plain) = logits(&mut decoder, &golden.prompt, Some(id));
        golden.check(&adapted);
        assert_eq!(plain, before, "{name}: the base beside it changed");
        decoder.unload_adapter(id);
        assert_eq!(logits(&mut decoder, &golden.prompt, None), (before.clone(), before), "{name}");
    }
}

/// llama.cpp's form, on a base of either form; and PEFT's on a base of llama.cpp's.
#[test]
fn either_form_of_adapter_fits_either_form_of_base() {
    for (name, file) in [("llama-gguf", "llama-gguf.gguf"), ("llama-qv", "llama-qv")] {
        let golden = Golden::read(name);
        let checkpoint = golden.checkpoint();
        let stored = tempfile::tempdir().unwrap();
        let path = stored.path().join("base.gguf");
        let mut bytes = Vec::new();
        to_gguf(checkpoint.spec(), &checkpoint).unwrap().write(&mut bytes).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let files = ModelFiles::open(&path).unwrap();
        let spec = weirgate_models::read_spec(&files).unwrap();
        let tensors = weirgate_models::open_tensors(&files).unwrap();
        let bases: [(&ModelSpec, &dyn weirgate_models::TensorSource); 2] =
            [(checkpoint.spec(), &checkpoint), (&spec, tensors.as_ref())];
        for (spec, tensors) in bases {
            let adapter = Adapter::open(folder().join(file), spec).expect(name);
            let mut decoder = decoder(spec, tensors);
            decoder.load_adapter(AdapterId(1), &adapter).unwrap();
            golden.check(&logits(&mut decoder, &golden.prompt, Some(AdapterId(1))).0);
        }
    }
}

#[test]
fn a_batch_that_names_no_loaded_adapter_is_an_error_and_never_the_base() {
    let golden = Golden::read("llama-qv");
    let checkpoint = golden.checkpoint();
    let mut decoder = decoder(checkpoint.spec(), &checkpoint);
    let batch = Batch {
        ids: vec![1],
        positions: vec![0],
        slots: vec![0],
        cu_q: vec![0, 1],
        kv_len: vec![1],
        block_tables: vec![0],
        block_offsets: vec![0, 1],
        rope_len: vec![1],
        adapters: vec![Some(AdapterId(9))],
        ..Batch::default()
    };
    let error = decoder.forward(&batch).unwrap_err().to_string();
    assert!(error.contains("AdapterId(9)"), "{error}");
}

const ADAPTERS: u64 = 16;
const REQUESTS: u64 = 64;

/// 64 requests with few prompts among them, so that the cache of another adapter would be found if it could be.
fn requests(vocab: usize, adapters: &[AdapterId]) -> Vec<GenerateRequest> {
    let mut rng = Rng(64);
    let prompts: Vec<Vec<u32>> = (0..3).map(|i| rng.tokens(20 + 17 * i, vocab)).collect();
    (0..REQUESTS)
        .map(|id| {
            let prompt = prompts[rng.below(3)].clone();
            let mut request = greedy(id, prompt, 6 + rng.below(14) as u32);
            request.adapter = Some(adapters[id as usize % adapters.len()]);
            if rng.below(2) == 0 {
                request.sampling.selection = Selection::Random { seed: rng.next() };
            }
            request
        })
        .collect()
}

#[track_caller]
fn assert_same(expected: &Results, found: &Results, what: &str) {
    assert_eq!(expected.len(), found.len(), "{what}");
    for (key, sequence) in expected {
        assert_eq!(sequence.tokens, found[key].tokens, "{what}: request {key:?}");
        assert_eq!(sequence.finish, found[key].finish, "{what}: request {key:?}");
    }
}

/// Same tokens, and the same bits of log-probability: each request alone with its adapter as the only one there is, and
/// all 64 over 16 adapters at once, cold, warm, preempted and with guesses.
#[test]
fn sixteen_adapters_in_one_batch_give_what_each_gives_alone() {
    for name in ["llama", "qwen2"] {
        let model = Model::tiny(name);
        let adapter = |seed| random(&model.spec, 1000 + seed);
        let setup = Setup { threads: 1, prefix_cache: false, ..Setup::default() };
        let mut expected = Results::new();
        for seed in 0..ADAPTERS {
            let engine = Engine::start(&model, setup);
            let ids = [load(&engine, adapter(seed))];
            let all = requests(model.spec.vocab_size, &ids);
            for request in all.iter().skip(seed as usize).step_by(ADAPTERS as usize) {
                expected.extend(engine.run(std::slice::from_ref(request)));
            }
            engine.finish();
        }
        let distinct: std::collections::BTreeSet<_> = expected.values().map(|one| &one.tokens).collect();
        assert!(distinct.len() > 48, "the adapters hardly matter: {} texts", distinct.len());
        let tight = Setup { blocks: 24, step_tokens: 96, ..Setup::default() };
        let guessing = Setup { speculate: 3, ..Setup::default() };
        let (mut hits, mut preemptions) = (0, 0);
        for (setup, what) in [(Setup::default(), "at once"), (tight, "tiny pool"), (guessing, "with guesses")]
        {
            let engine = Engine::start(&model, setup);
            let ids: Vec<_> = (0..ADAPTERS).map(|seed| load(&engine, adapter(seed))).collect();
            let all = requests(model.spec.vocab_size, &ids);
            assert_same(&expected, &engine.run(&all), what);
            assert_same(&expected, &engine.run(&all), &format!("{what}, warm"));
            let stats = engine.finish();
            hits += stats.prefix_hits;
            preemptions += stats.preemptions;
        }
        assert!(hits > 0 && preemptions > 0, "{hits} tokens from the cache, {preemptions} preemptions");
        println!(
            "proof: {name}: {REQUESTS} requests over {ADAPTERS} adapters in one batch have the tokens and the bits of \
             log-probability that each adapter gives alone, {hits} tokens from the cache and {preemptions} preemptions \
             on the way"
        );
    }
}

/// What others compute does not change when adapters come and go; a slot that is taken anew has nothing left of the old
/// adapter, nor has the cache.
#[test]
fn adapters_come_and_go_beside_running_requests() {
    let model = Model::tiny("llama");
    let (first, second) = (random(&model.spec, 1), random(&model.spec, 2));
    let prompt = Rng(9).tokens(40, model.spec.vocab_size);
    let ask = |id, adapter| GenerateRequest { adapter, ..greedy(id, prompt.clone(), 30) };
    let alone = |adapter: Option<&Adapter>| {
        let engine = Engine::start(&model, Setup::default());
        let id = adapter.map(|adapter| load(&engine, adapter.clone()));
        let results = engine.run(&[ask(0, id)]);
        results[&(RequestId(0), 0)].tokens.clone()
    };
    let (base, with_first, with_second) = (alone(None), alone(Some(&first)), alone(Some(&second)));
    assert!(base != with_first && with_first != with_second);

    let engine = Engine::start(&model, Setup::default());
    let one = load(&engine, first.clone());
    let tickets = [engine.submit(&ask(0, None)), engine.submit(&ask(1, Some(one)))];
    let mut results = Results::new();
    engine.drain(&mut results, |results| results.values().filter(|one| one.tokens.len() >= 2).count() == 2);
    let gone = engine.handle.unload_adapter(one);
    let two = load(&engine, second);
    let third = engine.submit(&ask(2, Some(two)));
    engine.drain(&mut results, |results| results.values().filter(|one| one.finish.is_some()).count() == 3);
    gone.recv().unwrap();
    let tokens = |id| results[&(RequestId(id), 0)].tokens.clone();
    assert_eq!((tokens(0), tokens(1), tokens(2)), (base, with_first.clone(), with_second));
    drop((tickets, third));
    // Its slot and its name in the cache are others now.
    let again = load(&engine, first);
    assert_ne!(again, one);
    let results = engine.run(&[ask(3, Some(again))]);
    assert_eq!(results[&(RequestId(3), 0)].tokens, with_first);
    assert_eq!(results[&(RequestId(3), 0)].cached_tokens, 0);
    let refused = engine.submit(&ask(4, Some(one)));
    let rejected = engine.next_rejection();
    assert_eq!(rejected, (RequestId(4), RejectReason::UnknownAdapter));
    drop(refused);
    engine.finish();
}
