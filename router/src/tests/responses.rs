//! OpenAI's Responses API over a model that writes a script.

use serde_json::{Value, json};

use super::tools::{CALLS, HERMES, server};
use super::*;
use crate::config::Profile;

const PATH: &str = "/v1/responses";
const THINKING: &str =
    "{{ reasoning_effort }}{% for m in messages %}{{ m.content }}{% endfor %}<think>\n{# </think> #}";

fn asked(more: Value) -> Value {
    merged(json!({"model": "test/model", "max_output_tokens": 190, "temperature": 0, "input": "1+23"}), more)
}

fn tools() -> Value {
    let add = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"]});
    json!([{"type": "function", "name": "add", "description": "adds", "parameters": add, "strict": true},
        {"type": "function", "name": "now"}])
}

/// A stream's events, whose numbers and items are checked, and the response at its end.
async fn streamed(server: &TestServer, body: Value) -> (Vec<Value>, Value) {
    let mut body = body;
    body["stream"] = json!(true);
    let events = server.post(PATH, body).await.named_events();
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..2], ["response.created", "response.in_progress"]);
    assert_eq!(
        (&events[0]["response"]["status"], &events[0]["response"]["output"]),
        (&json!("in_progress"), &json!([]))
    );
    let response = events.last().unwrap()["response"].clone();
    let mut done = Vec::new();
    let mut text = String::new();
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
        match kinds[number] {
            "response.output_item.added" => {
                assert_eq!(
                    (&event["output_index"], &event["item"]["status"]),
                    (&json!(done.len()), &json!("in_progress"))
                );
                text.clear();
            }
            "response.output_text.delta"
            | "response.reasoning_text.delta"
            | "response.function_call_arguments.delta" => {
                assert_eq!(event["output_index"], done.len());
                text.push_str(event["delta"].as_str().unwrap());
            }
            "response.output_text.done" | "response.reasoning_text.done" => {
                assert_eq!(event["text"], text.as_str())
            }
            "response.function_call_arguments.done" => assert_eq!(event["arguments"], text.as_str()),
            "response.output_item.done" => {
                assert_eq!(event["item"]["id"], response["output"][done.len()]["id"]);
                done.push(event["item"].clone());
            }
            _ => {}
        }
    }
    assert_eq!(response["output"], json!(done));
    (events, response)
}

/// Without what differs from one request to the next.
fn timeless(mut response: Value) -> Value {
    for name in ["id", "created_at", "completed_at"] {
        response[name] = Value::Null;
    }
    response["usage"]["input_tokens_details"] = Value::Null;
    for item in response["output"].as_array_mut().unwrap() {
        item["id"] = Value::Null;
        if let Some(id) = item.get_mut("call_id") {
            *id = Value::Null;
        }
    }
    response
}

#[tokio::test]
async fn a_response_has_openais_shape_under_every_profile() {
    for profile in [Profile::OpenAi, Profile::Tgi, Profile::Ollama] {
        let server = server("Hello, wörld!", TEMPLATE, profile);
        let body = asked(json!({"instructions": "Be kind.", "metadata": {"a": "b"}}));
        let answer = server.post_ok(PATH, body.clone()).await;
        let prompt = "system: Be kind.\nuser: 1+23\nbot: ".len();
        let expected = json!({
            "id": null, "object": "response", "created_at": null, "completed_at": null, "status": "completed",
            "background": false, "error": null, "incomplete_details": null, "instructions": "Be kind.",
            "max_output_tokens": 190, "metadata": {"a": "b"}, "model": "test/model",
            "output": [{"type": "message", "id": null, "status": "completed", "role": "assistant",
                "content": [{"type": "output_text", "text": "Hello, wörld!", "annotations": [], "logprobs": []}]}],
            "parallel_tool_calls": true, "previous_response_id": null, "reasoning": {"effort": null, "summary": null},
            "store": false, "temperature": 0.0, "text": {}, "tool_choice": "auto", "tools": [], "top_logprobs": 0,
            "top_p": 1.0, "truncation": "disabled", "user": null,
            "usage": {"input_tokens": prompt, "input_tokens_details": null, "output_tokens": 15,
                "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": prompt + 15},
        });
        assert_eq!(timeless(answer.clone()), expected);
        assert!(answer["id"].as_str().unwrap().starts_with("resp_"));
        assert!(answer["completed_at"].as_u64() >= answer["created_at"].as_u64());
        assert_eq!(timeless(streamed(&server, body).await.1), expected);
    }
}

