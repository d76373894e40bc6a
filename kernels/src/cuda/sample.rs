//! Sampling on the device (`csrc/adjust.cu`, `csrc/sample.cu`): the settings of all rows go there in one piece, the tokens
//! and what was asked for beside them come back when they are asked for, those of all draws since then at once.
#![allow(unsafe_code)]

use super::gpu::{Gpu, GpuMemory, Launch};
use super::kernel::Kernel;
use super::memory::{Bytes, CudaBuf, Scratch, kernel_args, size};
use crate::contract::{check_room, product, shape_error};
use crate::{FilterOrder, FrequencyPenalty, KernelError, Mirostat, SampleRow, Sampled};

type Result<T> = std::result::Result<T, KernelError>;

const OP: &str = "sample";

// What a row asks for; `csrc/sample.h` has the same.
const RANDOM: u32 = 1;
const TEMPERATURE_LAST: u32 = 2;
const MIROSTAT_1: u32 = 4;
const MIROSTAT_2: u32 = 8;
const RELATIVE_FREQUENCY: u32 = 16;
const WATERMARK: u32 = 32;
const MASKED: u32 = 64;
const PENALIZED: u32 = 128;
const NONE: u32 = u32::MAX;
/// Tokens that Mirostat's first version looks at.
const FITTED: usize = 100;
/// Pieces of a row that are looked at by blocks of their own.
const CHUNKS: usize = 64;
/// The most bits of a weight, as on the CPU device.
const MAX_SCALE_BITS: u32 = 44;

/// A stretch of the words that go with the rows.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Stretch {
    start: u32,
    len: u32,
}

/// One row's settings as the kernels declare them.
#[repr(C)]
#[derive(Clone, Copy)]
struct Row {
    seed: u64,
    draw: u64,
    min_p: f64,
    min_p_reach: f64,
    temperature: f32,
    top_p: f32,
    typical_p: f32,
    tail_free: f32,
    surprise: f32,
    repetition: f32,
    frequency: f32,
    presence: f32,
    flags: u32,
    top_k: u32,
    top_n: u32,
    top_start: u32,
    window: u32,
    exempt: u32,
    delta: f32,
    green: u32,
    previous: u32,
    prompt_len: u32,
    history: Stretch,
    bias: Stretch,
    banned: Stretch,
    mask: Stretch,
}

const ROW_WORDS: usize = size_of::<Row>() / 4;
/// Words of an outcome, and of a likely token.
const DRAWN_WORDS: usize = 4;
const TOP_WORDS: usize = 2;

kernel_args!(SampleArgs {
    logits: u64,
    rows: u64,
    words: u64,
    counts: u64,
    list: u64,
    order: u64,
    maxima: u64,
    sums: u64,
    drawn: u64,
    top: u64,
    vocab: u32,
    order_len: u32,
    scale: u32,
    square_a: u32,
    square_b: u32,
});

/// Memory of the sampler, on both sides; it grows to the largest draw.
pub(super) struct SampleScratch<G: Gpu> {
    /// Rows, then their words.
    inputs: Scratch<G>,
    /// One for each draw since the last answer, and what is left of more from before.
    outcomes: Vec<Outcome<G>>,
    pending: usize,
    /// `[rows, vocab]`, zero between draws.
    counts: Scratch<G>,
    list: Scratch<G>,
    order: Scratch<G>,
    /// The chunks' weights, then their maxima.
    chunks: Scratch<G>,
    rows: Vec<u32>,
    words: Vec<u32>,
}

/// What one draw gives.
struct Outcome<G: Gpu> {
    /// An outcome per row, then all likely tokens.
    memory: Scratch<G>,
    /// As much of it as this draw wrote.
    words: Vec<u32>,
    /// Where each row's likely tokens begin.
    tops: Vec<u32>,
}

impl<G: Gpu> Default for Outcome<G> {
    fn default() -> Self {
        Self { memory: Scratch::default(), words: Vec::new(), tops: Vec::new() }
    }
}

impl<G: Gpu> Default for SampleScratch<G> {
    fn default() -> Self {
        Self {
            inputs: Scratch::default(),
            outcomes: Vec::new(),
            pending: 0,
            counts: Scratch::default(),
            list: Scratch::default(),
            order: Scratch::default(),
            chunks: Scratch::default(),
            rows: Vec::new(),
            words: Vec::new(),
        }
    }
}

