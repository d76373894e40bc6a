use serde_json::{Value, json};

use std::io::Read;

use super::schema;
use super::schema::{CONVERTED_BYTES, to_regex};
use crate::{GrammarError, Limits};

fn convert(schema: &Value) -> Result<String, GrammarError> {
    to_regex(&schema.to_string(), &Limits::default())
}

/// `depth` arrays around a value.
fn nested(depth: usize, innermost: Value) -> Value {
    (0..depth).fold(innermost, |items, _| json!({ "type": "array", "items": items }))
}

#[test]
fn what_would_be_too_long_is_refused_before_it_is_written() {
    // Each level writes its items twice: the converter alone makes 306 MB of 22 levels, and of 120 it aborts.
    for depth in [13, 22, 31] {
        let error = convert(&nested(depth, json!({ "type": "string" }))).expect_err("refused");
        let GrammarError::Limit { what, limit, .. } = error else { panic!("{error}") };
        assert_eq!((what, limit), ("regular expression's size in bytes", CONVERTED_BYTES.to_string()));
    }
    let error = convert(&nested(80, json!({ "type": "null" }))).expect_err("refused");
    assert!(
        matches!(error, GrammarError::Limit { what: "nesting depth", .. } | GrammarError::Json(_)),
        "{error}"
    );
    assert!(convert(&nested(8, json!({ "type": "null" }))).is_ok());
    // References that double at every level, without any recursion.
    let defs: serde_json::Map<_, _> = (0..20)
        .map(|i| {
            let next = json!({ "$ref": format!("#/$defs/d{}", i + 1) });
            (format!("d{i}"), json!({ "type": "array", "prefixItems": [next, next] }))
        })
        .chain([("d20".to_owned(), json!({ "type": "null" }))])
        .collect();
    let error = convert(&json!({ "$ref": "#/$defs/d0", "$defs": defs })).expect_err("refused");
    assert!(
        matches!(error, GrammarError::Limit { what: "regular expression's size in bytes", .. }),
        "{error}"
    );
    // A keyword of the converter's own, which has no bound there.
    assert!(convert(&json!({ "type": "array", "depth": 1_000_000 })).is_ok());
}

#[test]
fn what_the_converter_ignores_is_refused_by_name() {
    for (schema, keyword, path) in [
        (json!({ "type": "integer", "minimum": 3 }), "minimum", ""),
        (json!({ "type": "string", "minLength": 1, "pattern": "a" }), "pattern", ""),
        (json!({ "type": "string", "format": "email" }), "format", ""),
        (json!({ "items": { "not": {} } }), "not", "/items"),
        (json!({ "allOf": [{ "type": "string" }, { "type": "string" }] }), "allOf", ""),
        (json!({ "oneOf": [{ "type": "number" }, { "type": "integer" }] }), "oneOf", ""),
        (json!({ "type": "array", "uniqueItems": true }), "uniqueItems", ""),
        (
            json!({ "properties": { "a/b": { "type": "array", "contains": {} } } }),
            "contains",
            "/properties/a~1b",
        ),
        (json!({ "type": "object", "properties": { "a": {} }, "minProperties": 1 }), "minProperties", ""),
        (json!({ "type": "object", "required": ["a"] }), "required", ""),
        (json!({ "type": "object", "properties": { "a": {} }, "required": ["b"] }), "required", ""),
        (json!({ "properties": { "a": { "$ref": "#" } } }), "$ref", "/properties/a"),
        (json!({ "$ref": "https://example.com/schema" }), "$ref", ""),
        (json!({ "$ref": "#/$defs/a", "type": "string", "$defs": { "a": {} } }), "type", ""),
        (json!({ "type": "file" }), "type", ""),
    ] {
        match convert(&schema) {
            Err(GrammarError::Keyword { keyword: got, path: at, message }) => {
                assert_eq!((got.as_str(), at.as_str()), (keyword, path), "{schema}: {message}");
            }
            other => panic!("{schema}: {other:?}"),
        }
    }
}

#[test]
fn keywords_about_other_types_and_annotations_do_not_matter() {
    let plain = convert(&json!({ "type": "boolean" })).expect("converted");
    let schema =
        json!({ "type": "boolean", "minimum": 3, "minLength": 2, "title": "t", "default": 1, "x-y": {} });
    assert_eq!(convert(&schema).expect("converted"), plain);
}

#[test]
fn no_expression_is_longer_than_was_expected() {
    let mut lines = String::new();
    let goldens = &include_bytes!("../../tests/data/schemas.jsonl.gz")[..];
    flate2::read::GzDecoder::new(goldens).read_to_string(&mut lines).expect("text");
    let goldens =
        lines.lines().skip(1).map(|line| serde_json::from_str::<Value>(line).expect("JSON")["schema"].take());
    let optional = |count| (0..count).map(|i| (format!("p{i}"), json!({ "type": "string" }))).collect();
    let optional = |count| json!({ "properties": Value::Object(optional(count)) });
    let made = (1..9).map(|n| nested(n, json!({}))).chain((1..50).map(optional));
    let mut converted = 0;
    for schema in goldens.chain(made) {
        if let Ok((regex, expected)) = schema::convert(&schema.to_string(), &Limits::default()) {
            assert!(regex.len() <= expected, "{schema}: {} bytes, at most {expected} expected", regex.len());
            converted += 1;
        }
    }
    assert!(converted >= 150, "{converted}");
}
