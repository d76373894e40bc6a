//! How a band of one block type lies in memory: panels of sixteen rows, cut into chunks of 256 columns.
//!
//! ```text
//! chunk:   header (scales and minima of sixteen rows, up to a multiple of 64 bytes)   units
//! header:  32-column types:   scale r0 … r15 (min r0 … r15) of the first unit, of the second, …
//!          256-column types:  scale r0 … r15 (min r0 … r15), then a byte per row for each group (scales, minima)
//! unit:    the codes of 32 columns of sixteen rows
//! ```
//!
//! A vector of 64 bytes holds four neighbouring columns of each row, a *quad*; a unit is eight quads. With eight bits it
//! is eight such vectors. Else quads share vectors bit by bit, so that shifts and masks give all sixteen rows at once:
//! nibbles hold quads `i` and `i + 4`, two bits each quads `4 i … 4 i + 3`, single bits all eight.
//!
//! The last chunk of a panel may have fewer units. Rows are padded to whole panels with zeros, whose scales are zero.

use std::marker::PhantomData;

use super::super::isa::{Dot, DotKernel, Range, Simd};
use super::super::panel::LANES;
use super::{Format, Parts, Scales};

/// Columns in a unit, and under one scale of the activations.
pub(crate) const UNIT: usize = 32;
/// Columns in a chunk.
pub(crate) const CHUNK: usize = 256;
/// Most units in a chunk.
pub(crate) const UNITS: usize = CHUNK / UNIT;
/// Most groups in a chunk.
const GROUPS: usize = CHUNK / 16;
/// Bytes of an f16 for each row.
const HALVES: usize = 2 * LANES;

/// Bytes before the codes of a chunk of `units` units.
pub(crate) const fn header_len<T: Format>(units: usize) -> usize {
    let kinds = 1 + T::MIN as usize;
    let bytes = match T::SCALES {
        Scales::Half => units * kinds * HALVES,
        Scales::Exponent => units * LANES,
        Scales::Super { .. } => kinds * HALVES + units * UNIT / T::GROUP * kinds * LANES,
    };
    bytes.next_multiple_of(64)
}

/// Bytes of the codes of a unit.
pub(crate) const fn unit_len<T: Format>() -> usize {
    64 * T::BITS
}

/// Bytes of a chunk of `units` units.
pub(crate) const fn chunk_len<T: Format>(units: usize) -> usize {
    header_len::<T>(units) + units * unit_len::<T>()
}

/// Bytes of a panel of `cols` columns, whole units; too large to be had where that overflows.
pub(crate) const fn panel_len<T: Format>(cols: usize) -> usize {
    let rest = cols % CHUNK / UNIT;
    let whole = (cols / CHUNK).saturating_mul(chunk_len::<T>(UNITS));
    if rest == 0 { whole } else { whole.saturating_add(chunk_len::<T>(rest)) }
}

/// Writes row `lane` of a block into its chunk, of `units` units; `block` counts the blocks of the chunk's row.
pub(crate) fn put_block<T: Format>(
    chunk: &mut [u8],
    units: usize,
    (lane, block): (usize, usize),
    parts: &Parts,
) {
    let (header, codes) = chunk.split_at_mut(header_len::<T>(units));
    put_scales::<T>(header, lane, block, parts);
    let per_block = T::ELEMENTS / UNIT;
    let units = codes.chunks_exact_mut(unit_len::<T>()).skip(block * per_block);
    for (unit, codes) in units.zip(parts.codes[..T::ELEMENTS].as_chunks().0) {
        put_codes::<T>(unit, lane, codes);
    }
}

fn put_scales<T: Format>(header: &mut [u8], lane: usize, block: usize, parts: &Parts) {
    let kinds = 1 + usize::from(T::MIN);
    let mut put_half = |at: usize, half: u16| {
        header[at + 2 * lane..][..2].copy_from_slice(&half.to_le_bytes());
    };
    match T::SCALES {
        Scales::Exponent => header[block * LANES + lane] = parts.scale as u8,
        Scales::Half | Scales::Super { .. } => {
            put_half(block * kinds * HALVES, parts.scale);
            if T::MIN {
                put_half(block * kinds * HALVES + HALVES, parts.min);
            }
        }
    }
    if matches!(T::SCALES, Scales::Super { .. }) {
        for (group, bytes) in header[kinds * HALVES..].chunks_exact_mut(kinds * LANES).enumerate() {
            // The header may be longer than its groups.
            if group * T::GROUP < CHUNK {
                bytes[lane] = parts.scales[group];
                if T::MIN {
                    bytes[LANES + lane] = parts.mins[group];
                }
            }
        }
    }
}

