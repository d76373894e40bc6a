//! Tiny random checkpoints for tests, one per architecture and rotary scaling, the same on every machine.
//!
//! Their `config.json`s lie in `testkit/checkpoints/`. The weights come from a generator that exists here and in
//! `tools/parity/generator.py`, so that a reference made in Python speaks of the same bytes.

mod checkpoint;
mod definition;
pub mod generator;

pub use checkpoint::RandomCheckpoint;
pub use definition::{Definition, definitions, prompt_lengths};
