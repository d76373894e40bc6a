//! Several models: loaded when they are asked for, kept, and unloaded.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::*;
use weirgate_store::Show;

use crate::memory::Place;
use crate::residency::{
    AcquireError, Alias, Conditions, KeepAlive, Layers, Library, Presence, Residency, Turns,
};
use crate::service::Beside;

/// Models `a`, `b`, `c`, ..., each of which writes its name over and over; `broken` cannot be loaded.
pub(super) struct Shelf {
    pub names: Vec<&'static str>,
    pub loads: AtomicUsize,
    /// How often a model was looked for.
    pub finds: AtomicUsize,
    /// Part of the digests.
    pub version: AtomicUsize,
    /// When each was made.
    pub modified: HashMap<&'static str, SystemTime>,
    /// Loading waits for these, by name.
    pub doors: Mutex<HashMap<&'static str, Arc<std::sync::Barrier>>>,
    pub gates: HashMap<&'static str, Gate>,
    pub layers: Layers,
    /// Of each model's files.
    pub bytes: u64,
    /// Those that are computed on a GPU.
    pub on_gpu: Vec<&'static str>,
    /// Those that make vectors, too.
    pub embeds: Vec<&'static str>,
}

impl Shelf {
    pub fn of(names: &[&'static str]) -> Self {
        Self {
            names: names.to_vec(),
            loads: AtomicUsize::new(0),
            finds: AtomicUsize::new(0),
            version: AtomicUsize::new(0),
            modified: HashMap::new(),
            doors: Mutex::default(),
            gates: names.iter().map(|name| (*name, Gate::open())).collect(),
            layers: Layers::default(),
            bytes: 1,
            on_gpu: Vec::new(),
            embeds: Vec::new(),
        }
    }

    fn card(&self, name: &str) -> Card {
        let digest = format!("{name}{}", self.version.load(Ordering::SeqCst));
        Card {
            name: name.into(),
            family: "llama".into(),
            families: ["llama", "clip"].map(String::from).to_vec(),
            parent: "base:7b".into(),
            digest,
            bytes: self.bytes,
            modified: self.modified.get(name).copied(),
            layers: self.layers.clone(),
            ..Card::default()
        }
    }
}

impl Library for Arc<Shelf> {
    fn cards(&self) -> Vec<Card> {
        self.names.iter().map(|name| self.card(name)).collect()
    }

    fn find(&self, name: &str) -> Result<Card, AcquireError> {
        self.finds.fetch_add(1, Ordering::SeqCst);
        let known = self.names.iter().find(|known| self.card(known).is_called(name));
        known.map(|name| self.card(name)).ok_or(AcquireError::NotFound)
    }

    fn is_current(&self, card: &Card) -> bool {
        self.card(&card.name).digest == card.digest
    }

    fn show(&self, card: &Card, verbose: bool) -> Result<Show, AcquireError> {
        Ok(card.shown(verbose))
    }

    fn place(&self, card: &Card) -> Place {
        if self.on_gpu.contains(&card.name.as_str()) { Place::Gpu } else { Place::Host }
    }

    fn load(&self, card: &Card) -> Result<Assembled, AcquireError> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        let name = card.name.as_str();
        let door = self.doors.lock().unwrap().get(name).cloned();
        if let Some(door) = door {
            door.wait();
        }
        if name == "broken" {
            return Err(AcquireError::Failed("it is broken".into()));
        }
        let config = RouterConfig { model_id: name.into(), ..config() };
        let gate = self.gates[name].clone();
        let mut loaded = Loaded {
            card: card.clone(),
            place: self.place(card),
            ..loaded(&name.repeat(100), TEMPLATE, &config, gate)
        };
        if let LoadedEngine::Generator { vectors, .. } = &mut loaded.engine
            && self.embeds.contains(&name)
        {
            *vectors = Some(Beside::new(|| Ok(Lengths::unstarted())));
        }
        Ok(assemble(&config, loaded).unwrap())
    }
}

