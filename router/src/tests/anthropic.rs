//! Anthropic's routes over a model that writes a script.

use serde_json::{Value, json};

use super::tools::{CALLS, HERMES, server};
use super::*;
use crate::config::Profile;

const PATH: &str = "/v1/messages";
const THINKING: &str =
    "{{ enable_thinking }}{% for m in messages %}{{ m.content }}{% endfor %}<think>\n{# </think> #}";

fn asked(more: Value) -> Value {
    merged(
        json!({"model": "test/model", "max_tokens": 190, "temperature": 0,
        "messages": [{"role": "user", "content": "1+23"}]}),
        more,
    )
}

fn tools() -> Value {
    let add = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"]});
    json!([{"name": "add", "description": "adds", "input_schema": add},
        {"type": "custom", "name": "now", "input_schema": {"type": "object", "properties": {}}}])
}

/// A stream's events, and the message that they make up.
async fn streamed(server: &TestServer, body: Value) -> (Vec<Value>, Value) {
    let mut body = body;
    body["stream"] = json!(true);
    let events = server.post(PATH, body).await.named_events();
    let mut message = events[0]["message"].clone();
    let mut inputs = String::new();
    for event in &events[1..] {
        let index = event["index"].as_u64().unwrap_or_default() as usize;
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!(index, message["content"].as_array().unwrap().len(), "blocks come in order");
                message["content"].as_array_mut().unwrap().push(event["content_block"].clone());
                inputs.clear();
            }
            "content_block_delta" => {
                let (block, delta) = (&mut message["content"][index], &event["delta"]);
                let grow = |block: &mut Value, name: &str| {
                    block[name] =
                        json!(format!("{}{}", block[name].as_str().unwrap(), delta[name].as_str().unwrap()));
                };
                match delta["type"].as_str().unwrap() {
                    "text_delta" => grow(block, "text"),
                    "thinking_delta" => grow(block, "thinking"),
                    "input_json_delta" => inputs.push_str(delta["partial_json"].as_str().unwrap()),
                    other => panic!("{other}"),
                }
            }
            "content_block_stop" if message["content"][index]["type"] == "tool_use" => {
                message["content"][index]["input"] = serde_json::from_str(&inputs).unwrap();
            }
            "content_block_stop" => {}
            "message_delta" => {
                message["stop_reason"] = event["delta"]["stop_reason"].clone();
                message["stop_sequence"] = event["delta"]["stop_sequence"].clone();
                message["usage"] = event["usage"].clone();
            }
            "message_stop" => {}
            other => panic!("{other}"),
        }
    }
    assert_eq!(events.last().unwrap(), &json!({"type": "message_stop"}));
    (events, message)
}

fn without_ids(mut message: Value) -> Value {
    message["id"] = Value::Null;
    // The second one finds its prompt cached.
    message["usage"] = message["usage"]["output_tokens"].clone();
    for block in message["content"].as_array_mut().unwrap() {
        if let Some(id) = block.get_mut("id") {
            *id = Value::Null;
        }
    }
    message
}

#[tokio::test]
async fn a_message_has_anthropics_shape_under_every_profile() {
    for profile in [Profile::OpenAi, Profile::Tgi, Profile::Ollama] {
        let server = server("Hello, wörld!", TEMPLATE, profile);
        let answer = server.post_ok(PATH, asked(json!({"system": "Be kind."}))).await;
        assert!(answer["id"].as_str().unwrap().starts_with("msg"));
        let mut rest = answer.clone();
        rest.as_object_mut().unwrap().remove("id");
        let prompt = "system: Be kind.\nuser: 1+23\nbot: ".len();
        let expected = json!({
            "type": "message", "role": "assistant", "model": "test/model",
            "content": [{"type": "text", "text": "Hello, wörld!"}],
            "stop_reason": "end_turn", "stop_sequence": null,
            "usage": {"input_tokens": prompt, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
                "output_tokens": 15},
        });
        assert_eq!(rest, expected);
        let (_, message) = streamed(&server, asked(json!({"system": "Be kind."}))).await;
        assert_eq!(without_ids(message), without_ids(answer));
    }
}

#[tokio::test]
async fn what_ended_a_message_is_told() {
    let server = server("Hello, wörld!", TEMPLATE, Profile::OpenAi);
    for (more, text, reason, sequence) in [
        (json!({"max_tokens": 5}), "Hello", "max_tokens", Value::Null),
        (json!({"stop_sequences": ["xx", ", w"]}), "Hello", "stop_sequence", json!(", w")),
        (json!({}), "Hello, wörld!", "end_turn", Value::Null),
    ] {
        let answer = server.post_ok(PATH, asked(more.clone())).await;
        let said = (&answer["content"][0]["text"], &answer["stop_reason"], &answer["stop_sequence"]);
        assert_eq!(said, (&json!(text), &json!(reason), &sequence));
        assert_eq!(without_ids(streamed(&server, asked(more)).await.1), without_ids(answer));
    }
}

