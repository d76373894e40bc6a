//! The whole server over a scripted device: real engine, real tokenizer, real HTTP messages.

mod adapters;
mod anthropic;
mod constraints;
mod device;
mod go_templates;
mod jan;
mod limits;
mod management;
mod memory;
mod ollama;
mod openai;
mod openai_tgi;
mod platforms;
mod residency;
mod responses;
mod roles;
mod special_tokens;
mod store;
mod tgi;
mod tools;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use weirgate_engine::{EmbedInput, EmbedLimits, Embedder, ExecutorError, RopeRule};
use weirgate_store::Store;

use crate::api::AppState;
use crate::assemble::{Assembled, assemble};
use crate::config::{
    DeviceSetting, EngineSettings, GrammarBackend, GrammarWhitespace, Limits, LogSettings, ModelLocation,
    Profile, RouterConfig, VertexRoutes,
};
use crate::load::{Loaded, LoadedEngine, TextModel};
use crate::memory::Place;
use crate::residency::{Card, Models};
use crate::server;
use crate::service::{ChatTemplate, EmbedProfile, Unstarted};
use crate::sizing::{BLOCK_SIZE, DeviceKind, Sizing};
use crate::test_tokenizers::byte_level;
use device::{Device, Gate};

/// What the device writes after every prompt, byte by byte, and then the end-of-sequence token.
const SCRIPT: &str = "Hello, wörld! Bye.";
const END: u32 = 257;
const TEMPLATE: &str = "{{ guideline or '' }}{{ mood or '' }}{% for d in documents or [] %}{{ d.text }}{% endfor %}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}bot: {% endif %}";
/// Of the model named `infill`.
const INFILL: &str = "<{{ suffix }}>{{ prompt }}";
/// The seed whose sequence 0 writes the script as it is.
const OWN_SEED: u64 = 997;
const BLOCKS: usize = 64;

pub(crate) fn config() -> RouterConfig {
    RouterConfig {
        model: ModelLocation::Embedded,
        model_id: "test/model".into(),
        model_sha: Some("abc".into()),
        tokenizer_config_path: None,
        listen: "127.0.0.1:0".parse().unwrap(),
        profile: Profile::OpenAi,
        ollama_listen: None,
        jan_listen: None,
        management_listen: None,
        limits: Limits {
            max_concurrent_requests: 4,
            max_best_of: 2,
            max_stop_sequences: 4,
            max_top_n_tokens: 5,
            max_client_batch_size: 3,
            payload_limit: 4000,
            max_request_seconds: 0,
            max_input_tokens: None,
            max_total_tokens: None,
            max_context: None,
        },
        engine: EngineSettings {
            device: DeviceSetting::Cpu,
            cuda_memory_fraction: 1.0,
            cuda_graphs: None,
            deterministic: false,
            kernel_cache: None,
            own_gemm: false,
            kv_cache_dtype: None,
            threads: None,
            max_batch_prefill_tokens: None,
            max_batch_total_tokens: None,
            max_batch_size: None,
            waiting_served_ratio: 0.3,
            max_waiting_tokens: 20,
            prefix_caching: true,
            speculate: 0,
            rope_scaling: None,
            quantize: None,
            num_shard: 1,
        },
        traces: None,
        log: LogSettings { level: "info".into(), json: false, color: false },
        api_keys: Vec::new(),
        admin_api_keys: Vec::new(),
        guard_info: false,
        cors_allow_origin: Vec::new(),
        compute_type: "test".into(),
        vertex: VertexRoutes::default(),
        validation_workers: 1,
        default_max_new_tokens: Some(100),
        default_num_ctx: None,
        ollama_version: "0.14.0".into(),
        watermark_gamma: 0.5,
        watermark_delta: 2.0,
        disable_grammar_support: false,
        grammar_backend: GrammarBackend::Auto,
        grammar_whitespace: GrammarWhitespace::Compact,
        enable_prefill_logprobs: true,
        lora_adapters: Vec::new(),
        library: None,
        residency: residency::residency(),
        management: None,
        graceful_termination_seconds: 5,
        watchdog_seconds: 0,
        fault_stall_after_steps: None,
        fault_step_milliseconds: 0,
        fault_echo: false,
    }
}

/// A server without a socket.
struct TestServer {
    app: Router,
    state: AppState,
    gate: Gate,
}

/// A response read to its end.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The `data:` of every event, in the framing clients expect.
    #[track_caller]
    fn events(&self) -> Vec<String> {
        assert_eq!(self.headers["content-type"], "text/event-stream");
        let events: Vec<&str> = self.text.split_terminator("\n\n").collect();
        events.iter().map(|event| event.strip_prefix("data: ").expect("one data line").to_owned()).collect()
    }

    /// The events of a stream whose events have names, each of which is the data's `type`, too.
    #[track_caller]
    fn named_events(&self) -> Vec<Value> {
        assert_eq!(self.headers["content-type"], "text/event-stream");
        let event = |text: &str| {
            let (name, data) =
                text.strip_prefix("event: ").and_then(|rest| rest.split_once("\ndata: ")).unwrap();
            let data: Value = serde_json::from_str(data).unwrap();
            assert_eq!(data["type"], name);
            data
        };
        self.text.split_terminator("\n\n").map(event).collect()
    }

    #[track_caller]
    fn json_events(&self) -> Vec<Value> {
        self.events().iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }
}

impl TestServer {
    fn new() -> Self {
        Self::with(config())
    }

