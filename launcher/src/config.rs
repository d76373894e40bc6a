//! What was typed ([`crate::cli`]) → what is meant, checked once. Nothing after this reads flags or variables.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::ValueEnum;
use weirgate_hub::{HubSettings, ModelId, Revision};
use weirgate_router::{
    DeviceSetting, EngineSettings, Library, Limits, LogSettings, ModelLocation, Quantize, Registries,
    Residency, RopeOverride, RouterConfig, TraceSettings, gpus_for_shards,
};

use crate::adapters::{self, AdapterSource};
use crate::cli::LowArgs;
use crate::error::{ArgumentError, LauncherError};
use crate::keys::api_keys;
use crate::values::{Quantization, RopeScaling, parse_bool};
use crate::{management, registry, vertex};

/// The name clients see when no model was named.
pub const DEMO_MODEL_NAME: &str = "weirgate-demo";

const DEFAULT_HOST: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
/// What the `x-compute-type` header says where `COMPUTE_TYPE` does not.
const DEFAULT_COMPUTE_TYPE: &str = "cpu";
const DEFAULT_WATERMARK_GAMMA: f32 = 0.5;
const DEFAULT_WATERMARK_DELTA: f32 = 2.0;

/// Reads one environment variable; a parameter so that tests need not change the process.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The launcher's settings, checked.
#[derive(Debug)]
pub struct Config {
    pub model: ModelSource,
    pub adapters: Vec<AdapterSource>,
    pub hub: HubSettings,
    /// For the router; where its model and its adapters are is filled in once they were found.
    pub router: RouterConfig,
    /// To be logged once logging works.
    pub warnings: Vec<String>,
}

/// Where the model is to come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// The demo model inside the binary.
    Embedded,
    /// A folder, or a GGUF file.
    Local(PathBuf),
    Hub {
        id: ModelId,
        revision: Revision,
    },
}

