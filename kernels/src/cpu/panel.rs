//! Panels, the layout of everything that is multiplied: weights, and the keys and values in the cache.
//!
//! A `[rows, cols]` matrix is stored as panels of sixteen rows, column by column:
//!
//! ```text
//!           column 0        column 1
//! panel 0   r0 r1 … r15     r0 r1 … r15    …      (f32, f16)
//!           r0 r0' r1 r1' … r15 r15'       …      (bf16: columns 0 and 1 together)
//! panel 1   r16 …
//! ```
//!
//! So one vector holds one column of sixteen rows, and a dot product with all of them needs no horizontal sum. With
//! bf16, a shift and a mask turn one load into two columns. Rows are padded to whole panels and columns to an even
//! number; the padding is zero.

use half::{bf16, f16};

use super::isa::Simd;
use super::memory::{Memory, Plain};
use crate::{DType, KernelError};

/// Rows in a panel.
pub(crate) const LANES: usize = 16;

/// Elements in one panel of a matrix with `cols` columns; too large to be had where that overflows.
pub(crate) const fn panel_len(cols: usize) -> usize {
    cols.div_ceil(2).saturating_mul(2 * LANES)
}

/// An element type of panels.
pub(crate) trait Element: Plain {
    /// Where column `col` of row `lane` lies in a panel.
    fn offset(col: usize, lane: usize) -> usize;
    /// One of two columns, the even one (0) or the next (1).
    fn load<S: Simd>(simd: S, pair: &[[Self; LANES]; 2], which: usize) -> S::V;
    /// From `size_of::<Self>()` bytes.
    fn from_le(bytes: &[u8]) -> Self;
    fn from_f32(value: f32) -> Self;
    fn to_f32(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    fn offset(col: usize, lane: usize) -> usize {
        col * LANES + lane
    }
    #[inline(always)]
    fn load<S: Simd>(simd: S, pair: &[[f32; LANES]; 2], which: usize) -> S::V {
        simd.load(&pair[which])
    }
    #[inline(always)]
    fn from_le(bytes: &[u8]) -> Self {
        f32::from_bits(bytes.iter().rev().fold(0, |bits, &byte| bits << 8 | u32::from(byte)))
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
}

impl Element for f16 {
    #[inline(always)]
    fn offset(col: usize, lane: usize) -> usize {
        col * LANES + lane
    }
    #[inline(always)]
    fn load<S: Simd>(simd: S, pair: &[[f16; LANES]; 2], which: usize) -> S::V {
        simd.load_f16(&pair[which])
    }
    #[inline(always)]
    fn from_le(bytes: &[u8]) -> Self {
        f16::from_bits(bytes.iter().rev().fold(0, |bits, &byte| bits << 8 | u16::from(byte)))
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn offset(col: usize, lane: usize) -> usize {
        (col / 2 * LANES + lane) * 2 + col % 2
    }
    #[inline(always)]
    fn load<S: Simd>(simd: S, pair: &[[bf16; LANES]; 2], which: usize) -> S::V {
        if which == 0 { simd.load_bf16_first(pair) } else { simd.load_bf16_second(pair) }
    }
    #[inline(always)]
    fn from_le(bytes: &[u8]) -> Self {
        bf16::from_bits(bytes.iter().rev().fold(0, |bits, &byte| bits << 8 | u16::from(byte)))
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
}

/// Panels of any element type.
pub(crate) enum Panels {
    F32(Memory<f32>),
    F16(Memory<f16>),
    BF16(Memory<bf16>),
}

/// Runs the expression with `$data` bound to the typed memory of a [`Panels`].
macro_rules! with_panels {
    ($panels:expr, $data:ident => $body:expr) => {
        match $panels {
            $crate::cpu::panel::Panels::F32($data) => $body,
            $crate::cpu::panel::Panels::F16($data) => $body,
            $crate::cpu::panel::Panels::BF16($data) => $body,
        }
    };
}
pub(crate) use with_panels;

impl Panels {
    /// Zeroed memory for `len` elements.
    pub(crate) fn zeroed(what: &'static str, dtype: DType, len: usize) -> Result<Self, KernelError> {
        Ok(match dtype {
            DType::F32 => Panels::F32(Memory::zeroed(what, len)?),
            DType::F16 => Panels::F16(Memory::zeroed(what, len)?),
            DType::BF16 => Panels::BF16(Memory::zeroed(what, len)?),
        })
    }

    /// As [`Panels::zeroed`], with its pages taken now.
    pub(crate) fn committed(what: &'static str, dtype: DType, len: usize) -> Result<Self, KernelError> {
        Ok(match dtype {
            DType::F32 => Panels::F32(Memory::committed(what, len)?),
            DType::F16 => Panels::F16(Memory::committed(what, len)?),
            DType::BF16 => Panels::BF16(Memory::committed(what, len)?),
        })
    }
}
