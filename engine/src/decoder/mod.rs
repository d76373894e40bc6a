//! The one decoder: every supported architecture on every device. What differs between architectures is data
//! ([`ModelSpec`]); what differs between devices is behind [`Backend`].

mod adapters;
mod weights;

use weirgate_kernels::{
    Activation, AllReduce, AttentionParams, Backend, HeadCounts, KernelError, KvShape, KvType, SampleRow,
    Sampled, StepInputs,
};
use weirgate_models::{Adapter, ModelSpec, Rope, TensorSource};
use weirgate_types::AdapterId;

use adapters::Adapters;
pub use weights::LoadError;
use weights::{Layer, Weights};
pub(crate) use weights::{Linear, weight_view};

use crate::{Batch, ExecutorError};

/// Sizes fixed at load; nothing is allocated afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecoderConfig {
    /// KV blocks and tokens per block.
    pub blocks: usize,
    pub block_size: usize,
    pub kv_dtype: KvType,
    /// Most tokens and sequences in one step.
    pub max_step_tokens: usize,
    pub max_seqs: usize,
    /// Longest sequence, in tokens.
    pub max_seq_len: usize,
    /// Rows of logits held at once; a step may ask for more, they are computed in turns.
    pub max_logit_rows: usize,
}

/// A model on a device, with its KV cache and the buffers of one step.
pub struct Decoder<B: Backend> {
    backend: B,
    spec: ModelSpec,
    config: DecoderConfig,
    weights: Weights<B>,
    ropes: Vec<RopeTable>,
    adapters: Adapters<B>,
    cache: B::KvCache,
    step: B::Step,
    buffers: Buffers<B>,
    /// The other shards, where this is one.
    group: Option<Box<dyn AllReduce>>,
}

/// A rotary table and the host copy of the current step's cosines and sines.
struct RopeTable {
    rope: Rope,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// Activations of one step: `T` tokens, `R` rows of logits.
struct Buffers<B: Backend> {
    /// `[T, hidden]` the residual stream.
    hidden: B::Buf,
    /// `[T, hidden]` what a block reads.
    normed: B::Buf,
    /// `[T, hidden]` what a block adds.
    delta: B::Buf,
    /// `[T, (heads + 2 kv_heads) * head_dim]`.
    qkv: B::Buf,
    /// `[T, heads * head_dim]`.
    attn: B::Buf,
    /// `[T, 2 * intermediate]`.
    gate_up: B::Buf,
    /// `[T, intermediate]`.
    gated: B::Buf,
    /// `[R, hidden]`, twice.
    last: B::Buf,
    last_normed: B::Buf,
    /// `[R, vocab]`.
    logits: B::Buf,
}

impl<B: Backend> Buffers<B> {
    fn new(backend: &B, spec: &ModelSpec, config: &DecoderConfig) -> Result<Self, LoadError> {
        let tokens = config.max_step_tokens;
        let rows = config.max_logit_rows;
        let alloc = |rows: usize, cols: usize| backend.buffer(rows * cols);
        Ok(Self {
            hidden: alloc(tokens, spec.hidden_size)?,
            normed: alloc(tokens, spec.hidden_size)?,
            delta: alloc(tokens, spec.hidden_size)?,
            qkv: alloc(tokens, (spec.heads + 2 * spec.kv_heads) * spec.head_dim)?,
            attn: alloc(tokens, spec.heads * spec.head_dim)?,
            gate_up: alloc(tokens, 2 * spec.intermediate_size)?,
            gated: alloc(tokens, spec.intermediate_size)?,
            last: alloc(rows, spec.hidden_size)?,
            last_normed: alloc(rows, spec.hidden_size)?,
            logits: alloc(rows, spec.vocab_size)?,
        })
    }
}

impl<B: Backend> Decoder<B> {
    /// Loads the weights and allocates the cache and all buffers.
    pub fn new(
        backend: B,
        spec: &ModelSpec,
        tensors: &dyn TensorSource,
        config: DecoderConfig,
    ) -> Result<Self, LoadError> {
        spec.check_tensors(tensors)?;
        let weights = Weights::load(&backend, spec, tensors)?;
        let cache = backend.kv_cache(kv_shape(spec, &config))?;
        let table_entries = config.max_seqs * config.max_seq_len.div_ceil(config.block_size);
        let step = backend.step_buffers(config.max_step_tokens, config.max_seqs, table_entries)?;
        let buffers = Buffers::new(&backend, spec, &config)?;
        let adapters = Adapters::new(&backend, spec)?;
        let ropes = spec
            .ropes
            .iter()
            .map(|rope| RopeTable { rope: Rope::new(rope), cos: Vec::new(), sin: Vec::new() })
            .collect();
        Ok(Self {
            backend,
            spec: spec.clone(),
            config,
            weights,
            ropes,
            adapters,
            cache,
            step,
            buffers,
            group: None,
        })
    }

