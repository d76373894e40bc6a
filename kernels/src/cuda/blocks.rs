//! Block-quantized weights on the device (`csrc/blocks.h`, `csrc/blocks.cu`): how they are laid out, and their products.
#![allow(unsafe_code)]

use super::gpu::{Gpu, GpuMemory, Launch};
use super::kernel::{BlockKernels, Kernel};
use super::memory::{CudaBuf, Scratch, kernel_args, size};
use crate::contract::product;
use crate::cpu::quant::{Format, Parts, Scales, with_format};
use crate::{BlockType, KernelError};

type Result<T> = std::result::Result<T, KernelError>;

const OP: &str = "linear";
/// Columns in a unit.
const UNIT: usize = 32;
/// Planes start at multiples of so many bytes.
const ALIGN: usize = 16;

/// Where a band's planes are, as the kernels take it; planes that a type does not have are empty.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Planes {
    low: u64,
    high: u64,
    scales: u64,
    mins: u64,
    supers: u64,
    super_mins: u64,
    units: u32,
    unused: u32,
}

kernel_args!(QuantizeArgs { x: u64, codes: u64, scales: u64, sums: u64, units: u32 });
kernel_args!(BlocksArgs {
    out: u64,
    codes: u64,
    scales: u64,
    sums: u64,
    bias: u64,
    planes: Planes,
    rows: u32,
    count: u32,
    width: u32,
    first: u32,
});
kernel_args!(EmbedBlocksArgs { out: u64, ids: u64, planes: Planes, first: u32, count: u32, scale: f32 });

kernel_args!(UnpackArgs { out: u64, planes: Planes, first: u32, count: u32, stride: u32 });

/// Bytes of each plane, for one row, in the order of [`Planes`].
type RowBytes = [usize; 6];

/// A band's blocks in device memory.
pub(super) struct Blocks<G: Gpu> {
    memory: G::Memory,
    blocks: BlockType,
    offsets: RowBytes,
    units: usize,
}

fn row_bytes<T: Format>(cols: usize) -> RowBytes {
    let units = cols / UNIT;
    let (low, high) = planes::<T>();
    let (scales, supers) = match T::SCALES {
        Scales::Half => (2 * units, 0),
        Scales::Exponent => (units, 0),
        Scales::Super { .. } => (units * (UNIT / T::GROUP), 2 * (units / 8)),
    };
    let mins = |bytes: usize| if T::MIN { bytes } else { 0 };
    [units * 4 * low, units * 4 * high, scales, mins(scales), supers, mins(supers)]
}

/// How many bits of a code lie together, and how many apart from them.
const fn planes<T: Format>() -> (usize, usize) {
    match T::BITS {
        8 => (8, 0),
        bits @ 4.. => (4, bits - 4),
        bits => (2, bits - 2),
    }
}

impl<G: Gpu> Blocks<G> {
    /// `rows` rows of `cols` columns, whose stored bytes `row` gives.
    pub(super) fn new<'a>(
        gpu: &G,
        blocks: BlockType,
        (rows, cols): (usize, usize),
        row: &(impl Fn(usize) -> &'a [u8] + Sync),
    ) -> Result<Self> {
        let bytes = with_format!(blocks, T => row_bytes::<T>(cols));
        let mut offsets = [0; 6];
        let mut end: usize = 0;
        for (offset, &bytes) in offsets.iter_mut().zip(&bytes) {
            *offset = end;
            let plane = product(&[rows, bytes]).checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX);
            end = end.saturating_add(plane);
        }
        let memory = gpu.allocate("weights", end)?;
        for (plane, (&offset, &bytes)) in offsets.iter().zip(&bytes).enumerate() {
            // One plane at a time, so that the host never holds the whole band twice.
            if bytes > 0 {
                let packed = with_format!(blocks, T => pack::<T>(plane, (rows, bytes), row));
                gpu.upload(&memory, offset, &packed)?;
            }
        }
        Ok(Self { memory, blocks, offsets, units: cols / UNIT })
    }

    /// Columns.
    pub(super) fn cols(&self) -> usize {
        self.units * UNIT
    }

    /// Rows `first..first + count` as f16, into `out` `[count, stride]`; `stride` is a multiple of the unit.
    pub(super) fn unpack(&self, gpu: &G, out: u64, (first, count): (u32, u32), stride: u32) -> Result<()> {
        let args = UnpackArgs { out, planes: self.planes()?, first, count, stride };
        let kernel = BlockKernels::of(self.blocks).unpack;
        let units = product(&[count as usize, stride as usize / UNIT]);
        let launch = Launch::blocks(size(OP, "weights", units)?.div_ceil(kernel.threads()));
        // SAFETY: rows of this band, and room for them, by the caller.
        unsafe { gpu.launch(kernel, launch, &args) }
    }

    fn planes(&self) -> Result<Planes> {
        let [low, high, scales, mins, supers, super_mins] =
            self.offsets.map(|offset| self.memory.address() + offset as u64);
        let units = size(OP, "columns", self.units)?;
        Ok(Planes { low, high, scales, mins, supers, super_mins, units, unused: 0 })
    }
}

