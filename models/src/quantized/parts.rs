//! The tensors of one quantized matrix, each checked for what it should be.

use safetensors::Dtype;

use super::integers::Words;
use crate::gguf::dequantize;
use crate::{DType, ModelError, SafetensorsSource, TensorSource};

/// The tensors whose names begin with that of a module.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub source: &'a SafetensorsSource,
    pub module: &'a str,
}

/// A matrix of words.
#[derive(Clone, Copy)]
pub(super) struct WordMatrix<'a> {
    pub rows: usize,
    pub cols: usize,
    pub words: Words<'a>,
}

impl<'a> Parts<'a> {
    pub fn name(&self, part: &str) -> String {
        format!("{}.{part}", self.module)
    }

    pub fn has(&self, part: &str) -> bool {
        self.source.contains(&self.name(part))
    }

    pub fn error(&self, part: &str, message: impl Into<String>) -> ModelError {
        let name = self.name(part);
        ModelError::Tensor { file: self.source.file(&name).into(), tensor: name, message: message.into() }
    }

    pub fn dtype(&self, part: &str) -> Result<Dtype, ModelError> {
        Ok(self.source.raw(&self.name(part))?.dtype)
    }

    /// `[rows, cols]` elements of type `dtype`, at least one; their bytes.
    pub fn matrix(&self, part: &str, dtype: Dtype) -> Result<(usize, usize, &'a [u8]), ModelError> {
        let raw = self.source.raw(&self.name(part))?;
        if raw.dtype != dtype {
            return Err(self.error(part, format!("has dtype {}, expected {dtype}", raw.dtype)));
        }
        match *raw.shape {
            [rows, cols] if rows > 0 && cols > 0 => Ok((rows, cols, raw.bytes)),
            _ => Err(self.error(part, format!("has shape {:?}, expected two sizes above 0", raw.shape))),
        }
    }

    pub fn words(&self, part: &str) -> Result<WordMatrix<'a>, ModelError> {
        let (rows, cols, bytes) = self.matrix(part, Dtype::I32)?;
        Ok(WordMatrix { rows, cols, words: bytes.as_chunks().0 })
    }

    /// Floats in f32, and their shape.
    pub fn floats(&self, part: &str) -> Result<(&'a [usize], Vec<f32>), ModelError> {
        let raw = self.source.raw(&self.name(part))?;
        let dtype = match raw.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => return Err(self.error(part, format!("has dtype {other}, expected F32, F16 or BF16"))),
        };
        Ok((raw.shape, dequantize(dtype, raw.bytes)))
    }

    /// Integers of 32 or 64 bits.
    pub fn integers(&self, part: &str) -> Result<Vec<i64>, ModelError> {
        let raw = self.source.raw(&self.name(part))?;
        match raw.dtype {
            Dtype::I32 => {
                let words = raw.bytes.as_chunks().0.iter();
                Ok(words.map(|bytes| i64::from(i32::from_le_bytes(*bytes))).collect())
            }
            Dtype::I64 => {
                Ok(raw.bytes.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect())
            }
            other => Err(self.error(part, format!("has dtype {other}, expected I32 or I64"))),
        }
    }

    /// An error unless `found` is `expected`, of the shape of `part`.
    pub fn check_shape(
        &self,
        part: &str,
        found: (usize, usize),
        expected: (usize, usize),
    ) -> Result<(), ModelError> {
        if found != expected {
            let ((a, b), (c, d)) = (found, expected);
            return Err(self.error(part, format!("has shape [{a}, {b}], the other parts imply [{c}, {d}]")));
        }
        Ok(())
    }
}
