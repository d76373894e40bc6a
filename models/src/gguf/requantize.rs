//! A GGUF file into another one with smaller weights; everything else is taken over as it is.

use std::borrow::Cow;
use std::num::NonZero;

use super::source::GgufSource;
use super::write::{GgufValue, GgufWriter};
use super::{Gguf, GgufFile, GgufTensor, GgufTensorType, QuantMix, Quantized, quantize};
use crate::{ModelError, ModelSpec, TensorSource, TensorView};

/// Keys that are about the file and not about the model.
const OF_THE_FILE: [&str; 6] = [
    "general.alignment",
    "general.file_type",
    "general.quantization_version",
    "split.count",
    "split.no",
    "split.tensors.count",
];

/// A writer of `gguf` with the matrices of `spec`, which is its specification, in the types of `mix`, computed in the
/// thread that writes. Matrices that are quantized already stay as they are.
///
/// # Errors
/// A tensor that is missing or of a type that is not supported.
pub fn requantize<'a>(
    gguf: &'a Gguf,
    source: &'a GgufSource,
    spec: &ModelSpec,
    mix: QuantMix,
) -> Result<GgufWriter<'a>, ModelError> {
    let quantized = Quantized::new(spec, source, mix)?;
    let mut writer = GgufWriter::new();
    let metadata = gguf.metadata();
    let mut keys: Vec<&str> = metadata.keys().filter(|key| !OF_THE_FILE.contains(key)).collect();
    keys.sort_unstable();
    for key in keys {
        writer.set(key, GgufValue::Stored(metadata.stored(key).to_vec()));
    }
    writer.set("general.file_type", GgufValue::U32(mix.file_type()));
    writer.set("general.quantization_version", GgufValue::U32(2));
    for file in gguf.files() {
        for tensor in file.tensors() {
            let (dtype, shape) = quantized.info(&tensor.name)?;
            writer.tensor(&*tensor.name, dtype, &shape, move || bytes(file, tensor, dtype))?;
        }
    }
    Ok(writer)
}

/// The tensor as it lies in the file, in type `dtype`.
fn bytes<'a>(
    file: &'a GgufFile,
    tensor: &'a GgufTensor,
    dtype: crate::DType,
) -> Result<Cow<'a, [u8]>, ModelError> {
    let stored = file.data(tensor);
    let GgufTensorType::Known(known) = tensor.dtype else { return Ok(stored.into()) };
    if known == dtype {
        return Ok(stored.into());
    }
    let view = TensorView { dtype: known, shape: tensor.shape.clone(), bytes: stored.into() };
    let quantized =
        quantize(dtype, &view.to_f32(), NonZero::<usize>::MIN).ok_or_else(|| ModelError::Tensor {
            file: file.metadata().label().into(),
            tensor: tensor.name.clone(),
            message: format!("cannot be made {dtype}"),
        })?;
    file.release(tensor);
    Ok(quantized.into())
}