    /// Makes this a shard: what its blocks give is added up with that of the other members of `group`, which take the
    /// same steps.
    pub fn join(&mut self, group: Box<dyn AllReduce>) {
        self.group = Some(group);
    }

    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// What the KV cache takes.
    pub fn cache_bytes(&self) -> usize {
        self.config.blocks * kv_shape(&self.spec, &self.config).bytes_per_block()
    }

    /// A new KV cache in place of the one there is, and no longer sequences than `max_seq_len`, which is at most what
    /// the decoder was made for.
    pub fn resize_cache(&mut self, blocks: usize, max_seq_len: usize) -> Result<(), LoadError> {
        // The old one goes first: there may be no room for both.
        self.cache = self.backend.kv_cache(KvShape { blocks: 1, ..kv_shape(&self.spec, &self.config) })?;
        self.config.blocks = blocks;
        self.config.max_seq_len = max_seq_len.min(self.config.max_seq_len);
        self.cache = self.backend.kv_cache(kv_shape(&self.spec, &self.config))?;
        Ok(())
    }

    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// See [`Backend::use_threads`].
    pub fn use_threads(&mut self, threads: usize) -> Result<(), ExecutorError> {
        Ok(self.backend.use_threads(threads)?)
    }

    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Brings an adapter onto the device, for batches that name it.
    ///
    /// # Errors
    /// What the device says; nothing has changed then.
    pub fn load_adapter(&mut self, id: AdapterId, adapter: &Adapter) -> Result<(), KernelError> {
        self.adapters.load(&mut self.backend, id, adapter)
    }

    /// Takes it off the device; no batch may name it any more.
    pub fn unload_adapter(&mut self, id: AdapterId) {
        self.adapters.unload(&mut self.backend, id);
    }

    /// Runs the batch's tokens through all layers: fills the KV cache and leaves the hidden states for
    /// [`Decoder::sample`], [`Decoder::score`] and [`Decoder::logits`].
    pub fn forward(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
        let result = self.all_layers(batch);
        if result.is_err()
            && let Some(group) = &mut self.group
        {
            group.leave();
        }
        result
    }

    fn all_layers(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
        if batch.tokens() > self.config.max_step_tokens || batch.seqs() > self.config.max_seqs {
            return Err(ExecutorError::Batch(format!(
                "{} tokens of {} sequences, the limits are {} and {}",
                batch.tokens(),
                batch.seqs(),
                self.config.max_step_tokens,
                self.config.max_seqs
            )));
        }
        self.backend.copy_blocks(&mut self.cache, &batch.block_copies)?;
        if batch.tokens() == 0 {
            return Ok(());
        }
        self.upload(batch)?;
        let rows = batch.tokens();
        self.backend.embed(
            &mut self.buffers.hidden,
            &self.weights.embedding,
            &self.step,
            self.spec.embedding_scale,
        )?;
        for layer in 0..self.weights.layers.len() {
            self.attention_block(layer, rows)?;
            self.feed_forward_block(layer, rows)?;
        }
        Ok(())
    }

    fn upload(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
        for table in &mut self.ropes {
            table.rope.fill(&batch.positions, &batch.rope_len, &mut table.cos, &mut table.sin);
        }
        let rope: Vec<(&[f32], &[f32])> =
            self.ropes.iter().map(|table| (table.cos.as_slice(), table.sin.as_slice())).collect();
        let inputs = StepInputs {
            ids: &batch.ids,
            positions: &batch.positions,
            slots: &batch.slots,
            cu_q: &batch.cu_q,
            kv_len: &batch.kv_len,
            block_tables: &batch.block_tables,
            block_offsets: &batch.block_offsets,
            rope: &rope,
            adapters: self.adapters.resolve(&batch.adapters)?,
        };
        Ok(self.backend.upload(&mut self.step, &inputs)?)
    }

