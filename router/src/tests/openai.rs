use super::*;

fn chat(more: Value) -> Value {
    merged(
        json!({"messages": [{"role": "user", "content": "Hi"}], "temperature": 0.0, "max_tokens": 5}),
        more,
    )
}

fn completion(more: Value) -> Value {
    merged(json!({"prompt": "Say: ", "temperature": 0.0, "max_tokens": 5}), more)
}

#[tokio::test]
async fn a_chat_has_openais_shape() {
    let server = TestServer::new();
    let answer = server.post("/v1/chat/completions", chat(json!({"model": "tgi"}))).await;
    assert_eq!(answer.headers["x-compute-characters"], "user: Hi\nbot: ".len().to_string());
    let mut answer = answer.json();
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    answer["id"] = json!("");
    answer["created"] = json!(0);
    assert_eq!(
        answer,
        json!({
            "id": "", "object": "chat.completion", "created": 0, "model": "test/model",
            "system_fingerprint": "0.1.0-native",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "logprobs": null,
                         "finish_reason": "length"}],
            "usage": {"prompt_tokens": 14, "completion_tokens": 5, "total_tokens": 19},
        })
    );
}

#[tokio::test]
async fn the_stop_string_is_removed_and_the_reason_is_stop() {
    let server = TestServer::new();
    for stop in [json!("wö"), json!(["x", "wö"])] {
        let answer =
            server.post("/v1/chat/completions", chat(json!({"stop": stop, "max_tokens": 50}))).await.json();
        assert_eq!(answer["choices"][0]["message"]["content"], "Hello, ");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    }
    let ended = server.post("/v1/chat/completions", chat(json!({"max_tokens": 50}))).await.json();
    assert_eq!(
        (&ended["choices"][0]["message"]["content"], &ended["choices"][0]["finish_reason"]),
        (&json!(SCRIPT), &json!("stop"))
    );
}

