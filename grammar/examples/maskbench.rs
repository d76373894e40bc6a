//! MaskBench with whole vocabularies, on one thread: with one or more `tokenizer.json` prints a report as Markdown; with
//! `--cases PATTERN TOKENIZER`, the outcome of each schema whose name contains the pattern; with `--slow TOKENIZER`, the
//! schemas with the slowest compilations and those that own most of the slowest hundredth of masks.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic)]

#[path = "../tests/support/maskbench.rs"]
mod maskbench;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities};
use llguidance::{Matcher, ParserFactory};
use maskbench::{Case, Outcome, Rejected};
use serde_json::Value;
use tokenizers::Tokenizer;
use weirgate_grammar::{Compiler, GrammarError, Vocabulary};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(cases) = maskbench::cases() else {
        println!("skipped: the shared MaskBench sample is not there");
        return;
    };
    match arguments.as_slice() {
        [flag, pattern, file] if flag == "--cases" => {
            let chosen: Vec<Case> = cases.into_iter().filter(|case| case.name.contains(pattern)).collect();
            for (case, outcome) in chosen.iter().zip(run(file, &chosen)) {
                print_case(case, &outcome);
            }
        }
        [flag, file] if flag == "--slow" => slow(&cases, &run(file, &cases)),
        [] => println!("skipped: no tokenizer.json given"),
        files => {
            let runs: Vec<Run> = files.iter().map(|file| Run::new(file, &cases)).collect();
            report(&cases, &runs);
        }
    }
}

struct Run {
    name: String,
    outcomes: Vec<Outcome>,
}

impl Run {
    fn new(file: &str, cases: &[Case]) -> Self {
        let name = Path::new(file).file_stem().expect("a file").to_string_lossy().into_owned();
        Self { name, outcomes: run(file, cases) }
    }
}

fn run(file: &str, cases: &[Case]) -> Vec<Outcome> {
    let json = std::fs::read(file).expect("a tokenizer.json");
    let tokenizer = Tokenizer::from_bytes(&json).expect("a tokenizer");
    let tokenize = |text: &str| tokenizer.encode_fast(text, false).expect("tokenizes").get_ids().to_vec();
    let vocabulary = Vocabulary::from_tokenizer_json(&json).expect("a vocabulary");
    let compiler = Compiler::new(vocabulary, 1 << 20).expect("a vocabulary");
    cases.iter().map(|case| maskbench::run(&compiler, &tokenize, case)).collect()
}

fn print_case(case: &Case, outcome: &Outcome) {
    println!("{}: right {}", case.name, outcome.is_right());
    if let Some(error) = &outcome.refused {
        println!("  refused: {error}");
    }
    for rejected in &outcome.valid_rejected {
        println!("  {}\n  {}", rejected.line, reason(rejected));
    }
    for line in outcome.invalid_accepted.iter().chain(&outcome.faults) {
        println!("  {line}");
    }
}

/// The corpus that a case is from.
fn split(case: &Case) -> &str {
    let name = case.name.split("---").next().unwrap_or(&case.name);
    if name.starts_with("Github") { name } else { name.split('_').next().unwrap_or(name) }
}

