//! From named tensors to a device's matrices and vectors.

use weirgate_kernels::cuda::driver::DeviceError;
use weirgate_kernels::{Backend, BlockType, DType, KernelError, ScaledRowsView, WeightType, WeightView};
use weirgate_models::{LayerTensors, ModelError, ModelSpec, TensorSource, TensorView};

/// Why a model could not be brought onto its device.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("the first step failed: {0}")]
    WarmUp(String),
}

/// One layer's parameters on the device.
pub(super) struct Layer<B: Backend> {
    pub attn_norm: B::Buf,
    pub qkv: Linear<B>,
    pub qk_norm: Option<(B::Buf, B::Buf)>,
    pub output: Linear<B>,
    pub post_attn_norm: Option<B::Buf>,
    pub ffn_norm: B::Buf,
    pub gate_up: Linear<B>,
    pub down: Linear<B>,
    pub post_ffn_norm: Option<B::Buf>,
}

/// A matrix with its bias.
pub(crate) struct Linear<B: Backend> {
    pub weight: B::Matrix,
    pub bias: Option<B::Buf>,
}

/// Everything the decoder reads while it runs.
pub(super) struct Weights<B: Backend> {
    pub embedding: B::Matrix,
    pub layers: Vec<Layer<B>>,
    pub final_norm: B::Buf,
    /// `None`: the embedding serves as the head.
    pub head: Option<B::Matrix>,
}

impl<B: Backend> Weights<B> {
    pub fn load(backend: &B, spec: &ModelSpec, tensors: &dyn TensorSource) -> Result<Self, LoadError> {
        let loader = Loader { backend, spec, tensors };
        let names = &spec.tensors;
        Ok(Self {
            embedding: loader.table(std::slice::from_ref(&names.embedding))?,
            layers: names.layers.iter().map(|layer| loader.layer(layer)).collect::<Result<_, _>>()?,
            final_norm: loader.norm(&names.final_norm)?,
            head: match &names.head {
                Some(name) => Some(loader.matrix(std::slice::from_ref(name))?),
                None => None,
            },
        })
    }
}

struct Loader<'a, B: Backend> {
    backend: &'a B,
    spec: &'a ModelSpec,
    tensors: &'a dyn TensorSource,
}

impl<B: Backend> Loader<'_, B> {
    fn layer(&self, names: &LayerTensors) -> Result<Layer<B>, LoadError> {
        Ok(Layer {
            attn_norm: self.norm(&names.attn_norm)?,
            qkv: self.linear(&names.qkv, &names.qkv_bias)?,
            qk_norm: match &names.qk_norm {
                Some((q, k)) => Some((self.norm(q)?, self.norm(k)?)),
                None => None,
            },
            output: self.linear(std::slice::from_ref(&names.output), names.output_bias.as_slice())?,
            post_attn_norm: self.optional_norm(names.post_attn_norm.as_deref())?,
            ffn_norm: self.norm(&names.ffn_norm)?,
            gate_up: self.linear(&names.gate_up, &names.gate_up_bias)?,
            down: self.linear(std::slice::from_ref(&names.down), names.down_bias.as_slice())?,
            post_ffn_norm: self.optional_norm(names.post_ffn_norm.as_deref())?,
        })
    }

    fn linear(&self, weights: &[String], biases: &[String]) -> Result<Linear<B>, LoadError> {
        let bias = if biases.is_empty() {
            None
        } else {
            let mut stacked = Vec::new();
            for name in biases {
                stacked.extend(self.tensors.tensor(name)?.to_f32());
            }
            Some(self.backend.vector(&stacked)?)
        };
        Ok(Linear { weight: self.matrix(weights)?, bias })
    }

    /// A matrix for products alone: in E4M3, if it is stored so and the device multiplies with that.
    fn matrix(&self, names: &[String]) -> Result<B::Matrix, LoadError> {
        let stored = names.iter().map(|name| self.tensors.scaled_rows(name));
        let Some(stored) = stored.collect::<Result<Option<Vec<_>>, ModelError>>()? else {
            return self.table(names);
        };
        let parts: Vec<ScaledRowsView<'_>> = stored
            .iter()
            .map(|part| ScaledRowsView {
                rows: part.rows,
                cols: part.cols,
                codes: &part.codes,
                scales: &part.scales,
            })
            .collect();
        let Some(matrix) = self.backend.scaled_matrix(&parts)? else { return self.table(names) };
        names.iter().for_each(|name| self.tensors.release(name));
        Ok(matrix)
    }

    fn table(&self, names: &[String]) -> Result<B::Matrix, LoadError> {
        let tensors =
            names.iter().map(|name| self.tensors.tensor(name)).collect::<Result<Vec<_>, ModelError>>()?;
        let views: Vec<WeightView<'_>> = tensors.iter().map(weight_view).collect();
        let matrix = self.backend.matrix(&views)?;
        names.iter().for_each(|name| self.tensors.release(name));
        Ok(matrix)
    }

    fn norm(&self, name: &str) -> Result<B::Buf, LoadError> {
        let mut values = self.tensors.tensor(name)?.to_f32();
        for value in &mut values {
            *value += self.spec.norm_offset;
        }
        Ok(self.backend.vector(&values)?)
    }

    fn optional_norm(&self, name: Option<&str>) -> Result<Option<B::Buf>, LoadError> {
        name.map(|name| self.norm(name)).transpose()
    }
}

pub(crate) fn weight_view<'a>(tensor: &'a TensorView<'_>) -> WeightView<'a> {
    WeightView {
        dtype: weight_type(tensor.dtype),
        rows: tensor.shape.first().copied().unwrap_or(0),
        cols: tensor.shape.iter().skip(1).product(),
        bytes: &tensor.bytes,
    }
}

fn weight_type(dtype: weirgate_models::DType) -> WeightType {
    use weirgate_models::DType as Stored;
    match dtype {
        Stored::F32 => DType::F32.into(),
        Stored::F16 => DType::F16.into(),
        Stored::BF16 => DType::BF16.into(),
        Stored::Q8_0 => BlockType::Q8_0.into(),
        Stored::Q4_0 => BlockType::Q4_0.into(),
        Stored::Q4_1 => BlockType::Q4_1.into(),
        Stored::Q5_0 => BlockType::Q5_0.into(),
        Stored::Q5_1 => BlockType::Q5_1.into(),
        Stored::Q2K => BlockType::Q2K.into(),
        Stored::Q3K => BlockType::Q3K.into(),
        Stored::Q4K => BlockType::Q4K.into(),
        Stored::Q5K => BlockType::Q5K.into(),
        Stored::Q6K => BlockType::Q6K.into(),
        Stored::Iq4Nl => BlockType::Iq4Nl.into(),
        Stored::Iq4Xs => BlockType::Iq4Xs.into(),
        Stored::Mxfp4 => BlockType::Mxfp4.into(),
    }
}
