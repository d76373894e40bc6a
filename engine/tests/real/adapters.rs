//! Adapters to test with.

use std::sync::Arc;

use weirgate_models::{Adapter, DType, LayerAdapter, LowRank, ModelSpec, TensorView};
use weirgate_types::AdapterId;

use super::{Engine, Rng};

/// A random adapter of all projections, unlike every other seed's.
pub fn random(spec: &ModelSpec, seed: u64) -> Adapter {
    let mut rng = Rng(seed);
    let rank = 1 + rng.below(20);
    let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    let mut part = |first: usize, rows: usize, cols: usize| {
        let mut tensor = |rows: usize, cols: usize| {
            let value = |rng: &mut Rng| (rng.below(2001) as f32 / 1000.0 - 1.0) / (cols as f32).sqrt();
            let bytes: Vec<u8> = (0..rows * cols).flat_map(|_| value(&mut rng).to_le_bytes()).collect();
            TensorView { dtype: DType::F32, shape: vec![rows, cols], bytes: bytes.into() }
        };
        LowRank { first, scale: 1.5, a: tensor(rank, cols), b: tensor(rows, rank) }
    };
    let (hidden, width) = (spec.hidden_size, spec.intermediate_size);
    let layers = (0..spec.layers.len()).map(|_| LayerAdapter {
        qkv: vec![part(0, q, hidden), part(q, kv, hidden), part(q + kv, kv, hidden)],
        output: vec![part(0, hidden, q)],
        gate_up: vec![part(0, width, hidden), part(width, width, hidden)],
        down: vec![part(0, hidden, width)],
    });
    Adapter { layers: layers.collect() }
}

pub fn load(engine: &Engine, adapter: Adapter) -> AdapterId {
    engine.handle.load_adapter(Arc::new(adapter)).recv().expect("an answer").expect("it fits")
}
