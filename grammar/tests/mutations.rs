//! The fuzz targets' corpus, mutated by the thousand: no panic, no endless compilation. The targets themselves, which
//! mutate by coverage, are in `fuzz/`.
#![allow(clippy::expect_used, clippy::panic)]

#[path = "../../fuzz/fuzz_targets/grammar/mod.rs"]
mod grammar;

use std::path::Path;

use fastrand::Rng;
use weirgate_grammar::GrammarSpec;

const INPUTS: usize = 1_500;

fn corpus(kind: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(kind);
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a file")).collect()
}

/// A few pieces of one input overwritten, removed, repeated, or replaced by pieces of another.
fn mutated(seeds: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    let mut bytes = random.choice(seeds).expect("seeds").clone();
    for _ in 0..random.usize(1..5) {
        let from = random.usize(..=bytes.len());
        let to = random.usize(from..=bytes.len().min(from + 24));
        let other = random.choice(seeds).expect("seeds");
        let begin = random.usize(..=other.len());
        let piece = match random.usize(..5) {
            0 => Vec::new(),
            1 => other[begin..random.usize(begin..=other.len().min(begin + 24))].to_vec(),
            2 => bytes[from..to].repeat(random.usize(1..12)),
            3 => random
                .choice(["999999999", "-1", "{1,9999}", "null", "[]", "(", "\\", "é", "\"", "$ref"])
                .expect("one")
                .into(),
            _ => vec![random.u8(..)],
        };
        bytes.splice(from..to, piece);
    }
    bytes
}

fn run(kind: &str, spec: fn(String) -> GrammarSpec, backends: usize) {
    let seeds = corpus(kind);
    let mut random = Rng::with_seed(77);
    for _ in 0..INPUTS {
        let input = mutated(&seeds, &mut random);
        let spec = spec(String::from_utf8_lossy(&input).into_owned());
        grammar::compilers()
            .iter()
            .take(backends)
            .for_each(|compiler| grammar::walk(compiler, &spec, &input));
    }
}

#[test]
fn mutated_schemas() {
    run("schema", GrammarSpec::JsonSchema, 2);
}

#[test]
fn mutated_regular_expressions() {
    run("regex", GrammarSpec::Regex, 2);
}

#[test]
fn mutated_lark_grammars() {
    run("lark", GrammarSpec::Lark, 1);
}
