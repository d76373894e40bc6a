use super::super::panel::LANES;
use super::super::pool::{Pool, Shards};
use super::layout::{CHUNK, UNIT, UNITS, chunk_len, panel_len, put_block};
use super::{Format, Parts, with_format};
use crate::{BlockType, KernelError};

/// Bytes of a band of `[rows, cols]`.
pub(crate) fn band_len(blocks: BlockType, rows: usize, cols: usize) -> usize {
    with_format!(blocks, T => panel_len::<T>(cols)).saturating_mul(rows.div_ceil(LANES))
}

/// Rearranges stored rows, which `row` gives, into `out` of [`band_len`] bytes, zeroed.
#[allow(unsafe_code)]
pub(crate) fn pack<'a>(
    pool: &Pool,
    blocks: BlockType,
    out: &mut [u8],
    cols: usize,
    row: &(impl Fn(usize) -> Option<&'a [u8]> + Sync),
) -> Result<(), KernelError> {
    let panel_len = with_format!(blocks, T => panel_len::<T>(cols));
    let panels = Shards::new(out);
    pool.run(panels.len / panel_len.max(1), &|_, panel| {
        // SAFETY: each panel is one chunk of the job, run once.
        let out = unsafe { panels.slice(panel * panel_len, panel_len) };
        let rows = std::array::from_fn(|lane| row(panel * LANES + lane).unwrap_or_default());
        with_format!(blocks, T => pack_panel::<T>(out, cols, &rows));
    })
}

/// Rows that do not exist are empty.
fn pack_panel<T: Format>(out: &mut [u8], cols: usize, rows: &[&[u8]; LANES]) {
    let mut parts = Parts::default();
    for (index, chunk) in out.chunks_mut(chunk_len::<T>(UNITS)).enumerate() {
        let cols = CHUNK.min(cols - index * CHUNK);
        let blocks = cols / T::ELEMENTS;
        let first = index * (CHUNK / T::ELEMENTS);
        for (lane, row) in rows.iter().enumerate() {
            for (block, stored) in row.chunks_exact(T::BYTES).skip(first).take(blocks).enumerate() {
                T::take_apart(stored, &mut parts);
                put_block::<T>(chunk, cols / UNIT, (lane, block), &parts);
            }
        }
    }
}