#[tokio::test]
async fn an_answer_that_gets_too_long_is_incomplete() {
    let server = server("Hello, wörld!", TEMPLATE, Profile::OpenAi);
    let body = asked(json!({"max_output_tokens": 5}));
    let (events, response) = streamed(&server, body.clone()).await;
    assert_eq!(events.last().unwrap()["type"], "response.incomplete");
    for response in [response, server.post_ok(PATH, body).await] {
        assert_eq!(
            (&response["status"], &response["output"][0]["status"]),
            (&json!("incomplete"), &json!("incomplete"))
        );
        assert_eq!(response["incomplete_details"], json!({"reason": "max_output_tokens"}));
        assert_eq!(response["output"][0]["content"][0]["text"], "Hello");
    }
}

#[tokio::test]
async fn calls_are_items_of_their_own() {
    let server = server(CALLS, HERMES, Profile::OpenAi);
    let answer = server.post_ok(PATH, asked(json!({"tools": tools()}))).await;
    assert_eq!(answer["tools"], tools());
    let call = |name: &str, arguments: &str| json!({"type": "function_call", "id": null, "status": "completed", "call_id": null, "name": name, "arguments": arguments});
    let expected = json!([
        {"type": "message", "id": null, "status": "completed", "role": "assistant",
         "content": [{"type": "output_text", "text": "Hm.\n", "annotations": [], "logprobs": []}]},
        call("add", "{\"a\": 1, \"b\": 23}"),
        call("now", "{}"),
    ]);
    assert_eq!(timeless(answer.clone())["output"], expected);
    assert_ne!(answer["output"][1]["call_id"], answer["output"][2]["call_id"]);
    let (events, response) = streamed(&server, asked(json!({"tools": tools()}))).await;
    assert_eq!(timeless(response), timeless(answer));
    let pieces =
        events.iter().filter(|event| event["type"] == "response.function_call_arguments.delta").count();
    assert!(pieces > 5, "arguments come as they are produced");
}

#[tokio::test]
async fn what_may_be_called_is_the_clients_choice() {
    let server = server("No, thank you.", HERMES, Profile::OpenAi);
    let allowed = |mode: &str| json!({"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": "now"}]});
    for (choice, names) in [
        (json!("none"), vec![]),
        (json!("auto"), vec![]),
        (json!({"type": "function", "name": "now"}), vec!["now"]),
        (allowed("auto"), vec![]),
        (allowed("required"), vec!["now"]),
    ] {
        let body = asked(json!({"tools": tools(), "tool_choice": choice, "parallel_tool_calls": false}));
        let answer = server.post_ok(PATH, body).await;
        let items = answer["output"].as_array().unwrap();
        let called: Vec<&str> = items.iter().filter_map(|item| item["name"].as_str()).collect();
        assert_eq!(called, names, "{answer}");
        assert_eq!(answer["tool_choice"], choice);
    }
}

#[tokio::test]
async fn reasoning_is_an_item_and_its_tokens_are_counted() {
    let server = server("I must wait.\n</think>\n\nyes", THINKING, Profile::OpenAi);
    let body = asked(json!({"reasoning": {"effort": "minimal"}}));
    let answer = server.post_ok(PATH, body.clone()).await;
    let reasoning = json!({"type": "reasoning", "id": null, "status": "completed", "summary": [],
        "content": [{"type": "reasoning_text", "text": "I must wait.\n"}], "encrypted_content": null});
    let timeless_answer = timeless(answer.clone());
    assert_eq!(timeless_answer["output"][0], reasoning);
    assert_eq!(timeless_answer["output"][1]["content"][0]["text"], "yes");
    assert_eq!(answer["usage"]["output_tokens_details"]["reasoning_tokens"], "I must wait.\n</think>".len());
    assert_eq!(answer["usage"]["input_tokens"], "low1+23<think>\n".len(), "the template is told");
    assert_eq!(timeless(streamed(&server, body).await.1), timeless_answer);
}

