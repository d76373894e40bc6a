use std::collections::HashSet;
use std::ops::Range;

use super::cursor::{Cursor, Fault};
use super::metadata::GgufMetadata;
use crate::{Bytes, DType, ModelError};

const MAGIC: &[u8; 4] = b"GGUF";
/// Most tensors a file may have; the largest published checkpoints have some thousands.
const MAX_TENSORS: u64 = 1 << 20;
const MAX_DIMENSIONS: u32 = 4;
/// A name's length, the number of dimensions, type and offset.
const LEAST_TENSOR: usize = 8 + 4 + 4 + 8;
const ALIGNMENT: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 20;

/// One GGUF file whose header has been checked against its length.
#[derive(Debug)]
pub struct GgufFile {
    bytes: Bytes,
    metadata: GgufMetadata,
    tensors: Vec<GgufTensor>,
}

/// A tensor as the header describes it.
#[derive(Debug, Clone)]
pub struct GgufTensor {
    pub name: String,
    /// Row-major: rows before columns.
    pub shape: Vec<usize>,
    pub dtype: GgufTensorType,
    /// Where in the file; of a type that is not supported, where it begins.
    pub range: Range<usize>,
    /// Where in the header.
    at: usize,
}

/// A tensor's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufTensorType {
    Known(DType),
    /// ggml's number of a type that is not supported.
    Other(u32),
}

impl DType {
    /// ggml's number of this type.
    pub(crate) const fn gguf_id(self) -> u32 {
        match self {
            DType::F32 => 0,
            DType::F16 => 1,
            DType::Q4_0 => 2,
            DType::Q4_1 => 3,
            DType::Q5_0 => 6,
            DType::Q5_1 => 7,
            DType::Q8_0 => 8,
            DType::Q2K => 10,
            DType::Q3K => 11,
            DType::Q4K => 12,
            DType::Q5K => 13,
            DType::Q6K => 14,
            DType::Iq4Nl => 20,
            DType::Iq4Xs => 23,
            DType::BF16 => 30,
            DType::Mxfp4 => 39,
        }
    }
}

impl GgufFile {
    /// Takes a file apart. `label` is its name in messages.
    ///
    /// # Errors
    /// Anything in the header that is not as the format has it, or that points outside the file; names the byte, and
    /// the key or tensor where there is one.
    pub fn parse(label: &str, bytes: Bytes) -> Result<Self, ModelError> {
        let at_file = |fault: Fault| ModelError::File { file: label.into(), message: fault.to_string() };
        let mut cursor = Cursor::new(&bytes);
        check_magic(&mut cursor).map_err(at_file)?;
        let tensors = cursor.count(LEAST_TENSOR, "the number of tensors").map_err(at_file)?;
        let keys = cursor.count(GgufMetadata::LEAST, "the number of keys").map_err(at_file)?;
        let metadata = GgufMetadata::parse(label, &bytes, &mut cursor, keys)?;
        if tensors > MAX_TENSORS {
            return Err(at_file(
                cursor.fault(format!("{tensors} tensors, at most {MAX_TENSORS} are accepted")),
            ));
        }
        let alignment = alignment(&metadata)?;
        let mut infos = read_tensors(label, &mut cursor, tensors, alignment)?;
        place(label, &mut infos, cursor.at(), alignment, bytes.len())?;
        Ok(Self { bytes, metadata, tensors: infos })
    }

    pub fn metadata(&self) -> &GgufMetadata {
        &self.metadata
    }

    /// In the file's order.
    pub fn tensors(&self) -> &[GgufTensor] {
        &self.tensors
    }

    /// The stored bytes of `tensor`.
    pub fn data(&self, tensor: &GgufTensor) -> &[u8] {
        self.bytes.get(tensor.range.clone()).unwrap_or_default()
    }

    /// See [`crate::TensorSource::release`].
    pub(super) fn release(&self, tensor: &GgufTensor) {
        self.bytes.release(tensor.range.clone());
    }
}

fn check_magic(cursor: &mut Cursor<'_>) -> Result<(), Fault> {
    let magic = cursor.u32("the magic number")?.to_le_bytes();
    if magic != *MAGIC {
        return Err(Fault { at: 0, message: format!("begins with {magic:02x?}, not with \"GGUF\"") });
    }
    let version = cursor.u32("the version")?;
    let message = match version {
        2 | 3 => return Ok(()),
        0x0200_0000 | 0x0300_0000 => "is a big-endian file; only little-endian ones are supported".into(),
        _ => format!("version {version} is not supported, only 2 and 3"),
    };
    Err(Fault { at: 4, message })
}

fn alignment(metadata: &GgufMetadata) -> Result<usize, ModelError> {
    let alignment = metadata.size(ALIGNMENT)?.unwrap_or(DEFAULT_ALIGNMENT);
    if !alignment.is_power_of_two() || !(8..=MAX_ALIGNMENT).contains(&alignment) {
        return Err(metadata.wrong(
            ALIGNMENT,
            &format!("is {alignment}, expected a power of two from 8 to {MAX_ALIGNMENT}"),
        ));
    }
    Ok(alignment as usize)
}

