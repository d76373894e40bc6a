//! The management API over a model that writes a script: what needs neither a hub nor a worker. The whole of it is tested
//! by `integration-tests/management`.

use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use weirgate_store::StoreSettings;

use super::residency::{Shelf, eventually};
use super::*;
use crate::config;
use crate::management::{Management, ManagementSettings};
use crate::residency::{Conditions, KeepAlive, Library, Residency, StoredModels};

/// A server with its state in a folder.
async fn managed(folder: &Path) -> TestServer {
    managed_with(folder, StoreSettings::default(), None).await
}

/// One that lists what is in a store, and loads what is on a shelf.
async fn managed_with(folder: &Path, stored: StoreSettings, shelf: Option<Arc<Shelf>>) -> TestServer {
    let residency = Residency { keep_alive: KeepAlive::Forever, max_loaded: 0, max_queue: 4 };
    let library = config::Library {
        store: None,
        jan: None,
        ollama: Vec::new(),
        hub_caches: Vec::new(),
        folders: Vec::new(),
        modelfiles: None,
        registries: config::Registries::default(),
    };
    let config = RouterConfig { library: Some(library), ..config() };
    let gate = Gate::open();
    let loaded = loaded(SCRIPT, TEMPLATE, &config, gate.clone());
    let Assembled { model, outputs } = assemble(&config, loaded).unwrap();
    let service = model.service.clone();
    tokio::spawn(service.dispatcher.clone().run(outputs, service.metrics.clone()));
    let store = Arc::new(Store::open(stored).unwrap());
    let library: Box<dyn Library> = match shelf {
        Some(shelf) => Box::new(shelf),
        None => Box::new(StoredModels::new(store.clone(), Arc::new(config.clone()))),
    };
    let models = Models::with_library(model, library, residency, Conditions::default());
    let env = |name: &str| (name == "HOME").then(|| folder.display().to_string());
    let settings = ManagementSettings {
        folder: folder.join("state"),
        database: None,
        datasets: weirgate_jobs::Place::Local,
        dataset_limit: 10_000,
        hub: weirgate_hub::HubSettings::from_env(&env, None).unwrap(),
        training_memory: None,
    };
    let (own_models, own_store, base) = (models.clone(), store.clone(), config.model.clone());
    let start = move || Management::start(&settings, &base, own_models, own_store).unwrap();
    let management = tokio::task::spawn_blocking(start).await.unwrap();
    let state = AppState { management: Some(management), ..AppState::new(models, Some(store)) };
    TestServer { app: server::app(&config, state.clone()), state, gate }
}

fn empty(method: &str, path: &str) -> Request<Body> {
    let form = "application/x-www-form-urlencoded";
    Request::builder().method(method).uri(path).header("content-type", form).body(Body::empty()).unwrap()
}