    /// `hidden += post_norm(attention(norm(hidden)))`.
    fn attention_block(&mut self, index: usize, rows: usize) -> Result<(), ExecutorError> {
        let Self { backend, spec, weights, adapters, cache, step, buffers: b, group, .. } = self;
        let (Some(layer), Some(settings)) = (weights.layers.get(index), spec.layers.get(index)) else {
            return Err(ExecutorError::Batch(format!("no layer {index}")));
        };
        let adapted = adapters.layers.get(index).filter(|_| adapters.any());
        let heads = HeadCounts { q: spec.heads, kv: spec.kv_heads };
        let eps = spec.norm_eps;
        backend.rms_norm(&mut b.normed, &b.hidden, &layer.attn_norm, eps, rows)?;
        apply(backend, &mut b.qkv, &b.normed, &layer.qkv, rows)?;
        if let Some(adapted) = adapted {
            backend.add_low_rank(&mut b.qkv, &b.normed, &adapted.qkv, step)?;
        }
        if let Some((q, k)) = &layer.qk_norm {
            backend.norm_heads(&mut b.qkv, q, k, heads, eps, rows)?;
        }
        backend.rope_and_store(&mut b.qkv, cache, step, index, heads.q, settings.rope)?;
        let params = AttentionParams {
            heads: heads.q,
            scale: spec.attention_scale,
            softcap: spec.attention_softcap,
            window: settings.window,
        };
        backend.attention(&mut b.attn, &b.qkv, cache, step, index, &params)?;
        apply(backend, &mut b.delta, &b.attn, &layer.output, rows)?;
        if let Some(adapted) = adapted {
            backend.add_low_rank(&mut b.delta, &b.attn, &adapted.output, step)?;
        }
        if let Some(group) = group {
            backend.all_reduce(&mut b.delta, rows * spec.hidden_size, group.as_mut())?;
        }
        add_delta(backend, b, layer.post_attn_norm.as_ref(), spec, rows)
    }

    /// `hidden += post_norm(down(act(gate) * up))`.
    fn feed_forward_block(&mut self, index: usize, rows: usize) -> Result<(), ExecutorError> {
        let Self { backend, spec, weights, adapters, step, buffers: b, group, .. } = self;
        let Some(layer) = weights.layers.get(index) else {
            return Err(ExecutorError::Batch(format!("no layer {index}")));
        };
        let adapted = adapters.layers.get(index).filter(|_| adapters.any());
        let Layer { ffn_norm, gate_up, down, post_ffn_norm, .. } = layer;
        backend.rms_norm(&mut b.normed, &b.hidden, ffn_norm, spec.norm_eps, rows)?;
        apply(backend, &mut b.gate_up, &b.normed, gate_up, rows)?;
        if let Some(adapted) = adapted {
            backend.add_low_rank(&mut b.gate_up, &b.normed, &adapted.gate_up, step)?;
        }
        let act = activation(spec.activation);
        backend.gated(&mut b.gated, &b.gate_up, act, rows, spec.intermediate_size)?;
        apply(backend, &mut b.delta, &b.gated, down, rows)?;
        if let Some(adapted) = adapted {
            backend.add_low_rank(&mut b.delta, &b.gated, &adapted.down, step)?;
        }
        if let Some(group) = group {
            backend.all_reduce(&mut b.delta, rows * spec.hidden_size, group.as_mut())?;
        }
        add_delta(backend, b, post_ffn_norm.as_ref(), spec, rows)
    }