    fn with(config: RouterConfig) -> Self {
        Self::writing(SCRIPT, TEMPLATE, config)
    }

    /// A model that writes this script as far as it is allowed to, behind a chat template.
    fn writing(script: &str, template: &str, config: RouterConfig) -> Self {
        let gate = Gate::open();
        Self::of_loaded(loaded(script, template, &config, gate.clone()), &config, gate)
    }

    fn of_loaded(loaded: Loaded, config: &RouterConfig, gate: Gate) -> Self {
        let Assembled { model, outputs } = assemble(config, loaded).unwrap();
        let service = model.service.clone();
        tokio::spawn(service.dispatcher.clone().run(outputs, service.metrics.clone()));
        Self::of(Models::single(model, config.residency), config, gate)
    }

    fn of(models: Arc<Models>, config: &RouterConfig, gate: Gate) -> Self {
        Self::storing(None, models, config, gate)
    }

    /// With a store that models can be made in.
    fn storing(store: Option<Arc<Store>>, models: Arc<Models>, config: &RouterConfig, gate: Gate) -> Self {
        let state = AppState::new(models, store);
        Self { app: server::app(config, state.clone()), state, gate }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        answer(self.open(request).await).await
    }

    /// The response as soon as it has begun.
    async fn open(&self, request: Request<Body>) -> Response<Body> {
        self.app.clone().oneshot(request).await.unwrap()
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(post(path, &body)).await
    }

    async fn post_ok(&self, path: &str, body: Value) -> Value {
        let answer = self.post(path, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json()
    }

    /// The value of a series without labels, or with exactly these.
    async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.text;
        let prefix = format!("{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
        line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
    }

    /// Waits until the engine holds nothing.
    async fn idle(&self) {
        self.until(|stats| stats.used_blocks == 0 && stats.running == 0 && stats.live_requests == 0).await;
    }

    async fn until(&self, reached: impl Fn(&weirgate_engine::EngineStats) -> bool) {
        let wait = async {
            while !reached(&self.state.service.engine.stats()) {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        let patience = std::time::Duration::from_secs(20);
        tokio::time::timeout(patience, wait).await.expect("the engine did not get there");
    }
}

/// A model that writes a script, behind a gate; without a template where its text is empty.
fn loaded(script: &str, template: &str, config: &RouterConfig, gate: Gate) -> Loaded {
    let device = Device::new(script.bytes().map(u32::from).collect(), END, BLOCKS, BLOCK_SIZE, gate);
    let only = |text: &str| {
        let sources = [("default".into(), text.into())].into_iter().filter(|_| !text.is_empty());
        ChatTemplate::new(sources.collect(), Vec::new())
    };
    let text = TextModel {
        tokenizer: byte_level(),
        template: only(template),
        completion_template: config.model_id.ends_with("infill").then(|| only(INFILL)),
        eos_tokens: vec![END],
        max_length: None,
    };
    let sizing = Sizing {
        max_input_tokens: config.limits.max_input_tokens.unwrap_or(199),
        max_total_tokens: config.limits.max_total_tokens.unwrap_or(200),
        blocks: BLOCKS,
        block_bytes: 1,
        max_step_tokens: 64,
        max_seqs: 16,
        threads: 1,
        device: DeviceKind::Cpu,
    };
    let spec =
        weirgate_models::read_spec(&weirgate_testkit::Definition::named("llama").unwrap().files).unwrap();
    let engine = LoadedEngine::Generator {
        executor: Box::new(device),
        rope: RopeRule::default(),
        spec: Box::new(spec),
        vectors: None,
    };
    Loaded { text, engine, sizing, place: Place::Host, pool_bytes: 0, card: Card::default() }
}

/// Makes of each text the number of its tokens.
pub(crate) struct Lengths;

impl Lengths {
    pub fn unstarted() -> Unstarted {
        Unstarted { embedder: Box::new(Self), profile: EmbedProfile::default(), threads: 1 }
    }
}

impl Embedder for Lengths {
    fn limits(&self) -> EmbedLimits {
        EmbedLimits { vocab_size: 300, max_tokens: 64, max_step_tokens: 64, max_seqs: 8, dimensions: 1 }
    }

    fn embed(&mut self, texts: &[EmbedInput], out: &mut Vec<f32>) -> Result<(), ExecutorError> {
        out.extend(texts.iter().map(|text| text.tokens.len() as f32));
        Ok(())
    }
}

async fn answer(response: Response<Body>) -> Answer {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
}

fn post(path: &str, body: &Value) -> Request<Body> {
    Request::post(path).header("content-type", "application/json").body(Body::from(body.to_string())).unwrap()
}

/// `body` with the members of `more`.
fn merged(mut body: Value, more: Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

/// The events of a stream that passes its deadline after a few tokens.
async fn past_its_deadline(path: &'static str, body: Value) -> Vec<Value> {
    let mut config = config();
    config.limits.max_request_seconds = 1;
    let server = held(config);
    server.gate.allow(3);
    let answer = tokio::spawn({
        let server = server.clone();
        async move { server.post(path, body).await }
    });
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    server.gate.reopen();
    answer.await.unwrap().named_events()
}

fn greedy(more: Value) -> Value {
    let parameters = merged(json!({"max_new_tokens": 5, "do_sample": false}), more);
    json!({"inputs": "Say: ", "parameters": parameters})
}

/// A gate that stays shut until it is opened, and a server behind it.
fn held(config: RouterConfig) -> Arc<TestServer> {
    let server = TestServer::with(config);
    server.gate.shut();
    Arc::new(server)
}
