use std::borrow::Cow;
use std::fmt;
use std::num::NonZero;
use std::thread;

use crate::gguf::dequantize;
use crate::quantized::{QuantizedSource, Scheme};
use crate::{GgufSource, ModelError, ModelFiles, SafetensorsSource};

/// Element type of a stored tensor. The quantized ones are those of ggml.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
    Mxfp4,
}

impl DType {
    pub const ALL: [DType; 16] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::Q8_0,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q2K,
        DType::Q3K,
        DType::Q4K,
        DType::Q5K,
        DType::Q6K,
        DType::Iq4Nl,
        DType::Iq4Xs,
        DType::Mxfp4,
    ];

    /// Elements per block: how many neighbours in a row are stored together. 1 for floats.
    pub const fn block_elements(self) -> usize {
        match self {
            DType::F32 | DType::F16 | DType::BF16 => 1,
            DType::Q2K | DType::Q3K | DType::Q4K | DType::Q5K | DType::Q6K | DType::Iq4Xs => 256,
            _ => 32,
        }
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::Q8_0 => 34,
            DType::Q4_0 | DType::Iq4Nl => 18,
            DType::Q4_1 => 20,
            DType::Q5_0 => 22,
            DType::Q5_1 => 24,
            DType::Q2K => 84,
            DType::Q3K => 110,
            DType::Q4K => 144,
            DType::Q5K => 176,
            DType::Q6K => 210,
            DType::Iq4Xs => 136,
            DType::Mxfp4 => 17,
        }
    }

    /// Bytes of `elements` elements; `None` when they are no whole number of blocks, or too many to count.
    pub const fn bytes_of(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_elements()) {
            return None;
        }
        (elements / self.block_elements()).checked_mul(self.block_bytes())
    }

    /// ggml's name.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            DType::Q8_0 => "Q8_0",
            DType::Q4_0 => "Q4_0",
            DType::Q4_1 => "Q4_1",
            DType::Q5_0 => "Q5_0",
            DType::Q5_1 => "Q5_1",
            DType::Q2K => "Q2_K",
            DType::Q3K => "Q3_K",
            DType::Q4K => "Q4_K",
            DType::Q5K => "Q5_K",
            DType::Q6K => "Q6_K",
            DType::Iq4Nl => "IQ4_NL",
            DType::Iq4Xs => "IQ4_XS",
            DType::Mxfp4 => "MXFP4",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One tensor: row-major, little-endian, no alignment promised.
#[derive(Debug, Clone)]
pub struct TensorView<'a> {
    pub dtype: DType,
    pub shape: Vec<usize>,
    /// Exactly `dtype.bytes_of(shape.product())` bytes: where they lie in the file, or rearranged.
    pub bytes: Cow<'a, [u8]>,
}

/// A row-major `[rows, cols]` matrix as E4M3 numbers (`fp8_e4m3fn`), each row with a scale: an element is its number times its
/// row's scale.
#[derive(Debug, Clone, PartialEq)]
pub struct ScaledRows<'a> {
    pub rows: usize,
    pub cols: usize,
    /// `[rows, cols]`.
    pub codes: Cow<'a, [u8]>,
    /// `[rows]`.
    pub scales: Vec<f32>,
}

/// Named tensors, whichever container they come in.
pub trait TensorSource: Send + Sync {
    /// The tensor `name`, or an error that names the file searched.
    fn tensor(&self, name: &str) -> Result<TensorView<'_>, ModelError>;
    /// The matrix `name` as it is stored, where that is as E4M3 numbers whose scales go by rows; [`TensorSource::tensor`]
    /// gives the same in floats.
    ///
    /// # Errors
    /// As those of [`TensorSource::tensor`].
    fn scaled_rows(&self, _name: &str) -> Result<Option<ScaledRows<'_>>, ModelError> {
        Ok(None)
    }
    /// Type and shape of tensor `name`, as [`TensorSource::tensor`] would give it, without its bytes.
    fn info(&self, name: &str) -> Result<(DType, Vec<usize>), ModelError> {
        self.tensor(name).map(|view| (view.dtype, view.shape))
    }
    fn contains(&self, name: &str) -> bool;
    /// The file that holds tensor `name`, or where it was looked for; for messages.
    fn file(&self, name: &str) -> &str;
    /// Tensor `name` has been read, and will hardly be again: memory that its file occupies may be given back.
    fn release(&self, _name: &str) {}
    /// Sum of all tensors' bytes.
    fn total_bytes(&self) -> u64;
}

/// Opens the weights of `files`, whichever container they come in, and whatever they were quantized by.
///
/// # Errors
/// See [`SafetensorsSource::open`] and [`GgufSource::open`]; a quantized checkpoint of a kind that is not read, or with
/// parts that do not fit together.
pub fn open_tensors(files: &ModelFiles) -> Result<Box<dyn TensorSource>, ModelError> {
    open(files, thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN))
}

/// The same for work in the background: what has to be computed of a tensor is computed in the thread that asks for it, and
/// in no others.
///
/// # Errors
/// See [`open_tensors`].
pub fn open_tensors_in_one_thread(files: &ModelFiles) -> Result<Box<dyn TensorSource>, ModelError> {
    open(files, NonZero::<usize>::MIN)
}

fn open(files: &ModelFiles, threads: NonZero<usize>) -> Result<Box<dyn TensorSource>, ModelError> {
    if files.gguf().is_some() {
        return Ok(Box::new(GgufSource::open(files)?));
    }
    let source = SafetensorsSource::open(files)?;
    Ok(match Scheme::of(files)? {
        Some(scheme) => Box::new(QuantizedSource::new(source, scheme, threads)?),
        None => Box::new(source),
    })
}

impl TensorView<'_> {
    /// The elements in f32.
    pub fn to_f32(&self) -> Vec<f32> {
        dequantize(self.dtype, &self.bytes)
    }
}
