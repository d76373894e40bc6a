use crate::ModelError;

/// Element type of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    F16,
    BF16,
}

impl DType {
    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }
}

/// One tensor where it lies: row-major, little-endian, no alignment promised.
#[derive(Debug, Clone)]
pub struct TensorView<'a> {
    pub dtype: DType,
    pub shape: Vec<usize>,
    /// Exactly `shape.product() * dtype.size()` bytes.
    pub bytes: &'a [u8],
}

/// Named tensors, whichever container they come in.
pub trait TensorSource: Send + Sync {
    /// The tensor `name`, or an error that names the file searched.
    fn tensor(&self, name: &str) -> Result<TensorView<'_>, ModelError>;
    fn contains(&self, name: &str) -> bool;
    /// The file that holds tensor `name`, or where it was looked for; for messages.
    fn file(&self, name: &str) -> &str;
    /// Sum of all tensors' bytes.
    fn total_bytes(&self) -> u64;
}

impl TensorView<'_> {
    /// The elements widened to f32.
    pub fn to_f32(&self) -> Vec<f32> {
        match self.dtype {
            DType::F32 => {
                self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            DType::F16 => {
                self.bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
            }
            DType::BF16 => {
                self.bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
            }
        }
    }
}
