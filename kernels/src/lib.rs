//! Weirgate's numeric kernels: the [`Backend`] contract (with [`EncoderBackend`] for encoders) and its devices.
//!
//! This is the only crate with SIMD and `unsafe`. It knows nothing of requests: an op takes buffers on its device,
//! checks its shape contract at entry, never allocates, never waits (but for the other shards of a model, [`AllReduce`]).

mod backend;
mod collective;
mod contract;
pub mod cpu;
pub mod cuda;
mod dtype;
mod encoder;
mod error;
mod sample;

pub use backend::{
    Activation, AttentionParams, Backend, HeadCounts, KvShape, LowRankView, NO_ADAPTER, StepInputs,
};
pub use collective::{AllReduce, DeviceSums, LocalMember, local_group};
pub use dtype::{BlockType, DType, KvType, ScaledRowsView, SmallFloat, WeightType, WeightView};
pub use encoder::{
    BidirectionalParams, EmbeddingTables, EncoderBackend, LayerNorm, PackedInputs, PackedLimits, PoolingKind,
    RelativeBias,
};
pub use error::KernelError;
pub use sample::{FilterOrder, FrequencyPenalty, Mirostat, SampleParams, SampleRow, Sampled};
