//! The second backend: an automaton over bytes. What it accepts is compared with other implementations in
//! `differential.rs`.
#![allow(clippy::expect_used, clippy::panic)]

#[path = "support/maskbench.rs"]
mod maskbench;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};
use weirgate_engine::{Grammar, GrammarSource};
use weirgate_grammar::{Backend, Compiled, Compiler, GrammarError, GrammarSpec, Limits, Vocabulary};

/// Of the cases of MaskBench, every so many.
const STEP: usize = 7;

/// Every byte, and some longer tokens.
fn compiler() -> Compiler {
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    tokens.extend(["ab", "{\"", "é", "12"].map(|text| text.as_bytes().to_vec()));
    tokens.push(Vec::new());
    let compiler = Compiler::new(Vocabulary::from_bytes(tokens), 1 << 26).expect("a vocabulary");
    compiler.with_backend(Backend::Outlines)
}

fn compile(spec: &GrammarSpec) -> Result<Arc<Compiled>, GrammarError> {
    compiler().compile(spec, &Limits::default(), &AtomicBool::new(false))
}

fn regex(pattern: &str) -> GrammarSpec {
    GrammarSpec::Regex(pattern.into())
}

fn schema(value: &Value) -> GrammarSpec {
    GrammarSpec::JsonSchema(value.to_string())
}

fn allowed(grammar: &mut dyn Grammar) -> Vec<u32> {
    let mut mask = vec![0u32; 10];
    grammar.fill_mask(&mut mask).expect("a mask");
    (0..320).filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1).collect()
}

fn takes(compiled: &Compiled, text: &str) -> bool {
    let mut grammar = compiled.start();
    text.bytes()
        .all(|byte| allowed(grammar.as_mut()).contains(&byte.into()) && grammar.advance(byte.into()).is_ok())
        && grammar.is_final().expect("no fault")
}

