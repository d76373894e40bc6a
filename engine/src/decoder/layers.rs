//! What a step does between its inputs and its hidden states: the embedding, then attention and feed-forward block of each
//! layer. Nothing here depends on the step but through its inputs on the device and its number of rows.

use weirgate_kernels::{AllReduce, AttentionParams, Backend, HeadCounts};
use weirgate_models::ModelSpec;

use super::adapters::Adapters;
use super::weights::{Layer, Linear, Weights};
use super::{Buffers, activation};
use crate::ExecutorError;

/// A decoder's parts, without its device.
pub(super) struct Layers<'a, B: Backend> {
    pub spec: &'a ModelSpec,
    pub weights: &'a Weights<B>,
    pub adapters: &'a Adapters<B>,
    pub cache: &'a mut B::KvCache,
    pub step: &'a B::Step,
    pub buffers: &'a mut Buffers<B>,
    pub group: &'a mut Option<Box<dyn AllReduce>>,
}

impl<B: Backend> Layers<'_, B> {
    /// Fills the cache for the step's `rows` tokens, and `buffers.hidden` for as many or, back to back, for `kept` of them;
    /// that takes a step without adapters.
    pub fn run(&mut self, backend: &mut B, rows: usize, kept: Option<&[u32]>) -> Result<(), ExecutorError> {
        let Self { spec, weights, step, buffers, .. } = self;
        backend.embed(&mut buffers.hidden, &weights.embedding, step, spec.embedding_scale)?;
        let layers = weights.layers.len();
        for layer in 0..layers {
            // What comes after the last layer's keys and values is for the rows alone that are asked for.
            let kept = kept.filter(|_| layer + 1 == layers);
            self.attention_block(backend, layer, rows, kept)?;
            let rows = kept.map_or(rows, <[u32]>::len);
            if rows > 0 {
                self.feed_forward_block(backend, layer, rows)?;
            }
        }
        Ok(())
    }

    /// `hidden += post_norm(attention(norm(hidden)))`, of which only the rows in `kept` are left.
    fn attention_block(
        &mut self,
        backend: &mut B,
        index: usize,
        rows: usize,
        kept: Option<&[u32]>,
    ) -> Result<(), ExecutorError> {
        let Self { spec, weights, adapters, cache, step, buffers: b, group } = self;
        let (Some(layer), Some(settings)) = (weights.layers.get(index), spec.layers.get(index)) else {
            return Err(ExecutorError::Batch(format!("no layer {index}")));
        };
        let adapted = adapters.layers.get(index).filter(|_| adapters.any());
        let heads = HeadCounts { q: spec.heads, kv: spec.kv_heads };
        let eps = spec.norm_eps;
        backend.rms_norm(&mut b.normed, &b.hidden, &layer.attn_norm, eps, rows)?;
        apply(backend, &mut b.qkv, &b.normed, &layer.qkv, rows)?;
        if let Some(adapted) = adapted {
            backend.add_low_rank(&mut b.qkv, &b.normed, &adapted.qkv, step)?;
        }
        if let Some((q, k)) = &layer.qk_norm {
            backend.norm_heads(&mut b.qkv, q, k, heads, eps, rows)?;
        }
        backend.rope_and_store(&mut b.qkv, cache, step, index, heads.q, settings.rope)?;
        if kept.is_some_and(<[u32]>::is_empty) {
            return Ok(());
        }
        let params = AttentionParams {
            heads: heads.q,
            scale: spec.attention_scale,
            softcap: spec.attention_softcap,
            window: settings.window,
        };
        backend.attention(&mut b.attn, &b.qkv, cache, step, index, &params)?;
        let mut attn = &b.attn;
        if let Some(kept) = kept {
            // `qkv` and `normed` have served. Buffers stay where they are: recorded steps know their addresses.
            backend.gather_rows(&mut b.qkv, &b.attn, kept, spec.heads * spec.head_dim)?;
            attn = &b.qkv;
            backend.gather_rows(&mut b.normed, &b.hidden, kept, spec.hidden_size)?;
            let back_to_back: Vec<u32> = (0..kept.len() as u32).collect();
            backend.gather_rows(&mut b.hidden, &b.normed, &back_to_back, spec.hidden_size)?;
        }
        let rows = kept.map_or(rows, <[u32]>::len);
        apply(backend, &mut b.delta, attn, &layer.output, rows)?;
        if let Some(adapted) = adapted {
            backend.add_low_rank(&mut b.delta, attn, &adapted.output, step)?;
        }
        if let Some(group) = group {
            backend.all_reduce(&mut b.delta, rows * spec.hidden_size, group.as_mut())?;
        }
        add_delta(backend, b, layer.post_attn_norm.as_ref(), spec, rows)
    }

    /// `hidden += post_norm(down(act(gate) * up))`.
    fn feed_forward_block(
        &mut self,
        backend: &mut B,
        index: usize,
        rows: usize,
    ) -> Result<(), ExecutorError> {
        let Self { spec, weights, adapters, step, buffers: b, group, .. } = self;
        let Some(layer) = weights.layers.get(index) else {
            return Err(ExecutorError::Batch(format!("no layer {index}")));
        };
        let adapted = adapters.layers.get(index).filter(|_| adapters.any());
        let Layer { ffn_norm, gate_up, down, post_ffn_norm, .. } = layer;
        backend.rms_norm(&mut b.normed, &b.hidden, ffn_norm, spec.norm_eps, rows)?;
        apply(backend, &mut b.gate_up, &b.normed, gate_up, rows)?;
        if let Some(adapted) = adapted {
            backend.add_low_rank(&mut b.gate_up, &b.normed, &adapted.gate_up, step)?;
        }
        let act = activation(spec.activation);
        backend.gated(&mut b.gated, &b.gate_up, act, rows, spec.intermediate_size)?;
        apply(backend, &mut b.delta, &b.gated, down, rows)?;
        if let Some(adapted) = adapted {
            backend.add_low_rank(&mut b.delta, &b.gated, &adapted.down, step)?;
        }
        if let Some(group) = group {
            backend.all_reduce(&mut b.delta, rows * spec.hidden_size, group.as_mut())?;
        }
        add_delta(backend, b, post_ffn_norm.as_ref(), spec, rows)
    }
}

fn apply<B: Backend>(
    backend: &mut B,
    out: &mut B::Buf,
    x: &B::Buf,
    linear: &Linear<B>,
    rows: usize,
) -> Result<(), ExecutorError> {
    Ok(backend.linear(out, x, &linear.weight, linear.bias.as_ref(), rows)?)
}

/// `hidden += delta`, through the post norm where the architecture has one.
fn add_delta<B: Backend>(
    backend: &mut B,
    b: &mut Buffers<B>,
    post_norm: Option<&B::Buf>,
    spec: &ModelSpec,
    rows: usize,
) -> Result<(), ExecutorError> {
    let len = rows * spec.hidden_size;
    match post_norm {
        Some(weight) => {
            backend.rms_norm(&mut b.normed, &b.delta, weight, spec.norm_eps, rows)?;
            Ok(backend.add(&mut b.hidden, &b.normed, len)?)
        }
        None => Ok(backend.add(&mut b.hidden, &b.delta, len)?),
    }
}
