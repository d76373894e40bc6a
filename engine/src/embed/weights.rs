//! From named tensors to what the encoder multiplies with.

use weirgate_kernels::{EncoderBackend, LayerNorm, RelativeBias};
use weirgate_models::{
    EncoderLayer, EncoderSpec, LinearTensors, NormTensors, RelativeBiasSpec, TensorSource,
};

use crate::decoder::{Linear, LoadError, weight_view};

/// A LayerNorm's parameters on the device.
pub(super) struct Norm<B: EncoderBackend> {
    weight: B::Buf,
    bias: Option<B::Buf>,
    eps: f32,
}

impl<B: EncoderBackend> Norm<B> {
    pub fn params(&self) -> LayerNorm<'_, B::Buf> {
        LayerNorm { weight: &self.weight, bias: self.bias.as_ref(), eps: self.eps }
    }
}

/// One layer's parameters.
pub(super) struct Layer<B: EncoderBackend> {
    pub qkv: Linear<B>,
    pub output: Linear<B>,
    pub attn_norm: Option<Norm<B>>,
    pub up: Linear<B>,
    pub down: Linear<B>,
    pub ffn_norm: Norm<B>,
}

/// A cross-encoder's head.
pub(super) struct Head<B: EncoderBackend> {
    pub dense: Linear<B>,
    pub norm: Option<Norm<B>>,
    pub output: Linear<B>,
}

/// The bias of every head for every distance.
pub(super) struct Bias<B: EncoderBackend> {
    table: B::Buf,
    stride: usize,
    center: usize,
}

impl<B: EncoderBackend> Bias<B> {
    pub fn params(&self) -> RelativeBias<'_, B::Buf> {
        RelativeBias { table: &self.table, stride: self.stride, center: self.center }
    }
}

/// Everything the encoder reads while it runs.
pub(super) struct Weights<B: EncoderBackend> {
    pub words: B::Buf,
    pub positions: Option<B::Buf>,
    pub types: Option<B::Buf>,
    pub norm: Norm<B>,
    pub layers: Vec<Layer<B>>,
    pub final_norm: Option<Norm<B>>,
    pub bias: Option<Bias<B>>,
    pub head: Option<Head<B>>,
}

impl<B: EncoderBackend> Weights<B> {
    /// `max_tokens`: the longest sequence there will be.
    pub fn load(
        backend: &B,
        spec: &EncoderSpec,
        tensors: &dyn TensorSource,
        max_tokens: usize,
    ) -> Result<Self, LoadError> {
        let loader = Loader { backend, tensors, eps: spec.norm_eps };
        let names = &spec.tensors;
        let table = |name: &Option<String>| name.as_ref().map(|name| loader.vector(&[name])).transpose();
        Ok(Self {
            words: loader.vector(&[&names.words])?,
            positions: table(&names.positions)?,
            types: table(&names.types)?,
            norm: loader.norm(&names.norm)?,
            layers: spec.layers.iter().map(|layer| loader.layer(layer)).collect::<Result<_, _>>()?,
            final_norm: names.final_norm.as_ref().map(|norm| loader.norm(norm)).transpose()?,
            bias: match &spec.relative_bias {
                Some(bias) => Some(loader.bias(bias, spec.heads, max_tokens)?),
                None => None,
            },
            head: match &spec.classifier {
                Some(classifier) => Some(Head {
                    dense: loader.linear(&classifier.dense)?,
                    norm: classifier.norm.as_ref().map(|norm| loader.norm(norm)).transpose()?,
                    output: loader.linear(&classifier.output)?,
                }),
                None => None,
            },
        })
    }
}

struct Loader<'a, B: EncoderBackend> {
    backend: &'a B,
    tensors: &'a dyn TensorSource,
    eps: f32,
}

impl<B: EncoderBackend> Loader<'_, B> {
    fn layer(&self, layer: &EncoderLayer) -> Result<Layer<B>, LoadError> {
        Ok(Layer {
            qkv: self.linear(&layer.qkv)?,
            output: self.linear(&layer.output)?,
            attn_norm: layer.attn_norm.as_ref().map(|norm| self.norm(norm)).transpose()?,
            up: self.linear(&layer.up)?,
            down: self.linear(&layer.down)?,
            ffn_norm: self.norm(&layer.ffn_norm)?,
        })
    }

    fn linear(&self, linear: &LinearTensors) -> Result<Linear<B>, LoadError> {
        let stored: Result<Vec<_>, _> = linear.weights.iter().map(|name| self.tensors.tensor(name)).collect();
        let stored = stored?;
        let views: Vec<_> = stored.iter().map(weight_view).collect();
        let weight = self.backend.matrix(&views)?;
        linear.weights.iter().for_each(|name| self.tensors.release(name));
        let names: Vec<&String> = linear.biases.iter().collect();
        let bias = if names.is_empty() { None } else { Some(self.vector(&names)?) };
        Ok(Linear { weight, bias })
    }

    fn norm(&self, norm: &NormTensors) -> Result<Norm<B>, LoadError> {
        Ok(Norm {
            weight: self.vector(&[&norm.weight])?,
            bias: norm.bias.as_ref().map(|bias| self.vector(&[bias])).transpose()?,
            eps: self.eps,
        })
    }

    /// The elements of tensors, back to back.
    fn vector(&self, names: &[&String]) -> Result<B::Buf, LoadError> {
        let mut values = Vec::new();
        for name in names {
            values.extend(self.tensors.tensor(name)?.to_f32());
        }
        Ok(self.backend.vector(&values)?)
    }

    fn bias(&self, bias: &RelativeBiasSpec, heads: usize, max_tokens: usize) -> Result<Bias<B>, LoadError> {
        /// Places that are read beyond the last distance.
        const BEYOND: usize = 16;
        let values = self.tensors.tensor(&bias.tensor)?.to_f32();
        let stride = 2 * max_tokens + BEYOND;
        let mut table = vec![0.0; heads * stride];
        for (head, row) in table.chunks_exact_mut(stride).enumerate() {
            for (at, value) in row.iter_mut().take(2 * max_tokens).enumerate() {
                let bucket = bias.bucket(at as isize - max_tokens as isize);
                *value = values.get(bucket * heads + head).copied().unwrap_or_default();
            }
        }
        Ok(Bias { table: self.backend.vector(&table)?, stride, center: max_tokens })
    }
}
