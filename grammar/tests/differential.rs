//! Both backends against other implementations, text by text: the `regex` crate for regular expressions, Python's
//! `jsonschema` for schemas (`tools/constraints/make_goldens.py`); and masks against a walk of every token's bytes.
#![allow(clippy::expect_used, clippy::panic)]

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use fastrand::Rng;
use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::Value;
use weirgate_engine::{Grammar, GrammarSource};
use weirgate_grammar::{Backend, Compiled, Compiler, GrammarError, GrammarSpec, Limits, Vocabulary};

const BACKENDS: [Backend; 2] = [Backend::Llguidance, Backend::Outlines];

fn compiler(tokens: &[String], backend: Backend) -> Compiler {
    let tokens = tokens.iter().map(|token| token.as_bytes().to_vec()).collect();
    Compiler::new(Vocabulary::from_bytes(tokens), 1 << 20).expect("a vocabulary").with_backend(backend)
}

fn compile(compiler: &Compiler, spec: &GrammarSpec) -> Result<Arc<Compiled>, GrammarError> {
    compiler.compile(spec, &Limits::default(), &AtomicBool::new(false))
}

fn mask(grammar: &mut dyn Grammar, vocab: usize) -> Vec<u32> {
    let mut mask = vec![0u32; vocab.div_ceil(32)];
    grammar.fill_mask(&mut mask).expect("a mask");
    (0..vocab as u32).filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1).collect()
}

/// Bounds on texts that are enumerated.
#[derive(Clone, Copy)]
struct Bounds {
    tokens: usize,
    bytes: usize,
}

/// Every text that a grammar lets through within the bounds, with the number of ways to write it in tokens.
fn accepted(compiled: &Compiled, tokens: &[String], bounds: Bounds) -> HashMap<String, usize> {
    let mut found = HashMap::new();
    follow(compiled.start().as_mut(), tokens, bounds, &mut String::new(), &mut found);
    found
}

fn follow(
    grammar: &mut dyn Grammar,
    tokens: &[String],
    bounds: Bounds,
    text: &mut String,
    found: &mut HashMap<String, usize>,
) {
    if grammar.is_final().expect("no fault") {
        *found.entry(text.clone()).or_insert(0) += 1;
    }
    if bounds.tokens == 0 {
        return;
    }
    for id in mask(grammar, tokens.len()) {
        let token = &tokens[id as usize];
        if token.len() > bounds.bytes {
            continue;
        }
        let bounds = Bounds { tokens: bounds.tokens - 1, bytes: bounds.bytes - token.len() };
        text.push_str(token);
        grammar.advance(id).expect("the mask allows it");
        follow(grammar, tokens, bounds, text, found);
        grammar.rollback(1).expect("one was taken");
        text.truncate(text.len() - token.len());
    }
}

/// In how many ways a text is written in at most `left` tokens.
fn ways(text: &str, tokens: &[String], left: usize) -> usize {
    if text.is_empty() {
        return 1;
    }
    if left == 0 {
        return 0;
    }
    tokens
        .iter()
        .filter_map(|token| text.strip_prefix(token.as_str()))
        .map(|rest| ways(rest, tokens, left - 1))
        .sum()
}

/// A pattern over a, b and c.
fn pattern(random: &mut Rng, depth: usize) -> String {
    let atom =
        |random: &mut Rng| ["a", "b", "c", "[ab]", "[^a]", ".", "ab", "ca"][random.usize(..8)].to_owned();
    if depth == 0 {
        return atom(random);
    }
    match random.usize(..6) {
        0 => atom(random),
        1 => format!("({}|{})", pattern(random, depth - 1), pattern(random, depth - 1)),
        2 => format!(
            "({}){}",
            pattern(random, depth - 1),
            ["*", "+", "?", "{2}", "{1,3}", "{0,2}"][random.usize(..6)]
        ),
        _ => format!("{}{}", pattern(random, depth - 1), pattern(random, depth - 1)),
    }
}