/// Four codes in four bytes.
fn put_codes<T: Format>(unit: &mut [u8], lane: usize, codes: &[u8; UNIT]) {
    let quads: [u32; 8] =
        std::array::from_fn(|q| u32::from_le_bytes(std::array::from_fn(|j| codes[4 * q + j])));
    let mut put = |vector: usize, quad: u32| {
        unit[64 * vector + 4 * lane..][..4].copy_from_slice(&quad.to_le_bytes());
    };
    let (low, high) = planes::<T>();
    match low {
        8 => quads.into_iter().enumerate().for_each(|(q, quad)| put(q, quad)),
        4 => (0..4).for_each(|i| put(i, quads[i] & 0x0f0f_0f0f | (quads[i + 4] & 0x0f0f_0f0f) << 4)),
        _ => (0..2).for_each(|i| put(i, two_bits(&quads[4 * i..], 0))),
    }
    match high {
        2 => (0..2).for_each(|i| put(low + i, two_bits(&quads[4 * i..], low))),
        1 => {
            let bits = (0..8).fold(0, |bits, q| bits | (quads[q] >> low & 0x0101_0101) << q);
            put(low, bits);
        }
        _ => {}
    }
}

/// Bits `shift` and `shift + 1` of four quads.
fn two_bits(quads: &[u32], shift: usize) -> u32 {
    (0..4).fold(0, |bits, i| bits | (quads[i] >> shift & 0x0303_0303) << (2 * i))
}

/// How many bits of a code lie together, and how many apart from them.
const fn planes<T: Format>() -> (usize, usize) {
    match T::BITS {
        8 => (8, 0),
        bits @ 4.. => (4, bits - 4),
        bits => (2, bits - 2),
    }
}

/// The eight quads of a unit: codes, or what they stand for, as [`Dot::dot`] takes them.
#[inline(always)]
pub(crate) fn quads<D: Dot, T: Format>(d: D, unit: &[u8]) -> [D::B; 8] {
    let vectors = unit.as_chunks::<64>().0;
    let load = |i: usize| d.load(&vectors[i]);
    let mask = |v: D::B, bits: u8| d.and(v, d.splat1(bits));
    let (low, high) = planes::<T>();
    let mut quads = [d.splat1(0); 8];
    match low {
        8 => {
            for (q, quad) in quads.iter_mut().enumerate() {
                *quad = load(q);
            }
        }
        4 => {
            for i in 0..4 {
                let both = load(i);
                quads[i] = mask(both, 15);
                quads[i + 4] = mask(d.down(both, 4), 15);
            }
        }
        _ => {
            for i in 0..2 {
                let four = load(i);
                for j in 0..4 {
                    quads[4 * i + j] = mask(d.down(four, 2 * j as u32), 3);
                }
            }
        }
    }
    // What is apart is moved to bit `low` and beyond.
    for i in 0..high {
        let bits = load(low + i);
        let (count, width) = (8 / high, high);
        for j in 0..count {
            let from = width * j;
            let moved =
                if from < low { d.up(bits, (low - from) as u32) } else { d.down(bits, (from - low) as u32) };
            let quad = &mut quads[count * i + j];
            *quad = d.or(*quad, mask(moved, ((1 << width) - 1) << low));
        }
    }
    if let Some(table) = T::TABLE {
        for quad in &mut quads {
            *quad = d.look_up(table, *quad);
        }
    }
    if T::RANGE == Range::EightBits {
        for quad in &mut quads {
            *quad = d.shift(*quad);
        }
    }
    quads
}

/// The scales of sixteen rows, read from a chunk's header.
#[derive(Clone, Copy)]
pub(crate) struct Header<'a, D: Dot> {
    d: D,
    bytes: &'a [u8],
    /// Those of the whole chunk.
    scale: <D::F as Simd>::V,
    min: <D::F as Simd>::V,
}

impl<'a, D: Dot> Header<'a, D> {
    #[inline(always)]
    pub(crate) fn new<T: Format>(d: D, bytes: &'a [u8]) -> Self {
        let zero = d.float().splat(0.0);
        let whole = matches!(T::SCALES, Scales::Super { .. });
        let scale = if whole { d.widen_f16(part(bytes, 0)) } else { zero };
        let min = if whole && T::MIN { d.widen_f16(part(bytes, HALVES)) } else { zero };
        Self { d, bytes, scale, min }
    }

    /// Scale and minimum (zero where the type has none) of `group`.
    #[inline(always)]
    pub(crate) fn scales<T: Format>(&self, group: usize) -> (<D::F as Simd>::V, <D::F as Simd>::V) {
        let (d, s, bytes) = (self.d, self.d.float(), self.bytes);
        let kinds = 1 + usize::from(T::MIN);
        match T::SCALES {
            Scales::Half => {
                let at = group * kinds * HALVES;
                (
                    d.widen_f16(part(bytes, at)),
                    if T::MIN { d.widen_f16(part(bytes, at + HALVES)) } else { self.min },
                )
            }
            Scales::Exponent => {
                let exponent = s.sub(d.widen_u8(part(bytes, group * LANES)), s.splat(128.0));
                (s.scale2(s.splat(1.0), exponent), self.min)
            }
            Scales::Super { signed } => {
                let at = kinds * HALVES + group * kinds * LANES;
                let scale = if signed { d.widen_i8(part(bytes, at)) } else { d.widen_u8(part(bytes, at)) };
                let min =
                    if T::MIN { s.mul(self.min, d.widen_u8(part(bytes, at + LANES))) } else { self.min };
                (s.mul(self.scale, scale), min)
            }
        }
    }
}