pub(super) fn residency() -> Residency {
    Residency { keep_alive: KeepAlive::For(Duration::from_secs(300)), max_loaded: 0, max_queue: 16 }
}

pub(super) fn serving(shelf: &Arc<Shelf>, residency: Residency) -> Arc<TestServer> {
    serving_under(Conditions::default(), shelf, residency)
}

pub(super) fn serving_under(
    conditions: Conditions,
    shelf: &Arc<Shelf>,
    residency: Residency,
) -> Arc<TestServer> {
    let (config, gate) = (config(), Gate::open());
    let Assembled { model, outputs } =
        assemble(&config, loaded(SCRIPT, TEMPLATE, &config, gate.clone())).unwrap();
    let service = model.service.clone();
    tokio::spawn(service.dispatcher.clone().run(outputs, service.metrics.clone()));
    let models = Models::with_library(model, Box::new(shelf.clone()), residency, conditions);
    Arc::new(TestServer::of(models, &config, gate))
}

/// Waits until so many requests wait.
pub(super) async fn queued(server: &TestServer, count: usize) {
    eventually(&format!("{count} wait"), async || server.state.models.queue().waiting() == count).await;
}

pub(super) async fn generate(server: &TestServer, model: &str, more: Value) -> Value {
    let body = merged(
        json!({"model": model, "prompt": "Hi", "stream": false, "options": {"temperature": 0, "num_predict": 3}}),
        more,
    );
    server.post("/api/generate", body).await.json()
}

pub(super) async fn running(server: &TestServer) -> Vec<String> {
    let ps = server.get("/api/ps").await.json();
    let names =
        ps["models"].as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap().to_owned());
    let mut names: Vec<String> = names.filter(|name| name != "test/model:latest").collect();
    names.sort();
    names
}

