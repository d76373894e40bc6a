//! Causal attention within each segment of a batch, tile by tile: no more scores are held than those of one tile, neither for
//! the gradient, which computes them again.

use candle_core::{D, Device, Result, Tensor};
use weirgate_models::ModelSpec;

use super::gradient::with_gradients;
use super::ops::{soft_cap, soft_cap_backward, softmax};
use crate::Segment;

/// Queries of a tile.
const TILE: usize = 256;

/// The attention of one layer.
#[derive(Debug, Clone)]
pub struct Attention {
    heads: usize,
    kv_heads: usize,
    scale: f64,
    softcap: Option<f64>,
    /// A query at `i` sees keys `j` with `i - j < window`.
    window: Option<usize>,
    segments: Vec<Segment>,
}

/// Queries `start .. start + rows` of a batch, which see keys `first .. start + rows` at most.
#[derive(Debug, Clone, Copy)]
struct Tile {
    segment: Segment,
    start: usize,
    rows: usize,
    first: usize,
}

impl Tile {
    fn keys(&self) -> usize {
        self.start + self.rows - self.first
    }
}

impl Attention {
    pub fn new(spec: &ModelSpec, window: Option<u32>, segments: &[Segment]) -> Self {
        Self {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            scale: f64::from(spec.attention_scale),
            softcap: spec.attention_softcap.map(f64::from),
            window: window.map(|window| window as usize),
            segments: segments.to_vec(),
        }
    }

    /// `q` `[T, heads, dim]`, `k` and `v` `[T, kv_heads, dim]` → `[T, heads, dim]`.
    pub fn apply(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (own, plain) = (self.clone(), [q.detach(), k.detach(), v.detach()]);
        let value = self.forward(&plain)?;
        let out = value.clone();
        with_gradients([q, k, v], value, move |gradient| own.backward(&plain, &out, gradient))
    }

    fn forward(&self, [q, k, v]: &[Tensor; 3]) -> Result<Tensor> {
        let mut parts = Vec::new();
        for tile in self.tiles() {
            let (probabilities, _) = self.probabilities(&tile, q, k)?;
            let sums = probabilities.matmul(&self.keys_of(&tile, v)?)?;
            parts.push(self.by_tokens(&sums, tile.rows)?);
        }
        Tensor::cat(&parts, 0)
    }

    fn backward(&self, [q, k, v]: &[Tensor; 3], out: &Tensor, gradient: &Tensor) -> Result<[Tensor; 3]> {
        let gradient = gradient.contiguous()?;
        // Σ over a row's probabilities times their gradients, as the product of the outputs.
        let along = (out * &gradient)?.sum_keepdim(D::Minus1)?;
        let mut parts = [Vec::new(), Vec::new(), Vec::new()];
        for tile in self.tiles() {
            let (probabilities, capped) = self.probabilities(&tile, q, k)?;
            let outer = self.queries_of(&tile, &gradient)?;
            let dv = probabilities.t()?.matmul(&outer)?;
            let changes = outer.matmul(&self.keys_of(&tile, v)?.t()?)?;
            let changes = changes.broadcast_sub(&self.queries_of(&tile, &along)?)?;
            let mut scores = (probabilities * changes)?;
            if let Some((capped, cap)) = capped.zip(self.softcap) {
                scores = soft_cap_backward(&capped, cap, &scores)?;
            }
            let scores = scores.affine(self.scale, 0.0)?;
            let dq = scores.matmul(&self.keys_of(&tile, k)?)?;
            let dk = scores.t()?.matmul(&self.queries_of(&tile, q)?)?;
            parts[0].push(self.by_tokens(&dq, tile.rows)?);
            self.add_keys(&mut parts[1], &tile, &dk)?;
            self.add_keys(&mut parts[2], &tile, &dv)?;
        }
        let [dq, dk, dv] = parts;
        Ok([Tensor::cat(&dq, 0)?, Tensor::cat(&dk, 0)?, Tensor::cat(&dv, 0)?])
    }