fn report(cases: &[Case], runs: &[Run]) {
    println!("| | {} |", runs.iter().map(|run| run.name.as_str()).collect::<Vec<_>>().join(" | "));
    println!("|---|{}", "---:|".repeat(runs.len()));
    row("schemas", runs, |run| run.outcomes.len().to_string());
    row("compiled", runs, |run| share(count(run, |outcome| outcome.refused.is_none()), run.outcomes.len()));
    row("fully right", runs, |run| share(count(run, Outcome::is_right), run.outcomes.len()));
    let valid: usize = cases.iter().flat_map(|case| &case.tests).filter(|test| test.valid).count();
    let invalid: usize = cases.iter().flat_map(|case| &case.tests).filter(|test| !test.valid).count();
    row("fully right but for the order of keys", runs, |run| {
        let right = |outcome: &Outcome| {
            let others = outcome.invalid_accepted.len() + outcome.faults.len() + in_any_order(outcome);
            outcome.refused.is_none() && others == 0
        };
        share(count(run, right), run.outcomes.len())
    });
    row("invalid instances accepted", runs, |run| {
        let accepted: usize = run.outcomes.iter().map(|outcome| outcome.invalid_accepted.len()).sum();
        let seen: usize = run.outcomes.iter().map(|outcome| outcome.invalid).sum();
        format!("{accepted} of {seen} (of {invalid})")
    });
    row("valid instances rejected", runs, |run| {
        let rejected: usize = run.outcomes.iter().map(|outcome| outcome.valid_rejected.len()).sum();
        let seen: usize = run.outcomes.iter().map(|outcome| outcome.valid).sum();
        format!("{} (of {valid})", share(rejected, seen))
    });
    row("rejected with keys in the schema's order, too", runs, |run| {
        let rejected: usize = run.outcomes.iter().map(in_any_order).sum();
        let seen: usize = run.outcomes.iter().map(|outcome| outcome.valid).sum();
        share(rejected, seen)
    });
    row("faults after compiling", runs, |run| {
        run.outcomes.iter().map(|outcome| outcome.faults.len()).sum::<usize>().to_string()
    });
    row("compile ms p50 / p95 / max", runs, |run| {
        let compiled = run.outcomes.iter().filter(|outcome| outcome.refused.is_none());
        let times = sorted(compiled.map(|outcome| outcome.compile).collect());
        let ms = |part| at(&times, part) * 1e3;
        format!("{:.2} / {:.2} / {:.1}", ms(0.5), ms(0.95), ms(1.0))
    });
    row("refusal ms max", runs, |run| {
        let refused = run.outcomes.iter().filter(|outcome| outcome.refused.is_some());
        format!("{:.1}", at(&sorted(refused.map(|outcome| outcome.compile).collect()), 1.0) * 1e3)
    });
    row("mask µs p50 / p95 / p99 / max", runs, |run| {
        let times = sorted(run.outcomes.iter().flat_map(|outcome| outcome.masks.iter().copied()).collect());
        let us = |part| at(&times, part) * 1e6;
        format!("{:.1} / {:.0} / {:.0} / {:.0}", us(0.5), us(0.95), us(0.99), us(1.0))
    });
    row("masks", runs, |run| {
        run.outcomes.iter().map(|outcome| outcome.masks.len()).sum::<usize>().to_string()
    });
    let Some(run) = runs.last() else { return };
    println!("\nWhat follows is of {}.", run.name);
    splits(cases, run);
    refusals(run);
    alone(cases, run);
    rejections(run);
    list("Invalid instances accepted", run.outcomes.iter().flat_map(|outcome| &outcome.invalid_accepted));
    list("Faults", run.outcomes.iter().flat_map(|outcome| &outcome.faults));
}

fn row(name: &str, runs: &[Run], cell: impl Fn(&Run) -> String) {
    let cells: Vec<String> = runs.iter().map(cell).collect();
    println!("| {name} | {} |", cells.join(" | "));
}

fn count(run: &Run, which: impl Fn(&Outcome) -> bool) -> usize {
    run.outcomes.iter().filter(|outcome| which(outcome)).count()
}

fn share(part: usize, whole: usize) -> String {
    format!("{part} of {whole}, {:.2} %", 100.0 * part as f64 / whole.max(1) as f64)
}

fn sorted(mut times: Vec<Duration>) -> Vec<Duration> {
    times.sort_unstable();
    times
}

/// Seconds at a part of the whole.
fn at(times: &[Duration], part: f64) -> f64 {
    let last = times.len().saturating_sub(1);
    times.get((last as f64 * part).round() as usize).map_or(0.0, Duration::as_secs_f64)
}

fn splits(cases: &[Case], run: &Run) {
    let mut splits: BTreeMap<&str, (usize, usize, usize)> = BTreeMap::new();
    for (case, outcome) in cases.iter().zip(&run.outcomes) {
        let (all, compiled, right) = splits.entry(split(case)).or_default();
        *all += 1;
        *compiled += usize::from(outcome.refused.is_none());
        *right += usize::from(outcome.is_right());
    }
    println!("\n| corpus | schemas | compiled | fully right |\n|---|---:|---:|---:|");
    for (name, (all, compiled, right)) in splits {
        println!("| {name} | {all} | {compiled} | {right} |");
    }
}

fn refusals(run: &Run) {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for error in run.outcomes.iter().filter_map(|outcome| outcome.refused.as_ref()) {
        let reason = match error {
            GrammarError::Keyword { keyword, message, .. } => format!("`{keyword}`: {message}"),
            other => other.to_string(),
        };
        // One line, without what differs from schema to schema.
        let line = reason.lines().next().unwrap_or_default().replace('|', "\\|");
        *reasons.entry(line.chars().take(160).collect()).or_default() += 1;
    }
    let mut reasons: Vec<(String, usize)> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    println!("\n| refused | schemas |\n|---|---:|");
    for (reason, count) in reasons {
        println!("| {reason} | {count} |");
    }
}