impl Config {
    /// Checks and resolves `args`.
    ///
    /// # Errors
    /// [`LauncherError::Argument`] for a value or combination that is refused; the variants about paths for a
    /// `--model-id` that names no model.
    pub fn resolve(args: LowArgs, env: Env) -> Result<Self, LauncherError> {
        check_support(&args)?;
        let num_shard = num_shard(&args, env)?;
        let mut warnings = Vec::new();
        let hub = HubSettings::from_env(env, args.huggingface_hub_cache.clone())?;
        let limits = limits(&args)?;
        let engine = EngineSettings { num_shard, ..engine_settings(&args, env, &mut warnings)? };
        let (watermark_gamma, watermark_delta) = watermark(&args)?;
        check_positive(&args)?;
        let model = model_source(&args)?;
        let adapters = adapters::sources(args.lora_adapters.as_deref().unwrap_or_default())?;
        let port = vertex::port(env)?.unwrap_or(args.port);
        let compute_type = env("COMPUTE_TYPE").filter(|text| !text.is_empty());
        let management = management::settings(&args, &hub, env)?;
        let registries = Registries {
            allowed: args.registry_host,
            private: args.registry_private_host,
            credentials: args
                .registry_auth_file
                .as_deref()
                .map(registry::credentials)
                .transpose()?
                .unwrap_or_default(),
            certificates: args.registry_ca_file,
        };
        let folders = model_folders(&args.model_folder)?;
        // What is downloaded through the management API can be served.
        let any = management.is_some()
            || !folders.is_empty()
            || [&args.model_store, &args.ollama_models, &args.jan_models].into_iter().any(Option::is_some);
        let library = any.then(|| Library {
            store: args.model_store,
            ollama: args.ollama_models.into_iter().collect(),
            jan: args.jan_models,
            hub_caches: vec![hub.cache.clone()],
            folders,
            modelfiles: args.modelfile_folder,
            registries,
        });
        let router = RouterConfig {
            model: ModelLocation::Embedded,
            model_id: args.model_id.clone().unwrap_or_else(|| DEMO_MODEL_NAME.to_owned()),
            model_sha: None,
            tokenizer_config_path: args.tokenizer_config_path,
            listen: SocketAddr::new(host(&args.hostname, &mut warnings), port),
            profile: args.profile.into(),
            // The variable is the clients' too, and may name this very server.
            ollama_listen: args.ollama_host.map(|host| host.0).filter(|own| own.port() != port),
            jan_listen: args.jan_host.map(|host| host.0).filter(|own| own.port() != port),
            management_listen: args.management_host.map(|host| host.0).filter(|own| own.port() != port),
            limits,
            engine,
            log: log_settings(args.json_output, env),
            traces: traces(args.otlp_endpoint, args.otlp_service_name)?,
            api_keys: api_keys("api-key", args.api_key, args.api_key_file.as_deref())?,
            admin_api_keys: api_keys(
                "admin-api-key",
                args.admin_api_key,
                args.admin_api_key_file.as_deref(),
            )?,
            guard_info: args.guard_info,
            cors_allow_origin: origins([args.cors_allow_origin, args.ollama_origins].concat()),
            compute_type: compute_type.unwrap_or_else(|| DEFAULT_COMPUTE_TYPE.to_owned()),
            vertex: vertex::routes(env)?,
            validation_workers: args.validation_workers,
            default_max_new_tokens: args.default_max_new_tokens.0,
            default_num_ctx: args.default_num_ctx.filter(|tokens| *tokens > 0),
            ollama_version: args.ollama_version,
            watermark_gamma,
            watermark_delta,
            disable_grammar_support: args.disable_grammar_support,
            grammar_backend: args.grammar_backend.into(),
            grammar_whitespace: args.grammar_whitespace.into(),
            enable_prefill_logprobs: args.enable_prefill_logprobs,
            lora_adapters: Vec::new(),
            library,
            residency: Residency {
                keep_alive: args.keep_alive,
                max_loaded: args.max_loaded_models,
                max_queue: args.max_queue,
            },
            management,
            graceful_termination_seconds: args.graceful_termination_timeout,
            watchdog_seconds: args.watchdog_timeout,
            fault_stall_after_steps: args.fault_stall_after_steps,
            fault_step_milliseconds: args.fault_step_milliseconds,
            fault_echo: args.fault_echo,
        };
        Ok(Self { model, adapters, hub, router, warnings })
    }
}

/// As the file system calls them, so that each has a name.
fn model_folders(typed: &[PathBuf]) -> Result<Vec<PathBuf>, LauncherError> {
    let given = typed.iter().filter(|path| !path.as_os_str().is_empty());
    let found = |path: &PathBuf| {
        path.canonicalize().map_err(|source| LauncherError::ModelFolder { path: path.clone(), source })
    };
    given.map(found).collect()
}

/// What this build cannot do is refused by name rather than done differently.
fn check_support(args: &LowArgs) -> Result<(), ArgumentError> {
    if args.ngrok {
        return Err(match (&args.ngrok_authtoken, &args.ngrok_edge) {
            (None, _) => ArgumentError::NgrokWithoutToken,
            (_, None) => ArgumentError::NgrokWithoutEdge,
            _ => ArgumentError::Ngrok,
        });
    }
    let sharded = args.num_shard.is_some_and(|n| n > 1);
    if sharded && args.quantize == Some(Quantization::Exl2) {
        return Err(ArgumentError::ShardedExl2);
    }
    Ok(())
}

fn value_name<T: ValueEnum>(value: &T) -> String {
    value.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
}

fn num_shard(args: &LowArgs, env: Env) -> Result<usize, LauncherError> {
    Ok(match (args.sharded, args.num_shard) {
        (Some(true), Some(n)) if n <= 1 => return Err(ArgumentError::ShardedWithOneShard.into()),
        (Some(true), None) => match visible_devices(args.device.0, env) {
            found if found <= 1 => return Err(LauncherError::NotEnoughDevices { found }),
            found => found,
        },
        (_, Some(0)) => return Err(ArgumentError::NoShard.into()),
        (_, Some(n)) => n,
        (_, None) => 1,
    })
}

