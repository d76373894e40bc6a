//! The frozen base: its weights as the file has them, widened to f32 when they are used or once for all.

use std::borrow::Cow;
use std::collections::HashMap;
use std::num::NonZero;
use std::thread;

use candle_core::{Device, Tensor};
use weirgate_models::{LayerTensors, ModelError, ModelSpec, QuantMix, Quantized, TensorSource, TensorView};

use super::ops::Linear;
use crate::FinetuneError;

/// What a base in blocks is quantized to, where its file is not.
const MIX: QuantMix = QuantMix::Q4KM;
/// Elements from which on several threads widen a tensor.
const PARALLEL: usize = 1 << 20;

/// The base model's weights.
pub struct Base {
    spec: ModelSpec,
    tensors: Box<dyn TensorSource>,
    /// What was quantized here, in place of the file's.
    blocks: HashMap<String, TensorView<'static>>,
    device: Device,
    /// All layers and the head, where there is memory for them.
    resident: Option<(Vec<Layer>, Tensor)>,
}

/// One layer's weights in f32, as [`LayerTensors`] has them.
#[derive(Debug, Clone)]
pub struct Layer {
    pub attn_norm: Tensor,
    /// Queries, keys, values, or all in one.
    pub qkv: Vec<Linear>,
    pub qk_norm: Option<(Tensor, Tensor)>,
    pub output: Linear,
    pub post_attn_norm: Option<Tensor>,
    pub ffn_norm: Tensor,
    /// Gate and up, or both in one.
    pub gate_up: Vec<Linear>,
    pub down: Linear,
    pub post_ffn_norm: Option<Tensor>,
}

impl Base {
    /// `quantized`: see [`crate::Hyperparameters::quantized`]. `memory` bounds what is held in f32 throughout.
    ///
    /// # Errors
    /// Tensors that are missing or malformed, or a device that is full.
    pub fn load(
        spec: &ModelSpec,
        tensors: Box<dyn TensorSource>,
        quantized: bool,
        (device, memory): (&Device, u64),
    ) -> Result<Self, FinetuneError> {
        spec.check_tensors(tensors.as_ref())?;
        let mut base = Self {
            spec: spec.clone(),
            tensors,
            blocks: HashMap::new(),
            device: device.clone(),
            resident: None,
        };
        if quantized {
            base.blocks = base.quantize()?;
        } else if base.wide_bytes() <= memory {
            let layers = (0..spec.layers.len()).map(|index| base.read_layer(index));
            let layers = layers.collect::<Result<Vec<_>, _>>()?;
            base.resident = Some((layers, base.read_head()?));
        }
        Ok(base)
    }

    /// Whether layers are widened anew each time: then nobody should hold one longer than needed.
    pub fn is_streamed(&self) -> bool {
        self.resident.is_none()
    }

    /// Bytes of all weights in f32.
    fn wide_bytes(&self) -> u64 {
        let elements = |(_, shape): &(&str, Vec<usize>)| shape.iter().product::<usize>() as u64;
        self.spec.tensor_shapes().iter().map(elements).sum::<u64>() * 4
    }

