//! Weight matrices on the device.

use super::blocks::Blocks;
use super::gpu::Gpu;
use super::memory::Bytes;
use crate::contract::{check, product, shape_error};
use crate::{DType, KernelError, ScaledRowsView, WeightType, WeightView};

type Result<T> = std::result::Result<T, KernelError>;

const OP: &str = "matrix";
/// Rows of weights in 16 and 8 bits are padded with zeros to whole multiples of so many columns.
pub(super) const COLUMNS: usize = 64;
/// Rows are sent in pieces of about this many bytes.
const PIECE: usize = 8 << 20;

/// A `[rows, cols]` weight matrix of the CUDA device: bands of rows, each of one type.
pub struct CudaMatrix<G: Gpu> {
    bands: Vec<Band<G>>,
    rows: usize,
    cols: usize,
}

/// Consecutive rows.
pub(super) struct Band<G: Gpu> {
    pub(super) rows: usize,
    pub(super) data: Data<G>,
}

pub(super) enum Data<G: Gpu> {
    /// `[rows, stride]` as stored, with zeros behind the columns.
    Floats {
        dtype: DType,
        memory: G::Memory,
        stride: usize,
    },
    Blocks(Blocks<G>),
    /// `[rows, stride]` codes of E4M3, with zeros behind the columns, and f32 `[rows]`.
    Scaled {
        codes: G::Memory,
        scales: G::Memory,
        stride: usize,
    },
}

impl<G: Gpu> CudaMatrix<G> {
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    pub(super) fn bands(&self) -> &[Band<G>] {
        &self.bands
    }

    /// One matrix from `parts` stacked by rows.
    pub(super) fn new(gpu: &G, parts: &[WeightView<'_>]) -> Result<Self> {
        let first = parts.first().ok_or(shape_error(OP, "number of parts", 0, 1))?;
        for part in parts {
            check_part(part, first.cols)?;
        }
        let same_type = parts.chunk_by(|a, b| a.dtype == b.dtype);
        let bands = same_type.map(|parts| Band::new(gpu, parts)).collect::<Result<_>>()?;
        Ok(Self { bands, rows: parts.iter().map(|part| part.rows).sum(), cols: first.cols })
    }

    /// The same of E4M3 numbers with a scale for each row: one band.
    pub(super) fn scaled(gpu: &G, parts: &[ScaledRowsView<'_>]) -> Result<Self> {
        let first = parts.first().ok_or(shape_error(OP, "number of parts", 0, 1))?;
        for part in parts {
            check_size((part.rows, part.cols), first.cols)?;
            check(OP, "bytes of a part", part.codes.len(), product(&[part.rows, part.cols]))?;
            check(OP, "scales of a part", part.scales.len(), part.rows)?;
        }
        let (cols, stride) = (first.cols, first.cols.next_multiple_of(COLUMNS));
        let scales: Vec<f32> = parts.iter().flat_map(row_scales).collect();
        let rows = scales.len();
        let codes = gpu.allocate("weights", product(&[rows, stride]))?;
        upload_rows(gpu, &codes, parts.iter().map(|part| part.codes), (cols, stride))?;
        let memory = gpu.allocate("scales of weights", product(&[rows, size_of::<f32>()]))?;
        gpu.upload(&memory, 0, scales.bytes())?;
        let data = Data::Scaled { codes, scales: memory, stride };
        Ok(Self { bands: vec![Band { rows, data }], rows, cols })
    }
}

/// The scales of a part's rows. The kernels for few rows know no codes that are not numbers: such a row's scale is none.
fn row_scales(part: &ScaledRowsView<'_>) -> impl Iterator<Item = f32> {
    let not_a_number = |row: &[u8]| row.iter().fold(false, |found, code| found | (code & 0x7f == 0x7f));
    let rows = part.codes.chunks_exact(part.cols).zip(part.scales);
    rows.map(move |(row, &scale)| if not_a_number(row) { f32::NAN } else { scale })
}

fn check_size((rows, cols): (usize, usize), expected_cols: usize) -> Result<()> {
    if rows == 0 || cols == 0 {
        return Err(shape_error(OP, "rows or columns of a part", 0, 1));
    }
    check(OP, "columns of a part", cols, expected_cols)
}

fn check_part(part: &WeightView<'_>, cols: usize) -> Result<()> {
    check_size((part.rows, part.cols), cols)?;
    if let WeightType::Blocks(blocks) = part.dtype {
        check(OP, "columns of a part past whole blocks", part.cols % blocks.elements(), 0)?;
    }
    check(OP, "bytes of a part", part.bytes.len(), product(&[part.rows, row_bytes(part)]))
}

/// Bytes of a stored row.
fn row_bytes(part: &WeightView<'_>) -> usize {
    match part.dtype {
        WeightType::Float(dtype) => part.cols.saturating_mul(dtype.size()),
        WeightType::Blocks(blocks) => (part.cols / blocks.elements()).saturating_mul(blocks.bytes()),
    }
}

impl<G: Gpu> Band<G> {
    /// One band from `parts` of the same type.
    fn new(gpu: &G, parts: &[WeightView<'_>]) -> Result<Self> {
        let first = parts.first().ok_or(shape_error(OP, "number of parts", 0, 1))?;
        let rows: usize = parts.iter().map(|part| part.rows).sum();
        let data = match first.dtype {
            WeightType::Float(dtype) => floats(gpu, parts, dtype, (rows, first.cols))?,
            WeightType::Blocks(blocks) => {
                let row = |row| stacked_row(parts, row).unwrap_or_default();
                Data::Blocks(Blocks::new(gpu, blocks, (rows, first.cols), &row)?)
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

fn floats<G: Gpu>(
    gpu: &G,
    parts: &[WeightView<'_>],
    dtype: DType,
    (rows, cols): (usize, usize),
) -> Result<Data<G>> {
    let stride = match dtype {
        DType::F32 => cols,
        DType::F16 | DType::BF16 => cols.next_multiple_of(COLUMNS),
    };
    let (stored, padded) = (cols * dtype.size(), stride * dtype.size());
    let memory = gpu.allocate("weights", product(&[rows, padded]))?;
    upload_rows(gpu, &memory, parts.iter().map(|part| part.bytes), (stored, padded))?;
    Ok(Data::Floats { dtype, memory, stride })
}

/// Rows of `stored` bytes, one after another in `parts`, each with zeros behind it that make it `padded` bytes.
fn upload_rows<'a, G: Gpu>(
    gpu: &G,
    memory: &G::Memory,
    parts: impl Iterator<Item = &'a [u8]>,
    (stored, padded): (usize, usize),
) -> Result<()> {
    let mut offset = 0;
    for piece in parts.flat_map(|part| part.chunks((PIECE / stored).max(1) * stored)) {
        if stored == padded {
            gpu.upload(memory, offset, piece)?;
            offset += piece.len();
        } else {
            let mut rows = Vec::with_capacity(piece.len() / stored * padded);
            for row in piece.chunks_exact(stored) {
                rows.extend_from_slice(row);
                rows.resize(rows.len() + padded - stored, 0);
            }
            gpu.upload(memory, offset, &rows)?;
            offset += rows.len();
        }
    }
    Ok(())
}
