//! The demo model's greedy tokens equal transformers' (f32 on the stored weights) on 20 prompts. The expected ids are
//! made by `tools/demo_model/evaluate.py`.

mod real;

use std::sync::Arc;

use real::{Engine, Model, Setup, greedy};
use serde_json::Value;
use weirgate_models::{GenerationConfig, ModelFiles};
use weirgate_types::{GenerateRequest, RequestId};

const EXPECTED: &str = include_str!("../../tools/demo_model/expected.json");
/// How many tokens transformers was asked for.
const MAX_NEW_TOKENS: u32 = 64;

fn ids(value: &Value) -> Vec<u32> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_u64).map(|id| id as u32).collect()
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    check(Engine::start(&Model::demo(), Setup::default()));
}

/// Two key heads: two shards have one each, four have each of them twice.
#[test]
fn greedy_tokens_of_shards_are_those_of_transformers() {
    for shards in [1, 2, 4] {
        check(Engine::start_sharded(&Model::demo(), Setup::default(), shards));
    }
}

fn check(engine: Engine) {
    let expected: Value = serde_json::from_str(EXPECTED).unwrap_or_default();
    let prompts = expected["prompts"].as_array().cloned().unwrap_or_default();
    assert_eq!(prompts.len(), 20);
    let files = ModelFiles::embedded(weirgate_demo_model::FILES);
    let stops: Arc<[u32]> = GenerationConfig::read(&files).unwrap_or_default().eos_token_ids.into();
    assert!(!stops.is_empty(), "the demo model names its end-of-sequence token");
    let requests: Vec<GenerateRequest> = prompts
        .iter()
        .enumerate()
        .map(|(index, prompt)| {
            let mut request = greedy(index as u64, ids(&prompt["prompt_ids"]), MAX_NEW_TOKENS);
            request.stop.stop_tokens = Arc::clone(&stops);
            request
        })
        .collect();
    let results = engine.run(&requests);
    let mut tokens = 0;
    for (index, prompt) in prompts.iter().enumerate() {
        let found: Vec<u32> =
            results[&(RequestId(index as u64), 0)].tokens.iter().map(|(token, _)| *token).collect();
        assert_eq!(found, ids(&prompt["token_ids"]), "prompt {index}: {}", prompt["prompt"]);
        tokens += found.len();
    }
    engine.finish();
    println!("proof: demo model: 20 prompts, {tokens} greedy tokens identical to transformers");
}
