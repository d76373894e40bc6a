//! Block-quantized weights in f64, by the formats' definitions alone (`dequantize_row_*` of ggml).

use half::f16;
use weirgate_kernels::BlockType;

/// IQ4_NL and IQ4_XS, by code.
const IQ4: [i32; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// Magnitudes of the four-bit float E2M1, by the code's lower three bits.
const E2M1: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// The elements of whole blocks.
pub fn dequantized(blocks: BlockType, bytes: &[u8]) -> Vec<f64> {
    let elements = |block| (0..blocks.elements()).map(move |i| element(blocks, block, i));
    bytes.chunks_exact(blocks.bytes()).flat_map(elements).collect()
}

/// A block's element `i`: a scale or two times an integer, less or plus a minimum.
fn element(blocks: BlockType, block: &[u8], i: usize) -> f64 {
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f64();
    let (scale, integer, min) = match blocks {
        BlockType::Q8_0 => (half(0), i32::from(block[2 + i] as i8), 0.0),
        BlockType::Q4_0 => (half(0), nibble(&block[2..], i) - 8, 0.0),
        BlockType::Q4_1 => (half(0), nibble(&block[4..], i), half(2)),
        BlockType::Q5_0 => (half(0), nibble(&block[6..], i) + 16 * bit(&block[2..], i) - 16, 0.0),
        BlockType::Q5_1 => (half(0), nibble(&block[8..], i) + 16 * bit(&block[4..], i), half(2)),
        BlockType::Q2K => {
            let group = i32::from(block[i / 16]);
            (half(80) * f64::from(group % 16), pair(&block[16..], i), -half(82) * f64::from(group / 16))
        }
        BlockType::Q3K => {
            // Six bits of each of 16 scales: the lower four, then the upper two.
            let group = i / 16;
            let low = i32::from(block[96 + group % 8] >> (4 * (group / 8)) & 15);
            let high = i32::from(block[104 + group % 4] >> (2 * (group / 4)) & 3);
            // Where the third bit is clear, four less.
            let third = i32::from(block[i % 32] >> (i / 32) & 1);
            let integer = pair(&block[32..], i) + 4 * third - 4;
            (half(108) * f64::from(low + 16 * high - 32), integer, 0.0)
        }
        BlockType::Q4K => {
            let (scale, min) = scale_and_min(&block[4..], i / 32);
            (half(0) * scale, nibble_of_64(&block[16..], i), -half(2) * min)
        }
        BlockType::Q5K => {
            let (scale, min) = scale_and_min(&block[4..], i / 32);
            let fifth = i32::from(block[16 + i % 32] >> (i / 32) & 1);
            (half(0) * scale, nibble_of_64(&block[48..], i) + 16 * fifth, -half(2) * min)
        }
        BlockType::Q6K => {
            let byte = i32::from(block[i / 128 * 64 + i % 64]);
            let low = if i % 128 < 64 { byte % 16 } else { byte / 16 };
            let scale = half(208) * f64::from(block[192 + i / 16] as i8);
            (scale, low + 16 * pair(&block[128..], i) - 32, 0.0)
        }
        BlockType::Iq4Nl => (half(0), IQ4[nibble(&block[2..], i) as usize], 0.0),
        BlockType::Iq4Xs => {
            let group = i / 32;
            let low = i32::from(block[4 + group / 2] >> (4 * (group % 2)) & 15);
            let high = i32::from(block[2 + group / 4] >> (2 * (group % 4)) & 3);
            let code = nibble(&block[8 + 16 * group..], i % 32);
            (half(0) * f64::from(low + 16 * high - 32), IQ4[code as usize], 0.0)
        }
        BlockType::Mxfp4 => {
            let code = nibble(&block[1..], i);
            let sign = if code < 8 { 1 } else { -1 };
            (2_f64.powi(i32::from(block[0]) - 127) * E2M1[code as usize % 8], sign, 0.0)
        }
    };
    scale * f64::from(integer) + min
}

/// Element `i` of 32 in 16 bytes, whose lower halves come first.
fn nibble(packed: &[u8], i: usize) -> i32 {
    i32::from(packed[i % 16] >> (4 * (i / 16)) & 15)
}

/// Element `i` of 256 in 128 bytes: 64 to each 32 bytes, whose lower halves come first.
fn nibble_of_64(packed: &[u8], i: usize) -> i32 {
    i32::from(packed[i / 64 * 32 + i % 32] >> (4 * (i / 32 % 2)) & 15)
}

/// Element `i` of 256 in 64 bytes: 128 to each 32 bytes, whose lowest two bits come first.
fn pair(packed: &[u8], i: usize) -> i32 {
    i32::from(packed[i / 128 * 32 + i % 32] >> (2 * (i / 32 % 4)) & 3)
}

fn bit(packed: &[u8], i: usize) -> i32 {
    i32::from(packed[i / 8] >> (i % 8) & 1)
}

/// Of group `group` of Q4_K and Q5_K, six bits each in 12 bytes: the first four groups' are the lower six of a byte, the
/// others' lower four are in the last four bytes, and their upper two above the first groups'.
fn scale_and_min(packed: &[u8], group: usize) -> (f64, f64) {
    let (scale, min) = match group {
        0..4 => (packed[group] & 63, packed[group + 4] & 63),
        _ => {
            let low = packed[group + 4];
            (low & 15 | packed[group - 4] >> 6 << 4, low >> 4 | packed[group] >> 6 << 4)
        }
    };
    (scale.into(), min.into())
}
