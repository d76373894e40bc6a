use crate::{AllReduce, KernelError, KvType, SampleRow, Sampled, ScaledRowsView, WeightView};

type Result<T> = std::result::Result<T, KernelError>;

/// The inputs of one forward step, flat, as they cross to the device. `T` tokens of `S` sequences lie back to back.
#[derive(Debug, Clone, Copy)]
pub struct StepInputs<'a> {
    /// `[T]` token ids.
    pub ids: &'a [u32],
    /// `[T]` position of each token in its sequence.
    pub positions: &'a [u32],
    /// `[T]` where each token's key and value go: `block * block_size + offset`.
    pub slots: &'a [u32],
    /// `[S + 1]` tokens of sequence `s` are `cu_q[s]..cu_q[s + 1]`; never empty for any `s`. They are its last
    /// tokens: their positions are consecutive and end at `kv_len[s] - 1`.
    pub cu_q: &'a [u32],
    /// `[S]` tokens in the KV cache, those of this step included.
    pub kv_len: &'a [u32],
    /// Block tables, back to back; sequence `s` has `block_offsets[s]..block_offsets[s + 1]`.
    pub block_tables: &'a [u32],
    /// `[S + 1]`.
    pub block_offsets: &'a [u32],
    /// One `(cos, sin)` pair per rotary table of the model, each `[T, rotary_dim / 2]`, already scaled.
    pub rope: &'a [(&'a [f32], &'a [f32])],
    /// `[S]` the slot of each sequence's adapter; [`NO_ADAPTER`] where it has none.
    pub adapters: &'a [u32],
}

/// The slot of a sequence without an adapter.
pub const NO_ADAPTER: u32 = u32::MAX;

/// What an adapter adds to some rows of a matrix: `scale · b · a`.
#[derive(Debug, Clone, Copy)]
pub struct LowRankView<'a> {
    /// The first of the rows; there are as many as `b` has.
    pub first: usize,
    pub scale: f32,
    /// `[rank, cols]`, of floats.
    pub a: WeightView<'a>,
    /// `[rows, rank]`, of floats.
    pub b: WeightView<'a>,
}

/// Shape of a paged KV cache. Keys and values of one layer are each `[blocks, kv_heads, block_size, head_dim]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    pub layers: usize,
    pub blocks: usize,
    pub block_size: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub dtype: KvType,
}

impl KvShape {
    /// Bytes of one block over all layers, keys and values together.
    pub const fn bytes_per_block(&self) -> usize {
        let per_head = self.head_dim * self.dtype.size() + self.dtype.scale_size();
        2 * self.layers * self.kv_heads * self.block_size * per_head
    }
}

/// How many heads the queries, and how many the keys and values each have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadCounts {
    pub q: usize,
    pub kv: usize,
}

/// Per-layer attention settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionParams {
    /// Query heads; a multiple of the cache's `kv_heads`.
    pub heads: usize,
    /// Multiplies `q · k`.
    pub scale: f32,
    /// `cap * tanh(score / cap)` before the softmax (Gemma 2).
    pub softcap: Option<f32>,
    /// A query at position `i` sees keys at positions `j` with `i - j < window`.
    pub window: Option<u32>,
}

/// The non-linearity of a feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    Silu,
    /// `0.5 x (1 + erf(x / √2))`.
    Gelu,
    /// The tanh approximation.
    GeluTanh,
    Relu,
    Tanh,
}

