//! Models at `/v1/models`: listed, started, stopped.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::residency::{Shelf, eventually, generate, queued, residency, running, serving};
use super::*;
use crate::residency::Layers;

async fn switch(server: &TestServer, method: &str, path: &str) -> Answer {
    let request = Request::builder().method(method).uri(format!("/v1/models/{path}"));
    server.send(request.body(Body::empty()).unwrap()).await
}

async fn state(server: &TestServer, name: &str) -> (Value, Value) {
    let listed = server.get("/v1/models").await.json();
    let listed = listed["data"].as_array().unwrap().iter().find(|model| model["id"] == name).unwrap();
    let single = server.get(&format!("/v1/models/{name}")).await.json();
    (listed["state"].clone(), single["state"].clone())
}

/// Has model `a` started, which loads until somebody else waits at the door; and the answer to come.
async fn loading(
    server: &Arc<TestServer>,
    shelf: &Shelf,
) -> (Arc<std::sync::Barrier>, tokio::task::JoinHandle<Answer>) {
    let door = Arc::new(std::sync::Barrier::new(2));
    shelf.doors.lock().unwrap().insert("a", door.clone());
    let starting = tokio::spawn({
        let server = server.clone();
        async move { switch(&server, "PUT", "a/start").await }
    });
    eventually("it loads", async || state(server, "a").await.0 == "starting").await;
    (door, starting)
}

/// The table of reference/dialects.md §3.2.
#[tokio::test]
async fn each_form_has_its_own_states() {
    let shelf = Arc::new(Shelf::of(&["a", "b"]));
    let server = serving(&shelf, residency());
    assert_eq!(state(&server, "a").await, (Value::Null, json!("downloaded")));
    assert_eq!(state(&server, "test/model").await, (json!("ready"), json!("running")));
    let (door, starting) = loading(&server, &shelf).await;
    assert_eq!(state(&server, "a").await.1, "downloaded");
    shelf.doors.lock().unwrap().clear();
    tokio::task::spawn_blocking(move || door.wait()).await.unwrap();
    let started = starting.await.unwrap();
    assert_eq!(
        (started.status, started.json()),
        (StatusCode::OK, json!({"id": "a", "object": "model", "state": "running"}))
    );
    assert_eq!(state(&server, "a").await, (json!("ready"), json!("running")));
    // While it answers, it cannot go.
    shelf.gates["a"].shut();
    let answering = tokio::spawn({
        let server = server.clone();
        async move { generate(&server, "a", json!({})).await }
    });
    eventually("it is in use", async || {
        let services = server.state.models.services();
        services.iter().any(|service| service.permits.available_permits() < service.places)
    })
    .await;
    let stopped = switch(&server, "POST", "a/stop").await;
    assert_eq!(stopped.json(), json!({"id": "a", "object": "model", "state": "stopped"}));
    assert_eq!(state(&server, "a").await, (json!("stopping"), json!("running")));
    shelf.gates["a"].reopen();
    assert_eq!(answering.await.unwrap()["response"], "aaa");
    eventually("it has gone", async || running(&server).await.is_empty()).await;
    assert_eq!(state(&server, "a").await, (Value::Null, json!("stopped")));
    generate(&server, "a", json!({})).await;
    assert_eq!(state(&server, "a").await, (json!("ready"), json!("running")));
    assert_eq!(state(&server, "b").await, (Value::Null, json!("downloaded")));
}

/// Whoever waits for it is answered, then it goes; unless it is started once more.
#[tokio::test]
async fn a_model_that_is_stopped_while_it_is_loaded_does_not_stay() {
    for again in [false, true] {
        let shelf = Arc::new(Shelf::of(&["a"]));
        let server = serving(&shelf, residency());
        let (door, starting) = loading(&server, &shelf).await;
        let asking = tokio::spawn({
            let server = server.clone();
            async move { generate(&server, "a", json!({})).await }
        });
        queued(&server, 2).await;
        assert_eq!(switch(&server, "PUT", "a/stop").await.status, StatusCode::OK);
        let another = again.then(|| {
            let models = server.state.models.clone();
            tokio::spawn(async move { models.start("a").await })
        });
        queued(&server, if again { 3 } else { 2 }).await;
        tokio::task::spawn_blocking(move || door.wait()).await.unwrap();
        assert_eq!(starting.await.unwrap().status, StatusCode::OK);
        assert_eq!(asking.await.unwrap()["response"], "aaa");
        if let Some(another) = another {
            another.await.unwrap().unwrap();
            assert_eq!(state(&server, "a").await, (json!("ready"), json!("running")));
        } else {
            eventually("it has gone", async || running(&server).await.is_empty()).await;
            assert_eq!(state(&server, "a").await, (Value::Null, json!("stopped")));
        }
        assert_eq!(shelf.loads.load(Ordering::SeqCst), 1);
    }
}

