//! What encoders need on the CPU device.

mod attention;
mod embed;
mod norm;
mod packed;
mod pool;

use std::sync::PoisonError;

use super::{CpuBackend, CpuBuf, Matrix, Result, linear};
use crate::contract::{check_room, product, qkv_width, shape_error};
use crate::{
    Activation, BidirectionalParams, EmbeddingTables, EncoderBackend, HeadCounts, LayerNorm, PackedInputs,
    PackedLimits, PoolingKind,
};
pub(crate) use attention::EncoderScratch;
pub use packed::Packed;

impl EncoderBackend for CpuBackend {
    type Packed = Packed;

    fn packed(&mut self, limits: PackedLimits) -> Result<Packed> {
        for scratch in &self.encoder_scratch {
            scratch.lock().unwrap_or_else(PoisonError::into_inner).fit(&limits)?;
        }
        Packed::new(limits)
    }

    fn pack(&mut self, packed: &mut Packed, inputs: &PackedInputs<'_>) -> Result<()> {
        packed.fill(inputs)
    }

    fn embed_packed(
        &mut self,
        out: &mut CpuBuf,
        tables: &EmbeddingTables<'_, CpuBuf>,
        norm: &LayerNorm<'_, CpuBuf>,
        packed: &Packed,
    ) -> Result<()> {
        embed::embed((&self.pool, self.isa), out, tables, norm, packed)
    }

    fn layer_norm(
        &mut self,
        out: &mut CpuBuf,
        x: &CpuBuf,
        norm: &LayerNorm<'_, CpuBuf>,
        rows: usize,
    ) -> Result<()> {
        norm::layer_norm((&self.pool, self.isa), out, x, norm, rows)
    }

    fn add_layer_norm(
        &mut self,
        hidden: &mut CpuBuf,
        delta: &CpuBuf,
        norm: &LayerNorm<'_, CpuBuf>,
        rows: usize,
    ) -> Result<()> {
        norm::add_layer_norm((&self.pool, self.isa), hidden, delta, norm, rows)
    }

    fn linear_act(
        &mut self,
        out: &mut CpuBuf,
        x: &CpuBuf,
        w: &Matrix,
        bias: Option<&CpuBuf>,
        act: Activation,
        rows: usize,
    ) -> Result<()> {
        let device = (&self.pool, self.isa, &mut self.activations);
        linear::linear(device, out, x, w, (bias.map(|bias| &**bias), Some(act)), rows)
    }

    fn rotate(
        &mut self,
        qkv: &mut CpuBuf,
        packed: &Packed,
        heads: usize,
        head_dim: usize,
        rope: usize,
    ) -> Result<()> {
        const OP: &str = "rotate";
        let tokens = packed.tokens();
        let rotary =
            packed.rope().get(rope).ok_or(shape_error(OP, "rotary table", rope, packed.rope().len()))?;
        let half = rotary.cos.len() / tokens.max(1);
        check_room(OP, "rotary_dim", 2 * half, head_dim)?;
        let width = qkv_width(HeadCounts { q: heads, kv: heads }, head_dim);
        check_room(OP, "elements of qkv", product(&[tokens, width]), qkv.len())?;
        let grain = self.pool.grain(tokens, width);
        self.pool.for_rows(&mut qkv[..tokens * width], width, grain, |_, first, rows| {
            for (i, row) in rows.chunks_exact_mut(width.max(1)).enumerate() {
                for head in row[..2 * heads * head_dim].chunks_exact_mut(head_dim.max(1)) {
                    super::rope::rotate(head, rotary, (first + i) * half, half);
                }
            }
        })
    }

    fn attend(
        &mut self,
        out: &mut CpuBuf,
        qkv: &CpuBuf,
        packed: &Packed,
        params: &BidirectionalParams<'_, CpuBuf>,
    ) -> Result<()> {
        attention::attend((&self.pool, self.isa, &self.encoder_scratch), out, qkv, packed, params)
    }

    fn pool(
        &mut self,
        out: &mut CpuBuf,
        x: &CpuBuf,
        packed: &Packed,
        kind: PoolingKind,
        cols: usize,
    ) -> Result<()> {
        pool::pool(&self.pool, out, x, packed, (kind, cols))
    }
}
