//! A decoder whose last hidden states are pooled. Each text gets blocks of its own for as long as it is computed.

use weirgate_kernels::{Backend, DType};
use weirgate_models::{ModelSpec, Pooling, TensorSource};

use super::{EmbedInput, EmbedLimits, EmbedOptions, Embedder};
use crate::decoder::{Decoder, DecoderConfig, LoadError};
use crate::{Batch, ExecutorError};

/// Tokens per KV block.
const BLOCK_SIZE: usize = 16;
/// Hidden states that are brought back at once.
const ROWS: usize = 64;

pub(super) struct DecoderEmbedder<B: Backend> {
    decoder: Decoder<B>,
    pooling: Pooling,
    limits: EmbedLimits,
}

impl<B: Backend> DecoderEmbedder<B> {
    pub fn new(
        backend: B,
        spec: &ModelSpec,
        tensors: &dyn TensorSource,
        options: &EmbedOptions,
    ) -> Result<Self, LoadError> {
        let max_tokens = options.max_tokens.clamp(1, spec.max_positions);
        let max_step_tokens = options.max_step_tokens.max(max_tokens);
        let max_seqs = options.max_seqs.clamp(1, max_step_tokens);
        let config = DecoderConfig {
            // The last block of every text may be hardly used.
            blocks: max_step_tokens.div_ceil(BLOCK_SIZE) + max_seqs,
            block_size: BLOCK_SIZE,
            kv_dtype: DType::F32.into(),
            max_step_tokens,
            max_seqs,
            max_seq_len: max_tokens,
            max_logit_rows: ROWS,
        };
        let limits = EmbedLimits {
            vocab_size: spec.vocab_size,
            max_tokens,
            max_step_tokens,
            max_seqs,
            dimensions: spec.hidden_size,
        };
        Ok(Self { decoder: Decoder::new(backend, spec, tensors, config)?, pooling: options.pooling, limits })
    }

    /// The vector of the text whose tokens are rows `first..last` of the step.
    fn pool(&mut self, first: u32, last: u32, out: &mut Vec<f32>) -> Result<(), ExecutorError> {
        let one = match self.pooling {
            Pooling::Cls => Some(first),
            Pooling::Last => Some(last - 1),
            Pooling::Mean | Pooling::Max => None,
        };
        if let Some(row) = one {
            return self.decoder.hidden(&[row], out);
        }
        let width = self.limits.dimensions;
        let mut pooled = vec![if self.pooling == Pooling::Max { f32::NEG_INFINITY } else { 0.0 }; width];
        let mut states = Vec::new();
        let rows: Vec<u32> = (first..last).collect();
        for rows in rows.chunks(ROWS) {
            states.clear();
            self.decoder.hidden(rows, &mut states)?;
            for state in states.chunks_exact(width) {
                for (pooled, x) in pooled.iter_mut().zip(state) {
                    *pooled = if self.pooling == Pooling::Max { pooled.max(*x) } else { *pooled + x };
                }
            }
        }
        if self.pooling == Pooling::Mean {
            pooled.iter_mut().for_each(|sum| *sum /= (last - first) as f32);
        }
        out.append(&mut pooled);
        Ok(())
    }
}

impl<B: Backend> Embedder for DecoderEmbedder<B> {
    fn limits(&self) -> EmbedLimits {
        self.limits
    }

    fn use_threads(&mut self, threads: usize) -> Result<(), ExecutorError> {
        self.decoder.use_threads(threads)
    }

    fn embed(&mut self, texts: &[EmbedInput], out: &mut Vec<f32>) -> Result<(), ExecutorError> {
        let batch = whole_texts(texts);
        self.decoder.forward(&batch)?;
        let mut vectors = Vec::with_capacity(texts.len() * self.limits.dimensions);
        for ends in batch.cu_q.windows(2) {
            if let [first, last] = *ends {
                self.pool(first, last, &mut vectors)?;
            }
        }
        out.append(&mut vectors);
        Ok(())
    }
}

/// All texts from their beginnings, in blocks one after the other.
fn whole_texts(texts: &[EmbedInput]) -> Batch {
    let mut batch = Batch { cu_q: vec![0], block_offsets: vec![0], ..Batch::default() };
    let mut next_block = 0;
    for text in texts {
        let len = text.tokens.len();
        batch.ids.extend(&text.tokens);
        batch.positions.extend(0..len as u32);
        batch.slots.extend((0..len).map(|at| (next_block * BLOCK_SIZE + at) as u32));
        batch.rope_len.extend(std::iter::repeat_n(len as u32, len));
        let blocks = len.div_ceil(BLOCK_SIZE);
        batch.block_tables.extend((next_block..next_block + blocks).map(|block| block as u32));
        next_block += blocks;
        batch.cu_q.push(batch.ids.len() as u32);
        batch.kv_len.push(len as u32);
        batch.adapters.push(None);
        batch.block_offsets.push(batch.block_tables.len() as u32);
    }
    batch
}
