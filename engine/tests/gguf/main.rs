//! GGUF checkpoints on the CPU device: their layout, products with quantized weights, and whole models.
// Helpers outside of `#[test]` functions, which clippy.toml does not see as tests.
#![allow(clippy::unwrap_used)]

mod layout;
mod models;
mod products;

use weirgate_engine::{Batch, Decoder, DecoderConfig};
use weirgate_kernels::DType;
use weirgate_kernels::cpu::CpuBackend;
use weirgate_models::{ModelSpec, TensorSource};

const BLOCK_SIZE: usize = 16;

/// Splitmix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `-1..1`.
    pub fn value(&mut self) -> f32 {
        ((self.bits() >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    }
}

fn decoder(spec: &ModelSpec, tensors: &dyn TensorSource, tokens: usize) -> Decoder<CpuBackend> {
    let config = DecoderConfig {
        blocks: tokens.div_ceil(BLOCK_SIZE),
        block_size: BLOCK_SIZE,
        kv_dtype: DType::F32.into(),
        max_step_tokens: tokens,
        max_seqs: 1,
        max_seq_len: tokens,
        max_logit_rows: 64,
    };
    Decoder::new(CpuBackend::new(2), spec, tensors, config).unwrap()
}

/// The logits after every token of the prompt.
fn logits(spec: &ModelSpec, tensors: &dyn TensorSource, prompt: &[u32]) -> Vec<f32> {
    let count = prompt.len() as u32;
    let blocks = count.div_ceil(BLOCK_SIZE as u32);
    let batch = Batch {
        ids: prompt.to_vec(),
        positions: (0..count).collect(),
        slots: (0..count).collect(),
        rope_len: vec![count; prompt.len()],
        cu_q: vec![0, count],
        kv_len: vec![count],
        adapters: vec![None],
        block_tables: (0..blocks).collect(),
        block_offsets: vec![0, blocks],
        ..Batch::default()
    };
    let mut decoder = decoder(spec, tensors, prompt.len());
    decoder.forward(&batch).unwrap();
    let mut logits = Vec::new();
    decoder.logits(&(0..count).collect::<Vec<_>>(), &mut logits).unwrap();
    logits
}

fn largest_error(ours: &[f32], reference: &[f32], vocab: usize) -> f64 {
    assert_eq!(ours.len(), reference.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let rows = ours.chunks(vocab).zip(reference.chunks(vocab));
    rows.map(|(a, b)| {
        let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
        difference / norm(&mut b.iter().map(|b| f64::from(*b)))
    })
    .fold(0.0, |largest, error| if error.is_nan() { f64::INFINITY } else { f64::max(largest, error) })
}
