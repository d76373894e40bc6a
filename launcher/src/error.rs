//! Why the launcher does not start. Texts of checks that text-generation-inference makes too are the same as there.

use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

#[derive(Debug, Error)]
pub enum LauncherError {
    #[error("Invalid argument: {0}")]
    Argument(#[from] ArgumentError),
    #[error("not enough cuda devices: `sharded` is true but only found {found} CUDA devices")]
    NotEnoughDevices { found: usize },
    #[error(
        "--model-id {} looks like a local path, but nothing is there; pass an existing folder or .gguf file, or a hub id such as org/name",
        path.display()
    )]
    NoSuchPath { path: PathBuf },
    #[error(
        "--model-id {} is a file, and not a .gguf one; pass the folder that holds config.json and the *.safetensors files",
        path.display()
    )]
    ModelIsFile { path: PathBuf },
    #[error(
        "--weights-cache-override {}: no config.json in it; it must be a folder with a whole checkpoint",
        path.display()
    )]
    WeightsOverride { path: PathBuf },
    #[error("--model-folder {}: {source}; pass a folder or a .gguf file", path.display())]
    ModelFolder { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Hub(#[from] weirgate_hub::HubError),
    #[error(
        "cannot listen on {address}: {source}; choose another port with --port or address with --hostname"
    )]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("--{flag}-file {}: {source}", path.display())]
    KeyFile { flag: &'static str, path: PathBuf, source: std::io::Error },
    #[error("--{flag}-file {}: it holds no key; write one a line", path.display())]
    NoKeyInFile { flag: &'static str, path: PathBuf },
    #[error("--registry-auth-file {}: {source}", path.display())]
    RegistryAuth { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Model(#[from] weirgate_models::ModelError),
    #[error("{}: is not a folder; pass one with config.json, *.safetensors and tokenizer.json", path.display())]
    QuantizeNoFolder { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("cannot install signal handlers: {0}")]
    Signals(std::io::Error),
    #[error("cannot find this program's own file: {0}")]
    OwnExecutable(std::io::Error),
    #[error("cannot write the router's settings as JSON: {0}")]
    Settings(#[from] serde_json::Error),
}

/// A flag whose value, or combination with another, is refused.
#[derive(Debug, Error, PartialEq)]
pub enum ArgumentError {
    #[error(
        "Both `max_input_tokens` ({max_input_tokens}) and `max_input_length` ({max_input_length}) are set. \
         Please define only `max_input_tokens` as `max_input_length is deprecated for naming consistency."
    )]
    InputTokensTwice { max_input_tokens: usize, max_input_length: usize },
    #[error("`max_input_tokens must be < `max_total_tokens`")]
    InputNotBelowTotal,
    #[error("`validation_workers` must be > 0")]
    NoValidationWorkers,
    #[error("`sharded` is true but `num_shard` <= 1")]
    ShardedWithOneShard,
    #[error("`num_shard` cannot be < 1")]
    NoShard,
    #[error("Sharding is currently not supported with `exl2` quantization")]
    ShardedExl2,
    #[error(
        "`max_total_tokens` must be <= `max_batch_total_tokens`. Given: {max_total_tokens} and {max_batch_total_tokens}"
    )]
    TotalAboveBatchTotal { max_total_tokens: usize, max_batch_total_tokens: usize },
    #[error(
        "`max_batch_prefill_tokens` must be <= `max_batch_total_tokens`. Given: {max_batch_prefill_tokens} and \
         {max_batch_total_tokens}"
    )]
    PrefillAboveBatchTotal { max_batch_prefill_tokens: usize, max_batch_total_tokens: usize },
    #[error("`{flag}` must be > 0")]
    Zero { flag: &'static str },
    #[error("`{flag}` must be {condition}. Given: {value}")]
    OutOfRange { flag: &'static str, condition: &'static str, value: f64 },
    #[error("`ngrok-authtoken` must be set when using ngrok tunneling")]
    NgrokWithoutToken,
    #[error("`ngrok-edge` must be set when using ngrok tunneling")]
    NgrokWithoutEdge,
    #[error("`ngrok` tunnels are not supported; put a reverse proxy in front instead")]
    Ngrok,
    #[error("Invalid LoRA adapter format: {adapter}")]
    LoraFormat { adapter: String },
    #[error("`lora_adapters`: {adapter}: {error}")]
    LoraId { adapter: String, error: weirgate_hub::IdError },
    #[error("`lora_adapters`: {} is neither a folder nor a .gguf file", path.display())]
    LoraPath { path: PathBuf },
    #[error(
        "`quantize` is `{value}`, which is not supported; `{instead}` makes weights as small, from the unquantized \
         checkpoint"
    )]
    Quantize { value: String, instead: String },
    #[error("`{}` cannot be empty", flag.replace('-', "_"))]
    EmptyApiKey { flag: &'static str },
    #[error("`{name}` must be {expected}. Given: {value}")]
    Variable { name: &'static str, expected: &'static str, value: String },
    #[error("`model_id`: {0}")]
    ModelId(weirgate_hub::IdError),
    #[error("`revision`: {0}")]
    Revision(weirgate_hub::IdError),
    #[error("`otlp_endpoint`: {0}")]
    OtlpEndpoint(weirgate_router::OtlpEndpointError),
    #[error("`{flag}` needs `state-dir`: what it belongs to is kept there")]
    NoStateDir { flag: &'static str },
    #[error("`dataset-store` needs the variable `{name}`")]
    NoS3Key { name: &'static str },
}
