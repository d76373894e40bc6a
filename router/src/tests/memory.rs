//! Several models in little memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::residency::{Shelf, eventually, generate, queued, residency, running, serving_under};
use super::*;
use crate::memory::Memory;
use crate::residency::Conditions;

/// A machine with so much memory, and what this process has taken of it, which is nothing unless a test says so.
#[derive(Clone, Default)]
struct Room {
    free: u64,
    taken: Arc<AtomicU64>,
}

impl Room {
    fn of(free: u64) -> Self {
        Self { free, ..Self::default() }
    }
}

impl Memory for Room {
    fn free_bytes(&self) -> Option<u64> {
        Some(self.free)
    }

    fn taken_bytes(&self) -> u64 {
        self.taken.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn metrics_tell_how_far_a_load_is() {
    let shelf = Arc::new(Shelf { bytes: 200, ..Shelf::of(&["a", "b"]) });
    let door = Arc::new(std::sync::Barrier::new(2));
    shelf.doors.lock().unwrap().insert("a", door.clone());
    let room = Room::of(10_000);
    let conditions = Conditions { memory: Box::new(room.clone()), ..Conditions::default() };
    let server = serving_under(conditions, &shelf, residency());
    let ask = |model: &'static str| {
        let server = server.clone();
        tokio::spawn(async move { generate(&server, model, json!({})).await["response"].clone() })
    };
    let a = ask("a");
    eventually("the load begins", async || shelf.loads.load(Ordering::SeqCst) == 1).await;
    let b = ask("b");
    queued(&server, 2).await;
    room.taken.store(50, Ordering::SeqCst);
    let progress = async |model: &str| {
        let prefix = format!("weirgate_model_load_progress{{model=\"{model}\"}} ");
        let text = server.get("/metrics").await.text;
        text.lines().find_map(|line| line.strip_prefix(&prefix)).map(str::to_owned)
    };
    assert_eq!((progress("a").await.as_deref(), progress("b").await.as_deref()), (Some("0.25"), Some("0")));
    tokio::task::spawn_blocking(move || door.wait()).await.unwrap();
    assert_eq!((a.await.unwrap(), b.await.unwrap()), (json!("aaa"), json!("bbb")));
    assert_eq!((progress("a").await, progress("b").await), (None, None));
}

#[tokio::test]
async fn where_memory_is_short_the_model_used_longest_ago_makes_room() {
    let shelf = Arc::new(Shelf { bytes: 100, ..Shelf::of(&["a", "b", "c"]) });
    let conditions = Conditions { memory: Box::new(Room::of(250)), ..Conditions::default() };
    let server = serving_under(conditions, &shelf, residency());
    for model in ["a", "b", "a", "c"] {
        generate(&server, model, json!({})).await;
    }
    assert_eq!(running(&server).await, ["a:latest", "c:latest"]);
    generate(&server, "b", json!({})).await;
    assert_eq!(running(&server).await, ["b:latest", "c:latest"]);
    assert_eq!(shelf.loads.load(Ordering::SeqCst), 4);
}

/// Each memory has room of its own, and what is in the other makes none.
#[tokio::test]
async fn models_on_a_gpu_make_room_for_models_on_it() {
    let shelf = Shelf { bytes: 100, on_gpu: vec!["a", "b", "d"], ..Shelf::of(&["a", "b", "c", "d"]) };
    let (memory, gpu) = (Box::new(Room::of(150)), Box::new(Room::of(250)));
    let conditions = Conditions { memory, gpu: Some(gpu), ..Conditions::default() };
    let server = serving_under(conditions, &Arc::new(shelf), residency());
    for model in ["c", "a", "b"] {
        generate(&server, model, json!({})).await;
    }
    assert_eq!(running(&server).await, ["a:latest", "b:latest", "c:latest"]);
    generate(&server, "d", json!({})).await;
    assert_eq!(running(&server).await, ["b:latest", "c:latest", "d:latest"]);
    let ps = server.get("/api/ps").await.json();
    let shares = ps["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| (model["name"].as_str().unwrap().to_owned(), model["size_vram"].as_u64().unwrap()));
    let shares: HashMap<String, u64> = shares.collect();
    assert_eq!((shares["b:latest"], shares["c:latest"], shares["test/model:latest"]), (100, 0, 0));
}

#[tokio::test]
async fn a_model_that_no_room_can_be_made_for_is_refused_with_what_it_takes() {
    let shelf = Arc::new(Shelf { bytes: 300, ..Shelf::of(&["a"]) });
    let conditions = Conditions { memory: Box::new(Room::of(250)), ..Conditions::default() };
    let server = serving_under(conditions, &shelf, residency());
    let refused = server.post("/api/generate", json!({"model": "a", "prompt": "Hi"})).await;
    let message = "model requires more memory (300 bytes) than is available (250 bytes)";
    assert_eq!(
        (refused.status, refused.json()),
        (StatusCode::INTERNAL_SERVER_ERROR, json!({"error": message}))
    );
    let body = json!({"model": "a", "prompt": "Hi"});
    assert_eq!(server.post("/v1/completions", body).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!((shelf.loads.load(Ordering::SeqCst), running(&server).await.len()), (0, 0));
}

async fn embed(server: &TestServer, model: &str) -> (StatusCode, Value) {
    let answer = server.post("/api/embed", json!({"model": model, "input": "Hi"})).await;
    (answer.status, answer.json())
}

/// The second copy of a model takes the place of a model that nobody uses, and is counted as long as it is there.
#[tokio::test]
async fn a_second_copy_for_vectors_takes_room_as_models_do() {
    let shelf = Shelf { bytes: 100, embeds: vec!["a"], ..Shelf::of(&["a", "b", "c"]) };
    let conditions = Conditions { memory: Box::new(Room::of(250)), ..Conditions::default() };
    let server = serving_under(conditions, &Arc::new(shelf), residency());
    for model in ["a", "b"] {
        generate(&server, model, json!({})).await;
    }
    let (status, vectors) = embed(&server, "a").await;
    assert_eq!((status, &vectors["embeddings"]), (StatusCode::OK, &json!([[1.0]])));
    assert_eq!(running(&server).await, ["a:latest"]);
    // It is there, and takes no more.
    assert_eq!(embed(&server, "a").await.0, StatusCode::OK);
    // 50 are free: the model with both its copies goes, and then there is room for two.
    for model in ["b", "c"] {
        generate(&server, model, json!({})).await;
    }
    assert_eq!(running(&server).await, ["b:latest", "c:latest"]);
}

/// Whoever asks for vectors has the model in use, for which others may wait: it waits for nobody.
#[tokio::test]
async fn a_second_copy_is_refused_where_all_models_are_in_use() {
    let shelf = Arc::new(Shelf { bytes: 100, embeds: vec!["a", "b"], ..Shelf::of(&["a", "b"]) });
    let conditions = Conditions { memory: Box::new(Room::of(250)), ..Conditions::default() };
    let server = serving_under(conditions, &shelf, residency());
    generate(&server, "a", json!({})).await;
    shelf.gates["b"].shut();
    let other = {
        let server = server.clone();
        tokio::spawn(async move { generate(&server, "b", json!({})).await["response"].clone() })
    };
    eventually("both are loaded", async || running(&server).await.len() == 2).await;
    let (status, refusal) = embed(&server, "a").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{refusal}");
    let message = refusal["error"].as_str().unwrap();
    assert!(message.ends_with("too little memory to load the model for embeddings, too"), "{message}");
    shelf.gates["b"].reopen();
    assert_eq!(other.await.unwrap(), json!("bbb"));
    // What was refused takes nothing; now the other one makes room.
    eventually("it is loaded", async || embed(&server, "a").await.0 == StatusCode::OK).await;
    assert_eq!(running(&server).await, ["a:latest"]);
}

/// A model on a GPU makes vectors on the CPU, where its copy is in the way of others.
#[tokio::test]
async fn the_copy_of_a_model_on_a_gpu_is_in_the_machines_memory() {
    let shelf = Shelf { bytes: 100, on_gpu: vec!["a"], embeds: vec!["a"], ..Shelf::of(&["a", "b"]) };
    let (memory, gpu) = (Box::new(Room::of(150)), Box::new(Room::of(150)));
    let conditions = Conditions { memory, gpu: Some(gpu), ..Conditions::default() };
    let server = serving_under(conditions, &Arc::new(shelf), residency());
    for model in ["a", "b"] {
        generate(&server, model, json!({})).await;
    }
    assert_eq!(running(&server).await, ["a:latest", "b:latest"]);
    assert_eq!(embed(&server, "a").await.0, StatusCode::OK);
    assert_eq!(running(&server).await, ["a:latest"]);
    generate(&server, "b", json!({})).await;
    assert_eq!(running(&server).await, ["b:latest"]);
}
