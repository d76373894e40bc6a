//! Adapters by name: loaded and unloaded while the server runs, used in every dialect that can name them.

use serde_json::{Value, json};

use super::residency::{Shelf, residency, serving};
use super::*;
use crate::config::LoraAdapter;
use crate::residency::Alias;

const UNKNOWN: &str = "Input validation error: `adapter_id` \"sql\" is not loaded";

/// An adapter of the model that the device stands for.
fn folder(name: &str) -> String {
    format!("{}/../engine/tests/adapters/{name}", env!("CARGO_MANIFEST_DIR"))
}

async fn load(server: &TestServer, name: &str, more: Value) -> Answer {
    let body = merged(json!({"lora_name": name, "lora_path": folder("llama-qv")}), more);
    server.post("/v1/load_lora_adapter", body).await
}

async fn unload(server: &TestServer, name: &str) -> Answer {
    server.post("/v1/unload_lora_adapter", json!({"lora_name": name})).await
}

fn completion(model: &str) -> Value {
    json!({"model": model, "prompt": "Say: ", "max_tokens": 2, "temperature": 0})
}

async fn adapted(server: &TestServer) -> Answer {
    server.post("/generate", greedy(json!({"adapter_id": "sql"}))).await
}

#[tokio::test]
async fn an_adapter_is_used_from_its_load_to_its_unload() {
    let server = TestServer::new();
    assert_eq!(
        (adapted(&server).await.status, adapted(&server).await.json()["error"].clone()),
        (StatusCode::UNPROCESSABLE_ENTITY, json!(UNKNOWN))
    );
    assert_eq!(load(&server, "sql", json!({})).await.status, StatusCode::OK);
    assert_eq!(adapted(&server).await.json()["generated_text"], "Hello");
    let answer = server.post("/v1/completions", completion("sql")).await.json();
    assert_eq!((&answer["model"], &answer["choices"][0]["text"]), (&json!("sql"), &json!("He")));
    let listed = server.get("/v1/models").await.json();
    let names: Vec<_> =
        listed["data"].as_array().unwrap().iter().map(|model| (&model["id"], &model["parent"])).collect();
    assert_eq!(names, [(&json!("test/model"), &Value::Null), (&json!("sql"), &json!("test/model"))]);
    let single = server.get("/v1/models/sql").await.json();
    assert_eq!(single["root"], "test/model");
    for key in ["id", "parent", "root", "created", "owned_by", "type", "version", "format", "assets"] {
        assert_eq!(single[key], listed["data"][1][key], "{key}");
    }

    assert_eq!(unload(&server, "sql").await.status, StatusCode::OK);
    assert_eq!(adapted(&server).await.json()["error"], UNKNOWN);
    let answer = server.post("/v1/completions", completion("sql")).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (StatusCode::NOT_FOUND, &json!("model_not_found"))
    );
    for own in ["test/model", "tgi", "", "TEST/MODEL:latest"] {
        assert_eq!(server.post("/v1/completions", completion(own)).await.status, StatusCode::OK, "{own}");
    }
    assert_eq!(unload(&server, "sql").await.status, StatusCode::NOT_FOUND);
    server.idle().await;
}