#[tokio::test]
async fn a_stream_says_the_role_once_and_ends_with_usage_and_done() {
    let server = TestServer::new();
    let body = chat(
        json!({"stream": true, "max_tokens": 50, "stop": ["o, x", "wör"], "stream_options": {"include_usage": true}}),
    );
    let mut events = server.post("/v1/chat/completions", body).await.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let mut chunks: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let usage = chunks.pop().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"], json!({"prompt_tokens": 14, "completion_tokens": 11, "total_tokens": 25}));
    let roles = chunks.iter().filter(|chunk| chunk["choices"][0]["delta"].get("role").is_some()).count();
    assert_eq!((roles, &chunks[0]["choices"][0]["delta"]), (1, &json!({"role": "assistant", "content": ""})));
    let deltas: Vec<&str> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    // "o, " is held back until it cannot become "o, x" any more; "wör" never appears.
    assert_eq!(deltas, ["", "H", "e", "l", "l", "o, "]);
    let reasons: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).collect();
    assert_eq!(reasons.last(), Some(&&json!("stop")));
    assert!(reasons[..reasons.len() - 1].iter().all(|reason| reason.is_null()));
    let ids: std::collections::HashSet<&str> =
        chunks.iter().map(|chunk| chunk["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 1);
}

#[tokio::test]
async fn n_choices_come_in_order() {
    let server = TestServer::new();
    let body = chat(json!({"n": 3, "temperature": 1.0, "seed": OWN_SEED, "top_p": 1.0}));
    let answer = server.post("/v1/chat/completions", body.clone()).await.json();
    let choices: Vec<(u64, &str)> = answer["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| (choice["index"].as_u64().unwrap(), choice["message"]["content"].as_str().unwrap()))
        .collect();
    assert_eq!(choices, [(0, "Hello"), (1, "HELLO"), (2, "HELLO")]);
    assert_eq!(answer["usage"]["completion_tokens"], 15);
    let mut stream = body;
    stream["stream"] = json!(true);
    let mut texts = [const { String::new() }; 3];
    let events = server.post("/v1/chat/completions", stream).await.events();
    for event in &events[..events.len() - 1] {
        let choice = &serde_json::from_str::<Value>(event).unwrap()["choices"][0];
        texts[choice["index"].as_u64().unwrap() as usize] +=
            choice["delta"]["content"].as_str().unwrap_or("");
    }
    assert_eq!(texts, ["Hello", "HELLO", "HELLO"]);
    server.idle().await;
}

#[tokio::test]
async fn a_choice_that_met_its_stop_is_computed_no_further() {
    let server = held(config());
    let body = json!({"n": 2, "temperature": 1.0, "seed": OWN_SEED, "stop": "ell", "ignore_eos": true, "max_tokens": 150});
    let request = tokio::spawn({
        let server = server.clone();
        async move { server.post("/v1/chat/completions", chat(body)).await.json() }
    });
    // The first choice meets its stop with its fourth token, and leaves the engine long before the second one ends.
    server.until(|stats| stats.live_requests == 1).await;
    while server.state.service.engine.stats().running != 1 || server.state.service.engine.stats().steps < 5 {
        assert!(server.state.service.engine.stats().steps < 100);
        server.gate.allow(1);
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    server.gate.reopen();
    let answer = request.await.unwrap();
    let reasons: Vec<&Value> = (0..2).map(|at| &answer["choices"][at]["finish_reason"]).collect();
    assert_eq!(reasons, [&json!("stop"), &json!("length")]);
    assert_eq!(answer["choices"][0]["message"]["content"], "H");
    assert_eq!(answer["usage"]["completion_tokens"], 4 + 150);
    server.idle().await;
}

#[tokio::test]
async fn logprobs_tell_token_and_alternatives() {
    let server = TestServer::new();
    let answer = server
        .post("/v1/chat/completions", chat(json!({"logprobs": true, "top_logprobs": 2, "max_tokens": 1})))
        .await;
    assert_eq!(
        answer.json()["choices"][0]["logprobs"],
        json!({"content": [{"token": "H", "logprob": -1.0, "bytes": [72], "top_logprobs": [
            {"token": "H", "logprob": -1.0, "bytes": [72]}, {"token": "I", "logprob": -2.0, "bytes": [73]}]}]})
    );
}

#[tokio::test]
async fn logit_bias_is_a_map_or_an_array() {
    let server = TestServer::new();
    let mut array = vec![0.0; 91];
    array[90] = 100.0;
    for bias in [json!({"90": 100}), json!(array)] {
        let answer = server
            .post("/v1/chat/completions", chat(json!({"logit_bias": bias, "max_tokens": 2})))
            .await
            .json();
        assert_eq!(answer["choices"][0]["message"]["content"], "ZZ");
    }
}

#[tokio::test]
async fn completions_take_text_lists_and_token_ids() {
    let server = TestServer::new();
    let texts = |answer: &Value| -> Vec<String> {
        let choices = answer["choices"].as_array().unwrap();
        assert!(choices.iter().enumerate().all(|(at, choice)| choice["index"] == at));
        choices.iter().map(|choice| choice["text"].as_str().unwrap().to_owned()).collect()
    };
    for (prompt, echoed, tokens) in [
        (json!("ab"), vec!["abHello"], 2),
        (json!(["ab", "c"]), vec!["abHello", "cHello"], 3),
        (json!([97, 98]), vec!["abHello"], 2),
        (json!([[97, 98], [99], [100]]), vec!["abHello", "cHello", "dHello"], 4),
    ] {
        let answer =
            server.post("/v1/completions", completion(json!({"prompt": prompt, "echo": true}))).await.json();
        assert_eq!(texts(&answer), echoed);
        assert_eq!(answer["usage"]["prompt_tokens"], tokens);
        assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"));
    }
}

#[tokio::test]
async fn completions_stream_every_prompt_and_choice() {
    let server = TestServer::new();
    let body = completion(
        json!({"prompt": ["a", "b"], "n": 2, "temperature": 1.0, "seed": OWN_SEED, "stream": true, "echo": true}),
    );
    let mut events = server.post("/v1/completions", body).await.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let mut texts = [const { String::new() }; 4];
    let mut ends = 0;
    for event in events {
        let choice = &serde_json::from_str::<Value>(&event).unwrap()["choices"][0];
        texts[choice["index"].as_u64().unwrap() as usize] += choice["text"].as_str().unwrap();
        ends += usize::from(choice["finish_reason"] == "length");
    }
    assert_eq!((texts, ends), (["aHello", "aHELLO", "bHello", "bHELLO"].map(str::to_owned), 4));
}

#[tokio::test]
async fn completion_logprobs_are_parallel_lists() {
    let server = TestServer::new();
    let answer = server
        .post(
            "/v1/completions",
            completion(json!({"prompt": "ab", "logprobs": 1, "echo": true, "max_tokens": 1})),
        )
        .await;
    assert_eq!(
        answer.json()["choices"][0]["logprobs"],
        json!({"tokens": ["a", "b", "H"], "token_logprobs": [null, -98.0, -1.0],
               "top_logprobs": [null, null, {"H": -1.0}], "text_offset": [0, 1, 2]})
    );
}

#[tokio::test]
async fn best_of_keeps_the_likeliest() {
    let server = TestServer::new();
    let body = completion(json!({"best_of": 4, "n": 1, "temperature": 1.0, "seed": OWN_SEED}));
    let answer = server.post("/v1/completions", body).await.json();
    // No seed makes a token likelier than OWN_SEED does.
    assert_eq!(answer["choices"].as_array().unwrap().len(), 1);
    assert_eq!(answer["choices"][0]["text"], "Hello");
    assert_eq!(answer["usage"]["completion_tokens"], 20);
}

#[tokio::test]
async fn refusals_have_openais_object_and_tgis_type() {
    let server = TestServer::new();
    for (path, body, message, param, error_type) in [
        (
            "chat/completions",
            chat(json!({"n": 0})),
            "Input validation error: `n` must be >= 1 and <= 8. Given: 0",
            "n",
            "validation",
        ),
        (
            "chat/completions",
            chat(json!({"logit_bias": {"258": 1}})),
            "Input validation error: `logit_bias`: token id 258 is not below the vocabulary size 258",
            "logit_bias",
            "validation",
        ),
        (
            "chat/completions",
            json!({"messages": []}),
            "Input validation error: messages: cannot be empty",
            "messages",
            "validation",
        ),
        (
            "completions",
            completion(json!({"suffix": "x"})),
            "Suffix is not supported and can be achieved by preprocessing the prompt.",
            "suffix",
            "suffix not supported",
        ),
        (
            "completions",
            completion(json!({"prompt": ["a", "b", "c", "d"]})),
            "Number of prompts exceeds the maximum allowed batch size of 3",
            "prompt",
            "batch size exceeded",
        ),
        (
            "completions",
            completion(json!({"prompt": [-1]})),
            "Input validation error: `prompt`: token id -1 is not below the vocabulary size 258",
            "prompt",
            "validation",
        ),
    ] {
        let answer = server.post(&format!("/v1/{path}"), body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        let error =
            json!({"message": message, "type": "invalid_request_error", "param": param, "code": null});
        assert_eq!(answer.json(), json!({"error": error, "error_type": error_type}));
    }
    // Before a stream begins, too.
    let answer = server.post("/v1/chat/completions", chat(json!({"stream": true, "top_p": 2.0}))).await;
    assert_eq!((answer.status, &answer.json()["error"]["param"]), (StatusCode::BAD_REQUEST, &json!("top_p")));
}

#[tokio::test]
async fn messages_may_come_in_parts_but_not_with_images() {
    let server = TestServer::new();
    let parts = |parts: Value| chat(json!({"messages": [{"role": "user", "content": parts}]}));
    let text = json!([{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]);
    let answer = server.post("/v1/chat/completions", parts(text)).await.json();
    assert_eq!(answer["usage"]["prompt_tokens"], 14);
    let image = json!([{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x.png"}}]);
    let answer = server.post("/v1/chat/completions", parts(image)).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.json()["error"]["message"].as_str().unwrap().contains("invalid image content"));
}

#[tokio::test]
async fn a_suffix_goes_through_the_completion_template() {
    let server = TestServer::with(RouterConfig { model_id: "test/infill".into(), ..config() });
    let answer = server
        .post("/v1/completions", completion(json!({"prompt": ["ab", "c"], "suffix": "xyz", "echo": true})))
        .await
        .json();
    assert_eq!(answer["usage"]["prompt_tokens"], "<xyz>ab".len() + "<xyz>c".len());
    assert_eq!(answer["choices"][0]["text"], "abHello");
    let answer = server.post("/v1/completions", completion(json!({"prompt": [97], "suffix": "xyz"}))).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["param"]),
        (StatusCode::BAD_REQUEST, &json!("suffix"))
    );
}

/// A stream that fails after its beginning: one error event, and in TGI's form `[DONE]` after it.
#[tokio::test]
async fn a_failure_in_midstream_ends_the_stream_with_one_event() {
    let message = "Request failed during generation: the engine failed";
    let object = json!({"message": message, "type": "server_error", "param": null, "code": null});
    let openais = json!({"error": object, "error_type": "generation"});
    for (profile, prefix, last, expected) in [
        (Profile::OpenAi, "/v1", None, &openais),
        (Profile::Ollama, "/v1", None, &openais),
        (Profile::Jan, "/v1", None, &openais),
        (Profile::Management, "/v1", None, &openais),
        // There is no other form of it for the clients of the management API, which are OpenAI's.
        (Profile::OpenAi, "/api/v1", None, &openais),
        (Profile::Tgi, "/api/v1", None, &openais),
        (
            Profile::Tgi,
            "/v1",
            Some("[DONE]"),
            &json!({"error": {"message": message, "http_status_code": 422}}),
        ),
    ] {
        for (route, body) in [
            ("chat/completions", chat(json!({"stream": true, "max_tokens": 15}))),
            ("completions", completion(json!({"stream": true, "max_tokens": 15}))),
        ] {
            let mut events = stream_that_fails(profile, &format!("{prefix}/{route}"), body).await;
            if last.is_some() {
                assert_eq!(events.pop().as_deref(), last);
            }
            let failed: Value = serde_json::from_str(&events.pop().unwrap()).unwrap();
            assert_eq!(&failed, expected);
            assert!(!events.is_empty() && events.iter().all(|event| !event.contains("error")));
        }
    }
}

async fn stream_that_fails(profile: Profile, path: &str, body: Value) -> Vec<String> {
    let server = held(RouterConfig { profile, ..config() });
    // The response begins with the first token.
    server.gate.allow(3);
    let response = server.open(post(path, &body)).await;
    assert_eq!(response.status(), StatusCode::OK);
    server.state.service.dispatcher.fail_all(crate::service::Failure::Engine);
    server.gate.reopen();
    answer(response).await.events()
}

#[tokio::test]
async fn the_template_sees_what_the_client_gives_it() {
    let server = TestServer::new();
    // The prompt is `user: Hi\nbot: `, one token per byte.
    for (more, prompt_tokens) in [
        (json!({}), 14),
        (json!({"guideline": "be kind"}), 14 + 7),
        (json!({"chat_template_kwargs": {"mood": "sad"}}), 14 + 3),
        (json!({"documents": [{"text": "ab"}, {"text": "c"}]}), 14 + 3),
        (json!({"add_generation_prompt": false}), 14 - 5),
        (json!({"continue_final_message": true}), 14 - 6),
    ] {
        let answer = server.post("/v1/chat/completions", chat(more.clone())).await.json();
        assert_eq!(answer["usage"]["prompt_tokens"], prompt_tokens, "{more}");
    }
    // What the assistant began is continued, unless the client wants it answered.
    let begun = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]);
    for (more, prompt_tokens) in [
        (json!({"messages": begun}), 9 + 13),
        (json!({"messages": begun, "add_generation_prompt": true}), 9 + 14 + 5),
        (json!({"messages": begun, "continue_final_message": false}), 9 + 14 + 5),
    ] {
        let answer = server.post("/v1/chat/completions", chat(more.clone())).await.json();
        assert_eq!(answer["usage"]["prompt_tokens"], prompt_tokens, "{more}");
    }
    let both = chat(json!({"continue_final_message": true, "add_generation_prompt": true}));
    assert_eq!(server.post("/v1/chat/completions", both).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn developers_speak_as_the_system_to_a_template_that_does_not_know_them() {
    const KNOWING: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{# developer #}";
    for (template, text) in [(TEMPLATE, "system: a\nbot: "), (KNOWING, "developer: a\n")] {
        let server = TestServer::writing(SCRIPT, template, config());
        let body = json!({"messages": [{"role": "developer", "content": "a"}]});
        assert_eq!(server.post("/chat_tokenize", body).await.json()["templated_text"], text);
    }
}

#[tokio::test]
async fn how_hard_to_reason_is_said_to_the_template() {
    const ASKING: &str = "{{ enable_thinking }} {{ reasoning_effort or '' }}{{ messages[0].content }}";
    let server = TestServer::writing(SCRIPT, ASKING, config());
    let ask = async |effort: Value| {
        let body = json!({"messages": [{"role": "user", "content": "a"}], "reasoning_effort": effort});
        server.post("/chat_tokenize", body).await
    };
    for (effort, text) in
        [("none", "False a"), ("minimal", "True lowa"), ("medium", "True mediuma"), ("xhigh", "True higha")]
    {
        assert_eq!(ask(json!(effort)).await.json()["templated_text"], text);
    }
    let refused = server.post("/v1/chat/completions", chat(json!({"reasoning_effort": "huge"}))).await;
    assert_eq!(
        (refused.status, &refused.json()["error"]["param"]),
        (StatusCode::BAD_REQUEST, &json!("reasoning_effort"))
    );
}

#[tokio::test]
async fn what_is_not_served_is_refused_and_not_ignored() {
    let server = TestServer::new();
    for (field, value) in [
        ("functions", json!([])),
        ("function_call", json!("auto")),
        ("audio", json!({"voice": "x"})),
        ("modalities", json!(["text", "audio"])),
        ("web_search_options", json!({})),
        ("adapter_id", json!("x")),
    ] {
        let answer = server.post("/v1/chat/completions", chat(json!({field: value}))).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["param"]),
            (StatusCode::BAD_REQUEST, &json!(field))
        );
    }
    let answer =
        server.post("/v1/chat/completions", chat(json!({"modalities": ["text"], "user": "x"}))).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn models_names_the_one_that_is_served() {
    let server = TestServer::new();
    let answer = server.get("/v1/models").await.json();
    assert_eq!((&answer["object"], answer["data"].as_array().unwrap().len()), (&json!("list"), 1));
    let check = |model: &Value| {
        for (key, value) in [
            ("id", json!("test/model")),
            ("object", json!("model")),
            ("created", json!(0)),
            ("owned_by", json!("test/model")),
            ("max_model_len", json!(200)),
            ("root", json!("test/model")),
            ("type", json!("model")),
            ("version", json!("1")),
            ("source_url", json!("https://huggingface.co/test/model")),
        ] {
            assert_eq!(model[key], value, "{key}");
        }
    };
    check(&answer["data"][0]);
    for id in ["test/model", "test%2Fmodel"] {
        check(&server.get(&format!("/v1/models/{id}")).await.json());
    }
    let answer = server.get("/v1/models/test/other").await;
    let error = json!({"message": "The model 'test/other' does not exist", "type": "invalid_request_error",
                       "param": "model", "code": "model_not_found"});
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.json(), json!({"error": error, "error_type": "model_not_found"}));
}
