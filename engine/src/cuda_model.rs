//! How a model is brought onto a GPU: weights and buffers first, then a step as large as any can be, then the KV cache,
//! as large as what that left allows. So serving never runs out of the device's memory.

use std::sync::Arc;

use weirgate_kernels::cuda::driver::{CompileSettings, CudaDevice, NvidiaGpu};
use weirgate_kernels::cuda::{CudaBackend, Gpu};
use weirgate_kernels::{Backend, SampleParams};
use weirgate_models::{ModelSpec, TensorSource};

use crate::decoder::{Decoder, DecoderConfig, LoadError};
use crate::model_executor::{ModelExecutor, kv_type};
use crate::{Batch, Executor, ExecutorError, LoadOptions, Sample, Score, StepResult};

/// Bytes left free: the driver takes some for itself as kernels are first used, and the kernels' scratch memory may grow a
/// little between the sizes that were tried.
const RESERVE: usize = 512 << 20;
/// Most rows of logits held at once: enough to read the head's weights a few times for the largest batch, few enough that
/// a 152k vocabulary costs 40 MB.
const MAX_LOGIT_ROWS: usize = 64;
/// Log-probabilities that a draw is asked for at most, or nearly.
const MOST_LOGPROBS: u32 = 32;

/// How a model computes on a GPU.
#[derive(Debug, Clone, Default)]
pub struct CudaOptions {
    pub compile: CompileSettings,
    /// A request's tokens are the same whatever else is computed beside it and however its prompt is cut. Prompts take
    /// longer.
    pub deterministic: bool,
    /// Tokens of the steps that are recorded as CUDA graphs; steps of fewer are padded up to the next of these. `None`:
    /// [`graph_sizes`]; empty: none is recorded.
    pub graphs: Option<Vec<usize>>,
}

/// Steps that decode up to 256 sequences, in paces of one, four and eight.
fn graph_sizes() -> Vec<usize> {
    (1..8).chain((8..64).step_by(4)).chain((64..=256).step_by(8)).collect()
}

/// A model on a GPU that has no KV cache to serve from yet.
pub struct CudaModel<G: Gpu> {
    executor: ModelExecutor<CudaBackend<G>>,
    description: String,
}

/// Takes a GPU into use and loads a checkpoint onto it. `options.blocks` and `threads` are not looked at;
/// `options.max_seq_len` is the most that will be asked for.
///
/// # Errors
/// When the device, a tensor or the memory is not as it must be.
pub fn load_cuda(
    spec: &ModelSpec,
    tensors: &dyn TensorSource,
    options: &LoadOptions,
    device: &CudaDevice,
    cuda: &CudaOptions,
) -> Result<CudaModel<NvidiaGpu>, LoadError> {
    let gpu = NvidiaGpu::new(device, &cuda.compile)?;
    let description =
        format!("{} (cuda:{}), {}, {}", device.name, device.ordinal, gpu.origin(), gpu.products());
    let model = CudaModel::load(gpu, spec, tensors, options, cuda)?;
    Ok(CudaModel { description, ..model })
}

impl<G: Gpu> CudaModel<G> {
    /// Loads a checkpoint onto `gpu` and takes the largest steps there can be.
    ///
    /// # Errors
    /// As [`load_cuda`].
    pub fn load(
        gpu: G,
        spec: &ModelSpec,
        tensors: &dyn TensorSource,
        options: &LoadOptions,
        cuda: &CudaOptions,
    ) -> Result<Self, LoadError> {
        let description = gpu.info().name.clone();
        let config = DecoderConfig {
            blocks: warm_up_blocks(options),
            block_size: options.block_size,
            kv_dtype: kv_type(spec, tensors, options.kv_dtype)?,
            max_step_tokens: options.max_step_tokens,
            max_seqs: options.max_seqs,
            max_seq_len: options.max_seq_len,
            max_logit_rows: MAX_LOGIT_ROWS,
        };
        let backend =
            if cuda.deterministic { CudaBackend::deterministic(gpu) } else { CudaBackend::new(gpu) };
        let mut sizes = cuda.graphs.clone().unwrap_or_else(graph_sizes);
        sizes.retain(|&size| size <= options.max_step_tokens);
        let decoder = Decoder::new(backend.with_graphs(&sizes), spec, tensors, config)?;
        let mut executor = ModelExecutor::new(decoder);
        take(&mut executor, &prompts(options, &Draw::greediest(options, spec.vocab_size)))?;
        for step in longest_steps(options) {
            // The first time it is done op by op, the second time recorded.
            take(&mut executor, &step)?;
            take(&mut executor, &step)?;
        }
        let backend = executor.decoder.backend();
        backend.gpu().synchronize()?;
        if let Some(refusal) = backend.refusal() {
            tracing::warn!(%refusal, "CUDA graphs cannot be used: steps are launched op by op");
        }
        Ok(Self { executor, description })
    }