/// `N` bytes at `at`; zeros where the header is too short, which it never is.
#[inline(always)]
fn part<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).unwrap_or(&[0; N])
}

/// A chunk with one byte per code and scales in f32: what many rows are multiplied with.
#[repr(C, align(64))]
pub(crate) struct Unpacked {
    /// Quad by quad, as [`Dot::dot_group`] takes them.
    pub(crate) codes: [[u8; 64]; 8 * UNITS],
    /// Group by group.
    pub(crate) scales: [[f32; LANES]; GROUPS],
    pub(crate) mins: [[f32; LANES]; GROUPS],
}

impl Unpacked {
    pub(crate) const EMPTY: Unpacked = Unpacked {
        codes: [[0; 64]; 8 * UNITS],
        scales: [[0.0; LANES]; GROUPS],
        mins: [[0.0; LANES]; GROUPS],
    };

    /// Unpacks a chunk of `units` units.
    #[inline(always)]
    pub(crate) fn fill<D: Dot, T: Format>(&mut self, d: D, chunk: &[u8], units: usize) {
        self.fill_scales::<D, T>(d, chunk, units);
        let packed = codes::<T>(chunk, units).as_chunks().0;
        for unit in 0..units {
            self.fill_unit::<D, T>(d, packed, unit);
        }
    }

    /// Unpacks the codes of one unit; `packed` has those of the chunk.
    #[inline(always)]
    pub(crate) fn fill_unit<D: Dot, T: Format>(&mut self, d: D, packed: &[[u8; 64]], unit: usize) {
        let packed = packed[unit * T::BITS..][..T::BITS].as_flattened();
        for (quad, out) in
            d.arrange(quads::<D, T>(d, packed)).into_iter().zip(&mut self.codes[8 * unit..][..8])
        {
            d.store(quad, out);
        }
    }

    /// Unpacks its scales and minima alone.
    #[inline(always)]
    pub(crate) fn fill_scales<D: Dot, T: Format>(&mut self, d: D, chunk: &[u8], units: usize) {
        let header = Header::new::<T>(d, &chunk[..header_len::<T>(units)]);
        for group in 0..units * UNIT / T::GROUP {
            let (scale, min) = header.scales::<T>(group);
            d.float().store(scale, &mut self.scales[group]);
            d.float().store(min, &mut self.mins[group]);
        }
    }
}

/// The codes of a chunk of `units` units.
#[inline(always)]
pub(crate) fn codes<T: Format>(chunk: &[u8], units: usize) -> &[u8] {
    &chunk[header_len::<T>(units)..]
}

/// Whether the codes are nibbles and nothing else, 32 of a row under each scale: the vector `i` of a unit has the quads `i`
/// and `i + 4`.
pub(crate) const fn plain_nibbles<T: Format>() -> bool {
    matches!(planes::<T>(), (4, 0))
        && T::GROUP == UNIT
        && T::TABLE.is_none()
        && matches!(T::RANGE, Range::SevenBits)
}

/// One row of a band, in f32.
pub(super) struct CopyRow<'a, T> {
    panel: &'a [u8],
    lane: usize,
    out: &'a mut [f32],
    factor: f32,
    format: PhantomData<T>,
}

impl<'a, T: Format> CopyRow<'a, T> {
    pub(super) fn new(panels: &'a [u8], row: usize, out: &'a mut [f32], factor: f32) -> Self {
        let len = panel_len::<T>(out.len());
        let panel = &panels[row / LANES * len..][..len];
        Self { panel, lane: row % LANES, out, factor, format: PhantomData }
    }
}

impl<T: Format> DotKernel for CopyRow<'_, T> {
    #[inline(always)]
    fn run<D: Dot>(self, d: D) {
        let mut unpacked = Unpacked::EMPTY;
        let shift = if T::RANGE == Range::EightBits { D::SHIFT } else { 0 };
        let chunks = self.panel.chunks(chunk_len::<T>(UNITS));
        for (chunk, out) in chunks.zip(self.out.chunks_mut(CHUNK)) {
            unpacked.fill::<D, T>(d, chunk, out.len() / UNIT);
            for (col, out) in out.iter_mut().enumerate() {
                let (pack, rest) = (col / D::COLUMNS, col % D::COLUMNS);
                let code = unpacked.codes.as_flattened()[(pack * LANES + self.lane) * D::COLUMNS + rest];
                let group = col / T::GROUP;
                let code = f32::from(i16::from(code ^ shift) - i16::from(T::BIAS));
                let value = unpacked.scales[group][self.lane] * code - unpacked.mins[group][self.lane];
                *out = value * self.factor;
            }
        }
    }
}
