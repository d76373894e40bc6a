//! LoRA fine-tuning of every decoder that is served: a job ([`Job`]) in, a PEFT folder out.
//!
//! The frozen base is read through `weirgate-models`, its architecture is data ([`weirgate_models::ModelSpec`]); the forward
//! pass is written once ([`model`]). Candle's autograd finds the gradients layer by layer, so that at most one layer's
//! activations are held where memory is short.

mod batches;
mod checkpoint;
mod curve;
mod dataset;
mod device;
mod encode;
mod error;
mod events;
mod hyperparameters;
mod job;
pub mod model;
mod optimizer;
mod peft;
mod process;
mod random;
mod train;

pub use batches::{Batch, Plan, Segment};
pub use dataset::read_dataset;
pub use encode::{Encoder, Example};
pub use error::FinetuneError;
pub use events::{Event, JsonLines, Progress, Reporter, TerminalBar};
pub use hyperparameters::Hyperparameters;
pub use job::{DEMO_MODEL, Job};
pub use process::{Stop, confine};
pub use train::{Outcome, Preparation, run};

#[cfg(test)]
mod tests;