/// What was started is kept whatever requests say, and makes no room.
#[tokio::test]
async fn a_started_model_stays() {
    let shelf = Arc::new(Shelf::of(&["a", "b", "c"]));
    let server = serving(&shelf, crate::residency::Residency { max_loaded: 2, ..residency() });
    switch(&server, "PUT", "a/start").await;
    generate(&server, "a", json!({"keep_alive": "1ms"})).await;
    let unloaded = generate(&server, "a", json!({"prompt": "", "keep_alive": 0})).await;
    assert_eq!(unloaded["done_reason"], "unload");
    for model in ["b", "c", "b"] {
        generate(&server, model, json!({})).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(running(&server).await, ["a:latest", "b:latest"]);
    // There is no place beside those that stay.
    switch(&server, "PUT", "b/start").await;
    let full = switch(&server, "PUT", "c/start").await;
    assert_eq!(full.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(full.json()["error"]["message"].as_str().unwrap().contains("stop one first"), "{}", full.text);
    switch(&server, "PUT", "a/stop").await;
    eventually("it has left", async || running(&server).await == ["b:latest"]).await;
    assert_eq!(switch(&server, "PUT", "c/start").await.status, StatusCode::OK);
    // A model that was replaced is another one: the former leaves.
    shelf.version.fetch_add(1, Ordering::SeqCst);
    generate(&server, "c", json!({})).await;
    eventually("one of each", async || running(&server).await == ["b:latest", "c:latest"]).await;
}

/// A deployment ends where it was begun.
#[tokio::test]
async fn a_deployed_model_is_neither_stopped_nor_deleted() {
    let server = serving(&Arc::new(Shelf::of(&["a"])), residency());
    let pin = server.state.models.pin("a").await.unwrap();
    for (method, path) in [("PUT", "a/stop"), ("POST", "a/stop"), ("DELETE", "a")] {
        let answer = switch(&server, method, path).await;
        assert_eq!(answer.status, StatusCode::CONFLICT, "{method} {path}");
        assert!(answer.json()["error"]["message"].as_str().unwrap().contains("deployed"), "{}", answer.text);
    }
    assert_eq!(state(&server, "a").await, (json!("ready"), json!("running")));
    drop(pin);
    assert_eq!(switch(&server, "PUT", "a/stop").await.status, StatusCode::OK);
    eventually("it has gone", async || running(&server).await.is_empty()).await;
}

/// What a model asks for itself is in effect on OpenAI's routes where the request does not say.
#[tokio::test]
async fn a_models_own_parameters_fill_requests() {
    let mut shelf = Shelf::of(&["a"]);
    let parameters = json!({"num_predict": 4, "stop": ["never"], "temperature": 0.0, "top_k": 1});
    shelf.layers = Layers { parameters: parameters.as_object().cloned().unwrap(), ..Layers::default() };
    let server = serving(&Arc::new(shelf), residency());
    let body = |more: Value| {
        let mut body: Map<String, Value> =
            json!({"model": "a", "prompt": "Hi", "temperature": 0}).as_object().cloned().unwrap();
        body.extend(more.as_object().cloned().unwrap());
        Value::Object(body)
    };
    for (more, text) in [(json!({}), "aaaa"), (json!({"max_tokens": 2}), "aa")] {
        let answer = server.post("/v1/completions", body(more)).await.json();
        assert_eq!(answer["choices"][0]["text"], text);
    }
    let answer = server.post("/v1/completions", body(json!({"stop": ["aa"]}))).await.json();
    assert_eq!(
        (&answer["choices"][0]["text"], &answer["choices"][0]["finish_reason"]),
        (&json!(""), &json!("stop"))
    );
}

#[tokio::test]
async fn what_is_not_there_is_not_found_in_openais_words() {
    let server = serving(&Arc::new(Shelf::of(&["a"])), residency());
    for (method, path) in
        [("PUT", "z/start"), ("POST", "z/stop"), ("PUT", "a"), ("POST", "a/b"), ("PUT", "start")]
    {
        let answer = switch(&server, method, path).await;
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status, &error["code"]),
            (StatusCode::NOT_FOUND, &json!("model_not_found")),
            "{path}"
        );
    }
    for (path, status) in [("test/model/stop", StatusCode::CONFLICT), ("test/model/start", StatusCode::OK)] {
        assert_eq!(switch(&server, "PUT", path).await.status, status, "{path}");
    }
    // This server has no store.
    for (method, path) in [("DELETE", "a"), ("GET", "download/a")] {
        let answer = switch(&server, method, path).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        assert!(answer.json()["error"]["message"].as_str().unwrap().contains("--jan-models"));
    }
}
