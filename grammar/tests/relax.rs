//! What is left out of schemas that need not be enforced in full.
#![allow(clippy::expect_used, clippy::panic)]

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::{Value, json};
use weirgate_engine::GrammarSource;
use weirgate_grammar::{Compiler, GrammarError, GrammarSpec, Limits, Relaxed, Vocabulary};

fn compiler() -> Compiler {
    let bytes = (0..=255).map(|byte| vec![byte]).collect();
    Compiler::new(Vocabulary::from_bytes(bytes), 1 << 20).expect("a vocabulary")
}

fn relax(schema: &Value) -> Relaxed {
    compiler().relax(&schema.to_string(), &Limits::default(), &AtomicBool::new(false)).expect("a schema")
}

/// Whether what is left of a schema lets a text through.
fn takes(relaxed: &Relaxed, text: &str) -> bool {
    let spec = GrammarSpec::JsonSchema(relaxed.schema.clone());
    let compiled = compiler().compile(&spec, &Limits::default(), &AtomicBool::new(false)).expect("compiles");
    let mut grammar = compiled.start();
    text.bytes().all(|byte| grammar.advance(u32::from(byte)).is_ok()) && grammar.is_final().expect("no fault")
}

fn places(relaxed: &Relaxed) -> Vec<(&str, &str)> {
    relaxed.relaxations.iter().map(|one| (one.path.as_str(), one.keyword.as_str())).collect()
}

#[test]
fn what_can_be_enforced_stays_as_it_is() {
    let schema = json!({ "type": "object", "properties": { "b": { "type": "integer" }, "a": true }, "required": ["b"] });
    assert_eq!(relax(&schema), Relaxed { schema: schema.to_string(), relaxations: vec![] });
}

#[test]
fn only_what_is_refused_goes() {
    let schema = json!({
        "type": "object",
        "properties": {
            "list": { "type": "array", "items": { "type": "integer" }, "uniqueItems": true, "maxItems": 3 },
            "uniqueItems": { "type": "array", "uniqueItems": true },
            "other": { "type": "string", "maxLength": 2 },
        },
        "required": ["list", "other"],
        "additionalProperties": false,
    });
    let relaxed = relax(&schema);
    let mut found = places(&relaxed);
    found.sort_unstable();
    assert_eq!(found, [("/properties/list", "uniqueItems"), ("/properties/uniqueItems", "uniqueItems")]);
    assert!(relaxed.relaxations.iter().all(|one| !one.reason.is_empty()));
    assert!(takes(&relaxed, r#"{"list":[1,1],"other":"ab"}"#));
    // All else is as strict as before.
    for wrong in [
        r#"{"list":[1,1,1,1],"other":"ab"}"#,
        r#"{"list":[1.5],"other":"ab"}"#,
        r#"{"list":[1],"other":"abc"}"#,
    ] {
        assert!(!takes(&relaxed, wrong), "{wrong}");
    }
}

#[test]
fn a_complement_goes_as_a_whole() {
    let schema = json!({
        "type": "object",
        "properties": { "not": { "type": "array", "not": { "uniqueItems": true } } },
        "required": ["not"],
        "additionalProperties": false,
    });
    let relaxed = relax(&schema);
    assert_eq!(places(&relaxed), [("/properties/not", "not")]);
    assert!(takes(&relaxed, r#"{"not":[1,2]}"#));
    assert!(!takes(&relaxed, r#"{"not":1}"#));
}

#[test]
fn a_schema_beyond_the_limits_goes_as_a_whole() {
    let properties: serde_json::Map<String, Value> =
        (0..6_000).map(|n| (format!("p{n}"), json!({ "type": "null" }))).collect();
    for schema in [json!({ "properties": properties }), json!({ "type": "string", "enum": [1] })] {
        let relaxed = relax(&schema);
        assert_eq!(places(&relaxed), [("", "")]);
        assert!(takes(&relaxed, r#"[{"a":null}]"#));
    }
}

#[test]
fn what_is_no_schema_is_refused_and_a_cancelled_one_given_up() {
    let compiler = compiler();
    let (limits, going) = (Limits::default(), AtomicBool::new(false));
    assert!(matches!(compiler.relax("{", &limits, &going), Err(GrammarError::Json(_))));
    let cancelled = AtomicBool::new(true);
    let limits = Limits { time: Duration::from_secs(60), ..limits };
    let text = json!({ "uniqueItems": true }).to_string();
    assert_eq!(compiler.relax(&text, &limits, &cancelled), Err(GrammarError::Cancelled));
}
