use super::super::isa::Range;

/// How the scales of a type are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scales {
    /// A block is 32 columns, under an f16 (and another for the minimum).
    Half,
    /// A block is 32 columns, under `2^(byte - 128)`.
    Exponent,
    /// A block is 256 columns, under an f16 (and another for the minima), times a byte for each group of columns.
    Super { signed: bool },
}

/// A block type: what the layout and the kernels have to know of it.
pub(crate) trait Format: 'static {
    /// Bytes of a stored block.
    const BYTES: usize;
    /// Bits of a code: 2 to 6, or 8.
    const BITS: usize;
    const SCALES: Scales;
    /// Columns under one scale, 16 or 32.
    const GROUP: usize = 32;
    /// Whether there are minima. A type has these or a bias, not both.
    const MIN: bool = false;
    /// What is taken from each code.
    const BIAS: u8 = 0;
    /// What each code of four bits stands for, where it is an index.
    const TABLE: Option<&'static [u8; 16]> = None;

    /// Takes a stored block of `BYTES` bytes apart.
    fn take_apart(block: &[u8], parts: &mut Parts);

    /// Elements of a block.
    const ELEMENTS: usize = match Self::SCALES {
        Scales::Half | Scales::Exponent => 32,
        Scales::Super { .. } => 256,
    };
    /// How large the codes (or what they stand for) may be.
    const RANGE: Range = if Self::BIAS >= 64 { Range::EightBits } else { Range::SevenBits };
}

/// What a block holds, in the terms of [`Format`].
pub(crate) struct Parts {
    /// One code per element.
    pub codes: [u8; 256],
    /// The bits of the f16, or the byte of the exponent.
    pub scale: u16,
    /// The bits of the f16.
    pub min: u16,
    /// One byte per group.
    pub scales: [u8; 16],
    pub mins: [u8; 16],
}

impl Default for Parts {
    fn default() -> Self {
        Self { codes: [0; 256], scale: 0, min: 0, scales: [0; 16], mins: [0; 16] }
    }
}

/// The two bytes at `at`.
pub(super) fn half_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// Nibbles of `packed`: the low halves of all bytes, then the high halves.
pub(super) fn put_nibbles(packed: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(packed.len());
    for ((low, high), &byte) in low.iter_mut().zip(high).zip(packed) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
}
