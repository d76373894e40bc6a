//! The base model with its adapters, as something that has a loss and gradients.
//!
//! The layers are differentiated one at a time, from the last to the first: each layer's input is a leaf of a graph of its
//! own. A layer's graph is kept from the forward pass or, to save memory, built again when its turn comes.

mod adapters;
mod attention;
mod base;
mod gradient;
mod loss;
mod ops;

pub use adapters::{Adapters, Trained};
pub use base::Base;

use candle_core::{Device, Tensor, Var};
use weirgate_models::{AdapterSite, ModelSpec, Rope};

use crate::process::Stop;
use crate::random::{Purpose, Random};
use crate::{Batch, FinetuneError, Hyperparameters};
use attention::Attention;
use base::Layer;
use gradient::with_gradient;
use loss::Head;
use ops::{Linear, Rotation, gated, rms_norm};

/// A frozen base and what is trained on top of it.
pub struct Model {
    spec: ModelSpec,
    base: Base,
    ropes: Vec<Rope>,
    pub adapters: Adapters,
    device: Device,
    scale: f64,
    dropout: f64,
    seed: u64,
    /// Whether a layer's graph is built again for its gradient.
    recompute: bool,
}

/// A batch on the device.
struct Inputs<'a> {
    batch: &'a Batch,
    /// One for each of the model's rotary tables.
    rotations: Vec<Rotation>,
    /// Which batch of the training it is, for dropout; `None` without.
    dropout: Option<u64>,
}

/// The sum of the gradients of several batches, one for each trained tensor in the order of [`Adapters::named`].
#[derive(Default)]
pub struct Gradients(Vec<Option<Tensor>>);

impl Gradients {
    fn add(&mut self, index: usize, gradient: &Tensor) -> candle_core::Result<()> {
        if self.0.len() <= index {
            self.0.resize(index + 1, None);
        }
        if let Some(slot) = self.0.get_mut(index) {
            *slot = Some(match slot.take() {
                Some(sum) => (sum + gradient)?,
                None => gradient.clone(),
            });
        }
        Ok(())
    }

    /// That of tensor `index`; `None` where nothing depends on it.
    pub fn get(&self, index: usize) -> Option<&Tensor> {
        self.0.get(index)?.as_ref()
    }
}

impl Model {
    /// `recompute`: see [`Hyperparameters::gradient_checkpointing`]; always where the base's layers are not kept.
    pub fn new(
        spec: ModelSpec,
        base: Base,
        adapters: Adapters,
        settings: &Hyperparameters,
        (device, recompute): (&Device, bool),
    ) -> Self {
        Self {
            ropes: spec.ropes.iter().map(Rope::new).collect(),
            recompute: recompute || base.is_streamed(),
            spec,
            base,
            adapters,
            device: device.clone(),
            scale: settings.scale(),
            dropout: settings.dropout,
            seed: settings.seed,
        }
    }

    /// Adds the gradients of `factor · Σ -log p` over the batch's targets to `gradients`; returns the sum without the factor.
    /// `number` tells this batch from all others of the training.
    ///
    /// # Errors
    /// [`FinetuneError::Interrupted`] as soon as asked to stop, or those of the device.
    pub fn accumulate(
        &self,
        batch: &Batch,
        (factor, number): (f64, u64),
        gradients: &mut Gradients,
        stop: &Stop,
    ) -> Result<f64, FinetuneError> {
        let inputs = self.inputs(batch, (self.dropout > 0.0).then_some(number))?;
        let layers = self.spec.layers.len();
        let mut hidden = self.base.embed(&batch.ids)?;
        let mut nodes = Vec::with_capacity(layers);
        for layer in 0..layers {
            stop.check()?;
            // Nothing before the first layer is trained.
            let input = if layer == 0 { hidden } else { Var::from_tensor(&hidden.detach())?.into_inner() };
            let output = match self.recompute {
                true => self.layer(layer, &input.detach(), &inputs, false)?,
                false => self.layer(layer, &input, &inputs, true)?,
            };
            hidden = output.detach();
            nodes.push((input, (!self.recompute).then_some(output)));
        }
        let (loss, mut gradient) =
            Head::new(&self.base, &self.spec)?.loss(&hidden, &batch.targets, factor)?;
        for (layer, (input, output)) in nodes.into_iter().enumerate().rev() {
            stop.check()?;
            let output = match output {
                Some(output) => output,
                None => self.layer(layer, &input, &inputs, true)?,
            };
            let own = std::mem::replace(&mut gradient, input.detach());
            // A scalar whose gradient's way into the layer begins with the gradient that came from above.
            let seed = with_gradient(&output, Tensor::zeros((), own.dtype(), &self.device)?, move |_| {
                Ok(own.clone())
            })?;
            let found = seed.backward()?;
            self.collect(layer, &found, gradients)?;
            if let Some(below) = found.get(&input) {
                gradient = below.clone();
            }
        }
        Ok(loss)
    }

