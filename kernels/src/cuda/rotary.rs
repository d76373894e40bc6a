//! The cosines and sines of a step's tokens.

use super::gpu::{Gpu, GpuMemory};
use super::memory::Bytes;
use crate::KernelError;
use crate::contract::shape_error;

type Result<T> = std::result::Result<T, KernelError>;

/// Cosines and sines `[T, half]` of one rotary table.
struct Rotary<G: Gpu> {
    cosine: G::Memory,
    sine: G::Memory,
    half: usize,
}

/// Those of all rotary tables of a model, for steps of up to so many tokens.
pub(super) struct Rotaries<G: Gpu> {
    tables: Vec<Rotary<G>>,
    capacity: usize,
}

/// Where a rotary table lies.
pub(super) struct RotaryView {
    pub(super) cosine: u64,
    pub(super) sine: u64,
    pub(super) half: usize,
}

impl<G: Gpu> Rotaries<G> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { tables: Vec::new(), capacity }
    }

    /// The tables' widths are known only now: the first upload takes memory for full steps.
    pub(super) fn upload(&mut self, gpu: &G, tokens: usize, ropes: &[(&[f32], &[f32])]) -> Result<()> {
        self.tables.truncate(ropes.len());
        for (index, &(cosine, sine)) in ropes.iter().enumerate() {
            let half = cosine.len() / tokens.max(1);
            if self.tables.get(index).is_none_or(|rotary| rotary.half != half) {
                let bytes = self.capacity.saturating_mul(half).saturating_mul(4);
                let table = || gpu.allocate("rotary tables", bytes);
                let rotary = Rotary { cosine: table()?, sine: table()?, half };
                match self.tables.get_mut(index) {
                    Some(place) => *place = rotary,
                    None => self.tables.push(rotary),
                }
            }
            if let Some(rotary) = self.tables.get(index) {
                gpu.upload(&rotary.cosine, 0, cosine.bytes())?;
                gpu.upload(&rotary.sine, 0, sine.bytes())?;
            }
        }
        Ok(())
    }

    pub(super) fn view(&self, op: &'static str, index: usize) -> Result<RotaryView> {
        let rotary =
            self.tables.get(index).ok_or(shape_error(op, "rotary table", index, self.tables.len()))?;
        Ok(RotaryView { cosine: rotary.cosine.address(), sine: rotary.sine.address(), half: rotary.half })
    }
}