/// Any name stands for the one model, as in TGI, until there is an adapter that it could be meant for.
#[tokio::test]
async fn a_server_without_adapters_takes_any_model_name() {
    let server = TestServer::new();
    assert_eq!(server.post("/v1/completions", completion("gpt-4")).await.status, StatusCode::OK);
    let failed = load(&server, "sql", json!({"lora_path": "/nowhere"})).await;
    assert_eq!(failed.status, StatusCode::BAD_REQUEST);
    assert_eq!(server.post("/v1/completions", completion("gpt-4")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_cannot_be_loaded_is_refused_by_its_field() {
    let server = TestServer::new();
    assert_eq!(load(&server, "sql", json!({})).await.status, StatusCode::OK);
    let long = "x".repeat(300);
    for (name, more, param) in [
        ("sql", json!({}), "lora_name"),
        ("", json!({}), "lora_name"),
        (&long, json!({}), "lora_name"),
        ("tgi", json!({}), "lora_name"),
        ("a\nb", json!({}), "lora_name"),
        ("a,b", json!({}), "lora_name"),
        ("Test/Model", json!({}), "lora_name"),
        ("other", json!({"lora_path": "/nowhere"}), "lora_path"),
        ("other", json!({"lora_path": "/etc/passwd"}), "lora_path"),
        ("other", json!({"lora_path": ""}), "lora_path"),
        // Of another base.
        ("other", json!({"lora_path": folder("qwen2-layer")}), "lora_path"),
    ] {
        let answer = load(&server, name, more.clone()).await;
        let found = (answer.status, answer.json()["error"]["param"].clone());
        assert_eq!(found, (StatusCode::BAD_REQUEST, json!(param)), "{name:?} {more}: {}", answer.text);
    }
    let replaced =
        load(&server, "sql", json!({"load_inplace": true, "lora_path": folder("llama-all")})).await;
    assert_eq!((replaced.status, adapted(&server).await.status), (StatusCode::OK, StatusCode::OK));
    let kept = load(&server, "sql", json!({"load_inplace": true, "lora_path": "/nowhere"})).await;
    assert_eq!((kept.status, adapted(&server).await.status), (StatusCode::BAD_REQUEST, StatusCode::OK));
    for body in [json!({}), json!({"lora_name": 3}), json!([])] {
        assert_eq!(server.post("/v1/load_lora_adapter", body).await.status, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn a_request_under_way_ends_with_the_adapter_it_began_with() {
    let server = Arc::new(TestServer::new());
    assert_eq!(load(&server, "sql", json!({})).await.status, StatusCode::OK);
    server.gate.shut();
    let under_way = tokio::spawn({
        let server = server.clone();
        async move { adapted(&server).await }
    });
    server.until(|stats| stats.live_requests == 1).await;
    // The engine is inside a step: the name goes at once all the same.
    assert_eq!(unload(&server, "sql").await.status, StatusCode::OK);
    assert_eq!(adapted(&server).await.json()["error"], UNKNOWN);
    server.gate.reopen();
    assert_eq!(under_way.await.unwrap().json()["generated_text"], "Hello");
    assert_eq!(load(&server, "sql", json!({})).await.status, StatusCode::OK);
    assert_eq!(adapted(&server).await.status, StatusCode::OK);
    server.idle().await;
}

#[tokio::test]
async fn only_administrators_change_adapters_and_no_foreign_page() {
    let public = TestServer::with(RouterConfig { listen: "0.0.0.0:0".parse().unwrap(), ..config() });
    assert_eq!(load(&public, "sql", json!({})).await.status, StatusCode::FORBIDDEN);
    assert_eq!(unload(&public, "sql").await.status, StatusCode::FORBIDDEN);
    let server = TestServer::with(RouterConfig {
        listen: "0.0.0.0:0".parse().unwrap(),
        admin_api_keys: vec!["admin".into()],
        ..config()
    });
    let send = |headers: &[(&'static str, &'static str)]| {
        let body = json!({"lora_name": "sql", "lora_path": folder("llama-qv")});
        let mut request = post("/v1/load_lora_adapter", &body);
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        server.send(request)
    };
    let (host, key) = (("host", "weirgate:3000"), ("authorization", "Bearer admin"));
    assert_eq!(send(&[host]).await.status, StatusCode::FORBIDDEN);
    assert_eq!(send(&[host, key, ("origin", "http://evil.example")]).await.status, StatusCode::FORBIDDEN);
    assert_eq!(adapted(&server).await.json()["error"], UNKNOWN);
    assert_eq!(send(&[host, key, ("origin", "http://weirgate:3000")]).await.status, StatusCode::OK);
    assert_eq!(adapted(&server).await.json()["generated_text"], "Hello");
}

/// One that is deployed with another model than the one that the server was started for.
#[tokio::test]
async fn adapters_of_other_models_are_listed_where_they_answer() {
    let server = serving(&Arc::new(Shelf::of(&["a"])), residency());
    let models = &server.state.models;
    let pin = models.pin("a").await.unwrap();
    let service = pin.service.clone();
    let load = move || service.adapters.load("sql", folder("llama-qv").as_ref(), false).unwrap();
    tokio::task::spawn_blocking(load).await.unwrap();
    let listed = async || {
        let listed = server.get("/v1/models").await.json();
        let one = |model: &Value| (model["id"].as_str().unwrap().to_owned(), model["parent"].clone());
        let mut names: Vec<_> = listed["data"].as_array().unwrap().iter().map(one).collect();
        names.sort_by(|a, b| a.0.cmp(&b.0));
        names
    };
    let own = [("a".to_owned(), Value::Null), ("test/model".to_owned(), Value::Null)];
    assert_eq!(listed().await, own, "nobody can ask for it yet");
    let alias = Alias { model: "a".into(), adapter: Some("sql".into()) };
    models.set_aliases([("sql".to_owned(), alias)].into());
    assert_eq!(server.post("/v1/completions", completion("sql")).await.status, StatusCode::OK);
    let [a, test] = own.clone();
    assert_eq!(listed().await, [a, ("sql".to_owned(), json!("a")), test]);
    let single = server.get("/v1/models/sql").await.json();
    assert_eq!((&single["id"], &single["parent"]), (&json!("sql"), &json!("a")));
    assert!(single["max_model_len"].as_u64().unwrap() > 0);
    models.set_aliases([].into());
    assert_eq!(listed().await, own);
    assert_eq!(server.get("/v1/models/sql").await.status, StatusCode::NOT_FOUND);
}

/// As the endpoint picker of the Gateway API Inference Extension reads them.
#[tokio::test]
async fn the_metrics_name_the_adapters() {
    let server = TestServer::new();
    let labels = async || {
        let text = server.get("/metrics").await.text;
        let line = text.lines().find(|line| line.starts_with("weirgate_lora_requests_info")).unwrap();
        line.split_once("max_lora").unwrap().1.split_once('}').unwrap().0.to_owned()
    };
    // The device takes 16 sequences a step.
    assert_eq!(labels().await, "=\"16\",running_lora_adapters=\"\",waiting_lora_adapters=\"\"");
    for name in ["two", "one"] {
        assert_eq!(load(&server, name, json!({})).await.status, StatusCode::OK);
    }
    assert_eq!(labels().await, "=\"16\",running_lora_adapters=\"one,two\",waiting_lora_adapters=\"\"");
    assert_eq!(unload(&server, "two").await.status, StatusCode::OK);
    assert_eq!(labels().await, "=\"16\",running_lora_adapters=\"one\",waiting_lora_adapters=\"\"");
}

#[tokio::test]
async fn adapters_of_the_start_are_there_from_the_start() {
    let listed = |name: &str, path: &str| LoraAdapter { name: name.into(), path: folder(path).into() };
    let lora_adapters = vec![listed("sql", "llama-qv"), listed("gguf", "llama-gguf.gguf")];
    let server = TestServer::with(RouterConfig { lora_adapters, ..config() });
    assert_eq!(adapted(&server).await.json()["generated_text"], "Hello");
    assert_eq!(server.post("/v1/completions", completion("gguf")).await.status, StatusCode::OK);
    assert_eq!(server.post("/v1/completions", completion("guff")).await.status, StatusCode::NOT_FOUND);
    for bad in [
        vec![listed("sql", "llama-qv"), listed("sql", "llama-all")],
        vec![listed("test/model", "llama-qv")],
        vec![listed("sql", "qwen2-layer")],
        vec![listed("sql", "nowhere")],
    ] {
        let name = bad[bad.len() - 1].name.clone();
        let config = RouterConfig { lora_adapters: bad, ..config() };
        let error = assemble(&config, loaded(SCRIPT, TEMPLATE, &config, Gate::open())).err().unwrap();
        assert!(error.to_string().starts_with(&format!("the adapter '{name}' cannot be loaded")), "{error}");
    }
}

/// A model that is its base with an adapter answers with it where none is named.
#[tokio::test]
async fn a_models_own_adapter_is_its_default() {
    let server = TestServer::new();
    let service = server.state.service.clone();
    let own = folder("llama-qv");
    tokio::task::spawn_blocking(move || service.adapters.load_own(own.as_ref()).unwrap()).await.unwrap();
    let adapters = &server.state.service.adapters;
    assert!(adapters.resolve(None).unwrap().is_some() && adapters.list().is_empty());
    assert_eq!(server.post("/generate", greedy(json!({}))).await.json()["generated_text"], "Hello");
    assert_eq!(adapted(&server).await.json()["error"], UNKNOWN);
}
