//! LoRA adapters: a low-rank change for some of a base model's projections, as PEFT or llama.cpp store it, checked against
//! the base and brought onto the matrices that the decoder has.

mod gguf;
mod modules;
mod peft;
mod targets;
mod write;

use std::path::Path;

use crate::files::file_error;
use crate::{DType, Gguf, ModelError, ModelFiles, ModelSpec, TensorSource, TensorView};
pub use modules::{AdapterModule, AdapterSite, adapter_modules};

/// Largest rank accepted: far above any published adapter's.
const MAX_RANK: usize = 1 << 10;

/// An adapter in memory, one entry per layer of its base. Every tensor is of floats, finite, and of the shape that the
/// base implies.
#[derive(Debug, Clone, Default)]
pub struct Adapter {
    pub layers: Vec<LayerAdapter>,
}

/// What an adapter changes in one layer; each list in the order of the matrix's rows.
#[derive(Debug, Clone, Default)]
pub struct LayerAdapter {
    pub qkv: Vec<LowRank>,
    pub output: Vec<LowRank>,
    pub gate_up: Vec<LowRank>,
    pub down: Vec<LowRank>,
}

/// `scale · b · a`, added to the rows of a matrix from `first` on.
#[derive(Debug, Clone)]
pub struct LowRank {
    pub first: usize,
    pub scale: f32,
    /// `[rank, cols]`.
    pub a: TensorView<'static>,
    /// `[rows, rank]`.
    pub b: TensorView<'static>,
}

impl Adapter {
    /// Reads the PEFT folder or the GGUF file at `path`, which belongs to a model like `base`.
    ///
    /// # Errors
    /// Files that are missing, malformed or of a kind that is not supported, and whatever does not fit the base; names
    /// the file and the key or tensor.
    pub fn open(path: impl AsRef<Path>, base: &ModelSpec) -> Result<Self, ModelError> {
        let path = path.as_ref();
        if path.is_dir() {
            Self::from_peft(&ModelFiles::open(path)?, base)
        } else {
            Self::from_gguf(Gguf::open(path)?, base)
        }
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        let parts = self.layers.iter().flat_map(LayerAdapter::parts);
        parts.map(|part| (part.a.bytes.len() + part.b.bytes.len()) as u64).sum()
    }

    fn empty(base: &ModelSpec) -> Self {
        Self { layers: vec![LayerAdapter::default(); base.layers.len()] }
    }

    /// Puts one module's change where it belongs; the modules of a layer come in the order of the rows.
    fn add(&mut self, layer: usize, module: &AdapterModule, part: LowRank) {
        if let Some(layer) = self.layers.get_mut(layer) {
            match module.site {
                AdapterSite::Qkv => layer.qkv.push(part),
                AdapterSite::Output => layer.output.push(part),
                AdapterSite::GateUp => layer.gate_up.push(part),
                AdapterSite::Down => layer.down.push(part),
            }
        }
    }
}

impl LayerAdapter {
    fn parts(&self) -> impl Iterator<Item = &LowRank> {
        [&self.qkv, &self.output, &self.gate_up, &self.down].into_iter().flatten()
    }
}

/// The two tensors of a module's change, checked: `a` `[rank, cols]` and `b` `[rows, rank]`.
fn read_pair(
    tensors: &dyn TensorSource,
    (a, b): (&str, &str),
    module: &AdapterModule,
) -> Result<(TensorView<'static>, TensorView<'static>, usize), ModelError> {
    let rank = match tensors.info(a)?.1[..] {
        [rank, cols] if cols == module.cols && (1..=MAX_RANK).contains(&rank) => rank,
        ref shape => {
            let cols = module.cols;
            let message = format!(
                "has shape {shape:?}, the base model implies [rank, {cols}] with a rank up to {MAX_RANK}"
            );
            return Err(tensor_error(tensors, a, message));
        }
    };
    let expected = [module.rows, rank];
    let shape = tensors.info(b)?.1;
    if shape != expected {
        let message = format!("has shape {shape:?}, the base model and '{a}' imply {expected:?}");
        return Err(tensor_error(tensors, b, message));
    }
    Ok((read(tensors, a)?, read(tensors, b)?, rank))
}

/// A copy of a tensor as floats, all of them finite.
fn read(tensors: &dyn TensorSource, name: &str) -> Result<TensorView<'static>, ModelError> {
    let view = tensors.tensor(name)?;
    let values = view.to_f32();
    if values.iter().any(|value| !value.is_finite()) {
        return Err(tensor_error(tensors, name, "has a value that is not finite"));
    }
    let (dtype, bytes) = match view.dtype {
        DType::F32 | DType::F16 | DType::BF16 => (view.dtype, view.bytes.into_owned()),
        _ => (DType::F32, values.into_iter().flat_map(f32::to_le_bytes).collect()),
    };
    tensors.release(name);
    Ok(TensorView { dtype, shape: view.shape, bytes: bytes.into() })
}

fn tensor_error(tensors: &dyn TensorSource, name: &str, message: impl Into<String>) -> ModelError {
    ModelError::Tensor { file: tensors.file(name).into(), tensor: name.into(), message: message.into() }
}

/// The first tensor that no module took.
fn check_all_taken<'a>(
    tensors: &dyn TensorSource,
    mut left: impl Iterator<Item = &'a str>,
) -> Result<(), ModelError> {
    match left.next() {
        Some(name) => Err(tensor_error(
            tensors,
            name,
            "is not part of what can be adapted: the attention and feed-forward projections of the base model's layers",
        )),
        None => Ok(()),
    }
}

/// An adapter without any tensor is none.
fn no_tensors(file: &str) -> ModelError {
    file_error(file.into(), "has no tensors")
}
