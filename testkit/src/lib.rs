//! What tests of several crates share: an HTTP server that does as it is told ([`http`]), and tiny random checkpoints,
//! one per architecture and rotary scaling, the same on every machine.
//!
//! The checkpoints' `config.json`s lie in `testkit/checkpoints/`. The weights come from a generator that exists here and in
//! `tools/parity/generator.py`, so that a reference made in Python speaks of the same bytes.

mod checkpoint;
mod definition;
mod encoder;
pub mod generator;
pub mod http;
pub mod packed;

pub use checkpoint::RandomCheckpoint;
pub use definition::{Definition, definitions, prompt_lengths};
pub use encoder::RandomEncoder;
