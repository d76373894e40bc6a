//! Schemas that are made to cost much: each ends in a grammar or in a refusal that says why, whatever the stack of the
//! thread is, and a compilation that is cancelled or late ends while the schema is rewritten.
#![allow(clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::{Map, Value, json};
use weirgate_grammar::{Compiled, Compiler, GrammarError, GrammarSpec, Limits, Vocabulary};

/// As much as a thread that compiles grammars has.
const STACK_BYTES: usize = 8 << 20;

fn compile_with(schema: &Value, limits: &Limits, cancelled: bool) -> Result<Arc<Compiled>, GrammarError> {
    let spec = GrammarSpec::JsonSchema(schema.to_string());
    let limits = limits.clone();
    let work = move || {
        let vocabulary = Vocabulary::from_bytes((0..=255).map(|byte| vec![byte]).collect());
        let compiler = Compiler::new(vocabulary, 0).expect("a vocabulary");
        compiler.compile(&spec, &limits, &AtomicBool::new(cancelled))
    };
    std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(work)
        .expect("a thread")
        .join()
        .expect("no panic")
}

fn compile(schema: &Value) -> Result<Arc<Compiled>, GrammarError> {
    compile_with(schema, &Limits::default(), false)
}

/// Each definition says `of` about the next one, the last is `end`.
fn chain(length: usize, of: impl Fn(Value) -> Value, end: Value) -> Value {
    let mut definitions = Map::new();
    for at in 0..length {
        let next = json!({ "$ref": format!("#/$defs/d{}", at + 1) });
        definitions.insert(format!("d{at}"), of(next));
    }
    definitions.insert(format!("d{length}"), end);
    json!({ "$ref": "#/$defs/d0", "$defs": definitions })
}

fn exponential() -> Value {
    chain(40, |next| json!({ "anyOf": [next, next] }), json!({ "enum": [1, 2, 3] }))
}

#[test]
fn combinations_that_double_are_limited() {
    let doubling = |key: &'static str| {
        chain(40, move |next| json!({ key: [next, next] }), json!({ "enum": ["a", { "b": 1 }] }))
    };
    for schema in [
        exponential(),
        doubling("oneOf"),
        doubling("allOf"),
        json!({ "enum": [1], "$ref": "#/$defs/d0", "$defs": doubling("allOf")["$defs"] }),
        json!({ "unevaluatedProperties": false, "$ref": "#/$defs/d0", "$defs": doubling("allOf")["$defs"] }),
    ] {
        if let Err(error) = compile(&schema) {
            assert!(
                matches!(
                    error,
                    GrammarError::Limit { .. } | GrammarError::Keyword { .. } | GrammarError::Empty
                ),
                "{error}"
            );
        }
    }
}

#[test]
fn a_late_or_cancelled_compilation_ends_while_the_schema_is_rewritten() {
    let late = Limits { time: Duration::ZERO, ..Limits::default() };
    let error = compile_with(&exponential(), &late, false).expect_err("late");
    assert!(matches!(error, GrammarError::Limit { what: "compile time", .. }), "{error}");
    let error = compile_with(&exponential(), &Limits::default(), true).expect_err("cancelled");
    assert_eq!(error, GrammarError::Cancelled);
}

#[test]
fn a_long_chain_of_definitions_does_not_end_the_process() {
    let object = |next: Value| json!({ "type": "object", "properties": { "n": next } });
    assert!(compile(&chain(900, object, json!({}))).is_ok());
    for length in [1_100, 4_000] {
        let error = compile(&chain(length, object, json!({}))).expect_err("too deep");
        assert!(matches!(error, GrammarError::Limit { .. }), "{error}");
    }
    let mut back = chain(3_000, |next| json!({ "items": next }), json!({}));
    back["properties"] = json!({ "first": { "$ref": "#/$defs/d2999" }, "last": { "$ref": "#" } });
    assert!(matches!(compile(&back), Err(GrammarError::Limit { .. })));
}