/// A device. Everything it needs is allocated through it before serving; ops take out-parameters and work on the
/// first `rows` rows of row-major buffers, whose row width the op knows from its other arguments.
///
/// Batch invariance is part of the contract: a row's result is bit-identical whatever other rows are in the step,
/// however a prompt is cut into chunks, and however many threads run.
pub trait Backend: Send + 'static {
    /// Activations and parameters, in the device's activation type.
    type Buf: Send;
    /// A weight matrix `[rows, cols]` in whatever layout the device likes.
    type Matrix: Send;
    /// The paged keys and values of all layers.
    type KvCache: Send;
    /// One step's [`StepInputs`] on the device.
    type Step: Send;
    /// What adapters add to one matrix, by slot.
    type LowRanks: Send;

    /// Whether ops return before they are done, but for those that give something back.
    fn is_asynchronous(&self) -> bool {
        false
    }

    /// Computes with `threads` threads from now on, where the device computes with threads of this process. Those that
    /// are started have the priority of the caller.
    fn use_threads(&mut self, _threads: usize) -> Result<()> {
        Ok(())
    }

    /// A zeroed activation buffer of `len` elements.
    fn buffer(&self, len: usize) -> Result<Self::Buf>;
    /// A parameter vector (norm weights, biases).
    fn vector(&self, values: &[f32]) -> Result<Self::Buf>;
    /// One matrix from parts stacked by rows (query, key, value; gate, up). All parts have the same `cols`.
    fn matrix(&self, parts: &[WeightView<'_>]) -> Result<Self::Matrix>;
    /// The same of E4M3 numbers with scales, for [`Backend::linear`] alone; `None`: the device has no products with these, and
    /// wants floats. Where a product has many rows, the device may round activations to E4M3, too: each row divided by what
    /// makes its largest magnitude 448.
    fn scaled_matrix(&self, _parts: &[ScaledRowsView<'_>]) -> Result<Option<Self::Matrix>> {
        Ok(None)
    }
    fn kv_cache(&self, shape: KvShape) -> Result<Self::KvCache>;
    /// Room for the inputs of a step of up to `tokens` tokens, `seqs` sequences and `blocks` block-table entries.
    fn step_buffers(&self, tokens: usize, seqs: usize, blocks: usize) -> Result<Self::Step>;

    /// No adapter's additions yet to a matrix of `rows` rows and `cols` columns, in steps of up to `tokens` tokens.
    fn low_ranks(&self, rows: usize, cols: usize, tokens: usize) -> Result<Self::LowRanks>;
    /// Replaces what the adapter in slot `slot` adds by `parts`, which are in the order of their rows and share none; no
    /// parts: nothing. Takes all memory that steps need for it. What fails changes nothing.
    fn set_low_rank(
        &mut self,
        changes: &mut Self::LowRanks,
        slot: usize,
        parts: &[LowRankView<'_>],
    ) -> Result<()>;

    /// Brings one step's inputs to the device.
    fn upload(&mut self, step: &mut Self::Step, inputs: &StepInputs<'_>) -> Result<()>;
    /// To how many rows the device wants a step padded whose sequences have their tokens at `cu_q` (as in
    /// [`StepInputs`]); at least as many as there are.
    fn padded_rows(&self, cu_q: &[u32]) -> usize {
        cu_q.last().map_or(0, |&rows| rows as usize)
    }
    /// Most rows that [`Backend::padded_rows`] adds to a step.
    fn most_padding(&self) -> usize {
        0
    }
    /// Does `work`, which asks for the same ops on the same buffers each time, with as many rows as `step` has tokens: so
    /// a device may record what it asks for once, and do that again without asking.
    ///
    /// # Errors
    /// What the work says, or the device.
    fn repeated<E: From<KernelError>>(
        &mut self,
        _step: &Self::Step,
        mut work: impl FnMut(&mut Self) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        work(self)
    }
    /// Whether work was recorded for steps like `step` that cannot be repeated any more.
    fn is_stale(&self, _step: &Self::Step) -> bool {
        false
    }
    /// Nothing that was recorded is repeated any more.
    fn forget(&mut self) {}
    /// Waits for everything asked for so far; reports what went wrong in it.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
    /// Copies whole blocks `(from, to)` in every layer, in order.
    fn copy_blocks(&mut self, cache: &mut Self::KvCache, pairs: &[(u32, u32)]) -> Result<()>;

    /// `out[t] = table[ids[t]] * scale`; `table` is `[vocab, hidden]`, `out` `[T, hidden]`.
    fn embed(
        &mut self,
        out: &mut Self::Buf,
        table: &Self::Matrix,
        step: &Self::Step,
        scale: f32,
    ) -> Result<()>;
    /// `out = x / rms(x) * weight` over the last dimension, whose size is `weight`'s. `out`, `x`: `[rows, cols]`.
    /// Sums are taken in f32. (Gemma's `1 + w` is folded into `weight` at load.)
    fn rms_norm(
        &mut self,
        out: &mut Self::Buf,
        x: &Self::Buf,
        weight: &Self::Buf,
        eps: f32,
        rows: usize,
    ) -> Result<()>;
    /// The first `len` elements become their sums over all members of `group`; waits for them.
    fn all_reduce(&mut self, x: &mut Self::Buf, len: usize, group: &mut dyn AllReduce) -> Result<()>;
    /// `acc += x` over `len` elements.
    fn add(&mut self, acc: &mut Self::Buf, x: &Self::Buf, len: usize) -> Result<()>;
    /// `out = x · wᵀ (+ bias)`; `x` `[rows, w.cols]`, `out` `[rows, w.rows]`, `bias` `[w.rows]`.
    fn linear(
        &mut self,
        out: &mut Self::Buf,
        x: &Self::Buf,
        w: &Self::Matrix,
        bias: Option<&Self::Buf>,
        rows: usize,
    ) -> Result<()>;
    /// `out[t] += scale · b · (a · x[t])` for each part of what the adapter of token `t`'s sequence adds to the matrix
    /// behind `changes`; nothing where it has none. `x` `[T, cols]`, `out` `[T, rows]`, both of that matrix.
    fn add_low_rank(
        &mut self,
        out: &mut Self::Buf,
        x: &Self::Buf,
        changes: &Self::LowRanks,
        step: &Self::Step,
    ) -> Result<()>;
    /// RMSNorm of each head in place, for the query heads with `q_weight` and the key heads with `k_weight`
    /// (`[head_dim]` each), in `qkv` `[T, (q + 2 kv) * head_dim]`.
    fn norm_heads(
        &mut self,
        qkv: &mut Self::Buf,
        q_weight: &Self::Buf,
        k_weight: &Self::Buf,
        heads: HeadCounts,
        eps: f32,
        rows: usize,
    ) -> Result<()>;
    /// Rotates the first `rotary_dim` elements of every query and key head (halves convention: element `i` pairs
    /// with `i + rotary_dim / 2`) with rotary table `rope`, in place, then writes keys and values of `layer` into
    /// the cache at the step's slots. `qkv` as in [`Backend::norm_heads`].
    fn rope_and_store(
        &mut self,
        qkv: &mut Self::Buf,
        cache: &mut Self::KvCache,
        step: &Self::Step,
        layer: usize,
        heads: usize,
        rope: usize,
    ) -> Result<()>;
    /// Causal attention of the step's queries over the cache. `out` `[T, heads * head_dim]`.
    fn attention(
        &mut self,
        out: &mut Self::Buf,
        qkv: &Self::Buf,
        cache: &Self::KvCache,
        step: &Self::Step,
        layer: usize,
        params: &AttentionParams,
    ) -> Result<()>;
    /// `out = act(gate) * up`; `gate_up` `[rows, 2 * width]` (gate first), `out` `[rows, width]`.
    fn gated(
        &mut self,
        out: &mut Self::Buf,
        gate_up: &Self::Buf,
        act: Activation,
        rows: usize,
        width: usize,
    ) -> Result<()>;
    /// `out[i] = x[rows[i]]`, rows of `cols` elements.
    fn gather_rows(&mut self, out: &mut Self::Buf, x: &Self::Buf, rows: &[u32], cols: usize) -> Result<()>;
    /// `x = cap * tanh(x / cap)` over `len` elements.
    fn softcap(&mut self, x: &mut Self::Buf, cap: f32, len: usize) -> Result<()>;

    /// Draws one token per row from `logits` `[rows.len(), vocab]`, which it may overwrite; [`Backend::collect`] has them.
    /// The device may still be at it when this returns, and the logits may be used for something else all the same.
    fn draw(&mut self, logits: &mut Self::Buf, vocab: usize, rows: &[SampleRow<'_>]) -> Result<()>;
    /// Has the log-probability of `targets[r]` under the plain softmax of row `r` taken; [`Backend::collect`] has them, and as
    /// to waiting and the logits it is as with [`Backend::draw`].
    fn score(&mut self, logits: &Self::Buf, vocab: usize, targets: &[u32]) -> Result<()>;
    /// Waits, once, for all that was drawn and scored since the last call, and appends it, in order.
    fn collect(&mut self, drawn: &mut Vec<Sampled>, scores: &mut Vec<f32>) -> Result<()>;
    /// Draws, and appends what was drawn to `out`; what was scored before is dropped.
    fn sample(
        &mut self,
        logits: &mut Self::Buf,
        vocab: usize,
        rows: &[SampleRow<'_>],
        out: &mut Vec<Sampled>,
    ) -> Result<()> {
        self.draw(logits, vocab, rows)?;
        self.collect(out, &mut Vec::new())
    }
    /// Copies the first `out.len()` elements back to the host.
    fn download(&self, buf: &Self::Buf, out: &mut [f32]) -> Result<()>;
}
