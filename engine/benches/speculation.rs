//! What speculation gains and costs on the demo model.
//!
//! `cargo bench -p weirgate-engine --profile release --bench speculation -- [threads]`
//!
//! Times are the processor's (Linux), so that other work on the machine disturbs them little; they say what tokens cost
//! and, with one thread, how fast they come. Three kinds of text: prompts that already hold their answer twice (many guesses come true), the prompts themselves, and the prompts
//! continued at temperature 1.5, where next to nothing can be guessed. Every figure is the best of several runs, as a
//! machine is seldom quiet.
#![allow(clippy::expect_used)]

use std::sync::Arc;

use serde_json::Value;
use weirgate_engine::{EngineConfig, LoadOptions, RopeRule, load_cpu, spawn};
use weirgate_models::{ModelFiles, SafetensorsSource, read_spec};
use weirgate_types::{
    GenerateRequest, Logprobs, RequestId, SamplingParams, Selection, SeqUpdate, StopRules, TokenId,
};

const EXPECTED: &str = include_str!("../../tools/demo_model/expected.json");
const NEW_TOKENS: u32 = 64;
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
    /// Of processor time.
    tokens_per_second: f64,
    tokens_per_step: f64,
    drafted: u64,
    accepted: u64,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let threads = args.first().and_then(|arg| arg.parse().ok());
    let threads = threads.unwrap_or(1);
    println!(
        "{threads} threads; with --speculate 0, 2, 4, 8: tokens per second (tokens per step, guesses accepted/made)"
    );
    for (name, text) in [("repeating", Text::Repeating), ("plain", Text::Plain), ("random", Text::Random)] {
        for together in [1, 4, 16] {
            print!("{name:<10} {together:>3} at a time");
            for speculate in [0, 2, 4, 8] {
                let setting = Setting { text, together, speculate, threads };
                let runs = (0..RUNS).map(|_| measure(setting));
                let best = runs.max_by(|a, b| a.tokens_per_second.total_cmp(&b.tokens_per_second));
                let Measured { tokens_per_second, tokens_per_step, drafted, accepted } = best.expect("a run");
                print!("  {tokens_per_second:>5.0} ({tokens_per_step:.2}, {accepted}/{drafted})");
            }
            println!();
        }
    }
}

/// The committed prompts of the demo model and its greedy answers, as token ids.
fn prompts() -> Vec<(Vec<TokenId>, Vec<TokenId>)> {
    let expected: Value = serde_json::from_str(EXPECTED).expect("JSON");
    let ids = |ids: &Value| -> Vec<TokenId> {
        ids.as_array().expect("ids").iter().filter_map(Value::as_u64).map(|id| id as TokenId).collect()
    };
    let prompts = expected["prompts"].as_array().expect("prompts").iter();
    prompts.map(|prompt| (ids(&prompt["prompt_ids"]), ids(&prompt["token_ids"]))).collect()
}

fn request(id: usize, text: Text, prompt: &[TokenId], answer: &[TokenId]) -> GenerateRequest {
    let (prompt, selection) = match text {
        Text::Repeating => ([prompt, answer, prompt, answer, prompt].concat(), Selection::Greedy),
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
        shift: None,
        cache_salt: 0,
        adapter: None,
    }
}

/// What all threads of this process have spent on a processor, in seconds.
fn processor_seconds() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux");
    let nanoseconds = threads.filter_map(|thread| {
        let stat = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    });
    nanoseconds.sum::<u64>() as f64 / 1e9
}

/// From the step in which the last request gets its first token to the last token of all.
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
        commit_cache: true,
    };
    let executor = load_cpu(&spec, &tensors, &options).expect("a model");
    let config = EngineConfig { speculate, rope: RopeRule::of(&spec), ..EngineConfig::default() };
    let (handle, outputs) = spawn(executor, config).expect("a thread");
    let prompts = prompts();
    let requests = prompts.iter().cycle().take(together).enumerate();
    let requests = requests.map(|(id, (prompt, answer))| request(id, text, prompt, answer));
    let tickets: Vec<_> = requests.map(|request| handle.submit(request).expect("room")).collect();
    let (mut waiting, mut open, mut tokens, mut steps, mut begun) = (together, together, 0, 0, 0.0);
    while open > 0 {
        let step = outputs.recv().expect("a step");
        if waiting == 0 {
            tokens += step.tokens_per_sequence().sum::<usize>();
            steps += usize::from(step.stats.tokens() > 0);
        } else {
            let begins = |update: &SeqUpdate| matches!(update, SeqUpdate::Scheduled { .. });
            waiting -= step.outputs.iter().filter(|output| begins(&output.update)).count();
            begun = processor_seconds();
        }
        let ended = |update: &SeqUpdate| matches!(update, SeqUpdate::Finished { .. });
        open -= step.outputs.iter().filter(|output| ended(&output.update)).count();
    }
    let seconds = processor_seconds() - begun;
    drop(tickets);
    handle.stop();
    while outputs.recv().is_ok() {}
    let stats = handle.stats();
    Measured {
        tokens_per_second: tokens as f64 / seconds,
        tokens_per_step: tokens as f64 / steps as f64,
        drafted: stats.drafted_tokens,
        accepted: stats.accepted_tokens,
    }
}
