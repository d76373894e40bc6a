//! What was typed: every launcher flag and environment variable of text-generation-inference, with its default, and
//! a few of our own. Nothing is decided here; [`crate::config`] does that.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, CommandFactory, FromArgMatches, Parser};

use weirgate_router::{DatabaseUrl, KeepAlive};

use crate::values::{
    Bucket, Device, Dtype, FileType, GrammarBackend, GrammarWhitespace, JanHost, KvCacheDtype,
    ManagementHost, OllamaHost, Profile, Quantization, RopeScaling, TokenLimit, UsageStats, is_tgi_program,
    parse_bool,
};

const COMMANDS: &str = "\
Commands:
  weirgate download <ID>   Download a model and print its folder
  weirgate quantize <FOLDER> <OUT.gguf> --type <TYPE>
                           Convert a checkpoint to GGUF
  weirgate env             Print the runtime environment
  weirgate openapi         Print the OpenAPI document of the HTTP API
  weirgate serve           Serve as SageMaker expects: port 8080, its variables, /opt/ml/model

With no command the model is served. Every flag may be given as the environment variable named beside it; an \
empty variable counts as unset.";

/// Serve a language model over HTTP, as a drop-in successor of text-generation-inference.
#[derive(Parser)]
#[command(name = "weirgate", version, after_help = COMMANDS)]
pub struct LowArgs {
    /// Model to serve: a hub id such as `org/name`, a local folder, or a .gguf file. Without it, the demo model inside the binary.
    #[arg(long, env)]
    pub model_id: Option<String>,

    /// Branch, tag, commit or `refs/pr/N` of the model on the hub.
    #[arg(long, env)]
    pub revision: Option<String>,

    /// Threads for tokenizing and chat templates.
    #[arg(long, env, default_value_t = 2)]
    pub validation_workers: usize,

    /// Whether to split the model over all GPUs; without `--num-shard`, the visible ones from that of `--device` on.
    #[arg(long, env, value_parser = parse_bool)]
    pub sharded: Option<bool>,

    /// Number of parts to split the model into, which compute together: each on a GPU of its own, or all on the CPU.
    #[arg(long, env)]
    pub num_shard: Option<usize>,

    /// Quantize float weights while they are loaded: q8_0, q4_0, q4_k_m, q5_k_m or q6_k. Or expect a checkpoint that is quantized already (which loads without this, too): awq, gptq (or marlin), fp8 or compressed-tensors. The others are not supported.
    #[arg(long, env, value_enum)]
    pub quantize: Option<Quantization>,

    /// Most tokens guessed ahead per sequence and step, from what its text said before; checked in one step, so that
    /// tokens come sooner and are the same. Off by default.
    #[arg(long, env)]
    pub speculate: Option<usize>,

    /// Weight type. The CPU computes on the type that the checkpoint stores, with sums in f32, so this changes nothing.
    #[arg(long, env, value_enum)]
    pub dtype: Option<Dtype>,

    /// KV cache type; without it, float16, or f32 for weights in f32. On a GPU alone: eight-bit floats with a scale for each
    /// head and token, for twice the tokens.
    #[arg(long, env, value_enum)]
    pub kv_cache_dtype: Option<KvCacheDtype>,

    /// Run code from the model repository. Never done here: accepted, and without effect.
    #[arg(long, env, action = ArgAction::SetTrue, value_parser = parse_bool)]
    pub trust_remote_code: bool,

    /// Requests in flight; one more is refused at once with status 429.
    #[arg(long, env, default_value_t = 128)]
    pub max_concurrent_requests: usize,

    /// Largest `best_of`.
    #[arg(long, env, default_value_t = 2)]
    pub max_best_of: usize,

    /// Most stop sequences in a request.
    #[arg(long, env, default_value_t = 4)]
    pub max_stop_sequences: usize,

    /// Largest `top_n_tokens` and `top_logprobs`.
    #[arg(long, env, default_value_t = 5)]
    pub max_top_n_tokens: u32,

    /// Most prompt tokens. Default: one less than `--max-total-tokens`.
    #[arg(long, env)]
    pub max_input_tokens: Option<usize>,

    /// Former name of `--max-input-tokens`.
    #[arg(long, env)]
    pub max_input_length: Option<usize>,

    /// Most prompt and output tokens together. Default: what the model and the KV cache allow.
    #[arg(long, env)]
    pub max_total_tokens: Option<usize>,

    /// So many waiting prompts for each sequence that has just begun to decode are computed before it goes on, on the CPU. Fewer are computed beside it.
    #[arg(long, env, default_value_t = 0.3)]
    pub waiting_served_ratio: f32,

