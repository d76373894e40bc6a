//! Tool calls over HTTP: a model that writes a script, in each profile's form.

use serde_json::{Value, json};

use super::*;
use crate::config::Profile;

/// Shows tools, and writes calls as Hermes does.
pub(super) const HERMES: &str = "{% if tools %}{{ tools | tojson }} <tool_call>{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
const THINKING: &str =
    "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n{# </think> <tool_call> tools #}";
pub(super) const CALLS: &str = "Hm.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": 23}}\n</tool_call>\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";

fn tools() -> Value {
    let add = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"]});
    json!([
        {"type": "function", "function": {"name": "add", "description": "adds", "parameters": add}},
        {"type": "function", "function": {"name": "now"}},
    ])
}

fn chat(more: Value) -> Value {
    merged(
        json!({"messages": [{"role": "user", "content": "1+23"}], "temperature": 0, "max_tokens": 190,
        "tools": tools()}),
        more,
    )
}

pub(super) fn server(script: &str, template: &str, profile: Profile) -> TestServer {
    let mut config = config();
    config.profile = profile;
    config.limits.max_total_tokens = Some(1000);
    config.limits.max_input_tokens = Some(700);
    TestServer::writing(script, template, config)
}

#[tokio::test]
async fn calls_are_told_apart_from_the_text_before_them() {
    let server = server(CALLS, HERMES, Profile::OpenAi);
    let answer = server.post_ok("/v1/chat/completions", chat(json!({}))).await;
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &json!("Hm.\n"))
    );
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    let names: Vec<_> = calls.iter().map(|call| (&call["type"], &call["function"]["name"])).collect();
    assert_eq!(names, [(&json!("function"), &json!("add")), (&json!("function"), &json!("now"))]);
    assert_eq!(calls[0]["function"]["arguments"], "{\"a\": 1, \"b\": 23}");
    assert!(calls[0]["id"].as_str().unwrap().starts_with("call_") && calls[0]["id"] != calls[1]["id"]);
}

#[tokio::test]
async fn a_stream_names_each_call_once_and_gives_its_arguments_in_pieces() {
    let server = server(CALLS, HERMES, Profile::OpenAi);
    let answer = server.post("/v1/chat/completions", chat(json!({"stream": true, "logprobs": true}))).await;
    let mut events = answer.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let chunks: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let (mut content, mut calls, mut reasons) =
        (String::new(), Vec::<(Value, String, usize)>::new(), Vec::new());
    for chunk in &chunks {
        let choice = &chunk["choices"][0];
        content.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        reasons.extend(choice["finish_reason"].as_str().map(str::to_owned));
        for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().unwrap() as usize;
            if call.get("id").is_some() {
                assert_eq!((index, call["type"].as_str()), (calls.len(), Some("function")));
                calls.push((call["function"]["name"].clone(), String::new(), 0));
            } else {
                assert!(call.get("type").is_none() && call["function"].get("name").is_none());
            }
            calls[index].1.push_str(call["function"]["arguments"].as_str().unwrap());
            calls[index].2 += 1;
        }
    }
    assert_eq!((content.as_str(), reasons), ("Hm.\n", vec!["tool_calls".to_owned()]));
    assert_eq!((&calls[0].0, calls[0].1.as_str()), (&json!("add"), "{\"a\": 1, \"b\": 23}"));
    assert_eq!((&calls[1].0, calls[1].1.as_str()), (&json!("now"), "{}"));
    assert!(calls[0].2 > 5, "arguments come as they are produced");
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
}

