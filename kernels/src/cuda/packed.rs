//! One step's texts on the device, in memory that was allocated before serving.

use super::gpu::{Gpu, GpuMemory};
use super::memory::Bytes;
use super::rotary::{Rotaries, RotaryView};
use crate::contract::{check_packed, shape_error};
use crate::{KernelError, PackedInputs, PackedLimits};

type Result<T> = std::result::Result<T, KernelError>;

/// Queries that a block works on.
const QUERIES: u32 = 16;

/// [`PackedInputs`] on the CUDA device. What is in it satisfies the shape contract written there.
pub struct CudaPacked<G: Gpu> {
    memory: G::Memory,
    limits: PackedLimits,
    ropes: Rotaries<G>,
    /// What the host needs to check and to size launches.
    pub(super) tokens: usize,
    pub(super) seqs: usize,
    pub(super) tiles: usize,
    largest: [usize; 3],
    /// First token, first of its sequence, end of its sequence.
    stretches: Vec<u32>,
}

/// The parts of the memory, in order.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Ids,
    Positions,
    Types,
    Ends,
    Tiles,
    End,
}

/// Where a part starts: a multiple of sixteen bytes.
fn offset(limits: &PackedLimits, part: Part) -> usize {
    let (tokens, seqs) = (limits.tokens, limits.seqs.saturating_add(1));
    let tiles = (tokens / QUERIES as usize).saturating_add(seqs).saturating_mul(3);
    let before = [tokens, tokens, tokens, seqs, tiles].into_iter().take(part as usize);
    before.fold(0, |sum, len| {
        let bytes = len.saturating_mul(4).checked_next_multiple_of(16).unwrap_or(usize::MAX);
        usize::saturating_add(sum, bytes)
    })
}

impl<G: Gpu> CudaPacked<G> {
    pub(super) fn new(gpu: &G, limits: PackedLimits) -> Result<Self> {
        Ok(Self {
            memory: gpu.allocate("step inputs", offset(&limits, Part::End).max(16))?,
            limits,
            ropes: Rotaries::new(limits.tokens),
            tokens: 0,
            seqs: 0,
            tiles: 0,
            largest: [0; 3],
            stretches: Vec::new(),
        })
    }

    pub(super) fn fill(&mut self, gpu: &G, inputs: &PackedInputs<'_>) -> Result<()> {
        check_packed("pack", inputs, &self.limits)?;
        let rows = [inputs.ids, inputs.positions, inputs.types];
        self.largest = rows.map(|rows| rows.iter().max().map_or(0, |&row| row as usize));
        (self.tokens, self.seqs) = (inputs.ids.len(), inputs.cu.len() - 1);
        self.stretches.clear();
        for ends in inputs.cu.windows(2) {
            if let &[from, to] = ends {
                let tiles = (from..to).step_by(QUERIES as usize);
                self.stretches.extend(tiles.flat_map(|first| [first, from, to]));
            }
        }
        self.tiles = self.stretches.len() / 3;
        for (part, values) in [
            (Part::Ids, inputs.ids),
            (Part::Positions, inputs.positions),
            (Part::Types, inputs.types),
            (Part::Ends, inputs.cu),
            (Part::Tiles, &self.stretches),
        ] {
            gpu.upload(&self.memory, offset(&self.limits, part), values.bytes())?;
        }
        self.ropes.upload(gpu, self.tokens, inputs.rope)
    }

    pub(super) fn limits(&self) -> &PackedLimits {
        &self.limits
    }

    pub(super) fn address(&self, part: Part) -> u64 {
        self.memory.address() + offset(&self.limits, part) as u64
    }

    pub(super) fn rope(&self, op: &'static str, index: usize) -> Result<RotaryView> {
        self.ropes.view(op, index)
    }

    /// Tables of so many rows have all that the tokens ask for: of words, positions, types.
    pub(super) fn check_rows(&self, op: &'static str, rows: [Option<usize>; 3]) -> Result<()> {
        for ((largest, rows), what) in
            self.largest.into_iter().zip(rows).zip(["token id", "position", "token type"])
        {
            if let Some(rows) = rows.filter(|&rows| self.tokens > 0 && largest >= rows) {
                return Err(shape_error(op, what, largest, rows));
            }
        }
        Ok(())
    }
}
