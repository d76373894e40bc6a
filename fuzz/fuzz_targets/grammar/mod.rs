//! What the grammar targets share.

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use weirgate_engine::GrammarSource;
use weirgate_grammar::{Backend, Compiler, GrammarSpec, Limits, Vocabulary};

/// Tokens that a grammar takes.
const STEPS: usize = 12;
/// For a compilation whose own limit is [`Limits::time`], and for a mask; the fuzzer's build is slow.
const PATIENCE: Duration = Duration::from_secs(10);

/// One for each backend, with every byte as a token and some longer ones. Nothing is kept between inputs.
pub fn compilers() -> &'static [Compiler; 2] {
    static COMPILERS: OnceLock<[Compiler; 2]> = OnceLock::new();
    COMPILERS.get_or_init(|| {
        [Backend::Llguidance, Backend::Outlines].map(|backend| {
            let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
            let longer = ["ab", "{\"", "\":", "true", "null", "  ", "é", "\"}", "12", "],[", "aaaa"];
            tokens.extend(longer.map(|text| text.as_bytes().to_vec()));
            Compiler::new(Vocabulary::from_bytes(tokens), 0).expect("a vocabulary").with_backend(backend)
        })
    })
}

/// Compiles a grammar and follows it; `choices` decides among the allowed tokens. A token that the mask allows must be
/// taken, and a step back must lead to the same mask.
pub fn walk(compiler: &Compiler, spec: &GrammarSpec, choices: &[u8]) {
    let begun = Instant::now();
    let compiled = compiler.compile(spec, &Limits::default(), &AtomicBool::new(false));
    assert!(begun.elapsed() < PATIENCE, "compiled in {:?}", begun.elapsed());
    let Ok(compiled) = compiled else { return };
    let mut grammar = compiled.start();
    let vocab = compiler.vocabulary().len();
    let mut before: Option<Vec<u32>> = None;
    for choice in choices.iter().rev().chain(std::iter::repeat(&0)).take(STEPS) {
        let mut mask = vec![0u32; vocab.div_ceil(32)];
        let begun = Instant::now();
        if grammar.fill_mask(&mut mask).is_err() {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "a mask in {:?}", begun.elapsed());
        let allowed: Vec<u32> =
            (0..vocab as u32).filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1).collect();
        if grammar.is_final().is_err() || allowed.is_empty() {
            return;
        }
        let token = allowed[usize::from(*choice) * 7 % allowed.len()];
        if choice % 4 == 1 && before.as_ref() != Some(&mask) {
            if grammar.advance(token).is_err() || grammar.rollback(1).is_err() {
                return;
            }
            let mut again = vec![0u32; mask.len()];
            if grammar.fill_mask(&mut again).is_err() {
                return;
            }
            assert_eq!(mask, again, "after a step back");
        }
        if grammar.advance(token).is_err() {
            return;
        }
        before = Some(mask);
    }
}
