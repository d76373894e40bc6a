//! Batch invariance on the real engine: 64 requests of mixed lengths and sampling settings give the same tokens, and
//! the same bits of log-probability, alone, together, shuffled, preempted, with the prefix cache cold and warm, with one
//! and two threads, and with and without speculation.

mod real;

use std::sync::Arc;

use real::{Engine, Model, Results, Rng, Setup, greedy};
use weirgate_types::{Frequency, GenerateRequest, Selection, Watermark};

const REQUESTS: u64 = 64;

/// Mixed prompts (some sharing prefixes), samplers, lengths and widths; a pure function of the model's vocabulary.
fn requests(vocab: usize) -> Vec<GenerateRequest> {
    let mut rng = Rng(2024);
    let shared: Vec<Vec<u32>> = (0..4).map(|i| rng.tokens(40 + 23 * i, vocab)).collect();
    (0..REQUESTS)
        .map(|id| {
            // Some prompts repeat themselves, so that there is something to guess from.
            let mut prompt = if rng.below(2) == 0 { shared[rng.below(4)].clone() } else { Vec::new() };
            let own = 1 + rng.below(60);
            prompt.extend(rng.tokens(own, vocab));
            if rng.below(3) == 0 {
                prompt.extend_from_within(..prompt.len() / 2);
            }
            let max_new_tokens = 4 + rng.below(28) as u32;
            let mut request = greedy(id, prompt, max_new_tokens);
            request.n = if rng.below(6) == 0 { 3 } else { 1 };
            let sampling = &mut request.sampling;
            if rng.below(4) > 0 {
                sampling.selection = Selection::Random { seed: rng.next() };
                sampling.temperature = 0.5 + rng.below(10) as f32 / 10.0;
            }
            match rng.below(8) {
                0 => sampling.top_k = 20,
                1 => sampling.top_p = 0.8,
                2 => sampling.typical_p = 0.7,
                3 => sampling.min_p = 0.05,
                4 => sampling.repetition_penalty = 1.3,
                5 => sampling.frequency_penalty = Frequency::Count(0.7),
                6 => sampling.watermark = Some(Watermark { gamma: 0.5, delta: 2.0 }),
                _ => sampling.presence_penalty = 0.5,
            }
            if rng.below(3) == 0 {
                request.stop.stop_tokens = Arc::from(rng.tokens(3, vocab));
                request.stop.min_new_tokens = rng.below(4) as u32;
            }
            request
        })
        .collect()
}

/// The tokens of every request run by itself on a fresh cache.
fn alone(model: &Model, requests: &[GenerateRequest]) -> Results {
    let engine = Engine::start(model, Setup { threads: 1, prefix_cache: false, ..Setup::default() });
    let mut results = Results::new();
    for request in requests {
        results.extend(engine.run(std::slice::from_ref(request)));
    }
    engine.finish();
    results
}

fn assert_same(expected: &Results, found: &Results, what: &str) {
    assert_eq!(expected.len(), found.len(), "{what}");
    for (key, sequence) in expected {
        let other = &found[key];
        assert_eq!(sequence.tokens, other.tokens, "{what}: request {key:?}");
        assert_eq!(sequence.finish, other.finish, "{what}: request {key:?}");
    }
}

fn check(model: &Model) {
    let requests = requests(model.spec.vocab_size);
    let expected = alone(model, &requests);
    let tokens: usize = expected.values().map(|sequence| sequence.tokens.len()).sum();
    assert!(tokens > 500, "only {tokens} tokens");
    let mut shuffled = requests.clone();
    Rng(7).shuffle(&mut shuffled);

    for threads in [1, 2] {
        let engine = Engine::start(model, Setup { threads, ..Setup::default() });
        assert_same(&expected, &engine.run(&requests), "all at once, cache cold");
        let cold_hits = engine.handle.stats().prefix_hits;
        assert_same(&expected, &engine.run(&shuffled), "shuffled, cache warm");
        let stats = engine.finish();
        assert!(stats.prefix_hits > cold_hits, "the warm run hit nothing");
    }
    let tight = Setup { blocks: 24, step_tokens: 96, ..Setup::default() };
    let mut preemptions = 0;
    for prefix_cache in [false, true] {
        let engine = Engine::start(model, Setup { prefix_cache, ..tight });
        assert_same(&expected, &engine.run(&shuffled), "tiny pool");
        preemptions += engine.finish().preemptions;
    }
    let accepted = check_speculation(model, &requests, &expected);
    assert!(preemptions > 0, "the tiny pool preempted nobody");
    println!(
        "proof: batch invariance, {}: {REQUESTS} requests, {} sequences, {tokens} tokens identical alone, at once, \
         shuffled, cold, warm, 1 and 2 threads, with {preemptions} preemptions, and with {accepted} tokens guessed ahead",
        model.name,
        expected.len()
    );
}

/// The same with guesses: how many came true.
fn check_speculation(model: &Model, requests: &[GenerateRequest], expected: &Results) -> u64 {
    let few = Setup { speculate: 2, ..Setup::default() };
    let many = Setup { threads: 1, speculate: 8, ..Setup::default() };
    let tight = Setup { blocks: 24, step_tokens: 96, speculate: 4, ..Setup::default() };
    let mut accepted = 0;
    for setup in [few, many, tight] {
        let engine = Engine::start(model, setup);
        // A few at a time leave room for guesses; then all at once on a warm cache.
        let mut found = Results::new();
        for some in requests.chunks(3) {
            found.extend(engine.run(some));
        }
        assert_same(expected, &found, "speculation, three at a time");
        assert_same(expected, &engine.run(requests), "speculation, all at once");
        let stats = engine.finish();
        assert!(stats.accepted_tokens > 0 && stats.accepted_tokens < stats.drafted_tokens, "{stats:?}");
        accepted += stats.accepted_tokens;
    }
    accepted
}

#[test]
fn demo_model() {
    check(&Model::demo());
}

#[test]
fn sliding_windows_and_qk_norm() {
    check(&Model::tiny("gemma3"));
}

#[test]
fn bf16_with_biases() {
    check(&Model::tiny("qwen2-bf16"));
}

#[test]
fn rotary_tables_that_depend_on_length() {
    check(&Model::tiny("llama-dynamic"));
    check(&Model::tiny("phi3-longrope"));
}