    /// Most tokens computed in one step.
    #[arg(long, env)]
    pub max_batch_prefill_tokens: Option<usize>,

    /// Tokens in the KV cache. Default: from free memory.
    #[arg(long, env)]
    pub max_batch_total_tokens: Option<usize>,

    /// 0: prompts are always computed beside what decodes, never before it. Other values change nothing, as prompts need not wait.
    #[arg(long, env, default_value_t = 20)]
    pub max_waiting_tokens: usize,

    /// Most sequences computed in one step.
    #[arg(long, env)]
    pub max_batch_size: Option<usize>,

    /// Tokens of the decoding steps that are recorded as CUDA graphs, smaller steps being padded to the next; 0: none. Default: in paces of 1 to 8 up to 256. Without effect on the CPU.
    #[arg(long, env, value_delimiter = ',')]
    pub cuda_graphs: Option<Vec<usize>>,

    /// IP address to listen on.
    #[arg(long, env, default_value = "0.0.0.0")]
    pub hostname: String,

    /// Port to listen on.
    #[arg(long, short, env, default_value_t = 3000)]
    pub port: u16,

    /// Without effect: metrics are served at `/metrics` on the main port.
    #[arg(long, env, default_value_t = 9000)]
    pub prometheus_port: u16,

    /// Socket path prefix of Python shards. Without effect.
    #[arg(long, env, default_value = "/tmp/text-generation-server")]
    pub shard_uds_path: String,

    /// Rendezvous address of Python shards. Without effect.
    #[arg(long, env, default_value = "localhost")]
    pub master_addr: String,

    /// Rendezvous port of Python shards. Without effect.
    #[arg(long, env, default_value_t = 29500)]
    pub master_port: usize,

    /// Folder of the hub cache. Default: `$HF_HOME/hub`, or `~/.cache/huggingface/hub`.
    #[arg(long, env)]
    pub huggingface_hub_cache: Option<PathBuf>,

    /// Folder to read the model from instead of the hub cache.
    #[arg(long, env)]
    pub weights_cache_override: Option<PathBuf>,

    /// Switch off custom Python kernels. Without effect.
    #[arg(long, env, action = ArgAction::SetTrue, value_parser = parse_bool)]
    pub disable_custom_kernels: bool,

    /// Share of a GPU's memory to use, above 0 and at most 1. Without effect on the CPU.
    #[arg(long, env, default_value_t = 1.0)]
    pub cuda_memory_fraction: f32,

    /// RoPE scaling in place of the checkpoint's.
    #[arg(long, env, value_enum)]
    pub rope_scaling: Option<RopeScaling>,

    /// RoPE scaling factor; alone it means linear scaling.
    #[arg(long, env)]
    pub rope_factor: Option<f32>,

    /// Log as JSON, one object a line.
    #[arg(long, env, action = ArgAction::SetTrue, value_parser = parse_bool)]
    pub json_output: bool,

    /// OpenTelemetry collector to send traces to, as http://host:port (OTLP over gRPC).
    #[arg(long, env)]
    pub otlp_endpoint: Option<String>,

    /// Service name in OpenTelemetry traces.
    #[arg(long, env, default_value = "text-generation-inference.router")]
    pub otlp_service_name: String,

    /// Origin allowed to call from a browser; repeatable or separated by commas. Default: any.
    #[arg(long, env, value_delimiter = ',')]
    pub cors_allow_origin: Vec<String>,

    /// Bearer key that clients must send; repeatable.
    #[arg(long, env, hide_env_values = true)]
    pub api_key: Vec<String>,

    /// Watermark gamma. Default 0.5.
    #[arg(long, env)]
    pub watermark_gamma: Option<f32>,

    /// Watermark delta. Default 2.0.
    #[arg(long, env)]
    pub watermark_delta: Option<f32>,

    /// Open an ngrok tunnel. Not supported.
    #[arg(long, env, action = ArgAction::SetTrue, value_parser = parse_bool)]
    pub ngrok: bool,

    /// ngrok authentication token.
    #[arg(long, env, hide_env_values = true)]
    pub ngrok_authtoken: Option<String>,

    /// ngrok edge.
    #[arg(long, env)]
    pub ngrok_edge: Option<String>,

    /// A `tokenizer_config.json` (with its chat template) in place of the model's own.
    #[arg(long, env)]
    pub tokenizer_config_path: Option<PathBuf>,

    /// Refuse requests with a grammar.
    #[arg(long, env, action = ArgAction::SetTrue, value_parser = parse_bool)]
    pub disable_grammar_support: bool,