    /// Draws one token for each of `samples` (`(batch row, what to draw)`), appending to `out`.
    pub fn sample(
        &mut self,
        samples: &[(u32, SampleRow<'_>)],
        out: &mut Vec<Sampled>,
    ) -> Result<(), ExecutorError> {
        for tile in samples.chunks(self.config.max_logit_rows) {
            let rows: Vec<u32> = tile.iter().map(|(row, _)| *row).collect();
            let draws: Vec<SampleRow<'_>> = tile.iter().map(|(_, draw)| *draw).collect();
            self.fill_logits(&rows)?;
            self.backend.sample(&mut self.buffers.logits, self.spec.vocab_size, &draws, out)?;
        }
        Ok(())
    }

    /// Log-probability of each `(batch row, target)`, appending to `out`.
    pub fn score(&mut self, scores: &[(u32, u32)], out: &mut Vec<f32>) -> Result<(), ExecutorError> {
        for tile in scores.chunks(self.config.max_logit_rows) {
            let (rows, targets): (Vec<u32>, Vec<u32>) = tile.iter().copied().unzip();
            self.fill_logits(&rows)?;
            self.backend.score(&self.buffers.logits, self.spec.vocab_size, &targets, out)?;
        }
        Ok(())
    }

    /// The logits after `rows` of the last batch, `[rows.len(), vocab]`, appended to `out`.
    pub fn logits(&mut self, rows: &[u32], out: &mut Vec<f32>) -> Result<(), ExecutorError> {
        for tile in rows.chunks(self.config.max_logit_rows) {
            self.fill_logits(tile)?;
            let start = out.len();
            out.resize(start + tile.len() * self.spec.vocab_size, 0.0);
            self.backend.download(&self.buffers.logits, out.get_mut(start..).unwrap_or_default())?;
        }
        Ok(())
    }

    /// The last hidden states after `rows` of the last batch, normalised, `[rows.len(), hidden]`, appended to `out`.
    pub fn hidden(&mut self, rows: &[u32], out: &mut Vec<f32>) -> Result<(), ExecutorError> {
        let Self { backend, spec, weights, buffers: b, .. } = self;
        for tile in rows.chunks(self.config.max_logit_rows) {
            backend.gather_rows(&mut b.last, &b.hidden, tile, spec.hidden_size)?;
            backend.rms_norm(&mut b.last_normed, &b.last, &weights.final_norm, spec.norm_eps, tile.len())?;
            let start = out.len();
            out.resize(start + tile.len() * spec.hidden_size, 0.0);
            backend.download(&b.last_normed, out.get_mut(start..).unwrap_or_default())?;
        }
        Ok(())
    }

    /// Head of the model for up to `max_logit_rows` rows, into `buffers.logits`.
    fn fill_logits(&mut self, rows: &[u32]) -> Result<(), ExecutorError> {
        let Self { backend, spec, weights, buffers: b, .. } = self;
        backend.gather_rows(&mut b.last, &b.hidden, rows, spec.hidden_size)?;
        backend.rms_norm(&mut b.last_normed, &b.last, &weights.final_norm, spec.norm_eps, rows.len())?;
        let head = weights.head.as_ref().unwrap_or(&weights.embedding);
        backend.linear(&mut b.logits, &b.last_normed, head, None, rows.len())?;
        if let Some(cap) = spec.logit_softcap {
            backend.softcap(&mut b.logits, cap, rows.len() * spec.vocab_size)?;
        }
        Ok(())
    }
}

fn kv_shape(spec: &ModelSpec, config: &DecoderConfig) -> KvShape {
    KvShape {
        layers: spec.layers.len(),
        blocks: config.blocks,
        block_size: config.block_size,
        kv_heads: spec.kv_heads,
        head_dim: spec.head_dim,
        dtype: config.kv_dtype,
    }
}

fn apply<B: Backend>(
    backend: &mut B,
    out: &mut B::Buf,
    x: &B::Buf,
    linear: &Linear<B>,
    rows: usize,
) -> Result<(), ExecutorError> {
    Ok(backend.linear(out, x, &linear.weight, linear.bias.as_ref(), rows)?)
}

/// `hidden += delta`, through the post norm where the architecture has one.
fn add_delta<B: Backend>(
    backend: &mut B,
    b: &mut Buffers<B>,
    post_norm: Option<&B::Buf>,
    spec: &ModelSpec,
    rows: usize,
) -> Result<(), ExecutorError> {
    let len = rows * spec.hidden_size;
    match post_norm {
        Some(weight) => {
            backend.rms_norm(&mut b.normed, &b.delta, weight, spec.norm_eps, rows)?;
            Ok(backend.add(&mut b.hidden, &b.normed, len)?)
        }
        None => Ok(backend.add(&mut b.hidden, &b.delta, len)?),
    }
}

pub(crate) fn activation(activation: weirgate_models::Activation) -> Activation {
    match activation {
        weirgate_models::Activation::Silu => Activation::Silu,
        weirgate_models::Activation::Gelu => Activation::Gelu,
        weirgate_models::Activation::GeluTanh => Activation::GeluTanh,
        weirgate_models::Activation::Relu => Activation::Relu,
        weirgate_models::Activation::Tanh => Activation::Tanh,
    }
}