/// Those that a variable lists, as in the reference; where none does, the driver is asked. Counted from the one that
/// `--device` names on.
fn visible_devices(device: DeviceSetting, env: Env) -> usize {
    let variables = ["CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"];
    let listed = variables.into_iter().find_map(env).map_or(0, |list| {
        list.split(',').filter(|device| !matches!(device.trim(), "" | "all" | "void")).count()
    });
    match device {
        _ if listed == 0 => gpus_for_shards(device),
        DeviceSetting::Cuda(first) => listed.saturating_sub(first),
        DeviceSetting::Auto | DeviceSetting::Cpu => listed,
    }
}

/// Zero would mean a server that answers nothing.
fn check_positive(args: &LowArgs) -> Result<(), ArgumentError> {
    if args.validation_workers == 0 {
        return Err(ArgumentError::NoValidationWorkers);
    }
    let zero = [
        ("max_concurrent_requests", args.max_concurrent_requests == 0),
        ("max_best_of", args.max_best_of == 0),
        ("max_client_batch_size", args.max_client_batch_size == 0),
        ("payload_limit", args.payload_limit == 0),
        ("max_input_tokens", args.max_input_tokens.or(args.max_input_length) == Some(0)),
        ("max_batch_size", args.max_batch_size == Some(0)),
        ("max_batch_prefill_tokens", args.max_batch_prefill_tokens == Some(0)),
        ("max_batch_total_tokens", args.max_batch_total_tokens == Some(0)),
        ("threads", args.threads == Some(0)),
    ];
    match zero.into_iter().find(|(_, is_zero)| *is_zero) {
        Some((flag, _)) => Err(ArgumentError::Zero { flag }),
        None => Ok(()),
    }
}

fn limits(args: &LowArgs) -> Result<Limits, ArgumentError> {
    let max_input_tokens = match (args.max_input_tokens, args.max_input_length) {
        (Some(max_input_tokens), Some(max_input_length)) => {
            return Err(ArgumentError::InputTokensTwice { max_input_tokens, max_input_length });
        }
        (tokens, length) => tokens.or(length),
    };
    if let (Some(input), Some(total)) = (max_input_tokens, args.max_total_tokens)
        && input >= total
    {
        return Err(ArgumentError::InputNotBelowTotal);
    }
    // One token of prompt and one of output is the least a request can be.
    if args.max_total_tokens.is_some_and(|total| total < 2) {
        return Err(ArgumentError::InputNotBelowTotal);
    }
    if let Some(max_batch_total_tokens) = args.max_batch_total_tokens {
        if let Some(max_total_tokens) = args.max_total_tokens
            && max_total_tokens > max_batch_total_tokens
        {
            return Err(ArgumentError::TotalAboveBatchTotal { max_total_tokens, max_batch_total_tokens });
        }
        if let Some(max_batch_prefill_tokens) = args.max_batch_prefill_tokens
            && max_batch_prefill_tokens > max_batch_total_tokens
        {
            return Err(ArgumentError::PrefillAboveBatchTotal {
                max_batch_prefill_tokens,
                max_batch_total_tokens,
            });
        }
    }
    Ok(Limits {
        max_concurrent_requests: args.max_concurrent_requests,
        max_best_of: args.max_best_of,
        max_stop_sequences: args.max_stop_sequences,
        max_top_n_tokens: args.max_top_n_tokens,
        max_client_batch_size: args.max_client_batch_size,
        payload_limit: args.payload_limit,
        max_request_seconds: args.max_request_seconds,
        max_input_tokens,
        max_total_tokens: args.max_total_tokens,
        max_context: None,
    })
}

