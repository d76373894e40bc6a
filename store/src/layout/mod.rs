//! The layouts that models are found in. Nothing here writes.

pub(crate) mod gguf;
pub(crate) mod hub_cache;
pub(crate) mod jan;
pub(crate) mod ollama;
mod scan;

pub(crate) use scan::{Origin, Scan, children, confined, fingerprint, name_of};