pub(super) async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    for _ in 0..2000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn models_are_loaded_by_name_and_found_by_every_dialect() {
    let shelf = Arc::new(Shelf::of(&["a", "b"]));
    let server = serving(&shelf, residency());
    assert!(running(&server).await.is_empty());
    assert_eq!(generate(&server, "a", json!({})).await["response"], "aaa");
    assert_eq!(generate(&server, "B:latest", json!({})).await["response"], "bbb");
    assert_eq!(generate(&server, "test/model", json!({})).await["response"], "Hel");
    assert_eq!((running(&server).await.len(), shelf.loads.load(Ordering::SeqCst)), (2, 2));
    let chat = async |model: Value| {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": 2});
        server.post("/v1/chat/completions", body).await
    };
    for (model, text) in [
        (json!("a"), "aa"),
        (json!("tgi"), "He"),
        (json!(""), "He"),
        (json!(null), "He"),
        (json!("test/model"), "He"),
    ] {
        assert_eq!(chat(model).await.json()["choices"][0]["message"]["content"], text);
    }
    let unknown = chat(json!("z")).await;
    assert_eq!(
        (unknown.status, &unknown.json()["error"]["code"]),
        (StatusCode::NOT_FOUND, &json!("model_not_found"))
    );
    let body = json!({"model": "b", "prompt": "Hi", "temperature": 0, "max_tokens": 2});
    assert_eq!(server.post("/v1/completions", body).await.json()["choices"][0]["text"], "bb");
    let listed = server.get("/v1/models").await.json();
    let ids: Vec<&Value> = listed["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert_eq!(ids, ["test/model", "a", "b"]);
    assert_eq!(server.get("/v1/models/b").await.json()["id"], "b");
    assert_eq!(server.get("/v1/models/z").await.status, StatusCode::NOT_FOUND);
    let tags = server.get("/api/tags").await.json();
    assert_eq!(tags["models"].as_array().unwrap().len(), 3);
    assert_eq!(generate(&server, "z", json!({})).await, json!({"error": "model 'z' not found"}));
}

#[tokio::test]
async fn requests_for_one_model_share_its_load_and_others_do_not_wait() {
    let shelf = Arc::new(Shelf::of(&["a", "b"]));
    let door = Arc::new(std::sync::Barrier::new(2));
    shelf.doors.lock().unwrap().insert("a", door.clone());
    let server = serving(&shelf, residency());
    let asked: Vec<_> = (0..4)
        .map(|_| {
            let server = server.clone();
            tokio::spawn(async move { generate(&server, "a", json!({})).await["response"].clone() })
        })
        .collect();
    eventually("the load begins", async || shelf.loads.load(Ordering::SeqCst) == 1).await;
    // While it lasts, what is loaded answers.
    assert_eq!(generate(&server, "test/model", json!({})).await["response"], "Hel");
    tokio::task::spawn_blocking(move || door.wait()).await.unwrap();
    for answer in asked {
        assert_eq!(answer.await.unwrap(), "aaa");
    }
    assert_eq!(shelf.loads.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_queue_is_bounded() {
    let shelf = Arc::new(Shelf::of(&["a"]));
    let door = Arc::new(std::sync::Barrier::new(2));
    shelf.doors.lock().unwrap().insert("a", door.clone());
    let server = serving(&shelf, Residency { max_queue: 1, ..residency() });
    let first = tokio::spawn({
        let server = server.clone();
        async move { generate(&server, "a", json!({})).await }
    });
    eventually("the load begins", async || shelf.loads.load(Ordering::SeqCst) == 1).await;
    let refused = server.post("/api/generate", json!({"model": "a", "prompt": "Hi"})).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.json()["error"].as_str().unwrap().starts_with("server busy"));
    tokio::task::spawn_blocking(move || door.wait()).await.unwrap();
    assert_eq!(first.await.unwrap()["response"], "aaa");
}

/// What is said while it is loaded counts as much as what is said afterwards: the last word does.
#[tokio::test]
async fn a_model_that_is_given_up_while_it_is_loaded_does_not_stay() {
    for again in [false, true] {
        let shelf = Arc::new(Shelf::of(&["a"]));
        let door = Arc::new(std::sync::Barrier::new(2));
        shelf.doors.lock().unwrap().insert("a", door.clone());
        let server = serving(&shelf, residency());
        let spawn = || {
            let server = server.clone();
            tokio::spawn(async move { generate(&server, "a", json!({})).await["response"].clone() })
        };
        let mut asked = vec![spawn()];
        queued(&server, 1).await;
        let given_up = generate(&server, "a", json!({"prompt": "", "keep_alive": 0})).await;
        assert_eq!(given_up["done_reason"], "unload");
        if again {
            asked.push(spawn());
            queued(&server, 2).await;
        }
        tokio::task::spawn_blocking(move || door.wait()).await.unwrap();
        for answer in asked {
            assert_eq!(answer.await.unwrap(), "aaa");
        }
        if again {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(running(&server).await, ["a:latest"]);
        } else {
            eventually("it has gone", async || running(&server).await.is_empty()).await;
        }
        assert_eq!(shelf.loads.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn models_leave_when_their_time_is_over() {
    let shelf = Arc::new(Shelf::of(&["a", "b", "c"]));
    let server = serving(&shelf, Residency { keep_alive: KeepAlive::NOT_AT_ALL, ..residency() });
    generate(&server, "a", json!({})).await;
    generate(&server, "b", json!({"keep_alive": -1})).await;
    generate(&server, "c", json!({"keep_alive": "1h"})).await;
    eventually("a is gone", async || running(&server).await == ["b:latest", "c:latest"]).await;
    // At once, when it is said; and the pinned model never.
    assert_eq!(generate(&server, "c", json!({"prompt": "", "keep_alive": 0})).await["done_reason"], "unload");
    assert_eq!(running(&server).await, ["b:latest"]);
    generate(&server, "test/model", json!({"prompt": "", "keep_alive": 0})).await;
    assert_eq!(generate(&server, "test/model", json!({})).await["response"], "Hel");
    assert_eq!(generate(&server, "a", json!({})).await["response"], "aaa");
    assert_eq!(shelf.loads.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn the_idle_model_used_longest_ago_makes_room_and_one_in_use_does_not() {
    let shelf = Arc::new(Shelf::of(&["a", "b", "c"]));
    let server = serving(&shelf, Residency { max_loaded: 2, ..residency() });
    for model in ["a", "b", "a"] {
        generate(&server, model, json!({})).await;
    }
    generate(&server, "c", json!({})).await;
    assert_eq!(running(&server).await, ["a:latest", "c:latest"]);
    // Both are in use now: the third waits until one is free.
    shelf.gates["a"].shut();
    shelf.gates["c"].shut();
    let spawn = |model: &'static str| {
        let server = server.clone();
        tokio::spawn(async move { generate(&server, model, json!({})).await["response"].clone() })
    };
    let (a, c) = (spawn("a"), spawn("c"));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let b = spawn("b");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(running(&server).await, ["a:latest", "c:latest"]);
    shelf.gates["c"].reopen();
    assert_eq!((c.await.unwrap(), b.await.unwrap()), (json!("ccc"), json!("bbb")));
    assert_eq!(running(&server).await, ["a:latest", "b:latest"]);
    shelf.gates["a"].reopen();
    assert_eq!(a.await.unwrap(), "aaa");
}

#[tokio::test]
async fn models_that_are_never_idle_take_turns() {
    let shelf = Arc::new(Shelf::of(&["a", "b"]));
    let server = serving(&shelf, Residency { max_loaded: 1, ..residency() });
    // Each asks again as soon as it is answered, so each model is in use all the time that it is there.
    let users: Vec<_> = ["a", "a", "b", "b"]
        .into_iter()
        .map(|model| {
            let server = server.clone();
            tokio::spawn(async move {
                for _ in 0..4 {
                    assert_eq!(generate(&server, model, json!({})).await["response"], model.repeat(3));
                }
            })
        })
        .collect();
    for user in users {
        tokio::time::timeout(Duration::from_secs(60), user).await.expect("its turn").unwrap();
    }
}

/// The limit is one on the library's models: that of the server itself takes none of their places.
#[tokio::test]
async fn one_model_at_a_time_is_one_beside_the_servers_own() {
    let shelf = Arc::new(Shelf::of(&["a", "b"]));
    let server = serving(&shelf, Residency { max_loaded: 1, ..residency() });
    for (model, text) in [("a", "aaa"), ("b", "bbb"), ("test/model", "Hel"), ("b", "bbb")] {
        assert_eq!(generate(&server, model, json!({})).await["response"], text);
    }
    assert_eq!(
        (running(&server).await, shelf.loads.load(Ordering::SeqCst)),
        (vec!["b:latest".to_owned()], 2)
    );
}

/// Of the models that are in a load's way, one alone is kept from requests, and not for ever.
#[tokio::test]
async fn a_load_that_waits_keeps_requests_from_one_model_for_a_while() {
    let shelf = Arc::new(Shelf::of(&["a", "b", "c"]));
    let turns = Turns { patience: Duration::from_millis(20), closed: Duration::from_secs(2) };
    let conditions = Conditions { turns, ..Conditions::default() };
    let server = serving_under(conditions, &shelf, Residency { max_loaded: 2, ..residency() });
    let models = &server.state.models;
    // Both are in use all the time.
    let first = models.acquire("a", None).await.unwrap();
    let second = models.acquire("b", None).await.unwrap();
    let ask = |model: &'static str| {
        let server = server.clone();
        tokio::spawn(async move { generate(&server, model, json!({})).await["response"].clone() })
    };
    let load = ask("c");
    queued(&server, 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let kept = ask("a");
    queued(&server, 2).await;
    assert_eq!(ask("b").await.unwrap(), "bbb", "nothing is in its way");
    assert!(!kept.is_finished());
    // It gets its answer though the load has not begun.
    let kept = tokio::time::timeout(Duration::from_secs(60), kept).await.expect("open again").unwrap();
    assert_eq!(
        (kept, running(&server).await),
        (json!("aaa"), vec!["a:latest".to_owned(), "b:latest".to_owned()])
    );
    drop(first);
    assert_eq!(load.await.unwrap(), "ccc");
    assert_eq!(running(&server).await, ["b:latest", "c:latest"]);
    drop(second);
}

#[tokio::test]
async fn contexts_of_all_lengths_are_one_load() {
    let shelf = Arc::new(Shelf::of(&["a"]));
    let server = serving(&shelf, residency());
    for num_ctx in [8, 4096, 64, 8] {
        let options = json!({"temperature": 0, "num_predict": 3, "num_ctx": num_ctx});
        assert_eq!(generate(&server, "a", json!({"options": options})).await["response"], "aaa");
    }
    assert_eq!(shelf.loads.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_model_that_is_replaced_is_another_one_at_once() {
    let shelf = Arc::new(Shelf::of(&["a"]));
    let server = serving(&shelf, residency());
    generate(&server, "a", json!({})).await;
    generate(&server, "a", json!({})).await;
    assert_eq!(
        (shelf.loads.load(Ordering::SeqCst), shelf.finds.load(Ordering::SeqCst)),
        (1, 1),
        "found once"
    );
    shelf.version.fetch_add(1, Ordering::SeqCst);
    generate(&server, "a", json!({})).await;
    assert_eq!(shelf.loads.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_costs_only_who_asked() {
    let shelf = Arc::new(Shelf::of(&["broken", "a"]));
    let server = serving(&shelf, residency());
    for _ in 0..2 {
        let answer = server.post("/api/generate", json!({"model": "broken", "prompt": "Hi"})).await;
        assert_eq!(
            (answer.status, answer.json()),
            (StatusCode::INTERNAL_SERVER_ERROR, json!({"error": "it is broken"}))
        );
    }
    assert_eq!(shelf.loads.load(Ordering::SeqCst), 2, "it is tried anew");
    assert_eq!(generate(&server, "a", json!({})).await["response"], "aaa");
}

#[tokio::test]
async fn a_model_brings_its_own_words() {
    let mut shelf = Shelf::of(&["a"]);
    let message = json!({"role": "assistant", "content": "so"});
    shelf.layers = Layers {
        parameters: json!({"num_predict": 2, "stop": ["never"]}).as_object().unwrap().clone(),
        system: Some("Be.".into()),
        template: Some("{{ range .Messages }}[{{ .Role }} {{ .Content }}]{{ end }}".into()),
        messages: vec![message.as_object().unwrap().clone()],
        licenses: vec!["free".into()],
    };
    let server = serving(&Arc::new(shelf), residency());
    let render = async |path: &str, more: Value| {
        let mut body = json!({"model": "a", "_debug_render_only": true});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.post(path, body).await.json()["_debug_info"]["rendered_template"].clone()
    };
    let hi = json!([{"role": "user", "content": "Hi"}]);
    assert_eq!(render("/api/chat", json!({"messages": hi})).await, "[system Be.][assistant so][user Hi]");
    let own = json!([{"role": "system", "content": "No."}, {"role": "user", "content": "Hi"}]);
    assert_eq!(render("/api/chat", json!({"messages": own})).await, "[assistant so][system No.][user Hi]");
    assert_eq!(render("/api/generate", json!({"prompt": "Hi"})).await, "[system Be.][user Hi]");
    let other = json!({"prompt": "Hi", "system": "X", "template": "{{ .System }}: {{ .Prompt }}"});
    assert_eq!(render("/api/generate", other).await, "X: Hi");
    let answer = server
        .post(
            "/api/generate",
            json!({"model": "a", "prompt": "Hi", "stream": false, "options": {"temperature": 0}}),
        )
        .await
        .json();
    assert_eq!(answer["eval_count"], 2);
    let shown = server.post("/api/show", json!({"model": "a"})).await.json();
    assert_eq!(
        (&shown["license"], &shown["system"], &shown["messages"]),
        (&json!("free"), &json!("Be."), &json!([message]))
    );
    let wrong =
        server.post("/api/generate", json!({"model": "a", "prompt": "Hi", "template": "{{ if }}"})).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_models_details_are_the_same_wherever_they_are_told() {
    let server = serving(&Arc::new(Shelf::of(&["a"])), residency());
    generate(&server, "a", json!({})).await;
    let listed = async |path: &str| {
        let models = server.get(path).await.json()["models"].clone();
        models.as_array().unwrap().iter().find(|model| model["name"] == "a:latest").unwrap()["details"]
            .clone()
    };
    let shown = server.post("/api/show", json!({"model": "a"})).await.json()["details"].clone();
    for details in [listed("/api/tags").await, listed("/api/ps").await, shown] {
        assert_eq!(
            (&details["parent_model"], &details["family"], &details["families"]),
            (&json!("base:7b"), &json!("llama"), &json!(["llama", "clip"]))
        );
    }
}

/// What was made last comes first in the one list, what stays longest in the other.
#[tokio::test]
async fn lists_have_ollamas_order() {
    let mut shelf = Shelf::of(&["a", "b", "c"]);
    let day = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * 24 * 3600);
    shelf.modified = [("a", day(2)), ("b", day(3)), ("c", day(1))].into();
    let server = serving(&Arc::new(shelf), residency());
    let listed = async |path: &str, time: &str| {
        let models = server.get(path).await.json()["models"].clone();
        let text = |model: &Value, key: &str| model[key].as_str().unwrap().to_owned();
        let models = models.as_array().unwrap();
        let names: Vec<String> = models.iter().map(|model| text(model, "name")).collect();
        let times: Vec<_> = models
            .iter()
            .map(|model| chrono::DateTime::parse_from_rfc3339(&text(model, time)).unwrap())
            .collect();
        assert!(times.is_sorted_by(|earlier, later| earlier >= later), "{path}: {times:?}");
        names
    };
    assert_eq!(
        listed("/api/tags", "modified_at").await,
        ["b:latest", "a:latest", "c:latest", "test/model:latest"]
    );
    for (model, keep) in [("a", json!("1h")), ("b", json!("90s")), ("c", json!("2h"))] {
        generate(&server, model, json!({"keep_alive": keep})).await;
    }
    let running = async || listed("/api/ps", "expires_at").await;
    assert_eq!(running().await, ["test/model:latest", "c:latest", "a:latest", "b:latest"]);
    generate(&server, "b", json!({"keep_alive": -1})).await;
    assert_eq!(running().await, ["test/model:latest", "b:latest", "c:latest", "a:latest"]);
}

#[tokio::test]
async fn a_pinned_model_makes_no_room_and_answers_to_its_aliases() {
    let shelf = Arc::new(Shelf::of(&["a", "b"]));
    let server = serving(&shelf, Residency { max_loaded: 1, ..residency() });
    let models = &server.state.models;
    let pin = models.pin("a").await.unwrap();
    let alias = Alias { model: "a".into(), adapter: None };
    models.set_aliases([("deployed".to_owned(), alias)].into());
    assert_eq!(generate(&server, "Deployed", json!({})).await["response"], "aaa");
    let refused = generate(&server, "b", json!({})).await;
    let why = refused["error"].as_str().unwrap();
    assert!(why.contains("deployed") && why.contains("--max-loaded-models"), "{refused}");
    assert_eq!(running(&server).await, ["a:latest"]);
    // What a request says of how long it stays changes nothing.
    generate(&server, "a", json!({"keep_alive": 0})).await;
    let (model, left) = models.resident().pop().unwrap();
    assert!(model.card.is_called("a"), "{}", model.card.name);
    assert_eq!((left, models.presence(&model.card)), (None, Presence::Ready));
    drop(pin);
    assert_eq!(generate(&server, "b", json!({})).await["response"], "bbb");
    models.set_aliases(HashMap::new());
    let unknown = generate(&server, "deployed", json!({})).await;
    assert!(unknown["error"].as_str().unwrap().contains("not found"), "{unknown}");
}
