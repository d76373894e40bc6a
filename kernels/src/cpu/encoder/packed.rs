//! One step's texts, checked once and kept in memory that was allocated before serving.

use crate::contract::check_packed;
use crate::cpu::step::Rotary;
use crate::{KernelError, PackedInputs, PackedLimits};

const OP: &str = "pack";

/// [`PackedInputs`] on the CPU device. What is in it satisfies the shape contract written there.
pub struct Packed {
    limits: PackedLimits,
    ids: Vec<u32>,
    positions: Vec<u32>,
    types: Vec<u32>,
    cu: Vec<u32>,
    rope: Vec<Rotary>,
}

fn with_capacity(len: usize) -> Result<Vec<u32>, KernelError> {
    let mut vec = Vec::new();
    let bytes = len.saturating_mul(size_of::<u32>());
    vec.try_reserve_exact(len).map_err(|_| KernelError::OutOfMemory { what: "step inputs", bytes })?;
    Ok(vec)
}

fn refill<T: Copy>(to: &mut Vec<T>, from: &[T]) {
    to.clear();
    to.extend_from_slice(from);
}

impl Packed {
    pub(crate) fn new(limits: PackedLimits) -> Result<Self, KernelError> {
        Ok(Self {
            limits,
            ids: with_capacity(limits.tokens)?,
            positions: with_capacity(limits.tokens)?,
            types: with_capacity(limits.tokens)?,
            cu: with_capacity(limits.seqs.saturating_add(1))?,
            rope: Vec::new(),
        })
    }

    pub(crate) fn fill(&mut self, inputs: &PackedInputs<'_>) -> Result<(), KernelError> {
        check_packed(OP, inputs, &self.limits)?;
        refill(&mut self.ids, inputs.ids);
        refill(&mut self.positions, inputs.positions);
        refill(&mut self.types, inputs.types);
        refill(&mut self.cu, inputs.cu);
        self.rope.resize_with(inputs.rope.len(), Rotary::default);
        for (rotary, &(cos, sin)) in self.rope.iter_mut().zip(inputs.rope) {
            refill(&mut rotary.cos, cos);
            refill(&mut rotary.sin, sin);
        }
        Ok(())
    }

    /// `T`.
    pub(crate) fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// `S`.
    pub(crate) fn seqs(&self) -> usize {
        self.cu.len().saturating_sub(1)
    }

    pub(crate) fn limits(&self) -> &PackedLimits {
        &self.limits
    }

    pub(crate) fn ids(&self) -> &[u32] {
        &self.ids
    }

    pub(crate) fn positions(&self) -> &[u32] {
        &self.positions
    }

    pub(crate) fn types(&self) -> &[u32] {
        &self.types
    }

    pub(crate) fn rope(&self) -> &[Rotary] {
        &self.rope
    }

    /// Tokens of sequence `seq`: from, to.
    pub(crate) fn tokens_of(&self, seq: usize) -> (usize, usize) {
        (self.cu[seq] as usize, self.cu[seq + 1] as usize)
    }
}
