//! Weirgate's engine: a continuous batcher over a paged KV cache.
//!
//! It takes token ids and gives token ids; it knows nothing of HTTP, text or JSON. One engine thread per model:
//! inbox → [`Scheduler`] → [`Batch`] → [`Executor`] → [`weirgate_types::StepOutputs`].

mod adapters;
mod batch;
mod block_pool;
mod constraint;
mod cuda_model;
mod deadlines;
mod decoder;
mod drafter;
mod embed;
mod engine;
mod executor;
mod grammar;
mod handle;
mod ledger;
mod lru;
mod mask_pool;
mod model_executor;
mod priority;
mod scheduler;
mod sequence;
mod sharded;
mod stats;
mod validate;
mod warm_up;

pub use batch::{Batch, Sample, Score};
pub use block_pool::{
    BlockCounts, BlockHash, BlockId, BlockKey, BlockPool, BlockTable, IntegrityError, Namespace, OutOfBlocks,
    Parent, Prefix, RopeClass,
};
pub use constraint::{MaskAnswer, MaskJob};
pub use cuda_model::{CudaModel, CudaOptions, load_cuda};
pub use decoder::{Decoder, DecoderConfig, LoadError};
pub use embed::{
    EmbedConfig, EmbedFailure, EmbedHandle, EmbedInput, EmbedLimits, EmbedModel, EmbedOptions, EmbedTicket,
    Embedder, load_cpu_embedder, load_cuda_embedder, load_embedder, spawn_embedder,
};
pub use engine::{EngineConfig, spawn};
pub use executor::{Executor, ExecutorError, ExecutorLimits, StepResult};
pub use grammar::{Grammar, GrammarFault, GrammarSource};
pub use handle::{EngineHandle, Ticket};
pub use model_executor::{LoadOptions, kv_block_bytes, kv_type, load, load_cpu};
pub use priority::lower_priority;
pub use scheduler::{BurstRule, Plan, RopeRule, Scheduler, SchedulerConfig, SchedulerStats};
pub use sharded::{load_cpu_sharded, load_sharded};
pub use stats::EngineStats;
pub use validate::ValidRequest;
pub use weirgate_kernels::cuda::driver::{
    CompileSettings, CudaDevice, Device, DeviceChoice, DeviceError, device_count,
};
pub use weirgate_kernels::{DType, KernelError, KvType, SmallFloat};
