//! Schemas whose keywords are rewritten before the library sees them, against instances written by hand from the standard.

use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};
use weirgate_grammar::{Compiler, GrammarError, GrammarSpec, Limits, Vocabulary};

fn compile(schema: &Value) -> Result<std::sync::Arc<weirgate_grammar::Compiled>, GrammarError> {
    let vocabulary = Vocabulary::from_bytes((0..=255).map(|byte| vec![byte]).collect());
    let compiler = Compiler::new(vocabulary, 1 << 20).expect("a vocabulary");
    compiler.compile(
        &GrammarSpec::JsonSchema(schema.to_string()),
        &Limits::default(),
        &AtomicBool::new(false),
    )
}

fn check(schema: Value, right: &[&str], wrong: &[&str]) {
    let compiled = compile(&schema).unwrap_or_else(|error| panic!("{schema}: {error}"));
    for (texts, expected) in [(right, true), (wrong, false)] {
        for text in texts {
            let bytes: Vec<u32> = text.bytes().map(u32::from).collect();
            let taken =
                crate::maskbench::taken(compiled.as_ref(), 256, &bytes, &mut Vec::new()).expect("no fault");
            assert_eq!(taken.is_none(), expected, "{schema} and {text}");
        }
    }
}

fn refused(schema: Value) -> (String, String) {
    match compile(&schema) {
        Err(GrammarError::Keyword { keyword, path, .. }) => (keyword, path),
        other => panic!("{schema}: {other:?}"),
    }
}