#[test]
fn each_kind_of_grammar_takes_its_texts_and_no_others() {
    let object = json!({ "type": "object", "properties": { "b\"": { "type": "integer" }, "a.": { "enum": ["x", 1] } },
        "required": ["b\""] });
    let cases: [(GrammarSpec, &[&str], &[&str]); 7] = [
        // A number may go on after it could have ended; the index of outlines-core forgets that.
        (regex("[0-9]+(\\.[0-9]+)?"), &["1", "1.5", "10.25"], &["", "1.", ".5"]),
        // The longer of two alternatives is not hidden by the shorter one.
        (regex("^(1|1ab)$"), &["1", "1ab"], &["1a", "11"]),
        (regex("(^a|b$)(c|[^\\s\\S])?"), &[], &[]),
        (GrammarSpec::Choice(vec!["a.".into(), "a.b(".into()]), &["a.", "a.b("], &["ab", "a.b"]),
        (
            schema(&object),
            &[r#"{"b\"":1}"#, r#"{"b\"":-2,"a.":"x"}"#],
            &["{}", r#"{"b\"":1,"ab":1}"#, r#"{"b\"": 1}"#],
        ),
        (GrammarSpec::JsonObject, &["{}", r#"{"a":[1,{"b":null}]}"#], &["[]", "1", "{ }"]),
        // Not for this backend, and so not its fault.
        (GrammarSpec::Lark("start: \"x\" start \"y\" | \"z\"".into()), &["z", "xxzyy"], &["xz"]),
    ];
    for (spec, right, wrong) in cases {
        let compiled = match compile(&spec) {
            Ok(compiled) => compiled,
            Err(error) if right.is_empty() => {
                assert!(error.to_string().contains("only at the ends"), "{error}");
                continue;
            }
            Err(error) => panic!("{spec:?}: {error}"),
        };
        for text in right {
            assert!(takes(&compiled, text), "{spec:?} must take {text:?}");
        }
        for text in wrong {
            assert!(!takes(&compiled, text), "{spec:?} must not take {text:?}");
        }
    }
}

#[test]
fn a_sequence_goes_back_ends_and_keeps_its_first_error() {
    let compiled = compile(&regex("(ab|12|é)+")).expect("compiles");
    let mut grammar = compiled.start();
    // '1', 'a', the first byte of 'é', "ab", 'é', "12".
    let first = [0x31, 0x61, 0xc3, 256, 258, 259];
    assert_eq!(allowed(grammar.as_mut()), first);
    grammar.advance(0xc3).expect("allowed");
    assert_eq!(allowed(grammar.as_mut()), [0xa9]);
    assert!(!grammar.is_final().expect("no fault"));
    grammar.advance(0xa9).expect("allowed");
    assert!(grammar.is_final().expect("no fault"));
    grammar.rollback(2).expect("taken before");
    assert_eq!(allowed(grammar.as_mut()), first);
    // A token without bytes, and one beyond the vocabulary.
    assert!(compiled.start().advance(260).is_err() && compiled.start().advance(261).is_err());
    assert!(compiled.start().rollback(1).is_err());
    assert!(grammar.advance(0x62).is_err());
    assert!(grammar.fill_mask(&mut [0; 9]).is_err(), "an error stays");
    assert_eq!(allowed(compiled.start().as_mut()), first);

    let done = compile(&regex("ab")).expect("compiles");
    let mut grammar = done.start();
    grammar.advance(256).expect("allowed");
    assert!(grammar.is_final().expect("no fault") && allowed(grammar.as_mut()).is_empty());
}

#[test]
fn states_that_were_forgotten_are_found_again() {
    // The last 16 bytes decide, so there are 65,536 states, more than are kept; the texts visit thousands.
    let compiled = compile(&regex("[ab]*a[ab]{15}")).expect("compiles");
    let mut random = fastrand::Rng::with_seed(3);
    let texts: Vec<String> =
        (0..8).map(|_| (0..4_000).map(|_| if random.bool() { 'a' } else { 'b' }).collect()).collect();
    let mut grammars: Vec<_> = texts.iter().map(|_| compiled.start()).collect();
    for at in 0..4_000 {
        for (text, grammar) in texts.iter().zip(&mut grammars) {
            let byte = text.as_bytes()[at];
            assert_eq!(allowed(grammar.as_mut()), [0x61, 0x62, 256], "after {at}");
            grammar.advance(byte.into()).expect("allowed");
            let ends = at >= 15 && text.as_bytes()[at - 15] == b'a';
            assert_eq!(grammar.is_final().expect("no fault"), ends, "after {at}");
        }
    }
}

#[test]
fn hostile_grammars_are_refused_in_bounded_time() {
    let arrays = |depth| {
        (0..depth).fold(json!({ "type": "null" }), |items, _| json!({ "type": "array", "items": items }))
    };
    let optional: serde_json::Map<_, _> =
        (0..1_000).map(|i| (format!("p{i}"), json!({ "type": "string" }))).collect();
    for (spec, limit) in [
        (schema(&arrays(22)), "regular expression's size in bytes"),
        (schema(&arrays(70)), "nesting depth"),
        (schema(&json!({ "type": "object", "properties": optional })), "regular expression's size in bytes"),
        (regex(&format!("{}a{}", "(".repeat(100), ")".repeat(100))), "nest"),
        (regex("((a{1,100}){1,100}){1,100}"), "repetition count"),
        (regex("\\w{10000}"), "automaton's size in bytes"),
        (regex("a[^\\s\\S]"), "cannot produce any text"),
        (regex("a\\bb"), "only at the ends"),
        (GrammarSpec::Choice(Vec::new()), "cannot produce any text"),
        (schema(&json!({ "type": "string", "minLength": 3_000_000 })), "automaton's size in bytes"),
    ] {
        let error = compile(&spec).expect_err("refused").to_string();
        assert!(error.contains(limit), "{error:?} instead of {limit:?}");
    }
}

#[test]
fn maskbench_has_no_invalid_instance_that_is_accepted() {
    let Some(cases) = maskbench::cases() else {
        println!("skipped: the shared MaskBench sample is not there");
        return;
    };
    let compiler = compiler();
    let tokenize = |text: &str| text.bytes().map(u32::from).collect();
    let outcomes: Vec<_> =
        cases.iter().step_by(STEP).map(|case| maskbench::run(&compiler, &tokenize, case)).collect();
    let accepted: Vec<&String> = outcomes.iter().flat_map(|outcome| &outcome.invalid_accepted).collect();
    let faults: Vec<&String> = outcomes.iter().flat_map(|outcome| &outcome.faults).collect();
    let right = outcomes.iter().filter(|outcome| outcome.is_right()).count();
    let compiled = outcomes.iter().filter(|outcome| outcome.refused.is_none()).count();
    println!("{compiled} of {} compiled, {right} right", outcomes.len());
    assert!(accepted.is_empty() && faults.is_empty(), "invalid, but accepted: {accepted:?}; {faults:?}");
    assert!(right * 100 >= outcomes.len() * 45, "{right} of {}", outcomes.len());
}
