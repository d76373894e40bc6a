//! Quantized checkpoints in safetensors: AWQ, GPTQ, eight-bit floats, compressed-tensors.
//!
//! Each keeps a matrix in a few tensors of its own ([`layouts`]). Here these are put together again and given out under
//! the matrix's name, in a type that every device reads: blocks of integers where these are exact, else f16
//! ([`integers`], [`floats`]); and eight-bit floats as they are to who asks for them. `docs/quantization.md` has the table.

mod floats;
mod integers;
mod layouts;
mod parts;
mod scheme;

use std::collections::{HashMap, HashSet};
use std::num::NonZero;

use half::f16;
use safetensors::Dtype;

pub use scheme::QuantMethod;
pub(crate) use scheme::Scheme;

use self::floats::SmallFloats;
use self::integers::Integers;
use self::parts::Parts;
use crate::gguf::share;
use crate::{DType, ModelError, SafetensorsSource, ScaledRows, TensorSource, TensorView};

/// The tensors of a quantized checkpoint.
pub(crate) struct QuantizedSource {
    source: SafetensorsSource,
    scheme: Scheme,
    /// That put a matrix together.
    threads: NonZero<usize>,
    /// The quantized matrices, by the names that they would have if they were not.
    matrices: HashMap<String, Planned>,
    /// Bytes of all tensors as they are given out.
    bytes: u64,
}

/// A matrix as it will be given out.
struct Planned {
    module: String,
    dtype: DType,
    shape: [usize; 2],
    /// The tensors it is made of.
    parts: Vec<String>,
}

/// A matrix as it is stored.
enum Stored<'a> {
    Integers(Integers<'a>),
    SmallFloats(SmallFloats<'a>),
}

impl Stored<'_> {
    fn shape(&self) -> [usize; 2] {
        match self {
            Stored::Integers(Integers { rows, cols, .. }) => [*rows, *cols],
            Stored::SmallFloats(SmallFloats { rows, cols, .. }) => [*rows, *cols],
        }
    }

    fn dtype(&self) -> DType {
        match self {
            Stored::Integers(integers) => integers.dtype(),
            Stored::SmallFloats(floats) => floats.dtype(),
        }
    }

    fn encode(&self, dtype: DType, threads: NonZero<usize>) -> Vec<u8> {
        match self {
            Stored::Integers(integers) => integers.encode(dtype, threads),
            Stored::SmallFloats(floats) => floats.encode(dtype, threads),
        }
    }
}

impl QuantizedSource {
    /// Finds the quantized matrices of `source`, checks their parts, and decides what each becomes; `threads` put one
    /// together when it is asked for.
    ///
    /// # Errors
    /// A part that is missing or does not fit the others; names it.
    pub fn new(
        source: SafetensorsSource,
        scheme: Scheme,
        threads: NonZero<usize>,
    ) -> Result<Self, ModelError> {
        let mut this = Self { source, scheme, threads, matrices: HashMap::new(), bytes: 0 };
        let modules: HashSet<String> = this.source.names().filter_map(|name| this.module(name)).collect();
        let mut parts: HashMap<&str, Vec<String>> = HashMap::new();
        let mut bytes = 0;
        for name in this.source.names() {
            match name.rsplit_once('.') {
                Some((module, part)) if part != "bias" && modules.contains(module) => {
                    parts.entry(module).or_default().push(name.to_owned());
                }
                _ => bytes += this.source.bytes(name),
            }
        }
        let mut matrices = HashMap::new();
        for module in &modules {
            let stored = this.stored(module)?;
            let (dtype, shape) = (stored.dtype(), stored.shape());
            let len = shape[0].checked_mul(shape[1]).and_then(|elements| dtype.bytes_of(elements));
            bytes += len.unwrap_or(usize::MAX) as u64;
            let parts = parts.get(module.as_str()).cloned().unwrap_or_default();
            matrices
                .insert(format!("{module}.weight"), Planned { module: module.clone(), dtype, shape, parts });
        }
        (this.matrices, this.bytes) = (matrices, bytes);
        Ok(this)
    }