#[test]
fn long_texts_that_are_excluded_are_refused() {
    for text in ["x".repeat(60_000), "é".repeat(80)] {
        let error = compile(&json!({ "type": "string", "not": { "const": text } })).map(|_| ());
        match text.starts_with('x') {
            true => assert!(matches!(error, Err(GrammarError::Keyword { .. })), "{error:?}"),
            false => error.expect("short enough"),
        }
    }
}

#[test]
fn patterns_are_bounded() {
    // Every byte of the text makes another state.
    let heavy =
        format!("^({}){{1,500}}$", (0..300).map(|n| "a".repeat(n % 97 + 1)).collect::<Vec<_>>().join("|"));
    let limits = Limits { time: Duration::from_millis(500), ..Limits::default() };
    for schema in [
        json!({ "enum": ["a".repeat(100_000)], "pattern": heavy }),
        json!({ "allOf": [{ "pattern": heavy }, { "pattern": "^(a{1,90}b?){1,90}$" }, { "maxLength": 70_000 }] }),
        json!({ "type": "object", "patternProperties":
            (0..600).map(|n| (format!("^a{{{n}}}(b|c)*{n}$"), json!({}))).collect::<Map<_, _>>() }),
        json!({ "pattern": "((((a{1,90}){1,90}){1,90}){1,90}){1,90}" }),
        json!({ "pattern": "(.*.*.*.*)*x", "format": "email", "minLength": 90_000 }),
        json!({ "required": (0..3_000).map(|n| format!("key{n}")).collect::<Vec<_>>(),
            "patternProperties": (0..40).map(|n| (format!("key[0-9]*{n}$"), json!({}))).collect::<Map<_, _>>() }),
    ] {
        if let Err(error) = compile_with(&schema, &limits, false) {
            println!("{error}");
        }
    }
}

#[test]
fn long_lists_of_values_are_quick_enough() {
    let numbers: Vec<u64> = (0..20_000).collect();
    let texts: Vec<String> = (0..10_000).map(|n| format!("value {n}")).collect();
    let mixed: Vec<Value> =
        (0..9_000).map(|n| if n % 2 == 0 { json!(n) } else { json!({ "a": n }) }).collect();
    assert!(compile(&json!({ "enum": texts })).is_ok());
    assert!(compile(&json!({ "type": "object", "properties": { "a": { "enum": texts } } })).is_ok());
    for schema in [
        json!({ "enum": numbers }),
        json!({ "allOf": [{ "enum": numbers }, { "not": { "enum": numbers } }] }),
        json!({ "enum": mixed }),
        json!({ "oneOf": [{ "enum": numbers }, { "enum": texts }] }),
        json!({ "items": { "enum": texts }, "uniqueItems": true }),
        json!({ "allOf": vec![json!({ "$ref": "#/$defs/n" }); 2_000], "$defs": { "n": { "enum": texts } } }),
    ] {
        if let Err(error) = compile(&schema) {
            println!("{error}");
        }
    }
}

#[test]
fn many_schemas_about_one_value_are_limited() {
    let parts: Vec<Value> =
        (0..4_000).map(|n| json!({ "properties": { "x": { "a": n } }, "required": ["x"] })).collect();
    let names: Vec<Value> = (0..2_000).map(|n| json!({ "required": [format!("k{n}")] })).collect();
    for schema in [
        json!({ "allOf": parts }),
        json!({ "anyOf": names }),
        json!({ "oneOf": names }),
        json!({ "not": { "anyOf": names } }),
        json!({ "minProperties": 20, "additionalProperties": false,
            "properties": (0..60).map(|n| (format!("p{n}"), json!({}))).collect::<Map<_, _>>() }),
        chain(900, |next| json!({ "required": ["n"], "properties": { "n": next } }), json!(false)),
    ] {
        if let Err(error) = compile(&schema) {
            println!("{error}");
        }
    }
}
