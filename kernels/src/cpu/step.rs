//! One step's inputs, checked once and kept in memory that was allocated before serving.

use super::{check_room, shape_error};
use crate::contract::check_inputs;
use crate::{KernelError, NO_ADAPTER, StepInputs};

const OP: &str = "upload";

/// [`StepInputs`] on the CPU device. What is in it satisfies the shape contract written there.
pub struct Step {
    ids: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<u32>,
    cu_q: Vec<u32>,
    kv_len: Vec<u32>,
    block_tables: Vec<u32>,
    block_offsets: Vec<u32>,
    rope: Vec<Rotary>,
    /// `(slot, token)` of every token whose sequence has an adapter, in order.
    adapted: Vec<(u32, u32)>,
    /// The slots in order, to find duplicates.
    sorted: Vec<u32>,
}

/// Cosines and sines `[T, rotary_dim / 2]` of one rotary table.
#[derive(Default)]
pub(crate) struct Rotary {
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
}

fn reserve<T>(vec: &mut Vec<T>, len: usize) -> Result<(), KernelError> {
    let bytes = len.saturating_mul(size_of::<T>());
    vec.try_reserve_exact(len).map_err(|_| KernelError::OutOfMemory { what: "step inputs", bytes })
}

fn with_capacity(len: usize) -> Result<Vec<u32>, KernelError> {
    let mut vec = Vec::new();
    reserve(&mut vec, len)?;
    Ok(vec)
}

/// Replaces the contents; the room was checked.
fn refill<T: Copy>(to: &mut Vec<T>, from: &[T]) {
    to.clear();
    to.extend_from_slice(from);
}

impl Step {
    pub(crate) fn new(tokens: usize, seqs: usize, blocks: usize) -> Result<Self, KernelError> {
        Ok(Self {
            ids: with_capacity(tokens)?,
            positions: with_capacity(tokens)?,
            slots: with_capacity(tokens)?,
            cu_q: with_capacity(seqs.saturating_add(1))?,
            kv_len: with_capacity(seqs)?,
            block_tables: with_capacity(blocks)?,
            block_offsets: with_capacity(seqs.saturating_add(1))?,
            rope: Vec::new(),
            adapted: {
                let mut adapted = Vec::new();
                reserve(&mut adapted, tokens)?;
                adapted
            },
            sorted: with_capacity(tokens)?,
        })
    }

    pub(crate) fn upload(&mut self, inputs: &StepInputs<'_>) -> Result<(), KernelError> {
        check_room(OP, "tokens", inputs.ids.len(), self.ids.capacity())?;
        check_room(OP, "sequences", inputs.kv_len.len(), self.kv_len.capacity())?;
        check_room(OP, "block-table entries", inputs.block_tables.len(), self.block_tables.capacity())?;
        check_inputs(OP, inputs)?;
        refill(&mut self.sorted, inputs.slots);
        self.sorted.sort_unstable();
        if let Some(pair) = self.sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(shape_error(OP, "slot given twice", pair[0] as usize, pair[0] as usize + 1));
        }
        refill(&mut self.ids, inputs.ids);
        refill(&mut self.positions, inputs.positions);
        refill(&mut self.slots, inputs.slots);
        refill(&mut self.cu_q, inputs.cu_q);
        refill(&mut self.kv_len, inputs.kv_len);
        refill(&mut self.block_tables, inputs.block_tables);
        refill(&mut self.block_offsets, inputs.block_offsets);
        self.upload_adapters(inputs);
        self.upload_rope(inputs)
    }

    fn upload_adapters(&mut self, inputs: &StepInputs<'_>) {
        self.adapted.clear();
        for (own, &slot) in inputs.cu_q.windows(2).zip(inputs.adapters) {
            if slot != NO_ADAPTER {
                self.adapted.extend((own[0]..own[1]).map(|token| (slot, token)));
            }
        }
        self.adapted.sort_unstable();
    }

    /// The tables' widths are known only now: the first upload takes memory for full steps.
    fn upload_rope(&mut self, inputs: &StepInputs<'_>) -> Result<(), KernelError> {
        let capacity = self.ids.capacity();
        let more = inputs.rope.len().saturating_sub(self.rope.len());
        reserve(&mut self.rope, more)?;
        self.rope.resize_with(inputs.rope.len(), Rotary::default);
        for (rotary, &(cos, sin)) in self.rope.iter_mut().zip(inputs.rope) {
            let full = cos.len() / inputs.ids.len().max(1) * capacity;
            for (to, from) in [(&mut rotary.cos, cos), (&mut rotary.sin, sin)] {
                to.clear();
                reserve(to, full.max(from.len()))?;
                to.extend_from_slice(from);
            }
        }
        Ok(())
    }

    /// `T`.
    pub(crate) fn tokens(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn ids(&self) -> &[u32] {
        &self.ids
    }

    pub(crate) fn slots(&self) -> &[u32] {
        &self.slots
    }

    pub(crate) fn kv_len(&self) -> &[u32] {
        &self.kv_len
    }

    pub(crate) fn block_tables(&self) -> &[u32] {
        &self.block_tables
    }

    pub(crate) fn rope(&self) -> &[Rotary] {
        &self.rope
    }

    /// The tokens of sequences with adapters, by adapter: `(slot, token)`.
    pub(crate) fn adapted(&self) -> impl Iterator<Item = &[(u32, u32)]> {
        self.adapted.chunk_by(|a, b| a.0 == b.0)
    }

    /// The sequence that token `token < T` belongs to.
    pub(crate) fn seq_of(&self, token: usize) -> usize {
        self.cu_q.partition_point(|&start| start as usize <= token).saturating_sub(1)
    }

    /// Tokens of sequence `seq`: from, to.
    pub(crate) fn tokens_of(&self, seq: usize) -> (usize, usize) {
        (self.cu_q[seq] as usize, self.cu_q[seq + 1] as usize)
    }

    pub(crate) fn position(&self, token: usize) -> usize {
        self.positions[token] as usize
    }

    /// The block table of sequence `seq`.
    pub(crate) fn table(&self, seq: usize) -> &[u32] {
        let (from, to) = (self.block_offsets[seq] as usize, self.block_offsets[seq + 1] as usize);
        &self.block_tables[from..to]
    }
}
