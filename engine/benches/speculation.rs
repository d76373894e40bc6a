//! What speculation gains and costs on the demo model.
//!
//! `cargo bench -p weirgate-engine --profile release --bench speculation -- [threads]`
//!
//! Three kinds of text: prompts said four times over (many guesses come true), the prompts themselves, and the prompts
//! continued at temperature 1.5, where next to nothing can be guessed. Every figure is the best of several runs, as a
//! machine is seldom quiet.
#![allow(clippy::expect_used)]

use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;
use weirgate_engine::{EngineConfig, LoadOptions, RopeRule, load_cpu, spawn};
use weirgate_models::{ModelFiles, SafetensorsSource, read_spec};
use weirgate_types::{
    GenerateRequest, Logprobs, RequestId, SamplingParams, Selection, SeqUpdate, StopRules, TokenId,
};

const EXPECTED: &str = include_str!("../../tools/demo_model/expected.json");
const NEW_TOKENS: u32 = 192;
const RUNS: usize = 5;

#[derive(Clone, Copy)]
enum Text {
    Repeating,
    Plain,
    Random,
}

#[derive(Clone, Copy)]
struct Setting {
    text: Text,
    /// Requests at a time.
    together: usize,
    speculate: usize,
    threads: usize,
}

struct Measured {
    tokens_per_second: f64,
    drafted: u64,
    accepted: u64,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let threads = args.first().and_then(|arg| arg.parse().ok());
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    println!("{threads} threads; tokens per second (guesses accepted/made) with --speculate 0, 2, 4, 8");
    for (name, text) in [("repeating", Text::Repeating), ("plain", Text::Plain), ("random", Text::Random)] {
        for together in [1, 4, 16] {
            print!("{name:<10} {together:>3} at a time");
            for speculate in [0, 2, 4, 8] {
                let setting = Setting { text, together, speculate, threads };
                let runs = (0..RUNS).map(|_| measure(setting));
                let best = runs.max_by(|a, b| a.tokens_per_second.total_cmp(&b.tokens_per_second));
                let Measured { tokens_per_second, drafted, accepted } = best.expect("a run");
                print!("  {tokens_per_second:>6.0} ({accepted}/{drafted})");
            }
            println!();
        }
    }
}

/// The committed prompts of the demo model, as token ids.
fn prompts() -> Vec<Vec<TokenId>> {
    let expected: Value = serde_json::from_str(EXPECTED).expect("JSON");
    let ids = |prompt: &Value| -> Vec<TokenId> {
        let ids = prompt["prompt_ids"].as_array().expect("ids");
        ids.iter().filter_map(Value::as_u64).map(|id| id as TokenId).collect()
    };
    expected["prompts"].as_array().expect("prompts").iter().map(ids).collect()
}

fn request(id: usize, text: Text, prompt: &[TokenId]) -> GenerateRequest {
    let (prompt, selection) = match text {
        Text::Repeating => (prompt.repeat(4), Selection::Greedy),
        Text::Plain => (prompt.to_vec(), Selection::Greedy),
        Text::Random => (prompt.to_vec(), Selection::Random { seed: id as u64 }),
    };
    GenerateRequest {
        id: RequestId(id as u64),
        prompt: prompt.into(),
        n: 1,
        sampling: SamplingParams { selection, temperature: 1.5, ..SamplingParams::default() },
        stop: StopRules { max_new_tokens: NEW_TOKENS, min_new_tokens: 0, stop_tokens: Arc::from([]) },
        logprobs: Logprobs::default(),
        priority: 0,
        deadline: None,
        cache_salt: 0,
    }
}

/// Tokens per second from the submission of all requests to the last token.
fn measure(Setting { text, together, speculate, threads }: Setting) -> Measured {
    let files = ModelFiles::embedded(weirgate_demo_model::FILES);
    let spec = read_spec(&files).expect("a config");
    let tensors = SafetensorsSource::open(&files).expect("tensors");
    let options = LoadOptions {
        threads,
        block_size: 16,
        blocks: 2048,
        max_step_tokens: 512,
        max_seqs: 64,
        max_seq_len: 1024,
        kv_dtype: None,
    };
    let executor = load_cpu(&spec, &tensors, &options).expect("a model");
    let config = EngineConfig { speculate, rope: RopeRule::of(&spec), ..EngineConfig::default() };
    let (handle, outputs) = spawn(executor, config).expect("a thread");
    let prompts = prompts();
    let begun = Instant::now();
    let requests = prompts.iter().cycle().take(together).enumerate().map(|(id, ids)| request(id, text, ids));
    let tickets: Vec<_> = requests.map(|request| handle.submit(request).expect("room")).collect();
    let (mut open, mut tokens) = (together, 0);
    while open > 0 {
        let step = outputs.recv().expect("a step");
        tokens += step.tokens_per_sequence().sum::<usize>();
        let ended = |update: &SeqUpdate| matches!(update, SeqUpdate::Finished { .. });
        open -= step.outputs.iter().filter(|output| ended(&output.update)).count();
    }
    let seconds = begun.elapsed().as_secs_f64();
    drop(tickets);
    handle.stop();
    while outputs.recv().is_ok() {}
    let stats = handle.stats();
    Measured {
        tokens_per_second: tokens as f64 / seconds,
        drafted: stats.drafted_tokens,
        accepted: stats.accepted_tokens,
    }
}