fn letters() -> Vec<String> {
    ["a", "b", "c", "ab", "ba", "abc", "cc"].map(str::to_owned).to_vec()
}

#[test]
fn regular_expressions_take_exactly_what_the_regex_crate_matches() {
    let bounds = Bounds { tokens: 6, bytes: 6 };
    let mut texts = vec![String::new()];
    for length in 0..bounds.bytes {
        let longer: Vec<String> = texts.iter().filter(|text| text.len() == length).cloned().collect();
        texts.extend(longer.iter().flat_map(|text| ["a", "b", "c"].map(|letter| format!("{text}{letter}"))));
    }
    let tokens = letters();
    let mut random = Rng::with_seed(5);
    let compilers = BACKENDS.map(|backend| compiler(&tokens, backend));
    for _ in 0..60 {
        let pattern = pattern(&mut random, 3);
        let oracle = regex::Regex::new(&format!("^(?:{pattern})$")).expect("a pattern");
        let right: HashMap<String, usize> = texts
            .iter()
            .filter(|text| oracle.is_match(text))
            .map(|text| (text.clone(), ways(text, &tokens, bounds.tokens)))
            .collect();
        for (compiler, backend) in compilers.iter().zip(BACKENDS) {
            let compiled = compile(compiler, &GrammarSpec::Regex(pattern.clone())).expect("compiles");
            let got = accepted(&compiled, &tokens, bounds);
            assert!(got == right, "{backend:?}, {pattern}: {:?}", difference(&got, &right));
        }
    }
}

/// What is in one and not in the other, or counted otherwise.
fn difference<'a>(
    got: &'a HashMap<String, usize>,
    right: &'a HashMap<String, usize>,
) -> BTreeSet<(&'a str, &'a str)> {
    let more = got
        .iter()
        .filter(|(text, count)| right.get(*text) != Some(count))
        .map(|(text, _)| ("got", text.as_str()));
    let less = right
        .iter()
        .filter(|(text, count)| got.get(*text) != Some(count))
        .map(|(text, _)| ("right", text.as_str()));
    more.chain(less).take(20).collect()
}

