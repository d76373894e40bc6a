use std::ops::Range;
use std::sync::Arc;

use weirgate_kernels::SampleParams;
use weirgate_types::AdapterId;

/// One step's work, as flat host vectors: all that crosses to the executor.
///
/// `T` tokens of `S` sequences lie back to back; see [`weirgate_kernels::StepInputs`] for the shapes.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub ids: Vec<u32>,
    pub positions: Vec<u32>,
    pub slots: Vec<u32>,
    pub cu_q: Vec<u32>,
    pub kv_len: Vec<u32>,
    pub block_tables: Vec<u32>,
    pub block_offsets: Vec<u32>,
    /// `[T]` the sequence length that picks a length-dependent rotary table (dynamic NTK, LongRoPE):
    /// `max(base, position + 1)`, where the base is the prompt's length or, for a sequence recomputed because it
    /// grew into another table (LongRoPE), its length then; so it does not depend on how the tokens were cut into steps.
    pub rope_len: Vec<u32>,
    /// `[S]` the adapter of each sequence.
    pub adapters: Vec<Option<AdapterId>>,
    /// Whole blocks `(from, to)` to copy before anything else (copy-on-write).
    pub block_copies: Vec<(u32, u32)>,
    /// Tokens to draw.
    pub samples: Vec<Sample>,
    /// The token histories the samples refer to; those of one sequence overlap.
    pub history: Vec<u32>,
    /// Prompt tokens whose log-probability was asked for.
    pub scores: Vec<Score>,
    /// The rows whose hidden states matter, ascending; `None`: all.
    pub wanted: Option<Vec<u32>>,
}

/// Draw the token that follows row `row` of the batch.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Index into the batch's `T` tokens.
    pub row: u32,
    pub params: Arc<SampleParams>,
    /// The tokens up to this row in [`Batch::history`]: all of them if the parameters need them, else the last.
    pub history: Range<usize>,
    pub prompt_len: usize,
    /// How many tokens the sequence has generated before this one.
    pub draw: u64,
    /// Mirostat's target, in bits.
    pub surprise: f32,
    /// Stop tokens that cannot be drawn yet.
    pub banned: Option<Arc<[u32]>>,
    /// `[ceil(vocab / 32)]` what a grammar allows; see [`weirgate_kernels::SampleRow::mask`].
    pub mask: Option<Arc<[u32]>>,
}

/// Score `target` under the distribution that follows row `row`.
#[derive(Debug, Clone, Copy)]
pub struct Score {
    pub row: u32,
    pub target: u32,
}

impl Batch {
    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Number of sequences.
    pub fn seqs(&self) -> usize {
        self.kv_len.len()
    }

    /// Wants the rows of the samples and scores, and no others.
    pub(crate) fn want_results(&mut self) {
        let mut rows = self.wanted.take().unwrap_or_default();
        rows.clear();
        rows.extend(self.samples.iter().map(|sample| sample.row));
        rows.extend(self.scores.iter().map(|score| score.row));
        rows.sort_unstable();
        rows.dedup();
        self.wanted = Some(rows);
    }

    /// Becomes what a device needs of `other` to fill the KV cache and compute hidden states; keeps the memory.
    pub(crate) fn copy_inputs(&mut self, other: &Self) {
        self.ids.clone_from(&other.ids);
        self.positions.clone_from(&other.positions);
        self.slots.clone_from(&other.slots);
        self.cu_q.clone_from(&other.cu_q);
        self.kv_len.clone_from(&other.kv_len);
        self.block_tables.clone_from(&other.block_tables);
        self.block_offsets.clone_from(&other.block_offsets);
        self.rope_len.clone_from(&other.rope_len);
        self.adapters.clone_from(&other.adapters);
        self.block_copies.clone_from(&other.block_copies);
        self.wanted.clone_from(&other.wanted);
        self.samples.clear();
        self.history.clear();
        self.scores.clear();
    }

    /// Appends sequences of one token each until there are `rows` tokens, for devices that want certain numbers of them.
    /// They write to the blocks from `first_block` on, which nobody else has, and nobody reads what comes of them.
    pub(crate) fn pad(&mut self, rows: usize, first_block: usize, block_size: usize) {
        for index in 0..rows.saturating_sub(self.tokens()) {
            self.ids.push(0);
            self.positions.push(0);
            self.slots.push((first_block * block_size + index) as u32);
            self.rope_len.push(1);
            self.cu_q.push(self.ids.len() as u32);
            self.kv_len.push(1);
            // It reads the slot of the first such sequence of its block.
            self.block_tables.push((first_block + index / block_size) as u32);
            self.block_offsets.push(self.block_tables.len() as u32);
            self.adapters.push(None);
        }
    }

    /// Empties every vector and keeps the memory; no rows are wanted then.
    pub fn clear(&mut self) {
        self.block_copies.clear();
        self.clear_rows();
    }

    /// Empties all but the copies of blocks.
    pub(crate) fn clear_rows(&mut self) {
        self.ids.clear();
        self.positions.clear();
        self.slots.clear();
        self.cu_q.clear();
        self.kv_len.clear();
        self.block_tables.clear();
        self.block_offsets.clear();
        self.rope_len.clear();
        self.adapters.clear();
        self.samples.clear();
        self.history.clear();
        self.scores.clear();
        self.wanted.get_or_insert_default().clear();
    }
}
