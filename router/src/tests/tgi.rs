use super::*;

#[tokio::test]
async fn generate_gives_the_text_alone() {
    let server = TestServer::new();
    let answer = server.post("/generate", greedy(json!({}))).await;
    assert_eq!((answer.status, answer.text.as_str()), (StatusCode::OK, r#"{"generated_text":"Hello"}"#));
    assert_eq!(answer.headers["x-prompt-tokens"], "5");
    assert_eq!(answer.headers["x-generated-tokens"], "5");
    assert_eq!(answer.headers["x-compute-characters"], "5");
    for name in ["x-compute-type", "x-compute-time", "x-total-time", "x-validation-time", "x-queue-time"] {
        assert!(answer.headers.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn details_tell_every_token() {
    let server = TestServer::new();
    let body = greedy(
        json!({"details": true, "max_new_tokens": 2, "top_n_tokens": 2, "decoder_input_details": true}),
    );
    let answer = server.post("/generate", body).await.json();
    let token = |id: u32, text: &str, logprob: f32| json!({"id": id, "text": text, "logprob": logprob, "special": false});
    assert_eq!(
        answer["details"],
        json!({
            "finish_reason": "length", "generated_tokens": 2, "seed": null,
            "prefill": [
                {"id": 83, "text": "S", "logprob": null}, {"id": 97, "text": "a", "logprob": -97.0},
                {"id": 121, "text": "y", "logprob": -121.0}, {"id": 58, "text": ":", "logprob": -58.0},
                {"id": 32, "text": " ", "logprob": -32.0}],
            "tokens": [token(72, "H", -1.0), token(101, "e", -2.0)],
            "top_tokens": [[token(72, "H", -1.0), token(73, "I", -2.0)], [token(101, "e", -2.0), token(102, "f", -3.0)]],
        })
    );
}

#[tokio::test]
async fn the_end_of_sequence_token_ends_the_text_and_is_not_in_it() {
    let server = TestServer::new();
    let answer =
        server.post("/generate", greedy(json!({"max_new_tokens": 100, "details": true}))).await.json();
    assert_eq!(answer["generated_text"], SCRIPT);
    assert_eq!(answer["details"]["finish_reason"], "eos_token");
    let tokens = answer["details"]["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), SCRIPT.len() + 1);
    assert_eq!(
        *tokens.last().unwrap(),
        json!({"id": 257, "text": "<|end|>", "logprob": -20.0, "special": true})
    );
    // The two bytes of "ö": the first has no text yet.
    assert_eq!((&tokens[8]["text"], &tokens[9]["text"]), (&json!(""), &json!("ö")));
}

#[tokio::test]
async fn streams_count_from_one_and_end_with_the_whole() {
    let server = TestServer::new();
    let answer = server.post("/generate_stream", greedy(json!({"max_new_tokens": 3, "details": true}))).await;
    assert_eq!(answer.headers["cache-control"], "no-cache");
    assert_eq!(answer.headers["x-accel-buffering"], "no");
    assert_eq!(
        answer.events(),
        [
            r#"{"index":1,"token":{"id":72,"text":"H","logprob":-1.0,"special":false},"generated_text":null,"details":null}"#,
            r#"{"index":2,"token":{"id":101,"text":"e","logprob":-2.0,"special":false},"generated_text":null,"details":null}"#,
            r#"{"index":3,"token":{"id":108,"text":"l","logprob":-3.0,"special":false},"generated_text":"Hel","details":{"finish_reason":"length","generated_tokens":3,"seed":null,"input_length":5}}"#,
        ]
    );
}

#[tokio::test]
async fn a_stop_string_is_kept_and_ends_the_stream_inside_a_token_boundary() {
    let server = TestServer::new();
    let body = greedy(json!({"max_new_tokens": 50, "stop": ["wör", "zzz"], "details": true}));
    let plain = server.post("/generate", body.clone()).await.json();
    assert_eq!(plain["generated_text"], "Hello, wör");
    assert_eq!(plain["details"]["finish_reason"], "stop_sequence");
    let events = server.post("/generate_stream", body).await.json_events();
    let last = events.last().unwrap();
    assert_eq!(
        (&last["generated_text"], &last["details"]["finish_reason"]),
        (&json!("Hello, wör"), &json!("stop_sequence"))
    );
    let text: String = events.iter().map(|event| event["token"]["text"].as_str().unwrap()).collect();
    assert_eq!(text, "Hello, wör");
    server.idle().await;
}

#[tokio::test]
async fn the_root_answers_an_array_with_the_full_text() {
    let server = TestServer::new();
    assert_eq!(server.post("/", greedy(json!({}))).await.json(), json!([{"generated_text": "Say: Hello"}]));
    let short = server.post("/", greedy(json!({"return_full_text": false}))).await.json();
    assert_eq!(short, json!([{"generated_text": "Hello"}]));
    let mut stream = greedy(json!({}));
    stream["stream"] = json!(true);
    assert_eq!(server.post("/", stream).await.json_events().last().unwrap()["generated_text"], "Say: Hello");
}

#[tokio::test]
async fn without_parameters_it_samples_and_with_empty_ones_it_does_not() {
    let server = TestServer::new();
    let sampled = server.post("/generate", json!({"inputs": "a"})).await.json();
    assert_eq!(sampled["generated_text"], "HELLO, WöRLD! BYE.");
    let plain = server.post("/generate", json!({"inputs": "a", "parameters": {}})).await.json();
    assert_eq!(plain["generated_text"], SCRIPT);
}

#[tokio::test]
async fn best_of_answers_the_likeliest_and_shows_the_other() {
    let server = TestServer::new();
    let body = greedy(json!({"best_of": 2, "do_sample": true, "details": true}));
    let details = &server.post("/generate", body).await.json()["details"];
    let mean = |sequence: &Value| {
        let tokens = sequence["tokens"].as_array().unwrap();
        tokens.iter().map(|token| token["logprob"].as_f64().unwrap()).sum::<f64>() / tokens.len() as f64
    };
    let others = details["best_of_sequences"].as_array().unwrap();
    assert_eq!(others.len(), 1);
    assert!(mean(details) >= mean(&others[0]));
    assert_eq!(others[0]["generated_tokens"], 5);
    assert!(details["seed"].is_u64());
}

#[tokio::test]
async fn refusals_have_tgis_form() {
    let server = TestServer::new();
    for (parameters, text) in [
        (json!({"temperature": 0.0}), "`temperature` must be strictly positive"),
        (json!({"top_n_tokens": 6}), "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
        (json!({"best_of": 3, "temperature": 0.0}), "`best_of` must be > 0 and <= 2. Given: 3"),
        (
            json!({"max_new_tokens": 196}),
            "`inputs` tokens + `max_new_tokens` must be <= 200. Given: 5 `inputs` tokens and 196 `max_new_tokens`",
        ),
        (json!({"grammar": {"type": "json", "value": 1}}), "grammar is not supported"),
        (
            json!({"grammar": {"type": "json", "value": "{"}}),
            "grammar is not valid: the schema is not JSON: EOF while parsing an object at line 1 column 1",
        ),
    ] {
        let refusal = json!({"error": format!("Input validation error: {text}"), "error_type": "validation"});
        let answer = server.post("/generate", greedy(parameters.clone())).await;
        assert_eq!((answer.status, answer.json()), (StatusCode::UNPROCESSABLE_ENTITY, refusal.clone()));
        if parameters.get("best_of").is_none() {
            let answer = server.post("/generate_stream", greedy(parameters)).await;
            assert_eq!((answer.status, answer.json_events()), (StatusCode::OK, vec![refusal]));
        }
    }
    let answer = server.post("/generate_stream", greedy(json!({"best_of": 2, "do_sample": true}))).await;
    assert_eq!(
        answer.json_events()[0]["error"],
        "Input validation error: `best_of` != 1 is not supported when streaming tokens"
    );
}

#[tokio::test]
async fn bodies_that_are_no_request_are_refused_in_plain_text() {
    let server = TestServer::new();
    let send = |body: String, kind: &'static str| {
        server.send(Request::post("/generate").header("content-type", kind).body(Body::from(body)).unwrap())
    };
    let json = "application/json";
    for (body, kind, status, text) in [
        ("{".to_owned(), json, 400, "Failed to parse the request body as JSON"),
        (
            "{}".to_owned(),
            json,
            422,
            "Failed to deserialize the JSON body into the target type: missing field `inputs`",
        ),
        ("{}".to_owned(), "text/plain", 415, "Expected request with `Content-Type: application/json`"),
        (
            format!("{{\"inputs\":\"a\",\"x\":{}", "[".repeat(3000)),
            json,
            400,
            "Failed to parse the request body as JSON",
        ),
        (
            format!("{{\"inputs\":\"{}\"}}", "a".repeat(4000)),
            json,
            413,
            "Failed to buffer the request body: length limit exceeded",
        ),
    ] {
        let answer = send(body, kind).await;
        assert_eq!(answer.status.as_u16(), status);
        assert!(answer.text.starts_with(text), "{}", answer.text);
    }
}

#[tokio::test]
async fn tokenize_places_tokens_in_bytes() {
    let server = TestServer::new();
    let tokens = server.post("/tokenize", json!({"inputs": "a<|end|>b"})).await.json();
    assert_eq!(
        tokens,
        json!([{"id": 97, "text": "a", "start": 0, "stop": 1}, {"id": 257, "text": "<|end|>", "start": 1, "stop": 8},
               {"id": 98, "text": "b", "start": 8, "stop": 9}])
    );
}

#[tokio::test]
async fn info_and_health_answer() {
    let server = TestServer::new();
    for path in ["/", "/health", "/ping", "/livez", "/readyz"] {
        assert_eq!(server.get(path).await.status, StatusCode::OK, "{path}");
    }
    let info = server.get("/info").await.json();
    assert_eq!((&info["model_id"], &info["model_sha"]), (&json!("test/model"), &json!("abc")));
    assert_eq!((&info["max_input_tokens"], &info["max_total_tokens"]), (&json!(199), &json!(200)));
    assert_eq!(info["router"], "text-generation-router");
    assert_eq!(server.get("/generate").await.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(server.get("/nowhere").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn minimum_tokens_and_ignored_ends_are_honoured() {
    let server = TestServer::new();
    let long = greedy(json!({"max_new_tokens": 22, "ignore_eos": true, "details": true}));
    let answer = server.post("/generate", long).await.json();
    assert_eq!(
        (&answer["details"]["generated_tokens"], &answer["details"]["finish_reason"]),
        (&json!(22), &json!("length"))
    );
    assert_eq!(answer["generated_text"], SCRIPT);
    let least = greedy(json!({"max_new_tokens": 30, "min_tokens": 22}));
    assert_eq!(server.post("/generate", least).await.json()["generated_text"], format!("{SCRIPT}~~~"));
}