    /// The logits after every token, `[T, vocab]`, without dropout.
    ///
    /// # Errors
    /// Those of the device.
    pub fn logits(&self, batch: &Batch) -> Result<Tensor, FinetuneError> {
        let inputs = self.inputs(batch, None)?;
        let mut hidden = self.base.embed(&batch.ids)?;
        for layer in 0..self.spec.layers.len() {
            hidden = self.layer(layer, &hidden, &inputs, false)?;
        }
        Head::new(&self.base, &self.spec)?.all_logits(&hidden)
    }

    fn collect(
        &self,
        layer: usize,
        found: &candle_core::backprop::GradStore,
        gradients: &mut Gradients,
    ) -> Result<(), FinetuneError> {
        let own = self.adapters.layer(layer);
        let before = layer * own.len();
        for (index, trained) in own.iter().enumerate() {
            for (side, var) in [&trained.a, &trained.b].into_iter().enumerate() {
                if let Some(gradient) = found.get(var) {
                    gradients.add(2 * (before + index) + side, gradient)?;
                }
            }
        }
        Ok(())
    }

    fn inputs<'a>(&self, batch: &'a Batch, dropout: Option<u64>) -> Result<Inputs<'a>, FinetuneError> {
        let lengths: Vec<u32> = batch
            .segments
            .iter()
            .flat_map(|segment| std::iter::repeat_n(segment.len as u32, segment.len))
            .collect();
        let rotations = self.ropes.iter().map(|rope| {
            let (mut cos, mut sin) = (Vec::new(), Vec::new());
            rope.fill(&batch.positions, &lengths, &mut cos, &mut sin);
            let tokens = batch.ids.len();
            let table = |values: Vec<f32>| {
                let width = values.len() / tokens.max(1);
                Tensor::from_vec(values, (tokens, 1, width), &self.device)
            };
            Ok(Rotation { cos: table(cos)?, sin: table(sin)? })
        });
        let rotations = rotations.collect::<candle_core::Result<_>>()?;
        Ok(Inputs { batch, rotations, dropout })
    }

    /// One layer, `[T, hidden]` → `[T, hidden]`.
    fn layer(
        &self,
        index: usize,
        hidden: &Tensor,
        inputs: &Inputs<'_>,
        tracked: bool,
    ) -> Result<Tensor, FinetuneError> {
        let pass = Pass { model: self, weights: &self.base.layer(index)?, inputs, index, tracked };
        let attended = pass.attention(&rms_norm(hidden, &pass.weights.attn_norm, pass.eps())?)?;
        let hidden = pass.add(hidden, attended, pass.weights.post_attn_norm.as_ref())?;
        let fed = pass.feed_forward(&rms_norm(&hidden, &pass.weights.ffn_norm, pass.eps())?)?;
        Ok(pass.add(&hidden, fed, pass.weights.post_ffn_norm.as_ref())?)
    }
}

/// A batch on its way through one layer.
struct Pass<'a> {
    model: &'a Model,
    weights: &'a Layer,
    inputs: &'a Inputs<'a>,
    index: usize,
    /// Whether the adapters' gradients are wanted.
    tracked: bool,
}