    fn quantize(&self) -> Result<HashMap<String, TensorView<'static>>, ModelError> {
        let quantized = Quantized::new(&self.spec, self.tensors.as_ref(), MIX)?;
        let mut blocks = HashMap::new();
        for (name, shape) in self.spec.tensor_shapes() {
            let dtype = quantized.info(name)?.0;
            if shape.len() == 2 && dtype != self.tensors.info(name)?.0 {
                let view = quantized.tensor(name)?;
                blocks.insert(
                    name.to_owned(),
                    TensorView { dtype, shape, bytes: view.bytes.into_owned().into() },
                );
            }
        }
        Ok(blocks)
    }

    fn view(&self, name: &str) -> Result<TensorView<'_>, ModelError> {
        match self.blocks.get(name) {
            Some(own) => Ok(TensorView {
                dtype: own.dtype,
                shape: own.shape.clone(),
                bytes: Cow::Borrowed(&own.bytes),
            }),
            None => self.tensors.tensor(name),
        }
    }

    fn read(&self, name: &str, offset: f32) -> Result<Tensor, FinetuneError> {
        let view = self.view(name)?;
        let mut values = widen(&view);
        if offset != 0.0 {
            values.iter_mut().for_each(|value| *value += offset);
        }
        Ok(Tensor::from_vec(values, view.shape, &self.device)?)
    }

    fn norm(&self, name: &str) -> Result<Tensor, FinetuneError> {
        self.read(name, self.spec.norm_offset)
    }

    fn linear(&self, weight: &str, bias: Option<&String>) -> Result<Linear, FinetuneError> {
        let bias = bias.map(|name| self.read(name, 0.0)).transpose()?;
        Ok(Linear { weight: self.read(weight, 0.0)?, bias })
    }

    fn linears(&self, weights: &[String], biases: &[String]) -> Result<Vec<Linear>, FinetuneError> {
        let each = weights.iter().enumerate().map(|(index, weight)| self.linear(weight, biases.get(index)));
        each.collect()
    }

    fn read_layer(&self, index: usize) -> Result<Layer, FinetuneError> {
        let names: &LayerTensors = self
            .spec
            .tensors
            .layers
            .get(index)
            .ok_or_else(|| candle_core::Error::Msg(format!("the model has no layer {index}")))?;
        let optional = |name: &Option<String>| name.as_ref().map(|name| self.norm(name)).transpose();
        Ok(Layer {
            attn_norm: self.norm(&names.attn_norm)?,
            qkv: self.linears(&names.qkv, &names.qkv_bias)?,
            qk_norm: match &names.qk_norm {
                Some((q, k)) => Some((self.norm(q)?, self.norm(k)?)),
                None => None,
            },
            output: self.linear(&names.output, names.output_bias.as_ref())?,
            post_attn_norm: optional(&names.post_attn_norm)?,
            ffn_norm: self.norm(&names.ffn_norm)?,
            gate_up: self.linears(&names.gate_up, &names.gate_up_bias)?,
            down: self.linear(&names.down, names.down_bias.as_ref())?,
            post_ffn_norm: optional(&names.post_ffn_norm)?,
        })
    }

    fn read_head(&self) -> Result<Tensor, FinetuneError> {
        let names = &self.spec.tensors;
        self.read(names.head.as_ref().unwrap_or(&names.embedding), 0.0)
    }

    /// The weights of layer `index`.
    ///
    /// # Errors
    /// Those of reading and of the device.
    pub fn layer(&self, index: usize) -> Result<Layer, FinetuneError> {
        match self.resident.as_ref().and_then(|(layers, _)| layers.get(index)) {
            Some(layer) => Ok(layer.clone()),
            None => self.read_layer(index),
        }
    }

    /// `[vocab, hidden]`.
    ///
    /// # Errors
    /// As [`Base::layer`].
    pub fn head(&self) -> Result<Tensor, FinetuneError> {
        match &self.resident {
            Some((_, head)) => Ok(head.clone()),
            None => self.read_head(),
        }
    }

    /// # Errors
    /// As [`Base::layer`].
    pub fn final_norm(&self) -> Result<Tensor, FinetuneError> {
        self.norm(&self.spec.tensors.final_norm)
    }

    /// The scaled embeddings of `ids`, `[ids, hidden]`.
    ///
    /// # Errors
    /// A token that the model does not have.
    pub fn embed(&self, ids: &[u32]) -> Result<Tensor, FinetuneError> {
        let name = &self.spec.tensors.embedding;
        let view = self.view(name)?;
        let width = self.spec.hidden_size;
        let error = |message: String| ModelError::Tensor {
            file: self.tensors.file(name).into(),
            tensor: name.clone(),
            message,
        };
        let row_bytes = view.dtype.bytes_of(width);
        let row_bytes = row_bytes.ok_or_else(|| error("has rows of broken blocks".to_owned()))?;
        let mut values = Vec::with_capacity(ids.len() * width);
        for &id in ids {
            let start = id as usize * row_bytes;
            let bytes = view.bytes.get(start..start + row_bytes);
            let bytes = bytes.ok_or_else(|| error(format!("has no row for token {id}")))?;
            let row = TensorView { dtype: view.dtype, shape: vec![width], bytes: Cow::Borrowed(bytes) };
            values.extend(row.to_f32());
        }
        let embedded = Tensor::from_vec(values, (ids.len(), width), &self.device)?;
        Ok(embedded.affine(f64::from(self.spec.embedding_scale), 0.0)?)
    }
}

/// The elements in f32, large tensors by all processors.
fn widen(view: &TensorView<'_>) -> Vec<f32> {
    let elements: usize = view.shape.iter().product();
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let share = (elements / view.dtype.block_elements()).div_ceil(threads) * view.dtype.block_bytes();
    if elements < PARALLEL || threads == 1 || share == 0 {
        return view.to_f32();
    }
    let part = |bytes: &[u8]| {
        TensorView { dtype: view.dtype, shape: Vec::new(), bytes: Cow::Borrowed(bytes) }.to_f32()
    };
    let mut values = Vec::with_capacity(elements);
    thread::scope(|scope| {
        let parts: Vec<_> =
            view.bytes.chunks(share).map(|bytes| (bytes, scope.spawn(move || part(bytes)))).collect();
        for (bytes, handle) in parts {
            // A thread that panicked is made good here, where the panic shows.
            values.extend(handle.join().unwrap_or_else(|_| part(bytes)));
        }
    });
    values
}