    /// The device and where its kernels came from, for people.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Bytes that the KV cache may take when all of this process may have `fraction` of the device's memory.
    ///
    /// # Errors
    /// When the device does not answer.
    pub fn free_bytes(&self, fraction: f32) -> Result<u64, LoadError> {
        let memory = self.executor.decoder.backend().gpu().memory_info()?;
        let allowed = (memory.total as f64 * f64::from(fraction.clamp(0.0, 1.0))) as usize;
        let used = memory.total.saturating_sub(memory.free);
        // The cache of the largest step goes when the other comes.
        let own = self.executor.decoder.cache_bytes();
        let free =
            (allowed + own).saturating_sub(used + RESERVE).min((memory.free + own).saturating_sub(RESERVE));
        Ok(free as u64)
    }

    /// Allocates the KV cache.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn with_cache(mut self, blocks: usize, max_seq_len: usize) -> Result<Box<dyn Executor>, LoadError> {
        self.executor.decoder.resize_cache(blocks, max_seq_len)?;
        Ok(Box::new(self.executor))
    }
}

/// Each sequence of the largest step has blocks of its own.
fn warm_up_blocks(options: &LoadOptions) -> usize {
    options.max_step_tokens.div_ceil(options.block_size) + options.max_seqs
}

fn take<B: Backend>(executor: &mut ModelExecutor<B>, step: &Batch) -> Result<(), LoadError> {
    let mut result = StepResult::default();
    executor.launch(step).and_then(|()| executor.collect(&mut result)).map_err(|error| match error {
        ExecutorError::Kernel(error) => LoadError::Kernel(error),
        ExecutorError::Batch(message) => LoadError::WarmUp(message),
    })
}

/// Steps of many and of few sequences as long as any, which may need more memory than a step full of prompts.
fn longest_steps(options: &LoadOptions) -> impl Iterator<Item = Batch> {
    let most = options.max_seqs.clamp(1, options.max_step_tokens.max(1));
    let counts = std::iter::successors(Some(most), |count| (*count > 1).then_some(count / 2));
    counts.map(|count| decodes(options, count))
}

/// How tokens are drawn to try a step out.
#[derive(Default)]
struct Draw {
    params: Arc<SampleParams>,
    mask: Option<Arc<[u32]>>,
    /// Tokens of its history.
    history: usize,
}

impl Draw {
    /// One that uses all memory that any could.
    fn greediest(options: &LoadOptions, vocab: usize) -> Self {
        let params = SampleParams {
            seed: Some(0),
            // All candidates are sorted, and the whole history is looked at.
            tfs_z: 0.5,
            repetition_penalty: 1.5,
            top_n: MOST_LOGPROBS,
            ..SampleParams::default()
        };
        let mask = vec![u32::MAX; vocab.div_ceil(32)].into();
        Self { params: Arc::new(params), mask: Some(mask), history: options.max_seq_len }
    }
}

/// As many tokens as a step may have, of as many sequences, a token drawn for each, and some scored.
fn prompts(options: &LoadOptions, draw: &Draw) -> Batch {
    let tokens = options.max_step_tokens;
    let seqs = options.max_seqs.clamp(1, tokens.max(1));
    let mut batch = empty(draw);
    for seq in 0..seqs {
        push_prompt(&mut batch, tokens / seqs + usize::from(seq < tokens % seqs), options.block_size, draw);
    }
    let rows = 0..tokens.min(MAX_LOGIT_ROWS) as u32;
    batch.scores.extend(rows.map(|row| Score { row, target: 0 }));
    batch
}