/// Valid instances that no order of their keys makes acceptable.
fn in_any_order(outcome: &Outcome) -> usize {
    outcome.valid_rejected.iter().filter(|rejected| rejected.order.is_none()).count()
}

/// Reasons that are not the order of keys, by schema.
const REASONS: [(&str, &str); 1] = [(
    "Github_medium---o39097",
    "`if` and `then` count, though the schema calls itself draft 4, which does not know them",
)];

fn reason(rejected: &Rejected) -> String {
    let known = REASONS.iter().find(|(name, _)| rejected.line.starts_with(name));
    let other = known.map_or("no order of its keys is taken", |(_, reason)| reason);
    rejected.order.clone().unwrap_or_else(|| other.to_owned())
}

fn rejections(run: &Run) {
    println!("\nValid instances rejected, where and why:\n\n| instance | reason |\n|---|---|");
    for rejected in run.outcomes.iter().flat_map(|outcome| &outcome.valid_rejected) {
        let line = rejected.line.replace('|', "\\|").replace('`', "'");
        println!("| `{line}` | {} |", reason(rejected).replace('|', "\\|"));
    }
}

/// The library without our rewriting of schemas: what it compiles, and what both make of the valid instances of that.
fn alone(cases: &[Case], run: &Run) {
    let environment = ApproximateTokEnv::single_byte_env();
    let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &[]).expect("bytes");
    factory.quiet();
    let (mut compiled, mut valid, mut own, mut its) = (0, 0, 0, 0);
    for (case, outcome) in cases.iter().zip(&run.outcomes) {
        let parser = factory.create_parser(TopLevelGrammar::from_json_schema(case.schema.clone()));
        let matcher = Matcher::new(parser);
        if matcher.is_error() || outcome.refused.is_some() {
            continue;
        }
        compiled += 1;
        own += outcome.valid_rejected.len();
        for instance in case.tests.iter().filter(|test| test.valid) {
            valid += 1;
            its += usize::from(!takes(&matcher, &instance.data));
        }
    }
    println!(
        "\nllguidance alone, without the rewriting of schemas, compiles {compiled} of those that compile here. Of their \
         {valid} valid instances it rejects {its}; {own} are rejected here."
    );
}

fn takes(matcher: &Matcher, instance: &Value) -> bool {
    let mut matcher = matcher.deep_clone();
    let bytes: Vec<u32> = instance.to_string().bytes().map(u32::from).collect();
    matcher.try_consume_tokens(&bytes).is_ok_and(|taken| taken == bytes.len())
        && (matcher.is_stopped() || matcher.is_accepting().is_ok_and(|accepting| accepting))
}

fn slow(cases: &[Case], outcomes: &[Outcome]) {
    let mut compiled: Vec<_> = cases.iter().zip(outcomes).collect();
    compiled.sort_by_key(|(_, outcome)| std::cmp::Reverse(outcome.compile));
    let times = sorted(compiled.iter().map(|(_, outcome)| outcome.compile).collect());
    let ms = |part| at(&times, part) * 1e3;
    println!("compile ms {:.2} / {:.2} / {:.1}; slowest", ms(0.5), ms(0.95), ms(1.0));
    for (case, outcome) in compiled.iter().take(40) {
        println!("{:8.2} ms  {}", outcome.compile.as_secs_f64() * 1e3, case.name);
    }
    let times = sorted(outcomes.iter().flat_map(|outcome| outcome.masks.iter().copied()).collect());
    let limit = at(&times, 0.99);
    let count = |outcome: &Outcome| outcome.masks.iter().filter(|mask| mask.as_secs_f64() > limit).count();
    compiled.sort_by_key(|(_, outcome)| std::cmp::Reverse(count(outcome)));
    println!("mask µs {:.1} / {:.0}; masks over that", at(&times, 0.5) * 1e6, limit * 1e6);
    for (case, outcome) in compiled.iter().take(60) {
        let total: f64 = outcome.masks.iter().map(Duration::as_secs_f64).sum();
        println!("{:6} of {:6} ({:8.1} ms)  {}", count(outcome), outcome.masks.len(), total * 1e3, case.name);
    }
}

fn list<'a>(title: &str, lines: impl Iterator<Item = &'a String>) {
    let lines: Vec<&String> = lines.collect();
    if lines.is_empty() {
        return;
    }
    println!("\n{title}:\n\n```text");
    for line in lines {
        println!("{line}");
    }
    println!("```");
}