    /// The module of which `name` is the main tensor, if it is that of a quantized matrix.
    fn module(&self, name: &str) -> Option<String> {
        let (module, part) = name.rsplit_once('.')?;
        let quantized = match part {
            "weight" => matches!(self.source.raw(name).ok()?.dtype, Dtype::I8 | Dtype::F8_E4M3),
            part => ["qweight", "weight_packed"].contains(&part),
        };
        quantized.then(|| module.to_owned())
    }

    fn stored<'a>(&'a self, module: &'a str) -> Result<Stored<'a>, ModelError> {
        let parts = Parts { source: &self.source, module };
        Ok(match self.scheme.method {
            _ if parts.has("weight_packed") => Stored::Integers(layouts::packed(parts)?),
            QuantMethod::Awq if parts.has("qweight") => Stored::Integers(layouts::awq(parts)?),
            _ if parts.has("qweight") => Stored::Integers(layouts::gptq(parts, &self.scheme)?),
            _ if parts.dtype("weight")? == Dtype::I8 => Stored::Integers(layouts::bytes(parts)?),
            _ => Stored::SmallFloats(layouts::small_floats(parts, &self.scheme)?),
        })
    }
}

impl TensorSource for QuantizedSource {
    fn tensor(&self, name: &str) -> Result<TensorView<'_>, ModelError> {
        let Some(Planned { module, dtype, shape, .. }) = self.matrices.get(name) else {
            return self.source.tensor(name);
        };
        let bytes = self.stored(module)?.encode(*dtype, self.threads);
        Ok(TensorView { dtype: *dtype, shape: shape.to_vec(), bytes: bytes.into() })
    }

    fn scaled_rows(&self, name: &str) -> Result<Option<ScaledRows<'_>>, ModelError> {
        let Some(Planned { module, .. }) = self.matrices.get(name) else { return Ok(None) };
        Ok(match self.stored(module)? {
            Stored::SmallFloats(floats) => floats.scaled_rows(),
            Stored::Integers(_) => None,
        })
    }

    fn info(&self, name: &str) -> Result<(DType, Vec<usize>), ModelError> {
        match self.matrices.get(name) {
            Some(planned) => Ok((planned.dtype, planned.shape.to_vec())),
            None => self.source.info(name),
        }
    }

    fn contains(&self, name: &str) -> bool {
        self.matrices.contains_key(name) || self.source.contains(name)
    }

    fn file(&self, name: &str) -> &str {
        let part = self.matrices.get(name).and_then(|planned| planned.parts.first());
        self.source.file(part.map_or(name, String::as_str))
    }

    fn release(&self, name: &str) {
        match self.matrices.get(name) {
            Some(planned) => planned.parts.iter().for_each(|part| self.source.release(part)),
            None => self.source.release(name),
        }
    }

    fn total_bytes(&self) -> u64 {
        self.bytes
    }
}

/// The type of floats up to `largest` times `scales`: f16, unless that is too small.
fn float_type(scales: &[f32], largest: f32) -> DType {
    let scale = scales.iter().fold(0.0f32, |most, scale| most.max(scale.abs()));
    if scale * largest <= f16::MAX.to_f32() { DType::F16 } else { DType::F32 }
}

/// `rows` rows of `row_bytes` bytes each, made in `threads` by `make(first row, bytes, row_bytes)`, which gets `band`
/// rows at a time, fewer at the end.
fn share_rows(
    (rows, row_bytes): (usize, usize),
    band: usize,
    threads: NonZero<usize>,
    make: impl Fn(usize, &mut [u8], usize) + Sync,
) -> Vec<u8> {
    let mut bytes = vec![0; rows.saturating_mul(row_bytes)];
    let mut bands: Vec<_> = bytes.chunks_mut((band * row_bytes).max(1)).enumerate().collect();
    share(&mut bands, threads, |(index, out)| make(*index * band, out, row_bytes));
    bytes
}
