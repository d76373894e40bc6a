//! What encoders need on the CUDA device (`csrc/encoder.cu`), beside what decoders need, too.
#![allow(unsafe_code)]

use super::elementwise;
use super::gpu::{Gpu, Launch};
use super::kernel::Kernel;
use super::memory::{CudaBuf, kernel_args, size};
use super::packed::{CudaPacked, Part};
use super::{CudaBackend, CudaMatrix};
use crate::contract::{check, check_room, product, qkv_width, shape_error};
use crate::{
    Activation, Backend, BidirectionalParams, EmbeddingTables, EncoderBackend, HeadCounts, KernelError,
    LayerNorm, PackedInputs, PackedLimits, PoolingKind,
};

type Result<T> = std::result::Result<T, KernelError>;

const ATTEND: &str = "attend";
/// The window of attention without one.
const NO_WINDOW: u32 = u32::MAX;

kernel_args!(LayerNormArgs { out: u64, x: u64, delta: u64, weight: u64, bias: u64, cols: u32, eps: f32 });
kernel_args!(EmbedPackedArgs {
    out: u64,
    words: u64,
    positions: u64,
    types: u64,
    ids: u64,
    places: u64,
    kinds: u64,
    weight: u64,
    bias: u64,
    cols: u32,
    eps: f32,
});
kernel_args!(RotateArgs { qkv: u64, cosine: u64, sine: u64, heads: u32, head_dim: u32, half: u32 });
kernel_args!(AttendPackedArgs {
    out: u64,
    qkv: u64,
    tiles: u64,
    bias: u64,
    heads: u32,
    head_dim: u32,
    window: u32,
    stride: u32,
    center: u32,
    scale: f32,
});
kernel_args!(PoolArgs { out: u64, x: u64, ends: u64, cols: u32 });

/// Where a buffer lies; 0 where there is none.
fn address<G: Gpu>(buf: Option<&CudaBuf<G>>) -> u64 {
    buf.map_or(0, CudaBuf::address)
}

/// Elements of a row, if weight and bias have as many.
fn columns<G: Gpu>(op: &'static str, norm: &LayerNorm<'_, CudaBuf<G>>) -> Result<usize> {
    let cols = norm.weight.len();
    norm.bias.map_or(Ok(()), |bias| check(op, "elements of bias", bias.len(), cols))?;
    Ok(cols)
}

