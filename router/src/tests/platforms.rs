use super::*;
use crate::config::VertexRoutes;

#[tokio::test]
async fn invocations_are_told_apart_by_what_they_must_have() {
    let server = TestServer::new();
    let generated = server.post("/invocations", greedy(json!({}))).await;
    assert_eq!(generated.json(), json!([{"generated_text": "Say: Hello"}]));
    let chat = json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 5, "temperature": 0});
    let chat = server.post("/invocations", chat).await.json();
    assert_eq!(
        (&chat["object"], &chat["choices"][0]["message"]["content"]),
        (&json!("chat.completion"), &json!("Hello"))
    );
    let text = json!({"prompt": "a", "max_tokens": 5, "temperature": 0});
    let text = server.post("/invocations", text).await.json();
    assert_eq!((&text["object"], &text["choices"][0]["text"]), (&json!("text_completion"), &json!("Hello")));
    // A request of several kinds is of the first one.
    let all = json!({"inputs": "a", "prompt": "b", "messages": [], "parameters": {"max_new_tokens": 1}});
    assert!(server.post("/invocations", all).await.json().is_array());
    // One that is almost of a kind is of the next.
    let odd = json!({"inputs": 3, "prompt": "b", "max_tokens": 5, "temperature": 0});
    assert_eq!(server.post("/invocations", odd).await.json()["object"], "text_completion");
    let none = server.post("/invocations", json!({"input": "a"})).await;
    assert_eq!(none.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        none.text,
        "Failed to deserialize the JSON body into the target type: data did not match any variant of untagged enum \
         SagemakerRequest"
    );
}

#[tokio::test]
async fn vertex_answers_every_instance_in_order() {
    let server = TestServer::new();
    let instances = json!([
        {"inputs": "a", "parameters": {"do_sample": false, "max_new_tokens": 5}},
        {"messages": [{"role": "user", "content": "a"}], "max_tokens": 3, "temperature": 0},
        {"inputs": "a", "parameters": {"do_sample": false, "max_new_tokens": 2}},
    ]);
    let answer = server.post("/vertex", json!({"instances": instances})).await;
    assert_eq!(answer.json(), json!({"predictions": ["Hello", "Hel", "He"]}));
    let sampled =
        json!({"instances": [{"inputs": "a", "parameters": {"seed": OWN_SEED + 1, "max_new_tokens": 5}}]});
    assert_ne!(server.post("/vertex", sampled).await.json(), json!({"predictions": ["Hello"]}));
    let five: Vec<Value> = (0..5).map(|_| json!({"inputs": "a"})).collect();
    assert_eq!(
        server.post("/vertex", json!({"instances": five})).await.status,
        StatusCode::TOO_MANY_REQUESTS
    );
    assert_eq!(server.state.service.permits.available_permits(), 4);
}

#[tokio::test]
async fn vertex_may_name_its_own_paths() {
    let mut config = config();
    config.vertex = VertexRoutes { predict: Some("/generate".into()), health: Some("/up".into()) };
    config.api_keys = vec!["Secret".into()];
    let server = TestServer::with(config);
    let body =
        json!({"instances": [{"inputs": "a", "parameters": {"do_sample": false, "max_new_tokens": 5}}]});
    assert_eq!(server.post("/generate", body.clone()).await.status, StatusCode::UNAUTHORIZED);
    let mut request = post("/generate", &body);
    request.headers_mut().insert("authorization", "Bearer Secret".parse().unwrap());
    assert_eq!(server.send(request).await.json(), json!({"predictions": ["Hello"]}));
    assert_eq!(server.get("/up").await.status, StatusCode::OK);
}

#[tokio::test]
async fn kserve_infers_from_bytes() {
    let server = TestServer::new();
    let path = "/v2/models/any/versions/1/infer";
    let body = |data: &[u8], outputs: usize| {
        json!({
            "id": "7", "parameters": {"max_new_tokens": 5, "return_full_text": true},
            "inputs": [{"name": "in", "shape": [1], "datatype": "BYTES", "data": data}],
            "outputs": vec![json!({"name": "out"}); outputs],
        })
    };
    let answer = server.post(path, body(b"Say: ", 1)).await;
    let output = json!({"name": "out", "shape": [1, 10], "datatype": "BYTES", "data": b"Say: Hello"});
    assert_eq!(answer.json(), json!({"id": "7", "outputs": [output]}));
    let refused = server.post(path, body(b"a", 2)).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        refused.json(),
        json!({"error": "Inputs and outputs length mismatch", "error_type": "length mismatch"})
    );
    assert_eq!(server.post(path, body(&[0xff], 1)).await.json()["error_type"], "utf8");
}

#[tokio::test]
async fn chats_are_tokenized_as_the_model_reads_them() {
    let server = TestServer::new();
    let answer =
        server.post("/chat_tokenize", json!({"messages": [{"role": "user", "content": "a"}]})).await.json();
    assert_eq!(answer["templated_text"], "user: a\nbot: ");
    let tokens = answer["tokenize_response"].as_array().unwrap();
    let joined: String = tokens.iter().map(|token| token["text"].as_str().unwrap()).collect();
    assert_eq!(joined, "user: a\nbot: ");
}