    /// What compiles grammars: llguidance (which auto chooses), or outlines for regular expressions and a smaller part of JSON Schema.
    #[arg(long, env, value_enum, default_value_t = GrammarBackend::Auto)]
    pub grammar_backend: GrammarBackend,

    /// Blanks in JSON under a grammar: none (compact), or where JSON allows them (flexible; llguidance only).
    #[arg(long, env, value_enum, default_value_t = GrammarWhitespace::Compact)]
    pub grammar_whitespace: GrammarWhitespace,

    /// Print the runtime environment, then go on.
    #[arg(long, short, action = ArgAction::SetTrue)]
    pub env: bool,

    /// Most prompts in one `/v1/completions` request.
    #[arg(long, env, default_value_t = 4)]
    pub max_client_batch_size: usize,

    /// LoRA adapters to load at start, separated by commas: `id`, `id@revision`, `name=path` or `name=id@revision`; hub ids, folders of PEFT's or .gguf files. Requests name them as `adapter_id` or `model`.
    #[arg(long, env)]
    pub lora_adapters: Option<String>,

    /// Usage statistics. Nothing is ever sent: accepted, and without effect.
    #[arg(long, env, value_enum, default_value_t = UsageStats::On)]
    pub usage_stats: UsageStats,

    /// Largest request body in bytes.
    #[arg(long, env, default_value_t = 2_000_000)]
    pub payload_limit: usize,

    /// Compute log probabilities of prompt tokens when asked to.
    #[arg(long, env, action = ArgAction::SetTrue, value_parser = parse_bool)]
    pub enable_prefill_logprobs: bool,

    /// Seconds that requests in flight get to finish after SIGTERM.
    #[arg(long, short, env, default_value_t = 90)]
    pub graceful_termination_timeout: u64,

    /// File of further keys, one a line; empty lines and lines that begin with `#` are skipped.
    #[arg(long, env)]
    pub api_key_file: Option<PathBuf>,

    /// Bearer key with which models can be created, pulled, pushed, copied and deleted; repeatable. Without any key, that can be done over a listener on a loopback address.
    #[arg(long, env, hide_env_values = true)]
    pub admin_api_key: Vec<String>,

    /// File of further such keys, as `--api-key-file`.
    #[arg(long, env)]
    pub admin_api_key_file: Option<PathBuf>,

    /// Ask for a key on `/info`, `/metrics` and `/v1/models`, too.
    #[arg(long, env, action = ArgAction::SetTrue, value_parser = parse_bool)]
    pub guard_info: bool,

    /// Seconds that a request may take, waiting included; what takes longer ends with an error. 0: no limit.
    #[arg(long, env, default_value_t = 0)]
    pub max_request_seconds: u64,

    /// Whose statuses, error bodies and quirks to show under `/v1`. Started as `text-generation-launcher` or `text-generation-router`, the default is `tgi`.
    #[arg(long, env, value_enum, default_value_t = Profile::OpenAi)]
    pub profile: Profile,

    /// Give a request the same tokens whatever is computed beside it, on a GPU, too, where prompts take longer for it. The CPU always does: there it changes nothing.
    #[arg(long, env, action = ArgAction::SetTrue, value_parser = parse_bool)]
    pub deterministic: bool,

    /// Device to compute on: `auto` (a GPU if there is one), `cpu`, `cuda`, or `cuda:<number>`.
    #[arg(long, env, default_value = "auto")]
    pub device: Device,

    /// Threads to compute with. Default: every processor this process may use.
    #[arg(long, env)]
    pub threads: Option<usize>,

    /// Seconds without a step, while requests wait, after which the server is restarted. 0: never.
    #[arg(long, env, default_value_t = 60)]
    pub watchdog_timeout: u64,

    /// Output tokens of a request that does not say; `none`: up to `--max-total-tokens`.
    #[arg(long, env, default_value = "100")]
    pub default_max_new_tokens: TokenLimit,

    /// Another address to listen on, under the profile `ollama`: `127.0.0.1:11434`, `:11434`, `0.0.0.0` or a URL, as Ollama takes it.
    #[arg(long, env = "OLLAMA_HOST")]
    pub ollama_host: Option<OllamaHost>,

    /// Origins allowed to call from a browser, beside those of `--cors-allow-origin`.
    #[arg(long, env = "OLLAMA_ORIGINS", value_delimiter = ',')]
    pub ollama_origins: Vec<String>,

    /// Folder of models that are loaded when they are asked for, in Ollama's layout; made where it is missing.
    #[arg(long, env)]
    pub model_store: Option<PathBuf>,

