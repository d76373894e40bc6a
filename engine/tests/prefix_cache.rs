//! Metamorphic tests of the prefix cache on the real engine: what was cached never changes what is generated.

mod real;

use real::{Engine, Model, Results, Rng, Setup, greedy};
use weirgate_types::{GenerateRequest, RequestId};

/// 100 prompts in 10 families; within a family, each shares a prefix of its own length with the others.
fn prompts(vocab: usize) -> Vec<GenerateRequest> {
    let mut rng = Rng(99);
    let mut requests = Vec::new();
    for family in 0..10 {
        let trunk = rng.tokens(150, vocab);
        for member in 0..10 {
            let cut = 10 + rng.below(140);
            let mut prompt = trunk[..cut].to_vec();
            let own = 1 + rng.below(20);
            prompt.extend(rng.tokens(own, vocab));
            requests.push(greedy(family * 10 + member, prompt, 8));
        }
    }
    requests
}

fn same_tokens(cold: &Results, warm: &Results, what: &str) {
    for (key, sequence) in cold {
        assert_eq!(sequence.tokens, warm[key].tokens, "{what}: {key:?}");
    }
}

fn cold_run(model: &Model, requests: &[GenerateRequest]) -> Results {
    let engine = Engine::start(model, Setup { prefix_cache: false, ..Setup::default() });
    let results = engine.run(requests);
    assert!(results.values().all(|sequence| sequence.cached_tokens == 0));
    engine.finish();
    results
}

fn models() -> Vec<Model> {
    vec![Model::demo(), Model::tiny("gemma2"), Model::tiny("phi3")]
}

#[test]
fn cold_equals_warm() {
    for model in models() {
        let requests = prompts(model.spec.vocab_size);
        let cold = cold_run(&model, &requests);
        let engine = Engine::start(&model, Setup::default());
        same_tokens(&cold, &engine.run(&requests), "first round");
        let warm = engine.run(&requests);
        same_tokens(&cold, &warm, "second round");
        let cached: u32 = warm.values().map(|sequence| sequence.cached_tokens).sum();
        let lengths = requests.iter().map(|request| request.prompt.len());
        let full: usize = lengths.map(|len| (len / 16 * 16).min(len - 1)).sum();
        assert_eq!(
            cached as usize, full,
            "every full block is found the second time, but for the last token"
        );
        engine.finish();
        println!("proof: cold equals warm, {}: 100 prompts, {cached} cached tokens", model.name);
    }
}

#[test]
fn shared_while_the_first_request_still_runs() {
    for model in models() {
        let vocab = model.spec.vocab_size;
        let first = greedy(1, Rng(5).tokens(100, vocab), 60);
        let mut longer = first.prompt.to_vec();
        longer.extend(Rng(6).tokens(10, vocab));
        let second = greedy(2, longer, 20);
        let cold = cold_run(&model, &[first.clone(), second.clone()]);

        let engine = Engine::start(&model, Setup::default());
        let mut results = Results::new();
        let running = engine.submit(&first);
        engine.drain(&mut results, |results| {
            results.get(&(RequestId(1), 0)).is_some_and(|sequence| sequence.tokens.len() >= 3)
        });
        let joining = engine.submit(&second);
        engine.drain(&mut results, |results| {
            results.values().filter(|sequence| sequence.finish.is_some()).count() == 2
        });
        drop((running, joining));
        same_tokens(&cold, &results, "joined a running request");
        assert_eq!(results[&(RequestId(2), 0)].cached_tokens, 96, "six full blocks of the running request");
        engine.finish();
    }
}

#[test]
fn after_an_aborted_prefill() {
    for model in models() {
        let request = greedy(2, Rng(8).tokens(200, model.spec.vocab_size), 12);
        let cold = cold_run(&model, std::slice::from_ref(&request));
        let engine = Engine::start(&model, Setup { step_tokens: 64, ..Setup::default() });
        let aborted = engine.submit(&GenerateRequest { id: RequestId(1), ..request.clone() });
        let mut results = Results::new();
        engine.drain(&mut results, |results| results.contains_key(&(RequestId(1), 0)));
        drop(aborted);
        engine.drain(&mut results, |results| results[&(RequestId(1), 0)].finish.is_some());
        results.extend(engine.run(std::slice::from_ref(&request)));
        let found = &results[&(RequestId(2), 0)];
        assert_eq!(found.tokens, cold[&(RequestId(2), 0)].tokens);
        engine.finish();
        println!(
            "proof: after an aborted prefill, {}: same tokens, {} of 200 from its blocks",
            model.name, found.cached_tokens
        );
    }
}
