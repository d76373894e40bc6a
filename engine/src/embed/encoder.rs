//! The one encoder: every supported family on every device. What differs between families is data ([`EncoderSpec`]).

use weirgate_kernels::{
    Activation, BidirectionalParams, EmbeddingTables, EncoderBackend, PackedInputs, PackedLimits, PoolingKind,
};
use weirgate_models::{EncoderSpec, Rope, TensorSource};

use super::weights::{Layer, Weights};
use super::{EmbedInput, EmbedLimits, EmbedOptions, Embedder, pooling_kind};
use crate::ExecutorError;
use crate::decoder::{Linear, LoadError, activation};

/// An encoder on a device, with the buffers of one step.
pub(super) struct Encoder<B: EncoderBackend> {
    backend: B,
    spec: EncoderSpec,
    weights: Weights<B>,
    pooling: PoolingKind,
    limits: EmbedLimits,
    packed: B::Packed,
    host: HostStep,
    buffers: Buffers<B>,
}

/// A step's inputs as they are gathered.
#[derive(Default)]
struct HostStep {
    ids: Vec<u32>,
    positions: Vec<u32>,
    /// Rows of the position table.
    table_rows: Vec<u32>,
    types: Vec<u32>,
    cu: Vec<u32>,
    /// Zero for every token: no table here depends on a sequence's length.
    rope_len: Vec<u32>,
    ropes: Vec<(Rope, Vec<f32>, Vec<f32>)>,
}

/// Activations of one step: `T` tokens, `S` texts.
struct Buffers<B: EncoderBackend> {
    /// `[T, hidden]` the residual stream, and where norms come first, what a block reads.
    hidden: B::Buf,
    normed: B::Buf,
    /// `[T, hidden]` what a block adds.
    delta: B::Buf,
    /// `[T, 3 * heads * head_dim]`.
    qkv: B::Buf,
    /// `[T, heads * head_dim]`.
    attn: B::Buf,
    /// `[T, 2 * intermediate]`, where the feed-forward block is gated.
    gate_up: B::Buf,
    /// `[T, intermediate]`.
    inner: B::Buf,
    /// `[S, hidden]`, and twice for a head.
    pooled: B::Buf,
    dense: B::Buf,
    normed_dense: B::Buf,
    /// `[S, labels]`.
    scores: B::Buf,
}

impl<B: EncoderBackend> Buffers<B> {
    fn new(backend: &B, spec: &EncoderSpec, limits: &EmbedLimits) -> Result<Self, LoadError> {
        let (tokens, seqs) = (limits.max_step_tokens, limits.max_seqs);
        let only = |wanted: bool, rows: usize| if wanted { rows } else { 0 };
        let head = only(spec.classifier.is_some(), seqs);
        let labels = spec.classifier.as_ref().map_or(0, |classifier| classifier.labels);
        let alloc = |rows: usize, cols: usize| backend.buffer(rows * cols);
        Ok(Self {
            hidden: alloc(tokens, spec.hidden_size)?,
            normed: alloc(only(spec.pre_norm, tokens), spec.hidden_size)?,
            delta: alloc(tokens, spec.hidden_size)?,
            qkv: alloc(tokens, 3 * spec.heads * spec.head_dim)?,
            attn: alloc(tokens, spec.heads * spec.head_dim)?,
            gate_up: alloc(only(spec.gated, tokens), 2 * spec.intermediate_size)?,
            inner: alloc(tokens, spec.intermediate_size)?,
            pooled: alloc(seqs, spec.hidden_size)?,
            dense: alloc(head, spec.hidden_size)?,
            normed_dense: alloc(head, spec.hidden_size)?,
            scores: alloc(head, labels)?,
        })
    }
}

impl HostStep {
    fn fill(&mut self, spec: &EncoderSpec, texts: &[EmbedInput]) {
        for list in [
            &mut self.ids,
            &mut self.positions,
            &mut self.table_rows,
            &mut self.types,
            &mut self.cu,
            &mut self.rope_len,
        ] {
            list.clear();
        }
        self.cu.push(0);
        for text in texts {
            self.ids.extend(&text.tokens);
            let positions = 0..text.tokens.len() as u32;
            self.positions.extend(positions.clone());
            self.table_rows.extend(positions.map(|position| position + spec.first_position as u32));
            let kind = |at: usize| text.types.get(at).copied().unwrap_or_default();
            // A model of one token type takes pairs all the same.
            let known = |kind: u32| if (kind as usize) < spec.token_types { kind } else { 0 };
            self.types.extend((0..text.tokens.len()).map(|at| known(kind(at))));
            self.cu.push(self.ids.len() as u32);
        }
        self.rope_len.resize(self.ids.len(), 0);
        for (rope, cos, sin) in &mut self.ropes {
            rope.fill(&self.positions, &self.rope_len, cos, sin);
        }
    }
}

