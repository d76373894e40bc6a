//! MaskBench: JSON schemas with valid and invalid instances. An instance is accepted if every token of its compact text
//! is in its mask and the text may end after the last.

#[path = "order.rs"]
mod order;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use order::{difference, ordered};
use serde::Deserialize;
use serde_json::Value;
use weirgate_engine::{GrammarFault, GrammarSource};
use weirgate_grammar::{Compiler, GrammarError, GrammarSpec, Limits};

#[derive(Deserialize)]
pub struct Case {
    pub name: String,
    pub schema: Value,
    pub tests: Vec<Instance>,
}

#[derive(Deserialize)]
pub struct Instance {
    pub valid: bool,
    pub data: Value,
}

/// The cases of the shared sample, if it is there.
pub fn cases() -> Option<Vec<Case>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = File::open(root.join("../../shared/data/maskbench-sample.jsonl.gz")).ok()?;
    let lines = BufReader::new(GzDecoder::new(file)).lines();
    Some(lines.map(|line| serde_json::from_str(&line.expect("text")).expect("a case")).collect())
}

/// What became of one schema.
#[derive(Default)]
pub struct Outcome {
    pub refused: Option<GrammarError>,
    pub compile: Duration,
    pub masks: Vec<Duration>,
    pub valid: usize,
    pub invalid: usize,
    pub valid_rejected: Vec<Rejected>,
    pub invalid_accepted: Vec<String>,
    pub faults: Vec<String>,
}

/// A valid instance that was rejected.
// Not every program that includes this file prints it.
#[allow(dead_code)]
pub struct Rejected {
    /// Where.
    pub line: String,
    /// The same instance with its keys in an order that is taken, if one was found.
    pub order: Option<String>,
}

impl Outcome {
    pub fn is_right(&self) -> bool {
        self.refused.is_none()
            && self.valid_rejected.is_empty()
            && self.invalid_accepted.is_empty()
            && self.faults.is_empty()
    }
}

pub fn run(compiler: &Compiler, tokenize: &dyn Fn(&str) -> Vec<u32>, case: &Case) -> Outcome {
    let mut outcome = Outcome::default();
    let begun = Instant::now();
    let spec = GrammarSpec::JsonSchema(case.schema.to_string());
    let compiled = compiler.compile(&spec, &Limits::default(), &AtomicBool::new(false));
    outcome.compile = begun.elapsed();
    let compiled = match compiled {
        Ok(compiled) => compiled,
        Err(error) => {
            outcome.refused = Some(error);
            return outcome;
        }
    };
    for instance in &case.tests {
        let text = instance.data.to_string();
        let tokens = tokenize(&text);
        let taken = taken(compiled.as_ref(), compiler.vocabulary().len(), &tokens, &mut outcome.masks);
        *(if instance.valid { &mut outcome.valid } else { &mut outcome.invalid }) += 1;
        match taken {
            Err(fault) => outcome.faults.push(format!("{}: {fault}", case.name)),
            Ok(None) if !instance.valid => outcome.invalid_accepted.push(format!("{}: {text}", case.name)),
            Ok(Some(taken)) if instance.valid => {
                let before: usize =
                    tokens[..taken].iter().map(|&token| compiler.vocabulary().bytes(token).len()).sum();
                let line = format!("{}: {}", case.name, around(&text, before));
                let vocab = compiler.vocabulary().len();
                let ordered = ordered(compiled.as_ref(), vocab, tokenize, (&instance.data, &case.schema));
                let order = ordered.map(|ordered| difference(&instance.data, &ordered));
                outcome.valid_rejected.push(Rejected { line, order });
            }
            Ok(_) => {}
        }
    }
    outcome
}

/// How many of the tokens a grammar takes, unless it takes all and may end after them.
pub fn taken(
    source: &dyn GrammarSource,
    vocab: usize,
    tokens: &[u32],
    masks: &mut Vec<Duration>,
) -> Result<Option<usize>, GrammarFault> {
    let mut grammar = source.start();
    for (at, &token) in tokens.iter().enumerate() {
        let mut mask = vec![0u32; vocab.div_ceil(32)];
        let begun = Instant::now();
        grammar.fill_mask(&mut mask)?;
        masks.push(begun.elapsed());
        if mask[token as usize / 32] & (1 << (token % 32)) == 0 {
            return Ok(Some(at));
        }
        grammar.advance(token)?;
    }
    Ok((!grammar.is_final()?).then_some(tokens.len()))
}

/// What stands before and after byte `at` of a text.
fn around(text: &str, at: usize) -> String {
    let (before, after) = text.as_bytes().split_at(at);
    let before = String::from_utf8_lossy(&before[before.len().saturating_sub(60)..]);
    let after = String::from_utf8_lossy(&after[..after.len().min(40)]);
    format!("{before} ⟨here⟩ {after}")
}