#[test]
fn one_of_excludes_what_several_take() {
    let overlapping =
        json!({ "oneOf": [{ "type": "integer", "maximum": 5 }, { "type": "integer", "minimum": 3 }] });
    check(overlapping, &["2", "6", "-1"], &["3", "4", "5", "\"a\""]);
    let members = json!({ "type": "object", "properties": { "a": { "type": "string" }, "b": { "type": "string" } },
        "additionalProperties": false, "oneOf": [{ "required": ["a"] }, { "required": ["b"] }] });
    check(members, &[r#"{"a":"x"}"#, r#"{"b":"x"}"#], &["{}", r#"{"a":"x","b":"x"}"#]);
}

#[test]
fn not_over_types_values_and_members() {
    check(
        json!({ "not": { "type": ["string", "object", "array"] } }),
        &["1", "null", "true"],
        &["\"\"", "{}", "[]"],
    );
    check(
        json!({ "type": "string", "not": { "enum": ["a", "ab"] } }),
        &["\"\"", "\"abc\"", "\"b\""],
        &["\"a\"", "\"ab\""],
    );
    let without = json!({ "type": "object", "properties": { "a": true, "b": { "type": "integer" } },
        "not": { "required": ["a"] } });
    check(without, &["{}", r#"{"b":1}"#, r#"{"c":1}"#], &[r#"{"a":1}"#, r#"{"b":1,"a":1}"#]);
    check(
        json!({ "enum": [[1, 1], [1, 2], "a"], "not": { "type": "string" }, "uniqueItems": true }),
        &["[1,2]"],
        &["[1,1]", "\"a\""],
    );
}

#[test]
fn conditions_and_dependencies() {
    let conditional = json!({ "type": "object", "properties": { "kind": { "enum": ["a", "b"] }, "x": true },
        "required": ["kind"], "additionalProperties": false,
        "if": { "properties": { "kind": { "const": "a" } } }, "then": { "required": ["x"] }, "else": { "properties": { "x": false } } });
    check(
        conditional,
        &[r#"{"kind":"a","x":1}"#, r#"{"kind":"b"}"#],
        &[r#"{"kind":"a"}"#, r#"{"kind":"b","x":1}"#],
    );
    let dependent = json!({ "type": "object", "properties": { "a": true, "b": true },
        "dependentRequired": { "a": ["b"] } });
    check(dependent, &["{}", r#"{"b":1}"#, r#"{"a":1,"b":1}"#, r#"{"c":1}"#], &[r#"{"a":1}"#]);
    let schema = json!({ "$schema": "http://json-schema.org/draft-07/schema#", "type": "object",
        "properties": { "a": true }, "dependencies": { "a": { "properties": { "b": { "type": "null" } }, "required": ["b"] } } });
    check(schema, &["{}", r#"{"a":1,"b":null}"#], &[r#"{"a":1}"#, r#"{"a":1,"b":2}"#]);
}

#[test]
fn references_by_pointer_identifier_and_anchor() {
    let schema = json!({ "$id": "http://x.test/root.json", "type": "object",
        "properties": { "a": { "$ref": "#/$defs/o~1ne%20" }, "b": { "$ref": "other.json#name" }, "c": { "$ref": "http://x.test/other.json" } },
        "$defs": { "o/ne ": { "type": "integer" },
            "other": { "$id": "other.json", "type": "string", "$defs": { "n": { "$anchor": "name", "type": "null" } } } } });
    check(schema, &[r#"{"a":1,"b":null,"c":"x"}"#], &[r#"{"a":null}"#, r#"{"b":"x"}"#, r#"{"c":1}"#]);
    let recursive = json!({ "$ref": "#/$defs/t", "$defs": { "t": { "type": "object", "allOf": [{ "properties":
        { "next": { "$ref": "#/$defs/t", "minProperties": 0 }, "v": { "type": "integer" } } }], "required": ["v"], "additionalProperties": true } } });
    check(recursive, &[r#"{"next":{"v":1},"v":2}"#], &[r#"{"next":{},"v":2}"#, "{}"]);
    // Beside `$ref` nothing counts before 2019-09.
    let old = json!({ "$schema": "http://json-schema.org/draft-07/schema#", "properties": { "a": { "$ref": "#/definitions/n", "maximum": 1 } },
        "definitions": { "n": { "type": "integer" } }, "type": "object" });
    check(old, &[r#"{"a":2}"#], &[r#"{"a":"x"}"#]);
}

#[test]
fn counts_names_and_items() {
    let one = json!({ "type": "object", "properties": { "a": { "type": "integer" }, "b": true, "c": true }, "minProperties": 2, "maxProperties": 2, "additionalProperties": false });
    check(
        one,
        &[r#"{"a":1,"c":1}"#, r#"{"b":1,"c":1}"#],
        &["{}", r#"{"a":1}"#, r#"{"a":1,"b":1,"c":1}"#, r#"{"a":"","b":1}"#],
    );
    let names = json!({ "type": "object", "propertyNames": { "pattern": "^[a-z]+$" }, "additionalProperties": { "type": "null" } });
    check(names, &["{}", r#"{"ab":null}"#], &[r#"{"A":null}"#, r#"{"a":1}"#]);
    let contains =
        json!({ "type": "array", "items": { "type": "integer" }, "maxItems": 3, "contains": { "const": 7 } });
    check(contains, &["[7]", "[1,7]", "[1,2,7]"], &["[]", "[1]", "[1,2,3]", "[1,2,3,7]"]);
    check(
        json!({ "type": "array", "items": { "enum": ["a", "b"] }, "uniqueItems": true }),
        &["[]", r#"["b","a"]"#],
        &[r#"["a","a"]"#],
    );
    let closed = json!({ "allOf": [{ "properties": { "a": true } }], "type": "object", "properties": { "b": true }, "unevaluatedProperties": false });
    check(closed, &["{}", r#"{"a":1,"b":2}"#], &[r#"{"c":1}"#]);
    check(
        json!({ "type": "number", "minimum": 1, "exclusiveMinimum": true, "maximum": 3 }),
        &["2", "1.5", "3"],
        &["1", "4"],
    );
}

#[test]
fn keys_come_where_the_schema_has_their_names() {
    let base = json!({ "properties": { "a": { "type": "null" } }, "required": ["a"] });
    let own = json!({ "b": { "type": "null" } });
    check(
        json!({ "type": "object", "allOf": [base], "properties": own, "required": ["b"] }),
        &[r#"{"a":null,"b":null}"#],
        &[r#"{"b":null,"a":null}"#],
    );
    check(
        json!({ "type": "object", "properties": own, "required": ["b"], "allOf": [base] }),
        &[r#"{"b":null,"a":null}"#],
        &[r#"{"a":null,"b":null}"#],
    );
}

#[test]
fn formats() {
    check(
        json!({ "type": "string", "format": "date" }),
        &["\"2024-02-29\"", "\"2000-02-29\""],
        &["\"2023-02-29\"", "\"1900-02-29\"", "\"2023-13-01\""],
    );
    check(
        json!({ "oneOf": [{ "type": "string", "format": "date" }, { "type": "string", "format": "date-time" }] }),
        &["\"2023-01-31\"", "\"2023-01-31T00:00:00Z\""],
        &["\"2023\""],
    );
    check(
        json!({ "type": "string", "format": "ipv4" }),
        &["\"255.0.10.1\""],
        &["\"256.0.0.1\"", "\"1.2.3\"", "\"01.2.3.4\""],
    );
    check(json!({ "type": "string", "format": "no-draft-has-it" }), &["\"x\""], &["1"]);
}

#[test]
fn what_cannot_be_enforced_is_refused_with_its_place() {
    let at = |keyword: &str, path: &str| (keyword.to_owned(), path.to_owned());
    assert_eq!(
        refused(json!({ "properties": { "a": { "type": "array", "uniqueItems": true } } })),
        at("uniqueItems", "/properties/a")
    );
    assert_eq!(
        refused(json!({ "items": { "oneOf": [{ "pattern": "a" }, { "pattern": "b" }] } })),
        at("oneOf", "/items")
    );
    assert_eq!(refused(json!({ "not": { "type": "string", "pattern": "a" } })).1, "/not");
    assert_eq!(
        refused(json!({ "properties": { "a/b": { "$ref": "other.json" } } })),
        at("$ref", "/properties/a~1b")
    );
    assert_eq!(refused(json!({ "$ref": "#" })), at("$ref", ""));
    assert_eq!(refused(json!({ "type": "string", "format": "regex" })), at("format", ""));
    assert_eq!(compile(&json!({ "type": "string", "enum": [1] })).err(), Some(GrammarError::Empty));
}

#[test]
fn combinations_that_multiply_end_at_a_limit() {
    let pair =
        |n: usize| json!({ "anyOf": [{ "required": [format!("a{n}")] }, { "required": [format!("b{n}")] }] });
    let schema = json!({ "type": "object", "allOf": (0..40).map(pair).collect::<Vec<_>>() });
    let begun = std::time::Instant::now();
    let error = compile(&schema).err();
    println!("2^40 alternatives: refused after {:?}", begun.elapsed());
    assert!(matches!(error, Some(GrammarError::Limit { .. })), "{error:?}");
}