impl<B: EncoderBackend> Encoder<B> {
    /// Loads the weights and allocates all buffers.
    pub fn new(
        mut backend: B,
        spec: &EncoderSpec,
        tensors: &dyn TensorSource,
        options: &EmbedOptions,
    ) -> Result<Self, LoadError> {
        spec.check_tensors(tensors)?;
        let max_tokens = options.max_tokens.clamp(1, spec.max_tokens);
        let classifier = spec.classifier.as_ref();
        let limits = EmbedLimits {
            vocab_size: spec.vocab_size,
            max_tokens,
            max_step_tokens: options.max_step_tokens.max(max_tokens),
            max_seqs: options.max_seqs.max(1),
            dimensions: classifier.map_or(spec.hidden_size, |classifier| classifier.labels),
        };
        let weights = Weights::load(&backend, spec, tensors, max_tokens)?;
        let packed = backend.packed(PackedLimits {
            tokens: limits.max_step_tokens,
            seqs: limits.max_seqs,
            seq_len: max_tokens,
            head_dim: spec.head_dim,
        })?;
        let buffers = Buffers::new(&backend, spec, &limits)?;
        let ropes = spec.ropes.iter().map(|rope| (Rope::new(rope), Vec::new(), Vec::new())).collect();
        let host = HostStep { ropes, ..HostStep::default() };
        let pooling = pooling_kind(classifier.map_or(options.pooling, |classifier| classifier.pooling));
        Ok(Self { backend, spec: spec.clone(), weights, pooling, limits, packed, host, buffers })
    }

    fn upload(&mut self, texts: &[EmbedInput]) -> Result<(), ExecutorError> {
        let host = &mut self.host;
        host.fill(&self.spec, texts);
        let rope: Vec<(&[f32], &[f32])> =
            host.ropes.iter().map(|(_, cos, sin)| (cos.as_slice(), sin.as_slice())).collect();
        let inputs = PackedInputs {
            ids: &host.ids,
            positions: &host.table_rows,
            types: &host.types,
            cu: &host.cu,
            rope: &rope,
        };
        Ok(self.backend.pack(&mut self.packed, &inputs)?)
    }

    /// `hidden = norm(hidden + attention(hidden))`, or with the norm first.
    fn attention_block(&mut self, index: usize, rows: usize) -> Result<(), ExecutorError> {
        let Self { backend, spec, weights, packed, buffers: b, .. } = self;
        let (Some(layer), Some(settings)) = (weights.layers.get(index), spec.layers.get(index)) else {
            return Err(ExecutorError::Batch(format!("no layer {index}")));
        };
        let norm = layer.attn_norm.as_ref();
        match norm.filter(|_| spec.pre_norm) {
            Some(norm) => {
                backend.layer_norm(&mut b.normed, &b.hidden, &norm.params(), rows)?;
                linear(backend, &mut b.qkv, &b.normed, &layer.qkv, None, rows)?;
            }
            None => linear(backend, &mut b.qkv, &b.hidden, &layer.qkv, None, rows)?,
        }
        if let Some(rope) = settings.rope {
            backend.rotate(&mut b.qkv, packed, spec.heads, spec.head_dim, rope)?;
        }
        let params = BidirectionalParams {
            heads: spec.heads,
            head_dim: spec.head_dim,
            scale: spec.attention_scale,
            window: settings.window,
            bias: weights.bias.as_ref().map(|bias| bias.params()),
        };
        backend.attend(&mut b.attn, &b.qkv, packed, &params)?;
        linear(backend, &mut b.delta, &b.attn, &layer.output, None, rows)?;
        match norm.filter(|_| !spec.pre_norm) {
            Some(norm) => Ok(backend.add_layer_norm(&mut b.hidden, &b.delta, &norm.params(), rows)?),
            None => Ok(backend.add(&mut b.hidden, &b.delta, rows * spec.hidden_size)?),
        }
    }

