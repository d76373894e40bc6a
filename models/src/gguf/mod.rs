//! GGUF, the file format of llama.cpp: one file (or a few) with metadata, tokenizer and weights.
//!
//! [`GgufFile`] is one file taken apart and checked; a [`Gguf`] is a checkpoint of one or more of them;
//! [`GgufSource`] gives its tensors. [`crate::ModelFiles`] shows the metadata as the files that a checkpoint folder
//! has, so that nothing else needs to know the format. [`GgufWriter`] writes.

mod checkpoint;
mod config;
mod convert;
mod cursor;
mod dequant;
mod file;
mod metadata;
mod mix;
mod names;
mod quantize;
mod requantize;
mod source;
mod tokenizer;
mod write;

pub use checkpoint::Gguf;
pub use convert::to_gguf;
pub(crate) use convert::{architecture as base_architecture, rows_by_neighbours as order_by_neighbours};
pub use dequant::dequantize;
pub use file::{GgufFile, GgufTensor, GgufTensorType};
pub use metadata::GgufMetadata;
pub use mix::{QuantMix, Quantized};
pub(crate) use names::{rotates_neighbours, use_gguf_layout};
pub(crate) use quantize::{put_nibbles, quantize, share};
pub use requantize::requantize;
pub use source::GgufSource;
pub(crate) use source::rows_by_halves as order_by_halves;
pub use tokenizer::add_tokenizer;
pub use write::{GgufProgress, GgufValue, GgufWriter};
