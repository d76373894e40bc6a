//! Which examples make up which step.

use crate::random::{Purpose, Random};
use crate::{Example, Hyperparameters};

/// The order of a training. A pure function of seed and examples: any step can be told without those before it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Tokens of each example.
    lengths: Vec<usize>,
    seed: u64,
    /// Tokens of a pack, where examples are packed.
    pack: Option<usize>,
    rows_per_step: usize,
    batch_size: usize,
    total_steps: usize,
}

/// Examples side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// `[tokens]`.
    pub ids: Vec<u32>,
    /// `[tokens]`, from 0 in each segment.
    pub positions: Vec<u32>,
    /// One an example, one after the other.
    pub segments: Vec<Segment>,
    /// `(row, token)`: which token is to be predicted after which row.
    pub targets: Vec<(u32, u32)>,
}

/// Rows of a batch that see each other, and no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub start: usize,
    pub len: usize,
}

/// A step's examples: a list of batches, each a list of examples.
pub type Step = Vec<Vec<usize>>;

impl Plan {
    pub fn new(examples: &[Example], settings: &Hyperparameters, max_length: usize) -> Self {
        let mut plan = Self {
            lengths: examples.iter().map(|example| example.tokens.len()).collect(),
            seed: settings.seed,
            pack: settings.packing.then_some(max_length),
            rows_per_step: settings.batch_size * settings.gradient_accumulation,
            batch_size: settings.batch_size,
            total_steps: 0,
        };
        plan.total_steps = match settings.max_steps {
            Some(steps) => steps,
            None if plan.pack.is_none() => settings.epochs * plan.lengths.len().div_ceil(plan.rows_per_step),
            None => (0..settings.epochs).map(|epoch| plan.epoch(epoch).len()).sum(),
        };
        plan
    }

    pub fn total_steps(&self) -> usize {
        self.total_steps
    }

    /// Of one pass over the examples.
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// The steps of a pass, the last one with what is left.
    pub fn epoch(&self, epoch: usize) -> Vec<Step> {
        let mut order: Vec<usize> = (0..self.lengths.len()).collect();
        Random::new(self.seed, Purpose::Order, &[epoch as u64]).shuffle(&mut order);
        let rows: Vec<Vec<usize>> = match self.pack {
            None => order.into_iter().map(|example| vec![example]).collect(),
            Some(room) => self.packed(&order, room),
        };
        rows.chunks(self.rows_per_step)
            .map(|step| step.chunks(self.batch_size).map(<[Vec<usize>]>::concat).collect())
            .collect()
    }

    /// Examples in `order`, as many to a row as there is room for.
    fn packed(&self, order: &[usize], room: usize) -> Vec<Vec<usize>> {
        let mut rows: Vec<Vec<usize>> = Vec::new();
        let mut left = 0;
        for &example in order {
            let length = self.lengths[example];
            match rows.last_mut().filter(|_| length <= left) {
                Some(row) => row.push(example),
                None => {
                    rows.push(vec![example]);
                    left = room;
                }
            }
            left = left.saturating_sub(length);
        }
        rows
    }
}

impl Batch {
    pub fn new<'a>(examples: impl IntoIterator<Item = &'a Example>) -> Self {
        let mut batch =
            Self { ids: Vec::new(), positions: Vec::new(), segments: Vec::new(), targets: Vec::new() };
        for example in examples {
            let (start, len) = (batch.ids.len(), example.tokens.len());
            batch.segments.push(Segment { start, len });
            batch.ids.extend(&example.tokens);
            batch.positions.extend(0..len as u32);
            let learned = example.learned.iter().zip(&example.tokens).enumerate().skip(1);
            let targets = learned.filter(|(_, (learned, _))| **learned);
            batch.targets.extend(targets.map(|(at, (_, token))| ((start + at - 1) as u32, *token)));
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples(lengths: &[usize]) -> Vec<Example> {
        let example = |(index, len): (usize, &usize)| Example {
            tokens: (0..*len).map(|at| (100 * index + at) as u32).collect(),
            learned: (0..*len).map(|at| at + 2 >= *len).collect(),
        };
        lengths.iter().enumerate().map(example).collect()
    }

    fn planned(lengths: &[usize], settings: Hyperparameters) -> Plan {
        Plan::new(&examples(lengths), &settings, settings.max_length)
    }

    #[test]
    fn every_pass_has_every_example_once_and_in_another_order() {
        for packing in [false, true] {
            let settings = Hyperparameters {
                batch_size: 2,
                gradient_accumulation: 3,
                epochs: 3,
                packing,
                max_length: 10,
                ..Hyperparameters::default()
            };
            let plan = planned(&[3, 4, 5, 2, 8, 1, 10, 2, 2, 2, 2, 2, 2], settings);
            let passes: Vec<Vec<usize>> = (0..3).map(|epoch| plan.epoch(epoch).concat().concat()).collect();
            for pass in &passes {
                let mut sorted = pass.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..13).collect::<Vec<_>>());
            }
            assert!(passes[0] != passes[1] && passes[1] != passes[2]);
            assert_eq!(plan.total_steps(), (0..3).map(|epoch| plan.epoch(epoch).len()).sum::<usize>());
            assert_eq!(plan.tokens(), 45);
        }
    }

    #[test]
    fn steps_are_batches_times_accumulation() {
        let settings = Hyperparameters {
            batch_size: 2,
            gradient_accumulation: 3,
            epochs: 2,
            ..Hyperparameters::default()
        };
        let plan = planned(&[5; 13], settings.clone());
        let sizes: Vec<Vec<usize>> =
            plan.epoch(0).iter().map(|step| step.iter().map(Vec::len).collect()).collect();
        assert_eq!(sizes, [vec![2, 2, 2], vec![2, 2, 2], vec![1]]);
        assert_eq!(plan.total_steps(), 6);
        let short = Hyperparameters { max_steps: Some(4), ..settings };
        assert_eq!(planned(&[5; 13], short).total_steps(), 4);
    }

    #[test]
    fn packs_have_room() {
        let settings =
            Hyperparameters { batch_size: 1, packing: true, max_length: 10, ..Hyperparameters::default() };
        let lengths = [3, 4, 5, 2, 8, 1, 10];
        let plan = planned(&lengths, settings);
        let rows: Vec<usize> =
            plan.epoch(0).concat().iter().map(|row| row.iter().map(|&e| lengths[e]).sum()).collect();
        assert!(rows.len() < lengths.len() && rows.iter().all(|tokens| *tokens <= 10), "{rows:?}");
    }

    #[test]
    fn a_batch_predicts_the_learned_tokens_from_the_rows_before() {
        let batch = Batch::new(&examples(&[3, 4]));
        assert_eq!(batch.ids, [0, 1, 2, 100, 101, 102, 103]);
        assert_eq!(batch.positions, [0, 1, 2, 0, 1, 2, 3]);
        assert_eq!(batch.segments, [Segment { start: 0, len: 3 }, Segment { start: 3, len: 4 }]);
        assert_eq!(batch.targets, [(0, 1), (1, 2), (4, 102), (5, 103)]);
    }
}
