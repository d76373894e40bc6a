//! Weight matrices: copied once, at load, into panels of the stored type.

use super::memory::Memory;
use super::panel::{Element, LANES, Panels, panel_len, with_panels};
use super::pool::{Pool, Shards};
use super::{check, quant, shape_error};
use crate::{BlockType, KernelError, WeightType, WeightView};

/// A `[rows, cols]` weight matrix of the CPU device: bands of rows, each of one type.
pub struct Matrix {
    bands: Vec<Band>,
    rows: usize,
    cols: usize,
}

/// Consecutive rows.
pub(crate) struct Band {
    pub(crate) rows: usize,
    pub(crate) data: Data,
}

pub(crate) enum Data {
    Floats(Panels),
    Blocks(BlockType, Memory<u8>),
}

const OP: &str = "matrix";

impl Matrix {
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn bands(&self) -> &[Band] {
        &self.bands
    }

    /// One matrix from `parts` stacked by rows.
    pub(crate) fn pack(pool: &Pool, parts: &[WeightView<'_>]) -> Result<Self, KernelError> {
        let first = parts.first().ok_or(shape_error(OP, "number of parts", 0, 1))?;
        for part in parts {
            check_part(part, first.cols)?;
        }
        let same_type = parts.chunk_by(|a, b| a.dtype == b.dtype);
        let bands = same_type.map(|parts| Band::pack(pool, parts)).collect::<Result<_, _>>()?;
        Ok(Self { bands, rows: parts.iter().map(|part| part.rows).sum(), cols: first.cols })
    }
}

fn check_part(part: &WeightView<'_>, cols: usize) -> Result<(), KernelError> {
    if part.rows == 0 || part.cols == 0 {
        return Err(shape_error(OP, "rows or columns of a part", 0, 1));
    }
    check(OP, "columns of a part", part.cols, cols)?;
    if let WeightType::Blocks(blocks) = part.dtype {
        check(OP, "columns of a part past whole blocks", part.cols % blocks.elements(), 0)?;
    }
    let bytes = part.rows.checked_mul(row_bytes(part));
    check(OP, "bytes of a part", part.bytes.len(), bytes.unwrap_or(usize::MAX))
}

/// Bytes of a stored row.
fn row_bytes(part: &WeightView<'_>) -> usize {
    match part.dtype {
        WeightType::Float(dtype) => part.cols.saturating_mul(dtype.size()),
        WeightType::Blocks(blocks) => (part.cols / blocks.elements()).saturating_mul(blocks.bytes()),
    }
}

impl Band {
    /// One band from `parts` of the same type.
    fn pack(pool: &Pool, parts: &[WeightView<'_>]) -> Result<Self, KernelError> {
        let first = parts.first().ok_or(shape_error(OP, "number of parts", 0, 1))?;
        let rows: usize = parts.iter().map(|part| part.rows).sum();
        let data = match first.dtype {
            WeightType::Float(dtype) => {
                let len = rows.div_ceil(LANES).saturating_mul(panel_len(first.cols));
                let mut data = Panels::zeroed("weights", dtype, len)?;
                with_panels!(&mut data, data => pack_rows(pool, data, parts, first.cols))?;
                Data::Floats(data)
            }
            WeightType::Blocks(blocks) => {
                let mut data = Memory::zeroed("weights", quant::band_len(blocks, rows, first.cols))?;
                quant::pack(pool, blocks, &mut data, first.cols, &|row| stacked_row(parts, row))?;
                Data::Blocks(blocks, data)
            }
        };
        Ok(Self { rows, data })
    }
}

/// The bytes of row `row` of the stacked parts.
fn stacked_row<'a>(parts: &[WeightView<'a>], mut row: usize) -> Option<&'a [u8]> {
    for part in parts {
        if row < part.rows {
            let bytes = row_bytes(part);
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
