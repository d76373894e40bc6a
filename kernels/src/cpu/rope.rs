//! Rotary position embedding, fused with the store into the KV cache.
#![allow(unsafe_code)]

use super::kv::{KvCache, KvLayout};
use super::panel::{Element, LANES, panel_len, with_panels};
use super::pool::{Pool, Shards};
use super::step::{Rotary, Step};
use super::{check_room, product, qkv_width, shape_error};
use crate::{HeadCounts, KernelError, KvShape};

const OP: &str = "rope_and_store";

/// See [`crate::Backend::rope_and_store`]; `heads` counts the query heads.
pub(crate) fn rope_and_store(
    pool: &Pool,
    qkv: &mut [f32],
    cache: &mut KvCache,
    step: &Step,
    (layer, heads, rope): (usize, usize, usize),
) -> Result<(), KernelError> {
    let shape = cache.shape();
    let tokens = step.tokens();
    cache.check_layer(OP, layer)?;
    cache.check_slots(OP, step)?;
    let rotary = step.rope().get(rope).ok_or(shape_error(OP, "rotary table", rope, step.rope().len()))?;
    let half = rotary.cos.len() / tokens.max(1);
    check_room(OP, "rotary_dim", 2 * half, shape.head_dim)?;
    let width = qkv_width(HeadCounts { q: heads, kv: shape.kv_heads }, shape.head_dim);
    check_room(OP, "elements of qkv", product(&[tokens, width]), qkv.len())?;
    let (values_at, qkv) = (cache.values_at(), &mut qkv[..tokens * width]);
    with_panels!(cache.data_mut(), data => {
        let (keys, values) = data.split_at_mut(values_at);
        let store = Store { keys: Shards::new(keys), values: Shards::new(values), shape, layer };
        pool.for_rows(qkv, width, pool.grain(tokens, 4 * width), |_, first, rows| {
            for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                let (rotated, values) = row.split_at_mut((heads + shape.kv_heads) * shape.head_dim);
                for head in rotated.chunks_exact_mut(shape.head_dim) {
                    rotate(head, rotary, (first + i) * half, half);
                }
                store.token(&rotated[heads * shape.head_dim..], values, step.slots()[first + i] as usize);
            }
        })
    })
}

/// Rotates the pairs `(i, i + half)` of one head by the `half` angles at `at`.
pub(super) fn rotate(head: &mut [f32], rotary: &Rotary, at: usize, half: usize) {
    let (first, rest) = head.split_at_mut(half);
    let angles = rotary.cos[at..at + half].iter().zip(&rotary.sin[at..at + half]);
    for ((a, b), (&cos, &sin)) in first.iter_mut().zip(rest).zip(angles) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

/// One layer of the cache, to be written by token.
struct Store<'a, W> {
    keys: Shards<'a, W>,
    values: Shards<'a, W>,
    shape: KvShape,
    layer: usize,
}

impl<W: Element> Store<'_, W> {
    /// Writes one token's keys and values (`[kv_heads, head_dim]` each) at `slot`.
    fn token(&self, keys: &[f32], values: &[f32], slot: usize) {
        let KvShape { block_size, head_dim, .. } = self.shape;
        let layout = KvLayout::new(self.shape);
        let (block, offset) = (slot / block_size, slot % block_size);
        let key_at = offset / LANES * panel_len(head_dim);
        let rows = keys.chunks_exact(head_dim).zip(values.chunks_exact(head_dim));
        for (head, (keys, values)) in rows.enumerate() {
            let index = layout.head(self.layer, block, head);
            for (dim, (&key, &value)) in keys.iter().zip(values).enumerate() {
                let k = index * layout.keys + key_at + W::offset(dim, offset % LANES);
                let v = index * layout.values
                    + dim / LANES * panel_len(block_size)
                    + W::offset(offset, dim % LANES);
                // SAFETY: layer and slot were checked against the cache's shape; slots are unique within a step, and
                // each (slot, head, dim) has its own element, so no other thread writes here.
                unsafe {
                    self.keys.write(k, W::from_f32(key));
                    self.values.write(v, W::from_f32(value));
                }
            }
        }
    }
}