fn engine_settings(
    args: &LowArgs,
    env: Env,
    warnings: &mut Vec<String>,
) -> Result<EngineSettings, ArgumentError> {
    let prefix_caching =
        match env("PREFIX_CACHING").as_deref().filter(|text| !text.is_empty()).map(parse_bool) {
            None => true,
            Some(Ok(on)) => on,
            Some(Err(expected)) => {
                warnings.push(format!("PREFIX_CACHING: {expected}; prefix caching stays on"));
                true
            }
        };
    if !(args.cuda_memory_fraction > 0.0 && args.cuda_memory_fraction <= 1.0) {
        let value = f64::from(args.cuda_memory_fraction);
        let condition = "> 0 and <= 1";
        return Err(ArgumentError::OutOfRange { flag: "cuda_memory_fraction", condition, value });
    }
    let ratio = args.waiting_served_ratio;
    if !(ratio.is_finite() && ratio >= 0.0) {
        return Err(ArgumentError::OutOfRange {
            flag: "waiting_served_ratio",
            condition: ">= 0",
            value: f64::from(ratio),
        });
    }
    Ok(EngineSettings {
        device: args.device.0,
        cuda_memory_fraction: args.cuda_memory_fraction,
        cuda_graphs: args
            .cuda_graphs
            .as_ref()
            .map(|sizes| sizes.iter().copied().filter(|&n| n > 0).collect()),
        deterministic: args.deterministic,
        kernel_cache: kernel_cache(env),
        own_gemm: own_gemm(env, warnings),
        kv_cache_dtype: args.kv_cache_dtype.map(|dtype| dtype.resolve()),
        threads: args.threads,
        max_batch_prefill_tokens: args.max_batch_prefill_tokens,
        max_batch_total_tokens: args.max_batch_total_tokens,
        max_batch_size: args.max_batch_size,
        waiting_served_ratio: ratio,
        max_waiting_tokens: args.max_waiting_tokens,
        prefix_caching,
        speculate: args.speculate.unwrap_or(0),
        rope_scaling: rope_override(args.rope_scaling, args.rope_factor)?,
        quantize: quantize(args.quantize)?,
        num_shard: 1,
    })
}

fn quantize(typed: Option<Quantization>) -> Result<Option<Quantize>, ArgumentError> {
    let Some(typed) = typed else { return Ok(None) };
    let refused =
        |instead| ArgumentError::Quantize { value: value_name(&typed), instead: value_name(&instead) };
    typed.resolve().map(Some).map_err(refused)
}

/// `CUDA_GEMM`: whose kernels make large products on a GPU; `auto` (cuBLASLt's where it is there) or `own`.
fn own_gemm(env: Env, warnings: &mut Vec<String>) -> bool {
    match env("CUDA_GEMM").as_deref() {
        Some("own") => true,
        None | Some("" | "auto") => false,
        Some(other) => {
            warnings.push(format!("CUDA_GEMM: expected auto or own, found `{other}`; it stays auto"));
            false
        }
    }
}

/// Beside the other caches of this user's.
fn kernel_cache(env: Env) -> Option<PathBuf> {
    let folder = |name: &str| env(name).filter(|text| !text.is_empty()).map(PathBuf::from);
    let caches = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))?;
    Some(caches.join("weirgate/kernels"))
}

/// A factor alone means linear scaling, a scaling alone factor 1.
fn rope_override(
    scaling: Option<RopeScaling>,
    factor: Option<f32>,
) -> Result<Option<RopeOverride>, ArgumentError> {
    if scaling.is_none() && factor.is_none() {
        return Ok(None);
    }
    let factor = f64::from(factor.unwrap_or(1.0));
    if !(factor.is_finite() && factor > 0.0) {
        return Err(ArgumentError::OutOfRange { flag: "rope_factor", condition: "> 0", value: factor });
    }
    Ok(Some(match scaling {
        None | Some(RopeScaling::Linear) => RopeOverride::Linear { factor },
        Some(RopeScaling::Dynamic) => RopeOverride::Dynamic { factor },
    }))
}

