//! What models take of memory: measured when they are loaded, and expected of those that have not been.
//!
//! A model's KV pool is given out by the system page by page as it fills, so what is free at any moment is not all free:
//! the pools' empty parts are promised to models that are loaded.

use std::collections::HashMap;

use super::Key;
use crate::memory::Memory;

/// Between what a measurement may say of a model and the size of its files: beyond it, something else has moved.
const PLAUSIBLE: (f64, f64) = (0.1, 4.0);

/// What loads have shown.
pub(super) struct Budget {
    memory: Box<dyn Memory>,
    /// Of this process before the first load, with what the model that is always there will still take.
    base: u64,
    /// Bytes that a model's weights took.
    measured: HashMap<Key, u64>,
    /// Bytes taken per byte of files, over all loads so far.
    ratio: f64,
}

/// What a model that is loaded may take: weights and KV pool, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Footprint {
    pub weights: u64,
    pub pool: u64,
}

impl Budget {
    /// `pool`: bytes of the KV pool of the model that is always there.
    pub fn new(memory: Box<dyn Memory>, pool: u64) -> Self {
        let base = memory.taken_bytes().saturating_add(pool);
        Self { memory, base, measured: HashMap::new(), ratio: 1.0 }
    }

    /// Bytes that are taken.
    pub fn taken(&self) -> u64 {
        self.memory.taken_bytes()
    }

    /// What the weights of a model will take whose files have `bytes`.
    pub fn expected(&self, key: &Key, bytes: u64) -> u64 {
        let guess = || (bytes as f64 * self.ratio) as u64;
        self.measured.get(key).copied().unwrap_or_else(guess)
    }

    /// Takes note of what a load took, before which `before` were taken. Returns what the weights take.
    pub fn measure(&mut self, key: &Key, bytes: u64, before: u64) -> u64 {
        let grown = self.taken().saturating_sub(before);
        self.learn(key, bytes, grown)
    }

    fn learn(&mut self, key: &Key, bytes: u64, grown: u64) -> u64 {
        let ratio = grown as f64 / bytes.max(1) as f64;
        if bytes == 0 || !(PLAUSIBLE.0..=PLAUSIBLE.1).contains(&ratio) {
            return self.expected(key, bytes);
        }
        let (count, known) = (self.measured.len() as f64, self.measured.contains_key(key));
        if !known {
            self.ratio = (self.ratio * count + ratio) / (count + 1.0);
        }
        self.measured.insert(key.clone(), grown);
        grown
    }

    /// Bytes for models that are not there yet: what is free, less what those that are loaded have not taken yet of what
    /// they may. `None` where nobody knows.
    pub fn free(&self, loaded: impl Iterator<Item = Footprint>) -> Option<u64> {
        let total = loaded.fold(self.base, |sum, footprint| {
            sum.saturating_add(footprint.weights).saturating_add(footprint.pool)
        });
        let promised = total.saturating_sub(self.taken());
        self.memory.free_bytes().map(|free| free.saturating_sub(promised))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        (name.to_owned(), String::new())
    }

    /// Of a process that has taken so many bytes, where 10,000 are free.
    struct Taken(u64);

    impl Memory for Taken {
        fn free_bytes(&self) -> Option<u64> {
            Some(10_000)
        }

        fn taken_bytes(&self) -> u64 {
            self.0
        }
    }

    fn budget() -> Budget {
        Budget { base: 1000, ..Budget::new(Box::new(Taken(0)), 0) }
    }

    #[test]
    fn what_loads_took_corrects_what_is_expected() {
        let mut budget = budget();
        assert_eq!(budget.expected(&key("a"), 100), 100);
        assert_eq!(budget.learn(&key("a"), 100, 150), 150);
        // Of the model itself it is known; of others, by the ratio of all so far.
        assert_eq!((budget.expected(&key("a"), 100), budget.expected(&key("b"), 200)), (150, 300));
        budget.learn(&key("b"), 200, 100);
        assert_eq!(budget.expected(&key("c"), 100), 100);
        // Again: the last measurement counts, and no model counts twice.
        budget.learn(&key("b"), 200, 200);
        assert_eq!((budget.expected(&key("b"), 200), budget.expected(&key("c"), 100)), (200, 100));
    }

    #[test]
    fn measurements_of_something_else_are_not_believed() {
        let mut budget = budget();
        for grown in [0, 5, 1000] {
            assert_eq!(budget.learn(&key("a"), 100, grown), 100, "{grown}");
        }
        assert_eq!(budget.learn(&key("a"), 0, 50), 0);
        assert_eq!(budget.expected(&key("b"), 100), 100);
    }

    #[test]
    fn empty_pools_are_promised() {
        let loaded = [Footprint { weights: 100, pool: 50 }, Footprint { weights: 10, pool: 5 }];
        let free = |taken| {
            let budget = Budget { memory: Box::new(Taken(taken)), ..budget() };
            budget.free(loaded.into_iter())
        };
        assert_eq!((free(1110), free(1165)), (Some(9_945), Some(10_000)));
        assert_eq!(free(5000), Some(10_000), "more than was expected");
    }
}
