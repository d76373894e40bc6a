//! The KV cache in eight bits on a CUDA device.
#![allow(clippy::expect_used)]

use serde_json::Value;
use weirgate_kernels::cuda::CudaBackend;
use weirgate_kernels::{KvType, SmallFloat};
use weirgate_types::GenerateRequest;

use crate::gpu;
use crate::parity::{apart, exact, requests};
use crate::real::{Engine, Model, Results, Setup, greedy};

/// Texts that the demo model goes on from, in tokens.
const PROMPTS: &str = include_str!("../../../tools/demo_model/expected.json");

pub fn prompts() -> Vec<GenerateRequest> {
    let all: Value = serde_json::from_str(PROMPTS).expect("JSON");
    let prompts = all["prompts"].as_array().expect("prompts").iter().zip(0..).take(3);
    prompts
        .map(|(case, id)| {
            let ids = case["prompt_ids"].as_array().expect("ids").iter().filter_map(Value::as_u64);
            greedy(id, ids.map(|id| id as u32).collect(), 10)
        })
        .collect()
}

/// A trained model goes on as it does with an exact cache, nearly: one token after the other, and in a prompt's tiles.
#[test]
fn a_trained_model_hardly_notices() {
    let model = Model::demo();
    let requests = prompts();
    let setup = Setup { threads: 1, blocks: 64, ..Setup::default() };
    let run = |engine: Engine| {
        let results = engine.run(&requests);
        engine.finish();
        results
    };
    let expected = run(Engine::start(&model, setup));
    let kinds =
        [(SmallFloat::E4M3, false, 0.2), (SmallFloat::E4M3, true, 0.2), (SmallFloat::E5M2, false, 0.4)];
    for (small, in_tiles, bound) in kinds {
        let setup = Setup { kv: Some(KvType::from(small)), ..setup };
        let found = run(match in_tiles {
            true => Engine::start_on(CudaBackend::new(gpu()), &model, setup),
            false => exact(&model, setup),
        });
        let apart: Vec<(usize, f32)> =
            expected.iter().map(|(key, sequence)| apart(sequence, &found[key])).collect();
        println!("{small:?}, in tiles {in_tiles}: {apart:?}");
        assert!(apart.iter().all(|(_, most)| *most < bound), "{small:?}: {apart:?}");
        assert!(apart.iter().map(|(count, _)| count).sum::<usize>() >= 20, "{small:?}: {apart:?}");
        // Eight bits they are.
        assert!(apart.iter().any(|(_, most)| *most > 1e-4), "{small:?}: {apart:?}");
    }
}

/// Alone, together and preempted, in bits: a scale is its token's own, whatever else is in its block.
#[test]
fn eight_bits_do_not_depend_on_the_batch() {
    let model = Model::tiny("llama-bf16");
    let requests = requests(model.spec.vocab_size, 36);
    let setup = Setup { kv: Some(KvType::from(SmallFloat::E4M3)), ..Setup::default() };
    let mut alone = Results::new();
    for request in &requests {
        let engine = exact(&model, Setup { blocks: 64, step_tokens: 64, prefix_cache: false, ..setup });
        alone.extend(engine.run(std::slice::from_ref(request)));
        engine.finish();
    }
    let engine = exact(&model, Setup { blocks: 7, step_tokens: 48, ..setup });
    let together = engine.run(&requests);
    assert!(engine.finish().preemptions > 0, "nobody was preempted");
    for (key, sequence) in &alone {
        assert_eq!(sequence.tokens, together[key].tokens, "request {key:?}");
    }
}
