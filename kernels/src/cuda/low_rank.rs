//! What adapters add (`csrc/low_rank.cu`).
#![allow(unsafe_code)]

use half::{bf16, f16};

use super::gpu::{Gpu, GpuMemory, Launch};
use super::kernel::Kernel;
use super::memory::{Bytes, CudaBuf, Scratch, kernel_args, size};
use super::step::{CudaStep, Part};
use crate::contract::{check, check_room, product, shape_error};
use crate::{DType, KernelError, LowRankView, WeightType, WeightView};

type Result<T> = std::result::Result<T, KernelError>;

const OP: &str = "add_low_rank";
const SET: &str = "set_low_rank";
/// Words of a slot and of a part as the kernels declare them.
const SLOT_WORDS: usize = 8;
const PART_WORDS: usize = 6;

kernel_args!(LowRankArgs {
    out: u64,
    x: u64,
    lowered: u64,
    seq_of: u64,
    adapters: u64,
    slots: u64,
    slot_count: u32,
    rows: u32,
    cols: u32,
    width: u32,
});

/// What the adapters add to one `[rows, cols]` matrix of the CUDA device, by slot; all in f32.
pub struct CudaLowRanks<G: Gpu> {
    rows: usize,
    cols: usize,
    /// Most in a step.
    tokens: usize,
    slots: Vec<Option<Change<G>>>,
    /// The slots as the kernels take them.
    table: Option<G::Memory>,
}

/// One adapter's: first matrices, scales, second matrices, parts, back to back.
struct Change<G: Gpu> {
    memory: G::Memory,
    /// Where the scales and the parts begin, in bytes.
    scales: usize,
    parts: usize,
    ranks: usize,
    count: usize,
}

impl<G: Gpu> CudaLowRanks<G> {
    pub(super) fn new(rows: usize, cols: usize, tokens: usize) -> Self {
        Self { rows, cols, tokens, slots: Vec::new(), table: None }
    }

    pub(super) fn set(
        &mut self,
        (gpu, scratch): (&G, &mut Scratch<G>),
        slot: usize,
        parts: &[LowRankView<'_>],
    ) -> Result<()> {
        let change = if parts.is_empty() { None } else { Some(self.change(gpu, parts)?) };
        let ranks = change.as_ref().map_or(0, |change| change.ranks);
        if ranks > 0 {
            // Now, where a lack of memory is an answer; in a step it would be the end of all requests.
            lowered(gpu, scratch, self.tokens, ranks)?;
        }
        let slots = self.slots.len().max(slot.saturating_add(1));
        let table = gpu.allocate("adapters", product(&[slots, 4 * SLOT_WORDS]))?;
        let row = |index: usize| {
            let stays = self.slots.get(index).and_then(Option::as_ref);
            slot_words(if index == slot { change.as_ref() } else { stays })
        };
        let words = (0..slots).map(row).collect::<Result<Vec<_>>>()?.concat();
        gpu.upload(&table, 0, words.bytes())?;
        self.slots.resize_with(slots, || None);
        if let Some(place) = self.slots.get_mut(slot) {
            *place = change;
        }
        self.table = Some(table);
        Ok(())
    }

    fn change(&self, gpu: &G, parts: &[LowRankView<'_>]) -> Result<Change<G>> {
        let mut free = 0;
        let (mut down, mut scales, mut up) = (Vec::new(), Vec::new(), Vec::new());
        for LowRankView { first, scale, a, b } in parts {
            check(SET, "columns of a", a.cols, self.cols)?;
            check(SET, "columns of b", b.cols, a.rows)?;
            let end = first.saturating_add(b.rows);
            check_room(SET, "rows", end, self.rows)?;
            check_room(SET, "rows before a part", free, *first)?;
            free = end;
            down.extend(floats(a)?);
            scales.extend(std::iter::repeat_n(*scale, a.rows));
            up.push(floats(b)?);
        }
        let ranks = scales.len();
        let scales_at = 4 * down.len();
        let up_at = scales_at + 4 * scales.len();
        let parts_at = (up_at + 4 * up.iter().map(Vec::len).sum::<usize>()).next_multiple_of(16);
        let memory = gpu.allocate("adapters", parts_at + 4 * PART_WORDS * parts.len())?;
        gpu.upload(&memory, 0, down.bytes())?;
        gpu.upload(&memory, scales_at, scales.bytes())?;
        let (mut words, mut at, mut first_rank) = (Vec::new(), up_at, 0);
        for (part, up) in parts.iter().zip(&up) {
            gpu.upload(&memory, at, up.bytes())?;
            words.extend(halves(memory.address() + at as u64));
            for value in [part.first, part.b.rows, first_rank, part.a.rows] {
                words.push(size(SET, "rows", value)?);
            }
            at += 4 * up.len();
            first_rank += part.a.rows;
        }
        gpu.upload(&memory, parts_at, words.bytes())?;
        Ok(Change { memory, scales: scales_at, parts: parts_at, ranks, count: parts.len() })
    }
}

/// Memory for the activations of `tokens` tokens in all `ranks` of an adapter.
fn lowered<'a, G: Gpu>(
    gpu: &G,
    scratch: &'a mut Scratch<G>,
    tokens: usize,
    ranks: usize,
) -> Result<&'a G::Memory> {
    scratch.fit(gpu, "adapters' products", product(&[tokens, ranks, 4]))
}

