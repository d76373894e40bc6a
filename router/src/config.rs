//! Everything the router needs to know, resolved once by the launcher. Nothing downstream reads the environment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use weirgate_engine::{DType, KvType, SmallFloat};
pub use weirgate_grammar::{Backend as GrammarBackend, Whitespace as GrammarWhitespace};
use weirgate_models::{QuantMethod, QuantMix};

use crate::management::ManagementSettings;
use crate::residency::Residency;
use crate::telemetry::TraceSettings;

/// Resolved settings of one router process. Defaults are the launcher's business.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouterConfig {
    pub model: ModelLocation,
    /// The name clients see (`--model-id` as typed).
    pub model_id: String,
    /// The commit the hub resolved the revision to, if it did.
    pub model_sha: Option<String>,
    /// Read in place of the model's own `tokenizer_config.json`.
    pub tokenizer_config_path: Option<PathBuf>,
    pub listen: SocketAddr,
    pub profile: Profile,
    /// Another address to listen on, under the profile `ollama`.
    pub ollama_listen: Option<SocketAddr>,
    /// And one more, under the profile `jan`.
    pub jan_listen: Option<SocketAddr>,
    /// Another one, under the profile `management`.
    pub management_listen: Option<SocketAddr>,
    pub limits: Limits,
    pub engine: EngineSettings,
    pub log: LogSettings,
    /// `None`: no traces are recorded.
    pub traces: Option<TraceSettings>,
    /// To use models.
    pub api_keys: Vec<String>,
    /// To change which models there are as well. Without keys of either kind, listeners on loopback addresses let
    /// everybody.
    pub admin_api_keys: Vec<String>,
    /// `/info`, `/metrics` and `/v1/models` ask for a key, too.
    pub guard_info: bool,
    /// Of pages that browsers may call from; one `*` in each stands for anything. Empty: any page may use models, and
    /// those of this machine change them.
    pub cors_allow_origin: Vec<String>,
    /// What the `x-compute-type` header says.
    pub compute_type: String,
    pub vertex: VertexRoutes,
    /// Tokenizer and template threads.
    pub validation_workers: usize,
    /// `None`: generate until the total-token limit.
    pub default_max_new_tokens: Option<u32>,
    /// Ollama's `num_ctx` for requests without one; `None`: all that the model allows.
    pub default_num_ctx: Option<usize>,
    /// The Ollama that clients are to take this server for.
    pub ollama_version: String,
    pub watermark_gamma: f32,
    pub watermark_delta: f32,
    pub disable_grammar_support: bool,
    pub grammar_backend: GrammarBackend,
    pub grammar_whitespace: GrammarWhitespace,
    pub enable_prefill_logprobs: bool,
    /// Loaded beside the model, under their names.
    pub lora_adapters: Vec<LoraAdapter>,
    /// Models beside the one that is always there; `None`: there are no others.
    pub library: Option<Library>,
    pub residency: Residency,
    /// `None`: nothing is kept of jobs and data sets, so there are none.
    pub management: Option<ManagementSettings>,
    /// After SIGTERM, in-flight requests get this long.
    pub graceful_termination_seconds: u64,
    /// Requests waiting or running and no step for this long: the router reports itself unready and exits with
    /// [`crate::EXIT_STALLED`], so that the launcher restarts it. 0 switches the watchdog off.
    pub watchdog_seconds: u64,
    /// Fault injection for tests: the engine thread stops for ever after this many steps.
    pub fault_stall_after_steps: Option<u64>,
    /// Fault injection for tests: the engine's steps begin at least so far apart.
    pub fault_step_milliseconds: u64,
    /// Fault injection for tests: the model computes nothing and repeats the last token.
    pub fault_echo: bool,
}

/// An adapter of the model's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoraAdapter {
    pub name: String,
    /// A folder of PEFT's, or a GGUF file.
    pub path: PathBuf,
}

/// Models that are loaded on demand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Library {
    /// The store of our own, in Ollama's layout; made where it is missing.
    pub store: Option<PathBuf>,
    /// Ollama's own stores, read in place.
    pub ollama: Vec<PathBuf>,
    /// Jan's folder of models, put in order by this server; made where it is missing.
    pub jan: Option<PathBuf>,
    /// Caches of a model hub, read in place.
    pub hub_caches: Vec<PathBuf>,
    /// Hugging Face folders, GGUF files, and folders of either, read in place.
    pub folders: Vec<PathBuf>,
    /// The folder whose files Modelfiles may name.
    pub modelfiles: Option<PathBuf>,
    pub registries: Registries,
}

/// Where models may be pulled from and pushed to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registries {
    /// The hosts (with port, where it is not the usual one); empty for all.
    pub allowed: Vec<String>,
    /// Hosts, without port, that may have addresses in private networks or on this machine.
    pub private: Vec<String>,
    /// User and password by host (with port, where it is not the usual one).
    pub credentials: BTreeMap<String, (String, String)>,
    /// Certificates (PEM) to trust in place of the built-in ones.
    pub certificates: Option<PathBuf>,
}

