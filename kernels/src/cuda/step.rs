//! One step's inputs on the device, in memory that was allocated before serving.

use super::gpu::{Gpu, GpuMemory};
use super::memory::Bytes;
use super::rotary::{Rotaries, RotaryView};
use crate::contract::{check_inputs, check_room, shape_error};
use crate::{KernelError, KvShape, NO_ADAPTER, StepInputs};

type Result<T> = std::result::Result<T, KernelError>;

const OP: &str = "upload";

/// [`StepInputs`] on the CUDA device. What is in it satisfies the shape contract written there.
pub struct CudaStep<G: Gpu> {
    memory: G::Memory,
    capacity: Capacity,
    ropes: Rotaries<G>,
    /// What the host needs to check and to size launches.
    pub(super) tokens: usize,
    pub(super) seqs: usize,
    pub(super) longest: usize,
    has_adapters: bool,
    largest_id: usize,
    largest_slot: usize,
    largest_block: usize,
    kv_len: Vec<u32>,
    block_offsets: Vec<u32>,
    /// Which sequence each token is of.
    seq_of: Vec<u32>,
    cu_q: Vec<u32>,
    /// Tokens of short stretches, and how many tiles of each length the others make.
    few: Vec<u32>,
    tiles: Vec<u32>,
    tile_counts: [usize; TILES.len()],
    sorted: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Capacity {
    tokens: usize,
    seqs: usize,
    blocks: usize,
}

/// The parts of the memory, in order.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Ids,
    Positions,
    Slots,
    SeqOf,
    BlockOffsets,
    BlockTables,
    /// By sequence.
    Adapters,
    /// Tokens of short stretches.
    Few,
    /// Stretches of the others, by the lengths of [`TILES`].
    Tiles16,
    Tiles32,
    Tiles64,
    Tiles128,
    End,
}

/// A sequence with at least so many tokens in the step is a stretch of a prompt, which tensor cores work through.
pub(super) const MANY: usize = 16;
/// How many tokens such work is cut into.
pub(super) const TILES: [(usize, Part); 4] =
    [(16, Part::Tiles16), (32, Part::Tiles32), (64, Part::Tiles64), (128, Part::Tiles128)];

impl Capacity {
    /// Where a part starts: a multiple of sixteen bytes.
    fn offset(&self, part: Part) -> usize {
        let tiles = |len: usize| (self.tokens / len).saturating_add(self.seqs).saturating_mul(2);
        let (tokens, seqs) = (self.tokens, self.seqs.saturating_add(1));
        let sizes = [
            tokens,
            tokens,
            tokens,
            tokens,
            seqs,
            self.blocks,
            seqs,
            tokens,
            tiles(16),
            tiles(32),
            tiles(64),
            tiles(128),
        ];
        let before = sizes.iter().take(part as usize);
        before.fold(0, |sum, &len| {
            let bytes = len.saturating_mul(4).checked_next_multiple_of(16).unwrap_or(usize::MAX);
            usize::saturating_add(sum, bytes)
        })
    }
}

impl<G: Gpu> CudaStep<G> {
    pub(super) fn new(gpu: &G, tokens: usize, seqs: usize, blocks: usize) -> Result<Self> {
        let capacity = Capacity { tokens, seqs, blocks };
        let memory = gpu.allocate("step inputs", capacity.offset(Part::End).max(16))?;
        Ok(Self {
            memory,
            capacity,
            ropes: Rotaries::new(tokens),
            tokens: 0,
            seqs: 0,
            longest: 0,
            has_adapters: false,
            largest_id: 0,
            largest_slot: 0,
            largest_block: 0,
            kv_len: Vec::new(),
            block_offsets: Vec::new(),
            seq_of: Vec::new(),
            cu_q: Vec::new(),
            few: Vec::new(),
            tiles: Vec::new(),
            tile_counts: [0; TILES.len()],
            sorted: Vec::new(),
        })
    }

    pub(super) fn upload(&mut self, gpu: &G, inputs: &StepInputs<'_>) -> Result<()> {
        let Capacity { tokens, seqs, blocks } = self.capacity;
        check_room(OP, "tokens", inputs.ids.len(), tokens)?;
        check_room(OP, "sequences", inputs.kv_len.len(), seqs)?;
        check_room(OP, "block-table entries", inputs.block_tables.len(), blocks)?;
        check_inputs(OP, inputs)?;
        refill(&mut self.sorted, inputs.slots);
        self.sorted.sort_unstable();
        if let Some(&[slot, _]) = self.sorted.array_windows().find(|[a, b]| a == b) {
            return Err(shape_error(OP, "slot given twice", slot as usize, slot as usize + 1));
        }
        self.remember(inputs);
        for (part, values) in [
            (Part::Ids, inputs.ids),
            (Part::Positions, inputs.positions),
            (Part::Slots, inputs.slots),
            (Part::SeqOf, &self.seq_of),
            (Part::BlockOffsets, inputs.block_offsets),
            (Part::BlockTables, inputs.block_tables),
            (Part::Adapters, inputs.adapters),
        ] {
            gpu.upload(&self.memory, self.capacity.offset(part), values.bytes())?;
        }
        self.upload_tiles(gpu)?;
        self.ropes.upload(gpu, self.tokens, inputs.rope)
    }