async fn status_of(server: &TestServer, job: &Value, wanted: &str) -> Value {
    let path = format!("/api/v1/jobs/{}/status/", job["id"].as_str().unwrap());
    for _ in 0..500 {
        let job = server.get(&path).await.json();
        if job["status"] == wanted {
            return job;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{job} is never {wanted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_deployed_and_undeployed() {
    let folder = tempfile::tempdir().unwrap();
    let server = managed(folder.path()).await;
    let models = server.get("/api/v1/models").await.json();
    assert_eq!(models, json!([{"model_id": "test/model", "adapter": false, "base_model_id": null}]));
    assert_eq!(server.get("/api/v1/deploy/").await.json(), json!({"model_id": null, "adapter_ids": []}));
    assert_eq!(server.get("/api/v1/deploy/status").await.status, StatusCode::NOT_FOUND);
    let absent = server.post("/api/v1/deploy/", json!({"model_id": "other", "adapter_ids": []})).await;
    assert_eq!(absent.status, StatusCode::NOT_FOUND);
    assert!(absent.json()["detail"].as_str().unwrap().contains("\"other\""), "{}", absent.text);
    let job =
        server.post("/api/v1/deploy/", json!({"model_id": "test/model", "adapter_ids": []})).await.json();
    assert_eq!(job["name"], "DEPLOY_test/model");
    assert_eq!(job["status"], "CREATED");
    status_of(&server, &job, "RUNNING").await;
    let deployed = json!({"model_id": "test/model", "adapter_ids": []});
    assert_eq!(server.get("/api/v1/deploy").await.json(), deployed);
    let second = server.post("/api/v1/deploy", json!({"model_id": "test/model"})).await.json();
    status_of(&server, &job, "KILLED").await;
    status_of(&server, &second, "RUNNING").await;
    let interrupted = server.send(empty("POST", "/api/v1/deploy/interrupt/")).await.json();
    assert_eq!((&interrupted["id"], &interrupted["status"]), (&second["id"], &json!("RUNNING")));
    let after = server.get("/api/v1/deploy/status/").await.json();
    assert_eq!((&after["model_id"], &after["job"]["status"]), (&json!("test/model"), &json!("KILLED")));
    assert_eq!(server.send(empty("POST", "/api/v1/deploy/interrupt")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(server.get("/api/v1/jobs/").await.json().as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_have_the_ids_of_this_api() {
    let folder = tempfile::tempdir().unwrap();
    let server = managed(folder.path()).await;
    let chat =
        json!({"model": "Compressa-LLM", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5});
    for path in ["/api/v1/chat/completions", "/api/v1/chat/completions/"] {
        let answer = server.post(path, chat.clone()).await.json();
        assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"), "{answer}");
        assert_eq!(answer["id"].as_str().unwrap().len(), 5 + 32);
        assert_eq!(answer["model"], "Compressa-LLM");
        let choice = answer["choices"][0].as_object().unwrap();
        assert_eq!((&choice["stop_reason"], &choice["logprobs"]), (&Value::Null, &Value::Null));
        assert_eq!(choice["finish_reason"], "length");
    }
    let mut streamed = chat.clone();
    streamed["stream"] = json!(true);
    let events = server.post("/api/v1/chat/completions", streamed).await.events();
    let first: Value = serde_json::from_str(&events[0]).unwrap();
    assert!(first["id"].as_str().unwrap().starts_with("cmpl-"));
    assert!(first["choices"][0].as_object().unwrap().contains_key("stop_reason"));
    assert_eq!(events.last().unwrap(), "[DONE]");
    let unknown = server.post("/api/v1/completions", json!({"model": "no", "prompt": "x"})).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert!(unknown.json()["detail"].as_str().unwrap().contains("no"), "{}", unknown.text);
    let wrong = server.post("/api/v1/completions/", json!({"prompt": 7})).await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    // Elsewhere nothing has changed, but the name is known.
    let plain = server.post("/v1/chat/completions", chat).await.json();
    assert!(plain["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert!(!plain["choices"][0].as_object().unwrap().contains_key("stop_reason"));
}

fn upload(content: &str) -> Request<Body> {
    let body = format!(
        "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"train.jsonl\"\r\n\r\n{content}\r\n--b--\r\n"
    );
    Request::post("/api/v1/datasets/upload/?description=My%20Description")
        .header("content-type", "multipart/form-data; boundary=b")
        .body(Body::from(body))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn data_sets_come_back_and_errors_have_lines() {
    let folder = tempfile::tempdir().unwrap();
    let server = managed(folder.path()).await;
    let line = r#"{"messages":[{"role":"user","content":"q"},{"role":"bot","content":"a"}]}"#;
    let content = [line; 60].join("\n");
    let uploaded = server.send(upload(&content)).await;
    assert_eq!(uploaded.status, StatusCode::OK, "{}", uploaded.text);
    let dataset = uploaded.json();
    let id = dataset["id"].as_str().unwrap();
    let expected = json!({
        "id": id, "name": "train.jsonl", "s3_path": format!("{id}/metadata.json"), "description": "My Description"
    });
    assert_eq!(dataset, expected);
    assert_eq!(server.get("/api/v1/datasets").await.json(), json!([expected]));
    let file = server.get(&format!("/api/v1/datasets/{id}/")).await;
    assert_eq!(file.text, content);
    assert!(file.headers["content-disposition"].to_str().unwrap().contains("train.jsonl"));
    let wrong = server.send(upload(&format!("{line}\nno\n{line}"))).await;
    assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
    let detail = wrong.json();
    assert_eq!(detail["detail"][0]["loc"], json!(["body", "file", 2]), "{detail}");
    let large = server.send(upload(&[line; 200].join("\n"))).await;
    assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE);
    let no_form = server.post("/api/v1/datasets/upload", json!({})).await;
    assert_eq!(no_form.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(server.get("/api/v1/datasets/").await.json().as_array().unwrap().len(), 1);
    assert_eq!(server.get("/api/v1/datasets/nothing/").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_without_its_program_fails_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let server = managed(folder.path()).await;
    let line = r#"{"messages":[{"role":"user","content":"q"},{"role":"bot","content":"a"}]}"#;
    let dataset = server.send(upload(line)).await.json();
    let body = json!({"name": "My Adapter", "model_id": "test/model", "dataset_id": dataset["id"]});
    let job = server.post("/api/v1/finetune/", body.clone()).await.json();
    assert_eq!(job["name"], format!("FT_test/model_{}", dataset["id"].as_str().unwrap()));
    assert_eq!(job["status"], "CREATED");
    status_of(&server, &job, "FAILED").await;
    let details = server.get(&format!("/api/v1/jobs/{}/", job["id"].as_str().unwrap())).await.json();
    assert!(details["error"].as_str().unwrap().contains("weirgate-finetune"), "{details}");
    let status = server.get("/api/v1/finetune/status").await.json();
    assert_eq!((&status["name"], &status["job"]["status"]), (&json!("My Adapter"), &json!("FAILED")));
    for (field, value, expected) in [
        ("model_id", json!("no"), 404),
        ("dataset_id", json!("no"), 404),
        ("name", json!(""), 422),
        ("name", json!("compressa-llm"), 409),
        ("name", Value::Null, 422),
    ] {
        let mut wrong = body.clone();
        wrong[field] = value;
        assert_eq!(server.post("/api/v1/finetune", wrong).await.status.as_u16(), expected, "{field}");
    }
    assert_eq!(server.send(empty("POST", "/api/v1/finetune/interrupt/")).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_in_pages_and_unknown_ones_are_absent() {
    let folder = tempfile::tempdir().unwrap();
    let server = managed(folder.path()).await;
    for _ in 0..5 {
        server.post("/api/v1/deploy/", json!({"model_id": "test/model"})).await;
    }
    let all = server.get("/api/v1/jobs").await.json();
    let ids: Vec<&str> = all.as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 5);
    let listed = |answer: Value| -> Vec<String> {
        answer.as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed(server.get("/api/v1/jobs/?limit=2").await.json()), ids[..2]);
    let next = server.get(&format!("/api/v1/jobs/?limit=2&after={}", ids[1])).await.json();
    assert_eq!(listed(next), ids[2..4]);
    assert_eq!(listed(server.get("/api/v1/jobs/?order=desc&limit=1").await.json()), ids[4..]);
    assert_eq!(listed(server.get("/api/v1/jobs/?status=killed").await.json()), ids[..4]);
    for query in ["limit=0", "limit=x", "order=up", "status=DONE"] {
        assert_eq!(server.get(&format!("/api/v1/jobs/?{query}")).await.status.as_u16(), 422, "{query}");
    }
    for path in ["status/", "", "logs/"] {
        let unknown = server.get(&format!("/api/v1/jobs/4d78d943-1896-4d7b-9f11-b10cc2389ba3/{path}")).await;
        assert_eq!(unknown.status, StatusCode::NOT_FOUND, "{path}");
        assert!(unknown.json()["detail"].is_string());
    }
    let killed = server.send(empty("POST", &format!("/api/v1/jobs/{}/interrupt/", ids[4]))).await.json();
    assert_eq!(killed["status"], "KILLED");
    assert!(
        chrono::NaiveDateTime::parse_from_str(
            killed["started_at"].as_str().unwrap(),
            "%Y-%m-%dT%H:%M:%S%.6f"
        )
        .is_ok()
    );
    let logs = server.get(&format!("/api/v1/jobs/{}/logs/?limit=1", ids[4])).await.json();
    assert!(logs.as_array().unwrap().len() <= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_at_its_address_and_a_listener_of_its_own_has_the_routes_at_v1() {
    let folder = tempfile::tempdir().unwrap();
    let server = managed(folder.path()).await;
    for path in ["/api/docs/", "/api/docs"] {
        let page = server.get(path).await;
        assert_eq!(page.status, StatusCode::OK);
        assert!(page.text.contains("swagger-ui"), "{path}");
    }
    assert!(server.get("/api/docs/").await.text.contains("src=\"start.js\""));
    assert!(server.get("/api/docs/start.js").await.text.contains("url: \"openapi.json\""));
    for path in ["/api/docs/openapi.json", "/api/openapi.json"] {
        assert!(server.get(path).await.json()["paths"]["/api/v1/jobs/"].is_object(), "{path}");
    }
    assert!(server.get("/v1/models").await.json().is_object());
    let own = RouterConfig { profile: Profile::Management, ..config() };
    let own = TestServer {
        app: server::app(&own, server.state.under(Profile::Management)),
        state: server.state.clone(),
        gate: server.gate.clone(),
    };
    assert!(own.get("/v1/models").await.json().is_array());
    assert!(own.get("/v1/jobs/?limit=1").await.json().is_array());
    assert!(own.get("/api/v1/models/").await.json().is_array());
    assert_eq!(own.get("/health").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_interrupted_while_its_model_loads() {
    let folder = tempfile::tempdir().unwrap();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let repository = folder.path().join("hub/models--acme--slow");
    let snapshot = repository.join("snapshots").join(commit);
    std::fs::create_dir_all(&snapshot).unwrap();
    for (name, bytes) in weirgate_demo_model::FILES {
        std::fs::write(snapshot.join(name), bytes).unwrap();
    }
    std::fs::create_dir(repository.join("refs")).unwrap();
    std::fs::write(repository.join("refs/main"), commit).unwrap();
    let shelf = Arc::new(Shelf::of(&["acme/slow"]));
    let door = Arc::new(Barrier::new(2));
    shelf.doors.lock().unwrap().insert("acme/slow", door.clone());
    let stored = StoreSettings { hub_caches: vec![folder.path().join("hub")], ..StoreSettings::default() };
    let server = managed_with(folder.path(), stored, Some(shelf.clone())).await;
    let slow = server.post("/api/v1/deploy/", json!({"model_id": "acme/slow"})).await.json();
    eventually("it loads", async || shelf.loads.load(Ordering::SeqCst) == 1).await;
    let begun = Instant::now();
    let interrupted = server.post("/api/v1/deploy/interrupt/", json!({})).await.json();
    assert_eq!(interrupted["id"], slow["id"]);
    // Its place is free for the next one.
    let next = server.post("/api/v1/deploy/", json!({"model_id": "test/model"})).await.json();
    status_of(&server, &next, "RUNNING").await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    status_of(&server, &slow, "KILLED").await;
    tokio::task::spawn_blocking(move || door.wait()).await.unwrap();
}

#[tokio::test]
async fn a_server_without_state_says_so() {
    let answer = TestServer::new().get("/api/v1/jobs/").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(answer.json()["detail"].as_str().unwrap().contains("--state-dir"));
}