/// One plane of all rows, by as many threads as there are processors.
fn pack<'a, T: Format>(
    plane: usize,
    (rows, bytes): (usize, usize),
    row: &(impl Fn(usize) -> &'a [u8] + Sync),
) -> Vec<u8> {
    let mut packed = vec![0; rows * bytes];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let each = rows.div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for (thread, part) in packed.chunks_mut(each * bytes).enumerate() {
            scope.spawn(move || {
                let mut parts = Parts::default();
                for (index, mut out) in part.chunks_exact_mut(bytes).enumerate() {
                    for block in row(thread * each + index).chunks_exact(T::BYTES) {
                        T::take_apart(block, &mut parts);
                        out = put::<T>(plane, &parts, out);
                    }
                }
            });
        }
    });
    packed
}

/// Writes what a block has for a plane at the start of `out`; what is left of it.
fn put<'a, T: Format>(plane: usize, parts: &Parts, out: &'a mut [u8]) -> &'a mut [u8] {
    let groups = T::ELEMENTS / T::GROUP;
    let (bytes, len): ([u8; 256], usize) = match (plane, T::SCALES) {
        (0 | 1, _) => codes::<T>(plane == 1, parts),
        (2, Scales::Exponent) => start(&[parts.scale as u8]),
        (2, Scales::Half) | (4, _) => start(&parts.scale.to_le_bytes()),
        (3, Scales::Half) | (5, _) => start(&parts.min.to_le_bytes()),
        (2, _) => start(parts.scales.get(..groups).unwrap_or_default()),
        _ => start(parts.mins.get(..groups).unwrap_or_default()),
    };
    match (out.split_at_mut_checked(len), bytes.get(..len)) {
        (Some((to, rest)), Some(bytes)) => {
            to.copy_from_slice(bytes);
            rest
        }
        _ => &mut [],
    }
}

fn start(bytes: &[u8]) -> ([u8; 256], usize) {
    let mut all = [0; 256];
    all.iter_mut().zip(bytes).for_each(|(to, &from)| *to = from);
    (all, bytes.len())
}

/// The words of a block's codes in the low or the high plane.
fn codes<T: Format>(high_plane: bool, parts: &Parts) -> ([u8; 256], usize) {
    let (low, high) = planes::<T>();
    let words_per_unit = if high_plane { high } else { low };
    let mut all = [0; 256];
    let units = parts.codes.as_chunks::<UNIT>().0.iter().take(T::ELEMENTS / UNIT);
    let places = all.as_chunks_mut::<4>().0.chunks_exact_mut(words_per_unit.max(1));
    for (unit, place) in units.zip(places) {
        let quads = quads_of(unit);
        for (index, word) in place.iter_mut().enumerate() {
            *word =
                if high_plane { high_word(&quads, index, (low, high)) } else { low_word(&quads, index, low) }
                    .to_le_bytes();
        }
    }
    (all, T::ELEMENTS / UNIT * words_per_unit * 4)
}