/// The tensors, their ranges still relative to the data section.
fn read_tensors(
    label: &str,
    cursor: &mut Cursor<'_>,
    count: u64,
    alignment: usize,
) -> Result<Vec<GgufTensor>, ModelError> {
    let mut infos = Vec::new();
    let mut names = HashSet::new();
    for _ in 0..count {
        let at = cursor.at();
        let name = cursor
            .name("a tensor's name")
            .map_err(|fault| ModelError::File { file: label.into(), message: fault.to_string() })?;
        if !names.insert(name) {
            return Err(tensor_error(label, name, at, "appears twice"));
        }
        let info = read_tensor(cursor, name, at, alignment)
            .map_err(|fault| tensor_error(label, name, fault.at, &fault.message))?;
        infos.push(info);
    }
    Ok(infos)
}

fn read_tensor(
    cursor: &mut Cursor<'_>,
    name: &str,
    at: usize,
    alignment: usize,
) -> Result<GgufTensor, Fault> {
    let dimensions_at = cursor.at();
    let dimensions = cursor.u32("the number of dimensions")?;
    if dimensions > MAX_DIMENSIONS {
        let message = format!("{dimensions} dimensions, at most {MAX_DIMENSIONS} are accepted");
        return Err(Fault { at: dimensions_at, message });
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        let at = cursor.at();
        let size = cursor.u64("a dimension")?;
        match usize::try_from(size) {
            Ok(size) if size > 0 => shape.push(size),
            _ => return Err(Fault { at, message: format!("a dimension of {size}") }),
        }
    }
    // Stored with the fastest dimension first.
    shape.reverse();
    let type_at = cursor.at();
    let id = cursor.u32("the type")?;
    let dtype = DType::ALL
        .into_iter()
        .find(|dtype| dtype.gguf_id() == id)
        .map_or(GgufTensorType::Other(id), GgufTensorType::Known);
    let len = match dtype {
        GgufTensorType::Known(dtype) => {
            stored_bytes(&shape, dtype).map_err(|message| Fault { at: type_at, message })?
        }
        GgufTensorType::Other(_) => 0,
    };
    let offset_at = cursor.at();
    let offset = cursor.u64("the offset")?;
    let end = usize::try_from(offset).ok().and_then(|start| Some(start..start.checked_add(len)?));
    match end {
        Some(range) if range.start.is_multiple_of(alignment) => {
            Ok(GgufTensor { name: name.into(), shape, dtype, range, at })
        }
        Some(_) => Err(Fault {
            at: offset_at,
            message: format!("offset {offset} is not a multiple of the alignment {alignment}"),
        }),
        None => Err(Fault { at: offset_at, message: format!("offset {offset} lies outside the file") }),
    }
}

/// Bytes of a tensor, whose rows are whole blocks.
fn stored_bytes(shape: &[usize], dtype: DType) -> Result<usize, String> {
    let columns = shape.last().copied().unwrap_or(1);
    if !columns.is_multiple_of(dtype.block_elements()) {
        return Err(format!(
            "rows of {columns} elements are not whole blocks of {} ({dtype})",
            dtype.block_elements()
        ));
    }
    shape
        .iter()
        .try_fold(1usize, |product, size| product.checked_mul(*size))
        .and_then(|elements| dtype.bytes_of(elements))
        .ok_or_else(|| format!("shape {shape:?} has more elements than can be counted"))
}

/// Moves the ranges to where the data section begins, and checks that they lie in the file and apart.
fn place(
    label: &str,
    infos: &mut [GgufTensor],
    header: usize,
    alignment: usize,
    file: usize,
) -> Result<(), ModelError> {
    let data = header.checked_next_multiple_of(alignment).unwrap_or(usize::MAX);
    for info in infos.iter_mut() {
        let (start, end) = (data.checked_add(info.range.start), data.checked_add(info.range.end));
        match (start, end) {
            (Some(start), Some(end)) if end <= file => info.range = start..end,
            _ => {
                let message = format!(
                    "takes bytes {} to {} of the data from byte {data} on, the file ends at byte {file}",
                    info.range.start, info.range.end
                );
                return Err(tensor_error(label, &info.name, info.at, &message));
            }
        }
    }
    let mut order: Vec<&GgufTensor> = infos.iter().filter(|info| !info.range.is_empty()).collect();
    order.sort_unstable_by_key(|info| info.range.start);
    for pair in order.windows(2) {
        if let [first, second] = pair
            && second.range.start < first.range.end
        {
            let message = format!("begins at byte {} within '{}'", second.range.start, first.name);
            return Err(tensor_error(label, &second.name, second.at, &message));
        }
    }
    Ok(())
}

fn tensor_error(label: &str, name: &str, at: usize, message: &str) -> ModelError {
    ModelError::Tensor {
        file: label.into(),
        tensor: name.into(),
        message: format!("at byte {at}: {message}"),
    }
}