#[tokio::test]
async fn log_probabilities_come_with_the_text_that_they_are_of() {
    let server = server("Hello", TEMPLATE, Profile::OpenAi);
    for (more, top) in [
        (json!({"include": ["message.output_text.logprobs"]}), 0),
        (json!({"include": ["message.output_text.logprobs"], "top_logprobs": 2}), 2),
    ] {
        let (events, response) = streamed(&server, asked(more)).await;
        let logprobs = response["output"][0]["content"][0]["logprobs"].as_array().unwrap().clone();
        let tokens: String = logprobs.iter().map(|entry| entry["token"].as_str().unwrap()).collect();
        assert_eq!(tokens, "Hello");
        assert!(logprobs.iter().all(|entry| entry["top_logprobs"].as_array().unwrap().len() == top));
        let deltas = events.iter().filter(|event| event["type"] == "response.output_text.delta");
        for delta in deltas {
            let of_delta: String = delta["logprobs"]
                .as_array()
                .unwrap()
                .iter()
                .map(|entry| entry["token"].as_str().unwrap())
                .collect();
            assert_eq!(delta["delta"], of_delta);
        }
    }
    assert_eq!(
        server.post_ok(PATH, asked(json!({}))).await["output"][0]["content"][0]["logprobs"],
        json!([])
    );
}

#[tokio::test]
async fn a_form_is_kept_to() {
    let server = server("No.", TEMPLATE, Profile::OpenAi);
    let format = json!({"type": "json_schema", "name": "x", "schema": {"enum": ["yes"]}, "strict": true});
    let answer = server.post_ok(PATH, asked(json!({"text": {"format": format}}))).await;
    assert_eq!(answer["output"][0]["content"][0]["text"], "\"yes\"");
    assert_eq!(answer["text"]["format"], format);
    let object = server.post_ok(PATH, asked(json!({"text": {"format": {"type": "json_object"}}}))).await;
    assert!(object["output"][0]["content"][0]["text"].as_str().unwrap().starts_with('{'));
}

#[tokio::test]
async fn what_cannot_be_is_refused_in_openais_words() {
    let server = server("Hi.", HERMES, Profile::Tgi);
    let item = |item: Value| json!({"input": [item]});
    for (more, param, text) in [
        (
            json!({"previous_response_id": "resp_1"}),
            json!("previous_response_id"),
            "no response is kept here",
        ),
        (json!({"conversation": "conv_1"}), json!("conversation"), "no response is kept here"),
        (json!({"background": true}), json!("background"), "no response is kept here"),
        (json!({"prompt": {"id": "p"}}), json!("prompt"), "no prompts are kept here"),
        (json!({"input": []}), json!("messages"), "cannot be empty"),
        (
            item(json!({"type": "item_reference", "id": "msg_1"})),
            Value::Null,
            "unknown variant `item_reference`",
        ),
        (
            item(json!({"role": "user", "content": [{"type": "input_image", "image_url": "x"}]})),
            json!("messages"),
            "takes text only",
        ),
        (item(json!({"role": "user"})), Value::Null, "missing field `content`"),
        (json!({"tools": [{"type": "web_search"}]}), json!("tools"), "\"web_search\" is not supported"),
        (
            json!({"tools": tools(), "tool_choice": {"type": "file_search"}}),
            json!("tool_choice"),
            "list allowed tools",
        ),
        (json!({"reasoning": {"effort": "huge"}}), json!("reasoning_effort"), "Given: \"huge\""),
        (json!({"max_output_tokens": 0}), json!("max_tokens"), "strictly positive"),
        (json!({"top_logprobs": 21}), json!("top_logprobs"), "<= 20"),
    ] {
        for streams in [false, true] {
            let mut body = asked(more.clone());
            body["stream"] = json!(streams);
            let answer = server.post(PATH, body).await;
            let error = &answer.json()["error"];
            assert_eq!(
                (answer.status, &error["param"]),
                (StatusCode::BAD_REQUEST, &param),
                "{more}: {}",
                answer.text
            );
            assert!(error["message"].as_str().unwrap().contains(text), "{}", answer.text);
        }
    }
}

#[tokio::test]
async fn a_stream_that_fails_says_so() {
    let events = past_its_deadline(PATH, asked(json!({"stream": true, "max_output_tokens": 10}))).await;
    let last = events.last().unwrap();
    assert_eq!((&last["type"], &last["response"]["status"]), (&json!("response.failed"), &json!("failed")));
    assert_eq!(last["response"]["error"]["code"], "server_error");
    assert!(last["response"]["error"]["message"].as_str().unwrap().contains("deadline"), "{last}");
}