    /// In the order of their rows.
    fn tiles(&self) -> impl Iterator<Item = Tile> + '_ {
        self.segments.iter().flat_map(move |&segment| {
            (0..segment.len).step_by(TILE).map(move |from| {
                let unseen = self.window.map_or(0, |window| (from + 1).saturating_sub(window));
                Tile {
                    segment,
                    start: segment.start + from,
                    rows: TILE.min(segment.len - from),
                    first: segment.start + unseen,
                }
            })
        })
    }

    /// `[kv_heads, rows · group, keys]`, and the scores under their soft cap where there is one.
    fn probabilities(&self, tile: &Tile, q: &Tensor, k: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let keys = self.keys_of(tile, k)?.t()?;
        let scores = self.queries_of(tile, q)?.affine(self.scale, 0.0)?.matmul(&keys)?;
        let capped = self.softcap.map(|cap| soft_cap(&scores, cap)).transpose()?;
        let scores = capped.as_ref().unwrap_or(&scores);
        let masked = scores.broadcast_add(&self.mask(tile, q.device())?)?;
        Ok((softmax(&masked)?, capped))
    }

    /// `[rows · group, keys]`: 0 where a query sees a key, else minus infinity.
    fn mask(&self, tile: &Tile, device: &Device) -> Result<Tensor> {
        let group = self.heads / self.kv_heads;
        let mut mask = Vec::with_capacity(tile.rows * group * tile.keys());
        for query in tile.start..tile.start + tile.rows {
            let from = self.window.map_or(0, |window| (query + 1).saturating_sub(window));
            for _ in 0..group {
                mask.extend(
                    (tile.first..tile.start + tile.rows)
                        .map(|key| if (from..=query).contains(&key) { 0.0f32 } else { f32::NEG_INFINITY }),
                );
            }
        }
        Tensor::from_vec(mask, (tile.rows * group, tile.keys()), device)
    }

    /// A tile's rows of `[T, heads, n]`, by key heads: `[kv_heads, rows · group, n]`.
    fn queries_of(&self, tile: &Tile, x: &Tensor) -> Result<Tensor> {
        let (group, dim) = (self.heads / self.kv_heads, x.dim(D::Minus1)?);
        let rows = x.narrow(0, tile.start, tile.rows)?.reshape((tile.rows, self.kv_heads, group, dim))?;
        rows.transpose(0, 1)?.contiguous()?.reshape((self.kv_heads, tile.rows * group, dim))
    }

    /// The keys or values that a tile sees, `[kv_heads, keys, dim]`.
    fn keys_of(&self, tile: &Tile, x: &Tensor) -> Result<Tensor> {
        x.narrow(0, tile.first, tile.keys())?.transpose(0, 1)?.contiguous()
    }

    /// The reverse of `queries_of`: `[rows, heads, n]`.
    fn by_tokens(&self, x: &Tensor, rows: usize) -> Result<Tensor> {
        let (group, dim) = (self.heads / self.kv_heads, x.dim(D::Minus1)?);
        let x = x.reshape((self.kv_heads, rows, group, dim))?;
        x.transpose(0, 1)?.contiguous()?.reshape((rows, self.heads, dim))
    }

    /// Adds `[kv_heads, keys, dim]` to the last of `parts`, the gradients of whole segments, or begins another.
    fn add_keys(&self, parts: &mut Vec<Tensor>, tile: &Tile, part: &Tensor) -> Result<()> {
        let Tile { segment, start, rows, first } = *tile;
        let part = part.transpose(0, 1)?.contiguous()?;
        let after = segment.start + segment.len - (start + rows);
        let part = part.pad_with_zeros(0, first - segment.start, after)?;
        match parts.last_mut().filter(|_| start > segment.start) {
            Some(sum) => *sum = (&*sum + part)?,
            None => parts.push(part),
        }
        Ok(())
    }
}
