//! Quantized weights: one layout for all block types, multiplied in small integers.
//!
//! A weight is `scale * (code - bias) - min`: an unsigned code of two to eight bits, a scale and perhaps a minimum for
//! each group of 16 or 32 columns. Activations are quantized too, to int8 with a scale for each 32 columns
//! ([`activations`]). The dot product over a group is then taken in integers, and
//!
//! ```text
//! w · x = Σ over groups of  scale * x_scale * (Σ codes * x_codes - bias * Σ x_codes)  -  min * x_scale * Σ x_codes
//! ```
//!
//! As in [`super::panel`], sixteen rows make a panel, so that no sum is taken across lanes ([`layout`]). Each block type
//! is a [`Format`]: the constants of that layout, and how a stored block is taken apart. Nothing else knows the types.

pub(super) mod activations;
pub(crate) mod codebook;
mod format;
pub(crate) mod k_quants;
mod layout;
mod multiply;
mod pack;
pub(crate) mod simple;

pub(super) use activations::Activations;
pub(crate) use format::{Format, Parts, Scales};
pub(super) use multiply::{Band, multiply};
pub(super) use pack::{band_len, pack};

use super::isa::Dispatch;
use crate::BlockType;

/// Runs the expression with `$T` naming the [`Format`] of a [`BlockType`].
macro_rules! with_format {
    ($blocks:expr, $T:ident => $body:expr) => {
        with_format!($blocks, $T => $body,
            Q8_0 simple, Q4_0 simple, Q4_1 simple, Q5_0 simple, Q5_1 simple,
            Q2K k_quants, Q3K k_quants, Q4K k_quants, Q5K k_quants, Q6K k_quants,
            Iq4Nl codebook, Iq4Xs codebook, Mxfp4 codebook)
    };
    ($blocks:expr, $T:ident => $body:expr, $($name:ident $file:ident),*) => {
        match $blocks {
            $($crate::BlockType::$name => {
                type $T = $crate::cpu::quant::$file::$name;
                $body
            })*
        }
    };
}
pub(crate) use with_format;

impl BlockType {
    /// Elements in a block.
    pub const fn elements(self) -> usize {
        with_format!(self, T => <T as Format>::ELEMENTS)
    }

    /// Bytes of a block.
    pub const fn bytes(self) -> usize {
        with_format!(self, T => <T as Format>::BYTES)
    }
}

/// Row `row` of a band of type `blocks`, times `factor`, into `out`.
pub(super) fn copy_row(
    isa: Dispatch,
    blocks: BlockType,
    panels: &[u8],
    row: usize,
    (out, factor): (&mut [f32], f32),
) {
    with_format!(blocks, T => isa.run_dot(layout::CopyRow::<T>::new(panels, row, out, factor)));
}