#[tokio::test]
async fn calls_are_blocks_of_their_own() {
    let server = server(CALLS, HERMES, Profile::OpenAi);
    let answer = server.post_ok(PATH, asked(json!({"tools": tools()}))).await;
    assert_eq!(answer["stop_reason"], "tool_use");
    let blocks = without_ids(answer.clone())["content"].clone();
    let expected = json!([
        {"type": "text", "text": "Hm.\n"},
        {"type": "tool_use", "id": null, "name": "add", "input": {"a": 1, "b": 23}},
        {"type": "tool_use", "id": null, "name": "now", "input": {}},
    ]);
    assert_eq!(blocks, expected);
    assert_ne!(answer["content"][1]["id"], answer["content"][2]["id"]);
    let (events, message) = streamed(&server, asked(json!({"tools": tools()}))).await;
    assert_eq!(without_ids(message), without_ids(answer));
    let pieces = events.iter().filter(|event| event["delta"]["type"] == "input_json_delta").count();
    assert!(pieces > 5, "arguments come as they are produced");
}

#[tokio::test]
async fn what_may_be_called_is_the_clients_choice() {
    let server = server("No, thank you.", HERMES, Profile::OpenAi);
    for (choice, names) in [
        (json!({"type": "none"}), vec![]),
        (json!({"type": "auto"}), vec![]),
        (json!({"type": "tool", "name": "now"}), vec!["now"]),
    ] {
        let answer = server.post_ok(PATH, asked(json!({"tools": tools(), "tool_choice": choice}))).await;
        let blocks = answer["content"].as_array().unwrap();
        let called: Vec<&str> = blocks.iter().filter_map(|block| block["name"].as_str()).collect();
        assert_eq!(called, names, "{answer}");
    }
    let any = json!({"type": "any", "disable_parallel_tool_use": true});
    let answer = server.post_ok(PATH, asked(json!({"tools": tools(), "tool_choice": any}))).await;
    assert_eq!(
        (answer["content"].as_array().unwrap().len(), &answer["stop_reason"]),
        (1, &json!("tool_use"))
    );
}

#[tokio::test]
async fn a_call_that_was_cut_off_is_text() {
    let server = server(&CALLS[4..], HERMES, Profile::OpenAi);
    let answer = server.post_ok(PATH, asked(json!({"tools": tools(), "max_tokens": 55}))).await;
    assert_eq!(answer["stop_reason"], "max_tokens");
    let block = &answer["content"][0];
    assert_eq!(block["type"], "text");
    assert!(block["text"].as_str().unwrap().starts_with("{\"a\""), "{block}");
}

#[tokio::test]
async fn reasoning_is_a_block_of_thinking() {
    let server = server("I must wait.\n</think>\n\nyes", THINKING, Profile::OpenAi);
    let answer =
        server.post_ok(PATH, asked(json!({"thinking": {"type": "enabled", "budget_tokens": 1024}}))).await;
    let expected = json!([
        {"type": "thinking", "thinking": "I must wait.\n", "signature": ""},
        {"type": "text", "text": "yes"},
    ]);
    assert_eq!(answer["content"], expected);
    assert_eq!(without_ids(streamed(&server, asked(json!({}))).await.1), without_ids(answer));
    // The template is told.
    let tokens = async |kind: &str| {
        let body =
            json!({"model": "m", "messages": [{"role": "user", "content": "a"}], "thinking": {"type": kind}});
        server.post("/v1/messages/count_tokens", body).await.json()["input_tokens"].as_u64().unwrap()
    };
    assert_eq!(tokens("disabled").await, tokens("enabled").await + 1, "False is longer than True");
}

#[tokio::test]
async fn a_form_is_kept_to() {
    let server = server("No.", TEMPLATE, Profile::OpenAi);
    let format = json!({"type": "json_schema", "schema": {"enum": ["yes"]}});
    let answer = server.post_ok(PATH, asked(json!({"output_config": {"format": format}}))).await;
    assert_eq!(answer["content"], json!([{"type": "text", "text": "\"yes\""}]));
}

#[tokio::test]
async fn tokens_are_counted_as_a_message_would_have_them() {
    let server = server("Hi.", HERMES, Profile::OpenAi);
    let more =
        json!({"tools": tools(), "system": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]});
    let mut body = asked(more);
    let usage = server.post_ok(PATH, body.clone()).await["usage"].clone();
    body.as_object_mut().unwrap().remove("max_tokens");
    let counted = server.post("/v1/messages/count_tokens", body).await.json();
    assert_eq!(counted, json!({"input_tokens": usage["input_tokens"]}));
}

