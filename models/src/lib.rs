//! What a checkpoint is: its architecture as data ([`ModelSpec`], [`EncoderSpec`]), its tensors ([`TensorSource`]) and its files
//! ([`ModelFiles`]). No device, no async, no requests.

mod adapter;
mod arch;
mod check;
mod config;
mod encoder;
mod error;
mod files;
mod generation;
mod gguf;
mod mmap;
mod quantized;
mod rope;
mod safetensors;
mod shard;
mod spec;
mod tensor;

pub use adapter::{Adapter, AdapterModule, AdapterSite, LayerAdapter, LowRank, adapter_modules};
pub use arch::{read_headless, read_spec};
pub use encoder::{
    Classifier, EncoderLayer, EncoderSpec, EncoderTensors, LinearTensors, NormTensors, Pooling,
    RelativeBiasSpec, SentenceConfig, is_cross_encoder, is_embedder, is_encoder, read_encoder,
};
pub use error::ModelError;
pub use files::{Bytes, ModelFiles};
pub use generation::GenerationConfig;
pub use gguf::{
    Gguf, GgufFile, GgufMetadata, GgufProgress, GgufSource, GgufTensor, GgufTensorType, GgufValue,
    GgufWriter, QuantMix, Quantized, add_tokenizer, dequantize, requantize, to_gguf,
};
pub use quantized::QuantMethod;
pub use rope::{Rope, RopeOverride, RopeScaling, RopeSpec};
pub use safetensors::{MAX_HEADER as MAX_SAFETENSORS_HEADER, SafetensorsSource};
pub use shard::{Shard, ShardedSource};
pub use spec::{Activation, LayerSpec, LayerTensors, ModelSpec, TensorNames};
pub use tensor::{DType, ScaledRows, TensorSource, TensorView, open_tensors, open_tensors_in_one_thread};