/// Whose statuses, error bodies and quirks the routes under `/v1` show. The native routes of every dialect are the same
/// under each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// text-generation-inference's, to the letter.
    Tgi,
    /// OpenAI's own.
    OpenAi,
    Ollama,
    Jan,
    Management,
}

/// Where the checkpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModelLocation {
    /// The demo model inside the binary.
    Embedded,
    /// A Hugging Face style folder, or a GGUF file.
    Local(PathBuf),
}

/// The paths that Vertex AI calls, as it tells its containers (`AIP_PREDICT_ROUTE`, `AIP_HEALTH_ROUTE`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VertexRoutes {
    /// POST: answered as `/vertex`.
    pub predict: Option<String>,
    /// GET: answered as `/health`.
    pub health: Option<String>,
}

/// What a request may ask for (reference: TGI's launcher flags of the same names).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub max_concurrent_requests: usize,
    pub max_best_of: usize,
    pub max_stop_sequences: usize,
    pub max_top_n_tokens: u32,
    pub max_client_batch_size: usize,
    /// Bytes of a request body.
    pub payload_limit: usize,
    /// Seconds from a request's admission to its end. 0: no limit.
    pub max_request_seconds: u64,
    /// Prompt tokens; `None`: `max_total_tokens - 1`.
    pub max_input_tokens: Option<usize>,
    /// Prompt plus output; `None`: the least of KV pool, tokenizer's and model's maximum.
    pub max_total_tokens: Option<usize>,
    /// No more than this of the model's own maximum.
    pub max_context: Option<usize>,
}

/// How the engine is built.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineSettings {
    pub device: DeviceSetting,
    /// Share of a GPU's memory that this process may take, 0 to 1.
    pub cuda_memory_fraction: f32,
    /// Tokens of the steps that are recorded as CUDA graphs; `None`: chosen for the device, empty: none.
    pub cuda_graphs: Option<Vec<usize>>,
    /// Whether a request's tokens must not depend on what else is computed, on a GPU, too.
    pub deterministic: bool,
    /// Where kernels are kept that had to be compiled at start; `None`: nowhere.
    pub kernel_cache: Option<PathBuf>,
    /// Large products on a GPU by our own kernels, though cuBLASLt may be there.
    pub own_gemm: bool,
    /// `--kv-cache-dtype`; `None`: floats that fit the checkpoint.
    pub kv_cache_dtype: Option<KvCacheDtype>,
    /// Worker threads; `None`: all processors this process may use.
    pub threads: Option<usize>,
    /// Tokens per step; `None`: chosen for the device.
    pub max_batch_prefill_tokens: Option<usize>,
    /// KV pool in tokens; `None`: from free memory.
    pub max_batch_total_tokens: Option<usize>,
    /// Sequences per step; `None`: chosen for the device.
    pub max_batch_size: Option<usize>,
    /// Waiting prompts for each sequence that decodes which come before it.
    pub waiting_served_ratio: f32,
    /// So many steps that decode, and any waiting prompt comes first; 0: prompts are only computed beside them.
    pub max_waiting_tokens: usize,
    pub prefix_caching: bool,
    /// Most tokens guessed ahead per sequence and step; 0 for none.
    pub speculate: usize,
    /// `--rope-scaling`, `--rope-factor`: replaces the checkpoint's scaling.
    pub rope_scaling: Option<RopeOverride>,
    pub quantize: Option<Quantize>,
    /// Into how many parts a model is split; 1 for none.
    pub num_shard: usize,
}

/// What `--kv-cache-dtype` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvCacheDtype {
    Float16,
    Bfloat16,
    Fp8E4m3fn,
    Fp8E5m2,
}

impl KvCacheDtype {
    pub fn name(self) -> &'static str {
        KvType::from(self).name()
    }

    /// Whether the CPU has no such cache.
    pub fn takes_gpu(self) -> bool {
        matches!(KvType::from(self), KvType::Small(_))
    }
}

impl From<KvCacheDtype> for KvType {
    fn from(dtype: KvCacheDtype) -> Self {
        match dtype {
            KvCacheDtype::Float16 => DType::F16.into(),
            KvCacheDtype::Bfloat16 => DType::BF16.into(),
            KvCacheDtype::Fp8E4m3fn => SmallFloat::E4M3.into(),
            KvCacheDtype::Fp8E5m2 => SmallFloat::E5M2.into(),
        }
    }
}

/// What `--quantize` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Quantize {
    /// Float weights are quantized while they are loaded.
    Convert(QuantMix),
    /// The main model is a checkpoint of this kind; it is an error if it is another.
    Stored(QuantMethod),
}

impl Quantize {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Convert(mix) => mix.name(),
            Self::Stored(method) => method.name(),
        }
    }
}

/// What to compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceSetting {
    /// The first GPU that can be used, else the CPU.
    Auto,
    Cpu,
    /// The GPU of this number, as the driver counts them.
    Cuda(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum RopeOverride {
    Linear { factor: f64 },
    Dynamic { factor: f64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSettings {
    /// A `tracing` filter, e.g. `info` or `weirgate_engine=debug`.
    pub level: String,
    pub json: bool,
    pub color: bool,
}
