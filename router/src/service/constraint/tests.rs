use serde_json::{Value, json};
use weirgate_grammar::GrammarSpec;

use super::*;

const OWN: Field = Field::Other("response_format");

fn spec(constraint: Option<Constraint>) -> Option<GrammarSpec> {
    constraint.map(|constraint| match constraint.form {
        Form::Whole(spec) => spec,
        Form::Calls(_) => panic!("no tools here"),
    })
}

fn schema(text: &str) -> Option<GrammarSpec> {
    Some(GrammarSpec::JsonSchema(text.into()))
}

#[test]
fn response_formats_of_both_shapes() {
    let read = |value: Value| spec(response_format(&value, OWN).unwrap());
    assert_eq!(read(json!(null)), None);
    assert_eq!(read(json!({"type": "text"})), None);
    assert_eq!(read(json!({"type": "json_object"})), Some(GrammarSpec::JsonObject));
    let own = json!({"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": {"b": 1, "a": 2}}});
    assert_eq!(read(own), schema(r#"{"b":1,"a":2}"#));
    assert_eq!(read(json!({"type": "json", "value": {"type": "object"}})), schema(r#"{"type":"object"}"#));
    assert_eq!(read(json!({"type": "json_object", "value": "{\"a\": 1}"})), schema("{\"a\": 1}"));
    assert_eq!(read(json!({"type": "json_schema", "value": {"name": "x", "schema": {}}})), schema("{}"));
    assert_eq!(read(json!({"type": "regex", "value": "a+"})), Some(GrammarSpec::Regex("a+".into())));
}

#[test]
fn what_is_no_format_is_refused_by_its_field() {
    for value in [
        json!({"type": "json_schema"}),
        json!({"type": "json_schema", "json_schema": {"name": "x"}}),
        json!({"type": "regex", "value": 3}),
        json!({"type": "xml"}),
        json!("json_object"),
    ] {
        let error = response_format(&value, OWN).unwrap_err();
        assert_eq!(error.field(), Some("response_format"), "{value}");
    }
    // TGI's rule 17.
    let error = tgi_grammar(&json!({"type": "json", "value": 3}), Field::Grammar).unwrap_err();
    assert_eq!(error.to_string(), "grammar is not supported");
}

#[test]
fn guided_fields_one_at_a_time() {
    let read = |value: Value| guided(&serde_json::from_value(value).unwrap());
    assert!(read(json!({})).unwrap().is_none());
    let choice = read(json!({"guided_choice": ["a", "b"]})).unwrap();
    assert_eq!(spec(choice), Some(GrammarSpec::Choice(vec!["a".into(), "b".into()])));
    let newer = read(json!({"structured_outputs": {"json": {"type": "null"}}})).unwrap();
    assert_eq!(spec(newer), schema(r#"{"type":"null"}"#));
    let error = read(json!({"guided_regex": "a", "structured_outputs": {"json_object": true}})).unwrap_err();
    assert_eq!(error.to_string(), "structured_outputs: only one form can be asked for");
}
