//! What the stored blocks mean: the reference every faster kernel is held against. The arithmetic is ggml's, operation
//! by operation in f32, so the results are the same bits.

mod codebook;
mod k_quants;
mod simple;

use crate::DType;

/// The elements of `bytes` in f32. Bytes past the last whole block are left out.
pub fn dequantize(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        DType::F32 => blocks(bytes, simple::f32),
        DType::F16 => blocks(bytes, simple::f16),
        DType::BF16 => blocks(bytes, simple::bf16),
        DType::Q8_0 => blocks(bytes, simple::q8_0),
        DType::Q4_0 => blocks(bytes, simple::q4_0),
        DType::Q4_1 => blocks(bytes, simple::q4_1),
        DType::Q5_0 => blocks(bytes, simple::q5_0),
        DType::Q5_1 => blocks(bytes, simple::q5_1),
        DType::Q2K => blocks(bytes, k_quants::q2_k),
        DType::Q3K => blocks(bytes, k_quants::q3_k),
        DType::Q4K => blocks(bytes, k_quants::q4_k),
        DType::Q5K => blocks(bytes, k_quants::q5_k),
        DType::Q6K => blocks(bytes, k_quants::q6_k),
        DType::Iq4Nl => blocks(bytes, codebook::iq4_nl),
        DType::Iq4Xs => blocks(bytes, codebook::iq4_xs),
        DType::Mxfp4 => blocks(bytes, codebook::mxfp4),
    }
}

/// Cuts `bytes` into blocks of `BYTES` and collects what `decode` makes of them.
fn blocks<const BYTES: usize, const ELEMENTS: usize>(
    bytes: &[u8],
    decode: impl Fn(&[u8; BYTES]) -> [f32; ELEMENTS],
) -> Vec<f32> {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let mut values = Vec::with_capacity(blocks.len() * ELEMENTS);
    blocks.iter().for_each(|block| values.extend_from_slice(&decode(block)));
    values
}

/// The f16 at byte `at`.
fn half_at<const BYTES: usize>(block: &[u8; BYTES], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Element `i` of 32 in 16 bytes: the low halves are the first 16 elements, the high halves the rest.
fn nibble(packed: &[u8], i: usize) -> u8 {
    if i < 16 { packed[i] & 15 } else { packed[i - 16] >> 4 }
}