    /// Which tokens are few in their sequence, and how the others fall into tiles.
    fn upload_tiles(&mut self, gpu: &G) -> Result<()> {
        let stretches = || self.cu_q.windows(2).filter_map(|ends| Some((*ends.first()?, *ends.last()?)));
        let long = |&(from, to): &(u32, u32)| (to - from) as usize >= MANY;
        self.few.clear();
        self.few.extend(stretches().filter(|stretch| !long(stretch)).flat_map(|(from, to)| from..to));
        gpu.upload(&self.memory, self.capacity.offset(Part::Few), self.few.bytes())?;
        for ((len, part), count) in TILES.into_iter().zip(&mut self.tile_counts) {
            self.tiles.clear();
            for (from, to) in stretches().filter(long) {
                for first in (from..to).step_by(len) {
                    self.tiles.extend([first, to.min(first + len as u32)]);
                }
            }
            *count = self.tiles.len() / 2;
            gpu.upload(&self.memory, self.capacity.offset(part), self.tiles.bytes())?;
        }
        Ok(())
    }

    /// Tokens that it has room for.
    pub(super) fn room(&self) -> usize {
        self.capacity.tokens
    }

    /// Whether any sequence has an adapter.
    pub(super) fn has_adapters(&self) -> bool {
        self.has_adapters
    }

    /// How many tokens are in short stretches.
    pub(super) fn few(&self) -> usize {
        self.few.len()
    }

    /// Where the tiles of at most `len` tokens lie, for a length of [`TILES`], and how many there are.
    pub(super) fn tiles(&self, len: usize) -> (u64, usize) {
        let found = TILES.iter().zip(&self.tile_counts).find(|((tokens, _), _)| *tokens == len);
        found.map_or((0, 0), |(&(_, part), &count)| (self.address(part), count))
    }

    fn remember(&mut self, inputs: &StepInputs<'_>) {
        let largest = |values: &[u32]| values.iter().copied().max().map_or(0, |value| value as usize);
        self.tokens = inputs.ids.len();
        self.seqs = inputs.kv_len.len();
        self.longest = largest(inputs.kv_len);
        self.has_adapters = inputs.adapters.iter().any(|&slot| slot != NO_ADAPTER);
        self.largest_id = largest(inputs.ids);
        self.largest_slot = largest(inputs.slots);
        self.largest_block = largest(inputs.block_tables);
        refill(&mut self.kv_len, inputs.kv_len);
        refill(&mut self.cu_q, inputs.cu_q);
        refill(&mut self.block_offsets, inputs.block_offsets);
        self.seq_of.clear();
        for (seq, ends) in (0..).zip(inputs.cu_q.windows(2)) {
            if let &[from, to] = ends {
                self.seq_of.extend((from..to).map(|_| seq));
            }
        }
    }

    pub(super) fn address(&self, part: Part) -> u64 {
        self.memory.address() + self.capacity.offset(part) as u64
    }

    pub(super) fn rope(&self, op: &'static str, index: usize) -> Result<RotaryView> {
        self.ropes.view(op, index)
    }

    /// Every token id is below `vocab`.
    pub(super) fn check_ids(&self, op: &'static str, vocab: usize) -> Result<()> {
        if self.tokens == 0 || self.largest_id < vocab {
            return Ok(());
        }
        Err(shape_error(op, "token id", self.largest_id, vocab))
    }

    /// Every slot is in a cache of this shape.
    pub(super) fn check_slots(&self, op: &'static str, shape: &KvShape) -> Result<()> {
        let slots = shape.blocks.saturating_mul(shape.block_size);
        if self.tokens == 0 || self.largest_slot < slots {
            return Ok(());
        }
        Err(shape_error(op, "slot", self.largest_slot, slots))
    }

    /// Every sequence's block table covers its tokens and names blocks of a cache of this shape.
    pub(super) fn check_tables(&self, op: &'static str, shape: &KvShape) -> Result<()> {
        for (&kv_len, ends) in self.kv_len.iter().zip(self.block_offsets.windows(2)) {
            let table = ends.last().zip(ends.first()).map_or(0, |(to, from)| (to - from) as usize);
            let needed = (kv_len as usize).div_ceil(shape.block_size);
            if table < needed {
                return Err(shape_error(op, "blocks of a sequence", table, needed));
            }
        }
        if self.block_offsets.last().is_none_or(|&count| count == 0) || self.largest_block < shape.blocks {
            return Ok(());
        }
        Err(shape_error(op, "block", self.largest_block, shape.blocks))
    }
}

fn refill(to: &mut Vec<u32>, from: &[u32]) {
    to.clear();
    to.extend_from_slice(from);
}
