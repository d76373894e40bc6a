//! `/v1/*` under TGI's profile (reference/tgi.md §2c, §2g).

use super::*;
use crate::config::Profile;

fn server() -> TestServer {
    TestServer::with(RouterConfig { profile: Profile::Tgi, ..config() })
}

fn chat(more: Value) -> Value {
    let body = json!({"messages": [{"role": "user", "content": "Hi"}], "temperature": 0.0, "max_tokens": 5});
    merged(body, more)
}

fn completion(more: Value) -> Value {
    merged(json!({"prompt": "Say: ", "temperature": 0.0, "max_tokens": 5}), more)
}

/// The chunks of a stream that ends as it should.
fn chunks(answer: &Answer) -> Vec<Value> {
    let mut events = answer.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

#[tokio::test]
async fn a_chat_has_no_id_and_keeps_its_stop() {
    let server = server();
    let body = chat(json!({"stop": ["wö"], "max_tokens": 50}));
    let mut answer = server.post("/v1/chat/completions", body).await.json();
    answer["created"] = json!(0);
    assert_eq!(
        answer,
        json!({
            "id": "", "object": "chat.completion", "created": 0, "model": "test/model",
            "system_fingerprint": "0.1.0-native",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello, wö"}, "logprobs": null,
                         "finish_reason": "stop_sequence"}],
            "usage": {"prompt_tokens": 14, "completion_tokens": 10, "total_tokens": 24},
        })
    );
    let ended = server.post("/v1/chat/completions", chat(json!({"max_tokens": 50}))).await.json();
    assert_eq!(ended["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn a_chat_streams_a_chunk_per_token_with_the_role_in_each() {
    let server = server();
    let body = chat(json!({"stream": true, "max_tokens": 50, "stream_options": {"include_usage": true}}));
    let mut chunks = chunks(&server.post("/v1/chat/completions", body).await);
    let usage = chunks.pop().unwrap();
    assert_eq!(usage["choices"], json!([]));
    // The script's bytes and the end-of-sequence token.
    assert_eq!(usage["usage"], json!({"prompt_tokens": 14, "completion_tokens": 20, "total_tokens": 34}));
    assert_eq!(chunks.len(), 20);
    let mut text = String::new();
    for (at, chunk) in chunks.iter().enumerate() {
        let choice = &chunk["choices"][0];
        assert_eq!((&chunk["id"], &choice["delta"]["role"]), (&json!(""), &json!("assistant")));
        assert_eq!(chunk.get("usage"), Some(&Value::Null));
        assert_eq!(choice["finish_reason"], if at == 19 { json!("stop") } else { Value::Null });
        text += choice["delta"]["content"].as_str().unwrap();
    }
    assert_eq!(text, SCRIPT);
}

#[tokio::test]
async fn completions_stream_reasons_and_usage_as_tgi_words_them() {
    let server = server();
    for (more, reason, text) in [
        (json!({"max_tokens": 50}), "eos_token", Some(SCRIPT)),
        (json!({"stop": ["lo"], "max_tokens": 50}), "stop_sequence", Some("Hello")),
        (json!({"max_tokens": 2}), "length", Some("He")),
    ] {
        let body = completion(merged(json!({"stream": true, "prompt": ["ab", "abc"]}), more));
        let answer = server.post("/v1/completions", body).await;
        assert_eq!(answer.headers["x-compute-characters"], "5");
        assert_eq!(answer.headers["x-accel-buffering"], "no");
        for (index, prompt_tokens) in [(0, 2), (1, 3)] {
            let mut chunks = chunks(&answer);
            chunks.retain(|chunk| chunk["choices"][0]["index"] == index);
            let last = chunks.last().unwrap();
            let tokens = chunks.len();
            assert_eq!(last["choices"][0]["finish_reason"], reason);
            let counts = json!({"prompt_tokens": prompt_tokens, "completion_tokens": tokens,
                                "total_tokens": prompt_tokens + tokens});
            assert_eq!(last["usage"], counts);
            for chunk in &chunks[..tokens - 1] {
                assert_eq!((&chunk["choices"][0]["finish_reason"], chunk.get("usage")), (&json!(""), None));
            }
            let said: String =
                chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().unwrap()).collect();
            // The text of the end-of-sequence token is shown in the stream.
            assert!(said.starts_with(text.unwrap()), "{said}");
        }
    }
    let whole = server.post("/v1/completions", completion(json!({"max_tokens": 50}))).await;
    assert_eq!(whole.json()["choices"][0]["finish_reason"], "stop");
    assert_eq!(whole.json()["choices"][0]["text"], SCRIPT);
}