fn quads_of(unit: &[u8; UNIT]) -> [u32; 8] {
    let mut quads = [0; 8];
    for (quad, codes) in quads.iter_mut().zip(unit.as_chunks::<4>().0) {
        *quad = u32::from_le_bytes(*codes);
    }
    quads
}

/// Bits `shift` and `shift + 1` of quads `4 index ..`.
fn two_bits(quads: &[u32; 8], index: usize, shift: usize) -> u32 {
    let four = quads.iter().skip(4 * index).take(4).enumerate();
    four.fold(0, |word, (i, quad)| word | (quad >> shift & 0x0303_0303) << (2 * i))
}

fn low_word(quads: &[u32; 8], index: usize, low: usize) -> u32 {
    let quad = |at: usize| quads.get(at).copied().unwrap_or(0);
    match low {
        // Signed bytes.
        8 => quad(index) ^ 0x8080_8080,
        4 => quad(index) & 0x0f0f_0f0f | (quad(index + 4) & 0x0f0f_0f0f) << 4,
        _ => two_bits(quads, index, 0),
    }
}

fn high_word(quads: &[u32; 8], index: usize, (low, high): (usize, usize)) -> u32 {
    if high == 2 {
        return two_bits(quads, index, low);
    }
    quads.iter().enumerate().fold(0, |word, (i, quad)| word | (quad >> low & 0x0101_0101) << i)
}

/// A band's product, its shapes checked.
pub(super) struct Multiply<'a, G: Gpu> {
    pub(super) gpu: &'a G,
    pub(super) x: &'a CudaBuf<G>,
    pub(super) out: u64,
    /// Null without one.
    pub(super) bias: u64,
    pub(super) rows: u32,
    /// Rows of the band, of the whole matrix, and before the band.
    pub(super) count: u32,
    pub(super) width: u32,
    pub(super) first: u32,
}

impl<G: Gpu> Multiply<'_, G> {
    pub(super) fn run(&self, scratch: &mut Scratch<G>, blocks: &Blocks<G>) -> Result<()> {
        let planes = blocks.planes()?;
        let units = product(&[self.rows as usize, blocks.units]);
        let bytes = product(&[units, UNIT + 4 + 8]);
        let codes = scratch.fit(self.gpu, "quantized activations", bytes)?.address();
        let scales = codes + (units * UNIT) as u64;
        let sums = scales + 4 * units as u64;
        let quantize = QuantizeArgs { x: self.x.address(), codes, scales, sums, units: planes.units };
        let args = BlocksArgs {
            out: self.out,
            codes,
            scales,
            sums,
            bias: self.bias,
            planes,
            rows: self.rows,
            count: self.count,
            width: self.width,
            first: self.first,
        };
        let BlockKernels { one, eight, .. } = BlockKernels::of(blocks.blocks);
        let (kernel, per_block) = if self.rows == 1 { (one, 1) } else { (eight, 8) };
        let warps = kernel.threads() / 32;
        let rows = Launch::grid(self.rows, planes.units.div_ceil(warps), 1);
        let launch = Launch::grid(self.count.div_ceil(warps), self.rows.div_ceil(per_block), 1);
        // SAFETY: `linear` checked the buffers; the planes have `count` rows, the activations `rows`, of `units` units.
        unsafe {
            self.gpu.launch(Kernel::QuantizeRows, rows, &quantize)?;
            self.gpu.launch(kernel, launch, &args)
        }
    }
}

/// `out[t] = table[ids[t]] * scale` for the tokens whose row is one of `count` from `first` on.
pub(super) fn embed<G: Gpu>(
    gpu: &G,
    (out, ids, tokens): (u64, u64, u32),
    table: &Blocks<G>,
    (first, count): (u32, u32),
    scale: f32,
) -> Result<()> {
    let args = EmbedBlocksArgs { out, ids, planes: table.planes()?, first, count, scale };
    // SAFETY: the caller checked that every id names a row of the table and `out` has room for all tokens.
    unsafe { gpu.launch(BlockKernels::of(table.blocks).embed, Launch::blocks(tokens), &args) }
}