#[tokio::test]
async fn tgis_profile_has_tgis_calls_and_refusals() {
    let server = server(&CALLS[4..], HERMES, Profile::Tgi);
    let answer = server
        .post_ok("/v1/chat/completions", chat(json!({"tool_choice": {"function": {"name": "add"}}})))
        .await;
    let choice = &answer["choices"][0];
    let function = json!({"description": null, "name": "add", "arguments": "{\"a\": 1, \"b\": 23}"});
    let message =
        json!({"role": "assistant", "tool_calls": [{"id": "0", "type": "function", "function": function}]});
    assert_eq!((&choice["message"], &choice["finish_reason"]), (&message, &json!("stop")));
    for (more, text) in [
        (json!({"response_format": {"type": "json_object"}}), "Grammar and tools are mutually exclusive"),
        (
            json!({"tools": [], "response_format": {"type": "json_object"}}),
            "Grammar and tools are mutually exclusive",
        ),
        (json!({"tool_choice": "sub"}), "Tool with name sub not found"),
    ] {
        let answer = server.post("/v1/chat/completions", chat(more)).await;
        let body = json!({"error": format!("Tool error: {text}"), "error_type": "tool_error"});
        assert_eq!((answer.status, answer.json()), (StatusCode::UNPROCESSABLE_ENTITY, body));
    }
    let cut =
        server.post("/v1/chat/completions", chat(json!({"tool_choice": "required", "max_tokens": 40}))).await;
    assert_eq!(
        (cut.status, &cut.json()["error_type"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("tool_error"))
    );
    assert!(
        cut.json()["error"].as_str().unwrap().starts_with("Tool error: Failed to parse generated text: ")
    );
}

#[tokio::test]
async fn a_required_call_is_made_whatever_the_model_would_say() {
    for template in [HERMES, "{% for m in messages %}{{ m.content }}{% endfor %}"] {
        let server = server("No, thank you.", template, Profile::OpenAi);
        let free = server.post_ok("/v1/chat/completions", chat(json!({}))).await;
        assert_eq!(free["choices"][0]["message"]["content"], "No, thank you.");
        assert_eq!(free["choices"][0]["finish_reason"], "stop");
        let named = chat(json!({"tool_choice": {"type": "function", "function": {"name": "now"}}}));
        let answer = server.post_ok("/v1/chat/completions", named).await;
        let message = &answer["choices"][0]["message"];
        assert_eq!(message["content"], Value::Null);
        assert_eq!(message["tool_calls"][0]["function"], json!({"name": "now", "arguments": "{}"}));
        assert_eq!(message["tool_calls"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_call_or_a_text_of_a_form() {
    let format = json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["Hm."]}}}});
    let answer =
        server("Hm.", HERMES, Profile::OpenAi).post_ok("/v1/chat/completions", chat(format.clone())).await;
    let message = &answer["choices"][0]["message"];
    // The script's first letter is not allowed, so the model may write either.
    assert!(message["content"] == "\"Hm.\"" || message["tool_calls"].is_array(), "{message}");
    let answer =
        server(&CALLS[4..], HERMES, Profile::OpenAi).post_ok("/v1/chat/completions", chat(format)).await;
    assert_eq!(answer["choices"][0]["message"]["tool_calls"][1]["function"]["name"], "now");
}

#[tokio::test]
async fn reasoning_comes_apart_and_before_what_is_constrained() {
    let server = server("I must <tool_call> wait.\n</think>\n\nyes", THINKING, Profile::OpenAi);
    let plain = |more: Value| {
        let mut body = chat(more);
        body.as_object_mut().unwrap().remove("tools");
        body
    };
    let answer = server.post_ok("/v1/chat/completions", plain(json!({}))).await;
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "I must <tool_call> wait.\n");
    assert_eq!(message["content"], "yes");
    let answer = server.post_ok("/v1/chat/completions", plain(json!({"guided_choice": ["no", "yes"]}))).await;
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "I must <tool_call> wait.\n");
    assert!(["no", "yes"].contains(&message["content"].as_str().unwrap()), "{message}");
    let stream = server.post("/v1/chat/completions", plain(json!({"stream": true}))).await;
    let mut events = stream.events();
    events.pop();
    let deltas: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let all = |name: &str| -> String {
        deltas.iter().filter_map(|chunk| chunk["choices"][0]["delta"][name].as_str()).collect()
    };
    assert_eq!(
        (all("reasoning_content").as_str(), all("content").as_str()),
        ("I must <tool_call> wait.\n", "yes")
    );
    let answer = server.post_ok("/v1/chat/completions", chat(json!({"tool_choice": "required"}))).await;
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "I must <tool_call> wait.\n");
    assert!(message["tool_calls"].is_array(), "{message}");
}

#[tokio::test]
async fn bad_tools_are_refused_and_none_are_left_out() {
    let server = server("Hi.", HERMES, Profile::OpenAi);
    let function = |function: Value| json!({"tools": [{"type": "function", "function": function}]});
    for (more, text) in [
        (function(json!({"name": "a b"})), "the name \"a b\" is not of"),
        (function(json!({"name": "f", "parameters": 3})), "the parameters of \"f\" are not a JSON schema"),
        (
            function(json!({"name": "f", "parameters": {"properties": {"x": {"uniqueItems": true}}}})),
            "the schema's keyword 'uniqueItems' at '/0/properties/x' is not supported",
        ),
        (json!({"tools": [{"type": "browser"}]}), "a tool of type \"browser\" is not supported"),
        (json!({"tool_choice": 3}), "must be none, auto, required or name a function"),
    ] {
        let answer = server.post("/v1/chat/completions", chat(more)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text);
        assert!(answer.json()["error"]["message"].as_str().unwrap().contains(text), "{}", answer.text);
    }
    let without = chat(json!({"tool_choice": "none"}));
    let mut plain = without.clone();
    plain.as_object_mut().unwrap().remove("tools");
    let tokens =
        async |body| server.post_ok("/v1/chat/completions", body).await["usage"]["prompt_tokens"].clone();
    assert_eq!(tokens(without).await, tokens(plain).await);
    assert_ne!(tokens(chat(json!({}))).await, tokens(chat(json!({"tools": []}))).await);
}