/// The last token of `count` sequences of the greatest length. Each has a last block of its own to write to; all others
/// are the first one, since what is read does not matter.
fn decodes(options: &LoadOptions, count: usize) -> Batch {
    let draw = Draw { history: 1, ..Draw::default() };
    let last = options.max_seq_len.saturating_sub(1);
    let blocks = options.max_seq_len.div_ceil(options.block_size).max(1);
    let mut batch = empty(&draw);
    for own in 1..=count {
        batch.ids.push(0);
        batch.positions.push(last as u32);
        batch.slots.push((own * options.block_size + last % options.block_size) as u32);
        batch.rope_len.push(last as u32 + 1);
        batch.block_tables.resize(batch.block_tables.len() + blocks - 1, 0);
        batch.block_tables.push(own as u32);
        end_sequence(&mut batch, last + 1, &draw);
    }
    batch
}

/// All sequences have the one history.
fn empty(draw: &Draw) -> Batch {
    Batch { cu_q: vec![0], block_offsets: vec![0], history: vec![0; draw.history], ..Batch::default() }
}

/// Closes the sequence whose tokens and blocks were pushed, and draws a token for it.
fn end_sequence(batch: &mut Batch, kv_len: usize, draw: &Draw) {
    batch.block_offsets.push(batch.block_tables.len() as u32);
    batch.cu_q.push(batch.ids.len() as u32);
    batch.kv_len.push(kv_len as u32);
    batch.adapters.push(None);
    batch.samples.push(Sample {
        row: batch.ids.len().saturating_sub(1) as u32,
        params: Arc::clone(&draw.params),
        history: 0..draw.history,
        prompt_len: kv_len,
        draw: 0,
        surprise: 0.0,
        banned: None,
        mask: draw.mask.clone(),
    });
}

/// Appends a prompt of `len` tokens in blocks of its own.
fn push_prompt(batch: &mut Batch, len: usize, block_size: usize, draw: &Draw) {
    let first_block = batch.block_tables.len();
    for position in 0..len as u32 {
        batch.ids.push(0);
        batch.positions.push(position);
        batch.slots.push((first_block * block_size) as u32 + position);
        batch.rope_len.push(position + 1);
    }
    let blocks = first_block..first_block + len.div_ceil(block_size);
    batch.block_tables.extend(blocks.map(|block| block as u32));
    end_sequence(batch, len, draw);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_step_fills_every_limit_and_its_blocks_suffice() {
        for (tokens, seqs) in [(64, 16), (70, 16), (5, 16), (33, 1)] {
            let options = LoadOptions {
                threads: 1,
                block_size: 16,
                blocks: 0,
                max_step_tokens: tokens,
                max_seqs: seqs,
                max_seq_len: 128,
                kv_dtype: None,
                commit_cache: true,
            };
            let draw = Draw::greediest(&options, 100);
            let batch = prompts(&options, &draw);
            assert_eq!((batch.tokens(), batch.seqs()), (tokens, seqs.min(tokens)));
            assert_eq!(batch.samples.len(), batch.seqs());
            assert!(batch.block_tables.len() <= warm_up_blocks(&options));
            let mut slots = batch.slots.clone();
            slots.sort_unstable();
            slots.dedup();
            assert_eq!(slots.len(), tokens, "no two tokens share a slot");
            assert!(batch.samples.iter().zip(&batch.cu_q[1..]).all(|(sample, end)| sample.row + 1 == *end));
            let steps: Vec<Batch> = longest_steps(&options).collect();
            let counts: Vec<usize> = steps.iter().map(Batch::seqs).collect();
            assert_eq!((counts[0], counts[counts.len() - 1]), (seqs.min(tokens), 1));
            for step in &steps {
                let limit = (warm_up_blocks(&options) * options.block_size) as u32;
                let slots: std::collections::BTreeSet<u32> = step.slots.iter().copied().collect();
                assert!(slots.len() == step.seqs() && slots.iter().all(|slot| *slot < limit));
            }
        }
    }
}
