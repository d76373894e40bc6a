//! Tensor parallelism on the CPU: shards compute what one device computes, for every architecture.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod real;

use std::collections::BTreeMap;

use real::{Engine, Model, Results, Rng, Setup, greedy};
use weirgate_engine::{Batch, LoadOptions, StepResult, load_cpu_sharded};
use weirgate_models::{DType, QuantMix, Quantized, Shard, TensorSource};
use weirgate_types::GenerateRequest;

/// How far apart log-probabilities may be: shards add up in another order.
const BOUND: f32 = 2e-3;

fn requests(model: &Model) -> Vec<GenerateRequest> {
    let mut rng = Rng(11);
    (0..6).map(|id| greedy(id, rng.tokens(5 + 9 * id as usize, model.spec.vocab_size), 8)).collect()
}

/// A token may only differ where the two best ones were as good as equal; what follows differs then.
fn same(name: &str, ours: &Results, theirs: &Results) {
    let mut compared = 0;
    for (key, expected) in theirs {
        for (found, expected) in ours[key].tokens.iter().zip(&expected.tokens) {
            let (ours, theirs) = (f32::from_bits(found.1), f32::from_bits(expected.1));
            assert!((ours - theirs).abs() <= BOUND, "{name}: {ours} and {theirs}");
            if found.0 != expected.0 {
                break;
            }
            compared += 1;
        }
    }
    assert!(compared >= 40, "{name}: only {compared} tokens are the same");
}

#[test]
fn shards_compute_what_one_device_computes() {
    let mut split = 0;
    for definition in weirgate_testkit::definitions() {
        let model = Model::tiny(&definition.name);
        let requests = requests(&model);
        let engine = Engine::start(&model, Setup::default());
        let expected = engine.run(&requests);
        engine.finish();
        for count in [2, 4] {
            if model.spec.shard(Shard { index: 0, count }, model.tensors.as_ref()).is_err() {
                continue;
            }
            let engine = Engine::start_sharded(&model, Setup::default(), count);
            same(&format!("{} in {count}", definition.name), &engine.run(&requests), &expected);
            engine.finish();
            split += 1;
        }
    }
    assert!(split >= 10, "only {split} models were split");
}

/// The parts of all shards, put together, are the whole: no row or column is left out or taken twice.
#[test]
fn the_parts_are_the_whole() {
    let model = Model::demo();
    let mut sums: BTreeMap<String, f64> = BTreeMap::new();
    let count = 2;
    for index in 0..count {
        let (spec, source) = model.spec.shard(Shard { index, count }, model.tensors.as_ref()).unwrap();
        spec.check_tensors(&source).unwrap();
        let mut bytes = 0;
        for (name, shape) in spec.tensor_shapes() {
            let view = source.tensor(name).unwrap();
            assert_eq!(view.shape, shape, "{name}");
            bytes += view.bytes.len() as u64;
            *sums.entry(name.to_owned()).or_default() +=
                view.to_f32().iter().map(|v| f64::from(*v)).sum::<f64>();
        }
        assert_eq!(source.total_bytes(), bytes);
    }
    for (name, sum) in sums {
        let whole = model.tensors.tensor(&name).unwrap();
        let expected: f64 = whole.to_f32().iter().map(|v| f64::from(*v)).sum();
        let times = if name.contains("_proj") { 1.0 } else { count as f64 };
        assert!(
            (sum - times * expected).abs() < 1e-6 * times.max(expected.abs()),
            "{name}: {sum} {expected}"
        );
    }
}

#[test]
fn quantized_weights_are_split_by_whole_blocks() {
    let model = Model::demo();
    let quantized = Quantized::new(&model.spec, model.tensors.as_ref(), QuantMix::Q4_0).unwrap();
    let (spec, source) = model.spec.shard(Shard { index: 1, count: 4 }, &quantized).unwrap();
    spec.check_tensors(&source).unwrap();
    let name = &spec.tensors.layers[0].down;
    let (part, whole) = (source.tensor(name).unwrap(), quantized.tensor(name).unwrap());
    assert_eq!((part.dtype, &part.shape[..]), (DType::Q4_0, &[256, 192][..]));
    let (part, whole) = (part.to_f32(), whole.to_f32());
    for row in 0..256 {
        assert_eq!(part[row * 192..][..192], whole[row * 768 + 192..][..192], "row {row}");
    }
    // Blocks of 256 columns are none of 192.
    let wide = Quantized::new(&model.spec, model.tensors.as_ref(), QuantMix::Q6K).unwrap();
    let (_, source) = model.spec.shard(Shard { index: 1, count: 4 }, &wide).unwrap();
    let message = source.tensor(name).unwrap_err().to_string();
    assert!(message.contains(name.as_str()) && message.contains("whole blocks of 256"), "{message}");
}

fn options() -> LoadOptions {
    LoadOptions {
        threads: 2,
        block_size: 16,
        blocks: 64,
        max_step_tokens: 32,
        max_seqs: 4,
        max_seq_len: 128,
        kv_dtype: None,
        commit_cache: false,
    }
}

#[test]
fn what_does_not_come_out_even_is_refused() {
    let model = Model::demo();
    for count in [0, 3, 5, 8, 100_000] {
        let result = load_cpu_sharded(&model.spec, model.tensors.as_ref(), &options(), count);
        let message = result.err().unwrap().to_string();
        assert!(message.contains("shards"), "{count}: {message}");
    }
}

/// A part of a tensor has the right shape whatever the whole one's is.
#[test]
fn tensors_of_another_shape_are_refused() {
    let model = Model::demo();
    let mut spec = model.spec.clone();
    spec.intermediate_size /= 2;
    let result = load_cpu_sharded(&spec, model.tensors.as_ref(), &options(), 2);
    let message = result.err().unwrap().to_string();
    assert!(message.contains("the configuration implies"), "{message}");
}

/// A step that one shard refuses is an error, and nobody waits for ever, in that step or the next.
#[test]
fn a_failure_is_an_error_for_all() {
    let model = Model::demo();
    let mut executor = load_cpu_sharded(&model.spec, model.tensors.as_ref(), &options(), 2).unwrap();
    let batch = |tokens: u32| Batch {
        ids: vec![5; tokens as usize],
        positions: (0..tokens).collect(),
        slots: (0..tokens).collect(),
        cu_q: vec![0, tokens],
        kv_len: vec![tokens],
        block_tables: vec![0],
        block_offsets: vec![0, 1],
        rope_len: vec![tokens; tokens as usize],
        adapters: vec![None],
        ..Batch::default()
    };
    executor.launch(&batch(8)).unwrap();
    executor.collect(&mut StepResult::default()).unwrap();
    assert!(executor.launch(&batch(33)).is_err());
    assert!(executor.launch(&batch(8)).is_err());
}