impl Pass<'_> {
    fn eps(&self) -> f64 {
        f64::from(self.model.spec.norm_eps)
    }

    /// `hidden + post_norm(delta)`.
    fn add(&self, hidden: &Tensor, delta: Tensor, norm: Option<&Tensor>) -> candle_core::Result<Tensor> {
        match norm {
            Some(weight) => hidden + rms_norm(&delta, weight, self.eps())?,
            None => hidden + delta,
        }
    }

    fn attention(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let ModelSpec { heads, kv_heads, head_dim, .. } = self.model.spec;
        let settings = self.model.spec.layers.get(self.index).copied();
        let settings = settings.ok_or_else(|| missing("layer"))?;
        let rotation = self.inputs.rotations.get(settings.rope).ok_or_else(|| missing("rotary table"))?;
        let widths = [heads, kv_heads, kv_heads].map(|heads| heads * head_dim);
        let [q, k, v] = self.project(AdapterSite::Qkv, &self.weights.qkv, x, widths)?;
        let tokens = x.dim(0)?;
        let mut q = q.reshape((tokens, heads, head_dim))?;
        let mut k = k.reshape((tokens, kv_heads, head_dim))?;
        let v = v.reshape((tokens, kv_heads, head_dim))?;
        if let Some((q_norm, k_norm)) = &self.weights.qk_norm {
            q = rms_norm(&q, q_norm, self.eps())?;
            k = rms_norm(&k, k_norm, self.eps())?;
        }
        let attention = Attention::new(&self.model.spec, settings.window, &self.inputs.batch.segments);
        let attended = attention.apply(&rotation.apply(&q)?, &rotation.apply(&k)?, &v)?;
        let attended = attended.reshape((tokens, heads * head_dim))?;
        let output = std::slice::from_ref(&self.weights.output);
        let [out] = self.project(AdapterSite::Output, output, &attended, [self.model.spec.hidden_size])?;
        Ok(out)
    }

    fn feed_forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let width = self.model.spec.intermediate_size;
        let [gate, up] = self.project(AdapterSite::GateUp, &self.weights.gate_up, x, [width, width])?;
        let gated = gated(&gate, &up, self.model.spec.activation)?;
        let down = std::slice::from_ref(&self.weights.down);
        let [out] = self.project(AdapterSite::Down, down, &gated, [self.model.spec.hidden_size])?;
        Ok(out)
    }

    /// The projections of one site with their changes, `widths` columns each: one for each of `linears`, or parts of one.
    fn project<const PARTS: usize>(
        &self,
        site: AdapterSite,
        linears: &[Linear],
        x: &Tensor,
        widths: [usize; PARTS],
    ) -> candle_core::Result<[Tensor; PARTS]> {
        let mut outputs = Vec::with_capacity(PARTS);
        let mut first = 0;
        for linear in linears {
            let mut output = linear.apply(x)?;
            if let Some(change) = self.change(site, first, x)? {
                output = (output + change)?;
            }
            first += output.dim(1)?;
            outputs.push(output);
        }
        if let [fused] = &outputs[..]
            && PARTS > 1
        {
            let mut start = 0;
            let part = |width: &usize| {
                let part = fused.narrow(1, start, *width)?.contiguous();
                start += width;
                part
            };
            outputs = widths.iter().map(part).collect::<candle_core::Result<_>>()?;
        }
        outputs.try_into().map_err(|_| missing("projection"))
    }

    /// What the module whose rows begin at `first` adds, where it is trained.
    fn change(&self, site: AdapterSite, first: usize, x: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let model = self.model;
        let mut own = model.adapters.layer(self.index).iter().enumerate();
        let Some((index, trained)) =
            own.find(|(_, own)| own.module.site == site && own.module.first == first)
        else {
            return Ok(None);
        };
        let keep = self.inputs.dropout.map(|number| self.keep(number, index, x)).transpose()?;
        trained.low_rank(self.tracked).apply(x, keep.as_ref(), model.scale).map(Some)
    }

    /// What dropout multiplies a module's input by; the same whenever it is asked for.
    fn keep(&self, number: u64, module: usize, x: &Tensor) -> candle_core::Result<Tensor> {
        let Model { seed, dropout, .. } = *self.model;
        let mut random = Random::new(seed, Purpose::Dropout, &[number, self.index as u64, module as u64]);
        Tensor::from_vec(random.keep(x.elem_count(), dropout), x.shape(), x.device())
    }
}

fn missing(what: &str) -> candle_core::Error {
    candle_core::Error::Msg(format!("the model has no such {what}"))
}