#[test]
fn masks_equal_a_walk_of_every_tokens_bytes() {
    let mut tokens: Vec<String> = (0..128u8).map(|byte| char::from(byte).to_string()).collect();
    tokens.extend(
        ["ab", "aab", "{\"", "\":", "12", "1,2", "true", "\"}", "é", "aé", "[[", "]]", "bb"]
            .map(str::to_owned),
    );
    let patterns =
        ["(ab|a)+b?", "[a-c]{2,4}(1|12)*", "(a|é)+", "[^b]*b", "((aa)*b)+|1(,2)*"].map(|p| p.to_owned());
    let specs = patterns.map(GrammarSpec::Regex).into_iter().chain([
        GrammarSpec::JsonObject,
        GrammarSpec::JsonSchema(r#"{"type":"array","items":{"type":["integer","boolean","array"]}}"#.into()),
    ]);
    let mut random = Rng::with_seed(9);
    for (spec, backend) in specs.flat_map(|spec| BACKENDS.map(|backend| (spec.clone(), backend))) {
        let compiled = compile(&compiler(&tokens, backend), &spec).expect("compiles");
        for _ in 0..4 {
            let (mut grammar, mut taken) = (compiled.start(), Vec::new());
            for _ in 0..8 {
                let allowed = mask(grammar.as_mut(), tokens.len());
                let walked = |id: &u32| {
                    let mut fresh = compiled.start();
                    taken.iter().for_each(|id| fresh.advance(*id).expect("taken before"));
                    // The first 128 tokens are single bytes; no token's first bytes are a longer character.
                    let bytes = tokens[*id as usize].bytes();
                    match tokens[*id as usize].is_ascii() {
                        true => bytes.map(u32::from).all(|byte| fresh.advance(byte).is_ok()),
                        false => fresh.advance(*id).is_ok(),
                    }
                };
                let eager: Vec<u32> = (0..tokens.len() as u32).filter(walked).collect();
                assert_eq!(allowed, eager, "{backend:?}, {spec:?} after {taken:?}");
                let Some(next) = random.choice(&allowed) else { break };
                grammar.advance(*next).expect("the mask allows it");
                taken.push(*next);
            }
        }
    }
}

#[test]
fn both_backends_have_the_same_masks_for_regular_expressions() {
    let tokens = letters();
    let compilers = BACKENDS.map(|backend| compiler(&tokens, backend));
    let mut random = Rng::with_seed(21);
    for _ in 0..200 {
        let spec = GrammarSpec::Regex(pattern(&mut random, 4));
        let [mut one, mut two] =
            compilers.each_ref().map(|compiler| compile(compiler, &spec).expect("compiles").start());
        for _ in 0..12 {
            let allowed = mask(one.as_mut(), tokens.len());
            assert_eq!(allowed, mask(two.as_mut(), tokens.len()), "{spec:?}");
            assert_eq!(one.is_final().expect("no fault"), two.is_final().expect("no fault"), "{spec:?}");
            let Some(next) = random.choice(&allowed) else { break };
            one.advance(*next).expect("allowed");
            two.advance(*next).expect("allowed");
        }
    }
}

#[derive(Deserialize)]
struct Head {
    pieces: Vec<String>,
    length: usize,
    texts: Vec<String>,
}

#[derive(Deserialize)]
struct Golden {
    schema: Value,
    open: bool,
    valid: String,
}

impl Golden {
    /// The valid texts, with the number of ways to write each in pieces.
    fn right(&self, head: &Head) -> HashMap<String, usize> {
        let bit = |at: usize| {
            let digit = self.valid.as_bytes()[at / 4] as char;
            digit.to_digit(16).expect("hexadecimal") >> (3 - at % 4) & 1 == 1
        };
        let texts = head.texts.iter().enumerate().filter(|(at, _)| bit(*at));
        texts.map(|(_, text)| (text.clone(), ways(text, &head.pieces, head.length))).collect()
    }
}

#[test]
fn schemas_take_exactly_the_texts_that_jsonschema_finds_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/schemas.jsonl.gz");
    let mut lines = BufReader::new(GzDecoder::new(File::open(path).expect("the file"))).lines();
    let mut line = || lines.next().map(|line| line.expect("text"));
    let head: Head = serde_json::from_str(&line().expect("a first line")).expect("its form");
    let goldens: Vec<Golden> =
        std::iter::from_fn(line).map(|line| serde_json::from_str(&line).expect("its form")).collect();
    let bounds = Bounds { tokens: head.length, bytes: usize::MAX };
    for (backend, least) in [(Backend::Llguidance, 150), (Backend::Outlines, 120)] {
        // With all bytes there are no dead ends; only the pieces are followed.
        let bytes = (0..128u8).map(|byte| char::from(byte).to_string());
        let tokens: Vec<String> = head.pieces.iter().cloned().chain(bytes).collect();
        let compiler = compiler(&tokens, backend);
        let mut compared = 0;
        for golden in &goldens {
            let Ok(compiled) = compile(&compiler, &GrammarSpec::JsonSchema(golden.schema.to_string())) else {
                continue;
            };
            let mut got = accepted(&compiled, &head.pieces, bounds);
            let twice = |text: &str| ["\"a\":", "\"b\":"].iter().any(|key| text.matches(key).count() > 1);
            got.retain(|text, _| !text.contains("-0") && !twice(text));
            let right = golden.right(&head);
            let fits = match backend == Backend::Outlines && golden.open {
                true => got.iter().all(|(text, count)| right.get(text) == Some(count)),
                false => got == right,
            };
            assert!(fits, "{backend:?}, {}: {:?}", golden.schema, difference(&got, &right));
            compared += 1;
        }
        println!("{backend:?}: {compared} of {} schemas compared", goldens.len());
        assert!(compared >= least, "{backend:?}: {compared} of {}", goldens.len());
    }
}
