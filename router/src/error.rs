use std::net::SocketAddr;

use weirgate_engine::{DeviceError, LoadError};
use weirgate_models::{ModelError, QuantMethod};
use weirgate_text::TextError;

/// Why the router did not start, or did not end in order.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("`device`: {0}")]
    Device(#[from] DeviceError),
    /// A file beside the weights (tokenizer, its configuration).
    #[error(transparent)]
    Text(#[from] TextError),
    #[error(
        "`quantize` is `{}`, but the checkpoint's weights are {}; leave `quantize` out, or have float weights made small \
         by q8_0 or q4_k_m",
        .asked.name(),
        .found.map_or_else(|| "not quantized".to_owned(), |found| format!("quantized by {}", found.name()))
    )]
    Quantize { asked: QuantMethod, found: Option<QuantMethod> },
    #[error(
        "`kv_cache_dtype` is `{0}`, which takes a GPU; on the CPU the KV cache is f16, or f32 for weights in f32: leave \
         `kv_cache_dtype` out, or make it float16 or bfloat16"
    )]
    KvCacheDtype(&'static str),
    #[error(
        "not enough cuda devices: `num_shard` is {num_shard} but only found {found} CUDA devices from cuda:{first} on"
    )]
    NotEnoughDevices { num_shard: usize, first: usize, found: usize },
    #[error("`num_shard` is {num_shard}; {what} cannot be split yet, so it must be 1")]
    Shards { num_shard: usize, what: &'static str },
    /// Limits that contradict each other or do not fit the memory.
    #[error("{0}")]
    Sizing(String),
    #[error("the adapter '{name}' cannot be loaded: {reason}")]
    Adapter { name: String, reason: String },
    /// The store of models.
    #[error("the model store cannot be used: {0}")]
    Library(String),
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    /// Threads, signals.
    #[error("the system refused: {0}")]
    System(#[from] std::io::Error),
    #[error("the engine failed; see the log")]
    EngineFailed,
}