    /// Ollama's own folder of models, whose models are loaded when they are asked for. Read in place and never written to.
    #[arg(long, env = "OLLAMA_MODELS")]
    pub ollama_models: Option<PathBuf>,

    /// Folder with a model in Hugging Face's form, GGUF file, or folder of either, loaded when they are asked for; repeatable or separated by commas. Read in place and never written to.
    #[arg(long, env, value_delimiter = ',')]
    pub model_folder: Vec<PathBuf>,

    /// Jan's folder of models: read with its `model.json` files, put in order, and fetched into. Made where it is missing.
    #[arg(long, env)]
    pub jan_models: Option<PathBuf>,

    /// Another address to listen on, under the profile `jan`, in the forms of `--ollama-host`; Jan's own port is 1337.
    #[arg(long, env)]
    pub jan_host: Option<JanHost>,

    /// How long such a model stays loaded after its last request: seconds, or a duration such as `5m`; negative: for ever.
    #[arg(long, env = "OLLAMA_KEEP_ALIVE", default_value = "5m", allow_hyphen_values = true)]
    pub keep_alive: KeepAlive,

    /// Most models in memory, beside the one of `--model-id`. 0: as many as fit.
    #[arg(long, env = "OLLAMA_MAX_LOADED_MODELS", default_value_t = 0)]
    pub max_loaded_models: usize,

    /// Most requests that wait: for models to be loaded and, of those of Ollama's API, for one of `--max-concurrent-requests`; one more is refused.
    #[arg(long, env = "OLLAMA_MAX_QUEUE", default_value_t = 512)]
    pub max_queue: usize,

    /// Host (with port, where it is not the usual one) that models may be pulled from and pushed to; repeatable or separated by commas. Default: any.
    #[arg(long, env, value_delimiter = ',')]
    pub registry_host: Vec<String>,

    /// Host, without port, of a registry that may have an address in a private network or on this machine; repeatable or separated by commas.
    #[arg(long, env, value_delimiter = ',')]
    pub registry_private_host: Vec<String>,

    /// File of users and passwords for registries, in the form of Docker's `config.json`.
    #[arg(long, env)]
    pub registry_auth_file: Option<PathBuf>,

    /// File of certificates (PEM) to trust in place of the built-in ones when models are pulled and pushed.
    #[arg(long, env)]
    pub registry_ca_file: Option<PathBuf>,

    /// Folder whose files Modelfiles may name after FROM and ADAPTER, and `/api/create` as its `path`. Default: no file of this machine.
    #[arg(long, env)]
    pub modelfile_folder: Option<PathBuf>,

    /// Context of a request to Ollama's routes that has no `num_ctx`, in tokens. Default: all that the model allows.
    #[arg(long, env = "OLLAMA_CONTEXT_LENGTH")]
    pub default_num_ctx: Option<usize>,

    /// Version of Ollama that `/api/version` tells: clients go by it to see what a server can do. The default is the highest one whose features are here.
    #[arg(long, env, default_value = "0.14.0", value_parser = version)]
    pub ollama_version: String,

    /// Folder of jobs, data sets, trainings and adapters, made where it is missing; with it, `/api/v1` manages models.
    #[arg(long, env)]
    pub state_dir: Option<PathBuf>,

    /// PostgreSQL database for jobs and data sets, where several servers share them: `postgres://user:password@host/name`. Default: one of this server's own in `--state-dir`.
    #[arg(long, env, hide_env_values = true)]
    pub state_database: Option<DatabaseUrl>,

    /// Where data sets are kept: `s3://bucket/prefix`, with the usual variables `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION` and `AWS_ENDPOINT_URL`. Default: in `--state-dir`.
    #[arg(long, env)]
    pub dataset_store: Option<Bucket>,

    /// Largest data set in bytes.
    #[arg(long, env, default_value_t = 1_048_576_000)]
    pub dataset_limit: u64,

    /// Most bytes that a training may allocate. Default: no limit.
    #[arg(long, env)]
    pub training_memory: Option<u64>,

    /// Another address to listen on, with the management API at `/v1`: `127.0.0.1:5100`, `:5100`, `0.0.0.0` or a URL.
    #[arg(long, env)]
    pub management_host: Option<ManagementHost>,

    /// Fault injection for tests: the engine stops after this many steps.
    #[arg(long, hide = true)]
    pub fault_stall_after_steps: Option<u64>,

    /// Fault injection for tests: the engine's steps begin at least this many milliseconds apart.
    #[arg(long, hide = true, default_value_t = 0)]
    pub fault_step_milliseconds: u64,

    /// Fault injection for tests: the model computes nothing and repeats the last token.
    #[arg(long, hide = true)]
    pub fault_echo: bool,
}