#[tokio::test]
async fn completions_send_the_summed_headers() {
    let server = server();
    let answer = server.post("/v1/completions", completion(json!({"prompt": ["ab", "abc"]}))).await;
    let header = |name: &str| answer.headers[name].to_str().unwrap().parse::<u64>().unwrap();
    assert_eq!(
        [header("x-prompt-tokens"), header("x-generated-tokens"), header("x-compute-characters")],
        [5, 10, 5]
    );
    for name in ["x-total-time", "x-validation-time", "x-queue-time", "x-inference-time", "x-time-per-token"]
    {
        header(name);
    }
    assert!(answer.headers.contains_key("x-compute-type"));
    assert!(!answer.headers.contains_key("x-compute-time"));
}

#[tokio::test]
async fn completion_logprobs_are_the_contracts_numbers() {
    let server = server();
    let body = completion(json!({"logprobs": 1, "echo": true, "max_tokens": 2}));
    let answer = server.post("/v1/completions", body).await.json();
    assert_eq!(answer["choices"][0]["logprobs"], json!([-1.0, -2.0]));
    assert_eq!(answer["choices"][0]["text"], "Say: He");
}

#[tokio::test]
async fn refusals_are_strings_with_tgis_statuses() {
    let server = server();
    for (path, body, error, error_type) in [
        (
            "chat/completions",
            chat(json!({"top_p": 1.0})),
            "Input validation error: `top_p` must be > 0.0 and < 1.0",
            "validation",
        ),
        (
            "chat/completions",
            chat(json!({"logprobs": true, "top_logprobs": 6})),
            "Input validation error: `top_n_tokens` must be >= 0 and <= 5. Given: 6",
            "validation",
        ),
        (
            "chat/completions",
            chat(json!({"adapter_id": "x"})),
            "Input validation error: `adapter_id` \"x\" is not loaded",
            "validation",
        ),
        (
            "completions",
            completion(json!({"suffix": "x"})),
            "Suffix is not supported and can be achieved by preprocessing the prompt.",
            "suffix not supported",
        ),
        (
            "completions",
            completion(json!({"prompt": ["a", "b", "c", "d"]})),
            "Number of prompts exceeds the maximum allowed batch size of 3",
            "batch size exceeded",
        ),
    ] {
        let answer = server.post(&format!("/v1/{path}"), body).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(answer.json(), json!({"error": error, "error_type": error_type}));
    }
    // Accepted and without effect, as in TGI.
    let answer = server.post("/v1/chat/completions", chat(json!({"top_logprobs": 2}))).await;
    assert_eq!((answer.status, &answer.json()["choices"][0]["logprobs"]), (StatusCode::OK, &Value::Null));
}

#[tokio::test]
async fn what_is_no_request_is_refused_in_plain_text() {
    let server = server();
    for (body, status) in
        [("{\"messages\": 1}", StatusCode::UNPROCESSABLE_ENTITY), ("{", StatusCode::BAD_REQUEST)]
    {
        let request = Request::post("/v1/chat/completions").header("content-type", "application/json");
        let answer = server.send(request.body(Body::from(body)).unwrap()).await;
        assert_eq!(
            (answer.status, &answer.headers["content-type"]),
            (status, &"text/plain; charset=utf-8".parse().unwrap())
        );
        assert!(answer.text.starts_with("Failed to "), "{}", answer.text);
    }
}

#[tokio::test]
async fn a_refused_stream_is_a_200_with_an_error_event() {
    let server = server();
    for (path, body) in [
        ("/v1/chat/completions", chat(json!({"stream": true, "top_p": 2.0}))),
        ("/v1/completions", completion(json!({"stream": true, "top_p": 2.0}))),
    ] {
        let answer = server.post(path, body).await;
        let error = json!({"message": "Input validation error: `top_p` must be > 0.0 and < 1.0", "http_status_code": 422});
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(chunks(&answer), [json!({"error": error})]);
    }
}

#[tokio::test]
async fn a_model_that_is_not_served_is_not_found() {
    let server = server();
    assert_eq!(server.get("/v1/models/test/model").await.json()["id"], "test/model");
    let answer = server.get("/v1/models/other").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    let body = json!({"error": "The model 'other' does not exist", "error_type": "model_not_found"});
    assert_eq!(answer.json(), body);
}
