//! The one decoder: every supported architecture on every device. What differs between architectures is data
//! ([`ModelSpec`]); what differs between devices is behind [`Backend`].

mod adapters;
mod layers;
mod rotary;
mod weights;

use std::borrow::Cow;
use std::time::Instant;

use weirgate_kernels::{
    Activation, AllReduce, Backend, KernelError, KvShape, KvType, SampleRow, Sampled, StepInputs,
};
use weirgate_models::{Adapter, ModelSpec, TensorSource};
use weirgate_types::AdapterId;

use adapters::Adapters;
use layers::Layers;
use rotary::RotaryTable;
pub use weights::LoadError;
use weights::Weights;
pub(crate) use weights::{Linear, weight_view};

use crate::{Batch, ExecutorError};

/// The last layer leaves rows out that nobody wants where there are at least so many: in prompts. Steps of few tokens are
/// computed whole, as devices may have recorded them.
pub(crate) const LEAST_SPARED: usize = 16;

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
    ropes: Vec<RotaryTable>,
    adapters: Adapters<B>,
    cache: B::KvCache,
    step: B::Step,
    buffers: Buffers<B>,
    /// Blocks of the cache behind those that sequences may have, for the rows that steps are padded with.
    spare_blocks: usize,
    padded: Batch,
    /// The rows of the last step that `buffers.hidden` has, back to back, where it has not all of them.
    kept: Option<Vec<u32>>,
    /// When the device got its first work of the last step.
    begun: Option<Instant>,
    /// The other shards, where this is one.
    group: Option<Box<dyn AllReduce>>,
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
        let padding = backend.most_padding();
        let spare_blocks = padding.div_ceil(config.block_size.max(1));
        let cache = backend.kv_cache(kv_shape(spec, &config, spare_blocks))?;
        let table_entries = config.max_seqs * config.max_seq_len.div_ceil(config.block_size);
        let (seqs, entries) = (config.max_seqs + padding, table_entries + padding);
        let step = backend.step_buffers(config.max_step_tokens, seqs, entries)?;
        let buffers = Buffers::new(&backend, spec, &config)?;
        let adapters = Adapters::new(&backend, spec, config.max_step_tokens)?;
        let ropes = spec.ropes.iter().map(RotaryTable::new).collect();
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
            spare_blocks,
            padded: Batch::default(),
            kept: None,
            begun: None,
            group: None,
        })
    }

    /// Makes this a shard: what its blocks give is added up with that of the other members of `group`, which take the
    /// same steps.
    pub fn join(&mut self, group: Box<dyn AllReduce>) {
        // What was recorded so far has no sums in it.
        self.backend.forget();
        self.group = Some(group);
    }

    /// As a shard, it will not come to the others' sums again: they get an error instead of waiting.
    pub fn leave(&mut self) {
        if let Some(group) = &mut self.group {
            group.leave();
        }
    }

    /// Waits for everything that the device was asked for; reports what went wrong in it.
    pub fn finish(&mut self) -> Result<(), ExecutorError> {
        Ok(self.backend.finish()?)
    }

    pub fn backend(&self) -> &B {
        &self.backend
    }

    pub fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }

    /// What the KV cache takes.
    pub fn cache_bytes(&self) -> usize {
        let shape = kv_shape(&self.spec, &self.config, self.spare_blocks);
        shape.blocks * shape.bytes_per_block()
    }

    /// A new KV cache in place of the one there is, and no longer sequences than `max_seq_len`, which is at most what
    /// the decoder was made for.
    pub fn resize_cache(&mut self, blocks: usize, max_seq_len: usize) -> Result<(), KernelError> {
        // The old one goes first: there may be no room for both.
        let none = KvShape { blocks: 1, ..kv_shape(&self.spec, &self.config, 0) };
        self.cache = self.backend.kv_cache(none)?;
        self.config.blocks = blocks;
        self.config.max_seq_len = max_seq_len.min(self.config.max_seq_len);
        self.cache = self.backend.kv_cache(kv_shape(&self.spec, &self.config, self.spare_blocks))?;
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

    /// Runs the batch's tokens through all layers: fills the KV cache and leaves the hidden states that the batch wants for
    /// [`Decoder::draw`], [`Decoder::score`], [`Decoder::logits`] and [`Decoder::hidden`].
    pub fn forward(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
        let result = self.all_layers(batch);
        if result.is_err() {
            self.leave();
        }
        result
    }

    /// Where sums are among the devices, the shards meet before each step: none replays one after another has left, and all
    /// replay it, or all launch or record it, since devices may make other sums when they record.
    fn agree(&mut self) -> Result<(), ExecutorError> {
        let Self { backend, step, group, .. } = self;
        if let Some(group) = group
            && group.on_devices().is_some()
        {
            let mut stale = [f32::from(u8::from(backend.is_stale(step)))];
            group.sum(&mut stale)?;
            if stale != [0.0] {
                backend.forget();
            }
        }
        Ok(())
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
        self.kept = None;
        self.backend.copy_blocks(&mut self.cache, &batch.block_copies)?;
        if batch.tokens() == 0 {
            return Ok(());
        }
        let rows = self.upload(batch)?;
        self.agree()?;
        let few = |wanted: &&Vec<u32>| wanted.len() + LEAST_SPARED <= batch.tokens();
        self.kept = batch.wanted.as_ref().filter(few).filter(|_| !self.adapters.any()).cloned();
        self.begun = Some(Instant::now());
        let Self { backend, spec, weights, adapters, cache, step, buffers, group, kept, .. } = self;
        let step = &*step;
        // Where shards add up on the host, that is no work for a device to record; nor is what depends on the rows wanted.
        let on_devices = group.as_mut().is_none_or(|group| group.on_devices().is_some());
        let recordable = on_devices && kept.is_none();
        let mut layers = Layers { spec, weights, adapters, cache, step, buffers, group };
        if !recordable {
            return layers.run(backend, rows, kept.as_deref());
        }
        backend.repeated(step, |backend| layers.run(backend, rows, None))
    }

    /// When the device got its first work of the last step; `None` before the first.
    pub fn begun(&self) -> Option<Instant> {
        self.begun
    }

    /// Brings a step's inputs to the device, padded as it likes; how many rows there are now.
    fn upload(&mut self, batch: &Batch) -> Result<usize, ExecutorError> {
        let rows = self.backend.padded_rows(&batch.cu_q);
        let mut batch = batch;
        if rows > batch.tokens() && rows <= self.config.max_step_tokens {
            self.padded.copy_inputs(batch);
            self.padded.pad(rows, self.config.blocks, self.config.block_size);
            batch = &self.padded;
        }
        for table in &mut self.ropes {
            table.fill(&batch.positions, &batch.rope_len);
        }
        let rope: Vec<(&[f32], &[f32])> =
            self.ropes.iter().map(|table| (&*table.step.cos, &*table.step.sin)).collect();
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
        self.backend.upload(&mut self.step, &inputs)?;
        Ok(batch.tokens())
    }

    /// Has one token drawn for each of `samples` (`(batch row, what to draw)`); [`Decoder::collect`] has them.
    pub fn draw(&mut self, samples: &[(u32, SampleRow<'_>)]) -> Result<(), ExecutorError> {
        for tile in samples.chunks(self.config.max_logit_rows) {
            let rows: Vec<u32> = tile.iter().map(|(row, _)| *row).collect();
            let draws: Vec<SampleRow<'_>> = tile.iter().map(|(_, draw)| *draw).collect();
            self.fill_logits(&rows)?;
            self.backend.draw(&mut self.buffers.logits, self.spec.vocab_size, &draws)?;
        }
        Ok(())
    }

    /// Has the log-probability of each `(batch row, target)` taken; [`Decoder::collect`] has them.
    pub fn score(&mut self, scores: &[(u32, u32)]) -> Result<(), ExecutorError> {
        for tile in scores.chunks(self.config.max_logit_rows) {
            let (rows, targets): (Vec<u32>, Vec<u32>) = tile.iter().copied().unzip();
            self.fill_logits(&rows)?;
            self.backend.score(&self.buffers.logits, self.spec.vocab_size, &targets)?;
        }
        Ok(())
    }

    /// Waits, once, for the tokens drawn and the log-probabilities taken since the last call, and appends them.
    pub fn collect(&mut self, drawn: &mut Vec<Sampled>, scores: &mut Vec<f32>) -> Result<(), ExecutorError> {
        Ok(self.backend.collect(drawn, scores)?)
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
        let Self { backend, spec, weights, buffers: b, kept, .. } = self;
        for tile in rows.chunks(self.config.max_logit_rows) {
            let places = places(kept.as_deref(), tile)?;
            backend.gather_rows(&mut b.last, &b.hidden, &places, spec.hidden_size)?;
            backend.rms_norm(&mut b.last_normed, &b.last, &weights.final_norm, spec.norm_eps, tile.len())?;
            let start = out.len();
            out.resize(start + tile.len() * spec.hidden_size, 0.0);
            backend.download(&b.last_normed, out.get_mut(start..).unwrap_or_default())?;
        }
        Ok(())
    }

    /// Head of the model for up to `max_logit_rows` rows, into `buffers.logits`.
    fn fill_logits(&mut self, rows: &[u32]) -> Result<(), ExecutorError> {
        let Self { backend, spec, weights, buffers: b, kept, .. } = self;
        let places = places(kept.as_deref(), rows)?;
        backend.gather_rows(&mut b.last, &b.hidden, &places, spec.hidden_size)?;
        backend.rms_norm(&mut b.last_normed, &b.last, &weights.final_norm, spec.norm_eps, rows.len())?;
        let head = weights.head.as_ref().unwrap_or(&weights.embedding);
        backend.linear(&mut b.logits, &b.last_normed, head, None, rows.len())?;
        if let Some(cap) = spec.logit_softcap {
            backend.softcap(&mut b.logits, cap, rows.len() * spec.vocab_size)?;
        }
        Ok(())
    }
}

impl<B: Backend> Drop for Decoder<B> {
    /// A shard that panicked leaves before its memory goes, for which its device must not wait for the others any more.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.leave();
        }
    }
}

/// Where the hidden states of a batch's `rows` are, of which `kept` are left.
///
/// # Errors
/// A row that the batch did not want.
fn places<'a>(kept: Option<&[u32]>, rows: &'a [u32]) -> Result<Cow<'a, [u32]>, ExecutorError> {
    let Some(kept) = kept else { return Ok(Cow::Borrowed(rows)) };
    let place = |row: &u32| match kept.binary_search(row) {
        Ok(place) => Ok(place as u32),
        Err(_) => Err(ExecutorError::Batch(format!("the result of row {row}, which it did not want"))),
    };
    rows.iter().map(place).collect::<Result<_, _>>().map(Cow::Owned)
}

/// Of the cache with `spare` blocks that no sequence may have.
fn kv_shape(spec: &ModelSpec, config: &DecoderConfig, spare: usize) -> KvShape {
    KvShape {
        layers: spec.layers.len(),
        blocks: config.blocks + spare,
        block_size: config.block_size,
        kv_heads: spec.kv_heads,
        head_dim: spec.head_dim,
        dtype: config.kv_dtype,
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
