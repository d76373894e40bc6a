//! The adapters on the device: a slot for each, and what it adds to every matrix.

use weirgate_kernels::{Backend, KernelError, LowRankView, NO_ADAPTER};
use weirgate_models::{Adapter, LayerAdapter, LowRank, ModelSpec};
use weirgate_types::AdapterId;

use super::weights::weight_view;
use crate::ExecutorError;

pub(super) struct Adapters<B: Backend> {
    /// Which adapter has which slot.
    slots: Vec<Option<AdapterId>>,
    pub layers: Vec<AdaptedLayer<B>>,
    /// The slots of a step's sequences.
    step: Vec<u32>,
}

/// What the adapters add to a layer's matrices.
pub(super) struct AdaptedLayer<B: Backend> {
    pub qkv: B::LowRanks,
    pub output: B::LowRanks,
    pub gate_up: B::LowRanks,
    pub down: B::LowRanks,
}

impl<B: Backend> Adapters<B> {
    /// For steps of up to `tokens` tokens.
    pub fn new(backend: &B, spec: &ModelSpec, tokens: usize) -> Result<Self, KernelError> {
        let layers =
            spec.layers.iter().map(|_| AdaptedLayer::new(backend, spec, tokens)).collect::<Result<_, _>>()?;
        Ok(Self { slots: Vec::new(), layers, step: Vec::new() })
    }

    /// Gives an adapter the first free slot.
    ///
    /// # Errors
    /// What the device says; the slot is free again then.
    pub fn load(&mut self, backend: &mut B, id: AdapterId, adapter: &Adapter) -> Result<(), KernelError> {
        let free = self.slots.iter().position(Option::is_none);
        let slot = free.unwrap_or(self.slots.len());
        for (layer, own) in self.layers.iter_mut().zip(&adapter.layers) {
            if let Err(error) = layer.set(backend, slot, own) {
                self.clear(backend, slot);
                return Err(error);
            }
        }
        match self.slots.get_mut(slot) {
            Some(free) => *free = Some(id),
            None => self.slots.push(Some(id)),
        }
        Ok(())
    }

    pub fn unload(&mut self, backend: &mut B, id: AdapterId) {
        if let Some(slot) = self.slots.iter().position(|slot| *slot == Some(id)) {
            self.clear(backend, slot);
            self.slots[slot] = None;
        }
    }

    fn clear(&mut self, backend: &mut B, slot: usize) {
        for layer in &mut self.layers {
            if let Err(error) = layer.set(backend, slot, &LayerAdapter::default()) {
                tracing::error!(%error, "an adapter's memory was not given back");
            }
        }
    }

    /// The slots of a step's sequences.
    ///
    /// # Errors
    /// An adapter that has none: never computed as if there were no adapter.
    pub fn resolve(&mut self, step: &[Option<AdapterId>]) -> Result<&[u32], ExecutorError> {
        self.step.clear();
        for adapter in step {
            self.step.push(match adapter {
                None => NO_ADAPTER,
                Some(id) => {
                    let slot = self.slots.iter().position(|slot| *slot == Some(*id));
                    slot.ok_or_else(|| ExecutorError::Batch(format!("{id:?} is not loaded")))? as u32
                }
            });
        }
        Ok(&self.step)
    }

    /// Whether any sequence of the step has an adapter.
    pub fn any(&self) -> bool {
        self.step.iter().any(|slot| *slot != NO_ADAPTER)
    }
}

impl<B: Backend> AdaptedLayer<B> {
    fn new(backend: &B, spec: &ModelSpec, tokens: usize) -> Result<Self, KernelError> {
        let (hidden, width) = (spec.hidden_size, spec.intermediate_size);
        let queries = spec.heads * spec.head_dim;
        Ok(Self {
            qkv: backend.low_ranks(queries + 2 * spec.kv_heads * spec.head_dim, hidden, tokens)?,
            output: backend.low_ranks(hidden, queries, tokens)?,
            gate_up: backend.low_ranks(2 * width, hidden, tokens)?,
            down: backend.low_ranks(hidden, width, tokens)?,
        })
    }

    fn set(&mut self, backend: &mut B, slot: usize, own: &LayerAdapter) -> Result<(), KernelError> {
        backend.set_low_rank(&mut self.qkv, slot, &views(&own.qkv))?;
        backend.set_low_rank(&mut self.output, slot, &views(&own.output))?;
        backend.set_low_rank(&mut self.gate_up, slot, &views(&own.gate_up))?;
        backend.set_low_rank(&mut self.down, slot, &views(&own.down))
    }
}

fn views(parts: &[LowRank]) -> Vec<LowRankView<'_>> {
    parts.iter().map(view).collect()
}

fn view(part: &LowRank) -> LowRankView<'_> {
    LowRankView { first: part.first, scale: part.scale, a: weight_view(&part.a), b: weight_view(&part.b) }
}
