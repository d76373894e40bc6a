//! Grammars over HTTP: what comes out obeys them, what cannot be enforced is refused before anything runs.

use serde_json::{Value, json};

use super::*;

fn chat(more: Value) -> Value {
    merged(json!({"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": 60}), more)
}

fn script(text: &str) -> TestServer {
    TestServer::writing(text, TEMPLATE, config())
}

#[tokio::test]
async fn a_grammar_decides_what_is_generated() {
    let server = script("ab4-zz");
    for (grammar, text) in [
        (json!({"type": "regex", "value": "[a-c]{2}[0-9]-[0-9]{2}"}), "ab4-"),
        (json!({"type": "json", "value": {"enum": [7]}}), "7"),
        (json!({"type": "json", "value": "{\"type\": \"null\"}"}), "null"),
        (json!({"type": "json_schema", "value": {"name": "n", "schema": {"const": true}}}), "true"),
    ] {
        let answer =
            server.post("/generate", greedy(json!({"grammar": grammar, "max_new_tokens": 30}))).await;
        let got = answer.json()["generated_text"].as_str().unwrap().to_owned();
        assert!(got.starts_with(text), "{got:?} instead of {text:?}");
    }
    let body = greedy(json!({"grammar": {"type": "json_object"}, "max_new_tokens": 60, "details": true}));
    let answer = server.post("/generate", body).await.json();
    assert_eq!(answer["generated_text"].as_str().unwrap().chars().next(), Some('{'));
}

#[tokio::test]
async fn a_complete_text_ends_as_the_model_would_end_it() {
    let server = script("yes and more");
    let grammar = json!({"grammar": {"type": "regex", "value": "yes|no"}, "details": true});
    let answer = server.post("/generate", greedy(grammar.clone())).await.json();
    assert_eq!(
        (answer["generated_text"].as_str(), &answer["details"]["finish_reason"]),
        (Some("yes"), &json!("eos_token"))
    );
    let events = server.post("/generate_stream", greedy(grammar)).await.json_events();
    let last = events.last().unwrap();
    assert_eq!(
        (last["generated_text"].as_str(), &last["details"]["finish_reason"]),
        (Some("yes"), &json!("eos_token"))
    );
    let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": "yes"}}});
    let answer =
        server.post("/v1/chat/completions", chat(json!({"response_format": format, "n": 2}))).await.json();
    for choice in answer["choices"].as_array().unwrap() {
        assert_eq!(
            (&choice["message"]["content"], &choice["finish_reason"]),
            (&json!("\"yes\""), &json!("stop"))
        );
    }
    let body = json!({"prompt": "x", "temperature": 0, "guided_choice": ["no", "maybe"]});
    let answer = server.post("/v1/completions", body).await.json();
    assert!(["no", "maybe"].contains(&answer["choices"][0]["text"].as_str().unwrap()), "{answer}");
}

#[tokio::test]
async fn a_stop_string_and_the_length_still_count() {
    let server = script("aaabbb");
    let grammar = json!({"type": "regex", "value": "[ab]{6}"});
    let stopped = greedy(json!({"grammar": grammar, "stop": ["ab"], "max_new_tokens": 6, "details": true}));
    let answer = server.post("/generate", stopped).await.json();
    assert_eq!(
        (&answer["generated_text"], &answer["details"]["finish_reason"]),
        (&json!("aaab"), &json!("stop_sequence"))
    );
    let cut = greedy(json!({"grammar": grammar, "max_new_tokens": 2, "details": true}));
    let answer = server.post("/generate", cut).await.json();
    assert_eq!(
        (&answer["generated_text"], &answer["details"]["finish_reason"]),
        (&json!("aa"), &json!("length"))
    );
}

#[tokio::test]
async fn refusals_name_the_keyword_and_its_path() {
    let server = TestServer::new();
    let schema = json!({"properties": {"a": {"uniqueItems": true}}});
    let answer =
        server.post("/generate", greedy(json!({"grammar": {"type": "json", "value": schema}}))).await;
    let text = answer.json()["error"].as_str().unwrap().to_owned();
    let prefix = "Input validation error: cannot compile regex from schema: the schema's keyword 'uniqueItems' at '/properties/a'";
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(text.starts_with(prefix), "{text}");
    let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    for stream in [true, false] {
        let body = chat(json!({"response_format": format, "stream": stream}));
        let answer = server.post("/v1/chat/completions", body).await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status, &error["param"]), (StatusCode::BAD_REQUEST, &json!("response_format")));
        let text = error["message"].as_str().unwrap();
        assert!(
            text.contains("the schema's keyword 'uniqueItems' at '/properties/a' is not supported"),
            "{text}"
        );
    }
    server.idle().await;
}

#[tokio::test]
async fn what_the_operator_disabled_is_refused() {
    let server = TestServer::with(RouterConfig { disable_grammar_support: true, ..config() });
    let answer = server.post("/generate", greedy(json!({"grammar": {"type": "regex", "value": "a"}}))).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(answer.json()["error"], "Input validation error: grammar is not supported");
    let answer =
        server.post("/v1/chat/completions", chat(json!({"response_format": {"type": "json_object"}}))).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn blanks_in_json_are_the_operators_choice() {
    let script = "{ \"a\": 12 }";
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
        "additionalProperties": false});
    let body = chat(
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}),
    );
    for (grammar_whitespace, kept) in
        [(GrammarWhitespace::Flexible, true), (GrammarWhitespace::Compact, false)]
    {
        let server = TestServer::writing(
            script,
            "{{ messages[0].content }}",
            RouterConfig { grammar_whitespace, ..config() },
        );
        let answer = server.post("/v1/chat/completions", body.clone()).await;
        let text = answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
        assert_eq!((text == script, text.contains(' ')), (kept, kept), "{text}");
    }
}

#[tokio::test]
async fn the_operator_chooses_what_compiles_grammars() {
    let server = TestServer::with(RouterConfig { grammar_backend: GrammarBackend::Outlines, ..config() });
    let grammar = |schema| greedy(json!({"grammar": {"type": "json", "value": schema}}));
    let answer = server.post("/generate", grammar(json!({"type": "integer", "minimum": 3}))).await;
    let text = answer.json()["error"].as_str().unwrap().to_owned();
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(text.contains("'minimum' at '' is not supported") && text.contains("'outlines'"), "{text}");
    let answer = server.post("/generate", grammar(json!({"enum": ["abc"]}))).await;
    assert_eq!((answer.status, answer.json()["generated_text"].as_str()), (StatusCode::OK, Some("\"abc\"")));
}