/// `weirgate download`: fetch a model and print its folder.
#[derive(Parser)]
#[command(name = "weirgate download", version)]
pub struct DownloadArgs {
    /// Hub id such as `org/name`.
    pub model_id: String,

    /// Branch, tag, commit or `refs/pr/N`.
    #[arg(long, env)]
    pub revision: Option<String>,

    /// Folder of the hub cache.
    #[arg(long, env)]
    pub huggingface_hub_cache: Option<PathBuf>,

    /// Log as JSON, one object a line.
    #[arg(long, env, action = ArgAction::SetTrue, value_parser = parse_bool)]
    pub json_output: bool,
}

/// `weirgate quantize`: convert a checkpoint to GGUF.
#[derive(Parser)]
#[command(name = "weirgate quantize", version)]
pub struct QuantizeArgs {
    /// Folder with config.json, *.safetensors and tokenizer.json.
    pub folder: PathBuf,

    /// File to write.
    pub out: PathBuf,

    /// What to write: one type, or a mixture as llama.cpp names them.
    #[arg(long, value_enum, ignore_case = true)]
    pub r#type: FileType,
}

/// Flags that are accepted and change nothing, with the reason.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("dtype", "weights keep the type the checkpoint stores"),
    ("trust_remote_code", "code from a model repository is never run"),
    ("prometheus_port", "metrics are at /metrics on the main port"),
    ("shard_uds_path", "there are no Python shards"),
    ("master_addr", "there are no Python shards"),
    ("master_port", "there are no Python shards"),
    ("disable_custom_kernels", "there are no Python kernels"),
];

/// A flag that was given and changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IneffectiveFlag {
    pub flag: String,
    pub reason: &'static str,
}

/// The typed arguments, and which of them change nothing.
pub struct Typed {
    pub args: LowArgs,
    pub ineffective: Vec<IneffectiveFlag>,
}

/// Parses `argv` (program name first) and the environment.
///
/// # Errors
/// Anything clap refuses, and `--help`/`--version`, which clap treats as errors with exit status 0.
pub fn parse<I: IntoIterator<Item = OsString>>(argv: I) -> Result<Typed, clap::Error> {
    let argv: Vec<OsString> = argv.into_iter().collect();
    let mut command = LowArgs::command();
    if argv.first().is_some_and(|program| is_tgi_program(program)) {
        command = command.mut_arg("profile", |profile| profile.default_value("tgi"));
    }
    let mut matches = without_empty_variables(command).try_get_matches_from(argv)?;
    let ineffective = ineffective_flags(&matches);
    Ok(Typed { args: LowArgs::from_arg_matches_mut(&mut matches)?, ineffective })
}

/// Parses the arguments of `weirgate download` (program name first) and the environment.
///
/// # Errors
/// As [`parse`].
pub fn parse_download<I: IntoIterator<Item = OsString>>(argv: I) -> Result<DownloadArgs, clap::Error> {
    let mut matches = without_empty_variables(DownloadArgs::command()).try_get_matches_from(argv)?;
    DownloadArgs::from_arg_matches_mut(&mut matches)
}

/// Parses the arguments of `weirgate quantize` (program name first).
///
/// # Errors
/// As [`parse`].
pub fn parse_quantize<I: IntoIterator<Item = OsString>>(argv: I) -> Result<QuantizeArgs, clap::Error> {
    QuantizeArgs::try_parse_from(argv)
}

/// Container files often set a variable to nothing; that means unset, not "parse the empty string as a number".
fn version(text: &str) -> Result<String, &'static str> {
    let numbers: Result<Vec<u32>, _> = text.split('.').map(str::parse).collect();
    match numbers.as_deref() {
        Ok([_, _, _]) => Ok(text.to_owned()),
        _ => Err("a version is three numbers, as 0.14.0"),
    }
}

fn without_empty_variables(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| {
        let empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
        if empty { arg.env(clap::builder::Resettable::Reset) } else { arg }
    })
}

fn ineffective_flags(matches: &ArgMatches) -> Vec<IneffectiveFlag> {
    WITHOUT_EFFECT
        .iter()
        .filter(|(id, _)| {
            let given =
                matches!(matches.value_source(id), Some(ValueSource::CommandLine | ValueSource::EnvVariable));
            let switched_off = matches!(matches.try_get_one::<bool>(id), Ok(Some(false)));
            given && !switched_off
        })
        .map(|&(id, reason)| IneffectiveFlag { flag: format!("--{}", id.replace('_', "-")), reason })
        .collect()
}

#[cfg(test)]
mod tests;
