//! The angles of a step's tokens. Sequences come by the same positions again and again, so what was computed for a position
//! is kept: the device waits for a step's angles, and a copy takes a tenth of the time of sines and cosines.

use std::iter::repeat_n;

use weirgate_models::{Rope, RopeSpec};

/// Positions below this are kept: 16 MiB for heads of 128 elements.
const KEPT: u32 = 1 << 15;

/// A rotary table, and the cosines and sines of the current step.
pub(super) struct RotaryTable {
    rope: Rope,
    spec: RopeSpec,
    /// By length class, of which most models have one and LongRoPE two. Those of dynamic NTK beyond the first are not kept:
    /// each length has its own.
    kept: [Angles; 2],
    /// Of one computation.
    new: Angles,
    /// `[T, rotary_dim / 2]` each.
    pub step: Angles,
}

/// Cosines and sines, a row for each position or token.
#[derive(Default)]
pub(super) struct Angles {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
}

impl Angles {
    fn append(&mut self, other: &Self, row: usize, width: usize) {
        let range = row * width..(row + 1) * width;
        self.cos.extend_from_slice(other.cos.get(range.clone()).unwrap_or_default());
        self.sin.extend_from_slice(other.sin.get(range).unwrap_or_default());
    }
}

impl RotaryTable {
    pub fn new(spec: &RopeSpec) -> Self {
        Self {
            rope: Rope::new(spec),
            spec: spec.clone(),
            kept: Default::default(),
            new: Angles::default(),
            step: Angles::default(),
        }
    }

    /// Fills `step` for tokens at `positions`, each of a sequence of `rope_len[t]` tokens (see [`Rope::fill`]).
    pub fn fill(&mut self, positions: &[u32], rope_len: &[u32]) {
        let width = self.spec.rotary_dim / 2;
        self.step.cos.clear();
        self.step.sin.clear();
        for (&position, &len) in positions.iter().zip(rope_len) {
            let class = usize::try_from(self.spec.length_class(len as usize)).unwrap_or(usize::MAX);
            let Self { rope, kept, new, step, .. } = self;
            match kept.get_mut(class) {
                Some(kept) if position < KEPT => {
                    let known = (kept.cos.len() / width.max(1)) as u32;
                    if position >= known {
                        let missing: Vec<u32> = (known..=position).collect();
                        let lens: Vec<u32> = repeat_n(len, missing.len()).collect();
                        rope.fill(&missing, &lens, &mut new.cos, &mut new.sin);
                        kept.cos.extend_from_slice(&new.cos);
                        kept.sin.extend_from_slice(&new.sin);
                    }
                    step.append(kept, position as usize, width);
                }
                _ => {
                    rope.fill(&[position], &[len], &mut new.cos, &mut new.sin);
                    step.append(new, 0, width);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use weirgate_models::RopeScaling;

    use super::*;

    /// To the bit what is computed without keeping anything, whatever came before.
    #[test]
    fn kept_angles_are_those_computed_anew() {
        let long = RopeScaling::LongRope {
            short: vec![1.0, 1.1, 1.3, 1.9],
            long: vec![2.0, 4.0, 8.0, 16.0],
            original_max: 20,
            attention_factor: 1.19,
        };
        let dynamic = RopeScaling::Dynamic { factor: 2.0, original_max: 30 };
        for scaling in [RopeScaling::None, RopeScaling::Linear { factor: 4.0 }, dynamic, long] {
            let spec = RopeSpec { rotary_dim: 8, base: 1e4, scaling };
            let mut table = RotaryTable::new(&spec);
            for step in [
                vec![(3, 4), (0, 1), (7, 30)],
                vec![(9, 10)],
                vec![(2, 40), (2, 3), (25, 41), (26, 42), (19, 20), (20, 21)],
                vec![(KEPT - 1, KEPT), (KEPT, KEPT + 1), (100_000, 100_001), (5, 6)],
                vec![],
            ] {
                let (positions, lens): (Vec<u32>, Vec<u32>) = step.into_iter().unzip();
                let (mut cos, mut sin) = (Vec::new(), Vec::new());
                Rope::new(&spec).fill(&positions, &lens, &mut cos, &mut sin);
                table.fill(&positions, &lens);
                assert_eq!((&table.step.cos, &table.step.sin), (&cos, &sin), "{spec:?} {positions:?}");
            }
        }
    }
}