/// The two words of an address.
fn halves(address: u64) -> [u32; 2] {
    [address as u32, (address >> 32) as u32]
}

fn slot_words<G: Gpu>(change: Option<&Change<G>>) -> Result<[u32; SLOT_WORDS]> {
    let Some(change) = change else { return Ok([0; SLOT_WORDS]) };
    let start = change.memory.address();
    let [[a, b], [c, d], [e, f]] =
        [start, start + change.scales as u64, start + change.parts as u64].map(halves);
    Ok([a, b, c, d, e, f, size(SET, "ranks", change.ranks)?, size(SET, "parts", change.count)?])
}

/// A matrix of floats, widened.
fn floats(view: &WeightView<'_>) -> Result<Vec<f32>> {
    let WeightType::Float(dtype) = view.dtype else {
        return Err(shape_error(SET, "matrices of blocks", 1, 0));
    };
    check(SET, "bytes of a part", view.bytes.len(), product(&[view.rows, view.cols, dtype.size()]))?;
    let halves = || view.bytes.as_chunks::<2>().0.iter();
    Ok(match dtype {
        DType::F32 => view.bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
        DType::F16 => halves().map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect(),
        DType::BF16 => halves().map(|&bytes| bf16::from_le_bytes(bytes).to_f32()).collect(),
    })
}

/// See [`crate::Backend::add_low_rank`].
pub(super) fn add<G: Gpu>(
    (gpu, scratch): (&G, &mut Scratch<G>),
    out: &mut CudaBuf<G>,
    x: &CudaBuf<G>,
    changes: &CudaLowRanks<G>,
    step: &CudaStep<G>,
) -> Result<()> {
    let tokens = step.tokens;
    check_room(OP, "tokens", tokens, changes.tokens)?;
    check_room(OP, "elements of x", product(&[tokens, changes.cols]), x.len())?;
    check_room(OP, "elements of out", product(&[tokens, changes.rows]), out.len())?;
    let width = changes.slots.iter().flatten().map(|change| change.ranks).max().unwrap_or(0);
    let (Some(table), true) = (&changes.table, tokens * width > 0 && step.has_adapters()) else {
        return Ok(());
    };
    let lowered = lowered(gpu, scratch, tokens, width)?;
    let args = LowRankArgs {
        out: out.address(),
        x: x.address(),
        lowered: lowered.address(),
        seq_of: step.address(Part::SeqOf),
        adapters: step.address(Part::Adapters),
        slots: table.address(),
        slot_count: size(OP, "adapters", changes.slots.len())?,
        rows: size(OP, "rows", changes.rows)?,
        cols: size(OP, "columns", changes.cols)?,
        width: size(OP, "ranks", width)?,
    };
    let tokens = size(OP, "tokens", tokens)?;
    // SAFETY: the table's adapters fit the matrix, which `set` checked; the buffers have a row for every token.
    unsafe {
        gpu.launch(Kernel::LowRankDown, Launch::grid(tokens, args.width.div_ceil(8), 1), &args)?;
        gpu.launch(Kernel::LowRankUp, Launch::grid(tokens, args.rows.div_ceil(256), 1), &args)
    }
}