/// Gamma is the share of the vocabulary that is favoured, delta what is added to its logits.
fn watermark(args: &LowArgs) -> Result<(f32, f32), ArgumentError> {
    let gamma = args.watermark_gamma.unwrap_or(DEFAULT_WATERMARK_GAMMA);
    let delta = args.watermark_delta.unwrap_or(DEFAULT_WATERMARK_DELTA);
    let refused = |flag, condition, value: f32| {
        Err(ArgumentError::OutOfRange { flag, condition, value: f64::from(value) })
    };
    if !(gamma > 0.0 && gamma < 1.0) {
        return refused("watermark_gamma", "> 0 and < 1", gamma);
    }
    if !delta.is_finite() {
        return refused("watermark_delta", "a finite number", delta);
    }
    Ok((gamma, delta))
}

/// Docker sets HOSTNAME to the container's name, which is no address to listen on.
fn host(hostname: &str, warnings: &mut Vec<String>) -> IpAddr {
    hostname.parse().unwrap_or_else(|_| {
        warnings.push(format!("Invalid hostname {hostname:?}, defaulting to {DEFAULT_HOST}"));
        DEFAULT_HOST
    })
}

fn origins(typed: Vec<String>) -> Vec<String> {
    typed.iter().map(|origin| origin.trim().to_owned()).filter(|origin| !origin.is_empty()).collect()
}

/// `LOG_LEVEL` as a plain level applies to this server's own crates and leaves libraries at `warn`; anything else is
/// a `tracing` filter. Colour is for terminals, unless `NO_COLOR` or `LOG_COLORIZE` says otherwise.
pub fn log_settings(json: bool, env: Env) -> LogSettings {
    let typed = env("LOG_LEVEL").filter(|text| !text.is_empty()).unwrap_or_else(|| "info".to_owned());
    let level = match typed.to_ascii_lowercase().as_str() {
        "off" => "off".to_owned(),
        "error" => "error".to_owned(),
        plain @ ("warn" | "info" | "debug" | "trace") => format!("warn,weirgate={plain}"),
        _ => typed,
    };
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
    let wanted = match env("LOG_COLORIZE").filter(|text| !text.is_empty()).map(|text| parse_bool(&text)) {
        Some(Ok(wanted)) => wanted,
        _ => terminal && env("NO_COLOR").is_none_or(|text| text.is_empty()),
    };
    LogSettings { level, json, color: wanted && !json }
}

/// An empty endpoint (a variable that is set to nothing) is none.
fn traces(endpoint: Option<String>, service_name: String) -> Result<Option<TraceSettings>, ArgumentError> {
    let endpoint = endpoint.filter(|typed| !typed.is_empty()).map(|typed| typed.parse()).transpose();
    let endpoint = endpoint.map_err(ArgumentError::OtlpEndpoint)?;
    Ok(endpoint.map(|endpoint| TraceSettings { endpoint, service_name }))
}

fn model_source(args: &LowArgs) -> Result<ModelSource, LauncherError> {
    if let Some(folder) = &args.weights_cache_override {
        if !folder.join("config.json").is_file() {
            return Err(LauncherError::WeightsOverride { path: folder.clone() });
        }
        return Ok(ModelSource::Local(folder.clone()));
    }
    let Some(typed) = &args.model_id else {
        return Ok(ModelSource::Embedded);
    };
    let path = PathBuf::from(typed);
    let gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    if path.is_dir() || (gguf && path.is_file()) {
        return Ok(ModelSource::Local(path));
    }
    if path.is_file() {
        return Err(LauncherError::ModelIsFile { path });
    }
    if gguf || typed.starts_with(['/', '.', '~']) {
        return Err(LauncherError::NoSuchPath { path });
    }
    let id = typed.parse().map_err(ArgumentError::ModelId)?;
    let revision = args.revision.as_deref().unwrap_or("main").parse().map_err(ArgumentError::Revision)?;
    Ok(ModelSource::Hub { id, revision })
}