/// Has one token drawn per row from `logits` `[rows.len(), vocab]`.
pub(super) fn draw<G: Gpu>(
    (gpu, scratch): (&G, &mut SampleScratch<G>),
    logits: &mut CudaBuf<G>,
    vocab: usize,
    rows: &[SampleRow<'_>],
) -> Result<()> {
    check_room(OP, "elements of logits", product(&[rows.len(), vocab]), logits.len())?;
    if rows.is_empty() {
        return Ok(());
    }
    if scratch.pending == scratch.outcomes.len() {
        scratch.outcomes.push(Outcome::default());
    }
    let Wishes { top, order, adjusted } = scratch.describe(vocab, rows)?;
    let words = DRAWN_WORDS * rows.len() + TOP_WORDS * top;
    let args = scratch.args(gpu, logits, (vocab, rows.len()), order, words)?;
    let launch = Launch::blocks(size(OP, "rows", rows.len())?);
    // SAFETY: a row of logits and of settings for each block, stretches within the words, work space for what the
    // settings ask for, and room for all outcomes.
    unsafe {
        if adjusted {
            gpu.launch(Kernel::SampleAdjust, launch, &args)?;
        }
        let chunks = Launch::grid(CHUNKS as u32, launch.grid[0], 1);
        gpu.launch(Kernel::SampleScan, chunks, &args)?;
        gpu.launch(Kernel::SampleWeigh, chunks, &args)?;
        gpu.launch(Kernel::SampleDraw, launch, &args)?;
    }
    scratch.pending += 1;
    Ok(())
}

/// What the rows need together.
struct Wishes {
    /// Likely tokens in all.
    top: usize,
    /// Elements per row in the sorting space.
    order: usize,
    /// Whether single logits are edited.
    adjusted: bool,
}

impl<G: Gpu> SampleScratch<G> {
    /// Fills `rows` and `words`.
    fn describe(&mut self, vocab: usize, rows: &[SampleRow<'_>]) -> Result<Wishes> {
        self.rows.clear();
        self.words.clear();
        let mut tops = Vec::with_capacity(rows.len());
        let mut wishes = Wishes { top: 0, order: 0, adjusted: false };
        for row in rows {
            let described = self.describe_row(vocab, row, wishes.top)?;
            tops.push(described.top_start);
            wishes.top += described.top_n as usize;
            wishes.order = wishes.order.max(described.top_n as usize);
            if described.flags & MIROSTAT_1 != 0 {
                wishes.order = wishes.order.max(FITTED);
            }
            if described.flags & RANDOM != 0 && row.params.tfs_z < 1.0 {
                wishes.order = wishes.order.max(vocab.next_power_of_two());
            }
            let edits = WATERMARK | PENALIZED | MASKED;
            wishes.adjusted |=
                described.flags & edits != 0 || described.bias.len > 0 || described.banned.len > 0;
            self.rows.extend_from_slice(words_of(&described));
        }
        if let Some(outcome) = self.outcomes.get_mut(self.pending) {
            outcome.tops = tops;
        }
        Ok(wishes)
    }

    fn describe_row(&mut self, vocab: usize, row: &SampleRow<'_>, top_start: usize) -> Result<Row> {
        let params = row.params;
        let mut flags = 0;
        let mut set = |bit: u32, on: bool| flags |= if on { bit } else { 0 };
        set(RANDOM, params.seed.is_some());
        set(TEMPERATURE_LAST, params.order == FilterOrder::TemperatureLast);
        set(MIROSTAT_1, params.mirostat == Some(Mirostat::V1));
        set(MIROSTAT_2, params.mirostat == Some(Mirostat::V2));
        set(RELATIVE_FREQUENCY, matches!(params.frequency_penalty, FrequencyPenalty::Relative(_)));
        set(MASKED, row.mask.is_some());
        set(PENALIZED, params.needs_history());
        let watermark = params.watermark.zip(row.history.last());
        set(WATERMARK, watermark.is_some());
        let ((gamma, delta), &previous) = watermark.unwrap_or(((0.0, 0.0), &0));
        let (FrequencyPenalty::Count(frequency) | FrequencyPenalty::Relative(frequency)) =
            params.frequency_penalty;
        let min_p = f64::from(params.min_p);
        Ok(Row {
            seed: params.seed.unwrap_or(0),
            draw: row.draw,
            min_p,
            min_p_reach: (1e-6 - min_p.ln()).max(0.0),
            temperature: params.temperature,
            top_p: params.top_p,
            typical_p: params.typical_p,
            tail_free: params.tfs_z,
            surprise: row.surprise,
            repetition: params.repetition_penalty,
            frequency,
            presence: params.presence_penalty,
            flags,
            top_k: params.top_k,
            top_n: params.top_n.min(size(OP, "vocabulary", vocab)?),
            top_start: size(OP, "likely tokens", top_start)?,
            window: params.penalty_window.unwrap_or(NONE),
            exempt: params.penalty_exempt.unwrap_or(NONE),
            delta,
            green: (f64::from(gamma) * vocab as f64) as u32,
            previous,
            prompt_len: size(OP, "prompt", row.prompt_len.min(row.history.len()))?,
            history: self.put(if params.needs_history() { row.history } else { &[] })?,
            bias: self.put_bias(&params.logit_bias)?,
            banned: self.put(row.banned)?,
            mask: self.put(row.mask.unwrap_or_default())?,
        })
    }

    fn put(&mut self, words: &[u32]) -> Result<Stretch> {
        let start = size(OP, "words", self.words.len())?;
        self.words.extend_from_slice(words);
        Ok(Stretch { start, len: size(OP, "words", self.words.len())? - start })
    }

    /// Entries of one token beside each other, in their order.
    fn put_bias(&mut self, bias: &[(u32, f32)]) -> Result<Stretch> {
        if bias.is_empty() {
            return Ok(Stretch::default());
        }
        let mut entries = bias.to_vec();
        entries.sort_by_key(|&(id, _)| id);
        let words: Vec<u32> = entries.iter().flat_map(|&(id, value)| [id, value.to_bits()]).collect();
        self.put(&words)
    }

    /// Sends the inputs and makes room for the rest.
    fn args(
        &mut self,
        gpu: &G,
        logits: &CudaBuf<G>,
        (vocab, rows): (usize, usize),
        order: usize,
        outcome: usize,
    ) -> Result<SampleArgs> {
        let row_bytes = size_of_val(self.rows.as_slice());
        let inputs =
            self.inputs.fit(gpu, "sampling inputs", row_bytes + size_of_val(self.words.as_slice()))?;
        gpu.upload(inputs, 0, self.rows.bytes())?;
        gpu.upload(inputs, row_bytes, self.words.bytes())?;
        let per_token = product(&[rows, vocab, 4]);
        let counts = self.counts.fit_zeroed(gpu, "token counts", per_token)?.address();
        let list = self.list.fit(gpu, "candidates", per_token)?.address();
        let sorted = self.order.fit(gpu, "candidates in order", product(&[rows, order.max(1), 8]))?.address();
        let outputs = match self.outcomes.get_mut(self.pending) {
            Some(place) => {
                place.words.clear();
                place.words.resize(outcome, 0);
                place.memory.fit(gpu, "drawn tokens", 4 * outcome)?.address()
            }
            None => return Err(shape_error(OP, "draws", self.pending, self.outcomes.len())),
        };
        let sums = self.chunks.fit(gpu, "chunks", product(&[rows, CHUNKS, 12]))?.address();
        let square_a = (vocab as f64).sqrt().ceil() as u32;
        let vocab = size(OP, "vocabulary", vocab)?;
        Ok(SampleArgs {
            logits: logits.address(),
            rows: inputs.address(),
            words: inputs.address() + row_bytes as u64,
            counts,
            list,
            order: sorted,
            maxima: sums + (8 * CHUNKS * rows) as u64,
            sums,
            drawn: outputs,
            top: outputs + (4 * DRAWN_WORDS * rows) as u64,
            vocab,
            order_len: size(OP, "vocabulary", order.max(1))?,
            scale: u64::from(vocab).leading_zeros().saturating_sub(1).min(MAX_SCALE_BITS),
            square_a,
            square_b: vocab.div_ceil(square_a.max(1)),
        })
    }

    /// All draws since the last call.
    pub(super) fn take(&mut self) -> Draws<'_, G> {
        let pending = std::mem::take(&mut self.pending);
        Draws(self.outcomes.get_mut(..pending).unwrap_or_default())
    }
}

/// Draws that were asked for.
pub(super) struct Draws<'a, G: Gpu>(&'a mut [Outcome<G>]);

