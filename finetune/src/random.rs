//! Random numbers as a pure function of what they are for. Nothing is carried from step to step, so a resumed training draws
//! what an uninterrupted one draws.

const GOLDEN_RATIO: u64 = 0x9E37_79B9_7F4A_7C15;

/// What a stream of numbers is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Initialization = 1,
    Order = 2,
    Dropout = 3,
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The stream for `purpose`, one for each list of `keys`.
    pub fn new(seed: u64, purpose: Purpose, keys: &[u64]) -> Self {
        let mut state = mix(seed ^ mix(purpose as u64));
        for key in keys {
            state = mix(state ^ mix(key.wrapping_add(GOLDEN_RATIO)));
        }
        Self(state)
    }

    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN_RATIO);
        mix(self.0)
    }

    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// What dropout multiplies `count` values by: 0 with probability `dropout`, else `1 / (1 - dropout)`.
    pub fn keep(&mut self, count: usize, dropout: f64) -> Vec<f32> {
        let kept = (1.0 / (1.0 - dropout)) as f32;
        (0..count).map(|_| if self.unit() < dropout { 0.0 } else { kept }).collect()
    }

    /// Uniform below `bound`, which is not 0. The bias is below `bound / 2^64`.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.word()) * bound as u128) >> 64) as usize
    }

    /// Fisher and Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last + 1);
            items.swap(last, other);
        }
    }
}

fn mix(mut state: u64) -> u64 {
    state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The generator's published first outputs from state 1234567.
    #[test]
    fn the_generator_is_splitmix64() {
        let mut random = Random(1_234_567);
        let outputs = [random.word(), random.word(), random.word()];
        assert_eq!(outputs, [6457827717110365317, 3203168211198807973, 9817491932198370423]);
    }

    #[test]
    fn streams_differ_by_seed_purpose_and_keys() {
        let first = |seed, purpose, keys: &[u64]| Random::new(seed, purpose, keys).word();
        let numbers = [
            first(1, Purpose::Order, &[0]),
            first(2, Purpose::Order, &[0]),
            first(1, Purpose::Dropout, &[0]),
            first(1, Purpose::Order, &[1]),
            first(1, Purpose::Order, &[0, 0]),
        ];
        for (index, number) in numbers.iter().enumerate() {
            assert!(!numbers[index + 1..].contains(number));
        }
        assert_eq!(first(1, Purpose::Order, &[0]), numbers[0]);
    }

    #[test]
    fn dropout_drops_its_share_and_makes_up_for_it() {
        const COUNT: usize = 1 << 16;
        for (key, dropout) in [0.0, 0.05, 0.25, 0.9].into_iter().enumerate() {
            let mask = Random::new(3, Purpose::Dropout, &[key as u64]).keep(COUNT, dropout);
            let kept = (1.0 / (1.0 - dropout)) as f32;
            assert!(mask.len() == COUNT && mask.iter().all(|factor| *factor == 0.0 || *factor == kept));
            let dropped = mask.iter().filter(|factor| **factor == 0.0).count() as f64;
            let sigma = (COUNT as f64 * dropout * (1.0 - dropout)).sqrt();
            assert!((dropped - COUNT as f64 * dropout).abs() <= 4.0 * sigma, "{dropout}: {dropped}");
        }
    }

    #[test]
    fn a_shuffle_moves_every_item_everywhere() {
        let mut counts = [[0u32; 4]; 4];
        for key in 0..4000 {
            let mut items = [0, 1, 2, 3];
            Random::new(7, Purpose::Order, &[key]).shuffle(&mut items);
            for (place, item) in items.into_iter().enumerate() {
                counts[item][place] += 1;
            }
        }
        assert!(counts.iter().flatten().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
