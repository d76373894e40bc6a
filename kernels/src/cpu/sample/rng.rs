//! Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11): a counter-based generator,
//! so a variate is a pure function of its key and counter, and needs only 32-bit integer arithmetic on any device.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Added to the key after each round: the golden ratio and the square root of three minus one, as 32-bit fractions.
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

pub(super) fn philox(mut key: [u32; 2], mut counter: [u32; 4]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let even = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let odd = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (odd >> 32) as u32 ^ counter[1] ^ key[0],
            odd as u32,
            (even >> 32) as u32 ^ counter[3] ^ key[1],
            even as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// 64 uniform bits for draw number `draw` of `seed`: words 0 (low) and 1 (high) of Philox with the seed as key and
/// the draw as counter, low word first.
pub(super) fn bits(seed: u64, draw: u64) -> u64 {
    let word = philox([seed as u32, (seed >> 32) as u32], [draw as u32, (draw >> 32) as u32, 0, 0]);
    u64::from(word[0]) | u64::from(word[1]) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers published with the Random123 library.
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox([0; 2], [0; 4]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox([u32::MAX; 2], [u32::MAX; 4]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            philox([0xa4093822, 0x299f31d0], [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn every_bit_of_seed_and_draw_changes_about_half_of_the_bits() {
        let mut flips = [0u32; 128];
        const TRIALS: u64 = 2_000;
        for trial in 0..TRIALS {
            let (seed, draw) = (trial.wrapping_mul(0x1234_5678_9ABC_DEF1), trial);
            let base = bits(seed, draw);
            for bit in 0..64 {
                flips[bit] += (base ^ bits(seed ^ 1 << bit, draw)).count_ones();
                flips[64 + bit] += (base ^ bits(seed, draw ^ 1 << bit)).count_ones();
            }
        }
        for (bit, &count) in flips.iter().enumerate() {
            let share = f64::from(count) / (64.0 * TRIALS as f64);
            // The standard deviation is 0.0014.
            assert!((share - 0.5).abs() < 0.01, "input bit {bit} flips a share {share} of the output");
        }
    }
}
