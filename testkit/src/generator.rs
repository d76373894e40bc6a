//! The portable generator: splitmix64 over a counter, keyed by a seed and a tensor's name.

use std::collections::BTreeMap;

use weirgate_models::DType;

const GOLDEN_RATIO: u64 = 0x9E37_79B9_7F4A_7C15;

/// splitmix64's output for `state` (its increment included).
pub fn splitmix64(state: u64) -> u64 {
    let mut z = state.wrapping_add(GOLDEN_RATIO);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The 64-bit FNV-1a hash.
pub fn fnv1a(text: &str) -> u64 {
    text.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// The endless stream of 64-bit words that belongs to `(seed, name)`.
pub fn stream(seed: u64, name: &str) -> impl Iterator<Item = u64> + use<> {
    let start = splitmix64(seed) ^ fnv1a(name);
    (0u64..).map(move |index| splitmix64(start.wrapping_add(index.wrapping_mul(GOLDEN_RATIO))))
}

/// `count` values of `center + scale * u`, `u` uniform in [-1, 1), rounded to `dtype`; little-endian.
pub fn tensor_bytes(
    seed: u64,
    name: &str,
    count: usize,
    (center, scale): (f32, f32),
    dtype: DType,
) -> Vec<u8> {
    const HALF_RANGE: f32 = (1 << 23) as f32;
    let mut bytes = Vec::with_capacity(count * dtype.block_bytes());
    for word in stream(seed, name).take(count) {
        let uniform = ((word >> 40) as f32 - HALF_RANGE) / HALF_RANGE;
        let value = center + scale * uniform;
        match dtype {
            DType::F32 => bytes.extend(value.to_le_bytes()),
            DType::F16 => bytes.extend(half::f16::from_f32(value).to_le_bytes()),
            DType::BF16 => bytes.extend(half::bf16::from_f32(value).to_le_bytes()),
            // Checkpoints are generated in floats only.
            _ => return Vec::new(),
        }
    }
    bytes
}

/// `len` token ids below `vocab`: prompt `index` of the checkpoint with this seed.
pub fn prompt(seed: u64, index: usize, len: usize, vocab: usize) -> Vec<u32> {
    stream(seed, &format!("prompt/{index}")).take(len).map(|word| (word % vocab as u64) as u32).collect()
}

/// A 64-bit sum over named bytes; depends on every byte, its place and its tensor's name.
pub fn checksum<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> u64 {
    let mut total = 0u64;
    for (name, bytes) in tensors {
        let mut place = fnv1a(name);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            total = total.wrapping_add(splitmix64(u64::from_le_bytes(word) ^ splitmix64(place)));
            place = place.wrapping_add(GOLDEN_RATIO);
        }
    }
    total
}

/// [`checksum`] of a checkpoint's tensors.
pub(crate) fn checksum_of(tensors: &BTreeMap<String, Vec<u8>>) -> u64 {
    checksum(tensors.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published outputs of the two functions.
    #[test]
    fn known_functions() {
        let states = (0..3u64).map(|n| 1_234_567u64.wrapping_add(n.wrapping_mul(GOLDEN_RATIO)));
        let outputs: Vec<u64> = states.map(splitmix64).collect();
        assert_eq!(outputs, [6457827717110365317, 3203168211198807973, 9817491932198370423]);
        assert_eq!(fnv1a("a"), 0xAF63_DC4C_8601_EC8C);
        assert_eq!(fnv1a("foobar"), 0x8594_4171_F739_67E8);
    }

    /// The constants of `tools/parity/generator.py`, which numpy gave.
    #[test]
    fn same_bytes_as_numpy() {
        for (dtype, expected) in [
            (DType::F32, 0x521d_2503_c39a_d688),
            (DType::F16, 0x32d5_3f80_9a1f_bdbe),
            (DType::BF16, 0xf342_7c92_b689_942e),
        ] {
            let head_scale = (1.6 * (3.0f64 / 6.0).sqrt()) as f32;
            let tensors: BTreeMap<String, Vec<u8>> = [
                ("model.embed_tokens.weight", 66, (0.0, 0.5)),
                ("model.norm.weight", 6, (1.0, 0.3)),
                ("lm_head.weight", 66, (0.0, head_scale)),
            ]
            .into_iter()
            .map(|(name, count, range)| (name.to_owned(), tensor_bytes(7, name, count, range, dtype)))
            .collect();
            assert_eq!(checksum_of(&tensors), expected, "{dtype:?}");
        }
        assert_eq!(prompt(7, 3, 4, 257), [48, 65, 12, 111]);
    }
}