    /// `hidden = norm(hidden + down(act(up(hidden))))`, or with the norm first.
    fn feed_forward_block(&mut self, index: usize, rows: usize) -> Result<(), ExecutorError> {
        let Self { backend, spec, weights, buffers: b, .. } = self;
        let Some(Layer { up, down, ffn_norm, .. }) = weights.layers.get(index) else {
            return Err(ExecutorError::Batch(format!("no layer {index}")));
        };
        if spec.pre_norm {
            backend.layer_norm(&mut b.normed, &b.hidden, &ffn_norm.params(), rows)?;
        }
        let x = if spec.pre_norm { &b.normed } else { &b.hidden };
        let act = activation(spec.activation);
        if spec.gated {
            linear(backend, &mut b.gate_up, x, up, None, rows)?;
            backend.gated(&mut b.inner, &b.gate_up, act, rows, spec.intermediate_size)?;
        } else {
            linear(backend, &mut b.inner, x, up, Some(act), rows)?;
        }
        linear(backend, &mut b.delta, &b.inner, down, None, rows)?;
        if spec.pre_norm {
            Ok(backend.add(&mut b.hidden, &b.delta, rows * spec.hidden_size)?)
        } else {
            Ok(backend.add_layer_norm(&mut b.hidden, &b.delta, &ffn_norm.params(), rows)?)
        }
    }

    /// The texts' vectors, from the last layer's states on.
    fn finish(&mut self, rows: usize, seqs: usize, out: &mut [f32]) -> Result<(), ExecutorError> {
        let Self { backend, spec, weights, packed, buffers: b, pooling, .. } = self;
        let states = match &weights.final_norm {
            Some(norm) => {
                backend.layer_norm(&mut b.normed, &b.hidden, &norm.params(), rows)?;
                &b.normed
            }
            None => &b.hidden,
        };
        backend.pool(&mut b.pooled, states, packed, *pooling, spec.hidden_size)?;
        let (Some(head), Some(classifier)) = (&weights.head, &spec.classifier) else {
            return Ok(backend.download(&b.pooled, out)?);
        };
        let act = Some(activation(classifier.activation));
        linear(backend, &mut b.dense, &b.pooled, &head.dense, act, seqs)?;
        let x = match &head.norm {
            Some(norm) => {
                backend.layer_norm(&mut b.normed_dense, &b.dense, &norm.params(), seqs)?;
                &b.normed_dense
            }
            None => &b.dense,
        };
        linear(backend, &mut b.scores, x, &head.output, None, seqs)?;
        Ok(backend.download(&b.scores, out)?)
    }
}

impl<B: EncoderBackend> Embedder for Encoder<B> {
    fn limits(&self) -> EmbedLimits {
        self.limits
    }

    fn use_threads(&mut self, threads: usize) -> Result<(), ExecutorError> {
        Ok(self.backend.use_threads(threads)?)
    }

    fn embed(&mut self, texts: &[EmbedInput], out: &mut Vec<f32>) -> Result<(), ExecutorError> {
        self.upload(texts)?;
        let rows = self.host.ids.len();
        let tables = EmbeddingTables {
            words: &self.weights.words,
            positions: self.weights.positions.as_ref(),
            types: self.weights.types.as_ref(),
        };
        let norm = self.weights.norm.params();
        self.backend.embed_packed(&mut self.buffers.hidden, &tables, &norm, &self.packed)?;
        for layer in 0..self.weights.layers.len() {
            self.attention_block(layer, rows)?;
            self.feed_forward_block(layer, rows)?;
        }
        let mut vectors = vec![0.0; texts.len() * self.limits.dimensions];
        self.finish(rows, texts.len(), &mut vectors)?;
        out.append(&mut vectors);
        Ok(())
    }
}

fn linear<B: EncoderBackend>(
    backend: &mut B,
    out: &mut B::Buf,
    x: &B::Buf,
    linear: &Linear<B>,
    act: Option<Activation>,
    rows: usize,
) -> Result<(), ExecutorError> {
    let bias = linear.bias.as_ref();
    match act {
        Some(act) => backend.linear_act(out, x, &linear.weight, bias, act, rows)?,
        None => backend.linear(out, x, &linear.weight, bias, rows)?,
    }
    Ok(())
}
