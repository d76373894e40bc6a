//! Which tensor gets which type: the mixtures that GGUF files go by.

use std::collections::HashMap;
use std::num::NonZero;
use std::thread;

use serde::{Deserialize, Serialize};

use super::quantize::quantize;
use crate::{DType, LayerTensors, ModelError, ModelSpec, TensorSource, TensorView};

/// A mixture, under the name that llama.cpp gives it. Norms and other vectors stay in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum QuantMix {
    F16,
    BF16,
    Q8_0,
    Q4_0,
    /// Q4_K, and Q6_K for the head and half of the values and down projections.
    Q4KM,
    /// Q5_K, and Q6_K as in Q4_K_M.
    Q5KM,
    Q6K,
}

/// What a matrix does, as far as mixtures tell matrices apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The head, or an embedding that serves as the head.
    Head,
    /// Queries, keys and values in one.
    Qkv,
    /// Values or down projection of a layer.
    Sensitive(usize),
    Other,
}

impl QuantMix {
    /// llama.cpp's name.
    pub const fn name(self) -> &'static str {
        match self {
            QuantMix::F16 => "F16",
            QuantMix::BF16 => "BF16",
            QuantMix::Q8_0 => "Q8_0",
            QuantMix::Q4_0 => "Q4_0",
            QuantMix::Q4KM => "Q4_K_M",
            QuantMix::Q5KM => "Q5_K_M",
            QuantMix::Q6K => "Q6_K",
        }
    }

    /// llama.cpp's number of it, for `general.file_type`.
    pub const fn file_type(self) -> u32 {
        match self {
            QuantMix::F16 => 1,
            QuantMix::Q4_0 => 2,
            QuantMix::Q8_0 => 7,
            QuantMix::Q4KM => 15,
            QuantMix::Q5KM => 17,
            QuantMix::Q6K => 18,
            QuantMix::BF16 => 32,
        }
    }

    /// The type of a matrix of `cols` columns.
    fn dtype(self, role: Role, layers: usize, cols: usize) -> DType {
        let sensitive = match role {
            Role::Head => true,
            Role::Sensitive(layer) => wants_more_bits(layer, layers),
            Role::Qkv | Role::Other => false,
        };
        let wanted = match (self, role) {
            (QuantMix::F16, _) => DType::F16,
            (QuantMix::BF16, _) => DType::BF16,
            (QuantMix::Q8_0, _) => DType::Q8_0,
            (QuantMix::Q4_0, Role::Head) | (QuantMix::Q6K, _) => DType::Q6K,
            (QuantMix::Q4_0, _) => DType::Q4_0,
            (QuantMix::Q4KM | QuantMix::Q5KM, _) if sensitive => DType::Q6K,
            (QuantMix::Q4KM, Role::Qkv) => DType::Q5K,
            (QuantMix::Q5KM, Role::Qkv) => DType::Q6K,
            (QuantMix::Q4KM, _) => DType::Q4K,
            (QuantMix::Q5KM, _) => DType::Q5K,
        };
        let smaller_blocks = match wanted {
            DType::Q4K => DType::Q5_0,
            DType::Q5K => DType::Q5_1,
            DType::Q6K => DType::Q8_0,
            other => other,
        };
        let whole = |dtype: &DType| cols.is_multiple_of(dtype.block_elements());
        [wanted, smaller_blocks].into_iter().find(whole).unwrap_or(DType::F16)
    }
}

/// The first and the last eighth of the layers, and every third in between.
fn wants_more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// A checkpoint's tensors, each quantized when it is asked for.
pub struct Quantized<'a> {
    tensors: &'a dyn TensorSource,
    /// Of the matrices.
    dtypes: HashMap<String, DType>,
    threads: NonZero<usize>,
}

impl<'a> Quantized<'a> {
    /// `tensors` of `spec` in the types of `mix`, computed on all processors. What is quantized already stays as it is.
    ///
    /// # Errors
    /// A tensor that is missing.
    pub fn new(spec: &ModelSpec, tensors: &'a dyn TensorSource, mix: QuantMix) -> Result<Self, ModelError> {
        let roles = roles(spec);
        let mut dtypes = HashMap::new();
        for (name, shape) in spec.tensor_shapes() {
            let stored = tensors.info(name)?.0;
            if let ([_, cols], DType::F32 | DType::F16 | DType::BF16) = (&shape[..], stored) {
                let role = roles.get(name).copied().unwrap_or(Role::Other);
                dtypes.insert(name.to_owned(), mix.dtype(role, spec.layers.len(), *cols));
            }
        }
        let threads = thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
        Ok(Self { tensors, dtypes, threads })
    }

    /// In the threads that ask for tensors, and no others.
    pub fn in_one_thread(self) -> Self {
        Self { threads: NonZero::<usize>::MIN, ..self }
    }
}

fn roles(spec: &ModelSpec) -> HashMap<&str, Role> {
    let names = &spec.tensors;
    let head = names.head.as_ref().unwrap_or(&names.embedding);
    let mut roles = HashMap::from([(head.as_str(), Role::Head)]);
    for (index, LayerTensors { qkv, down, .. }) in names.layers.iter().enumerate() {
        roles.insert(down, Role::Sensitive(index));
        match &qkv[..] {
            [fused] => roles.insert(fused, Role::Qkv),
            [.., values] => roles.insert(values, Role::Sensitive(index)),
            [] => None,
        };
    }
    roles
}

impl TensorSource for Quantized<'_> {
    fn tensor(&self, name: &str) -> Result<TensorView<'_>, ModelError> {
        let view = self.tensors.tensor(name)?;
        let Some(&dtype) = self.dtypes.get(name).filter(|dtype| **dtype != view.dtype) else {
            return Ok(view);
        };
        let bytes = quantize(dtype, &view.to_f32(), self.threads).ok_or_else(|| ModelError::Tensor {
            file: self.file(name).into(),
            tensor: name.into(),
            message: format!("cannot be made {dtype}"),
        })?;
        self.tensors.release(name);
        Ok(TensorView { dtype, shape: view.shape, bytes: bytes.into() })
    }

    fn info(&self, name: &str) -> Result<(DType, Vec<usize>), ModelError> {
        let (stored, shape) = self.tensors.info(name)?;
        Ok((self.dtypes.get(name).copied().unwrap_or(stored), shape))
    }

    fn contains(&self, name: &str) -> bool {
        self.tensors.contains(name)
    }

    fn file(&self, name: &str) -> &str {
        self.tensors.file(name)
    }

    fn release(&self, name: &str) {
        self.tensors.release(name);
    }

    fn total_bytes(&self) -> u64 {
        let bytes = self.dtypes.keys().filter_map(|name| {
            let (dtype, shape) = self.info(name).ok()?;
            dtype.bytes_of(shape.iter().product())
        });
        bytes.sum::<usize>() as u64
    }
}