/// `out = norm(x + delta)`; without `x`, `out` itself is normalised.
fn layer_norm<G: Gpu>(
    (op, gpu): (&'static str, &G),
    out: &mut CudaBuf<G>,
    (x, delta): (Option<&CudaBuf<G>>, Option<&CudaBuf<G>>),
    norm: &LayerNorm<'_, CudaBuf<G>>,
    rows: usize,
) -> Result<()> {
    let cols = columns(op, norm)?;
    check_room(op, "elements of out", product(&[rows, cols]), out.len())?;
    for read in [x, delta].into_iter().flatten() {
        check_room(op, "elements of x", product(&[rows, cols]), read.len())?;
    }
    if rows == 0 || cols == 0 {
        return Ok(());
    }
    let args = LayerNormArgs {
        out: out.address(),
        x: x.map_or(out.address(), CudaBuf::address),
        delta: address(delta),
        weight: norm.weight.address(),
        bias: address(norm.bias),
        cols: size(op, "columns", cols)?,
        eps: norm.eps,
    };
    // SAFETY: `rows * cols` elements of all buffers, `cols` of the parameters, checked above.
    unsafe { gpu.launch(Kernel::LayerNorm, Launch::blocks(size(op, "rows", rows)?), &args) }
}

impl<G: Gpu> EncoderBackend for CudaBackend<G> {
    type Packed = CudaPacked<G>;

    fn packed(&mut self, limits: PackedLimits) -> Result<CudaPacked<G>> {
        CudaPacked::new(&self.gpu, limits)
    }

    fn pack(&mut self, packed: &mut CudaPacked<G>, inputs: &PackedInputs<'_>) -> Result<()> {
        packed.fill(&self.gpu, inputs)
    }

    fn embed_packed(
        &mut self,
        out: &mut CudaBuf<G>,
        tables: &EmbeddingTables<'_, CudaBuf<G>>,
        norm: &LayerNorm<'_, CudaBuf<G>>,
        packed: &CudaPacked<G>,
    ) -> Result<()> {
        const OP: &str = "embed_packed";
        let cols = columns(OP, norm)?;
        check_room(OP, "elements of out", product(&[packed.tokens, cols]), out.len())?;
        let rows = |table: &CudaBuf<G>| table.len() / cols.max(1);
        packed
            .check_rows(OP, [Some(rows(tables.words)), tables.positions.map(rows), tables.types.map(rows)])?;
        if packed.tokens == 0 || cols == 0 {
            return Ok(());
        }
        let args = EmbedPackedArgs {
            out: out.address(),
            words: tables.words.address(),
            positions: address(tables.positions),
            types: address(tables.types),
            ids: packed.address(Part::Ids),
            places: packed.address(Part::Positions),
            kinds: packed.address(Part::Types),
            weight: norm.weight.address(),
            bias: address(norm.bias),
            cols: size(OP, "columns", cols)?,
            eps: norm.eps,
        };
        let launch = Launch::blocks(size(OP, "tokens", packed.tokens)?);
        // SAFETY: the tables have all rows that the tokens name, and `out` has room for all tokens, checked above.
        unsafe { self.gpu.launch(Kernel::EmbedPacked, launch, &args) }
    }

    fn layer_norm(
        &mut self,
        out: &mut CudaBuf<G>,
        x: &CudaBuf<G>,
        norm: &LayerNorm<'_, CudaBuf<G>>,
        rows: usize,
    ) -> Result<()> {
        layer_norm(("layer_norm", &self.gpu), out, (Some(x), None), norm, rows)
    }

    fn add_layer_norm(
        &mut self,
        hidden: &mut CudaBuf<G>,
        delta: &CudaBuf<G>,
        norm: &LayerNorm<'_, CudaBuf<G>>,
        rows: usize,
    ) -> Result<()> {
        layer_norm(("add_layer_norm", &self.gpu), hidden, (None, Some(delta)), norm, rows)
    }

    fn linear_act(
        &mut self,
        out: &mut CudaBuf<G>,
        x: &CudaBuf<G>,
        w: &CudaMatrix<G>,
        bias: Option<&CudaBuf<G>>,
        act: Activation,
        rows: usize,
    ) -> Result<()> {
        self.linear(out, x, w, bias, rows)?;
        elementwise::activate(&self.gpu, out, act, product(&[rows, w.rows()]))
    }

    fn rotate(
        &mut self,
        qkv: &mut CudaBuf<G>,
        packed: &CudaPacked<G>,
        heads: usize,
        head_dim: usize,
        rope: usize,
    ) -> Result<()> {
        const OP: &str = "rotate";
        let rotary = packed.rope(OP, rope)?;
        check_room(OP, "rotary_dim", 2 * rotary.half, head_dim)?;
        let width = qkv_width(HeadCounts { q: heads, kv: heads }, head_dim);
        check_room(OP, "elements of qkv", product(&[packed.tokens, width]), qkv.len())?;
        if packed.tokens == 0 || heads == 0 || rotary.half == 0 {
            return Ok(());
        }
        let args = RotateArgs {
            qkv: qkv.address(),
            cosine: rotary.cosine,
            sine: rotary.sine,
            heads: size(OP, "heads", heads)?,
            head_dim: size(OP, "head_dim", head_dim)?,
            half: size(OP, "rotary_dim", rotary.half)?,
        };
        let launch = Launch::grid(size(OP, "tokens", packed.tokens)?, size(OP, "heads", 2 * heads)?, 1);
        // SAFETY: a cosine and a sine for every pair of every token, in heads that are wide enough, checked above.
        unsafe { self.gpu.launch(Kernel::Rotate, launch, &args) }
    }

    fn attend(
        &mut self,
        out: &mut CudaBuf<G>,
        qkv: &CudaBuf<G>,
        packed: &CudaPacked<G>,
        params: &BidirectionalParams<'_, CudaBuf<G>>,
    ) -> Result<()> {
        let BidirectionalParams { heads, head_dim, scale, window, ref bias } = *params;
        check_room(ATTEND, "elements of qkv", product(&[packed.tokens, 3, heads, head_dim]), qkv.len())?;
        check_room(ATTEND, "elements of out", product(&[packed.tokens, heads, head_dim]), out.len())?;
        check_room(ATTEND, "head_dim", head_dim, packed.limits().head_dim)?;
        if heads == 0 || head_dim == 0 {
            return Err(shape_error(ATTEND, "heads or head_dim", 0, 1));
        }
        if let Some(bias) = bias {
            let longest = packed.limits().seq_len;
            let places = product(&[heads, bias.stride]);
            check_room(ATTEND, "elements of the bias table", places, bias.table.len())?;
            check_room(ATTEND, "distances before the center", longest - 1, bias.center)?;
            let after = bias.stride.saturating_sub(bias.center);
            check_room(ATTEND, "distances after the center", longest, after)?;
        }
        let kernel = match head_dim {
            ..=64 => Kernel::AttendPackedBy64,
            65..=128 => Kernel::AttendPackedBy128,
            _ => {
                let message =
                    format!("attention of encoders has heads of up to 128 elements, not {head_dim}");
                return Err(KernelError::Device { device: "cuda", message });
            }
        };
        if packed.tiles == 0 {
            return Ok(());
        }
        let args = AttendPackedArgs {
            out: out.address(),
            qkv: qkv.address(),
            tiles: packed.address(Part::Tiles),
            bias: bias.as_ref().map_or(0, |bias| bias.table.address()),
            heads: size(ATTEND, "heads", heads)?,
            head_dim: size(ATTEND, "head_dim", head_dim)?,
            window: window.unwrap_or(NO_WINDOW),
            stride: size(ATTEND, "places for distances", bias.as_ref().map_or(0, |bias| bias.stride))?,
            center: size(ATTEND, "places for distances", bias.as_ref().map_or(0, |bias| bias.center))?,
            scale,
        };
        let launch = Launch::grid(size(ATTEND, "tiles", packed.tiles)?, args.heads, 1);
        // SAFETY: tiles of the tokens that the buffers have, and a place for every distance, checked above.
        unsafe { self.gpu.launch(kernel, launch, &args) }
    }

    fn pool(
        &mut self,
        out: &mut CudaBuf<G>,
        x: &CudaBuf<G>,
        packed: &CudaPacked<G>,
        kind: PoolingKind,
        cols: usize,
    ) -> Result<()> {
        const OP: &str = "pool";
        check_room(OP, "elements of x", product(&[packed.tokens, cols]), x.len())?;
        check_room(OP, "elements of out", product(&[packed.seqs, cols]), out.len())?;
        let kernel = match kind {
            PoolingKind::Mean => Kernel::PoolMean,
            PoolingKind::First => Kernel::PoolFirst,
            PoolingKind::Last => Kernel::PoolLast,
            PoolingKind::Max => Kernel::PoolMax,
        };
        if packed.seqs == 0 || cols == 0 {
            return Ok(());
        }
        let ends = packed.address(Part::Ends);
        let cols = size(OP, "columns", cols)?;
        let args = PoolArgs { out: out.address(), x: x.address(), ends, cols };
        let launch = Launch::grid(size(OP, "sequences", packed.seqs)?, cols.div_ceil(kernel.threads()), 1);
        // SAFETY: `cols` elements for each token and each sequence, checked above; no sequence is empty.
        unsafe { self.gpu.launch(kernel, launch, &args) }
    }
}