impl<G: Gpu> Draws<'_, G> {
    /// What to copy from the device, and where to.
    pub(super) fn pieces(&mut self) -> impl Iterator<Item = (&G::Memory, &mut [u8])> {
        self.0.iter_mut().filter_map(|Outcome { memory, words, .. }| Some((memory.get()?, words.bytes_mut())))
    }

    /// Appends what was copied.
    pub(super) fn append_to(self, out: &mut Vec<Sampled>) {
        for Outcome { words, tops, .. } in self.0 {
            let (drawn, top) = words.split_at(DRAWN_WORDS * tops.len());
            let top = top.as_chunks::<TOP_WORDS>().0;
            for (&[token, logprob, count, _], &start) in drawn.as_chunks::<DRAWN_WORDS>().0.iter().zip(&*tops)
            {
                let likely = top.iter().skip(start as usize).take(count as usize);
                out.push(Sampled {
                    token,
                    logprob: f32::from_bits(logprob),
                    top: likely.map(|&[id, logprob]| (id, f32::from_bits(logprob))).collect(),
                });
            }
        }
    }
}

fn words_of(row: &Row) -> &[u32; ROW_WORDS] {
    // SAFETY: `repr(C)` of numbers without padding, whole words, aligned to more than a word.
    unsafe { &*std::ptr::from_ref(row).cast() }
}
