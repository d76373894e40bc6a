//! Weight matrices: copied once, at load, into panels of the stored type.

use super::panel::{Element, LANES, Panels, panel_len, with_panels};
use super::pool::{Pool, Shards};
use super::{check, shape_error};
use crate::{KernelError, WeightView};

/// A `[rows, cols]` weight matrix of the CPU device.
pub struct Matrix {
    data: Panels,
    rows: usize,
    cols: usize,
}

impl Matrix {
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn data(&self) -> &Panels {
        &self.data
    }

    /// One matrix from `parts` stacked by rows.
    pub(crate) fn pack(pool: &Pool, parts: &[WeightView<'_>]) -> Result<Self, KernelError> {
        const OP: &str = "matrix";
        let first = parts.first().ok_or(shape_error(OP, "number of parts", 0, 1))?;
        for part in parts {
            if part.rows == 0 || part.cols == 0 {
                return Err(shape_error(OP, "rows or columns of a part", 0, 1));
            }
            check(OP, "columns of a part", part.cols, first.cols)?;
            check(OP, "same dtype in all parts", usize::from(part.dtype == first.dtype), 1)?;
            let bytes = part.rows.checked_mul(part.cols).and_then(|n| n.checked_mul(part.dtype.size()));
            check(OP, "bytes of a part", part.bytes.len(), bytes.unwrap_or(usize::MAX))?;
        }
        let rows: usize = parts.iter().map(|part| part.rows).sum();
        let cols = first.cols;
        let len = rows.div_ceil(LANES).saturating_mul(panel_len(cols));
        let mut data = Panels::zeroed("weights", first.dtype, len)?;
        with_panels!(&mut data, data => pack_rows(pool, data, parts, cols))?;
        Ok(Self { data, rows, cols })
    }
}

/// The bytes of row `row` of the stacked parts.
fn stacked_row<'a>(parts: &[WeightView<'a>], mut row: usize) -> Option<&'a [u8]> {
    for part in parts {
        if row < part.rows {
            let bytes = part.cols * part.dtype.size();
            return part.bytes.get(row * bytes..(row + 1) * bytes);
        }
        row -= part.rows;
    }
    None
}

#[allow(unsafe_code)]
fn pack_rows<W: Element>(
    pool: &Pool,
    data: &mut [W],
    parts: &[WeightView<'_>],
    cols: usize,
) -> Result<(), KernelError> {
    let panel_len = panel_len(cols);
    let panels = Shards::new(data);
    pool.run(panels.len / panel_len, &|_, panel| {
        // SAFETY: each panel is one chunk, run once.
        let out = unsafe { panels.slice(panel * panel_len, panel_len) };
        for lane in 0..LANES {
            let Some(row) = stacked_row(parts, panel * LANES + lane) else { break };
            for (col, bytes) in row.chunks_exact(size_of::<W>()).enumerate() {
                out[W::offset(col, lane)] = W::from_le(bytes);
            }
        }
    })
}