#[tokio::test]
async fn what_cannot_be_is_refused_in_anthropics_words() {
    let server = server("Hi.", HERMES, Profile::Tgi);
    let block = |block: Value| json!({"messages": [{"role": "user", "content": [block]}]});
    let picture =
        json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}});
    for (more, status, kind, text) in [
        (block(picture), 400, "invalid_request_error", "takes text only"),
        (
            block(json!({"type": "tool_use", "id": "1", "name": "f", "input": {}})),
            400,
            "invalid_request_error",
            "results of calls",
        ),
        (block(json!({"type": "video"})), 400, "invalid_request_error", "unknown variant `video`"),
        (json!({"messages": []}), 400, "invalid_request_error", "messages: cannot be empty"),
        (json!({"messages": [{"role": "robot", "content": "a"}]}), 400, "invalid_request_error", "\"robot\""),
        (json!({"max_tokens": null}), 400, "invalid_request_error", "max_tokens"),
        (json!({"max_tokens": 0}), 400, "invalid_request_error", "max_new_tokens"),
        (json!({"mcp_servers": [{}]}), 400, "invalid_request_error", "mcp_servers: is not supported"),
        (
            json!({"tools": [{"type": "bash_20250124", "name": "bash"}]}),
            400,
            "invalid_request_error",
            "\"bash_20250124\"",
        ),
        (
            json!({"tools": tools(), "tool_choice": {"type": "tool", "name": "sub"}}),
            400,
            "invalid_request_error",
            "sub not found",
        ),
        (json!({"system": "x".repeat(3000)}), 400, "invalid_request_error", "must be <= 1000"),
    ] {
        for streams in [false, true] {
            let mut body = asked(more.clone());
            body["stream"] = json!(streams);
            let answer = server.post(PATH, body).await;
            let error = &answer.json()["error"];
            assert_eq!(
                (answer.status.as_u16(), &error["type"]),
                (status, &json!(kind)),
                "{more}: {}",
                answer.text
            );
            assert!(error["message"].as_str().unwrap().contains(text), "{}", answer.text);
            assert_eq!(answer.json()["type"], "error");
        }
    }
    let unread = server.send(Request::post(PATH).body(Body::from("{}")).unwrap()).await;
    assert_eq!(unread.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(unread.json()["error"]["type"], "invalid_request_error");
}

#[tokio::test]
async fn a_client_that_asks_for_a_thread_is_told_to_send_it_all() {
    let server = server("Hi.", HERMES, Profile::OpenAi);
    let answer = server.post(PATH, asked(json!({"thread": {"type": "create"}}))).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(answer.json()["error"]["details"], json!({"error_code": "thread_unsupported_request"}));
    assert_eq!(server.post(PATH, asked(json!({"thread": null}))).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_stream_that_fails_ends_with_an_error() {
    let events = past_its_deadline(PATH, asked(json!({"stream": true, "max_tokens": 10}))).await;
    assert_eq!(events[0]["type"], "message_start");
    let last = events.last().unwrap();
    assert_eq!(
        (&last["type"], &last["error"]["type"]),
        (&json!("error"), &json!("overloaded_error")),
        "{last}"
    );
}

#[tokio::test]
async fn the_key_may_come_in_anthropics_header() {
    let mut config = config();
    (config.api_keys, config.profile) = (vec!["Secret".into()], Profile::Tgi);
    let server = TestServer::with(config);
    let ask = async |path: &str, headers: &[(&str, &str)]| {
        let mut request = post(path, &asked(json!({"max_tokens": 3})));
        for (name, value) in headers {
            request
                .headers_mut()
                .append(axum::http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        server.send(request).await
    };
    for headers in [&[("x-api-key", "Secret")][..], &[("authorization", "Bearer Secret")]] {
        assert_eq!(ask(PATH, headers).await.status, StatusCode::OK);
    }
    let wrong: [&[(&str, &str)]; 4] = [
        &[],
        &[("x-api-key", "Other")],
        &[("x-api-key", "Secret"), ("authorization", "Bearer Other")],
        &[("x-api-key", "Secret"), ("x-api-key", "Secret")],
    ];
    for headers in wrong {
        let refused = ask(PATH, headers).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
        assert_eq!(refused.json()["error"]["type"], "authentication_error");
    }
    let elsewhere = ask("/v1/chat/completions", &[("x-api-key", "Secret")]).await;
    assert_eq!(elsewhere.status, StatusCode::UNAUTHORIZED);
}
