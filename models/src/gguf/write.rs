use std::borrow::Cow;
use std::io::{self, Write};

use crate::{DType, ModelError};

const VERSION: u32 = 3;
const ALIGNMENT: u64 = 32;

/// A value to write.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Bools(Vec<bool>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Strings(Vec<String>),
    /// Type and value as another file has them.
    Stored(Vec<u8>),
}

type Data<'a> = Box<dyn Fn() -> Result<Cow<'a, [u8]>, ModelError> + 'a>;

/// Writes a GGUF file. Tensors are asked for one by one while it is written, so that a model never has to fit into
/// memory.
#[derive(Default)]
pub struct GgufWriter<'a> {
    metadata: Vec<(String, GgufValue)>,
    tensors: Vec<Tensor<'a>>,
}

/// The tensor that is written next.
#[derive(Debug, Clone, Copy)]
pub struct GgufProgress<'a> {
    /// Of `count` tensors, from 0.
    pub index: usize,
    pub count: usize,
    pub name: &'a str,
    pub dtype: DType,
    pub shape: &'a [usize],
}

struct Tensor<'a> {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    len: u64,
    data: Data<'a>,
}

impl<'a> GgufWriter<'a> {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn set(&mut self, key: impl Into<String>, value: GgufValue) {
        self.metadata.push((key.into(), value));
    }

    /// Adds a tensor in row-major `shape`; `data` gives its bytes when they are due.
    ///
    /// # Errors
    /// Rows that are not whole blocks of `dtype`.
    pub fn tensor(
        &mut self,
        name: impl Into<String>,
        dtype: DType,
        shape: &[usize],
        data: impl Fn() -> Result<Cow<'a, [u8]>, ModelError> + 'a,
    ) -> Result<(), ModelError> {
        let name = name.into();
        let columns = shape.last().copied().unwrap_or(1);
        let len = match dtype.bytes_of(columns) {
            Some(row) => shape.iter().rev().skip(1).try_fold(row, |len, size| len.checked_mul(*size)),
            None => None,
        };
        let Some(len) = len else {
            return Err(ModelError::Tensor {
                file: "GGUF".into(),
                tensor: name,
                message: format!("shape {shape:?} cannot be stored as {dtype}"),
            });
        };
        let (shape, data) = (shape.to_vec(), Box::new(data));
        self.tensors.push(Tensor { name, dtype, shape, len: len as u64, data });
        Ok(())
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Those of writing, and of the tensors' data.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        self.write_reporting(out, |_| {})
    }

    /// As [`GgufWriter::write`]; tells `report` of each tensor before it is made.
    ///
    /// # Errors
    /// As [`GgufWriter::write`].
    pub fn write_reporting(
        &self,
        out: &mut impl Write,
        mut report: impl FnMut(GgufProgress<'_>),
    ) -> io::Result<()> {
        let header = self.header();
        out.write_all(&header)?;
        pad(out, header.len() as u64)?;
        for (index, tensor) in self.tensors.iter().enumerate() {
            let Tensor { name, dtype, shape, .. } = tensor;
            report(GgufProgress { index, count: self.tensors.len(), name, dtype: *dtype, shape });
            let data = (tensor.data)().map_err(io::Error::other)?;
            if data.len() as u64 != tensor.len {
                let message =
                    format!("tensor '{}': {} bytes, expected {}", tensor.name, data.len(), tensor.len);
                return Err(io::Error::other(message));
            }
            out.write_all(&data)?;
            pad(out, tensor.len)?;
        }
        Ok(())
    }

    fn header(&self) -> Vec<u8> {
        let mut header = b"GGUF".to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_string(&mut header, key);
            put_value(&mut header, value);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            put_string(&mut header, &tensor.name);
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|size| header.extend((*size as u64).to_le_bytes()));
            header.extend(tensor.dtype.gguf_id().to_le_bytes());
            header.extend(u64::to_le_bytes(offset));
            offset += tensor.len.next_multiple_of(ALIGNMENT);
        }
        header
    }
}

/// Zeros up to the next multiple of the alignment.
fn pad(out: &mut impl Write, written: u64) -> io::Result<()> {
    let zeros = [0; ALIGNMENT as usize];
    let missing = written.next_multiple_of(ALIGNMENT) - written;
    out.write_all(&zeros[..missing as usize])
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &GgufValue) {
    let mut scalar = |kind: u32, bytes: &[u8]| {
        out.extend(kind.to_le_bytes());
        out.extend(bytes);
    };
    match value {
        GgufValue::U32(number) => scalar(4, &number.to_le_bytes()),
        GgufValue::I32(number) => scalar(5, &number.to_le_bytes()),
        GgufValue::F32(number) => scalar(6, &number.to_le_bytes()),
        GgufValue::Bool(flag) => scalar(7, &[u8::from(*flag)]),
        GgufValue::String(text) => {
            scalar(8, &[]);
            put_string(out, text);
        }
        GgufValue::Stored(bytes) => out.extend(bytes),
        GgufValue::Bools(flags) => put_array(out, 7, flags, |out, flag| out.push(u8::from(*flag))),
        GgufValue::I32s(numbers) => put_array(out, 5, numbers, |out, n| out.extend(n.to_le_bytes())),
        GgufValue::F32s(numbers) => put_array(out, 6, numbers, |out, n| out.extend(n.to_le_bytes())),
        GgufValue::Strings(texts) => put_array(out, 8, texts, |out, text| put_string(out, text)),
    }
}

fn put_array<T>(out: &mut Vec<u8>, kind: u32, items: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
    out.extend(9u32.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend((items.len() as u64).to_le_bytes());
    items.iter().for_each(|item| put(out, item));
}
